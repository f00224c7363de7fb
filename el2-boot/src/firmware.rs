//! Calls to the firmware: PSCI by SMC (Arm DEN0022).
#![allow(unsafe_code)]

use core::arch::asm;

/// PSCI function ids.
pub(crate) const SYSTEM_OFF: u64 = 0x8400_0008;
pub(crate) const SYSTEM_RESET: u64 = 0x8400_0009;
const CPU_OFF: u64 = 0x8400_0002;
const CPU_ON: u64 = 0xc400_0003;

/// Calls the firmware and returns its x0.
pub(crate) fn call(arguments: [u64; 4]) -> u64 {
    let [x0, ..] = call_for_all(arguments);
    x0
}

/// Calls the firmware and returns its x0 to x3.
pub(crate) fn call_for_all(arguments: [u64; 4]) -> [u64; 4] {
    let [mut x0, mut x1, mut x2, mut x3] = arguments;
    // SAFETY: firmware above EL2 keeps x18 to x30 and the stack (SMCCC 1.x,
    // 2.6); x4 to x17 are given up.
    unsafe {
        asm!(
            "smc #0",
            inout("x0") x0, inout("x1") x1, inout("x2") x2, inout("x3") x3,
            out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _,
            out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _,
            out("x15") _, out("x16") _, out("x17") _,
            options(nostack)
        );
    }
    [x0, x1, x2, x3]
}

/// Switches this CPU off. Returns only if the firmware refuses.
pub(crate) fn cpu_off() -> i64 {
    call([CPU_OFF, 0, 0, 0]) as i64
}

/// Switches the CPU with this affinity on, at `entry` with x0 = `context`.
pub(crate) fn cpu_on(mpidr: u64, entry: u64, context: u64) -> i64 {
    call([CPU_ON, mpidr, entry, context]) as i64
}

/// Stops the machine for good.
pub(crate) fn stop() -> ! {
    call([SYSTEM_OFF, 0, 0, 0]);
    loop {
        crate::sysreg::wfe();
    }
}
