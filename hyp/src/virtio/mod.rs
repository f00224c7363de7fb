//! The EL2 side of a guest's devices: a PCI bus of virtio functions.
//!
//! A device has three parties. The guest's *driver* is in the guest. The
//! *backend* that moves the data is an untrusted program of the host. Between
//! them sits this *transport*: configuration space, capabilities, feature
//! negotiation, queue registers, interrupts. It is at EL2 because the DMA
//! contract lives in it: what memory the device may use ([`Policy`]) is fixed
//! when the device is created, is offered to the driver in words of virtio,
//! and neither driver nor backend can talk it away afterwards.
//!
//! The transport is a pure state machine. It owns no memory but its registers,
//! touches no machine, and reads no ring: that is the backend's work, with the
//! backend's rights. It lives in the VM, under the VM's lock. A guest's access
//! goes in as an address and a value; what must happen outside comes back as
//! [`Effects`]: interrupts to inject, a queue the backend should look at, a
//! bounce window that no longer is where it was.
//!
//! ```text
//! bus ──► device ──┬─► config_space   PCI header, capabilities, BARs
//! ECAM    one      ├─► pci_cfg        the window from config space to BAR 0
//! BAR     function ├─► common         status, features, queue registers
//! host    glue     ├─► queue          one virtqueue's registers and checks
//!                  ├─► interrupts     ISR and the line, or messages (msix)
//!                  ├─► device_config  the device type's own fields
//!                  └─► bounce         which frame backs which BAR page
//! ```
//!
//! Section numbers are those of virtio 1.4 unless another document is named.

mod bounce;
mod bus;
mod common;
mod config_space;
mod device;
mod device_config;
mod effects;
mod interrupts;
mod msix;
mod pci_cfg;
mod policy;
mod queue;
#[cfg(test)]
mod tests;

pub use bus::PciBus;
pub use config_space::{BOUNCE_BAR, REGISTER_BAR, REGISTER_BAR_SIZE};
pub use device::DeviceState;
pub use effects::{Effects, Signal, Signals};
pub use msix::MAX_VECTORS;
pub use policy::{
    CAP_SHARED_MEMORY, MAX_BOUNCE_PAGES, MAX_WINDOW_PAGES, Policy, feature, provisional,
};
pub use queue::{MAX_QUEUE_SIZE, MAX_QUEUES, QueueInfo};

/// Bits of `device_status` (section 2.1).
pub mod status {
    /// The driver has noticed the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The driver knows how to drive it.
    pub const DRIVER: u8 = 2;
    /// The driver is set up: the device may work.
    pub const DRIVER_OK: u8 = 4;
    /// Driver and device agree on the features.
    pub const FEATURES_OK: u8 = 8;
    /// The device cannot go on without a reset.
    pub const NEEDS_RESET: u8 = 64;
    /// The driver has given up.
    pub const FAILED: u8 = 128;
}

/// What the bytes of an access of `size` are worth when nobody answers.
const fn all_ones(size: u8) -> u64 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

/// May an access of `size` bytes at `offset` be decoded at all? Registers
/// answer naturally aligned accesses of 1, 2, 4 or 8 bytes only.
const fn is_natural(offset: u64, size: u8) -> bool {
    matches!(size, 1 | 2 | 4 | 8) && offset & (size as u64 - 1) == 0
}
