//! A full table back into a block.
//!
//! When the last hole of a table closes and all its entries translate one
//! aligned run with the same attributes, the table is replaced by a block and
//! freed. That changes the size of a live mapping: break (park the table's
//! descriptor), invalidate, make (write the block).

use super::{
    Attributes, Descriptor, Entry, Flush, Piece, ROOT_LEVEL, Stage2, TablePool, numbers, pieces,
    read, span, write,
};
use crate::addr::{Gfn, GfnRange, Pfn};
use crate::machine::Machine;
use crate::stage2::descriptor::ENTRIES_PER_TABLE;

impl Stage2 {
    /// Merges what can be merged around the range: first tables of pages into
    /// 2 MiB blocks, then tables of those into 1 GiB blocks.
    pub(crate) fn merge(&mut self, m: &impl Machine, pool: &mut TablePool, range: GfnRange) {
        for level in [2, ROOT_LEVEL] {
            let mut flush = Flush::default();
            self.for_each_full(m, level, range, |table, piece, below| {
                write(m, table, piece.index, Descriptor::table(below, ENTRIES_PER_TABLE, true));
                let start = piece.entry_start(level);
                flush.add(start, start + span(level));
            });
            if !flush.invalidate(m, self.regime) {
                return;
            }
            let mut freed = 0;
            self.for_each_full(m, level, range, |table, piece, below| {
                let Some((first, attributes)) = uniform(m, below, level + 1) else { return };
                write(m, table, piece.index, Descriptor::leaf(level, first, attributes));
                m.zero_frame(below);
                pool.push(m, below);
                freed += 1;
            });
            self.tables -= freed;
            m.publish();
        }
    }

    /// Visits the entries at `level` in the range whose table is full and
    /// uniform: (table, entry, table below).
    fn for_each_full(
        &self,
        m: &impl Machine,
        level: u8,
        range: GfnRange,
        mut visit: impl FnMut(Pfn, Piece, Pfn),
    ) {
        let (start, end) = numbers(range);
        for piece in pieces(level, start, end) {
            let place = Gfn::new(piece.start).and_then(|gfn| self.table_at(m, level, gfn));
            let Some(table) = place else { continue };
            let entry = read(m, table, piece.index).decode(level);
            let Entry::Table { table: below, entries: ENTRIES_PER_TABLE, .. } = entry else {
                continue;
            };
            if uniform(m, below, level + 1).is_some() {
                visit(table, piece, below);
            }
        }
    }
}

/// First frame and attributes if the table at `level` translates one aligned
/// run with the same attributes throughout.
fn uniform(m: &impl Machine, table: Pfn, level: u8) -> Option<(Pfn, Attributes)> {
    let Entry::Leaf { first, attributes } = read(m, table, 0).decode(level) else { return None };
    if !first.number().is_multiple_of(span(level) * ENTRIES_PER_TABLE) {
        return None;
    }
    let same = (1..ENTRIES_PER_TABLE).all(|index| {
        let next = first.checked_add(index * span(level));
        next.is_some_and(|next| {
            read(m, table, index as usize) == Descriptor::leaf(level, next, attributes)
        })
    });
    same.then_some((first, attributes))
}
