//! A machine with memory in three lines:
//!
//! ```
//! # use hyp::sim::Fixture;
//! let mut fixture = Fixture::new(64);
//! let frames = fixture.host_frames(4);
//! let guest = fixture.guest(0, 16);
//! ```

use super::SimMachine;
use crate::addr::{GfnRange, Pfn, PfnRange};
use crate::layout;
use crate::memory::{
    BootMemory, FrameEntry, GuestId, GuestMemory, HostMemory, SharedPlace, frames_needed,
    tables_needed,
};
use crate::stage2::TablePool;
use std::boxed::Box;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::vec;
use std::vec::Vec;

/// Frames in a MiB.
const MIB: u64 = 256;
/// QEMU virt's RAM begins at 1 GiB.
const RAM_START: u64 = 0x4_0000;
/// Frames of bouncer's image and heap in the simulated memory map.
const IMAGE: u64 = 61;
/// Frames that firmware keeps in the simulated memory map.
const FIRMWARE: u64 = 3;

/// A memory map, owned.
pub struct Layout {
    /// Banks of RAM.
    pub ram: Vec<PfnRange>,
    /// bouncer's part of it.
    pub hyp: Vec<PfnRange>,
    /// What firmware keeps of it.
    pub firmware: Vec<PfnRange>,
    /// Devices for the host.
    pub host_mmio: Vec<PfnRange>,
    /// Table frames, inside `hyp`.
    pub pool: PfnRange,
    /// Frames for the IOMMU's tables, inside `hyp`, if there is one.
    pub dma_tables: Option<PfnRange>,
}

/// `count` frames from frame number `start`.
///
/// # Panics
/// If there is no such range.
fn frames(start: u64, count: u64) -> PfnRange {
    PfnRange::new(start, count).expect("a range inside 39 bits")
}

impl Layout {
    /// One bank of `mib` MiB at 1 GiB; bouncer (an odd number of frames, then
    /// the tables of an IOMMU, then the pool at its worst-case size) at its end,
    /// a few frames of firmware's before it; a GIC and a UART.
    pub fn new(mib: u64) -> Self {
        Self::of_banks(&[frames(RAM_START, mib * MIB)])
    }

    /// The same with any banks; bouncer is at the end of the last.
    ///
    /// # Panics
    /// If the last bank is too small for it.
    pub fn of_banks(ram: &[PfnRange]) -> Self {
        Self::with_tables(ram, true)
    }

    /// As [`Self::new`], on a machine without an IOMMU.
    pub fn without_iommu(mib: u64) -> Self {
        Self::with_tables(&[frames(RAM_START, mib * MIB)], false)
    }

    fn with_tables(ram: &[PfnRange], iommu: bool) -> Self {
        let host_mmio = vec![frames(0x8000, 16), frames(0x9000, 1)];
        let tables = tables_needed(ram, &host_mmio);
        let end = ram.last().expect("at least one bank").end();
        let pool = frames(end - tables, tables);
        let for_dma = if iommu { tables_needed(ram, &[]) } else { 0 };
        let dma_tables = PfnRange::new(end - tables - for_dma, for_dma).ok();
        let start = end - tables - for_dma - IMAGE;
        let hyp = vec![frames(start, tables + for_dma + IMAGE)];
        let firmware = vec![frames(start - FIRMWARE, FIRMWARE)];
        Self { ram: ram.to_vec(), hyp, firmware, host_mmio, pool, dma_tables }
    }

    /// As [`HostMemory::new`] takes it.
    pub fn boot(&self) -> BootMemory<'_> {
        BootMemory {
            ram: &self.ram,
            hyp: &self.hyp,
            firmware: &self.firmware,
            host_mmio: &self.host_mmio,
            pool: self.pool,
            dma_tables: self.dma_tables,
        }
    }

    /// The machine before [`HostMemory::new`].
    pub fn machine(&self) -> SimMachine {
        SimMachine::new(&self.hyp)
    }

    /// A frame table of the right length, for ever: a fresh one, or that of a
    /// machine that is gone.
    ///
    /// # Panics
    /// If the memory map does not fit this machine.
    pub fn frame_table(&self) -> &'static mut [FrameEntry] {
        let entries = usize::try_from(frames_needed(&self.ram)).expect("fits this machine");
        let mut used = used_tables();
        let same = used.iter().position(|table| table.len() == entries);
        match same.map(|index| used.swap_remove(index)) {
            Some(table) => table,
            None => Box::leak(vec![FrameEntry::NO_RAM; entries].into_boxed_slice()),
        }
    }

    /// Takes the frame table of a machine that is gone, for the next one: a
    /// fuzzer boots thousands in a second.
    pub fn reuse(table: &'static mut [FrameEntry]) {
        used_tables().push(table);
    }
}

