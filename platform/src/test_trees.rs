//! Device trees like QEMU's, with knobs, for the tests of this crate.

use crate::boot_info::{BootError, BootInfo};
use crate::parse::{parse, validate};
use crate::range::ByteRange;
use std::vec::Vec;
use vm_fdt::{FdtReserveEntry, FdtWriter};

/// The firmware's random bytes.
pub(crate) const SEED: [u8; 32] = [0x5e; 32];

/// What varies from test to test.
pub(crate) struct TestTree {
    pub(crate) banks: Vec<ByteRange>,
    pub(crate) cpus: u32,
    pub(crate) disabled_cpus: Vec<u32>,
    /// What kind the PCI host bridge is, and its status.
    pub(crate) bridge: (&'static str, Option<&'static str>),
    /// The SMMU before it, if there is one.
    pub(crate) smmu: Option<TestSmmu>,
    /// Address and status of each PL011, in the order of the tree.
    pub(crate) uarts: Vec<(u64, Option<&'static str>)>,
    /// What a hypervisor below says it is.
    pub(crate) hypervisor: Option<&'static str>,
    /// Address and size of the PL031.
    pub(crate) rtc: Option<(u64, u64)>,
    pub(crate) stdout: &'static str,
    /// The root's address and size cells.
    pub(crate) cells: (u32, u32),
    pub(crate) gic: &'static str,
    pub(crate) conduit: &'static str,
    pub(crate) kernel: Option<ByteRange>,
    pub(crate) ramdisk: Option<ByteRange>,
    /// The memory reservation block.
    pub(crate) entries: Vec<ByteRange>,
    /// `/reserved-memory`.
    pub(crate) nodes: Vec<ReservedNode>,
    /// `#address-cells` and `#size-cells` of `/reserved-memory`.
    pub(crate) node_cells: [u32; 2],
    pub(crate) chosen: Chosen,
}

/// A child of `/reserved-memory`: its `reg`, empty for none, and one more
/// property.
pub(crate) struct ReservedNode {
    pub(crate) ranges: Vec<ByteRange>,
    pub(crate) property: Option<(&'static str, &'static [u8])>,
}

/// An SMMU, and what the bridge says of it.
#[derive(Clone)]
pub(crate) struct TestSmmu {
    pub(crate) registers: (u64, u64),
    pub(crate) iommu_map: Vec<u32>,
    /// Where CPUs find the ports and the windows for BARs, with their sizes.
    pub(crate) windows: Vec<(u64, u64)>,
}

/// Its handle in the tree.
const SMMU: u32 = 0x8004;

/// As QEMU has it with `iommu=smmuv3,highmem-ecam=off,highmem-mmio=off`.
pub(crate) fn smmu() -> TestSmmu {
    TestSmmu {
        registers: (0x905_0000, 0x2_0000),
        iommu_map: std::vec![0, SMMU, 0, 0x1_0000],
        windows: std::vec![(0x3eff_0000, 0x1_0000), (0x1000_0000, 0x2eff_0000)],
    }
}

/// QEMU virt, 1 GiB, two CPUs, kernel and ramdisk.
pub(crate) fn virt() -> TestTree {
    TestTree {
        banks: std::vec![ByteRange::between(0x4000_0000, 0x8000_0000)],
        cpus: 2,
        disabled_cpus: Vec::new(),
        bridge: ("pci-host-ecam-generic", None),
        smmu: None,
        uarts: std::vec![(0x900_0000, None)],
        hypervisor: None,
        rtc: Some((0x901_0000, 0x1000)),
        stdout: "/pl011@9000000",
        cells: (2, 2),
        gic: "arm,gic-v3",
        conduit: "smc",
        kernel: Some(ByteRange::between(0x4800_0000, 0x4810_0000)),
        ramdisk: Some(ByteRange::between(0x5000_0000, 0x5123_4567)),
        entries: Vec::new(),
        nodes: Vec::new(),
        node_cells: [2, 2],
        chosen: Chosen::default(),
    }
}

/// Both steps from bytes to facts.
pub(crate) fn read(tree: &[u8]) -> Result<BootInfo, BootError> {
    validate(tree).and_then(parse)
}

impl TestTree {
    /// The tree as bytes.
    pub(crate) fn build(&self) -> Vec<u8> {
        self.write().expect("a test's tree is well formed")
    }

    fn write(&self) -> Result<Vec<u8>, vm_fdt::Error> {
        let entry = |entry: &ByteRange| FdtReserveEntry::new(entry.start(), entry.size());
        let entries: Result<Vec<_>, _> = self.entries.iter().map(entry).collect();
        let mut fdt = FdtWriter::new_with_mem_reserv(&entries?)?;
        let root = fdt.begin_node("")?;
        fdt.property_u32("#address-cells", self.cells.0)?;
        fdt.property_u32("#size-cells", self.cells.1)?;
        for bank in &self.banks {
            let node = fdt.begin_node(&std::format!("memory@{:x}", bank.start()))?;
            fdt.property_string("device_type", "memory")?;
            self.reg(&mut fdt, &[bank.start(), bank.size()])?;
            fdt.end_node(node)?;
        }
        self.write_reserved(&mut fdt)?;
        self.write_devices(&mut fdt)?;
        self.write_cpus(&mut fdt)?;
        self.write_chosen(&mut fdt)?;
        fdt.end_node(root)?;
        fdt.finish()
    }

