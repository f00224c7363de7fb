//! The calls: what the model expects of each, and what it follows.

use super::*;

impl Model<'_> {
    pub(super) fn create(&mut self, slot: usize) {
        let range = self.some_frames(|is| is == Is::Hosts).truncate(8);
        self.choices.note(format_args!("create guest {slot} with memcache {range:x?}"));
        let effects = self.fixture.machine.effects();
        let expected = self.all(range, |is, pins| is == Is::Hosts && pins == 0);
        let mut pool = TablePool::empty();
        let got = self.fixture.memory.host_donate_hyp(&self.fixture.machine, range, &mut pool);
        let count = self.judge(effects, expected, got);
        (0..count).for_each(|i| self.set(range.start().number() + i, Is::Hyps));
        if count > 0 {
            let id = GuestId::new(slot).unwrap();
            let ram = gfns(RAM, GUEST_RAM);
            let shared = shared_place(slot);
            let guest = GuestMemory::new(&self.fixture.machine, id, ram, shared, pool).unwrap();
            let guest = guest.zeroing(zeroing(slot));
            self.fixture.machine.attach(guest.regime());
            self.guests[slot] = Some(guest);
        }
        self.fixture.machine.settle();
    }

    pub(super) fn donate(&mut self, slot: usize, guest: &mut GuestMemory) {
        let range = self.some_frames(|is| is == Is::Hosts);
        let at = RAM + self.choices.below(GUEST_RAM);
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
        self.choices.note(format_args!("host_donate_guest: guest {slot}, {range:x?} at {at:#x}"));
        let effects = self.fixture.machine.effects();
        let (m, memory) = (&self.fixture.machine, &mut self.fixture.memory);
        let got = memory.host_donate_guest(m, guest, range, gfn(at), Contents::Zeroed);
        for i in 0..self.judge(effects, expected, got) {
            let pfn = nth(range, i);
            assert_eq!(self.fixture.machine.tag(pfn), Some(0), "a new frame is zeros");
            self.all_see_the_same(pfn.number());
            self.set(pfn.number(), Is::Guests(slot, at + i, false));
            self.fixture.machine.store_cached(pfn, secret(slot));
        }
    }

    pub(super) fn lend(&mut self, slot: usize, guest: &mut GuestMemory) {
        let range = self.some_frames(|is| is == Is::Hosts).truncate(40);
        let expected = match guest.is_dying() {
            true => Err(Error::BadState),
            false => self.all(range, |is, pins| is == Is::Hosts && pins == 0),
        };
        self.choices.note(format_args!("host_share_guest: guest {slot}, {range:x?}"));
        let effects = self.fixture.machine.effects();
        let got = self.fixture.memory.host_share_guest(&self.fixture.machine, guest, range);
        for i in 0..self.judge(effects, expected, got) {
            self.set(nth(range, i).number(), Is::Lent(slot, None));
        }
    }

    pub(super) fn end_loan(&mut self, slot: usize, guest: &mut GuestMemory) {
        let range = self.some_frames(|is| is == Is::Lent(slot, None));
        let expected = self.all(range, |is, pins| is == Is::Lent(slot, None) && pins == 0);
        self.choices.note(format_args!("host_unshare_guest: guest {slot}, {range:x?}"));
        let effects = self.fixture.machine.effects();
        let got = self.fixture.memory.host_unshare_guest(&self.fixture.machine, guest, range);
        for i in 0..self.judge(effects, expected, got) {
            self.all_see_the_same(nth(range, i).number());
            self.set(nth(range, i).number(), Is::Hosts);
        }
    }

    pub(super) fn map_bar(&mut self, slot: usize, guest: &mut GuestMemory) {
        let range = self.some_frames(|is| is == Is::Lent(slot, None));
        let at = match self.choices.below(8) {
            0 => views(slot, RAM + self.choices.below(GUEST_RAM), true).0.number(),
            gib => BAR + gib * 0x4_0000 + self.choices.below(1024),
        };
        let ram = views(slot, RAM, true).0.number();
        let overlaps = at < ram + GUEST_RAM && at + range.count() > ram;
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
        self.choices.note(format_args!("map_borrowed: guest {slot}, {range:x?} at {at:#x}"));
        let effects = self.fixture.machine.effects();
        let (m, memory) = (&self.fixture.machine, &mut self.fixture.memory);
        let got = memory.map_borrowed(m, guest, gfn(at), range);
        for i in 0..self.judge(effects, expected, got) {
            self.all_see_the_same(nth(range, i).number());
            self.set(nth(range, i).number(), Is::Lent(slot, Some(at + i)));
        }
    }

    pub(super) fn unmap_bar(&mut self, slot: usize, guest: &mut GuestMemory) {
        let start = BAR + self.choices.below(8) * 0x4_0000 + self.choices.below(1024);
        let range = gfns(start, 1 + self.choices.below(1024));
        self.choices.note(format_args!("unmap_borrowed: guest {slot}, {range:x?}"));
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
    pub(super) fn guest_call(
        &mut self,
        slot: usize,
        guest: &mut GuestMemory,
        (from, to): (bool, bool),
    ) {
        let wanted = |is| matches!(is, Is::Guests(_, _, lent) if lent == from);
        let range = self.some_guest_frames(slot, wanted);
        let expected = self.guest_range(slot, guest, range, from);
        self.choices.note(format_args!("guest_share_host {to}: guest {slot}, {range:x?}"));
        let effects = self.fixture.machine.effects();
        let (m, memory) = (&self.fixture.machine, &mut self.fixture.memory);
        let got = match to {
            true => memory.guest_share_host(m, guest, range),
            false => memory.guest_unshare_host(m, guest, range),
        };
        for i in 0..self.judge(effects, expected, got) {
            let at = range.start().number() + i;
            let pfn = self.seen_at(slot, at).unwrap();
            self.changed_sides(slot, at, pfn, to);
        }
    }

    fn changed_sides(&mut self, slot: usize, at: u64, pfn: u64, lent: bool) {
        self.all_see_the_same(pfn);
        let frame = Pfn::new(pfn).unwrap();
        let tag = self.fixture.machine.tag(frame);
        if shared_place(slot) == SharedPlace::Alias {
            assert_eq!(tag, Some(0), "no contents go with it");
        } else if zeroing(slot) {
            // The guest has the page all the while, and is hostile.
            let vmid = GuestId::new(slot).unwrap().vmid();
            assert_eq!(tag, Some(0xbad0_0000 + u64::from(vmid.0)), "no contents go with it");
        }
        self.fixture.machine.store_cached(frame, secret(slot));
        self.set(pfn, Is::Guests(slot, at, lent));
    }

    pub(super) fn unshare_all(&mut self, slot: usize, guest: &mut GuestMemory) {
        let from = RAM + self.choices.below(GUEST_RAM + 1);
        self.choices.note(format_args!("guest_unshare_all: guest {slot}, from {from:#x}"));
        let effects = self.fixture.machine.effects();
        let (m, memory) = (&self.fixture.machine, &mut self.fixture.memory);
        let got = memory.guest_unshare_all(m, guest, gfn(from));
        let end = (from + MAX_RANGE).min(RAM + GUEST_RAM);
        let (mut back, mut held) = (Vec::new(), 0);
        for at in from..end {
            match self.seen_at(slot, at).and_then(|pfn| Some((pfn, self.is(pfn)?))) {
                Some((pfn, (Is::Guests(_, _, true), 0))) => back.push((at, pfn)),
                Some((_, (Is::Guests(_, _, true), _))) => held += 1,
                _ => {}
            }
        }
        let expected = if guest.is_dying() {
            Err(Error::BadState)
        } else if from >= RAM + GUEST_RAM {
            Err(Error::InvalidParameter)
        } else if shared_place(slot) == SharedPlace::Alias {
            Err(Error::NotSupported)
        } else {
            Ok(back.len() as u64)
        };
        let more = Some(end).filter(|end| *end < RAM + GUEST_RAM);
        if let Ok(got) = got {
            assert_eq!((got.held, got.next.map(Gfn::number)), (held, more));
        }
        if self.judge(effects, expected, got.map(|back| back.pages)) > 0 {
            for (at, pfn) in back {
                self.changed_sides(slot, at, pfn, false);
            }
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
        let is = |at: Gfn| self.seen_at(slot, at.number()).and_then(|pfn| self.is(pfn));
        let right = |at: Gfn, pinned: bool| {
            is(at).is_some_and(|(is, pins)| {
                is == Is::Guests(slot, at.number(), lent) && (pins == 0 || pinned)
            })
        };
        if range.iter().all(|at| right(at, false)) {
            return Ok(range.count());
        }
        // A page that is in the other half is not to be found in this one.
        if shared_place(slot) == SharedPlace::Alias {
            let there = range.iter().all(|at| right(at, true));
            return Err(if there { Error::Denied } else { Error::NotFound });
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

    pub(super) fn relinquish(&mut self, slot: usize, guest: &mut GuestMemory) {
        let wanted = |is| matches!(is, Is::Guests(_, _, false));
        let range = self.some_guest_frames(slot, wanted);
        let expected = self.guest_range(slot, guest, range, false).map(|count| {
            let pfn = |i| self.seen_at(slot, range.start().number() + i).unwrap();
            (1..count).take_while(|i| pfn(*i) == pfn(0) + i).count() as u64 + 1
        });
        self.choices.note(format_args!("guest_relinquish: guest {slot}, {range:x?}"));
        let effects = self.fixture.machine.effects();
        let got = self.fixture.memory.guest_relinquish(&self.fixture.machine, guest, range);
        for i in 0..self.judge(effects, expected, got) {
            let pfn = self.seen_at(slot, range.start().number() + i).unwrap();
            self.came_back(pfn, false);
        }
    }

    pub(super) fn top_up(&mut self, guest: &mut GuestMemory) {
        let range = self.some_frames(|is| is == Is::Hosts).truncate(3);
        let expected = self.all(range, |is, pins| is == Is::Hosts && pins == 0);
        self.choices.note(format_args!("top up: {range:x?}"));
        let effects = self.fixture.machine.effects();
        let (m, memory) = (&self.fixture.machine, &mut self.fixture.memory);
        let got = memory.host_donate_hyp(m, range, guest.memcache());
        for i in 0..self.judge(effects, expected, got) {
            self.set(nth(range, i).number(), Is::Hyps);
        }
    }

    pub(super) fn pin(&mut self) {
        let unpin = self.choices.one_in(2);
        let pinned: Vec<u64> =
            self.frames.iter().filter(|(_, (_, pins))| *pins > 0).map(|(pfn, _)| *pfn).collect();
        let range = match pinned.first() {
            Some(pfn) if unpin => pfns(*pfn, 1),
            _ => self.some_frames(|is| !matches!(is, Is::Hyps | Is::Firmware)).truncate(5),
        };
        self.choices.note(format_args!("unpin {unpin}: {range:x?}"));
        let effects = self.fixture.machine.effects();
        let (expected, got) = if unpin {
            (self.all(range, |_, pins| pins > 0), self.fixture.memory.unpin(range))
        } else {
            let allowed = |is: Is, pins| {
                pins < 255 && !matches!(is, Is::Hyps | Is::Firmware | Is::Guests(_, _, false))
            };
            (self.all(range, allowed), self.fixture.memory.pin(range))
        };
        for i in 0..self.judge(effects, expected, got) {
            let pins = &mut self.frames.get_mut(&nth(range, i).number()).unwrap().1;
            *pins = if unpin { *pins - 1 } else { *pins + 1 };
        }
    }

    pub(super) fn reclaim_or_tear_down(&mut self, slot: usize, guest: &mut GuestMemory) {
        if guest.is_dying() && self.choices.one_in(4) {
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
        self.choices.note(format_args!("reclaim: guest {slot}, {range:x?}"));
        let effects = self.fixture.machine.effects();
        let got = self.fixture.memory.reclaim(&self.fixture.machine, guest, range);
        for i in 0..self.judge(effects, expected, got) {
            let pfn = nth(range, i).number();
            match self.is(pfn).unwrap().0 {
                Is::Guests(_, _, lent) => self.came_back(pfn, lent),
                _ => {
                    self.all_see_the_same(pfn);
                    self.set(pfn, Is::Hosts);
                }
            }
        }
    }

    fn tear_down(&mut self, guest: &mut GuestMemory) {
        let budget = 1 + self.choices.below(4);
        self.choices.note(format_args!("teardown, at most {budget} frames"));
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
}
