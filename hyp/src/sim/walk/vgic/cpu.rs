//! A tiny virtual CPU interface: what the hardware does with list registers
//! when a guest acknowledges and completes interrupts (IHI0069 4.8, 6.1).

use crate::vcpu::state::VirtualCpuInterface;
use std::vec::Vec;

/// What ICC_IAR1_EL1 says when there is nothing.
pub(crate) const SPURIOUS: u32 = 1023;

const HW: u64 = 1 << 61;
const EOI: u64 = 1 << 41;

pub(crate) fn state(lr: u64) -> u64 {
    lr >> 62
}

fn priority(lr: u64) -> u32 {
    (lr >> 48) as u32 & 0xff
}

fn group(lr: u64) -> u64 {
    lr >> 60 & 1
}

/// Lowest active priority value, 256 if nothing is active.
fn running(gic: &VirtualCpuInterface) -> u32 {
    let active = (gic.ap0r[0] | gic.ap1r[0]) as u32;
    if active == 0 { 256 } else { active.trailing_zeros() * 8 }
}

/// The list register the interface signals.
fn signalled(gic: &VirtualCpuInterface) -> Option<usize> {
    let best = (0..16).filter(|&n| state(gic.lr[n]) == 1);
    let best = best.filter(|&n| gic.vmcr >> group(gic.lr[n]) & 1 == 1);
    let best = best.min_by_key(|&n| (priority(gic.lr[n]), gic.lr[n] as u32))?;
    let mask = (gic.vmcr >> 24) as u32;
    let urgent = priority(gic.lr[best]);
    (urgent < mask && urgent < running(gic)).then_some(best)
}

/// Does the interface signal an interrupt?
pub(crate) fn signals(gic: &VirtualCpuInterface) -> bool {
    signalled(gic).is_some()
}

/// ICC_IAR1_EL1 (or ICC_IAR0_EL1, whichever group is signalled).
pub(crate) fn acknowledge(gic: &mut VirtualCpuInterface) -> u32 {
    let Some(n) = signalled(gic) else { return SPURIOUS };
    let lr = gic.lr[n];
    gic.lr[n] = lr & !(3 << 62) | 2 << 62;
    let active = if group(lr) == 1 { &mut gic.ap1r } else { &mut gic.ap0r };
    active[0] |= 1 << (priority(lr) / 8);
    lr as u32
}

/// What a completion did outside the virtual CPU interface.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Completed {
    /// Nothing.
    Inside,
    /// The physical interrupt was deactivated.
    Physical,
    /// Nothing yet: the write trapped.
    Trapped,
}

/// Drops the running priority.
pub(crate) fn drop_priority(gic: &mut VirtualCpuInterface) {
    let urgent = running(gic) / 8;
    if urgent < 32 {
        let bank = if gic.ap0r[0] >> urgent & 1 == 1 { &mut gic.ap0r } else { &mut gic.ap1r };
        bank[0] &= !(1 << urgent);
    }
}

/// ICC_EOIR1_EL1 in EOI mode 0: priority drop and deactivation.
pub(crate) fn end(gic: &mut VirtualCpuInterface, intid: u32) -> Completed {
    drop_priority(gic);
    deactivate(gic, intid)
}

/// ICC_DIR_EL1.
pub(crate) fn deactivate_register(gic: &mut VirtualCpuInterface, intid: u32) -> Completed {
    if gic.hcr & 1 << 14 != 0 { Completed::Trapped } else { deactivate(gic, intid) }
}

fn deactivate(gic: &mut VirtualCpuInterface, intid: u32) -> Completed {
    for lr in &mut gic.lr {
        if *lr as u32 == intid && state(*lr) & 2 != 0 {
            *lr &= !(2 << 62);
            return if *lr & HW != 0 { Completed::Physical } else { Completed::Inside };
        }
    }
    gic.hcr += 1 << 27;
    Completed::Inside
}

/// Is the maintenance interrupt asserted (ICH_MISR_EL2)?
pub(crate) fn maintenance(gic: &VirtualCpuInterface) -> bool {
    let ended = gic.lr.iter().any(|&lr| state(lr) == 0 && lr & HW == 0 && lr & EOI != 0);
    let valid = gic.lr.iter().filter(|&&lr| state(lr) != 0).count();
    let underflow = gic.hcr & 1 << 1 != 0 && valid <= 1;
    let not_present = gic.hcr & 1 << 2 != 0 && gic.hcr >> 27 != 0;
    let no_pending = gic.hcr & 1 << 3 != 0 && gic.lr.iter().all(|&lr| state(lr) != 1);
    let changed = (0..2).any(|group| {
        let enabled = gic.vmcr >> group & 1;
        let (if_enabled, if_disabled) = (gic.hcr >> (4 + 2 * group), gic.hcr >> (5 + 2 * group));
        if_enabled & enabled == 1 || if_disabled & !enabled & 1 == 1
    });
    ended || underflow || not_present || no_pending || changed
}

/// A CPU interface with everything enabled: both groups, mask 0xff.
pub(crate) fn enabled() -> VirtualCpuInterface {
    VirtualCpuInterface { vmcr: 0xff << 24 | 0b11, ..Default::default() }
}

/// The valid list registers: (interrupt id, state).
pub(crate) fn listed(gic: &VirtualCpuInterface) -> Vec<(u32, u64)> {
    let valid = gic.lr.iter().filter(|&&lr| state(lr) != 0);
    valid.map(|&lr| (lr as u32, state(lr))).collect()
}
