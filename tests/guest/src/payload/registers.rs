//! A guest that keeps patterns in all its registers while others run.

#![allow(unsafe_code)]

use super::{Machine, interrupts, secrets, yes};
use core::arch::asm;
use rt::scan::{Scan, pattern, seed};
use rt::{dt, println, timer};

/// How often it lets others run.
const ROUNDS: usize = 48;
/// Offset of the PL011's flag register: the host answers a read of it.
const FLAGS: usize = 0x18;
/// NZCV.
const CONDITIONS: u64 = 0xf << 28;
/// Most differences told of.
const MOST: usize = 8;

/// Leaves for the host and comes back, with these condition flags; gives the
/// flags found then.
fn leave(uart: usize, conditions: u64) -> u64 {
    let found: u64;
    // SAFETY: reads a device register that has no side effect.
    unsafe {
        asm!(
            "msr nzcv, {conditions}",
            "ldr {scratch:w}, [{address}]",
            "mrs {found}, nzcv",
            conditions = in(reg) conditions, address = in(reg) uart + FLAGS,
            scratch = out(reg) _, found = out(reg) found, options(nostack)
        );
    }
    found
}

/// C10 and C11: `who=` is 0 or 1, one of two guests that take turns on a CPU.
/// Whatever is in a register, it must be the same when it comes back, and what
/// it finds first must be nobody's.
pub(crate) fn keep(machine: &Machine) -> bool {
    let who = if machine.argument("who") == Some("1") { 1 } else { 0 };
    let (mine, theirs) = (seed::GUESTS[who], seed::GUESTS[1 - who]);
    let Some((uart, _)) = dt::device(&machine.tree, "arm,pl011", 0) else { return false };
    let mut scan = Scan::new();
    let (registers, bits) = scan.extent();
    println!("@guest registers ready count={registers} bits={bits}");
    let mut clean = true;
    for (other, seed) in [("host", seed::HOST), ("guest", theirs)] {
        if let Some(register) = scan.found_first(seed) {
            println!("@guest registers first={register} of={other}");
            clean = false;
        }
    }
    for register in scan.unlisted() {
        println!("@guest registers unlisted={register}");
        clean = false;
    }
    let vectors: [u128; 32] = core::array::from_fn(|index| {
        u128::from(pattern(index as u16, mine)) << 64 | u128::from(pattern(!index as u16, mine))
    });
    let mut told = 0;
    for round in 0..ROUNDS {
        secrets::load_fp(&vectors);
        let conditions = (round as u64) << 28 & CONDITIONS;
        let found = scan.exposed(mine, || leave(uart, conditions));
        let fp = secrets::read_fp() == vectors;
        if found != conditions || !fp {
            println!("@guest registers nzcv={found:#x} fp={}", yes(fp));
            clean = false;
        }
        for difference in scan.differences() {
            clean = false;
            told += 1;
            if told > MOST {
                break;
            }
            let of = match difference {
                it if it.is_of(seed::HOST) => "host",
                it if it.is_of(theirs) => "guest",
                _ => "nobody",
            };
            println!(
                "@guest registers changed={} before={:#x} after={:#x} of={of}",
                difference.register, difference.before, difference.after
            );
        }
        // Everything is as it was: interrupts are taken, the timer works.
        if round == ROUNDS / 2 {
            let end = timer::now() + timer::ticks(1000);
            clean &= !interrupts::wait(1, || false) && timer::now() >= end;
        }
    }
    println!("@guest registers rounds={ROUNDS} kept={}", yes(clean));
    clean
}
