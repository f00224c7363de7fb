//! C14: use everything up.

use alloc::format;
use alloc::vec::Vec;

use host::bouncer::{Handle, Refusal};
use host::frames::{FreeFrames, Run};
use hyp::abi;
use hyp::error::Error;
use spin::Mutex;

use super::{Finding, judge_call};
use crate::payload::calls::BOUNCER;
use crate::payload::report::GOOD;

/// RAM of the VMs that are made only to be too many, in pages.
const PAGES: u64 = 512;

/// C14: VMs until there is no more slot, VMs of impossible shapes. Expected:
/// an error; afterwards every frame is the host's again.
pub(in crate::payload) fn all(free: &Mutex<FreeFrames>) -> Vec<Finding> {
    let mut findings = shapes(free);
    findings.push(slots(free));
    findings
}

fn shapes(free: &Mutex<FreeFrames>) -> Vec<Finding> {
    let Some(run) = free.lock().take(64, 1) else { return Vec::new() };
    let bad: &[Error] = &[Error::InvalidParameter, Error::NoMemory];
    let cases: [(&'static str, &str, u64, u64, u64); 6] = [
        (
            "C14.memcache",
            "less page-table memory than a root needs",
            abi::MIN_MEMCACHE - 1,
            PAGES,
            1,
        ),
        ("C14.no-vcpu", "no vCPU", 32, PAGES, 0),
        ("C14.vcpus", "more vCPUs than there can be", 32, PAGES, abi::MAX_VCPUS as u64 + 1),
        ("C14.many-vcpus", "2^64 vCPUs", 32, PAGES, u64::MAX),
        ("C14.no-ram", "no RAM", 32, 0, 1),
        ("C14.ram", "RAM that does not fit its address space", 32, u64::MAX, 1),
    ];
    let findings = cases
        .into_iter()
        .map(|(id, what, memcache, pages, vcpus)| {
            let result = BOUNCER.vm_create(run.pfn, memcache, pages, vcpus, 0);
            if let Ok(vm) = result {
                destroy(vm);
            }
            judge_call(id, format!("a VM with {what}"), bad, result)
        })
        .collect();
    free.lock().give(run);
    findings
}

fn slots(free: &Mutex<FreeFrames>) -> Finding {
    let mut made: Vec<(Handle, Run)> = Vec::new();
    let mut refusal = None;
    for _ in 0..2 * abi::MAX_VMS {
        let Some(run) = free.lock().take(32, 1) else { break };
        match BOUNCER.vm_create(run.pfn, run.count, PAGES, 1, 0) {
            Ok(vm) => made.push((vm, run)),
            Err(why) => {
                free.lock().give(run);
                refusal = Some(why);
                break;
            }
        }
    }
    let count = made.len();
    let mut back = true;
    for (vm, run) in made {
        back &= destroy(vm);
        back &= (run.pfn..run.end()).all(|pfn| BOUNCER.frame_state(pfn) == Ok(0));
        free.lock().give(run);
    }
    let (outcome, detail) = match refusal {
        Some(Refusal::Error(Error::NoMemory)) if back => {
            (GOOD, format!("{count} more made, then NoMemory; all frames came back"))
        }
        Some(Refusal::Error(Error::NoMemory)) => ("frames-lost", format!("{count} made")),
        other => ("wrong-error", format!("{count} made, then {other:?}")),
    };
    Finding { id: "C14.slots", what: "more VMs than there are slots".into(), outcome, detail }
}

fn destroy(vm: Handle) -> bool {
    // A VM that was never finalised and owns nothing.
    let _ = BOUNCER.vm_stop(vm);
    (0..256).any(|_| BOUNCER.vm_destroy(vm) == Ok(0))
}
