//! What an exception may change, written from the architecture (Arm ARM
//! D24.2.45 for ESR_EL2) and not from the code under test.

use hyp::abi::exit;
use hyp::trap::{Trap, TrapKind};
use hyp::vcpu::state::Frame;

/// In every register of the world that traps, with its number above bit 8.
pub(super) const SECRET: u64 = 0x5ec2_e700_0000_0000;

const WAIT: u64 = 0x01;
const HVC: u64 = 0x16;
const SMC: u64 = 0x17;
const REGISTER: u64 = 0x18;
const DATA_ABORT: u64 = 0x24;

fn class(trap: &Trap) -> u64 {
    if trap.kind == TrapKind::Sync { trap.esr >> 26 & 0x3f } else { u64::MAX }
}

pub(super) fn is_call(trap: &Trap) -> bool {
    matches!(class(trap), HVC | SMC)
}

/// A call of the host that changes neither VMs nor the machine's power.
pub(super) fn harmless_call(trap: &Trap, function: u64) -> bool {
    let id = function as u32;
    match class(trap) {
        HVC => !(0xC600_0102..=0xC600_0111).contains(&id),
        // PSCI CPU_ON, CPU_OFF, SYSTEM_OFF, SYSTEM_RESET.
        _ => !matches!(id & !0x4000_0000, 0x8400_0002 | 0x8400_0003 | 0x8400_0008 | 0x8400_0009),
    }
}

/// A load or store that the syndrome describes (ISV, and no maintenance).
struct Transfer {
    write: bool,
    bits: u32,
    sign: bool,
    register: usize,
    wide: bool,
}

fn transfer(trap: &Trap) -> Option<Transfer> {
    let described = class(trap) == DATA_ABORT && trap.esr >> 24 & 1 == 1 && trap.esr >> 8 & 1 == 0;
    described.then(|| Transfer {
        write: trap.esr >> 6 & 1 == 1,
        bits: 8 << (trap.esr >> 22 & 3),
        sign: trap.esr >> 21 & 1 == 1,
        register: (trap.esr >> 16 & 31) as usize,
        wide: trap.esr >> 15 & 1 == 1,
    })
}

fn low(value: u64, bits: u32) -> u64 {
    if bits == 64 { value } else { value & ((1 << bits) - 1) }
}

impl Transfer {
    /// What the destination holds after a load that was answered `value`.
    fn loaded(&self, value: u64) -> u64 {
        let value = low(value, self.bits);
        let negative = self.sign && self.bits < 64 && value >> (self.bits - 1) == 1;
        let value = if negative { value | u64::MAX << self.bits } else { value };
        if self.wide { value } else { value & 0xffff_ffff }
    }
}

/// Compares the registers before the exception with those with which the
/// world goes on.
pub(super) fn check(before: &Frame, after: &Frame, trap: &Trap, reply: Option<u64>) {
    let transfer = transfer(trap);
    let next = before.pc.wrapping_add(4);
    // An exception of its own: in its vector, at EL1 on its own stack,
    // everything masked. The simulated VBAR is 0.
    let injected = matches!(after.pc, 0x000 | 0x200 | 0x400 | 0x600);
    if injected {
        assert_eq!(after.pstate & 0x3df, 0x3c5, "taken to EL1h with DAIF set");
        assert_eq!(after.x, before.x, "an injected exception changes no register");
        return;
    }
    assert!(after.pc == next || after.pc == before.pc, "goes on at {:#x}", after.pc);
    assert_eq!(after.pstate, before.pstate);
    let may_change = |register: usize| match class(trap) {
        HVC | SMC => register < 4,
        REGISTER => trap.esr & 1 == 1 && register == (trap.esr >> 5 & 31) as usize,
        DATA_ABORT => transfer.as_ref().is_some_and(|t| !t.write && t.register == register),
        _ => false,
    };
    for (register, (old, new)) in before.x.iter().zip(&after.x).enumerate() {
        assert!(old == new || may_change(register), "x{register} changed to {new:#x}");
    }
    match class(trap) {
        HVC => assert_eq!(after.pc, before.pc, "ELR is behind an HVC"),
        SMC | WAIT | REGISTER => assert_eq!(after.pc, next, "it is stepped over"),
        DATA_ABORT => {}
        // Nothing else is ever completed on the world's behalf.
        _ => assert_eq!(after.pc, before.pc),
    }
    if let Some(load) = transfer.filter(|transfer| !transfer.write && after.pc == next) {
        let Some(value) = after.x.get(load.register).copied() else { return };
        let answered = reply.unwrap_or(value);
        assert_eq!(value, load.loaded(answered), "a reply is cut to the access");
    }
}

/// What the host learns of an exit is in the table of `guest/exposure.rs`.
pub(super) fn exposed(before: &Frame, trap: &Trap, [reason, a, b]: [u64; 3]) {
    let stored = transfer(trap).filter(|transfer| transfer.write);
    if reason & 0xff == exit::MMIO && reason >> 8 & 1 == 1 {
        let store = stored.expect("a store exits as a store");
        let value = before.x.get(store.register).copied().unwrap_or(0);
        assert_eq!(b, low(value, store.bits), "the stored value, and no more of the register");
        assert_eq!(reason >> 9, u64::from(store.bits / 8));
        return;
    }
    for told in [reason, a, b] {
        assert_ne!(told >> 32, SECRET >> 32, "the host is told {told:#x}");
    }
    assert!(reason & 0xff <= exit::DEAD);
    if reason & 0xff != exit::MMIO {
        assert_eq!(reason >> 8, 0);
    }
}
