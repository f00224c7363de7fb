//! DMA that a loader has left on.
//!
//! A loader's network card or disk may go on writing into memory that is
//! bouncer's or a guest's by then. So before anything is decided about memory,
//! every function behind a PCI host bridge loses its right to be a bus master
//! (PCI Local Bus Specification 3.0, 6.2.2, Command bit 2), bridges included,
//! which forward nothing then; and every virtio-mmio device is reset (virtio
//! 1.2, 4.2.3.1). The host cannot switch anything on again: it reaches neither.
//! What cannot be silenced is refused.

use crate::boot_info::BootError;
use crate::parse::{Tree, cells, is_compatible, is_device_type, is_enabled, ranges};
use crate::range::ByteRange;
use dtoolkit::fdt::FdtNode;
use dtoolkit::{Node, Property};

/// 32-bit registers at physical addresses.
pub trait Registers {
    /// Reads one.
    ///
    /// # Errors
    /// [`BootError::BadProperty`] if no device can be reached there.
    fn read(&mut self, address: u64) -> Result<u32, BootError>;

    /// Writes one.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn write(&mut self, address: u64, value: u32) -> Result<(), BootError>;
}

/// What was still on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Silenced {
    /// PCI functions that were bus masters.
    pub functions: u32,
    /// virtio-mmio devices whose driver had not given them back.
    pub transports: u32,
}

/// Bytes of configuration space of a bus and of a function (PCI Express Base
/// Specification 7.2.2, ECAM).
const BUS: u64 = 1 << 20;
const FUNCTION: u64 = 1 << 12;
/// Functions of a device, and devices of a bus.
const FUNCTIONS: u64 = 8;
const DEVICES: u64 = 32;
/// Vendor and device; all ones where nothing answers.
const ID: u64 = 0x00;
/// Command in the low half. The high half, Status, is cleared by ones.
const COMMAND: u64 = 0x04;
const BUS_MASTER: u32 = 1 << 2;
/// Header type at bits 23:16: its layout, and whether there are more functions.
const HEADER: u64 = 0x0c;
const MULTIFUNCTION: u32 = 1 << 23;
const BRIDGE: u32 = 1;
/// Of a bridge: primary, secondary and subordinate bus.
const BUSES: u64 = 0x18;

/// Magic number and status of a virtio-mmio device (virtio 1.2, 4.2.2).
const MAGIC: u64 = 0x000;
const STATUS: u64 = 0x070;
const VIRTIO: u32 = 0x7472_6976;
/// Looks at a status before its device is given up.
const PATIENCE: u32 = 1_000_000;

/// Silences every device of the tree that can do DMA.
///
/// # Errors
/// [`BootError::CannotSilence`], or a broken node.
pub fn silence(tree: Tree<'_>, registers: &mut impl Registers) -> Result<Silenced, BootError> {
    let root = tree.fdt().root();
    let cells = cells(root)?;
    let mut silenced = Silenced::default();
    for node in root.children().filter(|&node| is_enabled(node)) {
        if is_compatible(node, "virtio,mmio") {
            silenced.transports += u32::from(reset(first_range(node, cells)?, registers)?);
        } else if is_compatible(node, "pci-host-ecam-generic") {
            let (first, last) = buses(node)?;
            let ecam = first_range(node, cells)?;
            silenced.functions += HostBridge { ecam, first, last }.silence(registers)?;
        } else {
            no_bridge(node, 8)?;
        }
    }
    Ok(silenced)
}

/// Refuses a host bridge of another kind, or one that is behind another bus.
fn no_bridge(node: FdtNode<'_>, levels: usize) -> Result<(), BootError> {
    if is_device_type(node, "pci") {
        return Err(BootError::CannotSilence);
    }
    for child in node.children().filter(|&child| is_enabled(child)) {
        no_bridge(child, levels.checked_sub(1).ok_or(BootError::CannotSilence)?)?;
    }
    Ok(())
}

