//! What must hold whenever no call is under way.

use crate::addr::Pfn;
use core::fmt;

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident: $text:literal;)*) => {
        /// A rule.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Rule {
            $($(#[$doc])* #[doc = $text] $name,)*
        }

        impl Rule {
            /// All of them.
            pub const ALL: &'static [Rule] = &[$(Rule::$name),*];

            /// The rule in words.
            pub const fn text(self) -> &'static str {
                match self { $(Rule::$name => $text,)* }
            }
        }
    };
}

rules! {
    EntryMakesSense: "a frame-table entry names an owner, a borrower, pins and a mapping that go together";
    CountersAgree: "the counters of the frame table are what its entries add up to";
    TableIsHyps: "every page table in use is a frame that EL2 owns";
    TableCounted: "an address space has as many tables as it counts";
    EntriesCounted: "a table descriptor says how many entries of its table are in use";
    NothingParked: "no entry is left between break and make";
    WordMakesSense: "a table word is empty, a table or a leaf";
    HostIsIdentity: "the host's map is the identity";
    HostRight: "the host maps a frame exactly with the right the frame table gives it";
    HostDevices: "where there is no RAM the host has device memory, never executable";
    GuestOwns: "what a guest maps in its RAM is its own";
    GuestBorrows: "what a guest maps outside its RAM was lent to it and is marked as mapped";
    GuestRight: "a guest's RAM has every right, its bounce memory is never executable";
    SharedAtAlias: "a guest with aliases has a page of its RAM at its alias exactly if the host borrows it, and nothing else up there";
    GuestHasItsFrames: "a guest maps all that it owns and all that is marked as mapped by it, each frame once";
    DyingHasNothing: "a dying guest translates nothing";
    FramesAccounted: "EL2 owns what it had at boot and the tables and memcaches of guests, no frame more or less";
    FirmwareKeepsItsOwn: "firmware owns what it had at boot, no frame more or less";
    DmaIsOwned: "the host's devices have each frame that the host owns, at its own address, and nothing else";
    WindowMaps: "what a window maps is its guest's, lent in windows, pinned once for each mapping, never executable";
    WindowOnly: "a frame in windows is not at its own address in the host's map, and where no window is open nothing is mapped";
    WindowBudget: "a window has as many pages as it counts, and no more than its budget";
    RegimesDiffer: "no two address spaces have the same VMID or the same root";
}

/// A rule that does not hold, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which rule.
    pub rule: Rule,
    /// The frame it is about, if it is about one.
    pub frame: Option<Pfn>,
    /// The table and the index in it, if it is about an entry.
    pub entry: Option<(Pfn, usize)>,
    /// What was found: a table word, a frame-table entry, a count.
    pub found: u64,
    /// What should have been there, as far as it is one value.
    pub expected: u64,
}

impl Violation {
    /// A frame is not what it should be.
    pub(super) const fn frame(rule: Rule, frame: Pfn, found: u64, expected: u64) -> Self {
        Self { rule, frame: Some(frame), entry: None, found, expected }
    }

    /// A number is not what it should be.
    pub(super) const fn count(rule: Rule, found: u64, expected: u64) -> Self {
        Self { rule, frame: None, entry: None, found, expected }
    }

    /// The same, found at this table entry.
    pub(super) const fn at(self, table: Pfn, index: usize) -> Self {
        Self { entry: Some((table, index)), ..self }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oracle: rule {:?} is broken ({})", self.rule, self.rule.text())?;
        if let Some(frame) = self.frame {
            write!(f, "; frame {:#x}", frame.number())?;
        }
        if let Some((table, index)) = self.entry {
            write!(f, "; table {:#x} word {index}", table.number())?;
        }
        write!(f, "; found {:#x}, expected {:#x}", self.found, self.expected)
    }
}
