//! What a device backend sees of a guest: an address space that may refuse.
//!
//! The queue and the backends never hold a pointer into guest memory. They
//! ask a [`Memory`], and every answer may be a [`Fault`]: the address lies
//! outside the window, or the guest has not shared the page and the hardware
//! said so.

/// An address the backend may not touch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// First guest address that was refused.
    pub address: u64,
}

/// Guest-addressed memory that the backend and the guest use at the same time.
///
/// The guest may change any byte between two calls, so a value that is checked
/// must be the value that is used: read once, into the backend's own memory.
pub trait Memory {
    /// Copies `into.len()` bytes from `address`.
    ///
    /// # Errors
    /// [`Fault`] if any byte may not be read; `into` is then unspecified.
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Fault>;

    /// Copies `from` to `address`.
    ///
    /// # Errors
    /// [`Fault`] if any byte may not be written; earlier bytes may have been.
    fn write(&self, address: u64, from: &[u8]) -> Result<(), Fault>;

    /// Reads an aligned 16-bit little-endian ring index in one access and
    /// orders it before everything read later (virtio 1.4, 2.7.13).
    ///
    /// # Errors
    /// [`Fault`] if it may not be read or is not aligned.
    fn load_index(&self, address: u64) -> Result<u16, Fault>;

    /// Writes one, ordered after everything written before and before
    /// everything read later: the full barrier that notification suppression
    /// needs (virtio 1.4, 2.7.7.1).
    ///
    /// # Errors
    /// [`Fault`] if it may not be written or is not aligned.
    fn store_index(&self, address: u64, value: u16) -> Result<(), Fault>;
}
