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
        self.add_times(frame, 1);
    }

    pub(super) fn add_times(&mut self, frame: Pfn, times: u64) {
        // The finaliser of splitmix64: neighbours do not cancel each other.
        let mut hash = frame.number().wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.frames += times;
        self.sum = self.sum.wrapping_add((hash ^ hash >> 31).wrapping_mul(times));
    }
}

/// What a guest has mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct GuestFrames {
    pub(super) own: FrameSet,
    pub(super) borrowed: FrameSet,
    /// In windows, each frame once for each mapping.
    pub(super) windows: FrameSet,
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
            if entry.in_window() {
                self.guests[id.slot()].windows.add_times(pfn, entry.pins().into());
            }
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
        if found.windows != expected.windows {
            let counts = (found.windows.frames, expected.windows.frames);
            return Err(Violation::count(Rule::WindowMaps, counts.0, counts.1));
        }
        Ok(())
    }
}

/// Checks that the parts of an entry go together.
pub(super) fn check(pfn: Pfn, entry: FrameEntry) -> Result<(), Violation> {
    let (mapped, pinned) = (entry.is_mapped(), entry.pins() != 0);
    let in_window = entry.in_window();
    let good = match (entry.owner(), entry.borrower()) {
        // Its pins are its mappings: without one it would not be there.
        (Owner::Guest(_), Owner::Host) if in_window => !mapped && pinned,
        _ if in_window => false,
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
        _ if entry.in_window() => None,
        (_, Owner::Host) => Some(right::BORROWED),
        _ => None,
    }
}
