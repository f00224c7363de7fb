//! A guest from creation to the last reclaimed frame.

#![allow(unsafe_code)]

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use host::block::Block;
use host::bouncer::{Handle, Refusal};
use host::console::Console;
use host::frames::{FreeFrames, Run};
use host::tree;
use host::uart::Uart;
use hyp::abi;
use hyp::error::Error;
use hyp::layout;
use spin::Mutex;

use super::calls::BOUNCER;
use super::device::{Backend, Device, Place};

/// Frames of page-table memory at creation, and added when they are used up.
const MEMCACHE: u64 = 32;
const TOPUP: u64 = 16;
/// 2 MiB in frames: how guest RAM is aligned.
const BLOCK: u64 = 512;
/// The image's place in RAM, in frames; the device tree is at its start.
const IMAGE_OFFSET: u64 = 512;
/// Last frames of RAM, that are donated when the guest touches them.
const ON_DEMAND: u64 = 64;
/// Virtio device types.
const TYPE_BLOCK: u64 = 2;
const TYPE_CONSOLE: u64 = 3;
/// Pages of a console's bounce memory: 64 KiB.
const CONSOLE_PAGES: u64 = 16;
/// Most VM_DESTROY calls until its frames must be back.
const DESTROY_CALLS: usize = 4096;

/// A device to be made.
pub(super) enum DevicePlan {
    /// A disk over these bytes, with so many pages of bounce memory.
    Disk(&'static mut [u8], u64),
    /// A console with the least bounce memory there is.
    Console,
}

/// A guest to be built.
pub(super) struct Plan<'a> {
    pub(super) image: &'a [u8],
    pub(super) vcpus: u64,
    pub(super) ram_mib: u64,
    pub(super) bootargs: String,
    pub(super) policy: u64,
    pub(super) devices: Vec<DevicePlan>,
}

/// What went wrong, and in which step.
pub(super) struct Problem {
    pub(super) step: &'static str,
    pub(super) why: Option<Refusal>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.why {
            Some(refusal) => write!(f, "{}: {refusal:?}", self.step),
            None => write!(f, "{}: no room", self.step),
        }
    }
}

fn step(step: &'static str) -> impl Fn(Refusal) -> Problem {
    move |refusal| Problem { step, why: Some(refusal) }
}

fn no_memory(step: &'static str) -> Problem {
    Problem { step, why: None }
}

/// How a vCPU is doing.
pub(super) mod state {
    /// Not started, or turned off.
    pub(crate) const OFF: u32 = 0;
    /// Wants a CPU.
    pub(crate) const RUNNABLE: u32 = 1;
    /// Is on one.
    pub(crate) const RUNNING: u32 = 2;
    /// Waits for its deadline or a kick.
    pub(crate) const WAITING: u32 = 3;
}

/// A vCPU, as its scheduler knows it.
#[derive(Default)]
pub(super) struct Vcpu {
    pub(super) state: AtomicU32,
    /// CNTPCT_EL0 value it waits for; all ones for none.
    pub(super) deadline: AtomicU64,
    /// Something is pending for it that it may not have seen.
    pub(super) kicked: AtomicBool,
    /// Reply to its last MMIO read.
    pub(super) reply: AtomicU64,
}

/// How a guest ended.
pub(super) mod end {
    /// It runs.
    pub(crate) const NOT_YET: u8 = 0;
    /// It powered itself off.
    pub(crate) const OFF: u8 = 1;
    /// It asked for a reset.
    pub(crate) const RESET: u8 = 2;
    /// EL2 ended it.
    pub(crate) const DEAD: u8 = 3;
}

/// A guest.
pub(super) struct Vm {
    pub(super) handle: Handle,
    pub(super) vcpus: Vec<Vcpu>,
    /// The frames that are, or will be when touched, its RAM.
    pub(super) ram: Run,
    /// What of them was donated.
    donated: Mutex<Vec<Run>>,
    memcache: Mutex<Vec<Run>>,
    bounce: Vec<Run>,
    pub(super) devices: Vec<Mutex<Device>>,
    pub(super) uart: Mutex<Uart>,
    /// Lines it printed that begin with `@`.
    pub(super) words: Mutex<Vec<String>>,
    pub(super) ended: AtomicU8,
    /// Nobody should enter it any more.
    pub(super) stopping: AtomicBool,
}

