use super::*;
use crate::abi::MAX_RANGE;
use crate::machine::Vmid;
use std::vec;

#[test]
fn a_donated_frame_is_the_guests_alone_and_holds_zeros() {
    let mut fixture = Fixture::new(16);
    fixture.machine.set_hostile(true);
    let mut guest = fixture.guest(0, 1024);
    let frames = fixture.host_frames(3);
    frames.iter().for_each(|pfn| fixture.machine.plant(pfn, HOST_DATA));
    done(&mut fixture, 3, |m, memory| {
        memory.host_donate_guest(m, &mut guest, frames, gfn(RAM + 7), Contents::Zeroed)
    });
    for (index, pfn) in frames.iter().enumerate() {
        let at = gfn(RAM + 7 + index as u64);
        assert!(!host_reaches(&fixture, pfn));
        assert_eq!(fixture.machine.access(guest.regime().vmid, at), [pfn]);
        assert_eq!(fixture.machine.tag(pfn), Some(0));
        assert_eq!(fixture.memory.state_for_host(pfn), PageState::NoPage);
    }
    check(&fixture.machine, &fixture.memory, &[&guest]);
}

#[test]
fn boot_state_is_kept_and_measured_after_the_host_has_lost_it() {
    let mut fixture = Fixture::new(16);
    let mut guest = fixture.guest(0, 1024);
    let frames = fixture.host_frames(2);
    fixture.machine.plant(frames.start(), 1);
    fixture.machine.plant(nth(frames, 1), 2);
    let mut seen = Vec::new();
    // `settle` would report a frame measured while the host can write it.
    done(&mut fixture, 2, |m, memory| {
        let mut measure = |gfn: Gfn, bytes: &[u8]| {
            seen.extend(bytes.iter().map(|byte| (gfn.number(), *byte)));
        };
        let contents = Contents::Measured(&mut measure);
        memory.host_donate_guest(m, &mut guest, frames, gfn(RAM), contents)
    });
    assert_eq!(seen.len(), 2 * 4096);
    assert_eq!((seen[0], seen[4096]), ((RAM, 1), (RAM + 1, 2)));
    assert_eq!(fixture.machine.tag(frames.start()), Some(1));
}

#[test]
fn every_frame_of_the_range_is_checked() {
    let (mut fixture, mut guest, guests) = with_guest(1);
    let hyp = fixture.layout.hyp[0].start().number();
    let end_of_ram = fixture.layout.ram[0].end();
    let bad = [
        // The last frame is the guest's, EL2's; the first is no RAM; the last
        // is beyond RAM; a device.
        pfns(guests.start().number() - 3, 4),
        pfns(hyp - 3, 4),
        pfns(0x4_0000 - 1, 2),
        pfns(end_of_ram - 1, 2),
        pfns(0x9000, 1),
        pfns(crate::addr::FRAME_LIMIT - 1, 1),
    ];
    for range in bad {
        refused(&mut fixture, Error::Denied, |m, memory| {
            memory.host_donate_guest(m, &mut guest, range, gfn(RAM + 8), Contents::Zeroed)
        });
        refused(&mut fixture, Error::Denied, |m, memory| {
            memory.host_donate_hyp(m, range, guest.memcache())
        });
        refused(&mut fixture, Error::Denied, |m, memory| memory.host_share_guest(m, &guest, range));
    }
}

#[test]
fn one_frame_never_has_two_owners_or_two_places() {
    let (mut fixture, mut guest, frames) = with_guest(4);
    let mut other = fixture.guest(1, 1024);
    refused(&mut fixture, Error::Denied, |m, memory| {
        memory.host_donate_guest(m, &mut other, frames, gfn(RAM), Contents::Zeroed)
    });
    refused(&mut fixture, Error::Denied, |m, memory| {
        memory.host_donate_guest(m, &mut guest, frames, gfn(RAM + 4), Contents::Zeroed)
    });
    // Nor one place two frames: the host cannot pull memory from under a
    // guest by donating over it, not even in the last frame of a range.
    let fresh = fixture.host_frames(2);
    for place in [RAM - 1 + 4, RAM] {
        refused(&mut fixture, Error::Denied, |m, memory| {
            memory.host_donate_guest(m, &mut guest, fresh, gfn(place), Contents::Zeroed)
        });
    }
}

