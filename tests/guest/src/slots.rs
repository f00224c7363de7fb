//! Bounce slots: the only bytes of a transfer that a device ever sees.
//!
//! A driver's buffer stays private. What the device shall read is copied into
//! a slot; a slot the device shall write starts as zeros, never as whatever
//! the buffer held, and is copied out exactly once; a slot that is given back
//! is scrubbed first. The device may write into a slot at any time, so nothing
//! is ever decided by reading one twice.

#![allow(unsafe_code)]

use crate::pool::Pool;
use core::sync::atomic::{Ordering, fence};

/// Who writes the buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// The driver; the device only reads.
    ToDevice,
    /// The device; the driver only reads.
    FromDevice,
    /// Both.
    Both,
}

/// What has been done with slots, in bytes and calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Bytes copied from private buffers into slots.
    pub bytes_in: u64,
    /// Bytes copied from slots into private buffers.
    pub bytes_out: u64,
    /// Buffers that got a slot.
    pub shares: u64,
    /// Slots given back.
    pub unshares: u64,
}

/// A region that a device can see, and its slots.
pub struct Slots {
    base: *mut u8,
    pool: Pool,
    counters: Counters,
}

// SAFETY: the region belongs to this value alone (see `new`).
unsafe impl Send for Slots {}

impl Slots {
    /// The region of `bytes` bytes at `base`.
    ///
    /// # Safety
    /// It must be mapped, writable, page-aligned, used by no other part of the
    /// program, and stay so for as long as the value lives.
    pub unsafe fn new(base: *mut u8, bytes: usize) -> Self {
        Self { base, pool: Pool::new(bytes), counters: Counters::default() }
    }

    /// A zeroed piece for long-lived structures (rings); `None` if there is
    /// no room.
    pub fn allocate(&mut self, bytes: usize, align: usize) -> Option<*mut u8> {
        let offset = self.pool.allocate(bytes, align)?;
        Some(self.zero(offset, bytes))
    }

    /// Scrubs a piece and takes it back; false, and nothing done, if it was
    /// not handed out.
    pub fn release(&mut self, piece: *mut u8, bytes: usize) -> bool {
        let offset = (piece as usize).wrapping_sub(self.base as usize);
        if self.pool.free(offset, bytes).is_err() {
            return false;
        }
        self.zero(offset, bytes);
        true
    }

    /// A slot for `buffer`, filled as `direction` demands; `None` if there is
    /// no room.
    pub fn share(&mut self, buffer: &[u8], direction: Direction) -> Option<*mut u8> {
        let slot = self.allocate(buffer.len(), 1)?;
        if direction != Direction::FromDevice {
            // SAFETY: the pool gave this slot to us alone, and it is at least
            // as long as the buffer, which is private and so disjoint.
            unsafe { core::ptr::copy_nonoverlapping(buffer.as_ptr(), slot, buffer.len()) };
            self.counters.bytes_in += buffer.len() as u64;
        }
        self.counters.shares += 1;
        Some(slot)
    }

    /// Ends a transfer: copies out once what the device wrote, scrubs the slot
    /// and takes it back. False, and nothing done, if `slot` is not a slot of
    /// that length.
    pub fn unshare(&mut self, slot: *mut u8, buffer: &mut [u8], direction: Direction) -> bool {
        let offset = (slot as usize).wrapping_sub(self.base as usize);
        // Given back first, so that a wrong slot is noticed before a byte of
        // it is believed. Nobody else can take it: `self` is borrowed.
        if self.pool.free(offset, buffer.len()).is_err() {
            return false;
        }
        if direction != Direction::ToDevice {
            // The used ring was read before: what it announced is visible.
            fence(Ordering::Acquire);
            let piece = self.base.wrapping_add(offset);
            // SAFETY: the slot was handed out with this length, so it lies in
            // the region; the buffer is private and so disjoint. The device
            // may be writing: a torn copy is the device's loss, and the copy
            // is what everybody judges from here on.
            unsafe { core::ptr::copy_nonoverlapping(piece, buffer.as_mut_ptr(), buffer.len()) };
            self.counters.bytes_out += buffer.len() as u64;
        }
        self.zero(offset, buffer.len());
        self.counters.unshares += 1;
        true
    }

    /// Copies out what the device has written so far; the transfer goes on.
    /// False, and nothing done, if `slot` is not a slot of that length.
    pub fn sync(&mut self, slot: *const u8, buffer: &mut [u8]) -> bool {
        let offset = (slot as usize).wrapping_sub(self.base as usize);
        if !self.pool.is_taken(offset, buffer.len()) {
            return false;
        }
        fence(Ordering::Acquire);
        let piece = self.base.wrapping_add(offset);
        // SAFETY: as in `unshare`: the whole of it is a slot in the region.
        unsafe { core::ptr::copy_nonoverlapping(piece, buffer.as_mut_ptr(), buffer.len()) };
        self.counters.bytes_out += buffer.len() as u64;
        true
    }

