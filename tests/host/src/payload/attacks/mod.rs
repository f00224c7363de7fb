//! Every way in, tried.
//!
//! Each function makes one kind of attempt and tells what happened. An
//! outcome is `refused` only if three things were seen: the attempt ended in
//! the abort or error it should end in, what it aimed at is as before, and
//! bouncer's event log tells of it. The same instruction aimed at the host's
//! own memory works: a tool that cannot succeed proves nothing.

pub(super) mod attributes;
pub(super) mod calls;
pub(super) mod debug;
pub(super) mod devices;
pub(super) mod dma;
pub(super) mod donation;
pub(super) mod exhaustion;
pub(super) mod interrupts;
pub(super) mod lent;
pub(super) mod memory;
pub(super) mod power;
pub(super) mod race;
pub(super) mod registers;
pub(super) mod reserved;
pub(super) mod scan;
pub(super) mod vcpus;
pub(super) mod windows;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use host::bouncer::{Event, Refusal};
use hyp::abi;
use hyp::error::Error;
use hyp::event::EventKind;
use rt::attempt::Fault;
use rt::cpu;

use super::calls::BOUNCER;
use super::report::{Finding, GOOD};

/// Most events looked at after one attempt.
const MOST_EVENTS: usize = 512;

/// Empties the event log.
pub(super) fn drain_events() -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < MOST_EVENTS {
        match BOUNCER.event_next() {
            Some(event) => events.push(event),
            None => break,
        }
    }
    events
}

/// Whose frame an event says it was (`hyp::memory::Owner`'s code).
pub(super) fn owner_name(owner: u8) -> &'static str {
    match owner {
        0 => "nobody",
        1 => "bouncer",
        2 => "the host",
        FIRMWARE => "firmware",
        _ => "a guest",
    }
}

/// Judges an access to `address` that should have been aborted because the
/// frame is `owner`'s: the right fault, and an event that names CPU, address,
/// owner and instruction.
pub(super) fn judge_access(
    id: &'static str,
    what: String,
    address: u64,
    owner: Owner,
    result: Result<u64, Fault>,
) -> Finding {
    judge_fault(id, what, address, owner, result, Fault::is_external_abort)
}

/// The same, and `is_right` tells the right fault.
pub(super) fn judge_fault(
    id: &'static str,
    what: String,
    address: u64,
    owner: Owner,
    result: Result<u64, Fault>,
    is_right: fn(Fault) -> bool,
) -> Finding {
    let events = drain_events();
    let (outcome, detail) = match result {
        Ok(value) => ("succeeded", format!("no abort; x0 = {value:#x}")),
        Err(fault) if !is_right(fault) => {
            ("wrong-fault", format!("ESR {:#x} at {:#x}", fault.esr, fault.elr))
        }
        Err(fault) => judge_event(&events, address, owner, fault),
    };
    Finding { id, what, outcome, detail }
}

/// Firmware's number: after the guests'.
const FIRMWARE: u8 = 3 + abi::MAX_VMS as u8;

/// Whose a frame should turn out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    /// No RAM, or a device that is not the host's.
    Nobody,
    /// EL2's.
    Bouncer,
    /// Any guest's.
    Guest,
    /// What firmware keeps.
    Firmware,
}

impl Owner {
    fn is(self, code: u8) -> bool {
        match self {
            Owner::Nobody => code == 0,
            Owner::Bouncer => code == 1,
            Owner::Guest => (3..FIRMWARE).contains(&code),
            Owner::Firmware => code == FIRMWARE,
        }
    }
}

fn judge_event(
    events: &[Event],
    address: u64,
    owner: Owner,
    fault: Fault,
) -> (&'static str, String) {
    let me = cpu::index();
    let about = |event: &&Event| {
        event.kind == EventKind::HostAbort as u8 && event.address >> 12 == address >> 12
    };
    let Some(event) = events.iter().find(about) else {
        return ("unlogged", format!("{}, but no event for {address:#x}", fault.name()));
    };
    let told = format!(
        "{}; event: frame of {}, cpu {}, address {:#x}, pc {:#x}",
        fault.name(),
        owner_name(event.owner),
        event.cpu,
        event.address,
        event.pc
    );
    if usize::from(event.cpu) != me || event.pc != fault.elr || !owner.is(event.owner) {
        return ("misreported", format!("{told}; but it was cpu {me}, pc {:#x}", fault.elr));
    }
    (GOOD, told)
}

/// Judges a call that should have been refused with one of `expected`.
pub(super) fn judge_call<T: core::fmt::Debug>(
    id: &'static str,
    what: String,
    expected: &[Error],
    result: Result<T, Refusal>,
) -> Finding {
    let (outcome, detail) = match result {
        Err(Refusal::Error(error)) if expected.contains(&error) => (GOOD, format!("{error:?}")),
        Err(refusal) => ("wrong-error", format!("{refusal:?}, expected one of {expected:?}")),
        Ok(value) => ("succeeded", format!("returned {value:?}")),
    };
    Finding { id, what, outcome, detail }
}

/// The same, and a frame must be to the host what it was before.
pub(super) fn judge_frame_call<T: core::fmt::Debug>(
    id: &'static str,
    what: String,
    expected: &[Error],
    pfn: u64,
    call: impl FnOnce() -> Result<T, Refusal>,
) -> Finding {
    let before = BOUNCER.frame_state(pfn);
    let result = call();
    let after = BOUNCER.frame_state(pfn);
    let mut finding = judge_call(id, what, expected, result);
    if before != after {
        finding.outcome = "state-changed";
        finding.detail =
            format!("{}; the frame's state went from {before:?} to {after:?}", finding.detail);
    } else if finding.outcome == GOOD {
        finding.detail =
            format!("{}; frame state unchanged ({})", finding.detail, state_name(after));
    }
    finding
}

fn state_name(state: Result<u64, Refusal>) -> &'static str {
    match state {
        Ok(0) => "the host's own",
        Ok(1) => "lent by the host",
        Ok(2) => "borrowed by the host",
        Ok(3) => "no page of the host's",
        _ => "not a frame",
    }
}
