//! Reading a stage 2.

use super::{
    Attributes, Descriptor, Entry, PAGE_LEVEL, ROOT_LEVEL, Stage2, numbers, page_entries, pieces,
    read, read_run, slot_index, span,
};
use crate::addr::{FRAME_SIZE, Gfn, GfnRange, Pfn, PfnRange};
use crate::error::Error;
use crate::machine::Machine;

/// Where an intermediate physical frame leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// The physical frame.
    pub pfn: Pfn,
    /// How it is mapped.
    pub attributes: Attributes,
}

impl Stage2 {
    /// The translation of one frame, as the hardware would find it.
    pub(crate) fn lookup(&self, m: &impl Machine, gfn: Gfn) -> Option<Leaf> {
        let mut table = self.regime.root;
        for level in ROOT_LEVEL..=PAGE_LEVEL {
            match read(m, table, slot_index(level, gfn)).decode(level) {
                Entry::Table { table: next, parked: false, .. } => table = next,
                Entry::Leaf { first, attributes } => {
                    let pfn = first.checked_add(gfn.number() % span(level))?;
                    return Some(Leaf { pfn, attributes });
                }
                _ => return None,
            }
        }
        None
    }

    /// The table at `level` on the way to `gfn`, if the walk gets there.
    pub(crate) fn table_at(&self, m: &impl Machine, level: u8, gfn: Gfn) -> Option<Pfn> {
        let mut table = self.regime.root;
        for above in ROOT_LEVEL..level {
            match read(m, table, slot_index(above, gfn)).decode(above) {
                Entry::Table { table: next, .. } => table = next,
                _ => return None,
            }
        }
        Some(table)
    }

    /// Is no frame of the range mapped?
    pub(crate) fn is_unmapped(&self, m: &impl Machine, range: GfnRange) -> bool {
        fn empty(m: &impl Machine, table: Pfn, level: u8, start: u64, end: u64) -> bool {
            if level == PAGE_LEVEL {
                let mut pages = false;
                read_run(m, table, page_entries(start, end), |_, entry| pages |= entry.is_page());
                return !pages;
            }
            pieces(level, start, end).all(|piece| match read(m, table, piece.index).decode(level) {
                Entry::Empty => true,
                Entry::Leaf { .. } => false,
                Entry::Table { table, .. } => empty(m, table, level + 1, piece.start, piece.end),
            })
        }
        empty(m, self.regime.root, ROOT_LEVEL, range.start().number(), range.end())
    }

    /// The first frame of the range that is mapped. In a guest's address
    /// space, which has no empty tables, this reads at most the root and two
    /// tables of each other level.
    pub(crate) fn first_mapped(&self, m: &impl Machine, range: GfnRange) -> Option<Gfn> {
        fn first(m: &impl Machine, table: Pfn, level: u8, start: u64, end: u64) -> Option<u64> {
            pieces(level, start, end).find_map(|piece| {
                match read(m, table, piece.index).decode(level) {
                    Entry::Empty => None,
                    Entry::Leaf { .. } => Some(piece.start),
                    Entry::Table { table, .. } => {
                        first(m, table, level + 1, piece.start, piece.end)
                    }
                }
            })
        }
        let (start, end) = numbers(range);
        Gfn::new(first(m, self.regime.root, ROOT_LEVEL, start, end)?)
    }

    /// How many pages from the start of the range on are mapped, without a
    /// hole. Reads a word for each.
    pub(crate) fn mapped_pages(&self, m: &impl Machine, range: GfnRange) -> u64 {
        let mut table = None;
        let mapped = range.iter().take_while(|gfn| {
            let index = slot_index(PAGE_LEVEL, *gfn);
            if table.is_none() || index == 0 {
                table = self.table_at(m, PAGE_LEVEL, *gfn);
            }
            let entry = table.map(|table| read(m, table, index).decode(PAGE_LEVEL));
            matches!(entry, Some(Entry::Leaf { .. }))
        });
        mapped.count() as u64
    }

