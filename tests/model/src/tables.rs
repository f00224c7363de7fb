//! Page tables, read from memory with a decoder of our own written from the
//! Arm ARM (D8.3, stage 2, 4 KiB granule), so that a mistake in bouncer's is
//! seen.

use crate::frame_set::FrameSet;
use crate::machine::Booted;
use crate::state::State;
use hyp::sim::{FrameView, SimMachine};

/// A translation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Leaf {
    /// First input frame.
    pub(crate) gfn: u64,
    /// First output frame.
    pub(crate) pfn: u64,
    /// Frames it maps.
    pub(crate) frames: u64,
    /// The descriptor.
    pub(crate) word: u64,
}

/// S2AP read and write, and execute-never (XN\[1\] of bits 54:53).
const READ_WRITE: u64 = 0b11 << 6;
const EXECUTE_NEVER: u64 = 0b10 << 53;
const ADDRESS: u64 = 0x7f_ffff_f000;
const ENTRIES: u64 = 512;

/// A table, and where it hangs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Table {
    frame: u64,
    level: u32,
    /// First input frame.
    base: u64,
}

impl Table {
    fn root(frame: u64) -> Self {
        Self { frame, level: 1, base: 0 }
    }

    /// Frames below one of its entries.
    fn span(self) -> u64 {
        1 << (9 * (3 - self.level))
    }

    /// What its valid entries lead to.
    fn entries(self, frame: FrameView<'_>, tables: &mut Vec<Table>, leaves: &mut Vec<Leaf>) {
        let mut entry = |index: u64, word: u64| {
            let output = (word & ADDRESS) >> 12;
            let gfn = self.base + index * self.span();
            match (word & 0b11, self.level) {
                (0b11, 1 | 2) => {
                    tables.push(Table { frame: output, level: self.level + 1, base: gfn });
                }
                (0b11, 3) | (0b01, 1 | 2) => {
                    leaves.push(Leaf { gfn, pfn: output, frames: self.span(), word });
                }
                _ => {}
            }
        };
        let Some(words) = frame.words() else {
            let word = frame.tag().unwrap_or(0);
            // The same everywhere, and mostly zero.
            (0..ENTRIES).take_while(|_| word & 1 != 0).for_each(|index| entry(index, word));
            return;
        };
        // By eights: most of a table is invalid.
        for (eight, start) in words.chunks_exact(8).zip((0..).step_by(8)) {
            if eight.iter().fold(0, |any, word| any | word) & 1 != 0 {
                eight.iter().zip(start..).for_each(|(word, index)| entry(index, *word));
            }
        }
    }

    /// Adds what lies below to `leaves`, and the tables on the way to `all`.
    fn walk(self, machine: &SimMachine, all: &mut Vec<Table>, leaves: &mut Vec<Leaf>) {
        let mut below = Vec::new();
        machine.view_frame(self.frame, |frame| self.entries(frame, &mut below, leaves));
        all.push(self);
        below.into_iter().for_each(|table| table.walk(machine, all, leaves));
    }
}

/// Everything mapped below a root, and the frames that say so.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Tables {
    frames: Vec<u64>,
    /// In the order of input frames.
    pub(crate) leaves: Vec<Leaf>,
}

impl Tables {
    pub(crate) fn read(machine: &SimMachine, root: u64) -> Self {
        let (mut all, mut leaves) = (Vec::new(), Vec::new());
        Table::root(root).walk(machine, &mut all, &mut leaves);
        leaves.sort_unstable();
        Self { frames: all.into_iter().map(|table| table.frame).collect(), leaves }
    }

    /// Can a change of this frame change what is mapped?
    pub(crate) fn depend_on(&self, frame: u64) -> bool {
        self.frames.contains(&frame)
    }

    /// Page by page: input frame, output frame, descriptor.
    pub(crate) fn pages(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        self.leaves.iter().flat_map(|leaf| {
            (0..leaf.frames).map(|offset| (leaf.gfn + offset, leaf.pfn + offset, leaf.word))
        })
    }
}

