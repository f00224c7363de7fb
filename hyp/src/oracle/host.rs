//! The host's tables against the frame table, in one pass over both.

use super::descriptor::{ENTRIES, PAGES, ROOT, Word, decode, plain_page, right, span};
use super::entry::{self, Tally, host_right};
use super::rules::{Rule, Violation};
use crate::abi::{MAX_DEVICES, MAX_VMS};
use crate::addr::{Pfn, PfnRange};
use crate::machine::Machine;
use crate::memory::{FrameEntry, GuestId, HostMemory, Owner, WINDOWS};

/// Checks all of it and adds the frame table up.
pub(super) fn check(
    m: &impl Machine,
    memory: &HostMemory<'_>,
    tally: &mut Tally,
) -> Result<(), Violation> {
    let end = WINDOWS.number();
    let mut walk = Walk { m, memory, tally: Some(tally), start: 0, end, tables: 0 };
    walk.table(memory.regime().root, ROOT, 0)?;
    let (found, expected) = (walk.tables, memory.tables());
    if found != expected {
        return Err(Violation::count(Rule::TableCounted, found, expected));
    }
    // Those of guests are checked with them.
    let guests = (0..MAX_VMS).filter_map(GuestId::new);
    for id in guests.filter(|id| memory.counts().owned(Owner::Guest(*id)) == 0) {
        (0..MAX_DEVICES).try_for_each(|device| closed(m, memory, window_entry(id, device)))?;
    }
    let past = (WINDOWS.number() / span(ROOT)) as usize + MAX_VMS * MAX_DEVICES;
    (past..ENTRIES as usize).try_for_each(|index| closed(m, memory, index))
}

/// The entry of the host's root below which a device's window is.
pub(super) fn window_entry(id: GuestId, device: usize) -> usize {
    let windows = WINDOWS.number() / span(ROOT);
    windows as usize + id.slot() * MAX_DEVICES + device
}

/// No window is below this entry of the host's root.
pub(super) fn closed(
    m: &impl Machine,
    memory: &HostMemory<'_>,
    index: usize,
) -> Result<(), Violation> {
    let root = memory.regime().root;
    match m.read_word(root, index) {
        0 => Ok(()),
        word => Err(Violation::frame(Rule::WindowOnly, root, word, 0).at(root, index)),
    }
}

/// Frames that are looked at together: an eighth of a table.
const NEIGHBOURS: u64 = ENTRIES / 8;

/// Checks `frames` and their nearest neighbours.
pub(super) fn check_around(
    m: &impl Machine,
    memory: &HostMemory<'_>,
    frames: PfnRange,
) -> Result<(), Violation> {
    let start = frames.start().number() & !(NEIGHBOURS - 1);
    let end = frames.end().next_multiple_of(NEIGHBOURS).min(WINDOWS.number());
    if start >= end {
        return Ok(());
    }
    let mut walk = Walk { m, memory, tally: None, start, end, tables: 0 };
    walk.table(memory.regime().root, ROOT, 0).map(|_| ())
}

/// Checks one frame.
pub(super) fn check_frame(
    m: &impl Machine,
    memory: &HostMemory<'_>,
    pfn: Pfn,
) -> Result<(), Violation> {
    let (start, end) = (pfn.number(), pfn.number() + 1);
    let mut walk = Walk { m, memory, tally: None, start, end, tables: 0 };
    walk.table(memory.regime().root, ROOT, 0).map(|_| ())
}

/// Are they all the host's alone? By sixteens without a branch, because this
/// is what a full check does most.
fn all_plain(entries: &[FrameEntry]) -> bool {
    let differs = |entry: &FrameEntry| entry.raw() ^ FrameEntry::HOST.raw();
    let (sixteens, rest) = entries.as_chunks::<16>();
    sixteens.iter().all(|some| some.iter().fold(0, |found, entry| found | differs(entry)) == 0)
        && rest.iter().all(|entry| differs(entry) == 0)
}

struct Walk<'a, M> {
    m: &'a M,
    memory: &'a HostMemory<'a>,
    tally: Option<&'a mut Tally>,
    /// Frame numbers to look at.
    start: u64,
    end: u64,
    tables: u64,
}

