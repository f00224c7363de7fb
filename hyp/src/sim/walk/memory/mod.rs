//! Calls of the ownership engine against a model that is a plain map.
//!
//! The model knows what each frame is and where guests see it; from that it
//! predicts every result. Pools are too small on purpose: a call may also end
//! with `NoMemory`, and must then have changed nothing. After each call the
//! watcher is asked, and in between everything is compared.

mod calls;

use super::Choices;
use crate::abi::MAX_RANGE;
use crate::addr::{Gfn, GfnRange, Pfn, PfnRange};
use crate::error::Error;
use crate::memory::{Contents, FrameEntry, GuestId, GuestMemory, Owner, SharedPlace};
use crate::sim::{Fixture, Layout, check};
use crate::stage2::TablePool;
use std::collections::BTreeMap;
use std::vec::Vec;

/// First frame of every guest's RAM.
pub(crate) const RAM: u64 = crate::layout::RAM >> 12;
/// A frame of the window for bounce BARs.
pub(crate) const BAR: u64 = crate::layout::PCI_MEM64 >> 12;
/// What a guest leaves in its frames.
pub(crate) const SECRET: u64 = 0x5ec2_e700_5ec2_e700;

pub(crate) fn gfn(number: u64) -> Gfn {
    Gfn::new(number).unwrap()
}

pub(crate) fn pfns(start: u64, count: u64) -> PfnRange {
    PfnRange::new(start, count).unwrap()
}

pub(crate) fn gfns(start: u64, count: u64) -> GfnRange {
    GfnRange::new(start, count).unwrap()
}

/// Number of the `index`th frame of a range.
pub(crate) fn nth(range: PfnRange, index: u64) -> Pfn {
    range.start().checked_add(index).unwrap()
}

/// What the host stores past the caches.
const PAST: u64 = 0x9a57_0000_9a57_0000;
/// Stores from one call to the next.
const STORES: u64 = 32;

const SLOTS: usize = 3;
const GUEST_RAM: u64 = 600;

/// The guests of two slots find what they share in place, those of another at
/// its alias.
fn shared_place(slot: usize) -> SharedPlace {
    if slot == 1 { SharedPlace::Alias } else { SharedPlace::InPlace }
}

/// Pages of the guest of the third slot are zeroed when they change sides,
/// too.
fn zeroing(slot: usize) -> bool {
    slot == 2
}

/// Where the guest in `slot` finds the page `at` of its RAM, and where not.
fn views(slot: usize, at: u64, lent: bool) -> (Gfn, Option<Gfn>) {
    match (shared_place(slot), lent) {
        (SharedPlace::InPlace, _) => (gfn(at), None),
        (SharedPlace::Alias, false) => (gfn(at), Some(gfn(at).alias())),
        (SharedPlace::Alias, true) => (gfn(at).alias(), Some(gfn(at))),
    }
}
const BANK: PfnRange = match PfnRange::new(0x4_0100, 2048) {
    Ok(range) => range,
    Err(_) => unreachable!(),
};

/// What the model says of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Is {
    Hosts,
    Hyps,
    /// Kept by firmware: as it is for ever.
    Firmware,
    /// The host's, lent to a guest, which sees it at the frame given.
    Lent(usize, Option<u64>),
    /// A guest's, at this frame of its RAM (or its alias); lent to the host
    /// or not.
    Guests(usize, u64, bool),
}

impl Is {
    /// Where a guest sees it.
    fn place(self) -> Option<(usize, u64)> {
        match self {
            Is::Lent(slot, Some(at)) | Is::Guests(slot, at, _) => Some((slot, at)),
            _ => None,
        }
    }
}

struct Model<'a> {
    fixture: Fixture,
    guests: [Option<GuestMemory>; SLOTS],
    /// Every frame of the bank, with its pins.
    frames: BTreeMap<u64, (Is, u64)>,
    /// The frames that guests see, by slot and guest frame.
    seen: BTreeMap<(usize, u64), u64>,
    choices: Choices<'a>,
    refusals: u64,
    exhaustions: u64,
    successes: u64,
}

