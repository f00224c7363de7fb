//! The host lends frames to a guest: the memory behind a bounce BAR.
//!
//! Lending and mapping are two steps, because they are two parties': the
//! host lends when it creates the device, the guest maps when it programs the
//! BAR and moves it about as it likes. The loan cannot end while the guest
//! has the frames mapped.

use super::frame::FrameEntry;
use super::{GuestMemory, HostMemory, Owner, fix_coherency, guest_range};
use crate::abi;
use crate::addr::{Gfn, GfnRange, Pfn, PfnRange};
use crate::error::Error;
use crate::machine::Machine;
use crate::stage2::{Attributes, Leaves, Mapping};

/// A host frame that `guest` borrows and has not mapped, unpinned.
fn lent_to(guest: &GuestMemory) -> FrameEntry {
    FrameEntry::lent(Owner::Host, guest.party())
}

impl HostMemory<'_> {
    /// The host lends frames to a guest. It keeps its own access; the guest
    /// gets none before [`Self::map_borrowed`]. Returns how many frames were
    /// done.
    ///
    /// # Errors
    /// [`Error::BadState`] if the guest is dying; [`Error::Denied`] if a
    /// frame is not the host's alone and unpinned.
    pub fn host_share_guest(
        &mut self,
        _m: &impl Machine,
        guest: &GuestMemory,
        pfns: PfnRange,
    ) -> Result<u64, Error> {
        guest.require_alive()?;
        let pfns = pfns.truncate(abi::MAX_RANGE);
        self.frames.require(pfns, FrameEntry::HOST)?;
        self.frames.change(pfns, FrameEntry::HOST, lent_to(guest));
        Ok(pfns.count())
    }

    /// The host ends the loan. Returns how many frames were done.
    ///
    /// # Errors
    /// [`Error::Denied`] if a frame is not lent to this very guest, or is
    /// mapped by it, or pinned.
    pub fn host_unshare_guest(
        &mut self,
        m: &impl Machine,
        guest: &mut GuestMemory,
        pfns: PfnRange,
    ) -> Result<u64, Error> {
        let pfns = pfns.truncate(abi::MAX_RANGE);
        self.frames.require(pfns, lent_to(guest))?;
        // The guest may have had them mapped meanwhile.
        fix_coherency(m, pfns);
        self.frames.change(pfns, lent_to(guest), FrameEntry::HOST);
        Ok(pfns.count())
    }

    /// Maps borrowed frames in the guest from `gfn` on, outside its RAM:
    /// read-write, never executable. Returns how many frames were done.
    ///
    /// # Errors
    /// [`Error::BadState`] if the guest is dying;
    /// [`Error::InvalidParameter`] if the destination leaves the address
    /// space or touches guest RAM or its aliases; [`Error::Denied`] if a frame is not
    /// borrowed by this guest or is mapped already, or something else is
    /// mapped at the destination; [`Error::NoMemory`] if the memcache is too
    /// small.
    pub fn map_borrowed(
        &mut self,
        m: &impl Machine,
        guest: &mut GuestMemory,
        gfn: Gfn,
        pfns: PfnRange,
    ) -> Result<u64, Error> {
        guest.require_alive()?;
        if !guest.is_outside_ram(guest_range(gfn, pfns)?) {
            return Err(Error::InvalidParameter);
        }
        let pfns = pfns.truncate(abi::MAX_RANGE);
        let gfns = guest_range(gfn, pfns)?;
        let party = guest.party();
        // A pin (the backend's DMA) does not stand in the way.
        self.frames.require_each(pfns, |entry| {
            entry.owner() == Owner::Host && entry.borrower() == party && !entry.is_mapped()
        })?;
        if !guest.stage2.is_unmapped(m, gfns) {
            return Err(Error::Denied);
        }
        let mapping = Mapping {
            gfns,
            first: pfns.start(),
            attributes: Attributes::BOUNCE,
            leaves: Leaves::Pages,
        };
        if guest.stage2.tables_to_map(m, &mapping) > guest.memcache.len() {
            return Err(Error::NoMemory);
        }

        fix_coherency(m, pfns);
        for pfn in pfns.iter() {
            self.frames.set(pfn, self.frames.get(pfn).mapped(true));
        }
        guest.stage2.map(m, &mut guest.memcache, &mapping);
        m.publish();
        Ok(pfns.count())
    }

    /// Unmaps whatever borrowed frames the guest has in the range: its BAR
    /// moved, or its decoding was switched off. Cannot fail; the work is
    /// bounded by what is mapped there.
    pub fn unmap_borrowed(&mut self, m: &impl Machine, guest: &mut GuestMemory, range: GfnRange) {
        // A dying guest has nothing mapped any more, and in its RAM nothing
        // is borrowed.
        if guest.is_dying() || !guest.is_outside_ram(range) {
            return;
        }
        let frames = &mut self.frames;
        guest.stage2.for_each_page(m, range, |pfn: Pfn| {
            frames.set(pfn, frames.get(pfn).mapped(false));
        });
        guest.stage2.unmap(m, &mut guest.memcache, range);
    }
}
