//! The host's hypercalls, used and abused (attack rows C6, C7, C11, C14).

use super::rig::{PAGES, RAM_GFN, Rig, pfn};
use crate::abi::{self, host as id};
use crate::error::Error;
use crate::layout;
use crate::sim::Random;

const NOT_SUPPORTED: Result<[u64; 3], i64> = Err(-1);

fn refused(error: Error) -> Result<[u64; 3], i64> {
    Err(error.code())
}

#[test]
fn c7_only_clean_known_ids_with_immediate_zero_are_calls() {
    let rig = Rig::new();
    assert_eq!(rig.hvc(id::VERSION, &[]), Ok([abi::VERSION, 0, 0]));
    assert_eq!(rig.hvc_raw(u64::from(id::VERSION), 1, &[]), NOT_SUPPORTED);
    assert_eq!(rig.hvc_raw(u64::from(id::VERSION) | 1 << 32, 0, &[]), NOT_SUPPORTED);
    for unknown in [0, 0xC600_00FF, 0xC600_0117, 0x8400_0000, 0xC600_0003, 0xFFFF_FFFF] {
        assert_eq!(rig.hvc(unknown, &[]), NOT_SUPPORTED, "{unknown:#x}");
    }
}

#[test]
fn c7_no_arguments_make_a_call_stop_bouncer_or_change_who_owns_what() {
    let mut rig = Rig::new();
    let (handle, ram) = rig.vm(2);
    let image = rig.layout.hyp[0].start().number();
    let interesting = [
        0,
        1,
        2,
        handle,
        handle + 1,
        handle ^ 1 << 8,
        ram,
        RAM_GFN,
        image,
        0x9000,
        511,
        512,
        513,
        u64::MAX,
        u64::MAX - 1,
        1 << 27,
        (1 << 27) - 1,
        1 << 63,
    ];
    let mut random = Random::new(7);
    for _ in 0..50_000 {
        let function = id::VERSION + random.below(0x16) as u32;
        let arguments: [u64; 5] =
            core::array::from_fn(|_| interesting[random.below(interesting.len() as u64) as usize]);
        let before = rig.ownership();
        if rig.hvc(function, &arguments).is_err() {
            assert_eq!(rig.ownership(), before, "{function:#x} {arguments:x?}");
        }
    }
    assert_eq!(rig.frame_state(image), 3, "EL2's memory stays EL2's");
}

#[test]
fn c6_a_frame_that_is_not_the_hosts_alone_cannot_be_donated() {
    let mut rig = Rig::new();
    let (first, ram) = rig.building(1);
    let (second, _) = rig.building(1);
    let image = rig.layout.hyp[0].start().number();
    let before = rig.ownership();
    let donate = |handle, pfn, gfn, count| rig.hvc(id::FRAME_DONATE, &[handle, pfn, gfn, count, 0]);
    let there = RAM_GFN + PAGES;
    assert_eq!(donate(first, ram, there, 1), refused(Error::Denied), "its own, again");
    assert_eq!(donate(second, ram, there, 1), refused(Error::Denied), "another guest's");
    assert_eq!(donate(first, image, there, 1), refused(Error::Denied), "EL2's");
    assert_eq!(donate(first, 0x9000, there, 1), refused(Error::Denied), "a device");
    assert_eq!(donate(first, 1 << 26, there, 1), refused(Error::Denied), "no RAM at all");
    assert_eq!(donate(first, ram - 1, there, 2), refused(Error::Denied), "the last of a range");
    assert_eq!(donate(first, u64::MAX, there, 1), refused(Error::InvalidParameter));
    assert_eq!(donate(first, 1, there, 0), refused(Error::InvalidParameter));
    assert_eq!(donate(first, 1, there, u64::MAX), refused(Error::InvalidParameter));
    assert_eq!(donate(first, 1, 0, 1), refused(Error::InvalidParameter), "outside guest RAM");
    assert_eq!(donate(first, 1, RAM_GFN + 64, 1), refused(Error::InvalidParameter));
    assert_eq!(rig.ownership(), before);
}

