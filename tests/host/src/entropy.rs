//! The entropy backend (virtio 1.4, 5.4): fills whatever buffer it is given.
//!
//! The bytes are SHA-256 of a seed and a counter. A guest must not believe
//! that its host does not know them: they keep a kernel from waiting, and it
//! mixes them with what it has of its own.

use sha2::{Digest, Sha256};

use crate::memory::Memory;
use crate::queue::{Chain, Refusal};

/// Most bytes of one request that are filled.
const LONGEST: u64 = 4096;

/// The source.
#[derive(Debug)]
pub struct Entropy {
    seed: [u8; 32],
    blocks: u64,
}

impl Entropy {
    /// A source whose bytes depend on `seed` alone.
    pub fn new(seed: &[u8]) -> Self {
        Self { seed: Sha256::digest(seed).into(), blocks: 0 }
    }

    /// Serves one request; returns the bytes written: none if it has readable
    /// parts, or an address may not be written (5.4 has no status to say so).
    pub fn serve<M: Memory + ?Sized>(&mut self, memory: &M, chain: &Chain) -> u32 {
        self.fill(memory, chain).unwrap_or(0)
    }

    fn fill<M: Memory + ?Sized>(&mut self, memory: &M, chain: &Chain) -> Result<u32, Refusal> {
        if chain.readable_bytes() != 0 {
            return Err(Refusal::Request);
        }
        let length = chain.writable_bytes().min(LONGEST);
        let mut done = 0;
        while done < length {
            let block = self.block();
            let piece = (length - done).min(block.len() as u64);
            chain.write(memory, done, block.get(..piece as usize).unwrap_or_default())?;
            done += piece;
        }
        Ok(length as u32)
    }

    fn block(&mut self) -> [u8; 32] {
        self.blocks += 1;
        Sha256::new()
            .chain_update(self.seed)
            .chain_update(self.blocks.to_le_bytes())
            .finalize()
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::tests::{DATA, Driver};
    use std::vec;
    use std::vec::Vec;

    const WRITE: u16 = 2;

    fn request_at(entropy: &mut Entropy, at: u64, length: u32, flags: u16) -> Vec<u8> {
        let mut driver = Driver::new(8);
        driver.describe(0, at, length, flags, 0);
        driver.offer(0);
        let chain = driver.queue().pop(&driver.memory).unwrap().unwrap();
        let mut bytes = vec![0; entropy.serve(&driver.memory, &chain) as usize];
        driver.memory.read(DATA, &mut bytes).unwrap();
        bytes
    }

    fn request(entropy: &mut Entropy, length: u32) -> Vec<u8> {
        request_at(entropy, DATA, length, WRITE)
    }

    #[test]
    fn buffers_are_filled_and_no_two_alike() {
        let mut entropy = Entropy::new(b"seed");
        let one = request(&mut entropy, 70);
        let two = request(&mut entropy, 70);
        assert_eq!((one.len(), two.len()), (70, 70));
        assert_ne!(one, two);
        assert_ne!(one, request(&mut Entropy::new(b"other"), 70));
        assert_eq!(one, request(&mut Entropy::new(b"seed"), 70));
    }

    #[test]
    fn a_huge_request_gets_what_one_answer_holds_and_a_wrong_one_nothing() {
        let mut entropy = Entropy::new(b"");
        let most = request(&mut entropy, 0x8000);
        assert_eq!(most.len() as u64, LONGEST);
        assert!(request_at(&mut entropy, DATA, 8, 0).is_empty());
        assert!(request_at(&mut entropy, 0x4000_0000, 8, WRITE).is_empty());
    }
}
