//! Would the virtual CPU interface signal an interrupt now? (IHI0069 4.8.)

use super::list::{ACTIVE, GROUP1, PENDING, PRIORITY_SHIFT};
use super::{BANKS, Vgic, bits};
use crate::vcpu::state::VirtualCpuInterface;

/// ICH_VMCR.VENG0, VENG1: the guest's group enables.
pub(super) const VENG: [u64; 2] = [1 << 0, 1 << 1];
/// ICH_VMCR.VCBPR: Group 1, too, preempts by the binary point of Group 0.
const VCBPR: u64 = 1 << 4;
const VBPR1_SHIFT: u32 = 18;
const VBPR0_SHIFT: u32 = 21;
const VPMR_SHIFT: u32 = 24;

/// Priority of a CPU interface with no interrupt active.
const IDLE: u16 = 0x100;

impl Vgic {
    /// Has vCPU `vcpu` an interrupt that its CPU interface, with the state in
    /// `gic`, would signal: enabled, its group enabled in both places, more
    /// urgent than the priority mask, and able to preempt what is active?
    /// For WFI and for kicks. PSTATE's masks do not matter to either.
    pub fn deliverable(&self, vcpu: usize, gic: &VirtualCpuInterface) -> bool {
        let listed = gic.lr.iter().any(|&lr| {
            let priority = (lr >> PRIORITY_SHIFT) as u8;
            lr & (PENDING | ACTIVE) == PENDING && signals(gic, priority, lr & GROUP1 != 0)
        });
        listed || (0..BANKS).any(|number| self.bank_delivers(vcpu, number, gic))
    }

    fn bank_delivers(&self, vcpu: usize, number: usize, gic: &VirtualCpuInterface) -> bool {
        let Some(bank) = self.bank(vcpu, number) else { return false };
        let target = self.claim(vcpu, number).map_or(0, |claim| claim.target(bank));
        bits(bank.signalable(self.control) & target & !bank.listed)
            .any(|bit| signals(gic, bank.priority(bit), bank.is_group1(bit)))
    }
}

/// Would the CPU interface signal an interrupt of this priority and group?
fn signals(gic: &VirtualCpuInterface, priority: u8, group1: bool) -> bool {
    let mask = (gic.vmcr >> VPMR_SHIFT) as u8;
    let preempts = u16::from(priority & preemption_mask(gic, group1)) < running_priority(gic);
    group_enabled(gic, group1) && priority < mask && preempts
}

/// Has the guest enabled the group in its CPU interface?
pub(super) fn group_enabled(gic: &VirtualCpuInterface, group1: bool) -> bool {
    let [group0_bit, group1_bit] = VENG;
    gic.vmcr & (if group1 { group1_bit } else { group0_bit }) != 0
}

/// The bits of a priority that decide about preemption. Group 1's binary
/// point counts from one bit further up (IHI0069 4.8.5).
fn preemption_mask(gic: &VirtualCpuInterface, group1: bool) -> u8 {
    let group0_point = gic.vmcr >> VBPR0_SHIFT & 7;
    let group1_point = gic.vmcr >> VBPR1_SHIFT & 7;
    let ignored = if group1 && gic.vmcr & VCBPR == 0 { group1_point } else { group0_point + 1 };
    (0xff_u16 << ignored) as u8
}

/// The most urgent active priority. Bit n of the active priorities registers
/// is priority n × 8: five preemption bits, as many as we give priorities.
fn running_priority(gic: &VirtualCpuInterface) -> u16 {
    let words = gic.ap0r.iter().zip(&gic.ap1r).zip([0u16, 0x100, 0x200, 0x300]);
    for ((group0, group1), base) in words {
        let active = (group0 | group1) as u32;
        if active != 0 {
            return (base + 8 * active.trailing_zeros() as u16).min(IDLE);
        }
    }
    IDLE
}
