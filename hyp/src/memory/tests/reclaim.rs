use super::*;
use crate::abi::MAX_RANGE;
use crate::machine::Vmid;

#[test]
fn a_living_guest_cannot_be_reclaimed_or_torn_down() {
    let (mut fixture, mut guest, frames) = with_guest(4);
    refused(&mut fixture, Error::BadState, |m, memory| memory.reclaim(m, &mut guest, frames));
    let effects = fixture.machine.effects();
    let held = fixture.memory.teardown(&fixture.machine, &mut guest, 1000);
    // 4 frames, and the 16 of its memcache, three of them tables now.
    assert_eq!(held, 20);
    assert_eq!(fixture.machine.effects(), effects);
}

#[test]
fn a_dying_guest_reaches_nothing_at_once_and_can_do_nothing() {
    let (mut fixture, mut guest, frames) = with_guest(4);
    guest.begin_dying(&fixture.machine, &mut fixture.memory);
    fixture.machine.settle();
    for offset in 0..4 {
        assert!(fixture.machine.access(guest.regime().vmid, gfn(RAM + offset)).is_empty());
    }
    check(&fixture.machine, &fixture.memory, &[&guest]);
    let fresh = fixture.host_frames(1);
    refused(&mut fixture, Error::BadState, |m, memory| {
        memory.host_donate_guest(m, &mut guest, fresh, gfn(RAM + 9), Contents::Zeroed)
    });
    refused(&mut fixture, Error::BadState, |m, memory| memory.host_share_guest(m, &guest, fresh));
    refused(&mut fixture, Error::BadState, |m, memory| {
        memory.map_borrowed(m, &mut guest, gfn(BAR), fresh)
    });
    refused(&mut fixture, Error::BadState, |m, memory| {
        memory.guest_share_host(m, &mut guest, gfns(RAM, 1))
    });
    // Nor has the host what was the guest's, yet.
    assert!(frames.iter().all(|pfn| !host_reaches(&fixture, pfn)));
}

#[test]
fn reclaimed_frames_hold_no_secret_on_any_path() {
    let (mut fixture, mut guest, frames) = with_guest(8);
    // Two shared, two shared and taken back, four never shared.
    done(&mut fixture, 4, |m, memory| memory.guest_share_host(m, &mut guest, gfns(RAM, 4)));
    done(&mut fixture, 2, |m, memory| memory.guest_unshare_host(m, &mut guest, gfns(RAM + 2, 2)));
    guest.begin_dying(&fixture.machine, &mut fixture.memory);
    done(&mut fixture, 8, |m, memory| memory.reclaim(m, &mut guest, frames));
    for (index, pfn) in frames.iter().enumerate() {
        let tag = fixture.machine.tag(pfn);
        // Into the shared two the hostile host wrote at once: its own data.
        let host_wrote = index < 2 && tag == Some(0xbad0_0001);
        assert!(tag == Some(0) || host_wrote, "frame {index} holds {tag:x?}");
        assert_eq!(fixture.memory.entry(pfn), FrameEntry::HOST);
    }
    check(&fixture.machine, &fixture.memory, &[&guest]);
}

#[test]
fn loans_of_the_host_end_with_the_guest_and_keep_their_contents() {
    let (mut fixture, mut guest, _) = with_guest(1);
    let frames = fixture.host_frames(4);
    frames.iter().for_each(|pfn| fixture.machine.plant(pfn, HOST_DATA));
    done(&mut fixture, 4, |m, memory| memory.host_share_guest(m, &guest, frames));
    let two = frames.truncate(2);
    done(&mut fixture, 2, |m, memory| memory.map_borrowed(m, &mut guest, gfn(BAR), two));
    guest.begin_dying(&fixture.machine, &mut fixture.memory);
    done(&mut fixture, 4, |m, memory| memory.reclaim(m, &mut guest, frames));
    for pfn in frames.iter() {
        assert_eq!(fixture.memory.entry(pfn), FrameEntry::HOST);
        assert_eq!(fixture.machine.tag(pfn), Some(HOST_DATA));
    }
    check(&fixture.machine, &fixture.memory, &[&guest]);
}

#[test]
fn only_this_guests_frames_are_reclaimed_with_it() {
    let (mut fixture, mut guest, frames) = with_guest(4);
    let other = fixture.guest(1, 1024);
    let (other, others) = donate(&mut fixture, other, RAM, 1);
    guest.begin_dying(&fixture.machine, &mut fixture.memory);
    let own = fixture.host_frames(1);
    let after = pfns(frames.start().number() + 3, 2);
    for range in [others, own, after, fixture.layout.pool, pfns(0x9000, 1)] {
        refused(&mut fixture, Error::Denied, |m, memory| memory.reclaim(m, &mut guest, range));
    }
    check(&fixture.machine, &fixture.memory, &[&guest, &other]);
    // A second time is one too many.
    done(&mut fixture, 4, |m, memory| memory.reclaim(m, &mut guest, frames));
    refused(&mut fixture, Error::Denied, |m, memory| memory.reclaim(m, &mut guest, frames));
}

