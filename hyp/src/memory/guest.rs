//! The memory of one guest: its stage 2, its RAM window, its memcache.

use crate::addr::{Gfn, GfnRange};
use crate::error::Error;
use crate::machine::{Machine, Regime};
use crate::memory::{GuestId, Owner};
use crate::stage2::{Leaf, Stage2, TablePool};

/// Lives in the VM, under the VM's lock. What it maps is derived from the
/// frame table, which is under the lock of [`super::HostMemory`].
#[derive(Debug)]
pub struct GuestMemory {
    pub(super) id: GuestId,
    pub(super) stage2: Stage2,
    /// Free frames for its page tables, donated by the host.
    pub(super) memcache: TablePool,
    pub(super) ram: GfnRange,
    dying: bool,
}

impl GuestMemory {
    /// An address space in which nothing is mapped. `ram` is where donated
    /// frames may go; the root comes out of the memcache.
    ///
    /// # Errors
    /// [`Error::NoMemory`] if the memcache is empty; it comes back.
    pub fn new(
        m: &impl Machine,
        id: GuestId,
        ram: GfnRange,
        mut memcache: TablePool,
    ) -> Result<Self, (Error, TablePool)> {
        match Stage2::for_guest(m, id.vmid(), &mut memcache) {
            Some(stage2) => Ok(Self { id, stage2, memcache, ram, dying: false }),
            None => Err((Error::NoMemory, memcache)),
        }
    }

    /// Which guest.
    pub fn id(&self) -> GuestId {
        self.id
    }

    /// The guest as a party of the frame table.
    pub fn party(&self) -> Owner {
        Owner::Guest(self.id)
    }

    /// What VTTBR_EL2 holds while it runs. Must not be loaded once the guest
    /// is dying.
    pub fn regime(&self) -> Regime {
        self.stage2.regime()
    }

    /// Where its RAM is.
    pub fn ram(&self) -> GfnRange {
        self.ram
    }

    /// Where a frame of its address space leads now; `None` if an access
    /// would fault.
    pub fn lookup(&self, m: &impl Machine, gfn: Gfn) -> Option<Leaf> {
        if self.dying { None } else { self.stage2.lookup(m, gfn) }
    }

    /// Tables of its stage 2, the root included.
    pub fn tables(&self) -> u64 {
        self.stage2.tables()
    }

    /// Free frames for page tables.
    pub fn memcache_len(&self) -> u64 {
        self.memcache.len()
    }

    /// The memcache, to top it up ([`super::HostMemory::host_donate_hyp`]).
    pub fn memcache(&mut self) -> &mut TablePool {
        &mut self.memcache
    }

    /// Is it dying?
    pub fn is_dying(&self) -> bool {
        self.dying
    }

    /// Starts its death: from here on nothing it had is translated for it,
    /// on any CPU. The caller has made sure that no vCPU runs or can run.
    pub fn begin_dying(&mut self, m: &impl Machine) {
        if !self.dying {
            self.dying = true;
            self.stage2.unlink(m);
        }
    }

    /// Refuses what only a living guest may do or suffer.
    pub(super) fn require_alive(&self) -> Result<(), Error> {
        if self.dying { Err(Error::BadState) } else { Ok(()) }
    }

    /// Refuses a range that is not entirely guest RAM: devices, the bounce
    /// BAR, nothing at all.
    pub(super) fn require_ram(&self, range: GfnRange) -> Result<(), Error> {
        let inside = range.start() >= self.ram.start() && range.end() <= self.ram.end();
        if inside { Ok(()) } else { Err(Error::InvalidParameter) }
    }
}
