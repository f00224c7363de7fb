//! The end of an address space, in bounded steps.
//!
//! First every entry of the root is parked and the whole VMID flushed: from
//! then on nothing translates. The tree stays readable for us, and its
//! tables are taken out of it one by one, leaves first.

use super::{Descriptor, Entry, ROOT_LEVEL, Stage2, read, write};
use crate::addr::Pfn;
use crate::machine::Machine;
use crate::stage2::descriptor::ENTRIES_PER_TABLE;

impl Stage2 {
    /// Ends every translation at once: 512 words and one invalidation.
    pub(crate) fn unlink(&mut self, m: &impl Machine) {
        for index in 0..ENTRIES_PER_TABLE as usize {
            let entry = read(m, self.regime.root, index).decode(ROOT_LEVEL);
            if let Entry::Table { table, entries, .. } = entry {
                write(m, self.regime.root, index, Descriptor::table(table, entries, true));
            }
        }
        m.invalidate_all(self.regime);
    }

    /// Takes one table out of an unlinked tree, zeroed; the root comes last.
    /// At most 1,024 words are read per table.
    pub(crate) fn take_table(&mut self, m: &impl Machine) -> Option<Pfn> {
        if self.tables == 0 {
            return None;
        }
        self.tables -= 1;
        let root = self.regime.root;
        let (table, above) = match first_table(m, root, ROOT_LEVEL) {
            None => (root, None),
            Some((index, middle)) => match first_table(m, middle, ROOT_LEVEL + 1) {
                None => (middle, Some((root, index))),
                Some((below, pages)) => (pages, Some((middle, below))),
            },
        };
        if let Some((above, index)) = above {
            write(m, above, index, Descriptor::EMPTY);
        }
        m.zero_frame(table);
        Some(table)
    }
}

fn first_table(m: &impl Machine, table: Pfn, level: u8) -> Option<(usize, Pfn)> {
    (0..ENTRIES_PER_TABLE as usize).find_map(|index| match read(m, table, index).decode(level) {
        Entry::Table { table, .. } => Some((index, table)),
        _ => None,
    })
}
