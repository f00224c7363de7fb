//! Encodings that a scan must not treat like the others, and why.

/// How an encoding differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Special {
    /// See [`code`].
    pub code: u16,
    /// Reading it has no effect.
    pub read: bool,
    /// Bits that keep their value when it is written; all ones: never write it.
    pub keep: u64,
    /// Bits that are always written as ones.
    pub set: u64,
    /// Bits that change by themselves.
    pub volatile: u64,
    /// The reason.
    pub why: &'static str,
}

/// op0 = 3 and these fields as a number below [`super::ENCODINGS`].
pub const fn code(op1: u16, crn: u16, crm: u16, op2: u16) -> u16 {
    op1 << 11 | crn << 7 | crm << 3 | op2
}

const ALL: u64 = u64::MAX;

const fn acts(code: u16, why: &'static str) -> Special {
    Special { code, read: true, keep: ALL, set: 0, volatile: 0, why }
}

const fn keeps(code: u16, keep: u64, why: &'static str) -> Special {
    Special { code, read: true, keep, set: 0, volatile: 0, why }
}

const fn changes(code: u16, why: &'static str) -> Special {
    Special { code, read: true, keep: ALL, set: 0, volatile: ALL, why }
}

const fn acknowledges(code: u16, why: &'static str) -> Special {
    Special { code, read: false, keep: ALL, set: 0, volatile: 0, why }
}

const fn timer(code: u16) -> Special {
    let why = "IMASK (1) stays set: no interrupt; ISTATUS (2) follows the counter";
    Special { code, read: true, keep: 1 << 1, set: 1 << 1, volatile: 1 << 2, why }
}

/// Stage 1 of the program that scans: what it relies on keeps its value.
const STAGE_1: &str = "stage 1: only bits that this program's own translation does not use";
/// Nothing of it can be changed harmlessly.
const NO_STAGE_1: &str = "stage 1: every bit changes this program's own translation";
const PAIR: &str = "sets or clears what another register of the pair shows, bit by bit";
const CLOCK: &str = "the counter, or made from it";
const RANDOM: &str = "a random number";

