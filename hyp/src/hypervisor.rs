//! The whole of bouncer's state, its locks, and the door to it.
//!
//! Lock order: host memory → one VM → event log. Nobody holds two VMs, and
//! nobody runs a vCPU with a lock held. [`Hypervisor::with_vm`],
//! [`Hypervisor::with_memory_and_vm`] and [`Hypervisor::with_guest_memory`] are
//! the only ways to a VM, so the order can be read off them.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::abi;
use crate::addr::{Pfn, PfnRange};
use crate::entropy::{self, Entropy};
use crate::error::Error;
use crate::event::{Event, EventKind, EventLog};
use crate::host::abort::AbortStyle;
use crate::host::power::HostPower;
use crate::machine::{Cause, Machine, Regime, Vmid};
use crate::memory::{BootMemory, Counts, FrameEntry, GuestId, GuestMemory, HostMemory, Owner};
use crate::stats::{MachineCounter, MachineStats};
use crate::sync::Mutex;
use crate::trap::Trap;
use crate::vcpu::state::Frame;
use crate::vm::{Handle, Vm};

/// What the policy must know about the board, beyond its memory.
#[derive(Clone, Debug)]
pub struct HostPlatform {
    /// The RD_base frames of the physical redistributors, 64 KiB each, which
    /// the host reaches only through the filter of `host::redistributor`.
    pub redistributors: [Option<PfnRange>; crate::machine::MAX_CPUS],
}

/// Most refused accesses of devices that one call takes over from the IOMMU.
const DMA_FAULTS: usize = 16;

/// A VM's slot. The generation makes handles of former VMs invalid.
struct Slot {
    generation: u32,
    /// Empty or the one VM; a vector so that its place is reserved fallibly.
    vm: Vec<Vm>,
}

/// bouncer.
pub struct Hypervisor<M> {
    pub(crate) machine: M,
    pub(crate) platform: HostPlatform,
    memory: Mutex<HostMemory<'static>>,
    slots: [Mutex<Slot>; abi::MAX_VMS],
    /// How often each slot has been locked to change its VM.
    changes: [AtomicU32; abi::MAX_VMS],
    events: Mutex<EventLog>,
    entropy: Mutex<Option<Entropy>>,
    /// The machine is about to stop: no VM comes to be. Changes under host
    /// memory's lock.
    ending: AtomicBool,
    pub(crate) power: HostPower,
    pub(crate) abort_style: AbortStyle,
    pub(crate) stats: MachineStats,
    #[cfg(feature = "oracle")]
    pub(crate) oracle: crate::oracle::watch::Watch,
}

impl<M: Machine> Hypervisor<M> {
    /// Takes the machine over: builds the frame table and the host's stage 2.
    ///
    /// # Errors
    /// Whatever [`HostMemory::new`] finds wrong with the memory map.
    pub fn new(
        machine: M,
        frames: &'static mut [FrameEntry],
        boot: &BootMemory<'_>,
        platform: HostPlatform,
    ) -> Result<Self, Error> {
        let memory = HostMemory::new(&machine, frames, boot)?;
        Ok(Self::with_memory_of(machine, platform, memory))
    }

    /// bouncer at the moment when it has taken the memory over.
    fn with_memory_of(machine: M, platform: HostPlatform, memory: HostMemory<'static>) -> Self {
        Self {
            #[cfg(feature = "oracle")]
            oracle: crate::oracle::watch::Watch::new(&memory),
            machine,
            platform,
            memory: Mutex::new(memory),
            slots: [const { Mutex::new(Slot { generation: 0, vm: Vec::new() }) }; abi::MAX_VMS],
            changes: [const { AtomicU32::new(0) }; abi::MAX_VMS],
            events: Mutex::new(EventLog::new()),
            entropy: Mutex::new(None),
            ending: AtomicBool::new(false),
            power: HostPower::new(),
            abort_style: AbortStyle::new(),
            stats: MachineStats::new(),
        }
    }

