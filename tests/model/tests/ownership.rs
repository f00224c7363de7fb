//! The bounded check, as shallow as a test may be.
#![allow(clippy::panic)]

use model::ownership::{Begin, search};

#[test]
fn every_pair_of_ownership_calls_does_what_the_model_says() {
    for (begin, depth, states) in [(Begin::Building, 1, 29), (Begin::Running, 2, 184)] {
        let coverage = search(begin, depth, |_| ()).unwrap_or_else(|failure| panic!("{failure}"));
        // No fewer than there are: a search that stops early proves nothing.
        assert_eq!(coverage.states, states, "{coverage:?}");
    }
}
