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

use super::interface::{Backing, ListRegister, group_enabled, hcr, vmcr};
use super::{BANKS, VcpuSet, Vgic, bits, locate};
use crate::layout::VIRTUAL_TIMER_INTID;
use crate::vcpu::state::{MAX_LIST_REGISTERS, VirtualCpuInterface};

/// The most urgent of the interrupts offered, most urgent first.
struct Queue {
    /// Priority in the upper half, interrupt id in the lower: the smaller the
    /// more urgent, and among equal priorities the lower id.
    best: [u32; MAX_LIST_REGISTERS],
    offered: usize,
}

impl Queue {
    /// No interrupt: less urgent than any.
    const NONE: u32 = u32::MAX;
    /// Added to the priority of what the guest's CPU interface has disabled.
    const DISABLED: u32 = 0x100;

    const fn new() -> Self {
        Self { best: [Self::NONE; MAX_LIST_REGISTERS], offered: 0 }
    }

    fn offer(&mut self, priority: u32, intid: u32) {
        self.offered += 1;
        let mut carried = priority << 16 | intid;
        for slot in &mut self.best {
            if carried < *slot {
                core::mem::swap(slot, &mut carried);
            }
            if carried == Self::NONE {
                return;
            }
        }
    }

    /// The first `count` of those offered.
    fn take(&self, count: usize) -> impl Iterator<Item = u32> {
        self.best.iter().take(count.min(self.offered)).map(|entry| entry & 0xffff)
    }
}

impl Vgic {
    /// Fills the first `list_registers` (at most 16) list registers of `gic`
    /// for vCPU `vcpu`, which is about to run, and sets ICH_HCR. Every flush
    /// is followed by a [`Self::sync`] before anybody flushes again; one that
    /// was forgotten is made up for.
    pub fn flush(&mut self, vcpu: usize, gic: &mut VirtualCpuInterface, list_registers: usize) {
        if self.live().get(vcpu).is_some_and(|cpu| cpu.listing != 0) {
            let _ = self.sync(vcpu, gic);
        }
        gic.lr = [0; MAX_LIST_REGISTERS];
        gic.hcr = hcr::EN;
        if self.busy_banks(vcpu).next().is_none() {
            return;
        }
        let (active, pending) = self.queues(vcpu, gic);
        let slots = list_registers.min(MAX_LIST_REGISTERS);
        let for_active = active.offered.min(slots - pending.offered.min(slots).min(1));
        let for_pending = pending.offered.min(slots - for_active);

        let chosen = active.take(for_active).chain(pending.take(for_pending));
        for (register, intid) in gic.lr.iter_mut().zip(chosen) {
            *register = self.list(vcpu, intid).map_or(0, |lr| lr.0);
        }
        if active.offered > for_active {
            gic.hcr |= watch_completions(gic.vmcr);
        }
        // Never with no pending interrupt in a list register: the guest would
        // not get to execute an instruction.
        if pending.offered > for_pending && for_pending > 0 {
            gic.hcr |= watch_acknowledgements(gic.vmcr);
        }
    }

    /// What `vcpu` has active, and what it has pending and not active, without
    /// what is in list registers.
    fn queues(&self, vcpu: usize, gic: &VirtualCpuInterface) -> (Queue, Queue) {
        let (mut active, mut pending) = (Queue::new(), Queue::new());
        for (number, bank, claim) in self.busy_banks(vcpu) {
            let first = number as u32 * 32;
            let mine = claim.target(bank) & !bank.listed;
            for bit in bits(bank.active & mine) {
                active.offer(u32::from(bank.priority(bit)), first + bit);
            }
            for bit in bits(bank.signalable(self.control) & mine) {
                let enabled = group_enabled(gic, bank.is_group1(bit));
                let rank = if enabled { 0 } else { Queue::DISABLED };
                pending.offer(rank | u32::from(bank.priority(bit)), first + bit);
            }
        }
        (active, pending)
    }

    /// Moves an interrupt into a list register: returns what goes there.
    fn list(&mut self, vcpu: usize, intid: u32) -> Option<ListRegister> {
        let control = self.control;
        let (number, mask) = locate(intid)?;
        let bit = intid % 32;
        self.live_mut().get_mut(vcpu)?.listing |= 1 << number;
        let claim = self.claim_mut(vcpu, number)?;
        claim.listed |= mask;
        let routed = claim.routed & mask != 0;
        let bank = self.bank_mut(vcpu, number)?;
        let state = bank.list(bit, control, routed);
        let backing = if intid == VIRTUAL_TIMER_INTID {
            Backing::Physical(VIRTUAL_TIMER_INTID)
        } else if !bank.is_edge(bit) || !routed {
            // When the guest is done with it: is the line still high, and has
            // another vCPU to take it now?
            Backing::Maintenance
        } else {
            Backing::None
        };
        let lr = ListRegister::new(intid, bank.priority(bit), bank.is_group1(bit), backing);
        Some(lr.with_state(state.pending, state.active))
    }

