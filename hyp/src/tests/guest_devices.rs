//! A virtio device between guest and host, registers only (attack rows I1,
//! D8, H6, and the bounce window in stage 2).

use super::rig::{Rig, interrupt};
use crate::abi::{self, exit, host as id};
use crate::error::Error;
use crate::layout;
use crate::memory::Owner;
use crate::virtio::BOUNCE_BAR;

/// Configuration space of slot 1.
const SLOT1: u64 = layout::ECAM + (1 << 15);
/// Bounce pages: 64 KiB.
const BOUNCE: u64 = 16;

/// A VM with a block device that has a bounce BAR, not finalised; the handle
/// and the first bounce frame.
fn with_device(rig: &mut Rig) -> (u64, u64) {
    let (handle, _) = rig.building(1);
    let create = [handle, 2, abi::POLICY_BOUNCE_BAR, BOUNCE, 1];
    assert_eq!(rig.hvc(id::DEVICE_CREATE, &create), Ok([0, 0, 0]));
    let bounce = rig.frames(BOUNCE);
    let early = rig.hvc(id::VM_FINALISE, &[handle, layout::RAM, 0]);
    assert_eq!(early, Err(Error::BadState.code()), "a BAR without frames");
    let share = rig.hvc(id::FRAME_SHARE, &[handle, 0, 0, bounce, BOUNCE]);
    assert_eq!(share, Ok([BOUNCE, 0, 0]));
    rig.hvc(id::VM_FINALISE, &[handle, layout::RAM, 0]).unwrap();
    (handle, bounce)
}

/// The guest opens the bounce BAR at `address`.
fn open(rig: &Rig, handle: u64, address: u64) {
    let bar = 0x10 + 4 * BOUNCE_BAR as u64;
    rig.script_store(SLOT1 + bar, 4, address & 0xffff_ffff);
    rig.script_store(SLOT1 + bar + 4, 4, address >> 32);
    rig.script_store(SLOT1 + 4, 2, 0x6);
    rig.script_check(|_| ());
    assert_eq!(rig.run(handle)[0], exit::INTERRUPT);
}

/// What the guest's stage 2 has at an address.
fn mapped(rig: &Rig, handle: u64, address: u64) -> Option<u64> {
    let gfn = crate::addr::Gfn::containing(address).unwrap();
    let handle = crate::vm::Handle::from_raw(handle);
    let machine = rig.hyp.machine();
    let leaf = rig.hyp.with_vm(handle, |vm| Ok(vm.memory.lookup(machine, gfn))).unwrap();
    leaf.map(|leaf| leaf.pfn.number())
}

#[test]
fn the_bounce_window_follows_the_bar_and_leaves_nothing_behind() {
    let mut rig = Rig::new();
    let (handle, bounce) = with_device(&mut rig);
    let (here, there) = (layout::PCI_MEM64, layout::PCI_MEM64 + (1 << 30));
    open(&rig, handle, here);
    assert_eq!(mapped(&rig, handle, here), None, "mapped when it is touched");
    rig.script_load(here + 0x3008, 8, 3);
    rig.script_check(|_| ());
    rig.run(handle);
    assert_eq!(mapped(&rig, handle, here + 0x3000), Some(bounce + 3));
    assert_eq!(mapped(&rig, handle, here + 0x2000), None, "only from there on");
    assert_eq!(mapped(&rig, handle, here + 0xf000), Some(bounce + 15));
    assert_eq!(mapped(&rig, handle, here + 0x1_0000), None, "and not beyond its end");

    open(&rig, handle, there);
    rig.hyp.machine().settle();
    assert_eq!(mapped(&rig, handle, here + 0x3000), None, "it has moved");
    rig.script_load(there, 8, 3);
    rig.script_check(|_| ());
    rig.run(handle);
    assert_eq!(mapped(&rig, handle, there), Some(bounce));

    rig.script_store(SLOT1 + 4, 2, 0);
    rig.script_check(|_| ());
    rig.run(handle);
    assert_eq!(mapped(&rig, handle, there), None, "decoding is off");
}

