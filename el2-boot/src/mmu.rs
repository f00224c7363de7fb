//! EL2's own address space: stage 1 of the EL2 regime, VA = PA.
//!
//! It maps what EL2 is made of and nothing else: the image with its three
//! permissions, the heap, the pools, stacks between unmapped pages, the
//! devices EL2 drives, one fixmap page per CPU, and the frames that the host
//! has donated as page tables. Those come and go at run time; everything else
//! is constant after boot.
//!
//! A frame to be mapped is *reserved* first: its entry in a last-level table
//! gets a mark in a bit the hardware ignores while the entry is invalid (Arm
//! ARM D8.3.1). A table lives as long as it has an entry that is not zero.
#![allow(unsafe_code)]

use crate::{panic, sysreg};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use hyp::addr::{ADDRESS_BITS, FRAME_SIZE, Pfn, PfnRange};
use hyp::error::Error;
use platform::ByteRange;
use hyp::sync::Mutex;

const VALID: u64 = 1;
/// Level 1 and 2: a table; level 3: a page.
const TABLE_OR_PAGE: u64 = 0b11;
const ADDRESS: u64 = ((1 << 48) - 1) & !(FRAME_SIZE - 1);
/// Software mark of an invalid entry that will be mapped.
const RESERVED: u64 = 0b10;

const EXECUTE_NEVER: u64 = 1 << 54;
const READ_ONLY: u64 = 1 << 7;
/// Access flag; AP\[1\], which is RES1 in this regime.
const COMMON: u64 = 1 << 10 | 1 << 6;
const NORMAL: u64 = COMMON | 0b11 << 8;
const DEVICE: u64 = COMMON | 1 << 2;

/// Code: readable and executable.
pub(crate) const TEXT: u64 = NORMAL | READ_ONLY | TABLE_OR_PAGE;
/// Constants.
pub(crate) const RODATA: u64 = NORMAL | READ_ONLY | EXECUTE_NEVER | TABLE_OR_PAGE;
/// Variables, and any frame that EL2 owns.
pub(crate) const NORMAL_DATA: u64 = NORMAL | EXECUTE_NEVER | TABLE_OR_PAGE;
/// Device registers.
pub(crate) const DEVICE_DATA: u64 = DEVICE | EXECUTE_NEVER | TABLE_OR_PAGE;

/// Bytes that a last-level table and a middle table translate.
const BLOCK: u64 = 0x20_0000;
const GIB: u64 = 0x4000_0000;

/// Word `index` of a table.
#[inline(always)]
pub(crate) fn word(table: u64, index: usize) -> &'static AtomicU64 {
    // SAFETY: callers pass frames that EL2 owns as tables: those of this
    // module's pool, and those `hyp` was given by reserve_hyp and map_hyp or
    // in its boot pool. All are mapped VA = PA and never become memory of
    // another type while in use; the index stays inside the frame.
    unsafe { &*((table + 8 * (index as u64 & 511)) as *const AtomicU64) }
}

fn index(address: u64, size: u64) -> usize {
    (address / size % 512) as usize
}

/// Frames for tables, and how many entries of each are in use.
struct Pool {
    base: u64,
    free: Vec<u16>,
    entries: Vec<u16>,
}

impl Pool {
    fn take(&mut self) -> Option<u64> {
        let number = self.free.pop()?;
        let table = self.base + u64::from(number) * FRAME_SIZE;
        for index in 0..512 {
            word(table, index).store(0, Ordering::Relaxed);
        }
        Some(table)
    }

    fn entries(&mut self, table: u64) -> Option<&mut u16> {
        let number = table.checked_sub(self.base)? / FRAME_SIZE;
        self.entries.get_mut(number as usize)
    }

    fn give_back(&mut self, table: u64) {
        // The vector was made for all numbers: this does not allocate.
        self.free.push(((table - self.base) / FRAME_SIZE) as u16);
    }
}

/// The table that entry `index` of `table` points to.
fn next_table(table: u64, index: usize) -> Option<u64> {
    let entry = word(table, index).load(Ordering::Relaxed);
    (entry & TABLE_OR_PAGE == TABLE_OR_PAGE).then_some(entry & ADDRESS)
}

/// EL2's stage 1.
pub(crate) struct Stage1 {
    root: u64,
    fixmap: u64,
    pool: Mutex<Pool>,
}

impl Stage1 {
    /// An empty address space whose tables come from `memory`; at least one
    /// frame per 2 MiB and per GiB that will be touched.
    ///
    /// # Errors
    /// [`Error::NoMemory`] if `memory` has too few frames.
    pub(crate) fn new(memory: ByteRange) -> Result<Self, Error> {
        let count = u16::try_from(memory.size() / FRAME_SIZE).map_err(|_| Error::NoMemory)?;
        let mut pool = Pool {
            base: memory.start(),
            free: (0..count).rev().collect(),
            entries: (0..count).map(|_| 0).collect(),
        };
        let root = pool.take().ok_or(Error::NoMemory)?;
        let fixmap = last_table(root, &mut pool, crate::fixmap::BASE).ok_or(Error::NoMemory)?;
        Ok(Self { root, fixmap, pool: Mutex::new(pool) })
    }

    /// What TTBR0_EL2 holds.
    pub(crate) fn root(&self) -> u64 {
        self.root
    }

