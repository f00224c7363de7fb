//! EL2's heap: an allocator that fails on demand, and what a call may keep.
//!
//! A program that wants allocations to fail has
//!
//! ```
//! #[global_allocator]
//! static HEAP: model::heap::FailingHeap = model::heap::FailingHeap;
//! ```
//!
//! Whose an allocation is, and whether it fails, is `hyp::sim::heap`'s to say.
//! An allocation of the policy's that is not fallible ends the program: such a
//! thing must not be in bouncer.
#![allow(unsafe_code)]

use hyp::sim::heap::{HeapUse, give, take};
use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;

/// The system's allocator, but for what `hyp::sim::heap` denies.
#[derive(Clone, Copy, Debug)]
pub struct FailingHeap;

// SAFETY: every block comes from the system's allocator, which gets it back
// with the same layout; returning null is always allowed.
unsafe impl GlobalAlloc for FailingHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !take(layout.size()) {
            return ptr::null_mut();
        }
        // SAFETY: the caller's promise about `layout`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !take(layout.size()) {
            return ptr::null_mut();
        }
        // SAFETY: the caller's promise about `layout`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        give(layout.size());
        // SAFETY: the caller got `block` from here with this layout.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !take(size) {
            return ptr::null_mut();
        }
        give(layout.size());
        // SAFETY: the caller got `block` from here with this layout and
        // promises that `size` is a size.
        unsafe { System.realloc(block, layout, size) }
    }
}

/// What bouncer has of the heap.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Heap {
    fail_after: Option<u64>,
    /// Bytes the last trap of the host kept.
    last: i64,
    /// Bytes all of them kept.
    held: i64,
}

impl Heap {
    /// In the next trap that allocates, only this many allocations succeed.
    pub(crate) fn fail_after(&mut self, allocations: u64) {
        self.fail_after = Some(allocations);
    }

    /// A trap begins: the allocations that it gets.
    pub(crate) fn allows(&self) -> Option<u64> {
        self.fail_after
    }

    /// It is over.
    pub(crate) fn account(&mut self, used: HeapUse) {
        if used.asked > 0 {
            self.fail_after = None;
        }
        self.last = used.kept;
        self.held += used.kept;
    }

    /// It was a call that was refused.
    pub(crate) fn refused(&self) -> Result<(), String> {
        match self.last {
            0 => Ok(()),
            bytes => Err(format!("a refused call keeps {bytes} bytes of the heap")),
        }
    }

    /// Nobody may hold memory for a VM that is not there.
    pub(crate) fn check(&self, no_vm: bool) -> Result<(), String> {
        match self.held {
            held if held < 0 || (no_vm && held != 0) => {
                Err(format!("{held} bytes of the heap are held, and there is no VM"))
            }
            _ => Ok(()),
        }
    }
}
