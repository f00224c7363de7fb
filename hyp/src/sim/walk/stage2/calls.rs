//! The calls: what they need, what they may change.

use super::model::{BORROWED, BOUNCE, DEVICE, MEMORY, kind, output, page};
use super::*;
use crate::addr::Gfn;
use crate::error::Error;
use crate::stage2::Broken;

/// Frames that a guest's memory is in: several runs, so that what is side by
/// side for the guest may be apart.
const OUTPUTS: [u64; 4] = [0x10_0000, 0x10_0000, 0x20_0000, 0x7ff_0000];

fn attributes(kind: u64) -> Attributes {
    match kind {
        BORROWED => Attributes::BORROWED,
        BOUNCE => Attributes::BOUNCE,
        DEVICE => Attributes::DEVICE,
        _ => Attributes::MEMORY,
    }
}

fn mapping((start, end): (u64, u64), first: u64, kind: u64) -> Mapping {
    let first = Pfn::new(first).unwrap();
    Mapping { gfns: gfns((start, end)), first, attributes: attributes(kind), leaves: Leaves::Pages }
}

impl Side {
    /// A range inside the regions: mostly some pages, sometimes up to the
    /// next border or the whole of a block; `again` times in 16 the last one.
    fn some_range(&mut self, choices: &mut Choices<'_>, again: u64) -> (u64, u64) {
        let (place, count) = (choices.below(0x8_0000), choices.below(0x100));
        if place >> 15 < again {
            return self.last;
        }
        // Mostly the two at the border, so that much happens to each.
        let region = [1, 2, 1, 2, 1, 2, 0, 3][(place >> 9) as usize % 8];
        let base = self.model.bases[region];
        // A third of the places is at a border.
        let start = match place >> 12 & 0b111 {
            0..5 => base + place % REGION,
            5 | 6 => base + REGION - 1 - place % 4,
            _ => base,
        };
        let border = (start | (REGION - 1)) + 1;
        let end = match count {
            0..0xe0 => start + 1 + count % 16,
            0xe0..0xf8 => start + 1 + (count & 0x1f) * 8,
            0xf8..0xfc => border,
            _ => start + REGION,
        };
        let end = end.min(self.model.end_of_run(start));
        self.last = (start, end);
        self.last
    }
}

impl Walk<'_, '_> {
    pub(super) fn step(&mut self) {
        self.tally.steps += 1;
        match self.choices.below(16) {
            0..=2 => self.take(),
            3 => self.take_two(),
            4..=6 => self.give(MEMORY),
            7 => self.give(BORROWED),
            8 => self.ask_host(),
            9 => self.move_tables(),
            other => self.guest_step(other),
        }
        self.world.arena.settle();
        self.world.check_frames();
    }

    fn guest_step(&mut self, call: u64) {
        match (&self.world.guest.stage2, self.world.dying) {
            (None, _) => self.create(),
            (Some(_), true) => self.take_tables(),
            _ => match call {
                10 | 11 => self.guest_map(),
                12 => self.guest_mark(),
                13 | 14 => self.guest_unmap(),
                _ if self.choices.one_in(4) => self.unlink(),
                _ => self.ask_guest(),
            },
        }
    }

    /// The tables of the regions that a range touches.
    fn compare(&mut self, host: bool, range: (u64, u64)) {
        let World { arena, host: hosts, guest, .. } = &mut *self.world;
        let side = if host { hosts } else { guest };
        let Some(root) = side.root() else { return };
        for (region, _) in side.model.parts(range) {
            side.model.compare(&arena.words, root, region);
        }
    }

    /// The host loses a range.
    fn take(&mut self) {
        let World { arena, host, .. } = &mut *self.world;
        let range = host.some_range(&mut self.choices, 3);
        let stage2 = host.stage2.as_mut().unwrap();
        let needed = stage2.tables_to_unmap(arena, gfns(range));
        self.choices.note(format_args!("unmap {range:x?} of the host's, {needed} tables"));
        if needed > host.pool.len() {
            self.tally.refusals += 1;
            return;
        }
        let before = host.pool.len();
        stage2.unmap(arena, &mut host.pool, gfns(range));
        host.model.unmap(range);
        assert_eq!(before - host.pool.len(), needed, "tables taken, tables counted");
        self.tally.changes += 1;
        self.tally.splits += needed;
        self.compare(true, range);
    }

