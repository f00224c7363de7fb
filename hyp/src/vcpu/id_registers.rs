//! Identification registers as a world may see them.
//!
//! A field is shown only if the feature works in that world: it is switched,
//! or it needs nothing from EL2. The rest reads as "not implemented". What is
//! hidden also traps or is UNDEFINED (`controls`), so a world that does not
//! believe the registers gains nothing.

use crate::machine::IdRegister;

/// Who reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum World {
    /// The host: the machine, less what EL2 keeps or does not switch.
    Host,
    /// A guest: what every arm64 kernel needs, and what is safe.
    Guest,
}

/// Four bits of an identification register.
#[derive(Clone, Copy)]
enum Field {
    /// Reads as the CPU's own.
    Keep(u32),
    /// Reads as this, whatever the CPU has.
    Set(u32, u64),
    /// Reads as the CPU's own but at most this (unsigned fields).
    AtMost(u32, u64),
}
use Field::{AtMost, Keep, Set};

/// Value of ID register `register` for `world`; `real` is the CPU's own.
pub fn sanitised(world: World, register: IdRegister, real: u64) -> u64 {
    match world {
        World::Guest => compose(guest_fields(register), real),
        World::Host => host(register, real),
    }
}

fn compose(fields: &[Field], real: u64) -> u64 {
    fields.iter().fold(0, |value, field| {
        let (position, bits) = match *field {
            Keep(position) => (position, real >> position & 0xf),
            Set(position, bits) => (position, bits & 0xf),
            AtMost(position, most) => (position, (real >> position & 0xf).min(most)),
        };
        value | bits << position
    })
}

/// The fields a guest sees; what is not listed reads as zero (and so do all
/// AArch32 registers: a guest's EL0 is AArch64 only).
fn guest_fields(register: IdRegister) -> &'static [Field] {
    match (register.crm, register.op2) {
        // PFR0: EL0/EL1 AArch64 only, no EL2/EL3, FP, AdvSIMD, GICv3 CPU
        // interface, DIT, CSV2, CSV3. No RAS, SVE, MPAM, AMU.
        (4, 0) => &[
            Set(0, 1),
            Set(4, 1),
            Keep(16),
            Keep(20),
            Set(24, 1),
            Keep(48),
            AtMost(56, 1),
            Keep(60),
        ],
        // PFR1: BTI, SSBS. No MTE, SME, NMI, GCS.
        (4, 1) => &[Keep(0), Keep(4)],
        // DFR0: the debug architecture of v8.0 with the CPU's breakpoints and
        // watchpoints (`guest::debug`), no PMU, SPE, trace; no double lock
        // (0xf).
        (5, 0) => &[Set(0, 6), Keep(12), Keep(20), Keep(28), Set(36, 0xf)],
        // ISAR0: all instructions but transactional memory.
        (6, 0) => &[
            Keep(4),
            Keep(8),
            Keep(12),
            Keep(16),
            Keep(20),
            Keep(28),
            Keep(32),
            Keep(36),
            Keep(40),
            Keep(44),
            Keep(48),
            Keep(52),
            Keep(56),
            Keep(60),
        ],
        // ISAR1: DPB, JSCVT, FCMA, LRCPC, FRINTTS, SB, SPECRES, BF16, DGH,
        // I8MM. No pointer authentication (trapped), no LS64, no XS.
        (6, 1) => &[
            Keep(0),
            Keep(12),
            Keep(16),
            Keep(20),
            Keep(32),
            Keep(36),
            Keep(40),
            Keep(44),
            Keep(48),
            Keep(52),
        ],
        // ISAR2: RPRES, BC, CLRBHB. No WFxT (its timeout would be lost in
        // the trap), no MOPS (HCRX_EL2.MSCEn is clear).
        (6, 2) => &[Keep(4), Keep(20), Keep(28)],
        // MMFR0: at most 40 bits of address, ASID size, endianness at EL0,
        // granules. No FGT, no ECV.
        (7, 0) => &[AtMost(0, 2), Keep(4), Keep(8), Keep(16), Keep(20), Keep(24), Keep(28)],
        // MMFR1: access flag and dirty state, hierarchical permission
        // disable, PAN, ETS, AFP.
        (7, 1) => &[AtMost(0, 2), Keep(12), Keep(20), Keep(36), Keep(44)],
        // MMFR2: CnP, UAO, LSMAOC, VARange, CCIDX, ST, AT, IDS, TTL, BBM, E0PD.
        (7, 2) => &[
            Keep(0),
            Keep(4),
            Keep(8),
            Keep(16),
            Keep(20),
            Keep(28),
            Keep(32),
            Keep(36),
            Keep(48),
            Keep(52),
            Keep(60),
        ],
        _ => &[],
    }
}

