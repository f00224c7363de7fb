//! `scenario=fuzz seed=… calls=… mix=…`: this host calls bouncer at random on all
//! its CPUs at once ([`host::fuzz`]) and looks for what must never happen: an
//! answer that is none, a register that changed, a frame of bouncer's that can
//! be read, a guest's secret anywhere. Memory itself is watched at EL2 by the
//! oracle of a bouncer that was built with it.

#![allow(unsafe_code)]

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicU64};

use host::bouncer::{Handle, Refusal};
use host::frames::Run;
use host::fuzz::{Arena, CODE_PAGES, Generator, Mix, Random, SECRET, Step, Touch, World, code};
use hyp::abi::{self, host as id};
use rt::{attempt, dt, println, smccc};

use super::calls::BOUNCER;
use super::machine::Machine;
use super::{clock, cpus};

/// Frames of the playground.
const FRAMES: u64 = 1024;
/// Calls of each CPU if the command line does not say.
const CALLS: u64 = 10_000;
/// Calls of the first CPU from one line of progress to the next.
const PROGRESS: u64 = 8192;
/// What this host writes.
const MARK: u64 = 0x0057_da7a_0057_da7a;
/// Longest turn of a guest, in ticks of the counter: at most a tenth of a
/// millisecond on QEMU's virt.
const TURN: u64 = 6_000;
/// Where programs keep their secret, in its page.
const SECRET_PLACES: [u64; 3] = [0, 64, 72];

/// What is played.
#[derive(Clone, Copy)]
struct Round {
    seed: u64,
    /// Calls of each CPU.
    calls: u64,
    mix: Mix,
}

/// What all CPUs count.
#[derive(Default)]
struct Tally {
    calls: AtomicU64,
    /// Calls that were refused, accesses that faulted.
    errors: AtomicU64,
    runs: AtomicU64,
    failed: AtomicBool,
}

/// Plays to the end; true if nothing was wrong.
pub(super) fn run(machine: &Machine) -> bool {
    let number = |name: &str| dt::argument(machine.command_line, name).and_then(parse);
    let (seed, calls) = (number("seed").unwrap_or(1), number("calls").unwrap_or(CALLS));
    let mix = match dt::argument(machine.command_line, "mix").map(Mix::parse) {
        None => Mix::default(),
        Some(Some(mix)) => mix,
        Some(None) => {
            println!("host: mix= is no nine numbers");
            return false;
        }
    };
    let round = Round { seed, calls, mix };
    let frames = FRAMES + abi::MAX_RANGE;
    let Some(Run { pfn: first, .. }) = machine.free_frames().take(frames, abi::MAX_RANGE) else {
        println!("host: no room for the frames to play with");
        return false;
    };
    let arena = Arena {
        first,
        count: FRAMES,
        ram: machine.ram.iter().map(|bank| frame(bank.start)..frame(bank.end + 4095)).collect(),
        bouncer: machine.reserved.iter().map(|range| frame(range.start)).collect(),
    };
    println!("@fuzz start seed={seed:#x} calls={calls} cpus={}", cpus::count());
    let world = Arc::new(World::new(arena));
    let tally = Arc::new(Tally::default());
    let start = clock::now();
    for cpu in 1..cpus::count() {
        let (world, tally) = (Arc::clone(&world), Arc::clone(&tally));
        if !cpus::give(cpu, move || play(cpu, round, &world, &tally)) {
            println!("host: CPU {cpu} does not play");
        }
    }
    play(0, round, &world, &tally);
    while (1..cpus::count()).any(|cpu| !cpus::finished(cpu)) {
        core::hint::spin_loop();
    }
    let ticks = (clock::now() - start).max(1);
    if !tally.failed.load(Relaxed)
        && let Some(problem) = clean_up(&world)
    {
        fail(&tally, &problem, 0, calls, seed);
    }
    line("end", &tally, ticks, seed);
    !tally.failed.load(Relaxed)
}