    /// Visits the range as runs of consecutive physical frames, in order,
    /// until `visit` refuses. One walk per level-3 table, not per page.
    ///
    /// # Errors
    /// [`Error::NotFound`] if a frame of the range is not mapped;
    /// what `visit` returns.
    pub(crate) fn for_each_run(
        &self,
        m: &impl Machine,
        range: GfnRange,
        mut visit: impl FnMut(PfnRange) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut run: Option<PfnRange> = None;
        let mut table = None;
        for gfn in range.iter() {
            let index = slot_index(PAGE_LEVEL, gfn);
            if table.is_none() || index == 0 {
                table = self.table_at(m, PAGE_LEVEL, gfn);
            }
            let leaf = table.map(|table| read(m, table, index).decode(PAGE_LEVEL));
            let Some(Entry::Leaf { first, .. }) = leaf else {
                return Err(Error::NotFound);
            };
            match run {
                Some(so_far) if so_far.end() == first.number() => {
                    run = Some(PfnRange::new(so_far.start().number(), so_far.count() + 1)?);
                }
                Some(done) => {
                    visit(done)?;
                    run = Some(PfnRange::one(first));
                }
                None => run = Some(PfnRange::one(first)),
            }
        }
        run.map_or(Ok(()), visit)
    }

    /// Visits the pages of a range as runs of consecutive frames with the same
    /// attributes, and of holes: where the first leads, and how many there are.
    /// A run ends where a table does. One comparison for each page. Only for
    /// page-level address spaces.
    pub(crate) fn for_each_leaf_run(
        &self,
        m: &impl Machine,
        range: GfnRange,
        mut visit: impl FnMut(Option<Leaf>, u64),
    ) {
        let (start, end) = numbers(range);
        for piece in pieces(PAGE_LEVEL - 1, start, end) {
            let pages = piece.end - piece.start;
            let table = Gfn::new(piece.start).and_then(|gfn| self.table_at(m, PAGE_LEVEL, gfn));
            let Some(table) = table else {
                visit(None, pages);
                continue;
            };
            let entries = page_entries(piece.start, piece.end);
            let (mut first, end) = (entries.start, entries.end);
            let (mut leaf, mut next, mut step) = (None, Descriptor::EMPTY.0, 0);
            read_run(m, table, entries, |index, entry| {
                if entry.0 != next {
                    if index > first {
                        visit(leaf, (index - first) as u64);
                    }
                    first = index;
                    (leaf, step) = match entry.decode(PAGE_LEVEL) {
                        Entry::Leaf { first, attributes } => {
                            (Some(Leaf { pfn: first, attributes }), FRAME_SIZE)
                        }
                        _ => (None, 0),
                    };
                }
                next = entry.0.wrapping_add(step);
            });
            visit(leaf, (end - first) as u64);
        }
    }

    /// Visits every mapped page of the range; used where holes are normal.
    /// Only for page-level address spaces (a guest's).
    pub(crate) fn for_each_page(
        &self,
        m: &impl Machine,
        range: GfnRange,
        mut visit: impl FnMut(Pfn),
    ) {
        fn pages(
            m: &impl Machine,
            (table, level): (Pfn, u8),
            (start, end): (u64, u64),
            visit: &mut impl FnMut(Pfn),
        ) {
            if level == PAGE_LEVEL {
                return read_run(m, table, page_entries(start, end), |_, entry| {
                    if let Entry::Leaf { first, .. } = entry.decode(level) {
                        visit(first);
                    }
                });
            }
            for piece in pieces(level, start, end) {
                if let Entry::Table { table, .. } = read(m, table, piece.index).decode(level) {
                    pages(m, (table, level + 1), (piece.start, piece.end), visit);
                }
            }
        }
        let numbers = (range.start().number(), range.end());
        pages(m, (self.regime.root, ROOT_LEVEL), numbers, &mut visit);
    }
}
