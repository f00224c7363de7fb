//! The end of an address space, in bounded steps.
//!
//! First every entry of the root is parked and the whole VMID flushed: from
//! then on nothing translates. The tree stays readable for us, and its
//! tables are taken out of it one by one, leaves first. A part of an address
//! space ([`Stage2::part`]) is cut off at the root instead.

use super::{Descriptor, Entry, PAGE_LEVEL, ROOT_LEVEL, Stage2, read, slot_index, write};
use crate::addr::{Gfn, Pfn};
use crate::machine::Machine;

impl Stage2 {
    /// Ends every translation at once: 512 words and one invalidation.
    pub(crate) fn unlink(&mut self, m: &impl Machine) {
        for (index, entry) in entries(m, self.regime.root, ROOT_LEVEL) {
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
        Some(take(m, self.regime.root, ROOT_LEVEL))
    }

    /// Takes all that `gfn`'s entry of the root leads to out of the address
    /// space, for [`Self::take_cut_table`]. The caller invalidates.
    pub(crate) fn cut(&self, m: &impl Machine, gfn: Gfn) -> Option<Pfn> {
        let (root, index) = (self.regime.root, slot_index(ROOT_LEVEL, gfn));
        let Entry::Table { table, .. } = read(m, root, index).decode(ROOT_LEVEL) else {
            return None;
        };
        write(m, root, index, Descriptor::EMPTY);
        Some(table)
    }

    /// Takes one table out of a tree that was cut off, zeroed; `top`, where it
    /// was cut, comes last.
    pub(crate) fn take_cut_table(&mut self, m: &impl Machine, top: Pfn) -> Option<Pfn> {
        if self.tables == 0 {
            return None;
        }
        self.tables -= 1;
        Some(take(m, top, ROOT_LEVEL + 1))
    }
}

/// Takes a table that has no table below it out of the tree under `top`, which
/// is at `level`.
fn take(m: &impl Machine, top: Pfn, level: u8) -> Pfn {
    let (mut table, mut level, mut above) = (top, level, None);
    while level < PAGE_LEVEL
        && let Some((index, below)) = first_table(m, table, level)
    {
        (above, table, level) = (Some((table, index)), below, level + 1);
    }
    if let Some((above, index)) = above {
        write(m, above, index, Descriptor::EMPTY);
    }
    m.zero_frame(table);
    table
}

fn first_table(m: &impl Machine, table: Pfn, level: u8) -> Option<(usize, Pfn)> {
    entries(m, table, level).find_map(|(index, entry)| match entry {
        Entry::Table { table, .. } => Some((index, table)),
        _ => None,
    })
}

/// The entries of a table that are in use, which are few, with their numbers.
fn entries(m: &impl Machine, table: Pfn, level: u8) -> impl Iterator<Item = (usize, Entry)> {
    let mut from = 0;
    core::iter::from_fn(move || {
        let (index, word) = m.next_word(table, from)?;
        from = index + 1;
        Some((index, Descriptor(word).decode(level)))
    })
}

#[cfg(test)]
mod tests {
    use crate::addr::{GfnRange, Pfn, PfnRange};
    use crate::machine::{Machine, Vmid};
    use crate::sim::SimMachine;
    use crate::stage2::{Attributes, Leaves, Mapping, Stage2, TablePool};

    #[test]
    fn every_table_comes_out_once_and_wiped_the_root_last() {
        let frames = PfnRange::new(0x100, 8).unwrap();
        let machine = SimMachine::new(&[frames]);
        let mut pool = TablePool::fresh(frames);
        let mut stage2 = Stage2::for_guest(&machine, Vmid(2), &mut pool).unwrap();
        machine.attach(stage2.regime());
        let root = stage2.regime().root;
        // Over a 1 GiB border: two tables at level 2, two at level 3.
        let mapping = Mapping {
            gfns: GfnRange::new(0x3_ffff, 2).unwrap(),
            first: Pfn::new(0x500).unwrap(),
            attributes: Attributes::MEMORY,
            leaves: Leaves::Pages,
        };
        assert_eq!(stage2.tables_to_map(&machine, &mapping), 4);
        stage2.map(&machine, &mut pool, &mapping);
        machine.publish();
        assert_eq!((stage2.tables(), pool.len()), (5, 3));

        stage2.unlink(&machine);
        machine.settle();
        assert!(machine.access(Vmid(2), mapping.gfns.start()).is_empty());
        for left in (0..5).rev() {
            let table = stage2.take_table(&machine).unwrap();
            assert_eq!(machine.tag(table), Some(0));
            assert_eq!(stage2.tables(), left);
            assert_eq!(table == root, left == 0);
        }
        assert_eq!(stage2.take_table(&machine), None);
        machine.settle();
    }
}
