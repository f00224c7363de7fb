//! What the policy needs from a machine, and nothing more.
//!
//! `el2-boot` implements [`Machine`] for the CPU it runs on; the tests
//! implement it as a simulated machine that also watches (`sim`). The policy
//! is the same source on both.
//!
//! Methods take `&self`: a machine is one value shared by all CPUs, and what
//! must be exclusive (a page table, a vCPU) is exclusive in the *policy*, by
//! lock and by type.

use crate::addr::{FRAME_SIZE, GfnRange, Pfn, PfnRange};
use crate::error::Error;
use crate::trap::{Trap, TrapKind};
use crate::vcpu::debug::DebugState;
use crate::vcpu::state::{VcpuState, VirtualCpuInterface};
use core::ops::Range;

/// Number of a physical CPU, dense from 0 (the boot CPU).
pub type CpuId = usize;

/// Most physical CPUs bouncer drives.
pub const MAX_CPUS: usize = 8;

/// Identifies an address space in the TLBs. Zero is never used; the host has
/// [`Vmid::HOST`], guests those above.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vmid(pub u8);

impl Vmid {
    /// The host's.
    pub const HOST: Vmid = Vmid(1);
}

/// A stage-2 translation regime: what VTTBR_EL2 holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Regime {
    /// Tag of its TLB entries.
    pub vmid: Vmid,
    /// Level-1 table (39-bit input addresses, 4 KiB granule).
    pub root: Pfn,
}

/// An EL1 register that exception entry reads or writes. While a host or a
/// guest is current on a CPU these live in the hardware.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // Arm ARM D24 names.
pub enum El1Register {
    Vbar,
    Elr,
    Spsr,
    Esr,
    Far,
    Sctlr,
}

/// A read-only identification register, by its A-profile encoding
/// (op0 = 3, op1 = 0, CRn = 0): `crm` and `op2` name it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct IdRegister {
    /// CRm, 1 to 7.
    pub crm: u8,
    /// op2, 0 to 7.
    pub op2: u8,
}

/// How the machine stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PowerAction {
    /// PSCI SYSTEM_OFF.
    Off,
    /// PSCI SYSTEM_RESET.
    Reset,
}

/// Why EL2 ran: a trap of a world's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cause {
    /// The world.
    pub vmid: Vmid,
    /// ESR_EL2; 0 if it was no synchronous exception.
    pub esr: u64,
    /// Its x0 then: the function, if it was a call.
    pub x0: u64,
}

impl Cause {
    /// A trap of the world `vmid`, whose x0 was this.
    pub(crate) fn of(vmid: Vmid, trap: &Trap, x0: u64) -> Self {
        let esr = if trap.kind == TrapKind::Sync { trap.esr } else { 0 };
        Self { vmid, esr, x0 }
    }
}

/// What EL2 has done since boot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Work {
    /// Calls of [`Machine::invalidate`] and [`Machine::invalidate_all`].
    pub invalidations: u64,
    /// Words written by [`Machine::write_word`], [`Machine::write_words`] and
    /// [`Machine::fill_words`].
    pub table_words: u64,
    /// Times that a world trapped; 0 unless EL2 is built to measure itself
    /// (feature `profile` of the boot program), as all that follows.
    pub entries: u64,
    /// Ticks of the counter in EL2.
    pub ticks_el2: u64,
    /// In the host.
    pub ticks_host: u64,
    /// In guests.
    pub ticks_guests: u64,
}

/// An access that the IOMMU has refused a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DmaFault {
    /// Which device: its StreamID. Behind PCI it is bus, device and function.
    pub stream: u32,
    /// Number of the SMMU's event (SMMUv3 7.3).
    pub event: u8,
    /// Was it a write?
    pub write: bool,
    /// The address it gave.
    pub address: u64,
}

/// A machine: memory, TLBs, a world switch and a little platform.
pub trait Machine: Sync {
    /// The CPU that executes this.
    fn cpu(&self) -> CpuId;

