//! The PCI host bridge: finding functions, placing BARs, MSI-X.

use alloc::vec::Vec;
use guest::contract::{self, Capabilities, Region};
use guest::windows::Windows;
use rt::fdt::Fdt;
use rt::{dt, gic, mmio, mmu};
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::{
    BarInfo, Command, ConfigurationAccess, DeviceFunction, MemoryBarType, PciRoot,
};
use virtio_drivers::transport::pci::virtio_device_type;

/// Configuration space of bus 0, memory-mapped (ECAM).
#[derive(Clone, Copy)]
pub(crate) struct Ecam {
    base: usize,
}

impl Ecam {
    fn address(&self, function: DeviceFunction, register: u8) -> usize {
        let number = usize::from(function.bus) << 8
            | usize::from(function.device) << 3
            | usize::from(function.function);
        self.base + (number << 12) + usize::from(register & 0xfc)
    }
}

impl ConfigurationAccess for Ecam {
    fn read_word(&self, function: DeviceFunction, register: u8) -> u32 {
        // SAFETY: a word of the configuration space the tree describes.
        unsafe { mmio::read32(self.address(function, register)) }
    }

    fn write_word(&mut self, function: DeviceFunction, register: u8, data: u32) {
        // SAFETY: as above. What a BAR decodes is not memory of the program.
        unsafe { mmio::write32(self.address(function, register), data) }
    }

    unsafe fn unsafe_clone(&self) -> Self {
        *self
    }
}

/// The bus: the crate's view of it, and ours of its configuration space.
pub(crate) struct Bus {
    pub(crate) root: PciRoot<Ecam>,
    pub(crate) ecam: Ecam,
}

/// A virtio function, its BARs placed and decoded.
pub(crate) struct Function {
    pub(crate) at: DeviceFunction,
    pub(crate) kind: DeviceType,
    pub(crate) capabilities: Capabilities,
    /// Address and size of the memory BARs.
    pub(crate) bars: [Option<(u64, u64)>; 6],
}

impl Function {
    /// Size of a BAR.
    pub(crate) fn bar_size(&self, bar: u8) -> Option<u64> {
        self.bars.get(usize::from(bar)).copied().flatten().map(|(_, size)| size)
    }

    /// Address of a region; the caller has checked that it fits.
    pub(crate) fn address(&self, region: Region) -> Option<u64> {
        let (base, _) = self.bars.get(usize::from(region.bar)).copied().flatten()?;
        base.checked_add(region.offset)
    }
}

/// The host bridge the tree describes, and the virtio functions behind it.
pub(crate) fn enumerate(tree: &Fdt) -> Option<(Bus, Vec<Function>)> {
    let node = tree.find_compatible(&["pci-host-ecam-generic"])?;
    let (base, _) = dt::reg(&node, 0)?;
    let mut windows = Windows::parse(node.property("ranges")?.value);
    let ecam = Ecam { base };
    let mut root = PciRoot::new(ecam);
    let found: Vec<_> = root.enumerate_bus(0).collect();
    let mut functions = Vec::new();
    for (at, info) in found {
        let Some(kind) = virtio_device_type(&info) else { continue };
        let capabilities = contract::scan(|register| ecam.read_word(at, register));
        let bars = place(&mut root, at, &mut windows, &capabilities)?;
        functions.push(Function { at, kind, capabilities, bars });
    }
    Some((Bus { root, ecam }, functions))
}

/// Places every memory BAR of a function and switches decoding on.
fn place(
    root: &mut PciRoot<Ecam>,
    at: DeviceFunction,
    windows: &mut Windows,
    capabilities: &Capabilities,
) -> Option<[Option<(u64, u64)>; 6]> {
    let mut placed = [None; 6];
    for (index, bar) in root.bars(at).ok()?.into_iter().enumerate() {
        let Some(BarInfo::Memory { address_type, prefetchable, size, .. }) = bar else { continue };
        let wide = address_type == MemoryBarType::Width64;
        let address = windows.place(size, wide && prefetchable)?;
        if wide {
            root.set_bar_64(at, index as u8, address);
        } else {
            root.set_bar_32(at, index as u8, u32::try_from(address).ok()?);
        }
        // Below 1 GiB everything is mapped as Device already. Memory that a
        // device brings is memory, cached on both sides.
        if address >= 1 << 30 {
            let memory = capabilities.is_memory(index as u8);
            let kind = if memory { mmu::Memory::Normal } else { mmu::Memory::Device };
            mmu::map_identity(address, size.next_multiple_of(4096), kind).ok()?;
        }
        placed[index] = Some((address, size));
    }
    root.set_command(at, Command::MEMORY_SPACE | Command::BUS_MASTER);
    Some(placed)
}

/// Interrupts of the GICv2m frame, handed out one by one.
pub(crate) struct Msi {
    doorbell: u64,
    next: u32,
    end: u32,
}

impl Msi {
    /// MSI_TYPER and MSI_SETSPI_NS (Arm Server Base System Architecture, GICv2m).
    const TYPER: usize = 0x08;
    const SETSPI: u64 = 0x40;

    /// The frame the tree describes.
    pub(crate) fn new(tree: &Fdt) -> Option<Self> {
        let (frame, _) = dt::device(tree, "arm,gic-v2m-frame", 0)?;
        // SAFETY: a register of the frame.
        let kind = unsafe { mmio::read32(frame + Self::TYPER) };
        let first = kind >> 16 & 0x3ff;
        Some(Self {
            doorbell: frame as u64 + Self::SETSPI,
            next: first,
            end: first + (kind & 0x3ff),
        })
    }

    fn take(&mut self) -> Option<u32> {
        let intid = self.next;
        if intid >= self.end {
            return None;
        }
        self.next += 1;
        Some(intid)
    }
}

/// Programs entry 0 of the function's MSI-X table with an interrupt of its
/// own, enables both, and gives its id. `None` if the function has no MSI-X
/// or the frame no interrupt left.
pub(crate) fn enable_msix(bus: &mut Bus, function: &Function, msi: &mut Msi) -> Option<u32> {
    // PCI Local Bus 3.0, 6.8.2: message control, table offset and BIR.
    let at = function.capabilities.msix?;
    let table = bus.ecam.read_word(function.at, at + 4);
    let region = Region { bar: (table & 7) as u8, offset: u64::from(table & !7), length: 16 };
    if !region.fits(function.bar_size(region.bar)?, 16) {
        return None;
    }
    let entry = function.address(region)? as usize;
    let intid = msi.take()?;
    gic::set_edge(intid, true);
    gic::enable(intid);
    // SAFETY: entry 0 of the MSI-X table, inside its BAR.
    unsafe {
        mmio::write32(entry, msi.doorbell as u32);
        mmio::write32(entry + 4, (msi.doorbell >> 32) as u32);
        mmio::write32(entry + 8, intid);
        mmio::write32(entry + 12, 0);
    }
    let control = bus.ecam.read_word(function.at, at);
    bus.ecam.write_word(function.at, at, control | 1 << 31);
    Some(intid)
}
