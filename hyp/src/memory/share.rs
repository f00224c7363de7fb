//! A guest lends frames to the host, takes them back, or gives them up.

use super::frame::FrameEntry;
use super::{GuestMemory, HostMemory, Owner, SharedPlace, fix_coherency};
use crate::abi;
use crate::addr::{Gfn, GfnRange, PfnRange};
use crate::error::Error;
use crate::machine::Machine;
use crate::stage2::{Attributes, Broken};

/// What [`HostMemory::guest_unshare_all`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TakenBack {
    /// Pages that are the guest's alone again.
    pub pages: u64,
    /// Pages that stay lent: the host's DMA has them pinned, or they are
    /// mapped for a device of the guest's.
    pub held: u64,
    /// Where to go on, if its RAM was not looked through to its end.
    pub next: Option<Gfn>,
}

impl GuestMemory {
    /// Commit: frames that are about to be the host's too, or that it has just
    /// lost, have what the other side may find: nothing, or what everybody
    /// sees in them.
    fn hand_over(&self, m: &impl Machine, frames: PfnRange) {
        if self.zeroes {
            m.zero_frames(frames);
        } else {
            fix_coherency(m, frames);
        }
    }
}

impl HostMemory<'_> {
    /// Prepare of every guest call: the range is RAM of a living guest,
    /// mapped, and every frame behind it is in state `expected`.
    fn require_guest_frames(
        &self,
        m: &impl Machine,
        guest: &GuestMemory,
        range: GfnRange,
        expected: FrameEntry,
    ) -> Result<GfnRange, Error> {
        guest.require_alive()?;
        guest.require_ram(range)?;
        let range = range.truncate(abi::MAX_RANGE);
        guest.stage2.for_each_run(m, range, |run| self.frames.require(run, expected))?;
        Ok(range)
    }

    /// The guest lends frames of its RAM to the host: in place with their
    /// contents, which is pKVM's contract, or as zeros, if it is to be so
    /// ([`GuestMemory::zeroing`]); or at the alias as zeros, which is the RMM's
    /// ([`super::SharedPlace`]). It keeps its own access. Returns how many
    /// frames were done.
    ///
    /// # Errors
    /// [`Error::BadState`] if the guest is dying;
    /// [`Error::InvalidParameter`] if the range is not all guest RAM;
    /// [`Error::NotFound`] if a frame was never donated; [`Error::Denied`] if
    /// one is lent already; [`Error::NoMemory`] if aliases need more tables
    /// than the memcache has.
    pub fn guest_share_host(
        &mut self,
        m: &impl Machine,
        guest: &mut GuestMemory,
        range: GfnRange,
    ) -> Result<u64, Error> {
        if guest.shared == SharedPlace::Alias {
            return self.share_at_alias(m, guest, range);
        }
        let own = FrameEntry::owned(guest.party());
        let range = self.require_guest_frames(m, guest, range, own)?;

        let lent = FrameEntry::lent(guest.party(), Owner::Host);
        guest.stage2.for_each_run(m, range, |run| {
            guest.hand_over(m, run);
            self.frames.change(run, own, lent);
            self.map_to_host(m, run, Attributes::BORROWED);
            Ok(())
        })?;
        m.publish();
        Ok(range.count())
    }

    /// The guest takes lent frames back, with their contents or as zeros like
    /// the way out. When this returns no CPU of the host's can access them.
    /// Returns how many frames were done.
    ///
    /// # Errors
    /// As [`Self::guest_share_host`]; [`Error::Denied`] if a frame is not
    /// lent to the host, or is pinned by its DMA.
    pub fn guest_unshare_host(
        &mut self,
        m: &impl Machine,
        guest: &mut GuestMemory,
        range: GfnRange,
    ) -> Result<u64, Error> {
        if guest.shared == SharedPlace::Alias {
            return self.unshare_from_alias(m, guest, range);
        }
        let lent = FrameEntry::lent(guest.party(), Owner::Host);
        let range = self.require_guest_frames(m, guest, range, lent)?;

        // Borrowed frames are always mapped by pages: nothing is split.
        let mut broken = Broken::new();
        guest.stage2.for_each_run(m, range, |run| {
            self.stage2.break_range(m, &mut self.pool, run.identity(), &mut broken);
            Ok(())
        })?;
        self.stage2.invalidate_broken(m, &mut self.pool, broken);
        let own = FrameEntry::owned(guest.party());
        guest.stage2.for_each_run(m, range, |run| {
            guest.hand_over(m, run);
            self.frames.change(run, lent, own);
            Ok(())
        })?;
        Ok(range.count())
    }

    /// The guest takes back what it has lent, whatever it remembers of it,
    /// among the first [`abi::MAX_RANGE`] pages of its RAM from `from` on: a
    /// kernel that starts another, or a driver after its device's reset. What
    /// the host or a device of the guest's still holds stays lent, and is
    /// counted.
    ///
    /// # Errors
    /// [`Error::BadState`] if the guest is dying; [`Error::InvalidParameter`]
    /// if `from` is not in its RAM; [`Error::NotSupported`] for a guest with
    /// aliases, which takes a range back whatever its pages are.
    pub fn guest_unshare_all(
        &mut self,
        m: &impl Machine,
        guest: &GuestMemory,
        from: Gfn,
    ) -> Result<TakenBack, Error> {
        guest.require_alive()?;
        guest.require_ram(GfnRange::one(from))?;
        if guest.shared == SharedPlace::Alias {
            return Err(Error::NotSupported);
        }
        let end = guest.ram.end();
        let range = GfnRange::new(from.number(), end - from.number())?.truncate(abi::MAX_RANGE);
        let next = Gfn::new(range.end()).filter(|next| next.number() < end);
        let mut back = TakenBack { pages: 0, held: 0, next };

        let lent = FrameEntry::lent(guest.party(), Owner::Host);
        let mut broken = Broken::new();
        self.for_each_alike(m, guest, range, |memory, run, entry| {
            if entry == lent {
                memory.stage2.break_range(m, &mut memory.pool, run.identity(), &mut broken);
                back.pages += run.count();
            } else if entry.borrower() == Owner::Host {
                back.held += run.count();
            }
        });
        self.stage2.invalidate_broken(m, &mut self.pool, broken);
        let own = FrameEntry::owned(guest.party());
        self.for_each_alike(m, guest, range, |memory, run, entry| {
            if entry == lent {
                guest.hand_over(m, run);
                memory.frames.change(run, lent, own);
            }
        });
        Ok(back)
    }

    /// Visits the frames behind a range of a guest's RAM, holes left out, as
    /// runs that have one entry of the frame table, with that.
    fn for_each_alike(
        &mut self,
        m: &impl Machine,
        guest: &GuestMemory,
        range: GfnRange,
        mut visit: impl FnMut(&mut Self, PfnRange, FrameEntry),
    ) {
        guest.stage2.for_each_leaf_run(m, range, |leaf, count| {
            let mut rest = leaf.and_then(|leaf| PfnRange::new(leaf.pfn.number(), count).ok());
            while let Some(frames) = rest {
                let (run, entry) = self.frames.run_at_start(frames);
                visit(self, run, entry);
                rest = PfnRange::new(run.end(), frames.end() - run.end()).ok();
            }
        });
    }

    /// The guest gives frames back to the host, wiped. One call does the
    /// range's first run of consecutive physical frames: once they are
    /// unmapped only their number range remembers them. Returns how many
    /// frames were done.
    ///
    /// # Errors
    /// As [`Self::guest_share_host`]; [`Error::Denied`] if a frame is lent to
    /// the host: unshare it first.
    pub fn guest_relinquish(
        &mut self,
        m: &impl Machine,
        guest: &mut GuestMemory,
        range: GfnRange,
    ) -> Result<u64, Error> {
        let own = FrameEntry::owned(guest.party());
        let range = self.require_guest_frames(m, guest, range, own)?;
        let mut first_run = None;
        guest.stage2.for_each_run(m, range, |run| {
            first_run.get_or_insert(run);
            Ok(())
        })?;
        let run = first_run.ok_or(Error::NotFound)?;

        guest.stage2.unmap(m, &mut guest.memcache, range.truncate(run.count()));
        self.wipe_and_give_to_host(m, run, own);
        m.publish();
        self.stage2.merge(m, &mut self.pool, run.identity());
        Ok(run.count())
    }
}
