//! What leaves EL2 when a vCPU returns, and what comes in when it is run
//! (attack rows C10, I3, and the exits themselves).

use super::rig::{PAGES, RAM_GFN, Rig, abort, interrupt, sync};
use crate::abi::{exit, guest, host};
use crate::layout;
use crate::machine::{El1Register, Machine};
use crate::psci::function;
use crate::trap::{Trap, TrapKind};
use crate::vcpu::state::Frame;
use std::format;

/// What the guest has in all its registers.
const SECRET: u64 = 0x5ec2_e75e_c2e7_5ec2;

/// Runs vCPU 0 and gives the host's registers afterwards.
fn run_frame(rig: &Rig, handle: u64) -> Frame {
    let mut frame = Frame::default();
    [u64::from(host::VCPU_RUN), handle, 0, 0]
        .into_iter()
        .zip(0..)
        .for_each(|(value, index)| frame.set(index, value));
    rig.hyp.handle_host_trap(&mut frame, sync(0x16 << 26));
    frame
}

#[test]
fn c10_no_register_of_the_guest_is_seen_at_any_exit() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(2);
    let wfi = sync(0x01 << 26);
    let undefined = sync(0x19 << 26);
    let missing = abort((RAM_GFN + PAGES) << 12, 8, 3, false);
    let nowhere = abort(layout::UART, 4, 3, true);
    let sgi = sync(0x18 << 26 | 3 << 20 | 5 << 17 | 12 << 10 | 3 << 5 | 11 << 1);
    let serror = Trap { kind: TrapKind::SError, esr: 0, far: 0, hpfar: 0 };
    // The last one ends the VM.
    for trap in [wfi, undefined, missing, nowhere, sgi, interrupt(), sync(0x16 << 26), serror] {
        rig.script(move |vcpu| {
            vcpu.frame.x = [SECRET; 31];
            vcpu.fp.v = [u128::from(SECRET); 32];
            vcpu.el1.ttbr0_el1 = SECRET;
            trap
        });
        let frame = run_frame(&rig, handle);
        assert_eq!(frame.x[0], 0, "{trap:x?}");
        assert!(!frame.x.contains(&SECRET), "{trap:x?}");
        assert!(frame.x[4..].iter().all(|x| *x == 0), "x4 to x30 are the host's own");
        if trap == missing {
            assert_eq!(frame.x[1..3], [exit::MEM_FAULT, (RAM_GFN + PAGES) << 12]);
        }
    }
}

#[test]
fn a_guest_does_not_go_on_after_an_error_of_the_machine() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(1);
    rig.script(|vcpu| {
        vcpu.frame.pc = SECRET;
        Trap { kind: TrapKind::SError, esr: 0xbe00_0000, far: 0, hpfar: 0 }
    });
    assert_eq!(rig.run(handle)[0], exit::DEAD);
    assert!(rig.hvc(host::VCPU_RUN, &[handle, 0, 0]).is_err());
    let [what, address, pc] = rig.hvc(host::EVENT_NEXT, &[]).unwrap();
    assert_eq!(what & 0xff, crate::EventKind::GuestDied as u64);
    assert_eq!((what >> 16 & 0xff, address, pc), (3, 0, 0), "whose, but not where it was");
}

/// A guest has no AArch32 state (its ID_AA64PFR0_EL1.EL0 says so), but its CPU
/// may: HCR_EL2.RW fixes the state of EL1 only (Arm ARM D1.6).
#[test]
fn a_guest_whose_el0_was_in_aarch32_state_ends_at_its_first_trap() {
    for trap in [interrupt(), sync(0x01 << 26), sync(0x03 << 26), sync(0x11 << 26)] {
        let mut rig = Rig::new();
        let (handle, _) = rig.vm(1);
        rig.script(move |vcpu| {
            vcpu.frame.pstate = 0x10;
            vcpu.frame.x[3] = SECRET;
            trap
        });
        assert_eq!(rig.run(handle)[0], exit::DEAD, "{trap:x?}");
        assert!(rig.hvc(host::VCPU_RUN, &[handle, 0, 0]).is_err(), "it does not run again");
        let [what, ..] = rig.hvc(host::EVENT_NEXT, &[]).unwrap();
        assert_eq!(what & 0xff, crate::EventKind::GuestDied as u64);
    }
}