    /// The host loses two ranges with one invalidation.
    fn take_two(&mut self) {
        let World { arena, host, .. } = &mut *self.world;
        let ranges = [(); 2].map(|()| host.some_range(&mut self.choices, 3));
        let stage2 = host.stage2.as_mut().unwrap();
        let needed: u64 =
            ranges.iter().map(|range| stage2.tables_to_unmap(arena, gfns(*range))).sum();
        self.choices.note(format_args!("unmap {ranges:x?} of the host's, at most {needed} tables"));
        if needed > host.pool.len() {
            self.tally.refusals += 1;
            return;
        }
        let before = host.pool.len();
        let mut broken = Broken::new();
        for range in ranges {
            stage2.break_range(arena, &mut host.pool, gfns(range), &mut broken);
            host.model.unmap(range);
        }
        if stage2.invalidate_broken(arena, &mut host.pool, broken) {
            ranges.iter().for_each(|range| stage2.make_range(arena, gfns(*range)));
        }
        // Where both split the same block the second finds a table.
        assert!(before - host.pool.len() <= needed, "tables taken, tables counted");
        self.tally.changes += 1;
        self.tally.splits += before - host.pool.len();
        ranges.iter().for_each(|range| self.compare(true, *range));
    }

    /// The host gets back what it had lost or borrowed of a range, or borrows
    /// what it had lost.
    fn give(&mut self, new: u64) {
        let World { arena, host, .. } = &mut *self.world;
        let (start, end) = host.some_range(&mut self.choices, 9);
        let free = |word| word == 0 || kind(word) == BORROWED;
        let count = host.model.run((start, end), free);
        self.choices.note(format_args!("map {count} of the host's from {start:x?} as {new:#x}"));
        if count == 0 {
            return;
        }
        let range = (start, start + count);
        let mapping = mapping(range, start, new);
        let stage2 = host.stage2.as_mut().unwrap();
        assert_eq!(stage2.tables_to_map(arena, &mapping), 0, "what comes back needs no memory");
        stage2.map(arena, &mut host.pool, &mapping);
        host.model.map(range, start, new);
        arena.publish();
        let before = host.pool.len();
        if new == MEMORY {
            stage2.merge(arena, &mut host.pool, gfns(range));
            let root = stage2.regime().root;
            for (region, _) in host.model.parts(range) {
                let merged = host.model.is_block(&arena.words, root, region);
                assert_eq!(merged, host.model.is_whole(region), "a full, uniform table, no block");
            }
        }
        self.tally.changes += 1;
        self.tally.merges += host.pool.len() - before;
        self.compare(true, range);
    }

    fn ask_host(&mut self) {
        let World { arena, host, .. } = &mut *self.world;
        let range = host.some_range(&mut self.choices, 3);
        let stage2 = host.stage2.as_ref().unwrap();
        self.choices.note(format_args!("look at {range:x?} of the host's"));
        assert_eq!(stage2.is_unmapped(arena, gfns(range)), host.model.is_unmapped(range));
        look_up(stage2, arena, &host.model, range.0);
    }

    /// Free tables change hands.
    fn move_tables(&mut self) {
        let World { arena, host, guest, spare, .. } = &mut *self.world;
        let pool = if self.choices.one_in(2) { &mut host.pool } else { &mut guest.pool };
        let (count, more) = (1 + self.choices.below(4), self.choices.one_in(2));
        self.choices.note(format_args!("{count} tables to a pool: {more}"));
        let (from, to) = if more { (spare, pool) } else { (pool, spare) };
        for _ in 0..count {
            if let Some(frame) = from.pop(arena) {
                assert!(arena.words.is_zero(frame), "{frame:x?} leaves a pool with contents");
                to.push(arena, frame);
            }
        }
    }

    fn create(&mut self) {
        let World { arena, guest, spare, .. } = &mut *self.world;
        for _ in 0..1 + self.choices.below(8) {
            if let Some(frame) = spare.pop(arena) {
                guest.pool.push(arena, frame);
            }
        }
        self.choices.note(format_args!("a guest, {} tables", guest.pool.len()));
        guest.stage2 = Stage2::for_guest(arena, GUEST, &mut guest.pool);
        if let Some(stage2) = &guest.stage2 {
            arena.attach(stage2.regime());
            self.tally.changes += 1;
        }
    }

    /// The guest gets frames where it has none.
    fn guest_map(&mut self) {
        let World { arena, guest, .. } = &mut *self.world;
        let (start, end) = guest.some_range(&mut self.choices, 3);
        let kind = self.choices.pick(&[MEMORY, MEMORY, BOUNCE, DEVICE]);
        let first = self.choices.pick(&OUTPUTS) + start % 0x1000;
        let Some(stage2) = guest.stage2.as_mut() else { return };
        assert_eq!(
            stage2.is_unmapped(arena, gfns((start, end))),
            guest.model.is_unmapped((start, end))
        );
        let range = (start, start + guest.model.run((start, end), |word| word == 0));
        if range.0 == range.1 {
            return;
        }
        let mapping = mapping(range, first, kind);
        let needed = stage2.tables_to_map(arena, &mapping);
        self.choices.note(format_args!("map {mapping:x?} of the guest's, {needed} tables"));
        if needed > guest.pool.len() {
            self.tally.refusals += 1;
            return;
        }
        let before = guest.pool.len();
        stage2.map(arena, &mut guest.pool, &mapping);
        arena.publish();
        guest.model.map(range, first, kind);
        assert_eq!(before - guest.pool.len(), needed, "tables taken, tables counted");
        self.tally.changes += 1;
        self.guest_tables();
        self.compare(false, range);
    }

