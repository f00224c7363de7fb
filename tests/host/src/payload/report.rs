//! Lines for people and lines for the tests.

use alloc::string::String;
use core::sync::atomic::{AtomicU64, Ordering};

use host::bouncer::Handle;
use hyp::stats::{MachineCounter, VmCounter};

use super::calls::BOUNCER;

static MADE: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);

/// The one outcome that is good.
pub(super) const GOOD: &str = "refused";

/// How one attempt ended.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    /// Row of the attack table, and a word of its own.
    pub(super) id: &'static str,
    /// What was tried.
    pub(super) what: String,
    /// [`GOOD`], or what happened instead.
    pub(super) outcome: &'static str,
    /// How one knows.
    pub(super) detail: String,
}

/// Prints an attempt and counts it.
pub(super) fn attack(finding: &Finding) {
    MADE.fetch_add(1, Ordering::Relaxed);
    if finding.outcome == GOOD {
        REFUSED.fetch_add(1, Ordering::Relaxed);
    }
    rt::println!(
        "@attack id={} what=\"{}\" outcome={} detail=\"{}\"",
        finding.id,
        finding.what,
        finding.outcome,
        finding.detail
    );
}

/// Attempts made, and how many of them were refused.
pub(super) fn tally() -> (u64, u64) {
    (MADE.load(Ordering::Relaxed), REFUSED.load(Ordering::Relaxed))
}

/// Prints a counter of a run.
pub(super) fn counter(run: &str, name: &str, value: u64) {
    rt::println!("@counter run={run} name={name} value={value}");
}

/// Prints all of EL2's counters of a VM.
pub(super) fn vm_counters(run: &str, vm: Handle) {
    for (index, known) in (0..).zip(VmCounter::ALL) {
        if let Ok(value) = BOUNCER.stats(Some(vm), index) {
            counter(run, known.name(), value);
        }
    }
}

/// Prints all of EL2's counters of the machine.
pub(super) fn machine_counters() {
    for (index, known) in (0..).zip(MachineCounter::ALL) {
        if let Ok(value) = BOUNCER.stats(None, index) {
            counter("machine", known.name(), value);
        }
    }
}
