//! `hyp`'s machine, implemented by the CPU: each method is one call into the
//! module that knows how.
#![allow(unsafe_code)]

use crate::mmu::{self, Stage1};
use crate::world::timer;
use crate::{
    cpu, features, firmware, fixmap, gic, heap, host, panic, percpu, sha256, smmu::Smmu, stop, sysreg, tlb, trace,
    world,
};
use core::ops::Range;
use core::sync::atomic::Ordering;
use hyp::addr::{FRAME_SIZE, GfnRange, Pfn, PfnRange};
use hyp::error::Error;
use hyp::machine::{
    Cause, CpuId, DmaFault, El1Register, IdRegister, Machine, PowerAction, Regime, Work,
};
use hyp::trace::Event;
use hyp::trap::Trap;
use hyp::vcpu::debug::DebugState;
use hyp::vcpu::state::{VcpuState, VirtualCpuInterface};
use spin::Once;

/// Aff3..Aff0 of an MPIDR.
pub(crate) const AFFINITY: u64 = 0xff_00ff_ffff;

/// The machine bouncer runs on.
pub(crate) struct Cpus {
    stage1: Stage1,
    count: usize,
    forces_write_back: bool,
    smmu: Once<Smmu>,
}

impl Cpus {
    /// A machine with CPUs 0 to `count` - 1, described by `percpu`, and EL2's
    /// address space, which is in use.
    pub(crate) fn new(stage1: Stage1, count: usize) -> Self {
        let forces_write_back = features::has_forced_write_back();
        Self { stage1, count, forces_write_back, smmu: Once::new() }
    }

    /// The SMMU is in force, and what devices lose it is to be told of.
    pub(crate) fn set_smmu(&self, smmu: Smmu) {
        self.smmu.call_once(|| smmu);
    }

    /// The SMMU, which whoever has a table for it has, too.
    fn smmu(&self) -> &Smmu {
        self.smmu.get().unwrap_or_else(|| panic::broken("a table for an SMMU that is not there"))
    }

    /// EL2's address space.
    pub(crate) fn stage1(&self) -> &Stage1 {
        &self.stage1
    }
}

/// Writes a word of a table.
#[inline(always)]
fn store(frame: Pfn, index: usize, value: u64) {
    mmu::word(frame.base(), index).store(value, Ordering::Relaxed);
    trace::record(Event::Store { table: frame, index: index as u16 & 511, value });
}

impl Machine for Cpus {
    #[inline(always)]
    fn cpu(&self) -> CpuId {
        percpu::this().index.get()
    }

    fn reserve_hyp(&self, range: PfnRange) -> Result<(), Error> {
        self.stage1.reserve(range)
    }

    fn map_hyp(&self, frame: Pfn) {
        trace::record(Event::MapHyp(frame));
        self.stage1.map(frame);
    }

    fn unmap_hyp(&self, frame: Pfn) {
        trace::record(Event::UnmapHyp(frame));
        self.stage1.unmap(frame);
    }

