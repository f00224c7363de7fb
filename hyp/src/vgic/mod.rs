//! The interrupt controller a guest sees: a GICv3 with a GICv2m MSI frame,
//! kept wholly at EL2.
//!
//! One [`Vgic`] belongs to one VM and is reached under that VM's lock. It is a
//! pure state machine: the distributor and redistributors are emulated here
//! register by register, and what is pending is handed to the hardware's
//! virtual CPU interface through list registers on every entry
//! ([`Vgic::flush`]) and taken back on every exit ([`Vgic::sync`]). So while a
//! vCPU is not running, the banks below are the whole truth about its
//! interrupts; the host supplies no list register, and no interrupt but by
//! [`Vgic::set_level`] and [`Vgic::msi`].
//!
//! What the guest gets (IHI0069, "Arm GIC architecture specification"):
//! affinity routing only (ARE is read-only one, so the banked GICv2 registers
//! of the distributor are RAZ/WI), one security state (DS is read-only one),
//! both groups, 256 interrupt ids, 32 priority levels, no LPIs, no extended
//! ranges, no 1-of-N distribution (TYPER.No1N). MPIDR of vCPU n is Aff0 = n.
//!
//! An access that the architecture leaves undefined reads as zero and is
//! ignored; nothing here can fail or panic.

mod bank;
mod deliver;
mod distributor;
mod interface;
mod list;
mod msi;
mod redistributor;
mod registers;
mod set;
mod sgi;
#[cfg(test)]
mod tests;

pub use set::VcpuSet;

use crate::abi::MAX_VCPUS;
use crate::layout;
use bank::Bank;

/// Banks of 32 interrupts: one private to each vCPU, then the SPIs.
const BANKS: usize = (layout::INTERRUPTS / 32) as usize;
const SPI_BANKS: usize = BANKS - 1;
/// SGIs: edge-triggered for ever, as PPIs are level-sensitive.
const SGIS: u32 = 0xffff;

/// Which interrupts of one bank are a vCPU's.
#[derive(Clone, Copy, Debug)]
struct Claim {
    /// In its list registers.
    listed: u32,
    /// Acknowledged by it. Means something only where the bank says active.
    owned: u32,
    /// Would be sent to it.
    routed: u32,
}

impl Claim {
    /// The interrupts of `bank` that this vCPU, and no other, may take: those
    /// it has in list registers, and of the rest those it must deactivate and
    /// those it would be sent.
    fn target(&self, bank: &Bank) -> u32 {
        let free = self.owned & bank.active | self.routed & !bank.active;
        self.listed | free & !bank.listed
    }
}

/// A vCPU's part: its redistributor and its claims on the SPIs.
#[derive(Clone, Copy, Debug)]
struct Cpu {
    /// SGIs and PPIs.
    private: Bank,
    private_claim: Claim,
    /// GICR_WAKER.ProcessorSleep.
    asleep: bool,
    /// Banks of which something is in its list registers, as a bitmap.
    listing: u32,
    /// On the SPIs, by bank.
    claims: [Claim; SPI_BANKS],
}

/// The interrupt controller of one VM.
#[derive(Clone, Debug)]
pub struct Vgic {
    /// The writable bits of GICD_CTLR: EnableGrp0, EnableGrp1.
    control: u32,
    vcpus: usize,
    /// SPI banks in which something may be pending or active, as a bitmap by
    /// bank number: most are idle, and entries and exits pass over those.
    busy: u32,
    spis: [Bank; SPI_BANKS],
    /// GICD_IROUTER: Aff2, Aff1, Aff0.
    routes: [[u32; 32]; SPI_BANKS],
    cpus: [Cpu; MAX_VCPUS],
}

impl Vgic {
    /// The controller of a VM with `vcpus` vCPUs (at most [`MAX_VCPUS`]), as
    /// after reset: nothing enabled, every SPI routed to vCPU 0.
    pub fn new(vcpus: usize) -> Self {
        let claim = |owned, routed| Claim { listed: 0, owned, routed };
        let cpu = Cpu {
            private: Bank::new(SGIS),
            private_claim: claim(!0, !0),
            asleep: true,
            listing: 0,
            claims: [claim(0, 0); SPI_BANKS],
        };
        let mut cpus = [cpu; MAX_VCPUS];
        cpus[0].claims = [claim(0, !0); SPI_BANKS];
        Self {
            control: 0,
            vcpus: vcpus.min(MAX_VCPUS),
            busy: 0,
            spis: [Bank::new(0); SPI_BANKS],
            routes: [[0; 32]; SPI_BANKS],
            cpus,
        }
    }

    /// A device's line for SPI `intid` changes to `level`. Returns the vCPUs
    /// that have something new to take. An id that is no SPI is ignored.
    pub fn set_level(&mut self, intid: u32, level: bool) -> VcpuSet {
        match locate(intid) {
            Some((number, mask)) if number > 0 => self.set_line(0, number, mask, level),
            _ => VcpuSet::EMPTY,
        }
    }

    /// The line of PPI `intid` of a vCPU (its timer) changes to `level`.
    /// Returns whether the vCPU has something new to take.
    pub fn set_private_level(&mut self, vcpu: usize, intid: u32, level: bool) -> bool {
        match locate(intid) {
            Some((0, mask)) if mask & SGIS == 0 => !self.set_line(vcpu, 0, mask, level).is_empty(),
            _ => false,
        }
    }

