//! A guest's tables against the frame table.

use super::descriptor::{ENTRIES, PAGES, ROOT, Word, decode, right, span};
use super::entry::GuestFrames;
use super::host;
use super::rules::{Rule, Violation};
use crate::addr::Pfn;
use crate::machine::Machine;
use crate::memory::{GuestMemory, HostMemory, Owner};

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
            used += u64::from(word != 0);
            match decode(word, level, table, index)? {
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

    fn leaf(&mut self, gfn: u64, pfn: Pfn, found: u64) -> Result<(), Violation> {
        let (entry, ram, party) = (self.memory.entry(pfn), self.guest.ram(), self.guest.party());
        let raw = u64::from(entry.raw());
        let expected = if gfn >= ram.start().number() && gfn < ram.end() {
            if entry.owner() != party {
                let expected = party.code().into();
                return Err(Violation::frame(Rule::GuestOwns, pfn, raw, expected));
            }
            self.found.own.add(pfn);
            right::RAM
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
