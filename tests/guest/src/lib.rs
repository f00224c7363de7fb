//! What the default protected guest thinks, apart from what it does to the
//! machine: which device contract it accepts, how memory the device can see
//! is handed out, what it does with a disk. Ordinary code, tested natively;
//! `main.rs` binds it to the virtual machine.

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod contract;
pub mod files;
pub mod iommu;
pub mod iotable;
pub mod lending;
pub mod mappings;
pub mod pool;
pub mod runs;
pub mod secret;
pub mod slots;
pub mod streaming;
pub mod windows;
