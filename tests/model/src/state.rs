//! The abstract state: who owns what, who borrows it, what each VM is.
//!
//! Written from docs/page.md and docs/abi.md, not from the code. There are no
//! tables, pools or locks here: what a party reaches follows from what the
//! frames are.

use crate::frame_set::FrameSet;
use crate::iotable::Table;
use hyp::abi;
use hyp::addr::{FRAME_LIMIT, FRAME_SHIFT};
use hyp::layout;
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

/// What a frame is. Exactly one of these at any time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Page {
    /// bouncer's since boot.
    Hyp,
    /// Firmware's since before that.
    Firmware,
    /// EL2's, for the page tables of the VM in this slot.
    Table(u8),
    /// The host's alone.
    Host,
    /// The host's, lent to the VM in this slot, which has it mapped there.
    Lent(u8, Option<u64>),
    /// The VM's: mapped at this frame of its RAM (of a realm, at the alias of
    /// it, while it is lent), and lent to the host?
    Guest(u8, u64, bool),
}

/// The stages of a VM's life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stage {
    /// Before VM_FINALISE.
    Building,
    /// After it.
    Running,
    /// Nothing of it enters again.
    Dying,
}

/// A CPU of the host's, for PSCI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CpuPower {
    /// Off.
    Off,
    /// Started.
    Pending,
    /// On.
    On,
}

/// A virtual CPU.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Vcpu {
    /// Turned on and not off.
    pub on: bool,
    /// It has run since then.
    pub ran: bool,
    /// The CPU that runs it.
    pub running: Option<u8>,
    /// x0 to x30 as the guest must find them when it goes on.
    pub x: [u64; 31],
    /// Where it goes on.
    pub pc: u64,
    /// The load (register, bytes) that the host is asked to answer.
    pub load: Option<(usize, u8)>,
    /// How it must be found when it runs again; `None` after a reset.
    pub after: Option<crate::expected::Expected>,
    /// Its last trap was an interrupt after which it went on.
    pub explained: bool,
    /// It asked for a token that was not refused yet.
    pub attesting: bool,
}

/// A device, as far as memory goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// Virtio type.
    pub kind: u64,
    /// Queues.
    pub queues: u64,
    /// The frame behind each page of the bounce BAR.
    pub pages: Vec<Option<u64>>,
    /// Where the guest has put it: guest frames.
    pub window: Option<(u64, u64)>,
    /// With the policy shadow-iommu, its table.
    pub table: Option<Table>,
}

/// A VM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vm {
    /// Its name.
    pub handle: u64,
    /// Its place.
    pub slot: u8,
    /// Where in life.
    pub stage: Stage,
    /// VM_FINALISE succeeded once.
    pub finalised: bool,
    /// Dying, and a call of the host's has ended its translations.
    pub unlinked: bool,
    /// It speaks RSI: what it shares is at an alias.
    pub realm: bool,
    /// What it shares and takes back in place is zeroed.
    pub zeroes: bool,
    /// Guest frames of its RAM.
    pub ram: Range<u64>,
    /// Its vCPUs.
    pub vcpus: Vec<Vcpu>,
    /// Pages that it lets the host serve.
    pub granted: BTreeSet<u64>,
    /// Its devices.
    pub devices: Vec<Device>,
    /// The guest has written to a device: its driver may be set up.
    pub driver: bool,
    /// What VM_MEASUREMENT said, by part.
    pub measurement: [Option<[u64; 2]>; 2],
}

impl Vm {
    /// Does one of its vCPUs run?
    pub fn any_running(&self) -> bool {
        self.vcpus.iter().any(|vcpu| vcpu.running.is_some())
    }

    /// Is the byte in its RAM?
    pub fn is_ram(&self, ipa: u64) -> bool {
        self.ram.contains(&(ipa >> FRAME_SHIFT))
    }

    /// May this be an instruction of its?
    pub fn is_entry(&self, ipa: u64) -> bool {
        self.is_ram(ipa) && ipa.is_multiple_of(4)
    }
}

/// A refusal the host can read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// x1 of EVENT_NEXT: kind, CPU, owner, ESR.
    pub what: u64,
    /// What was touched.
    pub address: u64,
    /// From where.
    pub pc: u64,
}

/// Refusals that are kept.
const LOG: usize = 128;

/// The frames of a VM, by what they are to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frames {
    /// It owns them.
    pub owned: FrameSet,
    /// It borrows them.
    pub lent: FrameSet,
    /// EL2 has them for its tables.
    pub tables: FrameSet,
    /// Goes up when any of them changes.
    pub version: u64,
}

