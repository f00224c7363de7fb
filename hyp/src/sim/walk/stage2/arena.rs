//! A machine that is nothing but page tables: 64 frames in one array.
//!
//! Booting it costs nothing, because a frame is wiped when a pool first takes
//! it. Words are atomics only because a [`Machine`] is shared by its CPUs; the
//! watcher is asked about a store only if a walker can reach the table.

use super::watch::Watch;
use crate::addr::{FRAME_SIZE, GfnRange, Pfn, PfnRange};
use crate::error::Error;
use crate::machine::{CpuId, El1Register, IdRegister, Machine, PowerAction, Regime};
use crate::trap::Trap;
use crate::vcpu::state::VcpuState;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::boxed::Box;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Words in a frame.
pub(super) const WORDS: usize = FRAME_SIZE as usize / 8;
/// Words that a loop over a frame takes at once.
const STRIDE: usize = 16;
/// How many frames there are; one bit of a word each.
pub(super) const FRAMES: u64 = 64;
/// The first: a multiple of [`FRAMES`].
const FIRST: u64 = 0x100;

/// All frames of the machine.
pub(super) fn frames() -> PfnRange {
    PfnRange::new(FIRST, FRAMES).unwrap()
}

/// Position of a frame among all; beyond them if it is none of them.
pub(super) fn slot(frame: Pfn) -> u64 {
    frame.number() ^ FIRST
}

/// The contents of all frames.
pub(super) struct Words(Box<[AtomicU64]>);

impl Words {
    fn get(&self, frame: Pfn, index: usize) -> &AtomicU64 {
        // One comparison refuses a wrong frame and a wrong index alike: this
        // is the hottest line of all.
        let beyond = (index / WORDS) << 40;
        let place = ((slot(frame) as usize) << 9) | (index % WORDS) | beyond;
        match self.0.get(place) {
            Some(word) => word,
            None => panic!("EL2 uses word {index} of {frame:x?}, which is no table of its own"),
        }
    }

    pub(super) fn word(&self, frame: Pfn, index: usize) -> u64 {
        self.get(frame, index).load(Relaxed)
    }

    fn frame(&self, frame: Pfn) -> &[AtomicU64; WORDS] {
        let (frames, _) = self.0.as_chunks();
        frames.get(slot(frame) as usize).expect("a table is one of our frames")
    }

    /// Every word of a frame.
    pub(super) fn table(&self, frame: Pfn) -> impl Iterator<Item = u64> + Clone {
        self.frame(frame).iter().map(|word| word.load(Relaxed))
    }

    /// Every word of a frame through `of` (index, word), all added up by OR.
    /// In strides: a loop costs a fuzzer an event per turn.
    pub(super) fn any(&self, frame: Pfn, of: impl Fn(usize, u64) -> u64) -> u64 {
        let (strides, _) = self.frame(frame).as_chunks::<STRIDE>();
        let mut any = 0;
        for (index, stride) in strides.iter().enumerate() {
            for (offset, word) in stride.iter().enumerate() {
                any |= of((index * STRIDE + offset) % WORDS, word.load(Relaxed));
            }
        }
        any
    }

    /// Visits the words of which `bits` are all set.
    pub(super) fn for_each_with(&self, frame: Pfn, bits: u64, mut visit: impl FnMut(usize, u64)) {
        let (strides, _) = self.frame(frame).as_chunks::<STRIDE>();
        // Without a comparison: 1 for a word that has them all.
        let has = |word: &AtomicU64| (!word.load(Relaxed) & bits).wrapping_sub(1) >> 63;
        for (index, stride) in strides.iter().enumerate() {
            let mut any = 0;
            for word in stride {
                any |= has(word);
            }
            if any != 0 {
                let found = stride.iter().zip(index * STRIDE..).filter(|(word, _)| has(word) == 1);
                found.for_each(|(word, index)| visit(index, word.load(Relaxed)));
            }
        }
    }

    /// How many words are valid descriptors.
    pub(super) fn valid(&self, frame: Pfn) -> u64 {
        let (strides, _) = self.frame(frame).as_chunks::<STRIDE>();
        let valid = |stride: &[AtomicU64; STRIDE]| -> u64 {
            stride.iter().map(|word| word.load(Relaxed) & 1).sum()
        };
        strides.iter().map(valid).sum()
    }

    fn wipe(&self, frame: Pfn) {
        let (strides, _) = self.frame(frame).as_chunks::<STRIDE>();
        for stride in strides {
            stride.iter().for_each(|word| word.store(0, Relaxed));
        }
    }

    /// Is the frame wiped?
    pub(super) fn is_zero(&self, frame: Pfn) -> bool {
        self.any(frame, |_, word| word) == 0
    }
}

/// The machine.
pub(super) struct Arena {
    pub(super) words: Words,
    watch: Mutex<Watch>,
    /// What [`Watch::reachable`] says, readable without the lock.
    reachable: AtomicU64,
}

impl Arena {
    pub(super) fn new() -> Self {
        let words = (0..FRAMES as usize * WORDS).map(|_| AtomicU64::new(0)).collect();
        Self { words: Words(words), watch: Mutex::default(), reachable: AtomicU64::new(0) }
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

    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watching<R>(&self, act: impl FnOnce(&mut Watch, &Words) -> R) -> R {
        let mut watch = self.watch();
        let result = act(&mut watch, &self.words);
        self.reachable.store(watch.reachable(), Relaxed);
        result
    }

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
    fn read_word(&self, frame: Pfn, index: usize) -> u64 {
        self.words.word(frame, index)
    }

    fn write_word(&self, frame: Pfn, index: usize, value: u64) {
        let word = self.words.get(frame, index);
        if !self.is_reachable(frame) {
            return word.store(value, Relaxed);
        }
        let old = word.swap(value, Relaxed);
        self.watching(|watch, words| watch.written(words, (frame, index), (old, value)));
    }

    fn zero_frame(&self, frame: Pfn) {
        assert!(!self.is_reachable(frame), "{frame:x?} is wiped while it is a live table");
        self.words.wipe(frame);
    }

    fn publish(&self) {
        self.watch().publish();
    }

    fn invalidate(&self, regime: Regime, range: GfnRange) {
        let numbers = (range.start().number(), range.end());
        self.watching(|watch, words| watch.invalidate(words, regime.vmid.0, numbers));
    }

    fn invalidate_all(&self, regime: Regime) {
        self.watching(|watch, words| watch.invalidate(words, regime.vmid.0, (0, u64::MAX)));
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
    fn power(&self, _action: PowerAction) {
        not_stage2s()
    }
}
