//! Ownership moves: host → EL2 and back (page-table memory), host → guest.

use super::frame::FrameEntry;
use super::{GuestMemory, HostMemory, guest_range};
use crate::abi;
use crate::addr::{Gfn, PfnRange};
use crate::error::Error;
use crate::machine::Machine;
use crate::stage2::{Attributes, Leaves, Mapping, TablePool};

/// What a guest finds in a frame that was the host's.
pub enum Contents<'c> {
    /// Zeros.
    Zeroed,
    /// What the host had put there: boot state. The function sees every byte
    /// of every frame in order, with the frame's place in the guest, after
    /// the host has lost its access.
    Measured(&'c mut dyn FnMut(Gfn, &[u8])),
}

impl HostMemory<'_> {
    /// The host gives frames to EL2, as free page tables in `into`. They are
    /// wiped. Returns how many frames were done.
    ///
    /// # Errors
    /// [`Error::Denied`] if a frame is not the host's alone and unpinned;
    /// [`Error::NoMemory`] if a pool of EL2's is exhausted.
    pub fn host_donate_hyp(
        &mut self,
        m: &impl Machine,
        pfns: PfnRange,
        into: &mut TablePool,
    ) -> Result<u64, Error> {
        let pfns = pfns.truncate(abi::MAX_RANGE);
        self.frames.require(pfns, FrameEntry::HOST)?;
        self.require_tables_to_unmap(m, pfns)?;
        m.reserve_hyp(pfns)?;

        self.take_from_host(m, pfns);
        self.frames.change(pfns, FrameEntry::HOST, FrameEntry::HYP);
        // Backwards, so that they are taken in ascending order.
        for pfn in pfns.iter().rev() {
            m.zero_frame(pfn);
            m.map_hyp(pfn);
            into.push(m, pfn);
        }
        Ok(pfns.count())
    }

    /// EL2 gives at most `max` free page tables back to the host, wiped.
    /// Returns how many there were.
    pub fn hyp_donate_host(&mut self, m: &impl Machine, from: &mut TablePool, max: u64) -> u64 {
        let mut done = 0;
        while done < max.min(abi::MAX_RANGE) {
            let Some(pfn) = from.pop(m) else { break };
            m.unmap_hyp(pfn);
            m.zero_frame(pfn);
            self.frames.set(pfn, FrameEntry::HOST);
            self.return_to_host(m, PfnRange::one(pfn));
            self.stage2.merge(m, &mut self.pool, PfnRange::one(pfn).identity());
            done += 1;
        }
        m.publish();
        done
    }

    /// The host gives frames to a guest, which finds them from `gfn` on in
    /// its RAM. Returns how many frames were done.
    ///
    /// # Errors
    /// [`Error::BadState`] if the guest is dying;
    /// [`Error::InvalidParameter`] if the destination leaves the guest's RAM;
    /// [`Error::Denied`] if a frame is not the host's alone and unpinned, or
    /// the guest has memory at the destination; [`Error::NoMemory`] if the
    /// memcache or the host's pool is too small.
    pub fn host_donate_guest(
        &mut self,
        m: &impl Machine,
        guest: &mut GuestMemory,
        pfns: PfnRange,
        gfn: Gfn,
        contents: Contents<'_>,
    ) -> Result<u64, Error> {
        guest.require_alive()?;
        guest.require_ram(guest_range(gfn, pfns)?)?;
        let pfns = pfns.truncate(match contents {
            Contents::Zeroed => abi::MAX_RANGE,
            Contents::Measured(_) => abi::MAX_MEASURED,
        });
        let gfns = guest_range(gfn, pfns)?;
        self.frames.require(pfns, FrameEntry::HOST)?;
        // A page that the guest shares may be elsewhere: it has its frame.
        if !guest.stage2.is_unmapped(m, gfns) || !guest.has_no_alias(m, gfns) {
            return Err(Error::Denied);
        }
        let mapping = Mapping {
            gfns,
            first: pfns.start(),
            attributes: Attributes::MEMORY,
            leaves: Leaves::Pages,
        };
        if guest.stage2.tables_to_map(m, &mapping) > guest.memcache.len() {
            return Err(Error::NoMemory);
        }
        self.require_tables_to_unmap(m, pfns)?;

        // From here on no CPU and no device of the host's can change what is
        // wiped or measured.
        self.take_from_host(m, pfns);
        match contents {
            Contents::Zeroed => m.zero_frames(pfns),
            Contents::Measured(measure) => {
                // First, so that EL2 (through its caches) measures what the
                // guest (with its MMU off) will fetch.
                m.make_executable(pfns);
                for (pfn, gfn) in pfns.iter().zip(gfns.iter()) {
                    m.read_frame(pfn, &mut |bytes| measure(gfn, bytes));
                }
            }
        }
        self.frames.change(pfns, FrameEntry::HOST, FrameEntry::owned(guest.party()));
        guest.stage2.map(m, &mut guest.memcache, &mapping);
        m.publish();
        Ok(pfns.count())
    }
}
