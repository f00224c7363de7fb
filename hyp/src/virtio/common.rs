//! The common configuration structure (section 4.1.4.3): status, feature
//! negotiation, and the registers of the selected queue.
//!
//! Every field is accessed with its natural width; 64-bit fields also as two
//! halves, in any order. Anything else reads all ones and writes nothing.

use super::all_ones;
use super::device_config::DeviceConfig;
use super::msix::{Msix, NO_VECTOR};
use super::policy::{feature, provisional};
use super::queue::{MAX_QUEUES, Queue, Reach};
use super::status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES_OK, NEEDS_RESET};

// Offsets of the fields.
const DEVICE_FEATURE_SELECT: u64 = 0x00;
const DEVICE_FEATURE: u64 = 0x04;
const DRIVER_FEATURE_SELECT: u64 = 0x08;
const DRIVER_FEATURE: u64 = 0x0c;
const CONFIG_VECTOR: u64 = 0x10;
const NUM_QUEUES: u64 = 0x12;
const STATUS: u64 = 0x14;
const CONFIG_GENERATION: u64 = 0x15;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_VECTOR: u64 = 0x1a;
const QUEUE_ENABLE: u64 = 0x1c;
const QUEUE_NOTIFY_OFF: u64 = 0x1e;
const QUEUE_ADDRESSES: u64 = 0x20;
const QUEUE_ADDRESSES_LAST: u64 = 0x37;
const QUEUE_NOTIFY_DATA: u64 = 0x38;
const QUEUE_RESET: u64 = 0x3a;
const ADMIN_QUEUE_INDEX: u64 = 0x3c;
const ADMIN_QUEUE_NUM: u64 = 0x3e;

/// What a write to a register brought about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// Nothing outside the register.
    Quiet,
    /// The status is another.
    StatusChanged,
    /// The driver enabled a queue that may not be: the device is broken.
    Broken,
    /// The device was reset.
    Reset,
    /// This queue was reset.
    QueueReset(u16),
}

/// The structure.
pub(super) struct Common {
    offered: u64,
    mandatory: u64,
    status: u8,
    resets: u32,
    device_feature_select: u32,
    driver_feature_select: u32,
    accepted: u64,
    /// The driver accepted a bit beyond 63, where none is offered.
    accepted_beyond: bool,
    config_vector: u16,
    queue_select: u16,
    queue_count: u16,
    /// Most descriptors of any of them.
    queue_size: u16,
    queues: [Queue; MAX_QUEUES],
}

impl Common {
    /// A device after reset.
    pub(super) fn new(offered: u64, mandatory: u64, queue_count: u16, queue_size: u16) -> Self {
        Self {
            offered,
            mandatory,
            status: 0,
            resets: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            accepted: 0,
            accepted_beyond: false,
            config_vector: NO_VECTOR,
            queue_select: 0,
            queue_count,
            queue_size,
            queues: core::array::from_fn(|_| Queue::new(queue_size)),
        }
    }

    /// Before the guest starts, the host may complete what is offered.
    pub(super) fn offer(&mut self, offered: u64) {
        self.offered = offered;
    }

    pub(super) fn status(&self) -> u8 {
        self.status
    }

    pub(super) fn queue_count(&self) -> u16 {
        self.queue_count
    }

    pub(super) fn largest_queue(&self) -> u16 {
        self.queue_size
    }

    pub(super) fn resets(&self) -> u32 {
        self.resets
    }

    /// Features both sides agreed on; none before FEATURES_OK.
    pub(super) fn agreed(&self) -> u64 {
        if self.status & FEATURES_OK != 0 { self.accepted } else { 0 }
    }

    /// Has the driver finished its set-up?
    pub(super) fn driver_ok(&self) -> bool {
        self.status & DRIVER_OK != 0
    }

    /// May queues be used: set up, and neither side has given up?
    pub(super) fn is_live(&self) -> bool {
        self.status & (DRIVER_OK | NEEDS_RESET | FAILED) == DRIVER_OK
    }

    /// Marks the device as broken until the driver resets it.
    pub(super) fn break_down(&mut self) {
        self.status |= NEEDS_RESET;
    }

    pub(super) fn config_vector(&self) -> u16 {
        self.config_vector
    }

