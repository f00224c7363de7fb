//! The guest's other front end: the Realm Services Interface of Arm CCA
//! (RMM specification, DEN0137), and PSCI, by SMC.
//!
//! A distribution's stock kernel that finds it takes itself for a realm. What
//! the specification calls RIPAS, the state of a page as the guest chose it,
//! is not kept anywhere: it is read off who owns and who borrows the page.
//! All is answered at EL2; the host is asked for nothing but memory.

use crate::abi::rsi as id;
use crate::error::Error;
use crate::machine::Machine;
use crate::stats::VmCounter;

use super::{Outcome, Running};
use id::status;

/// x0 to x3 of a call that is answered.
type Answer = [u64; 4];

impl<M: Machine> Running<'_, M> {
    /// SMC; the pc is still on it.
    pub(super) fn rsi_call(&mut self, immediate: u16) -> Outcome {
        self.count(VmCounter::Hypercalls);
        let frame = &self.vcpu.state.frame;
        let [function, a1, a2, a3] = [0, 1, 2, 3].map(|index| frame.get(index));
        self.advance();
        let function = match u32::try_from(function) {
            Ok(function) if immediate == 0 => function,
            _ => return self.results(not_supported()),
        };
        if let Some(outcome) = self.power_call(function, [a1, a2, a3]) {
            return outcome;
        }
        let answer = match function {
            id::VERSION => version(a1),
            // No feature is optional here, so every register of them is 0.
            id::FEATURES => [status::SUCCESS, 0, 0, 0],
            _ => not_supported(),
        };
        self.results(answer)
    }
}

fn not_supported() -> Answer {
    [Error::NotSupported.code() as u64, 0, 0, 0]
}

/// VERSION(wanted) → lowest, highest: there is one.
fn version(wanted: u64) -> Answer {
    let status = if wanted == id::REVISION { status::SUCCESS } else { status::ERROR_INPUT };
    [status, id::REVISION, id::REVISION, 0]
}
