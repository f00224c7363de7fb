//! The first state of memory: all RAM is the host's, but for what bouncer
//! occupies and what firmware keeps, and the host's stage 2 is complete before
//! the host runs.

use super::dma::DmaTable;
use super::frame::{FrameEntry, FrameTable};
use super::{HostMemory, WINDOWS};
use crate::addr::{Pfn, PfnRange};
use crate::error::Error;
use crate::machine::Machine;
use crate::stage2::{Attributes, Leaves, Mapping, Stage2, TablePool, span};

/// The memory map at boot. The ranges of one kind do not overlap each other,
/// RAM and devices do not overlap, and are below [`WINDOWS`]; a range may begin
/// and end anywhere else.
#[derive(Clone, Copy, Debug)]
pub struct BootMemory<'a> {
    /// Banks of RAM.
    pub ram: &'a [PfnRange],
    /// What of it is bouncer's for ever: image, heap, pool, frame table.
    pub hyp: &'a [PfnRange],
    /// What of it firmware keeps for ever: nobody's.
    pub firmware: &'a [PfnRange],
    /// Device frames the host may access directly: an allow-list.
    pub host_mmio: &'a [PfnRange],
    /// Frames for the host's page tables, inside `hyp`; see [`tables_needed`].
    pub pool: PfnRange,
    /// Frames for the table that the host's devices translate by, inside `hyp`
    /// and not in `pool`: [`tables_needed`] for this RAM and no device. `None`
    /// if nothing translates for them.
    pub dma_tables: Option<PfnRange>,
}

/// Length of the frame table for these banks, in entries: one per frame from
/// the first bank's first to the last bank's last, holes included.
pub fn frames_needed(ram: &[PfnRange]) -> u64 {
    let first = ram.iter().map(|bank| bank.start().number()).min().unwrap_or(0);
    let end = ram.iter().map(|bank| bank.end()).max().unwrap_or(0);
    end - first
}

/// Most tables the host's stage 2 can ever need: every 2 MiB of RAM split
/// into pages, and the edges of every device range. With a pool of this size
/// no transition is ever refused for want of a host table.
pub fn tables_needed(ram: &[PfnRange], host_mmio: &[PfnRange]) -> u64 {
    fn touched(range: &PfnRange, level: u8) -> u64 {
        (range.end() - 1) / span(level) - range.start().number() / span(level) + 1
    }
    let whole = |range: &PfnRange| touched(range, 1) + touched(range, 2);
    // Device blocks are never split: only two edges per level have tables.
    let edges = |range: &PfnRange| touched(range, 1).min(2) + touched(range, 2).min(2);
    1 + ram.iter().map(whole).sum::<u64>() + host_mmio.iter().map(edges).sum::<u64>()
}

impl BootMemory<'_> {
    fn check(&self) -> Result<(), Error> {
        let disjoint = |ranges: &[PfnRange]| {
            ranges.iter().enumerate().all(|(index, range)| {
                ranges.iter().skip(index + 1).all(|other| !range.overlaps(*other))
            })
        };
        let inside = |range: &PfnRange, outer: &[PfnRange]| {
            outer.iter().any(|o| range.start() >= o.start() && range.end() <= o.end())
        };
        let good = disjoint(self.ram)
            && disjoint(self.hyp)
            && disjoint(self.host_mmio)
            && disjoint(self.firmware)
            && self.hyp.iter().chain(self.firmware).all(|range| inside(range, self.ram))
            && !self.firmware.iter().any(|range| self.hyp.iter().any(|hyp| hyp.overlaps(*range)))
            && inside(&self.pool, self.hyp)
            && self.dma_tables.is_none_or(|dma| inside(&dma, self.hyp) && !dma.overlaps(self.pool))
            && self.ram.iter().chain(self.host_mmio).all(|range| range.end() <= WINDOWS.number())
            && self.host_mmio.iter().all(|device| !self.ram.iter().any(|r| r.overlaps(*device)));
        if good { Ok(()) } else { Err(Error::InvalidParameter) }
    }
}

/// What is left of `whole` without `holes`, as the largest runs, in order.
fn runs_between<'h, H: Iterator<Item = &'h PfnRange>>(
    whole: PfnRange,
    holes: impl Fn() -> H,
) -> impl Iterator<Item = PfnRange> {
    let mut next = whole.start().number();
    core::iter::from_fn(move || {
        loop {
            let start = Pfn::new(next)?;
            if let Some(hole) = holes().find(|hole| hole.contains(start)) {
                next = hole.end();
                continue;
            }
            let hole = holes().map(|hole| hole.start().number()).filter(|h| *h > next).min();
            let end = hole.unwrap_or(u64::MAX).min(whole.end());
            let run = PfnRange::new(next, end.checked_sub(next)?).ok()?;
            next = end;
            return Some(run);
        }
    })
}

impl<'t> HostMemory<'t> {
    /// Builds the frame table in `frames` (at least [`frames_needed`] long,
    /// whatever it contains) and the host's stage 2, with the largest blocks.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] if the memory map contradicts itself or
    /// the frame table is too short; [`Error::NoMemory`] if the pool is too
    /// small to map the host's memory.
    pub fn new(
        m: &impl Machine,
        frames: &'t mut [FrameEntry],
        boot: &BootMemory<'_>,
    ) -> Result<Self, Error> {
        boot.check()?;
        let needed = usize::try_from(frames_needed(boot.ram)).map_err(|_| Error::NoMemory)?;
        let frames = frames.get_mut(..needed).ok_or(Error::InvalidParameter)?;
        let first = boot.ram.iter().map(|bank| bank.start().number()).min().unwrap_or(0);
        let mut pool = TablePool::fresh(boot.pool);
        let stage2 = Stage2::for_host(m, &mut pool).ok_or(Error::NoMemory)?;
        let dma = boot.dma_tables.map(|tables| DmaTable::new(m, tables, boot.ram)).transpose()?;
        let mut memory = Self { frames: FrameTable::new(frames, first), stage2, pool, dma };
        for gap in runs_between(PfnRange::new(first, needed as u64)?, || boot.ram.iter()) {
            memory.frames.assign(gap, FrameEntry::NO_RAM);
        }
        for hyp in boot.hyp {
            memory.frames.assign(*hyp, FrameEntry::HYP);
        }
        for range in boot.firmware {
            memory.frames.assign(*range, FrameEntry::FIRMWARE);
        }
        let taken = || boot.hyp.iter().chain(boot.firmware);
        for bank in boot.ram {
            for run in runs_between(*bank, taken) {
                memory.frames.assign(run, FrameEntry::HOST);
                memory.map_at_boot(m, run, Attributes::MEMORY)?;
            }
        }
        for bank in boot.ram {
            let Some(dma) = dma else { break };
            runs_between(*bank, taken).for_each(|run| dma.allow(m, run));
        }
        for device in boot.host_mmio {
            memory.map_at_boot(m, *device, Attributes::DEVICE)?;
        }
        m.publish();
        Ok(memory)
    }

    fn map_at_boot(
        &mut self,
        m: &impl Machine,
        pfns: PfnRange,
        attributes: Attributes,
    ) -> Result<(), Error> {
        let mapping = Mapping {
            gfns: pfns.identity(),
            first: pfns.start(),
            attributes,
            leaves: Leaves::Blocks,
        };
        if self.stage2.tables_to_map(m, &mapping) > self.pool.len() {
            return Err(Error::NoMemory);
        }
        self.stage2.map(m, &mut self.pool, &mapping);
        Ok(())
    }
}
