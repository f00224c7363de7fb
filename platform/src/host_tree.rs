//! The device tree the host is given.
//!
//! It is the firmware's tree, copied node by node, with what the host may not
//! use left out, the memory of bouncer taken out of the memory nodes, and the
//! command line and ramdisk of the boot modules put into `/chosen`. Leaving a
//! device out protects nothing (stage 2 does that): it keeps an honest host
//! from probing what would abort. So the rule is made from what stage 2 maps:
//! a device is in the tree if all its registers answer the host, and so is a
//! CPU that bouncer drives, and no other. A PCIe host bridge is in it without its
//! IOMMU and its MSIs: addresses on its bus are physical, and interrupts are lines.

use crate::boot_info::{BootError, BootInfo};
use crate::gicv3;
use crate::parse::{self, Tree, is_compatible, is_device_type, is_enabled};
use crate::range::ByteRange;
use crate::reserved::MAX_FIRMWARE;
use crate::{Bridge, MAX_BANKS, Platform, Windows};
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use dtoolkit::fdt::FdtNode;
use dtoolkit::{Node, Property};
use vm_fdt::FdtWriter;

/// Most pieces of memory: every hole in it makes one more. bouncer has two.
const MAX_PIECES: usize = MAX_BANKS + MAX_FIRMWARE + 2;
/// Deepest nesting that is copied; the boards' trees have four levels.
const MAX_DEPTH: usize = 16;
/// What a driver of the host's looks for; its calls are those of docs/abi.md.
const COMPATIBLE: &str = "bouncer,hypervisor-1.0";
/// A page, as stage 2 maps.
const PAGE: u64 = 4096;

/// Writes the host's tree, from the firmware's `tree` of a board `P`, without
/// the page-aligned memory in `kept` (bouncer's and firmware's) and with `seed`
/// instead of the firmware's random bytes. `redistributors` has the address of
/// each CPU's RD frame; `bridge` is what the host gets of PCIe.
///
/// # Errors
/// [`BootError::HostTree`], or [`BootError::TooMany`] pieces of memory.
pub fn write<P: Platform>(
    tree: Tree<'_>,
    info: &BootInfo,
    kept: &[ByteRange],
    redistributors: &[u64],
    bridge: Option<&Bridge>,
    seed: Option<&[u8]>,
) -> Result<Vec<u8>, BootError> {
    let tree = tree.fdt();
    let cells = parse::cells(tree.root())?;
    let windows = P::host_windows(info, redistributors, bridge);
    let mut writer = FdtWriter::new().map_err(BootError::HostTree)?;
    let root = writer.begin_node("").map_err(BootError::HostTree)?;
    copy_properties(&mut writer, tree.root(), &[])?;
    for node in tree.root().children() {
        match node.name_without_address() {
            "memory" | "reserved-memory" => {}
            "chosen" => write_chosen(&mut writer, node, info, seed)?,
            "cpus" => write_cpus(&mut writer, node, info)?,
            _ if !is_enabled(node) => {}
            _ if is_compatible(node, "arm,gic-v3") => {
                write_gic(&mut writer, node, cells, info, redistributors)?;
            }
            _ if is_compatible(node, "pci-host-ecam-generic")
                && bridge.is_some()
                && answers(node, cells, &windows) =>
            {
                write_bridge(&mut writer, node)?;
            }
            name if P::host_may_see(name) && answers(node, cells, &windows) => {
                copy_node(&mut writer, node, MAX_DEPTH)?;
            }
            _ => {}
        }
    }
    write_hypervisor(&mut writer)?;
    write_memory(&mut writer, cells, &host_memory(info, kept)?)?;
    writer.end_node(root).and_then(|()| writer.finish()).map_err(BootError::HostTree)
}