/// The frames behind a BAR may lie anywhere: what follows the faulting page is
/// mapped along with it only where it is the next frame, too.
#[test]
fn bounce_frames_that_are_not_in_a_row_are_mapped_one_by_one() {
    let mut rig = Rig::new();
    let (handle, _) = rig.building(1);
    let create = [handle, 2, abi::POLICY_BOUNCE_BAR, BOUNCE, 1];
    rig.hvc(id::DEVICE_CREATE, &create).unwrap();
    let bounce = rig.frames(BOUNCE);
    // Backwards, but for the last two.
    let frame = |page| match page {
        14 | 15 => bounce + page,
        _ => bounce + 13 - page,
    };
    for page in 0..BOUNCE {
        rig.hvc(id::FRAME_SHARE, &[handle, 0, page, frame(page), 1]).unwrap();
    }
    rig.hvc(id::VM_FINALISE, &[handle, layout::RAM, 0]).unwrap();
    open(&rig, handle, layout::PCI_MEM64);
    for (touched, also) in [(3, None), (14, Some(15)), (13, None)] {
        let at = |page: u64| layout::PCI_MEM64 + (page << 12);
        rig.script_load(at(touched), 8, 3);
        rig.script_check(|_| ());
        assert_eq!(rig.run(handle)[0], exit::INTERRUPT);
        assert_eq!(mapped(&rig, handle, at(touched)), Some(frame(touched)));
        if touched < 13 {
            assert_eq!(mapped(&rig, handle, at(touched + 1)), None);
        }
        if let Some(page) = also {
            assert_eq!(mapped(&rig, handle, at(page)), Some(frame(page)));
        }
    }
}

#[test]
fn bounce_frames_stay_the_hosts_and_end_with_the_vm() {
    let mut rig = Rig::new();
    let (handle, bounce) = with_device(&mut rig);
    assert_eq!(rig.frame_state(bounce), 1, "own, and lent");
    let other = rig.building(1).0;
    let twice = rig.hvc(id::FRAME_DONATE, &[other, bounce, super::rig::RAM_GFN + 9, 1, 0]);
    assert_eq!(twice, Err(Error::Denied.code()), "C6: a frame that is lent cannot be donated");
    open(&rig, handle, layout::PCI_MEM64);
    rig.script_load(layout::PCI_MEM64, 8, 3);
    rig.script_check(|_| ());
    rig.run(handle);
    rig.hvc(id::VM_STOP, &[handle]).unwrap();
    assert_eq!(rig.hvc(id::FRAME_RECLAIM, &[handle, bounce, BOUNCE]), Ok([BOUNCE, 0, 0]));
    assert_eq!(rig.frame_state(bounce), 0);
    let entry = rig.hyp.with_memory(|memory| memory.entry(super::rig::pfn(bounce)));
    assert_eq!((entry.owner(), entry.pins()), (Owner::Host, 0));
}

#[test]
fn frame_share_takes_free_pages_of_its_own_device_only() {
    let mut rig = Rig::new();
    let (handle, ram) = rig.building(1);
    rig.hvc(id::DEVICE_CREATE, &[handle, 2, abi::POLICY_BOUNCE_BAR, BOUNCE, 1]).unwrap();
    let frames = rig.frames(BOUNCE + 1);
    let before = rig.ownership();
    let share = |device, page, pfn, count| {
        rig.hvc(id::FRAME_SHARE, &[handle, device, page, pfn, count]).unwrap_err()
    };
    assert_eq!(share(1, 0, frames, 1), Error::NotFound.code());
    assert_eq!(share(u64::MAX, 0, frames, 1), Error::NotFound.code());
    assert_eq!(share(0, 1, frames, BOUNCE), Error::NotFound.code(), "beyond the BAR");
    assert_eq!(share(0, u64::MAX, frames, 1), Error::InvalidParameter.code());
    assert_eq!(share(0, 0, ram, 1), Error::Denied.code(), "the guest's own");
    assert_eq!(share(0, 0, rig.layout.hyp[0].start().number(), 1), Error::Denied.code());
    assert_eq!(rig.ownership(), before);
    rig.hvc(id::FRAME_SHARE, &[handle, 0, 3, frames, 1]).unwrap();
    assert_eq!(share(0, 3, frames + 1, 1), Error::BadState.code(), "the page has its frame");
    assert_eq!(share(0, 4, frames, 1), Error::Denied.code(), "the frame is lent");
}

#[test]
fn i1_no_interrupt_before_the_driver_is_ready_or_for_what_is_not_there() {
    let mut rig = Rig::new();
    let (handle, _) = with_device(&mut rig);
    let raise = |device, cause| rig.hvc(id::DEVICE_INTERRUPT, &[handle, device, cause]);
    assert_eq!(raise(0, 0), Err(Error::Denied.code()));
    assert_eq!(raise(0, abi::CAUSE_CONFIG), Err(Error::Denied.code()));
    for (device, cause) in [(1, 0), (0, 1), (0, 27), (0, u64::MAX), (u64::MAX, 0)] {
        assert!(raise(device, cause).is_err(), "device {device}, cause {cause}");
    }
    rig.script(|vcpu| {
        assert!(vcpu.gic.lr.iter().all(|lr| *lr == 0), "nothing was injected");
        interrupt()
    });
    rig.run(handle);
}

