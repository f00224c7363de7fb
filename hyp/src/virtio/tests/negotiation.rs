//! The contract: what is offered, what must be accepted, and that a driver
//! that does not agree gets nothing.

use super::*;

#[test]
fn each_policy_offers_its_own_contract() {
    let mut bounce = Platform::with_block(Policy::BounceBar);
    let mut shared = Platform::with_block(Policy::SharedPages);
    assert_eq!(bounce.offered(0) & BOUNCE_FEATURES, BOUNCE_FEATURES);
    assert_eq!(shared.offered(0) & BOUNCE_FEATURES, SHARED_FEATURES, "no SWIOTLB");
    let mut memory = Platform::with_block(Policy::DeviceMemory);
    assert_eq!(memory.offered(0) & BOUNCE_FEATURES, SHARED_FEATURES, "nor here");
    assert_eq!(memory.offered(0) & MEMORY_FEATURES, MEMORY_FEATURES);
    assert_eq!((bounce.offered(0) | shared.offered(0)) & 1 << 44, 0, "DMB here alone");
    // To a driver it is a device on a platform that translates, as any is.
    let mut iommu = Platform::with_block(Policy::ShadowIommu);
    assert_eq!(iommu.offered(0), shared.offered(0));
    // It is on no such platform, or does not say so.
    let mut legacy = Platform::with_block(Policy::LegacyNoPlatform);
    assert_eq!(legacy.offered(0), shared.offered(0) & !(1 << 33));
    let mut choice = Platform::with_block(Policy::GuestChoice);
    assert_eq!(choice.offered(0), shared.offered(0), "the bit is there to be declined");
    // One capability each, and neither with shared pages.
    for (platform, has) in [
        (&mut bounce, [false, true]),
        (&mut shared, [false; 2]),
        (&mut memory, [true, false]),
        (&mut iommu, [false; 2]),
        (&mut legacy, [false; 2]),
        (&mut choice, [false; 2]),
    ] {
        assert_eq!([8, 10].map(|kind| platform.structure(0, kind).is_some()), has);
        let rest = platform.offered(0) & !(BOUNCE_FEATURES | MEMORY_FEATURES);
        assert_eq!(rest, 1 << 9 | 1 << 28 | 1 << 29 | 1 << 35 | 1 << 38 | 1 << 40);
        for select in [2, 3, 4, u64::from(u32::MAX)] {
            platform.common_write(0, DEVICE_FEATURE_SELECT, 4, select);
            assert_eq!(platform.common_read(0, DEVICE_FEATURE, 4), 0);
        }
    }
}

/// Each mandatory bit left out is a refusal, whatever else is accepted.
#[test]
fn declining_a_mandatory_feature_is_refused() {
    for (policy, mandatory) in [
        // Bit 33 too: else Linux gives the device addresses of its memory.
        (Policy::BounceBar, [1 << 27, 1 << 32, 1 << 33].as_slice()),
        (Policy::SharedPages, [1 << 32, 1 << 33].as_slice()),
        (Policy::ShadowIommu, [1 << 32, 1 << 33].as_slice()),
        (Policy::DeviceMemory, [1 << 32, 1 << 33, 1 << 44].as_slice()),
        (Policy::LegacyNoPlatform, [1 << 32].as_slice()),
        (Policy::GuestChoice, [1 << 32].as_slice()),
    ] {
        let mut platform = Platform::with_block(policy);
        let offered = platform.offered(0);
        for bit in mandatory {
            assert!(!platform.negotiate(0, offered & !bit));
        }
        assert!(!platform.negotiate(0, 0));
        assert!(platform.negotiate(0, offered));
        assert!(platform.negotiate(0, mandatory.iter().sum()), "the rest may be declined");
    }
}

/// A driver must not believe in the bit if the device lacks it, and cannot
/// bring it about.
#[test]
fn a_device_without_access_platform_does_not_get_it_from_its_driver() {
    let mut platform = Platform::with_block(Policy::LegacyNoPlatform);
    let offered = platform.offered(0);
    assert_eq!(offered & 1 << 33, 0);
    assert!(!platform.negotiate(0, offered | 1 << 33));
    assert!(!platform.negotiate(0, 1 << 32 | 1 << 33));
    assert!(platform.negotiate(0, 1 << 32));
}

