//! Every syndrome, from a host and from a guest, and what its handling may
//! change.
//!
//! The world traps with registers full of secrets. When it goes on, only what
//! the instruction names may have changed: the destination of a load or of a
//! register read, the results of a call; and it goes on at the next
//! instruction, at the same one, or in its own vector. What the host is told
//! of a guest's exit contains no register but the one a store to a granted
//! page names.

mod rig;
mod rules;

use hyp::abi::exit;
use hyp::layout;
use hyp::sim::walk::Choices;
use hyp::trap::{Trap, TrapKind};
use hyp::vcpu::state::Frame;
use rig::{RIG, Rig, Vm};

/// Lets host and guest trap as `choices` say, as long as there are any.
pub(crate) fn run(mut choices: Choices<'_>) {
    RIG.with_borrow_mut(|rig| {
        let vm = rig.create_vm();
        for _ in 0..100 {
            if choices.is_over() {
                break;
            }
            let trap = some_trap(&mut choices);
            let goes_on = match choices.below(4) {
                0 => host_traps(rig, &mut choices, trap),
                _ => guest_traps(rig, &vm, &mut choices, trap),
            };
            if !goes_on {
                break;
            }
        }
        rig.destroy_vm(&vm);
    });
}

/// An instruction that traps, or something no instruction does.
fn some_trap(choices: &mut Choices<'_>) -> Trap {
    let kind = match choices.below(32) {
        30 => TrapKind::Interrupt,
        31 => TrapKind::SError,
        _ => TrapKind::Sync,
    };
    let class = match choices.below(8) {
        0 => choices.below(64),
        1 => 0x18,
        2 => choices.pick(&[0x16, 0x17, 0x01, 0x20]),
        _ => 0x24,
    };
    // ISV, SAS, SSE, SRT, SF, CM, S1PTW, WnR and status from two to four bytes.
    let iss = match class {
        0x24 => {
            1 << 24
                | choices.below(4) << 22
                | choices.below(32) << 16
                | (choices.below(256) & 0b110_0011) << 14 & (1 << 21 | 1 << 15 | 1 << 14)
                | choices.below(2) << 6
                | choices.pick(&[0x04, 0x05, 0x06, 0x07, 0x07, 0x0f, 0x10, 0x00, 0x21, 0x30])
                | if choices.one_in(16) { choices.below(1 << 25) } else { 0 }
        }
        // Identification registers most of the time.
        0x18 if !choices.one_in(3) => {
            3 << 20
                | choices.below(8) << 17
                | choices.below(32) << 5
                | choices.below(16) << 1
                | choices.below(8).min(1)
        }
        0x16 | 0x17 if !choices.one_in(8) => 0,
        _ => choices.below(1 << 25),
    };
    let ipa = some_address(choices);
    let far = if choices.one_in(8) { choices.bits() } else { 0xffff_0000_0000_0000 | ipa };
    let esr = class << 26 | 1 << 25 | iss;
    Trap { kind, esr, far: far & !0xfff | ipa & 0xfff, hpfar: ipa >> 8 & !0xf }
}

fn some_address(choices: &mut Choices<'_>) -> u64 {
    let base = choices.pick(&[
        layout::UART,
        layout::UART,
        layout::GICD,
        layout::GICR,
        layout::GICR + 0x1_0000,
        layout::MSI_FRAME,
        layout::ECAM,
        layout::ECAM + 0x8000,
        layout::PCI_MEM32,
        layout::PCI_MEM64,
        layout::RAM,
        layout::RAM + 0x40_0000,
        rig::RD_BASE,
        0,
        1 << 38,
        !0xfff,
    ]);
    let offset = match choices.below(4) {
        0 => choices.below(0x1_0000),
        1 => 8 * choices.below(0x200),
        _ => 4 * choices.below(0x40),
    };
    base.wrapping_add(offset)
}

/// Registers full of secrets, a plausible PC and PSTATE.
fn some_frame(choices: &mut Choices<'_>, trap: &Trap) -> Frame {
    let mut frame = Frame::default();
    for (x, number) in frame.x.iter_mut().zip(0u64..) {
        *x = rules::SECRET | number << 8;
    }
    frame.pc = 0x4000_1000;
    frame.pstate = choices.pick(&[0x3c5, 0x3c5, 0, 0x3c4, 0x10, 0x8000_03c5]);
    if matches!(trap.esr >> 26 & 0x3f, 0x16 | 0x17) {
        let ranges = [0x8000_0000u64, 0x8400_0000, 0x8600_0000, 0xC400_0000, 0xC600_0000];
        frame.x[0] = match choices.below(8) {
            0 => choices.bits(),
            1 => 0x8600_FF01,
            _ => choices.pick(&ranges) + choices.below(20),
        };
        frame.x[1] = some_address(choices);
        frame.x[2] = choices.below(4);
        frame.x[3] = if choices.one_in(2) { 0 } else { choices.bits() };
    }
    frame
}

/// The host traps. False: it asked for something that ends the machine, which
/// is another target's business.
fn host_traps(rig: &Rig, choices: &mut Choices<'_>, trap: Trap) -> bool {
    let before = some_frame(choices, &trap);
    choices.note(format_args!("host: {trap:x?}, x0 {:#x}", before.x[0]));
    if rules::is_call(&trap) && !rules::harmless_call(&trap, before.x[0]) {
        return true;
    }
    let mut after = before.clone();
    rig.hyp.handle_host_trap(&mut after, trap);
    rig.settle();
    choices.note(format_args!("    pc {:#x}, x0 {:#x}", after.pc, after.x[0]));
    rules::check(&before, &after, &trap, None);
    true
}

/// The guest traps. False: it does not run any more.
fn guest_traps(rig: &mut Rig, vm: &Vm, choices: &mut Choices<'_>, trap: Trap) -> bool {
    let before = some_frame(choices, &trap);
    choices.note(format_args!("guest: {trap:x?}, x0 {:#x}", before.x[0]));
    rig.plan(before.clone(), trap);
    let mut reply = None;
    // Whatever is to be served, until the guest's next instruction.
    for _ in 0..4 {
        let Ok([reason, a, b]) = rig.run(vm, reply.unwrap_or(0)) else { return false };
        rig.settle();
        choices.note(format_args!("    exit {reason:#x} {a:#x} {b:#x}"));
        rules::exposed(&before, &trap, [reason, a, b]);
        if let Some(after) = rig.seen() {
            rules::check(&before, &after, &trap, reply);
            return true;
        }
        match reason & 0xff {
            exit::MMIO if reason & 1 << 8 == 0 => reply = Some(choices.bits()),
            exit::SHUTDOWN | exit::DEAD | exit::CPU_OFF => return false,
            _ => {}
        }
    }
    panic!("the guest never goes on");
}
