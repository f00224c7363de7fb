//! A guest's virtual CPU: its registers, its traps, its life.

pub mod controls;
pub mod debug;
pub mod debug_switch;
pub mod id_registers;
pub mod state;
pub mod timer;

use crate::machine::Machine;
use crate::syndrome::Transfer;
use state::VcpuState;

/// PSTATE at the first instruction: EL1h, D A I F masked (as PSCI CPU_ON,
/// DEN0022F.b 6.4.3, and the arm64 boot protocol ask).
pub const BOOT_PSTATE: u64 = 0x3c5;

/// SCTLR_EL1 at the first instruction: RES1 bits, MMU and caches off.
const BOOT_SCTLR: u64 = 0x30c5_0830;

/// A vCPU. It is in its VM while nobody runs it, and moved out, so that it
/// is in exactly one place, onto the stack of the CPU that does.
#[derive(Debug)]
pub(crate) struct Vcpu {
    /// Its number in the VM, and its Aff0.
    pub(crate) index: usize,
    /// Its registers.
    pub(crate) state: VcpuState,
    /// The load that waits for the host's MMIO reply.
    pub(crate) pending_load: Option<Transfer>,
    /// An attestation token was asked for (RSI) and not yet refused.
    pub(crate) attesting: bool,
    /// It was told that it made an access that no syndrome describes.
    pub(crate) told_undescribed: bool,
}

impl Vcpu {
    /// A vCPU that is off.
    pub(crate) fn new(machine: &impl Machine, index: usize) -> Self {
        let controls = controls::guest(machine, index);
        let state = VcpuState { controls, ..VcpuState::default() };
        Self { index, state, pending_load: None, attesting: false, told_undescribed: false }
    }

    /// Puts it at its first instruction: PC, x0, everything else reset.
    pub(crate) fn reset(&mut self, entry: u64, argument: u64, counter_offset: u64) {
        let mut controls = core::mem::take(&mut self.state.controls);
        controls.cntvoff_el2 = counter_offset;
        self.state = VcpuState::default();
        self.state.controls = controls;
        self.state.frame.pc = entry;
        self.state.frame.pstate = BOOT_PSTATE;
        self.state.frame.set(0, argument);
        self.state.el1.sctlr_el1 = BOOT_SCTLR;
        self.pending_load = None;
        self.attesting = false;
    }

    /// Forgets its registers, for good: it will not run again. They are a
    /// guest's secrets in EL2's memory, and EL2's memory does not stay EL2's
    /// when the machine is reset.
    pub(crate) fn wipe(&mut self, machine: &impl Machine) {
        machine.wipe_vcpu(&mut self.state);
        self.pending_load = None;
    }

    /// Completes the load that was waiting, if one was: only its destination
    /// register changes, masked to the size of the access.
    pub(crate) fn complete_load(&mut self, reply: u64) {
        if let Some(transfer) = self.pending_load.take() {
            self.state.frame.set(transfer.register, transfer.loaded(reply));
        }
    }
}

impl Drop for Vcpu {
    /// It was wiped when its VM began to die, unless the VM never came to be.
    fn drop(&mut self) {
        self.state = VcpuState::default();
        // Nobody reads them again, so the compiler could leave the stores out.
        core::hint::black_box(&mut self.state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn off() -> Vcpu {
        let state = VcpuState::default();
        Vcpu { index: 0, state, pending_load: None, attesting: false, told_undescribed: false }
    }

    #[test]
    fn a_reply_nobody_waits_for_changes_nothing() {
        let mut vcpu = off();
        vcpu.complete_load(u64::MAX);
        assert!(vcpu.state.frame.x.iter().all(|x| *x == 0));
    }

    #[test]
    fn a_reply_changes_the_destination_register_alone() {
        let mut vcpu = off();
        vcpu.pending_load = Some(Transfer { size: 1, sign_extend: false, register: 5, wide: true });
        vcpu.complete_load(u64::MAX);
        for (index, x) in vcpu.state.frame.x.iter().enumerate() {
            assert_eq!(*x, if index == 5 { 0xff } else { 0 });
        }
        vcpu.complete_load(0x11);
        assert_eq!(vcpu.state.frame.x[5], 0xff, "a reply is used once");
    }

    #[test]
    fn reset_leaves_nothing_of_the_former_life() {
        let mut vcpu = off();
        vcpu.state.frame.x = [7; 31];
        vcpu.state.fp.v = [7; 32];
        vcpu.state.el1.ttbr0_el1 = 7;
        vcpu.reset(0x4008_0000, 0x4000_0000, 99);
        assert_eq!(vcpu.state.frame.x[0], 0x4000_0000);
        assert!(vcpu.state.frame.x[1..].iter().all(|x| *x == 0));
        assert!(vcpu.state.fp.v.iter().all(|v| *v == 0));
        assert_eq!(vcpu.state.el1.ttbr0_el1, 0);
        assert_eq!(vcpu.state.frame.pstate & 0x3cf, 0x3c5);
        assert_eq!(vcpu.state.controls.cntvoff_el2, 99);
    }
}
