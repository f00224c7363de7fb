//! Accesses that may be refused, and that the payload survives.
//!
//! Each function performs exactly one instruction on an address the caller
//! may have no right to. If it takes a synchronous exception, the handler
//! finds the instruction in the fixup table and execution goes on after it,
//! with the syndrome as the result.
//!
//! They are safe to *call* in a program whose own memory the address does not
//! touch; that is the caller's promise, and the reason the writing ones are
//! `unsafe`.

#![allow(unsafe_code)]

/// The exception an attempt ended with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1: the address, where the syndrome says it is valid.
    pub far: u64,
    /// ELR_EL1: the instruction.
    pub elr: u64,
}

impl Fault {
    /// Exception class (ESR_EL1.EC): 0x25 data abort, 0x21 instruction abort,
    /// 0 undefined instruction.
    pub fn class(self) -> u64 {
        self.esr >> 26 & 0x3f
    }

    /// Is it a synchronous external abort (fault status 0x10): what bouncer
    /// injects for memory that is not the caller's?
    pub fn is_external_abort(self) -> bool {
        matches!(self.class(), 0x21 | 0x25) && self.esr & 0x3f == 0x10
    }

    /// Is it an alignment fault of a load or store (fault status 0x21): what
    /// bouncer injects instead if it was asked to?
    pub fn is_alignment_fault(self) -> bool {
        self.class() == 0x25 && self.esr & 0x3f == 0x21
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        if self.is_external_abort() {
            "external abort"
        } else if self.is_alignment_fault() {
            "alignment fault"
        } else if self.is_undefined() {
            "undefined"
        } else {
            "another fault"
        }
    }

    /// Was the instruction undefined (or trapped and reported so)?
    pub fn is_undefined(self) -> bool {
        self.class() == 0
    }
}

/// Runs instructions of which some may fault, with these values in x0 to x3.
/// Each `.quad` pair names one that may, and where to go on. Gives
/// `Result<u64, Fault>`: x0, if x1 is zero in the end. A fault leaves there what
/// [`Fault`] has, in x1 to x3 and x5; the rest of the operands is the caller's.
#[macro_export]
macro_rules! attempt_asm {
    ([$($line:expr),+], $fixups:literal, $x:expr, $($operands:tt)+) => {{
        let [x0, x1, x2, x3]: [u64; 4] = $x;
        let (value, faulted): (u64, u64);
        let (esr, far, elr): (u64, u64, u64);
        ::core::arch::asm!(
            $($line,)+
            ".pushsection .fixups, \"a\"",
            ".balign 8",
            $fixups,
            ".popsection",
            inlateout("x0") x0 => value,
            inlateout("x1") x1 => faulted,
            inlateout("x2") x2 => esr,
            inlateout("x3") x3 => far,
            lateout("x5") elr,
            $($operands)+
        );
        if faulted == 0 { Ok(value) } else { Err($crate::attempt::Fault { esr, far, elr }) }
    }};
}

/// Runs one instruction that may fault: its operand is in x4, a second one in
/// x6, its result in x0. Gives `Result<u64, Fault>`.
#[macro_export]
macro_rules! attempt {
    ($instruction:expr, $operand:expr, $value:expr) => {
        $crate::attempt_asm!(
            ["78:", $instruction, "79:"],
            ".quad 78b, 79b",
            [0; 4],
            inlateout("x4") $operand => _,
            inlateout("x6") $value => _,
            options(nostack)
        )
    };
}

/// Reads a system register by name or encoding (`"S3_0_C0_C4_4"`) and survives
/// a refusal: `Result<u64, Fault>`.
#[macro_export]
macro_rules! try_mrs {
    ($register:literal) => {
        // SAFETY: reading a register changes no memory.
        unsafe { $crate::attempt!(concat!("mrs x0, ", $register), 0u64, 0u64) }
    };
}

/// Writes a system register and survives a refusal. An `unsafe` operation:
/// the register must not change what running code relies on.
#[macro_export]
macro_rules! try_msr {
    ($register:literal, $value:expr) => {
        $crate::attempt!(concat!("msr ", $register, ", x4"), $value, 0u64)
    };
}

