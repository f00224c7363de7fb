//! The frame table: the one truth about who owns a frame.
//!
//! One word per 4 KiB frame, from the first frame of RAM to the last. Page
//! tables are derived from it and never hold rights that it does not.

use crate::abi::MAX_VMS;
use crate::addr::{Pfn, PfnRange};
use crate::error::Error;
use crate::machine::Vmid;

/// Slot of a VM: names it as an owner or borrower, below [`MAX_VMS`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct GuestId(u8);

impl GuestId {
    /// The guest in `slot`; `None` from [`MAX_VMS`] on.
    pub const fn new(slot: usize) -> Option<Self> {
        if slot < MAX_VMS { Some(Self(slot as u8)) } else { None }
    }

    /// Its slot.
    pub const fn slot(self) -> usize {
        self.0 as usize
    }

    /// Tag of its TLB entries: those above the host's.
    pub const fn vmid(self) -> Vmid {
        Vmid(Vmid::HOST.0 + 1 + self.0)
    }
}

/// A party that can own or borrow a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Owner {
    /// Nobody: there is no RAM at this frame.
    None,
    /// bouncer itself.
    Hyp,
    /// The host.
    Host,
    /// A guest.
    Guest(GuestId),
    /// Firmware, which keeps it for itself: no call moves it, and nobody but
    /// firmware reaches it.
    Firmware,
}

/// Parties as the frame table and the counters number them.
const PARTIES: usize = 4 + MAX_VMS;

/// Firmware's number: after the guests'.
const FIRMWARE: u8 = 3 + MAX_VMS as u8;

impl Owner {
    /// Its number in the frame table and in the event log: 0 nobody, 1 EL2,
    /// 2 the host, 3 + slot a guest, 3 + [`MAX_VMS`] firmware.
    pub const fn code(self) -> u8 {
        match self {
            Owner::None => 0,
            Owner::Hyp => 1,
            Owner::Host => 2,
            Owner::Guest(id) => 3 + id.0,
            Owner::Firmware => FIRMWARE,
        }
    }

    const fn from_code(code: u8) -> Self {
        match code {
            1 => Owner::Hyp,
            2 => Owner::Host,
            FIRMWARE => Owner::Firmware,
            guest if guest >= 3 && guest < FIRMWARE => Owner::Guest(GuestId(guest - 3)),
            _ => Owner::None,
        }
    }
}

/// What a frame is to one party, in pKVM's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageState {
    /// Its own, and nobody else's.
    Owned,
    /// Its own, and lent to another party.
    SharedOwned,
    /// Another party's, borrowed by it.
    SharedBorrowed,
    /// None of its business.
    NoPage,
}

/// Owner (bits 7:0), borrower (15:8), pins (23:16) and two flags (24, 25) of a
/// frame. A zeroed frame table says "no RAM anywhere".
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct FrameEntry(u32);

const BORROWER_SHIFT: u32 = 8;
const PINS_SHIFT: u32 = 16;
const ONE_PIN: u32 = 1 << PINS_SHIFT;
const PINS: u32 = 0xff << PINS_SHIFT;
const MAPPED: u32 = 1 << 24;
const IN_WINDOW: u32 = 1 << 25;

impl FrameEntry {
    /// No RAM here.
    pub const NO_RAM: Self = Self(0);
    /// EL2's own.
    pub(crate) const HYP: Self = Self::owned(Owner::Hyp);
    /// The host's own, lent to nobody, pinned by nothing.
    pub(crate) const HOST: Self = Self::owned(Owner::Host);
    /// Firmware's own: no transition begins at this entry or ends in it.
    pub(crate) const FIRMWARE: Self = Self::owned(Owner::Firmware);

    /// `owner`'s alone, unpinned.
    pub(crate) const fn owned(owner: Owner) -> Self {
        Self(owner.code() as u32)
    }

    /// `owner`'s, lent to `borrower`, unpinned.
    pub(crate) const fn lent(owner: Owner, borrower: Owner) -> Self {
        Self(owner.code() as u32 | (borrower.code() as u32) << BORROWER_SHIFT)
    }

