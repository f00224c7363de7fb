//! Which instructions and registers trap, for the host and for guests.
//!
//! Field positions are those of the Arm ARM, D24.2 (E2H = 0 layouts).

use super::id_registers::counts_at_el2;
use super::state::Controls;
use crate::machine::{IdRegister, Machine};

/// HCR_EL2 bits.
mod hcr {
    pub(super) const VM: u64 = 1 << 0;
    pub(super) const SWIO: u64 = 1 << 1;
    pub(super) const PTW: u64 = 1 << 2;
    pub(super) const FMO: u64 = 1 << 3;
    pub(super) const IMO: u64 = 1 << 4;
    pub(super) const AMO: u64 = 1 << 5;
    pub(super) const FB: u64 = 1 << 9;
    pub(super) const BSU_INNER: u64 = 1 << 10;
    pub(super) const TWI: u64 = 1 << 13;
    pub(super) const TID3: u64 = 1 << 18;
    pub(super) const TSC: u64 = 1 << 19;
    pub(super) const TIDCP: u64 = 1 << 20;
    pub(super) const TACR: u64 = 1 << 21;
    pub(super) const TSW: u64 = 1 << 22;
    pub(super) const RW: u64 = 1 << 31;
    pub(super) const TLOR: u64 = 1 << 35;
    pub(super) const TERR: u64 = 1 << 36;
    pub(super) const APK: u64 = 1 << 40;
    pub(super) const API: u64 = 1 << 41;
    pub(super) const FWB: u64 = 1 << 46;
    pub(super) const ENSCXT: u64 = 1 << 53;
}

/// MDCR_EL2 bits.
mod mdcr {
    pub(super) const TPMCR: u64 = 1 << 5;
    pub(super) const TPM: u64 = 1 << 6;
    pub(super) const TDA: u64 = 1 << 9;
    pub(super) const TDOSA: u64 = 1 << 10;
    pub(super) const TDRA: u64 = 1 << 11;
    pub(super) const TPMS: u64 = 1 << 14;
    pub(super) const HPMD: u64 = 1 << 17;
    pub(super) const TTRF: u64 = 1 << 19;
    pub(super) const HCCD: u64 = 1 << 23;
    pub(super) const TDCC: u64 = 1 << 27;
}

/// CPTR_EL2 (E2H = 0): RES1 bits, and traps for SVE, SME, trace, activity
/// monitors. FP and SIMD do not trap: they are switched.
const CPTR: u64 = 0x32ff | 1 << 8 /* TZ */ | 1 << 12 /* TSM */ | 1 << 20 /* TTA */ | 1 << 30 /* TAM */;

/// ICC_SRE_EL2: system registers for the GIC (SRE), also at EL1, and no bypass
/// (DFB, DIB).
const ICC_SRE: u64 = 0b0111;
/// ICC_SRE_EL2.Enable: EL1 may choose for itself (IHI 0069, 12.2.9).
const ICC_SRE_ENABLE: u64 = 1 << 3;

/// CNTHCTL_EL2: EL1 may read the physical counter / program its timer.
const EL1PCTEN: u64 = 1 << 0;
const EL1PCEN: u64 = 1 << 1;

/// ID_AA64DFR0_EL1.
const DFR0: IdRegister = IdRegister { crm: 5, op2: 0 };

/// MIDR_EL1.
const MIDR: IdRegister = IdRegister { crm: 0, op2: 0 };

/// HCR_EL2.FWB, where the CPU has it: then stage 2 decides that RAM is
/// write-back cacheable, and no world reads or writes past the caches (Arm ARM
/// D8.6). Stage-2 descriptors are encoded for it (`stage2::Attributes`).
fn forced_write_back(machine: &impl Machine) -> u64 {
    if machine.forces_write_back() { hcr::FWB } else { 0 }
}

/// What a guest runs with: stage 2 on, every SMC, WFI, ID register, set/way
/// operation, debug and PMU register trapped, interrupts taken to EL2,
/// pointer authentication withheld.
pub(crate) fn guest(machine: &impl Machine, index: usize) -> Controls {
    Controls {
        hcr_el2: hcr::VM
            | hcr::SWIO
            | hcr::PTW
            | hcr::FMO
            | hcr::IMO
            | hcr::AMO
            | hcr::FB
            | hcr::BSU_INNER
            | hcr::TWI
            | hcr::TID3
            | hcr::TSC
            | hcr::TIDCP
            | hcr::TACR
            | hcr::TSW
            | hcr::RW
            | hcr::TLOR
            | hcr::TERR
            | forced_write_back(machine),
        cptr_el2: CPTR,
        mdcr_el2: mdcr::TPM
            | mdcr::TPMCR
            | mdcr::TDA
            | mdcr::TDOSA
            | mdcr::TDRA
            | mdcr::TPMS
            | mdcr::HPMD
            | mdcr::TTRF
            | mdcr::HCCD
            | mdcr::TDCC,
        hstr_el2: 0,
        // The physical counter and timer are emulated (`vcpu::timer`).
        cnthctl_el2: 0,
        cntvoff_el2: 0,
        // Bit 31 is RES1; the vCPU is Aff0 of cluster 0.
        vmpidr_el2: 1 << 31 | index as u64,
        vpidr_el2: machine.id_register(MIDR),
        // The other interface, by memory, belongs to no guest: ICC_SRE_EL1
        // traps.
        icc_sre_el2: ICC_SRE,
    }
}