/// Everything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    /// Number of the first frame of RAM.
    pub first: u64,
    /// What each frame is.
    pages: Vec<Page>,
    /// What is in it: one word, everywhere. Meaningless for EL2's.
    contents: Vec<u64>,
    /// Frames that are the host's alone.
    free: FrameSet,
    /// Frames that the host may access.
    reach: FrameSet,
    /// The frames of the VM in each slot.
    of: [Frames; abi::MAX_VMS],
    /// Frames that became something else, or were filled, since somebody
    /// asked last.
    changed: FrameSet,
    /// VMs by slot.
    pub vms: [Option<Vm>; abi::MAX_VMS],
    /// Generation of each slot's last VM.
    pub generations: [u64; abi::MAX_VMS],
    /// The host wants alignment faults for what is refused.
    pub alignment_faults: bool,
    /// The host's CPUs. What it starts here never arrives.
    pub cpus: Vec<CpuPower>,
    /// The event log.
    pub log: VecDeque<Refusal>,
    /// EL2's own tables are exhausted.
    pub allocations_fail: bool,
    /// The timer line.
    pub timer: bool,
    /// The machine is off.
    pub off: bool,
}

impl State {
    /// After boot: RAM is the host's but for bouncer's part and firmware's.
    pub fn new(ram: Range<u64>, hyp: &[Range<u64>], firmware: &[Range<u64>], cpus: usize) -> Self {
        let count = ram.clone().count();
        let none = || FrameSet::new(ram.start, count);
        let frames = || Frames { owned: none(), lent: none(), tables: none(), version: 0 };
        let mut state = Self {
            first: ram.start,
            contents: vec![0; count],
            pages: vec![Page::Hyp; count],
            free: none(),
            reach: none(),
            of: std::array::from_fn(|_| frames()),
            changed: none(),
            vms: Default::default(),
            generations: [0; abi::MAX_VMS],
            alignment_faults: false,
            cpus: (0..cpus)
                .map(|cpu| if cpu == 0 { CpuPower::On } else { CpuPower::Off })
                .collect(),
            log: VecDeque::new(),
            allocations_fail: false,
            timer: false,
            off: false,
        };
        let is_in = |ranges: &[Range<u64>], pfn| ranges.iter().any(|range| range.contains(&pfn));
        for pfn in ram.filter(|pfn| !is_in(hyp, *pfn)) {
            state.set(pfn, if is_in(firmware, pfn) { Page::Firmware } else { Page::Host });
        }
        state
    }

    fn index(&self, pfn: u64) -> Option<usize> {
        usize::try_from(pfn.checked_sub(self.first)?).ok().filter(|i| *i < self.pages.len())
    }

    /// What a frame is; `None` where there is no RAM.
    pub fn page(&self, pfn: u64) -> Option<Page> {
        self.pages.get(self.index(pfn)?).copied()
    }

    /// The word that fills a frame.
    pub fn content(&self, pfn: u64) -> u64 {
        self.index(pfn).and_then(|index| self.contents.get(index)).copied().unwrap_or(0)
    }

    /// A frame becomes something else, contents and all.
    pub fn set(&mut self, pfn: u64, page: Page) {
        let Some(place) = self.index(pfn).and_then(|index| self.pages.get_mut(index)) else {
            return;
        };
        let before = std::mem::replace(place, page);
        self.sort(pfn, before, false);
        self.sort(pfn, page, true);
        self.changed.set(pfn, true);
    }

    /// A frame gets into the sets of what it is, or out of them.
    fn sort(&mut self, pfn: u64, page: Page, is: bool) {
        self.free.set(pfn, is && page == Page::Host);
        self.reach.set(pfn, is && is_the_hosts_to_access(page));
        let (Page::Table(slot) | Page::Lent(slot, _) | Page::Guest(slot, _, _)) = page else {
            return;
        };
        let Some(frames) = self.of.get_mut(usize::from(slot)) else { return };
        frames.version += 1;
        match page {
            Page::Table(_) => frames.tables.set(pfn, is),
            Page::Lent(..) => frames.lent.set(pfn, is),
            _ => frames.owned.set(pfn, is),
        };
    }

    /// A frame is filled with a word.
    pub fn fill(&mut self, pfn: u64, word: u64) {
        if let Some(place) = self.index(pfn).and_then(|index| self.contents.get_mut(index)) {
            *place = word;
            self.changed.set(pfn, true);
        }
    }

    /// Hands every frame to `visit` that became something else or was filled
    /// since the last call.
    pub fn take_changes(&mut self, visit: impl FnMut(u64)) {
        self.changed.iter().for_each(visit);
        self.changed.clear();
    }