#[test]
fn a_status_write_is_seen_by_the_host_before_the_guest_goes_on() {
    let mut rig = Rig::new();
    let (handle, _) = with_device(&mut rig);
    let registers = layout::PCI_MEM32;
    rig.script_store(SLOT1 + 0x10, 4, registers);
    rig.script_store(SLOT1 + 4, 2, 0x6);
    // device_status of the common configuration (virtio 1.4, 4.1.4.3).
    rig.script_store(registers + 0x14, 1, 1);
    assert_eq!(rig.run(handle)[..2], [exit::DEVICE, 0]);
    let [state, ..] = rig.hvc(id::DEVICE_STATE, &[handle, 0]).unwrap();
    assert_eq!(state & 0xff, 1);
    assert!(rig.hvc(id::DEVICE_STATE, &[handle, 1]).is_err());
}

/// PCI Local Bus 3.0, 6.2.2: without bus mastering a device reads no ring. Its
/// backend hears of the change before the guest goes on, and not of kicks.
#[test]
fn g3_without_bus_mastering_no_kick_reaches_the_host() {
    let mut rig = Rig::new();
    let (handle, _) = with_device(&mut rig);
    let registers = layout::PCI_MEM32;
    open(&rig, handle, layout::PCI_MEM64);
    rig.script_store(SLOT1 + 0x10, 4, registers);
    let common = |rig: &Rig, field: u64, size, value| {
        rig.script_store(registers + field, size, value);
    };
    let accepted = [(0, 1 << 27), (1, 0b11)];
    for (select, word) in accepted {
        common(&rig, 0x08, 4, select);
        common(&rig, 0x0c, 4, word);
    }
    common(&rig, 0x14, 1, 11);
    assert_eq!(rig.run(handle)[..2], [exit::DEVICE, 0]);
    for (field, offset) in [(0x20, 0), (0x28, 0x2000), (0x30, 0x3000)] {
        common(&rig, field, 8, layout::PCI_MEM64 + offset);
    }
    common(&rig, 0x1c, 2, 1);
    common(&rig, 0x14, 1, 15);
    assert_eq!(rig.run(handle)[..2], [exit::DEVICE, 0]);
    let state = |rig: &mut Rig| {
        let [state, notified, _] = rig.hvc(id::DEVICE_STATE, &[handle, 0]).unwrap();
        (state & 0x1ff, notified)
    };
    assert_eq!(state(&mut rig), (15 | 1 << 8, 0));
    let kick = registers + 0x1000;
    rig.script_store(kick, 2, 0);
    assert_eq!(rig.run(handle)[..2], [exit::NOTIFY, 0]);
    assert_eq!(state(&mut rig), (15 | 1 << 8, 1));

    rig.script_store(SLOT1 + 4, 2, 0x2);
    assert_eq!(rig.run(handle)[..2], [exit::DEVICE, 0], "mastering is off");
    rig.script_store(kick, 2, 0);
    rig.script_check(|_| ());
    assert_eq!(rig.run(handle)[0], exit::INTERRUPT, "not told");
    assert_eq!(state(&mut rig), (15, 0));
    rig.script_store(SLOT1 + 4, 2, 0x6);
    assert_eq!(rig.run(handle)[..2], [exit::DEVICE, 0], "and on again");
    assert_eq!(state(&mut rig), (15 | 1 << 8, 1));
}

/// DEVICE_CREATE's last argument: queues, and above them the most descriptors
/// of each. What the host chose is part of what is measured.
#[test]
fn the_size_of_queues_is_chosen_at_creation_and_measured() {
    let mut rig = Rig::new();
    let shared = abi::POLICY_SHARED_PAGES;
    let mut digest = |size: u64| {
        let (handle, _) = rig.building(1);
        let create = |queues: u64| rig.hvc(id::DEVICE_CREATE, &[handle, 2, shared, 0, queues]);
        for bad in [3, 257, 512, 0xffff, 0x1_0000, u64::MAX >> 16] {
            assert_eq!(create(1 | bad << 16), Err(Error::InvalidParameter.code()), "{bad:#x}");
        }
        assert_eq!(create(1 | size << 16), Ok([0, 0, 0]), "the refused ones left nothing");
        let [shape, ..] = rig.hvc(id::QUEUE_INFO, &[handle, 0, 0, 0]).unwrap();
        assert_eq!(shape, if size == 0 { 256 } else { size });
        rig.hvc(id::VM_FINALISE, &[handle, layout::RAM, 0]).unwrap();
        rig.hvc(id::VM_MEASUREMENT, &[handle, 0]).unwrap()
    };
    let [default, most, fewer] = [0, 256, 16].map(&mut digest);
    assert_eq!(default, most, "0 stands for 256");
    assert_ne!(most, fewer);
}