/// The tag of a guest's data.
fn secret(slot: usize) -> u64 {
    SECRET + slot as u64
}

impl<'a> Model<'a> {
    fn new(choices: Choices<'a>) -> Self {
        let mut layout = Layout::of_banks(&[BANK]);
        // Seven tables to boot, and one too few to split all three blocks.
        layout.pool = layout.pool.truncate(9);
        let fixture = Fixture::with_layout(layout);
        fixture.machine.set_hostile(true);
        let hyp = fixture.layout.hyp[0];
        let firmware = fixture.layout.firmware[0];
        let is = |pfn| match pfn {
            pfn if hyp.contains(pfn) => Is::Hyps,
            pfn if firmware.contains(pfn) => Is::Firmware,
            _ => Is::Hosts,
        };
        let frames = BANK.iter().map(|pfn| (pfn.number(), (is(pfn), 0))).collect();
        let guests = [const { None }; SLOTS];
        let seen = BTreeMap::new();
        let (successes, refusals, exhaustions) = (0, 0, 0);
        Self { fixture, guests, frames, seen, choices, refusals, exhaustions, successes }
    }

    fn is(&self, pfn: u64) -> Option<(Is, u64)> {
        self.frames.get(&pfn).copied()
    }

    /// Do all frames of the range (as far as one call goes) satisfy this?
    fn all(&self, range: PfnRange, allowed: impl Fn(Is, u64) -> bool) -> Result<u64, Error> {
        let range = range.truncate(MAX_RANGE);
        let each = |pfn: Pfn| self.is(pfn.number()).is_some_and(|(is, pins)| allowed(is, pins));
        if range.iter().all(each) { Ok(range.count()) } else { Err(Error::Denied) }
    }

    fn set(&mut self, pfn: u64, is: Is) {
        let frame = self.frames.get_mut(&pfn).unwrap();
        if let Some(place) = frame.0.place() {
            self.seen.remove(&place);
        }
        frame.0 = is;
        if let Some(place) = is.place() {
            assert_eq!(self.seen.insert(place, pfn), None);
        }
    }

    /// The frame a guest sees at `gfn`.
    fn seen_at(&self, slot: usize, gfn: u64) -> Option<u64> {
        self.seen.get(&(slot, gfn)).copied()
    }

    /// Mostly a run of frames that the call wants, now and then anything.
    fn some_frames(&mut self, wanted: impl Fn(Is) -> bool) -> PfnRange {
        let start = BANK.start().number() + self.choices.below(BANK.count());
        if self.choices.one_in(6) {
            return pfns(start - 1 + self.choices.below(3), 1 + self.choices.below(700));
        }
        let good = |pfn: u64| self.is(pfn).is_some_and(|(is, _)| wanted(is));
        let start = (start..BANK.end()).find(|pfn| good(*pfn)).unwrap_or(start);
        let run = (start..BANK.end()).take_while(|pfn| good(*pfn)).count() as u64;
        let most = if self.choices.one_in(8) { 600 } else { 1 + self.choices.below(24) };
        pfns(start, run.clamp(1, most))
    }

    /// Mostly frames the guest has, now and then anything.
    fn some_guest_frames(&mut self, slot: usize, wanted: impl Fn(Is) -> bool) -> GfnRange {
        let start = RAM + self.choices.below(GUEST_RAM);
        let most = 1 + self.choices.below(24);
        if self.choices.one_in(6) {
            return gfns(start, most);
        }
        let good = |at: u64| {
            let is = self.seen_at(slot, at).and_then(|pfn| self.is(pfn));
            is.is_some_and(|(is, _)| wanted(is))
        };
        let start = (start..RAM + GUEST_RAM).find(|at| good(*at)).unwrap_or(start);
        let run = (start..RAM + GUEST_RAM).take_while(|at| good(*at)).count() as u64;
        gfns(start, run.clamp(1, most))
    }