/// D6.
#[test]
fn accepting_a_feature_that_was_never_offered_is_refused() {
    let mut platform = Platform::with_block(Policy::SharedPages);
    let offered = platform.offered(0);
    for bit in (0..64).filter(|bit| offered & 1 << bit == 0) {
        assert!(!platform.negotiate(0, offered | 1 << bit), "bit {bit}");
    }
    // Bits beyond 63 count too.
    platform.negotiate(0, 0);
    platform.common_write(0, DRIVER_FEATURE_SELECT, 4, 2);
    platform.common_write(0, DRIVER_FEATURE, 4, 1);
    for (select, word) in [(0, offered & 0xffff_ffff), (1, offered >> 32)] {
        platform.common_write(0, DRIVER_FEATURE_SELECT, 4, select);
        platform.common_write(0, DRIVER_FEATURE, 4, word);
    }
    platform.set_status(0, 11);
    assert_eq!(platform.status(0), 3);
    assert!(platform.negotiate(0, offered), "forgotten after a reset");
}

/// The `virtio-drivers` crate does exactly this when it is refused.
#[test]
fn driver_ok_without_features_ok_is_ignored() {
    let mut platform = Platform::with_block(Policy::BounceBar);
    assert!(!platform.negotiate(0, SHARED_FEATURES));
    assert!(!platform.enable_queue(0, 0, 16, [bounce_base(0); 3]), "no contract, no queue");
    platform.set_status(0, 15);
    assert_eq!(platform.status(0), 3);
    platform.kick(0, 0);
    assert!(platform.kicks.is_empty());
    assert!(platform.interrupt(0, 0).is_err());
    assert_eq!(platform.bus.state(0).unwrap().features, 0);
}

/// Both bits at once skip the driver's look at FEATURES_OK.
#[test]
fn driver_ok_counts_only_after_features_ok_was_granted() {
    let mut platform = Platform::with_block(Policy::BounceBar);
    platform.negotiate(0, 0);
    for (select, word) in [(0, 1 << 27), (1, 3)] {
        platform.common_write(0, DRIVER_FEATURE_SELECT, 4, select);
        platform.common_write(0, DRIVER_FEATURE, 4, word);
    }
    platform.set_status(0, 15);
    assert_eq!(platform.status(0), 11);
    platform.set_status(0, 15);
    assert_eq!(platform.status(0), 15);
}

#[test]
fn the_agreed_features_cannot_be_changed() {
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    platform.common_write(0, DRIVER_FEATURE_SELECT, 4, 0);
    platform.common_write(0, DRIVER_FEATURE, 4, 0);
    assert_eq!(platform.common_read(0, DRIVER_FEATURE, 4), 1 << 27);
    assert_eq!(platform.bus.state(0).unwrap().features, BOUNCE_FEATURES | 1 << 40);
}

#[test]
fn only_a_reset_takes_status_bits_away() {
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    platform.set_status(0, 1);
    assert_eq!(platform.status(0), 15);
    platform.set_status(0, 0x70);
    assert_eq!(platform.status(0), 15, "NEEDS_RESET and reserved bits are not the driver's");
    platform.set_status(0, 128);
    assert_eq!(platform.status(0), 15 | 128);
    platform.kick(0, 0);
    assert!(platform.kicks.is_empty(), "a driver that gave up is not served");
    platform.set_status(0, 0);
    assert_eq!(platform.status(0), 0);
}

#[test]
fn a_reset_forgets_the_driver_and_keeps_the_host() {
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    let effects = platform.bus.config_write(0, 0, 0x1234_5678, 8, true).unwrap();
    platform.carry_out(effects);
    assert!(platform.lines[1]);
    platform.common_write(0, CONFIG_VECTOR, 2, 1);
    platform.kick(0, 0);
    let resets = platform.bus.queue(0, 0).unwrap().resets;
    platform.set_status(0, 0);

    assert_eq!(platform.common_read(0, CONFIG_VECTOR, 2), 0xffff);
    platform.common_write(0, QUEUE_SELECT, 2, 0);
    assert_eq!(platform.common_read(0, QUEUE_ENABLE, 2), 0);
    assert_eq!(platform.common_read(0, QUEUE_SIZE, 2), u64::from(MAX_QUEUE_SIZE));
    assert_eq!(platform.common_read(0, QUEUE_DESC, 8), 0);
    assert_eq!(platform.common_read(0, DRIVER_FEATURE, 4), 0);
    assert_eq!(platform.lines, [false; 4]);
    assert_eq!(platform.isr(0), 0);
    let state = platform.bus.state(0).unwrap();
    assert_eq!((state.status, state.notified, state.features), (0, 0, 0));
    let info = platform.bus.queue(0, 0).unwrap();
    assert!(!info.enabled && info.descriptor == 0);
    assert_ne!(info.resets, resets, "the backend can tell");
    let config = platform.structure(0, 4).unwrap();
    assert_eq!(platform.read(register_base(0) + config.offset, 8), Some(0x1234_5678));
    assert!(platform.negotiate(0, BOUNCE_FEATURES), "the same set is accepted again");
}