    /// A copy of the frame table and of what belongs to it, in `frames`: just
    /// after boot, what [`Self::boot_again`] needs.
    #[cfg(any(test, feature = "sim"))]
    pub fn copy_memory(&self, frames: &'static mut [FrameEntry]) -> HostMemory<'static> {
        self.memory.lock().copy_to(frames)
    }

    /// bouncer as it was just after boot, on the same machine, whose tables
    /// must have been put back to what they were when `booted` was copied.
    #[cfg(any(test, feature = "sim"))]
    pub fn boot_again(self, booted: &HostMemory<'_>) -> Self {
        let memory = booted.copy_to(self.memory.into_inner().into_entries());
        Self::with_memory_of(self.machine, self.platform, memory)
    }

    /// The memory of the frame table, for the next machine: this one is over.
    #[cfg(any(test, feature = "sim"))]
    pub fn into_frame_table(self) -> &'static mut [FrameEntry] {
        self.memory.into_inner().into_entries()
    }

    /// The machine.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// The regime the host runs in.
    pub fn host_regime(&self) -> Regime {
        self.memory.lock().regime()
    }

    /// This CPU enters the host for the first time since it was switched on:
    /// from now on it is on, for all who ask.
    pub fn host_cpu_arrives(&self) {
        self.power.arrives(self.machine.cpu());
    }

    /// The root of the table that the host's devices translate by, if an IOMMU
    /// translates for them.
    pub fn dma_root(&self) -> Option<Pfn> {
        self.memory.lock().dma_root()
    }

    /// Handles one trap of the host on this CPU; afterwards `frame` is where
    /// the host goes on.
    pub fn handle_host_trap(&self, frame: &mut Frame, trap: Trap) {
        #[cfg(feature = "oracle")]
        let scope = crate::oracle::watch::Scope::of(frame, &trap);
        let cause = Cause::of(Vmid::HOST, &trap, frame.get(0));
        crate::host::handle(self, frame, trap);
        self.note_quiet(cause);
        #[cfg(feature = "oracle")]
        self.check_rules(scope.after(frame));
    }

    /// The end of a trap, of the host or of a guest, for those who keep a
    /// trace.
    pub(crate) fn note_quiet(&self, cause: Cause) {
        #[cfg(feature = "trace")]
        self.with_memory(|_| self.machine.quiet(cause));
        #[cfg(not(feature = "trace"))]
        let _ = cause;
    }

