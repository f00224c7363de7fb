//! How many steps a checker makes in a second, for whoever watches a fuzzer:
//! inputs differ in length, so inputs per second do not say.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// `cargo xtask fuzz` asks for a line per second.
const WANTED: &str = "BOUNCER_FUZZ_STEPS";

struct Count {
    steps: u64,
    start: Instant,
    told: Instant,
}

/// An input made so many steps.
pub(crate) fn count(steps: u64) {
    static WATCHED: OnceLock<bool> = OnceLock::new();
    if *WATCHED.get_or_init(|| std::env::var_os(WANTED).is_some()) {
        tell(steps);
    }
}

fn tell(steps: u64) {
    static COUNT: Mutex<Option<Count>> = Mutex::new(None);
    let now = Instant::now();
    let mut count = COUNT.lock().unwrap_or_else(PoisonError::into_inner);
    let count = count.get_or_insert(Count { steps: 0, start: now, told: now });
    count.steps += steps;
    if now - count.told >= Duration::from_secs(1) {
        count.told = now;
        let rate = count.steps as f64 / (now - count.start).as_secs_f64();
        eprintln!("stat::steps_per_second: {rate:.0}");
    }
}
