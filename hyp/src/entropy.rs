//! Random numbers for guests.
//!
//! The only source of randomness that a guest need not share with the host is
//! EL2's. It starts from whatever the machine has, hashed together: the seed
//! that the boot loader put into the device tree, the CPU's own generator
//! (FEAT_RNG) and the firmware's (Arm DEN0098). One that an attacker knows
//! takes nothing from the others. The loader's seed may well be known: a
//! loader keeps copies of the tree in memory that is the host's afterwards.
//!
//! The host gets another seed, from which EL2's secret cannot be computed.
//!
//! A generator by SHA-256: each request answers with the hash of a secret, and
//! replaces the secret by another hash of it, so that a secret that is found
//! out later does not tell what was answered before. The time of each request
//! is mixed in.

use crate::psci::{code, function};
use sha2::{Digest, Sha256};

/// Bytes of an answer, of the secret, and of the host's seed.
pub const SIZE: usize = 32;

/// What a hash is for; the same input never serves two purposes.
const SECRET: &[u8] = b"bouncer: secret";
const HOST_SEED: &[u8] = b"bouncer: the host's seed";
const ANSWER: &[u8] = b"bouncer: answer";
const SOURCES: &[u8] = b"bouncer: sources";

/// How often a generator that has nothing at the moment is asked again. Arm
/// ARM K14.1 (RNDR) and DEN0098 (TRNG_RND, NO_ENTROPY) both say that it is
/// temporary.
const PATIENCE: usize = 64;

/// Who gives random bytes at boot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// The boot loader, in the device tree (`/chosen/rng-seed`).
    Loader = 1,
    /// The firmware's generator (DEN0098).
    Firmware = 2,
    /// The CPU's generator (FEAT_RNG).
    Cpu = 3,
}

/// Bytes of one source.
pub type Given<'a> = (Source, &'a [u8]);

/// Does everything depend on bytes that the boot loader knew, and perhaps
/// left in memory?
pub fn is_loaders_alone(given: &[Given<'_>]) -> bool {
    given.iter().all(|(source, _)| *source == Source::Loader)
}

/// 48 bytes of the firmware's generator, or `None` if it has none or gives
/// nothing. `call` makes a firmware call: x0 to x3, before and after.
pub fn from_firmware(mut call: impl FnMut([u64; 4]) -> [u64; 4]) -> Option<[u8; 48]> {
    const TRNG_VERSION: u64 = 0x8400_0050;
    const TRNG_RND_64: u64 = 0xc400_0053;
    /// Most bits of one call: x1 to x3.
    const BITS: u64 = 192;
    const NO_ENTROPY: i64 = -3;
    // Before SMCCC 1.1 even to ask for the version need not be harmless: PSCI
    // tells whether one may (DEN0022F.b 5.16.2).
    let is_error = |x0: u64| (x0 as u32 as i32) < 0;
    let features = [function::PSCI_FEATURES.into(), function::SMCCC_VERSION.into(), 0, 0];
    let smccc = [function::SMCCC_VERSION.into(), 0, 0, 0];
    let version = [TRNG_VERSION, 0, 0, 0];
    if is_error(call(features)[0]) || is_error(call(smccc)[0]) || is_error(call(version)[0]) {
        return None;
    }
    let mut bytes = [0; 48];
    let mut patience = PATIENCE;
    for half in bytes.chunks_exact_mut(24) {
        let words = loop {
            let [x0, x1, x2, x3] = call([TRNG_RND_64, BITS, 0, 0]);
            match x0 as i64 {
                code::SUCCESS => break [x1, x2, x3],
                NO_ENTROPY if patience > 0 => patience -= 1,
                _ => return None,
            }
        };
        half.chunks_exact_mut(8)
            .zip(words)
            .for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
    }
    Some(bytes)
}

/// 32 bytes of the CPU's generator. `read` reads RNDR; `None` is its flag Z.
/// A generator that always gives the same has failed.
pub fn from_cpu(mut read: impl FnMut() -> Option<u64>) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let mut last = None;
    let mut patience = PATIENCE;
    for to in bytes.chunks_exact_mut(8) {
        let word = loop {
            match read() {
                Some(word) if last != Some(word) => break word,
                _ if patience > 0 => patience -= 1,
                _ => return None,
            }
        };
        last = Some(word);
        to.copy_from_slice(&word.to_le_bytes());
    }
    Some(bytes)
}

fn hash(purpose: &[u8], input: &[u8], time: u64) -> [u8; SIZE] {
    let hash = Sha256::new().chain_update(purpose).chain_update(input);
    hash.chain_update(time.to_le_bytes()).finalize().into()
}

/// EL2's generator.
pub struct Entropy {
    secret: [u8; SIZE],
}

