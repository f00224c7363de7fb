//! What EL2's own piece of memory is divided into.

use crate::{mmu, smmu};
use core::mem::size_of;
use hyp::addr::{FRAME_SIZE, PfnRange};
use hyp::memory::{FrameEntry, frames_needed, tables_needed};
use platform::ByteRange;

/// VM objects live here.
const HEAP_SIZE: u64 = 0x10_0000;
/// Stack of one CPU, below it one page that is never mapped.
const STACK_SIZE: u64 = 0x1_0000;
/// Stack for exceptions in EL2, next to it.
const PANIC_STACK_SIZE: u64 = FRAME_SIZE;
const GUARD: u64 = FRAME_SIZE;
/// One CPU's share: guard, stack, guard, panic stack.
const STACKS_PER_CPU: u64 = GUARD + STACK_SIZE + GUARD + PANIC_STACK_SIZE;
/// Tables of EL2's stage 1 for frames that the host donates: one per 2 MiB
/// that has such a frame in it.
const TABLES_FOR_DONATIONS: u64 = 64;

/// Sizes that depend on the machine.
pub(crate) struct Sizes {
    frame_table: u64,
    host_tables: u64,
    dma_tables: u64,
    smmu: u64,
    own_tables: u64,
    stacks: u64,
}

const fn pages(bytes: u64) -> u64 {
    bytes.next_multiple_of(FRAME_SIZE)
}

impl Sizes {
    /// Sizes for this memory, these host devices and `cpus` CPUs, with an SMMU
    /// or without.
    pub(crate) fn new(
        ram: &[PfnRange],
        host_mmio: &[PfnRange],
        cpus: usize,
        with_smmu: bool,
    ) -> Self {
        let if_smmu = |bytes| if with_smmu { bytes } else { 0 };
        let mut sizes = Self {
            frame_table: pages(frames_needed(ram) * size_of::<FrameEntry>() as u64),
            host_tables: tables_needed(ram, host_mmio) * FRAME_SIZE,
            dma_tables: if_smmu(tables_needed(ram, &[]) * FRAME_SIZE),
            smmu: if_smmu(smmu::MEMORY),
            own_tables: 0,
            stacks: cpus as u64 * STACKS_PER_CPU,
        };
        // The tables must map everything, themselves included; they are few
        // compared with a block, so one round is enough.
        let all = ByteRange::between(0, sizes.total());
        let image = crate::entry::image();
        let devices = ByteRange::between(0, cpus as u64 * 0x2_0000);
        let needed = mmu::tables_for(&[all, image, devices, devices]);
        let registers = if_smmu(mmu::tables_for(&[ByteRange::between(0, 0x2_0000)]));
        sizes.own_tables = (needed + registers + TABLES_FOR_DONATIONS) * FRAME_SIZE;
        sizes
    }

    /// Bytes in all.
    pub(crate) fn total(&self) -> u64 {
        let tables = self.host_tables + self.dma_tables + self.own_tables;
        HEAP_SIZE + self.frame_table + tables + self.smmu + self.stacks
    }
}

/// Where each part lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// The allocator's.
    pub(crate) heap: ByteRange,
    /// One entry per frame of RAM.
    pub(crate) frame_table: ByteRange,
    /// Pool for the host's stage 2.
    pub(crate) host_tables: ByteRange,
    /// The tables that the host's devices translate by; empty without an SMMU.
    pub(crate) dma_tables: ByteRange,
    /// Stream table and queues of the SMMU; empty without one.
    pub(crate) smmu: ByteRange,
    /// Pool for EL2's stage 1.
    pub(crate) own_tables: ByteRange,
    stacks: ByteRange,
}

impl Layout {
    /// Divides `memory`, [`Sizes::total`] bytes on a page boundary.
    pub(crate) fn new(memory: ByteRange, sizes: &Sizes) -> Self {
        let mut next = memory.start();
        let mut take = |size: u64| {
            let start = next;
            next += size;
            ByteRange::between(start, next)
        };
        Self {
            heap: take(HEAP_SIZE),
            frame_table: take(sizes.frame_table),
            host_tables: take(sizes.host_tables),
            dma_tables: take(sizes.dma_tables),
            smmu: take(sizes.smmu),
            own_tables: take(sizes.own_tables),
            stacks: take(sizes.stacks),
        }
    }

    /// Heap, frame table and pools: one run, mapped as data.
    pub(crate) fn data(&self) -> ByteRange {
        ByteRange::between(self.heap.start(), self.own_tables.end())
    }

    /// Stack and panic stack of CPU `index`; the pages between are guards.
    pub(crate) fn stacks(&self, index: usize) -> [ByteRange; 2] {
        let stack = self.stacks.start() + index as u64 * STACKS_PER_CPU + GUARD;
        let panic_stack = stack + STACK_SIZE + GUARD;
        [
            ByteRange::between(stack, stack + STACK_SIZE),
            ByteRange::between(panic_stack, panic_stack + PANIC_STACK_SIZE),
        ]
    }
}
