//! What memory a device may use, in the words the driver negotiates.
//!
//! The host chooses a policy when it creates a device; it never changes. The
//! policy decides which feature bits are offered and which of them a driver
//! must accept to get FEATURES_OK. It does not decide who owns a page: a page
//! the guest did not share faults for the host whatever was negotiated.

use crate::abi;
use crate::error::Error;

/// Numbers that no published version of virtio has.
///
/// Two proposals let a device bring its own memory. Neither is merged, and
/// their numbers may change; they are here and nowhere else.
///
/// - "swiotlb", later "restricted DMA" (D. Woodhouse, virtio-comment, first
///   RFC of 2 April 2025): feature bit 27 and `cfg_type` 10.
/// - "Device Memory Buffer" (A. Graf, virtio-comment of 4 August 2026,
///   `20260804161202.38619-1-graf@amazon.com`; for Linux RFC of 9 August 2026,
///   `20260809182010.32931-1-graf@amazon.com`, v2 of 18 August 2026,
///   `20260818211425.91009-1-graf@amazon.com`): feature bit 44 and two fields
///   behind those of virtio 1.4's common configuration.
pub mod provisional {
    /// Bit 27, VIRTIO_F_SWIOTLB: see [`super::feature::SWIOTLB`]. It was
    /// ANY_LAYOUT in legacy devices.
    pub const SWIOTLB: u64 = 1 << 27;
    /// `cfg_type` of the capability that names the bounce memory. Virtio 1.4
    /// assigns 8 to shared memory and 9 to vendor data.
    pub const CAP_SWIOTLB: u8 = 10;
    /// Bit 44, VIRTIO_F_DMB: see [`super::feature::DMB`]. Bits 28 to 41 are
    /// virtio 1.4's.
    pub const DMB: u64 = 1 << 44;
    /// Offset of `dmb_shm_id` in the common configuration: 16 bits, read-only,
    /// the id of the shared memory region that is the buffer.
    pub const DMB_SHM_ID_AT: u64 = 0x40;
    /// Offset of the buffer's memory type, of v2: 16 bits, read-only.
    pub const DMB_MEMORY_TYPE_AT: u64 = 0x42;
    /// Bytes of a common configuration that has both fields.
    pub const DMB_COMMON_LENGTH: u64 = 0x44;
    /// The memory type "coherent": ordinary cacheable memory on both sides,
    /// without cache maintenance. v2 demands the type by this name; its value
    /// is not published, so this one is ours: not 0, which a field that is
    /// not there may read as.
    pub const DMB_COHERENT: u16 = 1;
    /// The region's id. The proposal leaves it to the device, up to 255; no
    /// device type may define it for a region of its own, and those of virtio
    /// 1.4 count up from 0.
    pub const DMB_SHM_ID: u8 = 0x44;
}

/// `cfg_type` of a shared memory region's capability (section 4.1.4.7).
pub const CAP_SHARED_MEMORY: u8 = 8;

/// Feature bits (as masks) that the transport knows. Section 6.
pub mod feature {
    /// The device's queues and buffers lie in one shared memory region of its
    /// own, and all addresses are offsets into it, of which 0 is none.
    pub use super::provisional::DMB;
    /// The device's DMA goes through the memory of
    /// [`super::provisional::CAP_SWIOTLB`] only. A driver may believe it only
    /// together with [`VERSION_1`] and the capability.
    pub use super::provisional::SWIOTLB;
    /// Descriptors may point at a table of descriptors.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// `used_event` and `avail_event` suppress notifications.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// Not a legacy device.
    pub const VERSION_1: u64 = 1 << 32;
    /// Addresses are those the platform's DMA mechanism gives: for this
    /// platform, pages the guest has shared.
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
    /// Buffers are used in the order in which they were made available.
    pub const IN_ORDER: u64 = 1 << 35;
    /// A notification carries the ring position too.
    pub const NOTIFICATION_DATA: u64 = 1 << 38;
    /// One queue can be reset alone.
    pub const RING_RESET: u64 = 1 << 40;
    /// Block: flush requests.
    pub const BLK_FLUSH: u64 = 1 << 9;
    /// Block: `seg_max` is valid.
    pub const BLK_SEG_MAX: u64 = 1 << 2;
    /// Block: `blk_size` is valid.
    pub const BLK_SIZE: u64 = 1 << 6;
    /// Network: `mac` is valid.
    pub const NET_MAC: u64 = 1 << 5;
    /// Console: `cols` and `rows` are valid.
    pub const CONSOLE_SIZE: u64 = 1 << 0;
}

