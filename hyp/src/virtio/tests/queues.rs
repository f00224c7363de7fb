//! Queue registers: where rings may be, and when they may change.

use super::*;

/// Tries to enable queue 0 with these rings; a refusal must break the device
/// and leave the queue off.
fn accepts(platform: &mut Platform, features: u64, size: u64, rings: [u64; 3]) -> bool {
    assert!(platform.negotiate(0, features));
    let enabled = platform.enable_queue(0, 0, size, rings);
    assert_eq!(platform.status(0) & 64 == 0, enabled, "refused means NEEDS_RESET");
    assert_eq!(platform.bus.queue(0, 0).unwrap().enabled, enabled);
    if !enabled {
        platform.set_status(0, 15);
        platform.kick(0, 0);
        assert!(platform.kicks.is_empty(), "and the backend never hears of it");
        assert_eq!(platform.status(0) & 4, 0);
    }
    enabled
}

#[test]
fn rings_outside_straddling_or_wrapping_the_bounce_bar_are_refused() {
    let mut platform = Platform::with_block(Policy::BounceBar);
    let base = bounce_base(0);
    let end = base + BOUNCE_BYTES;
    let good = [base, base + 0x1000, base + 0x2000];
    assert!(accepts(&mut platform, BOUNCE_FEATURES, 16, good));
    // The last byte of each ring may be the window's last.
    assert!(accepts(&mut platform, BOUNCE_FEATURES, 16, [end - 256, good[1], good[2]]));
    assert!(accepts(&mut platform, BOUNCE_FEATURES, 16, [good[0], end - 38, good[2]]));
    assert!(accepts(&mut platform, BOUNCE_FEATURES, 16, [good[0], good[1], end - 136]));
    assert_eq!(platform.bus.queue(0, 0).unwrap().device, BOUNCE_BYTES - 136);
    // The event fields at the end of both rings belong to them.
    assert!(!accepts(&mut platform, BOUNCE_FEATURES, 16, [good[0], end - 36, good[2]]));
    assert!(!accepts(&mut platform, BOUNCE_FEATURES, 16, [good[0], good[1], end - 132]));
    let bad = [
        layout::RAM,           // system memory
        register_base(0),      // D10: the device's registers
        bounce_base(1),        // D10: where another device's BAR would be
        base - 16,             // straddles the start
        end - 16,              // straddles the end
        end,                   // beyond
        0,                     // never set
        0u64.wrapping_sub(16), // wraps
        u64::MAX - 0xffff,     // wraps later
        base & 0xffff_ffff,    // half an address
        base | 1 << 63,        // one bit too many
    ];
    for address in bad {
        for ring in 0..3 {
            let mut rings = good;
            rings[ring] = address;
            assert!(!accepts(&mut platform, BOUNCE_FEATURES, 16, rings), "{ring} at {address:#x}");
        }
    }
}

/// D10: two devices in one guest do not share their bounce memory.
#[test]
fn rings_in_another_devices_bounce_bar_are_refused() {
    let mut platform = Platform::with_block(Policy::BounceBar);
    platform.bus.create(4, Policy::BounceBar, PAGES, 1, 0).unwrap();
    platform.place_bars(1);
    let other = bounce_base(1);
    let rings = [other, other + 0x1000, other + 0x2000];
    assert!(!accepts(&mut platform, BOUNCE_FEATURES, 16, rings));
    assert!(platform.negotiate(1, BOUNCE_FEATURES));
    assert!(platform.enable_queue(1, 0, 16, rings), "its own device may");
}

#[test]
fn misaligned_rings_are_refused_under_either_policy() {
    for (policy, features, base) in [
        (Policy::BounceBar, BOUNCE_FEATURES, bounce_base(0)),
        (Policy::SharedPages, SHARED_FEATURES, layout::RAM),
        (Policy::ShadowIommu, SHARED_FEATURES, layout::APERTURE),
    ] {
        let mut platform = Platform::with_block(policy);
        let good = [base, base + 0x1000, base + 0x2000];
        for (ring, step) in [(0, 8), (1, 1), (2, 2)] {
            let mut rings = good;
            rings[ring] += step;
            assert!(!accepts(&mut platform, features, 16, rings));
            rings[ring] += step;
            assert!(accepts(&mut platform, features, 16, rings));
        }
    }
}

#[test]
fn shared_pages_rings_stay_inside_the_address_space() {
    rings_stay_inside_the_address_space(Policy::SharedPages, SHARED_FEATURES);
}

/// Where rings are is not looked at otherwise: which of the guest's pages the
/// device reaches, the guest has said by sharing them.
#[test]
fn rings_of_a_legacy_device_stay_inside_the_address_space() {
    rings_stay_inside_the_address_space(Policy::LegacyNoPlatform, 1 << 32);
}

