//! The PCI_CFG window (section 4.1.4.9): a driver without mapped BARs reaches
//! registers through configuration space.
//!
//! It names a BAR, an offset and a length, all three the driver's. The window
//! reaches the register BAR and nothing else: not the bounce memory, which is
//! no register, and not a byte beyond the last structure.

use super::config_space::{ConfigSpace, REGISTER_BAR, REGISTER_BAR_SIZE};

/// An access to the register BAR that the window allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Target {
    /// Offset in the register BAR, a multiple of `size`.
    pub(super) offset: u64,
    /// 1, 2 or 4 bytes.
    pub(super) size: u8,
}

/// Is the configuration access at `offset` one of `pci_cfg_data`?
pub(super) fn is_data(offset: u64) -> bool {
    let data = ConfigSpace::pci_cfg_data();
    (data..data + 4).contains(&offset)
}

/// The register access that a configuration access to `pci_cfg_data` stands
/// for; `None` if the window is not set up to allow one, or the access does
/// not hold the window's first bytes.
pub(super) fn target(space: &ConfigSpace, offset: u64, size: u8) -> Option<Target> {
    let (bar, register, length) = space.pci_cfg_target();
    if bar != REGISTER_BAR || !matches!(length, 1 | 2 | 4) || register % length != 0 {
        return None;
    }
    if offset != ConfigSpace::pci_cfg_data() || u32::from(size) < length {
        return None;
    }
    let register = u64::from(register);
    let inside = register + u64::from(length) <= REGISTER_BAR_SIZE;
    inside.then_some(Target { offset: register, size: length as u8 })
}
