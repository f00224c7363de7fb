//! Devices that a loader has left on, silenced before memory is mapped.
#![allow(unsafe_code)]

use crate::{entry, gic};
use platform::BootError;
use platform::dma::{Registers, Silenced};
use platform::parse::Tree;

/// Silences what the tree has. Early map only.
///
/// # Errors
/// See [`platform::dma::silence`].
pub(crate) fn silence(tree: Tree<'_>) -> Result<Silenced, BootError> {
    let silenced = platform::dma::silence(tree, &mut EarlyMap);
    entry::unmap_early_devices();
    silenced
}

/// Device registers through the early map.
struct EarlyMap;

fn reachable(address: u64) -> Result<u64, BootError> {
    if address.is_multiple_of(4) && entry::map_early_device(address) {
        Ok(address)
    } else {
        Err(BootError::BadProperty("reg of a device with DMA"))
    }
}

impl Registers for EarlyMap {
    fn read(&mut self, address: u64) -> Result<u32, BootError> {
        // SAFETY: mapped as device memory, aligned. The tree says that these
        // are PCI configuration space or a virtio transport, and the registers
        // that are read there have no side effects.
        Ok(unsafe { gic::read(reachable(address)?, 4) } as u32)
    }

    fn write(&mut self, address: u64, value: u32) -> Result<(), BootError> {
        // SAFETY: as above; what is written takes a device's DMA away.
        unsafe { gic::write(reachable(address)?, 4, u64::from(value)) };
        Ok(())
    }
}