#[test]
fn wfi_tells_the_deadline_and_nothing_pending_is_slept_through() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(1);
    rig.script(|_| sync(0x01 << 26));
    assert_eq!(rig.run(handle)[..2], [exit::WFI, u64::MAX]);
    rig.hyp.machine().world().timer_deadline = Some(77);
    rig.script(|vcpu| {
        vcpu.frame.pc = 0x4000_0100;
        sync(0x01 << 26)
    });
    assert_eq!(rig.run(handle)[..2], [exit::WFI, 77]);
    rig.script_check(|vcpu| assert_eq!(vcpu.frame.pc, 0x4000_0104, "behind the WFI"));
    rig.run(handle);
}

#[test]
fn the_guests_timer_stays_at_el2_and_a_second_interrupt_is_the_hosts() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(1);
    rig.hyp.machine().world().timer_line = true;
    rig.script(|_| interrupt());
    rig.script(|_| interrupt());
    assert_eq!(rig.run(handle)[0], exit::INTERRUPT);
    assert_eq!(rig.hyp.machine().world().steps_left(0), 0, "the first came back to the guest");
    rig.hyp.machine().world().timer_line = false;
    rig.script(|_| interrupt());
    rig.script(|_| interrupt());
    rig.run(handle);
    assert_eq!(rig.hyp.machine().world().steps_left(0), 1, "without a timer it is the host's");
}

#[test]
fn mmio_goes_to_the_host_only_where_the_guest_granted_it() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(1);
    rig.hyp.machine().write_el1(El1Register::Vbar, 0x4000_0800);
    rig.script_store(layout::UART, 4, 0x41);
    rig.script_check(|vcpu| assert_eq!(vcpu.frame.pc & !0x7ff, 0x4000_0800, "aborted"));
    assert_eq!(rig.run(handle)[0], exit::INTERRUPT);

    assert_eq!(rig.guest_hvc(handle, u64::from(guest::MMIO_GUARD_MAP), &[layout::UART]).0, 0);
    rig.script_store(layout::UART, 1, 0xffff_ff41);
    assert_eq!(rig.run(handle), [exit::MMIO | 1 << 8 | 1 << 9, layout::UART, 0x41]);

    assert_eq!(rig.guest_hvc(handle, u64::from(guest::MMIO_GUARD_UNMAP), &[layout::UART]).0, 0);
    rig.script_store(layout::UART, 4, 0x41);
    assert_eq!(rig.run(handle)[0], exit::INTERRUPT, "no longer");
}

#[test]
fn the_guard_refuses_ram_and_shrugs_at_what_el2_serves() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(1);
    let map = |ipa| rig.guest_hvc(handle, u64::from(guest::MMIO_GUARD_MAP), &[ipa]).0;
    assert!(map(layout::RAM) < 0);
    assert!(map(layout::UART + 4) < 0);
    for emulated in [layout::GICD, layout::GICR, layout::MSI_FRAME, layout::ECAM] {
        assert_eq!(map(emulated), 0);
        rig.script_load(emulated, 4, 3);
        rig.script_check(|_| ());
        assert_eq!(rig.run(handle)[0], exit::INTERRUPT, "still EL2's");
    }
}

#[test]
fn i3_a_forged_reply_reaches_the_destination_register_and_its_width_only() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(1);
    rig.guest_hvc(handle, u64::from(guest::MMIO_GUARD_MAP), &[layout::UART]);
    rig.script(|vcpu| {
        vcpu.frame.x = [0x11; 31];
        abort(layout::UART + 0x18, 2, 5, false)
    });
    assert_eq!(rig.run(handle), [exit::MMIO | 2 << 9, layout::UART + 0x18, 0]);
    rig.script_check(|vcpu| {
        for (index, x) in vcpu.frame.x.iter().enumerate() {
            assert_eq!(*x, if index == 5 { 0xffff } else { 0x11 }, "x{index}");
        }
    });
    rig.hvc(host::VCPU_RUN, &[handle, 0, u64::MAX]).unwrap();
    rig.script_check(|vcpu| assert_eq!(vcpu.frame.x[5], 0xffff, "a reply is used once"));
    rig.hvc(host::VCPU_RUN, &[handle, 0, 0x2222]).unwrap();
}

