//! The machine's UART as a terminal: what is typed waits here for the guest
//! that it is meant for.

use alloc::collections::VecDeque;
use core::sync::atomic::{AtomicU32, Ordering};

use rt::lock::IrqLock;
use rt::{console, gic};

/// Most bytes that wait. While as many do, the UART does not interrupt, and
/// whoever types faster waits in turn.
const MOST_WAITING: usize = 4096;

static WAITING: IrqLock<VecDeque<u8>> = IrqLock::new(VecDeque::new());
/// No interrupt has this id.
static INTERRUPT: AtomicU32 = AtomicU32::new(u32::MAX);

/// From now on bytes are collected. `interrupt` is the UART's; without one
/// only [`collect`] finds them.
pub(super) fn open(interrupt: Option<u32>) {
    // The handler must not allocate.
    WAITING.lock().reserve_exact(MOST_WAITING);
    if let Some(intid) = interrupt {
        INTERRUPT.store(intid, Ordering::Release);
        gic::enable(intid);
    }
    console::receive_interrupts(true);
}

/// The UART's interrupt id.
pub(super) fn interrupt() -> u32 {
    INTERRUPT.load(Ordering::Acquire)
}

/// Fetches what has arrived.
pub(super) fn collect() {
    let mut waiting = WAITING.lock();
    while waiting.len() < MOST_WAITING {
        match console::read_byte() {
            Some(byte) => waiting.push_back(byte),
            None => return,
        }
    }
    console::receive_interrupts(false);
}

/// Does anything wait?
pub(super) fn has_waiting() -> bool {
    !WAITING.lock().is_empty()
}

/// At most `most` bytes of what waits.
pub(super) fn take(most: usize) -> impl Iterator<Item = u8> {
    let mut waiting = WAITING.lock();
    let full = waiting.len() == MOST_WAITING;
    let count = most.min(waiting.len());
    let bytes: VecDeque<u8> = waiting.drain(..count).collect();
    if full && count != 0 {
        console::receive_interrupts(true);
    }
    bytes.into_iter()
}
