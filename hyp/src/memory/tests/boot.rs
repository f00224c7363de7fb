use super::*;
use crate::machine::Vmid;
use crate::sim::Layout;
use std::vec;

#[test]
fn the_host_gets_all_ram_but_bouncers_and_its_devices_in_large_blocks() {
    let fixture = Fixture::new(64);
    check(&fixture.machine, &fixture.memory, &[]);
    let blocks = fixture.machine.leaves(Vmid::HOST).iter().filter(|l| l.frames == 512).count();
    // 64 MiB are 32 blocks; bouncer sits in the last.
    assert_eq!(blocks, 31);
    for device in &fixture.layout.host_mmio {
        let leaf = fixture.memory.lookup(&fixture.machine, device.start().identity()).unwrap();
        assert_eq!(leaf.attributes, Attributes::DEVICE);
    }
}

#[test]
fn a_gib_is_one_block() {
    let fixture = Fixture::with_layout(Layout::of_banks(&[pfns(0x4_0000, 0x4_0000 + 0x1000)]));
    let leaves = fixture.machine.leaves(Vmid::HOST);
    assert!(leaves.iter().any(|l| l.frames == 0x4_0000 && l.gfn.number() == 0x4_0000));
}

#[test]
fn banks_may_begin_and_end_anywhere() {
    let banks = [pfns(0x4_0003, 700), pfns(0x4_0400, 1), pfns(0x8_01ff, 1500)];
    let fixture = Fixture::with_layout(Layout::of_banks(&banks));
    check(&fixture.machine, &fixture.memory, &[]);
    // The frames around and between the banks are nobody's.
    for hole in [0x4_0002, 0x4_0003 + 700, 0x4_0401, 0x8_01fe, 0x8_01ff + 1500] {
        let pfn = Pfn::new(hole).unwrap();
        assert_eq!(fixture.memory.entry(pfn), FrameEntry::NO_RAM);
        assert!(!host_reaches(&fixture, pfn));
    }
}

#[test]
fn a_hole_of_bouncers_in_the_middle_of_a_block_is_kept_out() {
    let mut layout = Layout::new(8);
    layout.hyp.push(pfns(0x4_0210, 3));
    layout.hyp.push(pfns(0x4_0213, 5));
    let fixture = Fixture::with_layout(layout);
    check(&fixture.machine, &fixture.memory, &[]);
    assert!(!host_reaches(&fixture, Pfn::new(0x4_0217).unwrap()));
    assert!(host_reaches(&fixture, Pfn::new(0x4_0218).unwrap()));
}

/// C15: neither the host nor a guest reaches what firmware keeps, and no call
/// takes it, borrows it, pins it or wipes it: alone, or as the last of a run.
#[test]
fn what_firmware_keeps_is_nobodys() {
    let mut fixture = Fixture::new(16);
    let mut guest = fixture.guest(0, 64);
    let kept = fixture.layout.firmware[0];
    for pfn in kept.iter() {
        assert_eq!(fixture.memory.entry(pfn), FrameEntry::FIRMWARE);
        assert!(!host_reaches(&fixture, pfn));
        assert_eq!(fixture.memory.state_for_host(pfn), PageState::NoPage);
        let fault = fixture.memory.host_fault(&fixture.machine, pfn.identity());
        assert_eq!(fault, HostFault::Refused(Owner::Firmware));
        fixture.machine.plant(pfn, 0xf1f1);
    }
    let at = gfn(RAM);
    for frames in [kept, PfnRange::one(kept.start()), pfns(kept.start().number() - 1, 2)] {
        refused(&mut fixture, Error::Denied, |m, memory| {
            memory.host_donate_guest(m, &mut guest, frames, at, Contents::Zeroed)
        });
        refused(&mut fixture, Error::Denied, |m, memory| {
            let mut measure = |_, _: &[u8]| unreachable!("nothing of it is measured");
            let contents = Contents::Measured(&mut measure);
            memory.host_donate_guest(m, &mut guest, frames, at, contents)
        });
        refused(&mut fixture, Error::Denied, |m, memory| {
            memory.host_donate_hyp(m, frames, guest.memcache())
        });
        refused(&mut fixture, Error::Denied, |m, memory| {
            memory.host_share_guest(m, &guest, frames)
        });
        refused(&mut fixture, Error::Denied, |m, memory| {
            memory.host_unshare_guest(m, &mut guest, frames)
        });
        refused(&mut fixture, Error::Denied, |m, memory| {
            memory.map_borrowed(m, &mut guest, gfn(BAR), frames)
        });
        refused(&mut fixture, Error::Denied, |_, memory| memory.pin(frames));
        refused(&mut fixture, Error::Denied, |_, memory| memory.unpin(frames));
    }
    guest.begin_dying(&fixture.machine, &mut fixture.memory);
    refused(&mut fixture, Error::Denied, |m, memory| memory.reclaim(m, &mut guest, kept));
    fixture.memory.wipe_guests(&fixture.machine);
    assert!(kept.iter().all(|pfn| fixture.machine.tag(pfn) == Some(0xf1f1)));
    check(&fixture.machine, &fixture.memory, &[&guest]);
}

