//! The policy of bouncer.
//!
//! Everything that decides lives here: who owns a page, what a hypercall may
//! do, what a trap means, what a device may reach. Nothing here touches
//! hardware; what a machine must do is the trait [`machine::Machine`].
//! The same source runs at EL2, in unit tests and on the simulated machine.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod abi;
pub mod addr;
pub mod error;
pub mod layout;
pub mod machine;
pub mod memory;
pub mod stage2;
pub mod trap;
pub mod vcpu;
pub mod virtio;
pub mod vgic;
