//! What the device tree says about the machine.

#![allow(unsafe_code)]

use alloc::vec::Vec;
use core::ops::Range;

use host::frames::{FreeFrames, Run};
use rt::fdt::Fdt;
use rt::psci::Conduit;
use rt::{cpu, dt, heap};

/// Bytes of heap: the guests' trees, the backends' bookkeeping.
const HEAP_BYTES: usize = 8 << 20;
/// Most memory banks and reserved ranges looked at.
const MAX_RANGES: usize = 16;

/// A range list that needs no heap: it says where the heap can go.
#[derive(Clone, Copy, Default)]
pub(super) struct Ranges {
    entries: [(usize, usize); MAX_RANGES],
    count: usize,
}

impl Ranges {
    fn push(&mut self, start: usize, size: usize) {
        if let Some(entry) = self.entries.get_mut(self.count) {
            *entry = (start, size);
            self.count += 1;
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.entries.iter().take(self.count).map(|(start, size)| *start..start + size)
    }
}

/// The machine under the host.
pub(super) struct Machine {
    pub(super) command_line: &'static str,
    pub(super) ramdisk: Range<usize>,
    pub(super) uart: usize,
    /// Interrupt id of the UART, if the tree names one.
    pub(super) uart_interrupt: Option<u32>,
    /// Random bytes of the firmware's.
    pub(super) seed: &'static [u8],
    pub(super) gicd: usize,
    /// Its first redistributor.
    pub(super) gicr: usize,
    /// The first redistributor of each region; zeros beyond the last.
    pub(super) redistributors: [usize; rt::MAX_CPUS],
    pub(super) conduit: Conduit,
    /// PCIe configuration space, if the host has PCIe.
    pub(super) ecam: Option<usize>,
    /// Affinities of the CPUs, the boot CPU among them.
    pub(super) cpus: [u64; rt::MAX_CPUS],
    pub(super) cpu_count: usize,
    pub(super) ram: Ranges,
    pub(super) ram_bytes: usize,
    /// Ranges of `/reserved-memory`: bouncer's own memory is among them.
    pub(super) reserved: Ranges,
    tree: Range<usize>,
    heap: Range<usize>,
    ramdisk_taken: bool,
}

impl Machine {
    /// Reads the tree at `dtb`, without a heap.
    pub(super) fn from_tree(dtb: usize) -> Result<Self, &'static str> {
        if dtb == 0 {
            return Err("no device tree in x0");
        }
        // SAFETY: the boot protocol: x0 holds a device tree that nobody
        // changes or reuses while the payload runs.
        let tree = unsafe { Fdt::from_ptr(dtb as *const u8) };
        let tree: Fdt<'static> = tree.map_err(|_| "the device tree in x0 is broken")?;
        let (uart, _) = dt::device(&tree, "arm,pl011", 0).ok_or("no PL011 in the device tree")?;
        let (gicd, _) = dt::device(&tree, "arm,gic-v3", 0).ok_or("no GICv3 in the device tree")?;
        let (gicr, _) = dt::device(&tree, "arm,gic-v3", 1).ok_or("no GIC redistributors")?;
        let conduit = match dt::psci_method(&tree) {
            Some("smc") => Conduit::Smc,
            _ => Conduit::Hvc,
        };
        let mut machine = Machine {
            command_line: dt::command_line(&tree),
            ramdisk: dt::initrd(&tree).unwrap_or(0..0),
            uart,
            seed: dt::seed(&tree),
            uart_interrupt: dt::interrupt(&tree, "arm,pl011"),
            gicd,
            gicr,
            redistributors: [0; rt::MAX_CPUS],
            conduit,
            ecam: dt::device(&tree, "pci-host-ecam-generic", 0).map(|(ecam, _)| ecam),
            cpus: [0; rt::MAX_CPUS],
            cpu_count: 0,
            ram: Ranges::default(),
            ram_bytes: 0,
            reserved: Ranges::default(),
            tree: dtb..dtb + tree.total_size(),
            heap: 0..0,
            ramdisk_taken: false,
        };
        for (slot, gicr) in machine.redistributors.iter_mut().zip(dt::redistributors(&tree)) {
            *slot = gicr;
        }
        for (slot, mpidr) in machine.cpus.iter_mut().zip(dt::cpus(&tree)) {
            *slot = mpidr;
            machine.cpu_count += 1;
        }
        machine.read_memory(&tree);
        machine.heap = machine.find_heap().ok_or("no room for the host's heap")?;
        Ok(machine)
    }

