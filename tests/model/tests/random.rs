//! Seeded random sequences, the same on every machine.
#![allow(clippy::expect_used, clippy::panic)]

use hyp::sim::Random;
use model::heap::FailingHeap;
use model::sequence::{Sequence, Stats, run};

#[global_allocator]
static HEAP: FailingHeap = FailingHeap;

/// `count` sequences from `seed` on.
fn sequences(seed: u64, count: u64, bytes: usize) -> impl Iterator<Item = Sequence> {
    (seed..seed + count).map(move |seed| {
        let mut random = Random::new(seed);
        let bytes: Vec<u8> = (0..bytes).map(|_| random.below(256) as u8).collect();
        Sequence::from_bytes(&bytes)
    })
}

#[test]
fn random_sequences_do_what_the_model_says() {
    let mut total = Stats::default();
    for (number, sequence) in sequences(1, 60, 4000).enumerate() {
        match run(&sequence.events) {
            Ok(stats) => total.add(&stats),
            Err(failure) => panic!("sequence {number}:\n{failure}"),
        }
    }
    println!("{total:?}");
    // The test is worth its time only if it gets everywhere.
    assert!(total.successes > 1_500, "{total:?}");
    assert!(total.refusals > 3_000, "{total:?}");
    assert!(total.runs > 500, "{total:?}");
    assert!(total.guest_traps > 1_200, "{total:?}");
    assert!(total.aborts > 500, "{total:?}");
    assert!(total.starved > 10, "{total:?}");
}
