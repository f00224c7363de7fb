use super::*;
use crate::machine::Vmid;

#[test]
fn a_shared_page_is_there_for_both_with_its_contents() {
    let (mut fixture, mut guest, frames) = with_guest(8);
    done(&mut fixture, 2, |m, memory| memory.guest_share_host(m, &mut guest, gfns(RAM + 3, 2)));
    for (index, pfn) in frames.iter().enumerate() {
        let shared = index == 3 || index == 4;
        assert_eq!(host_reaches(&fixture, pfn), shared, "frame {index}");
        assert_eq!(fixture.machine.tag(pfn), Some(SECRET));
    }
    assert_eq!(fixture.memory.state_for_host(nth(frames, 3)), PageState::SharedBorrowed);
    check(&fixture.machine, &fixture.memory, &[&guest]);
}

#[test]
fn after_unshare_no_tlb_of_the_hosts_remembers_the_page() {
    let (mut fixture, mut guest, frames) = with_guest(8);
    done(&mut fixture, 8, |m, memory| memory.guest_share_host(m, &mut guest, gfns(RAM, 8)));
    let before = fixture.machine.invalidations();
    done(&mut fixture, 8, |m, memory| memory.guest_unshare_host(m, &mut guest, gfns(RAM, 8)));
    assert_eq!(fixture.machine.invalidations() - before, 1);
    for pfn in frames.iter() {
        assert!(!host_reaches(&fixture, pfn));
        assert_eq!(fixture.machine.tag(pfn), Some(SECRET), "the guest keeps its data");
    }
    check(&fixture.machine, &fixture.memory, &[&guest]);
}

/// pKVM's contract keeps contents; a guest that does not want that of itself
/// says so when it is made.
#[test]
fn a_zeroing_guests_page_changes_sides_as_zeros() {
    let (mut fixture, guest, frames) = with_guest(8);
    let mut guest = guest.zeroing(true);
    // Nobody stores while it happens.
    fixture.machine.set_hostile(false);
    let (shared, pfn) = (gfns(RAM + 2, 3), nth(frames, 2));
    done(&mut fixture, 3, |m, memory| memory.guest_share_host(m, &mut guest, shared));
    for (index, pfn) in frames.iter().enumerate() {
        let tag = if (2..5).contains(&index) { 0 } else { SECRET };
        assert_eq!(fixture.machine.tag(pfn), Some(tag), "frame {index}");
        assert_eq!(fixture.machine.load_uncached(pfn), tag, "frame {index} past the caches");
    }
    assert!(host_reaches(&fixture, pfn));
    fixture.machine.store_cached(pfn, HOST_DATA);
    fixture.machine.store_uncached(nth(frames, 3), HOST_DATA);
    let before = fixture.machine.invalidations();
    done(&mut fixture, 3, |m, memory| memory.guest_unshare_host(m, &mut guest, shared));
    assert_eq!(fixture.machine.invalidations() - before, 1);
    for pfn in frames.iter().skip(2).take(3) {
        assert!(!host_reaches(&fixture, pfn));
        assert_eq!(fixture.machine.tag(pfn), Some(0), "nothing of the host's comes with it");
        fixture.machine.evict(pfn);
        assert_eq!(fixture.machine.tag(pfn), Some(0), "nor later");
    }
    check(&fixture.machine, &fixture.memory, &[&guest]);
}

/// The wipe of a page that is taken back is after the host's last store.
#[test]
fn a_zeroing_guests_page_is_out_of_the_hosts_reach_when_it_is_wiped() {
    let (mut fixture, guest, frames) = with_guest(8);
    let mut guest = guest.zeroing(true);
    let host = 0xbad0_0000 + u64::from(Vmid::HOST.0);
    for call in [ALL[0], ALL[1], ALL[0], UNSHARE_ALL] {
        done(&mut fixture, 8, |m, memory| call(memory, m, &mut guest, gfns(RAM, 8)));
        for pfn in frames.iter() {
            // Whoever reaches a page while it is wiped stores there: its guest.
            assert_ne!(fixture.machine.tag(pfn), Some(host), "the host's");
            assert_ne!(fixture.machine.tag(pfn), Some(SECRET));
        }
    }
    check(&fixture.machine, &fixture.memory, &[&guest]);
}

const UNSHARE_ALL: Call = |memory, m, guest, range| {
    memory.guest_unshare_all(m, guest, range.start()).map(|back| back.pages)
};

