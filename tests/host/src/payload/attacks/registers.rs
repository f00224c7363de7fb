//! C10: what a guest leaves in the registers when it exits.

#![allow(unsafe_code)]

use alloc::boxed::Box;
use alloc::format;
use core::arch::asm;

use host::bouncer::Exit;
use hyp::abi::host as id;

use super::Finding;
use crate::payload::report::GOOD;
use crate::payload::run;
use crate::payload::vm::Vm;

/// Two halves of the marker that a `secrets` guest keeps in its registers.
const MARKER: [u64; 2] = [u64::from_le_bytes(*b"BOUNCER-"), u64::from_le_bytes(*b"SECRET-0")];

/// Everything the host can see right after a hypercall.
#[repr(C, align(16))]
#[derive(Clone)]
struct Seen {
    x: [u64; 31],
    tpidr_el0: u64,
    v: [u128; 32],
}

/// What the host puts into a register before the call.
fn own(index: u64) -> u64 {
    0x4057_0000_0000_0000 | index
}

/// VCPU_RUN with a value of the host's own in every register that the call
/// must preserve; afterwards every register is looked at.
fn run_and_look(vm: &Vm, vcpu: u64, reply: u64, seen: &mut Seen) {
    for (index, register) in (0..).zip(seen.x.iter_mut()) {
        *register = own(index);
    }
    for (index, register) in (100..).zip(seen.v.iter_mut()) {
        *register = u128::from(own(index)) << 64 | u128::from(own(index));
    }
    seen.x[..4].copy_from_slice(&[id::VCPU_RUN.into(), vm.handle.0, vcpu, reply]);
    seen.tpidr_el0 = own(200);
    // SAFETY: the block saves every register the compiler may rely on and
    // that is not declared (x18, x19, x29 and the pointer itself) on the
    // stack and takes it back. This program is compiled for a target without
    // FP registers, so changing those changes nothing of it. TPIDR_EL0 is
    // unused.
    unsafe {
        asm!(
            ".arch_extension fp",
            ".arch_extension simd",
            "stp x18, x19, [sp, #-48]!",
            "stp x29, x30, [sp, #16]",
            "str x20, [sp, #32]",
            "add x0, x20, #256",
            "ld1 {{v0.2d-v3.2d}}, [x0], #64",
            "ld1 {{v4.2d-v7.2d}}, [x0], #64",
            "ld1 {{v8.2d-v11.2d}}, [x0], #64",
            "ld1 {{v12.2d-v15.2d}}, [x0], #64",
            "ld1 {{v16.2d-v19.2d}}, [x0], #64",
            "ld1 {{v20.2d-v23.2d}}, [x0], #64",
            "ld1 {{v24.2d-v27.2d}}, [x0], #64",
            "ld1 {{v28.2d-v31.2d}}, [x0], #64",
            "ldr x0, [x20, #248]",
            "msr tpidr_el0, x0",
            "ldp x0, x1, [x20]",
            "ldp x2, x3, [x20, #16]",
            "ldp x4, x5, [x20, #32]",
            "ldp x6, x7, [x20, #48]",
            "ldp x8, x9, [x20, #64]",
            "ldp x10, x11, [x20, #80]",
            "ldp x12, x13, [x20, #96]",
            "ldp x14, x15, [x20, #112]",
            "ldp x16, x17, [x20, #128]",
            "ldp x18, x19, [x20, #144]",
            "ldr x21, [x20, #168]",
            "ldp x22, x23, [x20, #176]",
            "ldp x24, x25, [x20, #192]",
            "ldp x26, x27, [x20, #208]",
            "ldp x28, x29, [x20, #224]",
            "ldr x30, [x20, #240]",
            "ldr x20, [x20, #160]",
            "hvc #0",
            // The stack pointer is the one thing that must have survived.
            "str x20, [sp, #40]",
            "ldr x20, [sp, #32]",
            "stp x0, x1, [x20]",
            "stp x2, x3, [x20, #16]",
            "stp x4, x5, [x20, #32]",
            "stp x6, x7, [x20, #48]",
            "stp x8, x9, [x20, #64]",
            "stp x10, x11, [x20, #80]",
            "stp x12, x13, [x20, #96]",
            "stp x14, x15, [x20, #112]",
            "stp x16, x17, [x20, #128]",
            "stp x18, x19, [x20, #144]",
            "ldr x0, [sp, #40]",
            "stp x0, x21, [x20, #160]",
            "stp x22, x23, [x20, #176]",
            "stp x24, x25, [x20, #192]",
            "stp x26, x27, [x20, #208]",
            "stp x28, x29, [x20, #224]",
            "str x30, [x20, #240]",
            "mrs x0, tpidr_el0",
            "str x0, [x20, #248]",
            "add x0, x20, #256",
            "st1 {{v0.2d-v3.2d}}, [x0], #64",
            "st1 {{v4.2d-v7.2d}}, [x0], #64",
            "st1 {{v8.2d-v11.2d}}, [x0], #64",
            "st1 {{v12.2d-v15.2d}}, [x0], #64",
            "st1 {{v16.2d-v19.2d}}, [x0], #64",
            "st1 {{v20.2d-v23.2d}}, [x0], #64",
            "st1 {{v24.2d-v27.2d}}, [x0], #64",
            "st1 {{v28.2d-v31.2d}}, [x0], #64",
            "ldp x29, x30, [sp, #16]",
            "ldp x18, x19, [sp], #48",
            in("x20") seen as *mut Seen,
            out("x0") _, out("x1") _, out("x2") _, out("x3") _, out("x4") _, out("x5") _,
            out("x6") _, out("x7") _, out("x8") _, out("x9") _, out("x10") _, out("x11") _,
            out("x12") _, out("x13") _, out("x14") _, out("x15") _, out("x16") _, out("x17") _,
            out("x21") _, out("x22") _, out("x23") _, out("x24") _, out("x25") _, out("x26") _,
            out("x27") _, out("x28") _, out("x30") _,
        );
    }
}

