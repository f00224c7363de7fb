//! The guest's true random number generator, in firmware (Arm DEN0098): EL2
//! answers, so that no host knows or chooses what a guest's keys are made of.
//!
//! Without it a Linux guest has no entropy at boot but its clock: whatever a
//! host puts into its device tree, the host knows.

use crate::machine::Machine;
use crate::psci::code;

use super::{Outcome, Running};

/// Function ids.
mod id {
    pub(super) const VERSION: u32 = 0x8400_0050;
    pub(super) const FEATURES: u32 = 0x8400_0051;
    pub(super) const GET_UUID: u32 = 0x8400_0052;
    pub(super) const RND_32: u32 = 0x8400_0053;
    pub(super) const RND_64: u32 = 0xC400_0053;
}

/// Version 1.0.
const VERSION: u64 = 1 << 16;
/// Names this generator.
const UUID: [u64; 4] = [0x426f_756e, 0x4d63_6572, 0xa7e1_0c5d, 0x91b3_5e20];
/// Registers that carry random bits: x1 to x3, the last one first.
const REGISTERS: usize = 3;

impl<M: Machine> Running<'_, M> {
    /// Serves `id` if it is one of the generator's, and if there is one.
    pub(super) fn random_call(&mut self, id: u32, argument: u64) -> Option<Outcome> {
        if !self.hyp.has_entropy() {
            return None;
        }
        let values = match id {
            id::VERSION => [VERSION, 0, 0, 0],
            id::FEATURES => match u32::try_from(argument & 0xffff_ffff) {
                Ok(id::VERSION..=id::RND_32 | id::RND_64) => [0; 4],
                _ => [code::NOT_SUPPORTED as u64, 0, 0, 0],
            },
            id::GET_UUID => UUID,
            id::RND_32 => self.random(argument & 0xffff_ffff, 32),
            id::RND_64 => self.random(argument, 64),
            _ => return None,
        };
        Some(self.results(values))
    }

    /// `bits` random bits in registers that carry `width` of them.
    fn random(&mut self, bits: u64, width: u64) -> [u64; 4] {
        if bits == 0 || bits > width * REGISTERS as u64 {
            return [code::INVALID_PARAMETERS as u64, 0, 0, 0];
        }
        let bytes = self.hyp.random();
        let (words, _) = bytes.as_chunks::<8>();
        // x3 has the lowest bits, then x2, then x1; what was not asked for
        // is zero.
        let mut left = bits;
        let mut carried = [0; REGISTERS];
        for (register, word) in carried.iter_mut().rev().zip(words) {
            let here = left.min(width);
            *register = u64::from_le_bytes(*word) & low_bits(here);
            left -= here;
        }
        let [x1, x2, x3] = carried;
        [code::SUCCESS as u64, x1, x2, x3]
    }
}

/// The lowest `count` bits set, 0 to 64.
fn low_bits(count: u64) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}
