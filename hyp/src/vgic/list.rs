//! List registers: how interrupts get to the hardware and back (IHI0069
//! 6.1, and the ICH_* registers in 12.4).
//!
//! [`Vgic::flush`] fills them before a vCPU runs, [`Vgic::sync`] folds them
//! back afterwards and leaves them empty. If everything fits, the guest
//! acknowledges and completes its interrupts without an exit. If not:
//!
//! - Active interrupts come first, for the guest's EOI to find them. Those
//!   that are left out are counted by the hardware when the guest completes
//!   them (ICH_HCR.EOIcount, with a maintenance interrupt by LRENPIE).
//! - One register is kept for the most urgent pending interrupt, which may
//!   have to preempt the active ones.
//! - If pending ones are left out, NPIE brings the vCPU back as soon as the
//!   guest has taken the last of those that were not. (UIE, underflow, would
//!   wait until the *active* ones are gone, too: too late for an interrupt
//!   that may preempt them.) Interrupts of a group the guest has disabled in
//!   its CPU interface come last, and a change of that brings it back, too.

use super::bank::Bank;
use super::deliver::{VENG, group_enabled};
use super::{BANKS, Claim, VcpuSet, Vgic, bits, locate};
use crate::layout::VIRTUAL_TIMER_INTID;
use crate::vcpu::state::{MAX_LIST_REGISTERS, VirtualCpuInterface};

/// ICH_LR: shift of the state.
const STATE_SHIFT: u32 = 62;
/// ICH_LR state bit: pending.
pub(super) const PENDING: u64 = 1 << STATE_SHIFT;
/// ICH_LR state bit: active.
pub(super) const ACTIVE: u64 = 2 << STATE_SHIFT;
/// ICH_LR.HW: deactivation also deactivates the physical interrupt.
const HW: u64 = 1 << 61;
/// ICH_LR.Group.
pub(super) const GROUP1: u64 = 1 << 60;
/// ICH_LR.Priority.
pub(super) const PRIORITY_SHIFT: u32 = 48;
/// ICH_LR.EOI: maintenance interrupt when deactivated (only with HW = 0).
const EOI: u64 = 1 << 41;
/// ICH_LR.pINTID (only with HW = 1), 13 bits.
const PHYSICAL_SHIFT: u32 = 32;
const PHYSICAL_MASK: u64 = 0x1fff;

/// ICH_HCR.En: the virtual CPU interface works.
const HCR_EN: u64 = 1 << 0;
/// ICH_HCR.LRENPIE: maintenance interrupt while EOIcount is not 0.
const HCR_LRENPIE: u64 = 1 << 2;
/// ICH_HCR.NPIE: maintenance interrupt while no list register is pending.
const HCR_NPIE: u64 = 1 << 3;
/// ICH_HCR.VGrp0EIE, VGrp1EIE: maintenance interrupt while the group is enabled.
const HCR_VGRP_EIE: [u64; 2] = [1 << 4, 1 << 6];
/// ICH_HCR.VGrp0DIE, VGrp1DIE: while it is disabled.
const HCR_VGRP_DIE: [u64; 2] = [1 << 5, 1 << 7];
/// ICH_HCR.TDIR: trap writes to ICC_DIR_EL1.
const HCR_TDIR: u64 = 1 << 14;
const HCR_EOICOUNT_SHIFT: u32 = 27;
const HCR_EOICOUNT: u64 = 0x1f << HCR_EOICOUNT_SHIFT;

/// ICH_VMCR.VEOIM: the guest deactivates through ICC_DIR_EL1.
const VMCR_VEOIM: u64 = 1 << 9;

/// Added to the priority of what the guest's CPU interface has disabled.
const DISABLED: u16 = 0x100;

/// The most urgent of the interrupts offered, most urgent first; among equals
/// the lower id.
struct Queue {
    best: [Option<(u16, u32)>; MAX_LIST_REGISTERS],
    offered: usize,
}

impl Queue {
    const fn new() -> Self {
        Self { best: [None; MAX_LIST_REGISTERS], offered: 0 }
    }

    fn offer(&mut self, priority: u16, intid: u32) {
        self.offered += 1;
        let mut carried = Some((priority, intid));
        for slot in &mut self.best {
            if slot.is_none_or(|held| carried.is_some_and(|new| new < held)) {
                core::mem::swap(slot, &mut carried);
            }
            if carried.is_none() {
                return;
            }
        }
    }

