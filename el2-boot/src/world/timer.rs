//! The loaded guest's virtual timer, which runs in hardware.

use crate::sysreg;

/// CNTV_CTL_EL0.
mod control {
    pub(super) const ENABLE: u64 = 1 << 0;
    pub(super) const IMASK: u64 = 1 << 1;
    pub(super) const ISTATUS: u64 = 1 << 2;
}
use control::{ENABLE, IMASK, ISTATUS};

/// See `Machine::timer_line`.
pub(crate) fn line() -> bool {
    let control = sysreg::cntv_ctl_el0::read();
    control & (ENABLE | IMASK | ISTATUS) == ENABLE | ISTATUS
}

/// See `Machine::timer_deadline`.
pub(crate) fn deadline() -> Option<u64> {
    let fires = sysreg::cntv_ctl_el0::read() & (ENABLE | IMASK) == ENABLE;
    // CNTVCT = CNTPCT - CNTVOFF.
    fires.then(|| sysreg::cntv_cval_el0::read().saturating_add(sysreg::cntvoff_el2::read()))
}
