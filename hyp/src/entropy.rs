//! Random numbers for guests.
//!
//! The only source of randomness that a guest need not share with the host is
//! EL2's. It starts from the seed that the firmware put into the device tree
//! for whoever boots, and that the host never sees: the host gets another one,
//! from which EL2's cannot be computed.
//!
//! A generator by SHA-256: each request answers with the hash of a secret, and
//! replaces the secret by another hash of it, so that a secret that is found
//! out later does not tell what was answered before. The time of each request
//! is mixed in.

use sha2::{Digest, Sha256};

/// Bytes of an answer, of the secret, and of the host's seed.
pub const SIZE: usize = 32;

/// What a hash is for; the same input never serves two purposes.
const SECRET: &[u8] = b"bouncer: secret";
const HOST_SEED: &[u8] = b"bouncer: the host's seed";
const ANSWER: &[u8] = b"bouncer: answer";

fn hash(purpose: &[u8], input: &[u8], time: u64) -> [u8; SIZE] {
    let hash = Sha256::new().chain_update(purpose).chain_update(input);
    hash.chain_update(time.to_le_bytes()).finalize().into()
}

/// EL2's generator.
pub struct Entropy {
    secret: [u8; SIZE],
}

impl Entropy {
    /// A generator from the firmware's seed, and the seed for the host.
    pub fn new(seed: &[u8]) -> (Self, [u8; SIZE]) {
        (Self { secret: hash(SECRET, seed, 0) }, hash(HOST_SEED, seed, 0))
    }

    /// The next random bytes.
    pub(crate) fn answer(&mut self, time: u64) -> [u8; SIZE] {
        let answer = hash(ANSWER, &self.secret, time);
        self.secret = hash(SECRET, &self.secret, time);
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_answer_comes_twice_and_none_is_the_hosts_seed_or_the_secret() {
        let (mut entropy, host_seed) = Entropy::new(b"firmware");
        let mut seen = BTreeSet::from([host_seed, entropy.secret]);
        for _ in 0..100 {
            // Even at the same time.
            assert!(seen.insert(entropy.answer(7)));
            assert!(seen.insert(entropy.secret));
        }
    }

    #[test]
    fn another_seed_or_time_gives_other_answers() {
        let answer = |seed: &[u8], time| Entropy::new(seed).0.answer(time);
        assert_eq!(answer(b"a", 1), answer(b"a", 1));
        assert_ne!(answer(b"a", 1), answer(b"b", 1));
        assert_ne!(answer(b"a", 1), answer(b"a", 2));
    }
}
