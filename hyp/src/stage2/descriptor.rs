//! One word of a stage-2 table (VMSAv8-64, 4 KiB granule; Arm ARM D8.3).
//!
//! An invalid descriptor's other bits are ignored by the hardware (D8.3.1),
//! and so are bits 11:2 of a table descriptor (without FEAT_HAFT, which is
//! never enabled) and bits 58:55 of a leaf. Two uses are made of that:
//!
//! - a table descriptor carries how many entries of its table are in use,
//!   so that "was this the last one?" costs no scan;
//! - a *parked* table descriptor has its valid bit clear and its address
//!   kept. For the hardware it is the *break* of break-before-make; for us it
//!   remembers what to *make* once the TLBs are clean.

use crate::addr::{ADDRESS_BITS, FRAME_SHIFT, Pfn};

const VALID: u64 = 1 << 0;
/// Level 1 and 2: a table, not a block. Level 3: must be one for a page.
const TABLE_OR_PAGE: u64 = 1 << 1;
const ADDRESS: u64 = ((1 << ADDRESS_BITS) - 1) & !((1 << FRAME_SHIFT) - 1);
const ENTRIES_SHIFT: u32 = 2;
const ENTRIES: u64 = 0x3ff << ENTRIES_SHIFT;

/// Memory type, permissions and the software mark of a leaf. The constants
/// have the memory type as it is encoded without forced write-back: see
/// [`Attributes::encoded`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes(u64);

impl Attributes {
    const ACCESS_FLAG: u64 = 1 << 10;
    const READ_WRITE: u64 = 0b11 << 6;
    const WRITE: u64 = 0b10 << 6;
    const EXECUTE_NEVER: u64 = 0b10 << 53;
    /// MemAttr\[3:0\] = 0b1111, SH = inner shareable.
    const NORMAL_WRITE_BACK: u64 = 0b1111 << 2 | 0b11 << 8;
    /// What differs in MemAttr\[3:0\] where HCR_EL2.FWB is set: Normal
    /// write-back, whatever stage 1 says, is 0b0110.
    const FORCED: u64 = (0b1111 ^ 0b0110) << 2;
    /// MemAttr\[3:0\] = 0b0001: Device-nGnRE, with and without FWB.
    const DEVICE_NGNRE: u64 = 0b0001 << 2;

    /// The same as descriptors have it with forced write-back or without (Arm
    /// ARM D8.6: the field has two meanings, and HCR_EL2.FWB chooses).
    pub(crate) const fn encoded(self, forced_write_back: bool) -> Self {
        let normal = self.0 & Self::NORMAL_WRITE_BACK == Self::NORMAL_WRITE_BACK;
        if forced_write_back && normal { Self(self.0 ^ Self::FORCED) } else { self }
    }

    /// May whoever has it write?
    pub(crate) const fn is_writable(self) -> bool {
        self.0 & Self::WRITE != 0
    }

    /// The bits they set in a leaf descriptor.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// RAM with every right: stage 1 decides what the world does with it.
    pub const MEMORY: Self = Self(Self::NORMAL_WRITE_BACK | Self::READ_WRITE | Self::ACCESS_FLAG);
    /// RAM that the host borrows from a guest. The mark (pKVM keeps page
    /// states in the same bits) makes it differ from the host's own RAM, so
    /// no block ever swallows it: taking it back needs no new table.
    pub const BORROWED: Self = Self(Self::MEMORY.0 | 1 << 55);
    /// What a guest shares with the host, as far as it is its own to say: a
    /// bounce-buffer frame, or a page at its alias. Data, never code.
    pub const BOUNCE: Self = Self(Self::MEMORY.0 | Self::EXECUTE_NEVER);
    /// Memory that a device's window shows the host.
    pub const WINDOW: Self = Self::BOUNCE;
    /// The same, for a device that may only read it (S2AP = 0b01).
    pub const WINDOW_READ_ONLY: Self = Self(Self::WINDOW.0 & !Self::WRITE);
    /// A device's registers.
    pub const DEVICE: Self =
        Self(Self::DEVICE_NGNRE | Self::READ_WRITE | Self::ACCESS_FLAG | Self::EXECUTE_NEVER);
}

