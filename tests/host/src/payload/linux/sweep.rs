//! C1 and C4: every frame of the guest's, one after the other, read and
//! written by a CPU of the host's while the guest works.

#![allow(unsafe_code)]

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;

use host::frames::Run;
use rt::attempt::{self, Fault};

use crate::payload::calls::BOUNCER;

/// What FRAME_STATE says of a page that the guest shared, and of a frame that
/// is none of the host's.
const BORROWED: u64 = 2;
const FOREIGN: u64 = 3;
/// What a write would leave behind.
const FOOTPRINT: u64 = 0x6861_636b_6564_2121;

/// What a CPU saw on its way.
#[derive(Clone, Default)]
pub(super) struct Seen {
    /// Reads and writes of private frames.
    pub(super) private: u64,
    /// Those of pages that the host could use before the guest took them back.
    pub(super) returned: u64,
    /// The first that did not end in an external abort.
    pub(super) breach: Option<String>,
}

impl Seen {
    pub(super) fn add(&mut self, other: Seen) {
        self.private += other.private;
        self.returned += other.returned;
        self.breach = self.breach.take().or(other.breach);
    }
}

/// A way through all frames of a guest, for any number of CPUs.
#[derive(Clone)]
pub(super) struct Sweep {
    ram: Run,
    /// Which of them the host could use once, and did.
    lent: Arc<Vec<AtomicBool>>,
}

impl Sweep {
    pub(super) fn new(ram: Run) -> Self {
        Self { ram, lent: Arc::new((0..ram.count).map(|_| AtomicBool::new(false)).collect()) }
    }

    /// Tries `count` frames from the guest's page `first` on, around its end.
    pub(super) fn go(&self, first: u64, count: u64) -> Seen {
        let pages = (first..first + count).map(|page| page % self.ram.count.max(1));
        self.these(pages.map(|page| self.ram.pfn + page))
    }

    /// Tries every frame that the host could use once: those that the guest
    /// took back between two turns of [`Sweep::go`], too.
    pub(super) fn once_lent(&self) -> Seen {
        let lent = (self.ram.pfn..).zip(self.lent.iter());
        self.these(lent.filter(|(_, lent)| lent.load(Relaxed)).map(|(pfn, _)| pfn))
    }

    /// Tries these frames; those that are not in the guest's RAM are left out.
    pub(super) fn these(&self, frames: impl IntoIterator<Item = u64>) -> Seen {
        let mut seen = Seen::default();
        for pfn in frames {
            let page = pfn.checked_sub(self.ram.pfn).and_then(|page| usize::try_from(page).ok());
            let Some(lent) = page.and_then(|page| self.lent.get(page)) else { continue };
            match BOUNCER.frame_state(pfn) {
                // Used, so that this CPU's TLB knows it.
                Ok(BORROWED) if attempt::try_read_u64(pfn << 12).is_ok() => {
                    lent.store(true, Relaxed);
                }
                Ok(FOREIGN) => {
                    let made = reach(pfn, &mut seen.breach);
                    let row =
                        if lent.load(Relaxed) { &mut seen.returned } else { &mut seen.private };
                    *row += made;
                }
                _ => {}
            }
        }
        seen
    }
}

/// Reads and writes a frame that is not the host's; how many times that was
/// refused. What the guest shares in this very moment is no breach.
fn reach(pfn: u64, breach: &mut Option<String>) -> u64 {
    // Not always the same word, and never one across two.
    let address = (pfn << 12) + (pfn & 0x3f) * 0x40;
    let read = attempt::try_read_u64(address);
    if !refused("read", address, read, breach) {
        return 0;
    }
    // SAFETY: guest RAM, taken from the free frames; no Rust object is there.
    let written = unsafe { attempt::try_write_u64(address, FOOTPRINT) }.map(|()| 0);
    1 + u64::from(refused("write", address, written, breach))
}

fn refused(
    what: &str,
    address: u64,
    result: Result<u64, Fault>,
    breach: &mut Option<String>,
) -> bool {
    let problem = match result {
        Err(fault) if fault.is_external_abort() => return true,
        Err(fault) => format!("{what} of {address:#x}: ESR {:#x}", fault.esr),
        Ok(_) if BOUNCER.frame_state(address >> 12) != Ok(FOREIGN) => return false,
        Ok(value) => format!("{what} of {address:#x} succeeded, {value:#x}"),
    };
    breach.get_or_insert(problem);
    false
}
