//! The platform a guest sees: QEMU `virt`'s addresses, so that kernels made
//! for it feel at home. All are intermediate physical addresses.

/// GIC distributor, 64 KiB.
pub const GICD: u64 = 0x0800_0000;
/// Size of [`GICD`].
pub const GICD_SIZE: u64 = 0x1_0000;
/// GICv2m MSI frame, 4 KiB: MSI_TYPER at 0x008, MSI_SETSPI_NS at 0x040.
pub const MSI_FRAME: u64 = 0x0802_0000;
/// Size of [`MSI_FRAME`].
pub const MSI_FRAME_SIZE: u64 = 0x1000;
/// First redistributor; each has two 64 KiB frames (RD_base, SGI_base).
pub const GICR: u64 = 0x080A_0000;
/// Bytes of one vCPU's redistributor.
pub const GICR_STRIDE: u64 = 0x2_0000;
/// PL011, 4 KiB. Served by the host when the guest grants it (MMIO guard).
pub const UART: u64 = 0x0900_0000;
/// 32-bit PCI memory window (virtio register BARs).
pub const PCI_MEM32: u64 = 0x1000_0000;
/// Size of [`PCI_MEM32`].
pub const PCI_MEM32_SIZE: u64 = 0x2eff_0000;
/// PCI configuration space (ECAM), buses 0 to 15.
pub const ECAM: u64 = 0x3f00_0000;
/// Size of [`ECAM`].
pub const ECAM_SIZE: u64 = 0x0100_0000;
/// First byte of guest RAM.
pub const RAM: u64 = 0x4000_0000;
/// 64-bit prefetchable PCI memory window (bounce BARs). RAM ends below it.
pub const PCI_MEM64: u64 = 0x20_0000_0000;
/// Size of [`PCI_MEM64`].
pub const PCI_MEM64_SIZE: u64 = 0x20_0000_0000;

/// First I/O virtual address of a device with an I/O table (policy
/// *shadow-iommu*). Above RAM and every BAR: it is never an address of the
/// guest's own, and whoever takes one for the other gets a fault.
pub const APERTURE: u64 = 0x50_0000_0000;
/// Bytes of I/O virtual addresses that such a device has: what one entry of the
/// table's first level covers.
pub const APERTURE_SIZE: u64 = 1 << 30;

/// Is `ipa` below all windows, or in configuration space? Neither RAM nor a
/// BAR can be there.
pub const fn is_never_memory(ipa: u64) -> bool {
    ipa < PCI_MEM32 || ipa >= ECAM && ipa - ECAM < ECAM_SIZE
}

/// First interrupt id of an SPI.
pub const SPI_BASE: u32 = 32;
/// Interrupt ids the distributor implements (GICD_TYPER.ITLinesNumber = 7).
pub const INTERRUPTS: u32 = 256;
/// Interrupt id of the PL011 (SPI 1).
pub const UART_INTID: u32 = 33;
/// Interrupt id of PCI INTA; INTB to INTD follow (SPI 3 to 6).
pub const INTX_INTID: u32 = 35;
/// First interrupt id of the MSI frame (SPI 48), QEMU virt's GICv2m.
pub const MSI_INTID: u32 = 80;
/// Interrupt ids of the MSI frame.
pub const MSI_COUNT: u32 = 64;
/// Interrupt id of the virtual timer (PPI 11).
pub const VIRTUAL_TIMER_INTID: u32 = 27;
/// Interrupt id of the EL1 physical timer (PPI 14).
pub const PHYSICAL_TIMER_INTID: u32 = 30;
