//! What a device sees of a guest: exactly what was asked for, with its right,
//! for as long as it is mapped, and nowhere else.

use super::*;
use crate::machine::Vmid;
use crate::memory::{PART_PAGES, Refreshed, Stop, View, Views, WINDOWS};
use crate::sim::walk::Choices;

/// The device with the window.
const DEVICE: usize = 1;

/// Page `page` of the window of guest 0's device, in the host's space.
fn at(page: u64) -> Gfn {
    gfn(WINDOWS.number() + (DEVICE as u64) * 0x4_0000 + page)
}

/// Guest 0 with `count` pages and a window with this budget.
fn with_window(count: u64, budget: u64) -> (Fixture, GuestMemory, PfnRange) {
    let (mut fixture, mut guest, frames) = with_guest(count);
    fixture.memory.open_window(&mut guest, DEVICE, budget).unwrap();
    check(&fixture.machine, &fixture.memory, &[&guest]);
    (fixture, guest, frames)
}

fn write(page: u64) -> View {
    View::of_guest(gfn(RAM + page), true)
}

fn read(page: u64) -> View {
    View::of_guest(gfn(RAM + page), false)
}

const NOT: View = View::NOTHING;

/// The call itself.
fn refresh_device(
    fixture: &mut Fixture,
    guest: &mut GuestMemory,
    device: usize,
    page: u64,
    wanted: &[View],
) -> Result<Refreshed, Stop> {
    let mut views = Views::default();
    wanted.iter().for_each(|view| views.push(*view, 1));
    fixture.memory.refresh_window(&fixture.machine, guest, device, page, &views)
}

/// Refreshes the pages from `page` on. A refusal has changed nothing at all,
/// and otherwise every rule holds.
#[track_caller]
fn refresh(
    fixture: &mut Fixture,
    guest: &mut GuestMemory,
    page: u64,
    wanted: &[View],
) -> Result<Refreshed, Stop> {
    let look = |fixture: &Fixture, guest: &GuestMemory| {
        let window = guest.window(DEVICE).map(|window| (window.mapped(), window.tables()));
        let entries: Vec<_> = fixture.memory.entries().collect();
        (entries, *fixture.memory.counts(), guest.memcache_len(), window)
    };
    let before = (look(fixture, guest), fixture.machine.effects());
    let result = refresh_device(fixture, guest, DEVICE, page, wanted);
    fixture.machine.settle();
    if result.is_err() {
        assert_eq!(before, (look(fixture, guest), fixture.machine.effects()));
    }
    check(&fixture.machine, &fixture.memory, &[guest]);
    result
}

fn changes(mapped: u64, unmapped: u64, left_out: u64) -> Result<Refreshed, Stop> {
    Ok(Refreshed { mapped, unmapped, left_out })
}

/// What the host reaches at a page of the window, and may it write?
fn seen(fixture: &Fixture, page: u64) -> Option<(Pfn, bool)> {
    let reached = fixture.machine.access(Vmid::HOST, at(page));
    let leaf = fixture.memory.lookup(&fixture.machine, at(page));
    assert_eq!(reached, leaf.iter().map(|leaf| leaf.pfn).collect::<Vec<_>>());
    leaf.map(|leaf| (leaf.pfn, leaf.attributes.is_writable()))
}

