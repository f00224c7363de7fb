//! Device Memory Buffer (the proposal of August 2026; where it is published
//! stands at `policy::provisional`): each of its rules for a device.

use super::*;
use crate::addr::{Gfn, Pfn};

/// `dmb_shm_id`, and the memory type behind it.
const SHM_ID: u64 = 0x40;
const MEMORY_TYPE: u64 = 0x42;

/// Tries to enable queue 0 with these rings; a refusal must break the device.
fn accepts(platform: &mut Platform, rings: [u64; 3]) -> bool {
    assert!(platform.negotiate(0, MEMORY_FEATURES));
    let enabled = platform.enable_queue(0, 0, 16, rings);
    assert_eq!(platform.status(0) & 64 == 0, enabled, "refused means NEEDS_RESET");
    assert_eq!(platform.bus.queue(0, 0).unwrap().enabled, enabled);
    enabled
}

const GOOD: [u64; 3] = [0x1000, 0x2000, 0x3000];

/// "a device offering the feature must present a common configuration
/// structure long enough to contain the field"; both fields are read-only.
#[test]
fn the_common_configuration_says_which_region_it_is_and_of_what() {
    let mut platform = Platform::with_block(Policy::DeviceMemory);
    let common = platform.structure(0, 1).unwrap();
    assert_eq!((common.bar, common.length), (0, 0x44), "all of virtio 1.4's 64 bytes, and these");
    let id = platform.common_read(0, SHM_ID, 2);
    assert!(id <= 255, "a capability's id has 8 bits");
    assert_eq!(platform.common_read(0, MEMORY_TYPE, 2), 1, "coherent");
    for size in [1, 4, 8] {
        let ones = !0u64 >> (64 - 8 * size);
        assert_eq!(platform.common_read(0, SHM_ID, size as u8), ones, "{size} bytes");
    }
    for field in [SHM_ID, MEMORY_TYPE] {
        platform.common_write(0, field, 2, 7);
    }
    assert_eq!(platform.common_read(0, SHM_ID, 2), id);
    assert_eq!(platform.common_read(0, MEMORY_TYPE, 2), 1);
    assert_eq!(platform.common_read(0, 0x44, 2), 0xffff, "and nothing behind them");
}

#[test]
fn other_policies_have_no_such_fields() {
    for policy in [Policy::BounceBar, Policy::SharedPages] {
        let mut platform = Platform::with_block(policy);
        assert_eq!(platform.structure(0, 1).unwrap().length, 64);
        for field in [SHM_ID, MEMORY_TYPE] {
            assert_eq!(platform.common_read(0, field, 2), 0xffff);
        }
    }
}

/// Virtio 1.4, 4.1.4.7, and the proposal: "exactly one shared memory region
/// for the Device Memory Buffer", whose id the device type does not define
/// (those that this transport has define none).
#[test]
fn the_buffer_is_a_shared_memory_region_of_that_id() {
    let mut platform = Platform::with_block(Policy::DeviceMemory);
    let region = platform.structure(0, 8).unwrap();
    assert_eq!(platform.config_read(0, region.place + 2, 1), 24, "a virtio_pci_cap64");
    let id = platform.config_read(0, region.place + 5, 1);
    assert_eq!(id, platform.common_read(0, SHM_ID, 2));
    assert_eq!((region.bar, region.offset, region.length), (2, 0, BOUNCE_BYTES));
    assert_eq!(platform.config_read(0, region.place + 16, 4), 0, "offset, upper half");
    assert_eq!(platform.config_read(0, region.place + 20, 4), 0, "length, upper half");
    let next = platform.config_read(0, region.place + 1, 1);
    assert!(next == 0 || next >= region.place + 24, "it lies in no other capability");
    // It counts once, and MSI-X still has its vectors.
    let msix = platform.msix_place(0);
    assert!(msix >= region.place + 24 || msix + 12 <= region.place);
    assert_eq!(platform.config_read(0, msix + 2, 2) & 0x7ff, 2);
}

/// "It must interpret every address … as an offset from the start of the
/// region, and must not interpret any of them as a physical or bus address."
#[test]
fn ring_addresses_are_offsets_and_nothing_else() {
    let mut platform = Platform::with_block(Policy::DeviceMemory);
    assert!(accepts(&mut platform, GOOD));
    let info = platform.bus.queue(0, 0).unwrap();
    assert_eq!([info.descriptor, info.driver, info.device], GOOD);
    assert_eq!(info.base, 0, "the backend needs no address of the BAR");
    let bar = bounce_base(0) + 0x1000;
    for address in [bar, layout::RAM, register_base(0), bounce_base(1)] {
        for ring in 0..3 {
            let mut rings = GOOD;
            rings[ring] = address;
            assert!(!accepts(&mut platform, rings), "{ring} at {address:#x}");
        }
    }
}

