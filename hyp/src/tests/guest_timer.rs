//! The EL1 physical timer and counter of a guest: emulated, level-sensitive,
//! and there whether the vCPU runs, waits or is out (Arm ARM D12.2).

use super::rig::{Rig, abort, interrupt, sync};
use crate::abi::{exit, host};
use crate::layout::{GICD, GICR, PHYSICAL_TIMER_INTID};
use crate::trap::Trap;
use std::sync::{Arc, Mutex};

/// The machine's counter when the guest's is 0.
const START: u64 = 1000;
/// op2 of CNTP_TVAL_EL0, CNTP_CTL_EL0, CNTP_CVAL_EL0.
const TVAL: u64 = 0;
const CTL: u64 = 1;
const CVAL: u64 = 2;
/// The timer's interrupt, as a bit of a redistributor register.
const TIMER: u64 = 1 << PHYSICAL_TIMER_INTID;
/// Registers of a redistributor's SGI frame.
const ISENABLER: u64 = GICR + 0x1_0100;
const ISPENDR: u64 = GICR + 0x1_0200;
/// List register: pending; a maintenance interrupt tells when it ends.
const PENDING: u64 = 1 << 62;
const ACTIVE: u64 = 1 << 63;
const EOI: u64 = 1 << 41;

/// MRS or MSR of the register op0 = 3, op1 = 3, CRn = 14, `crm`, `op2`.
fn access(crm: u64, op2: u64, rt: u64, read: bool) -> Trap {
    let register = 3 << 20 | op2 << 17 | 3 << 14 | 14 << 10 | crm << 1;
    sync(0x18 << 26 | register | rt << 5 | u64::from(read))
}

fn write(rig: &Rig, op2: u64, value: u64) {
    rig.script(move |vcpu| {
        vcpu.frame.x[7] = value;
        access(2, op2, 7, false)
    });
}

/// What the guest reads, after everything scripted so far.
fn read_by(rig: &Rig, handle: u64, trap: Trap) -> u64 {
    let value = Arc::new(Mutex::new(0));
    let sink = value.clone();
    rig.script(move |_| trap);
    rig.script_check(move |vcpu| *sink.lock().unwrap() = vcpu.frame.x[5]);
    assert_eq!(rig.run(handle)[0], exit::INTERRUPT);
    *value.lock().unwrap()
}

fn read(rig: &Rig, handle: u64, op2: u64) -> u64 {
    read_by(rig, handle, access(2, op2, 5, true))
}

fn set_counter(rig: &Rig, value: u64) {
    rig.hyp.machine().world().counter = value;
}

/// A guest that has its interrupt controller and the timer's interrupt on.
fn guest() -> (Rig, u64) {
    let mut rig = Rig::new();
    set_counter(&rig, START);
    let (handle, _) = rig.vm(2);
    rig.script_store(GICD, 4, 3);
    rig.script_store(ISENABLER, 4, TIMER);
    rig.script(|vcpu| {
        vcpu.gic.vmcr = 0xff << 24 | 3;
        interrupt()
    });
    rig.run(handle);
    (rig, handle)
}

/// The guest's list register for the timer, at its next entry.
fn listed(rig: &Rig, handle: u64) -> Option<u64> {
    let found = Arc::new(Mutex::new(None));
    let sink = found.clone();
    rig.script_check(move |vcpu| {
        let is_timer = |lr: &&u64| **lr as u32 == PHYSICAL_TIMER_INTID;
        *sink.lock().unwrap() = vcpu.gic.lr.iter().find(is_timer).copied();
    });
    rig.run(handle);
    *found.lock().unwrap()
}

#[test]
fn a_guest_has_one_time_which_begins_with_it() {
    let (rig, handle) = guest();
    for (counter, seen) in [(START, 0), (START + 77, 77), (u64::MAX, u64::MAX - START)] {
        set_counter(&rig, counter);
        for op2 in [1, 5] {
            assert_eq!(read_by(&rig, handle, access(0, op2, 5, true)), seen);
        }
    }
}

