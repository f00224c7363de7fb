//! The TLBs of the simulated machine, at their most forgetful to invalidate
//! and their best at remembering: a translation that was valid at any moment
//! since it was last invalidated may still be used, and a table that was
//! reachable may still be walked (Arm ARM D8.16).
//!
//! The IOMMU's is one more, under a VMID that no world has ([`DMA`]). What it is
//! told to invalidate it may go on using until it has answered a CMD_SYNC
//! (SMMUv3 4.7.3).

use super::frames::Frames;
use super::memory::pfn;
use crate::addr::{Gfn, Pfn};
use std::collections::BTreeMap;
use std::format;
use std::string::String;
use std::vec::Vec;

const ENTRIES: usize = 512;
const ADDRESS: u64 = 0x7f_ffff_f000;
/// Bits of a leaf that are the software's (58:55).
const SOFTWARE: u64 = 0xf << 55;

/// A leaf as the hardware finds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SimLeaf {
    /// First input frame.
    pub gfn: Gfn,
    /// First output frame.
    pub pfn: Pfn,
    /// Frames it maps: 1, 512 or 262,144.
    pub frames: u64,
    /// The descriptor.
    pub word: u64,
}

/// Written from the architecture, on purpose not shared with `stage2`.
enum Decoded {
    Invalid,
    Table(u64),
    Leaf { first: u64, attributes: u64 },
}

fn decode(word: u64, level: u8) -> Decoded {
    let frame = (word & ADDRESS) >> 12;
    match (level, word & 0b11) {
        (1 | 2, 0b11) => Decoded::Table(frame),
        (1 | 2, 0b01) | (3, 0b11) => {
            Decoded::Leaf { first: frame, attributes: word & !(ADDRESS | SOFTWARE) }
        }
        _ => Decoded::Invalid,
    }
}

fn span(level: u8) -> u64 {
    1 << (9 * (3 - level))
}

/// Where a table hangs.
#[derive(Clone, Copy)]
pub(super) struct Place {
    vmid: u8,
    level: u8,
    /// First input frame it translates.
    base: u64,
    /// Unlinked, but not yet invalidated.
    ghost: bool,
}

impl Place {
    fn entry_base(self, index: usize) -> u64 {
        self.base + index as u64 * span(self.level)
    }

    fn end(self) -> u64 {
        self.base + ENTRIES as u64 * span(self.level)
    }
}

/// A translation that is gone from the tables.
#[derive(Clone, Copy, Debug)]
struct Stale {
    vmid: u8,
    start: u64,
    end: u64,
    first: u64,
    attributes: u64,
}

impl Stale {
    fn covers(&self, vmid: u8, gfn: u64) -> bool {
        self.vmid == vmid && (self.start..self.end).contains(&gfn)
    }

    fn output(&self, gfn: u64) -> u64 {
        self.first + (gfn - self.start)
    }
}

/// What of it is not kept with the frames ([`super::frames::Frame`]).
#[derive(Clone, Default)]
pub(super) struct Tlbs {
    roots: BTreeMap<u8, u64>,
    /// Every frame with a [`Place`], in no order.
    tables: Vec<u64>,
    /// How many of them are ghosts.
    ghosts: usize,
    stale: Vec<Stale>,
    /// What the IOMMU has been told to forget, and has not said that it has.
    forgetting: Vec<Stale>,
    unpublished: bool,
}

pub(super) const HOST: u8 = 1;
/// The host's devices, behind an IOMMU.
pub(super) const DMA: u8 = 0;

/// Has it every frame at the frame's own address, and is it the host?
fn is_identity(vmid: u8) -> bool {
    matches!(vmid, HOST | DMA)
}

impl Tlbs {
    pub(super) fn attach(
        &mut self,
        frames: &mut Frames,
        (vmid, root): (u8, u64),
        broken: &mut Vec<String>,
    ) {
        if self.roots.insert(vmid, root) == Some(root) {
            return;
        }
        // A new address space under this VMID: the old one's tables are
        // nobody's any more, but its translations may still be cached.
        self.forget_tables(frames, |_, place| place.vmid == vmid);
        if self.remembered().any(|stale| stale.vmid == vmid) {
            broken.push(format!("VMID {vmid} is used again before it is flushed"));
        }
        // What was there before VTTBR_EL2 is written is seen with it.
        let unpublished = self.unpublished;
        self.link(frames, root, Place { vmid, level: 1, base: 0, ghost: false }, broken);
        self.unpublished = unpublished;
    }

