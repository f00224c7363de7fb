//! How a device interrupts: the ISR register with the line it drives, or
//! MSI-X messages.
//!
//! Which of the two, and whether it may at all, is configuration space's to
//! say (MSI-X enable and mask, INTx disable, bus master); so every function
//! takes it. What waits here is reconsidered after every write of the guest.

use super::config_space::ConfigSpace;
use super::effects::{Signal, Signals};
use super::msix::Msix;

/// ISR bit 0: some queue has used buffers. Never set while MSI-X is on.
const QUEUE: u8 = 1;
/// ISR bit 1: the configuration changed, or the device needs a reset.
const CONFIG: u8 = 2;

/// The interrupt state of one function.
pub(super) struct Interrupts {
    line: u8,
    level: bool,
    isr: u8,
    /// Vector table and pending bits.
    pub(super) msix: Msix,
}

impl Interrupts {
    /// A function whose INTA is wired to `line`, with `vectors` vectors.
    pub(super) fn new(line: u8, vectors: u16) -> Self {
        Self { line, level: false, isr: 0, msix: Msix::new(vectors) }
    }

    /// Used buffers in a queue with this vector.
    pub(super) fn raise_queue(&mut self, vector: u16, space: &ConfigSpace) -> Option<Signal> {
        if space.msix_enabled() {
            return self.msix.raise(vector, space.can_send());
        }
        self.isr |= QUEUE;
        self.line_change(space)
    }

    /// A change of the configuration, or a device that needs a reset.
    pub(super) fn raise_config(&mut self, vector: u16, space: &ConfigSpace) -> Option<Signal> {
        self.isr |= CONFIG;
        if space.msix_enabled() {
            return self.msix.raise(vector, space.can_send());
        }
        self.line_change(space)
    }

    /// The guest reads ISR (section 4.1.4.5): that clears it, and with it the
    /// line.
    pub(super) fn read_isr(&mut self, space: &ConfigSpace) -> (u64, Option<Signal>) {
        let bits = core::mem::take(&mut self.isr);
        (u64::from(bits), self.line_change(space))
    }

    /// The interrupt bit of PCI's status register, which INTx disable does
    /// not hide.
    pub(super) fn is_pending(&self, space: &ConfigSpace) -> bool {
        self.isr != 0 && !space.msix_enabled()
    }

    /// Nothing that was to be delivered survives a reset of the device.
    /// [`Self::settle`] lowers the line.
    pub(super) fn reset(&mut self) {
        self.isr = 0;
        self.msix.clear_pending();
    }

    /// Brings what the guest sees up to date after a write: messages that may
    /// be sent by now, and the level of the line.
    pub(super) fn settle(&mut self, space: &ConfigSpace, signals: &mut Signals) {
        if space.can_send() {
            self.msix.deliver_pending(signals);
        } else if !space.msix_enabled() {
            self.msix.clear_pending();
        }
        if let Some(signal) = self.line_change(space) {
            signals.push(signal);
        }
    }

    /// The line, while this function asserts it.
    pub(super) fn asserted_line(&self) -> Option<u8> {
        self.level.then_some(self.line)
    }

    /// The line's new level as far as this function goes, if it has one.
    fn line_change(&mut self, space: &ConfigSpace) -> Option<Signal> {
        let level = self.isr != 0 && space.intx_allowed();
        let changed = level != core::mem::replace(&mut self.level, level);
        changed.then_some(Signal::Intx { line: self.line, level })
    }
}