/// Tells a host that knows bouncer that it is there: a driver binds to this
/// node. (A firmware's own is of the hypervisor below bouncer, whose calls do
/// not reach it, and left out as every node that is not asked for.)
fn write_hypervisor(writer: &mut FdtWriter) -> Result<(), BootError> {
    let node = writer.begin_node("hypervisor").map_err(BootError::HostTree)?;
    writer
        .property_string("compatible", COMPATIBLE)
        .and_then(|()| writer.end_node(node))
        .map_err(BootError::HostTree)
}

/// The banks of RAM without what is `kept`.
fn host_memory(
    info: &BootInfo,
    kept: &[ByteRange],
) -> Result<ArrayVec<ByteRange, MAX_PIECES>, BootError> {
    const TOO_MANY: BootError = BootError::TooMany("pieces of memory");
    let mut free = ArrayVec::<ByteRange, MAX_PIECES>::new();
    free.try_extend_from_slice(&info.memory).map_err(|_| TOO_MANY)?;
    for &hole in kept {
        let before = core::mem::take(&mut free);
        for piece in before {
            if !piece.overlaps(hole) {
                free.try_push(piece).map_err(|_| TOO_MANY)?;
                continue;
            }
            let below = ByteRange::between(piece.start(), hole.start());
            let above = ByteRange::between(hole.end(), piece.end());
            for rest in [below, above].into_iter().filter(|rest| !rest.is_empty()) {
                free.try_push(rest).map_err(|_| TOO_MANY)?;
            }
        }
    }
    Ok(free)
}

/// Do all registers of the device answer the host? A node without any is no
/// device but a service (the firmware, the CPUs' timers).
fn answers(node: FdtNode<'_>, cells: (usize, usize), windows: &Windows) -> bool {
    let Some(reg) = node.property("reg") else { return true };
    parse::ranges(reg.value(), cells).all(|range| {
        let whole = range.ok().and_then(|range| range.grown_to(PAGE));
        whole.is_some_and(|whole| windows.iter().any(|window| window.contains(whole)))
    })
}

/// The CPUs bouncer drives. What else is under `/cpus` describes them: caches,
/// idle states, and the topology, which would name CPUs that are not there.
fn write_cpus(writer: &mut FdtWriter, cpus: FdtNode<'_>, info: &BootInfo) -> Result<(), BootError> {
    let (address_cells, _) = parse::cells(cpus)?;
    let is_cpu = |node: FdtNode<'_>| is_device_type(node, "cpu");
    let all = cpus.children().filter(|&node| is_cpu(node)).count();
    let copy = writer.begin_node(cpus.name()).map_err(BootError::HostTree)?;
    copy_properties(writer, cpus, &[])?;
    for node in cpus.children() {
        let keep = match node.name_without_address() {
            "cpu-map" => all == info.cpus.len(),
            _ if is_cpu(node) => {
                is_enabled(node) && info.cpus.contains(&parse::affinity(node, address_cells)?)
            }
            _ => true,
        };
        if keep {
            copy_node(writer, node, MAX_DEPTH)?;
        }
    }
    writer.end_node(copy).map_err(BootError::HostTree)
}

/// The interrupt controller, as far as it answers. Its children are its ITS or
/// MSI frames: DMA masters and doorbells that stay with bouncer.
fn write_gic(
    writer: &mut FdtWriter,
    gic: FdtNode<'_>,
    cells: (usize, usize),
    info: &BootInfo,
    redistributors: &[u64],
) -> Result<(), BootError> {
    let regions = gicv3::host_regions(redistributors);
    let all = core::iter::once(info.distributor).chain(regions.iter().copied());
    let node = writer.begin_node(gic.name()).map_err(BootError::HostTree)?;
    copy_properties(writer, gic, &["reg", "#redistributor-regions", "redistributor-stride"])?;
    let mut result = writer.property("reg", &reg(cells, all)?);
    if regions.len() > 1 {
        let count = regions.len() as u32;
        result = result.and_then(|()| writer.property_u32("#redistributor-regions", count));
    }
    result.and_then(|()| writer.end_node(node)).map_err(BootError::HostTree)
}

