//! A scan of the system registers: all 16,384 encodings of op0 = 3.
//!
//! Whoever keeps a list of the registers that a world switch exchanges forgets
//! one. So this asks the CPU: each encoding is read and, where that works,
//! written, to find out which of its bits can hold something. [`Scan::exposed`]
//! then puts a pattern into every such bit, lets somebody else run, and sees
//! what has become of all the registers. What may differ is in one table,
//! [`SPECIAL`], with the reason.

mod special;

#[cfg(target_os = "none")]
mod registers;

#[cfg(target_os = "none")]
pub use registers::{Difference, Scan};
pub use special::{SPECIAL, Special, code, special};

/// op1, CRn, CRm, op2.
pub const ENCODINGS: u16 = 1 << 14;

/// The patterns' names: whose a value is that turns up in the wrong place.
pub mod seed {
    /// The host's.
    pub const HOST: u64 = 1;
    /// Of two guests on the same CPU.
    pub const GUESTS: [u64; 2] = [2, 3];

    /// Who that is.
    pub fn name(seed: u64) -> &'static str {
        match seed {
            HOST => "the host",
            _ => "the other guest",
        }
    }
}

/// The fields of an encoding, as `S3_op1_Cn_Cm_op2`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name(pub u16);

impl core::fmt::Display for Name {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Name(code) = *self;
        let (op1, crn, crm, op2) = (code >> 11, code >> 7 & 15, code >> 3 & 15, code & 7);
        write!(f, "S3_{op1}_C{crn}_C{crm}_{op2}")
    }
}

/// What `seed` puts into register `code`: different in every register, and in
/// about half of the bits from any other seed's.
pub fn pattern(code: u16, seed: u64) -> u64 {
    // SplitMix64's finaliser (Steele, Lea, Flood, 2014).
    let mut word = (u64::from(code) << 8 | seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn encodings_have_the_assemblers_names() {
        assert_eq!(Name(code(3, 13, 0, 2)).to_string(), "S3_3_C13_C0_2");
        assert_eq!(Name(ENCODINGS - 1).to_string(), "S3_7_C15_C15_7");
    }

    #[test]
    fn no_two_worlds_have_the_same_pattern_in_a_register() {
        let [a, b] = seed::GUESTS;
        for code in 0..ENCODINGS {
            let [host, a, b] = [seed::HOST, a, b].map(|seed| pattern(code, seed));
            for pair in [host ^ a, host ^ b, a ^ b] {
                assert!((8..=56).contains(&pair.count_ones()), "{}", Name(code));
            }
        }
    }
}
