//! The machine that the sequences run on: small, so that comparing all of it
//! with the model after every event is cheap.

use crate::compared::Compared;
use crate::state::State;
use hyp::addr::{FRAME_SHIFT, PfnRange};
use hyp::machine::MAX_CPUS;
use hyp::memory::HostMemory;
use hyp::sim::{Layout, SimMachine};
use hyp::{HostPlatform, Hypervisor};
use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Physical CPUs.
pub const CPUS: usize = 3;
/// VM slots that [`crate::event::VmName::Slot`] names (bouncer has more).
pub const VM_SLOTS: usize = 3;
/// MiB of RAM: two of them are split into pages early, one holds bouncer.
pub const MIB: u64 = 4;
/// The RD_base frame of the only physical redistributor, outside the MMIO
/// that the host reaches directly.
pub const RD_BASE: u64 = 0x0a0a_0000;

/// A machine that is over, and what its memory was when it had booted.
struct Parked {
    booted: Booted,
    memory: HostMemory<'static>,
    /// The model's half of that moment, after everything was compared.
    first: Option<Box<(State, Compared)>>,
}

/// Machines that are over. bouncer keeps its frame table for ever, and a boot
/// takes as long as a short sequence: so a machine is booted when none is
/// parked, and rewound to the moment after its boot when one is.
static PARKED: Mutex<Vec<Parked>> = Mutex::new(Vec::new());

/// With a scheduler that tries interleavings a machine ends with its schedule,
/// for the locks are the scheduler's.
const PARK: bool = cfg!(not(feature = "shuttle"));

fn parked() -> MutexGuard<'static, Vec<Parked>> {
    PARKED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A booted bouncer.
pub struct Booted {
    hyp: Hypervisor<SimMachine>,
    /// What it was booted with.
    pub layout: Layout,
}

impl Booted {
    /// Boots.
    ///
    /// # Errors
    /// What bouncer finds wrong with the memory map.
    pub fn new() -> Result<Self, String> {
        let layout = Layout::new(MIB);
        let mut redistributors = [const { None }; MAX_CPUS];
        redistributors[0] = PfnRange::new(RD_BASE >> FRAME_SHIFT, 16).ok();
        let platform = HostPlatform { redistributors };
        let table = layout.frame_table();
        let hyp = Hypervisor::new(layout.machine(), table, &layout.boot(), platform)
            .map_err(|error| format!("boot: {error:?}"))?;
        hyp.machine().attach(hyp.host_regime());
        hyp.machine().attach_dma(hyp.dma_root());
        hyp.machine().set_hostile(true);
        let booted = Self { hyp, layout };
        booted.connect();
        Ok(booted)
    }

    /// What of a machine is neither memory nor TLBs.
    fn connect(&self) {
        let machine = self.hyp.machine();
        machine.world().cpus = CPUS;
        machine.be_cpu(0);
    }

    /// bouncer.
    pub fn hyp(&self) -> &Hypervisor<SimMachine> {
        &self.hyp
    }

    /// Is this frame a device's that the host may reach directly?
    pub fn is_host_device(&self, pfn: u64) -> bool {
        let inside = |range: &PfnRange| (range.start().number()..range.end()).contains(&pfn);
        self.layout.host_mmio.iter().any(inside)
    }
}

/// A machine for one sequence of events.
pub struct Borrowed {
    /// Always there, until this is dropped.
    parked: Option<Parked>,
    /// Nobody has had it before.
    pub fresh: bool,
}

impl Borrowed {
    /// A machine just after its boot, and nobody can tell whether it was just
    /// now.
    ///
    /// # Errors
    /// As [`Booted::new`].
    pub fn new() -> Result<Self, String> {
        let again = parked().pop();
        if let Some(Parked { booted: Booted { hyp, layout }, memory, first }) = again {
            hyp.machine().rewind();
            let booted = Booted { hyp: hyp.boot_again(&memory), layout };
            booted.connect();
            return Ok(Self { parked: Some(Parked { booted, memory, first }), fresh: false });
        }
        let booted = Booted::new()?;
        booted.hyp.machine().checkpoint();
        let memory = booted.hyp.copy_memory(booted.layout.frame_table());
        Ok(Self { parked: Some(Parked { booted, memory, first: None }), fresh: true })
    }

    /// The model of the machine just after its boot, and what was compared
    /// then. Only a machine that nobody has had before needs to be compared.
    ///
    /// # Errors
    /// What is wrong after boot.
    pub fn first(&mut self) -> Result<(State, Compared), String> {
        let parked = self.parked.as_mut().ok_or("the machine is over")?;
        if let Some(first) = &parked.first {
            return Ok((**first).clone());
        }
        let range = |range: &PfnRange| range.start().number()..range.end();
        let layout = &parked.booted.layout;
        let hyp: Vec<_> = layout.hyp.iter().map(range).collect();
        let ram = layout.ram.first().map(range).ok_or("no RAM")?;
        let firmware: Vec<_> = layout.firmware.iter().map(range).collect();
        let mut state = State::new(ram, &hyp, &firmware, CPUS);
        let compared = Compared::everything(&parked.booted, &mut state)?;
        Ok((**parked.first.insert(Box::new((state, compared)))).clone())
    }
}

impl Deref for Borrowed {
    type Target = Booted;

    #[allow(clippy::expect_used)]
    fn deref(&self) -> &Booted {
        &self.parked.as_ref().expect("a machine that is not over").booted
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if PARK && !std::thread::panicking() {
            parked().extend(self.parked.take());
        }
    }
}
