//! A trap as the hardware reports it, before it is decoded.

/// Which vector was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TrapKind {
    /// Synchronous exception; ESR_EL2 says which.
    Sync,
    /// Physical IRQ or FIQ.
    Interrupt,
    /// Physical SError.
    SError,
}

/// The syndrome of one exception from EL1 or EL0 to EL2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trap {
    /// Which vector.
    pub kind: TrapKind,
    /// ESR_EL2.
    pub esr: u64,
    /// FAR_EL2: virtual address of the fault.
    pub far: u64,
    /// HPFAR_EL2: intermediate physical address of the fault, bits 47:12 at
    /// bits 43:4 (Arm ARM D24.2.67).
    pub hpfar: u64,
}
