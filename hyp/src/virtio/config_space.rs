//! PCI configuration space of one function: a type 0 header and a chain of
//! capabilities (PCI 3.0 chapter 6, virtio section 4.1.4).
//!
//! The space is an image of 64 words and a rule which bits of each the guest
//! may write. BAR sizing needs no code of its own: address bits below a BAR's
//! size are simply not writable, so all ones read back as the size mask.

use super::msix::MAX_VECTORS;
use super::policy::{CAP_SHARED_MEMORY, DeviceType, Policy, provisional};
use super::queue::MAX_QUEUES;
use crate::addr::{FRAME_SHIFT, FRAME_SIZE, GfnRange};
use crate::layout;

/// The BAR of every register structure: 32-bit memory.
pub const REGISTER_BAR: u8 = 0;
/// The BAR of the bounce memory (and the next): 64-bit prefetchable memory.
pub const BOUNCE_BAR: u8 = 2;
/// Bytes of the register BAR.
pub const REGISTER_BAR_SIZE: u64 = 0x4000;

/// Where the structures are in the register BAR: offset and length. The
/// notifications, the MSI-X table and its pending bits have pages of their
/// own, so that a driver may map each separately.
pub(super) mod structure {
    use super::{MAX_QUEUES, MAX_VECTORS};

    /// With what a device memory buffer adds; see [`super::common_length`].
    pub(crate) const COMMON: (u64, u64) = (0x0000, super::provisional::DMB_COMMON_LENGTH);
    pub(crate) const ISR: (u64, u64) = (0x0400, 4);
    pub(crate) const DEVICE: (u64, u64) = (0x0800, 64);
    pub(crate) const NOTIFY: (u64, u64) =
        (0x1000, MAX_QUEUES as u64 * super::NOTIFY_MULTIPLIER as u64);
    pub(crate) const MSIX_TABLE: (u64, u64) = (0x2000, MAX_VECTORS as u64 * 16);
    pub(crate) const MSIX_PENDING: (u64, u64) = (0x3000, 8);
}

/// Length of the common configuration as its capability tells it. 64 includes
/// the fields of RING_RESET and of admin queues.
const fn common_length(policy: Policy) -> u64 {
    match policy {
        Policy::BounceBar
        | Policy::SharedPages
        | Policy::ShadowIommu
        | Policy::LegacyNoPlatform
        | Policy::GuestChoice => 64,
        Policy::DeviceMemory => provisional::DMB_COMMON_LENGTH,
    }
}

/// Bytes between the notification registers of two queues: room for the
/// 32-bit write of NOTIFICATION_DATA.
pub(super) const NOTIFY_MULTIPLIER: u32 = 4;

const WORDS: usize = 64;
/// Bytes of the space; what follows in the 4 KiB of ECAM reads zero.
pub(super) const SIZE: u64 = WORDS as u64 * 4;

/// Index of the word at a byte offset.
const fn word_at(offset: u8) -> usize {
    offset as usize / 4
}

// Header words.
const ID: usize = word_at(0x00);
const COMMAND: usize = word_at(0x04);
const CLASS: usize = word_at(0x08);
const BAR0: usize = word_at(0x10);
const BAR2: usize = word_at(0x18);
const BAR3: usize = word_at(0x1c);
const SUBSYSTEM: usize = word_at(0x2c);
const CAPABILITIES: usize = word_at(0x34);
const INTERRUPT: usize = word_at(0x3c);

// Bits of the command and status word.
const MEMORY_ENABLE: u32 = 1 << 1;
const BUS_MASTER: u32 = 1 << 2;
const INTX_DISABLE: u32 = 1 << 10;
const INTERRUPT_STATUS: u32 = 1 << 19;
const CAPABILITY_LIST: u32 = 1 << 20;

/// BAR type bits: 64-bit, prefetchable.
const BAR_PREFETCHABLE_64: u32 = 0b1100;

// Places of the capabilities.
const CAP_COMMON: u8 = 0x40;
const CAP_NOTIFY: u8 = 0x50;
const CAP_ISR: u8 = 0x64;
const CAP_DEVICE: u8 = 0x74;
const CAP_PCI_CFG: u8 = 0x84;
const CAP_BOUNCE: u8 = 0x98;
const CAP_MSIX: u8 = 0xb0;
const PCI_CFG: usize = word_at(CAP_PCI_CFG);
const MSIX: usize = word_at(CAP_MSIX);

const VENDOR_SPECIFIC: u8 = 0x09;
const MSIX_ID: u32 = 0x11;
const MSIX_ENABLE: u32 = 1 << 31;
const MSIX_FUNCTION_MASK: u32 = 1 << 30;

const VIRTIO_VENDOR: u32 = 0x1af4;
const MODERN_DEVICE: u32 = 0x1040;
/// Any revision above 0 says: not transitional (section 4.1.2.1).
const REVISION: u32 = 1;
/// Interrupt pin INTA.
const PIN_INTA: u32 = 1 << 8;

