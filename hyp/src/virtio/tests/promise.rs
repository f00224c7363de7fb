//! The promise: drivers that know nothing of bouncer bring the device up.
//! The access sequences are those of two real drivers.

use super::*;
use crate::addr::{Gfn, Pfn};

/// Config space as an operating system probes it: identity, then the size of
/// each BAR with decode off.
fn enumerate(platform: &mut Platform) -> Vec<(u64, u64)> {
    assert_eq!(platform.config_read(0, 0x00, 4), 0x1042_1af4);
    assert_eq!(platform.config_read(0, 0x0e, 1), 0, "header type 0, one function");
    assert_eq!(platform.config_read(0, 0x08, 4), 0x0180_0001, "storage class, revision 1");
    assert_eq!(platform.config_read(0, 0x2c, 2), 0x1af4);
    assert!(platform.config_read(0, 0x2e, 2) >= 0x40);
    assert_eq!(platform.config_read(0, 0x3d, 1), 1, "INTA");
    assert_eq!(platform.config_read(0, 0x06, 2) & 0x10, 0x10, "capability list");
    let command = platform.config_read(0, COMMAND, 2);
    platform.config_write(0, COMMAND, 2, command & !MEMORY);
    let mut sizes = Vec::new();
    let mut bar = BAR0;
    while bar < 0x28 {
        let original = platform.config_read(0, bar, 4);
        platform.config_write(0, bar, 4, 0xffff_ffff);
        let mut mask = platform.config_read(0, bar, 4);
        platform.config_write(0, bar, 4, original);
        let flags = mask & 0xf;
        mask &= !0xf;
        let register = bar;
        bar += 4;
        if flags & 0b110 == 0b100 {
            platform.config_write(0, bar, 4, 0xffff_ffff);
            mask |= platform.config_read(0, bar, 4) << 32;
            platform.config_write(0, bar, 4, 0);
            bar += 4;
        } else if mask != 0 {
            mask |= 0xffff_ffff << 32;
        }
        if mask != 0 {
            sizes.push((register, (!mask).wrapping_add(1)));
        }
    }
    platform.config_write(0, 0x30, 4, 0xffff_f800);
    assert_eq!(platform.config_read(0, 0x30, 4), 0, "no option ROM");
    platform.config_write(0, COMMAND, 2, command);
    sizes
}

fn assign(platform: &mut Platform) {
    platform.config_write(0, BAR0, 4, register_base(0));
    assert_eq!(platform.config_read(0, BAR0, 4), register_base(0));
    platform.config_write(0, BAR2, 4, bounce_base(0) & 0xffff_ffff | 0xc);
    platform.config_write(0, BAR2 + 4, 4, bounce_base(0) >> 32);
    platform.config_write(0, 0x3c, 1, 35);
    assert_eq!(platform.config_read(0, 0x3c, 1), 35, "the line byte is the guest's scratch");
    platform.config_write(0, COMMAND, 2, MEMORY);
    platform.config_write(0, COMMAND, 2, MEMORY | MASTER);
}

/// MSI-X as Linux turns it on: masked as a whole, entries filled one by one,
/// then unmasked, and INTx disabled.
fn turn_msix_on(platform: &mut Platform, vectors: u64) {
    let place = platform.msix_place(0);
    let control = platform.config_read(0, place + 2, 2);
    assert_eq!(control & 0x7ff, 2, "a vector per queue and one more, minus one");
    platform.config_write(0, place + 2, 2, control | 0xc000);
    let table = platform.config_read(0, place + 4, 4);
    assert_eq!(table & 7, 0, "table in BAR 0");
    let table = register_base(0) + (table & !7);
    for vector in 0..vectors {
        let entry = table + 16 * vector;
        assert_eq!(platform.read(entry + 12, 4), Some(1), "masked at reset");
        platform.write(entry, 4, layout::MSI_FRAME + 0x40);
        platform.write(entry + 4, 4, 0);
        platform.write(entry + 8, 4, 80 + vector);
        platform.write(entry + 12, 4, 0);
    }
    let command = platform.config_read(0, COMMAND, 2);
    platform.config_write(0, COMMAND, 2, command | 0x400);
    platform.config_write(0, place + 2, 2, control & !0x4000 | 0x8000);
}

