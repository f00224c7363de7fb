//! DMA in memory that the device brings: no page is ever shared.
//!
//! Rings, indirect tables and data all live in the BAR. The address given to
//! the device is, of a bounce BAR, the one at which the CPU finds the bytes;
//! of device memory, their offset. Each device has its own window.

#![allow(unsafe_code)]

use core::ptr::NonNull;
use guest::slots::{Counters, Direction, Slots};
use rt::lock::IrqLock;
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// Devices the guest drives at once.
pub(crate) const DEVICES: usize = 4;

/// A device's memory.
struct Window {
    slots: Slots,
    /// What the CPU's address is more than the device's: 0, or where the
    /// memory begins if its bytes are named by offsets.
    more: u64,
}

impl Window {
    /// The device's address of a piece.
    fn told(&self, piece: *mut u8) -> PhysAddr {
        piece as u64 - self.more
    }

    /// The piece at a device's address.
    fn piece(&self, address: PhysAddr) -> *mut u8 {
        address.wrapping_add(self.more) as *mut u8
    }
}

static WINDOWS: [IrqLock<Option<Window>>; DEVICES] = [const { IrqLock::new(None) }; DEVICES];

/// Most of a window that is used: its bookkeeping is a byte per 64.
const MOST: u64 = 5 << 20;

/// How the bytes of a window are named.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// By their guest physical addresses.
    Addresses,
    /// By their offsets. Then 0 names nothing, and the first page is left out.
    Offsets,
}

/// Makes `bytes` bytes at `address` the window of device `index`.
///
/// # Safety
/// They must be the device's own memory, mapped Normal, used by nothing else,
/// and a page more than none.
pub(crate) unsafe fn open(index: usize, address: u64, bytes: u64, names: Names) {
    let (more, left_out) = match names {
        Names::Addresses => (0, 0),
        Names::Offsets => (address, PAGE_SIZE as u64),
    };
    let bytes = bytes.min(MOST) - left_out;
    // SAFETY: the caller's promise.
    let slots = unsafe { Slots::new((address + left_out) as *mut u8, bytes as usize) };
    *WINDOWS[index].lock() = Some(Window { slots, more });
}

/// Counters of a device's window, and most bytes of it in use at once.
pub(crate) fn counters(index: usize) -> (Counters, usize) {
    WINDOWS[index].lock().as_ref().map_or((Counters::default(), 0), |window| {
        (window.slots.counters(), window.slots.high_water())
    })
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
        let mut window = WINDOWS[DEVICE].lock();
        let piece = window.as_mut().and_then(|window| {
            let piece = NonNull::new(window.slots.allocate(pages * PAGE_SIZE, PAGE_SIZE)?)?;
            Some((window.told(piece.as_ptr()), piece))
        });
        // The crate takes address 0 for a failure.
        piece.unwrap_or((0, NonNull::dangling()))
    }

    unsafe fn dma_dealloc(_address: PhysAddr, piece: NonNull<u8>, pages: usize) -> i32 {
        let mut window = WINDOWS[DEVICE].lock();
        let released = window
            .as_mut()
            .is_some_and(|window| window.slots.release(piece.as_ptr(), pages * PAGE_SIZE));
        if released { 0 } else { -1 }
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _size: usize) -> NonNull<u8> {
        super::device::registers(address)
    }

    #[allow(clippy::panic)]
    unsafe fn share(buffer: NonNull<[u8]>, to: BufferDirection) -> PhysAddr {
        // SAFETY: the caller's promise: a valid buffer that nobody changes.
        let bytes = unsafe { buffer.as_ref() };
        let mut window = WINDOWS[DEVICE].lock();
        let slot = window.as_mut().and_then(|window| {
            let slot = window.slots.share(bytes, direction(to))?;
            Some(window.told(slot))
        });
        // The trait has no way to refuse, and any address would be a lie.
        slot.unwrap_or_else(|| panic!("the bounce window is full: {} bytes wanted", bytes.len()))
    }

    #[allow(clippy::panic)]
    unsafe fn unshare(address: PhysAddr, mut buffer: NonNull<[u8]>, to: BufferDirection) {
        // SAFETY: the caller's promise: a valid buffer that nobody else uses.
        let bytes = unsafe { buffer.as_mut() };
        let mut window = WINDOWS[DEVICE].lock();
        let done = window.as_mut().is_some_and(|window| {
            let slot = window.piece(address);
            window.slots.unshare(slot, bytes, direction(to))
        });
        if !done {
            panic!("{address:#x} is not a bounce slot of {} bytes", bytes.len());
        }
    }
}
