//! Both timers of a guest's CPU, the virtual one in hardware and the physical
//! one that EL2 emulates: level-sensitive interrupts that come when their time
//! is over, while the CPU runs or sleeps, and show in the redistributor
//! (Arm ARM D12.2; IHI0069 12.11, GICR_ISPENDR0).

#![allow(unsafe_code)]

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

use super::{interrupts, yes};
use rt::{cpu, gic, println, timer};

/// Interrupt id of the EL1 physical timer: PPI 14.
const PHYSICAL: u32 = 30;
/// CNTx_CTL_EL0.
const ENABLE: u64 = 1;
const IMASK: u64 = 2;
const ISTATUS: u64 = 4;

/// How often the next interrupts leave their timer's line up.
static LEAVE_UP: AtomicU32 = AtomicU32::new(0);

/// One of the timers.
struct Timer {
    name: &'static str,
    intid: u32,
    now: fn() -> u64,
    control: fn() -> u64,
    compare: fn() -> u64,
    value: fn() -> u64,
    set_control: fn(u64),
    set_compare: fn(u64),
    set_value: fn(u64),
}

macro_rules! read {
    ($register:expr) => {{
        let value: u64;
        // SAFETY: reads a register of the timer; ISB keeps the order.
        unsafe { asm!("isb", concat!("mrs {}, ", $register), out(reg) value, options(nostack)) };
        value
    }};
}

macro_rules! write {
    ($register:expr, $value:expr) => {
        // SAFETY: programs a timer of this CPU, which is the payload's.
        unsafe { asm!(concat!("msr ", $register, ", {}"), "isb", in(reg) $value, options(nostack)) }
    };
}

macro_rules! timer {
    ($name:literal, $intid:expr, $counter:literal, $prefix:literal) => {
        Timer {
            name: $name,
            intid: $intid,
            now: || read!($counter),
            control: || read!(concat!($prefix, "_ctl_el0")),
            compare: || read!(concat!($prefix, "_cval_el0")),
            value: || read!(concat!($prefix, "_tval_el0")),
            set_control: |value| write!(concat!($prefix, "_ctl_el0"), value),
            set_compare: |value| write!(concat!($prefix, "_cval_el0"), value),
            set_value: |value| write!(concat!($prefix, "_tval_el0"), value),
        }
    };
}

const TIMERS: [Timer; 2] = [
    timer!("virtual", timer::INTID, "cntvct_el0", "cntv"),
    timer!("physical", PHYSICAL, "cntpct_el0", "cntp"),
];

/// For every interrupt: the physical timer's is switched off like the virtual
/// one's, unless it is to come again.
pub(crate) fn handle(intid: u32) -> bool {
    let mine = TIMERS.iter().find(|timer| timer.intid == intid);
    let leave = mine.is_some()
        && LEAVE_UP.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1)).is_ok();
    if let (Some(timer), false) = (mine, leave) {
        (timer.set_control)(0);
    }
    leave
}

/// All checks of both; prints those that fail.
pub(crate) fn work() -> bool {
    let good = TIMERS.each_ref().map(check);
    let one_time = times_agree();
    println!(
        "@guest timers virtual={} physical={} one_time={}",
        yes(good[0]),
        yes(good[1]),
        yes(one_time)
    );
    good == [true; 2] && one_time
}

/// The physical counter shows the guest's own time, like the virtual one.
fn times_agree() -> bool {
    let [virtual_timer, physical_timer] = &TIMERS;
    (0..100).all(|_| {
        let (before, between, after) =
            ((virtual_timer.now)(), (physical_timer.now)(), (virtual_timer.now)());
        before <= between && between <= after
    })
}