impl Vm {
    /// Builds, measures and finalises a guest.
    pub(super) fn build(free: &Mutex<FreeFrames>, plan: Plan<'_>) -> Result<Arc<Vm>, Problem> {
        let vm = Vm::begin(free, plan, ON_DEMAND)?;
        let entry = layout::RAM + (IMAGE_OFFSET << 12);
        BOUNCER.vm_finalise(vm.handle, entry, layout::RAM).map_err(step("VM_FINALISE"))?;
        if let Some(boot) = vm.vcpus.first() {
            boot.state.store(state::RUNNABLE, Ordering::Release);
        }
        Ok(Arc::new(vm))
    }

    /// All of that but VM_FINALISE. The last `keep` pages of RAM are not
    /// donated yet.
    pub(super) fn begin(
        free: &Mutex<FreeFrames>,
        plan: Plan<'_>,
        keep: u64,
    ) -> Result<Vm, Problem> {
        let pages = plan.ram_mib << 8;
        let ram = take(free, pages, BLOCK, "guest RAM")?;
        let memcache = take(free, MEMCACHE, 1, "page tables")?;
        let handle = BOUNCER
            .vm_create(memcache.pfn, memcache.count, pages, plan.vcpus)
            .map_err(step("VM_CREATE"))?;
        let mut vm = Vm {
            handle,
            vcpus: (0..plan.vcpus).map(|_| Vcpu::default()).collect(),
            ram,
            donated: Mutex::new(Vec::new()),
            memcache: Mutex::new(Vec::from([memcache])),
            bounce: Vec::new(),
            devices: Vec::new(),
            uart: Mutex::new(Uart::default()),
            words: Mutex::new(Vec::new()),
            ended: AtomicU8::new(end::NOT_YET),
            stopping: AtomicBool::new(false),
        };
        vm.load(free, &plan, keep)?;
        for device in plan.devices {
            vm.add_device(free, device, plan.policy)?;
        }
        Ok(vm)
    }

    /// Puts device tree and image into RAM and donates it: those two with
    /// their contents, the rest zeroed, the last pages not yet.
    fn load(&self, free: &Mutex<FreeFrames>, plan: &Plan<'_>, keep: u64) -> Result<(), Problem> {
        let guest = tree::Guest {
            vcpus: plan.vcpus,
            ram_bytes: self.ram.bytes(),
            bootargs: &plan.bootargs,
        };
        let blob = tree::build(guest).map_err(|_| no_memory("the guest's device tree"))?;
        let tree_pages = self.fill(0, &blob);
        let image_pages = self.fill(IMAGE_OFFSET, plan.image);
        let image_end = IMAGE_OFFSET + image_pages;
        let last = self.ram.count.saturating_sub(keep);
        if tree_pages > IMAGE_OFFSET || image_end > last {
            return Err(no_memory("guest RAM for the image"));
        }
        self.donate(free, 0, tree_pages, true)?;
        self.donate(free, IMAGE_OFFSET, image_pages, true)?;
        self.donate(free, tree_pages, IMAGE_OFFSET - tree_pages, false)?;
        self.donate(free, image_end, last - image_end, false)
    }

    /// Copies bytes to page `page` of its RAM, while it is still the host's,
    /// and pads with zeros; returns the pages used.
    fn fill(&self, page: u64, bytes: &[u8]) -> u64 {
        let pages = (bytes.len() as u64).div_ceil(4096);
        let room = self.ram.count.saturating_sub(page) << 12;
        let padded = (pages << 12).min(room) as usize;
        // SAFETY: the frames were taken from the free frames, so no Rust
        // object is there, and they are mapped; `padded` stays inside them.
        let target = unsafe {
            core::slice::from_raw_parts_mut(((self.ram.pfn + page) << 12) as *mut u8, padded)
        };
        target.fill(0);
        for (to, from) in target.iter_mut().zip(bytes) {
            *to = *from;
        }
        pages
    }

    /// Donates `count` frames from page `page` of its RAM.
    fn donate(
        &self,
        free: &Mutex<FreeFrames>,
        page: u64,
        count: u64,
        measured: bool,
    ) -> Result<(), Problem> {
        let (mut page, end) = (page, page + count);
        while page < end {
            let count = (end - page).min(abi::MAX_RANGE);
            let (pfn, gfn) = (self.ram.pfn + page, (layout::RAM >> 12) + page);
            match BOUNCER.frame_donate(self.handle, pfn, gfn, count, measured) {
                Ok(0) => return Err(no_memory("FRAME_DONATE made no progress")),
                Ok(done) => {
                    self.donated.lock().push(Run { pfn, count: done });
                    page += done;
                }
                Err(Refusal::Error(Error::NoMemory)) => self.top_up(free)?,
                Err(refusal) => return Err(step("FRAME_DONATE")(refusal)),
            }
        }
        Ok(())
    }