    /// The queue with this index, if the device has it.
    pub(super) fn queue(&self, index: u16) -> Option<&Queue> {
        let queue = self.queues.get(usize::from(index))?;
        (index < self.queue_count).then_some(queue)
    }

    fn queue_mut(&mut self, index: u16) -> Option<&mut Queue> {
        let queue = self.queues.get_mut(usize::from(index))?;
        (index < self.queue_count).then_some(queue)
    }

    /// Reads `size` bytes at a naturally aligned offset.
    pub(super) fn read(&self, offset: u64, size: u8, config: &mut DeviceConfig) -> u64 {
        let value = match (offset, size) {
            (DEVICE_FEATURE_SELECT, 4) => self.device_feature_select,
            (DEVICE_FEATURE, 4) => feature_word(self.offered, self.device_feature_select),
            (DRIVER_FEATURE_SELECT, 4) => self.driver_feature_select,
            (DRIVER_FEATURE, 4) => feature_word(self.accepted, self.driver_feature_select),
            (CONFIG_VECTOR, 2) => u32::from(self.config_vector),
            (NUM_QUEUES, 2) => u32::from(self.queue_count),
            (STATUS, 1) => u32::from(self.status),
            (CONFIG_GENERATION, 1) => u32::from(config.generation()),
            (QUEUE_SELECT, 2) => u32::from(self.queue_select),
            _ => return self.read_queue(offset, size),
        };
        u64::from(value)
    }

    /// A queue that does not exist has size 0 (section 4.1.4.3.1).
    fn read_queue(&self, offset: u64, size: u8) -> u64 {
        let queue = self.queue(self.queue_select);
        match (offset, size) {
            (QUEUE_SIZE, 2) => queue.map_or(0, |queue| u64::from(queue.size())),
            (QUEUE_VECTOR, 2) => u64::from(queue.map_or(NO_VECTOR, Queue::vector)),
            (QUEUE_ENABLE, 2) => u64::from(queue.is_some_and(Queue::is_enabled)),
            (QUEUE_NOTIFY_OFF, 2) => queue.map_or(0, |_| u64::from(self.queue_select)),
            (QUEUE_ADDRESSES..=QUEUE_ADDRESSES_LAST, 4 | 8) => {
                let (area, shift) = address_place(offset);
                let address = queue.map_or(0, |queue| queue.address(area)) >> shift;
                address & all_ones(size)
            }
            // No notification data of the device's, no admin queue, and a
            // queue reset is complete when the write is.
            (QUEUE_NOTIFY_DATA | QUEUE_RESET | ADMIN_QUEUE_INDEX | ADMIN_QUEUE_NUM, 2) => 0,
            _ if self.offered & feature::DMB != 0 => read_device_memory(offset, size),
            _ => all_ones(size),
        }
    }

    /// Writes `size` bytes at a naturally aligned offset. `reach` is the
    /// memory in which rings may lie now, if there is any.
    pub(super) fn write(
        &mut self,
        offset: u64,
        size: u8,
        value: u64,
        msix: &Msix,
        reach: Option<Reach>,
    ) -> Outcome {
        match (offset, size) {
            (DEVICE_FEATURE_SELECT, 4) => self.device_feature_select = value as u32,
            (DRIVER_FEATURE_SELECT, 4) => self.driver_feature_select = value as u32,
            (DRIVER_FEATURE, 4) => self.accept(value as u32),
            (CONFIG_VECTOR, 2) => self.config_vector = msix.accept(value as u16),
            (STATUS, 1) => return self.write_status(value as u8),
            (QUEUE_SELECT, 2) => self.queue_select = value as u16,
            (QUEUE_ENABLE, 2) if value == 1 => return self.enable_queue(reach),
            (QUEUE_RESET, 2) if value == 1 => return self.reset_queue(),
            _ => self.write_queue(offset, size, value, msix),
        }
        Outcome::Quiet
    }

