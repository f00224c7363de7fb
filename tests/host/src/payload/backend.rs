//! What a device does with the buffers its driver gives it.

use alloc::boxed::Box;
use alloc::vec::Vec;

use host::block::{Block, Traffic};
use host::console::{self, Console};
use host::entropy::Entropy;
use host::memory::Memory;
use host::net::{self, Net};
use host::queue::Chain;

/// The program behind a device.
pub(super) enum Backend {
    /// A disk.
    Block(Block<'static>),
    /// A console.
    Console(Console),
    /// A source of random bytes.
    Entropy(Entropy),
    /// A network card.
    Net(Box<Net>),
}

impl Backend {
    /// Time has passed: something may have come for the guest.
    pub(super) fn look(&mut self) {
        if let Backend::Net(net) = self {
            net.look();
        }
    }

    /// Do the buffers of queue `number` lie there until the backend has
    /// something to put into them?
    pub(super) fn receives_on(&self, number: u16) -> bool {
        match self {
            Backend::Console(_) => number == console::RECEIVE,
            Backend::Net(_) => number == net::RECEIVE,
            Backend::Block(_) | Backend::Entropy(_) => false,
        }
    }

    /// The queue on which something waits for a buffer, if something does.
    pub(super) fn waiting_on(&self) -> Option<u16> {
        match self {
            Backend::Console(console) => console.has_waiting().then_some(console::RECEIVE),
            Backend::Net(net) => net.has_waiting().then_some(net::RECEIVE),
            Backend::Block(_) | Backend::Entropy(_) => None,
        }
    }

    /// Serves one buffer chain of queue `number`; returns the bytes written
    /// into it. What a console transmits goes to `out`.
    pub(super) fn serve<M: Memory>(
        &mut self,
        number: u16,
        memory: &M,
        chain: &Chain,
        out: &mut dyn FnMut(&[u8]),
    ) -> u32 {
        match self {
            Backend::Block(block) => return block.serve(memory, chain),
            Backend::Entropy(entropy) => return entropy.serve(memory, chain),
            Backend::Console(console) if number == console::RECEIVE => {
                return console.receive(memory, chain);
            }
            Backend::Net(net) if number == net::RECEIVE => return net.receive(memory, chain),
            Backend::Console(console) => console.transmit(memory, chain, out),
            Backend::Net(net) => net.transmit(memory, chain),
        }
        0
    }

    /// Requests that a disk has served.
    pub(super) fn requests(&self) -> u64 {
        if let Backend::Block(block) = self { block.traffic().requests } else { 0 }
    }

    /// What went through, by name.
    pub(super) fn counters(&self) -> Vec<(&'static str, u64)> {
        match self {
            Backend::Block(block) => {
                let Traffic { requests, bytes_read, bytes_written, errors } = block.traffic();
                Vec::from([
                    ("disk_requests", requests),
                    ("disk_bytes_read", bytes_read),
                    ("disk_bytes_written", bytes_written),
                    ("disk_errors", errors),
                ])
            }
            Backend::Net(net) => {
                let net::Traffic { sent, received, dropped } = net.traffic();
                Vec::from([
                    ("frames_sent", sent),
                    ("frames_received", received),
                    ("frames_dropped", dropped),
                ])
            }
            Backend::Console(_) | Backend::Entropy(_) => Vec::new(),
        }
    }

    /// Takes the disk back.
    pub(super) fn into_disk(self) -> Option<&'static mut [u8]> {
        match self {
            Backend::Block(block) => Some(block.into_disk()),
            _ => None,
        }
    }
}
