//! From the firmware's device tree to a [`BootInfo`].
//!
//! The tree comes from outside and may be anything. `dtoolkit` validates the
//! whole structure before the first property is read ([`validate`]); values
//! are then taken apart here with bounds checked, so that no tree ends in a
//! panic.

mod modules;

use crate::boot_info::{BootError, BootInfo, COMMAND_LINE_SIZE, Conduit, MAX_SEED, Seed};
use crate::range::ByteRange;
use crate::reserved;
use crate::{MAX_BANKS, MAX_CPUS, MAX_GIC_REGIONS};
use arrayvec::{ArrayString, ArrayVec};
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

/// Bytes before the fields bouncer reads of the header: magic and total size.
pub const TREE_HEADER_SIZE: usize = 8;
/// Largest tree the boot protocol allows (2 MiB), so that a wrong size field
/// cannot make bouncer read beyond it.
pub const MAX_TREE_SIZE: u32 = 0x20_0000;
const TREE_MAGIC: [u8; 4] = [0xd0, 0x0d, 0xfe, 0xed];
const PAGE: u64 = 4096;

/// Size of the tree that starts with `header`.
///
/// # Errors
/// [`BootError::NoTree`] if it is none, [`BootError::TreeTooLong`].
pub fn tree_size(header: [u8; TREE_HEADER_SIZE]) -> Result<u32, BootError> {
    let [a, b, c, d, size @ ..] = header;
    let size = u32::from_be_bytes(size);
    if [a, b, c, d] != TREE_MAGIC {
        return Err(BootError::NoTree);
    }
    if size > MAX_TREE_SIZE {
        return Err(BootError::TreeTooLong(size));
    }
    Ok(size)
}

/// A device tree whose structure is sound, whatever its values say.
#[derive(Clone, Copy, Debug)]
pub struct Tree<'a>(Fdt<'a>);

impl<'a> Tree<'a> {
    pub(crate) fn fdt(self) -> Fdt<'a> {
        self.0
    }

    /// Its bytes.
    pub fn bytes(self) -> &'a [u8] {
        self.0.data()
    }
}

/// Checks the structure of `tree`, exactly its total size long.
///
/// # Errors
/// [`BootError::BrokenTree`].
pub fn validate(tree: &[u8]) -> Result<Tree<'_>, BootError> {
    Fdt::new(tree).map(Tree).map_err(BootError::BrokenTree)
}

/// Reads what bouncer needs out of a tree.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn parse(tree: Tree<'_>) -> Result<BootInfo, BootError> {
    let tree = tree.fdt();
    let root = tree.root();
    let chosen = root.child("chosen").ok_or(BootError::Missing("/chosen"))?;
    let (cpus, cpus_left_off) = cpus(root)?;
    let gic = interrupt_controller(root)?;
    let modules = modules::read(chosen)?;
    Ok(BootInfo {
        memory: memory(root)?,
        reserved: reserved::read(tree)?,
        cpus,
        cpus_left_off,
        conduit: conduit(root)?,
        distributor: gic.distributor,
        redistributors: gic.redistributors,
        redistributor_stride: gic.stride,
        uart: uart(root)?,
        rtc: rtc(root)?,
        kernel: modules.kernel.ok_or(BootError::NoKernel)?,
        ramdisk: modules.ramdisk,
        command_line: command_line(chosen)?,
        seed: seed(tree, chosen),
    })
}

/// A bus's `#address-cells` and `#size-cells`, each 1 or 2 (DTSpec 2.3.5).
pub(crate) fn cells(bus: FdtNode<'_>) -> Result<(usize, usize), BootError> {
    let count = |name, default| match bus.property(name).map(|cells| cells.value_as::<u32>()) {
        None => Ok(default),
        Some(Ok(count @ 0..=2)) => Ok(count as usize),
        Some(_) => Err(BootError::BadProperty(name)),
    };
    Ok((count("#address-cells", 2)?, count("#size-cells", 1)?))
}

