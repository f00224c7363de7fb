//! A guest's debug registers (Arm ARM D24.3). All of them trap; those that
//! concern an external debugger, which a guest has none of, read as on a CPU
//! to which nobody is connected.

use crate::machine::{IdRegister, Machine};
use crate::syndrome::SystemRegister;
use crate::vcpu::debug::{Kind, Pair};
use crate::vcpu::id_registers::{World, sanitised};

use super::{Outcome, Running};

/// ID_AA64DFR0_EL1, and its fields BRPs and WRPs: how many, less one.
const DFR0: IdRegister = IdRegister { crm: 5, op2: 0 };
const BRPS: u32 = 12;
const WRPS: u32 = 20;

/// OSLSR_EL1: OSLM says that there is an OS lock, OSLK that it is closed.
const OSLM: u64 = 1 << 3;
const OSLK: u64 = 1 << 1;
/// DBGCLAIMSET_EL1 reads as the tags there are: eight (D24.3.8).
const CLAIM_TAGS: u64 = 0xff;
/// DBGAUTHSTATUS_EL1: non-secure debug, invasive and not, is there and not
/// allowed to anybody outside (D24.3.1).
const NOBODY_OUTSIDE: u64 = 0b1010;

/// A debug register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DebugRegister {
    /// MDSCR_EL1.
    Monitor,
    /// DBGBVR or DBGWVR of this number.
    Value(Kind, usize),
    /// DBGBCR or DBGWCR of this number.
    Control(Kind, usize),
    /// OSLAR_EL1.
    OsLock,
    /// OSLSR_EL1.
    OsLockStatus,
    /// DBGCLAIMSET_EL1.
    ClaimSet,
    /// DBGCLAIMCLR_EL1.
    ClaimClear,
    /// Reads as this, and is written to no effect.
    Ignored,
    /// Reads as this; a write is UNDEFINED.
    ReadOnly(u64),
}

/// Which one the encoding names; those of trace units and of what is newer
/// than the debug architecture a guest is shown are nobody's.
pub(super) fn decode(register: SystemRegister) -> Option<DebugRegister> {
    use DebugRegister as D;
    let SystemRegister { op0: 2, op1, crn, crm, op2 } = register else { return None };
    let number = usize::from(crm);
    Some(match (op1, crn, crm, op2) {
        (0, 0, 2, 2) => D::Monitor,
        (0, 0, _, 4) => D::Value(Kind::Breakpoint, number),
        (0, 0, _, 5) => D::Control(Kind::Breakpoint, number),
        (0, 0, _, 6) => D::Value(Kind::Watchpoint, number),
        (0, 0, _, 7) => D::Control(Kind::Watchpoint, number),
        (0, 1, 0, 4) => D::OsLock,
        (0, 1, 1, 4) => D::OsLockStatus,
        (0, 7, 8, 6) => D::ClaimSet,
        (0, 7, 9, 6) => D::ClaimClear,
        (0, 7, 14, 6) => D::ReadOnly(NOBODY_OUTSIDE),
        // MDRAR_EL1: no ROM table. MDCCSR_EL0: nobody sends or receives.
        (0, 1, 0, 0) | (3, 0, 1, 0) => D::ReadOnly(0),
        // MDCCINT_EL1; OSDTRRX, OSDTRTX and OSECCR_EL1; OSDLR and DBGPRCR_EL1;
        // DBGDTR_EL0, DBGDTRRX and DBGDTRTX_EL0.
        (0, 0, 2, 0) | (0, 0, 0 | 3 | 6, 2) | (0, 1, 3 | 4, 4) | (3, 0, 4 | 5, 0) => D::Ignored,
        _ => return None,
    })
}

