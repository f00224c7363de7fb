//! A guest that has what it lends to the host at an alias.
//!
//! Such a guest (Arm CCA's RSI) has two halves of address space. Its page is
//! in the lower one while it is private and in the upper one while the host
//! borrows it, never in both: lending is unmap, invalidate, wipe, map. Which
//! half is not noted anywhere: a page of its RAM is above exactly if its frame
//! is lent, so the frame table stays the one truth.
//!
//! Contents go neither way. Where realms are granules of a real RMM, the page
//! below and the page above are two, and one that leaves a realm is wiped
//! (RMM 1.0, DEN0137 A2.2.4, RTMGSL). A realm's kernel relies on it: Linux shares a
//! DMA buffer first and clears it afterwards, and what the buffer's page held
//! before is whatever its last owner left there.
//!
//! The price is tables. A region of 2 MiB that has pages of both kinds needs
//! one in each half, so both calls may find the memcache too small. They ask
//! for what the new half needs before the old half gives anything back.

use super::frame::FrameEntry;
use super::{GuestMemory, HostMemory, Owner};
use crate::abi;
use crate::addr::{Gfn, GfnRange, PfnRange};
use crate::error::Error;
use crate::machine::Machine;
use crate::stage2::{Attributes, Broken, Leaves, Mapping};

/// Most runs of consecutive frames that one call moves: what it remembers
/// between unmapping a page and mapping it elsewhere.
const MAX_RUNS: usize = 32;

/// Bytes of frames that the host is about to see and that are not zero: none,
/// if they were wiped. A bouncer with its oracle looks, so that a test of a
/// whole system can ask STATS for 0 of all pages; others do not.
fn residue(m: &impl Machine, frames: PfnRange) -> u64 {
    if cfg!(feature = "oracle") { m.non_zero_bytes(frames) } else { 0 }
}

/// The frames behind a range of guest pages, in order.
struct Runs {
    runs: [Option<PfnRange>; MAX_RUNS],
    frames: u64,
}

impl Runs {
    /// The frames behind `range`, as far as there is room for them.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the first page of the range, or one among those
    /// there is room for, is not mapped.
    fn behind(m: &impl Machine, guest: &GuestMemory, range: GfnRange) -> Result<Self, Error> {
        let mut found = Self { runs: [None; MAX_RUNS], frames: 0 };
        let mut free = 0;
        guest.stage2.for_each_run(m, range, |run| {
            if let Some(place) = found.runs.get_mut(free) {
                *place = Some(run);
                found.frames += run.count();
                free += 1;
            }
            Ok(())
        })?;
        Ok(found)
    }

    fn iter(&self) -> impl Iterator<Item = PfnRange> + Clone + '_ {
        self.runs.iter().flatten().copied()
    }
}

impl GuestMemory {
    /// Is no page of the range at an alias?
    pub(super) fn has_no_alias(&self, m: &impl Machine, range: GfnRange) -> bool {
        match (self.shared, range.alias()) {
            (super::SharedPlace::Alias, Ok(alias)) => self.stage2.is_unmapped(m, alias),
            _ => true,
        }
    }

    /// The first page of the range that is lent to the host, if the guest has
    /// such pages at their aliases.
    pub(crate) fn first_at_alias(&self, m: &impl Machine, range: GfnRange) -> Option<Gfn> {
        self.stage2.first_mapped(m, range.alias().ok()?).map(Gfn::unaliased)
    }

    /// How many pages from the start of the range on are at their aliases.
    /// Looks at [`abi::MAX_RANGE`] at most.
    pub(crate) fn pages_at_alias(&self, m: &impl Machine, range: GfnRange) -> u64 {
        let alias = range.truncate(abi::MAX_RANGE).alias();
        alias.map_or(0, |alias| self.stage2.mapped_pages(m, alias))
    }

    /// How many pages from the start of the range on are in place: donated,
    /// and not at an alias. Looks at [`abi::MAX_RANGE`] at most.
    pub(crate) fn pages_in_place(&self, m: &impl Machine, range: GfnRange) -> u64 {
        self.stage2.mapped_pages(m, range.truncate(abi::MAX_RANGE))
    }

    /// Prepare: the frames behind the pages from the start of `from` on, as
    /// many as one call moves, can be mapped from the start of `to` on.
    fn require_move(&self, m: &impl Machine, from: GfnRange, to: GfnRange) -> Result<Runs, Error> {
        let runs = Runs::behind(m, self, from.truncate(abi::MAX_RANGE))?;
        let first = runs.iter().next().ok_or(Error::NotFound)?.start();
        let mapping = Mapping {
            gfns: to.truncate(runs.frames),
            // For the number of tables it makes no difference where it leads.
            first,
            attributes: Attributes::MEMORY,
            leaves: Leaves::Pages,
        };
        if self.stage2.tables_to_map(m, &mapping) > self.memcache.len() {
            return Err(Error::NoMemory);
        }
        Ok(runs)
    }