#[test]
fn a_device_sees_what_is_mapped_for_it_and_nothing_else() {
    let (mut fixture, mut guest, frames) = with_window(8, 8);
    let wanted = [read(5), NOT, write(0), write(1)];
    assert_eq!(refresh(&mut fixture, &mut guest, 7, &wanted), changes(3, 0, 0));
    let expected = [(7, 5, false), (9, 0, true), (10, 1, true)];
    for page in 0..32 {
        let expected = expected.iter().find(|(at, ..)| *at == page);
        let expected = expected.map(|(_, frame, right)| (nth(frames, *frame), *right));
        assert_eq!(seen(&fixture, page), expected, "page {page}");
    }
    for frame in frames.iter() {
        // Not at its own address; the guest keeps all of them.
        assert!(!host_reaches(&fixture, frame));
        assert_eq!(fixture.machine.tag(frame), Some(SECRET));
    }
    for leaf in fixture.machine.leaves(Vmid::HOST).iter().filter(|leaf| leaf.gfn >= at(0)) {
        assert_eq!(leaf.word >> 53 & 0b11, 0b10, "never executable");
    }
    // Unmapped again, it is the guest's alone.
    assert_eq!(refresh(&mut fixture, &mut guest, 0, &[NOT; 32]), changes(0, 3, 0));
    assert!((0..32).all(|page| seen(&fixture, page).is_none()));
    let own = FrameEntry::owned(guest.party());
    assert!(frames.iter().all(|frame| fixture.memory.entry(frame) == own));
}

#[test]
fn what_a_device_has_is_moved_by_no_other_call() {
    let (mut fixture, mut guest, frames) = with_window(4, 8);
    assert_eq!(refresh(&mut fixture, &mut guest, 0, &[write(2), read(2)]), changes(2, 0, 0));
    let frame = nth(frames, 2);
    let one = PfnRange::one(frame);
    let mut other = fixture.guest(1, 1024);
    for range in [gfns(RAM + 2, 1), gfns(RAM, 4)] {
        refused(&mut fixture, Error::Denied, |m, memory| {
            memory.guest_share_host(m, &mut guest, range)
        });
        refused(&mut fixture, Error::Denied, |m, memory| {
            memory.guest_unshare_host(m, &mut guest, range)
        });
        refused(&mut fixture, Error::Denied, |m, memory| {
            memory.guest_relinquish(m, &mut guest, range)
        });
    }
    // Nor by the host, whose window pins are not its own to take away.
    refused(&mut fixture, Error::Denied, |_, memory| memory.pin(one));
    refused(&mut fixture, Error::Denied, |_, memory| memory.unpin(one));
    refused(&mut fixture, Error::Denied, |m, memory| {
        memory.host_donate_guest(m, &mut other, one, gfn(RAM), Contents::Zeroed)
    });
    refused(&mut fixture, Error::Denied, |m, memory| memory.host_share_guest(m, &other, one));
    refused(&mut fixture, Error::Denied, |m, memory| {
        memory.host_donate_hyp(m, one, other.memcache())
    });
    refused(&mut fixture, Error::BadState, |m, memory| memory.reclaim(m, &mut guest, one));
    assert_eq!(fixture.memory.state_for_host(frame), PageState::NoPage);
    assert_eq!(
        fixture.memory.private_frame(&fixture.machine, &guest, gfn(RAM + 2)),
        Err(Stop::Refused(Error::Denied)),
        "it is no table"
    );
    // With one of two mappings gone it is as before, with both it is free.
    assert_eq!(refresh(&mut fixture, &mut guest, 1, &[NOT]), changes(0, 1, 0));
    refused(&mut fixture, Error::Denied, |m, memory| {
        memory.guest_relinquish(m, &mut guest, gfns(RAM + 2, 1))
    });
    assert_eq!(refresh(&mut fixture, &mut guest, 0, &[NOT]), changes(0, 1, 0));
    assert_eq!(fixture.memory.private_frame(&fixture.machine, &guest, gfn(RAM + 2)), Ok(frame));
    done(&mut fixture, 1, |m, memory| memory.guest_relinquish(m, &mut guest, gfns(RAM + 2, 1)));
    check(&fixture.machine, &fixture.memory, &[&guest, &other]);
}