/// Offered by every device, but for ACCESS_PLATFORM by one that cannot
/// ([`Policy::LegacyNoPlatform`]). Each costs a backend nothing that serves requests
/// one after the other and always looks at the ring itself.
const ALWAYS_OFFERED: u64 = feature::INDIRECT_DESC
    | feature::EVENT_IDX
    | feature::VERSION_1
    | feature::ACCESS_PLATFORM
    | feature::IN_ORDER
    | feature::NOTIFICATION_DATA
    | feature::RING_RESET;

/// Most pages of memory that one device brings (16 MiB).
pub const MAX_BOUNCE_PAGES: u64 = 4096;
/// Most pages that are mapped for one device at once: as many mappings as VFIO
/// lets a Linux user have (`dma_entry_limit`).
pub const MAX_WINDOW_PAGES: u64 = 65_535;
/// Bounce memory comes in pieces of 64 KiB, the largest page a guest uses.
const BOUNCE_GRANULE_PAGES: u64 = 16;

/// The DMA contract of one device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// The device brings its own memory as a BAR; rings, indirect tables and
    /// buffers all live in it. It reaches no other memory.
    BounceBar,
    /// The guest shares pages with the host; rings and buffers live in those.
    SharedPages,
    /// As with [`Policy::BounceBar`] the device brings its own memory as a
    /// BAR. The driver names bytes of it by their offset, wherever it is.
    DeviceMemory,
    /// The device's addresses are translated by a table of the guest's own,
    /// in its RAM: what is not in it the device does not see. So VFIO-like
    /// drivers can have a device without having the guest.
    ShadowIommu,
    /// A device of a hypervisor that cannot offer ACCESS_PLATFORM. What it can
    /// reach is what the guest shares, as with [`Policy::SharedPages`]; but it
    /// does not say so, and a driver that goes by the bit gives it any page.
    LegacyNoPlatform,
    /// A device whose driver chooses: with ACCESS_PLATFORM its addresses are
    /// translated as with [`Policy::ShadowIommu`], without it they are
    /// physical as with [`Policy::LegacyNoPlatform`]. Whoever has the driver
    /// has the choice, and with it all pages that the guest shares: nobody
    /// should offer this, and it is here to be seen.
    GuestChoice,
}

impl Policy {
    /// The policy with this number in DEVICE_CREATE.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] for any other number.
    pub const fn from_abi(number: u64) -> Result<Self, Error> {
        match number {
            abi::POLICY_BOUNCE_BAR => Ok(Policy::BounceBar),
            abi::POLICY_SHARED_PAGES => Ok(Policy::SharedPages),
            abi::POLICY_DEVICE_MEMORY => Ok(Policy::DeviceMemory),
            abi::POLICY_LEGACY => Ok(Policy::LegacyNoPlatform),
            abi::POLICY_SHADOW_IOMMU => Ok(Policy::ShadowIommu),
            abi::POLICY_GUEST_CHOICE => Ok(Policy::GuestChoice),
            _ => Err(Error::InvalidParameter),
        }
    }

    /// Its number: the inverse of [`Self::from_abi`].
    pub const fn to_abi(self) -> u64 {
        match self {
            Policy::BounceBar => abi::POLICY_BOUNCE_BAR,
            Policy::SharedPages => abi::POLICY_SHARED_PAGES,
            Policy::DeviceMemory => abi::POLICY_DEVICE_MEMORY,
            Policy::LegacyNoPlatform => abi::POLICY_LEGACY,
            Policy::ShadowIommu => abi::POLICY_SHADOW_IOMMU,
            Policy::GuestChoice => abi::POLICY_GUEST_CHOICE,
        }
    }

    /// Features offered because of the policy.
    pub const fn offered(self) -> u64 {
        match self {
            Policy::BounceBar => ALWAYS_OFFERED | feature::SWIOTLB,
            Policy::SharedPages | Policy::ShadowIommu | Policy::GuestChoice => ALWAYS_OFFERED,
            Policy::DeviceMemory => ALWAYS_OFFERED | feature::DMB,
            Policy::LegacyNoPlatform => ALWAYS_OFFERED & !feature::ACCESS_PLATFORM,
        }
    }