const fn field(position: u32) -> u64 {
    0xf << position
}

fn host(register: IdRegister, real: u64) -> u64 {
    let shown = real & !host_hidden(register);
    match (register.crm, register.op2) {
        // ID_DFR0_EL1.PerfMon and ID_AA64DFR0_EL1.PMUVer.
        (1, 2) if (1..=3).contains(&(real >> 24 & 0xf)) => shown & !field(24),
        (5, 0) if counts_at_el2(real) => shown & !field(8),
        // MMFR1.HAFDBS beyond dirty state needs TCR2_EL1, which traps.
        (7, 1) => shown & !field(0) | compose(&[AtMost(0, 2)], real),
        _ => shown,
    }
}

/// Would the PMU, of the CPU with this ID_AA64DFR0_EL1, count EL2's events if
/// the host told it to: PMUVer says FEAT_PMUv3 and not yet FEAT_PMUv3p1 (4)?
pub(super) fn counts_at_el2(dfr0: u64) -> bool {
    (1..=3).contains(&(dfr0 >> 8 & 0xf))
}

/// Fields of the CPU that the host does not see.
fn host_hidden(register: IdRegister) -> u64 {
    match (register.crm, register.op2) {
        // EL2 is taken; SVE is not switched; MPAM and AMU trap; RME.
        (4, 0) => field(8) | field(12) | field(32) | field(40) | field(44) | field(52),
        // MTE, MPAM_frac, SME, NMI, GCS, THE and what needs HCRX_EL2.
        (4, 1) => !(field(0) | field(4) | field(32)),
        // ZFR0, SMFR0, FPFR0, PFR2.
        (4, 2..=7) => u64::MAX,
        // Trace, SPE, trace filter and buffer, BRBE: they write to memory.
        (5, 0) => field(4) | field(32) | field(40) | field(44) | field(52),
        (5, 1) => u64::MAX,
        // TME; LS64 and XS; MOPS and later, which need HCRX_EL2 enables.
        (6, 0) => field(24),
        (6, 1) => field(56) | field(60),
        (6, 2) => !(field(0) | field(4) | field(8) | field(12) | field(20) | field(28)),
        (6, 3..=7) => u64::MAX,
        // FGT and ECV are EL2's; VH, LOR, HCX, TWED too; nested virtualisation.
        (7, 0) => field(56) | field(60),
        (7, 1) => {
            field(8)
                | field(16)
                | field(32)
                | field(40)
                | field(48)
                | field(52)
                | field(56)
                | field(60)
        }
        (7, 2) => field(24) | field(40) | field(56),
        (7, 3..=7) => u64::MAX,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(crm: u8, op2: u8, real: u64) -> u64 {
        sanitised(World::Guest, IdRegister { crm, op2 }, real)
    }

    #[test]
    fn a_guest_never_sees_what_is_not_switched_or_traps() {
        let all = 0x1111_1111_1111_1111;
        let pfr0 = guest(4, 0, all);
        assert_eq!(pfr0 >> 32 & 0xf, 0, "SVE");
        assert_eq!(pfr0 >> 8 & 0xff, 0, "EL2 and EL3");
        assert_eq!(pfr0 >> 44 & 0xf, 0, "AMU");
        assert_eq!(guest(4, 1, all) >> 8 & 0xf, 0, "MTE");
        assert_eq!(guest(4, 1, all) >> 24 & 0xf, 0, "SME");
        assert_eq!(guest(5, 0, all) >> 8 & 0xf, 0, "PMU");
        assert_eq!(guest(5, 0, all) >> 32 & 0xf, 0, "SPE");
        assert_eq!(guest(6, 1, all) & 0xff00_0ff0, 0, "pointer authentication");
        assert_eq!(guest(6, 2, all) >> 16 & 0xf, 0, "MOPS");
        for (crm, op2) in [(4, 4), (4, 5), (5, 1), (5, 4), (6, 3), (7, 3), (7, 4)] {
            assert_eq!(guest(crm, op2, u64::MAX), 0, "ID register {crm},{op2}");
        }
        for crm in 1..=3 {
            for op2 in 0..=7 {
                assert_eq!(guest(crm, op2, u64::MAX), 0, "AArch32 {crm},{op2}");
            }
        }
    }

    #[test]
    fn a_guest_sees_fp_and_a_gicv3_interface_and_no_more_address_bits_than_it_has() {
        assert_eq!(guest(4, 0, 0x22), 0x0100_0011);
        assert_eq!(guest(4, 0, 0xf << 16 | 0xf << 20) >> 16 & 0xff, 0xff, "no FP stays no FP");
        assert_eq!(guest(7, 0, 5) & 0xf, 2);
        assert_eq!(guest(7, 0, 1) & 0xf, 1);
    }

    #[test]
    fn the_host_keeps_its_machine_less_what_el2_withholds() {
        let host = |crm, op2| sanitised(World::Host, IdRegister { crm, op2 }, u64::MAX);
        assert_eq!(host(4, 0) >> 32 & 0xf, 0, "SVE");
        assert_eq!(host(4, 1) >> 24 & 0xf, 0, "SME");
        assert_eq!(host(5, 0) >> 32 & 0xf, 0, "SPE");
        assert_eq!(host(5, 0) >> 44 & 0xf, 0, "TRBE");
        assert_eq!(host(5, 0) >> 8 & 0xf, 0xf, "the PMU is the host's");
        assert_eq!(host(6, 1) >> 4 & 0xff, 0xff, "pointer authentication is the host's");
    }

    /// Arm ARM D24.2.55, PMUVer; 4 is FEAT_PMUv3p1, which has MDCR_EL2.HPMD.
    #[test]
    fn the_host_sees_no_pmu_that_would_count_el2() {
        let seen = |crm, op2, real| sanitised(World::Host, IdRegister { crm, op2 }, real);
        for (version, shown) in [(0, 0), (1, 0), (2, 0), (3, 0), (4, 4), (5, 5), (8, 8), (15, 15)] {
            assert_eq!(seen(5, 0, version << 8) >> 8 & 0xf, shown, "PMUVer {version}");
            assert_eq!(seen(1, 2, version << 24) >> 24 & 0xf, shown, "PerfMon {version}");
        }
    }

    /// Every field of every register, for a CPU that has everything: what the
    /// host sees, what a guest sees, and what a guest sees of a CPU that has
    /// nothing. Written down from the Arm ARM (D24.2), four bits a field.
    #[test]
    fn both_worlds_see_these_fields_and_no_others() {
        const SHOWN: [(u8, u8, u64, u64, u64); 15] = [
            (4, 0, 0xff0f_00f0_ffff_00ff, 0xf10f_0000_01ff_0011, 0x0100_0011),
            (4, 1, 0x0000_000f_0000_00ff, 0x0000_0000_0000_00ff, 0),
            (5, 0, 0xff0f_00f0_ffff_ff0f, 0x0000_00f0_f0f0_f006, 0xf0_0000_0006),
            (5, 2, u64::MAX, 0, 0),
            (5, 3, u64::MAX, 0, 0),
            (5, 4, u64::MAX, 0, 0),
            (5, 5, u64::MAX, 0, 0),
            (5, 6, u64::MAX, 0, 0),
            (5, 7, u64::MAX, 0, 0),
            (6, 0, 0xffff_ffff_f0ff_ffff, 0xffff_ffff_f0ff_fff0, 0),
            (6, 1, 0x00ff_ffff_ffff_ffff, 0x00ff_ffff_00ff_f00f, 0),
            (6, 2, 0x0000_0000_f0f0_ffff, 0x0000_0000_f0f0_00f0, 0),
            (7, 0, 0x00ff_ffff_ffff_ffff, 0x0000_0000_ffff_0ff2, 0),
            (7, 1, 0x0000_f0f0_fff0_f0f2, 0x0000_f0f0_00f0_f002, 0),
            (7, 2, 0xf0ff_f0ff_f0ff_ffff, 0xf0ff_00ff_f0ff_0fff, 0),
        ];
        for register in 0..64 {
            let (crm, op2) = (register / 8, register % 8);
            let row = SHOWN.iter().copied().find(|row| (row.0, row.1) == (crm, op2));
            // AArch32 and MIDR are the host's; the rest has nobody.
            let host_only = if crm < 4 { u64::MAX } else { 0 };
            let (_, _, host, shown, always) = row.unwrap_or((crm, op2, host_only, 0, 0));
            let host_sees = sanitised(World::Host, IdRegister { crm, op2 }, u64::MAX);
            assert_eq!(host_sees, host, "host, {crm} {op2}");
            assert_eq!(sanitised(World::Host, IdRegister { crm, op2 }, 0), 0, "{crm} {op2}");
            assert_eq!(guest(crm, op2, u64::MAX), shown, "guest, {crm} {op2}");
            assert_eq!(guest(crm, op2, 0), always, "guest, {crm} {op2}");
        }
    }
}
