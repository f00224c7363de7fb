//! The TLBs of that machine, at their best at remembering: a translation that
//! was valid at any moment since it was last invalidated may still be used,
//! and a table that was reachable may still be walked (Arm ARM D8.16).
//!
//! The rules are those of the simulated machine's watcher, written once more
//! from the architecture, for tables that fit into two words of bits. It
//! stops at the first broken rule.

use super::arena::{FRAMES, WORDS, Words, slot};
use crate::addr::Pfn;
use crate::machine::Regime;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::vec::Vec;

/// Output address of a descriptor, or that of the next table.
const ADDRESS: u64 = 0x7f_ffff_f000;
/// Bits of a leaf that are the software's (58:55).
const SOFTWARE: u64 = 0xf << 55;

/// Input frames that one entry of a table at `level` translates.
pub(super) fn span(level: u8) -> u64 {
    1 << (9 * (3 - level))
}

/// The frame that a descriptor names.
pub(super) fn frame_of(word: u64) -> Pfn {
    Pfn::containing(word & ADDRESS).unwrap()
}

/// What a walker makes of a descriptor (Arm ARM D8.3.1).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Decoded {
    Invalid,
    Table(Pfn),
    Leaf { first: u64, attributes: u64 },
}

fn decode(word: u64, level: u8) -> Decoded {
    match (level, word & 0b11) {
        (1 | 2, 0b11) => Decoded::Table(frame_of(word)),
        (1 | 2, 0b01) | (3, 0b11) => Decoded::Leaf {
            first: frame_of(word).number(),
            attributes: word & !(ADDRESS | SOFTWARE | 0b11),
        },
        _ => Decoded::Invalid,
    }
}

/// Where a table hangs.
#[derive(Clone, Copy, Default)]
struct Place {
    vmid: u8,
    level: u8,
    /// First input frame it translates.
    base: u64,
}

/// Translations that are gone from the tables: a run of leaves of one size
/// and kind, side by side.
#[derive(Clone, Copy, Debug)]
struct Stale {
    vmid: u8,
    level: u8,
    start: u64,
    end: u64,
    first: u64,
    attributes: u64,
}

impl Stale {
    fn output(&self, gfn: u64) -> u64 {
        self.first + (gfn - self.start)
    }
}

#[derive(Default)]
pub(super) struct Watch {
    /// Tables that a walker may reach, one bit per frame.
    reachable: u64,
    /// Those of them that are unlinked, but not yet invalidated.
    ghosts: u64,
    places: Vec<Place>,
    /// Frames that were last linked by this VMID, as bits.
    linked_by: [u64; 4],
    stale: Vec<Stale>,
    /// By VMID.
    roots: [Option<Pfn>; 4],
    unpublished: bool,
}

/// The frame's bit.
fn bit(frame: Pfn) -> u64 {
    assert!(slot(frame) < FRAMES, "{frame:x?} is used as a table but is none");
    1 << slot(frame)
}

impl Watch {
    pub(super) fn reset(&mut self) {
        (self.reachable, self.ghosts, self.unpublished) = (0, 0, false);
        self.roots = [None; 4];
        self.stale.clear();
        self.places.resize(FRAMES as usize, Place::default());
    }

    pub(super) fn reachable(&self) -> u64 {
        self.reachable
    }

