//! The memory of one guest: its stage 2, its RAM window, its memcache.

use crate::abi::MAX_DEVICES;
use crate::addr::{Gfn, GfnRange};
use crate::error::Error;
use crate::machine::{Machine, Regime};
use crate::memory::{DmaWindow, GuestId, HostMemory, Owner};
use crate::stage2::{Leaf, Stage2, TablePool};

/// Where a guest finds a page of its RAM that it lends to the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SharedPlace {
    /// Where it was: pKVM's way. The guest remembers what it shared.
    InPlace,
    /// At its alias in the upper half of the address space, and only there:
    /// the way of Arm CCA. An address says by itself who can see the page.
    Alias,
}

/// Lives in the VM, under the VM's lock. What it maps is derived from the
/// frame table, which is under the lock of [`super::HostMemory`].
#[derive(Debug)]
pub struct GuestMemory {
    pub(super) id: GuestId,
    pub(super) stage2: Stage2,
    /// Free frames for its page tables, donated by the host.
    pub(super) memcache: TablePool,
    pub(super) ram: GfnRange,
    pub(super) shared: SharedPlace,
    /// Are its pages zeroed when they change sides, wherever they are?
    pub(super) zeroes: bool,
    /// Bytes that were not zero in what it shared since somebody asked.
    pub(super) residue: u64,
    /// What its devices see of it, by device.
    pub(super) windows: [Option<DmaWindow>; MAX_DEVICES],
    dying: bool,
}

impl GuestMemory {
    /// An address space in which nothing is mapped. `ram` is where donated
    /// frames may go (in the lower half, if `shared` says that the upper one
    /// has aliases); the root comes out of the memcache.
    ///
    /// # Errors
    /// [`Error::NoMemory`] if the memcache is empty; it comes back.
    pub fn new(
        m: &impl Machine,
        id: GuestId,
        ram: GfnRange,
        shared: SharedPlace,
        mut memcache: TablePool,
    ) -> Result<Self, (Error, TablePool)> {
        match Stage2::for_guest(m, id.vmid(), &mut memcache) {
            Some(stage2) => {
                let windows = [const { None }; MAX_DEVICES];
                Ok(Self {
                    id,
                    stage2,
                    memcache,
                    ram,
                    shared,
                    zeroes: false,
                    residue: 0,
                    windows,
                    dying: false,
                })
            }
            None => Err((Error::NoMemory, memcache)),
        }
    }

    /// The same guest, and its pages are zeroed or not when it shares them or
    /// takes them back. At an alias ([`SharedPlace::Alias`]) they always are.
    #[must_use]
    pub fn zeroing(self, zeroes: bool) -> Self {
        Self { zeroes, ..self }
    }

    /// Are its pages zeroed when they change sides?
    pub fn is_zeroing(&self) -> bool {
        self.zeroes || self.shared == SharedPlace::Alias
    }

    /// Bytes that were not zero in pages of a realm at the moment it shared
    /// them, since this was asked last. Counted with the feature `oracle`.
    pub fn take_residue(&mut self) -> u64 {
        core::mem::take(&mut self.residue)
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

    /// Where it finds what it lends to the host.
    pub fn shared_place(&self) -> SharedPlace {
        self.shared
    }

    /// Is the page, of its RAM, at its alias now?
    pub fn is_at_alias(&self, m: &impl Machine, gfn: Gfn) -> bool {
        self.shared == SharedPlace::Alias && self.lookup(m, gfn.alias()).is_some()
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

    /// Starts its death: from here on nothing it had is translated for it, nor
    /// for its devices, on any CPU. The caller has made sure that no vCPU runs
    /// or can run.
    pub fn begin_dying(&mut self, m: &impl Machine, host: &mut HostMemory<'_>) {
        if !self.dying {
            self.dying = true;
            self.stage2.unlink(m);
            host.cut_windows(m, self);
        }
    }

    /// Refuses what only a living guest may do or suffer.
    pub(super) fn require_alive(&self) -> Result<(), Error> {
        if self.dying { Err(Error::BadState) } else { Ok(()) }
    }

    /// Refuses a range that is not entirely guest RAM: devices, the bounce
    /// BAR, an alias, nothing at all.
    pub(super) fn require_ram(&self, range: GfnRange) -> Result<(), Error> {
        if self.is_ram(range) { Ok(()) } else { Err(Error::InvalidParameter) }
    }

    /// Is all of the range its RAM?
    pub fn is_ram(&self, range: GfnRange) -> bool {
        range.start() >= self.ram.start() && range.end() <= self.ram.end()
    }

    /// May memory that is not the guest's RAM be mapped in this range? Not in
    /// its RAM, and not among the aliases.
    pub(super) fn is_outside_ram(&self, range: GfnRange) -> bool {
        !range.overlaps(self.ram) && (self.shared == SharedPlace::InPlace || range.alias().is_ok())
    }
}
