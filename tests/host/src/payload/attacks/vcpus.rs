//! C11 and I3: running vCPUs as they must not be run. G4: a guest that stays.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::SeqCst;

use host::bouncer::{Exit, Handle, Refusal};
use hyp::error::Error;

use super::{Finding, judge_call};
use crate::payload::calls::BOUNCER;
use crate::payload::report::GOOD;
use crate::payload::vm::Vm;
use crate::payload::{clock, cpus, run};

/// How long both CPUs try, in milliseconds.
const DURATION: u64 = 100;

/// C11: vCPUs that are none, and guests that may not run (yet, any more).
pub(in crate::payload) fn wrong_ones(running: &Vm, building: &Vm, dead: Handle) -> Vec<Finding> {
    let count = running.vcpus.len() as u64;
    let run = |vm, vcpu| BOUNCER.vcpu_run(vm, vcpu, 0);
    let none: &[Error] = &[Error::NotFound, Error::InvalidParameter];
    Vec::from([
        judge_call("C11.index", "run a vCPU that is none".into(), none, run(running.handle, count)),
        judge_call("C11.huge", "run vCPU 2^64 - 1".into(), none, run(running.handle, u64::MAX)),
        judge_call(
            "C11.early",
            "run a guest that is not finalised".into(),
            &[Error::BadState],
            run(building.handle, 0),
        ),
        judge_call(
            "C11.gone",
            "run a guest by the handle of one that was destroyed".into(),
            &[Error::NotFound],
            run(dead, 0),
        ),
    ])
}

/// C11: after VM_STOP no vCPU of it enters again.
pub(in crate::payload) fn dying(vm: &Vm) -> Finding {
    let stopped = BOUNCER.vm_stop(vm.handle);
    let mut finding = judge_call(
        "C11.dying",
        "run a guest that was stopped".into(),
        &[Error::BadState],
        BOUNCER.vcpu_run(vm.handle, 0, 0),
    );
    if stopped.is_err() && finding.outcome == GOOD {
        finding.outcome = "invalid";
        finding.detail = format!("VM_STOP: {stopped:?}");
    }
    finding
}

/// C11: one vCPU on two CPUs at once. `vm`'s vCPU 0 stays inside for its whole
/// slice. Expected: whoever comes second is told Busy.
pub(in crate::payload) fn twice_at_once(vm: &Arc<Vm>) -> Option<Finding> {
    if cpus::count() < 2 {
        return None;
    }
    let go = Arc::new(AtomicBool::new(false));
    let result = Arc::new(spin::Mutex::new((0u64, None)));
    let (handle, theirs, started) = (vm.handle, Arc::clone(&result), Arc::clone(&go));
    let job = move || {
        clock::spin_until(100 * DURATION, || started.load(SeqCst));
        let (mut busy, mut other) = (0u64, None);
        // On a busy emulator the two may miss each other for a while.
        let end = clock::now() + clock::milliseconds(DURATION);
        let latest = clock::now() + clock::milliseconds(100 * DURATION);
        while clock::now() < if busy == 0 { latest } else { end } && other.is_none() {
            // Should it get in between two slices of the other CPU, it must
            // come out again.
            clock::interrupt_at(clock::now() + clock::milliseconds(1));
            match BOUNCER.vcpu_run(handle, 0, 0) {
                Err(Refusal::Error(Error::Busy)) => busy += 1,
                Ok(Exit::Interrupt) => cpus::take_interrupts(),
                result => other = Some(format!("{result:?}")),
            }
        }
        clock::cancel();
        *theirs.lock() = (busy, other);
    };
    if !cpus::give(1, job) {
        return None;
    }
    // This CPU is inside the guest nearly all of the time.
    let inside = || {
        go.store(true, SeqCst);
        cpus::finished(1)
    };
    run::until(200 * DURATION, inside);
    let (busy, other) = result.lock().clone();
    let (outcome, detail) = match other {
        None if busy > 0 => (GOOD, format!("told Busy {busy} times")),
        None => ("invalid", String::from("the CPUs never met")),
        Some(result) => ("not-refused", format!("Busy {busy} times, then {result}")),
    };
    let what = "run one vCPU on two CPUs at once".into();
    Some(Finding { id: "C11.twice", what, outcome, detail })
}

/// G4: `vm`'s vCPU 0 never leaves by itself, and the host waits for its
/// *virtual* timer, which the guest has meanwhile. Expected: the host is back
/// when that is due, not when the physical timer ends the attempt.
pub(in crate::payload) fn stays(vm: &Vm) -> Finding {
    let due = clock::now() + clock::milliseconds(2);
    let end = clock::now() + clock::milliseconds(10 * DURATION);
    rt::timer::set(due);
    let other = loop {
        clock::interrupt_at(end);
        let exit = BOUNCER.vcpu_run(vm.handle, 0, 0);
        if clock::now() >= due {
            // Its line is up now; the handler knows the physical timer only.
            rt::timer::cancel();
        }
        match exit {
            Ok(Exit::Interrupt) if clock::now() < due => cpus::take_interrupts(),
            Ok(Exit::Interrupt) => break None,
            other => break Some(other),
        }
    };
    let back = clock::now();
    rt::timer::cancel();
    clock::cancel();
    cpus::take_interrupts();
    let late = back.saturating_sub(due) * 1000 / rt::timer::frequency().max(1);
    let (outcome, detail) = match other {
        Some(exit) => ("invalid", format!("the guest left with {exit:?}")),
        None if back < end => (GOOD, format!("back {late} ms after the timer was due")),
        None => ("kept", String::from("only the physical timer brought the host back")),
    };
    let what = "keep a CPU from a host that lives by its virtual timer".into();
    Finding { id: "G4.timer", what, outcome, detail }
}