    // ---- memory: frames that EL2 owns as page tables -------------------

    /// Makes sure that [`Self::map_hyp`] of every frame of `range` cannot
    /// fail. May be called again for the same range.
    ///
    /// # Errors
    /// [`Error::NoMemory`] if EL2's own tables are exhausted.
    fn reserve_hyp(&self, range: PfnRange) -> Result<(), Error>;

    /// Maps a frame that has become EL2's, read-write and never executable,
    /// so that table words in it can be read and written.
    fn map_hyp(&self, frame: Pfn);

    /// Removes the mapping again, its TLB entries on all CPUs included.
    fn unmap_hyp(&self, frame: Pfn);

    /// Reads the 64-bit word `index` (0 to 511) of a frame EL2 owns.
    fn read_word(&self, frame: Pfn, index: usize) -> u64;

    /// Hands the words `indices` (within 0 to 512) to `visit`, in order. A
    /// machine may know a quicker way.
    fn read_words(&self, frame: Pfn, indices: Range<usize>, mut visit: impl FnMut(usize, u64)) {
        indices.for_each(|index| visit(index, self.read_word(frame, index)));
    }

    /// The first of a frame's words from `from` on that is not zero, and its
    /// index. A machine may know a quicker way.
    fn next_word(&self, frame: Pfn, from: usize) -> Option<(usize, u64)> {
        let words = (FRAME_SIZE / 8) as usize;
        let mut words = (from..words).map(|index| (index, self.read_word(frame, index)));
        words.find(|(_, word)| *word != 0)
    }

    /// Writes it, as one single-copy atomic store. Ordering against a
    /// table walker is the business of [`Self::publish`] and
    /// [`Self::invalidate`].
    fn write_word(&self, frame: Pfn, index: usize, value: u64);

    /// Writes the words `indices` (within 0 to 512), each as
    /// [`Self::write_word`] does, in order: the first becomes `value`, each
    /// further one `step` more. A machine may know a quicker way.
    fn write_words(&self, frame: Pfn, indices: Range<usize>, value: u64, step: u64) {
        let mut value = value;
        for index in indices {
            self.write_word(frame, index, value);
            value = value.wrapping_add(step);
        }
    }

    /// Writes every word of a frame that no walker reaches yet: word `index`
    /// becomes `first + index * step`. A machine may know a quicker way.
    fn fill_words(&self, frame: Pfn, first: u64, step: u64) {
        let words = (FRAME_SIZE / 8) as usize;
        (0..words).for_each(|index| self.write_word(frame, index, first + index as u64 * step));
    }

    // ---- memory: frames of anybody --------------------------------------

    /// Zeroes a frame and cleans it to the point of coherency. On return no
    /// observer, cacheable or not, sees its former contents.
    fn zero_frame(&self, frame: Pfn);

    /// [`Self::zero_frame`] of every frame of `frames`.
    fn zero_frames(&self, frames: PfnRange) {
        frames.iter().for_each(|frame| self.zero_frame(frame));
    }

    /// Hands the contents of a frame to `visit`, in order, in pieces of any
    /// size. The frame must not be writable by anybody else meanwhile, and
    /// [`Self::make_executable`] must have been called for it, or EL2 and a
    /// guest with its caches off may read different things.
    fn read_frame(&self, frame: Pfn, visit: &mut dyn FnMut(&[u8]));

    /// Reads the 64-bit words `indices` (within 0 to 512) of a frame that a
    /// guest may be writing at the same time, each **once** and as one
    /// single-copy atomic load, in order, until `visit` returns false. What it
    /// was given is all that may be decided on. `visit` looks at no other frame
    /// of anybody's. The frame must be one guest's alone.
    fn read_guest_words(
        &self,
        frame: Pfn,
        indices: Range<usize>,
        visit: impl FnMut(usize, u64) -> bool,
    );