    fn take(&self, count: usize) -> impl Iterator<Item = u32> {
        self.best.iter().take(count).flatten().map(|&(_, intid)| intid)
    }
}

impl Vgic {
    /// Fills the first `list_registers` (at most 16) list registers of `gic`
    /// for vCPU `vcpu`, which is about to run, and sets ICH_HCR. Every flush
    /// is followed by a [`Self::sync`] before anybody flushes again; one that
    /// was forgotten is made up for.
    pub fn flush(&mut self, vcpu: usize, gic: &mut VirtualCpuInterface, list_registers: usize) {
        if self.live().get(vcpu).is_some_and(|cpu| cpu.claims.iter().any(|c| c.listed != 0)) {
            let _ = self.sync(vcpu, gic);
        }
        gic.lr = [0; MAX_LIST_REGISTERS];
        gic.hcr = HCR_EN;
        let active = self.active(vcpu);
        let pending = self.pending(vcpu, gic);
        let slots = list_registers.min(MAX_LIST_REGISTERS);
        let for_active = active.offered.min(slots - pending.offered.min(slots).min(1));
        let for_pending = pending.offered.min(slots - for_active);

        let chosen = active.take(for_active).chain(pending.take(for_pending));
        for (register, intid) in gic.lr.iter_mut().zip(chosen) {
            *register = self.list(vcpu, intid);
        }
        if active.offered > for_active {
            gic.hcr |= HCR_LRENPIE;
            if gic.vmcr & VMCR_VEOIM != 0 {
                gic.hcr |= HCR_TDIR;
            }
        }
        // Never with no pending interrupt in a list register: the guest would
        // not get to execute an instruction.
        if pending.offered > for_pending && for_pending > 0 {
            gic.hcr |= HCR_NPIE;
            for ((enable, disabled), enabled) in VENG.iter().zip(HCR_VGRP_DIE).zip(HCR_VGRP_EIE) {
                gic.hcr |= if gic.vmcr & enable != 0 { disabled } else { enabled };
            }
        }
    }

    /// What `vcpu` has active and not in a list register.
    fn active(&self, vcpu: usize) -> Queue {
        let mut queue = Queue::new();
        for number in 0..BANKS {
            let Some((bank, claim)) = self.view(vcpu, number) else { continue };
            for bit in bits(bank.active & claim.target(bank) & !bank.listed) {
                queue.offer(bank.priority(bit).into(), number as u32 * 32 + bit);
            }
        }
        queue
    }

    /// What `vcpu` has pending, not active and not in a list register.
    fn pending(&self, vcpu: usize, gic: &VirtualCpuInterface) -> Queue {
        let mut queue = Queue::new();
        for number in 0..BANKS {
            let Some((bank, claim)) = self.view(vcpu, number) else { continue };
            for bit in bits(bank.signalable(self.control) & claim.target(bank) & !bank.listed) {
                let enabled = group_enabled(gic, bank.is_group1(bit));
                let rank = if enabled { 0 } else { DISABLED };
                queue.offer(rank | u16::from(bank.priority(bit)), number as u32 * 32 + bit);
            }
        }
        queue
    }

    fn view(&self, vcpu: usize, number: usize) -> Option<(&Bank, &Claim)> {
        self.bank(vcpu, number).zip(self.claim(vcpu, number))
    }

    /// Moves an interrupt into a list register and returns its value.
    fn list(&mut self, vcpu: usize, intid: u32) -> u64 {
        let control = self.control;
        let Some((number, mask)) = locate(intid) else { return 0 };
        let bit = intid % 32;
        let Some(claim) = self.claim_mut(vcpu, number) else { return 0 };
        claim.listed |= mask;
        let routed = claim.routed & mask != 0;
        let Some(bank) = self.bank_mut(vcpu, number) else { return 0 };
        let state = bank.list(bit, control, routed);
        let mut lr = u64::from(intid) | u64::from(bank.priority(bit)) << PRIORITY_SHIFT;
        if state.pending {
            lr |= PENDING;
        }
        if state.active {
            lr |= ACTIVE;
        }
        if bank.is_group1(bit) {
            lr |= GROUP1;
        }
        if intid == VIRTUAL_TIMER_INTID {
            lr |= HW | u64::from(VIRTUAL_TIMER_INTID) << PHYSICAL_SHIFT;
        } else if !bank.is_edge(bit) || !routed {
            // When the guest is done with it: is the line still high, and has
            // another vCPU to take it now?
            lr |= EOI;
        }
        lr
    }

