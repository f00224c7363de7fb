//! The host's firmware calls (attack rows C8, C9).

use super::rig::{Rig, interrupt, pfn};
use crate::abi::host as id;
use crate::machine::PowerAction;
use crate::psci::{code, function};

fn cpu_on(rig: &Rig, mpidr: u64, entry: u64) -> i64 {
    rig.smc(u64::from(function::CPU_ON_64), &[mpidr, entry, 0xc0])
}

#[test]
fn c8_a_cpu_comes_up_in_bouncer_with_the_hosts_entry_and_only_once() {
    let mut rig = Rig::new();
    let entry = rig.frames(1) << 12;
    assert_eq!(cpu_on(&rig, 1, entry), code::SUCCESS);
    assert_eq!(rig.hyp.machine().world().started, [(1, entry, 0xc0)]);
    assert_eq!(cpu_on(&rig, 1, entry), code::ALREADY_ON);
    assert_eq!(cpu_on(&rig, 0, entry), code::ALREADY_ON, "the boot CPU");
    assert_eq!(rig.hyp.machine().world().started.len(), 1);
    let relayed = rig.hyp.machine().world().firmware_log.clone();
    assert!(
        relayed.iter().all(|call| call[0] != u64::from(function::CPU_ON_64)),
        "the firmware never sees the host's entry point"
    );
}

#[test]
fn c8_a_bogus_entry_or_an_unknown_cpu_starts_nothing() {
    let mut rig = Rig::new();
    let (_, guest) = rig.building(1);
    let entry = rig.frames(1) << 12;
    let image = rig.layout.hyp[0].start().base();
    for bogus in [image, guest << 12, entry + 2, 0, u64::MAX, 1 << 39] {
        assert_eq!(cpu_on(&rig, 1, bogus), code::INVALID_ADDRESS, "{bogus:#x}");
    }
    for nobody in [2, 7, 0x100, u64::MAX] {
        assert_eq!(cpu_on(&rig, nobody, entry), code::INVALID_PARAMETERS, "{nobody:#x}");
    }
    assert!(rig.hyp.machine().world().started.is_empty());
}

#[test]
fn c8_a_cpu_that_the_firmware_refused_can_be_tried_again() {
    let mut rig = Rig::new();
    let entry = rig.frames(1) << 12;
    rig.hyp.machine().world().start_answer = code::DENIED;
    assert_eq!(cpu_on(&rig, 1, entry), code::DENIED);
    rig.hyp.machine().world().start_answer = code::SUCCESS;
    assert_eq!(cpu_on(&rig, 1, entry), code::SUCCESS);
}

#[test]
fn c8_no_power_down_state_and_no_unlisted_function_reaches_the_firmware() {
    let mut rig = Rig::new();
    let resume = rig.frames(1) << 12;
    for state in [1 << 16, 1 << 30] {
        let suspend = rig.smc(u64::from(function::CPU_SUSPEND_64), &[state, resume, 0]);
        assert_eq!(suspend, code::DENIED);
    }
    // SYSTEM_SUSPEND, CPU_DEFAULT_SUSPEND, MEM_PROTECT, SYSTEM_RESET2,
    // trusted OS and SiP calls, TRNG.
    for unlisted in
        [0xC400_000E, 0xC400_000C, 0x8400_0013, 0xC400_0012, 0xB200_0000, 0xC200_0001, 0x8400_0050]
    {
        assert_eq!(rig.smc(unlisted, &[resume, 0, 0]), code::NOT_SUPPORTED, "{unlisted:#x}");
    }
    assert!(rig.hyp.machine().world().firmware_log.is_empty());
    assert!(rig.hvc(id::EVENT_NEXT, &[]).is_ok(), "and it is logged");
}

#[test]
fn c7_an_smc_with_an_immediate_or_a_dirty_id_is_not_a_call() {
    let rig = Rig::new();
    let off = u64::from(function::SYSTEM_OFF);
    assert_eq!(rig.smc_raw(off, 1, &[]), code::NOT_SUPPORTED);
    assert_eq!(rig.smc(off | 1 << 32, &[]), code::NOT_SUPPORTED);
    assert!(rig.hyp.machine().world().power.is_empty());
}

#[test]
fn c9_guests_are_wiped_before_the_machine_stops() {
    for (call, action) in
        [(function::SYSTEM_OFF, PowerAction::Off), (function::SYSTEM_RESET, PowerAction::Reset)]
    {
        let mut rig = Rig::new();
        let (handle, ram) = rig.vm(1);
        rig.hyp.machine().poke(pfn(ram + 1), 7, 0x5ec2e7);
        rig.smc(u64::from(call), &[]);
        assert_eq!(rig.hyp.machine().world().power, [action]);
        assert_eq!(rig.hyp.machine().peek(pfn(ram + 1), 7), 0);
        assert!(rig.hvc(id::VCPU_RUN, &[handle, 0, 0]).is_err(), "and none runs again");
    }
}

#[test]
fn c9_registers_that_el2_keeps_for_a_guest_are_wiped_before_the_machine_stops() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(1);
    rig.script(|vcpu| {
        vcpu.frame.x[19] = 0x5ec2e7;
        vcpu.fp.v[8] = 0x5ec2e7;
        vcpu.el1.tpidr_el0 = 0x5ec2e7;
        interrupt()
    });
    rig.hvc(id::VCPU_RUN, &[handle, 0, 0]).unwrap();
    let kept = |rig: &Rig| {
        let handle = crate::vm::Handle::from_raw(handle);
        let text = rig.hyp.with_vm(handle, |vm| Ok(std::format!("{:?}", vm.vcpus))).unwrap();
        text.contains(&std::format!("{}", 0x5ec2e7))
    };
    assert!(kept(&rig), "the secret is in the vCPU while it may run again");
    rig.smc(u64::from(function::SYSTEM_OFF), &[]);
    assert!(!kept(&rig));
}
