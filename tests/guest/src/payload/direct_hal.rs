//! DMA as it was before anybody thought of protection: the device is given the
//! addresses of the driver's own rings and buffers.
//!
//! For a guest that has nothing to hide from its host; and to see what becomes
//! of one that has, and does not know that it must not do this.

#![allow(unsafe_code)]

use alloc::alloc::{alloc_zeroed, dealloc};
use core::alloc::Layout;
use core::ptr::NonNull;
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// The guest's memory as it is.
pub(crate) struct DirectHal;

fn layout(pages: usize) -> Option<Layout> {
    Layout::from_size_align(pages.checked_mul(PAGE_SIZE)?, PAGE_SIZE).ok()
}

// SAFETY: `dma_alloc` gives zeroed, page-aligned memory of the heap, which is
// mapped one to one, to one caller.
unsafe impl Hal for DirectHal {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let piece = layout(pages).filter(|layout| layout.size() > 0).and_then(|layout| {
            // SAFETY: the layout is not empty.
            NonNull::new(unsafe { alloc_zeroed(layout) })
        });
        // The crate takes address 0 for a failure.
        piece.map_or((0, NonNull::dangling()), |piece| (piece.as_ptr() as u64, piece))
    }

    unsafe fn dma_dealloc(_address: PhysAddr, piece: NonNull<u8>, pages: usize) -> i32 {
        let Some(layout) = layout(pages) else { return -1 };
        // SAFETY: the caller's promise: a piece of `dma_alloc`, as long as that.
        unsafe { dealloc(piece.as_ptr(), layout) };
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _size: usize) -> NonNull<u8> {
        super::device::registers(address)
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as u64
    }

    unsafe fn unshare(_address: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}
