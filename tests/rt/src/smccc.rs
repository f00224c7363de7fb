//! Calls by the SMC Calling Convention (Arm DEN0028), version 1.1 or later:
//! results in x0 to x3, x4 to x17 preserved. The wrappers declare exactly
//! that, so a callee that clobbers more breaks the payload; [`hvc_audit`] is
//! how a test asks.

#![allow(unsafe_code)]

use core::arch::asm;

macro_rules! conduit {
    ($(#[$doc:meta])* $name:ident: $instruction:literal) => {
        $(#[$doc])*
        pub fn $name(function: u64, a: [u64; 7]) -> [u64; 4] {
            let (x0, x1, x2, x3): (u64, u64, u64, u64);
            // SAFETY: the callee may give away memory of the program only if
            // the arguments say so; that is what the arguments are for. No
            // `nomem`: it may change memory.
            unsafe {
                asm!(
                    $instruction,
                    inlateout("x0") function => x0,
                    inlateout("x1") a[0] => x1,
                    inlateout("x2") a[1] => x2,
                    inlateout("x3") a[2] => x3,
                    in("x4") a[3],
                    in("x5") a[4],
                    in("x6") a[5],
                    in("x7") a[6],
                    options(nostack)
                );
            }
            [x0, x1, x2, x3]
        }
    };
}

conduit! {
    /// HVC #0 with function id and seven arguments; gives x0 to x3.
    hvc: "hvc #0"
}
conduit! {
    /// SMC #0 with function id and seven arguments; gives x0 to x3.
    smc: "smc #0"
}
conduit! {
    /// HVC with an immediate that no convention defines.
    hvc_imm1: "hvc #1"
}
conduit! {
    /// SMC with an immediate that no convention defines.
    smc_imm1: "smc #1"
}

macro_rules! all_registers {
    ($(#[$doc:meta])* $name:ident: $instruction:literal) => {
        $(#[$doc])*
        pub fn $name(x: &mut [u64; 18]) {
            // SAFETY: as above; all registers the array fills are declared,
            // and x20 holds the array's address, which every callee preserves.
            unsafe {
                asm!(
                    "ldp x0, x1, [x20]",
                    "ldp x2, x3, [x20, #16]",
                    "ldp x4, x5, [x20, #32]",
                    "ldp x6, x7, [x20, #48]",
                    "ldp x8, x9, [x20, #64]",
                    "ldp x10, x11, [x20, #80]",
                    "ldp x12, x13, [x20, #96]",
                    "ldp x14, x15, [x20, #112]",
                    "ldp x16, x17, [x20, #128]",
                    $instruction,
                    "stp x0, x1, [x20]",
                    "stp x2, x3, [x20, #16]",
                    "stp x4, x5, [x20, #32]",
                    "stp x6, x7, [x20, #48]",
                    "stp x8, x9, [x20, #64]",
                    "stp x10, x11, [x20, #80]",
                    "stp x12, x13, [x20, #96]",
                    "stp x14, x15, [x20, #112]",
                    "stp x16, x17, [x20, #128]",
                    in("x20") x.as_mut_ptr(),
                    out("x0") _, out("x1") _, out("x2") _, out("x3") _, out("x4") _,
                    out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _,
                    out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _,
                    out("x15") _, out("x16") _, out("x17") _,
                    options(nostack)
                );
            }
        }
    };
}

all_registers! {
    /// HVC #0 with x0 to x17, and what they are afterwards.
    hvc_all: "hvc #0"
}
all_registers! {
    /// SMC #0 with x0 to x17, and what they are afterwards: for calls that
    /// use more registers than version 1.1 has (DEN0028, from version 1.2).
    smc_all: "smc #0"
}

/// HVC #0 as [`hvc`], that also says which of x4 to x17 changed: bit n of the
/// second result is set if xn did.
pub fn hvc_audit(function: u64, a: [u64; 7]) -> ([u64; 4], u32) {
    let mut x = [0u64; 18];
    x[0] = function;
    x[1..8].copy_from_slice(&a);
    for (index, register) in x.iter_mut().enumerate().skip(8) {
        *register = 0x5afe_5afe_0000_0000 | index as u64;
    }
    let before = x;
    hvc_all(&mut x);
    let changed = (4..18).filter(|index| x[*index] != before[*index]).map(|index| 1 << index).sum();
    ([x[0], x[1], x[2], x[3]], changed)
}
