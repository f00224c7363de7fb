//! DMA in pages of the guest's own RAM that it shares with the host.
//!
//! Two ways. *Pool*: one run of pages is shared once, and buffers bounce
//! through it; after set-up no hypercall is made. *Each*: every buffer is
//! copied to pages of its own, shared for one transfer. In neither is a page
//! shared that holds anything else: a driver that shared its stack where the
//! request header happens to be would show the host the rest of that page.

#![allow(unsafe_code)]

use super::bounce_hal::{DEVICES, direction};
use super::pkvm::Calls;
use core::ptr::NonNull;
use guest::lending::{Lending, PAGE};
use guest::slots::{Counters, Direction, Slots};
use rt::lock::IrqLock;
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

struct Shared {
    calls: Calls,
    lending: Lending,
    /// The pool, if buffers bounce through one.
    pool: Option<Slots>,
    /// Of buffers with pages of their own.
    counters: Counters,
    lent: usize,
    most_lent: usize,
}

static SHARED: [IrqLock<Option<Shared>>; DEVICES] = [const { IrqLock::new(None) }; DEVICES];

/// What the harness wants to know.
pub(crate) struct Report {
    pub(crate) counters: Counters,
    pub(crate) high_water: usize,
    pub(crate) hypercalls: u64,
    pub(crate) leaked: usize,
}

/// Sets `pages` aside for device `index`; a `pool` of so many of them is shared
/// now, without one every buffer gets pages of its own. False if sharing it
/// failed.
///
/// # Safety
/// `pages` must be mapped, page-aligned, used by nothing else.
pub(crate) unsafe fn open(
    index: usize,
    pages: core::ops::Range<usize>,
    ranges: bool,
    pool: Option<usize>,
) -> bool {
    let mut calls = Calls { ranges, made: 0 };
    let mut lending = Lending::new(pages.step_by(PAGE));
    let pool = match pool {
        None => None,
        Some(pages) => {
            let Some(first) = lending.lend(&mut calls, pages) else { return false };
            // SAFETY: the caller's promise; `lending` does not give them out
            // again.
            Some(unsafe { Slots::new(first as *mut u8, pages * PAGE) })
        }
    };
    let counters = Counters::default();
    *SHARED[index].lock() = Some(Shared { calls, lending, pool, counters, lent: 0, most_lent: 0 });
    true
}

/// What was done with the buffers of a device so far.
pub(crate) fn counters(index: usize) -> Counters {
    SHARED[index].lock().as_ref().map_or(Counters::default(), |shared| match &shared.pool {
        Some(pool) => pool.counters(),
        None => shared.counters,
    })
}

/// Takes a device's pages back and tells what was done with them.
pub(crate) fn close(index: usize) -> Option<Report> {
    let mut shared = SHARED[index].lock().take()?;
    let mut high_water = shared.most_lent * PAGE;
    if let Some(pool) = &shared.pool {
        high_water += pool.high_water();
        shared.counters = pool.counters();
    }
    shared.lending.take_all_back(&mut shared.calls);
    Some(Report {
        counters: shared.counters,
        high_water,
        hypercalls: shared.calls.made,
        leaked: shared.lending.leaked(),
    })
}

impl Shared {
    fn lend(&mut self, pages: usize) -> Option<usize> {
        let first = self.lending.lend(&mut self.calls, pages)?;
        self.lent += pages;
        self.most_lent = self.most_lent.max(self.lent);
        Some(first)
    }

    fn take_back(&mut self, first: usize, pages: usize) {
        // What does not come back is leaked, and reported at the end.
        self.lending.take_back(&mut self.calls, first, pages);
        self.lent -= pages;
    }

    fn share(&mut self, buffer: &[u8], to: Direction) -> Option<u64> {
        if let Some(pool) = &mut self.pool {
            return Some(pool.share(buffer, to)? as u64);
        }
        let first = self.lend(buffer.len().div_ceil(PAGE))?;
        if to != Direction::FromDevice {
            // SAFETY: freshly lent pages, long enough and nobody's.
            unsafe {
                core::ptr::copy_nonoverlapping(buffer.as_ptr(), first as *mut u8, buffer.len());
            }
            self.counters.bytes_in += buffer.len() as u64;
        }
        self.counters.shares += 1;
        Some(first as u64)
    }

    fn unshare(&mut self, address: u64, buffer: &mut [u8], to: Direction) -> bool {
        if let Some(pool) = &mut self.pool {
            return pool.unshare(address as *mut u8, buffer, to);
        }
        // Taken back before it is read: then it holds still.
        self.take_back(address as usize, buffer.len().div_ceil(PAGE));
        if to != Direction::ToDevice {
            // SAFETY: the pages this buffer was given. If they were leaked
            // they are still mapped.
            unsafe {
                let from = address as *const u8;
                core::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), buffer.len());
            }
            self.counters.bytes_out += buffer.len() as u64;
        }
        self.counters.unshares += 1;
        true
    }
}

/// The shared pages of device number `DEVICE` as the drivers see them.
pub(crate) struct ShareHal<const DEVICE: usize>;

// SAFETY: `Lending` and `Slots` hand out disjoint, zeroed, mapped memory;
// whole pages for rings.
unsafe impl<const DEVICE: usize> Hal for ShareHal<DEVICE> {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let mut shared = SHARED[DEVICE].lock();
        let piece = shared.as_mut().and_then(|shared| match &mut shared.pool {
            Some(pool) => NonNull::new(pool.allocate(pages * PAGE, PAGE)?),
            None => NonNull::new(shared.lend(pages)? as *mut u8),
        });
        // The crate takes address 0 for a failure.
        piece.map_or((0, NonNull::dangling()), |piece| (piece.as_ptr() as u64, piece))
    }

    unsafe fn dma_dealloc(address: PhysAddr, piece: NonNull<u8>, pages: usize) -> i32 {
        let mut shared = SHARED[DEVICE].lock();
        let released = shared.as_mut().is_some_and(|shared| match &mut shared.pool {
            Some(pool) => pool.release(piece.as_ptr(), pages * PAGE),
            None => {
                shared.take_back(address as usize, pages);
                true
            }
        });
        if released { 0 } else { -1 }
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _size: usize) -> NonNull<u8> {
        super::device::registers(address)
    }

    #[allow(clippy::panic)]
    unsafe fn share(buffer: NonNull<[u8]>, to: BufferDirection) -> PhysAddr {
        // SAFETY: the caller's promise: a valid buffer that nobody changes.
        let bytes = unsafe { buffer.as_ref() };
        let address =
            SHARED[DEVICE].lock().as_mut().and_then(|shared| shared.share(bytes, direction(to)));
        // The trait has no way to refuse, and any address would be a lie.
        address.unwrap_or_else(|| panic!("no page can be shared for {} bytes", bytes.len()))
    }

    #[allow(clippy::panic)]
    unsafe fn unshare(address: PhysAddr, mut buffer: NonNull<[u8]>, to: BufferDirection) {
        // SAFETY: the caller's promise: a valid buffer that nobody else uses.
        let bytes = unsafe { buffer.as_mut() };
        let mut shared = SHARED[DEVICE].lock();
        let done =
            shared.as_mut().is_some_and(|shared| shared.unshare(address, bytes, direction(to)));
        if !done {
            panic!("{address:#x} is not a shared slot of {} bytes", bytes.len());
        }
    }
}