/// Configuration space of one function.
pub(super) struct ConfigSpace {
    image: [u32; WORDS],
    /// Bytes of the bounce BAR, a power of two; 0 without one.
    bounce_bar_size: u64,
    /// Pages of it that are memory.
    bounce_pages: u64,
}

impl ConfigSpace {
    /// The space of a device after reset: BARs at zero, decode off.
    ///
    /// PCI wants a BAR to be a power of two large; the capability gives the
    /// exact length, and what lies between the two is nobody's.
    pub(super) fn new(
        device_type: &DeviceType,
        policy: Policy,
        queues: u16,
        bounce_pages: u64,
    ) -> Self {
        let bounce_bar_size = match bounce_pages {
            0 => 0,
            pages => pages.next_power_of_two() * FRAME_SIZE,
        };
        let mut space = Self { image: [0; WORDS], bounce_bar_size, bounce_pages };
        let device_id = MODERN_DEVICE + u32::from(device_type.id);
        space.set(ID, device_id << 16 | VIRTIO_VENDOR);
        space.set(COMMAND, CAPABILITY_LIST);
        space.set(CLASS, device_type.class << 8 | REVISION);
        space.set(SUBSYSTEM, device_id << 16 | VIRTIO_VENDOR);
        space.set(INTERRUPT, PIN_INTA);
        if bounce_bar_size != 0 {
            space.set(BAR2, BAR_PREFETCHABLE_64);
        }
        space.add_capabilities(device_type, policy, queues);
        space
    }

    /// The chain is written back to front, so that each member knows the next.
    fn add_capabilities(&mut self, device_type: &DeviceType, policy: Policy, queues: u16) {
        let msix = [
            u32::from(queues) << 16 | MSIX_ID, // queues + 1 vectors, encoded minus one
            structure::MSIX_TABLE.0 as u32 | u32::from(REGISTER_BAR),
            structure::MSIX_PENDING.0 as u32 | u32::from(REGISTER_BAR),
        ];
        for (index, word) in msix.into_iter().enumerate() {
            self.set(MSIX + index, word);
        }
        let mut next = CAP_MSIX;
        let memory = (0, self.bounce_pages * FRAME_SIZE);
        match policy {
            Policy::BounceBar => {
                let kind = provisional::CAP_SWIOTLB;
                next = self.virtio_cap(CAP_BOUNCE, next, kind, BOUNCE_BAR, memory, &[]);
            }
            Policy::DeviceMemory => {
                // A virtio_pci_cap64: the upper halves of offset and length.
                let kind = CAP_SHARED_MEMORY;
                next = self.virtio_cap(CAP_BOUNCE, next, kind, BOUNCE_BAR, memory, &[0, 0]);
                let id = u32::from(provisional::DMB_SHM_ID) << 8;
                self.set(word_at(CAP_BOUNCE) + 1, u32::from(BOUNCE_BAR) | id);
            }
            Policy::SharedPages
            | Policy::ShadowIommu
            | Policy::LegacyNoPlatform
            | Policy::GuestChoice => {}
        }
        next = self.virtio_cap(CAP_PCI_CFG, next, 5, 0, (0, 0), &[0]);
        if device_type.config_length != 0 {
            let place = (structure::DEVICE.0, device_type.config_length as u64);
            next = self.virtio_cap(CAP_DEVICE, next, 4, REGISTER_BAR, place, &[]);
        }
        next = self.virtio_cap(CAP_ISR, next, 3, REGISTER_BAR, structure::ISR, &[]);
        let notify = (structure::NOTIFY.0, u64::from(queues) * u64::from(NOTIFY_MULTIPLIER));
        next = self.virtio_cap(CAP_NOTIFY, next, 2, REGISTER_BAR, notify, &[NOTIFY_MULTIPLIER]);
        let common = (structure::COMMON.0, common_length(policy));
        next = self.virtio_cap(CAP_COMMON, next, 1, REGISTER_BAR, common, &[]);
        self.set(CAPABILITIES, u32::from(next));
    }

    /// Writes a `virtio_pci_cap` and what follows it; returns its place.
    fn virtio_cap(
        &mut self,
        place: u8,
        next: u8,
        cfg_type: u8,
        bar: u8,
        (offset, length): (u64, u64),
        extra: &[u32],
    ) -> u8 {
        let cap_length = 16 + 4 * extra.len() as u8;
        let head = u32::from_le_bytes([VENDOR_SPECIFIC, next, cap_length, cfg_type]);
        let words = [head, u32::from(bar), offset as u32, length as u32];
        for (index, word) in words.into_iter().chain(extra.iter().copied()).enumerate() {
            self.set(word_at(place) + index, word);
        }
        place
    }

    fn word(&self, index: usize) -> u32 {
        self.image.get(index).copied().unwrap_or(0)
    }

    fn set(&mut self, index: usize, value: u32) {
        if let Some(word) = self.image.get_mut(index) {
            *word = value;
        }
    }