macro_rules! reads {
    ($($(#[$doc:meta])* $name:ident: $instruction:literal;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// The fault it took.
        pub fn $name(address: u64) -> Result<u64, Fault> {
            // SAFETY: one load-like instruction; it may fault, it changes no
            // memory of the program.
            unsafe { attempt!($instruction, address, 0u64) }
        }
    )*};
}

macro_rules! writes {
    ($($(#[$doc:meta])* $name:ident: $instruction:literal;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// The fault it took; nothing was written then.
        ///
        /// # Safety
        /// The bytes must not belong to any Rust object in use.
        pub unsafe fn $name(address: u64, value: u64) -> Result<(), Fault> {
            // SAFETY: the caller's promise.
            unsafe { attempt!($instruction, address, value) }.map(|_| ())
        }
    )*};
}

reads! {
    /// Loads a byte.
    try_read_u8: "ldrb w0, [x4]";
    /// Loads 16 bits.
    try_read_u16: "ldrh w0, [x4]";
    /// Loads 32 bits.
    try_read_u32: "ldr w0, [x4]";
    /// Loads 64 bits.
    try_read_u64: "ldr x0, [x4]";
    /// Cleans and invalidates the data cache line (DC CIVAC).
    try_dc_civac: "dc civac, x4";
    /// Cleans the data cache line (DC CVAC).
    try_dc_cvac: "dc cvac, x4";
    /// Invalidates the instruction cache line (IC IVAU).
    try_ic_ivau: "ic ivau, x4";
    /// Translates for a read at EL1 (AT S1E1R); AT reports in PAR_EL1, which
    /// is read separately with [`par`]. Result: 0.
    try_at_s1e1r: "at s1e1r, x4";
    /// Translates for a write at EL1 (AT S1E1W).
    try_at_s1e1w: "at s1e1w, x4";
    /// Translates through both stages (AT S12E1R): for EL2 only, undefined here.
    try_at_s12e1r: "at s12e1r, x4";
}

writes! {
    /// Stores a byte.
    try_write_u8: "strb w6, [x4]";
    /// Stores 16 bits.
    try_write_u16: "strh w6, [x4]";
    /// Stores 32 bits.
    try_write_u32: "str w6, [x4]";
    /// Stores 64 bits.
    try_write_u64: "str x6, [x4]";
}

/// The result of the last AT instruction (PAR_EL1); bit 0 set means a fault.
pub fn par() -> u64 {
    let par: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("isb", "mrs {}, par_el1", out(reg) par, options(nostack)) };
    par
}

/// Zeroes the block that contains `address` (DC ZVA; 64 bytes on usual CPUs).
///
/// # Errors
/// The fault it took; nothing was written then.
///
/// # Safety
/// The block must not belong to any Rust object in use.
pub unsafe fn try_dc_zva(address: u64) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    unsafe { attempt!("dc zva, x4", address, 0u64) }.map(|_| ())
}

/// Drops the data cache line (DC IVAC): with write permission it may discard
/// what was written to it.
///
/// # Errors
/// The fault it took.
///
/// # Safety
/// The line must not belong to any Rust object in use.
pub unsafe fn try_dc_ivac(address: u64) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    unsafe { attempt!("dc ivac, x4", address, 0u64) }.map(|_| ())
}

/// Adds atomically to 64 bits (an exclusive pair, which every CPU has) and
/// gives the value before.
///
/// # Errors
/// The fault it took; nothing was written then.
///
/// # Safety
/// The bytes must not belong to any Rust object in use.
pub unsafe fn try_atomic_add(address: u64, value: u64) -> Result<u64, Fault> {
    // SAFETY: the caller's promise. Both halves of the pair have a fixup.
    unsafe {
        attempt_asm!(
            [
                "77:",
                "ldxr x0, [x4]",
                "add x7, x0, x6",
                "78:",
                "stxr w8, x7, [x4]",
                "cbnz w8, 77b",
                "79:"
            ],
            ".quad 77b, 79b, 78b, 79b",
            [0; 4],
            in("x4") address,
            in("x6") value,
            out("x7") _,
            out("x8") _,
            options(nostack)
        )
    }
}

/// HVC #0 with function id and three arguments, where it may be undefined;
/// gives x0.
///
/// # Errors
/// The exception it took.
pub fn try_hvc(function: u64, a: [u64; 3]) -> Result<u64, Fault> {
    // SAFETY: as `smccc::hvc`, which declares the same registers.
    unsafe {
        attempt_asm!(
            ["78:", "hvc #0", "mov x1, xzr", "79:"],
            ".quad 78b, 79b",
            [function, a[0], a[1], a[2]],
            options(nostack)
        )
    }
}

/// Jumps to `address` and comes back by the RET that should be there.
///
/// # Errors
/// The instruction abort it took.
///
/// # Safety
/// If the address is executable, a function must be there that obeys the
/// procedure call standard.
pub unsafe fn try_exec(address: u64) -> Result<(), Fault> {
    // SAFETY: the caller's promise. The fixup names the link register's value,
    // which is what an instruction abort at the target leaves.
    unsafe {
        attempt_asm!(
            ["blr x4", "78:", "mov x1, xzr", "79:"],
            ".quad 78b, 79b",
            [0; 4],
            in("x4") address,
            clobber_abi("C")
        )
    }
    .map(|_| ())
}