fn check(timer: &Timer) -> bool {
    (timer.set_control)(0);
    gic::disable(timer.intid);
    let shown = shows_its_line(timer);
    gic::enable(timer.intid);
    let results = [
        ("line", shown),
        ("off", is_silent(timer, 0, 0)),
        ("masked", is_silent(timer, 0, ENABLE | IMASK)),
        ("far", is_silent(timer, u64::MAX, ENABLE)),
        ("registers", reads_back(timer)),
        ("fires", fires(timer, |done| spin(timer, done))),
        ("wakes", fires(timer, |done| cpu::wait_until(done))),
        ("level", comes_again(timer)),
    ];
    (timer.set_control)(0);
    for (name, good) in results {
        if !good {
            println!("@guest timer name={} check={name} ok=no", timer.name);
        }
    }
    results.iter().all(|(_, good)| *good)
}

fn spin(timer: &Timer, mut done: impl FnMut() -> bool) {
    let end = (timer.now)() + timer::ticks(5_000_000);
    while !done() && (timer.now)() < end {
        core::hint::spin_loop();
    }
}

/// The redistributor shows the line as it is, though the interrupt is off.
fn shows_its_line(timer: &Timer) -> bool {
    let at = |compare, control| {
        (timer.set_compare)(compare);
        (timer.set_control)(control);
        (gic::is_pending(timer.intid), (timer.control)() & ISTATUS != 0)
    };
    let taken = interrupts::taken(timer.intid);
    let up = (true, true);
    at(u64::MAX, ENABLE) == (false, false)
        && at(0, ENABLE) == up
        && at(0, ENABLE | IMASK) == (false, true)
        && at(0, ENABLE) == up
        && at(u64::MAX, ENABLE) == (false, false)
        && at(0, ENABLE) == up
        && !at(0, 0).0
        && interrupts::taken(timer.intid) == taken
}

/// No interrupt, nothing pending.
fn is_silent(timer: &Timer, compare: u64, control: u64) -> bool {
    let taken = interrupts::taken(timer.intid);
    (timer.set_compare)(compare);
    (timer.set_control)(control);
    timer::delay(200);
    interrupts::taken(timer.intid) == taken && !gic::is_pending(timer.intid)
}

fn reads_back(timer: &Timer) -> bool {
    (timer.set_control)(ENABLE | IMASK);
    (timer.set_value)(1_000_000);
    // However long this vCPU is out between two of these: signed, as TVAL is.
    let value = i64::from((timer.value)() as u32 as i32);
    let distance = (timer.compare)().wrapping_sub((timer.now)()) as i64;
    let ahead = value <= 1_000_000 && distance <= value;
    (timer.set_value)(-1000_i64 as u64);
    let behind = ((timer.value)() as u32 as i32) <= -1000;
    ahead && behind && (timer.control)() == ENABLE | IMASK | ISTATUS
}

/// Set to two milliseconds ahead, it interrupts once, and not too early. The
/// other timer ends a sleep that it does not.
fn fires(timer: &Timer, wait: impl FnOnce(&mut dyn FnMut() -> bool)) -> bool {
    let [first, second] = &TIMERS;
    let other = if timer.intid == first.intid { second } else { first };
    (other.set_value)(timer::ticks(5_000_000));
    (other.set_control)(ENABLE);
    let before = interrupts::taken(timer.intid);
    let asked = interrupts::taken(other.intid);
    (timer.set_value)(timer::ticks(2_000));
    let due = (timer.compare)();
    (timer.set_control)(ENABLE);
    wait(&mut || {
        interrupts::taken(timer.intid) != before || interrupts::taken(other.intid) != asked
    });
    let late = (timer.now)();
    (other.set_control)(0);
    interrupts::taken(timer.intid) == before + 1 && late >= due
}

/// An interrupt whose line stays up comes again.
fn comes_again(timer: &Timer) -> bool {
    let before = interrupts::taken(timer.intid);
    LEAVE_UP.store(2, Ordering::Release);
    (timer.set_compare)(0);
    (timer.set_control)(ENABLE);
    spin(timer, || interrupts::taken(timer.intid) >= before + 3);
    timer::delay(200);
    LEAVE_UP.store(0, Ordering::Release);
    interrupts::taken(timer.intid) == before + 3
}
