//! What a world runs with: the registers by which EL2 traps it.
#![allow(unsafe_code)]

use super::el1;
use crate::sysreg::{self, VTCR_EL2};
use crate::{features, percpu};
use hyp::addr::ADDRESS_BITS;
use hyp::machine::Regime;
use hyp::vcpu::state::{Controls, El1State};

/// Puts `controls` in force for the next world.
///
/// # Safety
/// They must be those of the world that is entered next.
pub(super) unsafe fn apply(controls: &Controls) {
    // SAFETY: the caller's promise; EL2 itself runs with E2H = 0 in either.
    unsafe {
        sysreg::hcr_el2::write(controls.hcr_el2);
        sysreg::cptr_el2::write(controls.cptr_el2);
        sysreg::mdcr_el2::write(controls.mdcr_el2 | event_counters());
        sysreg::hstr_el2::write(controls.hstr_el2);
        sysreg::cnthctl_el2::write(controls.cnthctl_el2);
        sysreg::cntvoff_el2::write(controls.cntvoff_el2);
        sysreg::vpidr_el2::write(controls.vpidr_el2);
        sysreg::vmpidr_el2::write(controls.vmpidr_el2);
        sysreg::icc_sre_el2::write(controls.icc_sre_el2);
    }
}

/// MDCR_EL2.HPMN: all event counters belong to EL1, so that PMCR_EL0.E stops
/// every one of them, and none counts in EL2.
fn event_counters() -> u64 {
    if features::has_pmu() { sysreg::pmcr_el0::read() >> 11 & 0x1f } else { 0 }
}

/// What is the same for every world on this CPU, once per CPU.
///
/// # Safety
/// Once, before this CPU enters its first world.
pub(crate) unsafe fn initialise() {
    let vtcr = VTCR_EL2::RES1.val(1)
        + VTCR_EL2::PS.val(features::physical_address_range())
        + VTCR_EL2::TG0.val(0b00) // 4 KiB
        + VTCR_EL2::SH0.val(0b11) // inner shareable
        + VTCR_EL2::ORGN0.val(0b01) // write-back
        + VTCR_EL2::IRGN0.val(0b01)
        + VTCR_EL2::SL0.val(0b01) // start at level 1
        + VTCR_EL2::T0SZ.val(64 - u64::from(ADDRESS_BITS));
    // SAFETY: no world has run on this CPU; what is left as it was at reset
    // is either written per world (`apply`) or has no effect on EL2.
    unsafe {
        sysreg::vtcr_el2::write(vtcr.value);
        // On Arm's cores its bits open CPUACTLR, CPUECTLR and the power
        // control to EL1, whatever HCR_EL2.TIDCP says (their TRMs, ACTLR_EL2);
        // at reset it is UNKNOWN.
        sysreg::actlr_el2::write(0);
        sysreg::hacr_el2::write(0);
        // System registers for the GIC: the ones below exist only then. What
        // EL1 may choose is the world's (`apply`).
        sysreg::icc_sre_el2::write(0xf);
        sysreg::isb();
        sysreg::ich_hcr_el2::write(0);
        if features::has_hcrx() {
            // Nothing that needs an enable here is shown to any world.
            sysreg::hcrx_el2::write(0);
        }
        if features::has_fine_grained_traps() {
            // Zero traps what is newer than this list (the bits whose sense is
            // inverted) and nothing else; worlds are not shown those features.
            sysreg::hfgrtr_el2::write(0);
            sysreg::hfgwtr_el2::write(0);
            sysreg::hfgitr_el2::write(0);
            sysreg::hdfgrtr_el2::write(0);
            sysreg::hdfgwtr_el2::write(0);
            if features::has_activity_monitors() {
                sysreg::hafgrtr_el2::write(0);
            }
        }
        if features::has_more_fine_grained_traps() {
            // Every bit has the inverted sense (Arm ARM D24.2, HFGRTR2_EL2).
            sysreg::hfgrtr2_el2::write(0);
            sysreg::hfgwtr2_el2::write(0);
            sysreg::hfgitr2_el2::write(0);
            sysreg::hdfgrtr2_el2::write(0);
            sysreg::hdfgwtr2_el2::write(0);
        }
        initialise_optional();
        // Buffers that the hardware fills by itself: off, and EL2's
        // (MDCR_EL2.E2PB and E2TB are 0 for every world).
        if features::has_profiling_buffer() {
            sysreg::pmblimitr_el1::write(0);
        }
        if features::has_trace_buffer() {
            sysreg::trblimitr_el1::write(0);
        }
        sysreg::tlbi_alle1();
        sysreg::dsb_nsh();
        sysreg::isb();
    }
}

/// What firmware or reset (which leaves these UNKNOWN) may have left on in
/// features that no world is shown.
///
/// # Safety
/// As [`initialise`].
unsafe fn initialise_optional() {
    /// MPAM2_EL2: MPAM0_EL1 and MPAM1_EL1 trap; EL2 is in partition 0 (Arm ARM
    /// D24.5, MPAM2_EL2).
    const TRAP_MPAM: u64 = 1 << 48 | 1 << 49;
    const MPAMIDR_HAS_HCR: u64 = 1 << 17;
    // SAFETY: traps, and functions of EL2 that nothing here uses, off.
    unsafe {
        sysreg::cnthp_ctl_el2::write(0);
        if features::has_host_extensions() {
            // Its interrupt would be taken by EL2 for ever.
            sysreg::cnthv_ctl_el2::write(0);
        }
        if features::has_ras() {
            sysreg::vdisr_el2::write(0);
            // What a virtual SError would tell; none is ever injected.
            sysreg::vsesr_el2::write(0);
        }
        if features::has_profiling_buffer() {
            // No profiling at EL2 (Arm ARM D24.7, PMSCR_EL2.E2SPE).
            sysreg::pmscr_el2::write(0);
        }
        if features::has_trace_filter() {
            // No trace of EL2, nor of EL0 by its permission (TRFCR_EL2).
            sysreg::trfcr_el2::write(0);
        }
        if features::has_memory_partitioning() {
            sysreg::mpam2_el2::write(TRAP_MPAM);
            if sysreg::mpamidr_el1::read() & MPAMIDR_HAS_HCR != 0 {
                // No virtual partitions; MPAMIDR_EL1 traps.
                sysreg::mpamhcr_el2::write(1 << 31);
            }
        }
    }
}

/// Makes the host the current world of this CPU, in the state a CPU is
/// switched on in.
///
/// # Safety
/// On a CPU after [`initialise`]; `host` must be the host's regime.
pub(crate) unsafe fn become_host(host: Regime, controls: Controls) {
    /// SCTLR_EL1: RES1 bits, MMU and caches off.
    const SCTLR_EL1_OFF: u64 = 0x30d0_0800;
    // SAFETY: this CPU's, and the only reference; the registers are the
    // host's or decide about it.
    unsafe {
        let state = percpu::this().host();
        state.controls = controls;
        state.vttbr_el2 = crate::tlb::vttbr(host);
        // What firmware left in EL1's registers must not be walked with the
        // host's stage 2.
        el1::close_walks();
        apply(&state.controls);
        sysreg::vttbr_el2::write(state.vttbr_el2);
        el1::open_walks(&El1State { sctlr_el1: SCTLR_EL1_OFF, ..El1State::default() });
        sysreg::cpacr_el1::write(0);
        sysreg::cntkctl_el1::write(0);
        sysreg::cntv_ctl_el0::write(0);
        sysreg::mdscr_el1::write(0);
        sysreg::isb();
    }
}
