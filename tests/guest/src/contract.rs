//! Which device the guest will talk to, and by whose rules.
//!
//! A protected guest decides from what the device shows before it gives it a
//! single address: the feature bits, and the PCI capabilities that say where
//! registers and bounce memory are. Whatever does not add up is refused; going
//! without the disk is always safe.

use hyp::virtio::{CAP_SHARED_MEMORY, provisional};

/// VIRTIO_F_SWIOTLB: the device brings its own memory and does DMA nowhere
/// else (virtio RFC of 2025; never merged, so believed only together with the
/// capability).
pub const SWIOTLB: u64 = provisional::SWIOTLB;
/// VIRTIO_F_DMB: the device brings its own memory, and addresses are offsets
/// into it (Device Memory Buffer, proposed in August 2026; believed only
/// together with the region that the common configuration names).
pub const DMB: u64 = provisional::DMB;
/// VIRTIO_F_VERSION_1 (virtio 1.4, 6).
pub const VERSION_1: u64 = 1 << 32;
/// VIRTIO_F_ACCESS_PLATFORM: the device obeys the platform's rules for DMA.
pub const ACCESS_PLATFORM: u64 = 1 << 33;

/// Why the guest goes without the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Not a modern device.
    NoVersion1,
    /// Without ACCESS_PLATFORM the device would expect plain guest memory.
    NoAccessPlatform,
    /// The device takes physical addresses, and what this guest shares is not
    /// at those.
    NotPhysical,
    /// The command line wants the bounce BAR and the device has none.
    NoBounce,
    /// The command line wants device memory and the device has none.
    NoDeviceMemory,
    /// The command line wants shared pages, and the device brings its memory or
    /// has an I/O table.
    NotShared,
    /// The command line wants an I/O table and the hypervisor has none for the
    /// device.
    NoTable,
    /// A capability is missing, or names bytes outside its BAR.
    BadCapability,
    /// The bounce region is not made of whole 64 KiB units.
    BadBounce,
    /// The device memory is no region of whole pages, of which five at least.
    BadDeviceMemory,
    /// The device did not keep FEATURES_OK.
    FeaturesRejected,
    /// What the device offers changed after the decision.
    Changed,
    /// A reset did not end.
    ResetStuck,
    /// There are no pages to share, or sharing them was refused.
    NoMemory,
    /// The device rejects its MSI-X vector.
    NoVector,
}

/// What the command line allows (`dma=`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// What the device brings, and shared pages if it brings nothing.
    Any,
    /// `bounce`.
    Bounce,
    /// `memory`.
    Memory,
    /// `shared` and `shared-each`.
    Shared,
    /// `iommu` and what begins so: through an I/O table.
    Table,
}

/// Bytes inside a BAR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// Number of the BAR.
    pub bar: u8,
    /// First byte in it.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

impl Region {
    /// Does it lie in a BAR of `size` bytes and hold at least `least`?
    pub fn fits(&self, size: u64, least: u64) -> bool {
        self.length >= least && self.offset.checked_add(self.length).is_some_and(|end| end <= size)
    }
}

/// Most shared memory regions of a function that are looked at.
const REGIONS: usize = 4;
/// Bytes of a common configuration that says which of them is device memory,
/// and where in it: the region's id and the memory's type.
pub const DMB_COMMON_LENGTH: u64 = provisional::DMB_COMMON_LENGTH;
/// See [`DMB_COMMON_LENGTH`].
pub const DMB_SHM_ID: usize = provisional::DMB_SHM_ID_AT as usize;
/// See [`DMB_COMMON_LENGTH`].
pub const DMB_MEMORY_TYPE: usize = provisional::DMB_MEMORY_TYPE_AT as usize;
/// Memory type: ordinary cacheable memory on both sides.
const COHERENT: u16 = provisional::DMB_COHERENT;

/// The capabilities of a virtio function; of each kind the first counts, but
/// for shared memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capabilities {
    /// Common configuration (cfg_type 1).
    pub common: Option<Region>,
    /// Notifications (2).
    pub notify: Option<Region>,
    /// Interrupt status (3).
    pub isr: Option<Region>,
    /// Device configuration (4).
    pub device: Option<Region>,
    /// Bounce memory (10).
    pub bounce: Option<Region>,
    /// Shared memory regions (8) with their ids.
    pub shared: [Option<(u8, Region)>; REGIONS],
    /// Configuration offset of the MSI-X capability.
    pub msix: Option<u8>,
}

