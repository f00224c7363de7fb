//! Thousands of random calls against a model that is a plain map.
//!
//! The model knows what each frame is and where guests see it; from that it
//! predicts every result. Pools are too small on purpose: a call may also end
//! with `NoMemory`, and must then have changed nothing. After each call the
//! watcher is asked, and in between everything is compared.

use super::*;
use crate::abi::MAX_RANGE;
use crate::sim::{Layout, Random};
use std::collections::BTreeMap;

const SLOTS: usize = 3;
const GUEST_RAM: u64 = 600;
const BANK: PfnRange = match PfnRange::new(0x4_0100, 2048) {
    Ok(range) => range,
    Err(_) => unreachable!(),
};

/// What the model says of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Is {
    Hosts,
    Hyps,
    /// The host's, lent to a guest, which sees it at the frame given.
    Lent(usize, Option<u64>),
    /// A guest's, at this frame of its RAM; lent to the host or not.
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

struct Model {
    fixture: Fixture,
    guests: [Option<GuestMemory>; SLOTS],
    /// Every frame of the bank, with its pins.
    frames: BTreeMap<u64, (Is, u64)>,
    /// The frames that guests see, by slot and guest frame.
    seen: BTreeMap<(usize, u64), u64>,
    random: Random,
    refusals: u64,
    exhaustions: u64,
    successes: u64,
}