#[test]
fn one_page_that_may_not_be_mapped_refuses_all() {
    let (mut fixture, mut guest, frames) = with_window(8, 16);
    let refused_with = |fixture: &mut Fixture, guest: &mut GuestMemory, odd: View| {
        let wanted = [write(0), write(1), odd];
        refresh(fixture, guest, 0, &wanted).unwrap_err()
    };
    // There is something that would have to go, too.
    assert_eq!(refresh(&mut fixture, &mut guest, 0, &[read(0), write(3)]), changes(2, 0, 0));
    done(&mut fixture, 1, |m, memory| memory.guest_share_host(m, &mut guest, gfns(RAM + 4, 1)));
    assert_eq!(refused_with(&mut fixture, &mut guest, read(4)), Stop::Refused(Error::Denied));
    done(&mut fixture, 1, |_, memory| memory.pin(PfnRange::one(nth(frames, 4))));
    assert_eq!(refused_with(&mut fixture, &mut guest, read(4)), Stop::Refused(Error::Denied));
    for outside in [BAR, RAM - 1, RAM + 1024, 0x8000, at(0).number()] {
        let odd = View::of_guest(gfn(outside), true);
        let stop = refused_with(&mut fixture, &mut guest, odd);
        assert_eq!(stop, Stop::Refused(Error::InvalidParameter), "{outside:#x}");
    }
    let missing = refused_with(&mut fixture, &mut guest, write(700));
    assert_eq!(missing, Stop::NoFrame(gfn(RAM + 700)));
    // Beyond the window, and over the border of two tables.
    for (page, count) in [(0x4_0000, 1), (0x3_ffff, 2), (511, 2), (0, 513), (u64::MAX, 1), (3, 0)] {
        let wanted = [NOT; 513];
        let wanted = wanted.get(..count).unwrap();
        let stop = refresh(&mut fixture, &mut guest, page, wanted);
        assert_eq!(stop, Err(Stop::Refused(Error::InvalidParameter)), "{page:#x}, {count}");
    }
    for device in [0, 2, 100, usize::MAX] {
        let result = refresh_device(&mut fixture, &mut guest, device, 0, &[NOT]);
        assert_eq!(result, Err(Stop::Refused(Error::NotFound)), "device {device}");
    }
}

#[test]
fn a_frame_has_at_most_255_mappings() {
    let (mut fixture, mut guest, frames) = with_window(4, 1000);
    assert_eq!(refresh(&mut fixture, &mut guest, 0, &[write(1); 255]), changes(255, 0, 0));
    assert_eq!(fixture.memory.entry(nth(frames, 1)).pins(), 255);
    let denied = Err(Stop::Refused(Error::Denied));
    assert_eq!(refresh(&mut fixture, &mut guest, 300, &[write(0), write(1)]), denied);
    // In one call as well: after the first of them has taken the last pin.
    assert_eq!(refresh(&mut fixture, &mut guest, 0, &[NOT; 10]), changes(0, 10, 0));
    assert_eq!(refresh(&mut fixture, &mut guest, 300, &[write(1); 11]), denied);
    // What goes first makes room for what comes.
    let mut wanted = [NOT; 310];
    wanted[290..].fill(write(1));
    assert_eq!(refresh(&mut fixture, &mut guest, 0, &wanted), changes(20, 245, 0));
}

#[test]
fn over_budget_is_told_and_what_goes_makes_room_first() {
    let (mut fixture, mut guest, frames) = with_window(16, 8);
    let all: Vec<View> = (0..16).map(write).collect();
    assert_eq!(refresh(&mut fixture, &mut guest, 0, &all), changes(8, 0, 8));
    assert_eq!(guest.window(DEVICE).unwrap().mapped(), 8);
    assert_eq!(seen(&fixture, 7), Some((nth(frames, 7), true)));
    assert_eq!(seen(&fixture, 8), None);
    // Full, and the same is asked again: as before, and nothing is done.
    let effects = fixture.machine.effects();
    assert_eq!(refresh(&mut fixture, &mut guest, 0, &all), changes(0, 0, 8));
    assert_eq!(fixture.machine.effects(), effects);
    // A page that is left out loses what it had.
    let mut fewer = all.clone();
    fewer[..4].fill(NOT);
    fewer[7] = read(15);
    assert_eq!(refresh(&mut fixture, &mut guest, 0, &fewer), changes(5, 5, 4));
    assert_eq!(seen(&fixture, 7), Some((nth(frames, 15), false)));
    assert_eq!(seen(&fixture, 11), Some((nth(frames, 11), true)));
    assert_eq!(seen(&fixture, 12), None);
    // A page too many even then is refused, whatever the budget.
    fewer[15] = View::of_guest(gfn(BAR), true);
    let refused = Err(Stop::Refused(Error::InvalidParameter));
    assert_eq!(refresh(&mut fixture, &mut guest, 0, &fewer), refused);
}