#[test]
fn linux_brings_up_a_block_device_behind_a_bounce_bar() {
    let mut platform = Platform::empty();
    platform.bus.create(2, Policy::BounceBar, PAGES, 2, 0).unwrap();
    platform.bus.config_write(0, 0, 2048, 8, false).unwrap();
    for page in 0..PAGES {
        assert!(!platform.bus.is_complete());
        platform.bus.set_bounce_frame(0, page, Pfn::new(0x50000 + page).unwrap()).unwrap();
    }
    assert!(platform.bus.is_complete());

    assert_eq!(enumerate(&mut platform), [(BAR0, REGISTER_BAR_SIZE), (BAR2, BOUNCE_BYTES)]);
    assign(&mut platform);

    // virtio_pci_modern_probe: every structure inside its BAR.
    let common = platform.structure(0, 1).unwrap();
    assert_eq!((common.bar, common.length), (0, 64), "64 bytes, or RING_RESET is refused");
    let notify = platform.structure(0, 2).unwrap();
    assert_eq!(platform.config_read(0, notify.place + 16, 4), 4, "notify multiplier");
    assert_eq!(platform.config_read(0, notify.place + 2, 1), 20);
    for cfg_type in 1..=4 {
        let structure = platform.structure(0, cfg_type).unwrap();
        assert_eq!(structure.bar, 0);
        assert!(structure.offset + structure.length <= REGISTER_BAR_SIZE);
    }
    assert!(platform.structure(0, 5).is_some(), "PCI_CFG");
    let bounce = platform.structure(0, 10).unwrap();
    assert_eq!((bounce.bar, bounce.offset, bounce.length), (2, 0, BOUNCE_BYTES));

    // register_virtio_device and virtio_dev_probe: Linux 7.x reads words 0 to 3.
    platform.set_status(0, 0);
    assert_eq!(platform.status(0), 0);
    platform.set_status(0, 1);
    platform.set_status(0, 3);
    let mut offered = [0; 4];
    for (select, word) in offered.iter_mut().enumerate() {
        platform.common_write(0, DEVICE_FEATURE_SELECT, 4, select as u64);
        *word = platform.common_read(0, DEVICE_FEATURE, 4);
    }
    assert_eq!(offered[2..], [0, 0]);
    for (select, word) in offered.into_iter().enumerate() {
        platform.common_write(0, DRIVER_FEATURE_SELECT, 4, select as u64);
        platform.common_write(0, DRIVER_FEATURE, 4, word);
    }
    platform.set_status(0, 11);
    assert_eq!(platform.status(0), 11, "all that is offered may be accepted");

    // vp_find_vqs_msix, one vector for the configuration and one per queue.
    turn_msix_on(&mut platform, 3);
    platform.common_write(0, CONFIG_VECTOR, 2, 0);
    assert_eq!(platform.common_read(0, CONFIG_VECTOR, 2), 0);
    assert_eq!(platform.common_read(0, NUM_QUEUES, 2), 2);
    let mut kicks = Vec::new();
    for queue in 0..2 {
        platform.common_write(0, QUEUE_SELECT, 2, queue);
        let size = platform.common_read(0, QUEUE_SIZE, 2);
        assert!(size != 0 && platform.common_read(0, QUEUE_ENABLE, 2) == 0);
        platform.common_write(0, QUEUE_SIZE, 2, size);
        let rings = bounce_base(0) + queue * 0x4000;
        for (field, address) in
            [(QUEUE_DESC, rings), (QUEUE_DRIVER, rings + 0x1000), (QUEUE_DEVICE, rings + 0x2000)]
        {
            platform.common_write(0, field, 4, address & 0xffff_ffff);
            platform.common_write(0, field + 4, 4, address >> 32);
        }
        let offset = platform.common_read(0, QUEUE_NOTIFY_OFF, 2);
        assert!(offset * 4 + 4 <= notify.length, "room for NOTIFICATION_DATA");
        kicks.push(register_base(0) + notify.offset + offset * 4);
        platform.common_write(0, QUEUE_VECTOR, 2, queue + 1);
        assert_eq!(platform.common_read(0, QUEUE_VECTOR, 2), queue + 1);
    }
    for queue in 0..2 {
        platform.common_write(0, QUEUE_SELECT, 2, queue);
        platform.common_write(0, QUEUE_ENABLE, 2, 1);
        assert_eq!(platform.common_read(0, QUEUE_ENABLE, 2), 1);
    }
    platform.set_status(0, 15);
    assert_eq!(platform.status(0), 15);

    // A request: the kick (with data, since it was accepted), the backend's
    // look, its interrupt.
    platform.write(kicks[1], 4, 7 << 16 | 1).unwrap();
    assert_eq!(platform.kicks, [(0, 1)]);
    let state = platform.bus.state(0).unwrap();
    assert_eq!((state.status, state.notified), (15, 0b10));
    assert_eq!(platform.bus.state(0).unwrap().notified, 0, "reported once");
    let info = platform.bus.queue(0, 1).unwrap();
    assert!(info.enabled);
    assert_eq!((info.descriptor, info.driver, info.device), (0x4000, 0x5000, 0x6000));
    assert_eq!(info.base, bounce_base(0));
    platform.interrupt(0, 1).unwrap();
    assert_eq!(platform.messages, [(layout::MSI_FRAME + 0x40, 82)]);
    assert_eq!(platform.lines, [false; 4]);

    // The bounce memory itself never traps to a register.
    assert_eq!(platform.read(bounce_base(0), 8), None);
    let page = Gfn::containing(bounce_base(0) + 5 * 4096).unwrap();
    assert_eq!(platform.bus.bounce_page_at(page), Some((0, 5)));
    assert_eq!(platform.bus.bounce_frame(0, 5), Pfn::new(0x50005));
}