#[test]
fn its_registers_read_back_and_a_trapped_access_is_stepped_over() {
    let (rig, handle) = guest();
    write(&rig, CVAL, 500);
    rig.script(|vcpu| {
        vcpu.frame.pc = 0x4000_0100;
        vcpu.frame.x[7] = u64::MAX;
        access(2, CTL, 7, false)
    });
    rig.script_check(|vcpu| assert_eq!(vcpu.frame.pc, 0x4000_0104));
    rig.run(handle);
    set_counter(&rig, START + 499);
    assert_eq!(read(&rig, handle, CVAL), 500);
    assert_eq!((read(&rig, handle, CTL), read(&rig, handle, TVAL)), (3, 1));
    set_counter(&rig, START + 501);
    assert_eq!((read(&rig, handle, CTL), read(&rig, handle, TVAL)), (7, 0xffff_ffff));
    write(&rig, TVAL, 0xffff_fff6);
    assert_eq!(read(&rig, handle, CVAL), 491, "ten before now");
}

#[test]
fn it_fires_while_the_guest_runs_and_a_second_interrupt_is_the_hosts() {
    let (rig, handle) = guest();
    write(&rig, CVAL, 500);
    write(&rig, CTL, 1);
    rig.hyp.machine().world().script_until(0, START + 500, |vcpu| {
        assert!(vcpu.gic.lr.iter().all(|lr| *lr == 0), "not yet");
        interrupt()
    });
    rig.script(|vcpu| {
        let expected = u64::from(PHYSICAL_TIMER_INTID) | PENDING | EOI | 1 << 60;
        assert_eq!(vcpu.gic.lr[0], expected, "taken without the host");
        interrupt()
    });
    rig.script(|_| unreachable!("the host's"));
    assert_eq!(rig.run(handle)[0], exit::INTERRUPT);
    let alarms = rig.hyp.machine().world().alarms.clone();
    assert_eq!(alarms, [Some(START + 500), None], "when to stop the guest, and no more then");
    rig.hyp.machine().world().clear_script(0);
}

#[test]
fn an_interrupt_before_its_time_is_the_hosts() {
    let (rig, handle) = guest();
    write(&rig, CVAL, 500);
    write(&rig, CTL, 1);
    rig.hyp.machine().world().script_until(0, START + 499, |_| interrupt());
    assert_eq!(rig.run(handle)[0], exit::INTERRUPT);
    assert_eq!(rig.hyp.machine().world().steps_left(0), 0);
    // Each time it is loaded the machine must be told again.
    rig.script_check(|_| ());
    rig.run(handle);
    let alarms = rig.hyp.machine().world().alarms.clone();
    assert_eq!(alarms, [Some(START + 500), Some(START + 500)]);
}

#[test]
fn it_fires_while_the_vcpu_is_out_and_its_line_falls_with_the_condition() {
    let (rig, handle) = guest();
    write(&rig, CVAL, 500);
    write(&rig, CTL, 1);
    assert_eq!(listed(&rig, handle), None);
    set_counter(&rig, START + 500);
    assert!(listed(&rig, handle).is_some_and(|lr| lr & PENDING != 0));
    for (op2, off, on) in [(CTL, 3, 1), (CTL, 0, 1), (CVAL, 501, 500), (TVAL, 1, 0)] {
        write(&rig, op2, off);
        assert_eq!(listed(&rig, handle), None, "{op2}: {off}");
        write(&rig, op2, on);
        assert!(listed(&rig, handle).is_some(), "{op2}: {on}");
    }
    assert_eq!(rig.hyp.machine().world().alarms.last(), Some(&None));
}