#[test]
fn donations_go_to_guest_ram_only() {
    let mut fixture = Fixture::new(16);
    let mut guest = fixture.guest(0, 16);
    let frames = fixture.host_frames(4);
    for place in [RAM - 1, RAM + 13, RAM + 16, 0, BAR, crate::addr::FRAME_LIMIT - 1] {
        refused(&mut fixture, Error::InvalidParameter, |m, memory| {
            memory.host_donate_guest(m, &mut guest, frames, gfn(place), Contents::Zeroed)
        });
    }
    done(&mut fixture, 4, |m, memory| {
        memory.host_donate_guest(m, &mut guest, frames, gfn(RAM + 12), Contents::Zeroed)
    });
}

#[test]
fn a_long_range_is_done_in_bounded_steps_with_one_invalidation_each() {
    let mut fixture = Fixture::new(16);
    let mut guest = fixture.guest(0, 1024);
    let frames = fixture.host_frames(1000);
    let before = fixture.machine.invalidations();
    done(&mut fixture, MAX_RANGE, |m, memory| {
        memory.host_donate_guest(m, &mut guest, frames, gfn(RAM), Contents::Zeroed)
    });
    assert_eq!(fixture.machine.invalidations() - before, 1);
    assert_eq!(fixture.memory.counts().owned(guest.party()), MAX_RANGE);
    check(&fixture.machine, &fixture.memory, &[&guest]);
}

#[test]
fn an_exhausted_memcache_refuses_before_anything_happens() {
    let mut fixture = Fixture::new(16);
    // A root, and two of the tables that a range over a 2 MiB border needs
    // (one for its level 2, two for its level 3).
    let mut guest = fixture.guest_with_memcache(0, 1024, 3);
    let frames = fixture.host_frames(2);
    refused(&mut fixture, Error::NoMemory, |m, memory| {
        memory.host_donate_guest(m, &mut guest, frames, gfn(RAM + 511), Contents::Zeroed)
    });
    let more = fixture.host_frames(1);
    done(&mut fixture, 1, |m, memory| memory.host_donate_hyp(m, more, guest.memcache()));
    done(&mut fixture, 2, |m, memory| {
        memory.host_donate_guest(m, &mut guest, frames, gfn(RAM + 511), Contents::Zeroed)
    });
    assert_eq!(guest.memcache_len(), 0);
}

#[test]
fn an_exhausted_host_pool_refuses_before_anything_happens() {
    let mut layout = crate::sim::Layout::new(16);
    // Enough to boot (6) and to split one block.
    layout.pool = layout.pool.truncate(7);
    let mut fixture = Fixture::with_layout(layout);
    let mut guest = fixture.guest(0, 1024);
    assert_eq!(fixture.memory.pool_len(), 0);
    fixture.align_frames(512);
    let frames = fixture.host_frames(1);
    refused(&mut fixture, Error::NoMemory, |m, memory| {
        memory.host_donate_guest(m, &mut guest, frames, gfn(RAM), Contents::Zeroed)
    });
    refused(&mut fixture, Error::NoMemory, |m, memory| {
        memory.host_donate_hyp(m, frames, guest.memcache())
    });
}

#[test]
fn el2s_own_tables_running_out_refuses_a_donation_to_it() {
    let (mut fixture, mut guest, _) = with_guest(1);
    let frames = fixture.host_frames(4);
    fixture.machine.fail_allocation_after(0);
    refused(&mut fixture, Error::NoMemory, |m, memory| {
        memory.host_donate_hyp(m, frames, guest.memcache())
    });
}

