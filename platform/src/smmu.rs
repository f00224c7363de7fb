//! The SMMUv3: where it is, what it must be able to do, and what its registers
//! and tables look like.
//!
//! bouncer has one use for it: whatever a PCIe function of the host's asks for
//! goes through one stage-2 table, whose contents are `hyp`'s to decide. There
//! is no stage 1, no ATS, no page request, no stall, no interrupt. The driver is
//! in `el2-boot`; here is all that can be tested without one.
//!
//! Sections are those of Arm IHI 0070 (SMMUv3).
//!
//! | file | one idea |
//! |---|---|
//! | `tree` | the SMMU and the bridge behind it, in the device tree |
//! | `words` | identification, stream table, commands, events |

mod tree;
mod words;

#[cfg(test)]
mod tests;

pub use tree::{Bridge, Smmu, find};
pub use words::{
    Command, Fault, Identification, STREAMS_PER_BUS, fault, first_level, first_level_bits, stream,
};

use core::fmt;

/// Registers, from the start of page 0 (6.1). What is above 64 KiB is in page 1.
#[allow(missing_docs)] // The specification's names.
pub mod register {
    pub const IDR0: u64 = 0x00;
    pub const IDR1: u64 = 0x04;
    pub const IDR5: u64 = 0x14;
    pub const CR0: u64 = 0x20;
    pub const CR0ACK: u64 = 0x24;
    pub const CR1: u64 = 0x28;
    pub const CR2: u64 = 0x2c;
    pub const GBPA: u64 = 0x44;
    pub const IRQ_CTRL: u64 = 0x50;
    pub const IRQ_CTRLACK: u64 = 0x54;
    pub const GERROR: u64 = 0x60;
    pub const GERRORN: u64 = 0x64;
    pub const STRTAB_BASE: u64 = 0x80;
    pub const STRTAB_BASE_CFG: u64 = 0x88;
    pub const CMDQ_BASE: u64 = 0x90;
    pub const CMDQ_PROD: u64 = 0x98;
    pub const CMDQ_CONS: u64 = 0x9c;
    pub const EVENTQ_BASE: u64 = 0xa0;
    pub const EVENTQ_PROD: u64 = 0x1_00a8;
    pub const EVENTQ_CONS: u64 = 0x1_00ac;
}

/// CR0 (6.3.9).
pub const SMMUEN: u32 = 1 << 0;
/// CR0: the event queue is written.
pub const EVENTQEN: u32 = 1 << 2;
/// CR0: the command queue is read.
pub const CMDQEN: u32 = 1 << 3;
/// CR1 (6.3.11): tables and queues are write-back and inner shareable.
pub const CR1: u32 = 0b11 << 10 | 0b01 << 8 | 0b01 << 6 | 0b11 << 4 | 0b01 << 2 | 0b01;
/// CR2 (6.3.12): streams out of range are told of (RECINVSID), and what CPUs
/// broadcast is not listened to (PTM): VMIDs here are the SMMU's own.
pub const CR2: u32 = 1 << 2 | 1 << 1;
/// GBPA (6.3.14): a new value is being taken.
pub const GBPA_UPDATE: u32 = 1 << 31;
/// GBPA: all is aborted while the SMMU is off.
pub const GBPA_ABORT: u32 = 1 << 20;
/// GERROR (6.3.19): a command was wrong, and no further one is read.
pub const GERROR_CMDQ: u32 = 1 << 0;
/// In a base register: the SMMU may allocate in caches for it (6.3.23).
pub const ALLOCATE: u64 = 1 << 62;
/// Bits of an index into the command queue, and into the event queue.
pub const COMMAND_BITS: u32 = 8;
/// See [`COMMAND_BITS`].
pub const EVENT_BITS: u32 = 7;
/// Words of 64 bits of a command, an event and a stream table entry.
pub const COMMAND_WORDS: u64 = 2;
/// See [`COMMAND_WORDS`].
pub const EVENT_WORDS: u64 = 4;
/// See [`COMMAND_WORDS`].
pub const STREAM_WORDS: u64 = 8;

/// Why an SMMU is of no use: then the host has no PCIe, as without one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unfit {
    /// It, or the bridge behind it, is described in a way that bouncer does not
    /// understand: what is wrong.
    Described(&'static str),
    /// It cannot do this.
    Lacks(&'static str),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Described(what) => write!(f, "the device tree's {what}"),
            Self::Lacks(what) => write!(f, "it has no {what}"),
        }
    }
}