fn rings_stay_inside_the_address_space(policy: Policy, features: u64) {
    let mut platform = Platform::with_block(policy);
    let end = 1 << 39;
    let ram = layout::RAM;
    assert!(accepts(&mut platform, features, 16, [end - 256, ram, ram]));
    for address in [end - 16, end, u64::MAX - 15] {
        assert!(!accepts(&mut platform, features, 16, [address, ram, ram]));
    }
}

/// What its addresses are, its driver has chosen: behind the table or the
/// guest's, and then none is the other.
#[test]
fn rings_of_a_device_whose_driver_chooses_are_where_it_has_chosen() {
    let mut platform = Platform::with_block(Policy::GuestChoice);
    let aperture = [0, 0x1000, 0x2000].map(|offset| layout::APERTURE + offset);
    let physical = [0, 0x1000, 0x2000].map(|offset| layout::RAM + offset);
    assert!(accepts(&mut platform, SHARED_FEATURES, 16, aperture));
    assert_eq!(platform.bus.queue(0, 0).unwrap().base, layout::APERTURE);
    assert!(!accepts(&mut platform, SHARED_FEATURES, 16, physical));
    assert!(accepts(&mut platform, 1 << 32, 16, physical));
    assert_eq!(platform.bus.queue(0, 0).unwrap().base, 0);
}

/// Rings are I/O virtual addresses; the backend is told where in the device's
/// window they are. An address of the guest's own is none of these.
#[test]
fn rings_of_a_device_with_a_table_are_in_its_aperture() {
    let mut platform = Platform::with_block(Policy::ShadowIommu);
    let (start, end) = (0x50_0000_0000, 0x50_4000_0000);
    let good = [start, start + 0x1000, end - 136];
    assert!(accepts(&mut platform, SHARED_FEATURES, 16, good));
    let info = platform.bus.queue(0, 0).unwrap();
    assert_eq!([info.descriptor, info.driver, info.device], [0, 0x1000, 0x3fff_ff78]);
    assert_eq!(info.base, start);
    assert_eq!(platform.bus.bounce_pages(0), 0, "it brings no memory");
    let outside = [0, layout::RAM, layout::PCI_MEM64, start - 0x1000, end, end - 16, end - 132];
    for address in outside.into_iter().chain([1 << 38, u64::MAX - 0xfff]) {
        for (ring, length) in [(0, 256), (1, 38), (2, 134)] {
            if address >= start && address + length <= end {
                continue;
            }
            let mut rings = good;
            rings[ring] = address;
            assert!(!accepts(&mut platform, SHARED_FEATURES, 16, rings), "{ring}: {address:#x}");
        }
    }
}

/// A realm gives its device the addresses of aliases. They are told as they
/// are: which page of RAM that is, is for the backend to work out.
#[test]
fn rings_of_a_realm_are_at_aliases_and_the_backend_is_told_so() {
    let mut platform = Platform::with_block(Policy::SharedPages);
    let alias = 1 << 38 | layout::RAM;
    let rings = [alias, alias + 0x1000, alias + 0x2000];
    assert!(accepts(&mut platform, SHARED_FEATURES, 16, rings));
    let info = platform.bus.queue(0, 0).unwrap();
    assert_eq!([info.descriptor, info.driver, info.device], rings);
    assert_eq!(info.base, 0);
}

/// D5.
#[test]
fn a_queue_has_a_power_of_two_size_and_no_other() {
    let mut platform = Platform::with_block(Policy::BounceBar);
    platform.common_write(0, QUEUE_SELECT, 2, 0);
    let max = platform.common_read(0, QUEUE_SIZE, 2);
    for size in [3, 6, 255, max * 2, max + 1, 0x8000, 0xffff] {
        platform.common_write(0, QUEUE_SIZE, 2, size);
        assert_eq!(platform.common_read(0, QUEUE_SIZE, 2), max, "{size} changes nothing");
    }
    let base = bounce_base(0);
    let rings = [base, base + 0x1000, base + 0x2000];
    for size in [1, 2, 128, max] {
        assert!(accepts(&mut platform, BOUNCE_FEATURES, size, rings));
        assert_eq!(u64::from(platform.bus.queue(0, 0).unwrap().size), size);
    }
    assert!(!accepts(&mut platform, BOUNCE_FEATURES, 0, rings), "size 0 enabled");
}

/// A stock driver takes the size that it finds, and fills it.
#[test]
fn a_queue_is_no_larger_than_its_device_was_made_with() {
    for most in [1, 2, 16, 128, 256] {
        let mut platform = Platform::empty();
        platform.bus.create(2, Policy::BounceBar, PAGES, 2, most).unwrap();
        platform.place_bars(0);
        let most = u64::from(most);
        let base = bounce_base(0);
        let rings = [base, base + 0x1000, base + 0x2000];
        for queue in 0..2 {
            platform.common_write(0, QUEUE_SELECT, 2, queue);
            assert_eq!(platform.common_read(0, QUEUE_SIZE, 2), most);
            platform.common_write(0, QUEUE_SIZE, 2, most * 2);
            assert_eq!(platform.common_read(0, QUEUE_SIZE, 2), most, "larger changes nothing");
        }
        assert!(accepts(&mut platform, BOUNCE_FEATURES, most, rings));
        assert_eq!(u64::from(platform.bus.queue(0, 0).unwrap().size), most);
        platform.set_status(0, 0);
        platform.common_write(0, QUEUE_SELECT, 2, 0);
        assert_eq!(platform.common_read(0, QUEUE_SIZE, 2), most, "also after a reset");
    }
}