/// Most capabilities a 256-byte configuration space holds; a longer list is a
/// loop.
const MOST_CAPABILITIES: usize = 48;
const CAPABILITY_VENDOR: u8 = 0x09;
const CAPABILITY_MSIX: u8 = 0x11;

/// Walks the capability list with `read`, which gives the 32-bit word at a
/// configuration offset.
pub fn scan(read: impl Fn(u8) -> u32) -> Capabilities {
    let mut found = Capabilities::default();
    if read(0x04) >> 16 & 1 << 4 == 0 {
        return found;
    }
    let mut at = read(0x34) as u8 & 0xfc;
    for _ in 0..MOST_CAPABILITIES {
        if at < 0x40 {
            break;
        }
        let header = read(at);
        match header as u8 {
            CAPABILITY_MSIX => found.msix = found.msix.or(Some(at)),
            CAPABILITY_VENDOR => found.note(header, at, &read),
            _ => {}
        }
        at = (header >> 8) as u8 & 0xfc;
    }
    found
}

impl Capabilities {
    fn note(&mut self, header: u32, at: u8, read: &impl Fn(u8) -> u32) {
        let (length, kind) = ((header >> 16) as u8, (header >> 24) as u8);
        if length < 16 || u16::from(at) + u16::from(length) > 256 {
            return;
        }
        // A virtio_pci_cap64 has the upper halves behind it.
        let high = |offset| if length >= 24 { u64::from(read(at + offset)) << 32 } else { 0 };
        let wide = matches!(kind, CAP_SHARED_MEMORY | provisional::CAP_SWIOTLB);
        let region = Region {
            bar: read(at + 4) as u8,
            offset: u64::from(read(at + 8)) | if wide { high(16) } else { 0 },
            length: u64::from(read(at + 12)) | if wide { high(20) } else { 0 },
        };
        if kind == CAP_SHARED_MEMORY {
            let id = (read(at + 4) >> 8) as u8;
            if let Some(place) = self.shared.iter_mut().find(|place| place.is_none()) {
                *place = Some((id, region));
            }
            return;
        }
        let slot = match kind {
            1 => &mut self.common,
            2 => &mut self.notify,
            3 => &mut self.isr,
            4 => &mut self.device,
            provisional::CAP_SWIOTLB => &mut self.bounce,
            _ => return,
        };
        *slot = slot.or(Some(region));
    }

    /// The region that is device memory, if the common configuration names
    /// one that is there, and of memory that needs no care.
    pub fn device_memory(&self, id: u16, memory_type: u16) -> Option<Region> {
        let named = |place: &&(u8, Region)| u16::from(place.0) == id;
        let region = self.shared.iter().flatten().find(named).map(|(_, region)| *region);
        region.filter(|_| memory_type == COHERENT)
    }

    /// Is something that is memory, not registers, in this BAR?
    pub fn is_memory(&self, bar: u8) -> bool {
        let shared = self.shared.iter().flatten().map(|(_, region)| *region);
        self.bounce.into_iter().chain(shared).any(|region| region.bar == bar)
    }

    /// Checks every region against the size of its BAR, which `bar_size`
    /// gives.
    ///
    /// # Errors
    /// [`Refusal::BadCapability`], [`Refusal::BadBounce`] or
    /// [`Refusal::BadDeviceMemory`].
    pub fn check(&self, bar_size: impl Fn(u8) -> Option<u64>) -> Result<(), Refusal> {
        let fits = |region: Region, least| {
            bar_size(region.bar).is_some_and(|size| region.fits(size, least))
        };
        // virtio 1.4, 4.1.4.3 (common config up to queue_reset) and following.
        for (region, least) in [(self.common, 64), (self.notify, 2), (self.isr, 1)] {
            if !region.is_some_and(|region| fits(region, least)) {
                return Err(Refusal::BadCapability);
            }
        }
        if self.device.is_some_and(|region| !fits(region, 1)) {
            return Err(Refusal::BadCapability);
        }
        // One page is left alone, and with fewer than four nothing works.
        let page = 1 << 12;
        for (_, region) in self.shared.iter().flatten() {
            if !fits(*region, 5 * page)
                || !region.offset.is_multiple_of(page)
                || !region.length.is_multiple_of(page)
            {
                return Err(Refusal::BadDeviceMemory);
            }
        }
        let unit = 1 << 16;
        match self.bounce {
            Some(region)
                if !fits(region, unit)
                    || !region.offset.is_multiple_of(unit)
                    || !region.length.is_multiple_of(unit) =>
            {
                Err(Refusal::BadBounce)
            }
            _ => Ok(()),
        }
    }
}

