//! What each CPU has of its own.
//!
//! TPIDR_EL2 points at the CPU's entry. Apart from the start-up hand-over
//! (atomics) an entry is touched by its own CPU only, with interrupts masked,
//! so `Cell` is enough.
#![allow(unsafe_code)]

use crate::sysreg;
use core::cell::{Cell, UnsafeCell};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use hyp::machine::MAX_CPUS;
use hyp::vcpu::debug_switch::HostDebug;
use hyp::vcpu::state::{Controls, El1State, FpState};

/// What a CPU reads with its MMU still off: constant once written and cleaned
/// to memory. `entry.S` knows the layout.
#[repr(C, align(64))]
pub(crate) struct Start {
    /// EL2's translation table.
    pub(crate) root: Cell<u64>,
    /// Top of the CPU's stack.
    pub(crate) stack: Cell<u64>,
    /// Address of its [`PerCpu`].
    pub(crate) per_cpu: Cell<u64>,
}

/// The host on this CPU: what it runs with, and its registers while a guest
/// is on the CPU.
pub(crate) struct HostState {
    pub(crate) controls: Controls,
    pub(crate) vttbr_el2: u64,
    pub(crate) el1: El1State,
    pub(crate) fp: FpState,
    pub(crate) debug: HostDebug,
    pub(crate) icc_sre_el1: u64,
    pub(crate) pmcr_el0: u64,
}

impl HostState {
    // SAFETY: integers and Booleans only, for which all zeros is a value.
    const ZERO: Self = unsafe { core::mem::MaybeUninit::zeroed().assume_init() };
}

/// VMIDs in use: the host's and one per VM.
const VMIDS: usize = hyp::abi::MAX_VMS + 2;

/// A count that one CPU makes and any may read: no exclusive access is needed.
pub(crate) struct Tally(AtomicU64);

impl Tally {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// On the CPU that it belongs to.
    #[inline(always)]
    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(more), Relaxed);
    }

    /// On any.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One CPU's own data.
#[repr(C)]
pub(crate) struct PerCpu {
    /// Top of the stack for exceptions in EL2. First: `vectors.S` loads it.
    pub(crate) panic_stack: Cell<u64>,
    /// The CPU's number.
    pub(crate) index: Cell<usize>,
    /// Its affinity.
    pub(crate) mpidr: Cell<u64>,
    /// Its redistributor's RD frame.
    pub(crate) redistributor: Cell<u64>,
    /// Hand-over to a CPU that starts.
    pub(crate) start: Start,
    /// Where the host wants it to enter, and its x0 there.
    pub(crate) host_entry: AtomicU64,
    pub(crate) host_context: AtomicU64,
    /// The host's registers while a guest runs here.
    host: UnsafeCell<HostState>,
    /// It runs the host, or what the host runs on it.
    pub(crate) is_on: AtomicBool,
    /// A guest is loaded.
    pub(crate) has_guest: AtomicBool,
    /// It has forgotten everything and touches no memory any more (`stop`).
    pub(crate) parked: AtomicBool,
    /// VMPIDR of the vCPU of each VMID that ran here last; 0 for none.
    pub(crate) last_vcpu: [Cell<u64>; VMIDS],
    /// PPIs this CPU has made active for the loaded guest's list registers.
    pub(crate) active_ppis: Cell<u32>,
    /// PPIs enabled for the loaded guest that the host had disabled.
    pub(crate) lent_ppis: Cell<u32>,
    /// When the host's virtual timer would interrupt it while a guest is
    /// loaded, if it would.
    pub(crate) host_alarm: Cell<Option<u64>>,
    /// TLB invalidations that it has made, and words of tables written.
    pub(crate) invalidations: Tally,
    pub(crate) table_words: Tally,
    /// Whose time it was.
    #[cfg(feature = "profile")]
    pub(crate) ticks: crate::profile::Ticks,
}

impl PerCpu {
    const fn new() -> Self {
        Self {
            panic_stack: Cell::new(0),
            index: Cell::new(0),
            mpidr: Cell::new(0),
            redistributor: Cell::new(0),
            start: Start { root: Cell::new(0), stack: Cell::new(0), per_cpu: Cell::new(0) },
            host_entry: AtomicU64::new(0),
            host_context: AtomicU64::new(0),
            host: UnsafeCell::new(HostState::ZERO),
            is_on: AtomicBool::new(false),
            has_guest: AtomicBool::new(false),
            parked: AtomicBool::new(false),
            last_vcpu: [const { Cell::new(0) }; VMIDS],
            active_ppis: Cell::new(0),
            lent_ppis: Cell::new(0),
            host_alarm: Cell::new(None),
            invalidations: Tally::new(),
            table_words: Tally::new(),
            #[cfg(feature = "profile")]
            ticks: crate::profile::Ticks::new(),
        }
    }

    /// The host's registers.
    ///
    /// # Safety
    /// On the CPU this belongs to, and only one reference at a time.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn host(&self) -> &mut HostState {
        // SAFETY: the caller's promise; the cell is never reached otherwise.
        unsafe { &mut *self.host.get() }
    }
}

struct PerCpus([PerCpu; MAX_CPUS]);

// SAFETY: plain fields are written by the boot CPU before the CPU they belong
// to starts and by that CPU alone afterwards; the rest is atomic.
unsafe impl Sync for PerCpus {}

static PER_CPUS: PerCpus = PerCpus([const { PerCpu::new() }; MAX_CPUS]);

/// The entry of CPU `index`, if it exists.
pub(crate) fn of(index: usize) -> Option<&'static PerCpu> {
    PER_CPUS.0.get(index)
}

/// The calling CPU's entry.
#[inline(always)]
pub(crate) fn this() -> &'static PerCpu {
    // SAFETY: `become_cpu` and entry.S point TPIDR_EL2 at an element of
    // PER_CPUS before any code that calls this runs, and nothing changes it.
    unsafe { &*(sysreg::tpidr_el2::read() as *const PerCpu) }
}

/// Makes `per_cpu` the calling CPU's own.
pub(crate) fn become_cpu(per_cpu: &'static PerCpu) {
    // SAFETY: a static entry; TPIDR_EL2 is EL2's scratch register.
    unsafe { sysreg::tpidr_el2::write(&raw const *per_cpu as u64) }
}