#[test]
fn another_frame_or_another_right_is_broken_before_it_is_made() {
    let (mut fixture, mut guest, frames) = with_window(8, 8);
    assert_eq!(refresh(&mut fixture, &mut guest, 0, &[write(0), write(1)]), changes(2, 0, 0));
    for (wanted, right) in [(read(0), false), (write(0), true)] {
        assert_eq!(refresh(&mut fixture, &mut guest, 0, &[wanted]), changes(1, 1, 0));
        assert_eq!(seen(&fixture, 0), Some((nth(frames, 0), right)));
    }
    assert_eq!(refresh(&mut fixture, &mut guest, 0, &[write(1), write(0)]), changes(2, 2, 0));
    assert_eq!(seen(&fixture, 0), Some((nth(frames, 1), true)));
    assert_eq!(seen(&fixture, 1), Some((nth(frames, 0), true)));
}

/// What costs the host: one invalidation for all that goes, none for what
/// comes, and nothing at all for what stays.
#[test]
fn a_refresh_invalidates_once_and_only_for_what_goes() {
    let (mut fixture, mut guest, _) = with_window(64, 512);
    let all: Vec<View> = (0..64).map(write).collect();
    let (before, effects) = (fixture.machine.invalidations(), fixture.machine.effects());
    assert_eq!(refresh(&mut fixture, &mut guest, 0, &all), changes(64, 0, 0));
    assert_eq!(fixture.machine.invalidations(), before);
    assert!(fixture.machine.effects() > effects);
    let odd: Vec<View> =
        (0..64).map(|page| if page % 2 == 0 { NOT } else { write(page) }).collect();
    assert_eq!(refresh(&mut fixture, &mut guest, 0, &odd), changes(0, 32, 0));
    assert_eq!(fixture.machine.invalidations(), before + 1);
    let effects = fixture.machine.effects();
    assert_eq!(refresh(&mut fixture, &mut guest, 0, &odd), changes(0, 0, 0));
    assert_eq!((fixture.machine.invalidations(), fixture.machine.effects()), (before + 1, effects));
}

#[test]
fn tables_come_from_the_memcache_and_go_back() {
    let mut fixture = Fixture::new(16);
    let guest = fixture.guest_with_memcache(0, 1024, 5);
    let (mut guest, _) = donate(&mut fixture, guest, RAM, 8);
    fixture.memory.open_window(&mut guest, DEVICE, 8).unwrap();
    assert_eq!(guest.memcache_len(), 2);
    assert_eq!(refresh(&mut fixture, &mut guest, 0, &[write(0)]), changes(1, 0, 0));
    assert_eq!(guest.memcache_len(), 0);
    // Another 2 MiB want a table more.
    assert_eq!(refresh(&mut fixture, &mut guest, 512, &[write(1)]), Err(Stop::NoTables));
    // Room in a table that is there wants none; nor does what goes and comes.
    assert_eq!(refresh(&mut fixture, &mut guest, 9, &[read(0)]), changes(1, 0, 0));
    assert_eq!(refresh(&mut fixture, &mut guest, 9, &[NOT]), changes(0, 1, 0));
    assert_eq!(refresh(&mut fixture, &mut guest, 0, &[write(3)]), changes(1, 1, 0));
    assert_eq!(refresh(&mut fixture, &mut guest, 0, &[NOT]), changes(0, 1, 0));
    assert_eq!((guest.memcache_len(), guest.window_tables()), (2, 0));
    assert_eq!(refresh(&mut fixture, &mut guest, 512, &[write(1)]), changes(1, 0, 0));
}