    /// Commit: frames that are mapped nowhere are mapped from `at` on.
    /// Publishing is left to the caller.
    fn map_runs(&mut self, m: &impl Machine, runs: &Runs, at: Gfn, attributes: Attributes) {
        let mut next = Some(at);
        for run in runs.iter() {
            let gfns = next.map(|gfn| GfnRange::new(gfn.number(), run.count()));
            let Some(Ok(gfns)) = gfns else { return };
            let mapping = Mapping { gfns, first: run.start(), attributes, leaves: Leaves::Pages };
            self.stage2.map(m, &mut self.memcache, &mapping);
            next = Gfn::new(gfns.end());
        }
    }
}

impl HostMemory<'_> {
    /// [`Self::guest_share_host`] for a guest with aliases: the pages leave
    /// the lower half before they are in the upper one, and arrive there as
    /// zeros.
    pub(super) fn share_at_alias(
        &mut self,
        m: &impl Machine,
        guest: &mut GuestMemory,
        range: GfnRange,
    ) -> Result<u64, Error> {
        guest.require_alive()?;
        guest.require_ram(range)?;
        let alias = range.alias()?;
        let own = FrameEntry::owned(guest.party());
        let runs = guest.require_move(m, range, alias)?;
        runs.iter().try_for_each(|run| self.frames.require(run, own))?;

        guest.stage2.unmap(m, &mut guest.memcache, range.truncate(runs.frames));
        let lent = FrameEntry::lent(guest.party(), Owner::Host);
        for run in runs.iter() {
            // No vCPU of the guest can write there any more, and the host
            // cannot look yet.
            m.zero_frames(run);
            guest.residue += residue(m, run);
            self.frames.change(run, own, lent);
            self.map_to_host(m, run, Attributes::BORROWED);
        }
        guest.map_runs(m, &runs, alias.start(), Attributes::BOUNCE);
        m.publish();
        Ok(runs.frames)
    }

    /// [`Self::guest_unshare_host`] for a guest with aliases. The host loses
    /// its access first, then the alias goes, then the page is back in place, as
    /// zeros: nothing of the host's comes with it.
    pub(super) fn unshare_from_alias(
        &mut self,
        m: &impl Machine,
        guest: &mut GuestMemory,
        range: GfnRange,
    ) -> Result<u64, Error> {
        guest.require_alive()?;
        guest.require_ram(range)?;
        let alias = range.alias()?;
        let lent = FrameEntry::lent(guest.party(), Owner::Host);
        let runs = guest.require_move(m, alias, range)?;
        runs.iter().try_for_each(|run| self.frames.require(run, lent))?;

        // Borrowed frames are always mapped by pages: nothing is split.
        let mut broken = Broken::new();
        for run in runs.iter() {
            self.stage2.break_range(m, &mut self.pool, run.identity(), &mut broken);
        }
        self.stage2.invalidate_broken(m, &mut self.pool, broken);
        guest.stage2.unmap(m, &mut guest.memcache, alias.truncate(runs.frames));
        let own = FrameEntry::owned(guest.party());
        for run in runs.iter() {
            m.zero_frames(run);
            self.frames.change(run, lent, own);
        }
        guest.map_runs(m, &runs, range.start(), Attributes::MEMORY);
        m.publish();
        Ok(runs.frames)
    }

    /// Writes a private page of the guest's, all of it: word `index` becomes
    /// `word(index)`. EL2 writes nothing else of anybody's.
    ///
    /// # Errors
    /// [`Error::BadState`] if the guest is dying; [`Error::InvalidParameter`]
    /// if the page is not its RAM; [`Error::NotFound`] if it was never
    /// donated or is at its alias; [`Error::Denied`] if it is lent.
    pub fn write_private_page(
        &self,
        m: &impl Machine,
        guest: &GuestMemory,
        page: Gfn,
        word: &dyn Fn(usize) -> u64,
    ) -> Result<(), Error> {
        guest.require_alive()?;
        guest.require_ram(GfnRange::one(page))?;
        let leaf = guest.stage2.lookup(m, page).ok_or(Error::NotFound)?;
        let own = FrameEntry::owned(guest.party());
        self.frames.require(PfnRange::one(leaf.pfn), own)?;
        m.write_frame(leaf.pfn, word);
        Ok(())
    }
}