/// A PCIe host bridge: nothing of what it says of the SMMU, which is EL2's, and
/// of MSIs, for which there is no ITS.
fn write_bridge(writer: &mut FdtWriter, bridge: FdtNode<'_>) -> Result<(), BootError> {
    let node = writer.begin_node(bridge.name()).map_err(BootError::HostTree)?;
    let gone = ["iommu-map", "iommu-map-mask", "msi-map", "msi-map-mask", "msi-parent"];
    copy_properties(writer, bridge, &gone)?;
    writer.end_node(node).map_err(BootError::HostTree)
}

/// The value of a `reg` property of the root's children.
fn reg(
    (address_cells, size_cells): (usize, usize),
    ranges: impl Iterator<Item = ByteRange>,
) -> Result<Vec<u8>, BootError> {
    let mut value = Vec::new();
    for range in ranges {
        for (number, cells) in [(range.start(), address_cells), (range.size(), size_cells)] {
            let bytes = number.to_be_bytes();
            let (high, low) = bytes.split_at(8 - (4 * cells).min(8));
            if high.iter().any(|&byte| byte != 0) {
                return Err(BootError::BadProperty("#address-cells or #size-cells"));
            }
            value.extend_from_slice(low);
        }
    }
    Ok(value)
}

fn write_memory(
    writer: &mut FdtWriter,
    cells: (usize, usize),
    free: &[ByteRange],
) -> Result<(), BootError> {
    for piece in free {
        let reg = reg(cells, core::iter::once(*piece))?;
        let name = alloc::format!("memory@{:x}", piece.start());
        let node = writer.begin_node(&name).map_err(BootError::HostTree)?;
        writer
            .property_string("device_type", "memory")
            .and_then(|()| writer.property("reg", &reg))
            .and_then(|()| writer.end_node(node))
            .map_err(BootError::HostTree)?;
    }
    Ok(())
}

/// `/chosen` without the boot modules, for the host's kernel, with a seed of
/// its own: the firmware's is bouncer's.
fn write_chosen(
    writer: &mut FdtWriter,
    chosen: FdtNode<'_>,
    info: &BootInfo,
    seed: Option<&[u8]>,
) -> Result<(), BootError> {
    let node = writer.begin_node("chosen").map_err(BootError::HostTree)?;
    for property in chosen.properties() {
        let name = property.name();
        // The firmware's UEFI and its memory map are not the host's, nor what a
        // loader tells a hypervisor.
        let ours = ["bootargs", "linux,initrd-start", "linux,initrd-end", "rng-seed"];
        if !ours.contains(&name) && !name.starts_with("linux,uefi-") && !name.starts_with("xen,") {
            writer.property(name, property.value()).map_err(BootError::HostTree)?;
        }
    }
    let mut result = writer.property_string("bootargs", &info.kernel.command_line);
    if let Some(ramdisk) = &info.ramdisk {
        result = result
            .and_then(|()| writer.property_u64("linux,initrd-start", ramdisk.range.start()))
            .and_then(|()| writer.property_u64("linux,initrd-end", ramdisk.range.end()));
    }
    if let Some(seed) = seed {
        result = result.and_then(|()| writer.property("rng-seed", seed));
    }
    result.and_then(|()| writer.end_node(node)).map_err(BootError::HostTree)
}

/// Copies `node` and `levels` - 1 levels below it.
fn copy_node(writer: &mut FdtWriter, node: FdtNode<'_>, levels: usize) -> Result<(), BootError> {
    if levels == 0 {
        return Ok(());
    }
    let copy = writer.begin_node(node.name()).map_err(BootError::HostTree)?;
    copy_properties(writer, node, &[])?;
    for child in node.children() {
        copy_node(writer, child, levels - 1)?;
    }
    writer.end_node(copy).map_err(BootError::HostTree)
}

fn copy_properties(
    writer: &mut FdtWriter,
    node: FdtNode<'_>,
    except: &[&str],
) -> Result<(), BootError> {
    for property in node.properties() {
        if !except.contains(&property.name()) {
            writer.property(property.name(), property.value()).map_err(BootError::HostTree)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
