//! The parts of the default host that need no machine: the device side of
//! virtqueues, the backends, the guest's device tree, the typed hypercalls
//! and the bookkeeping of memory. They run natively in unit tests.
//!
//! Nothing here is trusted. A mistake in this crate may break a guest's disk,
//! it cannot break a guest's secrecy; but it must survive a hostile guest.

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod block;
pub mod bootargs;
pub mod bouncer;
pub mod console;
pub mod entropy;
pub mod frames;
pub mod fuzz;
pub mod lines;
pub mod linux;
pub mod measurement;
pub mod memory;
pub mod net;
pub mod queue;
pub mod span;
pub mod tree;
pub mod uart;
