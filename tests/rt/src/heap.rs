//! The heap: a buddy allocator over ranges the payload names.

#![allow(unsafe_code)]

use crate::lock::IrqLock;
use buddy_system_allocator::Heap;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut};

struct Allocator(IrqLock<Heap<32>>);

#[global_allocator]
static ALLOCATOR: Allocator = Allocator(IrqLock::new(Heap::new()));

// SAFETY: the buddy allocator behind the lock gives out disjoint blocks of the
// layout asked for, from memory that `add` promised to be unused.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock().alloc(layout).map_or(null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if let Some(pointer) = NonNull::new(pointer) {
            // SAFETY: the caller got it from `alloc` with this layout.
            unsafe { self.0.lock().dealloc(pointer, layout) };
        }
    }
}

/// Adds the bytes `start..end` to the heap.
///
/// # Safety
/// They must be mapped Normal memory that nothing else uses, for ever.
pub unsafe fn add(start: usize, end: usize) {
    // SAFETY: the caller's promise.
    unsafe { ALLOCATOR.0.lock().add_to_heap(start, end) };
}

/// Bytes handed out (rounded up to blocks) and bytes there are.
pub fn usage() -> (usize, usize) {
    let heap = ALLOCATOR.0.lock();
    (heap.stats_alloc_actual(), heap.stats_total_bytes())
}