#[test]
fn a_frame_a_device_still_has_is_not_reclaimed() {
    let (mut fixture, mut guest, frames) = with_guest(4);
    done(&mut fixture, 4, |m, memory| memory.guest_share_host(m, &mut guest, gfns(RAM, 4)));
    let one = PfnRange::one(nth(frames, 3));
    done(&mut fixture, 1, |_, memory| memory.pin(one));
    guest.begin_dying(&fixture.machine, &mut fixture.memory);
    fixture.machine.settle();
    refused(&mut fixture, Error::Denied, |m, memory| memory.reclaim(m, &mut guest, frames));
    done(&mut fixture, 1, |_, memory| memory.unpin(one));
    done(&mut fixture, 4, |m, memory| memory.reclaim(m, &mut guest, frames));
}

#[test]
fn the_last_frame_brings_the_block_back() {
    let mut fixture = Fixture::new(16);
    let before = fixture.machine.leaves(Vmid::HOST);
    let pool = fixture.memory.pool_len();
    let guest = fixture.guest(0, 1024);
    fixture.align_frames(512);
    let (mut guest, frames) = donate(&mut fixture, guest, RAM, 512);
    guest.begin_dying(&fixture.machine, &mut fixture.memory);
    done(&mut fixture, MAX_RANGE, |m, memory| memory.reclaim(m, &mut guest, frames));
    while fixture.memory.teardown(&fixture.machine, &mut guest, 5) > 0 {
        fixture.machine.settle();
    }
    fixture.machine.settle();
    assert_eq!(fixture.machine.leaves(Vmid::HOST), before);
    assert_eq!(fixture.memory.pool_len(), pool);
}

#[test]
fn teardown_waits_for_frames_and_loans_and_is_bounded() {
    let (mut fixture, mut guest, frames) = with_guest(4);
    let loan = fixture.host_frames(1);
    done(&mut fixture, 1, |m, memory| memory.host_share_guest(m, &guest, loan));
    guest.begin_dying(&fixture.machine, &mut fixture.memory);
    let teardown = |fixture: &mut Fixture, guest: &mut GuestMemory, budget| {
        let held = fixture.memory.teardown(&fixture.machine, guest, budget);
        fixture.machine.settle();
        held
    };
    assert_eq!(teardown(&mut fixture, &mut guest, 100), 4 + 1 + 16);
    done(&mut fixture, 4, |m, memory| memory.reclaim(m, &mut guest, frames));
    assert_eq!(teardown(&mut fixture, &mut guest, 100), 1 + 16);
    done(&mut fixture, 1, |m, memory| memory.reclaim(m, &mut guest, loan));
    let mut held = 16;
    while held > 0 {
        let next = teardown(&mut fixture, &mut guest, 3);
        assert!(next < held && held - next <= 3);
        held = next;
    }
    // Everything is the host's again, wiped, and stays so.
    assert_eq!(fixture.memory.frames_held(&guest), 0);
    assert_eq!(teardown(&mut fixture, &mut guest, 100), 0);
    check(&fixture.machine, &fixture.memory, &[]);
}

#[test]
fn a_new_guest_in_the_slot_inherits_nothing() {
    let (mut fixture, mut guest, frames) = with_guest(4);
    guest.begin_dying(&fixture.machine, &mut fixture.memory);
    done(&mut fixture, 4, |m, memory| memory.reclaim(m, &mut guest, frames));
    while fixture.memory.teardown(&fixture.machine, &mut guest, 512) > 0 {}
    // `attach` reports a VMID that is used again before it is flushed.
    let next = fixture.guest(0, 1024);
    fixture.machine.settle();
    assert_eq!(next.regime().vmid, guest.regime().vmid);
    assert!(fixture.machine.access(next.regime().vmid, gfn(RAM)).is_empty());
}

#[test]
fn before_a_reset_every_guests_memory_is_zeroed() {
    let (mut fixture, guest, frames) = with_guest(4);
    let other = fixture.guest(1, 1024);
    let (mut other, others) = donate(&mut fixture, other, RAM, 2);
    done(&mut fixture, 1, |m, memory| memory.guest_share_host(m, &mut other, gfns(RAM, 1)));
    let own = fixture.host_frames(1);
    fixture.machine.plant(own.start(), HOST_DATA);
    fixture.machine.set_hostile(false); // nothing runs any more
    fixture.memory.wipe_guests(&fixture.machine);
    fixture.machine.settle();
    for pfn in frames.iter().chain(others.iter()) {
        assert_eq!(fixture.machine.tag(pfn), Some(0));
    }
    assert_eq!(fixture.machine.tag(own.start()), Some(HOST_DATA));
    check(&fixture.machine, &fixture.memory, &[&guest, &other]);
}
