//! A guest's tables against the frame table.

use super::descriptor::{ENTRIES, PAGES, ROOT, Word, decode, right, span};
use super::entry::GuestFrames;
use super::host;
use super::rules::{Rule, Violation};
use crate::abi::MAX_DEVICES;
use crate::addr::{Gfn, Pfn};
use crate::machine::Machine;
use crate::memory::{DmaWindow, GuestMemory, HostMemory, Owner, SharedPlace};

/// The bit of a guest frame number that tells an alias: bit 38 of an address.
const ALIAS: u64 = 1 << 26;

/// Checks every table and every leaf, and for each frame what the host has
/// there. Returns what is mapped.
pub(super) fn check(
    m: &impl Machine,
    memory: &HostMemory<'_>,
    guest: &GuestMemory,
) -> Result<GuestFrames, Violation> {
    let mut walk = Walk { m, memory, guest, found: GuestFrames::default(), tables: 0 };
    // A torn-down guest has given its root away.
    if guest.tables() != 0 {
        walk.table(guest.regime().root, ROOT, 0)?;
    }
    if walk.tables != guest.tables() {
        return Err(Violation::count(Rule::TableCounted, walk.tables, guest.tables()));
    }
    for device in 0..MAX_DEVICES {
        match guest.window(device) {
            Some(window) if !guest.is_dying() => walk.window(device, window)?,
            _ => host::closed(m, memory, host::window_entry(guest.id(), device))?,
        }
    }
    Ok(walk.found)
}

struct Walk<'a, M> {
    m: &'a M,
    memory: &'a HostMemory<'a>,
    guest: &'a GuestMemory,
    found: GuestFrames,
    tables: u64,
}