#[test]
fn c11_the_host_cannot_set_registers_on_entry() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(1);
    rig.script_check(|vcpu| {
        assert_eq!(vcpu.frame.pc, layout::RAM);
        assert_eq!(vcpu.frame.pstate, crate::vcpu::BOOT_PSTATE);
        assert!(vcpu.frame.x.iter().all(|x| *x == 0));
    });
    let mut frame = Frame { pstate: 9, ..Frame::default() };
    frame.x = [u64::MAX; 31];
    [u64::from(host::VCPU_RUN), handle, 0, u64::MAX]
        .into_iter()
        .zip(0..)
        .for_each(|(value, index)| frame.set(index, value));
    rig.hyp.handle_host_trap(&mut frame, sync(0x16 << 26));
    assert_eq!(frame.x[0], 0);
}

#[test]
fn traps_and_clock_of_a_vcpu_are_the_same_at_every_entry_whatever_the_host_passes() {
    let mut rig = Rig::new();
    rig.hyp.machine().world().counter = 1000;
    let (handle, _) = rig.vm(2);
    let of = |index| {
        let mut controls = crate::vcpu::controls::guest(rig.hyp.machine(), index);
        controls.cntvoff_el2 = 1000;
        format!("{controls:?}")
    };
    let (boot, second) = (of(0), of(1));
    for reply in [0, 0x1234, u64::MAX] {
        let boot = boot.clone();
        rig.script_check(move |vcpu| assert_eq!(format!("{:?}", vcpu.controls), boot));
        rig.hvc(host::VCPU_RUN, &[handle, 0, reply]).unwrap();
    }
    // A vCPU that is started later, and has been on before.
    for counter in [2000, 3000] {
        rig.hyp.machine().world().counter = counter;
        rig.script_hvc(u64::from(function::CPU_ON_64), &[1, layout::RAM, 0]);
        assert_eq!(rig.run(handle)[..2], [exit::CPU_ON, 1]);
        let second = second.clone();
        rig.script(move |vcpu| {
            assert_eq!(format!("{:?}", vcpu.controls), second);
            vcpu.frame.x[0] = u64::from(function::CPU_OFF);
            sync(0x16 << 26)
        });
        rig.hvc(host::VCPU_RUN, &[handle, 1, 77]).unwrap();
    }
}

#[test]
fn a_guest_has_a_redistributor_for_each_of_its_vcpus_and_no_more() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(3);
    rig.hyp.machine().write_el1(El1Register::Vbar, 0x4000_0800);
    for vcpu in 0..3 {
        // GICR_TYPER: the processor's number in bits 23:8.
        rig.script_load(layout::GICR + vcpu * layout::GICR_STRIDE + 8, 8, 3);
        rig.script_check(move |state| assert_eq!(state.frame.x[3] >> 8 & 0xffff, vcpu));
        assert_eq!(rig.run(handle)[0], exit::INTERRUPT);
    }
    rig.script_load(layout::GICR + 3 * layout::GICR_STRIDE + 8, 8, 3);
    rig.script_check(|vcpu| assert_eq!(vcpu.frame.pc & !0x7ff, 0x4000_0800, "aborted"));
    assert_eq!(rig.run(handle)[0], exit::INTERRUPT);
}

#[test]
fn g1_beyond_its_ram_is_nothing_for_a_guest() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(1);
    rig.hyp.machine().write_el1(El1Register::Vbar, 0x4000_0800);
    let nothing =
        [0, 0x0902_0000, (RAM_GFN + 64) << 12, layout::PCI_MEM64, 0x7f_ffff_f000, 1 << 39];
    for ipa in nothing {
        rig.script_load(ipa, 8, 3);
        rig.script_check(|vcpu| assert_eq!(vcpu.frame.pc & !0x7ff, 0x4000_0800));
        assert_eq!(rig.run(handle)[0], exit::INTERRUPT, "{ipa:#x}");
    }
}

#[test]
fn memory_that_the_host_gives_on_demand_is_there_on_the_next_run() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(1);
    let page = RAM_GFN + PAGES;
    rig.script_load(page << 12 | 8, 8, 3);
    assert_eq!(rig.run(handle)[..2], [exit::MEM_FAULT, page << 12]);
    let frame = rig.frames(1);
    rig.hvc(host::FRAME_DONATE, &[handle, frame, page, 1, 0]).unwrap();
    rig.script_load(page << 12 | 8, 8, 3);
    rig.script_check(|_| ());
    assert_eq!(rig.run(handle)[0], exit::INTERRUPT, "a fault that is already fixed is retried");
}

