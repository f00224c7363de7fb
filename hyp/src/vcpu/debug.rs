//! Self-hosted debug of a guest (Arm ARM D2): breakpoints, watchpoints, single
//! step.
//!
//! Every access of a guest to a debug register traps (MDCR_EL2.TDA, TDOSA,
//! TDRA) and changes the copy that is kept here. What the CPU gets of it, and
//! when, is the business of [`super::debug_switch`]: nothing until the guest
//! switches something on, and then only what can match at EL1 and EL0.

/// Most breakpoints, and most watchpoints, of a CPU (D24.2.59).
pub const MAX_PAIRS: usize = 16;

/// Bits of MDSCR_EL1 (D24.3.20) that a guest has. The rest is the external
/// debugger's, and writable only to save and restore its state.
pub mod monitor {
    /// Software step.
    pub const SS: u64 = 1 << 0;
    /// EL0 may not use the debug communication channel.
    pub const TDCC: u64 = 1 << 12;
    /// Debug exceptions also from EL1 itself.
    pub const KDE: u64 = 1 << 13;
    /// Breakpoints and watchpoints.
    pub const MDE: u64 = 1 << 15;
}
use monitor::{KDE, MDE, SS, TDCC};

/// A breakpoint, or a watchpoint.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pair {
    /// DBGBVR or DBGWVR: where.
    pub value: u64,
    /// DBGBCR or DBGWCR: when.
    pub control: u64,
}

/// Breakpoints or watchpoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `DBGBVR<n>_EL1`, `DBGBCR<n>_EL1`.
    Breakpoint,
    /// `DBGWVR<n>_EL1`, `DBGWCR<n>_EL1`.
    Watchpoint,
}

impl Kind {
    /// Fields of the control register that a guest has. Not among them: HMC
    /// and SSC, which choose exception levels and security states above a
    /// guest's, and breakpoint types that match a VMID or CONTEXTIDR_EL2: a
    /// CPU without EL2 and EL3 has neither (D24.3.2, D24.3.12).
    const fn control_fields(self) -> u64 {
        match self {
            // E, PMC, BAS, LBN, BT: address or context, linked or not.
            Kind::Breakpoint => 0x003f_01e7,
            // E, PAC, LSC, BAS, LBN, WT, MASK.
            Kind::Watchpoint => 0x1f1f_1fff,
        }
    }
}

/// A guest's debug registers; all off, and the OS lock closed, after reset.
#[repr(C)]
#[derive(Clone, Debug, Default)]
pub struct DebugState {
    /// MDSCR_EL1.
    monitor: u64,
    /// OSLSR_EL1.OSLK is 0.
    unlocked: bool,
    /// The claim tags (DBGCLAIMCLR_EL1): nobody but software uses them.
    claim: u8,
    breakpoints: [Pair; MAX_PAIRS],
    watchpoints: [Pair; MAX_PAIRS],
}

impl DebugState {
    /// MDSCR_EL1 as the guest reads it.
    pub fn monitor(&self) -> u64 {
        self.monitor
    }

    /// The guest writes MDSCR_EL1.
    pub fn set_monitor(&mut self, value: u64) {
        self.monitor = value & (SS | TDCC | KDE | MDE);
    }

    /// Is the OS lock closed? Then there are no debug exceptions but BRK's
    /// (D2.4).
    pub fn is_locked(&self) -> bool {
        !self.unlocked
    }

    /// The guest writes OSLAR_EL1.OSLK.
    pub fn set_lock(&mut self, locked: bool) {
        self.unlocked = !locked;
    }

    /// The claim tags.
    pub fn claim(&self) -> u8 {
        self.claim
    }

    /// Sets some, clears others.
    pub fn change_claim(&mut self, set: u8, clear: u8) {
        self.claim = (self.claim | set) & !clear;
    }

    /// MDSCR_EL1 as the CPU is to have it while the guest runs.
    pub fn in_force(&self) -> u64 {
        if self.unlocked { self.monitor } else { self.monitor & TDCC }
    }

    /// Breakpoint or watchpoint `index`.
    pub fn pair(&self, kind: Kind, index: usize) -> Pair {
        let pairs = match kind {
            Kind::Breakpoint => &self.breakpoints,
            Kind::Watchpoint => &self.watchpoints,
        };
        pairs.get(index).copied().unwrap_or_default()
    }

    /// The guest writes one of them.
    pub fn set_pair(&mut self, kind: Kind, index: usize, pair: Pair) {
        let pairs = match kind {
            Kind::Breakpoint => &mut self.breakpoints,
            Kind::Watchpoint => &mut self.watchpoints,
        };
        if let Some(slot) = pairs.get_mut(index) {
            *slot = Pair { control: pair.control & kind.control_fields(), ..pair };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_reset_the_lock_is_closed_and_nothing_is_in_force() {
        let mut state = DebugState::default();
        assert!(state.is_locked());
        state.set_monitor(SS | KDE | MDE);
        assert_eq!((state.monitor(), state.in_force()), (0xa001, 0));
        state.set_lock(false);
        assert_eq!(state.in_force(), 0xa001);
        state.set_lock(true);
        assert_eq!(state.in_force(), 0);
    }

    /// HDE (14), TDA (21), INTdis, TXU, RXO, the full flags: the external
    /// debugger's.
    #[test]
    fn a_guest_has_four_bits_of_the_monitor_register() {
        let mut state = DebugState::default();
        state.set_lock(false);
        state.set_monitor(u64::MAX);
        assert_eq!((state.monitor(), state.in_force()), (0xb001, 0xb001));
    }

    /// HMC is bit 13, SSC bits 15:14 in either; BT is bits 23:20.
    #[test]
    fn nothing_of_a_guests_matches_above_el1() {
        let mut state = DebugState::default();
        let all = Pair { value: u64::MAX, control: u64::MAX };
        for kind in [Kind::Breakpoint, Kind::Watchpoint] {
            state.set_pair(kind, 3, all);
            let pair = state.pair(kind, 3);
            assert_eq!(pair.value, u64::MAX);
            assert_eq!(pair.control & 0b111 << 13, 0);
            assert_eq!(pair.control & 0b111, 0b111);
            assert_eq!(state.pair(kind, 4), Pair::default());
        }
        assert_eq!(state.pair(Kind::Breakpoint, 3).control, 0x003f_01e7);
        assert_eq!(state.pair(Kind::Watchpoint, 3).control, 0x1f1f_1fff);
        state.set_pair(Kind::Breakpoint, MAX_PAIRS, all);
        assert_eq!(state.pair(Kind::Breakpoint, MAX_PAIRS), Pair::default());
    }
}