/// What the host runs with. It owns interrupts, timers, debug and (where it can
/// be kept out of EL2) the PMU; SMCs
/// trap (PSCI is relayed), and so do the features nobody switches (SVE, SME)
/// and the buffers that write to memory by themselves (SPE, TRBE, trace).
/// Implementation-defined registers trap, too (TIDCP, TACR; Arm ARM D24.2.53):
/// with one of them a Cortex CPU leaves the coherency domain (CPUECTLR.SMPEN),
/// and from then on takes no TLBI from other CPUs, so that what was unmapped
/// from the host could still be used there. `mpidr` is this physical CPU's own.
pub fn host(machine: &impl Machine, mpidr: u64) -> Controls {
    // MDCR_EL2.HPMD keeps the host's counters from EL2's events, but it is
    // there from FEAT_PMUv3p1 on only (Arm ARM D24.2.87: RES0 before). Without
    // it PMEVTYPER<n>_EL0.NSH, which is the host's to set, would count them.
    let pmu = if counts_at_el2(machine.id_register(DFR0)) { mdcr::TPM | mdcr::TPMCR } else { 0 };
    Controls {
        hcr_el2: hcr::VM
            | hcr::SWIO
            | hcr::PTW
            | hcr::FB
            | hcr::BSU_INNER
            | hcr::TID3
            | hcr::TSC
            | hcr::TIDCP
            | hcr::TACR
            | hcr::RW
            | hcr::TLOR
            | hcr::APK
            | hcr::API
            | hcr::ENSCXT
            | forced_write_back(machine),
        cptr_el2: CPTR,
        mdcr_el2: mdcr::TPMS | mdcr::HPMD | mdcr::TTRF | mdcr::HCCD | pmu,
        hstr_el2: 0,
        cnthctl_el2: EL1PCTEN | EL1PCEN,
        cntvoff_el2: 0,
        vmpidr_el2: mpidr,
        vpidr_el2: machine.id_register(MIDR),
        icc_sre_el2: ICC_SRE | ICC_SRE_ENABLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimMachine;
    use std::vec::Vec;

    /// The bits that are set, as the Arm ARM numbers them.
    fn bits(value: u64) -> Vec<u32> {
        (0..64).filter(|bit| value >> bit & 1 == 1).collect()
    }

    /// TZ, TSM, TTA, TAM trap beside the RES1 bits; TFP (10) does not.
    const CPTR_BITS: [u32; 14] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 20, 30];

    #[test]
    fn a_guest_runs_behind_stage_2_with_every_trap() {
        let controls = guest(&SimMachine::new(&[]), 3);
        let hcr = [0, 1, 2, 3, 4, 5, 9, 10, 13, 18, 19, 20, 21, 22, 31, 35, 36];
        assert_eq!(bits(controls.hcr_el2), hcr);
        assert_eq!(bits(controls.mdcr_el2), [5, 6, 9, 10, 11, 14, 17, 19, 23, 27]);
        assert_eq!(bits(controls.cptr_el2), CPTR_BITS);
        assert_eq!(bits(controls.cnthctl_el2), [0; 0], "physical counter and timer trap");
        assert_eq!((controls.vmpidr_el2, controls.cntvoff_el2), (0x8000_0003, 0));
        assert_eq!(bits(controls.icc_sre_el2), [0, 1, 2], "ICC_SRE_EL1 traps");
    }

    #[test]
    fn the_host_has_a_pmu_where_the_cpu_can_keep_it_out_of_el2() {
        for (version, traps) in [
            (0, false),
            (1, true),
            (2, true),
            (3, true),
            (4, false),
            (6, false),
            (9, false),
            (15, false),
        ] {
            let machine = SimMachine::new(&[]);
            machine.world().id_values.insert(DFR0, version << 8);
            let mdcr = host(&machine, 0).mdcr_el2;
            assert_eq!(mdcr & (mdcr::TPM | mdcr::TPMCR) != 0, traps, "PMUVer {version}");
        }
    }

    /// Both worlds, or one would still see past the caches of the other.
    #[test]
    fn write_back_is_forced_where_the_cpu_can() {
        let machine = SimMachine::new(&[]);
        let before = [guest(&machine, 0).hcr_el2, host(&machine, 0).hcr_el2];
        machine.force_write_back();
        let after = [guest(&machine, 0).hcr_el2, host(&machine, 0).hcr_el2];
        assert_eq!(after.map(|hcr| hcr >> 46 & 1), [1, 1]);
        assert_eq!(after.map(|hcr| hcr & !(1 << 46)), before);
    }

    #[test]
    fn the_host_runs_behind_stage_2_and_keeps_interrupts_timers_and_debug() {
        let controls = host(&SimMachine::new(&[]), 0x8000_0100);
        let hcr = [0, 1, 2, 9, 10, 18, 19, 20, 21, 31, 35, 40, 41, 53];
        assert_eq!(bits(controls.hcr_el2), hcr);
        // A Cortex-A72's PMU (PMUVer 1) cannot be kept from counting EL2.
        assert_eq!(bits(controls.mdcr_el2), [5, 6, 14, 17, 19, 23]);
        assert_eq!(bits(controls.cptr_el2), CPTR_BITS);
        assert_eq!(bits(controls.cnthctl_el2), [0, 1]);
        assert_eq!((controls.vmpidr_el2, controls.cntvoff_el2), (0x8000_0100, 0));
        assert_eq!(bits(controls.icc_sre_el2), [0, 1, 2, 3], "the host owns the interface");
    }
}
