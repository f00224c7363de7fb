//! Would the virtual CPU interface signal an interrupt now? (IHI0069 4.8.)

use super::interface::{group_enabled, vmcr};
use super::{Vgic, bits};
use crate::vcpu::state::VirtualCpuInterface;

/// Priority of a CPU interface with no interrupt active.
const IDLE: u16 = 0x100;

impl Vgic {
    /// Has vCPU `vcpu` an interrupt that its CPU interface, with the state in
    /// `gic`, would signal: enabled, its group enabled in both places, more
    /// urgent than the priority mask, and able to preempt what is active?
    /// For WFI and for kicks. PSTATE's masks do not matter to either.
    pub fn deliverable(&self, vcpu: usize, gic: &VirtualCpuInterface) -> bool {
        Self::list_delivers(gic, |priority, group1| signals(gic, priority, group1))
            || self.busy_banks(vcpu).any(|(_, bank, claim)| {
                let mine = claim.target(bank) & !bank.listed;
                bits(bank.signalable(self.control) & mine)
                    .any(|bit| signals(gic, bank.priority(bit), bank.is_group1(bit)))
            })
    }
}

/// Would the CPU interface signal an interrupt of this priority and group?
fn signals(gic: &VirtualCpuInterface, priority: u8, group1: bool) -> bool {
    let mask = (gic.vmcr >> vmcr::PMR_SHIFT) as u8;
    let preempts = u16::from(priority & preemption_mask(gic, group1)) < running_priority(gic);
    group_enabled(gic, group1) && priority < mask && preempts
}

/// The bits of a priority that decide about preemption. Group 1's binary
/// point counts from one bit further up (IHI0069 4.8.5).
fn preemption_mask(gic: &VirtualCpuInterface, group1: bool) -> u8 {
    let group0_point = gic.vmcr >> vmcr::BPR0_SHIFT & 7;
    let group1_point = gic.vmcr >> vmcr::BPR1_SHIFT & 7;
    let ignored =
        if group1 && gic.vmcr & vmcr::CBPR == 0 { group1_point } else { group0_point + 1 };
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