impl Entropy {
    /// A generator from all that was given, and the seed for the host; `None`
    /// if nothing was.
    pub fn mix(given: &[Given<'_>]) -> Option<(Self, [u8; SIZE])> {
        if given.iter().all(|(_, bytes)| bytes.is_empty()) {
            return None;
        }
        // The lengths keep two lists of sources from being the same input.
        let add = |hash: Sha256, (source, bytes): &Given<'_>| {
            let head = [*source as u64, bytes.len() as u64].map(u64::to_le_bytes);
            hash.chain_update(head.as_flattened()).chain_update(bytes)
        };
        let hash = given.iter().fold(Sha256::new().chain_update(SOURCES), add);
        Some(Self::new(&hash.finalize()))
    }

    /// A generator from a seed, and the seed for the host.
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

    /// What U-Boot left in the host's memory was all of EL2's secret once.
    #[test]
    fn each_source_changes_every_answer_and_none_alone_makes_it() {
        let answer = |given: &[Given<'_>]| Entropy::mix(given).unwrap().0.answer(7);
        let (loader, cpu) = ((Source::Loader, &b"seed"[..]), (Source::Cpu, &b"word"[..]));
        let other = (Source::Cpu, &b"wore"[..]);
        let answers = [
            answer(&[loader]),
            answer(&[cpu]),
            answer(&[loader, cpu]),
            answer(&[loader, other]),
            answer(&[loader, (Source::Firmware, b"word")]),
            answer(&[(Source::Loader, b"see"), (Source::Cpu, b"dword")]),
            Entropy::new(b"seed").0.answer(7),
        ];
        assert_eq!(BTreeSet::from(answers).len(), answers.len());
        assert!(Entropy::mix(&[]).is_none() && Entropy::mix(&[(Source::Loader, b"")]).is_none());
        assert!(is_loaders_alone(&[loader]) && is_loaders_alone(&[]));
        assert!(!is_loaders_alone(&[loader, cpu]));
    }

    /// A firmware with `supported` of SMCCC and TRNG, that has no entropy at
    /// first so many times.
    fn firmware(smccc: bool, trng: bool, busy: usize) -> (Option<[u8; 48]>, usize) {
        let (mut asked, mut left) = (0, busy);
        let answer = |arguments: [u64; 4]| {
            let supported = |yes: bool, value: u64| if yes { value } else { u64::MAX };
            match arguments[0] {
                0x8400_000a => [supported(smccc, 0), 0, 0, 0],
                0x8000_0000 => [0x1_0001, 0, 0, 0],
                // An error of an SMC32 call has 32 bits.
                0x8400_0050 => [if trng { 0x1_0000 } else { 0xffff_ffff }, 0, 0, 0],
                0xc400_0053 => {
                    assert!(smccc && trng, "never asked for");
                    assert_eq!(arguments[1], 192);
                    asked += 1;
                    if left > 0 {
                        left -= 1;
                        return [-3i64 as u64, 1, 2, 3];
                    }
                    [0, asked, asked << 8, asked << 16]
                }
                other => panic!("{other:#x}"),
            }
        };
        let bytes = from_firmware(answer);
        (bytes, asked as usize)
    }

    /// DEN0098: found by its version, asked again while it has no
    /// entropy, 192 bits a call.
    #[test]
    fn the_firmwares_generator_is_found_as_its_specification_says() {
        let (bytes, asked) = firmware(true, true, 0);
        let bytes = bytes.unwrap();
        assert_eq!((bytes[0], bytes[9], bytes[18], bytes[24], asked), (1, 1, 1, 2, 2));
        let (bytes, asked) = firmware(true, true, PATIENCE);
        assert_eq!((bytes.is_some(), asked), (true, PATIENCE + 2));
        assert_eq!(firmware(true, true, PATIENCE + 1).0, None);
        assert_eq!(firmware(false, true, 0), (None, 0));
        assert_eq!(firmware(true, false, 0), (None, 0));
    }

    #[test]
    fn the_cpus_generator_may_be_late_but_not_stuck() {
        let mut calls = 0;
        let late = from_cpu(|| {
            calls += 1;
            (calls % 2 == 0).then_some(calls)
        });
        assert_eq!(
            late.map(|bytes| [bytes[0], bytes[8], bytes[16], bytes[24]]),
            Some([2, 4, 6, 8])
        );
        assert_eq!(from_cpu(|| Some(u64::MAX)), None, "stuck");
        assert_eq!(from_cpu(|| None), None, "empty");
    }

    #[test]
    fn another_seed_or_time_gives_other_answers() {
        let answer = |seed: &[u8], time| Entropy::new(seed).0.answer(time);
        assert_eq!(answer(b"a", 1), answer(b"a", 1));
        assert_ne!(answer(b"a", 1), answer(b"b", 1));
        assert_ne!(answer(b"a", 1), answer(b"a", 2));
    }
}