    /// Every frame, with what it is.
    pub fn frames(&self) -> impl Iterator<Item = (u64, Page)> + '_ {
        (self.first..).zip(self.pages.iter().copied())
    }

    /// The word that fills each frame, in order.
    pub fn contents(&self) -> impl Iterator<Item = u64> + '_ {
        self.contents.iter().copied()
    }

    /// Frames that are the host's alone.
    pub fn free(&self) -> &FrameSet {
        &self.free
    }

    /// Frames that the host may access.
    pub fn reach(&self) -> &FrameSet {
        &self.reach
    }

    /// The frames of the VM in a slot; `None` if there is no such slot.
    pub fn of(&self, slot: u8) -> Option<&Frames> {
        self.of.get(usize::from(slot))
    }

    /// May the host access the frame?
    pub fn host_may(&self, pfn: u64) -> bool {
        self.reach.contains(pfn)
    }

    /// The VM a handle names.
    pub fn vm(&self, handle: u64) -> Option<&Vm> {
        self.vms.iter().flatten().find(|vm| vm.handle == handle)
    }

    /// The same, to change it.
    pub fn vm_mut(&mut self, handle: u64) -> Option<&mut Vm> {
        self.vms.iter_mut().flatten().find(|vm| vm.handle == handle)
    }

    /// Everything the VM in `slot` has mapped: guest frame → frame.
    pub fn mapped(&self, slot: u8) -> impl Iterator<Item = (u64, u64)> + '_ {
        let realm = self.vm_in(slot).is_some_and(|vm| vm.realm);
        let linked = self.vm_in(slot).is_some_and(|vm| !vm.unlinked);
        let its = self.of(slot).filter(|_| linked).into_iter();
        let its = its.flat_map(|its| its.owned.iter().chain(its.lent.iter()));
        its.filter_map(move |pfn| match self.page(pfn)? {
            Page::Guest(_, gfn, true) if realm => Some((gfn | ALIAS, pfn)),
            Page::Guest(_, gfn, _) | Page::Lent(_, Some(gfn)) => Some((gfn, pfn)),
            _ => None,
        })
    }

    /// What the VM reaches at a guest frame.
    pub fn translate(&self, slot: u8, gfn: u64) -> Option<u64> {
        self.mapped(slot).find(|(at, _)| *at == gfn).map(|(_, pfn)| pfn)
    }

    /// The VM in a slot.
    pub fn vm_in(&self, slot: u8) -> Option<&Vm> {
        self.vms.get(usize::from(slot))?.as_ref()
    }

    /// Frames EL2 holds for the tables of the VM in `slot`.
    pub fn tables_held(&self, slot: u8) -> u64 {
        self.of(slot).map_or(0, |its| its.tables.len())
    }

    /// How many of them it needs if it has these guest frames mapped: a root,
    /// and a table for each GiB and each 2 MiB with something in it.
    pub fn tables_needed(gfns: impl Iterator<Item = u64>) -> u64 {
        // The last ones are mostly the next one's, too.
        let (mut gibs, mut megs) = (Vec::new(), Vec::new());
        for gfn in gfns {
            for (tables, place) in [(&mut gibs, gfn >> 18), (&mut megs, gfn >> 9)] {
                if tables.iter().rev().all(|other| *other != place) {
                    tables.push(place);
                }
            }
        }
        1 + (gibs.len() + megs.len()) as u64
    }

    /// Frames the VM in `slot` owns or borrows.
    pub fn frames_of(&self, slot: u8) -> u64 {
        self.of(slot).map_or(0, |its| its.owned.len() + its.lent.len())
    }

    /// Writes a refusal down.
    pub fn record(&mut self, refusal: Refusal) {
        if self.log.len() < LOG {
            self.log.push_back(refusal);
        }
    }

    /// The number the event log has for whoever owns the frame.
    pub fn owner_code(&self, pfn: u64) -> u64 {
        match self.page(pfn) {
            None => 0,
            Some(Page::Hyp | Page::Table(_)) => 1,
            Some(Page::Host | Page::Lent(..)) => 2,
            Some(Page::Guest(slot, ..)) => 3 + u64::from(slot),
            Some(Page::Firmware) => 3 + abi::MAX_VMS as u64,
        }
    }
}

/// May the host access a frame that is this?
fn is_the_hosts_to_access(page: Page) -> bool {
    matches!(page, Page::Host | Page::Lent(..) | Page::Guest(_, _, true))
}

/// `count` frames from `start`, if there is such a range: not empty, not
/// wrapping, inside 39 bits.
pub fn range(start: u64, count: u64) -> Option<Range<u64>> {
    let end = start.checked_add(count)?;
    (count > 0 && end <= FRAME_LIMIT).then_some(start..end)
}

/// As much of a range as one call handles.
pub fn one_call(range: Range<u64>) -> Range<u64> {
    range.start..range.end.min(range.start + abi::MAX_RANGE)
}

/// The part of a range that one FRAME_DONATE with these flags handles.
pub fn one_donation(range: Range<u64>, flags: u64) -> Range<u64> {
    let measured = flags & abi::DONATE_MEASURED != 0;
    let most = if measured { abi::MAX_MEASURED } else { abi::MAX_RANGE };
    range.start..range.end.min(range.start + most)
}

/// The bit of a guest frame number that tells a realm's alias: bit 38 of the
/// address.
pub const ALIAS: u64 = 1 << 26;

/// Stands for the contents of a page that holds a realm's configuration: 39,
/// and zeros.
pub const CONFIGURATION: u64 = 0x00c0_4f16_0000_0000;

/// First guest frame of RAM.
pub const RAM: u64 = layout::RAM >> FRAME_SHIFT;