impl<M: Machine> Walk<'_, M> {
    /// Returns how many entries of the table are in use, as far as it was
    /// looked at.
    fn table(&mut self, table: Pfn, level: u8, base: u64) -> Result<u64, Violation> {
        let owner = self.memory.entry(table);
        if owner.owner() != Owner::Hyp {
            return Err(Violation::frame(Rule::TableIsHyps, table, owner.raw().into(), 1));
        }
        self.tables += 1;
        let (mut used, mut plain) = (0, 0);
        let forced = self.m.forces_write_back();
        let first = self.start.saturating_sub(base) / span(level);
        let last = (self.end - base).div_ceil(span(level)).min(ENTRIES);
        for index in first..last {
            let start = base + index * span(level);
            let index = index as usize;
            let word = self.m.read_word(table, index);
            used += u64::from(word != 0);
            if level == PAGES && word == plain_page(start, forced) && self.is_plain(start) {
                plain += 1;
                continue;
            }
            match decode(word, level, (table, index), forced)? {
                Word::Empty => self.absent(start, span(level))?,
                Word::Leaf { first, right } => {
                    if first.number() != start {
                        let violation = Violation::frame(Rule::HostIsIdentity, first, word, start);
                        return Err(violation.at(table, index));
                    }
                    self.present(start, span(level), right)
                        .map_err(|violation| violation.at(table, index))?;
                }
                Word::Table { next, used: claimed, parked } => {
                    if parked {
                        let violation = Violation::frame(Rule::NothingParked, next, word, word | 1);
                        return Err(violation.at(table, index));
                    }
                    let used = self.table(next, level + 1, start)?;
                    // Only of a table that was looked at from end to end.
                    let whole = start >= self.start && start + span(level) <= self.end;
                    if whole && used != claimed {
                        let violation = Violation::frame(Rule::EntriesCounted, next, claimed, used);
                        return Err(violation.at(table, index));
                    }
                }
            }
        }
        debug_assert!(level <= PAGES);
        if let Some(tally) = &mut self.tally {
            tally.add_plain(plain);
        }
        Ok(used)
    }

    /// Is it RAM of the host's, lent to nobody and not pinned?
    fn is_plain(&self, pfn: u64) -> bool {
        Pfn::new(pfn).is_some_and(|pfn| self.memory.entry(pfn) == FrameEntry::HOST)
    }

    /// The part of the frame table for `count` frames from `start` on that is
    /// to be looked at, with the number of its first frame.
    fn entries(&self, start: u64, count: u64) -> (u64, &[FrameEntry]) {
        let from = start.max(self.start);
        self.memory.entries_between(from, (start + count).min(self.end))
    }

    /// The host has nothing here.
    fn absent(&mut self, start: u64, count: u64) -> Result<(), Violation> {
        let (first, entries) = self.entries(start, count);
        let entries = entries.len() as u64;
        for offset in 0..entries {
            let Some(pfn) = Pfn::new(first + offset) else { break };
            let entry = self.memory.entry(pfn);
            entry::check(pfn, entry)?;
            if let Some(right) = host_right(entry) {
                return Err(Violation::frame(Rule::HostRight, pfn, 0, right));
            }
            self.count(pfn, entry);
        }
        Ok(())
    }

    /// The host has a leaf with this right here.
    fn present(&mut self, start: u64, count: u64, found: u64) -> Result<(), Violation> {
        let (first, entries) = self.entries(start, count);
        let length = entries.len() as u64;
        // Nearly all of RAM, nearly always: one comparison per frame.
        if found == right::RAM && !entries.is_empty() && all_plain(entries) {
            if let Some(tally) = &mut self.tally {
                tally.add_plain(length);
            }
            return self.beyond_table(start, count, first, length, found);
        }
        for offset in 0..length {
            let Some(pfn) = Pfn::new(first + offset) else { break };
            let entry = self.memory.entry(pfn);
            entry::check(pfn, entry)?;
            let (rule, expected) = match entry.owner() {
                Owner::None => (Rule::HostDevices, Some(right::DEVICE)),
                _ if entry.in_window() => (Rule::WindowOnly, None),
                _ => (Rule::HostRight, host_right(entry)),
            };
            if expected != Some(found) {
                return Err(Violation::frame(rule, pfn, found, expected.unwrap_or(0)));
            }
            self.count(pfn, entry);
        }
        self.beyond_table(start, count, first, length, found)
    }

    /// What of a leaf lies outside the frame table is no RAM.
    fn beyond_table(
        &self,
        start: u64,
        count: u64,
        first: u64,
        length: u64,
        found: u64,
    ) -> Result<(), Violation> {
        let (from, to) = (start.max(self.start), (start + count).min(self.end));
        let covered = length != 0 && first == from && first + length == to;
        match Pfn::new(from) {
            Some(pfn) if !covered && from < to && found != right::DEVICE => {
                Err(Violation::frame(Rule::HostDevices, pfn, found, right::DEVICE))
            }
            _ => Ok(()),
        }
    }

    fn count(&mut self, pfn: Pfn, entry: FrameEntry) {
        if let Some(tally) = &mut self.tally {
            tally.add(pfn, entry);
        }
    }
}
