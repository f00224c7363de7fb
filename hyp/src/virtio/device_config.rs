//! The device-specific configuration structure (section 4.1.4.6).
//!
//! The host fills it; to the driver it is read-only, because no feature with
//! a driver-writable field is offered. The generation moves when it is read
//! after a change, by one however many changes there were: 256 of them between
//! two reads of a driver do not bring the same number back.

use super::all_ones;
use super::policy::DeviceType;
use crate::error::Error;

/// Room for the largest structure of a supported type.
const MAX_LENGTH: usize = 64;

/// The structure, its generation, and whether it changed since that was read.
pub(super) struct DeviceConfig {
    bytes: [u8; MAX_LENGTH],
    length: usize,
    generation: u8,
    changed: bool,
}

impl DeviceConfig {
    /// All zeros, as long as the type needs.
    pub(super) fn new(device_type: &DeviceType) -> Self {
        let length = device_type.config_length.min(MAX_LENGTH);
        Self { bytes: [0; MAX_LENGTH], length, generation: 0, changed: false }
    }

    /// The host writes the low `count` bytes of `value` at `offset`, in
    /// little-endian order.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless 1 to 8 bytes inside the structure.
    pub(super) fn host_write(&mut self, offset: u64, value: u64, count: u8) -> Result<(), Error> {
        let count = usize::from(count);
        if count == 0 || count > 8 || offset > MAX_LENGTH as u64 {
            return Err(Error::InvalidParameter);
        }
        let offset = offset as usize;
        if offset + count > self.length {
            return Err(Error::InvalidParameter);
        }
        let target = self.bytes.iter_mut().skip(offset).take(count);
        for (byte, new) in target.zip(value.to_le_bytes()) {
            *byte = new;
        }
        self.changed = true;
        Ok(())
    }

    /// The driver reads `size` bytes at the aligned `offset`.
    pub(super) fn read(&self, offset: u64, size: u8) -> u64 {
        let (offset, size) = (offset as usize, usize::from(size));
        match self.bytes.get(offset..offset + size) {
            Some(bytes) if offset + size <= self.length => {
                bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
            }
            _ => all_ones(size as u8),
        }
    }

    /// The driver reads the generation.
    pub(super) fn generation(&mut self) -> u8 {
        if core::mem::take(&mut self.changed) {
            self.generation = self.generation.wrapping_add(1);
        }
        self.generation
    }

    /// Has any byte of a field a value?
    pub(super) fn is_set(&self, offset: usize, count: usize) -> bool {
        self.bytes.iter().skip(offset).take(count).any(|byte| *byte != 0)
    }
}