    fn write_reserved(&self, fdt: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
        if self.nodes.is_empty() {
            return Ok(());
        }
        let [address_cells, size_cells] = self.node_cells;
        let reserved = fdt.begin_node("reserved-memory")?;
        fdt.property_u32("#address-cells", address_cells)?;
        fdt.property_u32("#size-cells", size_cells)?;
        fdt.property_null("ranges")?;
        for (number, child) in self.nodes.iter().enumerate() {
            let node = fdt.begin_node(&std::format!("region{number}"))?;
            let mut reg = Vec::new();
            for range in &child.ranges {
                for (value, cells) in [(range.start(), address_cells), (range.size(), size_cells)] {
                    reg.extend_from_slice(&value.to_be_bytes()[8 - 4 * cells as usize..]);
                }
            }
            if !reg.is_empty() {
                fdt.property("reg", &reg)?;
            }
            if let Some((name, value)) = child.property {
                fdt.property(name, value)?;
            }
            fdt.end_node(node)?;
        }
        fdt.end_node(reserved)
    }

    /// A `reg` of the root's children: address, size, address, …
    fn reg(&self, fdt: &mut FdtWriter, numbers: &[u64]) -> Result<(), vm_fdt::Error> {
        let mut value = Vec::new();
        for (index, number) in numbers.iter().enumerate() {
            let cells = if index % 2 == 0 { self.cells.0 } else { self.cells.1 };
            value.extend_from_slice(&number.to_be_bytes()[8 - 4 * cells as usize..]);
        }
        fdt.property("reg", &value)
    }

    fn write_devices(&self, fdt: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
        for (name, compatible, reg) in [
            ("fw-cfg@9020000", "qemu,fw-cfg-mmio", [0x902_0000, 0x18].as_slice()),
            ("virtio_mmio@a000000", "virtio,mmio", &[0xa00_0000, 0x200]),
        ] {
            let node = fdt.begin_node(name)?;
            fdt.property_string("compatible", compatible)?;
            self.reg(fdt, reg)?;
            fdt.end_node(node)?;
        }
        let pcie = fdt.begin_node("pcie@10000000")?;
        fdt.property_string("compatible", self.bridge.0)?;
        fdt.property_string("device_type", "pci")?;
        if let Some(status) = self.bridge.1 {
            fdt.property_string("status", status)?;
        }
        self.reg(fdt, &[0x3f00_0000, 0x100_0000])?;
        fdt.property_array_u32("bus-range", &[0, 15])?;
        if let Some(smmu) = &self.smmu {
            fdt.property_array_u32("iommu-map", &smmu.iommu_map)?;
            fdt.property_array_u32("msi-map", &[0, 0x8003, 0, 0x1_0000])?;
            let ranges = smmu.windows.iter().flat_map(|&(at, size)| {
                let cells = [0x200_0000, 0, 0, (at >> 32) as u32, at as u32];
                cells.into_iter().chain([(size >> 32) as u32, size as u32])
            });
            fdt.property_array_u32("ranges", &ranges.collect::<Vec<_>>())?;
        }
        fdt.end_node(pcie)?;
        if let Some(smmu) = &self.smmu {
            let node = fdt.begin_node("smmuv3@9050000")?;
            fdt.property_string("compatible", "arm,smmu-v3")?;
            fdt.property_u32("phandle", SMMU)?;
            self.reg(fdt, &[smmu.registers.0, smmu.registers.1])?;
            fdt.end_node(node)?;
        }
        for (address, status) in &self.uarts {
            let node = fdt.begin_node(&std::format!("pl011@{address:x}"))?;
            fdt.property_string("compatible", "arm,pl011")?;
            self.reg(fdt, &[*address, 0x1000])?;
            if let Some(status) = status {
                fdt.property_string("status", status)?;
            }
            fdt.end_node(node)?;
        }
        if let Some(compatible) = self.hypervisor {
            let node = fdt.begin_node("hypervisor")?;
            fdt.property_string("compatible", compatible)?;
            fdt.end_node(node)?;
        }
        if let Some((address, size)) = self.rtc {
            let node = fdt.begin_node(&std::format!("pl031@{address:x}"))?;
            fdt.property_string("compatible", "arm,pl031")?;
            self.reg(fdt, &[address, size])?;
            fdt.end_node(node)?;
        }
        let aliases = fdt.begin_node("aliases")?;
        fdt.property_string("serial0", "/pl011@9050000")?;
        fdt.end_node(aliases)?;
        let gic = fdt.begin_node("intc@8000000")?;
        fdt.property_string("compatible", self.gic)?;
        self.reg(fdt, &[0x800_0000, 0x1_0000, 0x80a_0000, 0xf6_0000])?;
        if self.disabled_cpus.is_empty() {
            fdt.property_u32("redistributor-stride", 0x2_0000)?;
        }
        let its = fdt.begin_node("its@8080000")?;
        fdt.property_string("compatible", "arm,gic-v3-its")?;
        fdt.end_node(its)?;
        fdt.end_node(gic)?;
        let psci = fdt.begin_node("psci")?;
        fdt.property_string_list(
            "compatible",
            std::vec!["arm,psci-1.0".into(), "arm,psci-0.2".into()],
        )?;
        fdt.property_string("method", self.conduit)?;
        fdt.end_node(psci)
    }