    /// The same with or without the mark "the borrowing guest has mapped it".
    pub(crate) const fn mapped(self, mapped: bool) -> Self {
        Self(self.0 & !MAPPED | if mapped { MAPPED } else { 0 })
    }

    /// Has the guest that borrows it mapped it?
    pub(crate) const fn is_mapped(self) -> bool {
        self.0 & MAPPED != 0
    }

    /// One pin more; `None` if there are 255, or if they are not pins of the
    /// host's own DMA (see [`Self::in_window`]).
    pub(crate) const fn pinned(self) -> Option<Self> {
        if self.in_window() { None } else { self.one_pin_more() }
    }

    /// One pin less; `None` if there is none, or it is not such a pin.
    pub(crate) const fn unpinned(self) -> Option<Self> {
        if self.in_window() { None } else { self.one_pin_less() }
    }

    const fn one_pin_more(self) -> Option<Self> {
        if self.0 & PINS == PINS { None } else { Some(Self(self.0 + ONE_PIN)) }
    }

    const fn one_pin_less(self) -> Option<Self> {
        if self.0 & PINS == 0 { None } else { Some(Self(self.0 - ONE_PIN)) }
    }

    /// Is it a guest's that the host borrows in device windows only, and not
    /// at the frame's own address? Then a pin is one mapping in a window.
    pub const fn in_window(self) -> bool {
        self.0 & IN_WINDOW != 0
    }

    /// The same frame with one more mapping in a window of `owner`'s devices;
    /// `None` if it is not `owner`'s alone but for such mappings, or has 255.
    pub(crate) fn into_window(self, owner: Owner) -> Option<Self> {
        if self == Self::owned(owner) {
            Some(Self(Self::lent(owner, Owner::Host).0 | IN_WINDOW | ONE_PIN))
        } else if self.in_window() && self.owner() == owner {
            self.one_pin_more()
        } else {
            None
        }
    }

    /// The same frame with one mapping less: with the last one it is its
    /// owner's alone again. Only of one that is [`Self::in_window`].
    pub(crate) fn out_of_window(self) -> Self {
        match self.one_pin_less() {
            Some(less) if less.pins() > 0 => less,
            _ => Self::owned(self.owner()),
        }
    }

    /// Who owns it.
    pub const fn owner(self) -> Owner {
        Owner::from_code(self.0 as u8)
    }

    /// To whom it is lent; [`Owner::None`] if to nobody.
    pub const fn borrower(self) -> Owner {
        Owner::from_code((self.0 >> BORROWER_SHIFT) as u8)
    }

    /// How many times it is pinned: by the host's DMA, or by mappings in
    /// windows if it is [`Self::in_window`].
    pub const fn pins(self) -> u8 {
        (self.0 >> PINS_SHIFT) as u8
    }

    /// The word itself, for messages.
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// What it is to `party`, at the frame's own address: one that the host
    /// borrows in windows only is none of its pages.
    pub fn state_for(self, party: Owner) -> PageState {
        if party == Owner::None {
            PageState::NoPage
        } else if self.owner() == party {
            match self.borrower() {
                Owner::None => PageState::Owned,
                _ => PageState::SharedOwned,
            }
        } else if self.borrower() == party && !self.in_window() {
            PageState::SharedBorrowed
        } else {
            PageState::NoPage
        }
    }
}

/// How many frames each party has, kept up to date by every change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    owned: [u64; PARTIES],
    borrowed: [u64; PARTIES],
}

impl Counts {
    /// Frames `party` owns.
    pub fn owned(&self, party: Owner) -> u64 {
        self.owned.get(usize::from(party.code())).copied().unwrap_or(0)
    }

    /// Frames `party` borrows.
    pub fn borrowed(&self, party: Owner) -> u64 {
        self.borrowed.get(usize::from(party.code())).copied().unwrap_or(0)
    }

