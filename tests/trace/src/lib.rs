//! Replays the trace of a booted bouncer ([`hyp::trace`]) on the simulated
//! machine ([`hyp::sim`]).
//!
//! QEMU's TLBs are small, carry no VMIDs and are emptied often, so that a
//! missing invalidation seldom shows on the booted machine. What a real TLB
//! may remember, the simulated one remembers always: it gets the same stores,
//! publications and invalidations in the same order and complains as it does
//! in the unit tests. Nothing of the policy runs here.

mod file;
mod owners;
mod replay;

pub use file::{Trace, read};
pub use owners::{Range, Step, steps};
pub use replay::{Finding, replay};
