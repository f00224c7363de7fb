//! When the CPU's debug registers are the host's, and when a guest's.
//!
//! The host has them to itself and no access of its traps. A guest gets
//! MDSCR_EL1 on every load, which decides what the other registers can do: as
//! long as MDE and SS are clear in it, the host's breakpoints and watchpoints
//! stay where they are and match nothing (Arm ARM D2.3: an MDE that is 0
//! disables both). Only if the guest's own are to be in force do the two dozen
//! registers change hands, and come back when the guest is unloaded.
//!
//! So the host never observes a guest by them, nor a guest the host; and EL2
//! itself takes no debug exception whatever they hold, because MDCR_EL2.TDE is
//! 0 (D2.3.2: not from a level above the one they are routed to).

use super::debug::{DebugState, Kind, MAX_PAIRS, Pair, monitor};

/// The debug registers of the CPU that executes this.
pub trait DebugHardware {
    /// How many there are of a kind (ID_AA64DFR0_EL1), at most [`MAX_PAIRS`].
    fn count(&self, kind: Kind) -> usize;
    /// Reads one.
    fn pair(&self, kind: Kind, index: usize) -> Pair;
    /// Writes one.
    fn set_pair(&mut self, kind: Kind, index: usize, pair: Pair);
    /// Reads MDSCR_EL1.
    fn monitor(&self) -> u64;
    /// Writes it.
    fn set_monitor(&mut self, value: u64);
    /// Is the OS lock, or the OS double lock, closed? In this order.
    fn locks(&self) -> [bool; 2];
    /// Closes or opens them.
    fn set_locks(&mut self, locks: [bool; 2]);
}

/// What the host has in the debug registers of a CPU while a guest is loaded.
#[derive(Clone, Debug, Default)]
pub struct HostDebug {
    monitor: u64,
    /// The locks had to be opened for the guest, and were like this.
    opened: bool,
    locks: [bool; 2],
    /// The pairs below are the host's: the CPU has the guest's.
    lent: bool,
    breakpoints: [Pair; MAX_PAIRS],
    watchpoints: [Pair; MAX_PAIRS],
}

impl HostDebug {
    /// The guest with the state `guest` is being loaded.
    #[inline(always)]
    pub fn load(&mut self, hardware: &mut impl DebugHardware, guest: &DebugState) {
        self.monitor = hardware.monitor();
        self.follow(hardware, guest);
    }

    /// Puts the loaded guest's state in force, after it has changed.
    #[inline(always)]
    pub fn follow(&mut self, hardware: &mut impl DebugHardware, guest: &DebugState) {
        let in_force = guest.in_force();
        if in_force & (monitor::SS | monitor::MDE) != 0 {
            self.lend(hardware, guest, in_force & monitor::MDE != 0);
        }
        hardware.set_monitor(in_force);
    }

    /// The guest is being unloaded.
    #[inline(always)]
    pub fn unload(&mut self, hardware: &mut impl DebugHardware) {
        hardware.set_monitor(0);
        if core::mem::take(&mut self.opened) {
            self.take_back(hardware);
        }
        hardware.set_monitor(self.monitor);
    }

    /// A lock that the host has closed, or nobody opened since reset, would
    /// keep the guest's exceptions from it.
    #[cold]
    fn lend(&mut self, hardware: &mut impl DebugHardware, guest: &DebugState, pairs: bool) {
        if !self.opened {
            self.locks = hardware.locks();
            hardware.set_locks([false; 2]);
            self.opened = true;
        }
        if !pairs {
            return;
        }
        for kind in [Kind::Breakpoint, Kind::Watchpoint] {
            for index in 0..hardware.count(kind).min(MAX_PAIRS) {
                if !self.lent {
                    self.keep(kind, index, hardware.pair(kind, index));
                }
                hardware.set_pair(kind, index, guest.pair(kind, index));
            }
        }
        self.lent = true;
    }

    #[cold]
    fn take_back(&mut self, hardware: &mut impl DebugHardware) {
        if core::mem::take(&mut self.lent) {
            for kind in [Kind::Breakpoint, Kind::Watchpoint] {
                for index in 0..hardware.count(kind).min(MAX_PAIRS) {
                    hardware.set_pair(kind, index, self.kept(kind, index));
                }
            }
        }
        hardware.set_locks(self.locks);
    }

    fn keep(&mut self, kind: Kind, index: usize, pair: Pair) {
        let pairs = match kind {
            Kind::Breakpoint => &mut self.breakpoints,
            Kind::Watchpoint => &mut self.watchpoints,
        };
        if let Some(slot) = pairs.get_mut(index) {
            *slot = pair;
        }
    }