/// The UART's interrupt as the guest would find it in a list register.
fn uart_interrupt(vcpu: &crate::vcpu::state::VcpuState) -> bool {
    vcpu.gic.lr.iter().any(|lr| *lr as u32 == layout::UART_INTID)
}

/// The guest's driver enables the UART's interrupt.
fn enable_uart_interrupt(rig: &Rig, handle: u64) {
    rig.script_store(layout::GICD, 4, 0b11);
    rig.script_store(layout::GICD + 0x104, 4, 1 << (layout::UART_INTID - 32));
    rig.script_check(|_| ());
    rig.run(handle);
}

#[test]
fn i1_the_uart_interrupts_only_a_guest_that_lets_the_host_serve_it() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(1);
    let line = |level| rig.hvc(id::UART_LINE, &[handle, level]);
    enable_uart_interrupt(&rig, handle);
    assert_eq!(line(1), Err(Error::Denied.code()), "not granted yet");
    let (map, unmap) = (abi::guest::MMIO_GUARD_MAP, abi::guest::MMIO_GUARD_UNMAP);
    assert_eq!(rig.guest_hvc(handle, map.into(), &[layout::UART]).0, 0);
    for bad in [2, u64::MAX] {
        assert_eq!(line(bad), Err(Error::InvalidParameter.code()));
    }
    line(1).unwrap();
    rig.script_check(|vcpu| assert!(uart_interrupt(vcpu)));
    rig.run(handle);
    line(0).unwrap();
    rig.script_check(|vcpu| assert!(!uart_interrupt(vcpu), "the line is low"));
    rig.run(handle);

    line(1).unwrap();
    assert_eq!(rig.guest_hvc(handle, unmap.into(), &[layout::UART]).0, 0);
    rig.script_check(|vcpu| assert!(!uart_interrupt(vcpu), "taken back"));
    rig.run(handle);
    assert_eq!(line(1), Err(Error::Denied.code()));
    rig.hvc(id::VM_STOP, &[handle]).unwrap();
    assert_eq!(line(0), Err(Error::BadState.code()), "dying");
    assert_eq!(rig.hvc(id::UART_LINE, &[0, 1]), Err(Error::NotFound.code()));
}

/// Each device's INTx is the SPI that the device tree names for its slot.
#[test]
fn the_line_of_a_device_is_its_own_spi() {
    let mut rig = Rig::new();
    let (handle, _) = with_device(&mut rig);
    let vm = crate::vm::Handle::from_raw(handle);
    for line in 0..4u8 {
        for level in [true, false] {
            let signal = crate::virtio::Signal::Intx { line, level };
            let _ = rig.hyp.with_vm(vm, |vm| Ok(vm.signal([signal]))).unwrap();
            let pending = rig
                .hyp
                .with_vm(vm, |vm| {
                    // GICD_ISPENDR of the banks of SPIs.
                    let words = (1..8).map(|bank| vm.vgic.distributor_read(0x200 + 4 * bank, 4));
                    Ok(words.collect::<std::vec::Vec<_>>())
                })
                .unwrap();
            let intid = layout::INTX_INTID + u32::from(line);
            let mut expected = std::vec![0; 7];
            if level {
                expected[(intid / 32 - 1) as usize] = 1 << (intid % 32);
            }
            assert_eq!(pending, expected, "line {line}");
        }
    }
}

/// There is no policy without ACCESS_PLATFORM for a guest of either kind to be
/// given, nor a number that is taken for one of the others.
#[test]
fn a_device_of_a_policy_that_is_none_is_not_made() {
    for flags in [0, abi::CREATE_RSI] {
        let mut rig = Rig::new();
        let (handle, _) = rig.building_with(1, 16, flags);
        for policy in [4, 5, 1 << 32, u64::MAX] {
            let made = rig.hvc(id::DEVICE_CREATE, &[handle, 2, policy, 0, 1]);
            assert_eq!(made, Err(Error::InvalidParameter.code()), "policy {policy:#x}");
        }
        let made = rig.hvc(id::DEVICE_CREATE, &[handle, 2, abi::POLICY_SHARED_PAGES, 0, 1]);
        assert_eq!(made, Ok([0, 0, 0]), "the refused ones left nothing");
        // A realm may be offered one: to refuse it is its driver's.
        let legacy = |pages| rig.hvc(id::DEVICE_CREATE, &[handle, 2, abi::POLICY_LEGACY, pages, 1]);
        assert_eq!(legacy(16), Err(Error::InvalidParameter.code()));
        assert_eq!(legacy(0), Ok([1, 0, 0]));
    }
}
