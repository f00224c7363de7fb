//! EL1 and EL0 system registers, and the virtual timer.
#![allow(unsafe_code)]

use crate::sysreg as r;
use hyp::vcpu::state::El1State;

macro_rules! registers {
    ($($name:ident),* $(,)?) => {
        /// Reads the current world's registers.
        pub(super) fn save(state: &mut El1State) {
            $( state.$name = r::$name::read(); )*
        }

        /// Writes them.
        ///
        /// # Safety
        /// `state` must be that of the world that is entered next.
        pub(super) unsafe fn restore(state: &El1State) {
            // SAFETY: none of them changes how EL2 executes (Arm ARM D1.3,
            // E2H = 0); the caller answers for the world.
            unsafe { $( r::$name::write(state.$name); )* }
        }
    };
}

// CNTV_CTL comes after CNTV_CVAL: an enabled timer with the other world's
// deadline would fire at once. CSSELR and MDSCR need no order.
registers! {
    sctlr_el1, cpacr_el1, ttbr0_el1, ttbr1_el1, tcr_el1, esr_el1, far_el1, afsr0_el1, afsr1_el1,
    mair_el1, amair_el1, vbar_el1, contextidr_el1, tpidr_el0, tpidrro_el0, tpidr_el1, cntkctl_el1,
    par_el1, elr_el1, spsr_el1, sp_el0, sp_el1, mdscr_el1, csselr_el1, cntv_cval_el0, cntv_ctl_el0,
}

/// Switches the virtual timer off, before its offset or deadline changes.
///
/// # Safety
/// The world it belongs to must be saved.
pub(super) unsafe fn stop_timer() {
    // SAFETY: the caller's promise.
    unsafe { r::cntv_ctl_el0::write(0) }
}
