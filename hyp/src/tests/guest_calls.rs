//! The guest's hypercalls (attack rows G2, I4).

use super::rig::{PAGES, RAM_GFN, Rig, sync};
use crate::abi::{self, exit, guest as id, host};
use crate::error::Error;
use crate::layout;
use crate::psci::{code, function};
use crate::stats::MachineCounter;

fn ipa(page: u64) -> u64 {
    (RAM_GFN + page) << 12
}

#[test]
fn linux_finds_its_hypervisor() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(1);
    rig.script_hvc(u64::from(id::UID), &[]);
    rig.script_check(|vcpu| {
        assert_eq!(vcpu.frame.x[..4], [0xb66f_b428, 0xe911_c52e, 0x564b_caa9, 0x743a_004d]);
    });
    rig.run(handle);
    let (features, _) = rig.guest_hvc(handle, u64::from(id::FEATURES), &[]);
    // HYP_MEMINFO, MEM_SHARE, MEM_UNSHARE, MMIO_GUARD_*, MEM_RELINQUISH.
    assert_eq!(features, 0b11_1111_1100);
    assert_eq!(rig.guest_hvc(handle, u64::from(id::HYP_MEMINFO), &[0, 0, 0]), (4096, 1));
}

#[test]
fn unknown_calls_dirty_ids_and_smcs_of_a_guest_are_not_supported() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(1);
    for unknown in [0, u64::from(id::UID) | 1 << 32, u64::from(host::VM_CREATE), 0xC400_0190] {
        assert_eq!(rig.guest_hvc(handle, unknown, &[]).0, -1, "{unknown:#x}");
    }
    rig.script(|vcpu| {
        vcpu.frame.pc = 0x4000_0000;
        vcpu.frame.x[0] = u64::from(function::SYSTEM_OFF);
        sync(0x17 << 26)
    });
    rig.script_check(|vcpu| {
        assert_eq!(vcpu.frame.x[0] as i64, -1);
        assert_eq!(vcpu.frame.pc, 0x4000_0004);
    });
    assert_eq!(rig.run(handle)[0], exit::INTERRUPT, "there is no firmware behind an SMC");
}

#[test]
fn a_page_is_the_hosts_to_read_exactly_while_it_is_shared() {
    let mut rig = Rig::new();
    let (handle, ram) = rig.vm(1);
    let share = |pages| rig.guest_hvc(handle, u64::from(id::MEM_SHARE), &[ipa(1), pages, 0]);
    let unshare = |pages| rig.guest_hvc(handle, u64::from(id::MEM_UNSHARE), &[ipa(1), pages, 0]);
    assert_eq!(rig.frame_state(ram + 1), 3);
    assert_eq!(share(0), (0, 1), "Linux passes 0 and means 1");
    assert_eq!(rig.frame_state(ram + 1), 2);
    assert_eq!(rig.frame_state(ram + 2), 3, "the neighbour is not");
    assert_eq!(unshare(1), (0, 1));
    assert_eq!(rig.frame_state(ram + 1), 3);
    assert_eq!(share(2), (0, 2), "a range");
    assert_eq!(unshare(2), (0, 2));
}

#[test]
fn what_bouncer_adds_to_pkvms_calls_is_told_by_bit() {
    for (flags, bits) in [(0, 0b011), (abi::CREATE_SHARE_ZEROES, 0b111)] {
        let mut rig = Rig::new();
        let (handle, _) = rig.building_with(1, 16, flags);
        rig.hvc(host::VM_FINALISE, &[handle, layout::RAM, 0]).unwrap();
        assert_eq!(rig.guest_hvc(handle, u64::from(id::EXTENSIONS), &[]), (0, bits));
    }
}