/// D5.
#[test]
fn an_enabled_queue_is_frozen() {
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    let before = platform.bus.queue(0, 0).unwrap();
    let elsewhere = bounce_base(0) + 0x8000;
    platform.common_write(0, QUEUE_SELECT, 2, 0);
    platform.common_write(0, QUEUE_SIZE, 2, 128);
    platform.common_write(0, QUEUE_SIZE, 2, 0);
    for field in [QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE] {
        platform.common_write(0, field, 8, elsewhere);
        platform.common_write(0, field, 4, layout::RAM);
    }
    platform.common_write(0, QUEUE_ENABLE, 2, 1);
    platform.common_write(0, QUEUE_ENABLE, 2, 0);
    assert_eq!(platform.common_read(0, QUEUE_ENABLE, 2), 1, "0 is ignored");
    assert_eq!(platform.bus.queue(0, 0).unwrap(), before);
    assert_eq!(platform.status(0), 15, "and a second 1 harms nothing");
}

#[test]
fn address_halves_arrive_in_any_order() {
    let mut platform = Platform::with_block(Policy::BounceBar);
    platform.common_write(0, QUEUE_SELECT, 2, 1);
    platform.common_write(0, QUEUE_DESC + 4, 4, 0x20);
    platform.common_write(0, QUEUE_DESC, 4, 0x1234_5000);
    assert_eq!(platform.common_read(0, QUEUE_DESC, 8), 0x20_1234_5000);
    platform.common_write(0, QUEUE_DESC, 4, 0x6000);
    assert_eq!(platform.common_read(0, QUEUE_DESC + 4, 4), 0x20);
    assert_eq!(platform.common_read(0, QUEUE_DESC, 4), 0x6000);
}

#[test]
fn a_queue_that_does_not_exist_is_empty_and_ignores_writes() {
    let mut platform = Platform::with_block(Policy::BounceBar);
    assert!(platform.negotiate(0, BOUNCE_FEATURES));
    for queue in [2, 7, 8, 0xffff] {
        // It has no rings that could lie in the wrong place.
        assert!(!platform.enable_queue(0, queue, 16, [crate::layout::RAM; 3]));
        assert_eq!(platform.status(0), 11, "the device is not broken");
        assert!(!platform.enable_queue(0, queue, 16, [bounce_base(0); 3]));
        assert_eq!(platform.common_read(0, QUEUE_SIZE, 2), 0);
        assert_eq!(platform.common_read(0, QUEUE_VECTOR, 2), 0xffff);
        assert_eq!(platform.common_read(0, QUEUE_DEVICE, 8), 0);
        assert_eq!(platform.status(0), 11);
        assert!(platform.bus.queue(0, queue as u16).is_err());
    }
}

#[test]
fn one_queue_can_be_reset_and_set_up_anew() {
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    let before = platform.bus.queue(0, 0).unwrap();
    platform.kick(0, 0);
    platform.common_write(0, QUEUE_SELECT, 2, 0);
    let told = platform.status_changes.len();
    platform.common_write(0, QUEUE_RESET, 2, 1);
    assert_eq!(platform.common_read(0, QUEUE_RESET, 2), 0, "complete");
    assert_eq!(platform.common_read(0, QUEUE_ENABLE, 2), 0);
    assert_eq!(platform.status_changes.len(), told + 1, "the host hears of it");
    assert_eq!(platform.bus.state(0).unwrap().notified, 0);
    let info = platform.bus.queue(0, 0).unwrap();
    assert!(!info.enabled);
    assert_eq!(info.resets, before.resets + 1);
    assert!(platform.interrupt(0, 0).is_err());
    platform.kick(0, 0);
    assert_eq!(platform.kicks.len(), 1);
    let base = bounce_base(0) + 0x4000;
    assert!(platform.enable_queue(0, 0, 32, [base, base + 0x1000, base + 0x2000]));
    assert_eq!(platform.status(0), 15);
    platform.kick(0, 0);
    assert_eq!(platform.kicks.len(), 2);
}

#[test]
fn queue_reset_without_its_feature_is_ignored() {
    let mut platform = Platform::with_block(Policy::BounceBar);
    assert!(platform.negotiate(0, BOUNCE_FEATURES));
    let base = bounce_base(0);
    assert!(platform.enable_queue(0, 0, 16, [base; 3]));
    platform.common_write(0, QUEUE_RESET, 2, 1);
    assert!(platform.bus.queue(0, 0).unwrap().enabled);
}
