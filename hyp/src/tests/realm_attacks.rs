//! What a realm must not get from EL2 by its calls, and the host not from a
//! realm (attack rows C1, C4, C6, G1, G2).

use super::rig::{PAGES, RAM_GFN, Rig, abort, interrupt, pfn, sync};
use crate::abi::rsi::{self as id, ripas, status};
use crate::abi::{exit, host};
use crate::error::Error;
use crate::layout;
use crate::machine::Vmid;
use std::vec::Vec;

const ALIAS: u64 = 1 << (id::IPA_BITS - 1);

fn ipa(page: u64) -> u64 {
    (RAM_GFN + page) << 12
}

#[test]
fn g2_ranges_that_are_not_its_own_ram_are_refused_and_change_nothing() {
    let mut rig = Rig::new();
    let (handle, _) = rig.realm(1);
    let before = rig.ownership();
    let set = |base, top, state, flags| {
        rig.guest_smc(handle, id::IPA_STATE_SET, &[base, top, state, flags])
    };
    let refused = [status::ERROR_INPUT, 0, 0, 0];
    for state in [ripas::EMPTY, ripas::RAM] {
        // In the lower half, and not all RAM: the Host's to reject.
        for (base, top) in [
            (ipa(63), ipa(65)),
            (ipa(0) - 0x1000, ipa(1)),
            (0, ALIAS),
            (layout::UART, layout::UART + 0x1000),
            (layout::GICD, layout::GICD + 0x1000),
            (layout::ECAM, layout::ECAM + 0x1000),
            (layout::PCI_MEM64, layout::PCI_MEM64 + 0x1000),
        ] {
            let rejected = [status::SUCCESS, base, id::REJECT, 0];
            assert_eq!(set(base, top, state, 0), rejected, "{base:#x} {top:#x}");
        }
        for (base, top) in [
            (ipa(0), ipa(0)),
            (ipa(1), ipa(0)),
            (ipa(0) + 1, ipa(1)),
            (ipa(0), ipa(1) - 1),
            (ipa(0), !0xfff),
            (ipa(0), 0),
            (!0xfff, 0x1000),
            (0, 1 << 39),
            (ALIAS | ipa(0), ALIAS | ipa(1)),
            (ipa(0), ALIAS | ipa(1)),
            (1 << 40 | ipa(0), 1 << 40 | ipa(1)),
        ] {
            assert_eq!(set(base, top, state, 0), refused, "{base:#x} {top:#x}");
        }
    }
    for state in [2, ripas::DEV, 0xff, u64::MAX] {
        assert_eq!(set(ipa(0), ipa(1), state, 0), refused, "state {state}");
    }
    let get = |base, top| rig.guest_smc(handle, id::IPA_STATE_GET, &[base, top]);
    for (base, top) in
        [(ipa(0), ipa(0)), (ipa(1), ipa(0)), (1, ipa(0)), (0, u64::MAX), (0, 1 << 39)]
    {
        assert_eq!(get(base, top), refused, "{base:#x} {top:#x}");
    }
    assert_eq!(rig.ownership(), before);
}

#[test]
fn g2_el2_writes_its_answer_into_private_ram_of_the_guest_only() {
    let mut rig = Rig::new();
    let (handle, ram) = rig.realm(1);
    let config = |at| rig.guest_smc(handle, id::REALM_CONFIG, &[at])[0];
    rig.guest_smc(handle, id::IPA_STATE_SET, &[ipa(1), ipa(2), ripas::EMPTY, 0]);
    rig.hyp.machine().plant(pfn(ram + 1), 0x5a);
    for at in [
        ipa(1),
        ALIAS | ipa(1),
        ALIAS | ipa(0),
        ipa(0) + 8,
        ipa(64),
        layout::UART,
        0,
        layout::PCI_MEM64,
        ALIAS - 0x1000,
        u64::MAX,
        !0xfff,
    ] {
        assert_eq!(config(at), status::ERROR_INPUT, "{at:#x}");
    }
    assert_eq!(rig.hyp.machine().tag(pfn(ram + 1)), Some(0x5a));
    // Not given yet: asked for, and nothing is written meanwhile.
    rig.script_smc(u64::from(id::REALM_CONFIG), &[ipa(PAGES)]);
    assert_eq!(rig.run(handle)[..2], [exit::MEM_FAULT, ipa(PAGES)]);
}

#[test]
fn c6_a_second_frame_for_a_page_that_is_at_its_alias_is_refused() {
    let mut rig = Rig::new();
    let (handle, _) = rig.realm(1);
    rig.guest_smc(handle, id::IPA_STATE_SET, &[ipa(1), ipa(2), ripas::EMPTY, 0]);
    let frame = rig.frames(1);
    // Nothing is mapped there, and yet the page has its frame.
    let donate = [handle, frame, RAM_GFN + 1, 1, 0];
    assert_eq!(rig.hvc(host::FRAME_DONATE, &donate), Err(Error::Denied.code()));
    // Nor can it be put at the alias.
    let alias = [handle, frame, (ALIAS | ipa(2)) >> 12, 1, 0];
    assert_eq!(rig.hvc(host::FRAME_DONATE, &alias), Err(Error::InvalidParameter.code()));
    assert_eq!(rig.frame_state(frame), 0);
}

