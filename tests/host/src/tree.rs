//! The device tree a guest gets: the platform of `hyp::layout` in words.
//!
//! The host writes it, so the guest cannot trust it; that is why it is
//! donated as measured memory, like the image.

use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use hyp::layout;
use vm_fdt::{Error, FdtWriter};

/// What differs between guests.
#[derive(Clone, Copy, Debug)]
pub struct Guest<'a> {
    /// vCPUs.
    pub vcpus: u64,
    /// Bytes of RAM, from [`layout::RAM`].
    pub ram_bytes: u64,
    /// The guest's command line.
    pub bootargs: &'a str,
    /// The instruction of its PSCI calls.
    pub conduit: Conduit,
    /// Where its ramdisk is in guest memory, if it has one.
    pub initrd: Option<(u64, u64)>,
    /// First byte and bytes of RAM that its PCI devices' buffers are to lie
    /// in. A kernel that speaks pKVM shares this pool, and bounces through it.
    pub dma_pool: Option<(u64, u64)>,
}

/// How a guest calls EL2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conduit {
    /// HVC: pKVM's guests.
    Hvc,
    /// SMC: Arm CCA's realms.
    Smc,
}

const GIC: u32 = 1;
const MSI: u32 = 2;
const CLOCK: u32 = 3;
const DMA_POOL: u32 = 4;
/// Interrupt kinds and flags of the GIC binding.
const SPI: u32 = 0;
const PPI: u32 = 1;
const LEVEL_HIGH: u32 = 4;
/// PCI address cells (IEEE 1275 PCI binding): 32-bit memory, and 64-bit
/// prefetchable memory.
const PCI_MEMORY_32: u32 = 0x0200_0000;
const PCI_MEMORY_64_PREFETCHABLE: u32 = 0x4300_0000;
/// Frequency that the UART's clock claims, in Hz.
const CLOCK_HZ: u32 = 24_000_000;

/// The flattened tree.
///
/// # Errors
/// The writer's, for a command line with a NUL in it.
pub fn build(guest: Guest<'_>) -> Result<Vec<u8>, Error> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", GIC)?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_string("model", "bouncer protected guest")?;
    chosen(&mut fdt, guest)?;
    memory(&mut fdt, guest)?;
    dma_pool(&mut fdt, guest)?;
    cpus(&mut fdt, guest)?;
    timer(&mut fdt)?;
    gic(&mut fdt, guest)?;
    uart(&mut fdt)?;
    pci(&mut fdt, guest)?;
    fdt.end_node(root)?;
    fdt.finish()
}

fn chosen(fdt: &mut FdtWriter, guest: Guest<'_>) -> Result<(), Error> {
    let node = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", guest.bootargs)?;
    if let Some((start, end)) = guest.initrd {
        fdt.property_u64("linux,initrd-start", start)?;
        fdt.property_u64("linux,initrd-end", end)?;
    }
    fdt.property_string("stdout-path", &format!("/pl011@{:x}", layout::UART))?;
    fdt.end_node(node)
}

fn memory(fdt: &mut FdtWriter, guest: Guest<'_>) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("memory@{:x}", layout::RAM))?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &[layout::RAM, guest.ram_bytes])?;
    fdt.end_node(node)
}

fn dma_pool(fdt: &mut FdtWriter, guest: Guest<'_>) -> Result<(), Error> {
    let Some((start, bytes)) = guest.dma_pool else { return Ok(()) };
    let parent = fdt.begin_node("reserved-memory")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_null("ranges")?;
    let node = fdt.begin_node(&format!("restricted-dma@{start:x}"))?;
    fdt.property_string("compatible", "restricted-dma-pool")?;
    fdt.property_array_u64("reg", &[start, bytes])?;
    fdt.property_phandle(DMA_POOL)?;
    fdt.end_node(node)?;
    fdt.end_node(parent)
}

