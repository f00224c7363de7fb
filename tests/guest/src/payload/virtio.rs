//! Numbers of virtio that several drivers here need: one by hand, one in a
//! process, one under a contract (virtio 1.4, by section).

/// Registers of the common configuration (4.1.4.3).
pub(crate) mod register {
    pub(crate) const DEVICE_FEATURE_SELECT: usize = 0x00;
    pub(crate) const DEVICE_FEATURE: usize = 0x04;
    pub(crate) const DRIVER_FEATURE_SELECT: usize = 0x08;
    pub(crate) const DRIVER_FEATURE: usize = 0x0c;
    pub(crate) const CONFIG_MSIX_VECTOR: usize = 0x10;
    pub(crate) const STATUS: usize = 0x14;
    pub(crate) const QUEUE_SELECT: usize = 0x16;
    pub(crate) const QUEUE_SIZE: usize = 0x18;
    pub(crate) const QUEUE_MSIX_VECTOR: usize = 0x1a;
    pub(crate) const QUEUE_ENABLE: usize = 0x1c;
    pub(crate) const QUEUE_NOTIFY_OFF: usize = 0x1e;
    /// Descriptor table, available ring and used ring, 64 bits each.
    pub(crate) const QUEUE_DESC: usize = 0x20;
    pub(crate) const QUEUE_DRIVER: usize = 0x28;
    pub(crate) const QUEUE_DEVICE: usize = 0x30;
}

/// Bits of the status (2.1).
pub(crate) const ACKNOWLEDGE: u8 = 1;
pub(crate) const DRIVER: u8 = 2;
pub(crate) const DRIVER_OK: u8 = 4;
pub(crate) const FEATURES_OK: u8 = 8;
pub(crate) const NEEDS_RESET: u8 = 0x40;

/// Flags of a descriptor (2.7.5): another follows, the device writes, a table.
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// VIRTIO_F_INDIRECT_DESC (6).
pub(crate) const INDIRECT_DESC: u64 = 1 << 28;
/// VIRTIO_MSI_NO_VECTOR (4.1.4.3).
pub(crate) const NO_VECTOR: u16 = 0xffff;
