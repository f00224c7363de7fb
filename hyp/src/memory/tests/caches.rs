//! C17: whoever sees a frame sees the same of it, in and past the caches, from
//! the transition on by which it got there (Arm ARM B2.16).

use super::*;
use crate::memory::SharedPlace;
use crate::sim::Layout;

/// What was in a page before its last contents.
const FORMER: u64 = 0x0f0f_0f0f;

/// The guest has written its secret over something else, which is what memory
/// still holds.
fn hide(fixture: &Fixture, frames: PfnRange) {
    for pfn in frames.iter() {
        fixture.machine.store_cached(pfn, FORMER);
        fixture.machine.evict(pfn);
        fixture.machine.store_cached(pfn, SECRET);
        assert_eq!(fixture.machine.load_uncached(pfn), FORMER);
    }
}

/// The host writes past the caches, under lines that it has only read.
fn leave(fixture: &Fixture, frames: PfnRange) {
    for pfn in frames.iter() {
        fixture.machine.evict(pfn);
        let other = fixture.machine.peek(pfn, 0).wrapping_add(HOST_DATA);
        fixture.machine.store_uncached(pfn, other);
        assert!(!fixture.machine.is_coherent(pfn));
    }
}

/// All see one thing, and no eviction changes that. Gives what they see.
#[track_caller]
fn settled(fixture: &Fixture, frames: PfnRange) -> u64 {
    let seen = fixture.machine.tag(frames.start()).unwrap();
    for pfn in frames.iter() {
        assert_eq!(fixture.machine.load_uncached(pfn), seen, "past the caches");
        assert_eq!(fixture.machine.tag(pfn), Some(seen), "through them");
        fixture.machine.evict(pfn);
        assert_eq!(fixture.machine.tag(pfn), Some(seen), "after an eviction");
    }
    seen
}

#[test]
fn the_host_reads_of_a_shared_page_what_the_guest_wrote_last() {
    let (mut fixture, mut guest, frames) = with_guest(4);
    hide(&fixture, frames);
    done(&mut fixture, 4, |m, memory| memory.guest_share_host(m, &mut guest, gfns(RAM, 4)));
    assert_eq!(settled(&fixture, frames), SECRET);
}

#[test]
fn nothing_of_the_hosts_comes_to_light_after_an_unshare() {
    let (mut fixture, mut guest, frames) = with_guest(4);
    done(&mut fixture, 4, |m, memory| memory.guest_share_host(m, &mut guest, gfns(RAM, 4)));
    leave(&fixture, frames);
    done(&mut fixture, 4, |m, memory| memory.guest_unshare_host(m, &mut guest, gfns(RAM, 4)));
    settled(&fixture, frames);
}

/// The two ways a frame becomes a guest's: nothing of the host's is left below
/// the zeros, and what was measured is what the guest will read.
#[test]
fn a_donated_page_is_what_it_was_said_to_be() {
    let (mut fixture, mut guest, _) = with_guest(1);
    let frames = fixture.host_frames(4);
    leave(&fixture, frames);
    done(&mut fixture, 4, |m, memory| {
        memory.host_donate_guest(m, &mut guest, frames, gfn(RAM + 10), Contents::Zeroed)
    });
    assert_eq!(settled(&fixture, frames), 0);
    let image = fixture.host_frames(2);
    leave(&fixture, image);
    let mut measured = Vec::new();
    done(&mut fixture, 2, |m, memory| {
        let mut measure = |_, bytes: &[u8]| measured.extend_from_slice(bytes);
        let contents = Contents::Measured(&mut measure);
        memory.host_donate_guest(m, &mut guest, image, gfn(RAM + 20), contents)
    });
    let read = settled(&fixture, image);
    assert!(measured.as_chunks::<8>().0.iter().all(|word| *word == read.to_le_bytes()));
}

#[test]
fn a_page_that_was_a_table_comes_back_as_zeros_for_all() {
    let mut fixture = Fixture::new(16);
    let frames = fixture.host_frames(4);
    leave(&fixture, frames);
    let mut pool = TablePool::empty();
    done(&mut fixture, 4, |m, memory| memory.host_donate_hyp(m, frames, &mut pool));
    done(&mut fixture, 4, |m, memory| Ok(memory.hyp_donate_host(m, &mut pool, 4)));
    assert_eq!(settled(&fixture, frames), 0);
}