fn cpus(fdt: &mut FdtWriter, guest: Guest<'_>) -> Result<(), Error> {
    let psci = fdt.begin_node("psci")?;
    let names = vec!["arm,psci-1.0".to_string(), "arm,psci-0.2".to_string()];
    fdt.property_string_list("compatible", names)?;
    let method = match guest.conduit {
        Conduit::Hvc => "hvc",
        Conduit::Smc => "smc",
    };
    fdt.property_string("method", method)?;
    fdt.end_node(psci)?;

    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    for cpu in 0..guest.vcpus as u32 {
        let node = fdt.begin_node(&format!("cpu@{cpu:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        fdt.property_string("enable-method", "psci")?;
        fdt.property_u32("reg", cpu)?;
        fdt.end_node(node)?;
    }
    fdt.end_node(cpus)
}

/// The architectural timers: secure, non-secure, virtual, hypervisor. A guest
/// has the two in the middle, but the binding lists four.
fn timer(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    let [virtual_ppi, physical_ppi] =
        [layout::VIRTUAL_TIMER_INTID, layout::PHYSICAL_TIMER_INTID].map(|intid| intid - 16);
    let cells: Vec<u32> = [13, physical_ppi, virtual_ppi, 10]
        .iter()
        .flat_map(|ppi| [PPI, *ppi, LEVEL_HIGH])
        .collect();
    fdt.property_array_u32("interrupts", &cells)?;
    fdt.property_null("always-on")?;
    fdt.end_node(node)
}

fn gic(fdt: &mut FdtWriter, guest: Guest<'_>) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("intc@{:x}", layout::GICD))?;
    fdt.property_string("compatible", "arm,gic-v3")?;
    fdt.property_phandle(GIC)?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_null("ranges")?;
    let redistributors = layout::GICR_STRIDE * guest.vcpus;
    fdt.property_array_u64(
        "reg",
        &[layout::GICD, layout::GICD_SIZE, layout::GICR, redistributors],
    )?;

    let frame = fdt.begin_node(&format!("v2m@{:x}", layout::MSI_FRAME))?;
    fdt.property_string("compatible", "arm,gic-v2m-frame")?;
    fdt.property_phandle(MSI)?;
    fdt.property_null("msi-controller")?;
    fdt.property_array_u64("reg", &[layout::MSI_FRAME, layout::MSI_FRAME_SIZE])?;
    fdt.property_u32("arm,msi-base-spi", layout::MSI_INTID)?;
    fdt.property_u32("arm,msi-num-spis", layout::MSI_COUNT)?;
    fdt.end_node(frame)?;
    fdt.end_node(node)
}

fn uart(fdt: &mut FdtWriter) -> Result<(), Error> {
    let clock = fdt.begin_node("apb-pclk")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", CLOCK_HZ)?;
    fdt.property_string("clock-output-names", "clk24mhz")?;
    fdt.property_phandle(CLOCK)?;
    fdt.end_node(clock)?;

    let node = fdt.begin_node(&format!("pl011@{:x}", layout::UART))?;
    let names = vec!["arm,pl011".to_string(), "arm,primecell".to_string()];
    fdt.property_string_list("compatible", names)?;
    fdt.property_array_u64("reg", &[layout::UART, 0x1000])?;
    fdt.property_array_u32(
        "interrupts",
        &[SPI, layout::UART_INTID - layout::SPI_BASE, LEVEL_HIGH],
    )?;
    fdt.property_array_u32("clocks", &[CLOCK, CLOCK])?;
    let clocks = vec!["uartclk".to_string(), "apb_pclk".to_string()];
    fdt.property_string_list("clock-names", clocks)?;
    fdt.end_node(node)
}

fn pci(fdt: &mut FdtWriter, guest: Guest<'_>) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("pcie@{:x}", layout::ECAM))?;
    fdt.property_string("compatible", "pci-host-ecam-generic")?;
    fdt.property_string("device_type", "pci")?;
    fdt.property_u32("#address-cells", 3)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("#interrupt-cells", 1)?;
    fdt.property_u32("linux,pci-domain", 0)?;
    fdt.property_array_u32("bus-range", &[0, (layout::ECAM_SIZE >> 20) as u32 - 1])?;
    fdt.property_array_u64("reg", &[layout::ECAM, layout::ECAM_SIZE])?;
    fdt.property_null("dma-coherent")?;
    if guest.dma_pool.is_some() {
        fdt.property_u32("memory-region", DMA_POOL)?;
    }
    let mut ranges = Vec::new();
    for (kind, base, size) in [
        (PCI_MEMORY_32, layout::PCI_MEM32, layout::PCI_MEM32_SIZE),
        (PCI_MEMORY_64_PREFETCHABLE, layout::PCI_MEM64, layout::PCI_MEM64_SIZE),
    ] {
        ranges.push(kind);
        ranges.extend([base, base, size].iter().flat_map(|value| cells(*value)));
    }
    fdt.property_array_u32("ranges", &ranges)?;
    fdt.property_array_u32("msi-map", &[0, MSI, 0, 0x1_0000])?;
    fdt.property_u32("msi-parent", MSI)?;
    interrupt_map(fdt)?;
    fdt.end_node(node)
}

/// INTA to INTD of four slots, turned by one line per slot as PCI boards do;
/// the mask makes of every other slot one of these.
fn interrupt_map(fdt: &mut FdtWriter) -> Result<(), Error> {
    let mut map = Vec::new();
    for slot in 0..4 {
        for pin in 0..4 {
            let line = layout::INTX_INTID - layout::SPI_BASE + (slot + pin) % 4;
            map.extend([slot << 11, 0, 0, pin + 1, GIC, 0, 0, SPI, line, LEVEL_HIGH]);
        }
    }
    fdt.property_array_u32("interrupt-map-mask", &[0x1800, 0, 0, 7])?;
    fdt.property_array_u32("interrupt-map", &map)
}

/// A 64-bit value as two cells.
fn cells(value: u64) -> [u32; 2] {
    [(value >> 32) as u32, value as u32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_finds_its_memory_its_cpus_and_its_command_line() {
        let guest = Guest {
            vcpus: 3,
            ram_bytes: 16 << 20,
            bootargs: "scenario=secrets",
            conduit: Conduit::Smc,
            initrd: Some((0x4200_0000, 0x4230_0123)),
            dma_pool: Some((0x40c0_0000, 4 << 20)),
        };
        let blob = build(guest).unwrap();
        let tree = fdt::Fdt::new(&blob).unwrap();
        assert_eq!(tree.chosen().bootargs(), Some("scenario=secrets"));
        assert_eq!(tree.cpus().count(), 3);
        assert_eq!(rt::dt::psci_method(&tree), Some("smc"));
        assert_eq!(rt::dt::initrd(&tree), Some(0x4200_0000..0x4230_0123));
        let region = tree.memory().regions().next().unwrap();
        assert_eq!(region.starting_address as u64, layout::RAM);
        assert_eq!(region.size, Some(16 << 20));
        let pci = tree.find_compatible(&["pci-host-ecam-generic"]).unwrap();
        let pool = tree.find_compatible(&["restricted-dma-pool"]).unwrap();
        assert_eq!(rt::dt::reg(&pool, 0), Some((0x40c0_0000, 4 << 20)));
        let handle = |property: Option<fdt::node::NodeProperty<'_>>| property.unwrap().as_usize();
        assert_eq!(handle(pci.property("memory-region")), handle(pool.property("phandle")));
        assert_eq!(pci.property("interrupt-map").unwrap().value.len(), 16 * 10 * 4);
        // docs/device.md: INTA of slot s is line s mod 4, of every slot a device has.
        let cells = |name: &str| -> Vec<u32> {
            let value = pci.property(name).unwrap().value;
            let cell = |bytes: &[u8]| bytes.iter().fold(0, |all, byte| all << 8 | u32::from(*byte));
            value.chunks(4).map(cell).collect()
        };
        let mask = cells("interrupt-map-mask");
        for slot in 1..=hyp::abi::MAX_DEVICES as u32 {
            let map = cells("interrupt-map");
            let entries = map.chunks(10);
            let mut inta =
                entries.filter(|entry| entry[0] == slot << 11 & mask[0] && entry[3] == 1);
            let line = inta.next().unwrap()[8];
            assert_eq!(line, layout::INTX_INTID - layout::SPI_BASE + slot % 4);
            assert!(inta.next().is_none());
        }
    }
}
