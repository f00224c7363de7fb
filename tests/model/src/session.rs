//! bouncer and its model, side by side.
//!
//! A [`Session`] applies one event to both and compares. What runs inside a
//! VCPU_RUN is applied from inside the simulated world switch, where no lock
//! is held: so the host can act on one CPU while a guest runs on another, and
//! the comparison is made after *every* trap.

use crate::call::Call;
use crate::compared::Compared;
use crate::event::{Event, HostAction, Step};
use crate::expected::Expected;
use crate::heap::Heap;
use crate::machine::{Booted, Borrowed, CPUS};
use crate::names;
use crate::state::State;
use hyp::abi::host as id;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Registers of a guest have these bits and nothing else has: if the host
/// finds one in its own, a secret has leaked.
pub const TAINT: u64 = 0x7a17_0000_0000_0000;

/// What a sequence did, to see that it is worth its time.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Stats {
    /// Traps handled.
    pub traps: u64,
    /// Calls of the host that succeeded.
    pub successes: u64,
    /// That were refused.
    pub refusals: u64,
    /// Guests entered.
    pub runs: u64,
    /// Traps of guests.
    pub guest_traps: u64,
    /// Accesses of the host that were refused.
    pub aborts: u64,
    /// Traps in which an allocation failed.
    pub starved: u64,
}

impl Stats {
    /// Adds another's.
    pub fn add(&mut self, other: &Stats) {
        self.traps += other.traps;
        self.successes += other.successes;
        self.refusals += other.refusals;
        self.runs += other.runs;
        self.guest_traps += other.guest_traps;
        self.aborts += other.aborts;
        self.starved += other.starved;
    }
}

/// A vCPU on a CPU.
pub(crate) struct Run {
    pub(crate) handle: u64,
    pub(crate) slot: u8,
    pub(crate) vcpu: usize,
    pub(crate) steps: VecDeque<Step>,
    /// What may come of its last trap.
    pub(crate) expected: Expected,
}

/// The model's half.
pub(crate) struct Checker {
    pub(crate) state: State,
    pub(crate) runs: [Option<Run>; CPUS],
    pub(crate) failure: Option<String>,
    pub(crate) stats: Stats,
    pub(crate) serial: u64,
    pub(crate) heap: Heap,
    compared: Compared,
    listing: Option<Vec<String>>,
}

pub(crate) struct Inner {
    pub(crate) booted: Borrowed,
    pub(crate) checker: Mutex<Checker>,
}

/// A booted machine and its model.
pub struct Session {
    inner: Arc<Inner>,
}

impl Session {
    /// On a machine that has just booted. With `listing` the session writes down what happens.
    ///
    /// # Errors
    /// What is wrong after boot.
    pub fn new(listing: bool) -> Result<Self, String> {
        let mut booted = Borrowed::new()?;
        let (state, compared) = booted.first()?;
        let checker = Checker {
            state,
            runs: [const { None }; CPUS],
            failure: None,
            stats: Stats::default(),
            serial: 0,
            heap: Heap::default(),
            compared,
            listing: listing.then(Vec::new),
        };
        Ok(Self { inner: Arc::new(Inner { booted, checker: Mutex::new(checker) }) })
    }

    /// Applies one event.
    ///
    /// # Errors
    /// What bouncer did that the rules do not allow.
    pub fn apply(&self, event: &Event) -> Result<(), String> {
        if self.inner.lock().state.off {
            return Ok(());
        }
        let applied = match event {
            Event::Host(cpu, action) => self.inner.act(*cpu, action),
            Event::AllocationFails(fails) => {
                self.inner.lock().state.allocations_fail = *fails;
                let machine = self.inner.booted.hyp().machine();
                match fails {
                    true => machine.fail_allocation_after(0),
                    false => machine.allow_allocations(),
                }
                Ok(())
            }
            Event::HeapFails(after) => {
                self.inner.lock().heap.fail_after(*after);
                Ok(())
            }
            Event::Timer(level) => {
                self.inner.lock().state.timer = *level;
                self.inner.booted.hyp().machine().world().timer_line = *level;
                Ok(())
            }
        };
        let failure = self.inner.lock().failure.take();
        applied.and(failure.map_or(Ok(()), Err))
    }

    /// The end: everything is compared, whatever was compared before.
    ///
    /// # Errors
    /// What is wrong.
    pub fn finish(&self) -> Result<(), String> {
        let mut checker = self.inner.lock();
        if !checker.state.off {
            checker.compared = Compared::everything(&self.inner.booted, &mut checker.state)?;
        }
        Ok(())
    }

    /// The machine, for tests that break something behind bouncer's back.
    pub fn booted(&self) -> &Booted {
        &self.inner.booted
    }

    /// The abstract state.
    pub fn state(&self) -> State {
        self.inner.lock().state.clone()
    }

    /// What it did so far.
    pub fn stats(&self) -> Stats {
        self.inner.lock().stats
    }

    /// What happened, a line per trap.
    pub fn listing(&self) -> String {
        self.inner.lock().listing.as_ref().map(|lines| lines.join("\n")).unwrap_or_default()
    }
}

impl Checker {
    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.listing {
            lines.push(line());
        }
    }

    /// This CPU, or the next one on which the host runs.
    fn free_cpu(&self, cpu: u8) -> Option<u8> {
        let from = usize::from(cpu) % CPUS;
        let candidates = (from..CPUS).chain(0..from);
        let free = |cpu: &usize| self.runs.get(*cpu).is_some_and(Option::is_none);
        candidates.into_iter().find(free).map(|cpu| cpu as u8)
    }
}

impl Inner {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Checker> {
        self.checker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end of a trap: no rule broken on the way, and everything as the
    /// model says. What cannot have changed is not compared again.
    pub(crate) fn compare(&self, checker: &mut Checker) -> Result<(), String> {
        let broken = self.booted.hyp().machine().take_violations();
        if !broken.is_empty() {
            return Err(format!("rules broken: {}", broken.join("; ")));
        }
        checker.heap.check(checker.state.vms.iter().all(Option::is_none))?;
        checker.compared.again(&self.booted, &mut checker.state)
    }

    /// The host acts on a CPU.
    pub(crate) fn act(self: &Arc<Self>, cpu: u8, action: &HostAction) -> Result<(), String> {
        let resolved = {
            let checker = self.lock();
            // With a guest on every CPU the host has to wait.
            let Some(cpu) = checker.free_cpu(cpu) else { return Ok(()) };
            (cpu, names::host_call(&checker.state, action))
        };
        match (resolved, action) {
            ((cpu, Some(call)), HostAction::Run { steps, .. }) => {
                self.vcpu_run(cpu, &call, steps.iter().cloned().collect())
            }
            ((cpu, Some(call)), _) if is_run(&call) => self.vcpu_run(cpu, &call, VecDeque::new()),
            ((cpu, Some(call)), _) => self.host_call(cpu, &call),
            ((cpu, None), HostAction::Smc(function, immediate, arguments)) => {
                self.smc(cpu, (*function, *immediate), *arguments)
            }
            ((cpu, None), HostAction::Access(frame, word, write)) => {
                let pfn = names::frame(&self.lock().state, *frame, 1);
                self.host_access(cpu, pfn, *word, *write)
            }
            ((cpu, None), HostAction::SystemRegister(op0, op1, crn, crm, op2, read)) => {
                self.host_register(cpu, (*op0, *op1, *crn, *crm, *op2), *read)
            }
            _ => Ok(()),
        }
    }
}

fn is_run(call: &Call) -> bool {
    call.function == u64::from(id::VCPU_RUN) && call.immediate == 0
}