    /// Walkers no longer reach these tables.
    fn forget_tables(&mut self, frames: &mut Frames, which: impl Fn(u64, Place) -> bool) {
        let ghosts = &mut self.ghosts;
        self.tables.retain(|table| {
            let place = frames.get(*table).place;
            let gone = place.is_some_and(|place| which(*table, place));
            if gone {
                frames.edit(*table).place = None;
                *ghosts -= usize::from(place.is_some_and(|place| place.ghost));
            }
            !gone
        });
    }

    /// A word of a table, which hangs at `place`, was written.
    pub(super) fn written(
        &mut self,
        frames: &mut Frames,
        place: Place,
        (table, index): (u64, usize),
        (old, new): (u64, u64),
        broken: &mut Vec<String>,
    ) {
        let gfn = place.entry_base(index);
        let before = decode(old, place.level);
        let after = decode(new, place.level);
        if place.ghost {
            if !matches!(after, Decoded::Invalid) {
                broken.push(format!("table {table:#x} gets an entry while walkers may reach it"));
            }
            return;
        }
        match (&before, &after) {
            (Decoded::Table(a), Decoded::Table(b)) if a == b => return,
            (
                Decoded::Leaf { first: a, attributes: x },
                Decoded::Leaf { first: b, attributes: y },
            ) if a == b && x == y => return,
            (Decoded::Invalid, _) | (_, Decoded::Invalid) => {}
            _ => broken.push(format!("{gfn:#x} of VMID {} changed without a break", place.vmid)),
        }
        self.remove(frames, place, gfn, before);
        self.insert(frames, place, gfn, after, broken);
    }

    /// An entry that was in the tables is gone.
    fn remove(&mut self, frames: &mut Frames, place: Place, gfn: u64, entry: Decoded) {
        match entry {
            Decoded::Invalid => {}
            Decoded::Leaf { first, attributes } => {
                forget_guest(frames, place, gfn, first);
                let end = gfn + span(place.level);
                self.stale.push(Stale { vmid: place.vmid, start: gfn, end, first, attributes });
            }
            Decoded::Table(table) => {
                let Some(below) = &mut frames.edit(table).place else { return };
                self.ghosts += usize::from(!core::mem::replace(&mut below.ghost, true));
                let below = *below;
                for (index, entry) in entries(frames, table, below.level) {
                    self.remove(frames, below, below.entry_base(index), entry);
                }
            }
        }
    }

    /// An entry came into the tables.
    fn insert(
        &mut self,
        frames: &mut Frames,
        place: Place,
        gfn: u64,
        entry: Decoded,
        broken: &mut Vec<String>,
    ) {
        match entry {
            Decoded::Invalid => {}
            Decoded::Leaf { first, attributes } => {
                self.unpublished = true;
                if let Some(frame) = frames.first_dirty(first, span(place.level)) {
                    let whom = place.vmid;
                    broken.push(format!("frame {frame:#x} goes to VMID {whom} without a clean"));
                }
                let end = gfn + span(place.level);
                let conflict = self.remembered().any(|stale| {
                    stale.vmid == place.vmid
                        && stale.start < end
                        && gfn < stale.end
                        && !(stale.start == gfn
                            && stale.end == end
                            && stale.first == first
                            && stale.attributes == attributes)
                });
                if conflict {
                    broken.push(format!(
                        "{gfn:#x} of VMID {} made valid before the old entry is invalidated",
                        place.vmid
                    ));
                }
                // A block of the host's is a merge, of what it has.
                if place.vmid == DMA && (first != gfn || place.level != 3) {
                    broken.push(format!("{gfn:#x} of a device's leads to {first:#x}"));
                }
                if is_identity(place.vmid) && place.level == 3 {
                    self.no_contents(frames, HOST, first, broken);
                }
                // Elsewhere than at its own address: a device's window.
                if place.vmid == HOST && first != gfn {
                    for offset in 0..span(place.level) {
                        frames.edit(first + offset).guests.push((HOST, gfn + offset));
                    }
                }
                if !is_identity(place.vmid) {
                    for offset in 0..span(place.level) {
                        self.no_contents(frames, place.vmid, first + offset, broken);
                        self.at_one_place(
                            frames,
                            (place.vmid, gfn + offset),
                            first + offset,
                            broken,
                        );
                        let guests = &mut frames.edit(first + offset).guests;
                        let guest = (place.vmid, gfn + offset);
                        if !guests.contains(&guest) {
                            guests.push(guest);
                        }
                    }
                }
            }
            Decoded::Table(table) => {
                self.unpublished = true;
                let below =
                    Place { vmid: place.vmid, level: place.level + 1, base: gfn, ghost: false };
                self.link(frames, table, below, broken);
            }
        }
    }

