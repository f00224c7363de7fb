//! H6 and the rules of ISR, INTx and MSI-X: who may interrupt, when, how.

use super::*;
use crate::error::Error;

const CONFIG: u64 = crate::abi::CAUSE_CONFIG;

/// Turns MSI-X on with `data` 80 + vector; entries stay masked.
fn msix_on(platform: &mut Platform) -> u64 {
    let place = platform.msix_place(0);
    let table = register_base(0) + (platform.config_read(0, place + 4, 4) & !7);
    for vector in 0..3 {
        platform.write(table + 16 * vector, 8, layout::MSI_FRAME + 0x40);
        platform.write(table + 16 * vector + 8, 4, 80 + vector);
    }
    platform.config_write(0, place + 2, 2, 0x8000);
    platform.common_write(0, CONFIG_VECTOR, 2, 0);
    platform.common_write(0, QUEUE_SELECT, 2, 0);
    platform.common_write(0, QUEUE_VECTOR, 2, 1);
    table
}

fn unmask(platform: &mut Platform, table: u64, vector: u64) {
    platform.write(table + 16 * vector + 12, 4, 0);
}

fn pending(platform: &mut Platform) -> u64 {
    let place = platform.msix_place(0);
    let bits = register_base(0) + (platform.config_read(0, place + 8, 4) & !7);
    platform.read(bits, 8).unwrap()
}

/// H6.
#[test]
fn no_interrupt_before_driver_ok_after_reset_or_from_a_bad_queue() {
    let mut platform = Platform::with_block(Policy::BounceBar);
    assert_eq!(platform.interrupt(0, 0), Err(Error::Denied));
    assert_eq!(platform.interrupt(0, CONFIG), Err(Error::Denied));
    assert!(platform.negotiate(0, BOUNCE_FEATURES));
    assert!(platform.enable_queue(0, 0, 16, [bounce_base(0); 3]));
    assert_eq!(platform.interrupt(0, 0), Err(Error::Denied));
    assert_eq!(platform.interrupt(0, CONFIG), Err(Error::Denied));
    platform.set_status(0, 15);
    assert_eq!(platform.interrupt(0, 0), Ok(()));
    assert_eq!(platform.interrupt(0, 1), Err(Error::Denied), "not enabled");
    for cause in [2, 8, 63, 64, 0xfffe, 0x1_0000, u64::MAX] {
        assert_eq!(platform.interrupt(0, cause), Err(Error::NotFound));
    }
    assert_eq!(platform.interrupt(1, 0), Err(Error::NotFound));
    platform.set_status(0, 0);
    assert_eq!(platform.lines, [false; 4], "the reset lowered the line");
    assert_eq!(platform.interrupt(0, 0), Err(Error::Denied));
    assert_eq!(platform.interrupt(0, CONFIG), Err(Error::Denied));
    assert_eq!(platform.isr(0), 0);
}

/// H6: a storm is one level, however often the host calls.
#[test]
fn a_storm_on_a_line_is_one_assertion() {
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    for _ in 0..1000 {
        platform.interrupt(0, 0).unwrap();
        platform.interrupt(0, CONFIG).unwrap();
    }
    assert_eq!(platform.lines, [false, true, false, false]);
    assert_eq!(platform.isr(0), 3);
    assert_eq!(platform.lines, [false; 4]);
}

/// Creates the next device, which is number `index`, and lets its driver
/// bring it up with one queue.
fn add_live(platform: &mut Platform, index: usize) {
    platform.bus.create(4, Policy::BounceBar, 16, 1, 0).unwrap();
    platform.place_bars(index);
    assert!(platform.negotiate(index, BOUNCE_FEATURES));
    assert!(platform.enable_queue(index, 0, 16, [bounce_base(index); 3]));
    platform.set_status(index, 15);
}

#[test]
fn slots_take_the_lines_in_turn() {
    let mut platform = Platform::empty();
    for index in 0..crate::abi::MAX_DEVICES {
        add_live(&mut platform, index);
        platform.interrupt(index, 0).unwrap();
        let line = (index + 1) % 4;
        assert!(platform.lines[line]);
        assert_eq!(platform.isr(index), 1);
        assert_eq!(platform.lines, [false; 4]);
    }
}

