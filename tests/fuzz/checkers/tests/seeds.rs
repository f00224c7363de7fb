//! The checkers as plain tests: over every committed seed, over whatever
//! corpus `BOUNCER_CORPUS` names, and over random bytes.

// Whatever cannot be read is a failure.
#![allow(clippy::unwrap_used)]

use checkers::{FailingHeap, TARGETS};
use hyp::sim::Random;
use std::path::Path;

/// As in the fuzz target `hypercalls`.
#[global_allocator]
static HEAP: FailingHeap = FailingHeap;

/// Names the input that was being checked when a checker panicked.
struct Input<'a>(&'a Path);

impl Drop for Input<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the input is {}", self.0.display());
        }
    }
}

/// Calls every checker with every file of the folder of its name.
fn replay(folder: &Path) -> usize {
    let mut files = 0;
    for (name, check) in TARGETS {
        let Ok(entries) = std::fs::read_dir(folder.join(name)) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            // A fuzzer that runs now replaces inputs by shorter ones.
            let Ok(bytes) = std::fs::read(&path) else { continue };
            let _input = Input(&path);
            check(&bytes);
            files += 1;
        }
    }
    files
}

#[test]
fn every_seed_passes() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../seeds");
    for (name, _) in TARGETS {
        assert!(seeds.join(name).is_dir(), "{name} has no seeds");
    }
    assert!(replay(&seeds) > 0);
}

#[test]
fn every_input_of_a_given_corpus_passes() {
    if let Some(corpus) = std::env::var_os("BOUNCER_CORPUS") {
        println!("{} inputs", replay(Path::new(&corpus)));
    }
}

#[test]
fn random_bytes_pass() {
    for (_, check) in TARGETS {
        let mut random = Random::new(0x0b0a_7e57);
        for length in [0, 1, 7, 64, 200, 500, 500, 500, 500] {
            let bytes: Vec<u8> = (0..length).map(|_| (random.bits() >> 32) as u8).collect();
            check(&bytes);
        }
    }
}