fn used_tables() -> MutexGuard<'static, Vec<&'static mut [FrameEntry]>> {
    static TABLES: Mutex<Vec<&'static mut [FrameEntry]>> = Mutex::new(Vec::new());
    TABLES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A booted machine: memory and the engine on it, no vCPUs.
pub struct Fixture {
    /// The machine.
    pub machine: SimMachine,
    /// The engine.
    pub memory: HostMemory<'static>,
    /// What it was built from.
    pub layout: Layout,
    next: u64,
}

impl Fixture {
    /// Boots with `mib` MiB of RAM at 1 GiB (at least 2).
    pub fn new(mib: u64) -> Self {
        Self::with_layout(Layout::new(mib))
    }

    /// Boots with this memory map.
    ///
    /// # Panics
    /// If the memory map is refused.
    pub fn with_layout(layout: Layout) -> Self {
        let machine = layout.machine();
        Self::on(machine, layout)
    }

    /// Boots this machine, which must be the layout's.
    ///
    /// # Panics
    /// If the memory map is refused.
    pub fn on(machine: SimMachine, layout: Layout) -> Self {
        let memory = HostMemory::new(&machine, layout.frame_table(), &layout.boot());
        let memory = memory.expect("the memory map is good");
        machine.attach(memory.regime());
        machine.attach_dma(memory.dma_root());
        machine.settle();
        let next = layout.ram.first().map_or(0, |bank| bank.start().number());
        Self { machine, memory, layout, next }
    }

    /// The end of the machine; its frame table serves the next one.
    pub fn end(self) {
        Layout::reuse(self.memory.into_entries());
    }

    /// The next `count` frames of RAM that no test has used yet.
    ///
    /// # Panics
    /// If RAM is used up.
    pub fn host_frames(&mut self, count: u64) -> PfnRange {
        let range = frames(self.next, count);
        let mut taken = self.layout.hyp.iter().chain(&self.layout.firmware);
        assert!(!taken.any(|taken| taken.overlaps(range)), "RAM is used up");
        self.next = range.end();
        range
    }

    /// Goes on with the next frame whose number is a multiple of `count`.
    pub fn align_frames(&mut self, count: u64) {
        self.next = self.next.next_multiple_of(count);
    }

    /// A pool of `count` frames that the host has donated.
    ///
    /// # Panics
    /// If the donation is refused.
    pub fn memcache(&mut self, count: u64) -> TablePool {
        let range = self.host_frames(count);
        let mut pool = TablePool::empty();
        let done = self.memory.host_donate_hyp(&self.machine, range, &mut pool);
        assert_eq!(done, Ok(count));
        pool
    }

    /// A guest in `slot` with room for `ram` frames and a memcache of 16,
    /// watched. It has no memory yet.
    ///
    /// # Panics
    /// If there is no such slot.
    pub fn guest(&mut self, slot: usize, ram: u64) -> GuestMemory {
        self.guest_with_memcache(slot, ram, 16)
    }

    /// The same with a memcache of this size, its root included.
    ///
    /// # Panics
    /// If there is no such slot, or the memcache is empty.
    pub fn guest_with_memcache(&mut self, slot: usize, ram: u64, memcache: u64) -> GuestMemory {
        self.guest_of_kind(slot, ram, memcache, SharedPlace::InPlace)
    }

    /// The same, finding what it shares at this place.
    ///
    /// # Panics
    /// As above.
    pub fn guest_of_kind(
        &mut self,
        slot: usize,
        ram: u64,
        memcache: u64,
        shared: SharedPlace,
    ) -> GuestMemory {
        let id = GuestId::new(slot).expect("a slot below MAX_VMS");
        let start = layout::RAM >> crate::addr::FRAME_SHIFT;
        let window = GfnRange::new(start, ram).expect("RAM fits");
        let pool = self.memcache(memcache);
        let guest =
            GuestMemory::new(&self.machine, id, window, shared, pool).expect("a root is there");
        self.machine.attach(guest.regime());
        guest
    }

    /// The frame after `pfn`, for tests that count.
    ///
    /// # Panics
    /// At the end of the address space.
    pub fn after(pfn: Pfn, count: u64) -> Pfn {
        pfn.checked_add(count).expect("inside 39 bits")
    }
}