/// PCI Local Bus 3.0, 2.2.6: lines are level sensitive and may be shared; one
/// is asserted until the last device that wants it has been served.
#[test]
fn a_shared_line_falls_with_the_last_that_asserts_it() {
    let mut platform = Platform::empty();
    for index in 0..crate::abi::MAX_DEVICES {
        add_live(&mut platform, index);
    }
    let line_1 = [false, true, false, false];
    // Each way in which a device lets go, with the other one still there.
    let ways: [fn(&mut Platform, usize); 4] = [
        |platform, index| assert_eq!(platform.isr(index), 1),
        |platform, index| platform.set_status(index, 0),
        |platform, index| platform.config_write(index, COMMAND, 2, MEMORY | MASTER | 0x400),
        |platform, index| {
            let place = platform.msix_place(index);
            platform.config_write(index, place + 2, 2, 0x8000);
        },
    ];
    let [first, second] = [0, 4];
    for let_go in ways {
        for (one, other) in [(first, second), (second, first)] {
            for index in [one, other] {
                let place = platform.msix_place(index);
                platform.config_write(index, place + 2, 2, 0);
                platform.config_write(index, COMMAND, 2, MEMORY | MASTER);
                assert!(platform.negotiate(index, BOUNCE_FEATURES));
                assert!(platform.enable_queue(index, 0, 16, [bounce_base(index); 3]));
                platform.set_status(index, 15);
                platform.interrupt(index, 0).unwrap();
                assert_eq!(platform.lines, line_1);
            }
            let_go(&mut platform, one);
            assert_eq!(platform.lines, line_1, "the other one has not been served");
            assert_eq!(platform.isr(other), 1, "whose reason is its own");
            assert_eq!(platform.lines, [false; 4]);
        }
    }
    // A device of another line is none of theirs.
    platform.interrupt(1, 0).unwrap();
    assert_eq!(platform.lines, [false, false, true, false]);
}

#[test]
fn intx_disable_hides_the_line_but_not_the_reason() {
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    platform.interrupt(0, 0).unwrap();
    platform.config_write(0, COMMAND, 2, MEMORY | MASTER | 0x400);
    assert_eq!(platform.lines, [false; 4]);
    assert_eq!(platform.config_read(0, 6, 2) & 8, 8, "still pending in the status register");
    platform.config_write(0, COMMAND, 2, MEMORY | MASTER);
    assert!(platform.lines[1]);
    assert_eq!(platform.isr(0), 1);
    assert_eq!(platform.config_read(0, 6, 2) & 8, 0);
}

#[test]
fn a_masked_vector_waits_in_the_pending_bits() {
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    let table = msix_on(&mut platform);
    for _ in 0..5 {
        platform.interrupt(0, 0).unwrap();
    }
    assert!(platform.messages.is_empty());
    assert_eq!(pending(&mut platform), 0b10);
    unmask(&mut platform, table, 1);
    assert_eq!(platform.messages, [(layout::MSI_FRAME + 0x40, 81)], "once");
    assert_eq!(pending(&mut platform), 0);
    platform.interrupt(0, 0).unwrap();
    assert_eq!(platform.messages.len(), 2);
    assert_eq!(platform.lines, [false; 4], "never both kinds");
    assert_eq!(platform.isr(0), 0, "ISR bit 0 is only for the line");
}

#[test]
fn the_function_mask_holds_every_vector() {
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    let table = msix_on(&mut platform);
    unmask(&mut platform, table, 0);
    unmask(&mut platform, table, 1);
    let place = platform.msix_place(0);
    platform.config_write(0, place + 2, 2, 0xc000);
    platform.interrupt(0, 0).unwrap();
    platform.interrupt(0, CONFIG).unwrap();
    assert!(platform.messages.is_empty());
    platform.config_write(0, place + 3, 1, 0x80);
    let frame = layout::MSI_FRAME + 0x40;
    assert_eq!(platform.messages, [(frame, 80), (frame, 81)]);
}

/// A message is a write by the function; without bus mastering it waits.
#[test]
fn no_message_without_bus_mastering() {
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    let table = msix_on(&mut platform);
    unmask(&mut platform, table, 1);
    platform.config_write(0, COMMAND, 2, MEMORY);
    platform.interrupt(0, 0).unwrap();
    assert!(platform.messages.is_empty());
    platform.config_write(0, COMMAND, 2, MEMORY | MASTER);
    assert_eq!(platform.messages.len(), 1);
}

#[test]
fn pending_interrupts_do_not_survive_a_reset() {
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    let table = msix_on(&mut platform);
    platform.interrupt(0, 0).unwrap();
    platform.interrupt(0, CONFIG).unwrap();
    platform.set_status(0, 0);
    unmask(&mut platform, table, 0);
    unmask(&mut platform, table, 1);
    assert!(platform.messages.is_empty());
    assert_eq!(pending(&mut platform), 0);
}

#[test]
fn turning_msix_on_takes_the_line_away_and_off_forgets_what_waited() {
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    platform.interrupt(0, 0).unwrap();
    assert!(platform.lines[1]);
    let table = msix_on(&mut platform);
    assert_eq!(platform.lines, [false; 4]);
    assert_eq!(platform.isr(0), 1);
    platform.interrupt(0, 0).unwrap();
    assert_eq!(pending(&mut platform), 0b10);
    let place = platform.msix_place(0);
    platform.config_write(0, place + 2, 2, 0);
    platform.config_write(0, place + 2, 2, 0x8000);
    unmask(&mut platform, table, 1);
    assert!(platform.messages.is_empty());
}

