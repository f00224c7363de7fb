//! Opening a virtio function: decide, then hand it to a driver.

#![allow(unsafe_code)]

use super::checked_transport::{CheckedTransport, Verdict};
use super::pci::{self, Bus, Function, Msi};
use super::{Machine, bounce_hal, iommu_hal, pkvm, share_hal};
use bounce_hal::Names;
use core::ptr::NonNull;
use guest::contract::{self, Contract, Dma, Platform, Refusal, Wanted};
use guest::lending::PAGE;
use rt::mmio;
use virtio_drivers::transport::Transport;
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

/// Pages set aside for one device that works in the guest's own, unless
/// `pages=` says how many; and those of them that are not for buffers.
const PAGES: usize = 96;
const RESERVE: usize = 32;

/// A device the guest agreed to talk to.
pub(crate) struct Opened {
    pub(crate) transport: CheckedTransport,
    pub(crate) verdict: Verdict,
    pub(crate) contract: Contract,
    /// Interrupt id of its queues, if it has MSI-X.
    pub(crate) intid: Option<u32>,
}

impl Opened {
    /// How the harness calls the way data goes.
    pub(crate) fn dma(&self) -> &'static str {
        match self.contract.dma {
            Dma::Bounce(_) => "bounce",
            Dma::SharedPages => "shared",
            Dma::Memory(_) => "memory",
            Dma::Table => "iommu",
            Dma::ForcedBounce => "forced-bounce",
            Dma::Direct => "direct",
        }
    }
}

/// Decides about `function` and sets up device `index`'s DMA memory.
///
/// # Errors
/// Why the guest goes without it.
pub(crate) fn open(
    machine: &Machine,
    bus: &mut Bus,
    msi: Option<&mut Msi>,
    function: &Function,
    index: usize,
) -> Result<Opened, Refusal> {
    // A hypervisor has answered, or the guest would not be here. Only pKVM's
    // shared pages stay where they are.
    let platform = Platform { secure: true, dma_is_physical: !machine.protection.realm };
    open_on(platform, machine, bus, msi, function, index)
}

/// The same for a guest that says otherwise of itself.
///
/// # Errors
/// Why the guest goes without it.
pub(crate) fn open_on(
    platform: Platform,
    machine: &Machine,
    bus: &mut Bus,
    msi: Option<&mut Msi>,
    function: &Function,
    index: usize,
) -> Result<Opened, Refusal> {
    let capabilities = &function.capabilities;
    capabilities.check(|bar| function.bar_size(bar))?;
    let mut inner = PciTransport::new::<Registers, _>(&mut bus.root, function.at)
        .map_err(|_| Refusal::BadCapability)?;
    let word = machine.argument("dma");
    let wanted = match word {
        Some("bounce") => Wanted::Bounce,
        Some("memory") => Wanted::Memory,
        Some("shared" | "shared-each") => Wanted::Shared,
        Some(word) if word.starts_with("iommu") => Wanted::Table,
        _ => Wanted::Any,
    };
    let (bounce, memory) = (capabilities.bounce, device_memory(function));
    let contract =
        contract::decide_on(platform, inner.read_device_features(), bounce, memory, wanted)?;
    // The hypervisor numbers devices by their slots, of which the bridge has 0.
    let number = u64::from(function.at.device).wrapping_sub(1);
    // A realm has no such call.
    let table = if machine.protection.realm { None } else { pkvm::iotable_info(number) };
    let contract = contract.with_table(table.is_some(), wanted)?;
    match contract.dma {
        Dma::Bounce(region) => {
            let address = function.address(region).ok_or(Refusal::BadBounce)?;
            // SAFETY: the region lies in its own BAR, which `pci` mapped as
            // Normal memory, and index and device are one to one.
            unsafe { bounce_hal::open(index, address, region.length, Names::Addresses) };
        }
        Dma::Memory(region) => {
            let address = function.address(region).ok_or(Refusal::BadDeviceMemory)?;
            // SAFETY: as above; `Capabilities::check` wants five pages.
            unsafe { bounce_hal::open(index, address, region.length, Names::Offsets) };
        }
        Dma::Direct => {}
        Dma::SharedPages | Dma::ForcedBounce => {
            let pages = set_aside(machine, index).ok_or(Refusal::NoMemory)?;
            let each = word == Some("shared-each");
            let pool = (!each).then(|| (pages.len() / PAGE).saturating_sub(RESERVE));
            // SAFETY: spare RAM at its far end, a separate piece per device;
            // `checks` uses the near end.
            if !unsafe { share_hal::open(index, pages, machine.protection.ranges, pool) } {
                return Err(Refusal::NoMemory);
            }
        }
        Dma::Table => {
            let pages = set_aside(machine, index).ok_or(Refusal::NoMemory)?;
            let mode = iommu_hal::mode(word.unwrap_or_default()).ok_or(Refusal::NoTable)?;
            let table = table.ok_or(Refusal::NoTable)?;
            // SAFETY: as above.
            if !unsafe { iommu_hal::open(index, pages, mode, number, table) } {
                return Err(Refusal::NoMemory);
            }
        }
    }
    let common = capabilities.common.and_then(|region| function.address(region));
    let intid = msi.and_then(|msi| pci::enable_msix(bus, function, msi));
    let common = common.ok_or(Refusal::BadCapability)?;
    let (transport, verdict) = CheckedTransport::new(inner, contract, common, intid.is_some());
    Ok(Opened { transport, verdict, contract, intid })
}

/// Spare RAM of device `index`: its own, at the far end.
fn set_aside(machine: &Machine, index: usize) -> Option<core::ops::Range<usize>> {
    let pages = machine.argument("pages").and_then(|word| word.parse().ok());
    let bytes = PAGE * pages.unwrap_or(PAGES);
    let end = machine.spare.end.checked_sub(index.checked_mul(bytes)?)?;
    let start = end.checked_sub(bytes)?;
    (start >= machine.spare.start).then_some(start..end)
}

/// The region that the device's common configuration says is its memory.
pub(super) fn device_memory(function: &Function) -> Option<contract::Region> {
    let common = function.capabilities.common?;
    if !common.fits(function.bar_size(common.bar)?, contract::DMB_COMMON_LENGTH) {
        return None;
    }
    let at = function.address(common)? as usize;
    // SAFETY: registers of the common configuration, which lies in its BAR and
    // is long enough.
    let (id, memory_type) = unsafe {
        (mmio::read16(at + contract::DMB_SHM_ID), mmio::read16(at + contract::DMB_MEMORY_TYPE))
    };
    function.capabilities.device_memory(id, memory_type)
}

/// The address at which registers of a BAR are mapped: their own. The caller
/// has had `Capabilities::check` confirm that they lie in that BAR.
#[allow(clippy::panic)]
pub(crate) fn registers(address: PhysAddr) -> NonNull<u8> {
    NonNull::new(address as *mut u8).unwrap_or_else(|| panic!("a BAR at address 0"))
}

/// Finds registers before it is known which DMA memory the device will use;
/// has none itself.
struct Registers;

// SAFETY: it never gives memory out.
unsafe impl Hal for Registers {
    fn dma_alloc(_pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        (0, NonNull::dangling())
    }

    unsafe fn dma_dealloc(_address: PhysAddr, _piece: NonNull<u8>, _pages: usize) -> i32 {
        -1
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _size: usize) -> NonNull<u8> {
        registers(address)
    }

    #[allow(clippy::panic)]
    unsafe fn share(_buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        panic!("no DMA memory has been decided on")
    }

    unsafe fn unshare(_address: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}
