//! C4: keep using a page after the guest took it back. C16: read what a
//! realm's page held before it was shared.

#![allow(unsafe_code)]

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::SeqCst;

use rt::attempt;

use super::memory::reach;
use super::{Finding, Owner};
use crate::payload::report::GOOD;
use crate::payload::{cpus, run};

/// How long a CPU may take for a look, in milliseconds.
const PATIENCE: u64 = 2000;
/// What the host writes into a page it was lent.
const ANSWER: u64 = u64::from_le_bytes(*b"seen it!");

/// C16: a realm filled a page with its marker and shared it; it has written
/// nothing since. Expected: zeros, all of it.
pub(in crate::payload) fn residue(pfn: u64) -> Finding {
    let words = (pfn << 12..(pfn + 1) << 12).step_by(8);
    let mut found: Vec<_> =
        words.map(|address| (address, attempt::try_read_u64(address))).collect();
    found.retain(|(_, word)| *word != Ok(0));
    let (outcome, detail) = match found.first() {
        None => (GOOD, format!("frame {pfn:#x}: 512 words, all zero")),
        Some((address, Ok(word))) => {
            ("leaked", format!("{} words are not zero: {word:#x} at {address:#x}", found.len()))
        }
        Some((address, Err(fault))) => {
            ("no-answer", format!("{address:#x} cannot be read: ESR {:#x}", fault.esr))
        }
    };
    let what = "read a page at the moment a realm shares it".into();
    Finding { id: "C16.shared", what, outcome, detail }
}

/// C16, the other way: the host has written into the page, and the realm has
/// looked at all of it when it was private again. Expected: it saw zeros.
pub(in crate::payload) fn stays_behind(zeros: Option<bool>) -> Finding {
    let (outcome, detail) = match zeros {
        Some(true) => (GOOD, "the realm finds 512 words, all zero"),
        Some(false) => ("arrived", "the realm finds bytes in its page that it did not write"),
        None => ("no-answer", "the realm did not say what is in its page"),
    };
    let what = "leave bytes in a page that a realm takes back".into();
    Finding { id: "C16.back", what, outcome, detail: detail.into() }
}

/// Reads the lent page on every CPU, so that every TLB has it, and answers in
/// it. True if every CPU saw the same.
pub(in crate::payload) fn warm_up(pfn: u64) -> bool {
    let here = attempt::try_read_u64(pfn << 12);
    let Ok(greeting) = here else { return false };
    let same = (1..cpus::count()).all(|index| {
        let seen = Arc::new(AtomicU64::new(0));
        let theirs = Arc::clone(&seen);
        let job = move || {
            if let Ok(value) = attempt::try_read_u64(pfn << 12) {
                theirs.store(value, SeqCst);
            }
        };
        cpus::give(index, job)
            && run::until(PATIENCE, || cpus::finished(index))
            && seen.load(SeqCst) == greeting
    });
    // SAFETY: guest memory, lent to the host to write.
    same && unsafe { attempt::try_write_u64(pfn << 12, ANSWER) }.is_ok()
}

/// C4: the guest has taken the page back; each CPU's TLB knew it a moment ago.
/// Expected: aborts on every CPU.
pub(in crate::payload) fn after_return(pfn: u64) -> Vec<Finding> {
    let mut findings = Vec::from([summary(0, reach(pfn, Owner::Guest, "the page"))]);
    for index in 1..cpus::count() {
        let made: Arc<spin::Mutex<Vec<Finding>>> = Arc::default();
        let theirs = Arc::clone(&made);
        let job = move || *theirs.lock() = reach(pfn, Owner::Guest, "the page");
        if cpus::give(index, job) {
            run::until(PATIENCE, || cpus::finished(index));
        }
        let made = core::mem::take(&mut *made.lock());
        findings.push(summary(index, made));
    }
    findings
}

fn summary(cpu: usize, made: Vec<Finding>) -> Finding {
    let bad = made.iter().find(|finding| finding.outcome != GOOD);
    let (outcome, detail) = match bad {
        Some(bad) => (bad.outcome, format!("{}: {}", bad.what, bad.detail)),
        None if made.is_empty() => ("no-answer", format!("cpu {cpu} did not finish")),
        None => (GOOD, format!("{} instructions aborted, each logged", made.len())),
    };
    let what = format!("use a page the guest took back, through the warm TLB of CPU {cpu}");
    Finding { id: "C4.warm", what, outcome, detail }
}
