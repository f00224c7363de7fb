//! The physical CPUs: bringing them up, waking them, giving them jobs.
//!
//! The boot CPU tells the story; every other CPU runs the vCPUs that are its
//! share and, in between, jobs the story gives it. Interrupts stay masked
//! except at [`take_interrupts`]: a pending one ends VCPU_RUN and WFI anyway,
//! so handlers need not be prepared to interrupt anything.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use rt::lock::IrqLock;
use rt::{MAX_CPUS, cpu, gic};

use super::machine::Machine;
use super::{clock, run, terminal};

/// Software interrupt that says: look at your vCPUs again.
const WAKE: u32 = 1;
/// How long a CPU may take to come up, in milliseconds.
const PATIENCE: u64 = 2000;

type Job = Box<dyn FnOnce() + Send>;

static COUNT: AtomicUsize = AtomicUsize::new(1);
static MPIDR: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static UP: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];
static JOB: [IrqLock<Option<Job>>; MAX_CPUS] = [const { IrqLock::new(None) }; MAX_CPUS];
static BUSY: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];

/// Number of CPUs that are up; they are numbered densely from 0.
pub(super) fn count() -> usize {
    COUNT.load(Ordering::Acquire)
}

/// Affinity of CPU `index`.
pub(super) fn mpidr(index: usize) -> u64 {
    MPIDR.get(index).map_or(0, |mpidr| mpidr.load(Ordering::Acquire))
}

/// Starts every CPU of the device tree; returns how many are up.
pub(super) fn start_all(machine: &Machine) -> usize {
    let me = cpu::mpidr();
    store(0, me);
    let known = machine.cpus.iter().take(machine.cpu_count);
    for mpidr in known.filter(|mpidr| **mpidr != me) {
        let index = count();
        store(index, *mpidr);
        match cpu::start(index, *mpidr, secondary) {
            Ok(()) if clock::spin_until(PATIENCE, || is_up(index)) => {
                COUNT.store(index + 1, Ordering::Release);
            }
            Ok(()) => {
                rt::println!("host: CPU {mpidr:#x} was started but did not come up");
                break;
            }
            Err(code) => rt::println!("host: CPU {mpidr:#x} did not start: PSCI {code}"),
        }
    }
    count()
}

fn store(index: usize, mpidr: u64) {
    if let Some(slot) = MPIDR.get(index) {
        slot.store(mpidr, Ordering::Release);
    }
}

fn is_up(index: usize) -> bool {
    UP.get(index).is_some_and(|up| up.load(Ordering::Acquire))
}

/// Rust of every CPU but the first.
fn secondary(index: usize) -> ! {
    gic::init_cpu();
    prepare();
    if let Some(up) = UP.get(index) {
        up.store(true, Ordering::Release);
    }
    loop {
        do_job(index);
        if !run::turn(index) {
            run::idle(index, || has_job(index));
        }
    }
}

/// This CPU's interrupts: timers and the wake-up call.
pub(super) fn prepare() {
    clock::prepare();
    gic::enable(WAKE);
}

fn has_job(index: usize) -> bool {
    JOB.get(index).is_some_and(|slot| slot.lock().is_some())
}

fn do_job(index: usize) {
    let Some(job) = JOB.get(index).and_then(|slot| slot.lock().take()) else { return };
    job();
    if let Some(busy) = BUSY.get(index) {
        busy.store(false, Ordering::Release);
    }
}

/// Gives CPU `index` something to do; false if it does not exist, is the
/// boot CPU, or still has a job.
pub(super) fn give(index: usize, job: impl FnOnce() + Send + 'static) -> bool {
    let (Some(slot), Some(busy)) = (JOB.get(index), BUSY.get(index)) else { return false };
    if index == 0 || index >= count() || busy.swap(true, Ordering::AcqRel) {
        return false;
    }
    *slot.lock() = Some(Box::new(job));
    wake(index);
    true
}

/// Has CPU `index` finished its job?
pub(super) fn finished(index: usize) -> bool {
    BUSY.get(index).is_none_or(|busy| !busy.load(Ordering::Acquire))
}

/// Makes CPU `index` leave WFI or the guest it runs.
pub(super) fn wake(index: usize) {
    if index < count() {
        gic::send_sgi(WAKE, mpidr(index));
    }
}

/// Handles the interrupts that are pending on this CPU now.
pub(super) fn take_interrupts() {
    let before = cpu::mask_interrupts();
    cpu::unmask_interrupts();
    // An interrupt is taken at the latest at a context synchronisation event;
    // entering the next call would be one only by chance.
    clock::now();
    cpu::mask_interrupts();
    cpu::restore_interrupts(before);
}

/// The handler of all interrupts of the host.
pub(super) fn on_interrupt(intid: u32) {
    if intid == clock::INTID {
        // The line stays up until the timer is off.
        clock::cancel();
    } else if intid == terminal::interrupt() {
        terminal::collect();
    }
}
