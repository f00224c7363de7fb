//! EL1 and EL0 system registers, and the virtual timer.
#![allow(unsafe_code)]

use crate::{features, sysreg as r};
use hyp::vcpu::state::El1State;

macro_rules! registers {
    ($($name:ident),* $(,)?) => {
        /// Reads the current world's registers.
        pub(super) fn save(state: &mut El1State) {
            $( state.$name = r::$name::read(); )*
            state.sctlr_el1 = r::sctlr_el1::read();
            state.tcr_el1 = r::tcr_el1::read();
            if features::has_ras() {
                state.vdisr_el2 = r::vdisr_el2::read();
            }
        }

        /// Writes them, and lets the world's tables be walked again.
        ///
        /// # Safety
        /// `state` must be that of the world that is entered next, and stage 2
        /// and HCR_EL2 its own; walks must be closed ([`close_walks`]).
        pub(super) unsafe fn restore(state: &El1State) {
            // SAFETY: none of them changes how EL2 executes (Arm ARM D1.3,
            // E2H = 0); the caller answers for the world.
            unsafe {
                $( r::$name::write(state.$name); )*
                if features::has_ras() {
                    r::vdisr_el2::write(state.vdisr_el2);
                }
                open_walks(state);
            }
        }
    };
}

// CNTV_CTL comes after CNTV_CVAL: an enabled timer with the other world's
// deadline would fire at once. CSSELR needs no order.
registers! {
    cpacr_el1, ttbr0_el1, ttbr1_el1, esr_el1, far_el1, afsr0_el1, afsr1_el1,
    mair_el1, amair_el1, vbar_el1, contextidr_el1, tpidr_el0, tpidrro_el0, tpidr_el1, cntkctl_el1,
    par_el1, elr_el1, spsr_el1, sp_el0, sp_el1, csselr_el1, cntv_cval_el0, cntv_ctl_el0,
}

/// Keeps the CPU from walking EL1's tables while registers of two worlds are in
/// force together. Some CPUs execute an AT instruction speculatively at any
/// time in EL2 (errata 1165522, 1319367, 1319537, 1530923: Cortex-A76, A72, A57,
/// A55), and what such a walk finds with one world's tables and the other's
/// stage 2 or VMID stays in the TLB under the wrong name.
///
/// With EPD0 and EPD1 set no walk starts (Arm ARM D24.2, TCR_EL1); that has an
/// effect only while stage 1 is on, so it is switched on, in this order.
/// Nothing executes at EL1 meanwhile.
///
/// # Safety
/// The world whose registers they are must be saved.
pub(super) unsafe fn close_walks() {
    const EPD0: u64 = 1 << 7;
    const EPD1: u64 = 1 << 23;
    const M: u64 = 1 << 0;
    // SAFETY: the caller's promise; EL2 has a translation of its own.
    unsafe {
        r::tcr_el1::write(r::tcr_el1::read() | EPD0 | EPD1);
        r::isb();
        r::sctlr_el1::write(r::sctlr_el1::read() | M);
        r::isb();
    }
}

/// Undoes that, in the opposite order, for the world of `state`: with its
/// SCTLR_EL1 in force walks are still closed, TCR_EL1 comes last. The exception
/// return synchronises it.
///
/// # Safety
/// Everything else that decides about walks must be that world's.
pub(super) unsafe fn open_walks(state: &El1State) {
    // SAFETY: the caller's promise.
    unsafe {
        r::isb();
        r::sctlr_el1::write(state.sctlr_el1);
        r::isb();
        r::tcr_el1::write(state.tcr_el1);
    }
}

/// Switches the virtual timer off, before its offset or deadline changes.
///
/// # Safety
/// The world it belongs to must be saved.
pub(super) unsafe fn stop_timer() {
    // SAFETY: the caller's promise.
    unsafe { r::cntv_ctl_el0::write(0) }
}