    fn kept(&self, kind: Kind, index: usize) -> Pair {
        let pairs = match kind {
            Kind::Breakpoint => &self.breakpoints,
            Kind::Watchpoint => &self.watchpoints,
        };
        pairs.get(index).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::DebugRegisters;
    use Kind::{Breakpoint, Watchpoint};

    fn pair(mark: u64) -> Pair {
        Pair { value: mark << 12, control: mark << 5 & 0x1e0 | 0b101 }
    }

    /// A CPU on which the host uses everything, and has left both locks closed.
    fn hosts() -> DebugRegisters {
        let mut cpu = DebugRegisters { monitor: 0xa001, locks: [true; 2], ..Default::default() };
        for index in 0..cpu.count(Breakpoint) {
            cpu.set_pair(Breakpoint, index, pair(0x100 + index as u64));
        }
        for index in 0..cpu.count(Watchpoint) {
            cpu.set_pair(Watchpoint, index, pair(0x200 + index as u64));
        }
        cpu
    }

    fn guest(monitor: u64) -> DebugState {
        let mut state = DebugState::default();
        state.set_lock(false);
        state.set_monitor(monitor);
        state.set_pair(Breakpoint, 1, pair(1));
        state.set_pair(Watchpoint, 2, pair(2));
        state
    }

    fn all(cpu: &DebugRegisters) -> ([Pair; MAX_PAIRS], [Pair; MAX_PAIRS]) {
        (cpu.breakpoints, cpu.watchpoints)
    }

    #[test]
    fn a_guest_without_debug_gets_one_register_and_the_host_observes_nothing() {
        let (mut cpu, mut host) = (hosts(), HostDebug::default());
        let writes = cpu.writes;
        host.load(&mut cpu, &guest(monitor::KDE));
        assert_eq!(cpu.monitor & (monitor::MDE | monitor::SS), 0);
        assert_eq!(cpu.writes, writes + 1, "one register");
        host.unload(&mut cpu);
        assert_eq!((all(&cpu), cpu.monitor, cpu.locks), (all(&hosts()), 0xa001, [true; 2]));
    }

    #[test]
    fn a_guest_that_steps_needs_the_locks_and_no_pair() {
        let (mut cpu, mut host) = (hosts(), HostDebug::default());
        host.load(&mut cpu, &guest(monitor::SS));
        assert_eq!((cpu.monitor, cpu.locks), (monitor::SS, [false; 2]));
        assert_eq!(all(&cpu), all(&hosts()));
        host.unload(&mut cpu);
        assert_eq!((all(&cpu), cpu.monitor, cpu.locks), (all(&hosts()), 0xa001, [true; 2]));
    }

    #[test]
    fn all_pairs_change_hands_and_come_back() {
        let (mut cpu, mut host) = (hosts(), HostDebug::default());
        let mut state = guest(monitor::KDE);
        host.load(&mut cpu, &state);
        // Switched on while it runs, changed, switched off, and on again.
        state.set_monitor(monitor::MDE);
        host.follow(&mut cpu, &state);
        state.set_pair(Breakpoint, 0, pair(3));
        host.follow(&mut cpu, &state);
        assert_eq!((cpu.monitor, cpu.locks), (monitor::MDE, [false; 2]));
        for index in 0..MAX_PAIRS {
            let ours = index < cpu.count(Breakpoint);
            let expected = if ours { state.pair(Breakpoint, index) } else { Pair::default() };
            assert_eq!(cpu.breakpoints[index], expected);
            assert_eq!(cpu.watchpoints[index], state.pair(Watchpoint, index));
        }
        state.set_monitor(0);
        host.follow(&mut cpu, &state);
        assert_eq!(cpu.monitor, 0);
        host.unload(&mut cpu);
        assert_eq!((all(&cpu), cpu.monitor, cpu.locks), (all(&hosts()), 0xa001, [true; 2]));
    }

    /// The host changes its registers between two loads.
    #[test]
    fn what_comes_back_is_what_was_there_at_this_load() {
        let (mut cpu, mut host) = (hosts(), HostDebug::default());
        for mark in [5, 6] {
            cpu.set_pair(Breakpoint, 0, pair(mark));
            let before = cpu.clone();
            host.load(&mut cpu, &guest(monitor::MDE));
            host.unload(&mut cpu);
            assert_eq!(all(&cpu), all(&before));
        }
        cpu.monitor = 0;
        host.load(&mut cpu, &guest(0));
        host.unload(&mut cpu);
        assert_eq!(cpu.monitor, 0);
    }
}