    /// Features without which FEATURES_OK is refused.
    ///
    /// VERSION_1 is always among them: without it bit 27 would mean
    /// ANY_LAYOUT. So is ACCESS_PLATFORM: without it a driver may believe that
    /// the device takes any address of the guest's. Linux asks a device's own
    /// mapping operations for addresses only with it. The exceptions are
    /// the device that does not have it, [`Policy::LegacyNoPlatform`], and the
    /// one that leaves it to the driver, [`Policy::GuestChoice`].
    pub const fn mandatory(self) -> u64 {
        let base = feature::VERSION_1 | feature::ACCESS_PLATFORM;
        match self {
            Policy::BounceBar => base | feature::SWIOTLB,
            Policy::SharedPages | Policy::ShadowIommu => base,
            Policy::DeviceMemory => base | feature::DMB,
            Policy::LegacyNoPlatform | Policy::GuestChoice => feature::VERSION_1,
        }
    }

    /// Pages of memory that a device of this policy brings, if `pages` is what
    /// DEVICE_CREATE was given.
    pub(super) const fn own_pages(self, pages: u64) -> u64 {
        match self {
            Policy::BounceBar | Policy::DeviceMemory => pages,
            Policy::SharedPages
            | Policy::ShadowIommu
            | Policy::LegacyNoPlatform
            | Policy::GuestChoice => 0,
        }
    }

    /// Has a device of this policy a window, through which it sees what the
    /// guest's I/O table leads to?
    pub const fn has_window(self) -> bool {
        matches!(self, Policy::ShadowIommu | Policy::GuestChoice)
    }

    /// Checks how much memory a device of this policy is to bring, or to have.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`]: bounce-bar and device-memory need a
    /// multiple of 16 pages (64 KiB) from 16 to [`MAX_BOUNCE_PAGES`];
    /// shared-pages and legacy-no-platform have none. With a window the pages
    /// are the guest's: those that may be mapped for it at once, 1 to
    /// [`MAX_WINDOW_PAGES`].
    pub(super) const fn check_pages(self, pages: u64) -> Result<(), Error> {
        let acceptable = match self {
            Policy::BounceBar | Policy::DeviceMemory => {
                pages != 0
                    && pages <= MAX_BOUNCE_PAGES
                    && pages.is_multiple_of(BOUNCE_GRANULE_PAGES)
            }
            Policy::SharedPages | Policy::LegacyNoPlatform => pages == 0,
            Policy::ShadowIommu | Policy::GuestChoice => pages != 0 && pages <= MAX_WINDOW_PAGES,
        };
        if acceptable { Ok(()) } else { Err(Error::InvalidParameter) }
    }
}

/// A device type whose rules the transport and a plain backend can honour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct DeviceType {
    /// Number of the type (section 5).
    pub(super) id: u16,
    /// PCI class code: class, subclass, programming interface.
    pub(super) class: u32,
    /// Fewest queues that make such a device.
    pub(super) min_queues: u16,
    /// Bytes of device-specific configuration.
    pub(super) config_length: usize,
    /// Features of the type, always offered.
    pub(super) offered: u64,
    /// Features offered if the host gave their field a value before the guest
    /// started: (feature, offset of the field, bytes).
    pub(super) field_features: &'static [(u64, usize, usize)],
}

impl DeviceType {
    /// The type numbered `id`.
    ///
    /// # Errors
    /// [`Error::NotSupported`] if it is none of network (1), block (2),
    /// console (3) and entropy (4).
    pub(super) const fn new(id: u16) -> Result<Self, Error> {
        match id {
            1 => Ok(Self {
                id,
                class: 0x02_00_00,
                min_queues: 2,
                config_length: 16,
                offered: 0,
                field_features: &[(feature::NET_MAC, 0, 6)],
            }),
            2 => Ok(Self {
                id,
                class: 0x01_80_00,
                min_queues: 1,
                config_length: 64,
                offered: feature::BLK_FLUSH,
                field_features: &[(feature::BLK_SEG_MAX, 12, 4), (feature::BLK_SIZE, 20, 4)],
            }),
            3 => Ok(Self {
                id,
                class: 0x07_80_00,
                min_queues: 2,
                config_length: 16,
                offered: 0,
                field_features: &[(feature::CONSOLE_SIZE, 0, 4)],
            }),
            4 => Ok(Self {
                id,
                class: 0x00_ff_00,
                min_queues: 1,
                config_length: 0,
                offered: 0,
                field_features: &[],
            }),
            _ => Err(Error::NotSupported),
        }
    }
}
