//! One virtqueue: its registers, and what must hold before it is enabled.
//!
//! The rings are never read here. What is checked is where they are: a queue
//! that is enabled lies, every byte of it, in memory the policy lets the
//! device use. The check happens once, at `queue_enable`; the addresses are
//! fixed from then on, so it cannot go stale.

use super::msix::NO_VECTOR;
use crate::addr::{ADDRESS_BITS, FRAME_SIZE, GfnRange};
use crate::error::Error;
use crate::layout;

/// Most queues of a device.
pub const MAX_QUEUES: usize = 8;
/// Most descriptors of a queue of any device; of a device's own most is chosen
/// when it is created.
pub const MAX_QUEUE_SIZE: u16 = 256;

/// A split queue's three areas (section 2.7), in register order.
const AREAS: usize = 3;

/// What the backend must know of a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct QueueInfo {
    /// Number of descriptors.
    pub size: u16,
    /// May the backend use it? The rest is zero if not.
    pub enabled: bool,
    /// Descriptor table. Here and below: an offset into the memory that the
    /// device brings or into its window, or with shared pages a guest physical
    /// address.
    pub descriptor: u64,
    /// Driver area (available ring).
    pub driver: u64,
    /// Device area (used ring).
    pub device: u64,
    /// What to subtract from an address in a descriptor to get such an
    /// offset: where the bounce BAR was when the queue was enabled, or the first
    /// I/O virtual address; 0 with shared pages, and with device memory, where they are offsets already.
    pub base: u64,
    /// How often the queue was reset, alone or with its device. A backend
    /// that sees a new number must forget its ring positions.
    pub resets: u32,
}

/// Memory in which a ring may lie.
#[derive(Clone, Copy)]
pub(super) struct Reach {
    base: u64,
    length: u64,
    /// Addresses are offsets, and 0 means that there is none.
    no_zero: bool,
}

impl Reach {
    /// The bounce window, where it is now.
    pub(super) const fn window(window: GfnRange) -> Self {
        let length = window.count() * FRAME_SIZE;
        Self { base: window.start().base(), length, no_zero: false }
    }

    /// All of the guest's address space: pages that are not shared fault for
    /// the backend when it touches them.
    pub(super) const fn guest() -> Self {
        Self { base: 0, length: 1 << ADDRESS_BITS, no_zero: false }
    }

    /// The device's I/O virtual addresses: what the guest's table does not map
    /// faults for the backend when it touches it.
    pub(super) const fn aperture() -> Self {
        Self { base: layout::APERTURE, length: layout::APERTURE_SIZE, no_zero: false }
    }

    /// Device memory of so many pages, wherever its BAR is: offsets into it.
    /// Address 0 is reserved, and refused. (That drivers leave the rest of the
    /// first page alone as well is their affair.)
    pub(super) const fn region(pages: u64) -> Self {
        Self { base: 0, length: pages * FRAME_SIZE, no_zero: true }
    }

    /// Offset of a ring at `address`, if it is aligned and wholly inside.
    fn place(self, address: u64, length: u64, align: u64) -> Option<u64> {
        if !address.is_multiple_of(align) {
            return None;
        }
        if self.no_zero && address == 0 {
            return None;
        }
        let offset = address.checked_sub(self.base)?;
        let end = offset.checked_add(length)?;
        (end <= self.length).then_some(offset)
    }
}

/// Where the rings of an enabled queue are, as offsets from `base`.
#[derive(Clone, Copy)]
struct Rings {
    base: u64,
    offsets: [u64; AREAS],
}

/// A queue's registers.
pub(super) struct Queue {
    /// The largest size, which is that after reset.
    largest: u16,
    size: u16,
    vector: u16,
    addresses: [u64; AREAS],
    rings: Option<Rings>,
    resets: u32,
}

impl Queue {
    /// Most descriptors, as DEVICE_CREATE names them: 0 stands for
    /// [`MAX_QUEUE_SIZE`].
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless it is 0 or a power of two up to that.
    pub(super) const fn largest(named: u16) -> Result<u16, Error> {
        match named {
            0 => Ok(MAX_QUEUE_SIZE),
            size if size.is_power_of_two() && size <= MAX_QUEUE_SIZE => Ok(size),
            _ => Err(Error::InvalidParameter),
        }
    }

    /// A queue of at most `largest` descriptors, as reset leaves it.
    pub(super) const fn new(largest: u16) -> Self {
        Self {
            largest,
            size: largest,
            vector: NO_VECTOR,
            addresses: [0; AREAS],
            rings: None,
            resets: 0,
        }
    }

    /// Back to that state; the backend's positions are void.
    pub(super) fn reset(&mut self) {
        *self = Self { resets: self.resets.wrapping_add(1), ..Self::new(self.largest) };
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.rings.is_some()
    }

    pub(super) fn size(&self) -> u16 {
        self.size
    }

    /// The driver chooses a size: a power of two up to the maximum, or 0,
    /// before the queue is enabled. Anything else leaves it as it was.
    pub(super) fn set_size(&mut self, size: u16) {
        let acceptable = size == 0 || (size.is_power_of_two() && size <= self.largest);
        if acceptable && !self.is_enabled() {
            self.size = size;
        }
    }

    pub(super) fn vector(&self) -> u16 {
        self.vector
    }

    pub(super) fn set_vector(&mut self, vector: u16) {
        self.vector = vector;
    }

    /// Address register `area` (0 descriptor, 1 driver, 2 device).
    pub(super) fn address(&self, area: usize) -> u64 {
        self.addresses.get(area).copied().unwrap_or(0)
    }

    /// Writes the bits of `mask` of an address register; none once enabled.
    pub(super) fn set_address(&mut self, area: usize, mask: u64, value: u64) {
        if self.is_enabled() {
            return;
        }
        if let Some(address) = self.addresses.get_mut(area) {
            *address = *address & !mask | value & mask;
        }
    }

    /// Enables the queue if all three rings lie in `reach`; says whether it
    /// is enabled now. Enabling twice changes nothing.
    pub(super) fn enable(&mut self, reach: Reach) -> bool {
        if self.rings.is_none() {
            self.rings = self.place_rings(reach);
        }
        self.is_enabled()
    }

    /// Alignments are those of section 2.7; the event fields at the end of
    /// both rings count whether or not EVENT_IDX is accepted.
    fn place_rings(&self, reach: Reach) -> Option<Rings> {
        let size = u64::from(self.size);
        if size == 0 {
            return None;
        }
        let [descriptor, driver, device] = self.addresses;
        let offsets = [
            reach.place(descriptor, 16 * size, 16)?,
            reach.place(driver, 6 + 2 * size, 2)?,
            reach.place(device, 6 + 8 * size, 4)?,
        ];
        Some(Rings { base: reach.base, offsets })
    }

    /// What the backend may know.
    pub(super) fn info(&self) -> QueueInfo {
        let unused = QueueInfo { size: self.size, resets: self.resets, ..QueueInfo::default() };
        match self.rings {
            Some(Rings { base, offsets: [descriptor, driver, device] }) => {
                QueueInfo { enabled: true, descriptor, driver, device, base, ..unused }
            }
            None => unused,
        }
    }
}
