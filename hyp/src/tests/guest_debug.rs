//! Self-hosted debug of a guest (Arm ARM D2), and C12: the host's breakpoints
//! and watchpoints observe no guest. The simulated machine watches at every
//! entry whose registers are in force, and after every guest that the host's
//! are back.

use super::rig::{Rig, interrupt, sync};
use crate::abi::exit;
use crate::sim::DebugRegisters;
use crate::trap::Trap;
use crate::vcpu::debug::{MAX_PAIRS, Pair};
use std::sync::{Arc, Mutex};

const MDSCR: [u64; 4] = [0, 0, 2, 2];
const OSLAR: [u64; 4] = [0, 1, 0, 4];
const OSLSR: [u64; 4] = [0, 1, 1, 4];
const SS: u64 = 1;
const MDE: u64 = 1 << 15;

/// DBGBVR<n>, DBGBCR<n>, DBGWVR<n>, DBGWCR<n>.
fn bvr(n: u64) -> [u64; 4] {
    [0, 0, n, 4]
}
fn bcr(n: u64) -> [u64; 4] {
    [0, 0, n, 5]
}
fn wvr(n: u64) -> [u64; 4] {
    [0, 0, n, 6]
}
fn wcr(n: u64) -> [u64; 4] {
    [0, 0, n, 7]
}

/// MRS or MSR of the register op0 = 2 with op1, CRn, CRm, op2 and x5.
fn access([op1, crn, crm, op2]: [u64; 4], read: bool) -> Trap {
    let register = 2 << 20 | op2 << 17 | op1 << 14 | crn << 10 | crm << 1;
    sync(0x18 << 26 | register | 5 << 5 | u64::from(read))
}

fn write(rig: &Rig, register: [u64; 4], value: u64) {
    rig.script(move |vcpu| {
        vcpu.frame.pc = 0x4000_0100;
        vcpu.frame.x[5] = value;
        access(register, false)
    });
}

/// The value read; `None` if the access was UNDEFINED.
fn read(rig: &Rig, handle: u64, register: [u64; 4]) -> Option<u64> {
    let seen = Arc::new(Mutex::new(None));
    let sink = seen.clone();
    rig.script(move |vcpu| {
        vcpu.frame.pc = 0x4000_0100;
        access(register, true)
    });
    rig.script_check(move |vcpu| {
        *sink.lock().unwrap() = (vcpu.frame.pc == 0x4000_0104).then_some(vcpu.frame.x[5]);
    });
    assert_eq!(rig.run(handle)[0], exit::INTERRUPT);
    *seen.lock().unwrap()
}

/// A host that watches everything, and left the lock as it was after reset.
fn guest() -> (Rig, u64) {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(2);
    let watch = Pair { value: 0x4000_0000, control: 0x1f00_1fff };
    let registers = DebugRegisters {
        monitor: MDE | 1 << 13,
        locks: [true, false],
        breakpoints: [watch; MAX_PAIRS],
        watchpoints: [watch; MAX_PAIRS],
        writes: 0,
    };
    *rig.hyp.machine().world().debug_registers(0) = registers;
    (rig, handle)
}

fn registers(rig: &Rig) -> DebugRegisters {
    rig.hyp.machine().world().debug_registers(0).clone()
}

#[test]
fn c12_a_guest_that_debugs_nothing_is_not_observed_and_costs_three_writes() {
    let (rig, handle) = guest();
    rig.script_check(|_| ());
    rig.run(handle);
    // MDSCR_EL1 once on the way in, and twice on the way out.
    assert_eq!(registers(&rig).writes, 3);
    assert_eq!(registers(&rig).monitor, MDE | 1 << 13);
}

