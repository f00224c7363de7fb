//! What a model of the whole hypervisor compares itself with: read-only views
//! of a [`Hypervisor`] on the simulated machine.

use super::SimMachine;
use super::frames::Frame;
use crate::addr::{Gfn, GfnRange, Pfn};
use crate::hypervisor::Hypervisor;
use crate::machine::{Regime, Vmid};
use crate::memory::FrameEntry;
use crate::vm::vcpus::Power;
use crate::vm::{Handle, Stage};
use std::vec::Vec;

/// A VM as EL2 has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VmView {
    /// Has it been finalised, and is it not dying?
    pub running: bool,
    /// Is it dying?
    pub dying: bool,
    /// Has its address space been unlinked?
    pub unlinked: bool,
    /// Its translation regime.
    pub regime: Regime,
    /// Free frames of its memcache.
    pub memcache: u64,
    /// vCPUs that are on, a bit each.
    pub on: u64,
    /// Is any vCPU out, on a CPU?
    pub any_running: bool,
    /// Per device: its open bounce window.
    pub windows: Vec<Option<GfnRange>>,
}

impl Hypervisor<SimMachine> {
    /// Hands every entry of the frame table to `visit`, in order.
    pub fn view_frames(&self, mut visit: impl FnMut(Pfn, FrameEntry)) {
        self.with_memory(|memory| memory.entries().for_each(|(pfn, entry)| visit(pfn, entry)));
    }

    /// The entry of a frame.
    pub fn view_entry(&self, pfn: Pfn) -> FrameEntry {
        self.with_memory(|memory| memory.entry(pfn))
    }

    /// Hands every entry of the frame table that is not as in `before` to
    /// `visit`, in order, and makes `before` the same. With an empty `before`
    /// these are all.
    pub fn view_changes(
        &self,
        before: &mut Vec<FrameEntry>,
        mut visit: impl FnMut(Pfn, FrameEntry),
    ) {
        self.with_memory(|memory| {
            let (first, entries) = memory.entries_between(0, u64::MAX);
            let all = before.len() != entries.len();
            before.resize(entries.len(), FrameEntry::NO_RAM);
            let pieces = before.chunks_mut(PIECE).zip(entries.chunks(PIECE));
            for ((before, now), start) in pieces.zip((first..).step_by(PIECE)) {
                if !all && same(before, now) {
                    continue;
                }
                for ((before, now), number) in before.iter_mut().zip(now).zip(start..) {
                    if (all || before != now)
                        && let Some(pfn) = Pfn::new(number)
                    {
                        visit(pfn, *now);
                    }
                    *before = *now;
                }
            }
        });
    }

    /// The VM that `handle` names; `None` if it names none.
    pub fn view_vm(&self, handle: u64) -> Option<VmView> {
        let view = self.with_vm(Handle::from_raw(handle), |vm| {
            let vcpus = 0..vm.vcpus.count() as u64;
            let is_on = |index: &u64| vm.vcpus.power(*index) != Some(Power::Off);
            let on = vcpus.filter(is_on).fold(0, |on, index| on | 1 << index);
            Ok(VmView {
                on,
                running: vm.stage == Stage::Running,
                dying: vm.stage == Stage::Dying,
                unlinked: vm.memory.is_dying(),
                regime: vm.regime(),
                memcache: vm.memory.memcache_len(),
                any_running: vm.vcpus.any_running(),
                windows: (0..vm.bus.len()).map(|device| vm.bus.bounce_window(device)).collect(),
            })
        });
        view.ok()
    }

    /// May the host serve this page of the VM's (MMIO guard)?
    pub fn view_granted(&self, handle: u64, page: Gfn) -> bool {
        self.with_vm(Handle::from_raw(handle), |vm| Ok(vm.guard.allows(page))) == Ok(true)
    }
}

/// Entries of the frame table that are compared at once.
const PIECE: usize = 256;

/// Are all of them the same? No branch for each: this is asked after every
/// step of a fuzzer.
fn same(a: &[FrameEntry], b: &[FrameEntry]) -> bool {
    a.iter().zip(b).fold(0, |different, (a, b)| different | (a.raw() ^ b.raw())) == 0
}

impl SimMachine {
    /// A store of a host's or guest's CPU to the first word of a frame, done
    /// at one moment, if anything lets it through; says whether it was.
    pub fn view_store(&self, vmid: Vmid, gfn: Gfn, value: u64) -> bool {
        let mut memory = self.memory();
        let reached = memory.access(vmid.0, gfn.number());
        reached.iter().for_each(|pfn| memory.set_word(*pfn, 0, value));
        !reached.is_empty()
    }

    /// Hands every frame that may be other than zero or EL2's to `visit`.
    pub fn view_memory(&self, mut visit: impl FnMut(FrameView<'_>)) {
        self.memory().frames().for_each(|(pfn, frame)| visit(FrameView { pfn, frame }));
    }

    /// Hands every frame that was written, wiped, or mapped or unmapped by
    /// EL2 since the last call to `visit`.
    pub fn take_changes(&self, mut visit: impl FnMut(FrameView<'_>)) {
        self.memory().take_changes(|pfn, frame| visit(FrameView { pfn, frame }));
    }

    /// Hands `count` frames from `first` on to `visit`, in order.
    pub fn view_range(&self, first: u64, count: u64, mut visit: impl FnMut(FrameView<'_>)) {
        let memory = self.memory();
        (first..first + count).for_each(|pfn| visit(FrameView { pfn, frame: memory.frame(pfn) }));
    }

    /// Hands a frame to `visit`.
    pub fn view_frame<R>(&self, pfn: u64, visit: impl FnOnce(FrameView<'_>) -> R) -> R {
        visit(FrameView { pfn, frame: self.memory().frame(pfn) })
    }
}

/// A frame as it is now, unwatched.
#[derive(Clone, Copy)]
pub struct FrameView<'a> {
    pfn: u64,
    frame: &'a Frame,
}

impl<'a> FrameView<'a> {
    /// Its number.
    pub fn number(self) -> u64 {
        self.pfn
    }

    /// The word that is everywhere in it; `None` if there are several.
    pub fn tag(self) -> Option<u64> {
        self.frame.tag()
    }

    /// All its words; `None` if [`Self::tag`] says it all.
    pub fn words(self) -> Option<&'a [u64; 512]> {
        self.frame.words()
    }

    /// Has EL2 mapped it?
    pub fn is_hyp_mapped(self) -> bool {
        self.frame.hyp_mapped
    }
}
