//! `cargo run -p model --release --bin sequences [-- --count N] [--seed N]`:
//! random sequences against the model, and how fast they go.
#![allow(clippy::expect_used)]

use hyp::sim::Random;
use model::heap::FailingHeap;
use model::sequence::{Sequence, Stats, run};
use std::process::ExitCode;
use std::time::Instant;

#[global_allocator]
static HEAP: FailingHeap = FailingHeap;

const HELP: &str = "Plays random sequences of events to bouncer and to its model.

Usage: sequences [--count N] [--seed N] [--bytes N]

  --count N   how many sequences (default 2000)
  --seed N    the first one's seed (default 1)
  --bytes N   random bytes per sequence (default 4000)

Ends with 1 and a listing at the first difference between the two.";

fn main() -> ExitCode {
    let (mut count, mut seed, mut bytes) = (2000u64, 1u64, 4000u64);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let place = match argument.as_str() {
            "--count" => &mut count,
            "--seed" => &mut seed,
            "--bytes" => &mut bytes,
            "--help" | "-h" => {
                println!("{HELP}");
                return ExitCode::SUCCESS;
            }
            other => {
                eprintln!("unknown option {other}\n\n{HELP}");
                return ExitCode::from(2);
            }
        };
        match arguments.next().and_then(|value| value.parse().ok()) {
            Some(value) => *place = value,
            None => {
                eprintln!("{argument} needs a number\n\n{HELP}");
                return ExitCode::from(2);
            }
        }
    }
    let start = Instant::now();
    let (mut total, mut events) = (Stats::default(), 0);
    for seed in seed..seed.saturating_add(count) {
        let mut random = Random::new(seed);
        let bytes: Vec<u8> = (0..bytes).map(|_| random.below(256) as u8).collect();
        let sequence = Sequence::from_bytes(&bytes);
        events += sequence.events.len();
        match run(&sequence.events) {
            Ok(stats) => total.add(&stats),
            Err(failure) => {
                println!("{failure}\nseed {seed}");
                return ExitCode::FAILURE;
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let steps = total.traps + total.guest_traps;
    println!("{total:?}");
    println!("{count} sequences, {events} events, {steps} steps in {seconds:.1} s");
    println!("{:.0} steps per second", steps as f64 / seconds);
    ExitCode::SUCCESS
}