fn parse(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn frame(address: usize) -> u64 {
    address as u64 >> 12
}

fn line(word: &str, tally: &Tally, ticks: u64, seed: u64) {
    let calls = tally.calls.load(Relaxed);
    println!(
        "@fuzz {word} calls={calls} per_second={} errors={} runs={} seed={seed:#x}",
        calls * rt::timer::frequency() / ticks,
        tally.errors.load(Relaxed),
        tally.runs.load(Relaxed),
    );
}

fn fail(tally: &Tally, problem: &str, cpu: usize, call: u64, seed: u64) {
    tally.failed.store(true, Relaxed);
    println!("@fuzz failed=\"{problem}\" cpu={cpu} call={call} seed={seed:#x}");
}

/// One CPU's part.
fn play(cpu: usize, round: Round, world: &World, tally: &Tally) {
    let Round { seed, calls, .. } = round;
    let mut generator = Generator::new(round.seed, cpu, round.mix);
    let start = clock::now();
    for call in 0..calls {
        if tally.failed.load(Relaxed) {
            return;
        }
        let step = generator.step(world);
        if let Err(problem) = perform(world, &step, tally) {
            return fail(tally, &format!("{problem}: {step:x?}"), cpu, call, seed);
        }
        tally.calls.fetch_add(1, Relaxed);
        if cpu == 0 && call % PROGRESS == PROGRESS - 1 {
            line("progress", tally, (clock::now() - start).max(1), seed);
        }
    }
}

/// Does it; the error says what was wrong about the result.
fn perform(world: &World, step: &Step, tally: &Tally) -> Result<(), String> {
    match *step {
        Step::Hvc { function, arguments } => {
            let runs = function == u64::from(id::VCPU_RUN);
            if runs {
                clock::interrupt_at(clock::now() + TURN);
                tally.runs.fetch_add(1, Relaxed);
            }
            let [a, b, c, d, e] = arguments;
            let (answer, changed) = smccc::hvc_audit(function, [a, b, c, d, e, 0, 0]);
            if runs {
                cpus::take_interrupts();
                clock::cancel();
            }
            world.learn(step, answer);
            let [code, results @ ..] = answer;
            if changed != 0 {
                return Err(format!("registers {changed:#x} changed"));
            }
            match Refusal::from_code(code as i64) {
                None if function == u64::from(id::FRAME_RECLAIM) => {
                    return no_secret(b, answer[1]);
                }
                None => return Ok(()),
                Some(Refusal::Unknown(code)) => return Err(format!("answer {code:#x}")),
                Some(_) if results != [0; 3] => return Err(format!("refused with {results:x?}")),
                Some(_) => drop(tally.errors.fetch_add(1, Relaxed)),
            }
        }
        Step::Smc { function, arguments: [a, b, c] } => {
            let [code, results @ ..] = smccc::smc(function, [a, b, c, 0, 0, 0, 0]);
            if (code as i64) < 0 {
                tally.errors.fetch_add(1, Relaxed);
            }
            if results != [0; 3] {
                return Err(format!("an SMC answers {results:x?}"));
            }
        }
        Step::Touch { address, touch } => {
            let ours = world.arena.first..world.arena.first + world.arena.count;
            return judge(world, ours.contains(&(address >> 12)), address, touch, tally);
        }
        Step::Load { pfn, seed, pages } => load(pfn, seed, pages),
    }
    Ok(())
}

fn judge(
    world: &World,
    ours: bool,
    address: u64,
    touch: Touch,
    tally: &Tally,
) -> Result<(), String> {
    // SAFETY: the address is in the playground, where no Rust object is, or
    // no memory of this host's at all.
    let result = unsafe {
        match touch {
            Touch::Read => attempt::try_read_u64(address),
            Touch::Write => attempt::try_write_u64(address, MARK).map(|()| 0),
            Touch::Atomic => attempt::try_atomic_add(address, 1),
            Touch::Zero => attempt::try_dc_zva(address & !0xfff).map(|()| 0),
        }
    };
    match result {
        Ok(SECRET) => Err(String::from("a guest's secret was read")),
        Ok(_) if world.arena.bouncer.contains(&(address >> 12)) => {
            Err(String::from("memory of bouncer's was accessed"))
        }
        Ok(_) => Ok(()),
        // Elsewhere stage 1 may have refused. Here all that is touched is
        // aligned, and a step may have chosen that style (ABORT_STYLE).
        Err(fault) if ours && !fault.is_external_abort() && !fault.is_alignment_fault() => {
            Err(format!("ESR {:#x} is no style of bouncer's to refuse", fault.esr))
        }
        Err(_) => {
            tally.errors.fetch_add(1, Relaxed);
            Ok(())
        }
    }
}

/// Frames that came back hold nobody's secret. Another CPU may have given
/// them away again: then there is nothing to see.
fn no_secret(pfn: u64, count: u64) -> Result<(), String> {
    for pfn in pfn..pfn + count.min(abi::MAX_RANGE) {
        for place in SECRET_PLACES {
            if attempt::try_read_u64((pfn << 12) + place) == Ok(SECRET) {
                return Err(format!("frame {pfn:#x} came back with a guest's secret"));
            }
        }
    }
    Ok(())
}

/// Writes a program; another CPU may take the frames away meanwhile.
fn load(pfn: u64, seed: u64, pages: u64) {
    let words = code(&mut Random::new(seed), pages);
    debug_assert_eq!(words.len() as u64, CODE_PAGES * 1024);
    let (pairs, _) = words.as_chunks::<2>();
    for (address, [low, high]) in ((pfn << 12)..).step_by(8).zip(pairs) {
        // SAFETY: frames of the playground.
        let written =
            unsafe { attempt::try_write_u64(address, u64::from(*low) | u64::from(*high) << 32) };
        if written.is_err() {
            return;
        }
    }
}

/// Takes every VM down; every frame must be the host's again, and no secret
/// in any. Returns what was wrong.
fn clean_up(world: &World) -> Option<String> {
    let frames = world.arena.first..world.arena.first + FRAMES + abi::MAX_RANGE;
    for handle in world.handles() {
        let vm = Handle(handle);
        if BOUNCER.vm_stop(vm).is_err() {
            continue;
        }
        for pfn in frames.clone() {
            let _ = BOUNCER.frame_reclaim(vm, pfn, 1);
        }
        if !(0..64).any(|_| BOUNCER.vm_destroy(vm) == Ok(0)) {
            return Some(format!("VM {handle:#x} cannot be destroyed"));
        }
    }
    for pfn in frames {
        if BOUNCER.frame_state(pfn) != Ok(0) {
            return Some(format!("frame {pfn:#x} did not come back"));
        }
        if let Err(problem) = no_secret(pfn, 1) {
            return Some(problem);
        }
    }
    None
}