    /// Takes the interrupts of vCPU `vcpu`, which has stopped running, out of
    /// its list registers and leaves those empty. Returns *other* vCPUs that
    /// may now take one of them: it was routed elsewhere meanwhile.
    pub fn sync(&mut self, vcpu: usize, gic: &mut VirtualCpuInterface) -> VcpuSet {
        let mut set = self.count_completed(vcpu, gic);
        let (pending, active) = fold(&mut gic.lr);
        for (number, (pending, active)) in pending.into_iter().zip(active).enumerate() {
            set = set.union(self.unlist(vcpu, number, pending, active));
        }
        set.remove(vcpu);
        set
    }

    /// Takes what `vcpu` has listed of bank `number` back.
    fn unlist(&mut self, vcpu: usize, number: usize, pending: u32, active: u32) -> VcpuSet {
        let Some(claim) = self.claim_mut(vcpu, number).filter(|claim| claim.listed != 0) else {
            return VcpuSet::EMPTY;
        };
        let mask = core::mem::take(&mut claim.listed);
        let Some(bank) = self.bank_mut(vcpu, number) else { return VcpuSet::EMPTY };
        bank.unlist(mask, pending, active);
        let bank = *bank;
        if number == 0 {
            return VcpuSet::EMPTY;
        }
        for (other, cpu) in self.live_mut().iter_mut().enumerate() {
            if let Some(claim) = cpu.claims.get_mut(number) {
                let mine = if other == vcpu { mask & bank.active } else { 0 };
                claim.owned = claim.owned & !(mask & bank.active) | mine;
            }
        }
        self.targets(vcpu, number, mask & bank.listable(self.control))
    }

    /// Deactivates what the guest completed without a list register for it.
    ///
    /// The hardware only counts. But the guest completes in the reverse order
    /// of acknowledging, so each was for the most urgent of those left out.
    /// If none was left out, it was for an interrupt that was not active. (In
    /// EOI mode 1 the order is free; there, [`Self::deactivate`] is told.)
    fn count_completed(&mut self, vcpu: usize, gic: &mut VirtualCpuInterface) -> VcpuSet {
        let count = (gic.hcr & HCR_EOICOUNT) >> HCR_EOICOUNT_SHIFT;
        let any_left_out = gic.hcr & HCR_LRENPIE != 0;
        gic.hcr &= !HCR_EOICOUNT;
        let mut set = VcpuSet::EMPTY;
        for _ in 0..if any_left_out { count } else { 0 } {
            let Some(intid) = self.active(vcpu).take(1).next() else { break };
            set = set.union(self.deactivate(vcpu, intid));
        }
        set
    }

    /// vCPU `vcpu` deactivates interrupt `intid`: a trapped write to
    /// ICC_DIR_EL1 (only while more interrupts are active than there are list
    /// registers). One that another vCPU has acknowledged is left alone, as it
    /// is in another vCPU's list registers. Returns the vCPUs that must look
    /// at their interrupts again.
    pub fn deactivate(&mut self, vcpu: usize, intid: u32) -> VcpuSet {
        let Some((number, mask)) = locate(intid) else { return VcpuSet::EMPTY };
        let owned = self.claim(vcpu, number).map_or(0, |claim| claim.owned);
        self.change(vcpu, number, |bank| bank.deactivate(mask & owned))
    }

    /// Is the virtual timer's interrupt in a list register of `gic`? While it
    /// is, the physical one must be active: the guest's EOI deactivates it.
    pub fn timer_in_list_register(gic: &VirtualCpuInterface) -> bool {
        let timer = u64::from(VIRTUAL_TIMER_INTID);
        gic.lr.iter().any(|&lr| {
            let physical = lr >> PHYSICAL_SHIFT & PHYSICAL_MASK;
            lr & HW != 0 && physical == timer && lr & (PENDING | ACTIVE) != 0
        })
    }
}

/// Which interrupts the list registers have pending and active, by bank.
/// Empties them.
fn fold(registers: &mut [u64; MAX_LIST_REGISTERS]) -> ([u32; BANKS], [u32; BANKS]) {
    let mut pending = [0; BANKS];
    let mut active = [0; BANKS];
    for lr in registers {
        let lr = core::mem::take(lr);
        let Some((number, mask)) = locate(lr as u32) else { continue };
        if let (Some(pending), Some(active)) = (pending.get_mut(number), active.get_mut(number)) {
            *pending |= if lr & PENDING != 0 { mask } else { 0 };
            *active |= if lr & ACTIVE != 0 { mask } else { 0 };
        }
    }
    (pending, active)
}
