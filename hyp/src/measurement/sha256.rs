//! SHA-256 (FIPS 180-4) whose blocks are added by the machine, which may have
//! instructions for it.

use super::DIGEST_SIZE;
use crate::machine::Machine;

const BLOCK: usize = 64;
/// Where the message's length stands in the last block.
const LENGTH_AT: usize = BLOCK - 8;

/// The initial state, 5.3.3.
const INITIAL: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// Adds blocks to a state without the help of any instruction.
pub fn in_software(state: &mut [u32; 8], blocks: &[[u8; BLOCK]]) {
    sha2::block_api::compress256(state, blocks);
}

/// A digest in the making.
#[derive(Clone)]
pub(crate) struct Sha256 {
    state: [u32; 8],
    /// The beginning of a block that is not full yet.
    pending: [u8; BLOCK],
    /// Bytes of the message so far.
    length: u64,
}

impl Default for Sha256 {
    fn default() -> Self {
        Self { state: INITIAL, pending: [0; BLOCK], length: 0 }
    }
}

impl Sha256 {
    fn filled(&self) -> usize {
        (self.length % BLOCK as u64) as usize
    }

    /// Adds `bytes` to the message.
    pub(crate) fn update(&mut self, m: &impl Machine, bytes: &[u8]) {
        let filled = self.filled();
        self.length = self.length.wrapping_add(bytes.len() as u64);
        let free = self.pending.get_mut(filled..).unwrap_or_default();
        let (first, rest) = bytes.split_at(bytes.len().min(free.len()));
        copy(free, first);
        if filled + first.len() < BLOCK {
            return;
        }
        m.sha256(&mut self.state, &[self.pending]);
        let (blocks, rest) = rest.as_chunks::<BLOCK>();
        m.sha256(&mut self.state, blocks);
        copy(&mut self.pending, rest);
    }

    /// The digest of the message.
    pub(crate) fn finish(mut self, m: &impl Machine) -> [u8; DIGEST_SIZE] {
        let bits = self.length.wrapping_mul(8);
        self.update(m, &[0x80]);
        while self.filled() != LENGTH_AT {
            self.update(m, &[0]);
        }
        self.update(m, &bits.to_be_bytes());
        let mut digest = [0; DIGEST_SIZE];
        for (bytes, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(self.state) {
            *bytes = word.to_be_bytes();
        }
        digest
    }
}

/// Copies `from` to the beginning of `to`, as far as that goes.
fn copy(to: &mut [u8], from: &[u8]) {
    let length = to.len().min(from.len());
    let ((to, _), (from, _)) = (to.split_at_mut(length), from.split_at(length));
    to.copy_from_slice(from);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimMachine;
    use sha2::Digest;
    use std::vec::Vec;

    #[test]
    fn digests_are_those_of_the_standard_for_every_length_and_piece() {
        let m = SimMachine::new(&[]);
        let message: Vec<u8> = (0..300u32).map(|number| (number * 7) as u8).collect();
        for length in 0..message.len() {
            for piece in [1, 12, 63, 64, 65, 300] {
                let mut hash = Sha256::default();
                message[..length].chunks(piece).for_each(|piece| hash.update(&m, piece));
                let expected: [u8; 32] = sha2::Sha256::digest(&message[..length]).into();
                assert_eq!(hash.finish(&m), expected, "{length} bytes by {piece}");
            }
        }
    }
}
