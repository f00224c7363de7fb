//! The ISR status register (section 4.1.4.5): reading it clears it, and with
//! it the interrupt line.

/// Bit 0: some queue has used buffers. Never set while MSI-X is on.
pub(super) const QUEUE: u8 = 1;
/// Bit 1: the configuration changed, or the device needs a reset.
pub(super) const CONFIG: u8 = 2;

/// The register.
#[derive(Default)]
pub(super) struct Isr(u8);

impl Isr {
    /// Sets one of [`QUEUE`] and [`CONFIG`].
    pub(super) fn set(&mut self, bit: u8) {
        self.0 |= bit;
    }

    /// The guest's read: the bits, which are clear afterwards.
    pub(super) fn take(&mut self) -> u8 {
        core::mem::take(&mut self.0)
    }

    /// Is a reason for an interrupt pending?
    pub(super) fn is_pending(&self) -> bool {
        self.0 != 0
    }
}
