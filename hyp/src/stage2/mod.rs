//! Stage-2 page tables: the one geometry that host and guests share.
//!
//! 39-bit input addresses, 4 KiB granule, three levels, one-page root
//! (VTCR_EL2: T0SZ = 25, SL0 = 1; Arm ARM D8.2). This module turns frames
//! into descriptors and keeps the rules of a live table; it knows nothing of
//! ownership. Its only caller is [`crate::memory`].
//!
//! Every change has two halves. *Prepare* ([`Stage2::tables_to_map`],
//! [`Stage2::tables_to_unmap`]) counts the tables a change will take, exactly.
//! *Commit* ([`Stage2::map`], [`Stage2::unmap`]) then cannot fail.
//!
//! | file | one idea |
//! |---|---|
//! | `descriptor` | one word |
//! | `walk` | reading |
//! | `map` | invalid → valid |
//! | `unmap` | valid → invalid; splitting blocks, break-before-make |
//! | `merge` | a full table back into a block, break-before-make |
//! | `release` | the end of an address space |
//! | `pool` | free frames for tables |

mod descriptor;
mod map;
mod merge;
mod pool;
mod release;
mod unmap;
mod walk;

pub use descriptor::Attributes;
pub(crate) use descriptor::{Descriptor, Entry, PAGE_LEVEL, ROOT_LEVEL, span};
pub(crate) use map::{Leaves, Mapping};
pub use pool::TablePool;
pub(crate) use unmap::Broken;
pub use walk::Leaf;

use crate::addr::{Gfn, GfnRange, Pfn};
use crate::machine::{Machine, Regime, Vmid};
use core::ops::Range;

/// How an address space treats its tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Style {
    /// The host's identity map: blocks wherever possible. A table, once
    /// split off, stays until the last hole in it closes: so whatever comes
    /// back to the host needs no memory to be mapped.
    Identity,
    /// A guest's: pages only. A table that becomes empty is freed, so that a
    /// BAR that wanders through the address space does not eat the memcache.
    Pages,
}

/// One stage-2 address space.
#[derive(Debug)]
#[cfg_attr(any(test, feature = "sim"), derive(Clone))]
pub struct Stage2 {
    regime: Regime,
    style: Style,
    /// Tables in use, the root included.
    tables: u64,
}

impl Stage2 {
    fn new(m: &impl Machine, vmid: Vmid, pool: &mut TablePool, style: Style) -> Option<Self> {
        let root = pool.pop(m)?;
        Some(Self { regime: Regime { vmid, root }, style, tables: 1 })
    }

    /// An empty address space for the host; `None` if the pool is empty.
    pub(crate) fn for_host(m: &impl Machine, pool: &mut TablePool) -> Option<Self> {
        Self::new(m, Vmid::HOST, pool, Style::Identity)
    }

    /// An empty address space for a guest; `None` if the pool is empty.
    pub(crate) fn for_guest(m: &impl Machine, vmid: Vmid, pool: &mut TablePool) -> Option<Self> {
        Self::new(m, vmid, pool, Style::Pages)
    }

    /// A part of this address space whose tables come from another pool and
    /// are counted apart: it begins and ends with entries of the root, which
    /// is not counted, and nothing is mapped in it. Pages only.
    pub(crate) fn part(&self) -> Self {
        Self { regime: self.regime, style: Style::Pages, tables: 0 }
    }

    /// What VTTBR_EL2 holds.
    pub(crate) fn regime(&self) -> Regime {
        self.regime
    }

    /// Tables in use, the root included.
    pub(crate) fn tables(&self) -> u64 {
        self.tables
    }

    fn new_table(&mut self, m: &impl Machine, pool: &mut TablePool) -> Pfn {
        self.tables += 1;
        pool.take(m)
    }
}

fn read(m: &impl Machine, table: Pfn, index: usize) -> Descriptor {
    Descriptor(m.read_word(table, index))
}

/// Hands several entries side by side to `visit`, with their numbers.
fn read_run(
    m: &impl Machine,
    table: Pfn,
    entries: Range<usize>,
    mut visit: impl FnMut(usize, Descriptor),
) {
    m.read_words(table, entries, |index, word| visit(index, Descriptor(word)));
}

fn write(m: &impl Machine, table: Pfn, index: usize, descriptor: Descriptor) {
    m.write_word(table, index, descriptor.0);
}

/// The part of a range that one entry of a table translates.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// The entry.
    index: usize,
    /// First frame number, one past the last.
    start: u64,
    end: u64,
}

impl Piece {
    /// Is it all that the entry translates?
    const fn is_whole(self, level: u8) -> bool {
        self.end - self.start == span(level)
    }

    /// First frame that the entry translates.
    const fn entry_start(self, level: u8) -> u64 {
        self.start & !(span(level) - 1)
    }
}

/// Cuts frame numbers `start..end`, which one table at `level` covers, at the
/// borders of the table's entries.
fn pieces(level: u8, start: u64, end: u64) -> impl Iterator<Item = Piece> {
    let span = span(level);
    let mut next = start;
    core::iter::from_fn(move || {
        if next >= end {
            return None;
        }
        let start = next;
        next = end.min((start | (span - 1)) + 1);
        let index = (start / span % descriptor::ENTRIES_PER_TABLE) as usize;
        Some(Piece { index, start, end: next })
    })
}

/// The entries of a table of pages for frame numbers `start..end`, which it
/// covers: [`pieces`] where nothing is cut.
fn page_entries(start: u64, end: u64) -> Range<usize> {
    let first = (start % descriptor::ENTRIES_PER_TABLE) as usize;
    first..first + (end - start) as usize
}

/// What a call must remove from the TLBs: one hull around everything it
/// broke, so that one [`Machine::invalidate`] serves the whole call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flush {
    start: u64,
    end: u64,
}

impl Flush {
    fn add(&mut self, start: u64, end: u64) {
        if self.end == 0 {
            (self.start, self.end) = (start, end);
        } else {
            (self.start, self.end) = (self.start.min(start), self.end.max(end));
        }
    }

    /// Invalidates the hull; nothing to do if nothing was broken.
    fn invalidate(self, m: &impl Machine, regime: Regime) -> bool {
        match GfnRange::new(self.start, self.end - self.start) {
            Ok(range) => {
                m.invalidate(regime, range);
                true
            }
            Err(_) => false,
        }
    }
}

/// The frame number as a [`Pfn`]; numbers inside a checked range always are.
fn pfn(number: u64) -> Pfn {
    match Pfn::new(number) {
        Some(frame) => frame,
        None => unreachable!("a checked range ends inside the address space"),
    }
}

fn numbers(range: GfnRange) -> (u64, u64) {
    (range.start().number(), range.end())
}

fn slot_index(level: u8, gfn: Gfn) -> usize {
    (gfn.number() / span(level) % descriptor::ENTRIES_PER_TABLE) as usize
}
