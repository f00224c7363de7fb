//! When a running bouncer checks what (feature `oracle`).
//!
//! A full check reads every entry of the frame table and every table word.
//! That is right after each trap when one looks for a mistake and far too
//! much for a fuzzer, so there is a choice ([`Mode`]). Whatever is chosen, a
//! broken rule ends the machine: see [`Hypervisor::check_rules`].

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use spin::Mutex;

use super::{Full, Rule, Violation, check_frames, check_guest};
use crate::abi::{MAX_RANGE, MAX_VMS, host as id};
use crate::addr::{Pfn, PfnRange};
use crate::hypervisor::Hypervisor;
use crate::machine::{Machine, Regime};
use crate::memory::{GuestId, HostMemory, Owner};
use crate::syndrome::{Exception, decode};
use crate::trap::{Trap, TrapKind};
use crate::vcpu::state::Frame;
use crate::vm::Handle;

/// How much is checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mode {
    /// Nothing.
    Off = 0,
    /// After a call that changes ownership, the VM and the frames it names;
    /// everything when a VM is gone and every [`FULL_EVERY`] traps.
    Changes = 1,
    /// Everything, after every trap of the host.
    Every = 2,
}

/// Traps from one full check to the next ([`Mode::Changes`]).
const FULL_EVERY: u64 = 256;
/// Runs of a vCPU from one check of its VM to the next, if the VM's counters
/// tell of no change in between.
const RUNS: u64 = 16;

/// What the oracle remembers.
pub(crate) struct Watch {
    mode: AtomicU8,
    traps: AtomicU64,
    /// Frames that EL2 owned before there was any guest.
    own: u64,
    /// Frames that firmware keeps.
    firmware: u64,
    /// Frames owned and borrowed by each VM when it was last checked after a
    /// run.
    seen: Mutex<[(u64, u64); MAX_VMS]>,
}

impl Watch {
    /// Checks what changes until told otherwise.
    pub(crate) fn new(memory: &HostMemory<'_>) -> Self {
        Self {
            mode: AtomicU8::new(Mode::Changes as u8),
            traps: AtomicU64::new(0),
            own: memory.counts().owned(Owner::Hyp),
            firmware: memory.counts().owned(Owner::Firmware),
            seen: Mutex::new([(0, 0); MAX_VMS]),
        }
    }

    /// Has the VM more or fewer frames than when it was last asked about, or
    /// is it time to look at it anyway?
    fn has_news(&self, memory: &HostMemory<'_>, handle: u64, traps: u64) -> bool {
        let slot = Handle::from_raw(handle).slot();
        let Some((slot, id)) = slot.and_then(|slot| Some((slot, GuestId::new(slot)?))) else {
            return false;
        };
        let (counts, party) = (memory.counts(), Owner::Guest(id));
        let now = (counts.owned(party), counts.borrowed(party));
        let mut seen = self.seen.lock();
        let old = seen.get_mut(slot).map(|old| core::mem::replace(old, now));
        old != Some(now) || traps.is_multiple_of(RUNS)
    }

    /// Chooses how much is checked.
    pub(crate) fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }
}

/// What a trap may have changed, read before it is handled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scope {
    /// Nothing of memory.
    Nothing,
    /// This VM, and these frames. A VM that does not exist is not checked.
    Named(u64, Option<PfnRange>),
    /// Whatever a guest did while it ran.
    Run(u64),
    /// Frames that no argument names, if it has ended this VM.
    End(u64),
    /// All there is.
    All,
}

impl Scope {
    /// The scope of a trap of the host.
    pub(crate) fn of(frame: &Frame, trap: &Trap) -> Self {
        if trap.kind != TrapKind::Sync {
            return Scope::Nothing;
        }
        match decode(trap) {
            Exception::Hvc(0) => Self::of_call(frame),
            // A retried or refused access changes nothing; the frame it hit
            // is worth a look all the same.
            Exception::Abort(_) => Scope::Named(0, Pfn::new(trap.hpfar >> 4).map(PfnRange::one)),
            _ => Scope::Nothing,
        }
    }

    /// The same, now that the trap is handled and x0 and x1 are its answer.
    pub(crate) fn after(self, frame: &Frame) -> Self {
        match (self, frame.get(0), frame.get(1)) {
            (Scope::End(_), 0, 0) => Scope::All,
            // The tables go last: while frames are left, none was given back.
            (Scope::End(handle), 0, _) => Scope::Named(handle, None),
            (Scope::End(_), ..) => Scope::Nothing,
            (other, ..) => other,
        }
    }