#[test]
fn it_comes_again_after_its_end_while_the_line_is_up() {
    let (rig, handle) = guest();
    write(&rig, CVAL, 0);
    write(&rig, CTL, 1);
    rig.script(|vcpu| {
        assert!(vcpu.gic.lr[0] & PENDING != 0);
        vcpu.gic.lr[0] = vcpu.gic.lr[0] & !PENDING | ACTIVE;
        access(2, CTL, 5, true)
    });
    rig.script(|vcpu| {
        // Its end, which the hardware tells by a maintenance interrupt.
        vcpu.gic.lr[0] &= !(PENDING | ACTIVE);
        interrupt()
    });
    rig.script_check(|vcpu| assert!(vcpu.gic.lr[0] & PENDING != 0));
    assert_eq!(rig.run(handle)[0], exit::INTERRUPT);
    assert_eq!(rig.hyp.machine().world().steps_left(0), 0);
}

#[test]
fn wfi_tells_the_earlier_deadline_and_does_not_sleep_through_the_timer() {
    let (rig, handle) = guest();
    let wait = || {
        rig.script(|_| sync(0x01 << 26));
        let [code, deadline, _] = rig.run(handle);
        (code, deadline)
    };
    write(&rig, CVAL, 500);
    assert_eq!(wait(), (exit::WFI, u64::MAX), "off");
    write(&rig, CTL, 1);
    assert_eq!(wait(), (exit::WFI, START + 500));
    rig.hyp.machine().world().timer_deadline = Some(START + 400);
    assert_eq!(wait(), (exit::WFI, START + 400));
    rig.hyp.machine().world().timer_deadline = Some(START + 600);
    assert_eq!(wait(), (exit::WFI, START + 500));
    set_counter(&rig, START + 500);
    rig.script(|_| sync(0x01 << 26));
    rig.script_check(|vcpu| assert!(vcpu.gic.lr[0] & PENDING != 0));
    assert_eq!(rig.run(handle)[0], exit::INTERRUPT, "nothing to wait for");
}

/// GICR_ISPENDR0 (IHI0069 12.11): the line, though the interrupt is disabled.
#[test]
fn the_redistributor_shows_the_lines_of_both_timers() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(1);
    let pending = || read_by(&rig, handle, abort(ISPENDR, 4, 5, false));
    write(&rig, CVAL, 10);
    write(&rig, CTL, 1);
    assert_eq!(pending(), 0);
    // It fires between the entry, which looked, and the read.
    let seen = Arc::new(Mutex::new(0));
    let sink = seen.clone();
    rig.hyp.machine().world().script_until(0, 10, |_| abort(ISPENDR, 4, 5, false));
    rig.script_check(move |vcpu| *sink.lock().unwrap() = vcpu.frame.x[5]);
    rig.run(handle);
    assert_eq!(*seen.lock().unwrap(), TIMER);
    write(&rig, CTL, 3);
    assert_eq!(pending(), 0, "masked");
    rig.hyp.machine().world().timer_line = true;
    assert_eq!(pending(), 1 << 27);
    rig.hyp.machine().world().timer_line = false;
    assert_eq!(pending(), 0);
}

#[test]
fn each_vcpu_has_its_own_and_it_is_off_when_the_vcpu_starts() {
    let (rig, handle) = guest();
    write(&rig, CVAL, 0);
    write(&rig, CTL, 1);
    rig.run(handle);
    let cpu_on = u64::from(crate::psci::function::CPU_ON_64);
    rig.script_hvc(cpu_on, &[1, crate::layout::RAM, 0]);
    assert_eq!(rig.run(handle)[..2], [exit::CPU_ON, 1]);
    rig.script(|_| access(2, CTL, 5, true));
    rig.script_check(|vcpu| {
        assert_eq!(vcpu.frame.x[5], 0);
        assert!(vcpu.gic.lr.iter().all(|lr| *lr == 0));
    });
    rig.hvc(host::VCPU_RUN, &[handle, 1, 0]).unwrap();
}