#[test]
fn all_that_was_shared_comes_back_but_what_is_held() {
    let mut fixture = Fixture::new(16);
    let guest = fixture.guest(0, 1024);
    let (guest, first) = donate(&mut fixture, guest, RAM, 8);
    // A hole, and a frame in the next part.
    let (mut guest, last) = donate(&mut fixture, guest, RAM + 600, 8);
    for range in [gfns(RAM + 1, 2), gfns(RAM + 5, 3), gfns(RAM + 600, 2)] {
        done(&mut fixture, range.count(), |m, memory| {
            memory.guest_share_host(m, &mut guest, range)
        });
    }
    let pinned = PfnRange::one(nth(first, 6));
    done(&mut fixture, 1, |_, memory| memory.pin(pinned));

    let all = |fixture: &mut Fixture, from| {
        let back = fixture.memory.guest_unshare_all(&fixture.machine, &guest, gfn(from)).unwrap();
        fixture.machine.settle();
        (back.pages, back.held, back.next.map(Gfn::number))
    };
    let before = fixture.machine.invalidations();
    assert_eq!(all(&mut fixture, RAM), (4, 1, Some(RAM + 512)));
    assert_eq!(fixture.machine.invalidations() - before, 1);
    assert!(host_reaches(&fixture, nth(last, 0)), "not looked at yet");
    assert_eq!(all(&mut fixture, RAM + 512), (2, 0, None));
    for pfn in first.iter().chain(last.iter()) {
        assert_eq!(host_reaches(&fixture, pfn), pfn == pinned.start());
        assert_eq!(fixture.machine.tag(pfn), Some(SECRET), "with its contents");
    }
    // What is held comes back when it is let go; then there is nothing.
    done(&mut fixture, 1, |_, memory| memory.unpin(pinned));
    assert_eq!(all(&mut fixture, RAM + 7), (0, 0, Some(RAM + 519)));
    assert_eq!(all(&mut fixture, RAM), (1, 0, Some(RAM + 512)));
    let before = fixture.machine.invalidations();
    assert_eq!(all(&mut fixture, RAM), (0, 0, Some(RAM + 512)));
    assert_eq!(fixture.machine.invalidations(), before, "nothing to forget");
    for nowhere in [RAM - 1, RAM + 1024, BAR] {
        refused(&mut fixture, Error::InvalidParameter, |m, memory| {
            memory.guest_unshare_all(m, &guest, gfn(nowhere)).map(|back| back.pages)
        });
    }
    check(&fixture.machine, &fixture.memory, &[&guest]);
}

#[test]
fn scattered_frames_are_shared_and_taken_back_like_a_run() {
    let mut fixture = Fixture::new(16);
    let mut guest = fixture.guest(0, 1024);
    // Backwards, and every other frame.
    let frames = fixture.host_frames(64);
    for index in 0..32 {
        let one = PfnRange::one(nth(frames, 63 - 2 * index));
        done(&mut fixture, 1, |m, memory| {
            memory.host_donate_guest(m, &mut guest, one, gfn(RAM + index), Contents::Zeroed)
        });
    }
    done(&mut fixture, 32, |m, memory| memory.guest_share_host(m, &mut guest, gfns(RAM, 32)));
    check(&fixture.machine, &fixture.memory, &[&guest]);
    let before = fixture.machine.invalidations();
    done(&mut fixture, 32, |m, memory| memory.guest_unshare_host(m, &mut guest, gfns(RAM, 32)));
    assert_eq!(fixture.machine.invalidations() - before, 1);
    check(&fixture.machine, &fixture.memory, &[&guest]);
    // Relinquishing goes run by run.
    for index in 0..32 {
        done(&mut fixture, 1, |m, memory| {
            memory.guest_relinquish(m, &mut guest, gfns(RAM + index, 32 - index))
        });
    }
    check(&fixture.machine, &fixture.memory, &[&guest]);
}

#[test]
fn what_is_not_the_guests_ram_cannot_be_shared() {
    let (mut fixture, mut guest, _) = with_guest(8);
    let loan = fixture.host_frames(1);
    done(&mut fixture, 1, |m, memory| memory.host_share_guest(m, &guest, loan));
    done(&mut fixture, 1, |m, memory| memory.map_borrowed(m, &mut guest, gfn(BAR), loan));
    let uart = crate::layout::UART >> 12;
    for range in [gfns(BAR, 1), gfns(uart, 1), gfns(RAM - 1, 2), gfns(RAM + 1023, 2)] {
        for call in ALL {
            refused(&mut fixture, Error::InvalidParameter, |m, memory| {
                call(memory, m, &mut guest, range)
            });
        }
    }
    // RAM that the host has not donated yet, in the last frame only.
    for call in ALL {
        refused(&mut fixture, Error::NotFound, |m, memory| {
            call(memory, m, &mut guest, gfns(RAM + 1000, 1))
        });
    }
    refused(&mut fixture, Error::NotFound, |m, memory| {
        memory.guest_share_host(m, &mut guest, gfns(RAM, 9))
    });
}