    fn write_queue(&mut self, offset: u64, size: u8, value: u64, msix: &Msix) {
        let Some(queue) = self.queue_mut(self.queue_select) else { return };
        match (offset, size) {
            (QUEUE_SIZE, 2) => queue.set_size(value as u16),
            (QUEUE_VECTOR, 2) => queue.set_vector(msix.accept(value as u16)),
            (QUEUE_ADDRESSES..=QUEUE_ADDRESSES_LAST, 4 | 8) => {
                let (area, shift) = address_place(offset);
                queue.set_address(area, all_ones(size) << shift, value << shift);
            }
            _ => {}
        }
    }

    /// Features are fixed once both sides have agreed.
    fn accept(&mut self, word: u32) {
        if self.status & FEATURES_OK != 0 {
            return;
        }
        let word64 = u64::from(word);
        match self.driver_feature_select {
            0 => self.accepted = self.accepted & !0xffff_ffff | word64,
            1 => self.accepted = self.accepted & 0xffff_ffff | word64 << 32,
            _ => self.accepted_beyond |= word != 0,
        }
    }

    fn is_acceptable(&self) -> bool {
        self.accepted & !self.offered == 0
            && self.accepted & self.mandatory == self.mandatory
            && !self.accepted_beyond
    }

    /// The driver writes the status: 0 resets, other values only ever add
    /// bits, and only bits that are the driver's to set (section 2.1).
    ///
    /// DRIVER_OK counts only if FEATURES_OK was there before: a driver that
    /// writes both without looking whether the first was granted gets neither
    /// its queues nor its interrupts.
    fn write_status(&mut self, value: u8) -> Outcome {
        if value == 0 {
            self.reset();
            return Outcome::Reset;
        }
        let old = self.status;
        self.status |= value & (ACKNOWLEDGE | DRIVER | FAILED);
        if old & NEEDS_RESET == 0 {
            if value & FEATURES_OK != 0 && self.is_acceptable() {
                self.status |= FEATURES_OK;
            }
            if value & DRIVER_OK != 0 && old & FEATURES_OK != 0 {
                self.status |= DRIVER_OK;
            }
        }
        if self.status == old { Outcome::Quiet } else { Outcome::StatusChanged }
    }

    /// Clears all that the driver set; what the host set stays.
    fn reset(&mut self) {
        self.status = 0;
        self.resets = self.resets.wrapping_add(1);
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.accepted = 0;
        self.accepted_beyond = false;
        self.config_vector = NO_VECTOR;
        self.queue_select = 0;
        for queue in &mut self.queues {
            queue.reset();
        }
    }

    /// A queue whose rings do not lie where they must is not enabled, and the
    /// device does nothing more until it is reset. Before the features are
    /// agreed there is no contract to check against, so nothing happens.
    fn enable_queue(&mut self, reach: Option<Reach>) -> Outcome {
        if self.status & (FEATURES_OK | NEEDS_RESET) != FEATURES_OK {
            return Outcome::Quiet;
        }
        let Some(queue) = self.queue_mut(self.queue_select) else { return Outcome::Quiet };
        let enabled = queue.is_enabled() || reach.is_some_and(|reach| queue.enable(reach));
        if enabled {
            return Outcome::Quiet;
        }
        self.break_down();
        Outcome::Broken
    }

    /// Section 2.6.1: only with RING_RESET, only an enabled queue.
    fn reset_queue(&mut self) -> Outcome {
        let index = self.queue_select;
        if self.agreed() & feature::RING_RESET == 0 {
            return Outcome::Quiet;
        }
        match self.queue_mut(index) {
            Some(queue) if queue.is_enabled() => {
                queue.reset();
                Outcome::QueueReset(index)
            }
            _ => Outcome::Quiet,
        }
    }
}

/// Reads what a device memory buffer adds: which region it is, and of what.
fn read_device_memory(offset: u64, size: u8) -> u64 {
    match (offset, size) {
        (provisional::DMB_SHM_ID_AT, 2) => u64::from(provisional::DMB_SHM_ID),
        (provisional::DMB_MEMORY_TYPE_AT, 2) => u64::from(provisional::DMB_COHERENT),
        _ => all_ones(size),
    }
}

/// Word `select` of a feature set; zero beyond the second.
fn feature_word(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

/// Which address register an offset is in, and how far up its bytes are.
fn address_place(offset: u64) -> (usize, u32) {
    let inside = offset - QUEUE_ADDRESSES;
    ((inside / 8) as usize, 8 * (inside % 8) as u32)
}
