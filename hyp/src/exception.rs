//! Exceptions that EL2 injects into EL1, of the host or of a guest.
//!
//! What the current world did is answered the way a machine without the
//! thing in question would: an access that nobody answers gets a synchronous
//! external abort, an instruction that is withheld is UNDEFINED. Nothing
//! pends: the state that the CPU would have after taking the exception to EL1
//! (Arm ARM D1.3.1) is written down, and the world resumes in its own vector.

use crate::machine::{El1Register, IdRegister, Machine};
use crate::syndrome::Abort;
use crate::vcpu::state::Frame;

/// SPSR fields and bits, AArch64 layout (Arm ARM C5.2.19). Those that are
/// kept have the same place in the layout of AArch32.
mod pstate {
    pub(super) const NZCV: u64 = 0xf << 28;
    pub(super) const TCO: u64 = 1 << 25;
    pub(super) const DIT: u64 = 1 << 24;
    pub(super) const PAN: u64 = 1 << 22;
    pub(super) const ALLINT: u64 = 1 << 13;
    pub(super) const SSBS: u64 = 1 << 12;
    pub(super) const DAIF: u64 = 0xf << 6;
    /// M\[4\]: AArch32.
    pub(super) const AARCH32: u64 = 1 << 4;
    /// M\[3:2\]: the exception level.
    pub(super) const LEVEL: u64 = 3 << 2;
    /// M\[0\]: SP_ELx rather than SP_EL0.
    pub(super) const SPX: u64 = 1;
    /// M of EL1 with its own stack.
    pub(super) const EL1H: u64 = 0b0101;
}

/// SCTLR_EL1.SPAN: leave PSTATE.PAN alone on an exception.
const SCTLR_SPAN: u64 = 1 << 23;
/// SCTLR_EL1.DSSBS: PSTATE.SSBS on an exception.
const SCTLR_DSSBS: u64 = 1 << 44;
/// SCTLR_EL1.SPINTMASK: PSTATE.ALLINT is cleared on an exception.
const SCTLR_SPINTMASK: u64 = 1 << 62;

/// ESR_EL1.EC of an instruction abort; one more if taken from EL1 itself.
const INSTRUCTION_ABORT: u64 = 0x20;
/// ESR_EL1.EC of a data abort; one more if taken from EL1 itself.
const DATA_ABORT: u64 = 0x24;
/// ESR_EL1.IL. One for every exception made here, whatever the length of the
/// instruction: EC 0, instruction aborts, and data aborts with ISV = 0.
const ESR_IL: u64 = 1 << 25;
/// ESR_EL1.EA of an abort: the bus's own kind of error, which is for the
/// implementation to say. A realm's is one (DEN0137 A5.2.7, RVKNJW), so all are.
const ESR_EA: u64 = 1 << 9;
/// ESR_EL1.WnR of a data abort.
const ESR_WNR: u64 = 1 << 6;
/// DFSC or IFSC: synchronous external abort, not on a table walk.
const EXTERNAL_ABORT: u64 = 0x10;
/// DFSC: alignment fault.
const ALIGNMENT: u64 = 0x21;
/// DFSC or IFSC: Address size fault, level 0.
const ADDRESS_SIZE: u64 = 0;

/// The access `fault` of the current world is refused as a bus would refuse
/// it: the world takes a synchronous external abort at the instruction, with
/// its virtual address in FAR_EL1. Nothing of what stage 2 said reaches it.
pub fn inject_sync_external_abort(machine: &impl Machine, frame: &mut Frame, fault: &Abort) {
    inject_abort(machine, frame, fault, ESR_EA | EXTERNAL_ABORT);
}

/// The data access `fault` of the current world is refused as if it were not
/// aligned, for a host that has asked for this (ABORT_STYLE): kernels fix such a
/// fault up where they said that they may fault, and not the other.
pub fn inject_alignment_fault(machine: &impl Machine, frame: &mut Frame, fault: &Abort) {
    inject_abort(machine, frame, fault, ALIGNMENT);
}

