//! More than one vCPU: start, inter-processor interrupts, a timer each, stop.

use super::{Machine, interrupts, yes};
use core::sync::atomic::{AtomicU32, Ordering};
use rt::{cpu, dt, gic, println, psci, timer};

/// SGI by which the boot CPU asks; CPU n answers with SGI n.
const ASK: u32 = 15;
/// Longest wait for another CPU, in milliseconds.
const PATIENCE: u64 = 10_000;

/// CPUs (bitmap) that have taken their own timer's interrupt.
static TIMER: AtomicU32 = AtomicU32::new(0);
/// CPUs (bitmap) that wait for [`ASK`].
static READY: AtomicU32 = AtomicU32::new(0);
/// CPUs (bitmap) that took it.
static ASKED: AtomicU32 = AtomicU32::new(0);

/// Waits for this CPU's own timer once.
fn timer_works() -> bool {
    let before = interrupts::timer_taken();
    timer::set(timer::now() + timer::ticks(2000));
    cpu::wait_until(|| interrupts::timer_taken() != before);
    interrupts::timer_taken() == before + 1
}

fn secondary(index: usize) -> ! {
    if !gic::init_cpu() {
        cpu::park();
    }
    gic::enable(timer::INTID);
    gic::enable(ASK);
    cpu::unmask_interrupts();
    if timer_works() {
        TIMER.fetch_or(1 << index, Ordering::AcqRel);
    }
    let before = interrupts::taken(ASK);
    READY.fetch_or(1 << index, Ordering::AcqRel);
    if interrupts::wait(PATIENCE, || interrupts::taken(ASK) != before) {
        ASKED.fetch_or(1 << index, Ordering::AcqRel);
        gic::send_sgi(index as u32, 0);
    }
    psci::cpu_off();
    cpu::park()
}

/// Starts every other CPU in turn, exchanges SGIs with it, and sees it off.
pub(crate) fn start_all(machine: &Machine) -> bool {
    let (mut cpus, mut sgi, mut off) = (0, true, true);
    if timer_works() {
        TIMER.fetch_or(1, Ordering::AcqRel);
    }
    for (index, mpidr) in dt::cpus(&machine.tree).enumerate().take(rt::MAX_CPUS) {
        cpus += 1;
        if index == 0 {
            continue;
        }
        let bit = 1 << index;
        gic::enable(index as u32);
        let before = interrupts::taken(index as u32);
        let started = cpu::start(index, mpidr, secondary).is_ok()
            && interrupts::wait(PATIENCE, || READY.load(Ordering::Acquire) & bit != 0);
        if started {
            gic::send_sgi(ASK, mpidr);
        }
        sgi &= started
            && interrupts::wait(PATIENCE, || interrupts::taken(index as u32) != before)
            && ASKED.load(Ordering::Acquire) & bit != 0;
        // Off is 1 (DEN0022, AFFINITY_INFO).
        off &= interrupts::wait(PATIENCE, || psci::affinity_info(mpidr) == 1);
    }
    let timers = TIMER.load(Ordering::Acquire).count_ones();
    let ok = |good| if good { "ok" } else { "bad" };
    println!("guest: {cpus} CPUs answered and went off again");
    println!(
        "@guest smp cpus={cpus} sgi={} timer={} off={}",
        ok(sgi),
        ok(timers == cpus),
        yes(off)
    );
    sgi && off && timers == cpus
}