/// Levels of the walk. The root is level 1.
pub(crate) const ROOT_LEVEL: u8 = 1;
/// The level whose leaves are pages.
pub(crate) const PAGE_LEVEL: u8 = 3;
/// Entries in a table.
pub(crate) const ENTRIES_PER_TABLE: u64 = 512;

/// Frames that one entry of a table at `level` translates.
pub(crate) const fn span(level: u8) -> u64 {
    match level {
        1 => ENTRIES_PER_TABLE * ENTRIES_PER_TABLE,
        2 => ENTRIES_PER_TABLE,
        _ => 1,
    }
}

/// What a descriptor means at its level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    /// Faults, and remembers nothing.
    Empty,
    /// Continues in `table`, which has `entries` entries in use.
    Table { table: Pfn, entries: u64, parked: bool },
    /// Translates to the block or page that starts at `first`.
    Leaf { first: Pfn, attributes: Attributes },
}

/// One descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Descriptor(pub(crate) u64);

impl Descriptor {
    /// Faults on every access.
    pub(crate) const EMPTY: Self = Self(0);

    /// Points to the next level.
    pub(crate) const fn table(table: Pfn, entries: u64, parked: bool) -> Self {
        let valid = if parked { 0 } else { VALID };
        Self(table.base() | entries << ENTRIES_SHIFT & ENTRIES | TABLE_OR_PAGE | valid)
    }

    /// Maps a block or page at `level`.
    pub(crate) const fn leaf(level: u8, first: Pfn, attributes: Attributes) -> Self {
        let page = if level == PAGE_LEVEL { TABLE_OR_PAGE } else { 0 };
        Self(first.base() | attributes.0 | page | VALID)
    }

    /// Does it map a page, in a table at [`PAGE_LEVEL`]? One comparison of what
    /// [`Self::decode`] takes apart.
    pub(crate) const fn is_page(self) -> bool {
        self.0 & (TABLE_OR_PAGE | VALID) == TABLE_OR_PAGE | VALID
    }

    /// The frame the address field names.
    fn frame(self) -> Option<Pfn> {
        Pfn::containing(self.0 & ADDRESS)
    }