impl<M: Machine> Running<'_, M> {
    /// A trapped MRS (`read`) or MSR of `register`, from or to x`rt`.
    pub(super) fn debug_register(
        &mut self,
        register: DebugRegister,
        rt: u8,
        read: bool,
    ) -> Outcome {
        let done = if read {
            self.debug_value(register).map(|value| self.vcpu.state.frame.set(rt, value))
        } else {
            self.set_debug_value(register, self.vcpu.state.frame.get(rt))
        };
        if done.is_none() {
            return self.undefined();
        }
        self.advance();
        Outcome::Resume
    }

    /// How many breakpoints or watchpoints the guest is shown.
    fn pairs(&self, kind: Kind) -> usize {
        let shown = sanitised(World::Guest, DFR0, self.hyp.machine.id_register(DFR0));
        let field = match kind {
            Kind::Breakpoint => BRPS,
            Kind::Watchpoint => WRPS,
        };
        (shown >> field & 0xf) as usize + 1
    }

    /// What it reads as; `None` if it cannot be read.
    fn debug_value(&self, register: DebugRegister) -> Option<u64> {
        use DebugRegister as D;
        let debug = &self.vcpu.state.debug;
        let pair = |kind, index| (index < self.pairs(kind)).then(|| debug.pair(kind, index));
        match register {
            D::Monitor => Some(debug.monitor()),
            D::Value(kind, index) => pair(kind, index).map(|pair| pair.value),
            D::Control(kind, index) => pair(kind, index).map(|pair| pair.control),
            D::OsLock => None,
            D::OsLockStatus => Some(OSLM | if debug.is_locked() { OSLK } else { 0 }),
            D::ClaimSet => Some(CLAIM_TAGS),
            D::ClaimClear => Some(debug.claim().into()),
            D::Ignored => Some(0),
            D::ReadOnly(value) => Some(value),
        }
    }

    /// Writes it; `None` if it cannot be written.
    fn set_debug_value(&mut self, register: DebugRegister, value: u64) -> Option<()> {
        use DebugRegister as D;
        match register {
            D::Value(kind, index) => self.set_pair(kind, index, |pair| pair.value = value)?,
            D::Control(kind, index) => self.set_pair(kind, index, |pair| pair.control = value)?,
            D::Monitor => self.vcpu.state.debug.set_monitor(value),
            D::OsLock => self.vcpu.state.debug.set_lock(value & 1 == 1),
            D::ClaimSet => self.vcpu.state.debug.change_claim(value as u8, 0),
            D::ClaimClear => self.vcpu.state.debug.change_claim(0, value as u8),
            D::Ignored => {}
            D::OsLockStatus | D::ReadOnly(_) => return None,
        }
        self.hyp.machine.debug_changed(&self.vcpu.state.debug);
        Some(())
    }

    fn set_pair(&mut self, kind: Kind, index: usize, edit: impl FnOnce(&mut Pair)) -> Option<()> {
        if index >= self.pairs(kind) {
            return None;
        }
        let mut pair = self.vcpu.state.debug.pair(kind, index);
        edit(&mut pair);
        self.vcpu.state.debug.set_pair(kind, index, pair);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The encodings of D24.3 by name; everything else with op0 = 2 is
    /// nobody's.
    #[test]
    fn every_register_of_the_debug_architecture_is_known_by_its_encoding() {
        use DebugRegister as D;
        let mut named = std::vec![
            ((0, 0, 2, 2), D::Monitor),
            ((0, 0, 2, 0), D::Ignored),     // MDCCINT_EL1
            ((0, 0, 0, 2), D::Ignored),     // OSDTRRX_EL1
            ((0, 0, 3, 2), D::Ignored),     // OSDTRTX_EL1
            ((0, 0, 6, 2), D::Ignored),     // OSECCR_EL1
            ((0, 1, 0, 0), D::ReadOnly(0)), // MDRAR_EL1
            ((0, 1, 0, 4), D::OsLock),
            ((0, 1, 1, 4), D::OsLockStatus),
            ((0, 1, 3, 4), D::Ignored), // OSDLR_EL1
            ((0, 1, 4, 4), D::Ignored), // DBGPRCR_EL1
            ((0, 7, 8, 6), D::ClaimSet),
            ((0, 7, 9, 6), D::ClaimClear),
            ((0, 7, 14, 6), D::ReadOnly(10)), // DBGAUTHSTATUS_EL1
            ((3, 0, 1, 0), D::ReadOnly(0)),   // MDCCSR_EL0
            ((3, 0, 4, 0), D::Ignored),       // DBGDTR_EL0
            ((3, 0, 5, 0), D::Ignored),       // DBGDTRRX_EL0, DBGDTRTX_EL0
        ];
        for n in 0..16 {
            named.push(((0, 0, n, 4), D::Value(Kind::Breakpoint, n.into())));
            named.push(((0, 0, n, 5), D::Control(Kind::Breakpoint, n.into())));
            named.push(((0, 0, n, 6), D::Value(Kind::Watchpoint, n.into())));
            named.push(((0, 0, n, 7), D::Control(Kind::Watchpoint, n.into())));
        }
        for code in 0..1u32 << 16 {
            let field = |shift: u32, bits: u32| (code >> shift & ((1 << bits) - 1)) as u8;
            let [op0, op1, crn, crm, op2] =
                [field(14, 2), field(11, 3), field(7, 4), field(3, 4), field(0, 3)];
            let name = named.iter().find(|(code, _)| *code == (op1, crn, crm, op2) && op0 == 2);
            let found = decode(SystemRegister::new(op0, op1, crn, crm, op2));
            assert_eq!(found, name.map(|(_, name)| *name), "{op0} {op1} {crn} {crm} {op2}");
        }
    }
}