#[test]
fn bounce_memory_is_one_thing_for_both_from_the_bar_to_the_end_of_the_loan() {
    let (mut fixture, mut guest, _) = with_guest(1);
    let frames = fixture.host_frames(4);
    done(&mut fixture, 4, |m, memory| memory.host_share_guest(m, &guest, frames));
    leave(&fixture, frames);
    done(&mut fixture, 4, |m, memory| memory.map_borrowed(m, &mut guest, gfn(BAR), frames));
    settled(&fixture, frames);
    // Now the guest does it.
    leave(&fixture, frames);
    fixture.memory.unmap_borrowed(&fixture.machine, &mut guest, gfns(BAR, 4));
    fixture.machine.settle();
    done(&mut fixture, 4, |m, memory| memory.host_unshare_guest(m, &mut guest, frames));
    settled(&fixture, frames);
}

/// What comes back from a guest, alive or dying, lent or not, or borrowed.
#[test]
fn what_comes_back_from_a_guest_is_one_thing_for_all() {
    let (mut fixture, mut guest, frames) = with_guest(8);
    let relinquished = frames.truncate(2);
    hide(&fixture, relinquished);
    done(&mut fixture, 2, |m, memory| memory.guest_relinquish(m, &mut guest, gfns(RAM, 2)));
    assert_eq!(settled(&fixture, relinquished), 0);

    let loan = fixture.host_frames(2);
    done(&mut fixture, 2, |m, memory| memory.host_share_guest(m, &guest, loan));
    done(&mut fixture, 2, |m, memory| memory.map_borrowed(m, &mut guest, gfn(BAR), loan));
    done(&mut fixture, 2, |m, memory| memory.guest_share_host(m, &mut guest, gfns(RAM + 6, 2)));
    let (private, shared) =
        (pfns(frames.start().number() + 2, 4), pfns(frames.start().number() + 6, 2));
    hide(&fixture, private);
    leave(&fixture, shared);
    leave(&fixture, loan);
    guest.begin_dying(&fixture.machine, &mut fixture.memory);
    for (frames, count) in [(private, 4), (shared, 2), (loan, 2)] {
        done(&mut fixture, count, |m, memory| memory.reclaim(m, &mut guest, frames));
        settled(&fixture, frames);
    }
    assert_eq!(fixture.machine.tag(private.start()), Some(0));
}

#[test]
fn a_realms_page_moves_without_anything_below_it() {
    let mut fixture = Fixture::new(16);
    let guest = fixture.guest_of_kind(0, 1024, 16, SharedPlace::Alias);
    let (mut guest, frames) = donate(&mut fixture, guest, RAM, 4);
    hide(&fixture, frames);
    done(&mut fixture, 4, |m, memory| memory.guest_share_host(m, &mut guest, gfns(RAM, 4)));
    settled(&fixture, frames);
    leave(&fixture, frames);
    done(&mut fixture, 4, |m, memory| memory.guest_unshare_host(m, &mut guest, gfns(RAM, 4)));
    settled(&fixture, frames);
}

#[test]
fn before_a_reset_there_is_nothing_left_below_the_caches() {
    let (mut fixture, _guest, frames) = with_guest(4);
    fixture.machine.set_hostile(false);
    hide(&fixture, frames);
    fixture.memory.wipe_guests(&fixture.machine);
    assert_eq!(settled(&fixture, frames), 0);
}

/// FEAT_S2FWB: there is one view, so nothing is cleaned, and the tables are
/// what the oracle says they must be.
#[test]
fn where_write_back_is_forced_nothing_needs_a_clean() {
    let layout = Layout::new(16);
    let machine = layout.machine();
    machine.force_write_back();
    let mut fixture = Fixture::on(machine, layout);
    let guest = fixture.guest(0, 1024);
    let (mut guest, frames) = donate(&mut fixture, guest, RAM, 4);
    let loan = fixture.host_frames(1);
    done(&mut fixture, 1, |m, memory| memory.host_share_guest(m, &guest, loan));
    done(&mut fixture, 1, |m, memory| memory.map_borrowed(m, &mut guest, gfn(BAR), loan));
    check(&fixture.machine, &fixture.memory, &[&guest]);
    for pfn in frames.iter() {
        fixture.machine.store_cached(pfn, SECRET);
    }
    done(&mut fixture, 4, |m, memory| memory.guest_share_host(m, &mut guest, gfns(RAM, 4)));
    assert!(frames.iter().all(|pfn| fixture.machine.load_uncached(pfn) == SECRET));
    check(&fixture.machine, &fixture.memory, &[&guest]);
    for pfn in frames.iter() {
        fixture.machine.store_uncached(pfn, HOST_DATA);
    }
    done(&mut fixture, 4, |m, memory| memory.guest_unshare_host(m, &mut guest, gfns(RAM, 4)));
    for pfn in frames.iter() {
        assert_eq!(fixture.machine.tag(pfn), Some(HOST_DATA));
    }
    check(&fixture.machine, &fixture.memory, &[&guest]);
    // Nothing of it depends on how the word was written before.
    let word = fixture.machine.leaves(guest.regime().vmid).len();
    assert_eq!(word, 5);
}
