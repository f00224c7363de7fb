//! A simulated machine that watches.
//!
//! [`SimMachine`] implements [`Machine`] on a PC: sparse memory, one TLB that
//! remembers whatever the architecture allows it to, a world switch that
//! plays a script. The policy above it is the very source that runs at EL2.
//!
//! While it simulates it watches, and writes down every broken rule:
//!
//! - a table word read or written in a frame EL2 has not mapped;
//! - a live descriptor replaced by another valid one without a break, or made
//!   valid while a TLB may still hold what was there before;
//! - a table reused, wiped or unmapped while a walker may still reach it;
//! - a frame written by EL2 that is not one guest's alone;
//! - a frame that a guest can reach at two addresses at once, by a table or by
//!   a TLB that remembers;
//! - a frame that EL2 has written to given to a world without a clean;
//!   stores of worlds, in and past the caches, are made by whoever tests
//!   (`caches`), who can then ask whether all see the same;
//! - a guest that runs with a debug register that is not its own, or a host
//!   whose own do not survive one;
//! - a word of a guest's read twice in one call, or in a frame that is not one
//!   guest's alone; with [`SimMachine::set_rewriter`] the guest changes each
//!   word right after it was read;
//! - the machine stopped or reset while a vCPU is on a CPU;
//! - an IOMMU that leads a device elsewhere than to the frame it names; its TLB
//!   remembers as the CPUs' do, until it has answered a CMD_SYNC;
//! - a frame that nobody reached any more given to somebody, unwiped and
//!   unmeasured, with what others left in it;
//! - at the end of a call ([`SimMachine::settle`]): a change not published, a
//!   translation not invalidated;
//! - a frame measured while somebody can write it, or before caches and memory
//!   are made to agree; with
//!   [`SimMachine::set_hostile`] also a frame wiped too early, because then
//!   whoever can reach the frame writes to it right after the wipe.
//!
//! Only for tests, the fuzzer and the model checker (feature `sim`).

// A test that sets up nonsense should stop where it does.
#![allow(clippy::expect_used)]

mod caches;
mod debug;
mod fixture;
mod frames;
pub mod heap;
mod memory;
mod oracle;
mod random;
mod smmu;
mod tlb;
mod views;
pub mod walk;
mod world;

#[cfg(test)]
mod tests;

pub use debug::DebugRegisters;
pub use fixture::{Fixture, Layout};
pub use oracle::{check, try_check};
pub use random::Random;
pub use tlb::SimLeaf;
pub use views::{FrameView, VmView};
pub use world::{DeviceAccess, Script, World};

use crate::addr::{Gfn, GfnRange, Pfn, PfnRange};
use crate::error::Error;
use crate::machine::{
    CpuId, DmaFault, El1Register, IdRegister, Machine, PowerAction, Regime, Vmid, Work,
};
use crate::trap::Trap;
use crate::vcpu::debug::DebugState;
use crate::vcpu::state::VcpuState;
use core::sync::atomic::{AtomicBool, Ordering};
use heap::Locked;
use memory::{Memory, Settings};
use spin::Mutex;
use std::format;
use std::string::String;
use std::vec::Vec;

#[cfg(not(feature = "shuttle"))]
std::thread_local! {
    static CPU: core::cell::Cell<CpuId> = const { core::cell::Cell::new(0) };
}

#[cfg(feature = "shuttle")]
shuttle::thread_local! {
    static CPU: core::cell::Cell<CpuId> = core::cell::Cell::new(0);
}

/// The simulated machine.
#[derive(Default)]
pub struct SimMachine {
    memory: Mutex<Memory>,
    world: Mutex<World>,
    /// No lock: to ask is no moment at which CPUs interleave.
    forced_write_back: AtomicBool,
}

impl SimMachine {
    /// Its CPUs have FEAT_S2FWB. Before anything is mapped.
    pub fn force_write_back(&self) {
        self.forced_write_back.store(true, Ordering::Relaxed);
    }

    /// A machine in which EL2 has mapped `hyp` since boot. Memory anywhere
    /// reads as zero until it is written.
    pub fn new(hyp: &[PfnRange]) -> Self {
        let machine = Self::default();
        for pfn in hyp.iter().flat_map(|range| range.iter()) {
            machine.memory().map_hyp(pfn.number());
        }
        machine
    }

