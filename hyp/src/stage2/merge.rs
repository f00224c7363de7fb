//! A full table back into a block.
//!
//! When the last hole of a table closes and all its entries translate one
//! aligned run with the same attributes, the table is replaced by a block and
//! freed. That changes the size of a live mapping: break (park the table's
//! descriptor), invalidate, make (write the block).

use super::{
    Descriptor, Entry, Flush, Piece, ROOT_LEVEL, Stage2, TablePool, numbers, pieces, read, span,
    write,
};
use crate::addr::{FRAME_SHIFT, Gfn, GfnRange, Pfn};
use crate::machine::Machine;
use crate::stage2::descriptor::ENTRIES_PER_TABLE;

impl Stage2 {
    /// Merges what can be merged around the range: first tables of pages into
    /// 2 MiB blocks, then tables of those into 1 GiB blocks.
    pub(crate) fn merge(&mut self, m: &impl Machine, pool: &mut TablePool, range: GfnRange) {
        for level in [2, ROOT_LEVEL] {
            let mut flush = Flush::default();
            self.for_each_entry(m, level, range, |table, piece, entry| {
                let Entry::Table { table: below, entries: ENTRIES_PER_TABLE, .. } = entry else {
                    return;
                };
                if is_uniform(m, below, level + 1) {
                    write(m, table, piece.index, Descriptor::table(below, ENTRIES_PER_TABLE, true));
                    let start = piece.entry_start(level);
                    flush.add(start, start + span(level));
                }
            });
            if !flush.invalidate(m, self.regime) {
                return;
            }
            let mut freed = 0;
            self.for_each_entry(m, level, range, |table, piece, entry| {
                // Between calls nothing is parked: this is one of ours.
                let Entry::Table { table: below, parked: true, .. } = entry else { return };
                let start = read(m, below, 0).decode(level + 1);
                let Entry::Leaf { first, attributes } = start else { return };
                write(m, table, piece.index, Descriptor::leaf(level, first, attributes));
                m.zero_frame(below);
                pool.push(m, below);
                freed += 1;
            });
            self.tables -= freed;
            m.publish();
        }
    }

    /// Visits the entries at `level` in the range: (table, which, entry).
    fn for_each_entry(
        &self,
        m: &impl Machine,
        level: u8,
        range: GfnRange,
        mut visit: impl FnMut(Pfn, Piece, Entry),
    ) {
        let (start, end) = numbers(range);
        for piece in pieces(level, start, end) {
            let place = Gfn::new(piece.start).and_then(|gfn| self.table_at(m, level, gfn));
            if let Some(table) = place {
                visit(table, piece, read(m, table, piece.index).decode(level));
            }
        }
    }
}

/// Does the table at `level` translate one aligned run with the same
/// attributes throughout?
fn is_uniform(m: &impl Machine, table: Pfn, level: u8) -> bool {
    let start = read(m, table, 0);
    let Entry::Leaf { first, .. } = start.decode(level) else { return false };
    // An aligned run ends inside the address space: its frames can be counted
    // on in the descriptor itself.
    let mut expected = start.0;
    first.number().is_multiple_of(span(level) * ENTRIES_PER_TABLE)
        && (1..ENTRIES_PER_TABLE as usize).all(|index| {
            expected += span(level) << FRAME_SHIFT;
            read(m, table, index).0 == expected
        })
}