/// Firmware's frames at the ends of banks, between blocks, in several runs.
#[test]
fn firmware_may_keep_memory_anywhere() {
    let mut layout = Layout::of_banks(&[pfns(0x4_0000, 1024), pfns(0x8_0000, 2048)]);
    layout.firmware.extend([
        pfns(0x4_0000, 1),
        pfns(0x4_01ff, 2),
        pfns(0x4_03ff, 1),
        pfns(0x8_0000, 512),
    ]);
    let kept = layout.firmware.clone();
    let fixture = Fixture::with_layout(layout);
    check(&fixture.machine, &fixture.memory, &[]);
    let counts = fixture.memory.counts();
    assert_eq!(counts.owned(Owner::Firmware), kept.iter().map(|range| range.count()).sum());
    for run in &kept {
        assert!(run.iter().all(|pfn| !host_reaches(&fixture, pfn)), "{run:?}");
    }
    for neighbour in [0x4_0001, 0x4_01fe, 0x4_0201, 0x4_03fe, 0x8_0200] {
        assert!(host_reaches(&fixture, Pfn::new(neighbour).unwrap()), "{neighbour:#x}");
    }
}

#[test]
fn a_memory_map_that_contradicts_itself_is_refused() {
    type Spoil = fn(&mut Layout);
    let spoils: [Spoil; 8] = [
        |l| l.firmware.push(pfns(0x3_ffff, 1)),
        |l| l.firmware.push(l.hyp[0]),
        |l| l.firmware.push(l.firmware[0]),
        |l| l.ram.push(pfns(0x4_0100, 1)),
        |l| l.hyp.push(pfns(0x3_ffff, 1)),
        |l| l.host_mmio.push(pfns(0x4_0000, 1)),
        |l| l.host_mmio.push(pfns(0x9000, 1)),
        |l| l.pool = pfns(0x4_0000, 8),
    ];
    for spoil in spoils {
        let mut layout = Layout::new(8);
        let frames = layout.frame_table();
        let machine = layout.machine();
        spoil(&mut layout);
        let refused = HostMemory::new(&machine, frames, &layout.boot());
        assert_eq!(refused.err(), Some(Error::InvalidParameter));
    }
}

#[test]
fn too_small_a_pool_or_frame_table_is_an_error_and_no_panic() {
    let layout = Layout::new(8);
    let mut short = vec![FrameEntry::NO_RAM; 100];
    let refused = HostMemory::new(&layout.machine(), &mut short, &layout.boot());
    assert_eq!(refused.err(), Some(Error::InvalidParameter));

    let mut layout = Layout::new(8);
    layout.pool = layout.pool.truncate(2);
    let refused = HostMemory::new(&layout.machine(), layout.frame_table(), &layout.boot());
    assert_eq!(refused.err(), Some(Error::NoMemory));
}

#[test]
fn the_worst_case_pool_survives_the_worst_case() {
    let mut fixture = Fixture::new(16);
    let mut guest = fixture.guest(0, 1024);
    // One frame out of every 2 MiB block.
    for block in 0..7 {
        let frame = pfns(0x4_0000 + block * 512 + 100, 1);
        let at = gfn(RAM + block);
        done(&mut fixture, 1, |m, memory| {
            memory.host_donate_guest(m, &mut guest, frame, at, Contents::Zeroed)
        });
    }
    check(&fixture.machine, &fixture.memory, &[&guest]);
}

#[test]
fn a_host_fault_says_whose_the_frame_is() {
    let (mut fixture, _guest, frames) = with_guest(2);
    let machine = &fixture.machine;
    let mut fault = |pfn: Pfn| fixture.memory.host_fault(machine, pfn.identity());
    let id = GuestId::new(0).unwrap();
    assert_eq!(fault(frames.start()), HostFault::Refused(Owner::Guest(id)));
    assert_eq!(fault(fixture.layout.pool.start()), HostFault::Refused(Owner::Hyp));
    assert_eq!(fault(Pfn::new(0xa000).unwrap()), HostFault::Refused(Owner::None));
    // A neighbour in the block that was split: whoever faulted meanwhile
    // must simply go on (another CPU has fixed it).
    assert_eq!(fault(nth(frames, 2)), HostFault::Retry);
}