#[test]
fn a_window_is_emptied_in_bounded_steps() {
    let (mut fixture, mut guest, _) = with_window(8, 2000);
    for table in [0, 3, 511] {
        let page = table * PART_PAGES as u64;
        assert_eq!(
            refresh(&mut fixture, &mut guest, page, &[write(table % 8); 40]),
            changes(40, 0, 0)
        );
    }
    for left in [80, 40, 0, 0] {
        let (machine, memory) = (&fixture.machine, &mut fixture.memory);
        let expected =
            if left == 0 && guest.window(DEVICE).unwrap().mapped() == 0 { 0 } else { 40 };
        assert_eq!(memory.empty_window(machine, &mut guest, DEVICE), Ok(expected));
        fixture.machine.settle();
        check(&fixture.machine, &fixture.memory, &[&guest]);
        assert_eq!(guest.window(DEVICE).unwrap().mapped(), left);
    }
}

#[test]
fn what_is_mapped_when_a_guest_dies_is_zeros_before_the_host_has_it() {
    let mut fixture = Fixture::new(16);
    fixture.machine.set_hostile(true);
    let guest = fixture.guest(0, 1024);
    let (mut guest, frames) = donate(&mut fixture, guest, RAM, 512);
    fixture.memory.open_window(&mut guest, DEVICE, 2000).unwrap();
    fixture.memory.open_window(&mut guest, 3, 2000).unwrap();
    let all: Vec<View> = (0..512).map(write).collect();
    for page in [0, 1024] {
        assert_eq!(refresh(&mut fixture, &mut guest, page, &all), changes(512, 0, 0));
    }
    guest.begin_dying(&fixture.machine, &mut fixture.memory);
    fixture.machine.settle();
    check(&fixture.machine, &fixture.memory, &[&guest]);
    assert!((0..2000).all(|page| seen(&fixture, page).is_none()), "on no CPU");
    let refused = Err(Stop::Refused(Error::BadState));
    assert_eq!(refresh(&mut fixture, &mut guest, 0, &[NOT]), refused);
    done(&mut fixture, 512, |m, memory| memory.reclaim(m, &mut guest, frames));
    assert!(frames.iter().all(|frame| fixture.machine.tag(frame) == Some(0)));
    assert!(frames.iter().all(|frame| fixture.memory.entry(frame) == FrameEntry::HOST));
    check(&fixture.machine, &fixture.memory, &[&guest]);
    let mut left = fixture.memory.frames_held(&guest);
    assert!(left > guest.tables() + guest.memcache_len(), "the window's tables are held, too");
    while left > 0 {
        let now = fixture.memory.teardown(&fixture.machine, &mut guest, 2);
        fixture.machine.settle();
        assert!(now < left);
        left = now;
    }
    check(&fixture.machine, &fixture.memory, &[]);
}

/// C17 for windows: what the guest wrote last is what the backend reads, and
/// nothing of the backend's comes to light when it has lost the page.
#[test]
fn both_sides_of_a_window_see_one_thing() {
    let (mut fixture, mut guest, frames) = with_window(4, 8);
    for frame in frames.iter() {
        fixture.machine.store_cached(frame, HOST_DATA);
        fixture.machine.evict(frame);
        fixture.machine.store_cached(frame, SECRET);
    }
    assert_eq!(refresh(&mut fixture, &mut guest, 0, &[write(0), read(1)]), changes(2, 0, 0));
    for frame in frames.iter().take(2) {
        assert_eq!(fixture.machine.load_uncached(frame), SECRET);
        fixture.machine.store_uncached(frame, HOST_DATA);
    }
    // Another mapping of the same frame is no moment at which that may matter.
    assert_eq!(refresh(&mut fixture, &mut guest, 2, &[read(0)]), changes(1, 0, 0));
    assert_eq!(refresh(&mut fixture, &mut guest, 0, &[NOT, NOT, NOT]), changes(0, 3, 0));
    for frame in frames.iter().take(2) {
        let seen = fixture.machine.tag(frame);
        fixture.machine.evict(frame);
        assert_eq!(fixture.machine.tag(frame), seen, "an eviction brings it to light");
    }
}

