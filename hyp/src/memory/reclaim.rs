//! The end of a guest: its frames, its loans, its page tables.
//!
//! A VM dies in three steps. [`GuestMemory::begin_dying`] ends all its
//! translations. [`HostMemory::reclaim`] gives its frames back, wiped, as the
//! host asks for them. [`HostMemory::teardown`] gives the page tables and the
//! memcache back once no frame is left.

use super::frame::FrameEntry;
use super::{GuestMemory, HostMemory, Owner, fix_coherency};
use crate::abi;
use crate::addr::PfnRange;
use crate::error::Error;
use crate::machine::Machine;

impl HostMemory<'_> {
    /// The host takes back frames that a dying guest owned (wiped, lent or
    /// not) or borrowed. Returns how many frames were done.
    ///
    /// # Errors
    /// [`Error::BadState`] if the guest is not dying; [`Error::Denied`] if a
    /// frame is neither the guest's nor borrowed by it, or is still pinned by
    /// a device.
    pub fn reclaim(
        &mut self,
        m: &impl Machine,
        guest: &mut GuestMemory,
        pfns: PfnRange,
    ) -> Result<u64, Error> {
        if !guest.is_dying() {
            return Err(Error::BadState);
        }
        let pfns = pfns.truncate(abi::MAX_RANGE);
        let party = guest.party();
        self.frames.require_each(pfns, |entry| {
            // What was in windows was pinned by them, and they are cut.
            (entry.owner() == party || entry.borrower() == party)
                && (entry.pins() == 0 || entry.in_window())
        })?;

        // By runs of one entry, so that tables are walked once per run.
        let mut rest = Some(pfns);
        while let Some(range) = rest {
            let (run, entry) = self.frames.run_at_start(range);
            if entry.owner() == party {
                self.wipe_and_give_to_host(m, run, entry);
            } else {
                // The host's own, which the guest borrowed: mapped all along.
                fix_coherency(m, run);
                self.frames.change(run, entry, FrameEntry::HOST);
            }
            rest = PfnRange::new(run.end(), range.end() - run.end()).ok();
        }
        m.publish();
        self.stage2.merge(m, &mut self.pool, pfns.identity());
        Ok(pfns.count())
    }

    /// Commit: frames that no guest can reach any more, all with the entry
    /// `was`, become the host's. The one place where a frame leaves a guest,
    /// so the one place that wipes. Publishing is left to the caller.
    #[inline(always)]
    pub(super) fn wipe_and_give_to_host(
        &mut self,
        m: &impl Machine,
        pfns: PfnRange,
        was: FrameEntry,
    ) {
        m.zero_frames(pfns);
        self.frames.change(pfns, was, FrameEntry::HOST);
        // A frame that was lent to the host is mapped already; there only the
        // software mark goes, which needs no break.
        self.return_to_host(m, pfns);
    }

    /// Gives at most `budget` page tables and memcache frames of a dying
    /// guest back to the host, once it owns and borrows nothing. Returns how
    /// many frames EL2 still holds for it: call again until 0.
    pub fn teardown(&mut self, m: &impl Machine, guest: &mut GuestMemory, budget: u64) -> u64 {
        if guest.is_dying() && self.frames_of(guest) == 0 {
            let budget = budget.min(abi::MAX_RANGE);
            for _ in 0..budget {
                let table = guest.stage2.take_table(m).or_else(|| guest.take_window_table(m));
                let Some(table) = table else { break };
                guest.memcache.push(m, table);
            }
            self.hyp_donate_host(m, &mut guest.memcache, budget);
        }
        self.frames_held(guest)
    }

    /// Frames the guest owns or borrows.
    pub fn frames_of(&self, guest: &GuestMemory) -> u64 {
        self.counts().owned(guest.party()) + self.counts().borrowed(guest.party())
    }

    /// Frames that are not the host's alone because of this guest: what it
    /// owns and borrows, its page tables, its memcache.
    pub fn frames_held(&self, guest: &GuestMemory) -> u64 {
        self.frames_of(guest) + guest.stage2.tables() + guest.window_tables() + guest.memcache.len()
    }

    /// Zeroes every frame that a guest owns, before the machine is reset or
    /// switched off. Nothing runs afterwards: ownership stays as it is.
    pub fn wipe_guests(&mut self, m: &impl Machine) {
        for (pfn, entry) in self.frames.iter() {
            if matches!(entry.owner(), Owner::Guest(_)) {
                m.zero_frame(pfn);
            }
        }
    }
}
