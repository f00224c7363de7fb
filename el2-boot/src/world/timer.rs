//! The loaded guest's virtual timer, which runs in hardware, and what stands
//! in for the host's meanwhile.
//!
//! There is one virtual timer, and a guest that is loaded has it. A host that
//! lives by it (Linux at EL1 does) would not get its CPU back from a guest
//! that never leaves by itself; so EL2's own timer rings when the host's would.
#![allow(unsafe_code)]

use crate::sysreg;
use hyp::vcpu::state::El1State;

/// CNTV_CTL_EL0 and CNTHP_CTL_EL2.
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

/// EL2's timer interrupts the guest when the saved virtual timer of the host
/// would have interrupted the host.
///
/// # Safety
/// A guest is loaded; `host` is what was saved for it, with CNTVOFF_EL2 = 0.
pub(super) unsafe fn stand_in(host: &El1State) {
    if host.cntv_ctl_el0 & (ENABLE | IMASK) == ENABLE {
        // SAFETY: EL2's own timer; its interrupt is taken like any of the
        // host's, and `stand_down` ends it.
        unsafe {
            sysreg::cnthp_cval_el2::write(host.cntv_cval_el0);
            sysreg::cnthp_ctl_el2::write(ENABLE);
        }
    }
}

/// The host has its timer back.
pub(super) fn stand_down() {
    // SAFETY: switches EL2's own timer off.
    unsafe { sysreg::cnthp_ctl_el2::write(0) }
}