#[test]
fn memcache_frames_are_wiped_on_the_way_in_and_on_the_way_out() {
    let mut fixture = Fixture::new(16);
    fixture.machine.set_hostile(true);
    let frames = fixture.host_frames(8);
    frames.iter().for_each(|pfn| fixture.machine.plant(pfn, HOST_DATA));
    let mut pool = TablePool::empty();
    done(&mut fixture, 8, |m, memory| memory.host_donate_hyp(m, frames, &mut pool));
    check(&fixture.machine, &fixture.memory, &[]);
    // Word 0 is the pool's link; the rest is gone.
    assert!(frames.iter().all(|pfn| fixture.machine.peek(pfn, 1) == 0));
    let back = fixture.memory.hyp_donate_host(&fixture.machine, &mut pool, 3);
    fixture.machine.settle();
    assert_eq!((back, pool.len()), (3, 5));
    let rest = fixture.memory.hyp_donate_host(&fixture.machine, &mut pool, u64::MAX);
    fixture.machine.settle();
    assert_eq!((rest, pool.len()), (5, 0));
    assert!(frames.iter().all(|pfn| fixture.machine.tag(pfn) == Some(0)));
    check(&fixture.machine, &fixture.memory, &[]);
}

#[test]
fn a_block_is_split_for_one_frame_and_comes_back_with_it() {
    let mut fixture =
        Fixture::with_layout(crate::sim::Layout::of_banks(&[pfns(0x4_0000, 0x4_0000 + 0x1000)]));
    let before = fixture.machine.leaves(Vmid::HOST);
    let pool = fixture.memory.pool_len();
    // In the middle of the 1 GiB block, over a 2 MiB border.
    let frames = pfns(0x5_01fe, 4);
    let mut guest_pool = TablePool::empty();
    done(&mut fixture, 4, |m, memory| memory.host_donate_hyp(m, frames, &mut guest_pool));
    assert_eq!(fixture.memory.pool_len(), pool - 3);
    for neighbour in [frames.start().number() - 1, frames.end()] {
        assert!(host_reaches(&fixture, Pfn::new(neighbour).unwrap()));
    }
    assert!(frames.iter().all(|pfn| !host_reaches(&fixture, pfn)));
    assert_eq!(fixture.memory.hyp_donate_host(&fixture.machine, &mut guest_pool, 4), 4);
    fixture.machine.settle();
    assert_eq!(fixture.machine.leaves(Vmid::HOST), before);
    assert_eq!(fixture.memory.pool_len(), pool);
    // The tables that were freed hold nothing but the pool's links.
    let live = live_tables(&fixture.machine, fixture.memory.regime().root, 1);
    for pfn in fixture.layout.pool.iter().filter(|pfn| !live.contains(pfn)) {
        assert!((1..512).all(|index| fixture.machine.peek(pfn, index) == 0), "{pfn:x?}");
    }
}

fn live_tables(machine: &SimMachine, table: Pfn, level: u8) -> Vec<Pfn> {
    let below = (0..512).map(|index| machine.peek(table, index));
    let below = below.filter(|word| level < 3 && word & 3 == 3);
    let below = below.filter_map(|word| Pfn::containing(word & 0x7f_ffff_f000));
    let mut live = vec![table];
    live.extend(below.flat_map(|table| live_tables(machine, table, level + 1)));
    live
}

/// A run of mapped pages is counted across the border of two tables, and ends
/// where it ends, whatever the table before has at the same place.
#[test]
fn pages_in_place_are_counted_from_table_to_table() {
    let (mut fixture, guest, _) = with_guest(1);
    let (guest, _) = donate(&mut fixture, guest, RAM + 510, 2);
    let in_place = |fixture: &Fixture, guest: &GuestMemory, at| {
        guest.pages_in_place(&fixture.machine, gfns(at, 400))
    };
    assert_eq!(in_place(&fixture, &guest, RAM), 1);
    assert_eq!(in_place(&fixture, &guest, RAM + 1), 0);
    assert_eq!(in_place(&fixture, &guest, RAM + 510), 2, "page 512 is not there, page 0 is");
    let (guest, _) = donate(&mut fixture, guest, RAM + 513, 1);
    assert_eq!(in_place(&fixture, &guest, RAM + 510), 2, "nor is it with a table");
    let (guest, _) = donate(&mut fixture, guest, RAM + 512, 1);
    assert_eq!(in_place(&fixture, &guest, RAM + 510), 4);
    assert_eq!(in_place(&fixture, &guest, RAM + 512), 2);
}
