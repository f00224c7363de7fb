//! Words that the SMMU reads and writes.

use super::{COMMAND_BITS, EVENT_BITS, Unfit};

/// What the identification registers say (6.3.1 and following).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identification {
    /// SMMU_IDR0.
    pub idr0: u32,
    /// SMMU_IDR1.
    pub idr1: u32,
    /// SMMU_IDR5.
    pub idr5: u32,
}

/// Streams of a PCIe bus: a StreamID is bus, device and function.
pub const STREAMS_PER_BUS: u64 = 256;
/// Bits of a StreamID that a PCIe function can have.
const STREAM_BITS: u32 = 16;

const fn field(word: u32, low: u32, bits: u32) -> u32 {
    word >> low & ((1 << bits) - 1)
}

impl Identification {
    /// Can it do what bouncer asks of it, for buses 0 to `last`?
    ///
    /// # Errors
    /// The first thing that it cannot.
    pub fn check(self, last: u8) -> Result<(), Unfit> {
        let Self { idr0, idr1, idr5 } = self;
        let streams = 1 << field(idr1, 0, 6).min(31);
        let needed = [
            (field(idr0, 0, 1) == 1, "stage 2 (start QEMU with -global arm-smmuv3.stage=2)"),
            (field(idr0, 2, 2) & 0b10 != 0, "tables of AArch64's format"),
            (field(idr0, 4, 1) == 1, "coherent access to its tables and queues"),
            (field(idr0, 21, 2) != 0b11, "little-endian tables"),
            (field(idr0, 24, 2) != 0b10, "way to end an access that it refuses"),
            (field(idr0, 27, 2) == 0b01, "stream table of two levels"),
            (field(idr1, 29, 2) == 0, "tables and queues wherever they are put"),
            (field(idr1, 21, 5) >= COMMAND_BITS, "command queue that is long enough"),
            (field(idr1, 16, 5) >= EVENT_BITS, "event queue that is long enough"),
            ((u64::from(last) + 1) * STREAMS_PER_BUS <= streams, "room for all PCIe functions"),
            (matches!(field(idr5, 0, 3), 2..=6), "addresses of 40 bits"),
            (field(idr5, 4, 1) == 1, "pages of 4 KiB"),
        ];
        match needed.iter().find(|(can, _)| !can) {
            None => Ok(()),
            Some((_, what)) => Err(Unfit::Lacks(what)),
        }
    }

    /// SMMU_STRTAB_BASE_CFG: two levels, split at 8 bits of StreamID.
    pub fn stream_table(self) -> u32 {
        0b01 << 16 | 8 << 6 | STREAM_BITS
    }
}

/// Bits of an index into the first level of the stream table: a bus.
pub const fn first_level_bits() -> u32 {
    STREAM_BITS - 8
}

/// A first-level word (5.1): the streams of this bus are in the table at
/// `streams`, [`STREAMS_PER_BUS`] of them.
pub const fn first_level(streams: u64) -> u64 {
    streams | 9
}

/// A stream's entry (5.2): stage 2 only, by the table at `root`.
///
/// All functions have the same one, because they are all the host's. A fault is
/// recorded and ends the access (S2R, S2S = 0). No ATS (EATS = 0): a device
/// cannot say that its addresses are translated.
pub const fn stream(root: u64) -> [u64; 8] {
    const VALID: u64 = 1;
    const STAGE_2_ONLY: u64 = 0b110 << 1;
    /// SHCFG: shareability as it comes.
    const SHAREABILITY: u64 = 0b01 << 44;
    // The SMMU's VMIDs are its own (CR2.PTM); there is one.
    const VMID: u64 = 1;
    /// S2T0SZ: 39 bits.
    const INPUT: u64 = 25 << 32;
    /// S2SL0: from level 1.
    const FIRST_LEVEL: u64 = 1 << 38;
    /// S2IR0, S2OR0, S2SH0: walks are write-back and inner shareable.
    const WALKS: u64 = 0b01 << 40 | 0b01 << 42 | 0b11 << 44;
    /// S2PS: 40 bits; S2TG = 0: 4 KiB.
    const OUTPUT: u64 = 0b010 << 48;
    /// S2AA64, S2AFFD, S2R.
    const HOW: u64 = 1 << 51 | 1 << 53 | 1 << 58;
    let second = VMID | INPUT | FIRST_LEVEL | WALKS | OUTPUT | HOW;
    [VALID | STAGE_2_ONLY, SHAREABILITY, second, root, 0, 0, 0, 0]
}

/// A command (4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// CMD_CFGI_ALL (4.3.4): forget all stream table entries.
    ForgetStreams,
    /// CMD_TLBI_NSNH_ALL (4.4.4): forget all translations.
    ForgetAll,
    /// CMD_TLBI_S12_VMALL (4.4.3): forget all translations of the host's.
    ForgetHost,
    /// CMD_TLBI_S2_IPA (4.4.3): forget what this page translated to.
    ForgetPage(u64),
    /// CMD_SYNC (4.7.3): everything before is complete once this is consumed.
    Sync,
}

impl Command {
    /// Its words.
    pub const fn words(self) -> [u64; 2] {
        const VMID: u64 = 1 << 32;
        const LEAF: u64 = 1;
        match self {
            Self::ForgetStreams => [0x04, 31],
            Self::ForgetAll => [0x30, 0],
            Self::ForgetHost => [0x28 | VMID, 0],
            Self::ForgetPage(address) => [0x2a | VMID, address & !0xfff | LEAF],
            Self::Sync => [0x46, 0],
        }
    }
}

/// An event (7.3): an access that was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// StreamID.
    pub stream: u32,
    /// Event number.
    pub event: u8,
    /// Was it a write?
    pub write: bool,
    /// The address it gave; 0 if the event has none.
    pub address: u64,
}

/// Reads an event record.
pub const fn fault([first, second, third, _]: [u64; 4]) -> Fault {
    let event = first as u8;
    // F_TRANSLATION to F_PERMISSION, F_WALK_EABT and F_UUT tell of an access;
    // errors of configuration do not (7.3).
    let has_address = matches!(event, 0x01 | 0x0b | 0x10..=0x13);
    Fault {
        stream: (first >> 32) as u32,
        event,
        // RnW.
        write: has_address && second >> 35 & 1 == 0,
        address: if has_address { third } else { 0 },
    }
}