    fn write_cpus(&self, fdt: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
        let cpus = fdt.begin_node("cpus")?;
        fdt.property_u32("#address-cells", 1)?;
        fdt.property_u32("#size-cells", 0)?;
        for cpu in 0..self.cpus {
            let node = fdt.begin_node(&std::format!("cpu@{cpu:x}"))?;
            fdt.property_string("device_type", "cpu")?;
            fdt.property_u32("reg", cpu)?;
            if self.disabled_cpus.contains(&cpu) {
                fdt.property_string("status", "disabled")?;
            }
            fdt.end_node(node)?;
        }
        let map = fdt.begin_node("cpu-map")?;
        fdt.end_node(map)?;
        fdt.end_node(cpus)
    }

    fn write_chosen(&self, fdt: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
        let chosen = fdt.begin_node("chosen")?;
        fdt.property_string("stdout-path", self.stdout)?;
        fdt.property_string("bootargs", "log=debug")?;
        fdt.property("rng-seed", &SEED)?;
        self.chosen.write(fdt)?;
        for (range, kind) in
            [(self.kernel, "multiboot,kernel"), (self.ramdisk, "multiboot,ramdisk")]
        {
            let Some(range) = range else { continue };
            let node = fdt.begin_node(&std::format!("module@0x{:08x}", range.start()))?;
            fdt.property_string_list(
                "compatible",
                std::vec!["multiboot,module".into(), kind.into()],
            )?;
            fdt.property_array_u64("reg", &[range.start(), range.size()])?;
            if kind == "multiboot,kernel" {
                fdt.property_string("bootargs", "console=ttyAMA0 quiet")?;
            }
            fdt.end_node(node)?;
        }
        fdt.end_node(chosen)
    }
}

/// More of `/chosen`, as one loader or another writes it.
#[derive(Clone, Default)]
pub(crate) struct Chosen {
    /// The first name in `compatible`, and the address.
    pub(crate) modules: Vec<(&'static str, u64)>,
    /// Cells of their `reg`, 2 and 2 if zero; and whether the tree says so.
    pub(crate) cells: (u32, u32),
    pub(crate) told: bool,
    /// Are they in `/chosen/modules`?
    pub(crate) folder: bool,
    /// Addresses of 32 or (true) 64 bits.
    pub(crate) initrd: Vec<(&'static str, u64, bool)>,
    pub(crate) texts: Vec<(&'static str, &'static str)>,
}

impl Chosen {
    fn write(&self, fdt: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
        for &(name, address, wide) in &self.initrd {
            match wide {
                true => fdt.property_u64(name, address)?,
                false => fdt.property_u32(name, address as u32)?,
            }
        }
        for (name, text) in &self.texts {
            fdt.property_string(name, text)?;
        }
        let (address_cells, size_cells) = if self.cells == (0, 0) { (2, 2) } else { self.cells };
        let cells = |fdt: &mut FdtWriter| -> Result<(), vm_fdt::Error> {
            if self.told {
                fdt.property_u32("#address-cells", address_cells)?;
                fdt.property_u32("#size-cells", size_cells)?;
            }
            Ok(())
        };
        let folder = match self.folder {
            true => Some(fdt.begin_node("modules")?),
            false => None,
        };
        cells(fdt)?;
        for &(name, address) in &self.modules {
            let node = fdt.begin_node(&std::format!("module@{address:x}"))?;
            let generic = "multiboot,module";
            match name == generic || name.starts_with("xen,multiboot") || name == "xen,domain" {
                true => fdt.property_string("compatible", name)?,
                false => {
                    let names = std::vec![name.into(), generic.into()];
                    fdt.property_string_list("compatible", names)?;
                }
            }
            let mut reg = Vec::new();
            for (number, cells) in [(address, address_cells), (0x1000, size_cells)] {
                reg.extend_from_slice(&u64::to_be_bytes(number)[8 - 4 * cells as usize..]);
            }
            fdt.property("reg", &reg)?;
            fdt.end_node(node)?;
        }
        folder.map_or(Ok(()), |folder| fdt.end_node(folder))
    }
}
