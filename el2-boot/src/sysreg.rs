//! System registers and barriers: the only module that names them.
//!
//! `aarch64-cpu` has the layout of most registers; its setters are safe
//! functions although a write can switch stage 2 off, so the crate is used
//! here for field names only and every write goes through `unsafe` functions.
#![allow(unsafe_code)]

use core::arch::asm;

pub(crate) use aarch64_cpu::registers::VTCR_EL2;

/// A module per register, with `read` and `write`.
macro_rules! registers {
    ($($(#[$doc:meta])* $name:ident = $register:literal;)*) => { $(
        $(#[$doc])*
        pub(crate) mod $name {
            #![allow(dead_code)] // Not every register is used both ways.

            /// Reads it.
            #[inline(always)]
            pub(crate) fn read() -> u64 {
                let value: u64;
                // SAFETY: reading a system register that exists has no effect
                // on memory or control flow. Registers of optional features
                // are read only after `features` has found them.
                unsafe {
                    core::arch::asm!(
                        concat!("mrs {}, ", $register),
                        out(reg) value, options(nomem, nostack, preserves_flags)
                    );
                }
                value
            }

            /// Writes it.
            ///
            /// # Safety
            /// The value must keep EL2's own address space and the separation
            /// of the worlds as they are, or change them as the caller can
            /// answer for; the register must exist on this CPU.
            #[inline(always)]
            pub(crate) unsafe fn write(value: u64) {
                // SAFETY: the caller's promise. No `nomem`: translation and
                // traps may depend on it, so memory accesses keep their order.
                unsafe {
                    core::arch::asm!(
                        concat!("msr ", $register, ", {}"),
                        in(reg) value, options(nostack, preserves_flags)
                    );
                }
            }
        }
    )* };
}

registers! {
    // EL2's own.
    esr_el2 = "esr_el2";
    far_el2 = "far_el2";
    hpfar_el2 = "hpfar_el2";
    elr_el2 = "elr_el2";
    spsr_el2 = "spsr_el2";
    tpidr_el2 = "tpidr_el2";
    ttbr0_el2 = "ttbr0_el2";
    sctlr_el2 = "sctlr_el2";
    // What EL2 decides about the world below.
    hcr_el2 = "hcr_el2";
    /// HCRX_EL2 (FEAT_HCX).
    hcrx_el2 = "s3_4_c1_c2_2";
    hstr_el2 = "hstr_el2";
    cptr_el2 = "cptr_el2";
    mdcr_el2 = "mdcr_el2";
    cnthctl_el2 = "cnthctl_el2";
    cntvoff_el2 = "cntvoff_el2";
    cnthp_ctl_el2 = "cnthp_ctl_el2";
    cnthp_cval_el2 = "cnthp_cval_el2";
    vpidr_el2 = "vpidr_el2";
    vmpidr_el2 = "vmpidr_el2";
    vttbr_el2 = "vttbr_el2";
    vtcr_el2 = "vtcr_el2";
    icc_sre_el2 = "s3_4_c12_c9_5";
    actlr_el2 = "actlr_el2";
    hacr_el2 = "hacr_el2";
    /// DISR_EL1 of a world with HCR_EL2.AMO, and the syndrome of a virtual
    /// SError (FEAT_RAS).
    vdisr_el2 = "s3_4_c12_c1_1";
    vsesr_el2 = "s3_4_c5_c2_3";
    /// EL2's virtual timer (FEAT_VHE).
    cnthv_ctl_el2 = "s3_4_c14_c3_1";
    /// PMSCR_EL2 (FEAT_SPE).
    pmscr_el2 = "s3_4_c9_c9_0";
    /// TRFCR_EL2 (FEAT_TRF).
    trfcr_el2 = "s3_4_c1_c2_1";
    /// Memory partitioning (FEAT_MPAM).
    mpam2_el2 = "s3_4_c10_c5_0";
    mpamhcr_el2 = "s3_4_c10_c4_0";
    mpamidr_el1 = "s3_0_c10_c4_4";
    /// Fine-grained traps (FEAT_FGT2).
    hfgrtr2_el2 = "s3_4_c3_c1_2";
    hfgwtr2_el2 = "s3_4_c3_c1_3";
    hfgitr2_el2 = "s3_4_c3_c1_7";
    hdfgrtr2_el2 = "s3_4_c3_c1_0";
    hdfgwtr2_el2 = "s3_4_c3_c1_1";
    /// Fine-grained traps (FEAT_FGT).
    hfgrtr_el2 = "s3_4_c1_c1_4";
    hfgwtr_el2 = "s3_4_c1_c1_5";
    hfgitr_el2 = "s3_4_c1_c1_6";
    hdfgrtr_el2 = "s3_4_c3_c1_4";
    hdfgwtr_el2 = "s3_4_c3_c1_5";
    hafgrtr_el2 = "s3_4_c3_c1_6";
    // The virtual CPU interface.
    ich_hcr_el2 = "s3_4_c12_c11_0";
    ich_vtr_el2 = "s3_4_c12_c11_1";
    ich_vmcr_el2 = "s3_4_c12_c11_7";
    ich_ap0r0_el2 = "s3_4_c12_c8_0";
    ich_ap0r1_el2 = "s3_4_c12_c8_1";
    ich_ap0r2_el2 = "s3_4_c12_c8_2";
    ich_ap0r3_el2 = "s3_4_c12_c8_3";
    ich_ap1r0_el2 = "s3_4_c12_c9_0";
    ich_ap1r1_el2 = "s3_4_c12_c9_1";
    ich_ap1r2_el2 = "s3_4_c12_c9_2";
    ich_ap1r3_el2 = "s3_4_c12_c9_3";
    // The world's own.
    sctlr_el1 = "sctlr_el1";
    cpacr_el1 = "cpacr_el1";
    ttbr0_el1 = "ttbr0_el1";
    ttbr1_el1 = "ttbr1_el1";
    tcr_el1 = "tcr_el1";
    esr_el1 = "esr_el1";
    far_el1 = "far_el1";
    afsr0_el1 = "afsr0_el1";
    afsr1_el1 = "afsr1_el1";
    mair_el1 = "mair_el1";
    amair_el1 = "amair_el1";
    vbar_el1 = "vbar_el1";
    contextidr_el1 = "contextidr_el1";
    tpidr_el0 = "tpidr_el0";
    tpidrro_el0 = "tpidrro_el0";
    tpidr_el1 = "tpidr_el1";
    cntkctl_el1 = "cntkctl_el1";
    par_el1 = "par_el1";
    elr_el1 = "elr_el1";
    spsr_el1 = "spsr_el1";
    sp_el0 = "sp_el0";
    sp_el1 = "sp_el1";
    mdscr_el1 = "mdscr_el1";
    oslar_el1 = "oslar_el1";
    oslsr_el1 = "oslsr_el1";
    osdlr_el1 = "osdlr_el1";
    csselr_el1 = "csselr_el1";
    cntv_ctl_el0 = "cntv_ctl_el0";
    cntv_cval_el0 = "cntv_cval_el0";
    icc_sre_el1 = "s3_0_c12_c12_5";
    /// PMCR_EL0 (FEAT_PMUv3).
    pmcr_el0 = "pmcr_el0";
    /// PMBLIMITR_EL1 (FEAT_SPE).
    pmblimitr_el1 = "s3_0_c9_c10_0";
    /// TRBLIMITR_EL1 (FEAT_TRBE).
    trblimitr_el1 = "s3_0_c9_c11_0";
    // Identity and time.
    midr_el1 = "midr_el1";
    mpidr_el1 = "mpidr_el1";
    ctr_el0 = "ctr_el0";
    dczid_el0 = "dczid_el0";
    cntfrq_el0 = "cntfrq_el0";
    cntpct_el0 = "cntpct_el0";
    id_aa64pfr0_el1 = "id_aa64pfr0_el1";
    id_aa64pfr1_el1 = "id_aa64pfr1_el1";
    id_aa64pfr2_el1 = "s3_0_c0_c4_2";
    id_aa64dfr0_el1 = "id_aa64dfr0_el1";
    id_aa64isar1_el1 = "id_aa64isar1_el1";
    id_aa64isar2_el1 = "s3_0_c0_c6_2";
    id_aa64isar0_el1 = "id_aa64isar0_el1";
    id_aa64mmfr0_el1 = "id_aa64mmfr0_el1";
    id_aa64mmfr1_el1 = "id_aa64mmfr1_el1";
    id_aa64mmfr2_el1 = "id_aa64mmfr2_el1";
    id_aa64mmfr3_el1 = "s3_0_c0_c7_3";
}

/// Reads or writes one of several registers chosen by a number.
macro_rules! numbered {
    ($read:ident, $write:ident: $($number:literal = $register:literal),*) => {
        /// Reads list register `index`; 0 beyond the last.
        #[inline(always)]
        pub(crate) fn $read(index: usize) -> u64 {
            let value: u64;
            // SAFETY: reading a list register has no effect; the callers keep
            // to those ICH_VTR_EL2 announces.
            unsafe {
                match index {
                    $($number => asm!(concat!("mrs {}, ", $register), out(reg) value,
                        options(nomem, nostack, preserves_flags)),)*
                    _ => value = 0,
                }
            }
            value
        }

        /// Writes list register `index`; nothing beyond the last.
        #[inline(always)]
        pub(crate) fn $write(index: usize, value: u64) {
            // SAFETY: a list register decides only which virtual interrupt the
            // guest sees; the callers keep to those ICH_VTR_EL2 announces.
            unsafe {
                match index {
                    $($number => asm!(concat!("msr ", $register, ", {}"), in(reg) value,
                        options(nomem, nostack, preserves_flags)),)*
                    _ => (),
                }
            }
        }
    };
}

numbered! { read_list_register, write_list_register:
    0 = "s3_4_c12_c12_0", 1 = "s3_4_c12_c12_1", 2 = "s3_4_c12_c12_2", 3 = "s3_4_c12_c12_3",
    4 = "s3_4_c12_c12_4", 5 = "s3_4_c12_c12_5", 6 = "s3_4_c12_c12_6", 7 = "s3_4_c12_c12_7",
    8 = "s3_4_c12_c13_0", 9 = "s3_4_c12_c13_1", 10 = "s3_4_c12_c13_2", 11 = "s3_4_c12_c13_3",
    12 = "s3_4_c12_c13_4", 13 = "s3_4_c12_c13_5", 14 = "s3_4_c12_c13_6", 15 = "s3_4_c12_c13_7"
}

/// The same for debug registers, `<prefix>0_el1` to `<prefix>15_el1`.
macro_rules! debug_registers {
    ($($read:ident, $write:ident, $what:literal: $prefix:literal;)*) => { $(
        debug_registers!(@ $read, $write, $what, $prefix:
            0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    )* };
    (@ $read:ident, $write:ident, $what:literal, $prefix:literal: $($number:literal)*) => {
        #[doc = concat!("Reads ", $what, " `index`; 0 beyond the last.")]
        pub(crate) fn $read(index: usize) -> u64 {
            let value: u64;
            // SAFETY: reading one of them has no effect; the callers keep to
            // those that the CPU announces (ID_AA64DFR0_EL1).
            unsafe {
                match index {
                    $($number => asm!(concat!("mrs {}, ", $prefix, $number, "_el1"),
                        out(reg) value, options(nomem, nostack, preserves_flags)),)*
                    _ => value = 0,
                }
            }
            value
        }

        #[doc = concat!("Writes ", $what, " `index`; nothing beyond the last.")]
        pub(crate) fn $write(index: usize, value: u64) {
            // SAFETY: it decides which debug exceptions EL1 and EL0 take; EL2
            // takes none. The callers keep to those that the CPU announces.
            unsafe {
                match index {
                    $($number => asm!(concat!("msr ", $prefix, $number, "_el1, {}"),
                        in(reg) value, options(nostack, preserves_flags)),)*
                    _ => (),
                }
            }
        }
    };
}

debug_registers! {
    read_breakpoint_value, write_breakpoint_value, "DBGBVR": "dbgbvr";
    read_breakpoint_control, write_breakpoint_control, "DBGBCR": "dbgbcr";
    read_watchpoint_value, write_watchpoint_value, "DBGWVR": "dbgwvr";
    read_watchpoint_control, write_watchpoint_control, "DBGWCR": "dbgwcr";
}

macro_rules! identification {
    ($($crm:literal),*) => {
        /// The identification register op0 = 3, op1 = 0, CRn = 0, `crm`, `op2`;
        /// 0 outside the block of feature registers (CRm 1 to 7).
        pub(crate) fn read_identification(crm: u8, op2: u8) -> u64 {
            match crm { $($crm => identification!(@ $crm, op2, 0, 1, 2, 3, 4, 5, 6, 7),)* _ => 0 }
        }
    };
    (@ $crm:literal, $op2:ident, $($number:literal),*) => {
        match $op2 { $($number => {
            let value: u64;
            // SAFETY: the whole block reads at EL2 without effect; what is not
            // allocated reads as zero (Arm ARM D23.3.1).
            unsafe {
                asm!(concat!("mrs {}, s3_0_c0_c", $crm, "_", $number), out(reg) value,
                    options(nomem, nostack, preserves_flags));
            }
            value
        })* _ => 0 }
    };
}
identification!(1, 2, 3, 4, 5, 6, 7);

/// Instruction synchronisation: registers written before are in force.
#[inline(always)]
pub(crate) fn isb() {
    // SAFETY: a barrier.
    unsafe { asm!("isb", options(nostack, preserves_flags)) }
}

/// A barrier or maintenance instruction without an operand.
macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident = $instruction:literal;)*) => { $(
        $(#[$doc])*
        #[inline(always)]
        pub(crate) fn $name() {
            // SAFETY: barriers, and invalidation of TLBs and instruction
            // caches, never change what memory holds.
            unsafe { asm!($instruction, options(nostack, preserves_flags)) }
        }
    )* };
}

plain! {
    /// Waits until all accesses are seen by the inner shareable domain.
    dsb_ish = "dsb ish";
    /// The same for stores, for table words to reach the walkers.
    dsb_ishst = "dsb ishst";
    /// Waits for this CPU's own accesses and maintenance.
    dsb_nsh = "dsb nsh";
    /// Waits until the whole system sees all accesses.
    dsb_sy = "dsb sy";
    /// Stage 1 of the current VMID, on all CPUs.
    tlbi_vmalle1is = "tlbi vmalle1is";
    /// Stage 1 of the current VMID, on this CPU.
    tlbi_vmalle1 = "tlbi vmalle1";
    /// Stages 1 and 2 of the current VMID, on all CPUs.
    tlbi_vmalls12e1is = "tlbi vmalls12e1is";
    /// Everything of EL2, on this CPU.
    tlbi_alle2 = "tlbi alle2";
    /// Everything of EL1 and EL0, any VMID, on this CPU.
    tlbi_alle1 = "tlbi alle1";
    /// The same on all CPUs.
    tlbi_alle1is = "tlbi alle1is";
    /// All instruction caches, of the inner shareable domain.
    ic_ialluis = "ic ialluis";
    /// This CPU's instruction cache.
    ic_iallu = "ic iallu";
    /// Sleeps until something happens.
    wfe = "wfe";
    /// Lets it happen, on all CPUs.
    sev = "sev";
}

/// A maintenance instruction with one operand.
macro_rules! with_operand {
    ($($(#[$doc:meta])* $name:ident = $instruction:literal;)*) => { $(
        $(#[$doc])*
        #[inline(always)]
        pub(crate) fn $name(operand: u64) {
            // SAFETY: TLB invalidation only makes translations be read again.
            unsafe {
                asm!(concat!($instruction, ", {}"), in(reg) operand,
                    options(nostack, preserves_flags));
            }
        }
    )* };
}

with_operand! {
    /// One EL2 page, on all CPUs; operand: address >> 12.
    tlbi_vae2is = "tlbi vae2is";
    /// The same, last level only.
    tlbi_vale2is = "tlbi vale2is";
    /// Stage 2 of one page of the current VMID; operand: address >> 12.
    tlbi_ipas2e1is = "tlbi ipas2e1is";
    /// Stage 2 of a range (FEAT_TLBIRANGE): TLBI RIPAS2E1IS.
    tlbi_ripas2e1is = "sys #4, c8, c0, #2";
}

/// A random number of the CPU's (RNDR, FEAT_RNG); `None` if it has none at the
/// moment, which it tells by PSTATE.Z (Arm ARM D24.2, RNDR).
pub(crate) fn rndr() -> Option<u64> {
    let (value, failed): (u64, u64);
    // SAFETY: reading a register; the callers have found FEAT_RNG.
    unsafe {
        asm!("mrs {}, s3_3_c2_c4_0", "cset {}, eq", out(reg) value, out(reg) failed,
            options(nomem, nostack));
    }
    (failed == 0).then_some(value)
}

/// Bytes of the smallest data cache line (CTR_EL0.DminLine).
#[inline(always)]
pub(crate) fn data_cache_line() -> u64 {
    4 << (ctr_el0::read() >> 16 & 0xf)
}

/// Bytes DC ZVA zeroes, if it may be used (DCZID_EL0).
#[inline(always)]
pub(crate) fn zero_block() -> Option<u64> {
    let dczid = dczid_el0::read();
    if dczid & 1 << 4 == 0 { Some(4 << (dczid & 0xf)) } else { None }
}
