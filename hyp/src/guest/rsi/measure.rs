//! What the guest was started from, and what it adds to that itself.
//!
//! Both calls use more registers than x0 to x3: MEASUREMENT_READ returns its
//! 64 bytes in x1 to x8, MEASUREMENT_EXTEND takes them in x3 to x10.

use crate::abi::rsi::status;
use crate::error::Error;
use crate::machine::Machine;
use crate::measurement::DIGEST_SIZE;

use super::{Answer, Stop};
use crate::guest::Running;

/// Index of the initial measurement.
const INITIAL: u64 = 0;
/// Most bytes a measurement is extended by.
const MOST_BYTES: usize = 64;

impl<M: Machine> Running<'_, M> {
    /// MEASUREMENT_READ(index) → 64 bytes in x1 to x8.
    pub(super) fn measurement_read(&mut self, index: u64) -> Result<Answer, Stop> {
        let digest = self.hyp.with_vm(self.handle, |vm| {
            if index == INITIAL {
                vm.digest.ok_or(Error::BadState)
            } else {
                vm.extensible.get(index)
            }
        })?;
        let mut words = [0; MOST_BYTES / 8];
        let (bytes, _) = digest.as_chunks::<8>();
        words.iter_mut().zip(bytes).for_each(|(word, bytes)| *word = u64::from_le_bytes(*bytes));
        let [x1, x2, x3, rest @ ..] = words;
        let frame = &mut self.vcpu.state.frame;
        (4..).zip(rest).for_each(|(register, word)| frame.set(register, word));
        Ok([status::SUCCESS, x1, x2, x3])
    }

    /// MEASUREMENT_EXTEND(index, bytes, 64 bytes in x3 to x10).
    pub(super) fn measurement_extend(&mut self, index: u64, bytes: u64) -> Result<Answer, Stop> {
        let frame = &self.vcpu.state.frame;
        let mut value = [0; MOST_BYTES];
        let (words, _) = value.as_chunks_mut::<8>();
        (3..).zip(words).for_each(|(register, word)| *word = frame.get(register).to_le_bytes());
        let bytes = usize::try_from(bytes).map_err(|_| Stop::Input)?;
        let value = value.get(..bytes).ok_or(Stop::Input)?;
        let machine = &self.hyp.machine;
        self.hyp.with_vm(self.handle, |vm| vm.extensible.extend(machine, index, value))?;
        Ok([status::SUCCESS, 0, 0, 0])
    }
}

const _: () = assert!(DIGEST_SIZE <= MOST_BYTES);
