//! A few pages of EL2's address space per CPU for a look at anybody's frames.
//!
//! EL2 maps neither host nor guest memory. To zero, measure or clean frames a
//! CPU maps them in its own window for as long as that takes.
#![allow(unsafe_code)]

use crate::mmu::{self, Stage1};
use crate::{percpu, sysreg};
use core::arch::asm;
use core::cell::Cell;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use hyp::addr::{FRAME_SIZE, Pfn, PfnRange};
use hyp::machine::MAX_CPUS;

/// Address of CPU 0's window; the last 2 MiB of EL2's address space.
pub(crate) const BASE: u64 = (1 << hyp::addr::ADDRESS_BITS) - BLOCK;
/// What one last-level table translates: all windows are in one.
const BLOCK: u64 = 0x20_0000;
/// Frames that a window holds.
const WINDOW: u64 = 32;
/// Bytes of a cache line, and of what DC ZVA zeroes, on nearly every CPU.
const LINE: u64 = 64;
/// Windows are further apart than they are long, so that an overrun faults.
const STRIDE: u64 = 2 * WINDOW * FRAME_SIZE;
const _: () = assert!(MAX_CPUS as u64 * STRIDE <= BLOCK);

/// Frames mapped in this CPU's window; unmapped when dropped.
struct Mapped<'a> {
    stage1: &'a Stage1,
    start: u64,
    end: u64,
}

impl<'a> Mapped<'a> {
    /// Maps the first frames of `frames`, as many as the window holds.
    fn new(stage1: &'a Stage1, frames: PfnRange) -> Self {
        let start = BASE + percpu::this().index.get() as u64 * STRIDE;
        let frames = frames.truncate(WINDOW);
        let entry = frames.start().base() | mmu::NORMAL_DATA;
        for offset in by(FRAME_SIZE, 0, frames.count() * FRAME_SIZE) {
            stage1.set_fixmap(start + offset, entry + offset);
        }
        sysreg::dsb_ishst();
        sysreg::isb();
        Self { stage1, start, end: start + frames.count() * FRAME_SIZE }
    }
}

impl Mapped<'_> {
    /// Calls `act` with the address of every cache line of [`LINE`] bytes;
    /// several a turn, because it is what EL2 does most.
    #[inline(always)]
    fn for_each_line(&self, act: impl Fn(u64)) {
        const TURN: u64 = 8;
        let mut at = self.start;
        while at < self.end {
            // Nothing here can overflow, and a check would double the loop.
            for _ in 0..TURN {
                act(at);
                at = at.wrapping_add(LINE);
            }
        }
    }
}

impl Drop for Mapped<'_> {
    fn drop(&mut self) {
        // What was done to the pages is complete before they are gone.
        sysreg::dsb_sy();
        by(FRAME_SIZE, self.start, self.end).for_each(|page| self.stage1.set_fixmap(page, 0));
        sysreg::dsb_ishst();
        // Only this CPU uses the addresses, but another may have cached the
        // entries speculatively and would merge them with the next (Arm ARM
        // D8.16.1, break-before-make): invalidate everywhere.
        by(FRAME_SIZE, self.start, self.end).for_each(|page| sysreg::tlbi_vale2is(page >> 12));
        sysreg::dsb_ish();
        sysreg::isb();
    }
}

/// The addresses from `start` to `end`, `step` apart.
#[inline(always)]
fn by(step: u64, start: u64, end: u64) -> impl Iterator<Item = u64> {
    let mut next = start;
    core::iter::from_fn(move || {
        let here = next;
        next = next.wrapping_add(step);
        (here < end).then_some(here)
    })
}