/// Flag bit 2 of VM_CREATE, which the guest's owner can tell from the
/// measurement.
#[test]
fn with_the_flag_and_only_with_it_a_shared_page_is_zeros() {
    for flags in [0, abi::CREATE_SHARE_ZEROES, abi::CREATE_SHARE_ZEROES | abi::CREATE_CONSOLE] {
        let mut rig = Rig::new();
        let (handle, ram) = rig.building_with(1, 16, flags);
        rig.hvc(host::VM_FINALISE, &[handle, layout::RAM, 0]).unwrap();
        let keeps = flags & abi::CREATE_SHARE_ZEROES == 0;
        let word = || rig.hyp.machine().peek(super::rig::pfn(ram + 1), 7);
        let put = |value| rig.hyp.machine().poke(super::rig::pfn(ram + 1), 7, value);
        for (call, secret) in [
            (id::MEM_SHARE, 0x5ec2e7),
            (id::MEM_UNSHARE, 0x057),
            (id::MEM_SHARE, 0x5ec2e8),
            (id::MEM_UNSHARE_ALL, 0x058),
        ] {
            put(secret);
            assert_eq!(rig.guest_hvc(handle, u64::from(call), &[ipa(1), 1, 0]), (0, 1));
            assert_eq!(word(), if keeps { secret } else { 0 }, "{call:#x} with flags {flags}");
        }
        put(0x5ec2e9);
        assert_eq!(rig.guest_hvc(handle, u64::from(id::MEM_UNSHARE), &[ipa(1), 1, 0]).0, -4);
        assert_eq!(word(), 0x5ec2e9, "a refused call wipes nothing");
    }
    let digest = |flags| {
        let mut rig = Rig::new();
        let (handle, _) = rig.building_with(1, 16, flags);
        rig.hvc(host::VM_FINALISE, &[handle, layout::RAM, 0]).unwrap();
        rig.hvc(host::VM_MEASUREMENT, &[handle, 0]).unwrap()
    };
    assert_ne!(digest(0), digest(abi::CREATE_SHARE_ZEROES));
}

#[test]
fn all_that_is_shared_can_be_taken_back_without_knowing_what() {
    let mut rig = Rig::new();
    let (handle, ram) = rig.vm(1);
    let all = u64::from(id::MEM_UNSHARE_ALL);
    let unshared = |rig: &Rig| {
        let index = crate::stats::VmCounter::PagesUnshared as u64;
        rig.hvc(host::STATS, &[handle, index]).unwrap()[0]
    };
    for page in [0, 1, 3] {
        let share = [ipa(page), 1, 0];
        assert_eq!(rig.guest_hvc(handle, u64::from(id::MEM_SHARE), &share), (0, 1));
    }
    // From page 1 on: page 0 stays.
    rig.script_hvc(all, &[ipa(1)]);
    rig.script_check(|vcpu| assert_eq!(vcpu.frame.x[..4], [0, 2, 0, 0]));
    rig.run(handle);
    assert_eq!([0, 1, 2, 3].map(|page| rig.frame_state(ram + page)), [2, 3, 3, 3]);
    assert_eq!(unshared(&rig), 2);
    for nowhere in [ipa(1) + 8, ipa(64), ipa(0) - 0x1000, layout::PCI_MEM64, 1 << 38, u64::MAX, 0] {
        assert_eq!(rig.guest_hvc(handle, all, &[nowhere]), (-3, 0), "{nowhere:#x}");
    }
    assert_eq!(rig.frame_state(ram), 2);
    assert_eq!(rig.guest_hvc(handle, all, &[ipa(0)]), (0, 1));
    assert_eq!(rig.guest_hvc(handle, all, &[ipa(0)]), (0, 0), "there is no more");
    assert_eq!((rig.frame_state(ram), unshared(&rig)), (3, 3));
}

#[test]
fn g2_only_private_ram_of_its_own_can_be_shared_and_only_once() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(1);
    let before = rig.ownership();
    let share = |ipa, pages, reserved| {
        rig.guest_hvc(handle, u64::from(id::MEM_SHARE), &[ipa, pages, reserved]).0
    };
    for nowhere in [layout::UART, layout::GICD, layout::PCI_MEM64, ipa(PAGES), ipa(64), 0] {
        assert!(share(nowhere, 1, 0) < 0, "{nowhere:#x}");
    }
    assert!(share(ipa(0) + 1, 1, 0) < 0, "misaligned");
    assert!(share(ipa(0), u64::MAX, 0) < 0, "wrapping");
    assert!(share(1 << 40, 1, 0) < 0, "out of its space");
    assert!(share(ipa(0), 1, 1) < 0, "reserved argument");
    assert!(share(ipa(PAGES - 1), 2, 0) < 0, "a range with a hole");
    assert_eq!(rig.ownership(), before);
    assert_eq!(share(ipa(0), 1, 0), 0);
    assert_eq!(share(ipa(0), 1, 0), Error::Denied.code(), "twice");
    let unshare = |ipa| rig.guest_hvc(handle, u64::from(id::MEM_UNSHARE), &[ipa, 1, 0]).0;
    assert_eq!(unshare(ipa(1)), Error::Denied.code(), "what was not shared");
    assert_eq!(unshare(ipa(0)), 0);
}

