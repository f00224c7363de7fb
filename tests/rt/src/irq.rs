//! The payload's handlers of interrupts and of debug exceptions.

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

/// A debug exception that the payload took from its own level.
#[derive(Clone, Copy, Debug)]
pub struct DebugException {
    /// ESR_EL1.EC: 0x31 breakpoint, 0x33 single step, 0x35 watchpoint.
    pub class: u64,
    /// The instruction that comes next.
    pub pc: u64,
    /// Of a watchpoint: the address of the access.
    pub address: u64,
}

static DEBUG: AtomicUsize = AtomicUsize::new(0);

/// Makes `handler` run for every debug exception, with everything masked. It
/// says whether one instruction is to be stepped next (SPSR_EL1.SS).
pub fn set_debug_handler(handler: fn(DebugException) -> bool) {
    DEBUG.store(handler as usize, Ordering::Release);
}

pub(crate) fn dispatch_debug(exception: DebugException) -> Option<bool> {
    let handler = DEBUG.load(Ordering::Acquire);
    if handler == 0 || !matches!(exception.class, 0x31 | 0x33 | 0x35) {
        return None;
    }
    // SAFETY: only `set_debug_handler` stores here, and only such functions.
    let handler: fn(DebugException) -> bool = unsafe { core::mem::transmute(handler) };
    Some(handler(exception))
}
