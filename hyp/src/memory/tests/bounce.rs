use super::*;

/// A guest with RAM, and 4 frames the host has lent it.
fn with_loan() -> (Fixture, GuestMemory, PfnRange) {
    let (mut fixture, guest, _) = with_guest(1);
    let frames = fixture.host_frames(4);
    done(&mut fixture, 4, |m, memory| memory.host_share_guest(m, &guest, frames));
    (fixture, guest, frames)
}

#[test]
fn a_loan_changes_nothing_for_the_host_and_gives_the_guest_nothing_yet() {
    let (fixture, guest, frames) = with_loan();
    for pfn in frames.iter() {
        assert!(host_reaches(&fixture, pfn));
        assert_eq!(fixture.memory.state_for_host(pfn), PageState::SharedOwned);
    }
    assert_eq!(guest.lookup(&fixture.machine, gfn(BAR)), None);
    check(&fixture.machine, &fixture.memory, &[&guest]);
}

#[test]
fn a_mapped_loan_is_data_for_the_guest_and_never_code() {
    let (mut fixture, mut guest, frames) = with_loan();
    done(&mut fixture, 4, |m, memory| memory.map_borrowed(m, &mut guest, gfn(BAR), frames));
    let leaf = guest.lookup(&fixture.machine, gfn(BAR + 3)).unwrap();
    assert_eq!(leaf, Leaf { pfn: nth(frames, 3), attributes: Attributes::BOUNCE });
    check(&fixture.machine, &fixture.memory, &[&guest]);
}

#[test]
fn a_lent_frame_can_be_lent_or_given_to_nobody_else() {
    let (mut fixture, mut guest, frames) = with_loan();
    let mut other = fixture.guest(1, 1024);
    let last = PfnRange::one(nth(frames, 3));
    refused(&mut fixture, Error::Denied, |m, memory| memory.host_share_guest(m, &other, last));
    refused(&mut fixture, Error::Denied, |m, memory| memory.host_share_guest(m, &guest, last));
    refused(&mut fixture, Error::Denied, |m, memory| {
        memory.host_donate_guest(m, &mut guest, last, gfn(RAM + 9), Contents::Zeroed)
    });
    refused(&mut fixture, Error::Denied, |m, memory| {
        memory.host_donate_hyp(m, last, other.memcache())
    });
    // Another guest can neither use the loan nor end it.
    refused(&mut fixture, Error::Denied, |m, memory| {
        memory.map_borrowed(m, &mut other, gfn(BAR), frames)
    });
    refused(&mut fixture, Error::Denied, |m, memory| {
        memory.host_unshare_guest(m, &mut other, frames)
    });
}

#[test]
fn a_loan_does_not_end_while_the_guest_has_it_mapped() {
    let (mut fixture, mut guest, frames) = with_loan();
    let one = PfnRange::one(nth(frames, 2));
    done(&mut fixture, 1, |m, memory| memory.map_borrowed(m, &mut guest, gfn(BAR), one));
    refused(&mut fixture, Error::Denied, |m, memory| {
        memory.host_unshare_guest(m, &mut guest, frames)
    });
    fixture.memory.unmap_borrowed(&fixture.machine, &mut guest, gfns(BAR, 1));
    fixture.machine.settle();
    done(&mut fixture, 4, |m, memory| memory.host_unshare_guest(m, &mut guest, frames));
    assert!(frames.iter().all(|pfn| fixture.memory.entry(pfn) == FrameEntry::HOST));
    // And it has ended: it cannot end twice.
    refused(&mut fixture, Error::Denied, |m, memory| {
        memory.host_unshare_guest(m, &mut guest, frames)
    });
}

