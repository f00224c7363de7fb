//! DMA through an I/O table: the device sees what the table maps, and nothing
//! else of the guest.
//!
//! What this adds to `guest::mappings` is the virtual machine: tables are
//! private pages written by volatile stores, and REFRESH is a hypercall.

#![allow(unsafe_code)]

use super::bounce_hal::{DEVICES, direction};
use super::pkvm;
use core::ops::Range;
use core::ptr::NonNull;
use guest::iommu::{Counters, Domain, Refresh, Refreshed};
use guest::iotable::TablePages;
use guest::lending::PAGE;
use guest::mappings::{Arena, Mappings, Mode, Use};
use guest::slots::Counters as Copied;
use rt::lock::IrqLock;
use rt::println;
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

/// Pages for tables: those on the way to one last table, and some of those; and
/// more of those where there is much to map at once.
const TABLES: usize = 8;
const MORE_TABLES: usize = 18;
/// Pages that one last table maps, and tables on the way to it.
const PER_TABLE: u64 = 512;
const ON_THE_WAY: u64 = 2;
/// That many pages are much.
const MUCH: usize = 512;
/// Pages of the pool that all buffers are copied through, if they are: at
/// least, and how many of the arena are for rings.
const KEPT_POOL: u64 = 64;
const RESERVE: u64 = 24;
/// Pages of the pool for headers, status bytes and other buffers of less than a
/// page; and more where there are many at once.
const POOL: u64 = 2;
const MORE_POOL: u64 = 8;

/// Private pages for tables, one after the other.
pub(crate) struct Tables(Range<usize>);

impl Tables {
    /// Makes tables of these pages.
    ///
    /// # Safety
    /// They must be mapped, page-aligned, used by nothing else.
    pub(crate) unsafe fn new(pages: Range<usize>) -> Self {
        Self(pages)
    }
}

impl TablePages for Tables {
    fn page(&mut self) -> Option<u64> {
        let page = self.0.start;
        if page + PAGE > self.0.end {
            return None;
        }
        self.0.start += PAGE;
        // SAFETY: as `new` was promised; the page is given out once.
        unsafe { core::ptr::write_bytes(page as *mut u8, 0, PAGE) };
        Some(page as u64)
    }

    fn read(&self, table: u64, index: u64) -> u64 {
        // SAFETY: a word of a page that `page` gave out. RAM is where its
        // guest physical address is.
        unsafe { ((table + 8 * index) as *const u64).read_volatile() }
    }

    fn write(&mut self, table: u64, index: u64, word: u64) {
        // SAFETY: as above. The hypervisor may read it at the same time.
        unsafe { ((table + 8 * index) as *mut u64).write_volatile(word) };
    }
}

/// REFRESH of one device.
pub(crate) struct Calls {
    pub(crate) device: u64,
}

impl Refresh for Calls {
    fn refresh(&mut self, iova: u64, pages: u64) -> Result<Refreshed, i64> {
        match pkvm::refresh(self.device, iova, pages) {
            (0, [done, left_out, _]) => Ok(Refreshed { done, left_out }),
            (code, _) => Err(code),
        }
    }
}

/// A device's I/O virtual addresses on this machine.
pub(crate) type GuestDomain = Domain<Tables, Calls>;

/// Gives device `number` a table of these pages.
///
/// # Safety
/// As [`Tables::new`].
pub(crate) unsafe fn domain(
    number: u64,
    tables: Range<usize>,
    aperture: (u64, u64),
) -> Option<GuestDomain> {
    // SAFETY: the caller's promise.
    let tables = unsafe { Tables::new(tables) };
    let domain = Domain::new(tables, Calls { device: number }, aperture)?;
    let (code, _) = pkvm::iotable_set(number, domain.table.root());
    (code == 0).then_some(domain)
}

/// Takes a device's table away; false if something stays mapped.
pub(crate) fn take_away(number: u64) -> bool {
    // A table's worth per call; an aperture has 512.
    (0..=512).any(|_| pkvm::iotable_set(number, 0) == (0, 0))
}

static MAPPINGS: [IrqLock<Option<Mappings<Tables, Calls>>>; DEVICES] =
    [const { IrqLock::new(None) }; DEVICES];

/// The mode of a `dma=` word; strict if it names none.
pub(crate) fn mode(word: &str) -> Option<Mode> {
    match word {
        "" | "iommu" | "iommu-strict" => Some(Mode::Strict),
        "iommu-lazy" => Some(Mode::Lazy),
        "iommu-naive" => Some(Mode::Naive),
        "iommu-kept" => Some(Mode::Kept),
        _ => None,
    }
}

/// What the harness wants to know.
pub(crate) struct Report {
    pub(crate) counters: Counters,
    pub(crate) used: Use,
    /// Most bytes of pages set aside that were in use at once.
    pub(crate) high_water: usize,
    /// The table could be taken away.
    pub(crate) ended: bool,
}

impl Report {
    /// Pages that the device may see for ever.
    pub(crate) fn lost(&self) -> usize {
        self.counters.lost_pages as usize + usize::from(!self.ended)
    }
}

