//! The SMMU and what is behind it, in the device tree.

use super::Unfit;
use crate::MAX_BRIDGE_WINDOWS;
use crate::boot_info::BootInfo;
use crate::parse::{Tree, cells, is_compatible, is_enabled, ranges, take};
use crate::range::ByteRange;
use arrayvec::ArrayVec;
use dtoolkit::fdt::FdtNode;
use dtoolkit::{Node, Property};

/// Bytes of its two pages of registers.
const REGISTERS: u64 = 0x2_0000;
const PAGE: u64 = 4096;

/// A PCIe host bridge whose functions all go through the SMMU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bridge {
    /// Configuration space first, then the windows for BARs: what the host
    /// needs of it.
    pub windows: ArrayVec<ByteRange, MAX_BRIDGE_WINDOWS>,
    /// Its last bus. The first one is 0.
    pub last_bus: u8,
}

/// An SMMUv3 and the one bridge behind it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Smmu {
    /// Its two pages of registers.
    pub registers: ByteRange,
    /// What is behind it.
    pub bridge: Bridge,
}

/// Finds the SMMU of a board, if it has one. `limit` is where the addresses end
/// that the host can have.
///
/// # Errors
/// Why it is of no use.
pub fn find(tree: Tree<'_>, info: &BootInfo, limit: u64) -> Result<Option<Smmu>, Unfit> {
    let root = tree.fdt().root();
    let all = |kind| root.children().filter(move |&n| is_compatible(n, kind) && is_enabled(n));
    let Some(node) = all("arm,smmu-v3").next() else { return Ok(None) };
    let bad = Unfit::Described;
    if all("arm,smmu-v3").count() > 1 {
        return Err(bad("second SMMU: bouncer drives one"));
    }
    let bus = cells(root).map_err(|_| bad("#address-cells or #size-cells"))?;
    let registers = reg(node, bus).ok_or(bad("SMMU reg makes no sense"))?;
    // The map that EL2 boots on has devices in the first GiB only.
    if registers.size() < REGISTERS || registers.end() > 1 << 30 || registers.start() % PAGE != 0 {
        return Err(bad("SMMU is not two pages of 64 KiB in the first GiB"));
    }
    let bridge =
        all("pci-host-ecam-generic").next().ok_or(bad("SMMU has no PCIe host behind it"))?;
    if all("pci-host-ecam-generic").count() > 1 {
        return Err(bad("second PCIe host: bouncer knows one behind an SMMU"));
    }
    let last_bus = last_bus(bridge).ok_or(bad("PCIe bus-range makes no sense"))?;
    if !is_behind(bridge, node, last_bus) {
        return Err(bad("iommu-map does not put each PCIe function at its own StreamID"));
    }
    let mut windows = ArrayVec::new();
    windows.push(reg(bridge, bus).ok_or(bad("PCIe reg makes no sense"))?);
    add_ranges(&mut windows, bridge, bus.0).ok_or(bad("PCIe ranges make no sense"))?;
    let taken = || {
        let fixed = [info.uart, info.distributor, registers];
        let regions = info.redistributors.iter().copied();
        fixed.into_iter().chain(info.rtc).chain(regions).chain(info.memory.iter().copied())
    };
    for (index, window) in windows.iter().enumerate() {
        if window.end() > limit {
            return Err(bad(
                "PCIe windows reach too far (start QEMU with highmem-ecam=off,highmem-mmio=off)",
            ));
        }
        let whole = window.shrunk_to(PAGE) == *window && !window.is_empty();
        let others = windows.iter().skip(index + 1).copied();
        if !whole || taken().chain(others).any(|other| other.overlaps(*window)) {
            return Err(bad("PCIe windows are not whole pages, or overlap something"));
        }
    }
    Ok(Some(Smmu { registers, bridge: Bridge { windows, last_bus } }))
}

fn reg(node: FdtNode<'_>, cells: (usize, usize)) -> Option<ByteRange> {
    ranges(node.property("reg")?.value(), cells).next()?.ok()
}

/// The first numbers of 32 bits of a property, `N` at most.
fn words<const N: usize>(node: FdtNode<'_>, name: &str) -> Option<ArrayVec<u64, N>> {
    let property = node.property(name)?;
    let mut value = property.value();
    Some(core::iter::from_fn(|| take(&mut value, 1)).take(N).collect())
}

/// `bus-range` from 0 on, all buses by default.
fn last_bus(bridge: FdtNode<'_>) -> Option<u8> {
    match words::<3>(bridge, "bus-range") {
        None => Some(255),
        Some(range) => match *range.as_slice() {
            [0, last] => u8::try_from(last).ok(),
            _ => None,
        },
    }
}

/// Does `iommu-map` send all functions to this SMMU, each with its own number?
fn is_behind(bridge: FdtNode<'_>, smmu: FdtNode<'_>, last_bus: u8) -> bool {
    let phandle = smmu.property("phandle").and_then(|phandle| phandle.value_as::<u32>().ok());
    let map = words::<5>(bridge, "iommu-map");
    let (Some(phandle), Some(map)) = (phandle, map) else { return false };
    let functions = (u64::from(last_bus) + 1) << 8;
    // What is masked would share a number with something else.
    bridge.property("iommu-map-mask").is_none()
        && matches!(*map.as_slice(), [0, to, 0, count] if to == u64::from(phandle) && count >= functions)
}

/// The windows for BARs and ports, at their addresses for CPUs.
fn add_ranges(
    windows: &mut ArrayVec<ByteRange, MAX_BRIDGE_WINDOWS>,
    bridge: FdtNode<'_>,
    address_cells: usize,
) -> Option<()> {
    let ranges = bridge.property("ranges")?;
    let mut value = ranges.value();
    while !value.is_empty() {
        take(&mut value, 1)?;
        take(&mut value, 2)?;
        let start = take(&mut value, address_cells)?;
        let size = take(&mut value, 2)?;
        windows.try_push(ByteRange::new(start, size)?).ok()?;
    }
    Some(())
}
