//! The device tree the host is given.
//!
//! It is the firmware's tree, copied node by node, with what the host may not
//! use left out, the memory of bouncer taken out of the memory nodes, and the
//! command line and ramdisk of the boot modules put into `/chosen`. Leaving a
//! device out protects nothing (stage 2 does that): it keeps an honest host
//! from probing what would abort.

use crate::boot_info::{BootError, BootInfo};
use crate::parse::Tree;
use crate::range::ByteRange;
use crate::reserved::MAX_FIRMWARE;
use crate::{MAX_BANKS, Platform};
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use dtoolkit::fdt::FdtNode;
use dtoolkit::{Node, Property};
use vm_fdt::FdtWriter;

/// Most pieces of memory: every hole in it makes one more. bouncer has two.
const MAX_PIECES: usize = MAX_BANKS + MAX_FIRMWARE + 2;
/// Deepest nesting that is copied; the boards' trees have four levels.
const MAX_DEPTH: usize = 16;

/// Writes the host's tree, from the firmware's `tree` of a board `P`, without
/// the page-aligned memory in `kept` (bouncer's and firmware's) and with `seed`
/// instead of the firmware's random bytes.
///
/// # Errors
/// [`BootError::HostTree`], or [`BootError::TooMany`] pieces of memory.
pub fn write<P: Platform>(
    tree: Tree<'_>,
    info: &BootInfo,
    kept: &[ByteRange],
    seed: Option<&[u8]>,
) -> Result<Vec<u8>, BootError> {
    let tree = tree.fdt();
    let mut writer = FdtWriter::new().map_err(BootError::HostTree)?;
    let root = writer.begin_node("").map_err(BootError::HostTree)?;
    copy_properties(&mut writer, tree.root(), &[])?;
    for node in tree.root().children() {
        match node.name_without_address() {
            "memory" | "reserved-memory" => {}
            "chosen" => write_chosen(&mut writer, node, info, seed)?,
            // An interrupt controller's children are its ITS or MSI frames:
            // DMA masters and doorbells that stay with bouncer.
            "intc" => copy_node(&mut writer, node, 1)?,
            name if P::host_may_see(name) => copy_node(&mut writer, node, MAX_DEPTH)?,
            _ => {}
        }
    }
    write_memory(&mut writer, &host_memory(info, kept)?)?;
    writer.end_node(root).and_then(|()| writer.finish()).map_err(BootError::HostTree)
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

fn write_memory(writer: &mut FdtWriter, free: &[ByteRange]) -> Result<(), BootError> {
    for piece in free {
        let name = alloc::format!("memory@{:x}", piece.start());
        let node = writer.begin_node(&name).map_err(BootError::HostTree)?;
        writer
            .property_string("device_type", "memory")
            .and_then(|()| writer.property_array_u64("reg", &[piece.start(), piece.size()]))
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
    copy_properties(
        writer,
        chosen,
        &["bootargs", "linux,initrd-start", "linux,initrd-end", "rng-seed"],
    )?;
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