#[test]
fn c6_a_guest_page_cannot_be_replaced_by_another_frame() {
    let mut rig = Rig::new();
    let (handle, _) = rig.building(1);
    let frame = rig.frames(1);
    let again = rig.hvc(id::FRAME_DONATE, &[handle, frame, RAM_GFN, 1, 0]);
    assert_eq!(again, refused(Error::Denied));
    assert_eq!(rig.frame_state(frame), 0);
}

#[test]
fn boot_state_is_closed_by_finalise() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(1);
    let frame = rig.frames(1);
    let measured = [handle, frame, RAM_GFN + PAGES, 1, abi::DONATE_MEASURED];
    assert_eq!(rig.hvc(id::FRAME_DONATE, &measured), refused(Error::BadState));
    assert_eq!(rig.hvc(id::VM_FINALISE, &[handle, layout::RAM, 0]), refused(Error::BadState));
    assert_eq!(rig.hvc(id::DEVICE_CREATE, &[handle, 2, 1, 0, 1]), refused(Error::BadState));
    // Zeroed memory may still arrive.
    assert_eq!(rig.hvc(id::FRAME_DONATE, &[handle, frame, RAM_GFN + PAGES, 1, 0]), Ok([1, 0, 0]));
}

#[test]
fn the_measurement_is_of_what_the_guest_got_and_unknown_before_it_is_closed() {
    let digest = |byte: u64| {
        let mut rig = Rig::new();
        let memcache = rig.frames(16);
        let [handle, ..] = rig.hvc(id::VM_CREATE, &[memcache, 16, 64, 1, 0]).unwrap();
        let frame = rig.frames(1);
        rig.hyp.machine().poke(pfn(frame), 511, byte);
        let measured = [handle, frame, RAM_GFN, 1, abi::DONATE_MEASURED];
        rig.hvc(id::FRAME_DONATE, &measured).unwrap();
        assert_eq!(rig.hvc(id::VM_MEASUREMENT, &[handle, 0]), refused(Error::BadState));
        rig.hvc(id::VM_FINALISE, &[handle, layout::RAM, 0]).unwrap();
        assert!(rig.hvc(id::VM_MEASUREMENT, &[handle, 2]).is_err());
        [0, 1].map(|part| rig.hvc(id::VM_MEASUREMENT, &[handle, part]).unwrap())
    };
    assert_eq!(digest(1), digest(1));
    assert_ne!(digest(1), digest(1 << 63));
}

#[test]
fn a_donation_that_is_not_measured_arrives_wiped() {
    let mut rig = Rig::new();
    let (handle, _) = rig.building(1);
    let frame = rig.frames(1);
    rig.hyp.machine().poke(pfn(frame), 3, 0x5ec2e7);
    rig.hvc(id::FRAME_DONATE, &[handle, frame, RAM_GFN + PAGES, 1, 0]).unwrap();
    assert_eq!(rig.hyp.machine().peek(pfn(frame), 3), 0);
}

#[test]
fn c14_slots_run_out_with_an_error_and_come_back() {
    let mut rig = Rig::new();
    let handles: std::vec::Vec<u64> = (0..abi::MAX_VMS).map(|_| rig.building(1).0).collect();
    let memcache = rig.frames(16);
    let create = [memcache, 16, 64, 1, 0];
    assert_eq!(rig.hvc(id::VM_CREATE, &create), refused(Error::NoMemory));
    assert_eq!(rig.frame_state(memcache), 0, "the frames stayed the host's");

    let handle = handles[3];
    rig.hvc(id::VM_STOP, &[handle]).unwrap();
    assert!(rig.hvc(id::VM_DESTROY, &[handle]).unwrap()[0] > 0, "its RAM is not reclaimed yet");
    let everything = rig.layout.ram[0].start().number();
    for frame in everything..memcache {
        let _ = rig.hvc(id::FRAME_RECLAIM, &[handle, frame, 1]);
    }
    while rig.hvc(id::VM_DESTROY, &[handle]).unwrap()[0] > 0 {}
    let [again, ..] = rig.hvc(id::VM_CREATE, &create).unwrap();
    assert_ne!(again, handle, "the former handle names nothing");
    assert_eq!(rig.hvc(id::VM_STOP, &[handle]), refused(Error::NotFound));
}