/// The first register that is not what it should be after an exit, if any.
fn unexpected(seen: &Seen) -> Option<alloc::string::String> {
    for (index, value) in (0u64..).zip(seen.x.iter()) {
        if MARKER.contains(value) {
            return Some(format!("x{index} holds the guest's marker"));
        }
        if index >= 4 && *value != own(index) {
            return Some(format!("x{index} = {value:#x}, was {:#x}", own(index)));
        }
    }
    for (index, value) in (100u64..).zip(seen.v.iter()) {
        let expected = u128::from(own(index)) << 64 | u128::from(own(index));
        if *value != expected {
            return Some(format!("v{} = {value:#x}, was {expected:#x}", index - 100));
        }
    }
    (seen.tpidr_el0 != own(200)).then(|| format!("TPIDR_EL0 = {:#x}", seen.tpidr_el0))
}

/// C10: enters vCPU 0 of `vm`, which keeps its marker in registers, until
/// `exits` exits were looked at. Expected: x4 to x30, v0 to v31 and TPIDR_EL0
/// hold the host's own values every time, x0 to x3 only the exit.
pub(in crate::payload) fn after_exits(vm: &Vm, exits: usize) -> Finding {
    let mut seen = Box::new(Seen { x: [0; 31], tpidr_el0: 0, v: [0; 32] });
    let mut kinds = 0u64;
    let mut looked = 0;
    let mut problem = None;
    let finished = run::enter_directly(vm, 0, exits, |reply| {
        run_and_look(vm, 0, reply, &mut seen);
        looked += 1;
        if problem.is_none() {
            problem = unexpected(&seen);
        }
        let [code, x1, x2, x3] = [seen.x[0], seen.x[1], seen.x[2], seen.x[3]];
        kinds |= 1 << (x1 & 0x3f);
        (code, Exit::decode(x1, x2, x3))
    });
    let what = "look for a guest's values in the registers after its exits".into();
    let detail = match &problem {
        Some(problem) => problem.clone(),
        None => format!("{looked} exits of {} kinds", kinds.count_ones()),
    };
    let outcome = match (problem, finished && looked > 0) {
        (Some(_), _) => "leaked",
        (None, false) => "invalid",
        (None, true) => GOOD,
    };
    Finding { id: "C10.exits", what, outcome, detail }
}
