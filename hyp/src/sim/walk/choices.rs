//! Where a walk takes its decisions from: a seed, or the bytes a fuzzer made.

use crate::sim::Random;
use core::fmt::Arguments;
use std::println;

/// A sequence of decisions. The same source gives the same decisions.
pub struct Choices<'a> {
    source: Source<'a>,
    listing: bool,
}

enum Source<'a> {
    Seed(Random),
    Bytes(&'a [u8]),
}

impl<'a> Choices<'a> {
    /// Decisions without end, from a seed.
    pub const fn seed(seed: u64) -> Self {
        Self { source: Source::Seed(Random::new(seed)), listing: false }
    }

    /// Decisions from bytes, as many as there are; afterwards every choice is
    /// the first one offered. A decision takes as few bytes as its range
    /// needs, so that a changed byte changes one decision.
    pub const fn bytes(bytes: &'a [u8]) -> Self {
        Self { source: Source::Bytes(bytes), listing: false }
    }

    /// From now on what the walk does is printed, line by line.
    #[must_use]
    pub const fn listed(mut self, listing: bool) -> Self {
        self.listing = listing;
        self
    }

    /// Are the bytes used up? A seed never is.
    pub const fn is_over(&self) -> bool {
        matches!(self.source, Source::Bytes([]))
    }

    /// True once in `n` times on average, as all decisions together have it:
    /// no input leads others there that are much like it.
    pub fn lot(&mut self, n: u64) -> bool {
        match &mut self.source {
            Source::Seed(random) => random.one_in(n),
            Source::Bytes(bytes) => {
                // FNV-1a, and once more mixed.
                let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
                    (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
                });
                Random::new(hash).one_in(n)
            }
        }
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        match &mut self.source {
            Source::Seed(random) => random.bits(),
            Source::Bytes(bytes) => number(bytes, 8),
        }
    }

    /// A number below `limit`, which is not zero.
    pub fn below(&mut self, limit: u64) -> u64 {
        match &mut self.source {
            Source::Seed(random) => random.below(limit),
            Source::Bytes(bytes) => {
                let needed = u64::BITS - (limit - 1).leading_zeros();
                number(bytes, needed.div_ceil(8) as usize) % limit
            }
        }
    }

    /// True once in `n` times on average.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == n - 1
    }

    /// One of these; there is at least one.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// What the walk does next, for those who read along.
    pub fn note(&self, what: Arguments<'_>) {
        if self.listing {
            println!("  {what}");
        }
    }
}

/// Takes a little-endian number of up to `length` bytes off the front.
fn number(bytes: &mut &[u8], length: usize) -> u64 {
    let (taken, rest) = bytes.split_at(length.min(bytes.len()));
    *bytes = rest;
    taken.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_takes_as_few_bytes_as_it_needs() {
        let mut choices = Choices::bytes(&[7, 0x34, 0x12, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(choices.below(1), 0);
        assert_eq!(choices.below(256), 7);
        assert_eq!(choices.below(0x1_0000), 0x1234);
        assert_eq!(choices.bits(), 0x0807_0605_0403_0201);
        assert!(!choices.is_over());
        assert_eq!(choices.pick(&[10, 11]), 11);
        assert!(choices.is_over());
        assert_eq!((choices.below(1000), choices.bits(), choices.one_in(2)), (0, 0, false));
    }

    #[test]
    fn a_lot_takes_no_bytes_and_depends_on_all() {
        let mut choices = Choices::bytes(&[1, 2]);
        choices.lot(2);
        assert_eq!(choices.below(256), 1);
        let drawn = |place: usize| {
            let mut bytes = [0; 40];
            let draws = (0..=u8::MAX).filter(|byte| {
                bytes[place] = *byte;
                Choices::bytes(&bytes).lot(16)
            });
            draws.count()
        };
        assert!((0..40).all(|place| (4..40).contains(&drawn(place))));
        let mut seed = Choices::seed(3);
        assert!((600..1400).contains(&(0..16_000).filter(|_| seed.lot(16)).count()));
    }

    #[test]
    fn a_seed_never_ends_and_repeats() {
        let sequence = |mut choices: Choices<'_>| {
            let numbers: std::vec::Vec<u64> = (0..100).map(|n| choices.below(n + 1)).collect();
            assert!(!choices.is_over());
            numbers
        };
        assert_eq!(sequence(Choices::seed(5)), sequence(Choices::seed(5)));
        assert_ne!(sequence(Choices::seed(5)), sequence(Choices::seed(7)));
    }
}
