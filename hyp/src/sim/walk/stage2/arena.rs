//! A machine that is nothing but page tables: 64 frames in one array.
//!
//! Booting it costs nothing, because a frame is wiped when a pool first takes
//! it, and only where it was written. The watcher is asked about a store only
//! if a walker can reach the table.

use super::watch::Watch;
pub(super) use super::words::{FRAMES, WORDS, Words, frames, slot};
use crate::addr::{GfnRange, Pfn, PfnRange};
use crate::error::Error;
use crate::machine::{CpuId, DmaFault, El1Register, IdRegister, Machine, PowerAction, Regime};
use crate::trap::Trap;
use crate::vcpu::debug::DebugState;
use crate::vcpu::state::VcpuState;
use core::cell::RefCell;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

std::thread_local! {
    /// The watcher of the thread's arena, of which there is one at a time: it
    /// is asked a hundred times per input, and a lock would be a tenth of it.
    static WATCH: RefCell<Watch> = RefCell::default();
}

/// The machine, for one thread.
pub(super) struct Arena {
    pub(super) words: Words,
    /// What [`Watch::reachable`] says, readable without asking it.
    reachable: AtomicU64,
}

impl Arena {
    pub(super) fn new() -> Self {
        Self { words: Words::new(), reachable: AtomicU64::new(0) }
    }

    /// Forgets everything but contents, which no pool trusts anyway.
    pub(super) fn reset(&self) {
        self.watching(|watch, _| watch.reset());
    }

    /// Starts watching an address space.
    pub(super) fn attach(&self, regime: Regime) {
        self.watching(|watch, words| watch.attach(words, regime));
    }

    /// The end of a call: nothing may be under way any more.
    pub(super) fn settle(&self) {
        self.watching(Watch::settle);
    }

    /// Number of tables that walkers of the VMID can reach.
    pub(super) fn tables_of(&self, vmid: u8) -> u64 {
        self.watching(|watch, _| watch.tables_of(vmid))
    }

    fn watching<R>(&self, act: impl FnOnce(&mut Watch, &Words) -> R) -> R {
        WATCH.with_borrow_mut(|watch| {
            let result = act(watch, &self.words);
            self.reachable.store(watch.reachable(), Relaxed);
            result
        })
    }

    /// A store to a table that walkers can reach.
    #[inline(never)]
    fn write_live(&self, (frame, index): (Pfn, usize), value: u64) {
        let word = self.words.get(frame, index);
        let old = word.load(Relaxed);
        word.store(value, Relaxed);
        self.watching(|watch, words| watch.written(words, (frame, index), (old, value)));
    }

    /// The same for several, side by side.
    #[inline(never)]
    fn write_live_run(&self, frame: Pfn, indices: Range<usize>, values: (u64, u64)) {
        self.watching(|watch, words| watch.write_run(words, (frame, indices), values));
    }

    #[inline]
    fn is_reachable(&self, frame: Pfn) -> bool {
        self.reachable.load(Relaxed) >> (slot(frame) % FRAMES) & 1 == 1
    }
}

/// Stage 2 has no business there.
#[track_caller]
fn not_stage2s() -> ! {
    panic!("the tables need no more of a machine than memory and TLBs")
}

impl Machine for Arena {
    #[inline]
    fn read_word(&self, frame: Pfn, index: usize) -> u64 {
        self.words.word(frame, index)
    }

    fn read_words(&self, frame: Pfn, indices: Range<usize>, mut visit: impl FnMut(usize, u64)) {
        let words = self.words.run(frame, indices.clone());
        words.iter().zip(indices).for_each(|(word, index)| visit(index, word.load(Relaxed)));
    }

    fn next_word(&self, frame: Pfn, from: usize) -> Option<(usize, u64)> {
        self.words.next(frame, from)
    }

    #[inline]
    fn write_word(&self, frame: Pfn, index: usize, value: u64) {
        let word = self.words.get(frame, index);
        self.words.mark(frame, index);
        if self.is_reachable(frame) {
            return self.write_live((frame, index), value);
        }
        word.store(value, Relaxed);
    }

    fn write_words(&self, frame: Pfn, indices: Range<usize>, value: u64, step: u64) {
        let run = self.words.run(frame, indices.clone());
        self.words.mark_run(frame, indices.clone());
        if self.is_reachable(frame) {
            return self.write_live_run(frame, indices, (value, step));
        }
        let mut next = value;
        for word in run {
            word.store(next, Relaxed);
            next = next.wrapping_add(step);
        }
    }

