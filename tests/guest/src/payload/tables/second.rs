//! What the second vCPU does while the first is looked after by EL2 or the
//! host.

use super::super::{Machine, interrupts};
use super::{load, store};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use rt::{cpu, dt, psci};

/// Where the words go that [`rewrite`] writes, and which.
static AT: AtomicU64 = AtomicU64::new(0);
static WORDS: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
static STOP: AtomicBool = AtomicBool::new(false);
/// How often it has written.
static WRITTEN: AtomicU64 = AtomicU64::new(0);

/// Starts the second vCPU; false if there is none, or it does not start.
fn start(machine: &Machine, entry: fn(usize) -> !) -> bool {
    let Some((index, mpidr)) = dt::cpus(&machine.tree).enumerate().nth(1) else { return false };
    cpu::start(index, mpidr, entry).is_ok()
}

/// Waits until it is off.
fn off(machine: &Machine) -> bool {
    let Some(mpidr) = dt::cpus(&machine.tree).nth(1) else { return false };
    // Off is 1 (DEN0022, AFFINITY_INFO).
    interrupts::wait(super::PATIENCE, || psci::affinity_info(mpidr) == 1)
}

/// Has the guest one?
pub(super) fn is_there(machine: &Machine) -> bool {
    dt::cpus(&machine.tree).nth(1).is_some()
}

/// While `work` runs, the second vCPU writes `words` to `at`, in turns without
/// end. How often it did; `None` if it could not be started or stopped.
pub(super) fn rewriting(
    machine: &Machine,
    at: u64,
    words: [u64; 4],
    work: impl FnOnce(),
) -> Option<u64> {
    AT.store(at, SeqCst);
    WORDS.iter().zip(words).for_each(|(place, word)| place.store(word, SeqCst));
    STOP.store(false, SeqCst);
    WRITTEN.store(0, SeqCst);
    if !start(machine, rewrite) {
        return None;
    }
    let running = interrupts::wait(super::PATIENCE, || WRITTEN.load(SeqCst) > 0);
    work();
    STOP.store(true, SeqCst);
    (off(machine) && running).then(|| WRITTEN.load(SeqCst))
}

fn rewrite(_: usize) -> ! {
    let at = AT.load(SeqCst);
    while !STOP.load(SeqCst) {
        for word in &WORDS {
            store(at, word.load(SeqCst));
            WRITTEN.fetch_add(1, SeqCst);
        }
    }
    psci::cpu_off();
    cpu::park()
}

/// The moment at which [`when_it_changes`] acts: where it looks, and at what.
static LOOK_AT: AtomicU64 = AtomicU64::new(0);
static BEFORE: AtomicU64 = AtomicU64::new(0);
/// What it does then, and what came of it: 0 nothing yet, 1 done, 2 failed.
static ACT: job::Slot = job::Slot::new();
static DONE: AtomicU64 = AtomicU64::new(0);

/// A job for another CPU, put there before it starts.
mod job {
    use rt::lock::IrqLock;

    type Job = alloc::boxed::Box<dyn FnOnce() -> bool + Send>;

    pub(super) struct Slot(IrqLock<Option<Job>>);

    impl Slot {
        pub(super) const fn new() -> Self {
            Self(IrqLock::new(None))
        }

        pub(super) fn put(&self, job: Job) {
            *self.0.lock() = Some(job);
        }

        pub(super) fn take(&self) -> Option<Job> {
            self.0.lock().take()
        }
    }
}

/// Runs `work`; the second vCPU does `act` as soon as the word at `at` is not
/// `before` any more. Gives whether it acted, and what `act` said; `None` if it
/// could not be started or stopped.
pub(super) fn when_it_changes(
    machine: &Machine,
    (at, before): (u64, u64),
    act: impl FnOnce() -> bool + Send + 'static,
    work: impl FnOnce(),
) -> Option<Option<bool>> {
    LOOK_AT.store(at, SeqCst);
    BEFORE.store(before, SeqCst);
    ACT.put(alloc::boxed::Box::new(act));
    STOP.store(false, SeqCst);
    DONE.store(0, SeqCst);
    WRITTEN.store(0, SeqCst);
    if !start(machine, watch) {
        return None;
    }
    let running = interrupts::wait(super::PATIENCE, || WRITTEN.load(SeqCst) > 0);
    work();
    STOP.store(true, SeqCst);
    let acted = match DONE.load(SeqCst) {
        _ if !off(machine) || !running => return None,
        _ => DONE.load(SeqCst),
    };
    Some((acted != 0).then_some(acted == 1))
}

fn watch(_: usize) -> ! {
    let (at, before) = (LOOK_AT.load(SeqCst), BEFORE.load(SeqCst));
    WRITTEN.store(1, SeqCst);
    while !STOP.load(SeqCst) {
        if load(at) != before
            && let Some(act) = ACT.take()
        {
            DONE.store(if act() { 1 } else { 2 }, SeqCst);
            break;
        }
    }
    psci::cpu_off();
    cpu::park()
}