    /// Decodes the word as one of a table at `level`.
    pub(crate) fn decode(self, level: u8) -> Entry {
        let (Some(frame), valid) = (self.frame(), self.0 & VALID != 0) else {
            return Entry::Empty;
        };
        match (self.0 & TABLE_OR_PAGE != 0, valid) {
            (true, _) if level < PAGE_LEVEL => Entry::Table {
                table: frame,
                entries: (self.0 & ENTRIES) >> ENTRIES_SHIFT,
                parked: !valid,
            },
            (page, true) if page == (level == PAGE_LEVEL) => Entry::Leaf {
                first: frame,
                attributes: Attributes(self.0 & !(ADDRESS | TABLE_OR_PAGE | VALID)),
            },
            _ => Entry::Empty,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Pfn {
        Pfn::new(0x4_0200).unwrap()
    }

    #[test]
    fn descriptors_have_the_bits_of_the_architecture() {
        // Arm ARM D8.3.1 and D8.3.2, read off by hand.
        assert_eq!(Descriptor::leaf(3, frame(), Attributes::MEMORY).0, 0x4020_07ff);
        assert_eq!(Descriptor::leaf(2, frame(), Attributes::MEMORY).0, 0x4020_07fd);
        assert_eq!(Descriptor::leaf(3, frame(), Attributes::DEVICE).0, 0x0040_0000_4020_04c7);
        assert_eq!(Descriptor::leaf(3, frame(), Attributes::BOUNCE).0, 0x0040_0000_4020_07ff);
        let read_only = Descriptor::leaf(3, frame(), Attributes::WINDOW_READ_ONLY);
        assert_eq!(read_only.0, 0x0040_0000_4020_077f);
        assert!(Attributes::WINDOW.is_writable() && !Attributes::WINDOW_READ_ONLY.is_writable());
        assert_eq!(Descriptor::table(frame(), 0, false).0, 0x4020_0003);
        assert_eq!(Attributes::MEMORY.bits(), 0x7fc);
        assert_eq!(Attributes::BORROWED.bits(), 1 << 55 | 0x7fc);
        assert_eq!(Attributes::DEVICE.bits(), 1 << 54 | 0x4c4);
    }

    /// Arm ARM D8.6, read off by hand: MemAttr is 0b0110 for RAM; a device is a
    /// device.
    #[test]
    fn forced_write_back_has_an_encoding_of_its_own() {
        let forced = |attributes: Attributes| {
            Descriptor::leaf(3, frame(), attributes.encoded(true)).0 - frame().base()
        };
        assert_eq!(forced(Attributes::MEMORY), 0x7db);
        assert_eq!(forced(Attributes::BORROWED), 1 << 55 | 0x7db);
        assert_eq!(forced(Attributes::BOUNCE), 1 << 54 | 0x7db);
        assert_eq!(forced(Attributes::DEVICE), 1 << 54 | 0x4c7);
        for attributes in [Attributes::MEMORY, Attributes::BORROWED, Attributes::DEVICE] {
            assert_eq!(attributes.encoded(false), attributes);
        }
    }

    #[test]
    fn each_field_of_a_word_is_its_own() {
        let table = |entries, parked| Entry::Table { table: frame(), entries, parked };
        for entries in [0, 1, 2, 0x155, 0x2aa, 511, 512] {
            let word = Descriptor::table(frame(), entries, false);
            assert_eq!(word.0, 0x4020_0003 | entries << 2);
            assert_eq!(
                (word.decode(1), word.decode(2)),
                (table(entries, false), table(entries, false))
            );
            assert_eq!(Descriptor(word.0 & !1).decode(2), table(entries, true));
        }
        // A block at level 3 and a page above are none; nor is an invalid leaf.
        assert_eq!(Descriptor(0x4020_07fd).decode(3), Entry::Empty);
        assert_eq!(Descriptor(0x4020_07fc).decode(2), Entry::Empty);
        assert_eq!(Descriptor(0x4020_07fe).decode(3), Entry::Empty);
        let block = Entry::Leaf { first: frame(), attributes: Attributes::MEMORY };
        assert_eq!(Descriptor(0x4020_07fd).decode(2), block);
        // Address bits 38:12, and no others.
        assert_eq!(
            Descriptor(0x7f_ffff_f7ff).decode(3),
            Entry::Leaf { first: Pfn::new((1 << 27) - 1).unwrap(), attributes: Attributes::MEMORY }
        );
    }

    #[test]
    fn a_page_is_what_decodes_to_one() {
        for low in 0..4 {
            let word = Descriptor(0x4020_07fc | low);
            assert_eq!(word.is_page(), word.decode(PAGE_LEVEL) != Entry::Empty, "{low:#b}");
        }
    }

    #[test]
    fn decoding_is_the_inverse_of_building() {
        let entry = Entry::Table { table: frame(), entries: 512, parked: true };
        assert_eq!(Descriptor::table(frame(), 512, true).decode(2), entry);
        for level in 1..=3 {
            let leaf = Descriptor::leaf(level, frame(), Attributes::BORROWED);
            assert_eq!(
                leaf.decode(level),
                Entry::Leaf { first: frame(), attributes: Attributes::BORROWED }
            );
        }
        assert_eq!(Descriptor::EMPTY.decode(1), Entry::Empty);
    }

    #[test]
    fn a_parked_table_is_invalid_for_the_hardware() {
        assert_eq!(Descriptor::table(frame(), 3, true).0 & VALID, 0);
    }
}