    fn step(&mut self) {
        let slot = self.choices.below(SLOTS as u64) as usize;
        let Some(mut guest) = self.guests[slot].take() else {
            self.create(slot);
            return;
        };
        let call = self.choices.below(16);
        match call {
            // A dying guest should also come to an end.
            _ if guest.is_dying() && self.choices.one_in(2) => {
                self.reclaim_or_tear_down(slot, &mut guest);
            }
            0..=3 => self.donate(slot, &mut guest),
            4 => self.lend(slot, &mut guest),
            5 => self.end_loan(slot, &mut guest),
            6 => self.map_bar(slot, &mut guest),
            7 => self.unmap_bar(slot, &mut guest),
            8 | 9 => self.guest_call(slot, &mut guest, (false, true)),
            10 if self.choices.one_in(4) => self.unshare_all(slot, &mut guest),
            10 => self.guest_call(slot, &mut guest, (true, false)),
            11 => self.relinquish(slot, &mut guest),
            12 => self.top_up(&mut guest),
            13 => self.pin(),
            14 if !guest.is_dying() && self.choices.one_in(8) => {
                self.choices.note(format_args!("guest {slot} begins to die"));
                guest.begin_dying(&self.fixture.machine, &mut self.fixture.memory);
                self.reaches_nothing(&guest);
            }
            _ => self.reclaim_or_tear_down(slot, &mut guest),
        }
        self.fixture.machine.settle();
        if self.fixture.memory.frames_held(&guest) > 0 {
            self.guests[slot] = Some(guest);
        }
    }

    /// Compares a result with the prediction. Returns how many frames the
    /// model has to follow.
    #[track_caller]
    fn judge(
        &mut self,
        effects: u64,
        expected: Result<u64, Error>,
        got: Result<u64, Error>,
    ) -> u64 {
        let quiet = self.fixture.machine.effects() == effects;
        self.choices.note(format_args!("    {got:?}"));
        match (expected, got) {
            (Ok(_), Err(Error::NoMemory)) => {
                assert!(quiet, "an exhausted pool, but something changed");
                self.exhaustions += 1;
                0
            }
            (Ok(count), Ok(done)) => {
                assert_eq!(count, done);
                self.successes += 1;
                count
            }
            (expected, got) => {
                assert_eq!(expected, got);
                assert!(quiet, "refused, but something changed");
                self.refusals += 1;
                0
            }
        }
    }

    /// A guest's frame is the host's again: no byte of the guest's is left.
    fn came_back(&mut self, pfn: u64, was_lent: bool) {
        let tag = self.fixture.machine.tag(Pfn::new(pfn).unwrap());
        self.all_see_the_same(pfn);
        // The hostile host may write into a lent frame right after the wipe.
        assert!(tag == Some(0) || (was_lent && tag == Some(0xbad0_0001)), "{tag:x?} in {pfn:#x}");
        self.set(pfn, Is::Hosts);
    }

    /// Who sees the frame has changed: nobody sees anything else of it than the
    /// others, whatever memory type they choose.
    #[track_caller]
    fn all_see_the_same(&self, pfn: u64) {
        let pfn = Pfn::new(pfn).unwrap();
        let (machine, past) = (&self.fixture.machine, self.fixture.machine.load_uncached(pfn));
        assert_eq!(machine.tag(pfn), Some(past), "in and past the caches of {pfn:x?}");
    }

    /// Somebody stores to a frame of their own, in or past the caches, or the
    /// caches lose it. Not chosen, so that the choices are the calls'.
    fn somebody_stores(&mut self, step: u64) {
        let number = step.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let pfn = nth(BANK, number % BANK.count());
        let machine = &self.fixture.machine;
        let (stored, by_guest) = match self.is(pfn.number()).map(|(is, _)| is) {
            Some(Is::Hosts | Is::Lent(..) | Is::Guests(_, _, true)) => (PAST, false),
            Some(Is::Guests(slot, _, false)) => (secret(slot), true),
            _ => return,
        };
        match step % 4 {
            0 => machine.evict(pfn),
            1 if by_guest => machine.store_cached(pfn, stored),
            _ => machine.store_uncached(pfn, stored),
        }
    }

