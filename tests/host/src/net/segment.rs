//! What the cards of all guests are plugged into: a switch with the station
//! and one port for each guest.
//!
//! A frame goes where its destination address says: to all others if that is a
//! group's. Only a guest's own address is looked at; which port an address is
//! at is known from the start, so there is nothing that a guest could make the
//! switch believe.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::station::{MOST_FRAMES, Station, guest_mac};

/// The switch.
pub struct Segment {
    station: Station,
    /// Frames for the guest at each port.
    ports: Vec<VecDeque<Vec<u8>>>,
}

impl Segment {
    /// A switch with a station and nobody else.
    pub fn new(station: Station) -> Self {
        Self { station, ports: Vec::new() }
    }

    /// Plugs a guest's card in; returns its port, from 0.
    pub fn plug_in(&mut self) -> usize {
        self.ports.push(VecDeque::new());
        self.ports.len() - 1
    }

    /// A frame arrives from a port.
    pub(super) fn hear(&mut self, from: usize, frame: Vec<u8>) {
        for port in self.receivers(&frame).filter(|port| *port != from).collect::<Vec<_>>() {
            self.give(port, frame.clone());
        }
        self.station.hear(frame);
    }

    /// The station answers and does what is due at `milliseconds`.
    pub(super) fn poll(&mut self, milliseconds: i64) {
        self.station.poll(milliseconds);
        while let Some(frame) = self.station.take_frame() {
            for port in self.receivers(&frame).collect::<Vec<_>>() {
                self.give(port, frame.clone());
            }
        }
    }

    /// Is there a frame for a port?
    pub(super) fn has_frame(&self, port: usize) -> bool {
        self.ports.get(port).is_some_and(|frames| !frames.is_empty())
    }

    /// The oldest one.
    pub(super) fn take_frame(&mut self, port: usize) -> Option<Vec<u8>> {
        self.ports.get_mut(port)?.pop_front()
    }

    /// The ports that a frame is for.
    fn receivers(&self, frame: &[u8]) -> impl Iterator<Item = usize> {
        let to: [u8; 6] = frame.first_chunk().copied().unwrap_or_default();
        // The lowest bit of the first byte: a group (IEEE 802, 8.2.2).
        let group = to[0] & 1 == 1;
        (0..self.ports.len()).filter(move |port| group || to == guest_mac(*port))
    }

    /// A guest that does not take its frames loses those that come later.
    fn give(&mut self, port: usize, frame: Vec<u8>) {
        let frames = self.ports.get_mut(port);
        if let Some(frames) = frames.filter(|frames| frames.len() < MOST_FRAMES) {
            frames.push_back(frame);
        }
    }
}