    /// A frame that comes to somebody whom nobody lets in, because nobody
    /// reaches it any more, brings nothing of others: it is wiped (or
    /// measured) first. For the host that is news only of a guest's frame that
    /// it has not seen since.
    fn no_contents(&self, frames: &mut Frames, vmid: u8, pfn: u64, broken: &mut Vec<String>) {
        let seen = frames.get(pfn).seen;
        let own = bit(vmid);
        if vmid == HOST && seen & !own == 0 {
            return;
        }
        let others = self.bits_of(frames, pfn) & !own;
        let strange = if vmid == HOST { seen & own == 0 } else { seen & !own != 0 };
        if others == 0 && strange {
            broken.push(format!(
                "frame {pfn:#x} comes to VMID {vmid} unwiped, with contents that {seen:#b} know"
            ));
        }
        if seen | own | others != seen {
            frames.edit(pfn).seen = seen | own | others;
        }
    }

    /// The frame was wiped: only who can reach it now knows what is in it.
    pub(super) fn forget_contents(&self, frames: &mut Frames, pfn: u64) {
        let reach = self.bits_of(frames, pfn);
        if frames.get(pfn).seen != reach {
            frames.edit(pfn).seen = reach;
        }
    }

    fn bits_of(&self, frames: &Frames, pfn: u64) -> u32 {
        self.who_reaches(frames, pfn).into_iter().fold(0, |all, vmid| all | bit(vmid))
    }

    /// No guest has a frame at two addresses: the one it leaves is invalidated
    /// before the other one is made.
    fn at_one_place(
        &self,
        frames: &Frames,
        (vmid, gfn): (u8, u64),
        pfn: u64,
        broken: &mut Vec<String>,
    ) {
        let mapped = frames.get(pfn).guests.iter().copied();
        let remembered = self.remembered().filter_map(|stale| {
            let offset = pfn.checked_sub(stale.first)?;
            (offset < stale.end - stale.start).then_some((stale.vmid, stale.start + offset))
        });
        if let Some((_, other)) =
            mapped.chain(remembered).find(|(who, at)| *who == vmid && *at != gfn)
        {
            broken.push(format!("frame {pfn:#x} at {gfn:#x} and {other:#x} of VMID {vmid}"));
        }
    }

    fn link(&mut self, frames: &mut Frames, table: u64, place: Place, broken: &mut Vec<String>) {
        match frames.edit(table).place.replace(place) {
            None => self.tables.push(table),
            Some(former) => {
                self.ghosts -= usize::from(former.ghost);
                broken.push(format!("table {table:#x} is linked while walkers may still reach it"));
            }
        }
        for (index, entry) in entries(frames, table, place.level) {
            self.insert(frames, place, place.entry_base(index), entry, broken);
        }
    }

    pub(super) fn publish(&mut self) {
        self.unpublished = false;
    }

    /// All that may still be used.
    fn remembered(&self) -> impl Iterator<Item = &Stale> {
        self.stale.iter().chain(&self.forgetting)
    }

    /// The IOMMU is told to forget what frames were to devices: what is unmapped
    /// afterwards it was not told.
    pub(super) fn invalidate_dma(&mut self, (start, end): (u64, u64)) {
        self.unpublished = false;
        let (forgetting, rests) = (&mut self.forgetting, &mut Vec::new());
        self.stale.retain_mut(|stale| {
            if stale.vmid != DMA || stale.end <= start || end <= stale.start {
                return true;
            }
            let from = start.max(stale.start);
            let to = end.min(stale.end);
            forgetting.push(Stale { start: from, end: to, first: stale.output(from), ..*stale });
            if to < stale.end {
                rests.push(Stale { start: to, first: stale.output(to), ..*stale });
            }
            stale.end = from;
            stale.start < from
        });
        self.stale.append(rests);
    }

    /// It has answered: it has forgotten all of that.
    pub(super) fn sync_dma(&mut self) {
        self.forgetting.clear();
    }

    pub(super) fn invalidate(&mut self, frames: &mut Frames, vmid: u8, (start, end): (u64, u64)) {
        self.unpublished = false;
        let mut rests = Vec::new();
        self.stale.retain_mut(|stale| {
            if stale.vmid != vmid || stale.end <= start || end <= stale.start {
                return true;
            }
            if end < stale.end {
                rests.push(Stale { start: end, first: stale.output(end), ..*stale });
            }
            stale.end = start;
            stale.start < start
        });
        self.stale.append(&mut rests);
        // What a walker remembers of a table is gone only when everything
        // the table translated is.
        if self.ghosts != 0 {
            self.forget_tables(frames, |_, place| {
                place.ghost && place.vmid == vmid && start <= place.base && place.end() <= end
            });
        }
        // The flush of a whole VMID whose root leads nowhere is its end.
        if (start, end) == (0, u64::MAX)
            && let Some(root) = self.roots.get(&vmid).copied()
            && frames.get(root).leads_nowhere()
        {
            self.roots.remove(&vmid);
            self.forget_tables(frames, |table, _| table == root);
        }
    }