/// Names as in the Arm ARM, C5 and D24, and IHI 0069, 12.
#[rustfmt::skip]
pub const SPECIAL: [Special; 63] = [
    // SCTLR_EL1: UMA, DZE, UCT, nTWI, nTWE, UCI are about EL0, which is empty.
    keeps(code(0, 1, 0, 0), !(1 << 9 | 1 << 14 | 1 << 15 | 1 << 16 | 1 << 18 | 1 << 26), STAGE_1),
    // CPACR_EL1.FPEN: FPCR and FPSR would trap.
    keeps(code(0, 1, 0, 2), 3 << 20, "FPEN stays: FPCR and FPSR are read"),
    acts(code(0, 1, 0, 3), NO_STAGE_1),                     // SCTLR2_EL1
    keeps(code(0, 2, 0, 0), (1 << 48) - 1, STAGE_1),        // TTBR0_EL1: ASID
    // TTBR1_EL1 is free: TCR_EL1.EPD1 is set.
    // TCR_EL1: the half for TTBR1, less EPD1 and A1; TBI1.
    keeps(code(0, 2, 0, 2), !(0xff3f_0000 | 1 << 38), STAGE_1),
    acts(code(0, 2, 0, 3), NO_STAGE_1),                     // TCR2_EL1
    acts(code(0, 4, 2, 0), "SPSel: the stack pointer would be another"),
    acknowledges(code(0, 12, 8, 0), "ICC_IAR0_EL1 acknowledges an interrupt"),
    acts(code(0, 12, 8, 1), "ICC_EOIR0_EL1 ends an interrupt"),
    changes(code(0, 12, 8, 2), "ICC_HPPIR0_EL1: which interrupt is pending"),
    keeps(code(0, 10, 2, 0), 0xffff_ffff, STAGE_1),         // MAIR_EL1: attributes 4 to 7
    acts(code(0, 10, 2, 1), NO_STAGE_1),                    // MAIR2_EL1
    acts(code(0, 10, 2, 2), NO_STAGE_1),                    // PIRE0_EL1
    acts(code(0, 10, 2, 3), NO_STAGE_1),                    // PIR_EL1
    acts(code(0, 10, 2, 4), NO_STAGE_1),                    // POR_EL1
    acts(code(0, 10, 2, 5), NO_STAGE_1),                    // S2POR_EL1
    acts(code(0, 12, 0, 2), "RMR_EL1 asks for a reset"),
    changes(code(0, 12, 1, 0), "ISR_EL1: what is pending"),
    acknowledges(code(0, 12, 9, 5), "ICC_NMIAR1_EL1 acknowledges an interrupt"),
    acts(code(0, 12, 11, 1), "ICC_DIR_EL1 deactivates an interrupt"),
    changes(code(0, 12, 11, 3), "ICC_RPR_EL1: what is active"),
    acts(code(0, 12, 11, 5), "ICC_SGI1R_EL1 sends an interrupt"),
    acts(code(0, 12, 11, 6), "ICC_ASGI1R_EL1 sends an interrupt"),
    acts(code(0, 12, 11, 7), "ICC_SGI0R_EL1 sends an interrupt"),
    acknowledges(code(0, 12, 12, 0), "ICC_IAR1_EL1 acknowledges an interrupt"),
    acts(code(0, 12, 12, 1), "ICC_EOIR1_EL1 ends an interrupt"),
    changes(code(0, 12, 12, 2), "ICC_HPPIR1_EL1: which interrupt is pending"),
    keeps(code(0, 12, 12, 5), 1, "ICC_SRE_EL1.SRE: the interface would be another"),
    acts(code(0, 9, 14, 1), PAIR),                          // PMINTENSET_EL1
    acts(code(0, 9, 14, 2), PAIR),                          // PMINTENCLR_EL1
    changes(code(3, 2, 4, 0), RANDOM),                      // RNDR
    changes(code(3, 2, 4, 1), RANDOM),                      // RNDRRS
    acts(code(3, 2, 5, 1), "GCSPR_EL0: the stack of return addresses"),
    changes(code(3, 4, 2, 0), "NZCV: of the instruction before"),
    acts(code(3, 4, 2, 1), "DAIF: an interrupt would be taken"),
    acts(code(3, 4, 2, 2), "SVCR: FP registers would be others"),
    keeps(code(3, 9, 12, 0), 0b111, "PMCR_EL0: E starts counting, P and C reset counters"),
    acts(code(3, 9, 12, 1), PAIR),                          // PMCNTENSET_EL0
    acts(code(3, 9, 12, 2), PAIR),                          // PMCNTENCLR_EL0
    acts(code(3, 9, 12, 3), PAIR),                          // PMOVSCLR_EL0
    acts(code(3, 9, 12, 4), "PMSWINC_EL0 counts"),
    acts(code(3, 9, 13, 4), "PMZR_EL0 resets counters"),
    acts(code(3, 9, 14, 3), PAIR),                          // PMOVSSET_EL0
    acts(code(3, 13, 2, 4), PAIR),                          // AMCNTENCLR0_EL0
    acts(code(3, 13, 2, 5), PAIR),                          // AMCNTENSET0_EL0
    acts(code(3, 13, 3, 0), PAIR),                          // AMCNTENCLR1_EL0
    acts(code(3, 13, 3, 1), PAIR),                          // AMCNTENSET1_EL0
    changes(code(3, 13, 4, 0), CLOCK),                      // AMEVCNTR00_EL0
    changes(code(3, 13, 4, 1), CLOCK),
    changes(code(3, 13, 4, 2), CLOCK),
    changes(code(3, 13, 4, 3), CLOCK),
    changes(code(3, 14, 0, 1), CLOCK),                      // CNTPCT_EL0
    changes(code(3, 14, 0, 2), CLOCK),                      // CNTVCT_EL0
    changes(code(3, 14, 0, 5), CLOCK),                      // CNTPCTSS_EL0
    changes(code(3, 14, 0, 6), CLOCK),                      // CNTVCTSS_EL0
    changes(code(3, 14, 2, 0), CLOCK),                      // CNTP_TVAL_EL0
    timer(code(3, 14, 2, 1)),                               // CNTP_CTL_EL0
    changes(code(3, 14, 3, 0), CLOCK),                      // CNTV_TVAL_EL0
    timer(code(3, 14, 3, 1)),                               // CNTV_CTL_EL0
    changes(code(7, 14, 2, 0), CLOCK),                      // CNTPS_TVAL_EL1
    timer(code(7, 14, 2, 1)),                               // CNTPS_CTL_EL1
    changes(code(5, 14, 2, 0), CLOCK),                      // CNTP_TVAL_EL02
    changes(code(5, 14, 3, 0), CLOCK),                      // CNTV_TVAL_EL02
];

/// What is special about an encoding, if anything is.
pub fn special(code: u16) -> Option<&'static Special> {
    SPECIAL.iter().find(|special| special.code == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_encoding_is_listed_once_with_its_reason() {
        for (index, special) in SPECIAL.iter().enumerate() {
            assert!(special.code < super::super::ENCODINGS && !special.why.is_empty());
            let same = SPECIAL.iter().skip(index + 1).find(|other| other.code == special.code);
            assert_eq!(same, None);
            assert_eq!(special.set & !special.keep, 0, "what is set is not left to the pattern");
        }
    }

    /// Nearly everything is scanned in full.
    #[test]
    fn the_list_is_short() {
        let never_written = SPECIAL.iter().filter(|special| special.keep == ALL).count();
        assert!(SPECIAL.len() <= 63 && never_written <= 55, "{never_written}");
        assert_eq!(special(code(3, 13, 0, 2)), None, "TPIDR_EL0");
        assert_eq!(special(code(0, 12, 1, 1)), None, "DISR_EL1");
    }
}