/// RAM can do everything; memory that the host can write, everything but run.
pub(crate) fn is_good(ram: bool, word: u64) -> bool {
    word & READ_WRITE == READ_WRITE && (ram || word & EXECUTE_NEVER != 0)
}

/// The host's stage 2: the identity on some of RAM, and on devices.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct HostTables {
    tables: Vec<Table>,
    /// RAM that is mapped.
    pub(crate) mapped: FrameSet,
}

impl HostTables {
    /// Reads all of them.
    pub(crate) fn read(booted: &Booted, state: &State) -> Result<Self, String> {
        let mut mapped = state.reach().clone();
        mapped.clear();
        let mut host = Self { tables: Vec::new(), mapped };
        let root = Table::root(booted.hyp().host_regime().root.number());
        host.add(booted, root)?;
        Ok(host)
    }

    /// A frame has changed: reads again what it says, if it is one of them.
    pub(crate) fn changed(
        &mut self,
        booted: &Booted,
        state: &State,
        frame: u64,
    ) -> Result<(), String> {
        match self.tables.iter().find(|table| table.frame == frame).copied() {
            None => Ok(()),
            Some(table) if self.is_of_pages_of_ram(table) => self.pages(booted, table),
            Some(_) => {
                *self = Self::read(booted, state)?;
                Ok(())
            }
        }
    }

    /// Does it map pages, and can all of them be RAM?
    fn is_of_pages_of_ram(&self, table: Table) -> bool {
        table.level == 3 && self.mapped.covers(table.base, ENTRIES)
    }

    fn add(&mut self, booted: &Booted, table: Table) -> Result<(), String> {
        self.tables.push(table);
        if self.is_of_pages_of_ram(table) {
            return self.pages(booted, table);
        }
        let (mut below, mut leaves) = (Vec::new(), Vec::new());
        let machine = booted.hyp().machine();
        machine.view_frame(table.frame, |frame| table.entries(frame, &mut below, &mut leaves));
        leaves.iter().try_for_each(|leaf| self.leaf(booted, leaf))?;
        below.into_iter().try_for_each(|table| self.add(booted, table))
    }

    fn leaf(&mut self, booted: &Booted, leaf: &Leaf) -> Result<(), String> {
        let Leaf { gfn, pfn, frames, word } = *leaf;
        if gfn != pfn || word & READ_WRITE != READ_WRITE {
            return Err(format!("the host's {gfn:#x} leads to {pfn:#x} by {word:#x}"));
        }
        if frames.is_multiple_of(64) && self.mapped.covers(pfn, frames) {
            (pfn..pfn + frames).step_by(64).for_each(|pfn| self.mapped.set_word(pfn, u64::MAX));
            return Ok(());
        }
        for number in pfn..pfn + frames {
            if self.mapped.covers(number, 1) {
                self.mapped.set(number, true);
            } else if !(booted.is_host_device(number) && word & EXECUTE_NEVER != 0) {
                return Err(format!("the host has {number:#x} mapped, which is nothing"));
            }
        }
        Ok(())
    }

    /// One table of pages. Without a branch for each: it is the one that a
    /// donation changes.
    fn pages(&mut self, booted: &Booted, table: Table) -> Result<(), String> {
        let mut wrong = 0;
        booted.hyp().machine().view_frame(table.frame, |frame| {
            let same;
            let words = match frame.words() {
                Some(words) => words,
                None => {
                    same = [frame.tag().unwrap_or(0); ENTRIES as usize];
                    &same
                }
            };
            for (words, base) in words.chunks_exact(64).zip((table.base..).step_by(64)) {
                let mut bits = 0;
                for (index, word) in (0..).zip(words) {
                    let valid = word & word >> 1 & 1;
                    bits |= valid << index;
                    let identity = (base + index) << 12 | READ_WRITE;
                    wrong |= (word ^ identity) & (ADDRESS | READ_WRITE) & valid.wrapping_neg();
                }
                self.mapped.set_word(base, bits);
            }
        });
        match wrong {
            0 => Ok(()),
            wrong => Err(format!("the host's {:#x} and on: bits {wrong:#x} are wrong", table.base)),
        }
    }
}