    fn walk(&self, frames: &Frames, vmid: u8, gfn: u64) -> Option<u64> {
        let mut table = *self.roots.get(&vmid)?;
        for level in 1..=3 {
            let index = (gfn / span(level) % ENTRIES as u64) as usize;
            match decode(frames.word(table, index), level) {
                Decoded::Table(next) => table = next,
                Decoded::Leaf { first, .. } => return Some(first + gfn % span(level)),
                Decoded::Invalid => return None,
            }
        }
        None
    }

    pub(super) fn access(&self, frames: &Frames, vmid: u8, gfn: u64) -> Vec<u64> {
        let stale = self.remembered().filter(|stale| stale.covers(vmid, gfn));
        let mut reached: Vec<u64> = stale.map(|stale| stale.output(gfn)).collect();
        reached.extend(self.walk(frames, vmid, gfn));
        reached.sort_unstable();
        reached.dedup();
        reached
    }

    /// VMIDs that may reach a frame, by tables or TLBs, in order.
    pub(super) fn who_reaches(&self, frames: &Frames, pfn: u64) -> Vec<u8> {
        let mut who: Vec<u8> = frames.get(pfn).guests.iter().map(|(vmid, _)| *vmid).collect();
        for vmid in [DMA, HOST] {
            if self.walk(frames, vmid, pfn) == Some(pfn) {
                who.push(vmid);
            }
        }
        for stale in self.remembered() {
            if (stale.first..stale.first + (stale.end - stale.start)).contains(&pfn) {
                who.push(stale.vmid);
            }
        }
        who.sort_unstable();
        who.dedup();
        who
    }

    pub(super) fn leaves(&self, frames: &Frames, vmid: u8) -> Vec<SimLeaf> {
        fn collect(
            frames: &Frames,
            (table, level, base): (u64, u8, u64),
            leaves: &mut Vec<SimLeaf>,
        ) {
            for index in 0..ENTRIES {
                let word = frames.word(table, index);
                let start = base + index as u64 * span(level);
                match decode(word, level) {
                    Decoded::Invalid => {}
                    Decoded::Table(next) => collect(frames, (next, level + 1, start), leaves),
                    Decoded::Leaf { first, .. } => leaves.push(SimLeaf {
                        gfn: pfn(start).identity(),
                        pfn: pfn(first),
                        frames: span(level),
                        word,
                    }),
                }
            }
        }
        let mut leaves = Vec::new();
        if let Some(root) = self.roots.get(&vmid) {
            collect(frames, (*root, 1, 0), &mut leaves);
        }
        leaves
    }

    /// The end of a call: nothing may be under way any more.
    pub(super) fn settle(&mut self, frames: &mut Frames, broken: &mut Vec<String>) {
        if self.unpublished {
            broken.push("the call ends with a change that is not published".into());
            self.unpublished = false;
        }
        for stale in self.remembered() {
            let same = (stale.start..stale.end)
                .all(|gfn| self.walk(frames, stale.vmid, gfn) == Some(stale.output(gfn)));
            if !same {
                broken.push(format!("the call ends with a stale translation: {stale:x?}"));
            }
        }
        self.stale.clear();
        self.forgetting.clear();
        if self.ghosts != 0 {
            let mut tables = self.tables.clone();
            tables.sort_unstable();
            for table in tables {
                if frames.get(table).place.is_some_and(|place| place.ghost) {
                    broken.push(format!("the call ends with a table {table:#x} half gone"));
                }
            }
            self.forget_tables(frames, |_, place| place.ghost);
        }
    }
}

/// A VMID in a set of them. The host's devices are its hands.
fn bit(vmid: u8) -> u32 {
    1 << (if vmid == DMA { HOST } else { vmid } % 32)
}

/// The valid entries of a table, with their indices. They are read before any
/// of them is acted on: a table may be reachable from itself.
fn entries(frames: &Frames, table: u64, level: u8) -> Vec<(usize, Decoded)> {
    let frame = frames.get(table);
    if frame.leads_nowhere() {
        return Vec::new();
    }
    let all = (0..ENTRIES).map(|index| (index, decode(frame.word(index), level)));
    all.filter(|(_, entry)| !matches!(entry, Decoded::Invalid)).collect()
}

fn forget_guest(frames: &mut Frames, place: Place, gfn: u64, first: u64) {
    if is_identity(place.vmid) && gfn == first {
        return;
    }
    for offset in 0..span(place.level) {
        let guest = (place.vmid, gfn + offset);
        if frames.get(first + offset).guests.contains(&guest) {
            frames.edit(first + offset).guests.retain(|other| *other != guest);
        }
    }
}
