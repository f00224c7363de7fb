//! Who owns which memory, and how it changes hands.
//!
//! [`HostMemory`] is the engine: the frame table, the host's stage 2 and the
//! pool for its tables, under one lock. A guest's half is [`GuestMemory`],
//! under the lock of its VM. Hypercalls and faults come in here and nowhere
//! else; below are [`crate::stage2`] and the machine.
//!
//! ```text
//!              host_donate_guest                guest_share_host
//!   HOST owned ────────────────▶ GUEST owned ◀────────────────▶ GUEST owned,
//!    ▲  ▲  ▲ ◀──────────────────   (wiped)    guest_unshare_host  lent to HOST
//!    │  │  │   guest_relinquish,     │                              │
//!    │  │  │   reclaim (dying)       └──────── reclaim (dying) ─────┘
//!    │  │  └──────────▶ HOST owned, lent to GUEST ──▶ the same, mapped
//!    │  │ host_share_guest,                 map_borrowed,
//!    │  │ host_unshare_guest                unmap_borrowed
//!    │  └─▶ HYP owned (memcache of a VM)
//!    │ host_donate_hyp, hyp_donate_host
//! ```
//!
//! Every transition over a range is written in the same order:
//!
//! 1. cut the range to [`abi::MAX_RANGE`] frames;
//! 2. *prepare*: compare **every** frame with the one state it must be in,
//!    and the pools with the exact number of tables needed; a refusal here
//!    has changed nothing;
//! 3. *commit*, which cannot fail: take rights away, invalidate once, wipe,
//!    change the frame table, give rights, publish.
//!
//! | file | one idea |
//! |---|---|
//! | `frame` | the frame table |
//! | `boot` | the first state, from the memory map |
//! | `donate` | ownership moves |
//! | `bounce` | the host lends frames to a guest (bounce BAR) |
//! | `share` | a guest lends frames to the host, or gives them up |
//! | `alias` | the same for a guest that has what it lends at an alias |
//! | `views` | what a device sees of pages side by side, as runs |
//! | `window` | a guest's devices see pages of it, where its table says |
//! | `reclaim` | the end of a guest |
//! | `dma` | what the host's devices see |
//! | `guest` | the memory of one guest |

mod alias;
mod boot;
mod bounce;
mod dma;
mod donate;
mod frame;
mod guest;
mod reclaim;
mod share;
mod views;
mod window;

#[cfg(test)]
mod tests;

pub use boot::{BootMemory, frames_needed, tables_needed};
pub use donate::Contents;
pub use frame::{Counts, FrameEntry, GuestId, Owner, PageState};
pub use guest::{GuestMemory, SharedPlace};
pub use share::TakenBack;
pub use views::{View, Views};
pub use window::{DmaWindow, PART_PAGES, Refreshed, Stop, WINDOWS};

use crate::abi;
use crate::addr::{Gfn, GfnRange, Pfn, PfnRange};
use crate::error::Error;
use crate::machine::{Machine, Regime};
use crate::stage2::{Attributes, Leaf, Leaves, Mapping, Stage2, TablePool};
use dma::DmaTable;
use frame::FrameTable;

/// The frame table, the host's stage 2, the pool for its tables, and what its
/// devices see.
pub struct HostMemory<'t> {
    frames: FrameTable<'t>,
    stage2: Stage2,
    pool: TablePool,
    /// None where nothing translates for devices.
    dma: Option<DmaTable>,
}

/// What to do about a stage-2 translation fault of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostFault {
    /// The mapping is valid now: another CPU was in the middle of
    /// break-before-make, or has given the frame back. Repeat the access.
    Retry,
    /// Not the host's. Inject an abort and log whose it is.
    Refused(Owner),
}

#[cfg(any(test, feature = "sim"))]
impl<'t> HostMemory<'t> {
    /// The memory of the frame table: the machine is over.
    pub(crate) fn into_entries(self) -> &'t mut [FrameEntry] {
        self.frames.into_entries()
    }

    /// The same, in another frame table of the same length. Two of these on
    /// one machine would both believe that its tables are theirs: only one
    /// may be used.
    pub(crate) fn copy_to<'o>(&self, entries: &'o mut [FrameEntry]) -> HostMemory<'o> {
        let Self { frames, stage2, pool, dma } = self;
        let frames = frames.copy_to(entries);
        HostMemory { frames, stage2: stage2.clone(), pool: pool.clone(), dma: *dma }
    }
}

#[cfg(test)]
impl HostMemory<'_> {
    /// Counts frames a second time that the host has already.
    pub(crate) fn count_twice(&mut self, frames: PfnRange) {
        self.frames.assign(frames, FrameEntry::HOST);
    }
}