    /// Somebody else donated this frame of its RAM to it.
    pub(super) fn note_donated(&self, pfn: u64) {
        self.donated.lock().push(Run { pfn, count: 1 });
    }

    /// Gives EL2 more page-table memory for this VM.
    fn top_up(&self, free: &Mutex<FreeFrames>) -> Result<(), Problem> {
        let run = take(free, TOPUP, 1, "more page tables")?;
        let taken = BOUNCER.vm_topup(self.handle, run.pfn, run.count).map_err(step("VM_TOPUP"))?;
        self.memcache.lock().push(Run { pfn: run.pfn, count: taken });
        free.lock().give(Run { pfn: run.pfn + taken, count: run.count - taken });
        if taken == 0 { Err(no_memory("VM_TOPUP made no progress")) } else { Ok(()) }
    }

    fn add_device(
        &mut self,
        free: &Mutex<FreeFrames>,
        plan: DevicePlan,
        policy: u64,
    ) -> Result<(), Problem> {
        let (kind, queues, bounce_pages) = match plan {
            DevicePlan::Disk(_, pages) => (TYPE_BLOCK, 1, pages),
            DevicePlan::Console => (TYPE_CONSOLE, 2, CONSOLE_PAGES),
        };
        let pages = if policy == abi::POLICY_BOUNCE_BAR { bounce_pages } else { 0 };
        let index = BOUNCER
            .device_create(self.handle, kind, policy, pages, queues)
            .map_err(step("DEVICE_CREATE"))?;
        let place = if pages == 0 {
            Place::Shared(self.ram)
        } else {
            Place::Bounce(self.share_bounce(free, index, pages)?)
        };
        let backend = match plan {
            DevicePlan::Disk(disk, _) => {
                let block = Block::new(disk, "bouncer-disk");
                let configure = |offset, value, bytes| {
                    BOUNCER
                        .device_config(self.handle, index, offset, value, bytes)
                        .map_err(step("DEVICE_CONFIG"))
                };
                // virtio 1.4, 5.2.4: capacity in sectors, seg_max, blk_size.
                configure(0, block.capacity(), 8)?;
                configure(12, 64, 4)?;
                configure(20, 512, 4)?;
                Backend::Block(block)
            }
            DevicePlan::Console => Backend::Console(Console::default()),
        };
        self.devices.push(Mutex::new(Device::new(index, backend, place, queues as usize)));
        Ok(())
    }

    /// Lends frames to be the device's bounce BAR.
    fn share_bounce(
        &mut self,
        free: &Mutex<FreeFrames>,
        device: u64,
        pages: u64,
    ) -> Result<Run, Problem> {
        let run = take(free, pages, BLOCK, "bounce memory")?;
        clear(run);
        self.bounce.push(run);
        let mut page = 0;
        while page < pages {
            let count = (pages - page).min(abi::MAX_RANGE);
            match BOUNCER.frame_share(self.handle, device, page, run.pfn + page, count) {
                Ok(0) => return Err(no_memory("FRAME_SHARE made no progress")),
                Ok(done) => page += done,
                Err(Refusal::Error(Error::NoMemory)) => self.top_up(free)?,
                Err(refusal) => return Err(step("FRAME_SHARE")(refusal)),
            }
        }
        Ok(run)
    }

    /// The frame of guest page `gfn`, if that is in its RAM.
    pub(super) fn frame_of(&self, ipa: u64) -> Option<u64> {
        let page = (ipa >> 12).checked_sub(layout::RAM >> 12)?;
        (page < self.ram.count).then(|| self.ram.pfn + page)
    }

    /// The guest touched a page that was not donated yet, or that it had given
    /// back. Two vCPUs may have touched it at once: the second finds it done.
    pub(super) fn demand(&self, free: &Mutex<FreeFrames>, ipa: u64) -> Result<(), Problem> {
        let pfn = self.frame_of(ipa).ok_or(no_memory("memory fault outside RAM"))?;
        if BOUNCER.frame_state(pfn) != Ok(0) {
            return Ok(());
        }
        match self.donate(free, pfn - self.ram.pfn, 1, false) {
            Err(Problem { why: Some(Refusal::Error(Error::Denied)), .. }) => Ok(()),
            result => result,
        }
    }