    fn memory(&self) -> Locked<'_, Memory> {
        // Every access to the machine is a moment at which CPUs interleave.
        #[cfg(feature = "shuttle")]
        shuttle::hint::spin_loop();
        Locked::new(self.memory.lock())
    }

    /// The scripted part: CPUs, devices, firmware.
    pub fn world(&self) -> Locked<'_, World> {
        #[cfg(feature = "shuttle")]
        shuttle::hint::spin_loop();
        Locked::new(self.world.lock())
    }

    /// From now on this thread is the CPU `cpu`.
    pub fn be_cpu(&self, cpu: CpuId) {
        CPU.with(|here| here.set(cpu));
    }

    /// Starts watching a regime, as loading it into VTTBR_EL2 does.
    pub fn attach(&self, regime: Regime) {
        self.memory().attach(regime.vmid.0, regime.root.number());
    }

    /// Whoever can reach a frame while it is wiped writes to it just after.
    pub fn set_hostile(&self, hostile: bool) {
        self.memory().settings.hostile = hostile;
    }

    /// Keeps what everything in memory and in the TLBs is now, at the end of a
    /// call, for [`Self::rewind`].
    ///
    /// # Panics
    /// If a rule was broken before.
    pub fn checkpoint(&self) {
        self.memory().checkpoint();
    }

    /// Memory and TLBs are as they were at the checkpoint, counters included;
    /// CPUs, devices and firmware are as in a new machine. Costs as much as
    /// what was changed in between.
    ///
    /// # Panics
    /// If there was no checkpoint.
    pub fn rewind(&self) {
        self.memory().rewind();
        *self.world() = World::default();
    }

    /// Whoever owns a page table that EL2 reads (another vCPU of the guest)
    /// stores `rewrite` of each word right after EL2 has read it.
    pub fn set_rewriter(&self, rewrite: Option<fn(u64) -> u64>) {
        self.memory().settings.rewrite = rewrite;
    }

    /// Every word of a guest's that EL2 has read in the last call that read any:
    /// frame, index, value.
    pub fn guest_words(&self) -> Vec<(Pfn, usize, u64)> {
        self.memory().guest_words()
    }

    /// Lets `calls` more calls of [`Machine::reserve_hyp`] succeed, then fail.
    pub fn fail_allocation_after(&self, calls: u64) {
        self.memory().settings.reserve_left = Some(calls);
    }

    /// Lets every allocation succeed again.
    pub fn allow_allocations(&self) {
        self.memory().settings.reserve_left = None;
    }

    /// Fills a frame with a tag.
    pub fn plant(&self, pfn: Pfn, tag: u64) {
        self.memory().fill(pfn.number(), tag);
    }

    /// The tag, if the whole frame holds nothing but one (zero: it is wiped).
    pub fn tag(&self, pfn: Pfn) -> Option<u64> {
        self.memory().tag(pfn.number())
    }

    /// One word of a frame, unwatched.
    pub fn peek(&self, pfn: Pfn, index: usize) -> u64 {
        self.memory().word(pfn.number(), index)
    }

    /// Writes one, unwatched: a store of the host's or of a guest's.
    pub fn poke(&self, pfn: Pfn, index: usize, value: u64) {
        self.memory().set_word(pfn.number(), index, value);
    }

    /// Has EL2 mapped the frame?
    pub fn is_hyp_mapped(&self, pfn: Pfn) -> bool {
        self.memory().is_hyp_mapped(pfn.number())
    }

    /// Every frame that an access of the address space `vmid` to `gfn` may
    /// reach now: what the tables say, and whatever a TLB may remember.
    pub fn access(&self, vmid: Vmid, gfn: Gfn) -> Vec<Pfn> {
        let reached = self.memory().access(vmid.0, gfn.number());
        reached.into_iter().filter_map(Pfn::new).collect()
    }

    /// Every leaf of an attached address space, in address order.
    pub fn leaves(&self, vmid: Vmid) -> Vec<SimLeaf> {
        self.memory().leaves(vmid.0)
    }

    /// How many stores, wipes and mappings EL2 made so far. A refused call
    /// makes none.
    pub fn effects(&self) -> u64 {
        self.memory().settings.effects
    }

    /// How often TLBs were invalidated so far.
    pub fn invalidations(&self) -> u64 {
        self.memory().settings.invalidations
    }

    /// The end of a call: takes the list of broken rules. Empty is good.
    pub fn take_violations(&self) -> Vec<String> {
        self.memory().settle()
    }

    /// In the middle of a call: takes the list of rules broken so far.
    pub fn take_violations_so_far(&self) -> Vec<String> {
        self.memory().take_broken()
    }

    /// The end of a call in a test.
    ///
    /// # Panics
    /// If a rule was broken, with the list.
    #[track_caller]
    pub fn settle(&self) {
        let broken = self.take_violations();
        assert!(broken.is_empty(), "rules broken:\n{}", broken.join("\n"));
    }
}