    /// Writes a whole frame: word `index` becomes `word(index)`, as 64 bits
    /// in the order of the machine, and is cleaned to the point of coherency.
    /// Only for a frame that one guest owns, for itself alone, in answer to a
    /// call of that guest's.
    fn write_frame(&self, frame: Pfn, word: &dyn Fn(usize) -> u64);

    /// How many bytes of `frames` are not zero, for a cacheable reader. Nobody
    /// else may be able to write there. Asked by the oracle only.
    fn non_zero_bytes(&self, frames: PfnRange) -> u64;

    /// Cleans and invalidates data caches to the point of coherency, and
    /// invalidates instruction caches, over frames whose contents somebody
    /// else wrote and a guest will execute. Afterwards cacheable and
    /// non-cacheable readers see the same.
    fn make_executable(&self, frames: PfnRange);

    /// Adds blocks to a SHA-256 state (FIPS 180-4, 6.2.2), by whatever is
    /// fastest here.
    fn sha256(&self, state: &mut [u32; 8], blocks: &[[u8; 64]]) {
        crate::measurement::sha256_in_software(state, blocks);
    }

    /// Is RAM Normal, write-back cacheable for every world, whatever its stage
    /// 1 says? It is where HCR_EL2.FWB is set (FEAT_S2FWB, Arm ARM D8.6), and
    /// the same on all CPUs from boot on. Then nobody's view of a frame can
    /// differ from anybody else's.
    fn forces_write_back(&self) -> bool;

    /// Cleans and invalidates data caches to the point of coherency over
    /// frames of anybody. Afterwards cacheable and non-cacheable readers see
    /// the same, and no line is left that could be written back later.
    fn clean_frames(&self, frames: PfnRange);

    // ---- TLBs -----------------------------------------------------------

    /// Makes table words written before visible to every walker
    /// (DSB ISHST, ISB): needed after invalid → valid.
    fn publish(&self);

    /// Makes table words written before visible and removes from every TLB
    /// of the inner shareable domain all entries, stage 2 and combined
    /// stage 1+2, that `range` of this regime could have produced; waits for
    /// completion.
    fn invalidate(&self, regime: Regime, range: GfnRange);

    /// The same for everything of the regime's VMID.
    fn invalidate_all(&self, regime: Regime);

    /// No change of memory or tables is under way on any CPU: host memory is
    /// locked, and every call that has changed something is done with it, the
    /// last for this cause. Told with the feature `trace` only; a machine that
    /// keeps one notes it.
    fn quiet(&self, _cause: Cause) {}

    // ---- DMA ------------------------------------------------------------

    /// Makes words of the table that devices translate by visible to the IOMMU,
    /// and begins to remove from its TLBs what `frames` could have produced, at
    /// their own addresses. Called only where there is an IOMMU.
    fn invalidate_dma(&self, frames: PfnRange);

    /// Waits until all that [`Self::invalidate_dma`] has begun is complete, and
    /// with it every access that had been translated before. Does not return if
    /// that does not come to an end.
    fn sync_dma(&self);

    /// The oldest access that the IOMMU has refused a device, of those that
    /// were not told yet; `None` where nothing is refused, or nobody can tell.
    fn next_dma_fault(&self) -> Option<DmaFault>;

    // ---- world switch -----------------------------------------------------

    /// Makes the guest current on this CPU: saves what the host has in EL1,
    /// FP, timer and debug registers, loads the vCPU's and its traps.
    fn load_vcpu(&self, vcpu: &mut VcpuState, regime: Regime);

    /// Writes the list registers and their control (ICH_LR, ICH_HCR) of the
    /// loaded vCPU as the policy has filled them. A machine whose hardware is
    /// `gic` itself has nothing to do.
    fn load_interrupts(&self, _gic: &VirtualCpuInterface) {}

    /// The inverse: what the guest has made of them, and of its priorities.
    fn save_interrupts(&self, _gic: &mut VirtualCpuInterface) {}

    /// Runs the loaded vCPU until the next trap to EL2. General registers, PC
    /// and PSTATE are in `vcpu` afterwards.
    fn run_vcpu(&self, vcpu: &mut VcpuState) -> Trap;