/// How the device gets at data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dma {
    /// Only in its own bounce memory.
    Bounce(Region),
    /// Only in pages the guest shares.
    SharedPages,
    /// Only in its own memory, named by offsets.
    Memory(Region),
    /// Only in pages that the guest's I/O table maps for it.
    Table,
    /// Anywhere, as far as the device says; so the guest lets it have only
    /// what it shares.
    ForcedBounce,
    /// Wherever the driver's buffers are.
    Direct,
}

/// What the guest will hold the device to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Contract {
    /// Where data goes.
    pub dma: Dma,
    /// Features the device offered when this was decided.
    pub offered: u64,
    /// Features that must be accepted, whatever the driver asks for.
    pub mandatory: u64,
}

/// Decides from the features `offered`, and from the memory the device brings:
/// by the bounce capability, or as the region that is said to be its `memory`.
///
/// # Errors
/// Why the guest goes without the device.
pub fn decide(
    offered: u64,
    bounce: Option<Region>,
    memory: Option<Region>,
    wanted: Wanted,
) -> Result<Contract, Refusal> {
    if offered & VERSION_1 == 0 {
        return Err(Refusal::NoVersion1);
    }
    if offered & ACCESS_PLATFORM == 0 {
        return Err(Refusal::NoAccessPlatform);
    }
    // Bit 27 alone may be a legacy ANY_LAYOUT, the capability alone some other
    // device's idea.
    let bounce = bounce.filter(|_| offered & SWIOTLB != 0);
    // The same holds of bit 44 and a region.
    let memory = memory.filter(|_| offered & DMB != 0);
    let contract =
        |dma, bits| Ok(Contract { dma, offered, mandatory: VERSION_1 | ACCESS_PLATFORM | bits });
    match (bounce, memory, wanted) {
        (Some(region), _, Wanted::Any | Wanted::Bounce) => contract(Dma::Bounce(region), SWIOTLB),
        (None, _, Wanted::Bounce) => Err(Refusal::NoBounce),
        (_, Some(region), Wanted::Any | Wanted::Memory) => contract(Dma::Memory(region), DMB),
        (_, None, Wanted::Memory) => Err(Refusal::NoDeviceMemory),
        (None, None, Wanted::Any | Wanted::Shared | Wanted::Table) => contract(Dma::SharedPages, 0),
        (_, _, Wanted::Shared) => Err(Refusal::NotShared),
        (_, _, Wanted::Table) => Err(Refusal::NoTable),
    }
}

/// What a guest knows of itself, and not from the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Platform {
    /// Is its memory out of its host's reach? It has asked the hypervisor that
    /// keeps it so.
    pub secure: bool,
    /// Is the address at which a device finds a shared page its physical one?
    /// Not where sharing moves the page to an alias.
    pub dma_is_physical: bool,
}

impl Platform {
    /// What becomes of a device that lacks ACCESS_PLATFORM, and so takes
    /// physical addresses of any memory: the rule proposed for POWER's secure
    /// guests ("Use DMA API if guest memory is encrypted", 2019). A guest that
    /// is secure, and whose shared pages have physical addresses, has all its
    /// data go through a pool that it shared; one that is not secure has
    /// nothing to lose.
    ///
    /// # Errors
    /// [`Refusal::NotPhysical`].
    const fn without_access_platform(self) -> Result<Dma, Refusal> {
        match (self.secure, self.dma_is_physical) {
            (false, _) => Ok(Dma::Direct),
            (true, true) => Ok(Dma::ForcedBounce),
            (true, false) => Err(Refusal::NotPhysical),
        }
    }
}

