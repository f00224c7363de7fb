//! Invalid → valid: needs no invalidation, only that the walkers see it.
//!
//! A new table is filled before it is linked. No barrier is needed between
//! the two: the frame was zeroed and cleaned when it entered the pool, so a
//! walker that runs ahead sees zeros, faults, and is told to try again.

use super::{
    Attributes, Descriptor, Entry, PAGE_LEVEL, Piece, ROOT_LEVEL, Stage2, TablePool, numbers,
    page_entries, pfn, pieces, read, read_run, span, write,
};
use crate::addr::{FRAME_SIZE, GfnRange, Pfn};
use crate::machine::Machine;

/// May leaves be larger than pages?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Leaves {
    /// Pages only.
    Pages,
    /// The largest block that fits; only at boot, before anybody runs.
    Blocks,
}

/// A mapping to be made: `gfns` to the frames from `first` on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapping {
    /// Where.
    pub(crate) gfns: GfnRange,
    /// To what.
    pub(crate) first: Pfn,
    /// How.
    pub(crate) attributes: Attributes,
    /// With which leaves.
    pub(crate) leaves: Leaves,
}

impl Mapping {
    fn output(&self, gfn: u64) -> u64 {
        self.first.number() + (gfn - self.gfns.start().number())
    }

    /// Does `piece` become one leaf of a table at `level`?
    fn is_leaf(&self, level: u8, piece: Piece) -> bool {
        level == PAGE_LEVEL
            || (self.leaves == Leaves::Blocks
                && piece.is_whole(level)
                && self.output(piece.start).is_multiple_of(span(level)))
    }
}

impl Stage2 {
    /// How many tables [`Self::map`] will take from the pool.
    pub(crate) fn tables_to_map(&self, m: &impl Machine, mapping: &Mapping) -> u64 {
        fn missing(
            m: &impl Machine,
            mapping: &Mapping,
            (table, level): (Option<Pfn>, u8),
            (start, end): (u64, u64),
        ) -> u64 {
            let mut count = 0;
            for piece in pieces(level, start, end) {
                if mapping.is_leaf(level, piece) {
                    if level == PAGE_LEVEL {
                        break;
                    }
                    continue;
                }
                let below =
                    table.and_then(|table| match read(m, table, piece.index).decode(level) {
                        Entry::Table { table, .. } => Some(table),
                        _ => None,
                    });
                count += u64::from(below.is_none());
                count += missing(m, mapping, (below, level + 1), (piece.start, piece.end));
            }
            count
        }
        missing(m, mapping, (Some(self.regime.root), ROOT_LEVEL), numbers(mapping.gfns))
    }

    /// Maps a range in which nothing is mapped yet, or the same with another
    /// software mark (which needs no break). The caller has seen that
    /// the pool holds [`Self::tables_to_map`] frames, and calls
    /// [`Machine::publish`] when the whole transition is written.
    pub(crate) fn map(&mut self, m: &impl Machine, pool: &mut TablePool, mapping: &Mapping) {
        let root = self.regime.root;
        let attributes = mapping.attributes.encoded(m.forces_write_back());
        let mapping = &Mapping { attributes, ..*mapping };
        self.fill(m, pool, mapping, (root, ROOT_LEVEL), numbers(mapping.gfns));
    }

    /// Returns how many entries of `table` came into use.
    fn fill(
        &mut self,
        m: &impl Machine,
        pool: &mut TablePool,
        mapping: &Mapping,
        (table, level): (Pfn, u8),
        (start, end): (u64, u64),
    ) -> u64 {
        if level == PAGE_LEVEL {
            return fill_pages(m, table, mapping, (start, end));
        }
        let mut added = 0;
        for piece in pieces(level, start, end) {
            if mapping.is_leaf(level, piece) {
                let first = pfn(mapping.output(piece.start));
                let old = read(m, table, piece.index).decode(level);
                write(m, table, piece.index, Descriptor::leaf(level, first, mapping.attributes));
                added += u64::from(old == Entry::Empty);
                continue;
            }
            let (below, entries, parked) = match read(m, table, piece.index).decode(level) {
                Entry::Table { table, entries, parked } => (table, entries, parked),
                _ => {
                    added += 1;
                    (self.new_table(m, pool), 0, false)
                }
            };
            let range = (piece.start, piece.end);
            let entries = entries + self.fill(m, pool, mapping, (below, level + 1), range);
            write(m, table, piece.index, Descriptor::table(below, entries, parked));
        }
        added
    }
}

/// Maps the pages of a range in a table of pages; returns how many came into
/// use.
fn fill_pages(m: &impl Machine, table: Pfn, mapping: &Mapping, (start, end): (u64, u64)) -> u64 {
    let entries = page_entries(start, end);
    let mut added = 0;
    read_run(m, table, entries.clone(), |_, entry| added += u64::from(!entry.is_page()));
    let first = pfn(mapping.output(start));
    let page = Descriptor::leaf(PAGE_LEVEL, first, mapping.attributes);
    m.write_words(table, entries, page.0, FRAME_SIZE);
    added
}
