//! Building a guest: its memory and what it starts with.

#![allow(unsafe_code)]

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use host::bouncer::Refusal;
use host::frames::{FreeFrames, Run};
use host::measurement::Expected;
use host::tree::{self, Conduit};
use hyp::abi;
use hyp::error::Error;
use hyp::layout;
use spin::Mutex;

use super::{
    DevicePlan, Input, Problem, Serial, Shown, Vcpu, Vm, Voice, end, no_memory, state, step,
};
use crate::payload::calls::BOUNCER;

/// Frames of page-table memory at creation, and added when they are used up.
const MEMCACHE: u64 = 32;
const TOPUP: u64 = 16;
/// 2 MiB in frames: how guest RAM is aligned.
pub(super) const BLOCK: u64 = 512;
/// Bytes at the start of RAM that are kept for the device tree.
pub(in crate::payload) const TREE_ROOM: u64 = 2 << 20;
/// Bytes that a guest finds in its RAM when it starts.
#[derive(Clone, Copy)]
pub(in crate::payload) struct Part<'a> {
    /// Offset into RAM, a multiple of a page.
    pub(in crate::payload) at: u64,
    pub(in crate::payload) bytes: &'a [u8],
}

/// A guest to be built.
pub(in crate::payload) struct Plan<'a> {
    /// What is entered at its first byte.
    pub(in crate::payload) image: Part<'a>,
    /// Its ramdisk, behind the image; without bytes if it has none.
    pub(in crate::payload) initrd: Part<'a>,
    /// Bytes at the end of RAM for the buffers of its PCI devices: a kernel
    /// that speaks pKVM shares them. 0 if it needs no such place.
    pub(in crate::payload) dma_pool: u64,
    /// Last pages of RAM, that are donated when the guest touches them.
    pub(in crate::payload) on_demand: u64,
    /// VM_CREATE's flags: whose calls it speaks.
    pub(in crate::payload) flags: u64,
    /// The host works the measurement out for itself, to compare it with
    /// bouncer's. That takes a while for a large image.
    pub(in crate::payload) check_measurement: bool,
    /// What becomes of what it prints.
    pub(in crate::payload) shown: Shown,
    pub(in crate::payload) input: Input,
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
        let vm = Vm::begin(free, plan)?;
        BOUNCER.vm_finalise(vm.handle, vm.entry, layout::RAM).map_err(step("VM_FINALISE"))?;
        if let Some(boot) = vm.vcpus.first() {
            boot.state.store(state::RUNNABLE, Ordering::Release);
        }
        Ok(Arc::new(vm))
    }

    /// All of that but VM_FINALISE.
    pub(in crate::payload) fn begin(
        free: &Mutex<FreeFrames>,
        plan: Plan<'_>,
    ) -> Result<Vm, Problem> {
        let pages = plan.ram_mib << 8;
        let ram = take(free, pages, BLOCK, "guest RAM")?;
        leave_traces(ram);
        // A table for each 2 MiB of RAM, and the others.
        let tables = (MEMCACHE + pages / BLOCK).min(abi::MAX_RANGE);
        let memcache = take(free, tables, 1, "page tables")?;
        let handle = BOUNCER
            .vm_create(memcache.pfn, memcache.count, pages, plan.vcpus, plan.flags)
            .map_err(step("VM_CREATE"))?;
        let mut vm = Vm {
            handle,
            entry: layout::RAM + plan.image.at,
            flags: plan.flags,
            vcpus: (0..plan.vcpus).map(|_| Vcpu::default()).collect(),
            ram,
            donated: Mutex::new(Vec::new()),
            memcache: Mutex::new(Vec::from([memcache])),
            expected: Mutex::new(plan.check_measurement.then(Expected::default)),
            bounce: Vec::new(),
            devices: Vec::new(),
            serial: Mutex::new(Serial::default()),
            uart_voice: Mutex::new(Voice::new(plan.shown)),
            console_voice: Mutex::new(Voice::new(plan.shown)),
            input: plan.input,
            shown: plan.shown,
            words: Mutex::new(Vec::new()),
            ended: AtomicU8::new(end::NOT_YET),
            stopping: AtomicBool::new(false),
        };
        vm.load(free, &plan)?;
        for device in plan.devices {
            vm.add_device(free, device, plan.policy)?;
        }
        Ok(vm)
    }

    /// Puts device tree, image and ramdisk into RAM and donates it: those with
    /// their contents, the rest zeroed, the last pages not yet.
    fn load(&self, free: &Mutex<FreeFrames>, plan: &Plan<'_>) -> Result<(), Problem> {
        let initrd = plan.initrd;
        let initrd_start = layout::RAM + initrd.at;
        let initrd_range = (initrd_start, initrd_start + initrd.bytes.len() as u64);
        let pool_start = layout::RAM + self.ram.bytes().saturating_sub(plan.dma_pool);
        let guest = tree::Guest {
            vcpus: plan.vcpus,
            ram_bytes: self.ram.bytes(),
            bootargs: &plan.bootargs,
            conduit: if self.is_realm() { Conduit::Smc } else { Conduit::Hvc },
            dma_pool: (plan.dma_pool != 0).then_some((pool_start, plan.dma_pool)),
            initrd: (!initrd.bytes.is_empty()).then_some(initrd_range),
        };
        let blob = tree::build(guest).map_err(|_| no_memory("the guest's device tree"))?;
        let last = self.ram.count.saturating_sub(plan.on_demand);
        let mut next = 0;
        for part in [Part { at: 0, bytes: &blob }, plan.image, initrd] {
            let (first, pages) = (part.at >> 12, (part.bytes.len() as u64).div_ceil(4096));
            if pages == 0 {
                continue;
            }
            if first < next || first + pages > last {
                return Err(no_memory("guest RAM for what it starts with"));
            }
            self.fill(first, part.bytes);
            self.donate(free, next, first - next, false)?;
            self.donate(free, first, pages, true)?;
            next = first + pages;
        }
        self.donate(free, next, last - next, false)
    }

    /// Copies boot state to page `page` of its RAM, while it is still the
    /// host's, and pads with zeros.
    fn fill(&self, page: u64, bytes: &[u8]) {
        let pages = (bytes.len() as u64).div_ceil(4096);
        let room = self.ram.count.saturating_sub(page) << 12;
        let padded = (pages << 12).min(room) as usize;
        // SAFETY: the frames were taken from the free frames, so no Rust
        // object is there, and they are mapped; `padded` stays inside them.
        let target = unsafe {
            core::slice::from_raw_parts_mut(((self.ram.pfn + page) << 12) as *mut u8, padded)
        };
        if let Some(head) = target.get_mut(..bytes.len()) {
            head.copy_from_slice(bytes);
        }
        if let Some(tail) = target.get_mut(bytes.len()..) {
            tail.fill(0);
        }
        if let Some(expected) = self.expected.lock().as_mut() {
            expected.pages((layout::RAM >> 12) + page, target);
        }
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
    pub(super) fn top_up(&self, free: &Mutex<FreeFrames>) -> Result<(), Problem> {
        let run = take(free, TOPUP, 1, "more page tables")?;
        let taken = BOUNCER.vm_topup(self.handle, run.pfn, run.count).map_err(step("VM_TOPUP"))?;
        self.memcache.lock().push(Run { pfn: run.pfn, count: taken });
        free.lock().give(Run { pfn: run.pfn + taken, count: run.count - taken });
        if taken == 0 { Err(no_memory("VM_TOPUP made no progress")) } else { Ok(()) }
    }

    /// The guest touched a page that was not donated yet, or that it had given
    /// back. Two vCPUs may have touched it at once: the second finds it done.
    pub(in crate::payload) fn demand(
        &self,
        free: &Mutex<FreeFrames>,
        ipa: u64,
    ) -> Result<(), Problem> {
        // Outside RAM: an alias or a device's window that wants a table.
        let Some(pfn) = self.frame_of(ipa) else { return self.top_up(free) };
        if BOUNCER.frame_state(pfn) != Ok(0) {
            return Ok(());
        }
        match self.donate(free, pfn - self.ram.pfn, 1, false) {
            Err(Problem { why: Some(Refusal::Error(Error::Denied)), .. }) => Ok(()),
            result => result,
        }
    }
}

pub(super) fn take(
    free: &Mutex<FreeFrames>,
    count: u64,
    align: u64,
    what: &'static str,
) -> Result<Run, Problem> {
    free.lock().take(count, align).ok_or(no_memory(what))
}

/// G5: what is in each page before a guest gets it, and must not be there
/// when it has it.
const TRACE: u64 = u64::from_le_bytes(*b"host was");

/// Leaves something in each of some frames of the host's.
fn leave_traces(run: Run) {
    for page in 0..run.count {
        // SAFETY: as in `clear`.
        unsafe { (((run.pfn + page) << 12) as *mut u64).write_volatile(TRACE) };
    }
}

/// Zeroes frames of the host's.
pub(super) fn clear(run: Run) {
    // SAFETY: the run was taken from the free frames: mapped, and no Rust
    // object is there.
    unsafe { core::ptr::write_bytes(run.base() as *mut u8, 0, run.bytes() as usize) };
}