/// [`decide`], and for a plain device without ACCESS_PLATFORM what `platform`
/// makes of that.
///
/// # Errors
/// Why the guest goes without the device.
pub fn decide_on(
    platform: Platform,
    offered: u64,
    bounce: Option<Region>,
    memory: Option<Region>,
    wanted: Wanted,
) -> Result<Contract, Refusal> {
    // One that brings its memory says where data goes, and must say all of it.
    let plain = offered & (SWIOTLB | DMB) == 0;
    let any = matches!(wanted, Wanted::Any | Wanted::Shared);
    if plain && any && offered & VERSION_1 != 0 && offered & ACCESS_PLATFORM == 0 {
        let dma = platform.without_access_platform()?;
        return Ok(Contract { dma, offered, mandatory: VERSION_1 });
    }
    decide(offered, bounce, memory, wanted)
}

impl Contract {
    /// The same, after the hypervisor was asked whether it has a `table` for
    /// this device. Nothing that the device shows says so: whom the table
    /// restricts is not the one to be asked.
    ///
    /// # Errors
    /// Why the guest goes without the device.
    pub fn with_table(self, table: bool, wanted: Wanted) -> Result<Self, Refusal> {
        match (self.dma, table, wanted) {
            (Dma::SharedPages, true, Wanted::Shared) => Err(Refusal::NotShared),
            (Dma::SharedPages, true, _) => Ok(Self { dma: Dma::Table, ..self }),
            (_, false, Wanted::Table) => Err(Refusal::NoTable),
            _ => Ok(self),
        }
    }