/// A frame that is mapped twice: with the right to write goes what was written
/// past the caches, whichever way the right is lost.
#[test]
fn what_was_written_past_the_caches_goes_with_the_right_to_write() {
    for wanted in [[NOT, read(0)], [read(0), read(0)]] {
        let (mut fixture, mut guest, frames) = with_window(4, 8);
        assert_eq!(refresh(&mut fixture, &mut guest, 0, &[write(0), read(0)]), changes(2, 0, 0));
        let frame = nth(frames, 0);
        fixture.machine.evict(frame);
        fixture.machine.store_uncached(frame, HOST_DATA);
        assert!(refresh(&mut fixture, &mut guest, 0, &wanted).is_ok());
        assert_eq!(seen(&fixture, 1), Some((frame, false)));
        let looked = fixture.machine.tag(frame);
        fixture.machine.evict(frame);
        assert_eq!(fixture.machine.tag(frame), looked, "changes though nobody may write");
    }
}

/// A guest dies with pages in two windows: no CPU keeps a translation of
/// either.
#[test]
fn both_windows_of_a_dying_guest_are_forgotten() {
    let (mut fixture, mut guest, _) = with_window(4, 8);
    fixture.machine.set_hostile(true);
    fixture.memory.open_window(&mut guest, 3, 8).unwrap();
    assert_eq!(refresh(&mut fixture, &mut guest, 0, &[write(0)]), changes(1, 0, 0));
    refresh_device(&mut fixture, &mut guest, 3, 0, &[write(0), write(1)]).unwrap();
    fixture.machine.settle();
    let other = guest.window(3).unwrap().first();
    guest.begin_dying(&fixture.machine, &mut fixture.memory);
    fixture.machine.settle();
    for page in [at(0), other, gfn(other.number() + 1)] {
        assert!(fixture.memory.lookup(&fixture.machine, page).is_none());
    }
    check(&fixture.machine, &fixture.memory, &[&guest]);
}

#[test]
fn windows_of_two_guests_are_apart_and_tell_whose_they_are() {
    let (mut fixture, mut guest, frames) = with_window(4, 8);
    let other = fixture.guest(1, 1024);
    let (mut other, theirs) = donate(&mut fixture, other, RAM, 4);
    fixture.memory.open_window(&mut other, DEVICE, 8).unwrap();
    assert_eq!(fixture.memory.open_window(&mut other, DEVICE, 8), Err(Error::NotFound), "twice");
    assert_eq!(fixture.memory.open_window(&mut other, 1000, 8), Err(Error::NotFound));
    for (guest, wanted) in [(&mut guest, write(0)), (&mut other, read(0))] {
        refresh_device(&mut fixture, guest, DEVICE, 5, &[wanted]).unwrap();
        fixture.machine.settle();
    }
    check(&fixture.machine, &fixture.memory, &[&guest, &other]);
    let first = other.window(DEVICE).unwrap().first();
    let leaf = fixture.memory.lookup(&fixture.machine, gfn(first.number() + 5)).unwrap();
    assert_eq!((leaf.pfn, leaf.attributes.is_writable()), (nth(theirs, 0), false));
    assert_eq!(seen(&fixture, 5), Some((nth(frames, 0), true)));
    let fault = |fixture: &mut Fixture, page| fixture.memory.host_fault(&fixture.machine, page);
    assert_eq!(fault(&mut fixture, gfn(first.number() + 6)), HostFault::Refused(other.party()));
    assert_eq!(fault(&mut fixture, at(6)), HostFault::Refused(guest.party()));
    assert_eq!(fault(&mut fixture, at(5)), HostFault::Retry);
    let nobodys = gfn(WINDOWS.number() + (1 << 18) * 63);
    assert_eq!(fault(&mut fixture, nobodys), HostFault::Refused(Owner::None));
}

