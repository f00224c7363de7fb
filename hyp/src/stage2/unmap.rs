//! Valid → invalid, and what it takes to keep the neighbours.
//!
//! Taking a page out of a block turns the block into a table: a change of
//! size, so break-before-make (Arm ARM D8.16.1). All blocks of a call are
//! broken first, then one invalidation covers everything the call removed,
//! then the tables are made:
//!
//! 1. *break*: clear pages; build the table of each split block aside, hole
//!    included, and park its descriptor over the block;
//! 2. *invalidate*, once;
//! 3. *make*: unpark. Empty tables of a guest go back to the pool.
//!
//! Between 1 and 3 another CPU may fault on a neighbour. It waits for the
//! lock and finds the mapping valid: `HostMemory::host_fault` says retry.

use super::{
    Attributes, Descriptor, Entry, Flush, PAGE_LEVEL, ROOT_LEVEL, Stage2, Style, TablePool,
    numbers, page_entries, pieces, read, read_run, span, write,
};
use crate::addr::{FRAME_SHIFT, GfnRange, Pfn};
use crate::machine::Machine;
use crate::stage2::descriptor::ENTRIES_PER_TABLE;

/// An unmapping under way: broken, not yet invalidated.
#[must_use = "a broken mapping must be invalidated and made again"]
pub(crate) struct Broken {
    flush: Flush,
    /// Tables that became empty; walkers may reach them until invalidation.
    dead: TablePool,
}

impl Broken {
    /// Nothing broken so far.
    pub(crate) fn new() -> Self {
        Self { flush: Flush::default(), dead: TablePool::empty() }
    }
}

impl Stage2 {
    /// How many tables unmapping the range takes from the pool: one for each
    /// block it splits, at each level.
    pub(crate) fn tables_to_unmap(&self, m: &impl Machine, range: GfnRange) -> u64 {
        fn splits(
            m: &impl Machine,
            (table, level): (Option<Pfn>, u8),
            (start, end): (u64, u64),
        ) -> u64 {
            if level == PAGE_LEVEL {
                return 0;
            }
            let mut count = 0;
            for piece in pieces(level, start, end) {
                // Without a table we are inside a block that will be split.
                let below = match table.map(|table| read(m, table, piece.index).decode(level)) {
                    Some(Entry::Empty) => continue,
                    Some(Entry::Table { table, .. }) => Some(table),
                    Some(Entry::Leaf { .. }) | None => None,
                };
                count += u64::from(below.is_none());
                count += splits(m, (below, level + 1), (piece.start, piece.end));
            }
            count
        }
        splits(m, (Some(self.regime.root), ROOT_LEVEL), numbers(range))
    }

    /// Unmaps the range and makes sure that no TLB remembers it. The caller
    /// has seen that the pool holds [`Self::tables_to_unmap`] frames.
    pub(crate) fn unmap(&mut self, m: &impl Machine, pool: &mut TablePool, range: GfnRange) {
        let mut broken = Broken::new();
        self.break_range(m, pool, range, &mut broken);
        if self.invalidate_broken(m, pool, broken) {
            self.make_range(m, range);
        }
    }

    /// Step 1, for one of several ranges.
    pub(crate) fn break_range(
        &mut self,
        m: &impl Machine,
        pool: &mut TablePool,
        range: GfnRange,
        broken: &mut Broken,
    ) {
        self.clear(m, pool, (self.regime.root, ROOT_LEVEL), numbers(range), broken);
    }

    /// Step 2, for all of them. Was anything broken?
    pub(crate) fn invalidate_broken(
        &mut self,
        m: &impl Machine,
        pool: &mut TablePool,
        mut broken: Broken,
    ) -> bool {
        if !broken.flush.invalidate(m, self.regime) {
            return false;
        }
        // Empty tables hold zeros already: `clear` wrote every entry.
        while let Some(table) = broken.dead.pop(m) {
            self.tables -= 1;
            pool.push(m, table);
        }
        true
    }

    /// Step 3, for one of them.
    pub(crate) fn make_range(&mut self, m: &impl Machine, range: GfnRange) {
        if unpark(m, (self.regime.root, ROOT_LEVEL), numbers(range)) {
            m.publish();
        }
    }

    /// Returns how many entries of `table` went out of use.
    fn clear(
        &mut self,
        m: &impl Machine,
        pool: &mut TablePool,
        (table, level): (Pfn, u8),
        (start, end): (u64, u64),
        broken: &mut Broken,
    ) -> u64 {
        if level == PAGE_LEVEL {
            return clear_pages(m, table, (start, end), &mut broken.flush);
        }
        let mut removed = 0;
        for piece in pieces(level, start, end) {
            let entry_start = piece.entry_start(level);
            let entry_end = entry_start + span(level);
            let (below, entries, parked) = match read(m, table, piece.index).decode(level) {
                Entry::Empty => continue,
                Entry::Leaf { first, attributes } => {
                    let below = self.new_table(m, pool);
                    fill_like_block(m, below, level + 1, first, attributes);
                    broken.flush.add(entry_start, entry_end);
                    (below, ENTRIES_PER_TABLE, true)
                }
                Entry::Table { table, entries, parked } => (table, entries, parked),
            };
            let range = (piece.start, piece.end);
            let gone = self.clear(m, pool, (below, level + 1), range, broken);
            let entries = entries.saturating_sub(gone);
            if entries == 0 && self.style == Style::Pages {
                write(m, table, piece.index, Descriptor::EMPTY);
                // Walkers may hold the pointer to the table, not only its
                // leaves: flush all it translated.
                broken.flush.add(entry_start, entry_end);
                broken.dead.push(m, below);
                removed += 1;
            } else if gone != 0 || parked {
                write(m, table, piece.index, Descriptor::table(below, entries, parked));
            }
        }
        removed
    }
}

/// Clears the pages of a range in a table of pages; returns how many it had.
fn clear_pages(m: &impl Machine, table: Pfn, (start, end): (u64, u64), flush: &mut Flush) -> u64 {
    let entries = page_entries(start, end);
    let (mut removed, mut first, mut past) = (0, entries.end, entries.end);
    read_run(m, table, entries.clone(), |index, entry| {
        if entry.is_page() {
            (removed, first, past) = (removed + 1, first.min(index), index + 1);
        }
    });
    if removed != 0 {
        m.write_words(table, first..past, Descriptor::EMPTY.0, 0);
        let gfn_of = |index: usize| start + (index - entries.start) as u64;
        flush.add(gfn_of(first), gfn_of(past));
    }
    removed
}

/// Writes into a fresh table what the block above it translated. The block
/// is aligned, so its frames can be counted on in the descriptor itself.
fn fill_like_block(m: &impl Machine, table: Pfn, level: u8, first: Pfn, attributes: Attributes) {
    let start = Descriptor::leaf(level, first, attributes);
    m.fill_words(table, start.0, span(level) << FRAME_SHIFT);
}

/// Makes every parked table of the range valid, the inner ones first.
fn unpark(m: &impl Machine, (table, level): (Pfn, u8), (start, end): (u64, u64)) -> bool {
    let mut made = false;
    if level == PAGE_LEVEL {
        return made;
    }
    for piece in pieces(level, start, end) {
        let entry = read(m, table, piece.index).decode(level);
        if let Entry::Table { table: below, entries, parked } = entry {
            made |= unpark(m, (below, level + 1), (piece.start, piece.end));
            if parked {
                write(m, table, piece.index, Descriptor::table(below, entries, false));
                made = true;
            }
        }
    }
    made
}