#[test]
fn a_relinquished_page_is_the_hosts_and_wiped() {
    let mut rig = Rig::new();
    let (handle, ram) = rig.vm(1);
    rig.hyp.machine().poke(super::rig::pfn(ram + 2), 1, 0x5ec2e7);
    let relinquish = |ipa| rig.guest_hvc(handle, u64::from(id::MEM_RELINQUISH), &[ipa]).0;
    assert_eq!(relinquish(ipa(2)), 0);
    assert_eq!(rig.frame_state(ram + 2), 0);
    assert_eq!(rig.hyp.machine().peek(super::rig::pfn(ram + 2), 1), 0);
    assert!(relinquish(ipa(2)) < 0, "it is gone");
}

#[test]
fn a_guest_starts_its_other_vcpus_and_the_host_is_told_to_run_them() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(2);
    let on = u64::from(function::CPU_ON_64);
    for (target, entry, answer) in [
        (2, ipa(0), code::INVALID_PARAMETERS),
        (u64::MAX, ipa(0), code::INVALID_PARAMETERS),
        (1, 0x1000, code::INVALID_ADDRESS),
        (0, ipa(0), code::ALREADY_ON),
    ] {
        assert_eq!(rig.guest_hvc(handle, on, &[target, entry, 7]).0, answer);
    }
    let info = u64::from(function::AFFINITY_INFO_64);
    assert_eq!(rig.guest_hvc(handle, info, &[1, 0]).0, 1, "off");
    rig.script_hvc(on, &[1, ipa(0), 7]);
    assert_eq!(rig.run(handle)[..2], [exit::CPU_ON, 1]);
    rig.script_check(|vcpu| assert_eq!(vcpu.frame.x[0], 0, "success"));
    rig.run(handle);
    assert_eq!(rig.guest_hvc(handle, info, &[1, 0]).0, 2, "on its way");
    rig.script_check(|vcpu| {
        assert_eq!(vcpu.frame.pc, layout::RAM);
        assert_eq!(vcpu.frame.x[0], 7);
        assert!(vcpu.frame.x[1..].iter().all(|x| *x == 0));
    });
    rig.hvc(host::VCPU_RUN, &[handle, 1, 0]).unwrap();
    assert_eq!(rig.guest_hvc(handle, info, &[1, 0]).0, 0, "on");

    rig.script_hvc(u64::from(function::CPU_OFF), &[]);
    let [reason, ..] = rig.hvc(host::VCPU_RUN, &[handle, 1, 0]).unwrap();
    assert_eq!(reason, exit::CPU_OFF);
    assert!(rig.hvc(host::VCPU_RUN, &[handle, 1, 0]).is_err(), "only the guest turns it on");
    rig.script_hvc(on, &[1, ipa(1), 8]);
    assert_eq!(rig.run(handle)[..2], [exit::CPU_ON, 1]);
}

/// SMC32 calls have 32-bit arguments, whatever is above them (DEN0028E 2.6).
#[test]
fn a_32_bit_power_call_has_32_bit_arguments() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(2);
    let dirty = 0xdead_beef << 32;
    let info = u64::from(function::AFFINITY_INFO_32);
    assert_eq!(rig.guest_hvc(handle, info, &[dirty | 1, dirty]).0, 1, "off");
    assert_eq!(rig.guest_hvc(handle, info, &[dirty, dirty]).0, 0, "on");
    let level = rig.guest_hvc(handle, info, &[1, 1]).0;
    assert_eq!(level, code::INVALID_PARAMETERS, "affinity level 1");
    let on = u64::from(function::CPU_ON_32);
    rig.script_hvc(on, &[dirty | 1, dirty | ipa(0), dirty | 7]);
    assert_eq!(rig.run(handle)[..2], [exit::CPU_ON, 1]);
    rig.script_check(|vcpu| {
        assert_eq!((vcpu.frame.pc, vcpu.frame.x[0]), (ipa(0), 7));
    });
    rig.hvc(host::VCPU_RUN, &[handle, 1, 0]).unwrap();
    let wide = u64::from(function::AFFINITY_INFO_64);
    assert_eq!(rig.guest_hvc(handle, wide, &[dirty | 1, 0]).0, code::INVALID_PARAMETERS);
}

#[test]
fn a_guest_that_powers_off_is_dying() {
    for (call, reset) in [(function::SYSTEM_OFF, 0), (function::SYSTEM_RESET, 1)] {
        let mut rig = Rig::new();
        let (handle, _) = rig.vm(1);
        rig.script_hvc(u64::from(call), &[]);
        assert_eq!(rig.run(handle)[..2], [exit::SHUTDOWN, reset]);
        assert!(rig.hvc(host::VCPU_RUN, &[handle, 0, 0]).is_err());
    }
}