    fn read_memory(&mut self, tree: &Fdt<'static>) {
        for node in tree.all_nodes() {
            let kind = node.property("device_type").and_then(|kind| kind.as_str());
            if kind != Some("memory") {
                continue;
            }
            for region in node.reg().into_iter().flatten() {
                let size = region.size.unwrap_or(0);
                self.ram.push(region.starting_address as usize, size);
                self.ram_bytes += size;
            }
        }
        let reserved = tree.find_node("/reserved-memory");
        for node in reserved.iter().flat_map(|node| node.children()) {
            for region in node.reg().into_iter().flatten() {
                self.reserved.push(region.starting_address as usize, region.size.unwrap_or(0));
            }
        }
    }

    /// What already has a use: image, tree, ramdisk, reserved memory.
    fn used(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let own = [cpu::image(), self.tree.clone(), self.ramdisk.clone(), self.heap.clone()];
        own.into_iter().chain(self.reserved.iter()).filter(|range| !range.is_empty())
    }

    /// The highest place in the first bank with room that nothing overlaps.
    fn find_heap(&self) -> Option<Range<usize>> {
        self.ram.iter().find_map(|bank| {
            let mut end = bank.end & !0xfff;
            loop {
                let start = end.checked_sub(HEAP_BYTES)?;
                if start < bank.start {
                    return None;
                }
                match self.used().find(|used| used.start < end && start < used.end) {
                    Some(used) => end = used.start & !0xfff,
                    None => return Some(start..end),
                }
            }
        })
    }

    /// All frames of RAM, whoever uses them.
    pub(super) fn frames_of_ram(&self) -> Vec<Run> {
        let run = |bank: Range<usize>| {
            let first = bank.start.next_multiple_of(4096) as u64 >> 12;
            Run { pfn: first, count: (bank.end as u64 >> 12).saturating_sub(first) }
        };
        self.ram.iter().map(run).collect()
    }

    /// The frames that nothing uses.
    pub(super) fn free_frames(&self) -> FreeFrames {
        let mut frames = FreeFrames::default();
        self.frames_of_ram().into_iter().for_each(|run| frames.give(run));
        let used: Vec<_> = self.used().collect();
        for range in used {
            let first = range.start as u64 >> 12;
            let end = range.end.next_multiple_of(4096) as u64 >> 12;
            frames.remove(Run { pfn: first, count: end - first });
        }
        frames
    }

    /// The ramdisk's bytes, once: the disk in it is handed out mutably.
    /// Empty if there is none or it was taken.
    pub(super) fn take_ramdisk(&mut self) -> &'static mut [u8] {
        let range = self.ramdisk.clone();
        if range.is_empty() || core::mem::replace(&mut self.ramdisk_taken, true) {
            return &mut [];
        }
        // SAFETY: the boot loader put the ramdisk there for this program
        // alone, `free_frames` keeps everybody else off it, and the flag
        // makes this happen once.
        unsafe { core::slice::from_raw_parts_mut(range.start as *mut u8, range.len()) }
    }
}

/// Starts the heap.
pub(super) fn give_heap(machine: &Machine) {
    // SAFETY: `find_heap` chose RAM that nothing else uses, and
    // `free_frames` leaves it out.
    unsafe { heap::add(machine.heap.start, machine.heap.end) };
}
