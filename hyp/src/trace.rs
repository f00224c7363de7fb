//! What EL2 does to page tables and TLBs, as records of four words.
//!
//! A bouncer built with the feature `trace` keeps a log of them in the order
//! in which they happened. Read out after the machine has stopped, the log is
//! replayed on the simulated machine, whose TLB remembers what the CPU's may
//! have forgotten by luck (`tests/trace`).

use crate::addr::{GfnRange, Pfn, PfnRange};
use crate::machine::{Cause, CpuId, Regime, Vmid};

/// Words of a record.
pub const WORDS: usize = 4;

/// One thing that was done. Each is a method of [`crate::machine::Machine`],
/// but for the first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// EL2 has these frames since boot.
    Boot(PfnRange),
    /// A CPU begins to translate by this regime.
    Attach(Regime),
    /// EL2 maps a frame for itself.
    MapHyp(Pfn),
    /// EL2 unmaps it.
    UnmapHyp(Pfn),
    /// A word of a table is written.
    Store {
        /// The table.
        table: Pfn,
        /// Which word, 0 to 511.
        index: u16,
        /// What is there now.
        value: u64,
    },
    /// Frames are zeroed.
    Wipe(PfnRange),
    /// A frame is read, to measure it.
    Read(Pfn),
    /// A frame is written for the guest that owns it.
    Write(Pfn),
    /// Caches are made to agree about frames.
    MakeExecutable(PfnRange),
    /// Stores become visible to walkers.
    Publish,
    /// TLBs forget a range of a regime.
    Invalidate(Regime, GfnRange),
    /// TLBs forget a whole regime.
    InvalidateAll(Regime),
    /// No change of tables is under way on any CPU; the last was for this.
    Quiet(Cause),
}

/// An event, when and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its number: they count up from 0 without a gap.
    pub number: u64,
    /// The CPU that did it.
    pub cpu: CpuId,
    /// What.
    pub event: Event,
}

/// Where word 0 has what: a kind that is never 0, the CPU, the number.
const CPU_SHIFT: u32 = 8;
const NUMBER_SHIFT: u32 = 16;

/// A regime as VTTBR_EL2 holds it.
const VMID_SHIFT: u32 = 48;

fn regime_word(regime: Regime) -> u64 {
    u64::from(regime.vmid.0) << VMID_SHIFT | regime.root.number()
}

fn regime(word: u64) -> Option<Regime> {
    let root = Pfn::new(word & ((1 << VMID_SHIFT) - 1))?;
    Some(Regime { vmid: Vmid((word >> VMID_SHIFT) as u8), root })
}

impl Record {
    /// As it is stored.
    pub fn encode(&self) -> [u64; WORDS] {
        let (kind, a, b, c) = match self.event {
            Event::Boot(range) => (1, range.start().number(), range.count(), 0),
            Event::Attach(regime) => (2, regime_word(regime), 0, 0),
            Event::MapHyp(frame) => (3, frame.number(), 0, 0),
            Event::UnmapHyp(frame) => (4, frame.number(), 0, 0),
            Event::Store { table, index, value } => (5, table.number(), index.into(), value),
            Event::Wipe(range) => (6, range.start().number(), range.count(), 0),
            Event::Read(frame) => (7, frame.number(), 0, 0),
            Event::Write(frame) => (8, frame.number(), 0, 0),
            Event::MakeExecutable(range) => (9, range.start().number(), range.count(), 0),
            Event::Publish => (10, 0, 0, 0),
            Event::Invalidate(regime, range) => {
                (11, regime_word(regime), range.start().number(), range.count())
            }
            Event::InvalidateAll(regime) => (12, regime_word(regime), 0, 0),
            Event::Quiet(Cause { vmid, esr, x0 }) => (13, vmid.0.into(), esr, x0),
        };
        [self.number << NUMBER_SHIFT | (self.cpu as u64 & 0xff) << CPU_SHIFT | kind, a, b, c]
    }

