//! What the host's devices see of memory: a table for the IOMMU.
//!
//! It is a stage-2 table like the host's own, and a separate one: an identity
//! map of 4 KiB pages with exactly the frames that the host *owns*. All its
//! tables are made at boot, so there is one word per frame for ever. A word is
//! written or cleared, and never split, allocated or merged: to follow the
//! frame table cannot fail, needs no break-before-make, and loses no access of
//! a device to the neighbours. The price is 2 MiB per GiB of RAM.
//!
//! What the host only borrows is not in it: a guest's page that is shared, or
//! in a window, is the host's CPUs' to see and not its devices'. So the calls
//! that guests make most often do not touch it. Nor are devices in it: no
//! doorbell, no register of another device.

use super::HostMemory;
use crate::addr::{FRAME_SHIFT, FRAME_SIZE, Pfn, PfnRange};
use crate::error::Error;
use crate::machine::Machine;
use crate::stage2::{Attributes, TablePool};
use core::ops::Range;

const ENTRIES: u64 = 512;
/// Valid, and a table (levels 1 and 2) or a page (level 3; Arm ARM D8.3, which
/// SMMUv3 3.4 uses).
const TABLE_OR_PAGE: u64 = 0b11;

/// The table, if there is an IOMMU to read it.
#[derive(Clone, Copy, Debug)]
pub(super) struct DmaTable {
    root: Pfn,
}

/// A page that devices may read and write. SMMUs have no use for forced
/// write-back here: the encoding is the one without.
fn page(number: u64) -> u64 {
    number << FRAME_SHIFT | Attributes::MEMORY.bits() | TABLE_OR_PAGE
}

/// The table that a word leads to.
fn next(word: u64) -> Option<Pfn> {
    if word == 0 { None } else { Pfn::containing(word & !(FRAME_SIZE - 1)) }
}

impl DmaTable {
    /// Tables for all RAM, with nothing in them, out of `frames` that EL2 has.
    ///
    /// # Errors
    /// [`Error::NoMemory`] if they are fewer than [`super::tables_needed`] says
    /// for this RAM and no device.
    pub(super) fn new(m: &impl Machine, frames: PfnRange, ram: &[PfnRange]) -> Result<Self, Error> {
        let mut pool = TablePool::fresh(frames);
        let root = pool.pop(m).ok_or(Error::NoMemory)?;
        for bank in ram {
            let mut number = bank.start().number() & !(ENTRIES - 1);
            while number < bank.end() {
                let mut table = root;
                for shift in [18, 9] {
                    let index = (number >> shift & (ENTRIES - 1)) as usize;
                    table = match next(m.read_word(table, index)) {
                        Some(below) => below,
                        None => {
                            let below = pool.pop(m).ok_or(Error::NoMemory)?;
                            m.write_word(table, index, below.base() | TABLE_OR_PAGE);
                            below
                        }
                    };
                }
                number += ENTRIES;
            }
        }
        Ok(Self { root })
    }

    /// The last-level table that has this frame's word.
    fn leaf_table(self, m: &impl Machine, number: u64) -> Option<Pfn> {
        let index = |shift: u32| (number >> shift & (ENTRIES - 1)) as usize;
        next(m.read_word(next(m.read_word(self.root, index(18)))?, index(9)))
    }

    /// Visits the words of a range: a table, which of its words, and the number
    /// of the frame that the first of them is for.
    fn for_each_run(
        self,
        m: &impl Machine,
        pfns: PfnRange,
        mut visit: impl FnMut(Pfn, Range<usize>, u64),
    ) {
        let mut number = pfns.start().number();
        while number < pfns.end() {
            let end = pfns.end().min((number | (ENTRIES - 1)) + 1);
            if let Some(table) = self.leaf_table(m, number) {
                let first = (number & (ENTRIES - 1)) as usize;
                visit(table, first..first + (end - number) as usize, number);
            }
            number = end;
        }
    }

    /// Commit: devices may use these frames, which they could not before.
    /// Publishing is left to the caller; nothing is to be invalidated, because
    /// what is not there is not remembered (SMMUv3 3.17).
    // Out of the way of machines without an IOMMU.
    #[cold]
    #[inline(never)]
    pub(super) fn allow(self, m: &impl Machine, pfns: PfnRange) {
        self.for_each_run(m, pfns, |table, indices, number| {
            m.write_words(table, indices, page(number), FRAME_SIZE);
        });
    }

    /// Commit: devices have lost these frames. When this returns no access to
    /// them is under way or can begin.
    #[cold]
    #[inline(never)]
    pub(super) fn forbid(self, m: &impl Machine, pfns: PfnRange) {
        self.for_each_run(m, pfns, |table, indices, _| m.write_words(table, indices, 0, 0));
        m.invalidate_dma(pfns);
        m.sync_dma();
    }
}

impl HostMemory<'_> {
    /// The root of the table that the host's devices translate by: level 1, 39
    /// bits of address, 4 KiB pages. `None` if they do not translate, because
    /// there is no IOMMU; then the host has no device that does DMA.
    pub fn dma_root(&self) -> Option<Pfn> {
        self.dma.map(|table| table.root)
    }

    /// Is the frame the host's devices' to use?
    pub fn is_for_dma(&self, m: &impl Machine, pfn: Pfn) -> bool {
        let table = self.dma.and_then(|dma| dma.leaf_table(m, pfn.number()));
        let index = (pfn.number() & (ENTRIES - 1)) as usize;
        table.is_some_and(|table| m.read_word(table, index) != 0)
    }
}
