//! The virtual CPU interface, ICH_*_EL2 (Arm IHI 0069, 12.4).
//!
//! A list register with HW = 1 stands for a physical interrupt: when the
//! guest deactivates it, the hardware deactivates the physical one. For that
//! to be right the physical one must be active while it is in a list
//! register, as if somebody had acknowledged it; it does not interrupt again
//! until then. bouncer uses this for the virtual timer, a PPI.
#![allow(unsafe_code)]

use crate::{gic, percpu, sysreg};
use hyp::layout::VIRTUAL_TIMER_INTID;
use hyp::vcpu::state::VirtualCpuInterface;

/// Fields of a list register.
const STATE: u64 = 0b11 << 62;
const HARDWARE: u64 = 1 << 61;
const PHYSICAL_ID_SHIFT: u32 = 32;

/// The virtual timer's private interrupt, as a bit.
const VIRTUAL_TIMER: u32 = 1 << VIRTUAL_TIMER_INTID;

/// List registers of this CPU (ICH_VTR_EL2.ListRegs + 1).
#[inline(always)]
pub(crate) fn list_registers() -> usize {
    (sysreg::ich_vtr_el2::read() & 0x1f) as usize + 1
}

/// Active-priority registers per group: 1, 2 or 4 (ICH_VTR_EL2.PREbits).
fn active_priority_registers() -> usize {
    match sysreg::ich_vtr_el2::read() >> 26 & 7 {
        0..=4 => 1,
        5 => 2,
        _ => 4,
    }
}

/// The private interrupt that `lr` stands for, as a bit; 0 if none.
fn private_interrupt(lr: u64) -> u32 {
    let id = (lr >> PHYSICAL_ID_SHIFT & 0x1fff) as u32;
    if lr & STATE != 0 && lr & HARDWARE != 0 && id < 32 { 1 << id } else { 0 }
}

/// Loads what only the guest changes.
pub(super) fn load(state: &VirtualCpuInterface) {
    // SAFETY: they decide which virtual interrupts the guest takes.
    unsafe {
        // System registers, no bypass: the only way a guest knows.
        sysreg::icc_sre_el1::write(7);
        sysreg::ich_vmcr_el2::write(state.vmcr);
        sysreg::ich_ap0r0_el2::write(state.ap0r[0]);
        sysreg::ich_ap1r0_el2::write(state.ap1r[0]);
        if active_priority_registers() >= 2 {
            sysreg::ich_ap0r1_el2::write(state.ap0r[1]);
            sysreg::ich_ap1r1_el2::write(state.ap1r[1]);
        }
        if active_priority_registers() >= 4 {
            sysreg::ich_ap0r2_el2::write(state.ap0r[2]);
            sysreg::ich_ap0r3_el2::write(state.ap0r[3]);
            sysreg::ich_ap1r2_el2::write(state.ap1r[2]);
            sysreg::ich_ap1r3_el2::write(state.ap1r[3]);
        }
    }
}

/// See `Machine::load_interrupts`.
pub(super) fn load_interrupts(state: &VirtualCpuInterface, timer_line: bool) {
    let cpu = percpu::this();
    let mut active = 0;
    for (index, &lr) in state.lr.iter().take(list_registers()).enumerate() {
        sysreg::write_list_register(index, lr);
        active |= private_interrupt(lr);
    }
    // A timer that fires while its interrupt is disabled in the guest's
    // redistributor is in no list register; it must not keep the guest from
    // its first instruction all the same.
    if timer_line {
        active |= VIRTUAL_TIMER;
    }
    let before = cpu.active_ppis.replace(active);
    if active & !before != 0 {
        gic::set_active(active & !before);
    }
    // And one that was reprogrammed without being taken fires again.
    if before & !active != 0 {
        gic::clear_active(before & !active);
    }
    // SAFETY: switches the virtual interface as the policy wants it.
    unsafe { sysreg::ich_hcr_el2::write(state.hcr) }
}

/// See `Machine::save_interrupts`.
pub(crate) fn save_interrupts(state: &mut VirtualCpuInterface) {
    let (mut before, mut after) = (0, 0);
    for (index, lr) in state.lr.iter_mut().take(list_registers()).enumerate() {
        before |= private_interrupt(*lr);
        *lr = sysreg::read_list_register(index);
        after |= private_interrupt(*lr);
    }
    // What is gone from the list registers the hardware has deactivated.
    let cpu = percpu::this();
    cpu.active_ppis.set(cpu.active_ppis.get() & !(before & !after));
    state.vmcr = sysreg::ich_vmcr_el2::read();
    // EOIcount: how many the guest completed that had no list register.
    state.hcr = sysreg::ich_hcr_el2::read();
    save_active_priorities(state);
}

/// The priorities the guest has active: what may interrupt it depends on them.
fn save_active_priorities(state: &mut VirtualCpuInterface) {
    state.ap0r[0] = sysreg::ich_ap0r0_el2::read();
    state.ap1r[0] = sysreg::ich_ap1r0_el2::read();
    if active_priority_registers() >= 2 {
        state.ap0r[1] = sysreg::ich_ap0r1_el2::read();
        state.ap1r[1] = sysreg::ich_ap1r1_el2::read();
    }
    if active_priority_registers() >= 4 {
        state.ap0r[2] = sysreg::ich_ap0r2_el2::read();
        state.ap0r[3] = sysreg::ich_ap0r3_el2::read();
        state.ap1r[2] = sysreg::ich_ap1r2_el2::read();
        state.ap1r[3] = sysreg::ich_ap1r3_el2::read();
    }
}

/// Takes the guest's interface away: no virtual and no maintenance interrupt
/// afterwards, and its physical interrupts are the host's again.
pub(super) fn unload() {
    // SAFETY: switches the virtual interface off.
    unsafe { sysreg::ich_hcr_el2::write(0) }
    let active = percpu::this().active_ppis.replace(0);
    if active != 0 {
        gic::clear_active(active);
    }
}

/// Empties the interface: which interrupts a guest had is its own business.
pub(super) fn forget() {
    // SAFETY: switches the virtual interface off.
    unsafe {
        sysreg::ich_hcr_el2::write(0);
        sysreg::ich_vmcr_el2::write(0);
    }
    (0..list_registers()).for_each(|index| sysreg::write_list_register(index, 0));
}
