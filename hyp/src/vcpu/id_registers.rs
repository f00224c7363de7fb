//! Identification registers as a world may see them.
//!
//! A field is shown only if the feature works in that world: it is switched,
//! or emulated, or it needs nothing from EL2; a guest's are in one table that
//! says which of the three. The rest reads as "not implemented". What is
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

impl Field {
    /// The field, in its place, of a register that is `real`.
    fn of(self, real: u64) -> u64 {
        let (position, bits) = match self {
            Keep(position) => (position, real >> position & 0xf),
            Set(position, bits) => (position, bits & 0xf),
            AtMost(position, most) => (position, (real >> position & 0xf).min(most)),
        };
        bits << position
    }
}

/// Value of ID register `register` for `world`; `real` is the CPU's own.
pub fn sanitised(world: World, register: IdRegister, real: u64) -> u64 {
    match world {
        World::Guest => {
            let fields = guest_fields(register).iter();
            fields.fold(0, |value, (field, _, _)| value | field.of(real))
        }
        World::Host => host(register, real),
    }
}

/// What stands behind a feature that a guest is shown. A feature with nothing
/// behind it is not shown: it would be there until somebody uses it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Behind {
    /// The CPU does it by itself, by instructions and by bits of PSTATE, of
    /// translation tables and of registers that every world has (SCTLR_EL1,
    /// TCR_EL1 and so on, which `world::el1` and `vectors.S` switch).
    Cpu,
    /// State of its own, which `el2-boot` saves and loads in this file.
    Switched(&'static str),
    /// Its registers trap, and this file of `hyp` does the work.
    Emulated(&'static str),
}
use Behind::{Cpu, Emulated, Switched};

/// The files that the table names.
const FP: Behind = Switched("world/fp.rs");
const EL1: Behind = Switched("world/el1.rs");
const GIC: Behind = Switched("world/gic.rs");
const DEBUG: Behind = Emulated("guest/debug.rs");
const STAGE_2: Behind = Emulated("stage2/mod.rs");

/// The fields a guest sees, by register, with their names (Arm ARM D24.2) and
/// what stands behind each. What is not listed reads as zero, and so do all
/// AArch32 registers: a guest's EL0 is AArch64 only.
fn guest_fields(register: IdRegister) -> &'static [(Field, &'static str, Behind)] {
    match (register.crm, register.op2) {
        // ID_AA64PFR0_EL1. No EL2, EL3, RAS, SVE, MPAM, AMU, RME.
        (4, 0) => &[
            (Set(0, 1), "EL0", Cpu),
            (Set(4, 1), "EL1", Cpu),
            (Keep(16), "FP", FP),
            (Keep(20), "AdvSIMD", FP),
            (Set(24, 1), "GIC", GIC),
            (Keep(48), "DIT", Cpu),
            // Without SCXTNUM_ELx, which is not switched.
            (AtMost(56, 1), "CSV2", Cpu),
            (Keep(60), "CSV3", Cpu),
        ],
        // ID_AA64PFR1_EL1. No MTE, SME, NMI, GCS.
        (4, 1) => &[(Keep(0), "BT", Cpu), (Keep(4), "SSBS", Cpu)],
        // ID_AA64DFR0_EL1. The debug architecture of v8.0; no PMU, SPE, trace;
        // no double lock (0xf).
        (5, 0) => &[
            (Set(0, 6), "DebugVer", DEBUG),
            (Keep(12), "BRPs", DEBUG),
            (Keep(20), "WRPs", DEBUG),
            (Keep(28), "CTX_CMPs", DEBUG),
            (Set(36, 0xf), "DoubleLock", DEBUG),
        ],
        // ID_AA64ISAR0_EL1. No transactional memory.
        (6, 0) => &[
            (Keep(4), "AES", FP),
            (Keep(8), "SHA1", FP),
            (Keep(12), "SHA2", FP),
            (Keep(16), "CRC32", Cpu),
            (Keep(20), "Atomic", Cpu),
            (Keep(28), "RDM", FP),
            (Keep(32), "SHA3", FP),
            (Keep(36), "SM3", FP),
            (Keep(40), "SM4", FP),
            (Keep(44), "DP", FP),
            (Keep(48), "FHM", FP),
            (Keep(52), "TS", Cpu),
            (Keep(56), "TLB", Cpu),
            (Keep(60), "RNDR", Cpu),
        ],
        // ID_AA64ISAR1_EL1. No pointer authentication (trapped), LS64, XS.
        (6, 1) => &[
            (Keep(0), "DPB", Cpu),
            (Keep(12), "JSCVT", FP),
            (Keep(16), "FCMA", FP),
            (Keep(20), "LRCPC", Cpu),
            (Keep(32), "FRINTTS", FP),
            (Keep(36), "SB", Cpu),
            (Keep(40), "SPECRES", Cpu),
            (Keep(44), "BF16", FP),
            (Keep(48), "DGH", Cpu),
            (Keep(52), "I8MM", FP),
        ],
        // ID_AA64ISAR2_EL1. No WFxT (its timeout would be lost in the trap), no
        // MOPS (HCRX_EL2.MSCEn is clear).
        (6, 2) => &[(Keep(4), "RPRES", FP), (Keep(20), "BC", Cpu), (Keep(28), "CLRBHB", Cpu)],
        // ID_AA64MMFR0_EL1. At most 40 bits of address; no FGT, ECV.
        (7, 0) => &[
            (AtMost(0, 2), "PARange", STAGE_2),
            (Keep(4), "ASIDBits", EL1),
            (Keep(8), "BigEnd", Cpu),
            (Keep(16), "BigEndEL0", Cpu),
            (Keep(20), "TGran16", EL1),
            (Keep(24), "TGran64", EL1),
            (Keep(28), "TGran4", EL1),
        ],
        // ID_AA64MMFR1_EL1. No HAFT (it needs TCR2_EL1), VMID, VH, LO, HCX.
        (7, 1) => &[
            (AtMost(0, 2), "HAFDBS", EL1),
            (Keep(12), "HPDS", EL1),
            (Keep(20), "PAN", Cpu),
            (Keep(36), "ETS", Cpu),
            (Keep(44), "AFP", FP),
        ],
        // ID_AA64MMFR2_EL1. No NV, FWB, EVT.
        (7, 2) => &[
            (Keep(0), "CnP", EL1),
            (Keep(4), "UAO", Cpu),
            (Keep(8), "LSM", Cpu),
            (Keep(16), "VARange", EL1),
            (Keep(20), "CCIDX", EL1),
            (Keep(28), "ST", EL1),
            (Keep(32), "AT", Cpu),
            (Keep(36), "IDS", Emulated("guest/sysreg.rs")),
            (Keep(48), "TTL", Cpu),
            (Keep(52), "BBM", Cpu),
            (Keep(60), "E0PD", EL1),
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
        (7, 1) => shown & !field(0) | AtMost(0, 2).of(real),
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

    /// ID_AA64PFR1, DFR0, ISAR0, ISAR1, ISAR2, MMFR0, MMFR1 and MMFR2_EL1 of the
    /// models that are tested, as QEMU 10.0 has them.
    const MODELS: [(&str, [u64; 8]); 9] = [
        ("cortex-a53", [0, 0x1030_5106, 0x0001_1120, 0, 0, 0x1122, 0, 0]),
        ("cortex-a72", [0, 0x1030_5106, 0x0001_1120, 0, 0, 0x1124, 0, 0]),
        (
            "cortex-a76",
            [0x10, 0x1030_5408, 0x1000_1021_1120, 0x0010_0001, 0, 0x0010_1122, 0x1021_2122, 0x1011],
        ),
        (
            "neoverse-n1",
            [0x20, 0x1030_5408, 0x1000_1021_1120, 0x0010_0001, 0, 0x0010_1125, 0x1021_2122, 0x1011],
        ),
        (
            "neoverse-v1",
            [
                0x20,
                0x00f0_1030_5509,
                0x1011_1111_1021_2120,
                0x0011_1000_1021_1302,
                0,
                0x0010_1125,
                0x1021_2122,
                0x0220_0111_0210_1011,
            ],
        ),
        (
            "neoverse-n2",
            [
                0x121,
                0x00f0_1030_5609,
                0x1221_1111_1021_2120,
                0x0011_1111_1021_1502,
                0,
                0x0222_0010_1125,
                0x1021_2122,
                0x1221_0111_1210_1011,
            ],
        ),
        ("a64fx", [0, 0x1030_5408, 0x1021_1120, 0x0001_0001, 0, 0x1122, 0x1121_2100, 0x1011]),
        (
            "cortex-a710",
            [
                0x121,
                0x00f0_1030_5609,
                0x0221_1111_1021_2120,
                0x0010_1111_1021_1502,
                0,
                0x0222_0010_1122,
                0x1021_2122,
                0x1221_0111_1010_1011,
            ],
        ),
        (
            "max",
            [
                0x0010_0100_0121,
                0x1000_0000_1030_560a,
                0x1221_1111_1021_2120,
                0x0111_2111_1021_1502,
                0x0011_0012,
                0x2100_0323_1020_1126,
                0x0110_1120_1031_2122,
                0x1221_0111_1201_1011,
            ],
        ),
    ];

    /// The position of a field.
    fn position(field: Field) -> u32 {
        match field {
            Keep(position) | Set(position, _) | AtMost(position, _) => position,
        }
    }

    /// Whatever the CPU has: each bit that a guest reads is of a field in the
    /// table, no field is there twice, and what is named behind it exists.
    #[test]
    fn nothing_is_shown_without_something_behind_it() {
        let el2 = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../el2-boot/src");
        let policy = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        for register in 0..64 {
            let id = IdRegister { crm: register / 8, op2: register % 8 };
            let mut covered = 0;
            for (shown, name, behind) in guest_fields(id) {
                let mask = field(position(*shown));
                assert_eq!(covered & mask, 0, "{name} is there twice");
                covered |= mask;
                let file = match behind {
                    Cpu => continue,
                    Switched(file) => el2.join(file),
                    Emulated(file) => policy.join(file),
                };
                assert!(file.exists(), "{name}: {} is not there", file.display());
            }
            let with = |real| sanitised(World::Guest, id, real) & !covered;
            let walking = (0..64).map(|bit| 1 << bit);
            let all = [u64::MAX, 0, 0x1111_1111_1111_1111, 0x8888_8888_8888_8888];
            for real in all.into_iter().chain(walking) {
                assert_eq!(with(real), 0, "{id:?} of a CPU with {real:#x}");
            }
        }
        let order = [(4, 1), (5, 0), (6, 0), (6, 1), (6, 2), (7, 0), (7, 1), (7, 2)];
        for (model, values) in &MODELS {
            for ((crm, op2), real) in order.into_iter().zip(values) {
                let id = IdRegister { crm, op2 };
                let fields = guest_fields(id).iter().map(|(shown, ..)| field(position(*shown)));
                let table = fields.fold(0, |mask, field| mask | field);
                let shown = sanitised(World::Guest, id, *real);
                assert_eq!(shown & !table, 0, "{model} {crm} {op2}");
                // Of each feature no more than the CPU has.
                for (of, name, _) in guest_fields(id) {
                    if let Keep(at) | AtMost(at, _) = of {
                        let (seen, has) = (shown >> at & 0xf, real >> at & 0xf);
                        assert!(seen <= has, "{model}: {name}");
                    }
                }
            }
        }
    }
}
