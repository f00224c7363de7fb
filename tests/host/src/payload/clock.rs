//! The host's own timer: the EL1 physical timer.
//!
//! Not the virtual one, which belongs to whichever guest runs: the host's
//! time slice must end while a guest is on the CPU, and only the physical
//! timer keeps counting for the host then.

#![allow(unsafe_code)]

use core::arch::asm;

/// Interrupt id of the EL1 physical timer (PPI 14).
pub(super) const INTID: u32 = 30;

/// Enables this CPU's timer interrupts: the host's own, and the virtual
/// timer's, which bouncer passes to the guest that runs.
pub(super) fn prepare() {
    cancel();
    rt::gic::enable(INTID);
    rt::gic::enable(rt::timer::INTID);
}

/// CNTPCT_EL0, in ticks.
pub(super) fn now() -> u64 {
    let value: u64;
    // SAFETY: reads a counter; ISB keeps it in program order.
    unsafe { asm!("isb", "mrs {}, cntpct_el0", out(reg) value, options(nostack)) };
    value
}

/// Ticks in so many milliseconds.
pub(super) fn milliseconds(count: u64) -> u64 {
    rt::timer::frequency() / 1000 * count
}

/// Milliseconds of the counter.
pub(super) fn milliseconds_now() -> i64 {
    (now() / milliseconds(1).max(1)) as i64
}

/// Interrupts this CPU from `deadline` on, until [`cancel`].
pub(super) fn interrupt_at(deadline: u64) {
    // SAFETY: programs the timer of this CPU, which is the host's.
    unsafe {
        asm!("msr cntp_cval_el0, {}", "msr cntp_ctl_el0, {}", "isb",
             in(reg) deadline, in(reg) 1u64, options(nostack));
    }
}

/// Switches this CPU's timer off.
pub(super) fn cancel() {
    // SAFETY: as above.
    unsafe { asm!("msr cntp_ctl_el0, xzr", "isb", options(nostack)) };
}

/// Spins until `done` holds or so many milliseconds are over; says whether
/// it held.
pub(super) fn spin_until(limit: u64, mut done: impl FnMut() -> bool) -> bool {
    let end = now() + milliseconds(limit);
    loop {
        if done() {
            return true;
        }
        if now() >= end {
            return false;
        }
        core::hint::spin_loop();
    }
}
