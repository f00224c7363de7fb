//! A table word, as the architecture reads it (VMSAv8-64, 4 KiB granule; Arm
//! ARM D8.3), and the two uses bouncer makes of ignored bits. Written a second
//! time on purpose: `stage2` must not be judged by its own decoder.

use super::rules::{Rule, Violation};
use crate::addr::Pfn;

/// Output address, bits 38:12.
const ADDRESS: u64 = 0x7f_ffff_f000;

/// A leaf's bits without address, valid bit and page bit.
pub(super) mod right {
    /// Normal write-back, inner shareable, read-write, executable, AF.
    pub(in crate::oracle) const RAM: u64 = 0x7fc;
    /// The same with software bit 55: borrowed from a guest.
    pub(in crate::oracle) const BORROWED: u64 = 1 << 55 | RAM;
    /// RAM that is never executable (XN = 0b10).
    pub(in crate::oracle) const BOUNCE: u64 = 1 << 54 | RAM;
    /// The same, but read-only (S2AP = 0b01).
    pub(in crate::oracle) const BOUNCE_READ_ONLY: u64 = BOUNCE & !(1 << 7);
    /// Device-nGnRE, read-write, never executable, AF.
    pub(in crate::oracle) const DEVICE: u64 = 1 << 54 | 0x4c4;
}

/// MemAttr, bits 5:2: Normal write-back, and the same as HCR_EL2.FWB has it.
const MEM_ATTR: u64 = 0b1111 << 2;
const FORCED: u64 = 0b0110 << 2;

/// A leaf's right, named as without forced write-back. What is a write-back
/// there means something else with it, and names none.
const fn right_of(word: u64, forced: bool) -> u64 {
    let right = word & !(ADDRESS | 0b11);
    match (forced, right & MEM_ATTR) {
        (true, FORCED) => right | MEM_ATTR,
        (true, MEM_ATTR) => right & !MEM_ATTR,
        _ => right,
    }
}

/// The word by which the host has a frame of RAM as a page.
pub(super) const fn plain_page(pfn: u64, forced: bool) -> u64 {
    let memory = if forced { FORCED } else { MEM_ATTR };
    pfn << 12 | right::RAM & !MEM_ATTR | memory | 0b11
}

/// Levels of a 39-bit walk.
pub(super) const ROOT: u8 = 1;
pub(super) const PAGES: u8 = 3;
/// Entries in a table.
pub(super) const ENTRIES: u64 = 512;

/// Frames that an entry at `level` covers.
pub(super) const fn span(level: u8) -> u64 {
    match level {
        ROOT => ENTRIES * ENTRIES,
        PAGES => 1,
        _ => ENTRIES,
    }
}

/// What a word says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Word {
    /// Nothing.
    Empty,
    /// The next table; `used` is the number of entries that bits 11:2 claim.
    Table { next: Pfn, used: u64, parked: bool },
    /// A block or page.
    Leaf { first: Pfn, right: u64 },
}

/// Reads the word `index` of `table`, which is at `level`, with write-back
/// `forced` or not.
pub(super) fn decode(
    word: u64,
    level: u8,
    (table, index): (Pfn, usize),
    forced: bool,
) -> Result<Word, Violation> {
    if word == 0 {
        return Ok(Word::Empty);
    }
    let nonsense = Violation::frame(Rule::WordMakesSense, table, word, 0).at(table, index);
    let frame = Pfn::containing(word & ADDRESS).ok_or(nonsense)?;
    let leaf = Word::Leaf { first: frame, right: right_of(word, forced) };
    match (level, word & 0b11) {
        // Nothing but address, count and type in a table descriptor.
        (1 | 2, 0b10 | 0b11) if word & !(ADDRESS | 0xfff) == 0 => {
            Ok(Word::Table { next: frame, used: word >> 2 & 0x3ff, parked: word & 1 == 0 })
        }
        (1 | 2, 0b01) if frame.number().is_multiple_of(span(level)) => Ok(leaf),
        (PAGES, 0b11) => Ok(leaf),
        _ => Err(nonsense),
    }
}