    /// Takes the interrupts of vCPU `vcpu`, which has stopped running, out of
    /// its list registers and leaves those empty. Returns *other* vCPUs that
    /// may now take one of them: it was routed elsewhere meanwhile.
    pub fn sync(&mut self, vcpu: usize, gic: &mut VirtualCpuInterface) -> VcpuSet {
        let mut set = self.count_completed(vcpu, gic);
        let cpu = self.live_mut().get_mut(vcpu);
        let listing = cpu.map_or(0, |cpu| core::mem::take(&mut cpu.listing));
        if listing == 0 {
            return set;
        }
        let (pending, active) = fold(&mut gic.lr);
        for number in bits(listing).map(|number| number as usize) {
            if let (Some(&pending), Some(&active)) = (pending.get(number), active.get(number)) {
                set = set.union(self.unlist(vcpu, number, pending, active));
            }
        }
        set.remove(vcpu);
        set
    }

    /// Takes what `vcpu` has listed of bank `number` back.
    fn unlist(&mut self, vcpu: usize, number: usize, pending: u32, active: u32) -> VcpuSet {
        let Some(claim) = self.claim_mut(vcpu, number) else { return VcpuSet::EMPTY };
        let mask = core::mem::take(&mut claim.listed);
        let control = self.control;
        let Some(bank) = self.bank_mut(vcpu, number) else { return VcpuSet::EMPTY };
        bank.unlist(mask, pending, active);
        let (taken, free) = (mask & bank.active, mask & bank.listable(control));
        self.note_busy(number);
        for (claim, other) in self.shared_claims(number).zip(0..) {
            claim.owned = claim.owned & !taken | if other == vcpu { taken } else { 0 };
        }
        self.targets(vcpu, number, free)
    }

    /// Deactivates what the guest completed without a list register for it.
    ///
    /// The hardware only counts. But the guest completes in the reverse order
    /// of acknowledging, so each was for the most urgent of those left out.
    /// If none was left out, it was for an interrupt that was not active. (In
    /// EOI mode 1 the order is free; there, [`Self::deactivate`] is told.)
    fn count_completed(&mut self, vcpu: usize, gic: &mut VirtualCpuInterface) -> VcpuSet {
        let count = (gic.hcr & hcr::EOICOUNT) >> hcr::EOICOUNT_SHIFT;
        let any_left_out = gic.hcr & hcr::LRENPIE != 0;
        gic.hcr &= !hcr::EOICOUNT;
        let mut set = VcpuSet::EMPTY;
        for _ in 0..if any_left_out { count } else { 0 } {
            let (active, _) = self.queues(vcpu, gic);
            let Some(intid) = active.take(1).next() else { break };
            set = set.union(self.deactivate(vcpu, intid));
        }
        set.remove(vcpu);
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
}

/// ICH_HCR bits for when active interrupts are left out.
fn watch_completions(vmcr: u64) -> u64 {
    // In EOI mode 1 a count would not tell which one was meant.
    hcr::LRENPIE | if vmcr & vmcr::EOIM != 0 { hcr::TDIR } else { 0 }
}

/// ICH_HCR bits for when pending interrupts are left out.
fn watch_acknowledgements(vmcr: u64) -> u64 {
    let groups = vmcr::ENABLE.iter().zip(hcr::GROUP_ENABLED).zip(hcr::GROUP_DISABLED);
    groups.fold(hcr::NPIE, |bits, ((enable, if_enabled), if_disabled)| {
        bits | if vmcr & enable != 0 { if_disabled } else { if_enabled }
    })
}

/// Which interrupts the list registers have pending and active, by bank.
/// Empties them.
fn fold(registers: &mut [u64; MAX_LIST_REGISTERS]) -> ([u32; BANKS], [u32; BANKS]) {
    let mut pending = [0; BANKS];
    let mut active = [0; BANKS];
    for register in registers.iter_mut().filter(|register| **register != 0) {
        let lr = ListRegister(core::mem::take(register));
        let Some((number, mask)) = locate(lr.intid()) else { continue };
        if let (Some(pending), Some(active)) = (pending.get_mut(number), active.get_mut(number)) {
            *pending |= if lr.is_pending() { mask } else { 0 };
            *active |= if lr.is_active() { mask } else { 0 };
        }
    }
    (pending, active)
}