    /// Does any of its frames still hold what was in them? Called after they
    /// were reclaimed (C5). Returns the first frame that is not all zero.
    fn leftovers(&self) -> Option<u64> {
        self.donated.lock().iter().flat_map(|run| run.pfn..run.end()).find(|pfn| {
            (0..512).any(|word| {
                rt::attempt::try_read_u64((pfn << 12) + word * 8).unwrap_or(u64::MAX) != 0
            })
        })
    }

    /// Stops the VM, takes everything back and checks that it was wiped.
    /// No CPU may be about to run it.
    pub(super) fn tear_down(&self, free: &Mutex<FreeFrames>) -> Result<Remains, Problem> {
        match BOUNCER.vm_stop(self.handle) {
            // It may have died by itself.
            Ok(()) | Err(Refusal::Error(Error::BadState)) => {}
            Err(refusal) => return Err(step("VM_STOP")(refusal)),
        }
        let runs: Vec<Run> = self.donated.lock().clone();
        let mut frames = 0;
        for run in runs.iter().chain(&self.bounce) {
            frames += self.reclaim(*run)?;
        }
        let leftover = self.leftovers();
        let mut calls = 0;
        while BOUNCER.vm_destroy(self.handle).map_err(step("VM_DESTROY"))? != 0 {
            calls += 1;
            if calls == DESTROY_CALLS {
                return Err(no_memory("VM_DESTROY never ends"));
            }
        }
        let mut free = free.lock();
        free.give(self.ram);
        self.bounce.iter().chain(self.memcache.lock().iter()).for_each(|run| free.give(*run));
        Ok(Remains { frames, leftover })
    }

    /// Takes a run back, in ranges where that goes. Frames that the guest gave
    /// back itself, or that were taken back already, are the host's.
    fn reclaim(&self, run: Run) -> Result<u64, Problem> {
        let (mut pfn, mut total) = (run.pfn, 0);
        let mut most = abi::MAX_RANGE;
        while pfn < run.end() {
            let count = (run.end() - pfn).min(most);
            match BOUNCER.frame_reclaim(self.handle, pfn, count) {
                Ok(0) => return Err(no_memory("FRAME_RECLAIM made no progress")),
                Ok(done) => {
                    total += done;
                    pfn += done;
                }
                Err(_) if BOUNCER.frame_state(pfn) == Ok(0) => pfn += 1,
                Err(_) if count > 1 => most = 1,
                Err(refusal) => return Err(step("FRAME_RECLAIM")(refusal)),
            }
        }
        Ok(total)
    }

    /// Takes the disks back. Nobody else may hold the VM.
    pub(super) fn into_disks(self) -> Vec<&'static mut [u8]> {
        self.devices.into_iter().filter_map(|device| device.into_inner().into_disk()).collect()
    }

    /// Prints a line of the guest's, and keeps it if it is meant for tests.
    /// A guest speaks only for itself: a line that looks like another party's
    /// is shown as the guest's text.
    pub(super) fn say(&self, line: &str) {
        if line.starts_with("@guest ") {
            self.words.lock().push(String::from(line));
            rt::println!("{line}");
        } else {
            rt::println!("guest: {}", line.strip_prefix("guest: ").unwrap_or(line));
        }
    }

    /// What the guest said on a line that begins with `start`, the rest of it.
    pub(super) fn said(&self, start: &str) -> Option<String> {
        self.words.lock().iter().find_map(|line| line.strip_prefix(start).map(String::from))
    }

    /// How many of its lines begin with `start`.
    pub(super) fn count_said(&self, start: &str) -> usize {
        self.words.lock().iter().filter(|line| line.starts_with(start)).count()
    }

    /// A frame the host lent it as bounce memory.
    pub(super) fn lent_frame(&self) -> Option<u64> {
        self.bounce.first().map(|run| run.pfn)
    }

    /// How it ended, if it did.
    pub(super) fn end(&self) -> u8 {
        self.ended.load(Ordering::Acquire)
    }
}

/// What a guest left.
pub(super) struct Remains {
    /// Frames that came back.
    pub(super) frames: u64,
    /// First frame that was not zero.
    pub(super) leftover: Option<u64>,
}

fn take(
    free: &Mutex<FreeFrames>,
    count: u64,
    align: u64,
    what: &'static str,
) -> Result<Run, Problem> {
    free.lock().take(count, align).ok_or(no_memory(what))
}

/// Zeroes frames of the host's.
fn clear(run: Run) {
    // SAFETY: the run was taken from the free frames: mapped, and no Rust
    // object is there.
    unsafe { core::ptr::write_bytes(run.base() as *mut u8, 0, run.bytes() as usize) };
}