    fn zero(&mut self, offset: usize, bytes: usize) -> *mut u8 {
        let piece = self.base.wrapping_add(offset);
        // SAFETY: the pool gives out offsets inside the region only, and this
        // piece is nobody else's.
        unsafe { core::ptr::write_bytes(piece, 0, bytes) };
        piece
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Most bytes in use at once.
    pub fn high_water(&self) -> usize {
        self.pool.high_water()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[repr(align(4096))]
    #[derive(Clone)]
    struct Page(#[expect(dead_code, reason = "reached through pointers")] [u8; 4096]);

    struct Window(Vec<Page>);

    impl Window {
        fn new() -> Self {
            Self(alloc::vec![Page([0xee; 4096]); 4])
        }

        fn slots(&mut self) -> Slots {
            // SAFETY: the pages outlive the test's slots and are read only
            // through `bytes`.
            unsafe { Slots::new(self.0.as_mut_ptr().cast(), 4 * 4096) }
        }
    }

    fn bytes(slot: *mut u8, length: usize) -> Vec<u8> {
        // SAFETY: a live slot of the window.
        unsafe { core::slice::from_raw_parts(slot, length).to_vec() }
    }

    #[test]
    fn the_device_reads_the_buffer_and_nothing_else() {
        let mut window = Window::new();
        let mut slots = window.slots();
        let slot = slots.share(b"to the device", Direction::ToDevice).unwrap();
        assert_eq!(bytes(slot, 13), b"to the device");
        let mut buffer = *b"to the device";
        // SAFETY: the device scribbles over its slot.
        unsafe { slot.write_bytes(0x55, 13) };
        assert!(slots.unshare(slot, &mut buffer, Direction::ToDevice));
        assert_eq!(&buffer, b"to the device");
    }

    #[test]
    fn a_buffer_the_device_shall_write_does_not_leak_what_it_held() {
        let mut window = Window::new();
        let mut slots = window.slots();
        let mut buffer = *b"old private text";
        let slot = slots.share(&buffer, Direction::FromDevice).unwrap();
        assert_eq!(bytes(slot, 16), [0; 16]);
        // A device that writes less than it claims leaves zeros, not leftovers.
        // SAFETY: the device writes into its slot.
        unsafe { slot.write_bytes(b'x', 4) };
        assert!(slots.unshare(slot, &mut buffer, Direction::FromDevice));
        assert_eq!(&buffer, b"xxxx\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(slots.counters().bytes_in, 0);
    }

    #[test]
    fn a_slot_given_back_is_scrubbed() {
        let mut window = Window::new();
        let mut slots = window.slots();
        let mut buffer = *b"secret";
        let slot = slots.share(&buffer, Direction::Both).unwrap();
        assert!(slots.unshare(slot, &mut buffer, Direction::Both));
        assert_eq!(bytes(slot, 6), [0; 6]);
    }

    #[test]
    fn a_slot_that_was_never_given_out_is_not_believed() {
        let mut window = Window::new();
        let mut slots = window.slots();
        let mut buffer = [7; 64];
        let slot = slots.share(&buffer, Direction::FromDevice).unwrap();
        let foreign = slot.wrapping_add(64);
        assert!(!slots.unshare(foreign, &mut buffer, Direction::FromDevice));
        assert!(!slots.unshare(core::ptr::null_mut(), &mut buffer, Direction::FromDevice));
        assert_eq!(buffer, [7; 64]);
        assert!(slots.unshare(slot, &mut buffer, Direction::FromDevice));
        assert!(!slots.unshare(slot, &mut buffer, Direction::FromDevice));
        assert_eq!(
            slots.counters(),
            Counters { bytes_out: 64, shares: 1, unshares: 1, bytes_in: 0 }
        );
    }

    #[test]
    fn rings_start_as_zeros_and_pages_stay_aligned() {
        let mut window = Window::new();
        let mut slots = window.slots();
        slots.share(&[1], Direction::ToDevice).unwrap();
        let ring = slots.allocate(4096, 4096).unwrap();
        assert!((ring as usize).is_multiple_of(4096));
        assert_eq!(bytes(ring, 4096), [0; 4096]);
        assert!(slots.release(ring, 4096));
        assert!(!slots.release(ring, 4096));
        assert_eq!(slots.high_water(), 4096 + 64);
    }
}
