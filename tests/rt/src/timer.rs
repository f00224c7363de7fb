//! The virtual timer and counter (Arm ARM D12).

#![allow(unsafe_code)]

use core::arch::asm;

/// Interrupt id of the virtual timer: PPI 11.
pub const INTID: u32 = 27;

/// Ticks per second.
pub fn frequency() -> u64 {
    let value: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) value, options(nomem, nostack)) };
    value
}

/// The virtual counter, in ticks.
pub fn now() -> u64 {
    let value: u64;
    // SAFETY: reads a register; ISB keeps the read in program order.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) value, options(nostack)) };
    value
}

/// Ticks in so many microseconds.
pub fn ticks(microseconds: u64) -> u64 {
    frequency() * microseconds / 1_000_000
}

/// Asserts this CPU's virtual timer interrupt from `deadline` (counter value)
/// on, until [`cancel`].
pub fn set(deadline: u64) {
    // SAFETY: programs the timer of this CPU, which is the payload's.
    unsafe {
        asm!("msr cntv_cval_el0, {}", "msr cntv_ctl_el0, {}", "isb",
             in(reg) deadline, in(reg) 1u64, options(nostack));
    }
}

/// Switches this CPU's virtual timer off.
pub fn cancel() {
    // SAFETY: as above.
    unsafe { asm!("msr cntv_ctl_el0, xzr", "isb", options(nostack)) };
}

/// Spins for so many microseconds.
pub fn delay(microseconds: u64) {
    let end = now() + ticks(microseconds);
    while now() < end {
        core::hint::spin_loop();
    }
}
