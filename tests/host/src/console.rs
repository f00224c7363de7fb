//! The console backend (virtio 1.4, 5.3): one port, no multiport. What the
//! guest transmits is handed out byte by byte; what it is given waits here
//! until it has a buffer for it.

use alloc::collections::VecDeque;

use crate::memory::Memory;
use crate::queue::Chain;

/// Queue the device fills.
pub const RECEIVE: u16 = 0;
/// Queue the driver fills.
pub const TRANSMIT: u16 = 1;

/// Bytes copied at a time.
const PIECE: usize = 256;
/// Most bytes of one request that are shown; the rest is dropped.
const LONGEST: u64 = 64 * 1024;
/// Most bytes that wait for the guest.
const MOST_WAITING: usize = 4096;

/// The device's end of the port.
#[derive(Debug, Default)]
pub struct Console {
    waiting: VecDeque<u8>,
}

impl Console {
    /// Serves a transmitted buffer: its bytes go to `out`, as far as they may
    /// be read. One with writable parts has none.
    pub fn transmit<M: Memory + ?Sized>(
        &mut self,
        memory: &M,
        chain: &Chain,
        out: &mut dyn FnMut(&[u8]),
    ) {
        if chain.writable_bytes() != 0 {
            return;
        }
        let mut piece = [0; PIECE];
        let end = chain.readable_bytes().min(LONGEST);
        let mut offset = 0;
        while offset < end {
            let length = (end - offset).min(PIECE as u64);
            let Some(bytes) = piece.get_mut(..length as usize) else { break };
            if chain.read(memory, offset, bytes).is_err() {
                break;
            }
            out(bytes);
            offset += length;
        }
    }

    /// How many bytes it takes now.
    pub fn room(&self) -> usize {
        MOST_WAITING.saturating_sub(self.waiting.len())
    }

    /// Gives it a byte for the guest; what finds no room is lost.
    pub fn give(&mut self, byte: u8) {
        if self.room() != 0 {
            self.waiting.push_back(byte);
        }
    }

    /// Does anything wait for a buffer of the guest's?
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Fills a receive buffer with what waits; returns the bytes. One that has
    /// readable parts or may not be written goes back empty, and all waits on.
    pub fn receive<M: Memory + ?Sized>(&mut self, memory: &M, chain: &Chain) -> u32 {
        if chain.readable_bytes() != 0 {
            return 0;
        }
        let length = (self.waiting.len() as u64).min(chain.writable_bytes()) as usize;
        let bytes: alloc::vec::Vec<u8> = self.waiting.iter().take(length).copied().collect();
        if chain.write(memory, 0, &bytes).is_err() {
            return 0;
        }
        self.waiting.drain(..length);
        length as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::tests::{DATA, Driver};
    use std::vec::Vec;

    const WRITE: u16 = 2;

    #[test]
    fn transmitted_bytes_come_out_in_order_across_requests() {
        let mut console = Console::default();
        let mut driver = Driver::new(8);
        let mut queue = driver.queue();
        let mut all = Vec::new();
        for text in [&b"hello "[..], b"world\nagain", b"\n"] {
            driver.memory.write(DATA, text).unwrap();
            driver.describe(0, DATA, text.len() as u32, 0, 0);
            driver.offer(0);
            let chain = queue.pop(&driver.memory).unwrap().unwrap();
            let mut out = |bytes: &[u8]| all.extend_from_slice(bytes);
            console.transmit(&driver.memory, &chain, &mut out);
            queue.push(&driver.memory, &chain, 0).unwrap();
        }
        assert_eq!(all, b"hello world\nagain\n");
    }

    #[test]
    fn what_waits_goes_into_the_guests_buffers_as_far_as_they_reach() {
        let mut console = Console::default();
        b"hello".iter().for_each(|byte| console.give(*byte));
        let mut driver = Driver::new(8);
        let mut queue = driver.queue();
        driver.describe(0, DATA, 4, WRITE, 0);
        for (text, left) in [(&b"hell"[..], true), (b"o", false)] {
            driver.offer(0);
            let chain = queue.pop(&driver.memory).unwrap().unwrap();
            let length = console.receive(&driver.memory, &chain);
            let mut bytes = std::vec![0; length as usize];
            driver.memory.read(DATA, &mut bytes).unwrap();
            assert_eq!(bytes, text);
            assert_eq!(console.has_waiting(), left);
        }
    }

    #[test]
    fn a_guest_that_never_reads_costs_a_bounded_amount_of_memory() {
        let mut console = Console::default();
        (0..2 * MOST_WAITING).for_each(|_| console.give(b'x'));
        assert_eq!((console.waiting.len(), console.room()), (MOST_WAITING, 0));
    }

    #[test]
    fn buffers_of_the_wrong_direction_or_place_go_back_empty() {
        let chain = |address, flags| {
            let mut driver = Driver::new(8);
            driver.describe(0, address, 8, flags, 0);
            driver.offer(0);
            (driver.queue().pop(&driver.memory).unwrap().unwrap(), driver)
        };
        let mut console = Console::default();
        console.give(b'x');
        for (address, flags) in [(DATA, WRITE), (0x4000_0000, 0)] {
            let (chain, driver) = chain(address, flags);
            console.transmit(&driver.memory, &chain, &mut |bytes| panic!("{bytes:?}"));
        }
        for (address, flags) in [(DATA, 0), (0x4000_0000, WRITE)] {
            let (chain, driver) = chain(address, flags);
            assert_eq!(console.receive(&driver.memory, &chain), 0);
            assert!(console.has_waiting());
        }
    }
}