#[test]
fn the_host_hears_of_every_change_of_status() {
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    let before = platform.status_changes.len();
    platform.set_status(0, 15);
    assert_eq!(platform.status_changes.len(), before, "nothing changed");
    let resets = platform.bus.state(0).unwrap().reset_count;
    platform.set_status(0, 0);
    platform.set_status(0, 0);
    assert_eq!(platform.status_changes.len(), before + 2);
    assert_eq!(platform.bus.state(0).unwrap().reset_count, resets + 2);
}

#[test]
fn fields_the_host_fills_before_the_start_add_their_feature() {
    let mut platform = Platform::with_block(Policy::BounceBar);
    let plain = platform.offered(0);
    platform.bus.config_write(0, 12, 126, 4, false).unwrap();
    assert_eq!(platform.offered(0), plain | 1 << 2, "SEG_MAX");
    platform.bus.config_write(0, 20, 512, 4, false).unwrap();
    assert_eq!(platform.offered(0), plain | 1 << 2 | 1 << 6, "BLK_SIZE");
}

/// The feature bits of each type by their numbers (virtio 1.4, chapters 5 and
/// 6): what every device has, and what its type adds.
#[test]
fn each_type_offers_its_own_bits() {
    let always = 1 << 28 | 1 << 29 | 1 << 32 | 1 << 33 | 1 << 35 | 1 << 38 | 1 << 40;
    for (kind, own) in [(1, 0), (2, 1 << 9), (3, 0), (4, 0)] {
        let mut platform = Platform::empty();
        platform.bus.create(kind, Policy::SharedPages, 0, 2, 0).unwrap();
        platform.place_bars(0);
        assert_eq!(platform.offered(0), always | own, "type {kind}");
    }
}

/// What the host fills in before the start adds the feature that says so.
#[test]
fn each_field_of_a_configuration_has_its_bit() {
    for (kind, offset, bytes, bit) in
        [(1, 0, 6, 5), (2, 12, 4, 2), (2, 20, 4, 6), (3, 0, 4, 0), (3, 2, 2, 0)]
    {
        let mut platform = Platform::empty();
        platform.bus.create(kind, Policy::SharedPages, 0, 2, 0).unwrap();
        platform.place_bars(0);
        let before = platform.offered(0);
        platform.bus.config_write(0, offset, 0x0101_0101_0101, bytes, false).unwrap();
        assert_eq!(platform.offered(0) ^ before, 1 << bit, "type {kind}, offset {offset}");
    }
}

#[test]
fn selectors_read_back_and_select_their_own_word() {
    let mut platform = Platform::with_block(Policy::SharedPages);
    let offered = platform.offered(0);
    for select in [0, 1, 2, 0xffff_ffff] {
        for selector in [DEVICE_FEATURE_SELECT, DRIVER_FEATURE_SELECT] {
            platform.common_write(0, selector, 4, select);
        }
        assert_eq!(platform.common_read(0, DEVICE_FEATURE_SELECT, 4), select);
        assert_eq!(platform.common_read(0, DRIVER_FEATURE_SELECT, 4), select);
        let word = if select < 2 { offered >> (32 * select) & 0xffff_ffff } else { 0 };
        assert_eq!(platform.common_read(0, DEVICE_FEATURE, 4), word);
    }
    for (select, word) in [(0, 0x1234_5678), (1, 0x9abc_def0)] {
        platform.common_write(0, DRIVER_FEATURE_SELECT, 4, select);
        platform.common_write(0, DRIVER_FEATURE, 4, word);
    }
    for (select, word) in [(0, 0x1234_5678), (1, 0x9abc_def0), (2, 0)] {
        platform.common_write(0, DRIVER_FEATURE_SELECT, 4, select);
        assert_eq!(platform.common_read(0, DRIVER_FEATURE, 4), word);
    }
    for queue in [0, 1, 2, 7, 0xffff] {
        platform.common_write(0, QUEUE_SELECT, 2, queue);
        assert_eq!(platform.common_read(0, QUEUE_SELECT, 2), queue);
        let there = queue < 2;
        assert_eq!(platform.common_read(0, QUEUE_NOTIFY_OFF, 2), if there { queue } else { 0 });
        assert_eq!(platform.common_read(0, QUEUE_SIZE, 2) != 0, there);
        let vector = platform.common_read(0, QUEUE_VECTOR, 2);
        assert_eq!(vector, 0xffff, "no vector");
    }
    assert_eq!(platform.common_read(0, NUM_QUEUES, 2), 2);
}
