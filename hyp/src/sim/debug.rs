//! The debug registers of the simulated CPUs.

use crate::vcpu::debug::{DebugState, Kind, MAX_PAIRS, Pair, monitor};
use crate::vcpu::debug_switch::{DebugHardware, HostDebug};
use std::format;
use std::string::String;

/// Those of one CPU: of a Cortex-A72, but for as many watchpoints as there can
/// be.
#[derive(Clone, Debug, Default)]
pub struct DebugRegisters {
    /// MDSCR_EL1.
    pub monitor: u64,
    /// OS lock and OS double lock: are they closed?
    pub locks: [bool; 2],
    /// Breakpoints; those the CPU does not have are never written.
    pub breakpoints: [Pair; MAX_PAIRS],
    /// Watchpoints.
    pub watchpoints: [Pair; MAX_PAIRS],
    /// How often one was written.
    pub writes: u64,
}

impl DebugHardware for DebugRegisters {
    fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Breakpoint => 6,
            Kind::Watchpoint => MAX_PAIRS,
        }
    }

    fn pair(&self, kind: Kind, index: usize) -> Pair {
        match kind {
            Kind::Breakpoint => self.breakpoints[index],
            Kind::Watchpoint => self.watchpoints[index],
        }
    }

    fn set_pair(&mut self, kind: Kind, index: usize, pair: Pair) {
        assert!(index < self.count(kind), "{kind:?} {index} is not there");
        self.writes += 1;
        match kind {
            Kind::Breakpoint => self.breakpoints[index] = pair,
            Kind::Watchpoint => self.watchpoints[index] = pair,
        }
    }

    fn monitor(&self) -> u64 {
        self.monitor
    }

    fn set_monitor(&mut self, value: u64) {
        self.writes += 1;
        self.monitor = value;
    }

    fn locks(&self) -> [bool; 2] {
        self.locks
    }

    fn set_locks(&mut self, locks: [bool; 2]) {
        self.writes += 1;
        self.locks = locks;
    }
}

/// A CPU's registers, and the host's while a guest is loaded.
#[derive(Default)]
pub(super) struct CpuDebug {
    pub(super) registers: DebugRegisters,
    host: HostDebug,
    /// The registers as they were when a guest was loaded.
    before: DebugRegisters,
}

impl CpuDebug {
    pub(super) fn load(&mut self, guest: &DebugState) {
        self.before = self.registers.clone();
        self.host.load(&mut self.registers, guest);
    }

    pub(super) fn follow(&mut self, guest: &DebugState) {
        self.host.follow(&mut self.registers, guest);
    }

    /// What the guest that is about to run would suffer or miss, if anything.
    pub(super) fn wrong_for(&self, guest: &DebugState) -> Option<String> {
        let cpu = &self.registers;
        if cpu.monitor != guest.in_force() {
            return Some(format!("a guest runs with MDSCR_EL1 {:#x}", cpu.monitor));
        }
        if cpu.monitor & (monitor::SS | monitor::MDE) != 0 && cpu.locks != [false; 2] {
            return Some("a guest debugs itself with a lock closed".into());
        }
        if cpu.monitor & monitor::MDE == 0 {
            return None;
        }
        [Kind::Breakpoint, Kind::Watchpoint].into_iter().find_map(|kind| {
            let foreign = |index| cpu.pair(kind, index) != guest.pair(kind, index);
            let index = (0..cpu.count(kind)).find(|index| foreign(*index))?;
            Some(format!("a guest runs with a {kind:?} {index} that is not its own"))
        })
    }

    /// The host is back. What it would see or miss, if anything.
    pub(super) fn unload(&mut self) -> Option<String> {
        self.host.unload(&mut self.registers);
        let (now, before) = (&self.registers, &self.before);
        let same = now.monitor == before.monitor
            && now.locks == before.locks
            && (now.breakpoints, now.watchpoints) == (before.breakpoints, before.watchpoints);
        (!same).then(|| "the host's debug registers do not survive a guest".into())
    }
}
