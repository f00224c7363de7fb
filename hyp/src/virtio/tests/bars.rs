//! BARs move, are sized and are switched off; contents and promises stay.

use super::*;
use crate::addr::{Gfn, Pfn};

fn window(platform: &Platform) -> Option<u64> {
    platform.bus.bounce_window(0).map(|window| window.start().base())
}

#[test]
fn nothing_is_decoded_before_the_guest_turns_it_on() {
    let mut platform = Platform::empty();
    platform.bus.create(2, Policy::BounceBar, PAGES, 1, 0).unwrap();
    assert_eq!(window(&platform), None);
    platform.config_write(0, BAR0, 4, register_base(0));
    platform.config_write(0, BAR2, 4, bounce_base(0));
    platform.config_write(0, BAR2 + 4, 4, bounce_base(0) >> 32);
    assert_eq!(platform.read(register_base(0), 4), None);
    assert_eq!(window(&platform), None);
    platform.config_write(0, COMMAND, 2, MEMORY);
    assert!(platform.read(register_base(0), 4).is_some());
    assert!(platform.read(register_base(0) + REGISTER_BAR_SIZE - 4, 4).is_some());
    assert_eq!(platform.read(register_base(0) + REGISTER_BAR_SIZE, 4), None);
    assert_eq!(platform.read(register_base(0) - 4, 4), None);
    assert_eq!(window(&platform), Some(bounce_base(0)));
    assert!(platform.closed.is_empty(), "opening closes nothing");
}

/// Stage 2 must follow the window, in every way the window can go away.
#[test]
fn a_window_that_moves_or_closes_is_reported_to_be_unmapped() {
    let mut platform = Platform::with_block(Policy::BounceBar);
    let here = platform.bus.bounce_window(0).unwrap();
    assert_eq!((here.start().base(), here.count()), (bounce_base(0), PAGES));

    platform.config_write(0, COMMAND, 2, MASTER);
    assert_eq!((platform.closed.pop(), window(&platform)), (Some(here), None));
    platform.config_write(0, COMMAND, 2, MASTER | MEMORY);
    assert_eq!((platform.closed.pop(), window(&platform)), (None, Some(bounce_base(0))));

    // Sizing with decode on: gone while the BAR is all ones, back afterwards.
    platform.config_write(0, BAR2, 4, 0xffff_ffff);
    assert_eq!(platform.closed.pop(), Some(here));
    assert_eq!(platform.config_read(0, BAR2, 4), 0xfff0_000c);
    platform.config_write(0, BAR2, 4, bounce_base(0));
    assert_eq!(window(&platform), Some(bounce_base(0)));

    platform.config_write(0, BAR2, 4, bounce_base(1));
    assert_eq!(platform.closed.last(), Some(&here));
    assert_eq!(window(&platform), Some(bounce_base(1)));

    // A byte of it is enough, and a write that changes nothing is not.
    platform.closed.clear();
    platform.config_write(0, BAR2 + 3, 1, 0x02);
    assert_eq!(platform.closed.len(), 1);
    platform.config_write(0, BAR2 + 3, 1, 0x02);
    platform.config_write(0, COMMAND, 2, MASTER | MEMORY);
    platform.config_write(0, BAR2, 1, 0xff);
    assert_eq!(platform.closed.len(), 1);
}

#[test]
fn a_page_keeps_its_frame_wherever_the_bar_goes() {
    let mut platform = Platform::with_block(Policy::BounceBar);
    for page in 0..PAGES {
        platform.bus.set_bounce_frame(0, page, Pfn::new(0x9000 + page).unwrap()).unwrap();
    }
    let frame_at = |platform: &Platform, address: u64| {
        let (device, page) = platform.bus.bounce_page_at(Gfn::containing(address)?)?;
        platform.bus.bounce_frame(device, page)
    };
    let old = bounce_base(0);
    let new = layout::PCI_MEM64 + layout::PCI_MEM64_SIZE - BOUNCE_BYTES;
    assert_eq!(frame_at(&platform, old + 0x7fff), Pfn::new(0x9007));
    platform.config_write(0, BAR2, 4, new);
    platform.config_write(0, BAR2 + 4, 4, new >> 32);
    assert_eq!(frame_at(&platform, old + 0x7fff), None);
    assert_eq!(frame_at(&platform, new + 0x7fff), Pfn::new(0x9007));
    assert_eq!(frame_at(&platform, new + BOUNCE_BYTES - 1), Pfn::new(0x90ff));
    assert_eq!(frame_at(&platform, new - 1), None);
    platform.set_status(0, 0);
    assert_eq!(frame_at(&platform, new), Pfn::new(0x9000), "a reset does not touch memory");
}

/// M8 and G2 from the guest's side: only the bridge's windows are forwarded.
#[test]
fn a_bar_over_ram_or_the_interrupt_controller_is_not_there() {
    let mut platform = Platform::with_block(Policy::BounceBar);
    for base in [layout::RAM, 0, layout::GICD & !0xf_ffff, 1 << 38, 1 << 39, 1 << 63, !0xf_ffff] {
        platform.config_write(0, BAR2, 4, base);
        platform.config_write(0, BAR2 + 4, 4, base >> 32);
        assert_eq!(window(&platform), None, "{base:#x}");
    }
    let common = 0;
    for base in [layout::RAM, 0, layout::GICD, layout::ECAM, 0xffff_c000] {
        platform.config_write(0, BAR0, 4, base);
        assert_eq!(platform.read(base + common, 4), None, "{base:#x}");
    }
}