    /// The same mapping with another mark of the software's.
    fn guest_mark(&mut self) {
        let World { arena, guest, .. } = &mut *self.world;
        let (start, end) = guest.some_range(&mut self.choices, 3);
        let word = guest.model.at(start);
        let new = match kind(word) {
            MEMORY => BORROWED,
            BORROWED => MEMORY,
            _ => return,
        };
        let first = output(word);
        let mut expected = word;
        let same = guest.model.range((start, end)).take_while(|word| {
            let same = *word == expected;
            expected = page(output(*word) + 1, kind(*word));
            same
        });
        let range = (start, start + same.count() as u64);
        let mapping = mapping(range, first, new);
        self.choices.note(format_args!("mark {mapping:x?} of the guest's"));
        let Some(stage2) = guest.stage2.as_mut() else { return };
        assert_eq!(stage2.tables_to_map(arena, &mapping), 0, "another mark needs no memory");
        stage2.map(arena, &mut guest.pool, &mapping);
        guest.model.map(range, first, new);
        self.tally.changes += 1;
        self.compare(false, range);
    }

    fn guest_unmap(&mut self) {
        let World { arena, guest, .. } = &mut *self.world;
        let range = guest.some_range(&mut self.choices, 3);
        self.choices.note(format_args!("unmap {range:x?} of the guest's"));
        let Some(stage2) = guest.stage2.as_mut() else { return };
        assert_eq!(stage2.tables_to_unmap(arena, gfns(range)), 0, "pages are never split");
        stage2.unmap(arena, &mut guest.pool, gfns(range));
        guest.model.unmap(range);
        self.tally.changes += 1;
        self.guest_tables();
        self.compare(false, range);
    }

    /// A guest has the tables it needs and no others.
    fn guest_tables(&self) {
        let guest = &self.world.guest;
        let tables = guest.stage2.as_ref().map_or(0, Stage2::tables);
        assert_eq!(tables, guest.model.tables(), "an empty table stays, or a table is missing");
    }

    /// What the guest has, as runs and as pages.
    fn ask_guest(&mut self) {
        let World { arena, guest, .. } = &mut *self.world;
        let range = guest.some_range(&mut self.choices, 3);
        let Some(stage2) = &guest.stage2 else { return };
        self.choices.note(format_args!("look at {range:x?} of the guest's"));
        look_up(stage2, arena, &guest.model, range.0);

        let mut pages = guest.model.range(range).filter(|word| *word != 0);
        stage2.for_each_page(arena, gfns(range), |pfn| {
            assert_eq!(Some(pfn.number()), pages.next().map(output), "another page");
        });
        assert_eq!(pages.next(), None, "a page is left out");

        let mut pages = guest.model.range(range);
        let runs = stage2.for_each_run(arena, gfns(range), |run| {
            run.iter().for_each(|pfn| {
                assert_eq!(Some(pfn.number()), pages.next().map(output), "another frame");
            });
            Ok(())
        });
        let hole = guest.model.range(range).any(|word| word == 0);
        assert_eq!(runs, if hole { Err(Error::NotFound) } else { Ok(()) });
        assert!(hole || pages.next().is_none(), "a frame is left out");
    }

    fn unlink(&mut self) {
        let World { arena, guest, dying, .. } = &mut *self.world;
        self.choices.note(format_args!("the guest begins to die"));
        if let Some(stage2) = &mut guest.stage2 {
            stage2.unlink(arena);
            *dying = true;
            guest.model.lay_out(&NO_GUESTS);
            self.tally.changes += 1;
        }
    }

    /// The tables of a dying guest come out one by one.
    fn take_tables(&mut self) {
        let World { arena, guest, spare, .. } = &mut *self.world;
        let most = 1 + self.choices.below(8);
        self.choices.note(format_args!("at most {most} tables of the dying guest"));
        for _ in 0..most {
            let Some(stage2) = &mut guest.stage2 else { return };
            let root = stage2.regime().root;
            let left = stage2.tables();
            match stage2.take_table(arena) {
                Some(table) => {
                    assert!(arena.words.is_zero(table), "{table:x?} comes out with contents");
                    assert_eq!(table == root, left == 1, "the root comes last");
                    spare.push(arena, table);
                }
                None => {
                    assert_eq!(left, 0);
                    guest.stage2 = None;
                    self.world.dying = false;
                    return;
                }
            }
        }
    }
}

/// One frame, as the table walker of the policy finds it.
fn look_up(stage2: &Stage2, arena: &Arena, model: &Space, gfn: u64) {
    let leaf = stage2.lookup(arena, Gfn::new(gfn).unwrap());
    let word = leaf.map_or(0, |leaf| page(leaf.pfn.number(), leaf.attributes.bits() | 0b11));
    assert_eq!(word, model.at(gfn), "{gfn:#x} is looked up");
}