/// `virtio-drivers` writes 64-bit fields at once, never looks at FEATURES_OK
/// again, and selects the queue before every kick.
#[test]
fn the_virtio_drivers_crate_brings_up_a_device_with_shared_pages() {
    let mut platform = Platform::with_block(Policy::SharedPages);
    platform.set_status(0, 0);
    platform.set_status(0, 3);
    let features = platform.offered(0) & (SHARED_FEATURES | 1 << 28 | 1 << 29 | 1 << 9);
    platform.common_write(0, DRIVER_FEATURE_SELECT, 4, 0);
    platform.common_write(0, DRIVER_FEATURE, 4, features & 0xffff_ffff);
    platform.common_write(0, DRIVER_FEATURE_SELECT, 4, 1);
    platform.common_write(0, DRIVER_FEATURE, 4, features >> 32);
    platform.set_status(0, 11);
    platform.common_write(0, QUEUE_SELECT, 2, 0);
    assert_eq!(platform.common_read(0, QUEUE_ENABLE, 2), 0);
    assert!(platform.common_read(0, QUEUE_SIZE, 2) >= 16);
    let ring = layout::RAM + 0x10_0000;
    assert!(platform.enable_queue(0, 0, 16, [ring, ring + 256, ring + 0x1000]));
    platform.set_status(0, 15);
    platform.common_write(0, QUEUE_SELECT, 2, 0);
    assert_eq!(platform.common_read(0, QUEUE_NOTIFY_OFF, 2), 0);
    platform.kick(0, 0);

    assert_eq!(platform.kicks, [(0, 0)]);
    let state = platform.bus.state(0).unwrap();
    assert_eq!((state.status, state.features), (15, features));
    let info = platform.bus.queue(0, 0).unwrap();
    assert_eq!((info.size, info.descriptor, info.base), (16, ring, 0), "guest physical");

    // No MSI-X in the crate: the line, until ISR is read.
    platform.interrupt(0, 0).unwrap();
    assert_eq!(platform.lines, [false, true, false, false], "slot 1's INTA is line 1");
    assert_eq!(platform.config_read(0, 0x06, 2) & 8, 8, "interrupt status");
    assert_eq!(platform.isr(0), 1);
    assert_eq!(platform.lines, [false; 4]);
    assert_eq!(platform.isr(0), 0);
}

