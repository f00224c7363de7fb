//! H5 and H8: a host that changes its mind, and a contract that does not.

use super::*;
use crate::error::Error;

/// All a driver can learn of the contract.
fn contract(platform: &mut Platform) -> (u64, Vec<u64>) {
    let offered = platform.offered(0);
    let mut space: Vec<u64> = (0..64).map(|word| platform.config_read(0, 4 * word, 4)).collect();
    space[1] &= !0xffff_ffff; // command and status: the driver's own
    (offered, space)
}

/// H8: no call of the host's after the start changes bits or capabilities.
#[test]
fn the_contract_is_the_same_after_every_reset() {
    let mut platform = Platform::with_block(Policy::BounceBar);
    platform.bus.config_write(0, 0, 4096, 8, false).unwrap();
    let before = contract(&mut platform);
    for offset in 0..64 {
        platform.bus.config_write(0, offset, 0xff, 1, true).unwrap();
    }
    let _ = platform.fail(0);
    assert_eq!(contract(&mut platform), before, "filling SEG_MAX late adds no feature");
    platform.set_status(0, 0);
    assert_eq!(contract(&mut platform), before);
    assert!(platform.negotiate(0, before.0));
    let base = bounce_base(0);
    assert!(platform.enable_queue(0, 0, 16, [base; 3]));
    platform.set_status(0, 15);
    let _ = platform.fail(0);
    platform.set_status(0, 0);
    assert_eq!(contract(&mut platform), before);
    assert!(platform.negotiate(0, before.0), "what was accepted once is accepted again");
}

/// H5: a driver that brackets its reads with the generation sees each change.
#[test]
fn the_generation_changes_when_the_configuration_was_read_and_changed() {
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    let config = register_base(0) + platform.structure(0, 4).unwrap().offset;
    let host_writes = |platform: &mut Platform, value: u64| {
        let effects = platform.bus.config_write(0, 0, value, 8, true).unwrap();
        platform.carry_out(effects);
    };
    host_writes(&mut platform, 0x1111_1111_1111_1111);
    let start = platform.common_read(0, GENERATION, 1);
    assert_eq!(platform.common_read(0, GENERATION, 1), start, "stable while nothing changes");
    assert_eq!(platform.read(config, 4), Some(0x1111_1111));
    host_writes(&mut platform, 0x2222_2222_2222_2222);
    assert_eq!(platform.read(config + 4, 4), Some(0x2222_2222), "torn");
    assert_ne!(platform.common_read(0, GENERATION, 1), start, "and visible as torn");
    // 256 changes between two reads do not bring the same number back.
    let start = platform.common_read(0, GENERATION, 1);
    for value in 0..256 {
        host_writes(&mut platform, value);
    }
    assert_eq!(platform.read(config, 4), Some(255));
    assert_ne!(platform.common_read(0, GENERATION, 1), start);
}

#[test]
fn the_hosts_configuration_writes_stay_inside_the_structure() {
    let mut platform = Platform::with_block(Policy::BounceBar);
    platform.bus.create(4, Policy::SharedPages, 0, 1, 0).unwrap();
    let bus = &mut platform.bus;
    for (offset, bytes) in
        [(0, 0), (0, 9), (0, 255), (57, 8), (64, 1), (65, 1), (u64::MAX, 1), (u64::MAX - 7, 8)]
    {
        assert_eq!(bus.config_write(0, offset, 0, bytes, false), Err(Error::InvalidParameter));
    }
    assert!(bus.config_write(0, 56, 1, 8, false).is_ok());
    assert!(bus.config_write(0, 61, 0x0003_0201, 3, false).is_ok(), "any number of bytes");
    assert_eq!(bus.config_write(1, 0, 0, 1, false), Err(Error::InvalidParameter), "no structure");
    assert_eq!(bus.config_write(2, 0, 0, 1, false), Err(Error::NotFound));
    let config = register_base(0) + platform.structure(0, 4).unwrap().offset;
    assert_eq!(platform.read(config + 56, 8), Some(0x0302_0100_0000_0001));
    platform.write(config, 8, 0xdead);
    assert_eq!(platform.read(config, 8), Some(0), "read-only to the driver");
}

/// A change before the driver is set up is seen when it reads, not signalled.
#[test]
fn configuration_changes_before_driver_ok_do_not_interrupt() {
    let mut platform = Platform::with_block(Policy::BounceBar);
    assert!(platform.negotiate(0, BOUNCE_FEATURES));
    let start = platform.common_read(0, GENERATION, 1);
    let effects = platform.bus.config_write(0, 0, 7, 8, true).unwrap();
    assert!(effects.signals.is_empty());
    assert_ne!(platform.common_read(0, GENERATION, 1), start);
}

#[test]
fn calls_about_devices_that_do_not_exist_are_refused() {
    let mut bus = PciBus::new();
    for device in [0, 1, 4, usize::MAX] {
        assert_eq!(bus.state(device), Err(Error::NotFound));
        assert_eq!(bus.queue(device, 0), Err(Error::NotFound));
        assert_eq!(bus.interrupt(device, 0), Err(Error::NotFound));
        assert_eq!(bus.fail(device), Err(Error::NotFound));
        assert_eq!(bus.bounce_window(device), None);
        assert_eq!(bus.bounce_frame(device, 0), None);
        assert_eq!(bus.take_bounce_frame(device, 0), None);
        assert_eq!(bus.bounce_pages(device), 0);
    }
    assert!(bus.is_complete());
}
