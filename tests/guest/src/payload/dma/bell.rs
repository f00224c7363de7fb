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
    /// Begin to count.
    Begin = 1,
    /// End counting, and print it for this case.
    End = 2,
    /// Read the word at this guest address: 1 if that was an abort.
    Read = 3,
    /// Tell a counter of this VM, by its number in STATS.
    Count = 4,
    /// Tell how many accesses of backends were aborts.
    Faults = 5,
    /// Print how many pages the host can see now, under this case.
    Pages = 6,
    /// Look for the marks of the guest in all of them, and print.
    Scan = 7,
    /// Write [`WRITTEN`] to the memory that the device brings, at this offset.
    WriteBrought = 8,
    /// Tell the word at this guest address: all ones if that was an abort.
    Word = 16,
    /// Write [`WRITTEN`] there: 1 if that was an abort.
    Write = 17,
    /// Follow the ring in this page, on another CPU: 1 if it has begun.
    Follow = 18,
    /// Copy this page over and over, on another CPU: 1 if it has begun.
    Copy = 19,
    /// Tell what has come of either.
    Watched = 20,
    /// Tell the word at this I/O virtual address of device 0: all ones if that
    /// was an abort.
    Look = 24,
}

/// What the host writes when it is asked to.
pub(crate) const WRITTEN: u64 = 0x7772_6974_7465_6e21;
/// What a page must be full of that the host is to copy.
pub(crate) const COPIED: u64 = 0x636f_7079_2074_6869;
/// Indices of a ring that it follows.
pub(crate) const RING: u16 = 1000;

/// What came of [`Deed::Follow`] or [`Deed::Copy`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Watched {
    /// Indices or words that were as they had to be.
    pub(crate) seen: u64,
    /// Nothing more will be seen.
    pub(crate) over: bool,
    /// Something else was seen.
    pub(crate) odd: bool,
    /// An access was an abort.
    pub(crate) abort: bool,
}

/// Asks for it.
pub(crate) fn watched() -> Watched {
    let told = ask(Deed::Watched, 0);
    let bit = |bit: u32| told >> bit & 1 == 1;
    Watched { seen: told & ((1 << 61) - 1), over: bit(63), odd: bit(62), abort: bit(61) }
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