/// D9.
#[test]
fn a_vector_out_of_range_reads_back_as_none() {
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    msix_on(&mut platform);
    for vector in [3, 9, 16, 0x7fff, 0xfffe, 0xffff] {
        platform.common_write(0, CONFIG_VECTOR, 2, vector);
        assert_eq!(platform.common_read(0, CONFIG_VECTOR, 2), 0xffff);
        platform.common_write(0, QUEUE_VECTOR, 2, vector);
        assert_eq!(platform.common_read(0, QUEUE_VECTOR, 2), 0xffff);
    }
    platform.interrupt(0, 0).unwrap();
    platform.interrupt(0, CONFIG).unwrap();
    assert!(platform.messages.is_empty());
    assert_eq!(pending(&mut platform), 0);
}

#[test]
fn a_change_of_configuration_sets_isr_bit_1_either_way() {
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    let effects = platform.bus.config_write(0, 0, 4096, 8, true).unwrap();
    platform.carry_out(effects);
    assert!(platform.lines[1]);
    assert_eq!(platform.isr(0), 2);
    let table = msix_on(&mut platform);
    unmask(&mut platform, table, 0);
    let effects = platform.bus.config_write(0, 0, 8192, 8, true).unwrap();
    platform.carry_out(effects);
    assert_eq!(platform.messages, [(layout::MSI_FRAME + 0x40, 80)]);
    assert_eq!(platform.isr(0), 2);
}

/// Section 2.1.2, and H7: at any time once a driver has the device.
#[test]
fn a_backend_that_fails_tells_the_driver() {
    let mut platform = Platform::with_block(Policy::BounceBar);
    assert_eq!(platform.fail(0), Err(Error::Denied), "a reset always completes");
    platform.set_status(0, 3);
    assert_eq!(platform.fail(0), Ok(()));
    assert_eq!(platform.status(0), 3 | 64);
    assert_eq!(platform.lines, [false; 4], "not set up: it will look");
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    assert_eq!(platform.fail(0), Ok(()));
    assert_eq!(platform.status(0), 15 | 64);
    assert!(platform.lines[1]);
    assert_eq!(platform.isr(0), 2);
    platform.kick(0, 0);
    assert!(platform.kicks.is_empty(), "nothing more is served");
    assert_eq!(platform.interrupt(0, 0), Err(Error::Denied));
    assert_eq!(platform.fail(1), Err(Error::NotFound));
    assert!(platform.negotiate(0, BOUNCE_FEATURES), "until it is reset");
}

#[test]
fn the_msix_table_keeps_only_what_it_means() {
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    let place = platform.msix_place(0);
    let table = register_base(0) + (platform.config_read(0, place + 4, 4) & !7);
    platform.write(table, 4, 0xffff_ffff);
    platform.write(table + 12, 4, 0xffff_ffff);
    assert_eq!(platform.read(table, 4), Some(0xffff_fffc), "messages are 32 bits, aligned");
    assert_eq!(platform.read(table + 12, 4), Some(1));
    platform.write(table + 8, 8, 0x1_0000_0055);
    assert_eq!(platform.read(table + 8, 8), Some(0x1_0000_0055));
    for (offset, size) in [(8, 1), (8, 2), (10, 2), (4, 8)] {
        platform.write(table + offset, size, 0);
        let ones = platform.read(table + offset, size).unwrap();
        assert!(ones & 0xff == 0xff || size == 8);
    }
    assert_eq!(platform.read(table + 8, 4), Some(0x55), "bytes and halves are ignored");
    assert_eq!(platform.read(table + 16 * 3, 4), Some(0xffff_ffff), "two queues, three vectors");
    let bits = register_base(0) + (platform.config_read(0, place + 8, 4) & !7);
    platform.write(bits, 8, u64::MAX);
    assert_eq!(platform.read(bits, 8), Some(0), "pending bits are read-only");
}

/// A wide read of ISR, or one beside it, is none: nothing is acknowledged.
#[test]
fn only_a_byte_read_of_isr_acknowledges() {
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    let isr = platform.structure(0, 3).unwrap();
    let address = register_base(0) + isr.offset;
    platform.interrupt(0, 0).unwrap();
    assert!(platform.lines.contains(&true));
    for (offset, size) in [(0, 2), (0, 4), (0, 8), (1, 1), (2, 2), (3, 1)] {
        let ones = u64::MAX >> (64 - 8 * size);
        assert_eq!(platform.read(address + offset, size as u8), Some(ones), "{offset} {size}");
        assert!(platform.lines.contains(&true));
    }
    assert_eq!(platform.read(address, 1), Some(1));
    assert!(!platform.lines.contains(&true));
}
