//! Memory that firmware reserved, and whose it is.
//!
//! A tree reserves memory in two ways: with the entries of its memory
//! reservation block (`/memreserve/`, Devicetree Specification 5.3) and with
//! the children of `/reserved-memory` that have a `reg` (3.5), `no-map` or
//! not. Either means that somebody else lives there: secure firmware, a
//! management processor, a log. bouncer does not know who, so the memory is
//! nobody's ([`firmware`]): not the host's, not a guest's and not bouncer's.
//!
//! "The client program shall not access memory in a reserved region unless
//! other information provided by the boot program explicitly indicates that it
//! shall do so" (5.3.2). There is such information about two things: the tree
//! itself, whose address is in x0, and the ramdisk. Loaders reserve both in
//! the block so that a kernel does not write over them (U-Boot does when it
//! boots with `booti`). An entry that *begins where one of them begins* is
//! about that one, which was handed over: its pages are not reserved. Whatever
//! else overlaps what the loader handed over is a contradiction, and refused.

use crate::MAX_BANKS;
use crate::boot_info::{BootError, BootInfo};
use crate::parse::{cells, is_enabled, ranges};
use crate::range::ByteRange;
use arrayvec::ArrayVec;
use dtoolkit::fdt::Fdt;
use dtoolkit::{Node, Property};

/// Most reservations of both kinds. Boards with many processors besides the
/// application's have fifty.
pub const MAX_RESERVATIONS: usize = 64;
/// Most pieces of RAM that are left to firmware.
pub const MAX_FIRMWARE: usize = MAX_RESERVATIONS + MAX_BANKS;

const PAGE: u64 = 4096;
const WHAT: &str = "memory that firmware reserved";

/// How a tree reserves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An entry of the memory reservation block.
    Entry,
    /// A child of `/reserved-memory`.
    Node,
}

/// What a tree reserves, byte by byte as it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reservation {
    /// Where.
    pub range: ByteRange,
    /// How.
    pub kind: Kind,
}

/// What is left to firmware: whole pages of RAM, ascending, apart.
pub type FirmwareMemory = ArrayVec<ByteRange, MAX_FIRMWARE>;

/// Reads the reservations of either kind. A child without `reg` leaves the
/// place to the operating system, which is the host's business; so does one
/// that is disabled.
pub(crate) fn read(tree: Fdt<'_>) -> Result<ArrayVec<Reservation, MAX_RESERVATIONS>, BootError> {
    let mut reserved = ArrayVec::new();
    let mut add = |range: ByteRange, kind| match range.is_empty() {
        true => Ok(()),
        false => reserved
            .try_push(Reservation { range, kind })
            .map_err(|_| BootError::TooMany("memory reservations")),
    };
    for entry in tree.memory_reservations() {
        let range = ByteRange::new(entry.address(), entry.size())
            .ok_or(BootError::BadProperty("memory reservation"))?;
        add(range, Kind::Entry)?;
    }
    if let Some(node) = tree.root().child("reserved-memory") {
        let cells = cells(node)?;
        for child in node.children().filter(|&child| is_enabled(child)) {
            let Some(reg) = child.property("reg") else { continue };
            for range in ranges(reg.value(), cells) {
                add(range?, Kind::Node)?;
            }
        }
    }
    Ok(reserved)
}

/// What of RAM is left to firmware: every page that a reservation touches.
/// `bouncer` and `tree` are where bouncer's image and the tree itself are.
///
/// # Errors
/// [`BootError::Overlap`] if something that was handed over lies in it.
pub fn firmware(
    info: &BootInfo,
    bouncer: ByteRange,
    tree: ByteRange,
) -> Result<FirmwareMemory, BootError> {
    let mut reserved = ArrayVec::<ByteRange, MAX_RESERVATIONS>::new();
    let ramdisk = info.ramdisk.as_ref().map(|ramdisk| ramdisk.range);
    for reservation in &info.reserved {
        let handed_over = [Some(tree), ramdisk].into_iter().flatten();
        let range = match reservation.kind {
            Kind::Entry => without_handed_over(reservation.range, handed_over),
            Kind::Node => reservation.range,
        };
        let pages = range.grown_to(PAGE).ok_or(BootError::BadProperty("memory reservation"))?;
        if !range.is_empty() {
            reserved.try_push(pages).map_err(|_| BootError::TooMany("memory reservations"))?;
        }
    }
    let firmware = inside_ram(info, merged(reserved))?;
    refuse_overlap(&firmware, bouncer, "bouncer's image")?;
    refuse_overlap(&firmware, tree, "the device tree")?;
    refuse_overlap(&firmware, info.kernel.range, "the host kernel")?;
    ramdisk.map_or(Ok(()), |ramdisk| refuse_overlap(&firmware, ramdisk, "the ramdisk"))?;
    Ok(firmware)
}

/// `named` must not lie in memory that firmware keeps.
///
/// # Errors
/// [`BootError::Overlap`].
pub(crate) fn refuse_overlap(
    firmware: &[ByteRange],
    range: ByteRange,
    named: &'static str,
) -> Result<(), BootError> {
    match firmware.iter().any(|kept| kept.overlaps(range)) {
        true => Err(BootError::Overlap(named, WHAT)),
        false => Ok(()),
    }
}

/// What an entry reserves beside the pages of the thing it is about.
fn without_handed_over(
    entry: ByteRange,
    mut handed_over: impl Iterator<Item = ByteRange>,
) -> ByteRange {
    match handed_over.find(|thing| thing.start() == entry.start() && !thing.is_empty()) {
        Some(thing) => {
            let end = thing.end().checked_next_multiple_of(PAGE).unwrap_or(entry.end());
            ByteRange::between(end, entry.end())
        }
        None => entry,
    }
}

/// The same memory in ascending runs that are apart: trees like to reserve the
/// same memory in both ways.
fn merged(
    mut ranges: ArrayVec<ByteRange, MAX_RESERVATIONS>,
) -> ArrayVec<ByteRange, MAX_RESERVATIONS> {
    ranges.sort_unstable_by_key(|range| range.start());
    let mut runs = ArrayVec::<ByteRange, MAX_RESERVATIONS>::new();
    for range in ranges {
        match runs.last_mut() {
            Some(last) if range.start() <= last.end() => {
                *last = ByteRange::between(last.start(), last.end().max(range.end()));
            }
            // Not more runs than ranges.
            _ => runs.push(range),
        }
    }
    runs
}

/// The parts of `runs` that are RAM. What is reserved elsewhere is nobody's
/// without a word.
fn inside_ram(info: &BootInfo, runs: impl AsRef<[ByteRange]>) -> Result<FirmwareMemory, BootError> {
    let mut inside = FirmwareMemory::new();
    for bank in &info.memory {
        for run in runs.as_ref() {
            let (start, end) = (run.start().max(bank.start()), run.end().min(bank.end()));
            if start < end {
                inside
                    .try_push(ByteRange::between(start, end))
                    .map_err(|_| BootError::TooMany("memory reservations"))?;
            }
        }
    }
    Ok(inside)
}

#[cfg(test)]
mod tests;
