//! The network backend (virtio 1.4, 5.1): one queue pair, no offloads. Behind
//! the card is no real network but a [`Segment`]: a [`Station`] that answers,
//! and the cards of other guests.

mod segment;
mod services;
mod station;

pub use segment::Segment;
pub use station::{GUEST_MAC, Station};

use alloc::sync::Arc;
use alloc::vec;

use spin::Mutex;

use crate::memory::Memory;
use crate::queue::{Chain, Refusal};

/// Queue the device fills.
pub const RECEIVE: u16 = 0;
/// Queue the driver fills.
pub const TRANSMIT: u16 = 1;

/// `struct virtio_net_hdr` of a device with VERSION_1 (5.1.6): flags, GSO
/// type and sizes, checksum fields, and the number of buffers at 10.
const HEADER: usize = 12;
const NUM_BUFFERS: usize = 10;
/// Longest Ethernet frame: 1500 bytes of payload and the header.
pub(crate) const LONGEST_FRAME: usize = 1514;
const SHORTEST_FRAME: usize = 14;

/// What went through the card.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Traffic {
    /// Frames the guest sent.
    pub sent: u64,
    /// Frames it was given.
    pub received: u64,
    /// Frames of an impossible length, and what lay where the device may not
    /// go: dropped.
    pub dropped: u64,
}

/// The card.
pub struct Net {
    segment: Arc<Mutex<Segment>>,
    port: usize,
    /// Milliseconds since any moment.
    clock: fn() -> i64,
    traffic: Traffic,
}

impl Net {
    /// A card that is plugged into `segment`. What must happen after a while
    /// (something is sent again, a connection forgotten) goes by `clock`.
    pub fn new(segment: Arc<Mutex<Segment>>, clock: fn() -> i64) -> Self {
        let port = segment.lock().plug_in();
        Self { segment, port, clock, traffic: Traffic::default() }
    }

    /// Its address.
    pub fn mac(&self) -> [u8; 6] {
        station::guest_mac(self.port)
    }

    /// What went through so far.
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Time has passed: is there anything for the guest?
    pub fn look(&mut self) -> bool {
        let mut segment = self.segment.lock();
        segment.poll((self.clock)());
        segment.has_frame(self.port)
    }

    /// Does a frame wait for a buffer of the guest's?
    pub fn has_waiting(&self) -> bool {
        self.segment.lock().has_frame(self.port)
    }

    /// Serves a transmitted frame. One that has writable parts or no header,
    /// or may not be read, is dropped: a card has no status to tell of it.
    pub fn transmit<M: Memory + ?Sized>(&mut self, memory: &M, chain: &Chain) {
        if self.send(memory, chain).is_err() {
            self.traffic.dropped += 1;
        }
    }

    fn send<M: Memory + ?Sized>(&mut self, memory: &M, chain: &Chain) -> Result<(), Refusal> {
        let length = chain.readable_bytes().checked_sub(HEADER as u64).ok_or(Refusal::Request)?;
        if chain.writable_bytes() != 0 {
            return Err(Refusal::Request);
        }
        if !(SHORTEST_FRAME as u64..=LONGEST_FRAME as u64).contains(&length) {
            return Err(Refusal::Request);
        }
        let mut frame = vec![0; length as usize];
        chain.read(memory, HEADER as u64, &mut frame)?;
        self.traffic.sent += 1;
        let mut segment = self.segment.lock();
        segment.hear(self.port, frame);
        segment.poll((self.clock)());
        Ok(())
    }

    /// Fills a receive buffer with the frame that waits longest; returns the
    /// bytes written. A buffer that is too small for it loses the frame, as
    /// the driver offered less than 5.1.6.3.1 asks for; so does one that has
    /// readable parts or may not be written.
    pub fn receive<M: Memory + ?Sized>(&mut self, memory: &M, chain: &Chain) -> u32 {
        let Some(frame) = self.segment.lock().take_frame(self.port) else { return 0 };
        match hand_over(&frame, memory, chain) {
            Ok(length) => {
                self.traffic.received += 1;
                length
            }
            Err(_) => {
                self.traffic.dropped += 1;
                0
            }
        }
    }
}

fn hand_over<M: Memory + ?Sized>(frame: &[u8], memory: &M, chain: &Chain) -> Result<u32, Refusal> {
    let length = (HEADER + frame.len()) as u64;
    if chain.readable_bytes() != 0 || chain.writable_bytes() < length {
        return Err(Refusal::Request);
    }
    let mut header = [0; HEADER];
    header[NUM_BUFFERS] = 1;
    chain.write(memory, 0, &header)?;
    chain.write(memory, HEADER as u64, frame)?;
    Ok(length as u32)
}

#[cfg(test)]
mod tests;
