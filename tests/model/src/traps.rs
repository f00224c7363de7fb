//! Traps as the hardware would report them (Arm ARM D24.2.45).

use hyp::trap::{Trap, TrapKind};

/// A physical interrupt.
pub(crate) const INTERRUPT: Trap = Trap { kind: TrapKind::Interrupt, esr: 0, far: 0, hpfar: 0 };

/// A synchronous exception with this syndrome.
pub(crate) fn sync(esr: u64) -> Trap {
    Trap { kind: TrapKind::Sync, esr: (esr | 1 << 25) & 0xffff_ffff, far: 0, hpfar: 0 }
}

/// A stage-2 translation fault at level 3 of a load or store of a 64-bit
/// register.
pub(crate) fn abort(ipa: u64, size: u8, register: u8, write: bool, described: bool) -> Trap {
    let esr = 0x24 << 26
        | 1 << 25
        | u64::from(described) << 24
        | u64::from(size.trailing_zeros() & 3) << 22
        | u64::from(register) << 16
        | 1 << 15
        | u64::from(write) << 6
        | 0x07;
    Trap { kind: TrapKind::Sync, esr, far: ipa, hpfar: ipa >> 8 & !0xf }
}

/// A trapped MRS or MSR.
pub(crate) fn register(
    (op0, op1, crn, crm, op2): (u8, u8, u8, u8, u8),
    rt: u8,
    read: bool,
) -> Trap {
    let fields = u64::from(op0) << 20
        | u64::from(op2) << 17
        | u64::from(op1) << 14
        | u64::from(crn) << 10
        | u64::from(rt) << 5
        | u64::from(crm) << 1;
    sync(0x18 << 26 | fields | u64::from(read))
}

/// Is this one of the sixteen vectors? (VBAR_EL1 is 0 on the simulated
/// machine, and no code is there.)
pub(crate) fn is_vector(pc: u64) -> bool {
    pc < 0x800 && pc.is_multiple_of(0x80)
}
