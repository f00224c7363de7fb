//! The board: what a machine looks like to bouncer.
//!
//! This crate turns the firmware's device tree into a plain [`BootInfo`],
//! decides what of the board the host may touch, finds room for bouncer's own
//! memory, and writes the device tree the host is given. All of that is
//! arithmetic on bytes and runs in native tests; the only hardware access here
//! is the UART's transmitter ([`pl011`]).
//!
//! A new board is a new implementation of [`Platform`].

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod boot_info;
pub mod carve;
pub mod command_line;
pub mod dma;
pub mod gicv3;
pub mod host_tree;
pub mod image;
pub mod parse;
pub mod pl011;
pub mod qemu_virt;
pub mod range;
pub mod reserved;
pub mod smmu;

#[cfg(test)]
mod test_trees;

pub use boot_info::{BootError, BootInfo, Conduit, Module, Seed};
pub use range::ByteRange;
pub use smmu::Bridge;

use arrayvec::ArrayVec;

/// Most physical CPUs a board may have; further ones stay off.
pub const MAX_CPUS: usize = 8;
/// Most regions of redistributors.
pub const MAX_GIC_REGIONS: usize = 8;
/// Most banks of RAM.
pub const MAX_BANKS: usize = 8;
/// Most runs of MMIO of a PCIe host bridge: configuration space, ports, and
/// windows for BARs.
pub const MAX_BRIDGE_WINDOWS: usize = 6;
/// Most runs of MMIO the host may be given: UART, clock, distributor,
/// one redistributor frame per CPU, and a PCIe host bridge.
pub const MAX_HOST_WINDOWS: usize = 4 + MAX_CPUS + MAX_BRIDGE_WINDOWS;

/// Runs of physical addresses with devices in them.
pub type Windows = ArrayVec<ByteRange, MAX_HOST_WINDOWS>;

/// What differs from board to board.
pub trait Platform {
    /// The board's name, for the boot message.
    const NAME: &'static str;

    /// Address of a PL011 that works before the device tree was read.
    const EARLY_UART: u64;

    /// May the host's device tree keep the top-level node of this name (unit
    /// address left off), if all its registers are in [`Self::host_windows`]?
    /// Memory, CPUs, the interrupt controller, a PCIe host bridge and `/chosen`
    /// are not asked for.
    fn host_may_see(node: &str) -> bool;

    /// The MMIO that is mapped into the host's stage 2. `redistributors` has
    /// the address of each CPU's RD frame; `bridge` is a PCIe host bridge whose
    /// functions are behind an IOMMU that bouncer drives.
    fn host_windows(info: &BootInfo, redistributors: &[u64], bridge: Option<&Bridge>) -> Windows;
}
