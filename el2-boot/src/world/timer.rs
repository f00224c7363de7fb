//! The loaded guest's virtual timer, which runs in hardware, and EL2's own,
//! which stands in for two that do not: the host's virtual timer, and the
//! guest's physical one, which is emulated.
//!
//! There is one virtual timer, and a guest that is loaded has it. A host that
//! lives by it (Linux at EL1 does) would not get its CPU back from a guest
//! that never leaves by itself; so EL2's own timer rings when the host's would,
//! or when the guest's physical one is to fire, whichever is first.
#![allow(unsafe_code)]

use crate::{percpu, sysreg};
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
/// would have interrupted the host, if the host `listens` to it.
///
/// # Safety
/// A guest is loaded; `host` is what was saved for it, with CNTVOFF_EL2 = 0.
pub(super) unsafe fn stand_in(host: &El1State, listens: bool) {
    let fires = listens && host.cntv_ctl_el0 & (ENABLE | IMASK) == ENABLE;
    let at = if fires { Some(host.cntv_cval_el0) } else { None };
    percpu::this().host_alarm.set(at);
    if at.is_some() {
        ring(at);
    }
}

/// See `Machine::set_alarm`: the earlier of the guest's time and of the
/// host's. Whose it was the policy sees by the clock.
pub(crate) fn set_alarm(guest: Option<u64>) {
    let host = percpu::this().host_alarm.get();
    ring(match (host, guest) {
        (Some(host), Some(guest)) => Some(host.min(guest)),
        (host, guest) => host.or(guest),
    });
}

/// EL2's timer interrupts from `at` on, or not at all.
fn ring(at: Option<u64>) {
    // SAFETY: EL2's own timer, while a guest is loaded; its interrupt is taken
    // like any of the host's, and `stand_down` ends it.
    unsafe {
        if let Some(at) = at {
            sysreg::cnthp_cval_el2::write(at);
        }
        sysreg::cnthp_ctl_el2::write(if at.is_some() { ENABLE } else { 0 });
    }
}

/// The host has its timer back.
pub(super) fn stand_down() {
    ring(None);
}
