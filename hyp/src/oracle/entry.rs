//! Entries of the frame table: which make sense, and how many of each.

use super::descriptor::right;
use super::rules::{Rule, Violation};
use crate::abi::MAX_VMS;
use crate::addr::Pfn;
use crate::memory::{Counts, FrameEntry, GuestId, Owner};

/// A set of frames, by their number and a sum over a hash of each: enough to
/// see that two sets differ without having room for either.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct FrameSet {
    pub(super) frames: u64,
    sum: u64,
}

impl FrameSet {
    pub(super) fn add(&mut self, frame: Pfn) {
        // The finaliser of splitmix64: neighbours do not cancel each other.
        let mut hash = frame.number().wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.frames += 1;
        self.sum = self.sum.wrapping_add(hash ^ hash >> 31);
    }
}

/// What a guest has mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct GuestFrames {
    pub(super) own: FrameSet,
    pub(super) borrowed: FrameSet,
}

/// Nobody, EL2, the host, every guest, firmware.
const PARTIES: usize = 4 + MAX_VMS;

/// Everything the frame table says, added up.
#[derive(Debug, Default)]
pub(super) struct Tally {
    owned: [u64; PARTIES],
    borrowed: [u64; PARTIES],
    guests: [GuestFrames; MAX_VMS],
}

impl Tally {
    /// So many frames of the host's own, lent to nobody.
    pub(super) fn add_plain(&mut self, frames: u64) {
        self.owned[usize::from(Owner::Host.code())] += frames;
    }

    pub(super) fn add(&mut self, pfn: Pfn, entry: FrameEntry) {
        let (owner, borrower) = (entry.owner(), entry.borrower());
        self.owned[usize::from(owner.code())] += 1;
        self.borrowed[usize::from(borrower.code())] += 1;
        if let Owner::Guest(id) = owner {
            self.guests[id.slot()].own.add(pfn);
        }
        if let (Owner::Guest(id), true) = (borrower, entry.is_mapped()) {
            self.guests[id.slot()].borrowed.add(pfn);
        }
    }

    pub(super) fn compare(&self, counts: &Counts) -> Result<(), Violation> {
        let guests = (0..MAX_VMS).filter_map(GuestId::new).map(Owner::Guest);
        for party in [Owner::Hyp, Owner::Host, Owner::Firmware].into_iter().chain(guests) {
            let index = usize::from(party.code());
            let pairs = [
                (self.owned[index], counts.owned(party)),
                (self.borrowed[index], counts.borrowed(party)),
            ];
            for (entries, counter) in pairs {
                if entries != counter {
                    return Err(Violation::count(Rule::CountersAgree, counter, entries));
                }
            }
        }
        Ok(())
    }

    pub(super) fn compare_guest(&self, id: GuestId, found: &GuestFrames) -> Result<(), Violation> {
        let expected = &self.guests[id.slot()];
        for (found, expected) in [(found.own, expected.own), (found.borrowed, expected.borrowed)] {
            if found != expected {
                let rule = Rule::GuestHasItsFrames;
                return Err(Violation::count(rule, found.frames, expected.frames));
            }
        }
        Ok(())
    }
}

/// Checks that the parts of an entry go together.
pub(super) fn check(pfn: Pfn, entry: FrameEntry) -> Result<(), Violation> {
    let (mapped, pinned) = (entry.is_mapped(), entry.pins() != 0);
    let good = match (entry.owner(), entry.borrower()) {
        (Owner::None, _) => entry == FrameEntry::NO_RAM,
        // Lent to nobody, and no DMA of the host's is in it.
        (Owner::Firmware, _) => entry == FrameEntry::FIRMWARE,
        (Owner::Hyp, Owner::None) => !mapped && !pinned,
        // A pin is the host's DMA: only into what the host may access.
        (Owner::Host, Owner::None) => !mapped,
        (Owner::Host, Owner::Guest(_)) => true,
        (Owner::Guest(_), Owner::None) => !mapped && !pinned,
        (Owner::Guest(_), Owner::Host) => !mapped,
        _ => false,
    };
    let found = u64::from(entry.raw());
    if good { Ok(()) } else { Err(Violation::frame(Rule::EntryMakesSense, pfn, found, 0)) }
}

/// The right the host has to a frame of RAM; `None` if it must not map it.
pub(super) fn host_right(entry: FrameEntry) -> Option<u64> {
    match (entry.owner(), entry.borrower()) {
        (Owner::Host, _) => Some(right::RAM),
        (_, Owner::Host) => Some(right::BORROWED),
        _ => None,
    }
}
