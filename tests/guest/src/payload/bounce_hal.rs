//! DMA in the device's own bounce memory: no page is ever shared.
//!
//! Rings, indirect tables and data all live in the BAR; the address given to
//! the device is the BAR address, which is also where the CPU finds the bytes.
//! Each device has its own window.

#![allow(unsafe_code)]

use core::ptr::NonNull;
use guest::slots::{Counters, Direction, Slots};
use rt::lock::IrqLock;
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// Devices the guest drives at once.
pub(crate) const DEVICES: usize = 4;

static WINDOWS: [IrqLock<Option<Slots>>; DEVICES] = [const { IrqLock::new(None) }; DEVICES];

/// Most of a window that is used: its bookkeeping is a byte per 64.
const MOST: u64 = 4 << 20;

/// Makes `bytes` bytes at `address` the window of device `index`.
///
/// # Safety
/// They must be the device's bounce memory, mapped Normal, used by nothing
/// else.
pub(crate) unsafe fn open(index: usize, address: u64, bytes: u64) {
    // SAFETY: the caller's promise.
    let slots = unsafe { Slots::new(address as *mut u8, bytes.min(MOST) as usize) };
    *WINDOWS[index].lock() = Some(slots);
}

/// Counters of a device's window, and most bytes of it in use at once.
pub(crate) fn counters(index: usize) -> (Counters, usize) {
    WINDOWS[index]
        .lock()
        .as_ref()
        .map_or((Counters::default(), 0), |slots| (slots.counters(), slots.high_water()))
}

/// How the crate's directions are called here.
pub(crate) fn direction(direction: BufferDirection) -> Direction {
    match direction {
        BufferDirection::DriverToDevice => Direction::ToDevice,
        BufferDirection::DeviceToDriver => Direction::FromDevice,
        BufferDirection::Both => Direction::Both,
    }
}

/// The window of device number `DEVICE` as the drivers see it.
pub(crate) struct BounceHal<const DEVICE: usize>;

// SAFETY: pieces come from `Slots`, which hands out disjoint, zeroed, mapped
// memory, page-aligned where that is asked for.
unsafe impl<const DEVICE: usize> Hal for BounceHal<DEVICE> {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let piece = WINDOWS[DEVICE]
            .lock()
            .as_mut()
            .and_then(|slots| NonNull::new(slots.allocate(pages * PAGE_SIZE, PAGE_SIZE)?));
        // The crate takes address 0 for a failure.
        piece.map_or((0, NonNull::dangling()), |piece| (piece.as_ptr() as u64, piece))
    }

    unsafe fn dma_dealloc(_address: PhysAddr, piece: NonNull<u8>, pages: usize) -> i32 {
        let mut window = WINDOWS[DEVICE].lock();
        let released =
            window.as_mut().is_some_and(|slots| slots.release(piece.as_ptr(), pages * PAGE_SIZE));
        if released { 0 } else { -1 }
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _size: usize) -> NonNull<u8> {
        super::device::registers(address)
    }

    #[allow(clippy::panic)]
    unsafe fn share(buffer: NonNull<[u8]>, to: BufferDirection) -> PhysAddr {
        // SAFETY: the caller's promise: a valid buffer that nobody changes.
        let bytes = unsafe { buffer.as_ref() };
        let slot =
            WINDOWS[DEVICE].lock().as_mut().and_then(|slots| slots.share(bytes, direction(to)));
        // The trait has no way to refuse, and any address would be a lie.
        slot.unwrap_or_else(|| panic!("the bounce window is full: {} bytes wanted", bytes.len()))
            as u64
    }

    #[allow(clippy::panic)]
    unsafe fn unshare(address: PhysAddr, mut buffer: NonNull<[u8]>, to: BufferDirection) {
        // SAFETY: the caller's promise: a valid buffer that nobody else uses.
        let bytes = unsafe { buffer.as_mut() };
        let mut window = WINDOWS[DEVICE].lock();
        let done = window
            .as_mut()
            .is_some_and(|slots| slots.unshare(address as *mut u8, bytes, direction(to)));
        if !done {
            panic!("{address:#x} is not a bounce slot of {} bytes", bytes.len());
        }
    }
}