    /// Which bits of a word the guest may write.
    fn writable(&self, index: usize) -> u32 {
        let bounce_address = match self.bounce_bar_size {
            0 => 0,
            size => !(size - 1),
        };
        match index {
            COMMAND => MEMORY_ENABLE | BUS_MASTER | INTX_DISABLE,
            BAR0 => !(REGISTER_BAR_SIZE as u32 - 1),
            BAR2 => bounce_address as u32,
            BAR3 => (bounce_address >> 32) as u32,
            INTERRUPT => 0xff, // the line: a scratch byte of the guest's
            MSIX => MSIX_ENABLE | MSIX_FUNCTION_MASK,
            _ if index == PCI_CFG + 1 => 0xff,
            _ if index == PCI_CFG + 2 || index == PCI_CFG + 3 => u32::MAX,
            _ => 0,
        }
    }

    /// Reads `size` (1, 2 or 4) bytes at an aligned offset. `interrupt` is the
    /// state of the status register's interrupt bit.
    pub(super) fn read(&self, offset: u64, size: u8, interrupt: bool) -> u64 {
        let index = (offset / 4) as usize;
        let mut word = self.word(index);
        if index == COMMAND && interrupt {
            word |= INTERRUPT_STATUS;
        }
        lanes(word, offset, size)
    }

    /// Writes `size` (1, 2 or 4) bytes at an aligned offset.
    pub(super) fn write(&mut self, offset: u64, size: u8, value: u64) {
        let index = (offset / 4) as usize;
        let shift = 8 * (offset % 4) as u32;
        let bytes = (super::all_ones(size) as u32).wrapping_shl(shift);
        let writable = self.writable(index) & bytes;
        let new = (value as u32).wrapping_shl(shift);
        self.set(index, self.word(index) & !writable | new & writable);
    }

    /// Place of `pci_cfg_data` in the space.
    pub(super) const fn pci_cfg_data() -> u64 {
        CAP_PCI_CFG as u64 + 16
    }

    /// What the guest wrote to the PCI_CFG capability: bar, offset, length.
    pub(super) fn pci_cfg_target(&self) -> (u8, u32, u32) {
        (self.word(PCI_CFG + 1) as u8, self.word(PCI_CFG + 2), self.word(PCI_CFG + 3))
    }

    /// Is MSI-X on (and INTx therefore off)?
    pub(super) fn msix_enabled(&self) -> bool {
        self.word(MSIX) & MSIX_ENABLE != 0
    }

    /// May the function access memory by itself (PCI 3.0 section 6.2.2)?
    pub(super) fn is_master(&self) -> bool {
        self.word(COMMAND) & BUS_MASTER != 0
    }

    /// May a message be sent now? A message is a write of the function's, so
    /// it also needs bus mastering (PCI 3.0 section 6.8.3).
    pub(super) fn can_send(&self) -> bool {
        let word = self.word(MSIX);
        word & MSIX_ENABLE != 0 && word & MSIX_FUNCTION_MASK == 0 && self.is_master()
    }

    /// May the function drive its interrupt line?
    pub(super) fn intx_allowed(&self) -> bool {
        !self.msix_enabled() && self.word(COMMAND) & INTX_DISABLE == 0
    }

    /// Where the register BAR is, if it is decoded.
    pub(super) fn register_bar(&self) -> Option<u64> {
        let base = u64::from(self.word(BAR0) & self.writable(BAR0));
        self.decoded(base, REGISTER_BAR_SIZE)
    }

    /// Where the bounce memory is, if it is decoded.
    pub(super) fn bounce_window(&self) -> Option<GfnRange> {
        if self.bounce_bar_size == 0 {
            return None;
        }
        let low = u64::from(self.word(BAR2) & self.writable(BAR2));
        let base = u64::from(self.word(BAR3)) << 32 | low;
        let base = self.decoded(base, self.bounce_bar_size)?;
        GfnRange::new(base >> FRAME_SHIFT, self.bounce_pages).ok()
    }

    /// The bridge forwards only its two windows: a BAR that the guest puts
    /// anywhere else (over its RAM, its interrupt controller) is not there.
    fn decoded(&self, base: u64, size: u64) -> Option<u64> {
        let end = base.checked_add(size)?;
        let within = |start: u64, length: u64| base >= start && end <= start + length;
        let forwarded = within(layout::PCI_MEM32, layout::PCI_MEM32_SIZE)
            || within(layout::PCI_MEM64, layout::PCI_MEM64_SIZE);
        (forwarded && self.word(COMMAND) & MEMORY_ENABLE != 0).then_some(base)
    }
}

/// The bytes of `word` that an aligned access of `size` at `offset` reads.
pub(super) fn lanes(word: u32, offset: u64, size: u8) -> u64 {
    u64::from(word.wrapping_shr(8 * (offset % 4) as u32)) & super::all_ones(size)
}