    #[inline(always)]
    fn read_word(&self, frame: Pfn, index: usize) -> u64 {
        mmu::word(frame.base(), index).load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn write_word(&self, frame: Pfn, index: usize, value: u64) {
        store(frame, index, value);
        percpu::this().table_words.add(1);
    }

    #[inline]
    fn write_words(&self, frame: Pfn, indices: Range<usize>, value: u64, step: u64) {
        percpu::this().table_words.add(indices.len() as u64);
        let mut value = value;
        for index in indices {
            store(frame, index, value);
            value = value.wrapping_add(step);
        }
    }

    fn fill_words(&self, frame: Pfn, first: u64, step: u64) {
        self.write_words(frame, 0..(FRAME_SIZE / 8) as usize, first, step);
    }

    fn zero_frame(&self, frame: Pfn) {
        trace::record(Event::Wipe(PfnRange::one(frame)));
        fixmap::zero(&self.stage1, PfnRange::one(frame));
    }

    fn read_frame(&self, frame: Pfn, visit: &mut dyn FnMut(&[u8])) {
        trace::record(Event::Read(frame));
        fixmap::read(&self.stage1, frame, visit);
    }

    fn zero_frames(&self, frames: PfnRange) {
        trace::record(Event::Wipe(frames));
        fixmap::zero(&self.stage1, frames);
    }

    fn sha256(&self, state: &mut [u32; 8], blocks: &[[u8; 64]]) {
        sha256::add_blocks(state, blocks);
    }

    fn write_frame(&self, frame: Pfn, word: &dyn Fn(usize) -> u64) {
        trace::record(Event::Write(frame));
        fixmap::write(&self.stage1, frame, word);
    }

    #[inline(always)]
    fn read_guest_words(
        &self,
        frame: Pfn,
        indices: Range<usize>,
        visit: impl FnMut(usize, u64) -> bool,
    ) {
        fixmap::read_words(&self.stage1, frame, indices, visit);
    }

    fn non_zero_bytes(&self, frames: PfnRange) -> u64 {
        fixmap::non_zero_bytes(&self.stage1, frames)
    }

    fn make_executable(&self, frames: PfnRange) {
        trace::record(Event::MakeExecutable(frames));
        fixmap::make_executable(&self.stage1, frames);
    }

    #[inline(always)]
    fn forces_write_back(&self) -> bool {
        self.forces_write_back
    }

    fn clean_frames(&self, frames: PfnRange) {
        fixmap::clean(&self.stage1, frames);
    }

    fn publish(&self) {
        sysreg::dsb_ishst();
        sysreg::isb();
        trace::record(Event::Publish);
    }

    fn invalidate(&self, regime: Regime, range: GfnRange) {
        tlb::invalidate(regime, range);
        percpu::this().invalidations.add(1);
        trace::record(Event::Invalidate(regime, range));
    }

    fn invalidate_all(&self, regime: Regime) {
        tlb::invalidate_all(regime);
        percpu::this().invalidations.add(1);
        trace::record(Event::InvalidateAll(regime));
    }

    fn invalidate_dma(&self, frames: PfnRange) {
        self.smmu().invalidate(frames);
    }

    fn sync_dma(&self) {
        self.smmu().sync();
    }

    fn next_dma_fault(&self) -> Option<DmaFault> {
        self.smmu.get()?.next_fault()
    }

    fn quiet(&self, cause: Cause) {
        trace::quiet(cause);
    }

    fn load_vcpu(&self, vcpu: &mut VcpuState, regime: Regime) {
        trace::record(Event::Attach(regime));
        world::load(vcpu, regime);
    }

    fn run_vcpu(&self, vcpu: &mut VcpuState) -> Trap {
        world::run(&mut vcpu.frame)
    }

    fn load_interrupts(&self, gic: &VirtualCpuInterface) {
        world::load_interrupts(gic);
    }

    fn save_interrupts(&self, gic: &mut VirtualCpuInterface) {
        world::save_interrupts(gic);
    }

    fn unload_vcpu(&self, vcpu: &mut VcpuState) {
        world::unload(vcpu);
    }

    fn wipe_vcpu(&self, vcpu: &mut VcpuState) {
        *vcpu = VcpuState::default();
        host::clean(&raw const *vcpu as u64, size_of::<VcpuState>());
    }

    fn wait_for_others(&self, done: &dyn Fn() -> bool) {
        stop::wait_for_guests(done);
    }

    fn read_el1(&self, register: El1Register) -> u64 {
        match register {
            El1Register::Vbar => sysreg::vbar_el1::read(),
            El1Register::Elr => sysreg::elr_el1::read(),
            El1Register::Spsr => sysreg::spsr_el1::read(),
            El1Register::Esr => sysreg::esr_el1::read(),
            El1Register::Far => sysreg::far_el1::read(),
            El1Register::Sctlr => sysreg::sctlr_el1::read(),
        }
    }

    fn write_el1(&self, register: El1Register, value: u64) {
        // SAFETY: registers of the current world; EL2 does not execute by
        // them.
        unsafe {
            match register {
                El1Register::Vbar => sysreg::vbar_el1::write(value),
                El1Register::Elr => sysreg::elr_el1::write(value),
                El1Register::Spsr => sysreg::spsr_el1::write(value),
                El1Register::Esr => sysreg::esr_el1::write(value),
                El1Register::Far => sysreg::far_el1::write(value),
                El1Register::Sctlr => sysreg::sctlr_el1::write(value),
            }
        }
    }

    fn timer_line(&self) -> bool {
        timer::line()
    }

    fn timer_deadline(&self) -> Option<u64> {
        timer::deadline()
    }

    fn debug_changed(&self, debug: &DebugState) {
        world::debug::changed(debug);
    }

    fn set_alarm(&self, at: Option<u64>) {
        timer::set_alarm(at);
    }

    fn counter(&self) -> u64 {
        // The counter may be read ahead of time without it.
        sysreg::isb();
        sysreg::cntpct_el0::read()
    }

    fn id_register(&self, register: IdRegister) -> u64 {
        match (register.crm, register.op2) {
            (0, 0) => sysreg::midr_el1::read(),
            (crm, op2) => sysreg::read_identification(crm, op2),
        }
    }

    fn list_registers(&self) -> usize {
        world::list_registers()
    }

    fn device_read(&self, address: u64, size: u8) -> u64 {
        // SAFETY: the policy asks only for aligned registers of the
        // redistributor frames it was told of, all mapped as device memory.
        unsafe { gic::read(address, size) }
    }

    fn device_write(&self, address: u64, size: u8, value: u64) {
        // SAFETY: as above; which values are harmless is the policy's filter.
        unsafe { gic::write(address, size, value) }
    }

    fn firmware_call(&self, arguments: [u64; 4]) -> u64 {
        firmware::call(arguments)
    }

    fn work(&self) -> Work {
        let mut work = Work::default();
        for cpu in (0..self.count).filter_map(percpu::of) {
            work.invalidations += cpu.invalidations.get();
            work.table_words += cpu.table_words.get();
        }
        #[cfg(feature = "profile")]
        crate::profile::add_to(&mut work);
        work
    }

    fn heap_used(&self) -> u64 {
        heap::used()
    }

    fn start_cpu(&self, cpu: CpuId, entry: u64, context: u64) -> i64 {
        cpu::start(cpu, entry, context)
    }

    fn cpu_by_mpidr(&self, mpidr: u64) -> Option<CpuId> {
        (0..self.count).find(|&cpu| percpu::of(cpu).is_some_and(|it| it.mpidr.get() == mpidr))
    }

    fn stop_cpu(&self) -> i64 {
        percpu::this().is_on.store(false, Ordering::Release);
        let refused = firmware::cpu_off();
        percpu::this().is_on.store(true, Ordering::Release);
        refused
    }

    fn power(&self, action: PowerAction) {
        #[cfg(feature = "profile")]
        crate::profile::report();
        crate::console::tell_unread();
        stop::finish(match action {
            PowerAction::Off => firmware::SYSTEM_OFF,
            PowerAction::Reset => firmware::SYSTEM_RESET,
        })
    }
}