#[test]
fn pins_hold_a_frame_where_it_is() {
    let (mut fixture, mut guest, own) = with_guest(1);
    let frames = fixture.host_frames(4);
    let last = PfnRange::one(nth(frames, 3));
    done(&mut fixture, 1, |_, memory| memory.pin(last));
    refused(&mut fixture, Error::Denied, |m, memory| {
        memory.host_donate_guest(m, &mut guest, frames, gfn(RAM + 1), Contents::Zeroed)
    });
    refused(&mut fixture, Error::Denied, |m, memory| {
        memory.host_donate_hyp(m, frames, guest.memcache())
    });
    refused(&mut fixture, Error::Denied, |m, memory| memory.host_share_guest(m, &guest, frames));
    // Only one of the four is pinned: all or nothing.
    refused(&mut fixture, Error::Denied, |_, memory| memory.unpin(frames));
    // What the host cannot access cannot be pinned for it.
    refused(&mut fixture, Error::Denied, |_, memory| memory.pin(own));
    let hyp = fixture.layout.pool;
    refused(&mut fixture, Error::Denied, |_, memory| memory.pin(hyp));
    done(&mut fixture, 1, |_, memory| memory.unpin(last));
    done(&mut fixture, 4, |m, memory| {
        memory.host_donate_guest(m, &mut guest, frames, gfn(RAM + 1), Contents::Zeroed)
    });
}

#[test]
fn the_256th_pin_is_refused() {
    let mut fixture = Fixture::new(4);
    let frame = fixture.host_frames(1);
    for _ in 0..255 {
        done(&mut fixture, 1, |_, memory| memory.pin(frame));
    }
    refused(&mut fixture, Error::Denied, |_, memory| memory.pin(frame));
}

/// Tables that stage 2 can ever need, counted by hand: a root, one table per
/// GiB and one per 2 MiB that RAM touches, and two at most per level for a
/// device.
#[test]
fn the_worst_case_is_counted_exactly() {
    let (gib, block) = (0x4_0000, 0x200);
    for (ram, device, tables) in [
        (pfns(gib, gib), None, 1 + 1 + 512),
        (pfns(gib, block), None, 1 + 1 + 1),
        (pfns(gib, block + 1), None, 1 + 1 + 2),
        (pfns(gib + block - 1, 2), None, 1 + 1 + 2),
        (pfns(2 * gib - 1, 2), None, 1 + 2 + 2),
        (pfns(gib, block), Some(pfns(0x8000, 1)), 3 + 1 + 1),
        (pfns(gib, block), Some(pfns(0x8000, block + 1)), 3 + 1 + 2),
        (pfns(gib, block), Some(pfns(0x8000, 8 * block)), 3 + 1 + 2),
        (pfns(gib, block), Some(pfns(4 * gib - 1, 2)), 3 + 2 + 2),
    ] {
        let devices: Vec<PfnRange> = device.into_iter().collect();
        assert_eq!(tables_needed(&[ram], &devices), tables, "{ram:?} {devices:?}");
    }
    let banks = [pfns(gib, block), pfns(2 * gib, block)];
    assert_eq!(tables_needed(&banks, &[]), 1 + 2 + 2);
}

#[test]
fn the_frame_table_covers_the_banks_and_what_is_between_them() {
    assert_eq!(frames_needed(&[pfns(0x4_0000, 7)]), 7);
    assert_eq!(frames_needed(&[pfns(0x8_0000, 3), pfns(0x4_0000, 7)]), 0x4_0003);
    assert_eq!(frames_needed(&[]), 0);
}

/// What boots with n tables boots with n, not with n + 1 only, and not with
/// n - 1.
#[test]
fn the_last_table_of_the_pool_is_used() {
    let used = {
        let fixture = Fixture::new(8);
        fixture.layout.pool.count() - fixture.memory.pool_len()
    };
    for (tables, boots) in [(used, true), (used - 1, false)] {
        let mut layout = Layout::new(8);
        layout.pool = layout.pool.truncate(tables);
        let memory = HostMemory::new(&layout.machine(), layout.frame_table(), &layout.boot());
        assert_eq!(memory.map(|memory| memory.pool_len()).ok(), boots.then_some(0), "{tables}");
    }
}