/// Takes a big-endian number of `cells` 32-bit cells off the front.
pub(crate) fn take(bytes: &mut &[u8], cells: usize) -> Option<u64> {
    let (value, rest) = bytes.split_at_checked(cells * 4)?;
    *bytes = rest;
    Some(value.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

/// The entries of a `reg` value.
pub(crate) fn ranges(
    mut value: &[u8],
    (address_cells, size_cells): (usize, usize),
) -> impl Iterator<Item = Result<ByteRange, BootError>> {
    core::iter::from_fn(move || {
        if value.is_empty() {
            return None;
        }
        // A bus without address cells has no addresses; it would not advance.
        let range = take(&mut value, address_cells.max(1))
            .zip(take(&mut value, size_cells))
            .and_then(|(start, size)| ByteRange::new(start, size));
        if range.is_none() {
            value = &[];
        }
        Some(range.ok_or(BootError::BadProperty("reg")))
    })
}

fn text(
    node: FdtNode<'_>,
    name: &'static str,
) -> Result<ArrayString<COMMAND_LINE_SIZE>, BootError> {
    let Some(property) = node.property(name) else { return Ok(ArrayString::new()) };
    let text = property.value_as::<&str>().map_err(|_| BootError::BadProperty(name))?;
    ArrayString::from(text).map_err(|_| BootError::TooMany("characters in a command line"))
}

/// bouncer's own words: those for the hypervisor if Xen's convention keeps them
/// apart.
fn command_line(chosen: FdtNode<'_>) -> Result<ArrayString<COMMAND_LINE_SIZE>, BootError> {
    const XENS: &str = "xen,xen-bootargs";
    text(chosen, if chosen.property(XENS).is_some() { XENS } else { "bootargs" })
}

/// The firmware's random bytes. None, or too few to be of use, is no error.
fn seed(tree: Fdt<'_>, chosen: FdtNode<'_>) -> Option<Seed> {
    const LEAST: usize = 16;
    let property = chosen.property("rng-seed")?;
    let all = property.value();
    let start = all.as_ptr().addr().checked_sub(tree.data().as_ptr().addr())?;
    let used = all.get(..all.len().min(MAX_SEED)).filter(|used| used.len() >= LEAST)?;
    let bytes = used.iter().copied().collect();
    Some(Seed { bytes, place: start..start + all.len() })
}

pub(crate) fn is_device_type(node: FdtNode<'_>, kind: &str) -> bool {
    node.property("device_type").is_some_and(|value| value.value_as::<&str>() == Ok(kind))
}

/// May it be used (DTSpec 2.3.4)?
pub(crate) fn is_enabled(node: FdtNode<'_>) -> bool {
    match node.property("status") {
        None => true,
        Some(status) => matches!(status.value_as::<&str>(), Ok("okay" | "ok")),
    }
}

fn memory(root: FdtNode<'_>) -> Result<ArrayVec<ByteRange, MAX_BANKS>, BootError> {
    let cells = cells(root)?;
    let mut banks = ArrayVec::new();
    for node in root.children().filter(|&node| is_device_type(node, "memory") && is_enabled(node)) {
        let reg = node.property("reg").ok_or(BootError::Missing("memory reg"))?;
        for bank in ranges(reg.value(), cells) {
            let bank = bank?.shrunk_to(PAGE);
            if !bank.is_empty() {
                add_bank(&mut banks, bank)?;
            }
        }
    }
    banks.sort_unstable_by_key(|bank: &ByteRange| bank.start());
    if banks.is_empty() {
        return Err(BootError::Missing("memory"));
    }
    Ok(banks)
}

/// Adds a bank and merges it with all that it touches: firmware and loaders
/// tell of the same memory more than once, whole and in parts.
fn add_bank(
    banks: &mut ArrayVec<ByteRange, MAX_BANKS>,
    mut bank: ByteRange,
) -> Result<(), BootError> {
    let touches = |a: ByteRange, b: ByteRange| a.start() <= b.end() && b.start() <= a.end();
    while let Some(index) = banks.iter().position(|&other| touches(other, bank)) {
        let other = banks.swap_remove(index);
        bank = ByteRange::between(bank.start().min(other.start()), bank.end().max(other.end()));
    }
    banks.try_push(bank).map_err(|_| BootError::TooMany("memory banks"))
}

fn cpus(root: FdtNode<'_>) -> Result<(ArrayVec<u64, MAX_CPUS>, usize), BootError> {
    const NO_CPUS: BootError = BootError::Missing("CPU under /cpus");
    let node = root.child("cpus").ok_or(NO_CPUS)?;
    let (address_cells, _) = cells(node)?;
    let (mut cpus, mut left_off) = (ArrayVec::new(), 0);
    for cpu in node.children().filter(|&cpu| is_device_type(cpu, "cpu") && is_enabled(cpu)) {
        let affinity = affinity(cpu, address_cells)?;
        if cpus.contains(&affinity) {
            return Err(BootError::BadProperty("cpu reg, which two CPUs have,"));
        }
        if cpus.try_push(affinity).is_err() {
            left_off += 1;
        }
    }
    if cpus.is_empty() { Err(NO_CPUS) } else { Ok((cpus, left_off)) }
}

/// A CPU's affinity, which its `reg` is.
pub(crate) fn affinity(cpu: FdtNode<'_>, address_cells: usize) -> Result<u64, BootError> {
    let reg = cpu.property("reg").ok_or(BootError::Missing("cpu reg"))?;
    take(&mut reg.value(), address_cells.max(1)).ok_or(BootError::BadProperty("cpu reg"))
}

fn conduit(root: FdtNode<'_>) -> Result<Conduit, BootError> {
    const NO_PSCI: BootError = BootError::Missing("psci node");
    let psci = find(root, "arm,psci-1.0").or_else(|| find(root, "arm,psci-0.2")).ok_or(NO_PSCI)?;
    match psci.property("method").map(|method| method.value_as::<&str>()) {
        Some(Ok("smc")) => Ok(Conduit::Smc),
        Some(Ok("hvc")) => Ok(Conduit::Hvc),
        _ => Err(BootError::BadProperty("psci method")),
    }
}

pub(crate) fn is_compatible(node: FdtNode<'_>, compatible: &str) -> bool {
    node.compatible().is_some_and(|mut names| names.any(|name| name == compatible))
}

fn find<'a>(root: FdtNode<'a>, compatible: &str) -> Option<FdtNode<'a>> {
    root.children().find(|&node| is_compatible(node, compatible) && is_enabled(node))
}

