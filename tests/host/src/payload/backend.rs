//! What a device does with the buffers its driver gives it.

use host::block::{Block, Traffic};
use host::console::{self, Console};
use host::entropy::Entropy;
use host::memory::Memory;
use host::queue::{Chain, Hostile};

/// The program behind a device.
pub(super) enum Backend {
    /// A disk.
    Block(Block<'static>),
    /// A console.
    Console(Console),
    /// A source of random bytes.
    Entropy(Entropy),
}

impl Backend {
    /// Do the buffers of queue `number` lie there until the backend has
    /// something to put into them?
    pub(super) fn receives_on(&self, number: u16) -> bool {
        match self {
            Backend::Console(_) => number == console::RECEIVE,
            Backend::Block(_) | Backend::Entropy(_) => false,
        }
    }

    /// The queue on which something waits for a buffer, if something does.
    pub(super) fn waiting_on(&self) -> Option<u16> {
        match self {
            Backend::Console(console) => console.has_waiting().then_some(console::RECEIVE),
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
    ) -> Result<u32, Hostile> {
        match self {
            Backend::Block(block) => block.serve(memory, chain),
            Backend::Entropy(entropy) => entropy.serve(memory, chain),
            Backend::Console(console) if number == console::RECEIVE => {
                console.receive(memory, chain)
            }
            Backend::Console(console) => console.transmit(memory, chain, out).map(|()| 0),
        }
    }

    /// What went through, if it is a disk.
    pub(super) fn traffic(&self) -> Option<Traffic> {
        match self {
            Backend::Block(block) => Some(block.traffic()),
            _ => None,
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