#[test]
fn g1_the_half_a_page_is_not_in_is_an_abort_and_no_fault_of_the_hosts_to_serve() {
    let mut rig = Rig::new();
    let (handle, _) = rig.realm(1);
    rig.guest_smc(handle, id::IPA_STATE_SET, &[ipa(1), ipa(2), ripas::EMPTY, 0]);
    // A shared page below, a private page above, and one that nobody gave
    // above: no exit that would tell the host what the guest reached for.
    for address in [ipa(1), ALIAS | ipa(0), ALIAS | ipa(PAGES), ALIAS | ipa(64)] {
        rig.script(move |vcpu| {
            vcpu.frame.pc = 0x4000_0300;
            vcpu.frame.pstate = 5;
            abort(address, 8, 3, false)
        });
        rig.script(move |vcpu| {
            assert_ne!(vcpu.frame.pc, 0x4000_0300, "{address:#x}: it takes the exception");
            interrupt()
        });
        assert_eq!(rig.run(handle)[0], exit::INTERRUPT, "{address:#x}");
    }
    // A page that nobody gave below is the host's to give.
    rig.script_load(ipa(PAGES), 8, 3);
    assert_eq!(rig.run(handle)[..2], [exit::MEM_FAULT, ipa(PAGES)]);
}

#[test]
fn c4_after_the_page_is_private_again_no_tlb_of_the_hosts_remembers_it() {
    let mut rig = Rig::new();
    let (handle, ram) = rig.realm(1);
    let set = |state| rig.guest_smc(handle, id::IPA_STATE_SET, &[ipa(0), ipa(2), state, 0]);
    assert_eq!(set(ripas::EMPTY)[..3], [status::SUCCESS, ipa(2), id::ACCEPT]);
    let host = |page| rig.hyp.machine().access(Vmid::HOST, pfn(ram + page).identity());
    assert_eq!(host(0), [pfn(ram)]);
    assert_eq!(set(ripas::RAM)[..3], [status::SUCCESS, ipa(2), id::ACCEPT]);
    assert!(host(0).is_empty() && host(1).is_empty());
}

#[test]
fn k23_a_page_that_a_device_of_the_hosts_uses_is_not_taken_back() {
    let mut rig = Rig::new();
    let (handle, ram) = rig.realm(1);
    rig.guest_smc(handle, id::IPA_STATE_SET, &[ipa(0), ipa(2), ripas::EMPTY, 0]);
    let pinned = crate::addr::PfnRange::new(ram + 1, 1).unwrap();
    assert_eq!(rig.hyp.with_memory(|memory| memory.pin(pinned)), Ok(1));
    let back = || rig.guest_smc(handle, id::IPA_STATE_SET, &[ipa(0), ipa(2), ripas::RAM, 0]);
    assert_eq!(back(), [status::SUCCESS, ipa(0), id::REJECT, 0]);
    assert_eq!([0, 1].map(|page| rig.frame_state(ram + page)), [2, 2], "not even the first");
    assert_eq!(rig.hyp.with_memory(|memory| memory.unpin(pinned)), Ok(1));
    assert_eq!(back(), [status::SUCCESS, ipa(2), id::ACCEPT, 0]);
}

#[test]
fn g2_two_vcpus_share_one_page_at_once() {
    let mut rig = Rig::new();
    let (handle, ram) = rig.realm(2);
    rig.script_smc(u64::from(crate::psci::function::CPU_ON_64), &[1, ipa(0), 0]);
    assert_eq!(rig.run(handle)[0], exit::CPU_ON);
    for round in 0..20 {
        let state = if round % 2 == 0 { ripas::EMPTY } else { ripas::RAM };
        let hyp = &rig.hyp;
        std::thread::scope(|scope| {
            let vcpus: Vec<_> = (0..2)
                .map(|cpu| {
                    scope.spawn(move || {
                        hyp.machine().be_cpu(cpu);
                        hyp.machine().world().script(cpu, move |vcpu| {
                            let call = [u64::from(id::IPA_STATE_SET), ipa(0), ipa(PAGES), state, 0];
                            vcpu.frame.x[..5].copy_from_slice(&call);
                            sync(0x17 << 26)
                        });
                        hyp.machine().world().script(cpu, |vcpu| {
                            let done = [status::SUCCESS, ipa(PAGES), id::ACCEPT];
                            assert_eq!(vcpu.frame.x[..3], done);
                            interrupt()
                        });
                        let mut frame = crate::vcpu::state::Frame::default();
                        let run = [u64::from(host::VCPU_RUN), handle, cpu as u64, 0];
                        frame.x[..4].copy_from_slice(&run);
                        hyp.handle_host_trap(&mut frame, sync(0x16 << 26));
                        assert_eq!(frame.x[..2], [0, exit::INTERRUPT]);
                    })
                })
                .collect();
            vcpus.into_iter().for_each(|vcpu| vcpu.join().unwrap());
        });
        rig.hyp.machine().settle();
        let lent = if state == ripas::EMPTY { 2 } else { 3 };
        assert!((0..PAGES).all(|page| rig.frame_state(ram + page) == lent));
    }
}

#[test]
fn g4_a_realm_that_dies_with_shared_pages_leaves_nothing_in_them() {
    let mut rig = Rig::new();
    let (handle, ram) = rig.realm(1);
    rig.guest_smc(handle, id::IPA_STATE_SET, &[ipa(0), ipa(2), ripas::EMPTY, 0]);
    (0..PAGES).for_each(|page| rig.hyp.machine().plant(pfn(ram + page), 0x5ec2e7));
    rig.hvc(host::VM_STOP, &[handle]).unwrap();
    assert_eq!(rig.hvc(host::FRAME_RECLAIM, &[handle, ram, PAGES]), Ok([PAGES, 0, 0]));
    assert!((0..PAGES).all(|page| rig.hyp.machine().tag(pfn(ram + page)) == Some(0)));
    while rig.hvc(host::VM_DESTROY, &[handle]).unwrap()[0] > 0 {}
}
