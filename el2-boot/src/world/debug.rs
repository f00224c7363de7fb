//! The CPU's debug registers. Whose they are when is decided in
//! `hyp::vcpu::debug_switch`.
#![allow(unsafe_code)]

use crate::{features, percpu, sysreg};
use hyp::vcpu::debug::{DebugState, Kind, Pair};
use hyp::vcpu::debug_switch::DebugHardware;

/// OSLSR_EL1.OSLK.
const OS_LOCKED: u64 = 1 << 1;

/// Those of the CPU that executes this.
pub(super) struct Cpu;

impl DebugHardware for Cpu {
    fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Breakpoint => features::breakpoints(),
            Kind::Watchpoint => features::watchpoints(),
        }
    }

    fn pair(&self, kind: Kind, index: usize) -> Pair {
        match kind {
            Kind::Breakpoint => Pair {
                value: sysreg::read_breakpoint_value(index),
                control: sysreg::read_breakpoint_control(index),
            },
            Kind::Watchpoint => Pair {
                value: sysreg::read_watchpoint_value(index),
                control: sysreg::read_watchpoint_control(index),
            },
        }
    }

    fn set_pair(&mut self, kind: Kind, index: usize, pair: Pair) {
        match kind {
            Kind::Breakpoint => {
                sysreg::write_breakpoint_value(index, pair.value);
                sysreg::write_breakpoint_control(index, pair.control);
            }
            Kind::Watchpoint => {
                sysreg::write_watchpoint_value(index, pair.value);
                sysreg::write_watchpoint_control(index, pair.control);
            }
        }
    }

    fn monitor(&self) -> u64 {
        sysreg::mdscr_el1::read()
    }

    fn set_monitor(&mut self, value: u64) {
        // SAFETY: EL2 takes no debug exception (MDCR_EL2.TDE is 0); what the
        // worlds take is what `debug_switch` decides about.
        unsafe { sysreg::mdscr_el1::write(value) }
    }

    fn locks(&self) -> [bool; 2] {
        let double = features::has_double_lock() && sysreg::osdlr_el1::read() & 1 != 0;
        [sysreg::oslsr_el1::read() & OS_LOCKED != 0, double]
    }

    fn set_locks(&mut self, [os, double]: [bool; 2]) {
        // SAFETY: the locks only keep debug exceptions from being taken.
        unsafe {
            if features::has_double_lock() {
                sysreg::osdlr_el1::write(u64::from(double));
            }
            sysreg::oslar_el1::write(u64::from(os));
        }
        // The registers that follow are written under the new locks.
        sysreg::isb();
    }
}

/// See `Machine::debug_changed`.
pub(crate) fn changed(debug: &DebugState) {
    // SAFETY: this CPU's, and the only reference: nothing below takes another.
    let host = unsafe { percpu::this().host() };
    host.debug.follow(&mut Cpu, debug);
}