#[test]
fn id_registers_of_a_guest_hide_what_it_has_not() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(1);
    // MRS x3, ID_AA64PFR0_EL1; MRS x3, PMCR_EL0 (UNDEFINED); MSR MDSCR_EL1, x3 (ignored).
    rig.script(|_| sync(0x18 << 26 | 3 << 20 | 3 << 5 | 4 << 1 | 1));
    rig.script(|vcpu| {
        assert_eq!(vcpu.frame.x[3] >> 8 & 0xff, 0, "no EL2, no EL3");
        assert_eq!(vcpu.frame.x[3] >> 24 & 0xf, 1, "a GICv3 interface");
        vcpu.frame.pc = 0x4000_0000;
        sync(0x18 << 26 | 2 << 20 | 2 << 17 | 2 << 1 | 3 << 5)
    });
    rig.script(|vcpu| {
        assert_eq!(vcpu.frame.pc, 0x4000_0004);
        sync(0x18 << 26 | 3 << 20 | 3 << 14 | 9 << 10 | 12 << 1 | 3 << 5 | 1)
    });
    rig.script_check(|vcpu| assert_ne!(vcpu.frame.pc, 0x4000_0008));
    assert_eq!(rig.run(handle)[0], exit::INTERRUPT);
}

#[test]
fn every_syndrome_of_a_guest_has_an_answer() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(1);
    let mut random = crate::sim::Random::new(11);
    for _ in 0..20_000 {
        let esr = random.below(64) << 26 | random.bits() & 0x1ff_ffff;
        let (far, hpfar) = (random.bits(), random.bits() >> random.below(64));
        let registers = core::array::from_fn(|_| random.bits() >> random.below(64));
        rig.script(move |vcpu| {
            vcpu.frame.x = registers;
            Trap { kind: TrapKind::Sync, esr, far, hpfar }
        });
        // SYSTEM_OFF by chance would need 32 particular bits.
        rig.run(handle);
    }
}

/// vCPU 0 wakes vCPU 1, which waits: the host must hear of it, and the guest
/// does not simply go on.
#[test]
fn an_sgi_to_a_vcpu_that_waits_returns_to_the_host() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(2);
    let gicr1 = layout::GICR + layout::GICR_STRIDE;
    rig.script_store(layout::GICD, 4, 0b11);
    rig.script_store(gicr1 + 0x1_0100, 4, 1 << 5);
    rig.script_hvc(u64::from(function::CPU_ON_64), &[1, layout::RAM, 0]);
    assert_eq!(rig.run(handle)[..2], [exit::CPU_ON, 1]);
    rig.script(|_| sync(0x01 << 26));
    let waits = rig.hvc(host::VCPU_RUN, &[handle, 1, 0]).unwrap();
    assert_eq!(waits[0], exit::WFI);
    // ICC_SGI1R_EL1: SGI 5 to vCPU 1.
    let send = |rig: &Rig| {
        rig.script(|vcpu| {
            vcpu.frame.x[3] = 5 << 24 | 0b10;
            sync(0x18 << 26 | 3 << 20 | 5 << 17 | 12 << 10 | 3 << 5 | 11 << 1)
        });
    };
    send(&rig);
    assert_eq!(rig.run(handle), [exit::KICK, 0b10, 0b10]);
    // A register of the other one's redistributor does the same.
    let set_pending = |rig: &Rig, sgi: u64| rig.script_store(gicr1 + 0x1_0200, 4, 1 << sgi);
    rig.script_store(gicr1 + 0x1_0100, 4, 1 << 6);
    set_pending(&rig, 6);
    assert_eq!(rig.run(handle), [exit::KICK, 0b10, 0b10]);
    // It is pending already: nobody gains anything, and the guest goes on.
    send(&rig);
    rig.script_check(|_| ());
    assert_eq!(rig.run(handle)[0], exit::INTERRUPT);
}