#[test]
fn c12_a_guests_breakpoints_are_in_force_while_it_runs_and_the_hosts_come_back() {
    let (rig, handle) = guest();
    let before = registers(&rig);
    write(&rig, OSLAR, 0);
    write(&rig, bvr(5), 0x4008_0000);
    write(&rig, bcr(5), 0x1e3);
    write(&rig, wvr(3), 0x4100_0000);
    write(&rig, MDSCR, MDE);
    write(&rig, wcr(3), 0x1ff5);
    rig.script_check(|_| ());
    rig.run(handle);
    // In, changed while it runs, loaded again.
    for register in [(bvr(5), 0x4008_0000), (bcr(5), 0x1e3), (wvr(3), 0x4100_0000)] {
        assert_eq!(read(&rig, handle, register.0), Some(register.1));
    }
    assert_eq!(read(&rig, handle, wcr(3)), Some(0x1ff5));
    assert_eq!(read(&rig, handle, bvr(0)), Some(0), "not the host's");
    let after = registers(&rig);
    assert_eq!(
        (after.breakpoints, after.watchpoints, after.monitor, after.locks),
        (before.breakpoints, before.watchpoints, before.monitor, before.locks)
    );
}

#[test]
fn a_step_needs_the_lock_open_and_an_emulated_instruction_ends_it() {
    let (rig, handle) = guest();
    write(&rig, MDSCR, SS);
    rig.script_check(|vcpu| assert_eq!(vcpu.debug.in_force(), 0, "the lock is closed"));
    rig.run(handle);
    assert_eq!(read(&rig, handle, OSLSR), Some(0b1010));
    write(&rig, OSLAR, 0);
    assert_eq!(read(&rig, handle, OSLSR), Some(0b1000));
    rig.script(|vcpu| {
        assert_eq!(vcpu.debug.in_force(), SS);
        // MDSCR_EL1 is read while it is stepped itself.
        vcpu.frame.pstate |= 1 << 21;
        access(MDSCR, true)
    });
    rig.script_check(|vcpu| {
        assert_eq!(vcpu.frame.x[5], SS);
        assert_eq!(vcpu.frame.pstate >> 21 & 1, 0, "the step is over: its exception is next");
    });
    rig.run(handle);
}

#[test]
fn registers_that_the_cpu_does_not_have_and_wrong_ways_are_undefined() {
    let (rig, handle) = guest();
    // A Cortex-A72: six breakpoints, four watchpoints.
    for (register, there) in
        [(bvr(5), true), (bvr(6), false), (bcr(6), false), (wvr(3), true), (wcr(4), false)]
    {
        assert_eq!(read(&rig, handle, register).is_some(), there, "{register:?}");
    }
    assert_eq!(read(&rig, handle, OSLAR), None, "write-only");
    for read_only in [OSLSR, [0, 1, 0, 0], [0, 7, 14, 6], [3, 0, 1, 0], bcr(6)] {
        write(&rig, read_only, 1);
        rig.script(|vcpu| {
            assert_ne!(vcpu.frame.pc, 0x4000_0104);
            interrupt()
        });
        rig.run(handle);
    }
}

/// MDCCINT, OSDTRRX, OSDLR, DBGPRCR, DBGDTR, DBGCLAIM…: there on every CPU of
/// this architecture, with nobody at the other end.
#[test]
fn what_every_cpu_has_answers() {
    let (rig, handle) = guest();
    for (register, value) in [
        ([0, 0, 2, 0], 0),
        ([0, 0, 0, 2], 0),
        ([0, 0, 3, 2], 0),
        ([0, 0, 6, 2], 0),
        ([0, 1, 0, 0], 0),
        ([0, 1, 3, 4], 0),
        ([0, 1, 4, 4], 0),
        ([0, 7, 8, 6], 0xff),
        ([0, 7, 9, 6], 0),
        ([0, 7, 14, 6], 0b1010),
        ([3, 0, 1, 0], 0),
        ([3, 0, 4, 0], 0),
        ([3, 0, 5, 0], 0),
    ] {
        assert_eq!(read(&rig, handle, register), Some(value), "{register:?}");
    }
    write(&rig, [0, 7, 8, 6], 0x1f5);
    write(&rig, [0, 7, 9, 6], 0x4);
    assert_eq!(read(&rig, handle, [0, 7, 9, 6]), Some(0xf1));
    assert_eq!(read(&rig, handle, [0, 7, 8, 6]), Some(0xff));
}
