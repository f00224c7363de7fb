//! What the registers of the virtual CPU interface mean (IHI0069 12.4): list
//! registers, hypervisor control, maintenance interrupt.

use super::Vgic;
use crate::layout::VIRTUAL_TIMER_INTID;
use crate::vcpu::state::VirtualCpuInterface;

/// ICH_HCR_EL2.
pub(super) mod hcr {
    /// The virtual CPU interface works.
    pub(in crate::vgic) const EN: u64 = 1 << 0;
    /// Maintenance interrupt while EOIcount is not 0.
    pub(in crate::vgic) const LRENPIE: u64 = 1 << 2;
    /// Maintenance interrupt while no list register is pending.
    pub(in crate::vgic) const NPIE: u64 = 1 << 3;
    /// VGrp0EIE, VGrp1EIE: maintenance interrupt while the group is enabled.
    pub(in crate::vgic) const GROUP_ENABLED: [u64; 2] = [1 << 4, 1 << 6];
    /// VGrp0DIE, VGrp1DIE: maintenance interrupt while it is disabled.
    pub(in crate::vgic) const GROUP_DISABLED: [u64; 2] = [1 << 5, 1 << 7];
    /// Trap writes to ICC_DIR_EL1.
    pub(in crate::vgic) const TDIR: u64 = 1 << 14;
    /// Completions that found no list register.
    pub(in crate::vgic) const EOICOUNT: u64 = 0x1f << EOICOUNT_SHIFT;
    pub(in crate::vgic) const EOICOUNT_SHIFT: u32 = 27;
}

/// ICH_VMCR_EL2.
pub(super) mod vmcr {
    /// VENG0, VENG1: the guest's group enables.
    pub(in crate::vgic) const ENABLE: [u64; 2] = [1 << 0, 1 << 1];
    /// VCBPR: Group 1, too, preempts by the binary point of Group 0.
    pub(in crate::vgic) const CBPR: u64 = 1 << 4;
    /// VEOIM: the guest deactivates through ICC_DIR_EL1.
    pub(in crate::vgic) const EOIM: u64 = 1 << 9;
    pub(in crate::vgic) const BPR1_SHIFT: u32 = 18;
    pub(in crate::vgic) const BPR0_SHIFT: u32 = 21;
    pub(in crate::vgic) const PMR_SHIFT: u32 = 24;
}

const PENDING: u64 = 1 << 62;
const ACTIVE: u64 = 1 << 63;
/// Deactivation also deactivates the physical interrupt.
const HW: u64 = 1 << 61;
const GROUP1: u64 = 1 << 60;
const PRIORITY_SHIFT: u32 = 48;
/// Maintenance interrupt when deactivated (only with HW = 0).
const EOI: u64 = 1 << 41;
/// pINTID (only with HW = 1).
const PHYSICAL_SHIFT: u32 = 32;
const PHYSICAL_MASK: u64 = 0x1fff;

/// How the end of a listed interrupt shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Backing {
    /// Not at all.
    None,
    /// By a maintenance interrupt.
    Maintenance,
    /// The physical interrupt of this id is deactivated.
    Physical(u32),
}

/// `ICH_LR<n>_EL2`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ListRegister(pub(super) u64);

impl ListRegister {
    pub(super) fn new(intid: u32, priority: u8, group1: bool, backing: Backing) -> Self {
        let group = if group1 { GROUP1 } else { 0 };
        let backing = match backing {
            Backing::None => 0,
            Backing::Maintenance => EOI,
            Backing::Physical(id) => HW | u64::from(id) << PHYSICAL_SHIFT,
        };
        Self(u64::from(intid) | u64::from(priority) << PRIORITY_SHIFT | group | backing)
    }

    /// The same with this state.
    pub(super) fn with_state(self, pending: bool, active: bool) -> Self {
        let pending = if pending { PENDING } else { 0 };
        let active = if active { ACTIVE } else { 0 };
        Self(self.0 & !(PENDING | ACTIVE) | pending | active)
    }

    pub(super) fn intid(self) -> u32 {
        self.0 as u32
    }

    pub(super) fn priority(self) -> u8 {
        (self.0 >> PRIORITY_SHIFT) as u8
    }

    pub(super) fn is_group1(self) -> bool {
        self.0 & GROUP1 != 0
    }

    pub(super) fn is_pending(self) -> bool {
        self.0 & PENDING != 0
    }

    pub(super) fn is_active(self) -> bool {
        self.0 & ACTIVE != 0
    }

    fn is_valid(self) -> bool {
        self.is_pending() || self.is_active()
    }

    /// Pending and not active: it can be signalled.
    pub(super) fn is_only_pending(self) -> bool {
        self.is_pending() && !self.is_active()
    }

    /// Completed, with a maintenance interrupt to say so.
    fn has_ended(self) -> bool {
        !self.is_valid() && self.0 & (HW | EOI) == EOI
    }

    fn is_backed_by(self, physical: u32) -> bool {
        self.0 & HW != 0 && self.0 >> PHYSICAL_SHIFT & PHYSICAL_MASK == u64::from(physical)
    }
}

/// Has the guest enabled the group in its CPU interface?
pub(super) fn group_enabled(gic: &VirtualCpuInterface, group1: bool) -> bool {
    let [group0_bit, group1_bit] = vmcr::ENABLE;
    gic.vmcr & (if group1 { group1_bit } else { group0_bit }) != 0
}

fn list(gic: &VirtualCpuInterface) -> impl Iterator<Item = ListRegister> {
    gic.lr.iter().map(|&lr| ListRegister(lr))
}

impl Vgic {
    /// Is the virtual timer's interrupt in a list register of `gic`?
    ///
    /// While it is, the physical interrupt must be active, because the
    /// guest's EOI will deactivate it. It should be active, too, while the
    /// timer's output is high and the guest does not want the interrupt, for
    /// it would be taken again before the guest executes an instruction.
    pub fn timer_in_list_register(gic: &VirtualCpuInterface) -> bool {
        list(gic).any(|lr| lr.is_valid() && lr.is_backed_by(VIRTUAL_TIMER_INTID))
    }

    /// Was it the maintenance interrupt that stopped the guest, as far as the
    /// state in `gic` tells (ICH_MISR_EL2)? Then the next flush has answered
    /// it, and the host need not hear of it. To be asked before
    /// [`Self::sync`], which empties the list registers.
    pub fn needs_maintenance(gic: &VirtualCpuInterface) -> bool {
        let wants = |bit| gic.hcr & bit != 0;
        let enabled = |group| group_enabled(gic, group == 1);
        list(gic).any(ListRegister::has_ended)
            || wants(hcr::LRENPIE) && wants(hcr::EOICOUNT)
            || wants(hcr::NPIE) && !list(gic).any(ListRegister::is_only_pending)
            || hcr::GROUP_ENABLED.iter().zip(0..).any(|(&bit, n)| wants(bit) && enabled(n))
            || hcr::GROUP_DISABLED.iter().zip(0..).any(|(&bit, n)| wants(bit) && !enabled(n))
    }

    /// Is something in the list registers of `gic` that `signals` says would
    /// be signalled, by priority and group?
    pub(super) fn list_delivers(
        gic: &VirtualCpuInterface,
        signals: impl Fn(u8, bool) -> bool,
    ) -> bool {
        list(gic).any(|lr| lr.is_only_pending() && signals(lr.priority(), lr.is_group1()))
    }
}
