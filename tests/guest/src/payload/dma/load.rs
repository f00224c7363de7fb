//! The load: many requests in flight, and one kick for all of them.

#![allow(unsafe_code)]

use alloc::rc::Rc;
use alloc::vec::Vec;

use rt::mmio;
use virtio_drivers::Hal;
use virtio_drivers::device::blk::{BlkReq, BlkResp, RespStatus, VirtIOBlk};

use crate::payload::checked_transport::{CheckedTransport, Plug};
use crate::payload::interrupts;

/// Longest wait for a batch, in milliseconds.
const PATIENCE: u64 = 20_000;
/// Most requests in flight: entries of the driver's queue.
pub(super) const DEPTH: usize = 16;
/// Most bytes of a request.
pub(super) const MOST: usize = 256 << 10;
/// Bytes of memory that the buffers take.
pub(super) const BYTES: usize = DEPTH * MOST;

/// Where a batch is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum When {
    /// One more request is mapped for the device, or one less.
    Changed,
    /// All are, and the device has not been kicked.
    InFlight,
    /// All are back and unmapped.
    Back,
}

/// A disk and the buffers of its requests.
pub(super) struct Load<'a, H: Hal> {
    disk: VirtIOBlk<H, CheckedTransport>,
    plug: Rc<Plug>,
    /// The register of the kick.
    kick: usize,
    flights: Vec<Flight<'a>>,
}

/// A request: its three buffers, and whether it writes.
struct Flight<'a> {
    header: BlkReq,
    data: &'a mut [u8],
    status: BlkResp,
    write: bool,
    token: u16,
}

impl<'a, H: Hal> Load<'a, H> {
    /// A disk whose kicks `plug` keeps back, and [`BYTES`] bytes of memory for
    /// its buffers.
    pub(super) fn new(
        disk: VirtIOBlk<H, CheckedTransport>,
        (plug, kick): (Rc<Plug>, usize),
        memory: &'a mut [u8],
    ) -> Self {
        let flight = |data| Flight {
            header: BlkReq::default(),
            data,
            status: BlkResp::default(),
            write: false,
            token: 0,
        };
        let flights = memory.chunks_exact_mut(MOST).take(DEPTH).map(flight).collect();
        Self { disk, plug, kick, flights }
    }

    /// Fills the buffers: what they hold is the guest's alone.
    pub(super) fn fill(&mut self, byte: u8) {
        self.flights.iter_mut().for_each(|flight| flight.data.fill(byte));
    }

    /// Fills the first `bytes` bytes of each.
    pub(super) fn fill_first(&mut self, bytes: usize, byte: u8) {
        for flight in &mut self.flights {
            if let Some(data) = flight.data.get_mut(..bytes) {
                data.fill(byte);
            }
        }
    }

    /// Makes `depth` requests of `bytes` bytes, kicks once, and waits for all
    /// of them. Those for which `writes` says so of their number are writes.
    /// `tell` hears how far it has come. False if one failed, or did not come
    /// back: then no more may be made.
    pub(super) fn batch(
        &mut self,
        depth: usize,
        bytes: usize,
        writes: impl Fn(usize) -> bool,
        tell: &mut dyn FnMut(When),
    ) -> bool {
        let sectors = bytes / 512;
        let places = (self.disk.capacity() as usize / sectors).max(1);
        self.plug.hold();
        for (number, flight) in self.flights.iter_mut().enumerate().take(depth) {
            let first = number % places * sectors;
            let Some(data) = flight.data.get_mut(..bytes) else { return false };
            flight.write = writes(number);
            let (header, status) = (&mut flight.header, &mut flight.status);
            // SAFETY: header, data and status are in `self`, and nothing
            // touches them until `take` has completed the request. One that
            // does not come back ends the guest.
            let token = unsafe {
                if flight.write {
                    self.disk.write_blocks_nb(first, header, data, status)
                } else {
                    self.disk.read_blocks_nb(first, header, data, status)
                }
            };
            let Ok(token) = token else { return false };
            flight.token = token;
            tell(When::Changed);
        }
        tell(When::InFlight);
        if self.plug.release() {
            // SAFETY: the notification register of queue 0.
            unsafe { mmio::write16(self.kick, 0) };
        }
        let served = (0..depth).all(|_| {
            let taken = self.take(depth, bytes);
            tell(When::Changed);
            taken
        });
        tell(When::Back);
        served
    }

    /// Waits for a request and completes it.
    fn take(&mut self, depth: usize, bytes: usize) -> bool {
        let disk = &mut self.disk;
        let mut used = disk.peek_used();
        if used.is_none() {
            interrupts::wait(PATIENCE, || {
                used = disk.peek_used();
                used.is_some()
            });
        }
        let Some(token) = used else { return false };
        let mut flights = self.flights.iter_mut().take(depth);
        let Some(flight) = flights.find(|flight| flight.token == token) else { return false };
        let Some(data) = flight.data.get_mut(..bytes) else { return false };
        let (header, status) = (&flight.header, &mut flight.status);
        // SAFETY: the three that were given with this token.
        let done = unsafe {
            if flight.write {
                disk.complete_write_blocks(token, header, data, status)
            } else {
                disk.complete_read_blocks(token, header, data, status)
            }
        };
        done.is_ok() && flight.status.status() == RespStatus::OK
    }
}
