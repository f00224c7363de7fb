//! What the host does on another CPU while the guest goes on: it follows a
//! ring that the guest fills, and copies from a page that the guest takes back.

#![allow(unsafe_code)]

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use rt::attempt;

use crate::payload::{clock, cpus};

/// The CPU for it: no vCPU of these guests is there.
const CPU: usize = 1;
/// Longest look, in milliseconds.
const PATIENCE: u64 = 20_000;

/// Entries of the ring, a split queue's (virtio 1.4, 2.7.6): flags and index
/// in the first word, an entry every 16 bits behind it.
const ENTRIES: u64 = 256;
/// Where the used ring is, in the same page.
const USED: u64 = 0x800;

/// Indices, or words, that were seen and were as they had to be.
static SEEN: AtomicU64 = AtomicU64::new(0);
/// It is over: nothing more is seen.
static OVER: AtomicBool = AtomicBool::new(true);
/// Something was seen that must not be.
static ODD: AtomicBool = AtomicBool::new(false);
/// An access was an abort.
static ABORT: AtomicBool = AtomicBool::new(false);

/// What there is to tell: what was seen, and in the upper bits how it ended.
pub(super) fn told() -> u64 {
    let bit = |flag: &AtomicBool, bit: u32| u64::from(flag.load(Ordering::Acquire)) << bit;
    SEEN.load(Ordering::Acquire) | bit(&OVER, 63) | bit(&ODD, 62) | bit(&ABORT, 61)
}

fn begin(look: impl FnOnce() + Send + 'static) -> u64 {
    if !OVER.swap(false, Ordering::AcqRel) {
        return 0;
    }
    SEEN.store(0, Ordering::Release);
    ODD.store(false, Ordering::Release);
    ABORT.store(false, Ordering::Release);
    let given = cpus::give(CPU, move || {
        look();
        OVER.store(true, Ordering::Release);
    });
    if !given {
        OVER.store(true, Ordering::Release);
    }
    u64::from(given)
}

/// Follows `count` indices of the available ring in this frame, as a device
/// that polls does: each must come after the one before it, with its entry.
/// Says in the used ring how far it is.
pub(super) fn follow(pfn: u64, count: u64) -> u64 {
    begin(move || {
        let end = clock::now() + clock::milliseconds(PATIENCE);
        for number in 1..=count & 0xffff {
            if !next(pfn << 12, number, end) {
                return;
            }
            SEEN.store(number, Ordering::Release);
        }
    })
}

fn next(ring: u64, number: u64, end: u64) -> bool {
    loop {
        let Ok(word) = attempt::try_read_u32(ring) else {
            ABORT.store(true, Ordering::Release);
            return false;
        };
        let index = word >> 16;
        if index == number {
            break;
        }
        if index != number - 1 {
            ODD.store(true, Ordering::Release);
            return false;
        }
        if clock::now() > end {
            return false;
        }
        core::hint::spin_loop();
    }
    // The entry was stored before the index.
    fence(Ordering::Acquire);
    let at = ring + 4 + 2 * ((number - 1) % ENTRIES);
    let word = attempt::try_read_u32(at & !3).unwrap_or_default();
    let entry = (word >> (8 * (at & 2))) as u16;
    if entry != (number as u16).rotate_left(5) {
        ODD.store(true, Ordering::Release);
        return false;
    }
    // SAFETY: a page of the guest's, where no object of this program is.
    let told = unsafe { attempt::try_write_u32(ring + USED, number << 16) };
    told.is_ok()
}

/// Reads this frame over and over until that is an abort. All its words are
/// `word` as long as the guest shares it; another one must never be seen.
pub(super) fn copy(pfn: u64, word: u64) -> u64 {
    begin(move || {
        let end = clock::now() + clock::milliseconds(PATIENCE);
        for offset in (0..4096).step_by(8).cycle() {
            match attempt::try_read_u64((pfn << 12) + offset) {
                Ok(seen) if seen == word => _ = SEEN.fetch_add(1, Ordering::AcqRel),
                Ok(_) => return ODD.store(true, Ordering::Release),
                Err(_) => return ABORT.store(true, Ordering::Release),
            }
            if offset == 0 && clock::now() > end {
                return;
            }
        }
    })
}