/// Tells what mapping cost, in the words of s390's counters.
pub(crate) fn tell(report: &Report) {
    let Report { counters, used, .. } = report;
    println!(
        "@guest iommu mapped={} unmapped={} refresh_map={} refresh_unmap={} refresh_all={} all_calls={} in_place={} beyond={} stale={} lost={}",
        counters.mapped_pages,
        counters.unmapped_pages,
        counters.map_calls,
        counters.unmap_calls,
        counters.global,
        counters.global_calls,
        used.in_place,
        used.beyond,
        used.stale,
        counters.lost_pages
    );
}

/// Opens device `index`, which the hypervisor calls `number`: what it said of
/// its table is `info`. False if there is not enough memory.
///
/// # Safety
/// `pages` must be mapped, page-aligned, used by nothing else.
pub(crate) unsafe fn open(
    index: usize,
    pages: Range<usize>,
    mode: Mode,
    number: u64,
    [first, aperture, budget]: [u64; 3],
) -> bool {
    let (count, small) =
        if pages.len() / PAGE < MUCH { (TABLES, POOL) } else { (MORE_TABLES, MORE_POOL) };
    let tables = pages.start..pages.start + count * PAGE;
    // No more addresses than there are tables for.
    let aperture = aperture.min((count as u64 - ON_THE_WAY) * PER_TABLE);
    let (base, end) = (tables.end, pages.end);
    let budget = budget & 0xffff_ffff;
    let count = (end.saturating_sub(base) / PAGE) as u64;
    // A larger arena is for a larger pool.
    let kept = count.saturating_sub(RESERVE).max(KEPT_POOL);
    let pool = if mode == Mode::Kept { kept.min(budget / 2) } else { small };
    // SAFETY: the caller's promise.
    let Some(domain) = (unsafe { domain(number, tables, (first, aperture)) }) else {
        return false;
    };
    let arena = Arena { base: base as *mut u8, ipa: base as u64, pages: count };
    // SAFETY: the same; tables and arena do not overlap.
    let mappings = unsafe { Mappings::new(domain, mode, arena, pool) };
    let opened = mappings.is_some();
    *MAPPINGS[index].lock() = mappings;
    opened
}

/// What was copied for a device so far.
pub(crate) fn copied(index: usize) -> Copied {
    let mappings = MAPPINGS[index].lock();
    mappings.as_ref().map_or_else(Copied::default, |mappings| mappings.used().copied)
}

/// Takes everything away from a device, and tells what was done for it.
pub(crate) fn close(index: usize) -> Option<Report> {
    let mut mappings = MAPPINGS[index].lock().take()?;
    mappings.flush();
    let (counters, used) = (mappings.domain.counters, mappings.used());
    let ended = take_away(mappings.domain.calls.device);
    Some(Report { counters, used, high_water: mappings.most() as usize * PAGE, ended })
}

/// The I/O table of device number `DEVICE` as the drivers see it.
pub(crate) struct IommuHal<const DEVICE: usize>;

// SAFETY: `Mappings` gives out disjoint, zeroed, mapped pages.
unsafe impl<const DEVICE: usize> Hal for IommuHal<DEVICE> {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let mut mappings = MAPPINGS[DEVICE].lock();
        let piece = mappings.as_mut().and_then(|mappings| mappings.allocate(pages));
        // The crate takes address 0 for a failure.
        piece.unwrap_or((0, NonNull::dangling()))
    }

    unsafe fn dma_dealloc(address: PhysAddr, _piece: NonNull<u8>, pages: usize) -> i32 {
        let mut mappings = MAPPINGS[DEVICE].lock();
        let released = mappings.as_mut().is_some_and(|mappings| mappings.release(address, pages));
        if released { 0 } else { -1 }
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _size: usize) -> NonNull<u8> {
        super::device::registers(address)
    }

    #[allow(clippy::panic)]
    unsafe fn share(buffer: NonNull<[u8]>, to: BufferDirection) -> PhysAddr {
        let mut mappings = MAPPINGS[DEVICE].lock();
        // SAFETY: the caller's promise: a valid buffer that nobody changes.
        let address =
            mappings.as_mut().and_then(|mappings| unsafe { mappings.share(buffer, direction(to)) });
        // The trait has no way to refuse, and any address would be a lie.
        address.unwrap_or_else(|| panic!("{} bytes cannot be mapped", buffer.len()))
    }

    #[allow(clippy::panic)]
    unsafe fn unshare(address: PhysAddr, buffer: NonNull<[u8]>, to: BufferDirection) {
        let mut mappings = MAPPINGS[DEVICE].lock();
        // SAFETY: the caller's promise: the buffer that was shared.
        let done = mappings
            .as_mut()
            .is_some_and(|mappings| unsafe { mappings.unshare(address, buffer, direction(to)) });
        if !done {
            panic!("{address:#x} is no mapped buffer of {} bytes", buffer.len());
        }
    }
}
