//! Counters: what it cost, by cause. Read with the STATS call.

use core::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident { $($(#[$what:meta])* $variant:ident = $label:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $name { $($(#[$what])* $variant,)+ }

        impl $name {
            /// Every counter, in the order of the STATS index.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The counter's name in reports.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $label,)+ }
            }
        }
    };
}

counters! {
    /// Counters of one VM (STATS with its handle).
    VmCounter {
        /// Entries into the guest.
        Entries = "entries",
        /// Traps: hypercalls.
        Hypercalls = "exits_hypercall",
        /// Traps: device registers that EL2 emulates.
        MmioEmulated = "exits_mmio_el2",
        /// Traps: MMIO that the host serves.
        MmioHost = "exits_mmio_host",
        /// Traps: WFI and WFE.
        Waits = "exits_wfi",
        /// Traps: physical interrupts.
        Interrupts = "exits_interrupt",
        /// Traps: system registers.
        SystemRegisters = "exits_sysreg",
        /// Traps: first touches of RAM or of the bounce window.
        MemoryFaults = "exits_memory_fault",
        /// Exceptions injected: the guest reached for what is not there.
        Injected = "exits_refused",
        /// Queue notifications passed to the host.
        Notifications = "notifications",
        /// Returns to the host.
        HostReturns = "returns_to_host",
        /// Device interrupts given to the guest.
        DeviceInterrupts = "device_interrupts",
        /// Device interrupts refused.
        RefusedInterrupts = "device_interrupts_refused",
        /// Pages shared by the guest, over all calls.
        PagesShared = "pages_shared",
        /// Pages unshared.
        PagesUnshared = "pages_unshared",
        /// Bytes that were not zero in pages of a realm at the moment it
        /// shared them. A bouncer with its oracle looks; others count none.
        SharedResidue = "bytes_shared_not_zero",
        /// Refreshes of a device's window.
        Refreshes = "refreshes",
        /// Pages that refreshes mapped for a device, over all calls.
        PagesMapped = "pages_mapped",
        /// Pages that they unmapped.
        PagesUnmapped = "pages_unmapped",
        /// Pages that they left out for want of budget.
        PagesLeftOut = "pages_left_out",
    }
}

counters! {
    /// Counters of the machine (STATS with handle 0).
    MachineCounter {
        /// Host traps: hypercalls.
        HostHypercalls = "host_hypercalls",
        /// Host hypercalls that ended in an error.
        HostHypercallErrors = "host_hypercalls_refused",
        /// Host traps: SMCs.
        HostSmcs = "host_smcs",
        /// Host traps: aborts that were refused.
        HostAborts = "host_aborts_refused",
        /// Host traps: aborts that another CPU's change explains.
        HostRetries = "host_aborts_retried",
        /// Host traps: system registers.
        HostSystemRegisters = "host_sysregs",
        /// Host traps: redistributor registers.
        HostRedistributor = "host_redistributor",
        /// Events lost to a full log.
        EventsDropped = "events_dropped",
        /// Frames that EL2 owns, now.
        FramesHyp = "frames_el2",
        /// Frames that the host owns, now.
        FramesHost = "frames_host",
        /// Frames that guests own, now.
        FramesGuest = "frames_guest",
        /// Frames shared between two parties, now.
        FramesShared = "frames_shared",
        /// Bytes of EL2's heap that are in use, now.
        Heap = "heap_el2",
        /// Frames that firmware keeps: nobody's.
        FramesFirmware = "frames_firmware",
        /// TLB invalidations, each of a range or of a whole VMID.
        Invalidations = "tlb_invalidations",
        /// Words written to stage-2 tables.
        TableWords = "table_words_written",
        /// Times that a world trapped into EL2; 0 unless EL2 is built to
        /// measure itself, as the three below.
        Entries = "el2_entries",
        /// Ticks of the counter that were EL2's.
        TicksEl2 = "ticks_el2",
        /// The host's.
        TicksHost = "ticks_host",
        /// The guests'.
        TicksGuests = "ticks_guests",
    }
}

/// The machine's running counters. Those of what is now, which are read where
/// it is, stay zero here.
#[derive(Debug)]
pub(crate) struct MachineStats([AtomicU64; MachineCounter::ALL.len()]);

impl MachineStats {
    pub(crate) const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; MachineCounter::ALL.len()])
    }

    pub(crate) fn count(&self, counter: MachineCounter) {
        if let Some(value) = self.0.get(counter as usize) {
            value.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn get(&self, counter: MachineCounter) -> u64 {
        self.0.get(counter as usize).map_or(0, |value| value.load(Ordering::Relaxed))
    }
}

/// A VM's counters, under its lock.
#[derive(Debug, Default)]
pub(crate) struct VmStats([u64; VmCounter::ALL.len()]);

impl VmStats {
    pub(crate) fn add(&mut self, counter: VmCounter, amount: u64) {
        if let Some(value) = self.0.get_mut(counter as usize) {
            *value = value.wrapping_add(amount);
        }
    }

    /// Adds what was counted elsewhere, without the lock.
    pub(crate) fn merge(&mut self, other: &VmStats) {
        for (value, more) in self.0.iter_mut().zip(other.0) {
            *value = value.wrapping_add(more);
        }
    }

    pub(crate) fn get(&self, index: u64) -> Option<u64> {
        self.0.get(usize::try_from(index).ok()?).copied()
    }
}