#[test]
fn a_borrowed_frame_is_mapped_outside_guest_ram_and_once() {
    let (mut fixture, mut guest, frames) = with_loan();
    for place in [RAM + 8, RAM - 2, RAM + 1023] {
        refused(&mut fixture, Error::InvalidParameter, |m, memory| {
            memory.map_borrowed(m, &mut guest, gfn(place), frames)
        });
    }
    done(&mut fixture, 4, |m, memory| memory.map_borrowed(m, &mut guest, gfn(BAR), frames));
    refused(&mut fixture, Error::Denied, |m, memory| {
        memory.map_borrowed(m, &mut guest, gfn(BAR + 4), frames)
    });
    let more = fixture.host_frames(1);
    done(&mut fixture, 1, |m, memory| memory.host_share_guest(m, &guest, more));
    refused(&mut fixture, Error::Denied, |m, memory| {
        memory.map_borrowed(m, &mut guest, gfn(BAR + 3), more)
    });
    // The host's own frame, never lent.
    let own = fixture.host_frames(1);
    refused(&mut fixture, Error::Denied, |m, memory| {
        memory.map_borrowed(m, &mut guest, gfn(BAR + 8), own)
    });
}

#[test]
fn a_bar_that_wanders_leaves_neither_mappings_nor_tables_behind() {
    let (mut fixture, mut guest, frames) = with_loan();
    frames.iter().for_each(|pfn| fixture.machine.plant(pfn, HOST_DATA));
    let memcache = guest.memcache_len();
    for step in 0..40 {
        // Every time in another 1 GiB of the window, over a 2 MiB border.
        let place = BAR + step * 0x4_0000 + 510;
        done(&mut fixture, 4, |m, memory| memory.map_borrowed(m, &mut guest, gfn(place), frames));
        check(&fixture.machine, &fixture.memory, &[&guest]);
        fixture.memory.unmap_borrowed(&fixture.machine, &mut guest, gfns(place, 4));
        fixture.machine.settle();
        assert_eq!(guest.lookup(&fixture.machine, gfn(place)), None);
        assert_eq!(guest.memcache_len(), memcache);
    }
    assert!(frames.iter().all(|pfn| fixture.machine.tag(pfn) == Some(HOST_DATA)));
}

#[test]
fn unmapping_a_bar_of_16_mib_finds_the_few_pages_that_are_there() {
    let (mut fixture, mut guest, frames) = with_loan();
    done(&mut fixture, 1, |m, memory| {
        memory.map_borrowed(m, &mut guest, gfn(BAR + 7), frames.truncate(1))
    });
    let last = PfnRange::one(nth(frames, 3));
    done(&mut fixture, 1, |m, memory| memory.map_borrowed(m, &mut guest, gfn(BAR + 4095), last));
    let before = fixture.machine.invalidations();
    fixture.memory.unmap_borrowed(&fixture.machine, &mut guest, gfns(BAR, 4096));
    fixture.machine.settle();
    assert_eq!(fixture.machine.invalidations() - before, 1);
    check(&fixture.machine, &fixture.memory, &[&guest]);
    done(&mut fixture, 4, |m, memory| memory.host_unshare_guest(m, &mut guest, frames));
}

#[test]
fn unmapping_a_bar_never_touches_ram() {
    let (mut fixture, mut guest, _) = with_loan();
    let effects = fixture.machine.effects();
    fixture.memory.unmap_borrowed(&fixture.machine, &mut guest, gfns(RAM - 1, 2));
    assert_eq!(fixture.machine.effects(), effects);
    check(&fixture.machine, &fixture.memory, &[&guest]);
}

#[test]
fn a_backends_pin_keeps_the_loan_and_does_not_hinder_the_guest() {
    let (mut fixture, mut guest, frames) = with_loan();
    done(&mut fixture, 4, |_, memory| memory.pin(frames));
    done(&mut fixture, 4, |m, memory| memory.map_borrowed(m, &mut guest, gfn(BAR), frames));
    fixture.memory.unmap_borrowed(&fixture.machine, &mut guest, gfns(BAR, 4));
    fixture.machine.settle();
    refused(&mut fixture, Error::Denied, |m, memory| {
        memory.host_unshare_guest(m, &mut guest, frames)
    });
    done(&mut fixture, 4, |_, memory| memory.unpin(frames));
    done(&mut fixture, 4, |m, memory| memory.host_unshare_guest(m, &mut guest, frames));
}
