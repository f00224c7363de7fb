//! MSI-X: the vector table and the pending bits (PCI 3.0 section 6.8.2).
//!
//! The enable and function-mask bits are in configuration space, with the
//! capability; what they amount to is passed in as "can this function send".

use super::effects::{Signal, Signals};
use super::queue::MAX_QUEUES;
use super::{all_ones, is_natural};

/// Most vectors of a device: one per queue and one for the configuration.
pub const MAX_VECTORS: usize = MAX_QUEUES + 1;
/// `VIRTIO_MSI_NO_VECTOR`: an event without an interrupt.
pub(super) const NO_VECTOR: u16 = 0xffff;
/// Bytes of a table entry.
const ENTRY_SIZE: u64 = 16;
/// Vector control: the vector is masked.
const MASKED: u32 = 1;

/// One entry as the guest sees it: address low and high, data, control.
#[derive(Clone, Copy)]
struct Entry([u32; 4]);

impl Entry {
    fn signal(&self) -> Signal {
        let Entry([low, high, data, _]) = *self;
        Signal::Msi { address: u64::from(high) << 32 | u64::from(low), data }
    }

    fn is_masked(&self) -> bool {
        let Entry([_, _, _, control]) = *self;
        control & MASKED != 0
    }
}

/// Table and pending bits.
pub(super) struct Msix {
    entries: [Entry; MAX_VECTORS],
    vectors: u16,
    pending: u16,
}

impl Msix {
    /// `vectors` vectors, all masked, at most [`MAX_VECTORS`].
    pub(super) fn new(vectors: u16) -> Self {
        let masked = Entry([0, 0, 0, MASKED]);
        Self { entries: [masked; MAX_VECTORS], vectors, pending: 0 }
    }

    /// What a vector register holds after `vector` was written to it: a
    /// vector that exists, or [`NO_VECTOR`] (section 4.1.5.1.2).
    pub(super) fn accept(&self, vector: u16) -> u16 {
        if vector < self.vectors { vector } else { NO_VECTOR }
    }

    /// An event for `vector`, which [`Self::accept`] has passed: the message
    /// to send now, or nothing because it is [`NO_VECTOR`], or waits in the
    /// pending bits.
    pub(super) fn raise(&mut self, vector: u16, can_send: bool) -> Option<Signal> {
        let entry = self.entries.get(usize::from(vector))?;
        if can_send && !entry.is_masked() {
            return Some(entry.signal());
        }
        self.pending |= 1 << vector;
        None
    }

    /// Sends what waited and is masked no longer.
    pub(super) fn deliver_pending(&mut self, signals: &mut Signals) {
        if self.pending == 0 {
            return;
        }
        for (vector, entry) in self.entries.iter().enumerate() {
            let bit = 1 << vector;
            if self.pending & bit != 0 && !entry.is_masked() && signals.push(entry.signal()) {
                self.pending &= !bit;
            }
        }
    }

    /// Forgets what waited: no interrupt survives a reset.
    pub(super) fn clear_pending(&mut self) {
        self.pending = 0;
    }

    /// Reads the table.
    pub(super) fn read_table(&self, offset: u64, size: u8) -> u64 {
        match (self.word(offset), size) {
            (Some(low), 4) => u64::from(low),
            (Some(low), 8) => {
                let high = self.word(offset + 4).unwrap_or(u32::MAX);
                u64::from(high) << 32 | u64::from(low)
            }
            _ => all_ones(size),
        }
    }

    /// Writes the table. Only whole words and double words count.
    pub(super) fn write_table(&mut self, offset: u64, size: u8, value: u64) {
        if !matches!(size, 4 | 8) {
            return;
        }
        self.write_word(offset, value as u32);
        if size == 8 {
            self.write_word(offset + 4, (value >> 32) as u32);
        }
    }

    /// Reads the pending bits (one double word).
    pub(super) fn read_pending(&self, offset: u64, size: u8) -> u64 {
        let bits = u64::from(self.pending);
        match (offset, size) {
            (0, 4 | 8) => bits,
            (4, 4) => bits >> 32,
            _ => all_ones(size),
        }
    }

    fn word(&self, offset: u64) -> Option<u32> {
        let (entry, field) = self.place(offset)?;
        self.entries.get(entry)?.0.get(field).copied()
    }

    fn write_word(&mut self, offset: u64, value: u32) {
        let Some((entry, field)) = self.place(offset) else { return };
        let word = self.entries.get_mut(entry).and_then(|entry| entry.0.get_mut(field));
        if let Some(word) = word {
            *word = match field {
                0 => value & !3,
                3 => value & MASKED,
                _ => value,
            };
        }
    }

    /// Entry and field of a word-aligned offset inside the table.
    fn place(&self, offset: u64) -> Option<(usize, usize)> {
        let entry = offset / ENTRY_SIZE;
        let inside = entry < u64::from(self.vectors) && is_natural(offset, 4);
        inside.then_some((entry as usize, (offset % ENTRY_SIZE / 4) as usize))
    }
}
