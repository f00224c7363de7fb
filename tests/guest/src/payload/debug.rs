//! Self-hosted debug (Arm ARM D2): breakpoints, watchpoints and single step of
//! this CPU, over instructions that EL2 emulates, too. And C12: nothing that
//! somebody else has set is ever hit.

#![allow(unsafe_code)]

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use super::{Machine, interrupts, yes};
use rt::irq::DebugException;
use rt::{cpu, dt, irq, println};

/// MDSCR_EL1: single step; exceptions from EL1, too; breakpoints.
const SS: u64 = 1;
const KDE: u64 = 1 << 13;
const MDE: u64 = 1 << 15;
/// DBGBCR: enabled, EL1, all bytes of the instruction.
const BREAK: u64 = 1 | 1 << 1 | 0xf << 5;
/// DBGWCR: enabled, EL1, stores, all bytes of the double word.
const WATCH_STORES: u64 = 1 | 1 << 1 | 2 << 3 | 0xff << 5;
/// ESR_EL1.EC, taken without a change of level.
const BREAKPOINT: u64 = 0x31;
const STEP: u64 = 0x33;
const WATCHPOINT: u64 = 0x35;

unsafe extern "C" {
    /// Adds up; `device` is a register that EL2 emulates.
    fn debug_walk(device: usize) -> u64;
    static debug_walk_first: u32;
    static debug_walk_end: u32;
}

global_asm!(
    "debug_walk:",
    "mov x1, #0",
    "debug_walk_first:",
    "add x1, x1, #1",
    // Trapped: an identification register, and the interrupt controller.
    "mrs x2, id_aa64pfr0_el1",
    "add x1, x1, #1",
    "ldr w2, [x0]",
    "add x1, x1, #1",
    "mov x0, x1",
    "debug_walk_end:",
    "ret",
    ".global debug_walk, debug_walk_first, debug_walk_end",
);

/// What is stored to.
static WATCHED: AtomicU64 = AtomicU64::new(0);
/// What the last exceptions were.
static HITS: AtomicU64 = AtomicU64::new(0);
static CLASS: AtomicU64 = AtomicU64::new(0);
static PLACE: AtomicU64 = AtomicU64::new(0);
/// A breakpoint begins to step.
static STEPPING: AtomicBool = AtomicBool::new(false);

macro_rules! write {
    ($register:literal, $value:expr) => {
        // SAFETY: a debug register of this CPU, which is the payload's; its
        // exceptions are handled.
        unsafe {
            asm!(concat!("msr ", $register, ", {}"), "isb", in(reg) $value, options(nostack))
        }
    };
}

fn breakpoint() -> u64 {
    &raw const debug_walk_first as u64
}

fn watched() -> u64 {
    &raw const WATCHED as u64
}

/// Each exception switches off what caused it; a step goes on to the end.
fn handle(exception: DebugException) -> bool {
    HITS.fetch_add(1, SeqCst);
    CLASS.store(exception.class, SeqCst);
    PLACE.store(
        if exception.class == WATCHPOINT { exception.address } else { exception.pc },
        SeqCst,
    );
    let begins = exception.class == BREAKPOINT && STEPPING.load(SeqCst);
    let goes_on = exception.class == STEP && exception.pc != &raw const debug_walk_end as u64;
    write!("mdscr_el1", if begins || goes_on { KDE | SS } else { 0 });
    begins || goes_on
}

/// Does `act` with `monitor` in MDSCR_EL1; returns how many exceptions it took,
/// and the class and place of the last.
fn hits(monitor: u64, act: impl FnOnce()) -> (u64, u64, u64) {
    let interrupts = cpu::mask_interrupts();
    [&HITS, &CLASS, &PLACE].iter().for_each(|it| it.store(0, SeqCst));
    write!("mdscr_el1", monitor);
    // SAFETY: debug exceptions are handled.
    unsafe { asm!("msr daifclr, #8", "isb", options(nostack)) };
    act();
    // SAFETY: as before.
    unsafe { asm!("msr daifset, #8", "isb", options(nostack)) };
    write!("mdscr_el1", 0u64);
    cpu::restore_interrupts(interrupts);
    (HITS.load(SeqCst), CLASS.load(SeqCst), PLACE.load(SeqCst))
}

/// For the scenario `debug`: says what it will use, so that somebody may aim
/// at it, and waits before it does.
pub(crate) fn play(machine: &Machine) -> bool {
    println!("@guest debug code={:#x} data={:#x}", breakpoint(), watched());
    interrupts::wait(1000, || false);
    work(machine)
}

/// All checks.
pub(crate) fn work(machine: &Machine) -> bool {
    let device = dt::device(&machine.tree, "arm,gic-v3", 0).map_or(0, |(base, _)| base + 4);
    // SAFETY: it adds up and reads GICD_TYPER.
    let walk = || assert_eq!(unsafe { debug_walk(device) }, 3);
    let store = || WATCHED.store(1, SeqCst);
    irq::set_debug_handler(handle);
    write!("oslar_el1", 0u64);

    let nothing = (0, 0, 0);
    let quiet = [0, KDE, KDE | MDE].iter().all(|monitor| {
        hits(*monitor, || {
            walk();
            store();
        }) == nothing
    });

    write!("dbgbvr1_el1", breakpoint());
    write!("dbgbcr1_el1", BREAK);
    let off = hits(KDE, walk) == nothing;
    let on = (0..2).all(|_| hits(KDE | MDE, walk) == (1, BREAKPOINT, breakpoint()));
    write!("oslar_el1", 1u64);
    let locked = hits(KDE | MDE, walk) == nothing;
    write!("oslar_el1", 0u64);
    let breakpoints = off && on && locked;

    STEPPING.store(true, SeqCst);
    let (count, class, place) = hits(KDE | MDE, walk);
    STEPPING.store(false, SeqCst);
    write!("dbgbcr1_el1", 0u64);
    // The breakpoint, then each instruction once.
    let instructions = (&raw const debug_walk_end as u64 - breakpoint()) / 4;
    let steps =
        (count, class) == (1 + instructions, STEP) && place == &raw const debug_walk_end as u64;

    write!("dbgwvr1_el1", watched());
    write!("dbgwcr1_el1", WATCH_STORES);
    let look = || {
        let _ = WATCHED.load(SeqCst);
    };
    let watchpoints = hits(KDE | MDE, look) == nothing
        && hits(KDE | MDE, store) == (1, WATCHPOINT, watched())
        && hits(KDE, store) == nothing;
    write!("dbgwcr1_el1", 0u64);

    println!(
        "@guest debug quiet={} breakpoints={} steps={} watchpoints={}",
        yes(quiet),
        yes(breakpoints),
        yes(steps),
        yes(watchpoints)
    );
    quiet && breakpoints && steps && watchpoints
}
