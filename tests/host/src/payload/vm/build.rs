//! Building a guest: its memory, its image, its devices.

#![allow(unsafe_code)]

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use host::block::Block;
use host::bouncer::Refusal;
use host::console::Console;
use host::frames::{FreeFrames, Run};
use host::tree;
use host::uart::Uart;
use hyp::abi;
use hyp::error::Error;
use hyp::layout;
use spin::Mutex;

use super::{Problem, Vcpu, Vm, end, no_memory, state, step};
use crate::payload::calls::BOUNCER;
use crate::payload::device::{Backend, Device, Place};

/// Frames of page-table memory at creation, and added when they are used up.
const MEMCACHE: u64 = 32;
const TOPUP: u64 = 16;
/// 2 MiB in frames: how guest RAM is aligned.
const BLOCK: u64 = 512;
/// The image's place in RAM, in frames; the device tree is at its start.
const IMAGE_OFFSET: u64 = 512;
/// Flags of VM_CREATE: a guest that calls as pKVM's do.
pub(super) const FLAGS: u64 = 0;
/// Its first instruction.
pub(super) const ENTRY: u64 = layout::RAM + (IMAGE_OFFSET << 12);
/// Last frames of RAM, that are donated when the guest touches them.
const ON_DEMAND: u64 = 64;
/// Virtio device types.
const TYPE_BLOCK: u64 = 2;
const TYPE_CONSOLE: u64 = 3;
/// Pages of a console's bounce memory: 64 KiB.
const CONSOLE_PAGES: u64 = 16;

/// A device to be made.
pub(in crate::payload) enum DevicePlan {
    /// A disk over these bytes, with so many pages of bounce memory.
    Disk(&'static mut [u8], u64),
    /// A console with the least bounce memory there is.
    Console,
}

/// A guest to be built.
pub(in crate::payload) struct Plan<'a> {
    pub(in crate::payload) image: &'a [u8],
    pub(in crate::payload) vcpus: u64,
    pub(in crate::payload) ram_mib: u64,
    pub(in crate::payload) bootargs: String,
    pub(in crate::payload) policy: u64,
    pub(in crate::payload) devices: Vec<DevicePlan>,
}

impl Vm {
    /// Builds, measures and finalises a guest.
    pub(in crate::payload) fn build(
        free: &Mutex<FreeFrames>,
        plan: Plan<'_>,
    ) -> Result<Arc<Vm>, Problem> {
        let vm = Vm::begin(free, plan, ON_DEMAND)?;
        BOUNCER.vm_finalise(vm.handle, ENTRY, layout::RAM).map_err(step("VM_FINALISE"))?;
        if let Some(boot) = vm.vcpus.first() {
            boot.state.store(state::RUNNABLE, Ordering::Release);
        }
        Ok(Arc::new(vm))
    }

    /// All of that but VM_FINALISE. The last `keep` pages of RAM are not
    /// donated yet.
    pub(in crate::payload) fn begin(
        free: &Mutex<FreeFrames>,
        plan: Plan<'_>,
        keep: u64,
    ) -> Result<Vm, Problem> {
        let pages = plan.ram_mib << 8;
        let ram = take(free, pages, BLOCK, "guest RAM")?;
        let memcache = take(free, MEMCACHE, 1, "page tables")?;
        let handle = BOUNCER
            .vm_create(memcache.pfn, memcache.count, pages, plan.vcpus, FLAGS)
            .map_err(step("VM_CREATE"))?;
        let mut vm = Vm {
            handle,
            vcpus: (0..plan.vcpus).map(|_| Vcpu::default()).collect(),
            ram,
            donated: Mutex::new(Vec::new()),
            memcache: Mutex::new(Vec::from([memcache])),
            expected: Mutex::default(),
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

    /// Copies boot state to page `page` of its RAM, while it is still the
    /// host's, and pads with zeros; returns the pages used.
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
        self.expected.lock().pages((layout::RAM >> 12) + page, target);
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
    pub(in crate::payload) fn note_donated(&self, pfn: u64) {
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
        self.expected.lock().device([kind, policy, pages, queues]);
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

    /// The guest touched a page that was not donated yet, or that it had given
    /// back. Two vCPUs may have touched it at once: the second finds it done.
    pub(in crate::payload) fn demand(
        &self,
        free: &Mutex<FreeFrames>,
        ipa: u64,
    ) -> Result<(), Problem> {
        let pfn = self.frame_of(ipa).ok_or(no_memory("memory fault outside RAM"))?;
        if BOUNCER.frame_state(pfn) != Ok(0) {
            return Ok(());
        }
        match self.donate(free, pfn - self.ram.pfn, 1, false) {
            Err(Problem { why: Some(Refusal::Error(Error::Denied)), .. }) => Ok(()),
            result => result,
        }
    }
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