    /// Puts the debug registers of the loaded guest in force, which it has
    /// just changed (`vcpu::debug_switch`).
    fn debug_changed(&self, debug: &DebugState);

    /// The inverse of [`Self::load_vcpu`]: the guest's state is in `vcpu`,
    /// the host's is back in the hardware.
    fn unload_vcpu(&self, vcpu: &mut VcpuState);

    /// Forgets the registers of a vCPU that is not loaded: all of `vcpu` is
    /// zero, and the zeros are cleaned to the point of coherency. A reset may
    /// drop what is only in a cache, and memory would hold the registers again.
    fn wipe_vcpu(&self, vcpu: &mut VcpuState);

    /// Reads an EL1 register of the world that is current on this CPU.
    fn read_el1(&self, register: El1Register) -> u64;

    /// Writes one.
    fn write_el1(&self, register: El1Register, value: u64);

    /// Level of the loaded guest's virtual timer output:
    /// ENABLE ∧ ¬IMASK ∧ ISTATUS of CNTV_CTL_EL0.
    fn timer_line(&self) -> bool;

    /// When the loaded guest's virtual timer will fire, as a value of
    /// CNTPCT_EL0; `None` if it is off or masked.
    fn timer_deadline(&self) -> Option<u64>;

    /// From now on until it is set again or the guest is unloaded, an
    /// interrupt of EL2's own stops the loaded guest as soon as CNTPCT_EL0 is
    /// `at`, or later; `None` asks for none.
    fn set_alarm(&self, at: Option<u64>);

    // ---- identity and time ------------------------------------------------

    /// Current value of CNTPCT_EL0.
    fn counter(&self) -> u64;

    /// The CPU's own value of an identification register.
    fn id_register(&self, register: IdRegister) -> u64;

    /// List registers the CPU interface implements (ICH_VTR_EL2), 1 to 16.
    fn list_registers(&self) -> usize;

    // ---- platform -----------------------------------------------------------

    /// What EL2 has done since boot, on all CPUs. A machine need not count.
    fn work(&self) -> Work {
        Work::default()
    }

    /// Bytes of EL2's heap that are in use; 0 on a machine that shares its
    /// heap with others.
    fn heap_used(&self) -> u64 {
        0
    }

    /// Reads a physical device register that the policy filters for the host
    /// (the redistributors). `size` is 1, 2, 4 or 8.
    fn device_read(&self, address: u64, size: u8) -> u64;

    /// Writes one.
    fn device_write(&self, address: u64, size: u8, value: u64);

    /// Calls the firmware (PSCI over SMC) with function id and arguments.
    fn firmware_call(&self, arguments: [u64; 4]) -> u64;

    /// Starts the physical CPU `cpu` at bouncer's own entry; it will come up
    /// behind stage 2 and enter the host at `entry` with x0 = `context`.
    /// Returns the firmware's PSCI code.
    fn start_cpu(&self, cpu: CpuId, entry: u64, context: u64) -> i64;

    /// The physical CPU with this MPIDR affinity (Aff3..Aff0 as PSCI passes
    /// it), if there is one.
    fn cpu_by_mpidr(&self, mpidr: u64) -> Option<CpuId>;

    /// Stops the calling CPU for good (PSCI CPU_OFF). Returns only on a
    /// simulated machine, or with the firmware's code if it refuses.
    fn stop_cpu(&self) -> i64;

    /// Waits until `done` holds, which other CPUs bring about, and sees to it
    /// that none of them sleeps in a guest meanwhile (WFE does not trap). Gives
    /// up after a time that is long for them and short for a person.
    fn wait_for_others(&self, done: &dyn Fn() -> bool);

    /// Stops or resets the machine. Before that no world runs any more on any
    /// CPU, and nothing is left that EL2 knew of a guest: neither in its memory
    /// (heap, stacks, what CPUs keep of their own) nor in a register. Returns
    /// only on a simulated machine.
    fn power(&self, action: PowerAction);
}
