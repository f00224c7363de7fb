//! What the host looks for in memory, without having it in its own.
//!
//! The guest makes a marker: eight bytes, said twice or more. Wherever that
//! lies, one aligned word of memory is a rotation of the eight bytes. The host
//! is told the product of each rotation with an odd number, and so can tell a
//! word when it meets it; but no memory of the host's ever holds one, and what
//! it finds is not itself.

/// Rotations of eight bytes.
const ROTATIONS: usize = 8;
/// Odd, so that no two words have the same product.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// A marker, in disguise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marker([u64; ROTATIONS]);

impl Marker {
    /// Reads the eight products, in hexadecimal digits, separated by commas.
    pub fn parse(text: &str) -> Option<Self> {
        let mut products = [0; ROTATIONS];
        let mut words = text.split(',');
        for product in &mut products {
            *product = u64::from_str_radix(words.next()?, 16).ok()?;
        }
        words.next().is_none().then_some(Self(products))
    }

    /// Is this aligned word a piece of it?
    #[inline]
    pub fn is_in(&self, word: u64) -> bool {
        // Most of memory is zero, and no marker is.
        word != 0 && self.0.contains(&word.wrapping_mul(FACTOR))
    }
}

#[cfg(test)]
mod tests {
    use std::string::String;
    use std::vec::Vec;
    use std::{format, vec};

    use super::*;

    fn disguised(eight: &[u8; 8]) -> String {
        let word = u64::from_le_bytes(*eight);
        let product = |rotation: u32| word.rotate_right(8 * rotation).wrapping_mul(FACTOR);
        let products: Vec<String> = (0..8).map(|n| format!("{:x}", product(n))).collect();
        products.join(",")
    }

    #[test]
    fn a_marker_is_met_wherever_it_lies() {
        let marker = Marker::parse(&disguised(b"k3Xw90Qz")).unwrap();
        for offset in 0..8 {
            let mut memory = vec![0xaa; offset];
            memory.extend(b"k3Xw90Qzk3Xw90Qz");
            memory.resize(40, 0xaa);
            let words = memory.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
            assert!(words.into_iter().any(|word| marker.is_in(word)), "at {offset}");
        }
        assert!(!marker.is_in(0) && !marker.is_in(u64::from_le_bytes(*b"k3Xw90Qy")));
    }

    #[test]
    fn only_eight_products_are_a_marker() {
        for text in ["", "1,2", "1,2,3,4,5,6,7,8,9", "1,2,3,4,5,6,7,x"] {
            assert_eq!(Marker::parse(text), None, "{text}");
        }
    }
}
