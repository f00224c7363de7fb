//! C12: the host's own breakpoints and watchpoints, aimed at a guest.

#![allow(unsafe_code)]

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::arch::asm;

use super::Finding;
use crate::payload::report::GOOD;
use crate::payload::{cpus, run};

/// How long a CPU may take for a job, in milliseconds.
const PATIENCE: u64 = 2000;
/// MDSCR_EL1: breakpoints and watchpoints, also from EL1 itself. This program
/// keeps its own debug exceptions masked (PSTATE.D).
const MONITOR: u64 = 1 << 15 | 1 << 13;
/// DBGBCR: enabled, at EL1 and EL0, all bytes.
const BREAK: u64 = 1 | 3 << 1 | 0xf << 5;
/// DBGWCR: enabled, at EL1 and EL0, loads and stores, all bytes.
const WATCH: u64 = 1 | 3 << 1 | 3 << 3 | 0xff << 5;

/// Two breakpoints, two watchpoints with their controls, and MDSCR_EL1.
type Registers = [u64; 9];

macro_rules! registers {
    ($($index:literal: $name:literal),*) => {
        fn write(values: &Registers) {
            // SAFETY: this CPU's debug registers are the host's; it takes no
            // debug exception.
            unsafe {
                $(asm!(concat!("msr ", $name, ", {}"), in(reg) values[$index], options(nostack));)*
                asm!("isb", options(nostack));
            }
        }

        fn read() -> Registers {
            let mut values = [0; 9];
            // SAFETY: reading them has no effect.
            unsafe {
                $(asm!(concat!("mrs {}, ", $name), out(reg) values[$index], options(nostack));)*
            }
            values
        }
    };
}

registers! {
    0: "dbgbvr0_el1", 1: "dbgbcr0_el1", 2: "dbgbvr1_el1", 3: "dbgbcr1_el1",
    4: "dbgwvr0_el1", 5: "dbgwcr0_el1", 6: "dbgwvr1_el1", 7: "dbgwcr1_el1", 8: "mdscr_el1"
}

/// Runs `job` on every CPU; what each returned, if it did.
fn everywhere<T: Send + 'static>(job: fn(Registers) -> T, with: Registers) -> Vec<Option<T>> {
    let mut results = Vec::from([Some(job(with))]);
    for index in 1..cpus::count() {
        let result: Arc<spin::Mutex<Option<T>>> = Arc::default();
        let theirs = Arc::clone(&result);
        let given = cpus::give(index, move || *theirs.lock() = Some(job(with)));
        let done = given && run::until(PATIENCE, || cpus::finished(index));
        let value = if done { result.lock().take() } else { None };
        results.push(value);
    }
    results
}

/// Aims at the guest's instruction at `code` and its word at `data`, on every
/// CPU.
pub(in crate::payload) fn aim(code: u64, data: u64) -> Registers {
    let aimed = [code, BREAK, code + 4, BREAK, data, WATCH, data, WATCH, MONITOR];
    everywhere(
        |values| {
            // SAFETY: opens the OS lock, which is the host's.
            unsafe { asm!("msr oslar_el1, xzr", "isb", options(nostack)) };
            write(&values);
        },
        aimed,
    );
    aimed
}

/// What came of it: `guest` is what the guest told about what it noticed.
pub(in crate::payload) fn judge(aimed: Registers, early: bool, guest: Option<String>) -> Finding {
    let back = everywhere(
        |_| {
            let values = read();
            write(&[0; 9]);
            values
        },
        aimed,
    );
    let kept = back.iter().all(|values| *values == Some(aimed));
    let held = guest.as_ref().is_some_and(|words| !words.contains("=no"));
    let outcome = match (early, held, kept) {
        (true, ..) => "unverified",
        (_, false, _) => "observed",
        (_, _, false) => "changed",
        _ => GOOD,
    };
    let guest = guest.unwrap_or_default();
    let detail = format!("guest: {guest}; the host's own registers came back: {kept}");
    let what = "observe a guest by breakpoints and watchpoints, while it has its own".into();
    Finding { id: "C12.debug", what, outcome, detail }
}
