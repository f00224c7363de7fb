//! Stage 1 at EL1: what the entry code did not map.
//!
//! The entry code identity-maps 0 to 1 GiB as Device and 1 to 128 GiB as Normal
//! write-back, executable memory, in gigabyte blocks. Mappings are added
//! outside that: PCI windows, or a second view of a frame with other
//! attributes. There is one table for all CPUs; it is never live-split.

#![allow(unsafe_code)]

use crate::lock::IrqLock;
use core::arch::asm;
use core::cell::UnsafeCell;

/// Memory type and permissions of a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Memory {
    /// Normal, write-back cacheable, never executable.
    Normal,
    /// Normal, write-back cacheable, executable at EL1.
    Code,
    /// Device-nGnRE.
    Device,
    /// Normal, non-cacheable.
    NonCacheable,
}

impl Memory {
    /// Attribute bits of a block or page descriptor (Arm ARM D8.3): access
    /// flag, shareability, MAIR index as `entry.S` sets it, execute-never.
    const fn bits(self) -> u64 {
        const AF: u64 = 1 << 10;
        const INNER: u64 = 3 << 8;
        const XN: u64 = 3 << 53;
        const UXN: u64 = 1 << 54;
        match self {
            Memory::Normal => AF | INNER | XN,
            Memory::Code => AF | INNER | UXN,
            Memory::Device => AF | 1 << 2 | XN,
            Memory::NonCacheable => AF | INNER | 2 << 2 | XN,
        }
    }
}

/// Why a mapping was refused. Pages before the refused one stay mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// Not page-aligned, empty, or beyond 39 bits.
    Range,
    /// Something is mapped there already.
    Occupied,
    /// No table page left.
    NoTable,
}

/// Pages for tables beyond the root.
const TABLES: usize = 24;
const TABLE: u64 = 3;
const BLOCK: u64 = 1;
const ADDRESS: u64 = 0xffff_ffff_f000;

#[repr(C, align(4096))]
struct Table(UnsafeCell<[u64; 512]>);

// SAFETY: after the entry code, written only by `map` and `unmap`, under the
// lock; otherwise read by the table walker alone.
unsafe impl Sync for Table {}

#[unsafe(no_mangle)]
static rt_root_table: Table = Table(UnsafeCell::new([0; 512]));
static POOL: [Table; TABLES] = [const { Table(UnsafeCell::new([0; 512])) }; TABLES];

/// Number of pool tables in use.
static USED: IrqLock<usize> = IrqLock::new(0);

/// Maps `length` bytes at virtual address `va` to physical address `pa`, with
/// the largest blocks alignment allows.
///
/// # Errors
/// See [`MapError`].
pub fn map(va: u64, pa: u64, length: u64, memory: Memory) -> Result<(), MapError> {
    let limit = 1 << 39;
    let inside = |start: u64| start.checked_add(length).is_some_and(|end| end <= limit);
    if (va | pa | length) & 0xfff != 0 || length == 0 || !inside(va) || !inside(pa) {
        return Err(MapError::Range);
    }
    let mut used = USED.lock();
    let mut done = 0;
    while done < length {
        let (va, pa, left) = (va + done, pa + done, length - done);
        let level = (1..3)
            .find(|level| fits(va | pa, left, size(*level)) && !is_table(va, *level))
            .unwrap_or(3);
        let entry = walk(va, level, Some(&mut used))?;
        let kind = if level == 3 { TABLE } else { BLOCK };
        // SAFETY: `walk` gives a word of a table; the lock is held.
        unsafe {
            if entry.read_volatile() & 1 != 0 {
                return Err(MapError::Occupied);
            }
            entry.write_volatile(pa | memory.bits() | kind);
        }
        done += size(level);
    }
    // SAFETY: publishes the new entries to this CPU's walker.
    unsafe { asm!("dsb ishst", "isb", options(nostack)) };
    Ok(())
}

/// What the root table says now: for the tables of a process, in which the
/// payload is mapped as well.
pub(crate) fn root() -> [u64; 512] {
    let _used = USED.lock();
    // SAFETY: the lock is held, and the walker only reads.
    unsafe { rt_root_table.0.get().read_volatile() }
}

/// Maps a range at its own address: the usual call for a PCI window.
///
/// # Errors
/// See [`MapError`].
pub fn map_identity(pa: u64, length: u64, memory: Memory) -> Result<(), MapError> {
    map(pa, pa, length, memory)
}

/// Removes what [`map`] made for exactly this range.
///
/// # Errors
/// [`MapError::Range`] if something of it is not mapped or is part of a
/// larger block.
pub fn unmap(va: u64, length: u64) -> Result<(), MapError> {
    let _used = USED.lock();
    let mut done = 0;
    while done < length {
        let va = va + done;
        let (entry, level) = leaf(va).ok_or(MapError::Range)?;
        if !fits(va, length - done, size(level)) {
            return Err(MapError::Range);
        }
        // SAFETY: `leaf` gives a word of a table; the lock is held.
        unsafe {
            entry.write_volatile(0);
            asm!("dsb ishst", "tlbi vaae1is, {}", "dsb ish", "isb", in(reg) va >> 12, options(nostack));
        }
        done += size(level);
    }
    Ok(())
}

const fn size(level: u32) -> u64 {
    1 << (39 - 9 * level)
}

const fn fits(address: u64, left: u64, size: u64) -> bool {
    address & (size - 1) == 0 && left >= size
}

const fn index(va: u64, level: u32) -> usize {
    (va >> (39 - 9 * level) & 511) as usize
}

fn word(table: u64, index: usize) -> *mut u64 {
    // Tables are identity-mapped.
    (table as *mut u64).wrapping_add(index)
}

/// The word of `level` for `va`, making tables on the way if a count is given.
fn walk(va: u64, level: u32, mut used: Option<&mut usize>) -> Result<*mut u64, MapError> {
    let mut table = rt_root_table.0.get() as u64;
    for step in 1..level {
        let entry = word(table, index(va, step));
        // SAFETY: a word of a table, the lock is held.
        let value = unsafe { entry.read_volatile() };
        table = match (value & 3, &mut used) {
            (TABLE, _) => value & ADDRESS,
            (0, Some(used)) => {
                let fresh = POOL.get(**used).ok_or(MapError::NoTable)?.0.get() as u64;
                **used += 1;
                // SAFETY: as above; the fresh table is all zero, and visible
                // to the walker before the entry that names it.
                unsafe {
                    asm!("dsb ishst", options(nostack));
                    entry.write_volatile(fresh | TABLE);
                }
                fresh
            }
            (BLOCK, _) => return Err(MapError::Occupied),
            _ => return Err(MapError::Range),
        };
    }
    Ok(word(table, index(va, level)))
}

/// Does a table of the next level hang there (perhaps an empty one)?
fn is_table(va: u64, level: u32) -> bool {
    // SAFETY: `walk` gives a word of a table; the lock is held.
    walk(va, level, None).is_ok_and(|entry| unsafe { entry.read_volatile() } & 3 == TABLE)
}

/// The valid block or page entry that maps `va`, and its level.
fn leaf(va: u64) -> Option<(*mut u64, u32)> {
    for level in 1..=3 {
        let entry = walk(va, level, None).ok()?;
        // SAFETY: a word of a table, the lock is held.
        match unsafe { entry.read_volatile() } & 3 {
            BLOCK if level < 3 => return Some((entry, level)),
            TABLE if level == 3 => return Some((entry, level)),
            TABLE => {}
            _ => return None,
        }
    }
    None
}