#[test]
fn every_type_has_its_identity_and_its_structures() {
    for (device_type, class, queues, config) in [
        (1, 0x02_0000, 2, Some(16)),
        (2, 0x01_8000, 1, Some(64)),
        (3, 0x07_8000, 2, Some(16)),
        (4, 0x00_ff00, 1, None),
    ] {
        let mut platform = Platform::empty();
        platform.bus.create(device_type, Policy::BounceBar, 16, queues, 0).unwrap();
        assert_eq!(platform.config_read(0, 2, 2), 0x1040 + u64::from(device_type));
        assert_eq!(platform.config_read(0, 8, 4) >> 8, class);
        let structure = platform.structure(0, 4);
        assert_eq!(structure.map(|structure| structure.length), config);
    }
}

#[test]
fn a_bus_refuses_devices_it_cannot_be_honest_about() {
    use crate::error::Error::{InvalidParameter, NoMemory, NotSupported};
    let mut bus = PciBus::new();
    assert_eq!(bus.create(5, Policy::SharedPages, 0, 1, 0), Err(NotSupported));
    assert_eq!(bus.create(2, Policy::SharedPages, 0, 0, 0), Err(InvalidParameter));
    assert_eq!(
        bus.create(2, Policy::SharedPages, 0, MAX_QUEUES as u16 + 1, 0),
        Err(InvalidParameter)
    );
    assert_eq!(bus.create(1, Policy::SharedPages, 0, 1, 0), Err(InvalidParameter));
    assert_eq!(bus.create(2, Policy::SharedPages, 16, 1, 0), Err(InvalidParameter));
    for pages in [0, 1, 15, 17, 4096 + 16, 1 << 40, u64::MAX] {
        assert_eq!(bus.create(2, Policy::BounceBar, pages, 1, 0), Err(InvalidParameter));
    }
    for pages in [0, 1, 15, 17, 4096 + 16, u64::MAX] {
        assert_eq!(bus.create(2, Policy::DeviceMemory, pages, 1, 0), Err(InvalidParameter));
    }
    for size in [3, 6, 255, 257, 512, 0x8000, 0xffff] {
        assert_eq!(bus.create(2, Policy::SharedPages, 0, 1, size), Err(InvalidParameter));
    }
    for pages in [1, 16, u64::MAX] {
        assert_eq!(bus.create(2, Policy::LegacyNoPlatform, pages, 1, 0), Err(InvalidParameter));
    }
    for pages in [0, 65_536, u64::MAX] {
        assert_eq!(bus.create(2, Policy::ShadowIommu, pages, 1, 0), Err(InvalidParameter));
        assert_eq!(bus.create(2, Policy::GuestChoice, pages, 1, 0), Err(InvalidParameter));
    }
    assert!(bus.is_empty());
    for index in 0..crate::abi::MAX_DEVICES {
        assert_eq!(bus.create(2, Policy::BounceBar, 4096, 1, 0), Ok(index));
    }
    assert_eq!(bus.create(2, Policy::SharedPages, 0, 1, 0), Err(NoMemory));
}

#[test]
fn each_bounce_page_gets_one_frame_once() {
    use crate::error::Error::{BadState, NotFound};
    let mut bus = PciBus::new();
    bus.create(2, Policy::BounceBar, 16, 1, 0).unwrap();
    let frame = Pfn::new(0x1234).unwrap();
    assert_eq!(bus.set_bounce_frame(1, 0, frame), Err(NotFound));
    assert_eq!(bus.set_bounce_frame(0, 16, frame), Err(NotFound));
    assert_eq!(bus.set_bounce_frame(0, u64::MAX, frame), Err(NotFound));
    assert_eq!(bus.set_bounce_frame(0, 3, frame), Ok(()));
    assert_eq!(bus.set_bounce_frame(0, 3, frame), Err(BadState));
    assert_eq!((bus.bounce_frame(0, 3), bus.bounce_frame(0, 4)), (Some(frame), None));
    for page in (0..16).filter(|page| *page != 3) {
        bus.set_bounce_frame(0, page, frame).unwrap();
    }
    assert!(bus.is_complete());
    assert_eq!(bus.take_bounce_frame(0, 3), Some(frame));
    assert!(!bus.is_complete());
    assert_eq!(bus.take_bounce_frame(0, 3), None);
    assert_eq!(bus.bounce_pages(0), 16);
}