    fn set_line(&mut self, vcpu: usize, number: usize, mask: u32, level: bool) -> VcpuSet {
        // Before every entry it is the timer's, and mostly it has not changed.
        if self.bank(vcpu, number).is_none_or(|bank| bank.has_line(mask, level)) {
            return VcpuSet::EMPTY;
        }
        self.change(vcpu, number, |bank| bank.set_line(mask, level))
    }

    /// Makes SPIs `mask` of bank `number` pending, as an edge does.
    fn pulse(&mut self, number: usize, mask: u32) -> VcpuSet {
        if number == 0 {
            return VcpuSet::EMPTY;
        }
        self.change(0, number, |bank| bank.latch(mask))
    }

    /// Bank `number` as `vcpu` sees it.
    fn bank(&self, vcpu: usize, number: usize) -> Option<&Bank> {
        match number.checked_sub(1) {
            None => self.live().get(vcpu).map(|cpu| &cpu.private),
            Some(index) => self.spis.get(index),
        }
    }

    fn bank_mut(&mut self, vcpu: usize, number: usize) -> Option<&mut Bank> {
        match number.checked_sub(1) {
            None => self.live_mut().get_mut(vcpu).map(|cpu| &mut cpu.private),
            Some(index) => self.spis.get_mut(index),
        }
    }

    /// The banks in which `vcpu` may have something pending or active, with
    /// its claim on each.
    fn busy_banks(&self, vcpu: usize) -> impl Iterator<Item = (usize, &Bank, &Claim)> {
        let private = self.bank(vcpu, 0).is_some_and(|bank| !bank.is_idle());
        bits(self.busy | u32::from(private)).filter_map(move |number| {
            let number = number as usize;
            Some((number, self.bank(vcpu, number)?, self.claim(vcpu, number)?))
        })
    }

    /// Bank `number` has changed.
    fn note_busy(&mut self, number: usize) {
        if let Some(bank) = number.checked_sub(1).and_then(|index| self.spis.get(index)) {
            let mask = 1 << number;
            self.busy = if bank.is_idle() { self.busy & !mask } else { self.busy | mask };
        }
    }

    /// The vCPUs that exist.
    fn live(&self) -> &[Cpu] {
        self.cpus.get(..self.vcpus).unwrap_or_default()
    }

    fn live_mut(&mut self) -> &mut [Cpu] {
        self.cpus.get_mut(..self.vcpus).unwrap_or_default()
    }

    fn claim(&self, vcpu: usize, number: usize) -> Option<&Claim> {
        let cpu = self.live().get(vcpu)?;
        match number.checked_sub(1) {
            None => Some(&cpu.private_claim),
            Some(index) => cpu.claims.get(index),
        }
    }

    fn claim_mut(&mut self, vcpu: usize, number: usize) -> Option<&mut Claim> {
        let cpu = self.live_mut().get_mut(vcpu)?;
        match number.checked_sub(1) {
            None => Some(&mut cpu.private_claim),
            Some(index) => cpu.claims.get_mut(index),
        }
    }

    /// What every vCPU, in order, claims of SPI bank `number`; nothing if it
    /// is the private one.
    fn shared_claims(&mut self, number: usize) -> impl Iterator<Item = &mut Claim> {
        let cpus = self.live_mut().iter_mut();
        cpus.filter_map(move |cpu| cpu.claims.get_mut(number.checked_sub(1)?))
    }

    /// Changes bank `number` (the private one of `vcpu` if it is 0) and
    /// answers who must look: the vCPUs with something new to take or to
    /// complete, and those that run with a list register that has become
    /// wrong.
    fn change(&mut self, vcpu: usize, number: usize, edit: impl FnOnce(&mut Bank)) -> VcpuSet {
        let control = self.control;
        let Some(bank) = self.bank_mut(vcpu, number) else { return VcpuSet::EMPTY };
        let before = *bank;
        edit(bank);
        let after = *bank;
        self.note_busy(number);
        let activated = after.active & !before.active;
        if activated != 0 {
            self.own(number, activated);
        }
        // An edge that waited for its deactivation was listable all along.
        let gained = after.listable(control) & !before.listable(control)
            | after.signalable(control) & !before.signalable(control);
        let stale = after.stale_since(&before, control);
        self.targets(vcpu, number, gained | activated | stale)
    }

    /// The vCPUs that the interrupts `bits` of bank `number` concern.
    fn targets(&self, vcpu: usize, number: usize, bits: u32) -> VcpuSet {
        let mut set = VcpuSet::EMPTY;
        let Some(bank) = self.bank(vcpu, number).filter(|_| bits != 0) else { return set };
        if number == 0 {
            set.insert(vcpu);
            return set;
        }
        for other in 0..self.vcpus {
            let claim = self.claim(other, number);
            if claim.is_some_and(|claim| claim.target(bank) & bits != 0) {
                set.insert(other);
            }
        }
        set
    }

    /// Software has made the SPIs `bits` of bank `number` active: from now on
    /// they are the business of the vCPU that would be sent them. (Those that
    /// are listed become their lister's when they come back.) Without one,
    /// only software can deactivate them.
    fn own(&mut self, number: usize, bits: u32) {
        for claim in self.shared_claims(number) {
            claim.owned = claim.owned & !bits | claim.routed & bits;
        }
    }
}

/// Bank and bit mask of an interrupt id; `None` if it is not implemented.
fn locate(intid: u32) -> Option<(usize, u32)> {
    (intid < layout::INTERRUPTS).then(|| ((intid / 32) as usize, 1 << (intid % 32)))
}

/// The positions of the set bits, ascending.
fn bits(mut mask: u32) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let bit = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (bit < 32).then_some(bit)
    })
}
