//! PCI Local Bus 3.0, 6.2.2, bit 2 of the command register: "Controls a
//! device's ability to act as a master on the PCI bus. A value of 0 disables
//! the device from generating PCI accesses." A driver clears it when it wants
//! its memory for itself: Linux at suspend and before kexec.

use super::*;
use crate::error::Error;

fn master(platform: &mut Platform, on: bool) {
    platform.config_write(0, COMMAND, 2, MEMORY | if on { MASTER } else { 0 });
}

/// State after reset is 0 (the same paragraph).
#[test]
fn a_device_is_no_master_before_its_driver_says_so() {
    let mut platform = Platform::empty();
    platform.bus.create(2, Policy::BounceBar, PAGES, 2, 0).unwrap();
    assert_eq!(platform.config_read(0, COMMAND, 2) & MASTER, 0);
    assert!(!platform.bus.state(0).unwrap().bus_master);
    platform.place_bars(0);
    assert!(platform.bus.state(0).unwrap().bus_master);
}

#[test]
fn a_kick_without_bus_mastering_reaches_nobody_until_there_is() {
    for policy in [Policy::BounceBar, Policy::SharedPages, Policy::DeviceMemory] {
        let mut platform = Platform::with_live_block(policy);
        master(&mut platform, false);
        let told = platform.status_changes.len();
        for _ in 0..3 {
            platform.kick(0, 0);
            assert_eq!(platform.bus.state(0).unwrap().notified, 0, "asked for, it is not told");
        }
        assert!(platform.kicks.is_empty() && platform.status_changes.len() == told);
        // What waited is told once, and without another kick.
        master(&mut platform, true);
        assert_eq!(platform.status_changes.len(), told + 1);
        let state = platform.bus.state(0).unwrap();
        assert_eq!((state.bus_master, state.notified), (true, 0b1));
        assert_eq!(platform.bus.state(0).unwrap().notified, 0);
        assert!(platform.kicks.is_empty());
        platform.kick(0, 0);
        assert_eq!(platform.kicks, [(0, 0)]);
    }
}

/// A kick that the backend had not asked about yet waits as well.
#[test]
fn a_kick_of_before_is_not_told_of_meanwhile() {
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    platform.kick(0, 0);
    master(&mut platform, false);
    assert_eq!(platform.bus.state(0).unwrap().notified, 0);
    master(&mut platform, true);
    assert_eq!(platform.bus.state(0).unwrap().notified, 0b1);
}

/// The backend hears of either change before the driver goes on: it has to
/// leave the rings alone from then on.
#[test]
fn the_backend_of_a_live_device_hears_of_each_change() {
    let mut platform = Platform::with_block(Policy::BounceBar);
    for on in [false, true, false, true] {
        master(&mut platform, on);
    }
    assert!(platform.status_changes.is_empty(), "nobody has set the device up");
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    let told = platform.status_changes.len();
    for (count, on) in [(1, false), (1, false), (2, true), (2, true), (3, false)] {
        master(&mut platform, on);
        assert_eq!(platform.status_changes.len(), told + count);
        let state = platform.bus.state(0).unwrap();
        assert_eq!((state.bus_master, state.status), (on, 15), "and nothing else changes");
    }
    // A write of the other byte, or of another bit, is none.
    platform.config_write(0, COMMAND + 1, 1, 0x04);
    platform.config_write(0, COMMAND, 1, 0);
    assert_eq!(platform.status_changes.len(), told + 3);
}

#[test]
fn a_reset_forgets_what_waited() {
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    master(&mut platform, false);
    platform.kick(0, 0);
    platform.set_status(0, 0);
    master(&mut platform, true);
    assert_eq!(platform.bus.state(0).unwrap().notified, 0);
}

/// Mastering is no part of virtio: a driver may set the device up without it,
/// and the same rules of negotiation hold.
#[test]
fn a_device_can_be_set_up_before_it_is_a_master() {
    let mut platform = Platform::with_block(Policy::DeviceMemory);
    master(&mut platform, false);
    assert!(!platform.negotiate(0, MEMORY_FEATURES & !(1 << 44)));
    assert!(platform.negotiate(0, MEMORY_FEATURES));
    assert!(platform.enable_queue(0, 0, 16, [0x1000, 0x2000, 0x3000]));
    platform.set_status(0, 15);
    platform.kick(0, 0);
    assert!(platform.kicks.is_empty());
    master(&mut platform, true);
    assert_eq!(platform.bus.state(0).unwrap().notified, 0b1);
}

/// A line is a wire, not an access: the bit does not hold it. (Messages are
/// accesses: `interrupts::no_message_without_bus_mastering`.)
#[test]
fn the_line_is_no_matter_of_mastering() {
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    master(&mut platform, false);
    assert_eq!(platform.interrupt(0, 0), Ok(()));
    assert!(platform.lines[1]);
    assert_eq!(platform.isr(0), 1);
    assert_eq!(platform.interrupt(0, 1), Err(Error::Denied), "not enabled");
}
