//! What this host believes about its VMs and frames: hints, learnt from
//! answers, shared by all CPUs, wrong as soon as another CPU acts.

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use hyp::abi::{self, exit, host as id};
use hyp::layout;

use super::generator::Step;

/// First frame number of a guest's RAM.
pub(super) const RAM: u64 = layout::RAM >> 12;
/// NOT_FOUND and BUSY, as x0.
const NOT_FOUND: u64 = -5_i64 as u64;
const BUSY: u64 = -6_i64 as u64;

/// Frames the fuzzer may name.
#[derive(Clone, Debug)]
pub struct Arena {
    /// First of the frames that are there to be given away.
    pub first: u64,
    /// How many there are. Behind them lie [`abi::MAX_RANGE`] more, because
    /// a call takes as many if only its count is large enough.
    pub count: u64,
    /// The machine's RAM, as frame numbers. What of it is neither arena nor
    /// bouncer's is the host's own home.
    pub ram: Vec<Range<u64>>,
    /// Frames of bouncer's: worth asking for.
    pub bouncer: Vec<u64>,
}

impl Arena {
    /// May this host name the range in a call that takes frames from it? Not
    /// if it could lose what it lives in.
    pub fn is_harmless(&self, pfn: u64, count: u64) -> bool {
        let end = pfn.saturating_add(count.clamp(1, abi::MAX_RANGE));
        let inside = pfn >= self.first && end <= self.first + self.count + abi::MAX_RANGE;
        let ram = self.ram.iter().any(|bank| pfn < bank.end && bank.start < end);
        inside || !ram || self.bouncer.contains(&pfn) && count == 1
    }
}

/// Stages of a VM's life, as believed.
pub(super) mod stage {
    pub(in crate::fuzz) const NONE: u8 = 0;
    pub(in crate::fuzz) const BUILDING: u8 = 1;
    pub(in crate::fuzz) const RUNNING: u8 = 2;
    pub(in crate::fuzz) const DYING: u8 = 3;
}

/// One of bouncer's VM slots.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) handle: AtomicU64,
    pub(super) stage: AtomicU8,
    pub(super) pages: AtomicU64,
    pub(super) vcpus: AtomicU64,
    /// Pages of RAM that were donated so far.
    pub(super) next: AtomicU64,
    /// Bounce pages of its device, and how many have a frame.
    pub(super) window: AtomicU64,
    pub(super) lent: AtomicU64,
    /// The page its last memory fault was at.
    pub(super) fault: AtomicU64,
}

/// Everything believed.
#[derive(Debug)]
pub struct World {
    /// The playground.
    pub arena: Arena,
    pub(super) slots: [Slot; abi::MAX_VMS],
    /// Slot + 1 of who has a frame of the arena, 0 for the host.
    pub(super) owners: Vec<AtomicU8>,
}

impl World {
    /// Nothing was done yet.
    pub fn new(arena: Arena) -> Self {
        let frames = arena.count + abi::MAX_RANGE;
        let owners = (0..frames).map(|_| AtomicU8::new(0)).collect();
        Self { arena, slots: Default::default(), owners }
    }

    /// Believed to have `pfn`: slot + 1, or 0 for the host.
    pub(super) fn owner(&self, pfn: u64) -> u8 {
        let index = pfn.wrapping_sub(self.arena.first);
        usize::try_from(index)
            .ok()
            .and_then(|index| self.owners.get(index))
            .map_or(0, |owner| owner.load(Relaxed))
    }

    fn gave(&self, pfn: u64, count: u64, owner: u8) {
        for pfn in pfn..pfn.saturating_add(count.min(abi::MAX_RANGE)) {
            let index = pfn.wrapping_sub(self.arena.first) as usize;
            if let Some(slot) = self.owners.get(index) {
                slot.store(owner, Relaxed);
            }
        }
    }

    fn slot(&self, handle: u64) -> Option<(u8, &Slot)> {
        let number = (handle & 0xff) as u8;
        let slot = self.slots.get(usize::from(number.checked_sub(1)?))?;
        Some((number, slot))
    }

    /// Every handle that may name a VM now: those known, and the lives of a
    /// slot before and after, which another CPU may have seen.
    pub fn handles(&self) -> impl Iterator<Item = u64> + '_ {
        self.slots.iter().flat_map(|slot| {
            let handle = slot.handle.load(Relaxed);
            (0..8).map(move |life| handle.wrapping_add(life * 0x100).wrapping_sub(0x400))
        })
    }

    /// Takes in what a call returned.
    pub fn learn(&self, step: &Step, answer: [u64; 4]) {
        let Step::Hvc { function, arguments: [a1, a2, a3, a4, _] } = *step else { return };
        let [code, x1, x2, _] = answer;
        let Ok(function) = u32::try_from(function) else { return };
        if function == id::VM_CREATE {
            if let (0, Some((number, slot))) = (code, self.slot(x1)) {
                slot.pages.store(a3, Relaxed);
                slot.vcpus.store(a4, Relaxed);
                for value in [&slot.next, &slot.window, &slot.lent, &slot.fault] {
                    value.store(0, Relaxed);
                }
                slot.handle.store(x1, Relaxed);
                slot.stage.store(stage::BUILDING, Relaxed);
                self.gave(a1, a2, number);
            }
            return;
        }
        let Some((number, slot)) = self.slot(a1) else { return };
        if slot.handle.load(Relaxed) != a1 {
            return;
        }
        match (function, code) {
            // Nearly every call with a handle says so when there is no VM.
            (id::VM_STOP | id::VM_DESTROY | id::FRAME_DONATE, NOT_FOUND) => {
                slot.stage.store(stage::NONE, Relaxed);
            }
            (id::VM_TOPUP, 0) => self.gave(a2, x1, number),
            (id::FRAME_DONATE, 0) => {
                self.gave(a2, x1, number);
                slot.next.fetch_max(a3.saturating_sub(RAM) + x1, Relaxed);
            }
            (id::FRAME_SHARE, 0) => {
                self.gave(a4, x1, number);
                slot.lent.fetch_max(a3 + x1, Relaxed);
            }
            (id::DEVICE_CREATE, 0) => slot.window.store(a4, Relaxed),
            (id::VM_FINALISE, 0) => slot.stage.store(stage::RUNNING, Relaxed),
            (id::VM_STOP, 0 | BUSY) => slot.stage.store(stage::DYING, Relaxed),
            (id::VCPU_RUN, 0) => match x1 & 0xff {
                exit::DEAD | exit::SHUTDOWN => slot.stage.store(stage::DYING, Relaxed),
                exit::MEM_FAULT => slot.fault.store(x2 >> 12, Relaxed),
                _ => {}
            },
            (id::FRAME_RECLAIM, 0) => self.gave(a2, x1, 0),
            (id::VM_DESTROY, 0) if x1 == 0 => {
                slot.stage.store(stage::NONE, Relaxed);
                for owner in self.owners.iter().filter(|owner| owner.load(Relaxed) == number) {
                    owner.store(0, Relaxed);
                }
            }
            _ => {}
        }
    }
}