impl<M: Machine> Walk<'_, M> {
    /// The window of a device that lives.
    fn window(&mut self, device: usize, window: &DmaWindow) -> Result<(), Violation> {
        let index = host::window_entry(self.guest.id(), device);
        let (pages, tables) = (self.found.windows.frames, self.tables);
        let root = self.memory.regime().root;
        self.window_word(root, index, ROOT)?;
        let tables = self.tables - tables;
        if tables != window.tables() {
            return Err(Violation::count(Rule::TableCounted, tables, window.tables()));
        }
        let pages = self.found.windows.frames - pages;
        if pages != window.mapped() || pages > window.budget() {
            return Err(Violation::count(Rule::WindowBudget, pages, window.mapped()));
        }
        Ok(())
    }

    /// A word of the tables of a window, or of the root above them. Returns
    /// whether it is in use.
    fn window_word(&mut self, table: Pfn, index: usize, level: u8) -> Result<bool, Violation> {
        let word = self.m.read_word(table, index);
        let broken = |rule, frame, expected| {
            Err(Violation::frame(rule, frame, word, expected).at(table, index))
        };
        match decode(word, level, (table, index), self.m.forces_write_back())? {
            Word::Empty => return Ok(false),
            Word::Table { next, parked: true, .. } => {
                return broken(Rule::NothingParked, next, word | 1);
            }
            Word::Table { next, used: claimed, .. } => {
                let owner = self.memory.entry(next);
                if owner.owner() != Owner::Hyp {
                    return broken(Rule::TableIsHyps, next, 1);
                }
                self.tables += 1;
                let mut used = 0;
                for index in 0..ENTRIES as usize {
                    used += u64::from(self.window_word(next, index, level + 1)?);
                }
                // An empty table would have been given back.
                if used != claimed || used == 0 {
                    return broken(Rule::EntriesCounted, next, used);
                }
            }
            Word::Leaf { first, .. } if level < PAGES => {
                return broken(Rule::WordMakesSense, first, 0);
            }
            Word::Leaf { first, right } => {
                let entry = self.memory.entry(first);
                let good = matches!(right, right::BOUNCE | right::BOUNCE_READ_ONLY);
                if entry.owner() != self.guest.party() || !entry.in_window() || !good {
                    return broken(Rule::WindowMaps, first, entry.raw().into());
                }
                self.found.windows.add(first);
                host::check_frame(self.m, self.memory, first)?;
            }
        }
        Ok(true)
    }

    fn table(&mut self, table: Pfn, level: u8, base: u64) -> Result<u64, Violation> {
        let owner = self.memory.entry(table);
        if owner.owner() != Owner::Hyp {
            return Err(Violation::frame(Rule::TableIsHyps, table, owner.raw().into(), 1));
        }
        self.tables += 1;
        let mut used = 0;
        for index in 0..ENTRIES {
            let gfn = base + index * span(level);
            let index = index as usize;
            let word = self.m.read_word(table, index);
            if word == 0 {
                continue;
            }
            used += 1;
            match decode(word, level, (table, index), self.m.forces_write_back())? {
                Word::Empty => {}
                Word::Leaf { .. } if level < PAGES => {
                    return Err(
                        Violation::frame(Rule::WordMakesSense, table, word, 0).at(table, index)
                    );
                }
                Word::Leaf { first, right } => {
                    // Below a dying guest's root nothing is ever walked.
                    if !self.guest.is_dying() {
                        self.leaf(gfn, first, right).map_err(|found| found.at(table, index))?;
                    }
                }
                Word::Table { next, used: claimed, parked } => {
                    let dying = self.guest.is_dying();
                    if dying && level == ROOT && !parked {
                        let violation = Violation::frame(Rule::DyingHasNothing, next, word, 0);
                        return Err(violation.at(table, index));
                    }
                    if !dying && parked {
                        let violation = Violation::frame(Rule::NothingParked, next, word, word | 1);
                        return Err(violation.at(table, index));
                    }
                    let used = self.table(next, level + 1, gfn)?;
                    // A dying guest's tables are taken out without counting.
                    if !dying && used != claimed {
                        let violation = Violation::frame(Rule::EntriesCounted, next, claimed, used);
                        return Err(violation.at(table, index));
                    }
                }
            }
        }
        Ok(used)
    }

    fn has_aliases(&self) -> bool {
        self.guest.shared_place() == SharedPlace::Alias
    }

    /// The page that an address means, and whether it is the page's alias:
    /// bit 38, if this guest has aliases.
    fn home(&self, gfn: u64) -> (u64, bool) {
        match self.has_aliases() {
            true => (gfn & !ALIAS, gfn & ALIAS != 0),
            false => (gfn, false),
        }
    }

    /// A page of RAM of a guest with aliases: the half it is in says who may
    /// reach it, and it is not in the other one.
    fn at_its_place(&self, home: u64, above: bool, pfn: Pfn) -> Result<(), Violation> {
        let entry = self.memory.entry(pfn);
        let other = Gfn::new(if above { home } else { home | ALIAS });
        let twice = other.and_then(|gfn| self.guest.lookup(self.m, gfn));
        let lent = entry.borrower() == Owner::Host;
        if lent == above && twice.is_none() {
            return Ok(());
        }
        let found = twice.map_or(entry.raw().into(), |leaf| leaf.pfn.number());
        Err(Violation::frame(Rule::SharedAtAlias, pfn, found, 0))
    }

    fn leaf(&mut self, gfn: u64, pfn: Pfn, found: u64) -> Result<(), Violation> {
        let (entry, ram, party) = (self.memory.entry(pfn), self.guest.ram(), self.guest.party());
        let raw = u64::from(entry.raw());
        let (home, above) = self.home(gfn);
        let expected = if home >= ram.start().number() && home < ram.end() {
            if entry.owner() != party {
                let expected = party.code().into();
                return Err(Violation::frame(Rule::GuestOwns, pfn, raw, expected));
            }
            self.found.own.add(pfn);
            if self.has_aliases() {
                self.at_its_place(home, above, pfn)?;
            }
            if above { right::BOUNCE } else { right::RAM }
        } else if above {
            return Err(Violation::frame(Rule::SharedAtAlias, pfn, raw, 0));
        } else {
            if entry.owner() != Owner::Host || entry.borrower() != party || !entry.is_mapped() {
                let expected = u64::from(party.code()) << 8 | 1 << 24;
                return Err(Violation::frame(Rule::GuestBorrows, pfn, raw, expected));
            }
            self.found.borrowed.add(pfn);
            right::BOUNCE
        };
        if found != expected {
            return Err(Violation::frame(Rule::GuestRight, pfn, found, expected));
        }
        host::check_frame(self.m, self.memory, pfn)
    }
}