impl HostMemory<'_> {
    /// What VTTBR_EL2 holds while the host runs.
    pub fn regime(&self) -> Regime {
        self.stage2.regime()
    }

    /// Free frames for the host's page tables.
    pub fn pool_len(&self) -> u64 {
        self.pool.len()
    }

    /// Frames per party.
    pub fn counts(&self) -> &Counts {
        self.frames.counts()
    }

    /// The frame table's entry; [`FrameEntry::NO_RAM`] where there is none.
    pub fn entry(&self, pfn: Pfn) -> FrameEntry {
        self.frames.get(pfn)
    }

    /// Every frame of the table with its entry.
    pub fn entries(&self) -> impl Iterator<Item = (Pfn, FrameEntry)> {
        self.frames.iter()
    }

    /// Entries of the frames numbered `start` to `end` - 1 that the table has,
    /// after the number of the first.
    pub fn entries_between(&self, start: u64, end: u64) -> (u64, &[FrameEntry]) {
        self.frames.between(start, end)
    }

    /// Tables of the host's stage 2, the root included.
    pub fn tables(&self) -> u64 {
        self.stage2.tables()
    }

    /// What a frame is to the host.
    pub fn state_for_host(&self, pfn: Pfn) -> PageState {
        self.entry(pfn).state_for(Owner::Host)
    }

    /// Where a frame of the host's address space leads; `None` if an access
    /// would fault.
    pub fn lookup(&self, m: &impl Machine, gfn: Gfn) -> Option<Leaf> {
        self.stage2.lookup(m, gfn)
    }

    /// Decides a stage-2 *translation* fault of the host. The lock has made
    /// us wait for whoever was changing the tables. (A permission fault is
    /// never ours to repair: the caller injects an abort at once.)
    pub fn host_fault(&mut self, m: &impl Machine, gfn: Gfn) -> HostFault {
        match self.stage2.lookup(m, gfn) {
            Some(_) => HostFault::Retry,
            None => HostFault::Refused(match window::owner_at(gfn) {
                // Where nobody lives there is no window.
                Some(id) if self.counts().owned(Owner::Guest(id)) > 0 => Owner::Guest(id),
                Some(_) => Owner::None,
                None => self.entry(gfn.identity()).owner(),
            }),
        }
    }

    /// Pins frames the host may access, because a device was given them for
    /// DMA. A pinned frame changes neither owner nor borrower. Returns how
    /// many frames were done.
    ///
    /// # Errors
    /// [`Error::Denied`] if one is not the host's to access at its own address,
    /// or has 255 pins.
    pub fn pin(&mut self, pfns: PfnRange) -> Result<u64, Error> {
        let pfns = pfns.truncate(abi::MAX_RANGE);
        self.frames.require_each(pfns, |entry| {
            entry.state_for(Owner::Host) != PageState::NoPage && entry.pinned().is_some()
        })?;
        for pfn in pfns.iter() {
            if let Some(entry) = self.frames.get(pfn).pinned() {
                self.frames.set(pfn, entry);
            }
        }
        Ok(pfns.count())
    }

    /// Takes the pins away again, after the device's mapping is gone and
    /// flushed. Returns how many frames were done.
    ///
    /// # Errors
    /// [`Error::Denied`] if one is not pinned.
    pub fn unpin(&mut self, pfns: PfnRange) -> Result<u64, Error> {
        let pfns = pfns.truncate(abi::MAX_RANGE);
        self.frames.require_each(pfns, |entry| entry.unpinned().is_some())?;
        for pfn in pfns.iter() {
            if let Some(entry) = self.frames.get(pfn).unpinned() {
                self.frames.set(pfn, entry);
            }
        }
        Ok(pfns.count())
    }

    /// Prepare: can the host lose these frames from its stage 2?
    fn require_tables_to_unmap(&self, m: &impl Machine, pfns: PfnRange) -> Result<(), Error> {
        if self.stage2.tables_to_unmap(m, pfns.identity()) > self.pool.len() {
            return Err(Error::NoMemory);
        }
        Ok(())
    }

    /// Commit: the host loses frames of its own, on every CPU and for every
    /// device. What comes next (a wipe, a measurement) is seen by nobody.
    #[inline(always)]
    fn take_from_host(&mut self, m: &impl Machine, pfns: PfnRange) {
        self.stage2.unmap(m, &mut self.pool, pfns.identity());
        if let Some(dma) = self.dma {
            dma.forbid(m, pfns);
        }
    }

    /// Commit: frames are the host's own again, for its CPUs and its devices.
    /// Publishing is left to the caller.
    #[inline(always)]
    fn return_to_host(&mut self, m: &impl Machine, pfns: PfnRange) {
        self.map_to_host(m, pfns, Attributes::MEMORY);
        if let Some(dma) = self.dma {
            dma.allow(m, pfns);
        }
    }

    /// Commit: frames that the host has lost before are mapped again. Takes
    /// no table: the one with the hole is still there.
    fn map_to_host(&mut self, m: &impl Machine, pfns: PfnRange, attributes: Attributes) {
        let mapping = Mapping {
            gfns: pfns.identity(),
            first: pfns.start(),
            attributes,
            leaves: Leaves::Pages,
        };
        self.stage2.map(m, &mut self.pool, &mapping);
    }
}

/// Commit: other parties see these frames from now on, or see them no more.
///
/// A world chooses the memory type of its own accesses (stage 1), and what one
/// reads past the caches is not what another wrote into them (Arm ARM B2.16,
/// mismatched memory attributes). So the point of coherency is fixed
///
/// - *before* a party gets a frame: in memory there is what was there before
///   the last stores, which were to a page that nobody else could see;
/// - *after* it has lost one: what it wrote past the caches is under a clean
///   line of the one who keeps the frame, and would come to light when that is
///   evicted.
///
/// A wipe ([`Machine::zero_frames`]) does the same by itself. Where stage 2
/// forces write-back there is one view of memory, and nothing to do.
fn fix_coherency(m: &impl Machine, pfns: PfnRange) {
    if !m.forces_write_back() {
        m.clean_frames(pfns);
    }
}

/// A range of guest frames as long as `pfns`.
fn guest_range(gfn: Gfn, pfns: PfnRange) -> Result<GfnRange, Error> {
    GfnRange::new(gfn.number(), pfns.count())
}
