//! The registers of a vCPU while it is not on a CPU.
//!
//! They live in EL2 memory from creation to destruction and are never copied
//! anywhere else; the layout is fixed because the world switch in `el2-boot`
//! addresses it from assembly.

use super::debug::DebugState;
use super::timer::PhysicalTimer;

/// General registers and what exception return restores.
#[repr(C)]
#[derive(Clone, Debug, Default)]
pub struct Frame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// ELR_EL2: where the world resumes.
    pub pc: u64,
    /// SPSR_EL2: its PSTATE.
    pub pstate: u64,
}

impl Frame {
    /// PSTATE.SS and PSTATE.BTYPE, as SPSR_EL2 holds them.
    const PER_INSTRUCTION: u64 = 1 << 21 | 0b11 << 10;

    /// Steps over a trapped instruction that EL2 has carried out. As after
    /// executing it, a single step is over and no branch was the last (Arm
    /// ARM D2.12, D8.4.9).
    pub fn advance(&mut self) {
        self.pc = self.pc.wrapping_add(4);
        self.pstate &= !Self::PER_INSTRUCTION;
    }

    /// Was the world in AArch32 state: SPSR_EL2.M\[4\] (Arm ARM C5.2.19)?
    pub fn is_aarch32(&self) -> bool {
        self.pstate & 1 << 4 != 0
    }

    /// Register `index` as an instruction names it: 31 reads as zero (XZR).
    pub fn get(&self, index: u8) -> u64 {
        self.x.get(usize::from(index)).copied().unwrap_or(0)
    }

    /// Writes register `index`; 31 (XZR) discards.
    pub fn set(&mut self, index: u8, value: u64) {
        if let Some(register) = self.x.get_mut(usize::from(index)) {
            *register = value;
        }
    }
}

/// EL1 and EL0 system registers of a world.
#[repr(C)]
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)] // Arm ARM D24 names, lower case.
pub struct El1State {
    pub sctlr_el1: u64,
    pub cpacr_el1: u64,
    pub ttbr0_el1: u64,
    pub ttbr1_el1: u64,
    pub tcr_el1: u64,
    pub esr_el1: u64,
    pub far_el1: u64,
    pub afsr0_el1: u64,
    pub afsr1_el1: u64,
    pub mair_el1: u64,
    pub amair_el1: u64,
    pub vbar_el1: u64,
    pub contextidr_el1: u64,
    pub tpidr_el0: u64,
    pub tpidrro_el0: u64,
    pub tpidr_el1: u64,
    pub cntkctl_el1: u64,
    pub par_el1: u64,
    pub elr_el1: u64,
    pub spsr_el1: u64,
    pub sp_el0: u64,
    pub sp_el1: u64,
    pub csselr_el1: u64,
    pub cntv_ctl_el0: u64,
    pub cntv_cval_el0: u64,
    /// DISR_EL1 of a world whose SErrors go to EL2 (FEAT_RAS).
    pub vdisr_el2: u64,
}

/// FP/SIMD registers.
#[repr(C, align(16))]
#[derive(Clone, Debug, Default)]
pub struct FpState {
    /// V0 to V31.
    pub v: [u128; 32],
    /// FPCR.
    pub fpcr: u64,
    /// FPSR.
    pub fpsr: u64,
}

/// Most list registers the architecture allows.
pub const MAX_LIST_REGISTERS: usize = 16;

/// The virtual CPU interface of the GIC (ICH_*_EL2).
#[repr(C)]
#[derive(Clone, Debug, Default)]
pub struct VirtualCpuInterface {
    /// `ICH_LR<n>_EL2`.
    pub lr: [u64; MAX_LIST_REGISTERS],
    /// ICH_HCR_EL2 to run with.
    pub hcr: u64,
    /// ICH_VMCR_EL2: the guest's PMR, binary points, group enables.
    pub vmcr: u64,
    /// ICH_AP0R0..3_EL2.
    pub ap0r: [u64; 4],
    /// ICH_AP1R0..3_EL2.
    pub ap1r: [u64; 4],
}

/// Trap controls and offsets the vCPU runs with; computed by the policy at
/// creation (`vcpu::controls`), constant afterwards.
#[repr(C)]
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)] // Arm ARM D24 names, lower case.
pub struct Controls {
    pub hcr_el2: u64,
    pub cptr_el2: u64,
    pub mdcr_el2: u64,
    pub hstr_el2: u64,
    pub cnthctl_el2: u64,
    pub cntvoff_el2: u64,
    pub vmpidr_el2: u64,
    pub vpidr_el2: u64,
    pub icc_sre_el2: u64,
}

/// Everything a vCPU is, architecturally.
#[repr(C)]
#[derive(Clone, Debug, Default)]
pub struct VcpuState {
    /// General registers, PC, PSTATE.
    pub frame: Frame,
    /// EL1 system registers.
    pub el1: El1State,
    /// FP/SIMD.
    pub fp: FpState,
    /// GIC CPU interface.
    pub gic: VirtualCpuInterface,
    /// Traps.
    pub controls: Controls,
    /// The emulated EL1 physical timer.
    pub timer: PhysicalTimer,
    /// Breakpoints, watchpoints, single step.
    pub debug: DebugState,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SPSR_EL2.SS is bit 21, BTYPE bits 11:10 (Arm ARM C5.2.19).
    #[test]
    fn stepping_over_an_instruction_ends_its_step_and_its_branch_and_nothing_else() {
        let mut frame = Frame { pc: u64::MAX - 3, pstate: u64::MAX, ..Frame::default() };
        frame.advance();
        assert_eq!((frame.pc, frame.pstate), (0, !(1 << 21 | 3 << 10)));
        frame.pstate = 0x3c5;
        frame.advance();
        assert_eq!((frame.pc, frame.pstate), (4, 0x3c5));
    }

    #[test]
    fn register_31_is_zero_and_swallows_what_is_written() {
        let mut frame = Frame { x: [7; 31], ..Frame::default() };
        assert_eq!((frame.get(30), frame.get(31), frame.get(255)), (7, 0, 0));
        frame.set(31, 9);
        frame.set(30, 8);
        assert_eq!((frame.get(30), frame.get(29)), (8, 7));
    }
}