/// Few frames, each mapped many times over in two tables, to the last pin, to
/// the end of the budget, and some of them lent in between: against a list of
/// what each page of the window shows. A refusal changes nothing
/// ([`refresh`]), however much of it had been done.
#[test]
fn pins_and_budget_are_those_of_a_plain_list() {
    const PAGES: usize = 2 * PART_PAGES;
    let mut choices = Choices::seed(0x91a5);
    let (mut full, mut left, mut refused) = (0, 0, 0);
    for budget in [600, 900, 5] {
        let (mut fixture, mut guest, frames) = with_window(6, budget);
        let mut shown = [None; PAGES];
        let mut lent = false;
        for _ in 0..40 {
            if choices.one_in(4) && !shown.iter().flatten().any(|(frame, _)| *frame == 5) {
                let page = gfns(RAM + 5, 1);
                done(&mut fixture, 1, |m, memory| match lent {
                    true => memory.guest_unshare_host(m, &mut guest, page),
                    false => memory.guest_share_host(m, &mut guest, page),
                });
                lent = !lent;
            }
            let from = choices.below(PAGES as u64);
            let most = PART_PAGES as u64 - from % PART_PAGES as u64;
            let some = 1 + choices.below(most);
            let count = choices.pick(&[most, some]);
            let mut wanted = Vec::new();
            while (wanted.len() as u64) < count {
                // Stays, goes, or is one of a run of pages or of one page.
                let (kind, page) = (choices.below(6), choices.pick(&[0, 0, 0, 1, 2, 5]));
                let (right, step) = (choices.one_in(2), choices.below(2));
                let longest = choices.pick(&[3, 200]);
                for turn in 0..1 + choices.below(longest) {
                    let at = from as usize + wanted.len();
                    let of = (page + step * turn) % if lent || choices.one_in(9) { 6 } else { 5 };
                    wanted.push(match kind {
                        0 => None,
                        1 | 2 => shown.get(at).copied().flatten(),
                        _ => Some((of, right)),
                    });
                }
            }
            wanted.truncate(count as usize);

            let mut after = shown;
            let here = &mut after[from as usize..][..wanted.len()];
            let changed = here.iter_mut().zip(&wanted).filter(|(page, want)| **page != **want);
            let unmapped = changed.filter_map(|(page, _)| page.take()).count() as u64;
            let mut expected = Ok(Refreshed { unmapped, ..Refreshed::default() });
            for (at, want) in (from as usize..).zip(&wanted) {
                let (Some((frame, _)), None, Ok(done)) = (want, after[at], &mut expected) else {
                    continue;
                };
                let pins = after.iter().flatten().filter(|(other, _)| other == frame).count();
                if pins == 255 || (*frame == 5 && lent) {
                    full += u64::from(pins == 255);
                    expected = Err(Stop::Refused(Error::Denied));
                } else if after.iter().flatten().count() as u64 == budget {
                    done.left_out += 1;
                } else {
                    done.mapped += 1;
                    after[at] = *want;
                }
            }
            let views: Vec<View> = wanted
                .iter()
                .map(|want| {
                    want.map_or(NOT, |(page, right)| View::of_guest(gfn(RAM + page), right))
                })
                .collect();
            assert_eq!(refresh(&mut fixture, &mut guest, from, &views), expected);
            match expected {
                Ok(done) => (shown, left) = (after, left + done.left_out),
                Err(_) => refused += 1,
            }
            for (page, shown) in (0..).zip(&shown) {
                let shown = shown.map(|(frame, right)| (nth(frames, frame), right));
                assert_eq!(seen(&fixture, page), shown, "page {page}");
            }
        }
    }
    assert!(full > 3 && left > 100 && refused > 10, "{full} full, {left} left, {refused} refused");
}