/// A guest's access that begins on a granted page must end there, too.
#[test]
fn i3_an_access_across_the_end_of_a_granted_page_is_nobodys() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(1);
    let map = u64::from(guest::MMIO_GUARD_MAP);
    assert_eq!(rig.guest_hvc(handle, map, &[layout::UART]).0, 0);
    for (offset, size, served) in
        [(0xffc, 4, true), (0xff8, 8, true), (0xfff, 1, true), (0xffe, 4, false), (0xffc, 8, false)]
    {
        rig.script_load(layout::UART + offset, size, 3);
        rig.script_check(|_| ());
        let reason = rig.run(handle)[0] & 0xff;
        let expected = if served { exit::MMIO } else { exit::INTERRUPT };
        assert_eq!(reason, expected, "{size} bytes at {offset:#x}");
        if served {
            rig.run(handle);
        }
    }
}

/// ICC_DIR_EL1 has 24 bits of interrupt id; the rest is reserved.
#[test]
fn a_deactivation_names_its_interrupt_by_24_bits() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(1);
    let active = layout::GICD + 0x304;
    for dirty in [0, 0xff << 24, 1 << 32] {
        rig.script_store(active, 4, 1 << 8);
        rig.script(move |vcpu| {
            vcpu.frame.x[3] = dirty | 40;
            sync(0x18 << 26 | 3 << 20 | 1 << 17 | 12 << 10 | 3 << 5 | 11 << 1)
        });
        rig.script_load(active, 4, 4);
        rig.script_check(move |vcpu| assert_eq!(vcpu.frame.x[4], 0, "{dirty:#x}"));
        assert_eq!(rig.run(handle)[0], exit::INTERRUPT);
    }
}

/// The last word of each region that EL2 serves is served, and what is beside
/// it is not: an abort, unless it is something else.
#[test]
fn each_emulated_region_begins_and_ends_where_it_does() {
    let vcpus = 2;
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(vcpus);
    let regions = [
        (layout::GICD, layout::GICD_SIZE),
        (layout::GICR, layout::GICR_STRIDE * vcpus),
        (layout::MSI_FRAME, layout::MSI_FRAME_SIZE),
        (layout::ECAM, layout::ECAM_SIZE),
    ];
    let served = |ipa: u64| regions.iter().any(|(at, size)| (*at..at + size).contains(&ipa));
    for (at, size) in regions {
        for ipa in [at - 4, at, at + size - 4, at + size] {
            rig.hyp.machine().write_el1(El1Register::Vbar, 0x4400_0000);
            rig.script(move |vcpu| {
                vcpu.frame.pc = layout::RAM;
                abort(ipa, 4, 3, false)
            });
            let expected = served(ipa);
            rig.script_check(move |vcpu| {
                assert_eq!(vcpu.frame.pc == layout::RAM + 4, expected, "{ipa:#x}");
            });
            assert_eq!(rig.run(handle)[0], exit::INTERRUPT);
        }
    }
}

/// What STATS counts of a VM, after a run of which everything is known.
#[test]
fn the_counters_of_a_vm_count_what_happened() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(1);
    let counters = || -> std::vec::Vec<(&str, u64)> {
        let read = |index| rig.hvc(host::STATS, &[handle, index]).unwrap()[0];
        let named = crate::stats::VmCounter::ALL.iter().zip(0..);
        named.map(|(counter, index)| (counter.name(), read(index))).collect()
    };
    let before = counters();
    rig.script_load(layout::GICD, 4, 3);
    rig.script_hvc(u64::from(guest::MEM_SHARE), &[RAM_GFN << 12, 2, 0]);
    rig.script(|_| sync(0x18 << 26 | 3 << 20 | 4 << 1 | 3 << 5 | 1));
    rig.script_check(|_| ());
    assert_eq!(rig.run(handle)[0], exit::INTERRUPT);
    let gained: std::vec::Vec<(&str, u64)> = counters()
        .into_iter()
        .zip(before)
        .map(|((name, after), (_, before))| (name, after - before))
        .filter(|(_, gained)| *gained != 0)
        .collect();
    let expected = [
        ("entries", 4),
        ("exits_hypercall", 1),
        ("exits_mmio_el2", 1),
        ("exits_interrupt", 1),
        ("exits_sysreg", 1),
        ("returns_to_host", 1),
        ("pages_shared", 2),
    ];
    assert_eq!(gained, expected);
}
