//! One page of EL2's address space per CPU for a look at anybody's frame.
//!
//! EL2 maps neither host nor guest memory. To zero, measure or clean a frame a
//! CPU maps it in its own slot for as long as that takes.
#![allow(unsafe_code)]

use crate::mmu::{self, Stage1};
use crate::{percpu, sysreg};
use core::arch::asm;
use hyp::addr::{FRAME_SIZE, Pfn};

/// Address of CPU 0's slot; the last 2 MiB of EL2's address space. Slots are
/// two pages apart, so that an overrun faults.
pub(crate) const BASE: u64 = (1 << hyp::addr::ADDRESS_BITS) - 0x20_0000;
const STRIDE: u64 = 2 * FRAME_SIZE;

/// A frame mapped in this CPU's slot; unmapped when dropped.
struct Mapped<'a> {
    stage1: &'a Stage1,
    slot: u64,
}

impl<'a> Mapped<'a> {
    fn new(stage1: &'a Stage1, frame: Pfn) -> Self {
        let slot = BASE + percpu::this().index.get() as u64 * STRIDE;
        stage1.set_fixmap(slot, frame.base() | mmu::NORMAL_DATA);
        sysreg::dsb_ishst();
        sysreg::isb();
        Self { stage1, slot }
    }
}

impl Drop for Mapped<'_> {
    fn drop(&mut self) {
        self.stage1.set_fixmap(self.slot, 0);
        sysreg::dsb_ishst();
        // Only this CPU uses the address, but another may have cached the
        // entry speculatively and would merge it with the next (Arm ARM
        // D8.16.1, break-before-make): invalidate everywhere.
        sysreg::tlbi_vale2is(self.slot >> 12);
        sysreg::dsb_ish();
        sysreg::isb();
    }
}

/// Calls `step` with the address of every `line`-byte piece of the page.
#[inline(always)]
fn by_line(page: u64, line: u64, step: impl Fn(u64)) {
    let mut at = page;
    while at < page + FRAME_SIZE {
        step(at);
        at += line;
    }
}

fn clean_and_invalidate(page: u64) {
    by_line(page, sysreg::data_cache_line(), |at| {
        // SAFETY: the page is mapped in this CPU's slot; cleaning keeps what
        // memory holds.
        unsafe { asm!("dc civac, {}", in(reg) at, options(nostack, preserves_flags)) }
    });
    sysreg::dsb_sy();
}

/// Zeroes `frame` and cleans it to the point of coherency.
pub(crate) fn zero(stage1: &Stage1, frame: Pfn) {
    let mapped = Mapped::new(stage1, frame);
    // What the host left dirty in a cache must not be written back over the
    // zeros later; DC ZVA through the same cacheable alias replaces it, and
    // the clean below pushes the zeros to memory before anybody can map it.
    match sysreg::zero_block() {
        Some(block) => by_line(mapped.slot, block, |at| {
            // SAFETY: `at` is inside the page mapped in this CPU's slot, which
            // nobody else has mapped for writing (Machine::zero_frame).
            unsafe { asm!("dc zva, {}", in(reg) at, options(nostack, preserves_flags)) }
        }),
        None => by_line(mapped.slot, 16, |at| {
            // SAFETY: as above.
            unsafe { asm!("stp xzr, xzr, [{}]", in(reg) at, options(nostack, preserves_flags)) }
        }),
    }
    sysreg::dsb_ish();
    clean_and_invalidate(mapped.slot);
}

/// Hands the contents of `frame` to `visit`.
pub(crate) fn read(stage1: &Stage1, frame: Pfn, visit: &mut dyn FnMut(&[u8])) {
    let mapped = Mapped::new(stage1, frame);
    // The host may have written past the caches. After this, cached and
    // uncached observers see the same bytes: those that are visited.
    clean_and_invalidate(mapped.slot);
    // SAFETY: the page is mapped and nobody can write it while it is read
    // (Machine::read_frame's contract).
    visit(unsafe { core::slice::from_raw_parts(mapped.slot as *const u8, FRAME_SIZE as usize) });
}

/// Makes what was written to `frame` visible to instruction fetch everywhere.
pub(crate) fn make_executable(stage1: &Stage1, frame: Pfn) {
    let mapped = Mapped::new(stage1, frame);
    clean_and_invalidate(mapped.slot);
    // By address would miss aliases in a virtually indexed cache.
    sysreg::ic_ialluis();
    sysreg::dsb_ish();
    sysreg::isb();
}
