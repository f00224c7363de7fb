//! The machine's device tree, changed before bouncer sees it.
//!
//! QEMU writes down the tree that it would hand over (`dumpdtb`), modules
//! included, and takes another in its place (`-dtb`). So a machine can look
//! like a board whose firmware keeps memory for itself.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, anyhow, ensure};
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use vm_fdt::{FdtReserveEntry, FdtWriter};

use crate::qemu::{self, Boot};

/// Memory that a tree is to reserve.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Entries of the memory reservation block.
    pub entries: Vec<Range<u64>>,
    /// Children of `/reserved-memory`: their ranges, and whether they are
    /// `no-map`.
    pub nodes: Vec<(Vec<Range<u64>>, bool)>,
}

impl Reserved {
    /// Some of every kind, within 8 MiB from `at` on, which must be a multiple
    /// of 2 MiB: half a page and a half, two ranges in one node, and a block.
    #[must_use]
    pub fn of_every_kind(at: u64) -> Self {
        const BLOCK: u64 = 2 << 20;
        let range = |from: u64, bytes: u64| at + from..at + from + bytes;
        Self {
            entries: vec![range(0x1800, 0x1000)],
            nodes: vec![
                (vec![range(BLOCK, BLOCK)], true),
                (vec![range(2 * BLOCK + 0x3000, 0x1000), range(3 * BLOCK, 0x3000)], false),
            ],
        }
    }
}

/// Gives `boot` a tree that reserves `reserved` besides what it did; `folder`
/// holds the files.
///
/// # Errors
/// When QEMU does not tell its tree, or that cannot be changed.
pub fn reserve(boot: &mut Boot, reserved: &Reserved, folder: &Path) -> Result<()> {
    let tree = std::fs::read(dump(boot, folder)?)?;
    let changed = with_reserved(&tree, reserved)?;
    let file = folder.join("reserved.dtb");
    std::fs::write(&file, changed)?;
    boot.machine.extra.extend(["-dtb".to_owned(), file.display().to_string()]);
    Ok(())
}

/// The tree that QEMU would hand over.
fn dump(boot: &Boot, folder: &Path) -> Result<PathBuf> {
    let file = folder.join("machine.dtb");
    let machine = format!("dumpdtb={}", qemu::escaped(&file.display().to_string()));
    let output = std::process::Command::new(qemu::PROGRAM)
        .args(["-chardev", "null,id=console"])
        .args(boot.arguments())
        .args(["-machine", &machine])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", qemu::PROGRAM))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "QEMU does not tell its device tree: {}", said.trim());
    Ok(file)
}

/// The same tree with more of its memory reserved.
fn with_reserved(tree: &[u8], reserved: &Reserved) -> Result<Vec<u8>> {
    let tree = Fdt::new(tree).map_err(|error| anyhow!("QEMU's device tree: {error}"))?;
    write(&tree, reserved).map_err(|error| anyhow!("the device tree cannot be written: {error}"))
}

fn write(tree: &Fdt<'_>, reserved: &Reserved) -> Result<Vec<u8>, vm_fdt::Error> {
    let size = |range: &Range<u64>| range.end - range.start;
    let entries: Result<Vec<_>, _> = reserved
        .entries
        .iter()
        .map(|range| FdtReserveEntry::new(range.start, size(range)))
        .collect();
    let mut writer = FdtWriter::new_with_mem_reserv(&entries?)?;
    let root = writer.begin_node("")?;
    copy_properties(&mut writer, tree.root())?;
    tree.root().children().try_for_each(|child| copy(&mut writer, child))?;
    if !reserved.nodes.is_empty() {
        let parent = writer.begin_node("reserved-memory")?;
        writer.property_u32("#address-cells", 2)?;
        writer.property_u32("#size-cells", 2)?;
        writer.property_null("ranges")?;
        for (number, (ranges, no_map)) in reserved.nodes.iter().enumerate() {
            let node = writer.begin_node(&format!("firmware{number}"))?;
            let reg: Vec<u64> = ranges.iter().flat_map(|r| [r.start, size(r)]).collect();
            writer.property_array_u64("reg", &reg)?;
            if *no_map {
                writer.property_null("no-map")?;
            }
            writer.end_node(node)?;
        }
        writer.end_node(parent)?;
    }
    writer.end_node(root)?;
    writer.finish()
}

fn copy(writer: &mut FdtWriter, node: FdtNode<'_>) -> Result<(), vm_fdt::Error> {
    let copy = writer.begin_node(node.name())?;
    copy_properties(writer, node)?;
    node.children().try_for_each(|child| self::copy(writer, child))?;
    writer.end_node(copy)
}

fn copy_properties(writer: &mut FdtWriter, node: FdtNode<'_>) -> Result<(), vm_fdt::Error> {
    node.properties().try_for_each(|property| writer.property(property.name(), property.value()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Result<Vec<u8>, vm_fdt::Error> {
        let mut writer = FdtWriter::new()?;
        let root = writer.begin_node("")?;
        writer.property_u32("#address-cells", 2)?;
        let chosen = writer.begin_node("chosen")?;
        writer.property_string("bootargs", "log=debug")?;
        writer.end_node(chosen)?;
        writer.end_node(root)?;
        writer.finish()
    }

    #[test]
    fn a_tree_keeps_what_it_said_and_reserves_more() -> Result<()> {
        let reserved = Reserved::of_every_kind(0x4000_0000);
        let changed = with_reserved(&small().map_err(|error| anyhow!("{error}"))?, &reserved)?;
        let tree = Fdt::new(&changed).map_err(|error| anyhow!("{error}"))?;
        let chosen = tree.root().child("chosen").context("no /chosen")?;
        let bootargs = chosen.property("bootargs").context("no bootargs")?;
        assert_eq!(bootargs.value(), b"log=debug\0");
        let entries: Vec<_> =
            tree.memory_reservations().map(|entry| (entry.address(), entry.size())).collect();
        assert_eq!(entries, [(0x4000_1800, 0x1000)]);
        let node = tree.root().child("reserved-memory").context("no reserved memory")?;
        assert_eq!(node.children().count(), 2);
        assert_eq!(node.children().filter(|child| child.property("no-map").is_some()).count(), 1);
        Ok(())
    }
}
