//! C10 and C11: every system register, by encoding and not by a list. What a
//! guest has in one must not be seen by the host or by another guest, and what
//! the host has in one not by a guest.

#![allow(unsafe_code)]

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use host::bouncer::{Conduit, Exit};
use hyp::abi::host as id;
use rt::scan::{Difference, Scan, seed};
use rt::{try_mrs, try_msr};

use super::Finding;
use crate::payload::calls::BOUNCER;
use crate::payload::report::GOOD;
use crate::payload::vm::{Vm, end};
use crate::payload::{clock, run};

/// C19: implementation-defined registers (op0 = 3, CRn 11 and 15), each of them
/// read and written, and what else of that kind has a name. Expected: undefined,
/// whatever the CPU has there. ACTLR_EL1 reads as zero.
fn implementation_defined(scan: &Scan) -> Finding {
    let reached = scan.found(|code| matches!(code >> 7 & 15, 11 | 15));
    // SAFETY: implementation defined, and not to reach the CPU.
    let written = unsafe { try_msr!("actlr_el1", u64::MAX) };
    let actlr = try_mrs!("actlr_el1");
    let (outcome, detail) = match (reached, written, actlr) {
        (Some(name), ..) => ("reached", format!("{name} is there")),
        (None, Ok(_), Ok(0)) => {
            (GOOD, String::from("4096 encodings undefined, ACTLR_EL1 reads as zero"))
        }
        (None, written, read) => ("reached", format!("ACTLR_EL1: {written:x?}, {read:x?}")),
    };
    let what = "change how the CPU behaves by its own registers".into();
    Finding { id: "C19.impdef", what, outcome, detail }
}

/// Longest time for both guests, in milliseconds.
const LIMIT: u64 = 60_000;
/// What a guest says once it has looked at all registers.
const READY: &str = "@guest registers ready";

/// What the host saw.
struct Watch {
    scan: Scan,
    exits: u64,
    problem: Option<String>,
}

impl Watch {
    /// VCPU_RUN with the host's pattern in all its registers.
    fn run(&mut self, vm: &Vm, reply: u64) -> (u64, Exit) {
        let arguments = [vm.handle.0, 0, reply, 0, 0];
        let call = || BOUNCER.0.call(id::VCPU_RUN, arguments);
        let [code, x1, x2, x3] = self.scan.exposed(seed::HOST, call);
        self.exits += 1;
        if self.problem.is_none() {
            self.problem = self.scan.differences().next().map(|found| describe(&found));
        }
        (code, Exit::decode(x1, x2, x3))
    }
}

fn describe(found: &Difference) -> String {
    let of = seed::GUESTS.iter().any(|seed| found.is_of(*seed));
    let whose = if of { "a guest's value" } else { "another value" };
    let Difference { register, before, after, .. } = found;
    format!("{register} holds {whose}: {after:#x}, was {before:#x}")
}

/// Runs the two guests in turns, on this CPU and by nobody else, until both
/// have ended.
pub(in crate::payload) fn all(guests: [&Arc<Vm>; 2]) -> Vec<Finding> {
    let mut watch = Watch { scan: Scan::new(), exits: 0, problem: None };
    let implementation_defined = implementation_defined(&watch.scan);
    let limit = clock::now() + clock::milliseconds(LIMIT);
    let living = |vm: &&&Arc<Vm>| vm.end() == end::NOT_YET;
    while guests.iter().any(|vm| living(&vm)) && clock::now() < limit {
        let begun = guests.iter().all(|vm| vm.said(READY).is_some() || vm.end() != end::NOT_YET);
        // The first to be ready waits, or it would be through by itself. From
        // then on each exit is the other's turn.
        let next = |vm: &&&Arc<Vm>| living(vm) && (begun || vm.said(READY).is_none());
        for vm in guests.iter().filter(next) {
            run::enter_directly(vm, 0, 1, |reply| watch.run(vm, reply));
        }
    }
    let (registers, bits) = watch.scan.extent();
    let seen = format!("{registers} registers, {bits} bits, {} exits", watch.exits);
    let ended = guests.iter().all(|vm| vm.said("@guest registers rounds=").is_some());
    let told = |key: &str, of: &str| {
        guests.iter().find_map(|vm| {
            let words = vm.words.lock();
            let about = |line: &&String| line.contains(key) && line.ends_with(of);
            words.iter().find(about).map(ToString::to_string)
        })
    };
    let judge = |id, what: &str, problem: Option<String>| {
        let (outcome, detail) = match problem {
            Some(problem) => ("leaked", problem),
            None if !ended => ("invalid", String::from("the guests did not end")),
            None => (GOOD, seen.clone()),
        };
        Finding { id, what: what.into(), outcome, detail }
    };
    let unlisted = watch.scan.unlisted().first().map(|name| format!("{name} is written blindly"));
    let kept = || guests.iter().all(|vm| vm.said("@guest result=pass").is_some());
    let changed = || {
        let other = (!kept()).then(|| told("registers ", "").unwrap_or_default());
        told("changed=", "of=host").or_else(|| told("changed=", "of=nobody")).or(other)
    };
    Vec::from([
        implementation_defined,
        judge("C10.scan", "find a guest's value in any system register", watch.problem.take()),
        judge(
            "C10.guests",
            "find another guest's value in any system register",
            told("changed=", "of=guest"),
        ),
        judge(
            "C10.first",
            "find somebody's value in a register of a guest that just began",
            told("first=", ""),
        ),
        judge(
            "C10.unlisted",
            "write a register that nobody has thought about",
            unlisted.or_else(|| told("unlisted=", "")),
        ),
        judge("C11.scan", "change any system register of a guest", changed()),
    ])
}
