//! The device side of a split virtqueue (virtio 1.4, 2.7), for a driver that
//! may be hostile.
//!
//! Two rules make it safe. Every descriptor is copied once, whole, before any
//! of it is looked at, so that a second vCPU that rewrites it changes nothing
//! (D7). And every number that came from the ring is checked before it is
//! used as an index or a length.
//!
//! What fails a check is one of two things. If the ring itself makes no sense
//! ([`Hostile`]), nothing that stands in it can be answered, and the device
//! needs a reset (2.1.2). If only a buffer lies where the device may not go,
//! the chain is [refused](Chain::refused): it is returned like any other, with
//! whatever error the device's type knows, for a driver waits for an answer to
//! each of its requests and for ever.

use alloc::vec::Vec;
use core::fmt;

use crate::memory::{Fault, Memory};

/// Descriptor flag: the chain continues at `next`.
const NEXT: u16 = 1;
/// Descriptor flag: the device writes this buffer.
const WRITE: u16 = 2;
/// Descriptor flag: the buffer holds a table of descriptors.
const INDIRECT: u16 = 4;
/// Bytes of a descriptor.
const DESCRIPTOR: u64 = 16;
/// Most descriptors of one indirect table that this device accepts. Linux
/// never makes more than the queue's size, `virtio-drivers` never more than 8.
const MAX_INDIRECT: u64 = 1024;
/// Available-ring flag: the driver does not want an interrupt.
const NO_INTERRUPT: u16 = 1;

/// Where a queue lies, in the address space of the backend's [`Memory`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rings {
    /// Number of descriptors, a power of two up to 32768.
    pub size: u16,
    /// Descriptor table.
    pub descriptors: u64,
    /// Available ring ("driver area").
    pub driver: u64,
    /// Used ring ("device area").
    pub device: u64,
}

impl Rings {
    /// The three areas as (address, bytes), event fields included.
    fn areas(&self) -> [(u64, u64); 3] {
        let size = u64::from(self.size);
        [
            (self.descriptors, DESCRIPTOR * size),
            (self.driver, 6 + 2 * size),
            (self.device, 6 + 8 * size),
        ]
    }
}

/// What the driver did to a ring that no driver may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hostile {
    /// The queue's size is 0 or no power of two, or an area wraps or is
    /// misaligned.
    Rings,
    /// A ring lies outside of what the backend may touch.
    Address(Fault),
    /// `avail.idx` moved by more than the queue's size (D2).
    IndexJump,
    /// A head or `next` beyond the table (D2).
    DescriptorIndex,
    /// More descriptors than the table has: a loop (D1).
    Loop,
    /// An indirect descriptor inside an indirect table, or with NEXT, or
    /// without the feature (D1).
    Indirect,
    /// An indirect table of length 0, no multiple of 16, or huge (D4).
    IndirectLength,
    /// A readable buffer after a writable one (2.7.4.2, D10).
    Order,
}

impl fmt::Display for Hostile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Hostile::Rings => "rings of a wrong size or place",
            Hostile::Address(Fault { address }) => {
                return write!(f, "address {address:#x} is not the device's to touch");
            }
            Hostile::IndexJump => "the available index jumped",
            Hostile::DescriptorIndex => "a descriptor index beyond the table",
            Hostile::Loop => "a chain longer than its table",
            Hostile::Indirect => "an indirect table where none may be",
            Hostile::IndirectLength => "an indirect table of a wrong length",
            Hostile::Order => "a readable buffer after a writable one",
        };
        f.write_str(text)
    }
}

impl From<Fault> for Hostile {
    fn from(fault: Fault) -> Self {
        Hostile::Address(fault)
    }
}

/// Why a request cannot be served, though the ring it came in is sound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// An address that the backend may not touch.
    Address(Fault),
    /// A buffer of length 0, one that wraps, or a chain over 2³² bytes (D3).
    Length,
    /// A buffer that lies in the queue's own rings (D10).
    InRings,
    /// The request is malformed: too short, wrong direction.
    Request,
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Refusal::Address(fault)
    }
}

/// One buffer of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Guest address.
    pub address: u64,
    /// Bytes. Of a chain that is not refused at least one, and none wraps.
    pub length: u32,
}

/// One request: its buffers in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    head: u16,
    readable: Vec<Segment>,
    writable: Vec<Segment>,
    refused: Option<Refusal>,
    /// Where the last writable byte is, if its buffer is sound.
    last_writable: Option<u64>,
}

impl Chain {
    /// Number of its first descriptor: its name in the rings.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Why none of its buffers may be used, if one of them is unsound.
    pub fn refused(&self) -> Option<Refusal> {
        self.refused
    }

    /// Bytes the driver wrote for the device.
    pub fn readable_bytes(&self) -> u64 {
        total(&self.readable)
    }

