//! A buffer that a device is working on, and who may look at it when.
//!
//! The streaming half of the DMA API: *map* gives the buffer to the device,
//! *sync* shows what has come so far, *unmap* ends it. In between the buffer is
//! not the driver's to look at: what the device writes is in a slot, and comes
//! into the buffer by a copy at one of those two moments, and no other. The
//! compiler sees to it:
//!
//! ```compile_fail
//! # use guest::{slots::{Direction, Slots}, streaming::Mapping};
//! # fn peek(slots: &mut Slots) {
//! let mut buffer = [0; 512];
//! let mapping = Mapping::map(slots, &mut buffer, Direction::FromDevice);
//! assert_eq!(buffer[0], 0); // error: the mapping has it
//! mapping.unwrap().unmap(slots);
//! # }
//! ```
//!
//! With the look after `unmap` it is a program:
//!
//! ```
//! # use guest::{slots::{Direction, Slots}, streaming::Mapping};
//! # fn look(slots: &mut Slots) {
//! let mut buffer = [0; 512];
//! let mapping = Mapping::map(slots, &mut buffer, Direction::FromDevice);
//! mapping.unwrap().unmap(slots);
//! assert_eq!(buffer[0], 0);
//! # }
//! ```

use crate::slots::{Direction, Slots};

/// A mapped buffer.
#[derive(Debug)]
#[must_use = "a buffer that is not unmapped keeps its slot"]
pub struct Mapping<'b> {
    slot: *mut u8,
    buffer: &'b mut [u8],
    direction: Direction,
}

impl<'b> Mapping<'b> {
    /// Gives a buffer to the device; `None` if there is no room for it.
    pub fn map(slots: &mut Slots, buffer: &'b mut [u8], direction: Direction) -> Option<Self> {
        let slot = slots.share(buffer, direction)?;
        Some(Self { slot, buffer, direction })
    }

    /// What the device is told: where the slot is. (Of a guest whose DMA
    /// addresses are physical ones.)
    pub fn address(&self) -> u64 {
        self.slot as u64
    }

    /// What the device has written so far. It may go on, but not in these
    /// bytes. `None` if it is not to write at all, or the slots are others.
    pub fn sync(&mut self, slots: &mut Slots) -> Option<&[u8]> {
        let wanted = self.direction != Direction::ToDevice;
        (wanted && slots.sync(self.slot, self.buffer)).then_some(&*self.buffer)
    }

    /// Ends the transfer. False if the slots are others: then nothing is done,
    /// and the slot stays the device's.
    pub fn unmap(self, slots: &mut Slots) -> bool {
        slots.unshare(self.slot, self.buffer, self.direction)
    }
}

#[cfg(test)]
#[allow(unsafe_code)]
mod tests {
    use super::*;
    use alloc::vec;

    #[repr(align(4096))]
    #[derive(Clone)]
    struct Page(#[expect(dead_code, reason = "reached through pointers")] [u8; 4096]);

    fn write(address: u64, byte: u8) {
        // SAFETY: the tests' own memory, in a slot.
        unsafe { (address as *mut u8).write_volatile(byte) };
    }

    #[test]
    fn what_the_device_writes_is_seen_at_sync_and_at_unmap_and_at_no_other_time() {
        let mut memory = vec![Page([0xee; 4096]); 2];
        // SAFETY: two pages that outlive it and are used by nothing else.
        let mut slots = unsafe { Slots::new(memory.as_mut_ptr().cast(), 8192) };
        let mut buffer = [0xaa; 100];
        let private = buffer.as_ptr();
        // SAFETY: it is alive; read as the CPU would find it.
        let now = || unsafe { private.read_volatile() };
        let mut mapping = Mapping::map(&mut slots, &mut buffer, Direction::FromDevice).unwrap();
        let address = mapping.address();
        write(address, 1);
        assert_eq!(now(), 0xaa, "mapped: nothing comes");
        assert_eq!(mapping.sync(&mut slots).unwrap()[0], 1);
        write(address, 2);
        assert_eq!(now(), 1, "after a sync it holds still");
        assert!(mapping.unmap(&mut slots));
        assert_eq!(buffer[0], 2);
        write(address, 3);
        assert_eq!(buffer[0], 2, "unmapped: nothing comes any more");
        assert_eq!(slots.counters().bytes_out, 200);
    }

    #[test]
    fn a_buffer_that_the_device_only_reads_is_never_written() {
        let mut memory = vec![Page([0xee; 4096]); 1];
        // SAFETY: as above.
        let mut slots = unsafe { Slots::new(memory.as_mut_ptr().cast(), 4096) };
        let mut buffer = [7; 64];
        let mut mapping = Mapping::map(&mut slots, &mut buffer, Direction::ToDevice).unwrap();
        write(mapping.address(), 9);
        assert_eq!(mapping.sync(&mut slots), None);
        assert!(mapping.unmap(&mut slots));
        assert_eq!(buffer, [7; 64]);
    }

    #[test]
    fn other_slots_are_not_believed() {
        let mut memory = vec![Page([0xee; 4096]); 2];
        let (first, second) = memory.split_at_mut(1);
        // SAFETY: as above, a page each.
        let mut slots = unsafe { Slots::new(first.as_mut_ptr().cast(), 4096) };
        // SAFETY: as above.
        let mut others = unsafe { Slots::new(second.as_mut_ptr().cast(), 4096) };
        let mut buffer = [7; 64];
        let mut mapping = Mapping::map(&mut slots, &mut buffer, Direction::Both).unwrap();
        assert_eq!(mapping.sync(&mut others), None);
        assert!(!mapping.unmap(&mut others));
        assert_eq!(buffer, [7; 64]);
    }
}
