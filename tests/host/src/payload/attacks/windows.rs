//! C20: through the window of a device with an I/O table, more than the guest
//! has mapped.

#![allow(unsafe_code)]

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::SeqCst;

use host::bouncer::Handle;
use hyp::error::Error;
use hyp::event::EventKind;
use rt::attempt::{self, Fault};

use super::memory::{reach, reach_window};
use super::{Finding, Owner, drain_events, judge_frame_call};
use crate::payload::calls::BOUNCER;
use crate::payload::report::GOOD;
use crate::payload::{cpus, run};

/// How long a CPU may take for a look, in milliseconds.
const PATIENCE: u64 = 2000;
/// What a write would leave behind.
const FOOTPRINT: u64 = 0x6861_636b_6564_2121;

/// An instruction that writes memory, by its name.
type Tool = (&'static str, fn(u64) -> Result<u64, Fault>);

/// Reads a word there on every CPU, so that every TLB has it. True if every CPU
/// saw the same, and this CPU can write it.
pub(in crate::payload) fn warm_up(address: u64) -> bool {
    let Ok(word) = attempt::try_read_u64(address) else { return false };
    let same = (1..cpus::count()).all(|index| {
        let seen = Arc::new(AtomicU64::new(!word));
        let theirs = Arc::clone(&seen);
        let job = move || {
            if let Ok(value) = attempt::try_read_u64(address) {
                theirs.store(value, SeqCst);
            }
        };
        cpus::give(index, job)
            && run::until(PATIENCE, || cpus::finished(index))
            && seen.load(SeqCst) == word
    });
    // SAFETY: a page that a guest has mapped for its device to write.
    same && unsafe { attempt::try_write_u64(address, word) }.is_ok()
}

/// Pages of the window at which nothing is mapped. Expected: aborts that tell
/// whose window it is.
pub(in crate::payload) fn unmapped(address: u64, place: &str) -> Vec<Finding> {
    reach_window(address >> 12, place)
}

/// What the guest has unmapped, or what a guest that was stopped had: every
/// CPU's TLB knew it a moment ago.
pub(in crate::payload) fn gone(id: &'static str, address: u64, whose: &str) -> Vec<Finding> {
    let look = move || reach_window(address >> 12, "the page");
    let mut findings = Vec::from([summary(id, 0, whose, look())]);
    for index in 1..cpus::count() {
        let made: Arc<spin::Mutex<Vec<Finding>>> = Arc::default();
        let theirs = Arc::clone(&made);
        if cpus::give(index, move || *theirs.lock() = look()) {
            run::until(PATIENCE, || cpus::finished(index));
        }
        let made = core::mem::take(&mut *made.lock());
        findings.push(summary(id, index, whose, made));
    }
    findings
}

fn summary(id: &'static str, cpu: usize, whose: &str, made: Vec<Finding>) -> Finding {
    let bad = made.iter().find(|finding| finding.outcome != GOOD);
    let (outcome, detail) = match bad {
        Some(bad) => (bad.outcome, format!("{}: {}", bad.what, bad.detail)),
        None if made.is_empty() => ("no-answer", format!("cpu {cpu} did not finish")),
        None => (GOOD, format!("{} instructions aborted, each logged", made.len())),
    };
    Finding { id, what: format!("use {whose}, through the warm TLB of CPU {cpu}"), outcome, detail }
}

/// A page that is mapped to read. Expected of writing: an abort that is logged,
/// though the hardware does not tell its address; and the page is as it was.
pub(in crate::payload) fn read_only(address: u64) -> Vec<Finding> {
    let tools: [Tool; 3] = [
        // SAFETY: a page of a guest's that is not to be written; no Rust object.
        ("write", |at| unsafe { attempt::try_write_u64(at, FOOTPRINT) }.map(|()| 0)),
        // SAFETY: as above.
        ("atomically add to", |at| unsafe { attempt::try_atomic_add(at, 1) }),
        // SAFETY: as above.
        ("DC ZVA", |at| unsafe { attempt::try_dc_zva(at) }.map(|()| 0)),
    ];
    let before = attempt::try_read_u64(address);
    tools
        .into_iter()
        .map(|(name, apply)| {
            drain_events();
            let result = apply(address);
            let logged = drain_events()
                .iter()
                .any(|event| event.kind == EventKind::HostAbort as u8 && event.address == u64::MAX);
            let after = attempt::try_read_u64(address);
            let (outcome, detail) = match (result, after) {
                (Ok(value), _) => ("succeeded", format!("no abort; x0 = {value:#x}")),
                (Err(fault), _) if !fault.is_external_abort() => {
                    ("wrong-fault", format!("ESR {:#x}", fault.esr))
                }
                (_, after) if after.is_err() || after != before => {
                    ("changed", format!("{before:?} before, {after:?} after"))
                }
                _ if !logged => ("unlogged", "external abort, but no event".into()),
                _ => (GOOD, "external abort, logged; the page reads as before".into()),
            };
            let what = format!("{name} a page that is mapped to be read");
            Finding { id: "C20.readonly", what, outcome, detail }
        })
        .collect()
}

/// The mapped page's frame, at its own address and by every call that moves a
/// frame. `free` is a page of the guest's RAM that has no frame.
pub(in crate::payload) fn at_its_own_place(pfn: u64, vm: Handle, free: u64) -> Vec<Finding> {
    let place = format!("the mapped page's own frame at {:#x}", pfn << 12);
    let mut findings = reach(pfn, Owner::Guest, &place);
    let refused = [Error::Denied];
    let dies = [Error::BadState];
    let mut call = |what: &str, expected: &[Error], call: &dyn Fn() -> Result<u64, _>| {
        let what = format!("{what} a page that a device has");
        findings.push(judge_frame_call("C20.calls", what, expected, pfn, call));
    };
    call("donate", &refused, &|| BOUNCER.frame_donate(vm, pfn, free, 1, false));
    call("make page tables of", &refused, &|| BOUNCER.vm_topup(vm, pfn, 1));
    call("reclaim", &dies, &|| BOUNCER.frame_reclaim(vm, pfn, 1));
    findings
}