    /// Bytes the device may write.
    pub fn writable_bytes(&self) -> u64 {
        total(&self.writable)
    }

    /// Copies `into.len()` bytes of the readable part, from byte `offset` of
    /// it. Where the buffers' borders are does not matter (2.7.4.1).
    ///
    /// # Errors
    /// Why the chain is refused, [`Refusal::Request`] if the part is shorter,
    /// or the memory's fault.
    pub fn read<M: Memory + ?Sized>(
        &self,
        memory: &M,
        offset: u64,
        into: &mut [u8],
    ) -> Result<(), Refusal> {
        self.sound()?;
        let mut rest = into;
        for (address, length) in pieces(&self.readable, offset, rest.len() as u64)? {
            let (piece, tail) =
                rest.split_at_mut_checked(length as usize).ok_or(Refusal::Request)?;
            memory.read(address, piece)?;
            rest = tail;
        }
        Ok(())
    }

    /// Copies `from` into the writable part, from byte `offset` of it.
    ///
    /// # Errors
    /// Why the chain is refused, [`Refusal::Request`] if the part is shorter,
    /// or the memory's fault.
    pub fn write<M: Memory + ?Sized>(
        &self,
        memory: &M,
        offset: u64,
        from: &[u8],
    ) -> Result<(), Refusal> {
        self.sound()?;
        let mut rest = from;
        for (address, length) in pieces(&self.writable, offset, rest.len() as u64)? {
            let (piece, tail) = rest.split_at_checked(length as usize).ok_or(Refusal::Request)?;
            memory.write(address, piece)?;
            rest = tail;
        }
        Ok(())
    }

    /// Writes its last writable byte, which is a status in some devices, even
    /// of a chain that is refused for another buffer of it.
    ///
    /// # Errors
    /// When there is no such byte, or it may not be written.
    pub fn write_last<M: Memory + ?Sized>(&self, memory: &M, byte: u8) -> Result<(), Refusal> {
        let at = self.last_writable.ok_or(self.refused.unwrap_or(Refusal::Request))?;
        // A buffer that begins where the device may not go has no sound end,
        // wherever that is: at offset 0 of device memory, below a bounce BAR.
        if let Some(buffer) = self.writable.last() {
            memory.read(buffer.address, &mut [0])?;
        }
        Ok(memory.write(at, &[byte])?)
    }

    /// The first reason counts.
    fn refuse(&mut self, refusal: Refusal) {
        self.refused.get_or_insert(refusal);
    }

    fn sound(&self) -> Result<(), Refusal> {
        self.refused.map_or(Ok(()), Err)
    }
}

/// Sum of lengths; that of a chain that is not refused is below 2³².
fn total(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| u64::from(segment.length)).sum()
}

/// The (address, length) pieces that hold `length` bytes from `offset` of the
/// concatenated segments.
fn pieces(segments: &[Segment], offset: u64, length: u64) -> Result<Vec<(u64, u64)>, Refusal> {
    let mut skip = offset;
    let mut left = length;
    let mut found = Vec::new();
    for segment in segments {
        let size = u64::from(segment.length);
        if left == 0 {
            break;
        }
        if skip >= size {
            skip -= size;
            continue;
        }
        let take = left.min(size - skip);
        found.push((segment.address + skip, take));
        left -= take;
        skip = 0;
    }
    if left == 0 { Ok(found) } else { Err(Refusal::Request) }
}

/// A descriptor, copied out of guest memory.
#[derive(Clone, Copy)]
struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    /// Copies entry `index` of the table at `table`. The one place where a
    /// descriptor is read: nothing looks at guest memory again afterwards.
    fn fetch<M: Memory + ?Sized>(memory: &M, table: u64, index: u64) -> Result<Self, Fault> {
        let at = table.checked_add(index * DESCRIPTOR).ok_or(Fault { address: table })?;
        let mut bytes = [0u8; 16];
        memory.read(at, &mut bytes)?;
        let raw = u128::from_le_bytes(bytes);
        Ok(Self {
            address: raw as u64,
            length: (raw >> 64) as u32,
            flags: (raw >> 96) as u16,
            next: (raw >> 112) as u16,
        })
    }
}

/// What [`Queue::spoil`] writes: as a descriptor, nearly 4 GiB at an address
/// that nobody has.
const SPOILT: [u8; 16] = [0xee; 16];

/// The device side of one queue.
#[derive(Debug)]
pub struct Queue {
    rings: Rings,
    event_index: bool,
    indirect: bool,
    /// The next entry of the available ring to look at.
    next_available: u16,
    /// The next entry of the used ring to fill.
    next_used: u16,
}