type Call =
    fn(&mut HostMemory<'static>, &SimMachine, &mut GuestMemory, GfnRange) -> Result<u64, Error>;
const ALL: [Call; 3] = [
    |memory, m, guest, range| memory.guest_share_host(m, guest, range),
    |memory, m, guest, range| memory.guest_unshare_host(m, guest, range),
    |memory, m, guest, range| memory.guest_relinquish(m, guest, range),
];

#[test]
fn one_frame_in_the_wrong_state_refuses_the_range() {
    let (mut fixture, mut guest, _) = with_guest(8);
    done(&mut fixture, 1, |m, memory| memory.guest_share_host(m, &mut guest, gfns(RAM + 7, 1)));
    let all = gfns(RAM, 8);
    for call in ALL {
        refused(&mut fixture, Error::Denied, |m, memory| call(memory, m, &mut guest, all));
    }
}

#[test]
fn a_page_the_hosts_device_has_pinned_is_not_taken_back() {
    let (mut fixture, mut guest, frames) = with_guest(8);
    done(&mut fixture, 8, |m, memory| memory.guest_share_host(m, &mut guest, gfns(RAM, 8)));
    let one = PfnRange::one(nth(frames, 5));
    done(&mut fixture, 1, |_, memory| memory.pin(one));
    refused(&mut fixture, Error::Denied, |m, memory| {
        memory.guest_unshare_host(m, &mut guest, gfns(RAM, 8))
    });
    done(&mut fixture, 1, |_, memory| memory.unpin(one));
    done(&mut fixture, 8, |m, memory| memory.guest_unshare_host(m, &mut guest, gfns(RAM, 8)));
}

#[test]
fn a_shared_page_is_not_the_hosts_to_give_away() {
    let (mut fixture, mut guest, frames) = with_guest(8);
    let mut other = fixture.guest(1, 1024);
    done(&mut fixture, 8, |m, memory| memory.guest_share_host(m, &mut guest, gfns(RAM, 8)));
    refused(&mut fixture, Error::Denied, |m, memory| {
        memory.host_donate_guest(m, &mut other, frames, gfn(RAM), Contents::Zeroed)
    });
    refused(&mut fixture, Error::Denied, |m, memory| memory.host_share_guest(m, &other, frames));
    refused(&mut fixture, Error::Denied, |m, memory| {
        memory.host_donate_hyp(m, frames, other.memcache())
    });
}

#[test]
fn a_block_full_of_shared_pages_stays_pages() {
    let mut fixture = Fixture::new(16);
    let guest = fixture.guest(0, 1024);
    fixture.align_frames(512);
    let (mut guest, _) = donate(&mut fixture, guest, RAM, 512);
    done(&mut fixture, 512, |m, memory| memory.guest_share_host(m, &mut guest, gfns(RAM, 512)));
    check(&fixture.machine, &fixture.memory, &[&guest]);
    // Taking back never needs a table: it works with the pool at any level.
    let pool = fixture.memory.pool_len();
    done(&mut fixture, 1, |m, memory| memory.guest_unshare_host(m, &mut guest, gfns(RAM, 1)));
    assert_eq!(fixture.memory.pool_len(), pool);
}

#[test]
fn a_page_given_back_among_borrowed_ones_makes_no_block_of_them() {
    let mut fixture = Fixture::new(16);
    let guest = fixture.guest(0, 1024);
    fixture.align_frames(512);
    let (mut guest, _) = donate(&mut fixture, guest, RAM, 512);
    done(&mut fixture, 511, |m, memory| memory.guest_share_host(m, &mut guest, gfns(RAM, 511)));
    // Now the host maps all 512 again, but only one of them is its own.
    done(&mut fixture, 1, |m, memory| memory.guest_relinquish(m, &mut guest, gfns(RAM + 511, 1)));
    check(&fixture.machine, &fixture.memory, &[&guest]);
    let pool = fixture.memory.pool_len();
    done(&mut fixture, 1, |m, memory| memory.guest_unshare_host(m, &mut guest, gfns(RAM, 1)));
    assert_eq!(fixture.memory.pool_len(), pool, "a block was split: nobody counted its table");
}

#[test]
fn a_relinquished_page_is_zeros_for_the_host_and_gone_for_the_guest() {
    let (mut fixture, mut guest, frames) = with_guest(8);
    let blocks = fixture.machine.leaves(Vmid::HOST).len();
    done(&mut fixture, 8, |m, memory| memory.guest_relinquish(m, &mut guest, gfns(RAM, 8)));
    for pfn in frames.iter() {
        assert_eq!(fixture.machine.tag(pfn), Some(0));
        assert_eq!(fixture.memory.entry(pfn), FrameEntry::HOST);
        assert!(host_reaches(&fixture, pfn));
    }
    assert_eq!(guest.lookup(&fixture.machine, gfn(RAM)), None);
    assert!(fixture.machine.leaves(Vmid::HOST).len() > blocks);
    check(&fixture.machine, &fixture.memory, &[&guest]);
    // It can be donated again, to somebody else as well.
    let mut other = fixture.guest(1, 1024);
    done(&mut fixture, 8, |m, memory| {
        memory.host_donate_guest(m, &mut other, frames, gfn(RAM), Contents::Zeroed)
    });
    check(&fixture.machine, &fixture.memory, &[&guest, &other]);
}

#[test]
fn a_long_range_is_done_in_bounded_steps() {
    let mut fixture = Fixture::new(16);
    let guest = fixture.guest(0, 1024);
    let (guest, _) = donate(&mut fixture, guest, RAM, 512);
    let (mut guest, _) = donate(&mut fixture, guest, RAM + 512, 100);
    let all = gfns(RAM, 612);
    for call in ALL {
        done(&mut fixture, abi::MAX_RANGE, |m, memory| call(memory, m, &mut guest, all));
        check(&fixture.machine, &fixture.memory, &[&guest]);
    }
}