impl Machine for SimMachine {
    fn cpu(&self) -> CpuId {
        CPU.with(core::cell::Cell::get)
    }

    fn reserve_hyp(&self, _range: PfnRange) -> Result<(), Error> {
        self.memory().reserve()
    }

    fn map_hyp(&self, frame: Pfn) {
        self.memory().map_hyp(frame.number());
    }

    fn unmap_hyp(&self, frame: Pfn) {
        // Not in the condition: the world must be unlocked before memory is.
        let cpu = self.world().cpu_with_root(frame);
        if let Some(cpu) = cpu {
            let mut memory = self.memory();
            memory.report(format!("{frame:x?} leaves EL2 while it is the root on CPU {cpu}"));
        }
        self.memory().unmap_hyp(frame.number());
    }

    fn read_word(&self, frame: Pfn, index: usize) -> u64 {
        self.memory().read_table(frame.number(), index)
    }

    fn read_words(
        &self,
        frame: Pfn,
        indices: core::ops::Range<usize>,
        mut visit: impl FnMut(usize, u64),
    ) {
        // Memory is unlocked again before `visit` looks at it.
        let words = self.memory().table_words(frame.number());
        indices.for_each(|index| visit(index, words[index]));
    }

    fn write_word(&self, frame: Pfn, index: usize, value: u64) {
        self.memory().write_table(frame.number(), index, value);
    }

    fn work(&self) -> Work {
        let Settings { invalidations, table_words, .. } = self.memory().settings;
        Work { invalidations, table_words, ..Work::default() }
    }

    fn zero_frame(&self, frame: Pfn) {
        self.memory().zero(frame.number());
    }

    fn read_frame(&self, frame: Pfn, visit: &mut dyn FnMut(&[u8])) {
        self.world().frames_read += 1;
        let bytes = self.memory().measure(frame.number());
        // In uneven pieces: nobody may rely on their size.
        for piece in bytes.chunks(1000) {
            visit(piece);
        }
        let _machine = heap::Machine::enter();
        drop(bytes);
    }

    fn read_guest_words(
        &self,
        frame: Pfn,
        mut indices: core::ops::Range<usize>,
        mut visit: impl FnMut(usize, u64) -> bool,
    ) {
        indices.all(|index| {
            // Memory is unlocked again before `visit` looks at tables.
            let word = self.memory().read_guest_word(frame.number(), index);
            visit(index, word)
        });
    }

    fn non_zero_bytes(&self, frames: PfnRange) -> u64 {
        frames.iter().map(|frame| self.memory().non_zero_bytes(frame.number())).sum()
    }

    fn write_frame(&self, frame: Pfn, word: &dyn Fn(usize) -> u64) {
        self.memory().write_private(frame.number(), word);
    }

    fn make_executable(&self, frames: PfnRange) {
        for frame in frames.iter() {
            self.memory().make_coherent(frame.number());
        }
    }

    fn forces_write_back(&self) -> bool {
        self.forced_write_back.load(Ordering::Relaxed)
    }

    fn clean_frames(&self, frames: PfnRange) {
        for frame in frames.iter() {
            self.memory().clean(frame.number());
        }
    }

    fn publish(&self) {
        self.memory().publish();
    }

    fn invalidate(&self, regime: Regime, range: GfnRange) {
        self.memory().invalidate(regime.vmid.0, range.start().number(), range.end());
    }

    fn invalidate_all(&self, regime: Regime) {
        self.memory().invalidate(regime.vmid.0, 0, u64::MAX);
    }

