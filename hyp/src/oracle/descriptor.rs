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
    /// Device-nGnRE, read-write, never executable, AF.
    pub(in crate::oracle) const DEVICE: u64 = 1 << 54 | 0x4c4;
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

/// Reads the word `index` of `table`, which is at `level`.
pub(super) fn decode(word: u64, level: u8, table: Pfn, index: usize) -> Result<Word, Violation> {
    if word == 0 {
        return Ok(Word::Empty);
    }
    let nonsense = Violation::frame(Rule::WordMakesSense, table, word, 0).at(table, index);
    let frame = Pfn::containing(word & ADDRESS).ok_or(nonsense)?;
    let leaf = Word::Leaf { first: frame, right: word & !(ADDRESS | 0b11) };
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
