//! The host's firmware calls (attack rows C8, C9).

use super::rig::{Rig, interrupt, pfn, sync};
use crate::abi::host as id;
use crate::error::Error;
use crate::machine::PowerAction;
use crate::psci::{code, function};
use crate::vcpu::state::Frame;
use std::boxed::Box;
use std::sync::mpsc;

fn cpu_on(rig: &Rig, mpidr: u64, entry: u64) -> i64 {
    rig.smc(u64::from(function::CPU_ON_64), &[mpidr, entry, 0xc0])
}

#[test]
fn c8_a_cpu_comes_up_in_bouncer_with_the_hosts_entry_and_only_once() {
    let mut rig = Rig::new();
    let entry = rig.frames(1) << 12;
    assert_eq!(cpu_on(&rig, 1, entry), code::SUCCESS);
    assert_eq!(rig.hyp.machine().world().started, [(1, entry, 0xc0)]);
    assert_eq!(cpu_on(&rig, 1, entry), code::ON_PENDING);
    rig.hyp.machine().be_cpu(1);
    rig.hyp.host_cpu_arrives();
    assert_eq!(cpu_on(&rig, 1, entry), code::ALREADY_ON);
    rig.hyp.machine().be_cpu(0);
    assert_eq!(cpu_on(&rig, 1, entry), code::ALREADY_ON);
    rig.hyp.host_cpu_arrives();
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
        assert_eq!(suspend, code::INVALID_PARAMETERS);
    }
    // SYSTEM_SUSPEND, CPU_DEFAULT_SUSPEND, MEM_PROTECT, SYSTEM_RESET2,
    // trusted OS and SiP calls, TRNG_RND, MIGRATE, MIGRATE_INFO_UP_CPU.
    for unlisted in [
        0xC400_000E,
        0xC400_000C,
        0x8400_0013,
        0xC400_0012,
        0xB200_0000,
        0xC200_0001,
        0x8400_0053,
        0x8400_0005,
        0x8400_0007,
    ] {
        assert_eq!(rig.smc(unlisted, &[resume, 0, 0]), code::NOT_SUPPORTED, "{unlisted:#x}");
        let [_, told, _] = rig.hvc(id::EVENT_NEXT, &[]).unwrap();
        assert_eq!(told, unlisted, "and it is logged");
    }
    assert!(rig.hyp.machine().world().firmware_log.is_empty());
}

#[test]
fn c8_standby_is_allowed_and_does_nothing() {
    let rig = Rig::new();
    for suspend in [function::CPU_SUSPEND_32, function::CPU_SUSPEND_64] {
        for state in [0, 0xffff, !(1 << 16 | 1 << 30)] {
            assert_eq!(rig.smc(u64::from(suspend), &[state, 0, 0]), code::SUCCESS, "{state:#x}");
        }
    }
    assert!(rig.hyp.machine().world().firmware_log.is_empty());
}

#[test]
fn c8_what_is_relayed_carries_its_own_arguments_and_no_others() {
    let rig = Rig::new();
    rig.hyp.machine().world().firmware_answer = 0x5;
    let version = u64::from(function::PSCI_VERSION);
    assert_eq!(rig.smc(version, &[7, 8, 9]), 5);
    assert_eq!(rig.hyp.machine().world().firmware_log.pop(), Some([version, 0, 0, 0]));
    let dirty = 0xdead << 32;
    for (asked, affinity) in
        [(function::AFFINITY_INFO_32, 7), (function::AFFINITY_INFO_64, dirty | 7)]
    {
        assert_eq!(rig.smc(u64::from(asked), &[dirty | 7, dirty | 8, 9]), 5);
        let relayed = rig.hyp.machine().world().firmware_log.pop();
        assert_eq!(relayed, Some([u64::from(asked), affinity, 8, 0]));
    }
}

/// A stock kernel asks for a dozen things at boot that are not here. Its log of
/// refusals is for what was tried.
#[test]
fn what_only_asks_whether_something_is_there_is_no_event() {
    let rig = Rig::new();
    let trng = [0x8400_0050, 0x8400_0051, 0x8400_0052];
    let others = [0xC400_0190, 0xC400_0150, 0x8400_0063, 0x8400_0064, 0xC400_0020, 0x8000_0002];
    // Count, UID and revision of Arm's architecture calls, CPU, SiP, OEM,
    // standard secure and hypervisor, vendor's hypervisor, trusted application
    // and OS.
    let owners = [0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0xb0, 0xbf];
    let general = owners.map(|owner| [0xff00, 0xff01, 0xff03].map(|what| owner << 24 | what));
    for asks in trng.into_iter().chain(others).chain(general.into_iter().flatten()) {
        assert_eq!(rig.smc(asks, &[0, 0, 0]), code::NOT_SUPPORTED, "{asks:#x}");
        assert!(rig.hvc(id::EVENT_NEXT, &[]).is_err(), "{asks:#x}");
    }
    assert!(rig.hyp.machine().world().firmware_log.is_empty());
    // By an instruction that is no call, a yielding call, what is beside them.
    for (tried, immediate) in [
        (0x8400_0050, 1),
        (0x1_8400_0050, 0),
        (0x0400_ff01, 0),
        (0x8401_ff01, 0),
        (0x8400_ff02, 0),
        (0x8400_0053, 0),
    ] {
        assert_eq!(rig.smc_raw(tried, immediate, &[]), code::NOT_SUPPORTED, "{tried:#x}");
        assert!(rig.hvc(id::EVENT_NEXT, &[]).is_ok(), "{tried:#x}");
    }
}