/// The access `fault` of the current world names an address that its physical
/// address space does not have: it takes an Address size fault, level 0, as if
/// the output of its stage 1 were larger than the CPU's addresses.
pub fn inject_address_size_fault(machine: &impl Machine, frame: &mut Frame, fault: &Abort) {
    inject_abort(machine, frame, fault, ADDRESS_SIZE);
}

fn inject_abort(machine: &impl Machine, frame: &mut Frame, fault: &Abort, status: u64) {
    let class = if fault.instruction { INSTRUCTION_ABORT } else { DATA_ABORT };
    let same_level = if from_el0(frame.pstate) { 0 } else { 1 };
    let write = if fault.write && !fault.instruction { ESR_WNR } else { 0 };
    machine.write_el1(El1Register::Far, fault.va);
    let syndrome = (class + same_level) << 26 | write | status;
    enter_el1(machine, frame, syndrome);
}

/// The instruction at the current world's PC does not exist for it: it takes
/// an exception with unknown reason (EC 0).
pub fn inject_undefined(machine: &impl Machine, frame: &mut Frame) {
    enter_el1(machine, frame, 0);
}

/// Takes a synchronous exception to EL1 at the instruction `frame.pc`.
fn enter_el1(machine: &impl Machine, frame: &mut Frame, syndrome: u64) {
    machine.write_el1(El1Register::Esr, syndrome | ESR_IL);
    machine.write_el1(El1Register::Elr, frame.pc);
    machine.write_el1(El1Register::Spsr, frame.pstate);
    let vectors = machine.read_el1(El1Register::Vbar);
    let sctlr = machine.read_el1(El1Register::Sctlr);
    frame.pc = vectors.wrapping_add(vector(frame.pstate));
    frame.pstate = entry_pstate(frame.pstate, sctlr, Features::of(machine));
}

fn from_el0(pstate: u64) -> bool {
    pstate & pstate::LEVEL == 0
}

/// Offset of the synchronous vector that an exception from `pstate` takes
/// (Arm ARM D1.3.1.4).
fn vector(pstate: u64) -> u64 {
    match (from_el0(pstate), pstate & pstate::AARCH32 != 0, pstate & pstate::SPX != 0) {
        (false, _, false) => 0x000,
        (false, _, true) => 0x200,
        (true, false, _) => 0x400,
        (true, true, _) => 0x600,
    }
}

/// Extensions that give PSTATE a bit which an exception sets.
#[derive(Clone, Copy, Default)]
struct Features {
    pan: bool,
    mte: bool,
    nmi: bool,
}

impl Features {
    /// Of the CPU, not of what the world is told: its PSTATE is the CPU's.
    fn of(machine: &impl Machine) -> Self {
        let pfr1 = machine.id_register(IdRegister { crm: 4, op2: 1 });
        let mmfr1 = machine.id_register(IdRegister { crm: 7, op2: 1 });
        Self::in_registers(pfr1, mmfr1)
    }

    /// As ID_AA64PFR1_EL1 and ID_AA64MMFR1_EL1 tell.
    fn in_registers(pfr1: u64, mmfr1: u64) -> Self {
        Self { pan: mmfr1 >> 20 & 0xf != 0, mte: pfr1 >> 8 & 0xf != 0, nmi: pfr1 >> 36 & 0xf != 0 }
    }
}