/// What the tree says of the GICv3 (Linux's binding arm,gic-v3).
struct Gic {
    distributor: ByteRange,
    redistributors: ArrayVec<ByteRange, MAX_GIC_REGIONS>,
    stride: Option<u64>,
}

fn interrupt_controller(root: FdtNode<'_>) -> Result<Gic, BootError> {
    const BAD_REG: BootError = BootError::BadProperty("GIC reg");
    let gic = find(root, "arm,gic-v3").ok_or(BootError::NoGicV3)?;
    let reg = gic.property("reg").ok_or(BootError::Missing("GIC reg"))?;
    let mut all = ranges(reg.value(), cells(root)?);
    let distributor = all.next().unwrap_or(Err(BAD_REG))?;
    let count = match gic.property("#redistributor-regions").map(|count| count.value_as::<u32>()) {
        None => 1,
        Some(Ok(count @ 1..)) => count as usize,
        Some(_) => return Err(BootError::BadProperty("GIC #redistributor-regions")),
    };
    let mut redistributors = ArrayVec::new();
    for region in all.by_ref().take(count) {
        let full = |_| BootError::TooMany("regions of redistributors");
        redistributors.try_push(region?).map_err(full)?;
    }
    if redistributors.len() != count {
        return Err(BAD_REG);
    }
    let stride = match gic.property("redistributor-stride").map(|stride| number(stride.value())) {
        None => None,
        Some(Some(stride)) if stride.is_multiple_of(0x1_0000) => Some(stride),
        Some(_) => return Err(BootError::BadProperty("GIC redistributor-stride")),
    };
    Ok(Gic { distributor, redistributors, stride: stride.filter(|&stride| stride != 0) })
}

/// A number of one or two cells, as long as the property is.
fn number(mut value: &[u8]) -> Option<u64> {
    match value.len() {
        4 => take(&mut value, 1),
        8 => take(&mut value, 2),
        _ => None,
    }
}

/// The node that `/chosen/stdout-path` names, by path or by alias.
fn stdout<'a>(root: FdtNode<'a>) -> Option<FdtNode<'a>> {
    let text = |node: FdtNode<'a>, name: &str| node.property(name)?.value_as::<&str>().ok();
    let chosen = text(root.child("chosen")?, "stdout-path")?;
    // What follows a colon is the line's speed and format.
    let chosen = chosen.split(':').next()?;
    let path = match chosen.starts_with('/') {
        true => chosen,
        false => text(root.child("aliases")?, chosen)?,
    };
    let name = path.strip_prefix('/')?;
    root.children().find(|node| node.name() == name)
}

/// The board's console: the PL011 that `stdout-path` names, or else the first.
fn uart(root: FdtNode<'_>) -> Result<ByteRange, BootError> {
    let usable = |node: &FdtNode<'_>| is_compatible(*node, "arm,pl011") && is_enabled(*node);
    let named = stdout(root).filter(usable);
    let uart = named.or_else(|| find(root, "arm,pl011")).ok_or(BootError::Missing("PL011"))?;
    let reg = uart.property("reg").ok_or(BootError::Missing("PL011 reg"))?;
    ranges(reg.value(), cells(root)?).next().unwrap_or(Err(BootError::BadProperty("PL011 reg")))
}

/// The board's PL031. One that shares a page with something else is left to
/// nobody: stage 2 could not tell them apart.
fn rtc(root: FdtNode<'_>) -> Result<Option<ByteRange>, BootError> {
    let reg = find(root, "arm,pl031").and_then(|rtc| rtc.property("reg"));
    let Some(reg) = reg else { return Ok(None) };
    let range = ranges(reg.value(), cells(root)?).next().and_then(Result::ok);
    Ok(range.filter(|range| !range.is_empty() && range.grown_to(PAGE) == Some(*range)))
}

#[cfg(test)]
mod tests;