    fn fill_words(&self, frame: Pfn, first: u64, step: u64) {
        assert!(!self.is_reachable(frame), "{frame:x?} is filled while it is a live table");
        self.words.fill(frame, first, step);
    }

    fn zero_frame(&self, frame: Pfn) {
        assert!(!self.is_reachable(frame), "{frame:x?} is wiped while it is a live table");
        self.words.wipe(frame);
    }

    fn forces_write_back(&self) -> bool {
        false
    }

    fn clean_frames(&self, _frames: PfnRange) {}

    fn publish(&self) {
        self.watching(|watch, _| watch.publish());
    }

    fn invalidate(&self, regime: Regime, range: GfnRange) {
        let numbers = (range.start().number(), range.end());
        self.watching(|watch, words| watch.invalidate(words, regime.vmid.0, numbers));
    }

    fn invalidate_all(&self, regime: Regime) {
        self.watching(|watch, words| watch.invalidate(words, regime.vmid.0, (0, u64::MAX)));
    }

    fn invalidate_dma(&self, _frames: PfnRange) {
        not_stage2s()
    }
    fn sync_dma(&self) {
        not_stage2s()
    }
    fn next_dma_fault(&self) -> Option<DmaFault> {
        None
    }
    fn cpu(&self) -> CpuId {
        0
    }
    fn reserve_hyp(&self, _range: PfnRange) -> Result<(), Error> {
        not_stage2s()
    }
    fn map_hyp(&self, _frame: Pfn) {
        not_stage2s()
    }
    fn unmap_hyp(&self, _frame: Pfn) {
        not_stage2s()
    }
    fn read_frame(&self, _frame: Pfn, _visit: &mut dyn FnMut(&[u8])) {
        not_stage2s()
    }
    fn read_guest_words(&self, _: Pfn, _: Range<usize>, _: impl FnMut(usize, u64) -> bool) {
        not_stage2s()
    }

    fn non_zero_bytes(&self, _frames: PfnRange) -> u64 {
        0
    }

    fn write_frame(&self, _frame: Pfn, _word: &dyn Fn(usize) -> u64) {
        not_stage2s()
    }
    fn make_executable(&self, _frames: PfnRange) {
        not_stage2s()
    }
    fn load_vcpu(&self, _vcpu: &mut VcpuState, _regime: Regime) {
        not_stage2s()
    }
    fn run_vcpu(&self, _vcpu: &mut VcpuState) -> Trap {
        not_stage2s()
    }
    fn unload_vcpu(&self, _vcpu: &mut VcpuState) {
        not_stage2s()
    }
    fn read_el1(&self, _register: El1Register) -> u64 {
        not_stage2s()
    }
    fn write_el1(&self, _register: El1Register, _value: u64) {
        not_stage2s()
    }
    fn timer_line(&self) -> bool {
        not_stage2s()
    }
    fn timer_deadline(&self) -> Option<u64> {
        not_stage2s()
    }
    fn debug_changed(&self, _debug: &DebugState) {
        not_stage2s()
    }
    fn set_alarm(&self, _at: Option<u64>) {
        not_stage2s()
    }
    fn counter(&self) -> u64 {
        not_stage2s()
    }
    fn id_register(&self, _register: IdRegister) -> u64 {
        not_stage2s()
    }
    fn list_registers(&self) -> usize {
        not_stage2s()
    }
    fn device_read(&self, _address: u64, _size: u8) -> u64 {
        not_stage2s()
    }
    fn device_write(&self, _address: u64, _size: u8, _value: u64) {
        not_stage2s()
    }
    fn firmware_call(&self, _arguments: [u64; 4]) -> u64 {
        not_stage2s()
    }
    fn start_cpu(&self, _cpu: CpuId, _entry: u64, _context: u64) -> i64 {
        not_stage2s()
    }
    fn cpu_by_mpidr(&self, _mpidr: u64) -> Option<CpuId> {
        not_stage2s()
    }
    fn stop_cpu(&self) -> i64 {
        not_stage2s()
    }
    fn wipe_vcpu(&self, _vcpu: &mut VcpuState) {
        not_stage2s()
    }
    fn wait_for_others(&self, _done: &dyn Fn() -> bool) {
        not_stage2s()
    }
    fn power(&self, _action: PowerAction) {
        not_stage2s()
    }
}
