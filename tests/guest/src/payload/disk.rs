//! The disk: `virtio-drivers`' block driver, waiting by interrupt or by
//! polling.

#![allow(unsafe_code)]

use super::checked_transport::CheckedTransport;
use super::interrupts;
use guest::files::{Disk, SECTOR};
use virtio_drivers::Hal;
use virtio_drivers::device::blk::{BlkReq, BlkResp, RespStatus, VirtIOBlk};

/// Longest wait for one request, in milliseconds.
const PATIENCE: u64 = 20_000;

/// A block device and how its requests were waited for.
pub(crate) struct BlockDisk<H: Hal> {
    driver: VirtIOBlk<H, CheckedTransport>,
    /// Its interrupt, while that is to be used.
    pub(crate) intid: Option<u32>,
    /// Requests completed by polling.
    pub(crate) polled: u64,
    /// Requests that slept until an interrupt of the device came.
    pub(crate) interrupted: u64,
    /// A request never came back: its buffers are the device's for good.
    dead: bool,
}

impl<H: Hal> BlockDisk<H> {
    /// A disk that polls until an interrupt is named.
    pub(crate) fn new(driver: VirtIOBlk<H, CheckedTransport>) -> Self {
        Self { driver, intid: None, polled: 0, interrupted: 0, dead: false }
    }

    /// Waits for the only request in flight, submitted when its interrupt had
    /// been taken `before` times: a fast device answers within the kick.
    fn wait(&mut self, token: u16, before: u32) -> bool {
        let driver = &mut self.driver;
        let Some(intid) = self.intid else {
            self.polled += 1;
            let end = rt::timer::now() + rt::timer::ticks(1000 * PATIENCE);
            while driver.peek_used() != Some(token) {
                if rt::timer::now() > end {
                    return false;
                }
                core::hint::spin_loop();
            }
            return true;
        };
        let done = interrupts::wait(PATIENCE, || driver.peek_used() == Some(token));
        // An interrupt may be a little later than the ring it announces.
        let woken = done && interrupts::wait(100, || interrupts::taken(intid) != before);
        if woken {
            self.interrupted += 1;
        } else {
            self.polled += 1;
        }
        done
    }

    /// Runs one request: `submit` it, wait, `complete` it.
    fn run<B>(
        &mut self,
        mut buffer: B,
        submit: impl FnOnce(
            &mut VirtIOBlk<H, CheckedTransport>,
            &mut BlkReq,
            &mut B,
            &mut BlkResp,
        ) -> virtio_drivers::Result<u16>,
        complete: impl FnOnce(
            &mut VirtIOBlk<H, CheckedTransport>,
            u16,
            &BlkReq,
            &mut B,
            &mut BlkResp,
        ) -> virtio_drivers::Result<()>,
    ) -> bool {
        if self.dead {
            return false;
        }
        let (mut request, mut response) = (BlkReq::default(), BlkResp::default());
        let before = self.intid.map_or(0, interrupts::taken);
        let Ok(token) = submit(&mut self.driver, &mut request, &mut buffer, &mut response) else {
            return false;
        };
        if !self.wait(token, before) {
            // The slots stay with the device; nothing private is in reach.
            self.dead = true;
            return false;
        }
        complete(&mut self.driver, token, &request, &mut buffer, &mut response).is_ok()
            && response.status() == RespStatus::OK
    }
}

impl<H: Hal> Disk for BlockDisk<H> {
    fn sectors(&self) -> u64 {
        // More would overflow byte offsets; no real disk is that long.
        self.driver.capacity().min(1 << 40)
    }

    fn read(&mut self, first: u64, buffer: &mut [u8]) -> bool {
        if buffer.is_empty() || !buffer.len().is_multiple_of(SECTOR) {
            return false;
        }
        // SAFETY: request, buffer and response outlive the request: `run`
        // completes it with the same ones, or never touches the queue again.
        // Both DMA layers bounce, so the device never holds their addresses.
        self.run(
            buffer,
            |driver, request, buffer, response| unsafe {
                driver.read_blocks_nb(first as usize, request, buffer, response)
            },
            // SAFETY: the same three, as said above.
            |driver, token, request, buffer, response| unsafe {
                driver.complete_read_blocks(token, request, buffer, response)
            },
        )
    }

    fn write(&mut self, first: u64, buffer: &[u8]) -> bool {
        if buffer.is_empty() || !buffer.len().is_multiple_of(SECTOR) || self.driver.readonly() {
            return false;
        }
        // SAFETY: as for `read`.
        self.run(
            buffer,
            |driver, request, buffer, response| unsafe {
                driver.write_blocks_nb(first as usize, request, buffer, response)
            },
            // SAFETY: the same three, as said above.
            |driver, token, request, buffer, response| unsafe {
                driver.complete_write_blocks(token, request, buffer, response)
            },
        )
    }

    fn flush(&mut self) -> bool {
        !self.dead && interrupts::at_most(PATIENCE, || self.driver.flush().is_ok())
    }
}