#[test]
fn a_memcache_too_small_or_not_the_hosts_makes_no_vm() {
    let mut rig = Rig::new();
    let image = rig.layout.hyp[0].start().number();
    let frames = rig.frames(16);
    let before = rig.ownership();
    for (arguments, error) in [
        ([frames, abi::MIN_MEMCACHE - 1, 64, 1, 0], Error::InvalidParameter),
        ([frames, abi::MAX_RANGE + 1, 64, 1, 0], Error::InvalidParameter),
        ([frames, 16, 0, 1, 0], Error::InvalidParameter),
        ([frames, 16, u64::MAX, 1, 0], Error::InvalidParameter),
        ([frames, 16, 64, 0, 0], Error::InvalidParameter),
        ([frames, 16, 64, 9, 0], Error::InvalidParameter),
        ([frames, 16, 64, u64::MAX, 0], Error::InvalidParameter),
        ([image, 16, 64, 1, 0], Error::Denied),
        ([frames, 16, 64, 1, abi::CREATE_SHARE_ZEROES << 1], Error::InvalidParameter),
        ([frames, 16, 64, 1, u64::MAX], Error::InvalidParameter),
    ] {
        assert_eq!(rig.hvc(id::VM_CREATE, &arguments), refused(error), "{arguments:x?}");
    }
    assert_eq!(rig.ownership(), before);
}

#[test]
fn c11_a_vcpu_runs_only_when_it_may_and_in_one_place() {
    let mut rig = Rig::new();
    let (building, _) = rig.building(1);
    let run = |handle, vcpu| rig.hvc(id::VCPU_RUN, &[handle, vcpu, 0]);
    assert_eq!(run(building, 0), refused(Error::BadState), "not finalised");
    rig.hvc(id::VM_FINALISE, &[building, layout::RAM, 0]).unwrap();
    assert_eq!(run(building, 1), refused(Error::NotFound), "no such vCPU");
    assert_eq!(run(building, u64::MAX), refused(Error::NotFound));

    let handle = crate::vm::Handle::from_raw(building);
    let taken = rig.hyp.with_vm(handle, |vm| vm.vcpus.take(0, 1)).unwrap();
    assert_eq!(run(building, 0), refused(Error::Busy), "it runs on CPU 1");
    assert_eq!(rig.hvc(id::VM_STOP, &[building]), refused(Error::Busy));
    let power = crate::vm::vcpus::Power::On;
    rig.hyp
        .with_vm(handle, |vm| {
            vm.vcpus.put_back(taken, power, false);
            Ok(())
        })
        .unwrap();
    assert_eq!(run(building, 0), refused(Error::BadState), "it is dying");
    rig.hvc(id::VM_STOP, &[building]).unwrap();
    assert_eq!(run(building, 0), refused(Error::BadState));
}

#[test]
fn a_vcpu_that_is_off_does_not_run() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(2);
    assert_eq!(rig.hvc(id::VCPU_RUN, &[handle, 1, 0]), refused(Error::BadState));
}

#[test]
fn frames_of_a_living_vm_cannot_be_reclaimed_nor_those_of_another() {
    let mut rig = Rig::new();
    let (first, ram) = rig.vm(1);
    let (_, other) = rig.vm(1);
    let reclaim = |handle, pfn| rig.hvc(id::FRAME_RECLAIM, &[handle, pfn, 1]);
    assert_eq!(reclaim(first, ram), refused(Error::BadState));
    rig.hvc(id::VM_STOP, &[first]).unwrap();
    assert_eq!(reclaim(first, other), refused(Error::Denied));
    rig.hyp.machine().poke(pfn(ram), 9, 0x5ec2e7);
    assert_eq!(reclaim(first, ram), Ok([1, 0, 0]));
    assert_eq!(rig.hyp.machine().peek(pfn(ram), 9), 0, "C5: a reclaimed frame is zero");
    assert_eq!(rig.frame_state(ram), 0);
    assert_eq!(reclaim(first, ram), refused(Error::Denied), "once");
    assert_eq!(rig.frame_state(other), 3);
}
