//! The payload's interrupt handler.

#![allow(unsafe_code)]

use core::sync::atomic::{AtomicUsize, Ordering};

static HANDLER: AtomicUsize = AtomicUsize::new(0);

/// Makes `handler(intid)` run for every interrupt, on the CPU that took it,
/// with interrupts masked; the interrupt is ended after it returns.
pub fn set_handler(handler: fn(u32)) {
    HANDLER.store(handler as usize, Ordering::Release);
}

pub(crate) fn dispatch(intid: u32) {
    let handler = HANDLER.load(Ordering::Acquire);
    if handler != 0 {
        // SAFETY: only `set_handler` stores here, and only such functions.
        let handler: fn(u32) = unsafe { core::mem::transmute(handler) };
        handler(intid);
    }
}