    /// What to write as driver features when the driver asks for `wanted`:
    /// its own choice of what the device offers, and what is mandatory.
    /// A driver never gets SWIOTLB or DMB by asking.
    pub fn accept(&self, wanted: u64) -> u64 {
        (wanted & self.offered & !(SWIOTLB | DMB)) | self.mandatory
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const GOOD: u64 = VERSION_1 | ACCESS_PLATFORM;
    const BOUNCE: Region = Region { bar: 4, offset: 0, length: 1 << 18 };
    const MEMORY: Region = Region { bar: 4, offset: 0x1000, length: 5 << 12 };

    /// Configuration space with these vendor capabilities: (kind, bar, offset,
    /// length), and MSI-X last.
    fn space(capabilities: &[(u8, u32, u32, u32)]) -> Vec<u32> {
        let mut words = alloc::vec![0u32; 64];
        words[1] = 1 << 20;
        words[0x34 / 4] = 0x40;
        let mut at = 0x40;
        for (kind, bar, offset, length) in capabilities {
            let next = at + 16;
            words[at / 4] = 0x09 | (next as u32) << 8 | 16 << 16 | u32::from(*kind) << 24;
            words[at / 4 + 1..at / 4 + 4].copy_from_slice(&[*bar, *offset, *length]);
            at = next;
        }
        words[at / 4] = 0x11;
        words
    }

    fn scanned(words: &[u32]) -> Capabilities {
        scan(|offset| words[usize::from(offset) / 4])
    }

    const REGISTERS: [(u8, u32, u32, u32); 3] =
        [(1, 0, 0, 64), (2, 0, 0x1000, 4), (3, 0, 0x2000, 1)];

    #[test]
    fn bit_and_capability_together_make_a_bounce_device() {
        let contract = decide(GOOD | SWIOTLB, Some(BOUNCE), None, Wanted::Any).unwrap();
        assert_eq!(contract.dma, Dma::Bounce(BOUNCE));
        assert_eq!(contract.mandatory & SWIOTLB, SWIOTLB);
    }

    #[test]
    fn one_without_the_other_is_not_believed() {
        for (offered, bounce) in [(GOOD | SWIOTLB, None), (GOOD, Some(BOUNCE))] {
            assert_eq!(decide(offered, bounce, None, Wanted::Bounce), Err(Refusal::NoBounce));
            let contract = decide(offered, bounce, None, Wanted::Any).unwrap();
            assert_eq!(contract.dma, Dma::SharedPages);
            assert_eq!(contract.accept(!0) & SWIOTLB, 0);
        }
        for (offered, memory) in [(GOOD | DMB, None), (GOOD, Some(MEMORY))] {
            assert_eq!(decide(offered, None, memory, Wanted::Memory), Err(Refusal::NoDeviceMemory));
            let contract = decide(offered, None, memory, Wanted::Any).unwrap();
            assert_eq!(contract.dma, Dma::SharedPages);
            assert_eq!(contract.accept(!0) & DMB, 0);
        }
    }

    #[test]
    fn bit_and_region_together_make_device_memory() {
        for wanted in [Wanted::Any, Wanted::Memory] {
            let contract = decide(GOOD | DMB, None, Some(MEMORY), wanted).unwrap();
            assert_eq!(contract.dma, Dma::Memory(MEMORY));
            assert_eq!(contract.mandatory, GOOD | DMB);
        }
        let bounce = decide(GOOD | DMB, None, Some(MEMORY), Wanted::Bounce);
        assert_eq!(bounce, Err(Refusal::NoBounce));
    }

    #[test]
    fn device_memory_is_the_region_that_is_named_and_of_no_other_kind() {
        let mut all = REGISTERS.to_vec();
        all.extend([(8, 4, 0, 1 << 18), (8, 4 | 7 << 8, 0x1000, 5 << 12)]);
        let found = scanned(&space(&all));
        assert_eq!(found.device_memory(7, COHERENT), Some(MEMORY));
        assert_eq!(found.device_memory(0, COHERENT), Some(BOUNCE));
        for (id, memory_type) in [(8, COHERENT), (0x107, COHERENT), (7, 0), (7, 2), (7, 0xffff)] {
            assert_eq!(found.device_memory(id, memory_type), None);
        }
        assert!(found.is_memory(4) && !found.is_memory(0));
    }

    #[test]
    fn a_device_without_access_platform_is_refused_even_if_it_bounces() {
        assert_eq!(
            decide(VERSION_1 | SWIOTLB, Some(BOUNCE), None, Wanted::Any),
            Err(Refusal::NoAccessPlatform)
        );
        assert_eq!(
            decide(VERSION_1 | DMB, None, Some(MEMORY), Wanted::Any),
            Err(Refusal::NoAccessPlatform)
        );
        assert_eq!(decide(ACCESS_PLATFORM, None, None, Wanted::Any), Err(Refusal::NoVersion1));
    }

    const SECURE: Platform = Platform { secure: true, dma_is_physical: true };
    const REALM: Platform = Platform { secure: true, dma_is_physical: false };
    const OPEN: Platform = Platform { secure: false, dma_is_physical: true };

    /// Each of the three conditions alone changes the answer.
    #[test]
    fn a_device_that_does_not_say_is_given_what_the_guest_shares_and_nothing_else() {
        let dma = |platform, offered| {
            decide_on(platform, offered, None, None, Wanted::Any).map(|contract| contract.dma)
        };
        assert_eq!(dma(SECURE, VERSION_1), Ok(Dma::ForcedBounce));
        assert_eq!(dma(OPEN, VERSION_1), Ok(Dma::Direct));
        assert_eq!(dma(Platform { secure: false, ..REALM }, VERSION_1), Ok(Dma::Direct));
        assert_eq!(dma(REALM, VERSION_1), Err(Refusal::NotPhysical));
        for platform in [SECURE, REALM, OPEN] {
            assert_eq!(dma(platform, GOOD), Ok(Dma::SharedPages));
            assert_eq!(dma(platform, 0), Err(Refusal::NoVersion1));
            // A device that brings its memory, and should know better.
            for bit in [SWIOTLB, DMB] {
                assert_eq!(dma(platform, VERSION_1 | bit), Err(Refusal::NoAccessPlatform));
            }
            let bounce = decide_on(platform, VERSION_1, Some(BOUNCE), None, Wanted::Bounce);
            assert_eq!(bounce, Err(Refusal::NoAccessPlatform));
        }
    }

    #[test]
    fn a_bit_that_the_device_lacks_is_not_accepted() {
        let contract = decide_on(SECURE, VERSION_1 | 1 << 28, None, None, Wanted::Shared).unwrap();
        assert_eq!(contract.accept(!0), VERSION_1 | 1 << 28);
        assert_eq!(contract.mandatory & ACCESS_PLATFORM, 0);
    }

    #[test]
    fn the_command_line_can_only_narrow() {
        let shared = |bit, bounce, memory| decide(GOOD | bit, bounce, memory, Wanted::Shared);
        assert_eq!(shared(SWIOTLB, Some(BOUNCE), None), Err(Refusal::NotShared));
        assert_eq!(shared(DMB, None, Some(MEMORY)), Err(Refusal::NotShared));
    }

    #[test]
    fn an_i_o_table_is_the_hypervisors_word_and_not_the_devices() {
        let plain = |wanted| decide(GOOD, None, None, wanted).unwrap();
        for wanted in [Wanted::Any, Wanted::Table] {
            let contract = plain(wanted).with_table(true, wanted).unwrap();
            assert_eq!((contract.dma, contract.mandatory), (Dma::Table, GOOD));
        }
        let without = plain(Wanted::Any).with_table(false, Wanted::Any).unwrap();
        assert_eq!(without.dma, Dma::SharedPages);
        let refused = plain(Wanted::Table).with_table(false, Wanted::Table);
        assert_eq!(refused, Err(Refusal::NoTable));
        let refused = plain(Wanted::Shared).with_table(true, Wanted::Shared);
        assert_eq!(refused, Err(Refusal::NotShared));
        let bounce = decide(GOOD | SWIOTLB, Some(BOUNCE), None, Wanted::Table);
        assert_eq!(bounce, Err(Refusal::NoTable));
        let bounce = decide(GOOD | SWIOTLB, Some(BOUNCE), None, Wanted::Any).unwrap();
        assert_eq!(bounce.with_table(true, Wanted::Any).unwrap().dma, Dma::Bounce(BOUNCE));
    }

    #[test]
    fn a_driver_gets_what_it_asks_for_of_what_is_offered_and_the_mandatory_bits() {
        let contract = decide(GOOD | 1 << 28, None, None, Wanted::Any).unwrap();
        assert_eq!(contract.accept(1 << 28 | 1 << 29 | VERSION_1), GOOD | 1 << 28);
    }

    #[test]
    fn the_first_capability_of_a_kind_counts() {
        let mut all = REGISTERS.to_vec();
        all.extend([(10, 4, 0, 1 << 18), (10, 5, 0, 1 << 20)]);
        let found = scanned(&space(&all));
        assert_eq!(found.bounce, Some(BOUNCE));
        assert!(found.msix.is_some());
    }

    #[test]
    fn a_capability_list_that_loops_ends() {
        let mut words = space(&REGISTERS);
        words[0x60 / 4] = words[0x60 / 4] & !0xff00 | 0x4000;
        assert_eq!(scanned(&words).msix, None);
    }

    #[test]
    fn regions_outside_their_bar_are_refused() {
        let sizes = |bar| match bar {
            0 => Some(0x4000),
            4 => Some(1 << 18),
            _ => None,
        };
        let checked = |changed: (u8, u32, u32, u32)| {
            let mut all = REGISTERS.to_vec();
            all.retain(|capability| capability.0 != changed.0);
            all.push(changed);
            scanned(&space(&all)).check(sizes)
        };
        assert_eq!(checked((10, 4, 0, 1 << 18)), Ok(()));
        assert_eq!(checked((10, 4, 0x1_0000, 1 << 18)), Err(Refusal::BadBounce));
        assert_eq!(checked((10, 4, 0x1000, 0x1_0000)), Err(Refusal::BadBounce));
        assert_eq!(checked((10, 3, 0, 0x1_0000)), Err(Refusal::BadBounce));
        assert_eq!(checked((8, 4, 0x1000, 5 << 12)), Ok(()));
        for (offset, length) in [(0x1000, 1 << 18), (0x1000, 4 << 12), (0x800, 5 << 12)] {
            assert_eq!(checked((8, 4, offset, length)), Err(Refusal::BadDeviceMemory));
        }
        assert_eq!(checked((1, 0, 0, 32)), Err(Refusal::BadCapability));
        // The sum of these wraps in 32 bits.
        assert_eq!(checked((1, 0, 0xffff_ff00, 0x200)), Err(Refusal::BadCapability));
        assert_eq!(checked((4, 2, 0, 64)), Err(Refusal::BadCapability));
        assert_eq!(scanned(&space(&REGISTERS[..2])).check(sizes), Err(Refusal::BadCapability));
    }
}
