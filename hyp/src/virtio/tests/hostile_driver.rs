//! D8, D9 and the PCI_CFG window: a driver that breaks the rules of access.

use super::*;

/// D8.
#[test]
fn a_kick_counts_only_for_an_enabled_queue_of_a_live_device() {
    let mut platform = Platform::with_block(Policy::BounceBar);
    platform.kick(0, 0);
    assert!(platform.negotiate(0, BOUNCE_FEATURES));
    assert!(platform.enable_queue(0, 0, 16, [bounce_base(0); 3]));
    platform.kick(0, 0);
    assert!(platform.kicks.is_empty(), "before DRIVER_OK");
    platform.set_status(0, 15);
    platform.kick(0, 1);
    for queue in 2..64 {
        platform.kick(0, queue);
    }
    assert!(platform.kicks.is_empty(), "bad queues");
    assert_eq!(platform.bus.state(0).unwrap().notified, 0);
    platform.kick(0, 0);
    assert_eq!(platform.kicks, [(0, 0)]);
    platform.set_status(0, 0);
    platform.kick(0, 0);
    assert_eq!(platform.kicks.len(), 1, "after reset");
    assert_eq!(platform.bus.state(0).unwrap().notified, 0, "reset takes the notification back");
}

#[test]
fn a_kick_names_the_queue_whose_register_it_writes() {
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    let base = bounce_base(0) + 0x4000;
    assert!(platform.enable_queue(0, 1, 16, [base, base + 0x1000, base + 0x2000]));
    let notify = register_base(0) + platform.structure(0, 2).unwrap().offset;
    for (offset, size, value) in [(0, 2, 1), (4, 2, 0), (2, 2, 0), (0, 1, 0), (0, 8, 0), (4, 1, 1)]
    {
        platform.write(notify + offset, size, value);
    }
    assert!(platform.kicks.is_empty());
    platform.write(notify + 4, 4, 0xbeef_0001);
    assert_eq!(platform.kicks, [(0, 1)]);
    assert_eq!(platform.read(notify, 2), Some(0xffff), "write-only");
}

/// D9: every width at every offset of the register BAR gives a value that
/// fits, and an unnatural one gives ones and changes nothing.
#[test]
fn unnatural_accesses_are_all_ones_and_ignored() {
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    let ones = |size: u8| if size == 8 { u64::MAX } else { (1 << (8 * size)) - 1 };
    for offset in 0..REGISTER_BAR_SIZE {
        for size in [1, 2, 4, 8] {
            let value = platform.read(register_base(0) + offset, size).unwrap();
            assert_eq!(value & !ones(size), 0);
            if offset % u64::from(size) != 0 {
                assert_eq!(value, ones(size));
                platform.write(register_base(0) + offset, size, 0).unwrap();
            }
        }
    }
    let common = platform.common(0);
    // Wrong widths of the 8-, 16- and 32-bit fields.
    for (field, size) in [(STATUS, 2), (STATUS, 4), (0x10, 8), (QUEUE_ENABLE, 4), (0x00, 8)] {
        assert_eq!(platform.read(common + field, size), Some(ones(size)));
        platform.write(common + field, size, 0);
    }
    assert_eq!(platform.status(0), 15);
    assert!(platform.bus.queue(0, 0).unwrap().enabled);
    for size in [0, 3, 5, 16, 255] {
        assert_eq!(platform.read(common, size), Some(u64::MAX));
        platform.write(common, size, 0);
    }
    assert_eq!(platform.status(0), 15);
}

#[test]
fn values_wider_than_the_access_are_cut() {
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    platform.common_write(0, STATUS, 1, 0x100);
    assert_eq!(platform.status(0), 0, "the byte written is 0");
}

struct Window {
    place: u64,
}

impl Window {
    fn point(&self, platform: &mut Platform, bar: u64, offset: u64, length: u64) {
        platform.config_write(0, self.place + 4, 1, bar);
        platform.config_write(0, self.place + 8, 4, offset);
        platform.config_write(0, self.place + 12, 4, length);
    }
}

#[test]
fn the_pci_cfg_window_reaches_registers() {
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    // Even with decode off: that is what it is for.
    platform.config_write(0, COMMAND, 2, MASTER);
    let window = Window { place: platform.structure(0, 5).unwrap().place };
    let common = platform.structure(0, 1).unwrap().offset;
    window.point(&mut platform, 0, common + STATUS, 1);
    assert_eq!(platform.config_read(0, window.place + 16, 1), 15);
    assert_eq!(platform.config_read(0, window.place + 16, 4), 15, "wider takes the first bytes");
    window.point(&mut platform, 0, common + NUM_QUEUES, 2);
    assert_eq!(platform.config_read(0, window.place + 16, 2), 2);
    let notify = platform.structure(0, 2).unwrap().offset;
    window.point(&mut platform, 0, notify, 2);
    platform.config_write(0, window.place + 16, 2, 0);
    assert_eq!(platform.kicks, [(0, 0)]);
    platform.interrupt(0, 0).unwrap();
    let isr = platform.structure(0, 3).unwrap().offset;
    window.point(&mut platform, 0, isr, 1);
    assert_eq!(platform.config_read(0, window.place + 16, 1), 1);
    assert_eq!(platform.lines, [false; 4], "reading ISR through the window lowers the line too");
    window.point(&mut platform, 0, common + STATUS, 1);
    platform.config_write(0, window.place + 16, 1, 0);
    assert_eq!(platform.bus.state(0).unwrap().status, 0);
}

/// D9.
#[test]
fn the_pci_cfg_window_reaches_nothing_else() {
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    let window = Window { place: platform.structure(0, 5).unwrap().place };
    let data = window.place + 16;
    let status = platform.structure(0, 1).unwrap().offset + STATUS;
    let targets = [
        (1, status, 1),
        (2, 0, 4), // the bounce BAR
        (3, 0, 4),
        (6, status, 1),
        (0xff, status, 1),
        (0, status, 0),
        (0, status, 3),
        (0, status, 8),
        (0, status, 0xffff_ffff),
        (0, status + 1, 2), // not a multiple of the length
        (0, REGISTER_BAR_SIZE, 1),
        (0, REGISTER_BAR_SIZE - 2, 4),
        (0, 0xffff_ffff, 1),
        (0, 0xffff_fffc, 4),
    ];
    for (bar, offset, length) in targets {
        window.point(&mut platform, bar, offset, length);
        assert_eq!(platform.config_read(0, data, 4), 0xffff_ffff, "{bar} {offset:#x} {length}");
        platform.config_write(0, data, 4, 0);
    }
    // Too narrow for the length, or not the first bytes.
    window.point(&mut platform, 0, 0, 4);
    assert_eq!(platform.config_read(0, data, 2), 0xffff);
    window.point(&mut platform, 0, status, 1);
    assert_eq!(platform.config_read(0, data + 1, 1), 0xff);
    platform.config_write(0, data + 1, 1, 0);
    assert_eq!(platform.status(0), 15);
}