    /// `frames` frames have changed from one entry to another.
    fn moved(&mut self, from: FrameEntry, to: FrameEntry, frames: u64) {
        let step = |counters: &mut [u64; PARTIES], from: Owner, to: Owner| {
            if from == to {
                return;
            }
            if let Some(count) = counters.get_mut(usize::from(from.code())) {
                *count = count.wrapping_sub(frames);
            }
            if let Some(count) = counters.get_mut(usize::from(to.code())) {
                *count = count.wrapping_add(frames);
            }
        };
        step(&mut self.owned, from.owner(), to.owner());
        step(&mut self.borrowed, from.borrower(), to.borrower());
    }
}

/// The table and its counters.
pub(crate) struct FrameTable<'t> {
    entries: &'t mut [FrameEntry],
    first: u64,
    counts: Counts,
}

impl<'t> FrameTable<'t> {
    /// A table whose entries the caller is about to [`Self::assign`], every
    /// one. `first` is the number of the frame that `entries[0]` describes.
    pub(crate) fn new(entries: &'t mut [FrameEntry], first: u64) -> Self {
        Self { entries, first, counts: Counts::default() }
    }

    /// The memory of the table: the machine is over.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn into_entries(self) -> &'t mut [FrameEntry] {
        self.entries
    }

    /// The same in other memory, which must be as long.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn copy_to<'o>(&self, entries: &'o mut [FrameEntry]) -> FrameTable<'o> {
        entries.copy_from_slice(self.entries);
        FrameTable { entries, first: self.first, counts: self.counts }
    }

    /// Gives frames their first entry. (Written once: at boot the table is
    /// the largest thing EL2 touches.)
    pub(crate) fn assign(&mut self, range: PfnRange, entry: FrameEntry) {
        if self.fill(range, entry) {
            self.counts.moved(FrameEntry::NO_RAM, entry, range.count());
        }
    }

    /// Changes a range from the entry that [`Self::require`] has seen in
    /// every frame of it.
    pub(crate) fn change(&mut self, range: PfnRange, from: FrameEntry, to: FrameEntry) {
        debug_assert_eq!(self.require(range, from), Ok(()));
        if self.fill(range, to) {
            self.counts.moved(from, to, range.count());
        }
    }

    fn fill(&mut self, range: PfnRange, entry: FrameEntry) -> bool {
        let Some(start) = self.index(range.start()) else { return false };
        let Some(entries) = self.entries.get_mut(start..start + range.count() as usize) else {
            return false;
        };
        // By eights: the compiler stores pairs of words instead of halves.
        let (eights, rest) = entries.as_chunks_mut::<8>();
        eights.fill([entry; 8]);
        rest.fill(entry);
        true
    }

    fn index(&self, pfn: Pfn) -> Option<usize> {
        usize::try_from(pfn.number().checked_sub(self.first)?).ok()
    }

    /// The entry of a frame; [`FrameEntry::NO_RAM`] outside the table.
    pub(crate) fn get(&self, pfn: Pfn) -> FrameEntry {
        self.index(pfn).and_then(|index| self.entries.get(index)).copied().unwrap_or_default()
    }

    /// Does every frame of the range have exactly this entry? Owner,
    /// borrower, pins and flag are one word, so nothing can be forgotten.
    ///
    /// # Errors
    /// [`Error::Denied`] if one has another.
    pub(crate) fn require(&self, range: PfnRange, expected: FrameEntry) -> Result<(), Error> {
        self.require_each(range, |entry| entry == expected)
    }

    /// Does `allowed` hold for every frame of the range? It never does for a
    /// frame that is no RAM.
    ///
    /// # Errors
    /// [`Error::Denied`] if it does not hold for one.
    pub(crate) fn require_each(
        &self,
        range: PfnRange,
        allowed: impl Fn(FrameEntry) -> bool,
    ) -> Result<(), Error> {
        let start = self.index(range.start()).ok_or(Error::Denied)?;
        let end = start.checked_add(range.count() as usize).ok_or(Error::Denied)?;
        let entries = self.entries.get(start..end).ok_or(Error::Denied)?;
        if entries.iter().all(|entry| *entry != FrameEntry::NO_RAM && allowed(*entry)) {
            Ok(())
        } else {
            Err(Error::Denied)
        }
    }

    /// The first frames of a range that have one entry, and that entry.
    pub(crate) fn run_at_start(&self, range: PfnRange) -> (PfnRange, FrameEntry) {
        let entry = self.get(range.start());
        let same = range.iter().take_while(|pfn| self.get(*pfn) == entry).count();
        (range.truncate(same as u64), entry)
    }

    /// Changes an entry. A frame outside the table has none to change.
    pub(crate) fn set(&mut self, pfn: Pfn, entry: FrameEntry) {
        let slot = self.index(pfn).and_then(|index| self.entries.get_mut(index));
        if let Some(slot) = slot {
            self.counts.moved(*slot, entry, 1);
            *slot = entry;
        }
    }

    /// Every frame with its entry.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Pfn, FrameEntry)> {
        let first = self.first;
        self.entries
            .iter()
            .enumerate()
            .filter_map(move |(index, entry)| Some((Pfn::new(first + index as u64)?, *entry)))
    }

    /// Entries of the frames numbered `start` to `end` - 1 that are in the
    /// table, after the number of the first.
    pub(crate) fn between(&self, start: u64, end: u64) -> (u64, &[FrameEntry]) {
        let last = self.first + self.entries.len() as u64;
        let (start, end) = (start.clamp(self.first, last), end.clamp(self.first, last));
        let range = (start - self.first) as usize..(end.max(start) - self.first) as usize;
        (start, self.entries.get(range).unwrap_or_default())
    }

    /// Frames per party.
    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(slot: usize) -> Owner {
        Owner::Guest(GuestId::new(slot).unwrap())
    }

    #[test]
    fn an_entry_gives_back_what_was_put_in() {
        let entry = FrameEntry::lent(guest(7), Owner::Host).mapped(true).pinned().unwrap();
        assert_eq!(entry.owner(), guest(7));
        assert_eq!(entry.borrower(), Owner::Host);
        assert_eq!((entry.pins(), entry.is_mapped()), (1, true));
        assert_eq!(entry.unpinned().unwrap().unpinned(), None);
    }

    /// The layout that the oracle and its messages speak of.
    #[test]
    fn the_word_is_owner_borrower_pins_and_the_mark() {
        assert_eq!(FrameEntry::NO_RAM.raw(), 0);
        assert_eq!((FrameEntry::HYP.raw(), FrameEntry::HOST.raw()), (1, 2));
        assert_eq!(FrameEntry::owned(guest(0)).raw(), 3);
        let lent = FrameEntry::lent(guest(7), Owner::Host);
        assert_eq!(lent.raw(), 10 | 2 << 8);
        assert_eq!(lent.pinned().unwrap().raw() ^ lent.raw(), 1 << 16);
        assert_eq!(lent.mapped(true).raw() ^ lent.raw(), 1 << 24);
    }

    #[test]
    fn a_number_that_no_party_has_is_nobodys() {
        for code in 0..=u8::MAX {
            let expected = if code < 3 + 8 + 1 { code } else { 0 };
            assert_eq!(Owner::from_code(code).code(), expected);
        }
        assert_eq!(Owner::from_code(10), guest(7));
        assert_eq!(Owner::from_code(11), Owner::Firmware);
    }

    #[test]
    fn pins_stop_at_255_and_never_run_into_the_flag() {
        let mut entry = FrameEntry::HOST;
        for _ in 0..255 {
            entry = entry.pinned().unwrap();
        }
        assert_eq!(entry.pinned(), None);
        assert!(!entry.is_mapped());
    }

    #[test]
    fn a_frame_is_something_only_to_its_owner_and_its_borrower() {
        let entry = FrameEntry::lent(guest(0), Owner::Host);
        assert_eq!(entry.state_for(guest(0)), PageState::SharedOwned);
        assert_eq!(entry.state_for(Owner::Host), PageState::SharedBorrowed);
        assert_eq!(entry.state_for(guest(1)), PageState::NoPage);
        assert_eq!(FrameEntry::NO_RAM.state_for(Owner::None), PageState::NoPage);
    }

    #[test]
    fn a_window_counts_its_mappings_and_is_no_pin_of_the_hosts() {
        let own = FrameEntry::owned(guest(3));
        let mut entry = own.into_window(guest(3)).unwrap();
        assert_eq!(entry.raw(), 6 | 2 << 8 | 1 << 16 | 1 << 25);
        assert_eq!(entry.state_for(guest(3)), PageState::SharedOwned);
        assert_eq!(entry.state_for(Owner::Host), PageState::NoPage);
        assert_eq!((entry.pinned(), entry.unpinned()), (None, None));
        for mappings in 2..=255 {
            entry = entry.into_window(guest(3)).unwrap();
            assert_eq!(entry.pins(), mappings);
        }
        assert_eq!(entry.into_window(guest(3)), None);
        for mappings in (1..255).rev() {
            entry = entry.out_of_window();
            assert_eq!(entry.pins(), mappings);
        }
        assert_eq!(entry.out_of_window(), own);
        // Nobody else's frame, and none that is lent or pinned otherwise.
        let lent = FrameEntry::lent(guest(3), Owner::Host);
        for other in [entry, FrameEntry::owned(guest(2)), FrameEntry::HOST, FrameEntry::NO_RAM] {
            assert_eq!(other.into_window(guest(4)), None);
        }
        assert_eq!(lent.into_window(guest(3)), None);
        assert_eq!(lent.pinned().unwrap().into_window(guest(3)), None);
    }

    #[test]
    fn a_range_is_refused_for_its_last_frame_as_for_its_first() {
        let mut entries = [FrameEntry::NO_RAM; 4];
        let mut table = FrameTable::new(&mut entries, 100);
        let all = PfnRange::new(100, 4).unwrap();
        table.assign(all, FrameEntry::HOST);
        assert_eq!(table.require(all, FrameEntry::HOST), Ok(()));
        for odd in all.iter() {
            table.set(odd, FrameEntry::HYP);
            assert_eq!(table.require(all, FrameEntry::HOST), Err(Error::Denied));
            table.set(odd, FrameEntry::HOST);
        }
        // One frame beyond either end of the table.
        let below = PfnRange::new(99, 2).unwrap();
        let above = PfnRange::new(103, 2).unwrap();
        assert_eq!(table.require(below, FrameEntry::HOST), Err(Error::Denied));
        assert_eq!(table.require(above, FrameEntry::HOST), Err(Error::Denied));
    }

    #[test]
    fn what_is_no_ram_is_allowed_nothing() {
        let mut entries = [FrameEntry::NO_RAM; 2];
        let table = FrameTable::new(&mut entries, 0);
        let all = PfnRange::new(0, 2).unwrap();
        assert_eq!(table.require_each(all, |_| true), Err(Error::Denied));
    }

    #[test]
    fn counters_follow_every_change() {
        let mut entries = [FrameEntry::NO_RAM; 40];
        let mut table = FrameTable::new(&mut entries, 0);
        table.assign(PfnRange::new(0, 40).unwrap(), FrameEntry::HOST);
        let lent = FrameEntry::lent(guest(2), Owner::Host);
        table.change(PfnRange::new(1, 19).unwrap(), FrameEntry::HOST, lent);
        table.set(Pfn::new(1).unwrap(), FrameEntry::HYP);
        // Neither range nor frame is in the table.
        table.assign(PfnRange::new(30, 11).unwrap(), FrameEntry::HYP);
        table.set(Pfn::new(40).unwrap(), FrameEntry::HYP);
        assert_eq!(table.counts().owned(Owner::Host), 21);
        assert_eq!(table.counts().owned(guest(2)), 18);
        assert_eq!(table.counts().borrowed(Owner::Host), 18);
        assert_eq!(table.counts().owned(Owner::Hyp), 1);
        let lent_frames = table.iter().filter(|(_, entry)| *entry == lent);
        assert!(lent_frames.map(|(pfn, _)| pfn.number()).eq(2..20));
    }
}
