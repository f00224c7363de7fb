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
