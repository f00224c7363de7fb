//! The policy of bouncer.
//!
//! Everything that decides lives here: who owns a page, what a hypercall may
//! do, what a trap means, what a device may reach. Nothing here touches
//! hardware; what a machine must do is the trait [`machine::Machine`].
//! The same source runs at EL2, in unit tests and on the simulated machine.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(any(test, feature = "sim"))]
extern crate std;

pub mod abi;
pub mod addr;
pub mod entropy;
pub mod error;
pub mod event;
pub mod exception;
mod guest;
mod host;
mod hypervisor;
pub mod layout;
pub mod machine;
pub mod measurement;
pub mod memory;
#[cfg(any(test, feature = "sim", feature = "oracle"))]
pub mod oracle;
pub mod psci;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod stage2;
pub mod stats;
pub mod sync;
pub mod syndrome;
#[cfg(test)]
mod tests;
pub mod trace;
pub mod trap;
pub mod vcpu;
pub mod vgic;
pub mod virtio;
mod vm;

pub use event::EventKind;
pub use hypervisor::{HostPlatform, Hypervisor};
