//! The heap of EL2: a buddy allocator over a fixed piece of memory.
//!
//! `hyp` allocates fallibly; what allocates infallibly (the boot code) does so
//! before anything can be asked of bouncer.
#![allow(unsafe_code)]

use buddy_system_allocator::Heap;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};
use platform::ByteRange;
use hyp::sync::Mutex;

struct LockedHeap(Mutex<Heap<32>>);

#[global_allocator]
static HEAP: LockedHeap = LockedHeap(Mutex::new(Heap::new()));

// SAFETY: the buddy allocator hands out disjoint, aligned blocks of the memory
// it was given and the lock makes each operation exclusive. EL2 runs with
// interrupts masked, so the lock cannot be wanted twice by one CPU.
unsafe impl GlobalAlloc for LockedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock().alloc(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: the caller got `block` from `alloc` with this layout.
            unsafe { self.0.lock().dealloc(block, layout) }
        }
    }
}

/// Bytes that are given out, as the allocator rounds them.
pub(crate) fn used() -> u64 {
    HEAP.0.lock().stats_alloc_actual() as u64
}

/// Gives the allocator its memory.
///
/// # Safety
/// `memory` must be mapped read-write and used by nobody else, for ever.
pub(crate) unsafe fn initialise(memory: ByteRange) {
    // SAFETY: the caller's promise.
    unsafe { HEAP.0.lock().init(memory.start() as usize, memory.size() as usize) }
}