#[test]
fn i4_identity_and_power_are_answered_without_the_host() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(1);
    for (call, answer) in [
        (function::PSCI_VERSION, 0x1_0001),
        (function::SMCCC_VERSION, 0x1_0001),
        (function::MIGRATE_INFO_TYPE, 2),
    ] {
        assert_eq!(rig.guest_hvc(handle, u64::from(call), &[]).0, answer);
    }
    let features = u64::from(function::PSCI_FEATURES);
    assert_eq!(rig.guest_hvc(handle, features, &[u64::from(function::SMCCC_VERSION)]).0, 0);
    assert_eq!(rig.guest_hvc(handle, features, &[0x8400_000E]).0, -1);
}

/// A page that EL2 serves needs no grant and gets none; what begins beside it
/// does.
#[test]
fn the_mmio_guard_knows_where_each_emulated_region_begins_and_ends() {
    let vcpus = 2;
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(vcpus);
    let map = |ipa| rig.guest_hvc(handle, u64::from(id::MMIO_GUARD_MAP), &[ipa, 0, 0]).0;
    let unmap = |ipa| rig.guest_hvc(handle, u64::from(id::MMIO_GUARD_UNMAP), &[ipa, 0, 0]).0;
    let granted = |ipa| {
        let page = crate::addr::Gfn::containing(ipa).unwrap();
        let handle = crate::vm::Handle::from_raw(handle);
        rig.hyp.with_vm(handle, |vm| Ok(vm.guard.allows(page))).unwrap()
    };
    let regions = [
        (layout::GICD, layout::GICD_SIZE),
        (layout::MSI_FRAME, layout::MSI_FRAME_SIZE),
        (layout::GICR, layout::GICR_STRIDE * vcpus),
        (layout::PCI_MEM32, layout::PCI_MEM32_SIZE),
        (layout::ECAM, layout::ECAM_SIZE),
        (layout::PCI_MEM64, layout::PCI_MEM64_SIZE),
    ];
    let ram = (layout::RAM, 64 << 12);
    let inside = |ipa: u64| {
        let mut all = regions.iter().chain([&ram]);
        all.any(|(start, size)| (*start..start + size).contains(&ipa))
    };
    for (start, size) in regions {
        for ipa in [start, start + size - 0x1000] {
            assert_eq!((map(ipa), granted(ipa)), (0, false), "{ipa:#x} is EL2's");
            assert_eq!(unmap(ipa), 0);
        }
    }
    for (start, size) in regions.into_iter().chain([ram]) {
        for ipa in [start - 0x1000, start + size] {
            if ipa < 1 << 39 && !inside(ipa) {
                assert_eq!((map(ipa), granted(ipa)), (0, true), "{ipa:#x} is nobody's");
                assert_eq!((unmap(ipa), granted(ipa)), (0, false));
                assert!(unmap(ipa) < 0, "{ipa:#x} was not granted any more");
            }
        }
    }
    for ipa in [ram.0, ram.0 + ram.1 - 0x1000] {
        assert!(map(ipa) < 0 && unmap(ipa) < 0, "{ipa:#x} is RAM");
    }
}

/// What sharing costs in tables and TLBs: what was invalid becomes valid
/// without an invalidation, the way back takes one for the whole range.
#[test]
fn words_of_tables_and_invalidations_are_counted() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(1);
    let counters = || {
        [MachineCounter::Invalidations, MachineCounter::TableWords]
            .map(|counter| rig.hvc(host::STATS, &[0, counter as u64]).unwrap()[0])
    };
    let cost = |call: u32, pages| {
        let before = counters();
        assert_eq!(rig.guest_hvc(handle, call.into(), &[ipa(1), pages, 0]), (0, pages));
        let after = counters();
        [after[0] - before[0], after[1] - before[1]]
    };
    let costs = [1, 3].map(|pages| [cost(id::MEM_SHARE, pages), cost(id::MEM_UNSHARE, pages)]);
    for [[share, _], [unshare, _]] in costs {
        assert_eq!((share, unshare), (0, 1));
    }
    let [[[_, share], [_, unshare]], [[_, more_share], [_, more_unshare]]] = costs;
    // Of the tables above there is as much to write for one as for three.
    assert_eq!((more_share - share, more_unshare - unshare), (2, 2));
    assert!(share > 1 && unshare > 1, "{share} {unshare}");
}