/// A CPU that refuses to go off has been on all the time, also for one that
/// tried to start it meanwhile.
#[test]
fn a_cpu_that_stays_on_is_not_made_off_by_who_would_have_started_it() {
    let mut rig = Rig::new();
    let entry = rig.frames(1) << 12;
    let power = &rig.hyp.power;
    power.set(1, super::super::host::power::state::OFF);
    rig.hyp.machine().world().start_answer = code::ALREADY_ON;
    assert_eq!(cpu_on(&rig, 1, entry), code::ALREADY_ON, "on its way off");
    assert_eq!(power.claim(1), Ok(()), "and off in the end");
    power.set(1, super::super::host::power::state::ON);
    power.give_up(1);
    assert_eq!(power.claim(1), Err(code::ALREADY_ON));
}

/// Whatever the firmware's is: what the host calls is EL2.
#[test]
fn the_hosts_calling_convention_is_el2s() {
    let rig = Rig::new();
    for firmware in [u64::MAX, 0x1_0000, 0x1_0005] {
        rig.hyp.machine().world().firmware_answer = firmware;
        assert_eq!(rig.smc(u64::from(function::SMCCC_VERSION), &[]), 0x1_0001);
    }
    assert!(rig.hyp.machine().world().firmware_log.is_empty());
}

#[test]
fn c8_a_32_bit_cpu_on_has_32_bit_arguments() {
    let mut rig = Rig::new();
    let entry = rig.frames(1) << 12;
    let dirty = 0xdead << 32;
    let on = u64::from(function::CPU_ON_32);
    assert_eq!(rig.smc(on, &[dirty | 1, dirty | entry, dirty | 0xc0]), code::SUCCESS);
    assert_eq!(rig.hyp.machine().world().started, [(1, entry, 0xc0)]);
    let wide = rig.smc(u64::from(function::CPU_ON_64), &[dirty | 1, entry, 0]);
    assert_eq!(wide, code::INVALID_PARAMETERS);
}

#[test]
fn c8_a_cpu_that_is_off_can_be_started_again_and_one_that_stays_on_cannot() {
    let mut rig = Rig::new();
    let entry = rig.frames(1) << 12;
    assert_eq!(cpu_on(&rig, 1, entry), code::SUCCESS);
    rig.hyp.machine().be_cpu(1);
    // The simulated firmware returns, as one that refuses: still on.
    assert_eq!(rig.smc(u64::from(function::CPU_OFF), &[]), 0);
    assert_eq!(rig.hyp.machine().world().stopped, [1]);
    rig.hyp.machine().be_cpu(0);
    assert_eq!(cpu_on(&rig, 1, entry), code::ALREADY_ON);
}

#[test]
fn an_smc_clears_x1_to_x3_and_leaves_the_rest() {
    let rig = Rig::new();
    let mut frame = Frame { pc: 0x1000, ..Frame::default() };
    frame.x = core::array::from_fn(|n| 0x100 + n as u64);
    frame.x[0] = u64::from(function::PSCI_VERSION);
    let before = frame.clone();
    rig.hyp.handle_host_trap(&mut frame, sync(0x17 << 26));
    assert_eq!(frame.x[1..4], [0; 3]);
    assert_eq!(frame.x[4..], before.x[4..]);
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
    assert!(rig.keeps(handle, 0x5ec2e7), "while the vCPU may run again");
    rig.smc(u64::from(function::SYSTEM_OFF), &[]);
    assert!(!rig.keeps(handle, 0x5ec2e7));
}

#[test]
fn registers_of_a_vcpu_that_runs_while_its_vm_dies_are_wiped_when_it_is_back() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(1);
    rig.script(|vcpu| {
        vcpu.fp.v[8] = 0x5ec2e7;
        vcpu.frame.x[0] = u64::from(function::SYSTEM_OFF);
        sync(0x16 << 26)
    });
    assert_eq!(rig.run(handle)[0], crate::abi::exit::SHUTDOWN);
    assert!(!rig.keeps(handle, 0x5ec2e7));
}

/// Between the wipe and the stop another CPU could make a guest and let it
/// run: nobody would have wiped that one.
#[test]
fn c9_no_guest_comes_to_be_between_the_wipe_and_the_stop() {
    let mut rig = Rig::new();
    let memcache = rig.frames(16);
    let (stopping, stops) = mpsc::channel();
    let (made, news) = mpsc::channel();
    rig.hyp.machine().world().at_power = Some(Box::new(move || {
        stopping.send(()).unwrap();
        assert_eq!(news.recv(), Ok(Error::BadState.code() as u64), "VM_CREATE came through");
    }));
    let hyp = &rig.hyp;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            stops.recv().unwrap();
            let mut frame = Frame::default();
            frame.x[..5].copy_from_slice(&[u64::from(id::VM_CREATE), memcache, 16, 64, 1]);
            hyp.handle_host_trap(&mut frame, sync(0x16 << 26));
            made.send(frame.x[0]).unwrap();
        });
        rig.smc(u64::from(function::SYSTEM_OFF), &[]);
    });
}