impl Queue {
    /// A queue the driver has just enabled. `event_index` and `indirect` say
    /// whether those features were accepted.
    ///
    /// # Errors
    /// [`Hostile::Rings`] if the layout breaks 2.7.
    pub fn new(rings: Rings, event_index: bool, indirect: bool) -> Result<Self, Hostile> {
        let aligned = rings.descriptors.is_multiple_of(16)
            && rings.driver.is_multiple_of(2)
            && rings.device.is_multiple_of(4);
        let fits = rings.areas().iter().all(|(start, bytes)| start.checked_add(*bytes).is_some());
        if !rings.size.is_power_of_two() || !aligned || !fits {
            return Err(Hostile::Rings);
        }
        Ok(Self { rings, event_index, indirect, next_available: 0, next_used: 0 })
    }

    /// The next request, or `None` if the driver has made no more available;
    /// it will then notify for the next one. A request that is refused must be
    /// returned all the same.
    ///
    /// # Errors
    /// What is wrong with the ring. It is not usable any more.
    pub fn pop<M: Memory + ?Sized>(&mut self, memory: &M) -> Result<Option<Chain>, Hostile> {
        if !self.anything_available(memory)? {
            if !self.event_index {
                return Ok(None);
            }
            // Ask for a notification of the next entry, then look once more:
            // it may have come before the driver saw the question (2.7.10.1).
            let event = self.rings.device + 4 + 8 * u64::from(self.rings.size);
            memory.store_index(event, self.next_available)?;
            if !self.anything_available(memory)? {
                return Ok(None);
            }
        }
        let slot = u64::from(self.next_available % self.rings.size);
        let mut head = [0u8; 2];
        memory.read(self.rings.driver + 4 + 2 * slot, &mut head)?;
        let chain = self.collect(memory, u16::from_le_bytes(head))?;
        self.next_available = self.next_available.wrapping_add(1);
        Ok(Some(chain))
    }

    /// Returns a request to the driver, `written` bytes of it filled.
    /// True if the driver wants an interrupt.
    ///
    /// # Errors
    /// A ring that is no longer accessible.
    pub fn push<M: Memory + ?Sized>(
        &mut self,
        memory: &M,
        chain: &Chain,
        written: u32,
    ) -> Result<bool, Hostile> {
        let slot = u64::from(self.next_used % self.rings.size);
        let mut element = [0u8; 8];
        element[..4].copy_from_slice(&u32::from(chain.head).to_le_bytes());
        element[4..].copy_from_slice(&written.to_le_bytes());
        memory.write(self.rings.device + 4 + 8 * slot, &element)?;
        let before = self.next_used;
        self.next_used = before.wrapping_add(1);
        memory.store_index(self.rings.device + 2, self.next_used)?;
        self.wants_interrupt(memory, before)
    }

    /// Writes what no honest device writes: any id and length into the next
    /// used element, and the index `advance` further. For tests of drivers.
    ///
    /// # Errors
    /// A ring that is not accessible.
    pub fn forge<M: Memory + ?Sized>(
        &mut self,
        memory: &M,
        id: u32,
        length: u32,
        advance: u16,
    ) -> Result<(), Hostile> {
        let slot = u64::from(self.next_used % self.rings.size);
        let element = u64::from(id) | u64::from(length) << 32;
        memory.write(self.rings.device + 4 + 8 * slot, &element.to_le_bytes())?;
        self.next_used = self.next_used.wrapping_add(advance);
        memory.store_index(self.rings.device + 2, self.next_used)?;
        Ok(())
    }

    /// Rewrites what was given for a request, after it: its first descriptor in
    /// the table, and every byte of its buffers, those that the device should
    /// only read included. For tests of drivers.
    ///
    /// # Errors
    /// Memory that is not accessible.
    pub fn spoil<M: Memory + ?Sized>(&self, memory: &M, chain: &Chain) -> Result<(), Hostile> {
        let descriptor = self.rings.descriptors + DESCRIPTOR * u64::from(chain.head);
        memory.write(descriptor, &SPOILT)?;
        for segment in chain.readable.iter().chain(&chain.writable) {
            let mut at = segment.address;
            // (A refused chain may hold a buffer that wraps.)
            let end = at.saturating_add(u64::from(segment.length));
            while at < end {
                let piece = (end - at).min(SPOILT.len() as u64);
                memory.write(at, SPOILT.get(..piece as usize).unwrap_or_default())?;
                at += piece;
            }
        }
        Ok(())
    }

    /// Has `avail.idx` moved on, and not by more than there can be?
    fn anything_available<M: Memory + ?Sized>(&self, memory: &M) -> Result<bool, Hostile> {
        let index = memory.load_index(self.rings.driver + 2)?;
        let waiting = index.wrapping_sub(self.next_available);
        if waiting > self.rings.size { Err(Hostile::IndexJump) } else { Ok(waiting != 0) }
    }