#[test]
fn queues_keep_their_place_when_the_bar_moves() {
    let mut platform = Platform::with_live_block(Policy::BounceBar);
    let before = platform.bus.queue(0, 0).unwrap();
    platform.config_write(0, BAR2, 4, bounce_base(2));
    assert_eq!(window(&platform), Some(bounce_base(2)));
    assert_eq!(platform.bus.queue(0, 0).unwrap(), before);
    assert_eq!(platform.status(0), 15);
    // A queue enabled from now on is checked against the new place.
    assert!(!platform.enable_queue(0, 1, 16, [bounce_base(0); 3]));
    assert_eq!(platform.status(0) & 64, 64);
}

#[test]
fn no_queue_is_enabled_while_the_window_is_closed() {
    let mut platform = Platform::with_block(Policy::BounceBar);
    assert!(platform.negotiate(0, BOUNCE_FEATURES));
    platform.config_write(0, BAR2 + 4, 4, 0);
    assert!(!platform.enable_queue(0, 0, 16, [0; 3]));
    assert_eq!(platform.status(0) & 64, 64);
}

/// PCI wants a power of two, the capability says what is memory.
#[test]
fn a_bar_is_rounded_up_and_its_rest_is_empty() {
    let mut platform = Platform::empty();
    platform.bus.create(2, Policy::BounceBar, 48, 1, 0).unwrap();
    platform.place_bars(0);
    let bounce = platform.structure(0, 10).unwrap();
    assert_eq!((bounce.offset % 0x1_0000, bounce.length), (0, 48 * 4096));
    platform.config_write(0, BAR2, 4, 0xffff_ffff);
    assert_eq!(platform.config_read(0, BAR2, 4), !(64 * 4096 - 1) & 0xffff_ffff | 0xc);
    platform.config_write(0, BAR2, 4, bounce_base(0));
    let page = |page: u64| Gfn::containing(bounce_base(0) + page * 4096).unwrap();
    assert_eq!(platform.bus.bounce_page_at(page(47)), Some((0, 47)));
    assert_eq!(platform.bus.bounce_page_at(page(48)), None);
    assert_eq!(platform.read(bounce_base(0) + 48 * 4096, 4), None);
}

#[test]
fn a_device_without_bounce_memory_has_no_second_bar() {
    let mut platform = Platform::with_block(Policy::SharedPages);
    platform.config_write(0, BAR2, 4, 0xffff_ffff);
    platform.config_write(0, BAR2 + 4, 4, 0xffff_ffff);
    assert_eq!((platform.config_read(0, BAR2, 4), platform.config_read(0, BAR2 + 4, 4)), (0, 0));
    assert_eq!(window(&platform), None);
}

#[test]
fn the_rest_of_the_bus_is_empty() {
    let mut platform = Platform::with_block(Policy::BounceBar);
    assert_eq!(platform.bus.ecam_read(0, 4).0, 0x0008_1b36, "the host bridge");
    assert_eq!(platform.bus.ecam_read(0x8, 4).0, 0x0600_0000);
    assert_eq!(platform.bus.ecam_read(0xe, 1).0, 0, "one function");
    assert_eq!(platform.bus.ecam_write(COMMAND, 2, 0xffff), Effects::default());
    assert_eq!(platform.bus.ecam_read(COMMAND, 4).0, 0);
    let slot = |bus: u64, slot: u64, function: u64| bus << 20 | slot << 15 | function << 12;
    let empty = [slot(0, 2, 0), slot(0, 31, 7), slot(0, 1, 1), slot(0, 0, 1), slot(1, 1, 0)];
    for function in empty.into_iter().chain([slot(15, 31, 7), 1 << 40, u64::MAX << 12]) {
        assert_eq!(platform.bus.ecam_read(function, 4).0, 0xffff_ffff);
        assert_eq!(platform.bus.ecam_write(function | COMMAND, 2, 7), Effects::default());
    }
    assert_eq!(platform.config_read(0, 0x100, 4), 0, "no extended capabilities");
    assert_eq!(platform.config_read(0, 0xffc, 4), 0);
}

#[test]
fn configuration_space_takes_bytes_and_halfwords() {
    let mut platform = Platform::with_block(Policy::BounceBar);
    assert_eq!(platform.config_read(0, 0, 1), 0xf4);
    assert_eq!(platform.config_read(0, 1, 1), 0x1a);
    assert_eq!(platform.config_read(0, 2, 2), 0x1042);
    platform.config_write(0, COMMAND + 1, 1, 0xff);
    assert_eq!(platform.config_read(0, COMMAND, 2), 0x400 | MEMORY | MASTER, "INTx disable only");
    platform.config_write(0, 0, 4, 0);
    platform.config_write(0, 0x34, 1, 0);
    assert_eq!(platform.config_read(0, 0, 4), 0x1042_1af4, "identity is read-only");
    assert!(platform.structure(0, 10).is_some());
    for (register, size) in [(1, 2), (2, 4), (3, 2), (0, 8), (0, 3), (0, 0)] {
        let ones = platform.config_read(0, register, size);
        assert_eq!(ones & 0xffff, 0xffff, "{register}/{size}");
        platform.config_write(0, COMMAND + register, size, 0);
    }
    assert_eq!(platform.config_read(0, COMMAND, 2), 0x400 | MEMORY | MASTER);
}