/// Cuts `frames` into pieces that fit into a window, and maps one at a time.
fn by_window(stage1: &Stage1, frames: PfnRange, act: impl Fn(&Mapped<'_>)) {
    let mut rest = Some(frames);
    while let Some(frames) = rest {
        let window = frames.truncate(WINDOW);
        act(&Mapped::new(stage1, window));
        rest = PfnRange::new(window.end(), frames.end() - window.end()).ok();
    }
}

/// Zeroes `frames` and cleans them to the point of coherency.
///
/// What the host left dirty in a cache must not be written back over the zeros
/// later: the zeros replace it through the same cacheable alias, and the clean
/// pushes them to memory before anybody can map the frame.
pub(crate) fn zero(stage1: &Stage1, frames: PfnRange) {
    let line = sysreg::data_cache_line();
    by_window(stage1, frames, |mapped| match sysreg::zero_block() {
        Some(LINE) if line == LINE => mapped.for_each_line(|at| {
            // SAFETY: `at` is in what is mapped in this CPU's window; nobody
            // else has it mapped for writing (Machine::zero_frame). The clean
            // comes after the store to the same line (Arm ARM D7.5.9).
            unsafe {
                asm!("dc zva, {0}", "dc civac, {0}", in(reg) at, options(nostack, preserves_flags))
            }
        }),
        block => {
            zero_blocks(mapped, block);
            sysreg::dsb_ish();
            clean_and_invalidate(mapped);
        }
    });
}

/// Zeroes in blocks of DC ZVA, or by stores where that is not allowed.
fn zero_blocks(mapped: &Mapped<'_>, block: Option<u64>) {
    match block {
        Some(block) => by(block, mapped.start, mapped.end).for_each(|at| {
            // SAFETY: as in `zero_and_clean_lines`.
            unsafe { asm!("dc zva, {}", in(reg) at, options(nostack, preserves_flags)) }
        }),
        None => by(16, mapped.start, mapped.end).for_each(|at| {
            // SAFETY: as above.
            unsafe { asm!("stp xzr, xzr, [{}]", in(reg) at, options(nostack, preserves_flags)) }
        }),
    }
}

fn clean_and_invalidate(mapped: &Mapped<'_>) {
    let clean = |at: u64| {
        // SAFETY: the page is mapped in this CPU's window; cleaning keeps what
        // memory holds.
        unsafe { asm!("dc civac, {}", in(reg) at, options(nostack, preserves_flags)) }
    };
    match sysreg::data_cache_line() {
        LINE => mapped.for_each_line(clean),
        line => by(line, mapped.start, mapped.end).for_each(clean),
    }
}

/// Hands the contents of `frame` to `visit`.
pub(crate) fn read(stage1: &Stage1, frame: Pfn, visit: &mut dyn FnMut(&[u8])) {
    let mapped = Mapped::new(stage1, PfnRange::one(frame));
    // SAFETY: the page is mapped and nobody can write it while it is read
    // (Machine::read_frame's contract).
    visit(unsafe { core::slice::from_raw_parts(mapped.start as *const u8, FRAME_SIZE as usize) });
}

/// Hands words of a frame that somebody else may be writing to `visit`, each
/// read once, until it returns false.
#[inline(always)]
pub(crate) fn read_words(
    stage1: &Stage1,
    frame: Pfn,
    mut indices: Range<usize>,
    mut visit: impl FnMut(usize, u64) -> bool,
) {
    let mapped = Mapped::new(stage1, PfnRange::one(frame));
    indices.all(|index| {
        // An index beyond the page would be another's word: it cannot be asked.
        let at = (mapped.start as *mut u64).wrapping_add(index % (FRAME_SIZE as usize / 8));
        // SAFETY: inside the page mapped in this CPU's window, aligned, and only
        // ever accessed atomically; one load each, which the compiler may not
        // repeat (a relaxed atomic load is one access).
        visit(index, unsafe { AtomicU64::from_ptr(at) }.load(Ordering::Relaxed))
    });
}

/// Counts the bytes of `frames` that are not zero.
pub(crate) fn non_zero_bytes(stage1: &Stage1, frames: PfnRange) -> u64 {
    let found = Cell::new(0);
    by_window(stage1, frames, |mapped| {
        let size = (mapped.end - mapped.start) as usize;
        // SAFETY: the pages are mapped in this CPU's window and nobody can write
        // them while they are read (Machine::non_zero_bytes' contract).
        let bytes = unsafe { core::slice::from_raw_parts(mapped.start as *const u8, size) };
        found.set(found.get() + bytes.iter().filter(|byte| **byte != 0).count() as u64);
    });
    found.get()
}

/// Writes every word of `frame` and cleans it to the point of coherency.
pub(crate) fn write(stage1: &Stage1, frame: Pfn, word: &dyn Fn(usize) -> u64) {
    let mapped = Mapped::new(stage1, PfnRange::one(frame));
    for index in 0..FRAME_SIZE as usize / size_of::<u64>() {
        let at = (mapped.start as *mut u64).wrapping_add(index);
        // SAFETY: inside the page mapped in this CPU's window, aligned, and only
        // ever accessed atomically: another vCPU of the guest that owns it may
        // store there at the same time.
        unsafe { AtomicU64::from_ptr(at) }.store(word(index), Ordering::Relaxed);
    }
    clean_and_invalidate(&mapped);
}

/// Cleans and invalidates `frames` to the point of coherency.
pub(crate) fn clean(stage1: &Stage1, frames: PfnRange) {
    by_window(stage1, frames, clean_and_invalidate);
}

/// Makes what was written to `frames` by anybody, cached or not, visible to
/// every reader and to instruction fetch everywhere.
pub(crate) fn make_executable(stage1: &Stage1, frames: PfnRange) {
    by_window(stage1, frames, clean_and_invalidate);
    // By address would miss aliases in a virtually indexed cache.
    sysreg::ic_ialluis();
    sysreg::dsb_ish();
    sysreg::isb();
}