/// PSTATE after an exception from `old` to EL1. What is not named is cleared:
/// SS, IL, UAO, BTYPE among it.
fn entry_pstate(old: u64, sctlr: u64, features: Features) -> u64 {
    let mut new = old & (pstate::NZCV | pstate::DIT | pstate::PAN) | pstate::DAIF | pstate::EL1H;
    if features.pan && sctlr & SCTLR_SPAN == 0 {
        new |= pstate::PAN;
    }
    if sctlr & SCTLR_DSSBS != 0 {
        new |= pstate::SSBS;
    }
    if features.mte {
        new |= pstate::TCO;
    }
    if features.nmi && sctlr & SCTLR_SPINTMASK == 0 {
        new |= pstate::ALLINT;
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimMachine;
    use crate::syndrome::FaultStatus;

    const EL0: u64 = 0b0000;
    const EL1T: u64 = 0b0100;
    const EL1H: u64 = 0b0101;
    const AARCH32_USER: u64 = 0b1_0000;
    const VBAR: u64 = 0xffff_8000_0008_0000;
    const PC: u64 = 0xffff_8000_0012_3454;

    fn machine() -> SimMachine {
        let machine = SimMachine::default();
        machine.write_el1(El1Register::Vbar, VBAR);
        machine.write_el1(El1Register::Sctlr, SCTLR_SPAN);
        machine
    }

    fn frame(pstate: u64) -> Frame {
        Frame { pc: PC, pstate, ..Frame::default() }
    }

    fn fault(instruction: bool, write: bool) -> Abort {
        Abort {
            ipa: 0x4_5678_9abc,
            va: 0x1234_5abc,
            instruction,
            write,
            table_walk: false,
            status: FaultStatus::Translation,
            transfer: None,
        }
    }

    fn el1(machine: &SimMachine) -> [u64; 3] {
        [El1Register::Esr, El1Register::Elr, El1Register::Spsr].map(|name| machine.read_el1(name))
    }

    #[test]
    fn each_kind_of_level_takes_its_own_vector_and_can_return() {
        for (pstate, offset) in [(EL1T, 0), (EL1H, 0x200), (EL0, 0x400), (AARCH32_USER, 0x600)] {
            let (machine, mut frame) = (machine(), frame(pstate));
            inject_undefined(&machine, &mut frame);
            assert_eq!(frame.pc, VBAR + offset);
            assert_eq!(frame.pstate, 0x3c5, "EL1h, everything masked");
            assert_eq!(el1(&machine), [1 << 25, PC, pstate]);
        }
    }

    #[test]
    fn a_refused_access_is_an_external_abort_with_its_address_and_direction() {
        for (pstate, instruction, write, esr) in [
            (EL0, false, false, 0x9200_0210),
            (EL0, false, true, 0x9200_0250),
            (EL1H, false, false, 0x9600_0210),
            (EL1T, false, true, 0x9600_0250),
            (AARCH32_USER, false, true, 0x9200_0250),
            (EL0, true, false, 0x8200_0210),
            (EL1H, true, false, 0x8600_0210),
        ] {
            let (machine, mut frame) = (machine(), frame(pstate));
            inject_sync_external_abort(&machine, &mut frame, &fault(instruction, write));
            assert_eq!(el1(&machine), [esr, PC, pstate], "from {pstate:#b}");
            assert_eq!(machine.read_el1(El1Register::Far), 0x1234_5abc);
        }
    }

    #[test]
    fn a_refused_access_may_be_an_alignment_fault_instead() {
        for (pstate, write, esr) in
            [(EL0, false, 0x9200_0021), (EL0, true, 0x9200_0061), (EL1H, true, 0x9600_0061)]
        {
            let (machine, mut frame) = (machine(), frame(pstate));
            inject_alignment_fault(&machine, &mut frame, &fault(false, write));
            assert_eq!(el1(&machine), [esr, PC, pstate], "from {pstate:#b}");
            assert_eq!(machine.read_el1(El1Register::Far), 0x1234_5abc);
        }
    }

    #[test]
    fn an_undefined_instruction_leaves_the_fault_address_alone() {
        let (machine, mut frame) = (machine(), frame(EL1H));
        machine.write_el1(El1Register::Far, 7);
        inject_undefined(&machine, &mut frame);
        assert_eq!(machine.read_el1(El1Register::Far), 7);
    }

    #[test]
    fn general_registers_are_not_touched() {
        let (machine, mut frame) = (machine(), frame(EL0));
        frame.x = core::array::from_fn(|n| n as u64 * 0x0101);
        let before = frame.x;
        inject_sync_external_abort(&machine, &mut frame, &fault(false, true));
        inject_undefined(&machine, &mut frame);
        assert_eq!(frame.x, before);
    }

    #[test]
    fn flags_and_timing_independence_survive_and_step_illegal_uao_btype_do_not() {
        let kept = pstate::NZCV | pstate::DIT | pstate::PAN;
        let cleared = 1 << 21 | 1 << 20 | 1 << 23 | 3 << 10 | pstate::SSBS | pstate::TCO;
        let new = entry_pstate(kept | cleared | EL0, SCTLR_SPAN, Features::default());
        assert_eq!(new, kept | 0x3c5);
    }

    #[test]
    fn a_mode_of_aarch32_leaves_nothing_of_its_layout() {
        // Q, IT, GE, E, T.
        let aarch32 = 1 << 27 | 3 << 25 | 0xf << 16 | 0x3f << 10 | 1 << 9 | 1 << 5 | AARCH32_USER;
        assert_eq!(entry_pstate(aarch32, SCTLR_SPAN, Features::default()), 0x3c5);
    }

    #[test]
    fn the_worlds_own_sctlr_decides_about_pan_ssbs_and_interrupt_masks() {
        let all = Features { pan: true, mte: true, nmi: true };
        let pstate = |sctlr, features| entry_pstate(EL0, sctlr, features) & !0x3c5;
        assert_eq!(pstate(SCTLR_SPAN | SCTLR_SPINTMASK, all), pstate::TCO);
        assert_eq!(pstate(SCTLR_SPINTMASK, all), pstate::TCO | pstate::PAN);
        assert_eq!(pstate(SCTLR_SPAN, all), pstate::TCO | pstate::ALLINT);
        assert_eq!(pstate(SCTLR_SPAN | SCTLR_DSSBS, Features::default()), pstate::SSBS);
        assert_eq!(pstate(0, Features::default()), 0, "a CPU without PAN has no such bit");
    }

    #[test]
    fn vectors_at_the_end_of_the_address_space_wrap() {
        let (machine, mut frame) = (machine(), frame(EL0));
        machine.write_el1(El1Register::Vbar, u64::MAX - 0x7f);
        inject_undefined(&machine, &mut frame);
        assert_eq!(frame.pc, 0x380);
    }

    #[test]
    fn each_extension_is_known_by_its_own_field() {
        let features = |pfr1, mmfr1| {
            let Features { pan, mte, nmi } = Features::in_registers(pfr1, mmfr1);
            (pan, mte, nmi)
        };
        assert_eq!(features(0, 0), (false, false, false));
        assert_eq!(features(!(0xf << 8 | 0xf << 36), !(0xf << 20)), (false, false, false));
        for bit in 0..4 {
            assert_eq!(features(0, 1 << (20 + bit)), (true, false, false));
            assert_eq!(features(1 << (8 + bit), 0), (false, true, false));
            assert_eq!(features(1 << (36 + bit), 0), (false, false, true));
        }
        // Of this machine: a Cortex-A72 has none of the three.
        assert!(!Features::of(&machine()).pan);
    }

    /// Bits of SPSR_EL1 and SCTLR_EL1 by number, from the Arm ARM.
    #[test]
    fn only_these_bits_of_the_old_pstate_and_of_sctlr_matter() {
        let kept = [31, 30, 29, 28, 24, 22];
        for bit in (0..64).filter(|bit| !matches!(bit, 0..=4)) {
            let new = entry_pstate(1 << bit, SCTLR_SPAN, Features::default());
            let expected = if kept.contains(&bit) { 1 << bit } else { 0 };
            assert_eq!(new, expected | 0x3c5, "PSTATE bit {bit}");
        }
        let all = Features { pan: true, mte: true, nmi: true };
        let with_none = entry_pstate(0, 0, all);
        assert_eq!(with_none, 1 << 25 | 1 << 22 | 1 << 13 | 0x3c5);
        for bit in 0..64 {
            let changed = match bit {
                23 => 1 << 22,
                44 => 1 << 12,
                62 => 1 << 13,
                _ => 0,
            };
            assert_eq!(entry_pstate(0, 1 << bit, all), with_none ^ changed, "SCTLR bit {bit}");
        }
    }
}
