//! Optional features of the CPU that the mechanics depend on. What a world
//! may use is decided in `hyp::vcpu`.

use crate::sysreg;

/// The unsigned four-bit field at `position` of an identification register.
fn field(register: u64, position: u32) -> u64 {
    register >> position & 0xf
}

/// FEAT_TLBIRANGE.
#[inline(always)]
pub(crate) fn has_tlb_range() -> bool {
    field(sysreg::id_aa64isar0_el1::read(), 56) >= 2
}

/// FEAT_SHA256.
pub(crate) fn has_sha256() -> bool {
    field(sysreg::id_aa64isar0_el1::read(), 12) >= 1
}

/// FEAT_RNG.
pub(crate) fn has_random_numbers() -> bool {
    field(sysreg::id_aa64isar0_el1::read(), 60) >= 1
}

/// FEAT_S2FWB.
pub(crate) fn has_forced_write_back() -> bool {
    field(sysreg::id_aa64mmfr2_el1::read(), 40) >= 1
}

/// FEAT_HCX.
pub(crate) fn has_hcrx() -> bool {
    field(sysreg::id_aa64mmfr1_el1::read(), 40) >= 1
}

/// FEAT_FGT.
pub(crate) fn has_fine_grained_traps() -> bool {
    field(sysreg::id_aa64mmfr0_el1::read(), 56) >= 1
}

/// FEAT_FGT2.
pub(crate) fn has_more_fine_grained_traps() -> bool {
    field(sysreg::id_aa64mmfr0_el1::read(), 56) >= 2
}

/// FEAT_VHE.
pub(crate) fn has_host_extensions() -> bool {
    field(sysreg::id_aa64mmfr1_el1::read(), 8) >= 1
}

/// FEAT_RAS.
#[inline(always)]
pub(crate) fn has_ras() -> bool {
    field(sysreg::id_aa64pfr0_el1::read(), 28) >= 1
}

/// FEAT_MPAM, major or minor version.
pub(crate) fn has_memory_partitioning() -> bool {
    field(sysreg::id_aa64pfr0_el1::read(), 40) >= 1
        || field(sysreg::id_aa64pfr1_el1::read(), 16) >= 1
}

/// FEAT_TRF.
pub(crate) fn has_trace_filter() -> bool {
    field(sysreg::id_aa64dfr0_el1::read(), 40) >= 1
}

/// FEAT_AMUv1, whose traps HAFGRTR_EL2 holds.
pub(crate) fn has_activity_monitors() -> bool {
    field(sysreg::id_aa64pfr0_el1::read(), 44) >= 1
}

/// FEAT_PMUv3 (0xf is another PMU, which EL2 does not drive).
#[inline(always)]
pub(crate) fn has_pmu() -> bool {
    !matches!(field(sysreg::id_aa64dfr0_el1::read(), 8), 0 | 0xf)
}

/// FEAT_SPE.
pub(crate) fn has_profiling_buffer() -> bool {
    field(sysreg::id_aa64dfr0_el1::read(), 32) >= 1
}

/// FEAT_TRBE.
pub(crate) fn has_trace_buffer() -> bool {
    field(sysreg::id_aa64dfr0_el1::read(), 44) >= 1
}

/// ID_AA64MMFR0_EL1.PARange, as TCR and VTCR encode it.
pub(crate) fn physical_address_range() -> u64 {
    // 6 (52 bits) needs LPA2 with 4 KiB pages: take 48.
    field(sysreg::id_aa64mmfr0_el1::read(), 0).min(5)
}

/// Breakpoints of the CPU.
pub(crate) fn breakpoints() -> usize {
    field(sysreg::id_aa64dfr0_el1::read(), 12) as usize + 1
}

/// Watchpoints.
pub(crate) fn watchpoints() -> usize {
    field(sysreg::id_aa64dfr0_el1::read(), 20) as usize + 1
}

/// FEAT_DoubleLock.
pub(crate) fn has_double_lock() -> bool {
    field(sysreg::id_aa64dfr0_el1::read(), 36) == 0
}
