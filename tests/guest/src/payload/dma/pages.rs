//! Pages of the guest's own for demonstrations, and sharing them.

#![allow(unsafe_code)]

use core::ops::Range;

use guest::lending::PAGE;
use rt::println;

use crate::payload::Machine;
use crate::payload::pkvm::{mem_share, mem_unshare};

/// Spare RAM that nobody uses: neither the near end, which other scenarios
/// look at, nor the far end, which drivers set aside.
pub(super) struct Pages {
    left: Range<usize>,
}

impl Pages {
    /// All of it.
    pub(super) fn new(machine: &Machine) -> Self {
        let spare = &machine.spare;
        Self { left: spare.start + 64 * PAGE..spare.end.saturating_sub(1536 * PAGE) }
    }

    /// `count` pages in a row, each word of them `word`.
    pub(super) fn take(&mut self, count: usize, word: u64) -> Option<u64> {
        let first = self.left.start;
        let end = first.checked_add(count * PAGE).filter(|end| *end <= self.left.end)?;
        self.left.start = end;
        fill(first as u64, count, word);
        Some(first as u64)
    }

    /// The same, shared with the host afterwards.
    pub(super) fn take_shared(&mut self, count: usize, word: u64) -> Option<u64> {
        let first = self.take(count, word)?;
        (mem_share(first, count as u64) == (0, count as u64)).then_some(first)
    }
}

/// Writes `word` all over `count` pages of [`Pages`].
pub(super) fn fill(first: u64, count: usize, word: u64) {
    for at in (first..first + (count * PAGE) as u64).step_by(8) {
        // SAFETY: pages that `Pages` gave out, where no other object is.
        unsafe { (at as *mut u64).write_volatile(word) };
    }
}

/// Is `word` all over them?
pub(super) fn is_full_of(first: u64, count: usize, word: u64) -> bool {
    // SAFETY: as above.
    let load = |at: u64| unsafe { (at as *const u64).read_volatile() };
    (first..first + (count * PAGE) as u64).step_by(8).all(|at| load(at) == word)
}

/// Takes one page back.
pub(super) fn unshare(page: u64) -> bool {
    mem_unshare(page, 1) == (0, 1)
}

/// Shares all RAM of the guest, itself included. Returns how many pages that
/// is; `None`, and the guest does not know what is shared, if it was refused.
pub(super) fn share_all(machine: &Machine) -> Option<u64> {
    let (start, pages) = (machine.ram.start as u64, (machine.ram.len() / PAGE) as u64);
    println!("guest: I GIVE UP MY PROTECTION: all my memory is the host's to read and write");
    let mut done = 0;
    while done < pages {
        match mem_share(start + done * PAGE as u64, pages - done) {
            (0, some) if some > 0 => done += some,
            refused => {
                println!("guest: page {done} of {pages}: {refused:?}");
                return None;
            }
        }
    }
    Some(pages)
}
