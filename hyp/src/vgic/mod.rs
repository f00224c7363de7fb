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
    /// GICR_WAKER.ProcessorSleep.
    asleep: bool,
    /// By bank; the first is the private one.
    claims: [Claim; BANKS],
}

/// The interrupt controller of one VM.
#[derive(Clone, Debug)]
pub struct Vgic {
    /// The writable bits of GICD_CTLR: EnableGrp0, EnableGrp1.
    control: u32,
    vcpus: usize,
    spis: [Bank; SPI_BANKS],
    /// GICD_IROUTER: Aff2, Aff1, Aff0.
    routes: [[u32; 32]; SPI_BANKS],
    cpus: [Cpu; MAX_VCPUS],
}

impl Vgic {
    /// The controller of a VM with `vcpus` vCPUs (at most [`MAX_VCPUS`]), as
    /// after reset: nothing enabled, every SPI routed to vCPU 0.
    pub fn new(vcpus: usize) -> Self {
        let claims = |routed: u32| {
            let mut claims = [Claim { listed: 0, owned: 0, routed }; BANKS];
            claims[0] = Claim { listed: 0, owned: !0, routed: !0 };
            claims
        };
        let cpu = Cpu { private: Bank::new(SGIS), asleep: true, claims: claims(0) };
        let mut cpus = [cpu; MAX_VCPUS];
        cpus[0].claims = claims(!0);
        Self {
            control: 0,
            vcpus: vcpus.min(MAX_VCPUS),
            spis: [Bank::new(0); SPI_BANKS],
            routes: [[0; 32]; SPI_BANKS],
            cpus,
        }
    }

    /// A device's line for SPI `intid` changes to `level`. Returns the vCPUs
    /// that have something new to take. An id that is no SPI is ignored.
    pub fn set_level(&mut self, intid: u32, level: bool) -> VcpuSet {
        match locate(intid) {
            Some((number, mask)) if number > 0 => {
                self.change(0, number, |bank| bank.set_line(mask, level))
            }
            _ => VcpuSet::EMPTY,
        }
    }

    /// The line of PPI `intid` of a vCPU (its timer) changes to `level`.
    /// Returns whether the vCPU has something new to take.
    pub fn set_private_level(&mut self, vcpu: usize, intid: u32, level: bool) -> bool {
        match locate(intid) {
            Some((0, mask)) if mask & SGIS == 0 => {
                !self.change(vcpu, 0, |bank| bank.set_line(mask, level)).is_empty()
            }
            _ => false,
        }
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

    /// The vCPUs that exist.
    fn live(&self) -> &[Cpu] {
        self.cpus.get(..self.vcpus).unwrap_or_default()
    }

    fn live_mut(&mut self) -> &mut [Cpu] {
        self.cpus.get_mut(..self.vcpus).unwrap_or_default()
    }

    fn claim(&self, vcpu: usize, number: usize) -> Option<&Claim> {
        self.live().get(vcpu)?.claims.get(number)
    }

    fn claim_mut(&mut self, vcpu: usize, number: usize) -> Option<&mut Claim> {
        self.live_mut().get_mut(vcpu)?.claims.get_mut(number)
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
        for (other, cpu) in self.live().iter().enumerate() {
            let claim = cpu.claims.get(number);
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
        if number == 0 {
            return;
        }
        for cpu in self.live_mut() {
            if let Some(claim) = cpu.claims.get_mut(number) {
                claim.owned = claim.owned & !bits | claim.routed & bits;
            }
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