/// The tag of a guest's data.
fn secret(slot: usize) -> u64 {
    SECRET + slot as u64
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut layout = Layout::of_banks(&[BANK]);
        // Seven tables to boot, and one too few to split all three blocks.
        layout.pool = layout.pool.truncate(9);
        let fixture = Fixture::with_layout(layout);
        fixture.machine.set_hostile(true);
        let hyp = fixture.layout.hyp[0];
        let is = |pfn| if hyp.contains(pfn) { Is::Hyps } else { Is::Hosts };
        let frames = BANK.iter().map(|pfn| (pfn.number(), (is(pfn), 0))).collect();
        let random = Random::new(seed);
        let guests = [const { None }; SLOTS];
        let seen = BTreeMap::new();
        let (successes, refusals, exhaustions) = (0, 0, 0);
        Self { fixture, guests, frames, seen, random, refusals, exhaustions, successes }
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
        let start = BANK.start().number() + self.random.below(BANK.count());
        if self.random.one_in(6) {
            return pfns(start - 1 + self.random.below(3), 1 + self.random.below(700));
        }
        let good = |pfn: u64| self.is(pfn).is_some_and(|(is, _)| wanted(is));
        let start = (start..BANK.end()).find(|pfn| good(*pfn)).unwrap_or(start);
        let run = (start..BANK.end()).take_while(|pfn| good(*pfn)).count() as u64;
        let most = if self.random.one_in(8) { 600 } else { 1 + self.random.below(24) };
        pfns(start, run.clamp(1, most))
    }

    /// Mostly frames the guest has, now and then anything.
    fn some_guest_frames(&mut self, slot: usize, wanted: impl Fn(Is) -> bool) -> GfnRange {
        let start = RAM + self.random.below(GUEST_RAM);
        let most = 1 + self.random.below(24);
        if self.random.one_in(6) {
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
        let slot = self.random.below(SLOTS as u64) as usize;
        let Some(mut guest) = self.guests[slot].take() else {
            self.create(slot);
            return;
        };
        let call = self.random.below(16);
        match call {
            // A dying guest should also come to an end.
            _ if guest.is_dying() && self.random.one_in(2) => {
                self.reclaim_or_tear_down(slot, &mut guest);
            }
            0..=3 => self.donate(slot, &mut guest),
            4 => self.lend(slot, &mut guest),
            5 => self.end_loan(slot, &mut guest),
            6 => self.map_bar(slot, &mut guest),
            7 => self.unmap_bar(slot, &mut guest),
            8 | 9 => self.guest_call(slot, &mut guest, (false, true)),
            10 => self.guest_call(slot, &mut guest, (true, false)),
            11 => self.relinquish(slot, &mut guest),
            12 => self.top_up(&mut guest),
            13 => self.pin(),
            14 if !guest.is_dying() && self.random.one_in(8) => {
                guest.begin_dying(&self.fixture.machine);
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

    fn create(&mut self, slot: usize) {
        let range = self.some_frames(|is| is == Is::Hosts).truncate(8);
        let effects = self.fixture.machine.effects();
        let expected = self.all(range, |is, pins| is == Is::Hosts && pins == 0);
        let mut pool = TablePool::empty();
        let got = self.fixture.memory.host_donate_hyp(&self.fixture.machine, range, &mut pool);
        let count = self.judge(effects, expected, got);
        (0..count).for_each(|i| self.set(range.start().number() + i, Is::Hyps));
        if count > 0 {
            let id = GuestId::new(slot).unwrap();
            let ram = gfns(RAM, GUEST_RAM);
            let guest = GuestMemory::new(&self.fixture.machine, id, ram, pool).unwrap();
            self.fixture.machine.attach(guest.regime());
            self.guests[slot] = Some(guest);
        }
        self.fixture.machine.settle();
    }

    fn donate(&mut self, slot: usize, guest: &mut GuestMemory) {
        let range = self.some_frames(|is| is == Is::Hosts);
        let at = RAM + self.random.below(GUEST_RAM);
        let expected = if guest.is_dying() {
            Err(Error::BadState)
        } else if at + range.count() > RAM + GUEST_RAM {
            Err(Error::InvalidParameter)
        } else {
            self.all(range, |is, pins| is == Is::Hosts && pins == 0).and_then(|count| {
                let free = (0..count).all(|i| self.seen_at(slot, at + i).is_none());
                if free { Ok(count) } else { Err(Error::Denied) }
            })
        };
        let effects = self.fixture.machine.effects();
        let (m, memory) = (&self.fixture.machine, &mut self.fixture.memory);
        let got = memory.host_donate_guest(m, guest, range, gfn(at), Contents::Zeroed);
        for i in 0..self.judge(effects, expected, got) {
            let pfn = nth(range, i);
            assert_eq!(self.fixture.machine.tag(pfn), Some(0), "a new frame is zeros");
            self.fixture.machine.plant(pfn, secret(slot));
            self.set(pfn.number(), Is::Guests(slot, at + i, false));
        }
    }

    fn lend(&mut self, slot: usize, guest: &mut GuestMemory) {
        let range = self.some_frames(|is| is == Is::Hosts).truncate(40);
        let expected = match guest.is_dying() {
            true => Err(Error::BadState),
            false => self.all(range, |is, pins| is == Is::Hosts && pins == 0),
        };
        let effects = self.fixture.machine.effects();
        let got = self.fixture.memory.host_share_guest(&self.fixture.machine, guest, range);
        for i in 0..self.judge(effects, expected, got) {
            self.set(nth(range, i).number(), Is::Lent(slot, None));
        }
    }

    fn end_loan(&mut self, slot: usize, guest: &mut GuestMemory) {
        let range = self.some_frames(|is| is == Is::Lent(slot, None));
        let expected = self.all(range, |is, pins| is == Is::Lent(slot, None) && pins == 0);
        let effects = self.fixture.machine.effects();
        let got = self.fixture.memory.host_unshare_guest(&self.fixture.machine, guest, range);
        for i in 0..self.judge(effects, expected, got) {
            self.set(nth(range, i).number(), Is::Hosts);
        }
    }

    fn map_bar(&mut self, slot: usize, guest: &mut GuestMemory) {
        let range = self.some_frames(|is| is == Is::Lent(slot, None));
        let at = match self.random.below(8) {
            0 => RAM + self.random.below(GUEST_RAM),
            gib => BAR + gib * 0x4_0000 + self.random.below(1024),
        };
        let overlaps = at < RAM + GUEST_RAM && at + range.count() > RAM;
        let expected = if guest.is_dying() {
            Err(Error::BadState)
        } else if overlaps {
            Err(Error::InvalidParameter)
        } else {
            self.all(range, |is, _| is == Is::Lent(slot, None)).and_then(|count| {
                let free = (0..count).all(|i| self.seen_at(slot, at + i).is_none());
                if free { Ok(count) } else { Err(Error::Denied) }
            })
        };
        let effects = self.fixture.machine.effects();
        let (m, memory) = (&self.fixture.machine, &mut self.fixture.memory);
        let got = memory.map_borrowed(m, guest, gfn(at), range);
        for i in 0..self.judge(effects, expected, got) {
            self.set(nth(range, i).number(), Is::Lent(slot, Some(at + i)));
        }
    }

    fn unmap_bar(&mut self, slot: usize, guest: &mut GuestMemory) {
        let start = BAR + self.random.below(8) * 0x4_0000 + self.random.below(1024);
        let range = gfns(start, 1 + self.random.below(1024));
        self.fixture.memory.unmap_borrowed(&self.fixture.machine, guest, range);
        if guest.is_dying() {
            return; // it has nothing mapped; the marks go with `reclaim`
        }
        for at in range.iter() {
            if let Some(pfn) = self.seen_at(slot, at.number()) {
                self.set(pfn, Is::Lent(slot, None));
            }
        }
    }

    /// Share (false → true) or unshare (true → false).
    fn guest_call(&mut self, slot: usize, guest: &mut GuestMemory, (from, to): (bool, bool)) {
        let wanted = |is| matches!(is, Is::Guests(_, _, lent) if lent == from);
        let range = self.some_guest_frames(slot, wanted);
        let expected = self.guest_range(slot, guest, range, from);
        let effects = self.fixture.machine.effects();
        let (m, memory) = (&self.fixture.machine, &mut self.fixture.memory);
        let got = match to {
            true => memory.guest_share_host(m, guest, range),
            false => memory.guest_unshare_host(m, guest, range),
        };
        for i in 0..self.judge(effects, expected, got) {
            let at = range.start().number() + i;
            let pfn = self.seen_at(slot, at).unwrap();
            self.set(pfn, Is::Guests(slot, at, to));
        }
    }

    fn guest_range(
        &self,
        slot: usize,
        guest: &GuestMemory,
        range: GfnRange,
        lent: bool,
    ) -> Result<u64, Error> {
        if guest.is_dying() {
            return Err(Error::BadState);
        }
        if range.end() > RAM + GUEST_RAM {
            return Err(Error::InvalidParameter);
        }
        let right = |at: Gfn| {
            let pfn = self.seen_at(slot, at.number());
            pfn.and_then(|pfn| self.is(pfn)) == Some((Is::Guests(slot, at.number(), lent), 0))
        };
        if range.iter().all(right) {
            return Ok(range.count());
        }
        Err(self.first_reason(slot, range, lent))
    }

    /// The reason the run-wise check meets first: a run is checked when it
    /// ends, a hole at once.
    fn first_reason(&self, slot: usize, range: GfnRange, lent: bool) -> Error {
        let mut run: Vec<u64> = Vec::new();
        let wrong =
            |pfn: &u64| !matches!(self.is(*pfn), Some((Is::Guests(_, _, l), 0)) if l == lent);
        for at in range.iter() {
            let Some(pfn) = self.seen_at(slot, at.number()) else { return Error::NotFound };
            if run.last().is_some_and(|last| last + 1 != pfn) {
                if run.iter().any(wrong) {
                    return Error::Denied;
                }
                run.clear();
            }
            run.push(pfn);
        }
        Error::Denied
    }

    fn relinquish(&mut self, slot: usize, guest: &mut GuestMemory) {
        let wanted = |is| matches!(is, Is::Guests(_, _, false));
        let range = self.some_guest_frames(slot, wanted);
        let expected = self.guest_range(slot, guest, range, false).map(|count| {
            let pfn = |i| self.seen_at(slot, range.start().number() + i).unwrap();
            (1..count).take_while(|i| pfn(*i) == pfn(0) + i).count() as u64 + 1
        });
        let effects = self.fixture.machine.effects();
        let got = self.fixture.memory.guest_relinquish(&self.fixture.machine, guest, range);
        for i in 0..self.judge(effects, expected, got) {
            let pfn = self.seen_at(slot, range.start().number() + i).unwrap();
            self.came_back(pfn, false);
        }
    }

    fn top_up(&mut self, guest: &mut GuestMemory) {
        let range = self.some_frames(|is| is == Is::Hosts).truncate(3);
        let expected = self.all(range, |is, pins| is == Is::Hosts && pins == 0);
        let effects = self.fixture.machine.effects();
        let (m, memory) = (&self.fixture.machine, &mut self.fixture.memory);
        let got = memory.host_donate_hyp(m, range, guest.memcache());
        for i in 0..self.judge(effects, expected, got) {
            self.set(nth(range, i).number(), Is::Hyps);
        }
    }

    fn pin(&mut self) {
        let unpin = self.random.one_in(2);
        let pinned: Vec<u64> =
            self.frames.iter().filter(|(_, (_, pins))| *pins > 0).map(|(pfn, _)| *pfn).collect();
        let range = match pinned.first() {
            Some(pfn) if unpin => pfns(*pfn, 1),
            _ => self.some_frames(|is| is != Is::Hyps).truncate(5),
        };
        let effects = self.fixture.machine.effects();
        let (expected, got) = if unpin {
            (self.all(range, |_, pins| pins > 0), self.fixture.memory.unpin(range))
        } else {
            let allowed =
                |is: Is, pins| pins < 255 && !matches!(is, Is::Hyps | Is::Guests(_, _, false));
            (self.all(range, allowed), self.fixture.memory.pin(range))
        };
        for i in 0..self.judge(effects, expected, got) {
            let pins = &mut self.frames.get_mut(&nth(range, i).number()).unwrap().1;
            *pins = if unpin { *pins - 1 } else { *pins + 1 };
        }
    }

    fn reclaim_or_tear_down(&mut self, slot: usize, guest: &mut GuestMemory) {
        if guest.is_dying() && self.random.one_in(4) {
            self.tear_down(guest);
            return;
        }
        let mut range =
            self.some_frames(|is| matches!(is, Is::Lent(s, _) | Is::Guests(s, _, _) if s == slot));
        if !guest.is_dying() {
            range = range.truncate(1);
        }
        let mine = |is: Is, pins| {
            pins == 0 && matches!(is, Is::Lent(s, _) | Is::Guests(s, _, _) if s == slot)
        };
        let expected = match guest.is_dying() {
            true => self.all(range, mine),
            false => Err(Error::BadState),
        };
        let effects = self.fixture.machine.effects();
        let got = self.fixture.memory.reclaim(&self.fixture.machine, guest, range);
        for i in 0..self.judge(effects, expected, got) {
            let pfn = nth(range, i).number();
            match self.is(pfn).unwrap().0 {
                Is::Guests(_, _, lent) => self.came_back(pfn, lent),
                _ => self.set(pfn, Is::Hosts),
            }
        }
    }

    fn tear_down(&mut self, guest: &mut GuestMemory) {
        let budget = 1 + self.random.below(4);
        let before = self.fixture.memory.frames_held(guest);
        let held = self.fixture.memory.teardown(&self.fixture.machine, guest, budget);
        assert!(held <= before && before - held <= budget);
        // Which frames came back is the engine's choice; that they were EL2's
        // and are wiped is not.
        for (pfn, (is, _)) in &mut self.frames {
            let pfn = Pfn::new(*pfn).unwrap();
            if *is == Is::Hyps && self.fixture.memory.entry(pfn) == FrameEntry::HOST {
                assert_eq!(self.fixture.machine.tag(pfn), Some(0));
                *is = Is::Hosts;
            }
        }
    }

    /// A guest's frame is the host's again: no byte of the guest's is left.
    fn came_back(&mut self, pfn: u64, was_lent: bool) {
        let tag = self.fixture.machine.tag(Pfn::new(pfn).unwrap());
        // The hostile host may write into a lent frame right after the wipe.
        assert!(tag == Some(0) || (was_lent && tag == Some(0xbad0_0001)), "{tag:x?} in {pfn:#x}");
        self.set(pfn, Is::Hosts);
    }

    /// The guest is dying. Its frames keep their place in the model, because
    /// they are still its own; but it reaches none of them.
    fn reaches_nothing(&self, guest: &GuestMemory) {
        let reached = |at| self.fixture.machine.access(guest.regime().vmid, gfn(RAM + at));
        assert!((0..GUEST_RAM).all(|at| reached(at).is_empty()));
    }

    /// Compares everything.
    fn compare(&self) {
        for (number, (is, pins)) in &self.frames {
            let pfn = Pfn::new(*number).unwrap();
            let party = |slot: &usize| Owner::Guest(GuestId::new(*slot).unwrap());
            let mut expected = match is {
                Is::Hosts => FrameEntry::HOST,
                Is::Hyps => FrameEntry::HYP,
                Is::Lent(slot, at) => {
                    FrameEntry::lent(Owner::Host, party(slot)).mapped(at.is_some())
                }
                Is::Guests(slot, _, false) => FrameEntry::owned(party(slot)),
                Is::Guests(slot, _, true) => FrameEntry::lent(party(slot), Owner::Host),
            };
            (0..*pins).for_each(|_| expected = expected.pinned().unwrap());
            assert_eq!(self.fixture.memory.entry(pfn), expected, "frame {number:#x}");
            let place = match is {
                Is::Guests(slot, at, _) => {
                    assert_eq!(self.fixture.machine.tag(pfn), Some(secret(*slot)));
                    Some((slot, at))
                }
                Is::Lent(slot, Some(at)) => Some((slot, at)),
                _ => None,
            };
            if let Some((slot, at)) = place {
                let guest = self.guests[*slot].as_ref().unwrap();
                let leaf = guest.lookup(&self.fixture.machine, gfn(*at));
                let expected = if guest.is_dying() { None } else { Some(pfn) };
                assert_eq!(leaf.map(|leaf| leaf.pfn), expected);
            }
        }
        let guests: Vec<&GuestMemory> = self.guests.iter().flatten().collect();
        check(&self.fixture.machine, &self.fixture.memory, &guests);
    }
}

fn run(seed: u64, steps: u64) -> Model {
    let mut model = Model::new(seed);
    for step in 0..steps {
        model.step();
        if step % 32 == 0 {
            model.compare();
        }
    }
    model.compare();
    model
}

#[test]
fn thousands_of_random_calls_do_what_a_plain_map_does() {
    for seed in [1, 0xdead_beef] {
        let model = run(seed, 2000);
        // The test is worth its time only if it visits all three outcomes.
        assert!(model.successes > 400, "{} successes", model.successes);
        assert!(model.refusals > 200, "{} refusals", model.refusals);
        assert!(model.exhaustions > 20, "{} exhaustions", model.exhaustions);
    }
}