    /// Does the driver want to hear of the used entry after `before`?
    fn wants_interrupt<M: Memory + ?Sized>(
        &self,
        memory: &M,
        before: u16,
    ) -> Result<bool, Hostile> {
        if !self.event_index {
            return Ok(memory.load_index(self.rings.driver)? & NO_INTERRUPT == 0);
        }
        let event = memory.load_index(self.rings.driver + 4 + 2 * u64::from(self.rings.size))?;
        // 2.7.7.2: the index moved past the event.
        let moved = self.next_used.wrapping_sub(before);
        Ok(self.next_used.wrapping_sub(event).wrapping_sub(1) < moved)
    }

    /// Follows a chain from `head`, copying every descriptor once.
    fn collect<M: Memory + ?Sized>(&self, memory: &M, head: u16) -> Result<Chain, Hostile> {
        let mut walk = Walk::new(self.rings);
        let mut chain = Chain {
            head,
            readable: Vec::new(),
            writable: Vec::new(),
            refused: None,
            last_writable: None,
        };
        let mut index = head;
        for _ in 0..self.rings.size {
            if index >= self.rings.size {
                return Err(Hostile::DescriptorIndex);
            }
            let descriptor = Descriptor::fetch(memory, self.rings.descriptors, index.into())?;
            if descriptor.flags & INDIRECT != 0 {
                if !self.indirect || descriptor.flags & NEXT != 0 {
                    return Err(Hostile::Indirect);
                }
                self.collect_indirect(memory, descriptor, &mut walk, &mut chain)?;
                return Ok(chain);
            }
            walk.add(descriptor, &mut chain)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(chain);
            }
            index = descriptor.next;
        }
        Err(Hostile::Loop)
    }

    /// Follows the chain inside an indirect table (2.7.5.3).
    fn collect_indirect<M: Memory + ?Sized>(
        &self,
        memory: &M,
        table: Descriptor,
        walk: &mut Walk,
        chain: &mut Chain,
    ) -> Result<(), Hostile> {
        let bytes = u64::from(table.length);
        let entries = bytes / DESCRIPTOR;
        if entries == 0 || !bytes.is_multiple_of(DESCRIPTOR) || entries > MAX_INDIRECT {
            return Err(Hostile::IndirectLength);
        }
        if let Err(refusal) = walk.check_place(table) {
            chain.refuse(refusal);
            return Ok(());
        }
        let mut index = 0;
        for _ in 0..entries {
            if index >= entries {
                return Err(Hostile::DescriptorIndex);
            }
            let descriptor = match Descriptor::fetch(memory, table.address, index) {
                Ok(descriptor) => descriptor,
                Err(fault) => {
                    chain.refuse(fault.into());
                    return Ok(());
                }
            };
            if descriptor.flags & INDIRECT != 0 {
                return Err(Hostile::Indirect);
            }
            walk.add(descriptor, chain)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(());
            }
            index = descriptor.next.into();
        }
        Err(Hostile::Loop)
    }
}

/// The checks that span a chain.
struct Walk {
    rings: Rings,
    bytes: u64,
}

impl Walk {
    fn new(rings: Rings) -> Self {
        Self { rings, bytes: 0 }
    }

    /// Puts a buffer on the chain, which is refused if the buffer is unsound.
    fn add(&mut self, descriptor: Descriptor, chain: &mut Chain) -> Result<(), Hostile> {
        let place = self.check_place(descriptor);
        self.bytes += u64::from(descriptor.length);
        if let Err(refusal) = place {
            chain.refuse(refusal);
        } else if self.bytes > u64::from(u32::MAX) {
            chain.refuse(Refusal::Length);
        }
        let segment = Segment { address: descriptor.address, length: descriptor.length };
        if descriptor.flags & WRITE != 0 {
            // Nothing lies at the end of an unsound buffer, and an empty one
            // has no byte at all.
            chain.last_writable = place.ok().map(|end| end - 1);
            chain.writable.push(segment);
        } else if chain.writable.is_empty() {
            chain.readable.push(segment);
        } else {
            return Err(Hostile::Order);
        }
        Ok(())
    }

    /// Checks that a buffer has bytes, does not wrap and is not in the rings;
    /// gives its end.
    fn check_place(&self, descriptor: Descriptor) -> Result<u64, Refusal> {
        let start = descriptor.address;
        let end = start.checked_add(descriptor.length.into()).ok_or(Refusal::Length)?;
        if start == end {
            return Err(Refusal::Length);
        }
        let in_rings = self.rings.areas().iter().any(|(at, bytes)| start < at + bytes && *at < end);
        if in_rings { Err(Refusal::InRings) } else { Ok(end) }
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
pub(crate) mod tests;