    /// The record in these words; `None` if they are none.
    pub fn decode(words: [u64; WORDS]) -> Option<Self> {
        let [head, a, b, c] = words;
        let event = match head & 0xff {
            1 => Event::Boot(PfnRange::new(a, b).ok()?),
            2 => Event::Attach(regime(a)?),
            3 => Event::MapHyp(Pfn::new(a)?),
            4 => Event::UnmapHyp(Pfn::new(a)?),
            5 => {
                let index = u16::try_from(b).ok().filter(|index| *index < 512)?;
                Event::Store { table: Pfn::new(a)?, index, value: c }
            }
            6 => Event::Wipe(PfnRange::new(a, b).ok()?),
            7 => Event::Read(Pfn::new(a)?),
            8 => Event::Write(Pfn::new(a)?),
            9 => Event::MakeExecutable(PfnRange::new(a, b).ok()?),
            10 => Event::Publish,
            11 => Event::Invalidate(regime(a)?, GfnRange::new(b, c).ok()?),
            12 => Event::InvalidateAll(regime(a)?),
            13 => Event::Quiet(Cause { vmid: Vmid(u8::try_from(a).ok()?), esr: b, x0: c }),
            _ => return None,
        };
        let cpu = (head >> CPU_SHIFT & 0xff) as CpuId;
        Some(Self { number: head >> NUMBER_SHIFT, cpu, event })
    }
}

impl core::fmt::Display for Event {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let frames = |f: &mut core::fmt::Formatter<'_>, what: &str, range: &PfnRange| {
            write!(f, "{what} {:#x} to {:#x}", range.start().number(), range.end() - 1)
        };
        match self {
            Event::Boot(range) => frames(f, "EL2 has from boot frames", range),
            Event::Attach(regime) => {
                let root = regime.root.number();
                write!(f, "VMID {} translates by root {root:#x}", regime.vmid.0)
            }
            Event::MapHyp(frame) => write!(f, "EL2 maps frame {:#x}", frame.number()),
            Event::UnmapHyp(frame) => write!(f, "EL2 unmaps frame {:#x}", frame.number()),
            Event::Store { table, index, value } => {
                write!(f, "table {:#x} word {index} becomes {value:#x}", table.number())
            }
            Event::Wipe(range) => frames(f, "wipes frames", range),
            Event::Read(frame) => write!(f, "measures frame {:#x}", frame.number()),
            Event::Write(frame) => write!(f, "writes frame {:#x}", frame.number()),
            Event::MakeExecutable(range) => frames(f, "makes caches agree about frames", range),
            Event::Publish => write!(f, "publishes"),
            Event::Invalidate(regime, range) => {
                let (start, end) = (range.start().number(), range.end() - 1);
                write!(f, "invalidates {start:#x} to {end:#x} of VMID {}", regime.vmid.0)
            }
            Event::InvalidateAll(regime) => {
                write!(f, "invalidates all of VMID {}", regime.vmid.0)
            }
            Event::Quiet(cause) => {
                let Cause { vmid, esr, x0 } = cause;
                write!(f, "done for VMID {}: ESR {esr:#x}, x0 {x0:#x}", vmid.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let frames = PfnRange::new(0x4_0000, 3).unwrap();
        let (frame, regime) =
            (frames.start(), Regime { vmid: Vmid(7), root: Pfn::new(0x5_1234).unwrap() });
        let all = [
            Event::Boot(frames),
            Event::Attach(regime),
            Event::MapHyp(frame),
            Event::UnmapHyp(frame),
            Event::Store { table: frame, index: 511, value: u64::MAX },
            Event::Wipe(frames),
            Event::Read(frame),
            Event::Write(frame),
            Event::MakeExecutable(frames),
            Event::Publish,
            Event::Invalidate(regime, GfnRange::new(9, 2).unwrap()),
            Event::InvalidateAll(regime),
            Event::Quiet(Cause { vmid: Vmid(2), esr: 0x5600_0000, x0: u64::MAX }),
        ];
        for (number, event) in (0..).zip(all) {
            let record = Record { number, cpu: 5, event };
            assert_eq!(Record::decode(record.encode()), Some(record));
            assert!(!event.to_string().is_empty());
        }
    }

    #[test]
    fn what_is_no_record_is_none() {
        assert_eq!(Record::decode([0; WORDS]), None);
        assert_eq!(Record::decode([14, 0, 0, 0]), None);
        assert_eq!(Record::decode([5, 1, 512, 0]), None, "a table has 512 words");
        assert_eq!(Record::decode([6, 1, 0, 0]), None, "an empty range");
        assert_eq!(Record::decode([3, u64::MAX, 0, 0]), None, "no such frame");
    }
}