    /// Maps `range` (whole pages) VA = PA, before the map is in use.
    ///
    /// # Errors
    /// [`Error::NoMemory`] if the pool is empty.
    pub(crate) fn map_at_boot(&self, range: ByteRange, attributes: u64) -> Result<(), Error> {
        let mut pool = self.pool.lock();
        let mut page = range.start();
        while page < range.end() {
            let table = last_table(self.root, &mut pool, page).ok_or(Error::NoMemory)?;
            let end = range.end().min((page & !(BLOCK - 1)) + BLOCK);
            // Counted like donated frames, which may share the table: it must
            // outlive them.
            if let Some(entries) = pool.entries(table) {
                *entries += ((end - page) / FRAME_SIZE) as u16;
            }
            while page < end {
                word(table, index(page, FRAME_SIZE)).store(page | attributes, Ordering::Relaxed);
                page += FRAME_SIZE;
            }
        }
        Ok(())
    }

    /// See `Machine::reserve_hyp`: all of `range`, or nothing.
    pub(crate) fn reserve(&self, range: PfnRange) -> Result<(), Error> {
        let mut pool = self.pool.lock();
        if tables_missing(self.root, range) > pool.free.len() {
            return Err(Error::NoMemory);
        }
        for frame in range.iter() {
            let table = last_table(self.root, &mut pool, frame.base()).ok_or(Error::NoMemory)?;
            let entry = word(table, index(frame.base(), FRAME_SIZE));
            if entry.load(Ordering::Relaxed) == 0 {
                entry.store(RESERVED, Ordering::Relaxed);
                if let Some(entries) = pool.entries(table) {
                    *entries += 1;
                }
            }
        }
        Ok(())
    }

    /// See `Machine::map_hyp`.
    pub(crate) fn map(&self, frame: Pfn) {
        let _pool = self.pool.lock();
        let Some(table) = find_last_table(self.root, frame.base()) else {
            panic::broken("map_hyp of a frame that was not reserved");
        };
        let entry = word(table, index(frame.base(), FRAME_SIZE));
        entry.store(frame.base() | NORMAL_DATA, Ordering::Relaxed);
        // Invalid to valid: the walkers of all CPUs must see it, no TLB can
        // hold it.
        sysreg::dsb_ishst();
        sysreg::isb();
    }

    /// See `Machine::unmap_hyp`.
    pub(crate) fn unmap(&self, frame: Pfn) {
        let mut pool = self.pool.lock();
        let address = frame.base();
        let Some(table) = find_last_table(self.root, address) else { return };
        let entry = word(table, index(address, FRAME_SIZE));
        if entry.swap(0, Ordering::Relaxed) == 0 {
            return;
        }
        let empty = pool.entries(table).is_some_and(|entries| {
            *entries = entries.saturating_sub(1);
            *entries == 0
        });
        if empty {
            let middle = next_table(self.root, index(address, GIB));
            if let Some(middle) = middle {
                word(middle, index(address, BLOCK)).store(0, Ordering::Relaxed);
            }
        }
        sysreg::dsb_ishst();
        // Not only the last level: the table above may be gone, too.
        sysreg::tlbi_vae2is(address >> 12);
        sysreg::dsb_ish();
        sysreg::isb();
        if empty {
            pool.give_back(table);
        }
    }

    /// Writes the entry of the fixmap page at `slot`; ordering and TLBs are
    /// the caller's business.
    pub(crate) fn set_fixmap(&self, slot: u64, entry: u64) {
        word(self.fixmap, index(slot, FRAME_SIZE)).store(entry, Ordering::Relaxed);
    }
}

/// The last-level table for `address`, if there is one.
fn find_last_table(root: u64, address: u64) -> Option<u64> {
    let middle = next_table(root, index(address, GIB))?;
    next_table(middle, index(address, BLOCK))
}

/// The last-level table for `address`, made if there is none.
fn last_table(root: u64, pool: &mut Pool, address: u64) -> Option<u64> {
    let mut table = root;
    for size in [GIB, BLOCK] {
        let index = index(address, size);
        table = match next_table(table, index) {
            Some(next) => next,
            None => {
                let next = pool.take()?;
                // The zeros must be seen before the table is.
                sysreg::dsb_ishst();
                word(table, index).store(next | TABLE_OR_PAGE, Ordering::Relaxed);
                next
            }
        };
    }
    Some(table)
}

/// Tables that must be made before every page of `range` has one.
fn tables_missing(root: u64, range: PfnRange) -> usize {
    let (start, end) = (range.start().base(), range.end() * FRAME_SIZE);
    let mut missing = 0;
    let mut gib = start & !(GIB - 1);
    while gib < end {
        let middle = next_table(root, index(gib, GIB));
        missing += usize::from(middle.is_none());
        let mut block = start.max(gib) & !(BLOCK - 1);
        while block < end.min(gib + GIB) {
            let last = middle.and_then(|middle| next_table(middle, index(block, BLOCK)));
            missing += usize::from(last.is_none());
            block += BLOCK;
        }
        gib += GIB;
    }
    missing
}

/// Frames of tables that mapping all of `ranges` may take, fixmap and root
/// included.
pub(crate) fn tables_for(ranges: &[ByteRange]) -> u64 {
    let touched = |range: &ByteRange, size: u64| range.size() / size + 2;
    3 + ranges.iter().map(|range| touched(range, BLOCK) + touched(range, GIB)).sum::<u64>()
}

const _: () = assert!(VALID == 1 && ADDRESS_BITS == 39, "a level-1 root has 512 entries");