/// "It must check that the offset together with the length of that structure
/// lies within the region and does not overflow."
#[test]
fn rings_outside_straddling_or_wrapping_the_region_are_refused() {
    let mut platform = Platform::with_block(Policy::DeviceMemory);
    let end = BOUNCE_BYTES;
    // The last byte of each ring may be the region's last.
    assert!(accepts(&mut platform, [end - 256, GOOD[1], GOOD[2]]));
    assert!(accepts(&mut platform, [GOOD[0], end - 38, GOOD[2]]));
    assert!(accepts(&mut platform, [GOOD[0], GOOD[1], end - 136]));
    assert!(!accepts(&mut platform, [end - 240, GOOD[1], GOOD[2]]));
    assert!(!accepts(&mut platform, [GOOD[0], end - 36, GOOD[2]]));
    assert!(!accepts(&mut platform, [GOOD[0], GOOD[1], end - 132]));
    for address in [end - 16, end, end + 0x1000, 1 << 32, 0u64.wrapping_sub(16), u64::MAX - 0xffff]
    {
        for ring in 0..3 {
            let mut rings = GOOD;
            rings[ring] = address;
            assert!(!accepts(&mut platform, rings), "{ring} at {address:#x}");
        }
    }
}

/// The rest of a BAR that is larger than the memory behind it is not there.
#[test]
fn the_region_ends_where_its_frames_do() {
    let mut platform = Platform::empty();
    platform.bus.create(2, Policy::DeviceMemory, 48, 1, 0).unwrap();
    platform.place_bars(0);
    assert_eq!(platform.structure(0, 8).unwrap().length, 48 * 4096);
    assert!(accepts(&mut platform, [47 * 4096, GOOD[1], GOOD[2]]));
    assert!(!accepts(&mut platform, [48 * 4096, GOOD[1], GOOD[2]]));
}

/// "Offset zero is never published": what is there is no structure's.
#[test]
fn offset_zero_is_the_address_of_nothing() {
    let mut platform = Platform::with_block(Policy::DeviceMemory);
    for ring in 0..3 {
        let mut rings = GOOD;
        rings[ring] = 0;
        assert!(!accepts(&mut platform, rings), "ring {ring}");
        // The reservation is of 0 alone: the page is the driver's to avoid.
        rings[ring] = 16;
        assert!(accepts(&mut platform, rings), "ring {ring}");
    }
}

/// A driver that goes on without having been granted the contract has no queue
/// and no notification.
#[test]
fn a_driver_that_declines_the_buffer_gets_nothing() {
    for declined in [1 << 32, 1 << 33, 1 << 44] {
        let mut platform = Platform::with_block(Policy::DeviceMemory);
        let offered = platform.offered(0);
        assert!(!platform.negotiate(0, offered & !declined));
        assert!(!platform.enable_queue(0, 0, 16, GOOD));
        platform.set_status(0, 15);
        platform.kick(0, 0);
        assert_eq!(platform.status(0) & (4 | 8), 0);
        assert!(platform.kicks.is_empty());
        assert!(platform.interrupt(0, 0).is_err());
    }
}

/// No address of the BAR is in anything the driver gave: it may be moved, and
/// even be away, at any time.
#[test]
fn a_live_queue_does_not_care_where_the_bar_is() {
    let mut platform = Platform::with_live_block(Policy::DeviceMemory);
    platform.bus.set_bounce_frame(0, 1, Pfn::new(0x9001).unwrap()).unwrap();
    let before = platform.bus.queue(0, 0).unwrap();
    let here = platform.bus.bounce_window(0).unwrap();
    platform.config_write(0, BAR2, 4, bounce_base(3));
    assert_eq!(platform.closed, [here], "stage 2 follows, as with a bounce BAR");
    let page = Gfn::containing(bounce_base(3) + 0x1000).unwrap();
    assert_eq!(platform.bus.bounce_page_at(page), Some((0, 1)));
    assert_eq!(platform.bus.bounce_frame(0, 1), Pfn::new(0x9001));
    assert_eq!(platform.bus.queue(0, 0).unwrap(), before);
    platform.kick(0, 0);
    assert_eq!(platform.kicks, [(0, 0)]);
    // Outside of the bridge's windows it is nowhere. Queues can be set up.
    platform.config_write(0, BAR2 + 4, 4, 0);
    assert_eq!(platform.bus.bounce_window(0), None);
    assert!(accepts(&mut platform, GOOD));
}

/// H8: the fields and the capability are the same after a reset.
#[test]
fn a_reset_changes_nothing_about_the_region() {
    let mut platform = Platform::with_live_block(Policy::DeviceMemory);
    let look = |platform: &mut Platform| {
        let fields = [SHM_ID, MEMORY_TYPE].map(|field| platform.common_read(0, field, 2));
        (fields, platform.structure(0, 8), platform.offered(0))
    };
    let before = look(&mut platform);
    platform.set_status(0, 0);
    assert_eq!(look(&mut platform), before);
}
