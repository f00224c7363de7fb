//! C8: starting and stopping CPUs to get one that is not behind stage 2.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use rt::{cpu, psci};
use spin::Mutex;

use super::memory::reach;
use super::{Finding, Owner};
use crate::payload::report::GOOD;
use crate::payload::{cpus, run};

/// PSCI function ids and codes (DEN0022F.b 5.1, 5.2.2).
const CPU_ON: u32 = 0xc400_0003;
const CPU_SUSPEND: u32 = 0xc400_0001;
const SYSTEM_SUSPEND: u32 = 0xc400_000e;
const INVALID_PARAMETERS: i64 = -2;
const DENIED: i64 = -3;
const ALREADY_ON: i64 = -4;
const INVALID_ADDRESS: i64 = -9;
const NOT_SUPPORTED: i64 = -1;
/// CPU_SUSPEND power state: power down (bit 16).
const POWER_DOWN: u64 = 1 << 16;
/// How long a CPU may take for a job, in milliseconds.
const PATIENCE: u64 = 5000;

fn judge(id: &'static str, what: &str, expected: &[i64], code: i64) -> Finding {
    let outcome = if expected.contains(&code) {
        GOOD
    } else if code == 0 {
        "succeeded"
    } else {
        "wrong-error"
    };
    Finding { id, what: String::from(what), outcome, detail: format!("PSCI code {code}") }
}

/// C8: calls that would start a CPU somewhere else, twice, or not at all.
/// `bouncer` is a frame of EL2's, `entry` an address where CPUs may start.
pub(in crate::payload) fn calls(bouncer: u64) -> Vec<Finding> {
    let entry = cpu::secondary_entry() as u64;
    let me = cpu::mpidr();
    let nobody = 0xff_00ff_ff7f;
    Vec::from([
        judge(
            "C8.unknown",
            "start a CPU that does not exist",
            &[INVALID_PARAMETERS],
            psci::call(CPU_ON, nobody, entry, 0),
        ),
        judge(
            "C8.twice",
            "start the CPU that is running",
            &[ALREADY_ON],
            psci::call(CPU_ON, me, entry, 0),
        ),
        judge(
            "C8.entry",
            "start a CPU in bouncer's memory",
            &[INVALID_ADDRESS, INVALID_PARAMETERS],
            psci::call(CPU_ON, me, bouncer << 12, 0),
        ),
        judge(
            "C8.misaligned",
            "start a CPU at half an instruction",
            &[INVALID_ADDRESS, INVALID_PARAMETERS],
            psci::call(CPU_ON, me, entry + 2, 0),
        ),
        judge(
            "C8.suspend",
            "power a CPU down and resume at an address of its own",
            &[DENIED, NOT_SUPPORTED, INVALID_PARAMETERS],
            psci::call(CPU_SUSPEND, POWER_DOWN, entry, 0),
        ),
        judge(
            "C8.system-suspend",
            "suspend the machine and resume at an address of its own",
            &[NOT_SUPPORTED],
            psci::call(SYSTEM_SUSPEND, entry, 0, 0),
        ),
    ])
}

/// C8: each CPU that was started reaches for a frame of bouncer's. Expected:
/// the same abort as on the boot CPU, and an event that names that CPU.
pub(in crate::payload) fn behind_stage2(bouncer: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    for index in 1..cpus::count() {
        let made: Arc<Mutex<Vec<Finding>>> = Arc::default();
        let theirs = Arc::clone(&made);
        let job = move || {
            *theirs.lock() = reach(bouncer, Owner::Bouncer, "bouncer's memory from a started CPU");
        };
        let finished = cpus::give(index, job) && run::until(PATIENCE, || cpus::finished(index));
        let made = core::mem::take(&mut *made.lock());
        let bad = made.iter().find(|finding| finding.outcome != GOOD);
        let (outcome, detail) = match (finished, made.len(), bad) {
            (true, 1.., None) => {
                (GOOD, format!("{} instructions aborted, events name cpu {index}", made.len()))
            }
            (_, _, Some(bad)) => (bad.outcome, format!("{}: {}", bad.what, bad.detail)),
            _ => ("no-answer", format!("cpu {index} did not finish")),
        };
        let what = format!("reach bouncer's memory from started CPU {index}");
        findings.push(Finding { id: "C8.behind", what, outcome, detail });
    }
    findings
}
