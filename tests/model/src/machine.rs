//! The machine that the sequences run on: small, so that comparing all of it
//! with the model after every event is cheap.

use hyp::addr::{FRAME_SHIFT, PfnRange};
use hyp::machine::MAX_CPUS;
use hyp::memory::FrameEntry;
use hyp::sim::{Layout, SimMachine};
use hyp::{HostPlatform, Hypervisor};
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

/// Frame tables of machines that are over. bouncer keeps its table for ever;
/// a fuzzer that boots a million times has to use it again.
static TABLES: Mutex<Vec<&'static mut [FrameEntry]>> = Mutex::new(Vec::new());

fn tables() -> MutexGuard<'static, Vec<&'static mut [FrameEntry]>> {
    TABLES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A booted bouncer.
pub struct Booted {
    /// Always there, until it is dropped.
    hyp: Option<Hypervisor<SimMachine>>,
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
        let table = tables().pop().unwrap_or_else(|| layout.frame_table());
        let platform = HostPlatform { redistributors };
        let hyp = Hypervisor::new(layout.machine(), table, &layout.boot(), platform)
            .map_err(|error| format!("boot: {error:?}"))?;
        hyp.machine().world().cpus = CPUS;
        hyp.machine().attach(hyp.host_regime());
        hyp.machine().set_hostile(true);
        Ok(Self { hyp: Some(hyp), layout })
    }

    /// bouncer.
    ///
    /// # Panics
    /// Never: it is taken out only when this is dropped.
    #[allow(clippy::expect_used)]
    pub fn hyp(&self) -> &Hypervisor<SimMachine> {
        self.hyp.as_ref().expect("a machine that is not over")
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        tables().extend(self.hyp.take().map(Hypervisor::into_frame_table));
    }
}

impl Booted {
    /// Is this frame a device's that the host may reach directly?
    pub fn is_host_device(&self, pfn: u64) -> bool {
        let inside = |range: &PfnRange| (range.start().number()..range.end()).contains(&pfn);
        self.layout.host_mmio.iter().any(inside)
    }
}