    /// Calls `act` with the host memory locked.
    pub(crate) fn with_memory<R>(&self, act: impl FnOnce(&mut HostMemory<'static>) -> R) -> R {
        act(&mut self.memory.lock())
    }

    /// Calls `act` with the VM that `handle` names locked, and counts that as
    /// a change of it.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the handle names none; what `act` returns.
    pub(crate) fn with_vm<R>(
        &self,
        handle: Handle,
        act: impl FnOnce(&mut Vm) -> Result<R, Error>,
    ) -> Result<R, Error> {
        self.with_slot(handle, |vm, changes| {
            // The lock orders it; readers without the lock may be late.
            changes.store(changes.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
            act(vm)
        })
    }

    /// How often the VM may have changed. A CPU without the lock may see an
    /// older number: what it must not miss, whoever made the change tells it
    /// by interrupting it.
    pub(crate) fn changes(&self, handle: Handle) -> u32 {
        let changes = handle.slot().and_then(|slot| self.changes.get(slot));
        changes.map_or(0, |changes| changes.load(Ordering::Relaxed))
    }

    /// Calls `act` with the VM locked and the count of its changes.
    ///
    /// # Errors
    /// As [`Self::with_vm`].
    pub(crate) fn with_slot<R>(
        &self,
        handle: Handle,
        act: impl FnOnce(&mut Vm, &AtomicU32) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let index = handle.slot().ok_or(Error::NotFound)?;
        let (slot, changes) =
            self.slots.get(index).zip(self.changes.get(index)).ok_or(Error::NotFound)?;
        let mut slot = slot.lock();
        let vm = slot.vm.first_mut().filter(|vm| vm.handle == handle).ok_or(Error::NotFound)?;
        act(vm, changes)
    }

    /// Calls `act` with host memory and the guest's memory locked, in this
    /// order. Nothing else of the VM can change, so it is not counted.
    ///
    /// # Errors
    /// As [`Self::with_vm`].
    pub(crate) fn with_guest_memory<R>(
        &self,
        handle: Handle,
        act: impl FnOnce(&mut HostMemory<'static>, &mut GuestMemory) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let mut memory = self.memory.lock();
        self.with_slot(handle, |vm, _| act(&mut memory, &mut vm.memory))
    }

    /// Calls `act` with each VM and its slot's number, one locked at a time.
    ///
    /// # Errors
    /// The first that `act` returns.
    #[cfg(feature = "oracle")]
    pub(crate) fn for_each_vm<E>(
        &self,
        mut act: impl FnMut(usize, &Vm) -> Result<(), E>,
    ) -> Result<(), E> {
        for (index, slot) in self.slots.iter().enumerate() {
            if let Some(vm) = slot.lock().vm.first() {
                act(index, vm)?;
            }
        }
        Ok(())
    }

    /// Calls `act` with host memory and the VM locked, in this order.
    ///
    /// # Errors
    /// As [`Self::with_vm`].
    pub(crate) fn with_memory_and_vm<R>(
        &self,
        handle: Handle,
        act: impl FnOnce(&mut HostMemory<'static>, &mut Vm) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let mut memory = self.memory.lock();
        self.with_vm(handle, |vm| act(&mut memory, vm))
    }

    /// Puts the VM that `build` makes into a free slot. `build` gets the slot
    /// number and the handle, with host memory locked.
    ///
    /// # Errors
    /// [`Error::NoMemory`] if every slot is taken or the heap is exhausted;
    /// [`Error::BadState`] if the machine is about to stop; what `build`
    /// returns. Nothing has changed then.
    pub(crate) fn create_vm(
        &self,
        build: impl FnOnce(&mut HostMemory<'static>, usize, Handle) -> Result<Vm, Error>,
    ) -> Result<Handle, Error> {
        let mut memory = self.memory.lock();
        if self.ending.load(Ordering::Relaxed) {
            return Err(Error::BadState);
        }
        for (index, slot) in self.slots.iter().enumerate() {
            let mut slot = slot.lock();
            if !slot.vm.is_empty() {
                continue;
            }
            // The place first: what is built must have somewhere to go. It
            // becomes the slot's when it is taken, so that a call that is
            // refused keeps nothing of the heap.
            let mut place = Vec::new();
            place.try_reserve_exact(1).map_err(|_| Error::NoMemory)?;
            let generation = slot.generation.wrapping_add(1);
            let handle = Handle::new(index, generation);
            place.push(build(&mut memory, index, handle)?);
            slot.generation = generation;
            slot.vm = place;
            return Ok(handle);
        }
        Err(Error::NoMemory)
    }

    /// Ends every VM at once and for good, for power-off and reset: none comes
    /// to be, none enters again, and those that run lose their memory under
    /// their feet. So each of them traps at its next instruction, finds its VM
    /// dying, and comes home.
    pub(crate) fn end_all(&self) {
        let mut memory = self.memory.lock();
        self.ending.store(true, Ordering::Relaxed);
        for (slot, changes) in self.slots.iter().zip(&self.changes) {
            if let Some(vm) = slot.lock().vm.first_mut() {
                changes.fetch_add(1, Ordering::Relaxed);
                vm.begin_dying(&self.machine);
                vm.memory.begin_dying(&self.machine, &mut memory);
            }
        }
    }

    /// Is a vCPU of any VM on a CPU, with its registers in hardware or in the
    /// hands of whoever runs it?
    pub(crate) fn any_vcpu_runs(&self) -> bool {
        self.slots
            .iter()
            .any(|slot| slot.lock().vm.first().is_some_and(|vm| vm.vcpus.any_running()))
    }

    /// Removes a VM whose last frame is gone, with host memory locked.
    ///
    /// # Errors
    /// As [`Self::with_vm`].
    pub(crate) fn destroy_vm(
        &self,
        handle: Handle,
        act: impl FnOnce(&mut HostMemory<'static>, &mut Vm) -> Result<u64, Error>,
    ) -> Result<u64, Error> {
        let mut memory = self.memory.lock();
        let slot = handle.slot().and_then(|slot| self.slots.get(slot)).ok_or(Error::NotFound)?;
        let mut slot = slot.lock();
        let vm = slot.vm.first_mut().filter(|vm| vm.handle == handle).ok_or(Error::NotFound)?;
        let left = act(&mut memory, vm)?;
        if left == 0 {
            slot.vm = Vec::new();
        }
        Ok(left)
    }

    /// Gives guests random numbers from now on.
    pub fn set_entropy(&self, entropy: Entropy) {
        *self.entropy.lock() = Some(entropy);
    }

    /// Are there random numbers for guests?
    pub(crate) fn has_entropy(&self) -> bool {
        self.entropy.lock().is_some()
    }

    /// Random bytes; zeros if there are none.
    pub(crate) fn random(&self) -> [u8; entropy::SIZE] {
        let time = self.machine.counter();
        self.entropy.lock().as_mut().map_or([0; entropy::SIZE], |entropy| entropy.answer(time))
    }

    /// Records a refusal.
    pub(crate) fn record(&self, kind: EventKind, owner: u8, trap: &Trap, address: u64, pc: u64) {
        self.events.lock().push(Event {
            kind,
            cpu: self.machine.cpu(),
            owner,
            syndrome: trap.esr as u32,
            address,
            pc,
        });
    }

    /// The oldest event the host has not read, after what the IOMMU has refused
    /// meanwhile has come into the log.
    pub fn next_event(&self) -> Option<Event> {
        for _ in 0..DMA_FAULTS {
            let Some(fault) = self.machine.next_dma_fault() else { break };
            let frame = Pfn::containing(fault.address);
            let owner = frame.map_or(Owner::None, |frame| {
                self.with_memory(|memory| memory.entry(frame).owner())
            });
            self.events.lock().push(Event {
                kind: EventKind::HostDma,
                cpu: self.machine.cpu(),
                owner: owner.code(),
                syndrome: fault.stream,
                address: fault.address,
                pc: u64::from(fault.event) | u64::from(fault.write) << 8,
            });
        }
        self.events.lock().pop()
    }

    fn frames_of_guests(&self, count: impl Fn(&Counts, Owner) -> u64) -> u64 {
        let guests = (0..abi::MAX_VMS).filter_map(GuestId::new).map(Owner::Guest);
        self.with_memory(|memory| guests.map(|guest| count(memory.counts(), guest)).sum())
    }

    /// Value of a machine counter.
    pub(crate) fn machine_counter(&self, counter: MachineCounter) -> u64 {
        use MachineCounter as C;
        match counter {
            C::EventsDropped => self.events.lock().dropped(),
            C::FramesHyp => self.with_memory(|memory| memory.counts().owned(Owner::Hyp)),
            C::FramesHost => self.with_memory(|memory| memory.counts().owned(Owner::Host)),
            C::FramesFirmware => self.with_memory(|memory| memory.counts().owned(Owner::Firmware)),
            C::FramesGuest => self.frames_of_guests(Counts::owned),
            C::FramesShared => {
                let by_host = self.with_memory(|memory| memory.counts().borrowed(Owner::Host));
                by_host + self.frames_of_guests(Counts::borrowed)
            }
            C::Heap => self.machine.heap_used(),
            C::Invalidations => self.machine.work().invalidations,
            C::TableWords => self.machine.work().table_words,
            C::Entries => self.machine.work().entries,
            C::TicksEl2 => self.machine.work().ticks_el2,
            C::TicksHost => self.machine.work().ticks_host,
            C::TicksGuests => self.machine.work().ticks_guests,
            other => self.stats.get(other),
        }
    }
}
