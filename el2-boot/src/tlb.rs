//! Removing stage-2 translations from the TLBs.
#![allow(unsafe_code)]

use crate::{features, sysreg};
use hyp::addr::{FRAME_SHIFT, GfnRange};
use hyp::machine::Regime;

/// What VTTBR_EL2 holds for a regime: VMID in bits 55:48 (VTCR_EL2.VS = 0).
pub(crate) fn vttbr(regime: Regime) -> u64 {
    u64::from(regime.vmid.0) << 48 | regime.root.base()
}

/// Longest range that is invalidated page by page, without FEAT_TLBIRANGE.
const MAX_SINGLE: u64 = 512;
/// Longer ranges do not fit into one instruction per scale.
const MAX_RANGE: u64 = 1 << 21;

/// TLBI by stage 2 acts on the VMID in VTTBR_EL2: puts `regime` there while
/// `act` runs.
fn with_regime(regime: Regime, act: impl FnOnce()) {
    // The words that were written must be visible to the walkers before the
    // TLBs are emptied, or they would be filled with the old ones again.
    sysreg::dsb_ish();
    let current = sysreg::vttbr_el2::read();
    let wanted = vttbr(regime);
    if current != wanted {
        // SAFETY: EL2 does not translate by VTTBR_EL2; it is put back before
        // a world is entered. The ISB keeps the TLBI from overtaking it.
        unsafe { sysreg::vttbr_el2::write(wanted) }
        sysreg::isb();
    }
    act();
    // Completion on all CPUs, of the instruction streams as well.
    sysreg::dsb_ish();
    sysreg::isb();
    if current != wanted {
        // SAFETY: as above.
        unsafe { sysreg::vttbr_el2::write(current) }
        sysreg::isb();
    }
}

/// See `Machine::invalidate`.
pub(crate) fn invalidate(regime: Regime, range: GfnRange) {
    with_regime(regime, || {
        if features::has_tlb_range() && range.count() < MAX_RANGE {
            by_range(range.start().number(), range.count());
        } else if range.count() <= MAX_SINGLE {
            range.iter().for_each(|frame| sysreg::tlbi_ipas2e1is(frame.number()));
        } else {
            sysreg::tlbi_vmalls12e1is();
            return;
        }
        // TLBs may hold stages 1 and 2 combined, by virtual address only. The
        // stage-2 entries must be gone before those are removed, or a walk in
        // between would combine anew (Arm ARM D8.16.4).
        sysreg::dsb_ish();
        sysreg::tlbi_vmalle1is();
    });
}

/// TLBI RIPAS2E1IS in as few instructions as its encoding allows: one covers
/// (NUM + 1) << (5 * SCALE + 1) pages (Arm ARM C5.5).
fn by_range(mut start: u64, mut count: u64) {
    const TG_4K: u64 = 0b01 << 46;
    if count % 2 == 1 {
        sysreg::tlbi_ipas2e1is(start);
        start += 1;
        count -= 1;
    }
    let mut scale = 0;
    while count > 0 && scale <= 3 {
        let unit = 5 * scale + 1;
        let number = count >> unit & 0x1f;
        if number > 0 {
            let base = start & ((1 << 37) - 1);
            sysreg::tlbi_ripas2e1is(TG_4K | scale << 44 | (number - 1) << 39 | base);
            start += number << unit;
            count -= number << unit;
        }
        scale += 1;
    }
}

/// See `Machine::invalidate_all`.
pub(crate) fn invalidate_all(regime: Regime) {
    with_regime(regime, sysreg::tlbi_vmalls12e1is);
}

const _: () = assert!(FRAME_SHIFT == 12, "TLBI operands are addresses >> 12");
