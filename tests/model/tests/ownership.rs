//! The bounded check, as shallow as a test may be.
#![allow(clippy::panic)]

use model::ownership::{Begin, search};

#[test]
fn every_pair_of_ownership_calls_does_what_the_model_says() {
    for begin in [Begin::Building, Begin::Running] {
        let coverage = search(begin, 2, |_| ()).unwrap_or_else(|failure| panic!("{failure}"));
        // The search is worth its time only if it goes somewhere.
        assert!(coverage.states > 50, "{coverage:?}");
        assert!(coverage.successes > 200, "{coverage:?}");
    }
}