    fn invalidate_dma(&self, frames: PfnRange) {
        self.memory().invalidate_dma(frames.start().number(), frames.end());
    }

    fn sync_dma(&self) {
        self.memory().sync_dma();
    }

    fn next_dma_fault(&self) -> Option<DmaFault> {
        self.world().dma_faults.pop_front()
    }

    fn load_vcpu(&self, vcpu: &mut VcpuState, regime: Regime) {
        self.attach(regime);
        self.world().load(self.cpu(), regime);
        let _machine = heap::Machine::enter();
        self.world().debug(self.cpu()).load(&vcpu.debug);
    }

    fn run_vcpu(&self, vcpu: &mut VcpuState) -> Trap {
        self.memory().end_call_of_guest();
        let _machine = heap::Machine::enter();
        let wrong = self.world().debug(self.cpu()).wrong_for(&vcpu.debug);
        if let Some(wrong) = wrong {
            self.memory().report(wrong);
        }
        // The script runs unlocked: it may look at the machine.
        let step = self.world().next_step(self.cpu());
        match step {
            Some(step) => step(vcpu),
            None => world::INTERRUPT,
        }
    }

    fn debug_changed(&self, debug: &DebugState) {
        self.world().debug(self.cpu()).follow(debug);
    }

    fn unload_vcpu(&self, _vcpu: &mut VcpuState) {
        let _machine = heap::Machine::enter();
        let wrong = self.world().debug(self.cpu()).unload();
        if let Some(wrong) = wrong {
            self.memory().report(wrong);
        }
        self.world().unload(self.cpu());
    }

    fn wipe_vcpu(&self, vcpu: &mut VcpuState) {
        *vcpu = VcpuState::default();
    }

    fn read_el1(&self, register: El1Register) -> u64 {
        *self.world().el1(self.cpu(), register)
    }

    fn write_el1(&self, register: El1Register, value: u64) {
        *self.world().el1(self.cpu(), register) = value;
    }

    fn timer_line(&self) -> bool {
        self.world().timer_line
    }

    fn timer_deadline(&self) -> Option<u64> {
        self.world().timer_deadline
    }

    fn set_alarm(&self, at: Option<u64>) {
        self.world().set_alarm(self.cpu(), at);
    }

    fn counter(&self) -> u64 {
        self.world().counter
    }

    fn id_register(&self, register: IdRegister) -> u64 {
        let changed = self.world().id_values.get(&register).copied();
        changed.unwrap_or_else(|| world::cortex_a72(register))
    }

    fn list_registers(&self) -> usize {
        4
    }

    fn device_read(&self, address: u64, size: u8) -> u64 {
        self.world().device_read(address, size)
    }

    fn device_write(&self, address: u64, size: u8, value: u64) {
        self.world().device_write(address, size, value);
    }

    fn firmware_call(&self, arguments: [u64; 4]) -> u64 {
        self.world().firmware_call(arguments)
    }

    fn start_cpu(&self, cpu: CpuId, entry: u64, context: u64) -> i64 {
        self.world().start_cpu(cpu, entry, context)
    }

    fn cpu_by_mpidr(&self, mpidr: u64) -> Option<CpuId> {
        let cpu = usize::try_from(mpidr).ok()?;
        (cpu < self.world().cpus).then_some(cpu)
    }

    fn stop_cpu(&self) -> i64 {
        let cpu = self.cpu();
        self.world().stopped.push(cpu);
        0
    }

    fn wait_for_others(&self, done: &dyn Fn() -> bool) {
        let mut patience = {
            let mut world = self.world();
            world.waits += 1;
            world.patience
        };
        while !done() && patience > 0 {
            patience -= 1;
            #[cfg(not(feature = "shuttle"))]
            std::thread::yield_now();
            #[cfg(feature = "shuttle")]
            shuttle::thread::yield_now();
        }
    }

    fn power(&self, action: PowerAction) {
        let _machine = heap::Machine::enter();
        let out = self.world().forgotten();
        if let Some(cpu) = out {
            self.memory().report(format!("{action:?} while a vCPU is on CPU {cpu}"));
        }
        self.world().power.push(action);
        // It runs unlocked: it may look at the machine.
        let meanwhile = self.world().at_power.take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
    }
}
