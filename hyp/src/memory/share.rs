//! A guest lends frames to the host, takes them back, or gives them up.

use super::frame::FrameEntry;
use super::{GuestMemory, HostMemory, Owner, SharedPlace, fix_coherency};
use crate::abi;
use crate::addr::GfnRange;
use crate::error::Error;
use crate::machine::Machine;
use crate::stage2::{Attributes, Broken};

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
    /// contents, which is pKVM's contract, or at the alias as zeros, which is
    /// the RMM's ([`super::SharedPlace`]). It keeps its own access. Returns how many frames were done.
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
            fix_coherency(m, run);
            self.frames.change(run, own, lent);
            self.map_to_host(m, run, Attributes::BORROWED);
            Ok(())
        })?;
        m.publish();
        Ok(range.count())
    }

    /// The guest takes lent frames back, with their contents or as zeros like
    /// the way out. When this returns no CPU of the host's can access them. Returns how many frames were done.
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
            fix_coherency(m, run);
            self.frames.change(run, lent, own);
            Ok(())
        })?;
        Ok(range.count())
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
