//! Counting interrupts, and waiting for them.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use rt::{cpu, timer};

/// Interrupt ids that are counted.
const COUNTED: usize = 256;

static TAKEN: [AtomicU32; COUNTED] = [const { AtomicU32::new(0) }; COUNTED];
static TIMER: [AtomicU32; rt::MAX_CPUS] = [const { AtomicU32::new(0) }; rt::MAX_CPUS];

/// Counter value at which the guest gives up, all ones if never.
static WATCHDOG: AtomicU64 = AtomicU64::new(u64::MAX);

/// Runs `work`, which may spin for as long as a device likes: after so many
/// milliseconds the guest ends itself instead.
pub(crate) fn at_most<T>(milliseconds: u64, work: impl FnOnce() -> T) -> T {
    let end = timer::now() + timer::ticks(1000 * milliseconds);
    WATCHDOG.store(end, Ordering::Release);
    timer::set(end);
    let result = work();
    timer::cancel();
    WATCHDOG.store(u64::MAX, Ordering::Release);
    result
}

/// Runs for every interrupt. A timer is switched off, or it would come
/// again at once: it is level-sensitive.
pub(crate) fn handle(intid: u32) {
    let comes_again = super::timers::handle(intid);
    if intid == timer::INTID && !comes_again {
        TIMER[cpu::index()].fetch_add(1, Ordering::AcqRel);
        if timer::now() >= WATCHDOG.load(Ordering::Acquire) {
            super::fail("device hangs", "the host does not serve it; nothing private was lost");
        }
    }
    if let Some(count) = TAKEN.get(intid as usize) {
        count.fetch_add(1, Ordering::AcqRel);
    }
}

/// How often `intid` was taken, on all CPUs together.
pub(crate) fn taken(intid: u32) -> u32 {
    TAKEN.get(intid as usize).map_or(0, |count| count.load(Ordering::Acquire))
}

/// How often this CPU took its timer's interrupt.
pub(crate) fn timer_taken() -> u32 {
    TIMER[cpu::index()].load(Ordering::Acquire)
}

/// Sleeps until `done` or until so many milliseconds have passed; says whether
/// it is done. The virtual timer wakes it every millisecond, so `done` may
/// become true without an interrupt.
pub(crate) fn wait(milliseconds: u64, mut done: impl FnMut() -> bool) -> bool {
    let end = timer::now() + timer::ticks(1000 * milliseconds);
    loop {
        let mut finished = false;
        let before = timer_taken();
        timer::set(timer::now() + timer::ticks(1000));
        cpu::wait_until(|| {
            finished = finished || done();
            finished || timer_taken() != before
        });
        timer::cancel();
        if finished || timer::now() >= end {
            return finished;
        }
    }
}