    /// The tables that are set in `mask`, with their places.
    fn each(&self, mut mask: u64) -> impl Iterator<Item = (u64, Place)> + '_ {
        core::iter::from_fn(move || {
            let slot = mask.trailing_zeros();
            mask &= mask.checked_sub(1)?;
            Some((1 << slot, self.places[slot as usize]))
        })
    }

    pub(super) fn tables_of(&self, vmid: u8) -> u64 {
        (self.reachable & self.linked_by[usize::from(vmid)]).count_ones().into()
    }

    pub(super) fn attach(&mut self, words: &Words, regime: Regime) {
        let vmid = regime.vmid.0;
        assert_eq!(self.tables_of(vmid), 0, "VMID {vmid} is used again before its tables are gone");
        let flushed = self.stale.iter().all(|stale| stale.vmid != vmid);
        assert!(flushed, "VMID {vmid} is used again before it is flushed");
        self.roots[usize::from(vmid)] = Some(regime.root);
        // What was there before VTTBR_EL2 is written is seen with it.
        let unpublished = self.unpublished;
        self.link(words, regime.root, Place { vmid, level: 1, base: 0 });
        self.unpublished = unpublished;
    }

    /// A word of a table that walkers can reach was written.
    pub(super) fn written(
        &mut self,
        words: &Words,
        (table, index): (Pfn, usize),
        (old, new): (u64, u64),
    ) {
        let place = self.places[slot(table) as usize];
        let (before, after) = (decode(old, place.level), decode(new, place.level));
        if self.ghosts & bit(table) != 0 {
            let emptied = after == Decoded::Invalid;
            assert!(emptied, "table {table:x?} gets an entry while walkers may reach it");
            return;
        }
        if before == after {
            return;
        }
        let gfn = place.base + index as u64 * span(place.level);
        let broken = before == Decoded::Invalid || after == Decoded::Invalid;
        assert!(broken, "{gfn:#x} of VMID {} changed without a break", place.vmid);
        self.remove(words, place, gfn, before);
        self.insert(words, place, gfn, after);
    }

    /// Writes words side by side into a table that walkers can reach, with
    /// the same rules. Most of them are pages that come or go together.
    pub(super) fn write_run(
        &mut self,
        words: &Words,
        (table, indices): (Pfn, Range<usize>),
        (value, step): (u64, u64),
    ) {
        let place = self.places[slot(table) as usize];
        let (start, end) = (place.base + indices.start as u64, place.base + indices.end as u64);
        let meets =
            |stale: &Stale| stale.vmid == place.vmid && stale.start < end && start < stale.end;
        let run = words.run(table, indices.clone());
        let is_plain =
            place.level == 3 && self.ghosts & bit(table) == 0 && !self.stale.iter().any(meets);
        if is_plain && (value, step) == (0, 0) {
            self.remove_pages(run, place, start);
        } else if is_plain && value & 0b11 == 0b11 && step.trailing_zeros() >= 12 {
            self.insert_pages(run, place, start, (value, step));
        } else {
            let mut new = value;
            for (index, word) in indices.zip(run) {
                let old = word.load(Relaxed);
                word.store(new, Relaxed);
                self.written(words, (table, index), (old, new));
                new = new.wrapping_add(step);
            }
        }
    }

    /// Pages, or what is none, become nothing.
    fn remove_pages(&mut self, run: &[AtomicU64], place: Place, start: u64) {
        let Some(first) = run.first().map(|word| word.load(Relaxed)) else { return };
        let (mut expected, mut differs) = (first, !first & 0b11);
        for word in run {
            differs |= (word.load(Relaxed) ^ expected) & !SOFTWARE;
            expected = expected.wrapping_add(1 << 12);
        }
        let together = if differs == 0 { run.len() } else { 1 };
        for (words, start) in run.chunks(together).zip((start..).step_by(together)) {
            let entry = decode(words[0].load(Relaxed), place.level);
            if let Decoded::Leaf { first, attributes } = entry {
                let end = start + words.len() as u64;
                let Place { vmid, level, .. } = place;
                self.remember(Stale { vmid, level, start, end, first, attributes });
            }
        }
        run.iter().for_each(|word| word.store(0, Relaxed));
    }

    /// Pages come where nothing was, or the same were.
    fn insert_pages(&mut self, run: &[AtomicU64], place: Place, start: u64, new: (u64, u64)) {
        let (mut value, step) = new;
        let (mut changed, mut came) = (0, 0);
        for word in run {
            let old = word.load(Relaxed);
            word.store(value, Relaxed);
            let was_page = old & old >> 1 & 1;
            changed |= (old ^ value) & !SOFTWARE & 0_u64.wrapping_sub(was_page);
            came |= was_page ^ 1;
            value = value.wrapping_add(step);
        }
        assert!(changed == 0, "from {start:#x} of VMID {}: changed without a break", place.vmid);
        self.unpublished |= came != 0;
    }

    /// An entry that was in the tables is gone.
    fn remove(&mut self, words: &Words, place: Place, start: u64, entry: Decoded) {
        match entry {
            Decoded::Invalid => {}
            Decoded::Leaf { first, attributes } => {
                let (Place { vmid, level, .. }, end) = (place, start + span(place.level));
                self.remember(Stale { vmid, level, start, end, first, attributes });
            }
            Decoded::Table(table) => {
                self.ghosts |= bit(table);
                let below = self.places[slot(table) as usize];
                self.remove_all(words, table, below);
            }
        }
    }

    /// Leaves mostly go side by side, and are one run then.
    fn remember(&mut self, gone: Stale) {
        let goes_on = |last: &&mut Stale| {
            (last.vmid, last.level, last.end) == (gone.vmid, gone.level, gone.start)
                && last.attributes == gone.attributes
                && last.output(gone.start) == gone.first
        };
        match self.stale.last_mut().filter(goes_on) {
            Some(last) => last.end = gone.end,
            None => self.stale.push(gone),
        }
    }

    fn remove_all(&mut self, words: &Words, table: Pfn, place: Place) {
        let (first_word, step) = (words.word(table, 0), span(place.level) << 12);
        if words.any_set(table, |_, word| word & 1) == 0 {
            return;
        }
        // Side by side and of one kind: a table that becomes a block again.
        let differs = |index, word| {
            let expected = first_word.wrapping_add(index as u64 * step);
            (word ^ expected) & !SOFTWARE
        };
        if let Decoded::Leaf { first, attributes } = decode(first_word, place.level)
            && words.any(table, differs) == 0
        {
            let Place { vmid, level, base: start } = place;
            let end = start + WORDS as u64 * span(level);
            self.stale.push(Stale { vmid, level, start, end, first, attributes });
            return;
        }
        words.for_each_with(table, 0b1, |index, word| {
            let gfn = place.base + index as u64 * span(place.level);
            self.remove(words, place, gfn, decode(word, place.level));
        });
    }

    /// An entry came into the tables.
    fn insert(&mut self, words: &Words, place: Place, gfn: u64, entry: Decoded) {
        match entry {
            Decoded::Invalid => return,
            Decoded::Leaf { first, attributes } => {
                let end = gfn + span(place.level);
                let same = |stale: &Stale| {
                    (stale.level, stale.attributes) == (place.level, attributes)
                        && stale.start <= gfn
                        && end <= stale.end
                        && stale.output(gfn) == first
                };
                let conflict = self.stale.iter().any(|stale| {
                    let meets = stale.vmid == place.vmid && stale.start < end && gfn < stale.end;
                    meets && !same(stale)
                });
                let whom = place.vmid;
                assert!(
                    !conflict,
                    "{gfn:#x} of VMID {whom} made valid before the old entry is invalidated"
                );
            }
            Decoded::Table(table) => {
                let Place { vmid, level, .. } = place;
                self.link(words, table, Place { vmid, level: level + 1, base: gfn });
            }
        }
        self.unpublished = true;
    }

    fn link(&mut self, words: &Words, table: Pfn, place: Place) {
        assert!(
            self.reachable & bit(table) == 0,
            "table {table:x?} is linked while walkers may still reach it"
        );
        self.reachable |= bit(table);
        self.linked_by.iter_mut().for_each(|frames| *frames &= !bit(table));
        self.linked_by[usize::from(place.vmid)] |= bit(table);
        self.places[slot(table) as usize] = place;
        // A leaf can only be in conflict with what a TLB remembers; a table
        // must be followed.
        let followed = match (self.stale.is_empty(), place.level) {
            (false, _) => 0b01,
            (true, 1 | 2) => 0b11,
            (true, _) => return,
        };
        words.for_each_with(table, followed, |index, word| {
            let gfn = place.base + index as u64 * span(place.level);
            self.insert(words, place, gfn, decode(word, place.level));
        });
    }

    pub(super) fn publish(&mut self) {
        self.unpublished = false;
    }

    pub(super) fn invalidate(&mut self, words: &Words, vmid: u8, (start, end): (u64, u64)) {
        self.unpublished = false;
        for index in (0..self.stale.len()).rev() {
            let stale = self.stale[index];
            if stale.vmid != vmid || stale.end <= start || end <= stale.start {
                continue;
            }
            self.stale.swap_remove(index);
            if stale.start < start {
                self.stale.push(Stale { end: start, ..stale });
            }
            if end < stale.end {
                self.stale.push(Stale { start: end, first: stale.output(end), ..stale });
            }
        }
        // What a walker remembers of a table is gone only when everything
        // the table translated is.
        let covered = |place: Place| {
            let last = place.base + WORDS as u64 * span(place.level);
            place.vmid == vmid && start <= place.base && last <= end
        };
        let gone = self.each(self.ghosts).filter(|(_, place)| covered(*place));
        let gone = gone.fold(0, |all, (bit, _)| all | bit);
        self.forget(gone);
        // The flush of a whole VMID whose root leads nowhere is its end.
        let root = self.roots.get(usize::from(vmid)).copied().flatten();
        if let Some(root) = root.filter(|_| (start, end) == (0, u64::MAX))
            && words.any_set(root, |_, word| word & 1) == 0
        {
            self.roots[usize::from(vmid)] = None;
            self.forget(bit(root));
        }
    }

    fn forget(&mut self, tables: u64) {
        self.reachable &= !tables;
        self.ghosts &= !tables;
    }

    /// Where an access goes by the tables alone.
    fn walk(&self, words: &Words, vmid: u8, gfn: u64) -> Option<u64> {
        let mut table = self.roots[usize::from(vmid)]?;
        for level in 1..=3 {
            let index = (gfn / span(level)) as usize % WORDS;
            match decode(words.word(table, index), level) {
                Decoded::Table(next) => table = next,
                Decoded::Leaf { first, .. } => return Some(first + gfn % span(level)),
                Decoded::Invalid => return None,
            }
        }
        None
    }

    pub(super) fn settle(&mut self, words: &Words) {
        assert!(!self.unpublished, "the call ends with a change that is not published");
        assert_eq!(self.ghosts, 0, "the call ends with tables half gone");
        for stale in &self.stale {
            let same = (stale.start..stale.end)
                .all(|gfn| self.walk(words, stale.vmid, gfn) == Some(stale.output(gfn)));
            assert!(same, "the call ends with a stale translation: {stale:x?}");
        }
        self.stale.clear();
    }
}