fn first_range(node: FdtNode<'_>, cells: (usize, usize)) -> Result<ByteRange, BootError> {
    const BAD: BootError = BootError::BadProperty("reg of a device with DMA");
    let reg = node.property("reg").ok_or(BAD)?;
    ranges(reg.value(), cells).next().unwrap_or(Err(BAD))
}

/// `bus-range`, all buses by default.
fn buses(node: FdtNode<'_>) -> Result<(u8, u8), BootError> {
    let Some(range) = node.property("bus-range") else { return Ok((0, 255)) };
    match *range.value() {
        [0, 0, 0, first, 0, 0, 0, last] if first <= last => Ok((first, last)),
        _ => Err(BootError::BadProperty("bus-range")),
    }
}

/// Resets a transport; says whether a driver had it.
fn reset(range: ByteRange, registers: &mut impl Registers) -> Result<bool, BootError> {
    let at = range.start();
    if registers.read(at + MAGIC)? != VIRTIO {
        return Ok(false);
    }
    let used = registers.read(at + STATUS)? != 0;
    registers.write(at + STATUS, 0)?;
    // The device is reset once it says so (virtio 1.2, 2.4.2).
    for _ in 0..PATIENCE {
        if registers.read(at + STATUS)? == 0 {
            return Ok(used);
        }
    }
    Err(BootError::CannotSilence)
}

/// A host bridge with memory-mapped configuration space.
struct HostBridge {
    ecam: ByteRange,
    first: u8,
    last: u8,
}

impl HostBridge {
    /// Takes bus mastering from every function that can be reached: on the
    /// first bus, and on those that bridges there and further down lead to.
    fn silence(&self, registers: &mut impl Registers) -> Result<u32, BootError> {
        let mut reached = [false; 256];
        let mut done = [false; 256];
        if let Some(first) = reached.get_mut(usize::from(self.first)) {
            *first = true;
        }
        let mut masters = 0;
        loop {
            let next = (self.first..=self.last).find(|&bus| {
                let bus = usize::from(bus);
                reached.get(bus) == Some(&true) && done.get(bus) == Some(&false)
            });
            let Some(bus) = next else { return Ok(masters) };
            if let Some(done) = done.get_mut(usize::from(bus)) {
                *done = true;
            }
            masters += self.silence_bus(bus, registers, &mut reached)?;
        }
    }

    fn silence_bus(
        &self,
        bus: u8,
        registers: &mut impl Registers,
        reached: &mut [bool; 256],
    ) -> Result<u32, BootError> {
        let mut masters = 0;
        for device in 0..DEVICES {
            for function in 0..FUNCTIONS {
                let number =
                    u64::from(bus - self.first) * BUS + (device * FUNCTIONS + function) * FUNCTION;
                let Some(at) = self.ecam.start().checked_add(number) else { break };
                if !self.ecam.contains(ByteRange::between(at, at.saturating_add(FUNCTION))) {
                    return Ok(masters);
                }
                if registers.read(at + ID)? & 0xffff == 0xffff {
                    // Function 0 is there if any is.
                    match function {
                        0 => break,
                        _ => continue,
                    }
                }
                let command = registers.read(at + COMMAND)?;
                masters += u32::from(command & BUS_MASTER != 0);
                registers.write(at + COMMAND, command & 0xffff & !BUS_MASTER)?;
                // What the function has written before arrives before the
                // answer (PCI Express Base Specification 2.4.1).
                if registers.read(at + COMMAND)? & BUS_MASTER != 0 {
                    return Err(BootError::CannotSilence);
                }
                let header = registers.read(at + HEADER)?;
                if header >> 16 & 0x7f == BRIDGE {
                    let buses = registers.read(at + BUSES)?;
                    let [_, secondary, subordinate, _] = buses.to_le_bytes();
                    for below in secondary..=subordinate {
                        if let Some(reached) = reached.get_mut(usize::from(below)) {
                            *reached |= below != 0;
                        }
                    }
                }
                if function == 0 && header & MULTIFUNCTION == 0 {
                    break;
                }
            }
        }
        Ok(masters)
    }
}

#[cfg(test)]
mod tests;