    fn of_call(frame: &Frame) -> Self {
        let [function, a1, a2, a3, a4, a5] = [0, 1, 2, 3, 4, 5].map(|index| frame.get(index));
        let range =
            |pfn, count| PfnRange::new(pfn, count).ok().map(|range| range.truncate(MAX_RANGE));
        match u32::try_from(function) {
            Ok(id::VM_CREATE) => Scope::Named(0, range(a1, a2)),
            Ok(id::VM_TOPUP | id::FRAME_RECLAIM) => Scope::Named(a1, range(a2, a3)),
            Ok(id::FRAME_DONATE) => Scope::Named(a1, range(a2, a4)),
            Ok(id::FRAME_SHARE) => Scope::Named(a1, range(a4, a5)),
            Ok(id::VM_STOP) => Scope::Named(a1, None),
            Ok(id::VCPU_RUN) => Scope::Run(a1),
            Ok(id::VM_DESTROY) => Scope::End(a1),
            _ => Scope::Nothing,
        }
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Chooses how much the oracle checks.
    pub fn set_oracle(&self, mode: Mode) {
        self.oracle.set_mode(mode);
    }

    /// The end of a trap: nothing that this CPU began is under way, and what
    /// others are doing is kept out by the lock of host memory.
    ///
    /// # Panics
    /// If a rule is broken, with rule, frame and table word. Only a mistake of
    /// bouncer's can do that, and then nothing must go on.
    #[allow(clippy::panic)]
    pub(crate) fn check_rules(&self, scope: Scope) {
        let traps = self.oracle.traps.fetch_add(1, Ordering::Relaxed);
        let mode = self.oracle.mode.load(Ordering::Relaxed);
        if mode == Mode::Off as u8 {
            return;
        }
        let all = mode == Mode::Every as u8 || traps.is_multiple_of(FULL_EVERY);
        let scope = if all { Scope::All } else { scope };
        if scope == Scope::Nothing {
            // Nobody shall wait for the lock because of this.
            return;
        }
        let result = self.with_memory(|memory| match scope {
            Scope::Nothing => Ok(()),
            Scope::All => self.check_all(memory),
            Scope::Named(handle, frames) => self.check_named(memory, handle, frames),
            Scope::Run(handle) if !self.oracle.has_news(memory, handle, traps) => Ok(()),
            Scope::Run(handle) | Scope::End(handle) => self.check_named(memory, handle, None),
        });
        if let Err(violation) = result {
            panic!("{violation}");
        }
    }

    fn check_named(
        &self,
        memory: &HostMemory<'_>,
        handle: u64,
        frames: Option<PfnRange>,
    ) -> Result<(), Violation> {
        if let Some(frames) = frames {
            check_frames(&self.machine, memory, frames)?;
        }
        // No such VM: then the call has changed none.
        self.with_slot(Handle::from_raw(handle), |vm, _| {
            Ok(check_guest(&self.machine, memory, &vm.memory))
        })
        .unwrap_or(Ok(()))
    }

    fn check_all(&self, memory: &HostMemory<'_>) -> Result<(), Violation> {
        let full = Full::begin(&self.machine, memory)?;
        let mut held = self.oracle.own;
        let mut regimes: [Option<Regime>; MAX_VMS + 1] = [None; MAX_VMS + 1];
        regimes[MAX_VMS] = Some(memory.regime());
        self.for_each_vm(|slot, vm| {
            full.guest(&self.machine, memory, &vm.memory)?;
            held += vm.memory.tables() + vm.memory.window_tables() + vm.memory.memcache_len();
            // A torn-down guest's root is the host's again.
            if vm.memory.tables() != 0 {
                differ(&regimes, vm.memory.regime())?;
                if let Some(place) = regimes.get_mut(slot) {
                    *place = Some(vm.memory.regime());
                }
            }
            Ok(())
        })?;
        let expect = |rule, owner, expected| match memory.counts().owned(owner) {
            found if found == expected => Ok(()),
            found => Err(Violation::count(rule, found, expected)),
        };
        expect(Rule::FramesAccounted, Owner::Hyp, held)?;
        expect(Rule::FirmwareKeepsItsOwn, Owner::Firmware, self.oracle.firmware)
    }
}

fn differ(regimes: &[Option<Regime>], new: Regime) -> Result<(), Violation> {
    let same = |old: &Regime| old.vmid == new.vmid || old.root == new.root;
    match regimes.iter().flatten().find(|old| same(old)) {
        None => Ok(()),
        Some(old) => {
            let found = u64::from(new.vmid.0);
            Err(Violation::frame(Rule::RegimesDiffer, old.root, found, u64::from(old.vmid.0)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destroyed_vm_has_everything_checked_and_one_that_is_left_itself() {
        let answer = |code: u64, left: u64| {
            let mut frame = Frame::default();
            frame.set(0, code);
            frame.set(1, left);
            frame
        };
        assert_eq!(Scope::End(7).after(&answer(0, 0)), Scope::All);
        assert_eq!(Scope::End(7).after(&answer(0, 3)), Scope::Named(7, None));
        assert_eq!(Scope::End(7).after(&answer(u64::MAX, 0)), Scope::Nothing);
        assert_eq!(Scope::Run(7).after(&answer(u64::MAX, 0)), Scope::Run(7));
    }
}