    /// The guest is dying. Its frames keep their place in the model, because
    /// they are still its own; but it reaches none of them.
    fn reaches_nothing(&self, guest: &GuestMemory) {
        let reached = |at| self.fixture.machine.access(guest.regime().vmid, at);
        let pages = (0..GUEST_RAM).map(|at| gfn(RAM + at));
        for page in pages {
            assert!(reached(page).is_empty() && reached(page.alias()).is_empty());
        }
    }

    /// Compares everything.
    fn compare(&self) {
        for (number, (is, pins)) in &self.frames {
            let pfn = Pfn::new(*number).unwrap();
            let party = |slot: &usize| Owner::Guest(GuestId::new(*slot).unwrap());
            let mut expected = match is {
                Is::Hosts => FrameEntry::HOST,
                Is::Hyps => FrameEntry::HYP,
                Is::Firmware => FrameEntry::FIRMWARE,
                Is::Lent(slot, at) => {
                    FrameEntry::lent(Owner::Host, party(slot)).mapped(at.is_some())
                }
                Is::Guests(slot, _, false) => FrameEntry::owned(party(slot)),
                Is::Guests(slot, _, true) => FrameEntry::lent(party(slot), Owner::Host),
            };
            (0..*pins).for_each(|_| expected = expected.pinned().unwrap());
            assert_eq!(self.fixture.memory.entry(pfn), expected, "frame {number:#x}");
            let place = match is {
                Is::Guests(slot, at, lent) => {
                    let tag = self.fixture.machine.tag(pfn);
                    // The host writes into what is lent to it, past the caches.
                    let hosts = *lent && tag == Some(PAST);
                    assert!(hosts || tag == Some(secret(*slot)), "{tag:x?} in {number:#x}");
                    Some((slot, views(*slot, *at, *lent)))
                }
                Is::Lent(slot, Some(at)) => Some((slot, (gfn(*at), None))),
                _ => None,
            };
            if let Some((slot, (here, not_here))) = place {
                let guest = self.guests[*slot].as_ref().unwrap();
                let frame = |at| guest.lookup(&self.fixture.machine, at).map(|leaf| leaf.pfn);
                let expected = if guest.is_dying() { None } else { Some(pfn) };
                assert_eq!(frame(here), expected);
                assert_eq!(not_here.and_then(frame), None);
            }
        }
        let guests: Vec<&GuestMemory> = self.guests.iter().flatten().collect();
        check(&self.fixture.machine, &self.fixture.memory, &guests);
    }
}

/// Walks until the choices are over or `steps` are done.
fn walk(choices: Choices<'_>, steps: u64) -> Model<'_> {
    let mut model = Model::new(choices);
    for step in 1..=steps {
        if model.choices.is_over() {
            break;
        }
        model.step();
        (0..STORES).for_each(|store| model.somebody_stores(step * STORES + store));
        if step % 32 == 0 {
            model.compare();
        }
    }
    model.compare();
    model
}

/// Makes calls as `choices` say, as long as there are any.
///
/// # Panics
/// If a result is not what the model says, or a rule is broken.
pub fn run(choices: Choices<'_>) {
    walk(choices, 1000).fixture.end();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_of_random_calls_do_what_a_plain_map_does() {
        for seed in [1, 0xdead_beef] {
            let model = walk(Choices::seed(seed), 3000);
            // The test is worth its time only if it visits all three outcomes.
            assert!(model.successes > 400, "{} successes", model.successes);
            assert!(model.refusals > 200, "{} refusals", model.refusals);
            assert!(model.exhaustions > 20, "{} exhaustions", model.exhaustions);
        }
    }
}
