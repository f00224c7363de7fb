//! What the guest asks of its host.

#![allow(unsafe_code)]

use hyp::layout;
use rt::mmio;

/// A register that no PL011 has; the host's side is `story/dma/deeds.rs`.
const BELL: usize = layout::UART as usize + 0xf00;

/// What the host is asked to do: the top byte of the word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Deed {
    /// Read the word at this guest address: 1 if that was an abort.
    Read = 3,
    /// Tell a counter of this VM, by its number in STATS.
    Count = 4,
    /// Tell how many accesses of backends were aborts.
    Faults = 5,
}

/// Asks, and returns the answer.
pub(crate) fn ask(deed: Deed, about: u64) -> u64 {
    let word = (deed as u64) << 56 | about & !(0xff << 56);
    // SAFETY: registers of the UART's page; what the host does with them
    // changes no memory that this program relies on.
    unsafe {
        mmio::write64(BELL, word);
        mmio::read64(BELL)
    }
}
