//! The IOMMU's table against the frame table.

use super::rules::{Rule, Violation};
use crate::addr::{Pfn, PfnRange};
use crate::machine::Machine;
use crate::memory::{HostMemory, Owner};

const ENTRIES: u64 = 512;
/// Valid, a page; Normal write-back (5:2), readable and writable (7:6), inner
/// shareable (9:8), accessed (10).
const PAGE: u64 = 0x7ff;
const ADDRESS: u64 = 0x7f_ffff_f000;

/// What the word of a frame must be.
fn expected(memory: &HostMemory<'_>, pfn: Pfn) -> u64 {
    match memory.entry(pfn).owner() {
        Owner::Host => pfn.base() | PAGE,
        _ => 0,
    }
}

/// The table that a word leads to, which must be EL2's.
fn below(
    m: &impl Machine,
    memory: &HostMemory<'_>,
    (table, index): (Pfn, u64),
) -> Result<Option<Pfn>, Violation> {
    let word = m.read_word(table, index as usize);
    let wrong =
        |frame| Violation::frame(Rule::DmaIsOwned, frame, word, 0).at(table, index as usize);
    match (word & 0xfff, Pfn::containing(word & ADDRESS)) {
        (0, _) if word == 0 => Ok(None),
        (0b11, Some(below)) if word & !ADDRESS == 0b11 => match memory.entry(below).owner() {
            Owner::Hyp => Ok(Some(below)),
            _ => Err(wrong(below)),
        },
        _ => Err(wrong(table)),
    }
}

/// Checks the whole of it, if there is one.
pub(super) fn check(m: &impl Machine, memory: &HostMemory<'_>) -> Result<(), Violation> {
    let Some(root) = memory.dma_root() else { return Ok(()) };
    let mut pages = 0;
    for high in 0..ENTRIES {
        let Some(middle) = below(m, memory, (root, high))? else { continue };
        for low in 0..ENTRIES {
            let Some(table) = below(m, memory, (middle, low))? else { continue };
            pages += check_table(m, memory, table, (high << 9 | low) << 9)?;
        }
    }
    // Then none is missing for want of a table.
    match memory.counts().owned(Owner::Host) {
        owned if owned == pages => Ok(()),
        owned => Err(Violation::count(Rule::DmaIsOwned, pages, owned)),
    }
}

/// Checks a last-level table, whose first word is for the frame numbered
/// `base`. Returns how many pages it has.
fn check_table(
    m: &impl Machine,
    memory: &HostMemory<'_>,
    table: Pfn,
    base: u64,
) -> Result<u64, Violation> {
    let (first, entries) = memory.entries_between(base, base + ENTRIES);
    let (mut pages, mut wrong) = (0, None);
    m.read_words(table, 0..ENTRIES as usize, |index, word| {
        let number = base + index as u64;
        let entry = number.checked_sub(first).and_then(|offset| entries.get(offset as usize));
        let owned = entry.is_some_and(|entry| entry.owner() == Owner::Host);
        let expected = if owned { number << 12 | PAGE } else { 0 };
        pages += u64::from(owned);
        if word != expected && wrong.is_none() {
            wrong = Some((index, word, expected));
        }
    });
    match wrong {
        None => Ok(pages),
        Some((index, found, expected)) => {
            let frame = Pfn::new(base + index as u64).unwrap_or(table);
            Err(Violation::frame(Rule::DmaIsOwned, frame, found, expected).at(table, index))
        }
    }
}

/// Checks the words of these frames.
pub(super) fn check_frames(
    m: &impl Machine,
    memory: &HostMemory<'_>,
    frames: PfnRange,
) -> Result<(), Violation> {
    let Some(root) = memory.dma_root() else { return Ok(()) };
    for pfn in frames.iter() {
        let [high, low, index] = [18, 9, 0].map(|shift| pfn.number() >> shift & (ENTRIES - 1));
        let middle = below(m, memory, (root, high))?;
        let table = middle.map(|middle| below(m, memory, (middle, low))).transpose()?.flatten();
        match table {
            Some(table) => {
                let found = m.read_word(table, index as usize);
                if found != expected(memory, pfn) {
                    let violation =
                        Violation::frame(Rule::DmaIsOwned, pfn, found, expected(memory, pfn));
                    return Err(violation.at(table, index as usize));
                }
            }
            None if expected(memory, pfn) == 0 => {}
            None => return Err(Violation::frame(Rule::DmaIsOwned, pfn, 0, expected(memory, pfn))),
        }
    }
    Ok(())
}
