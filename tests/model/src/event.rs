//! What can happen to bouncer, in words that mean something in any state.
//!
//! A random number is almost never a handle, and a random frame almost never
//! a guest's. So an event names things by what they *are* ("the second VM",
//! "a frame of its") and the [`crate::session`] looks up who that is now. A
//! share of garbage is mixed in by [`crate::decode`]: it must be refused.

/// A VM as a caller names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmName {
    /// The VM in this slot; the first there is, if the slot is empty.
    Slot(u8),
    /// This very number.
    Raw(u64),
}

/// A frame as the host names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameName {
    /// The first of a run of frames, as long as the call wants, that are all
    /// the host's alone; the number skips that many such places.
    Free(u8),
    /// A frame that the VM in the slot owns.
    OwnedBy(u8, u8),
    /// A frame that the VM in the slot borrows.
    LentTo(u8, u8),
    /// A frame that EL2 got for the tables of the VM in the slot.
    TableOf(u8, u8),
    /// A frame of EL2's own.
    Hyp(u8),
    /// This very number.
    Raw(u64),
}

/// An address as a guest names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IpaName {
    /// Byte `offset` of a page of its RAM.
    Ram(u8, u16),
    /// The same at the alias.
    Alias(u8, u16),
    /// Byte of a page of the bounce window of a device.
    Bounce(u8, u8, u16),
    /// Byte of the register BAR of a device, where the driver puts it.
    Registers(u8, u16),
    /// Byte of the configuration space of a device.
    Config(u8, u16),
    /// This very number.
    Raw(u64),
}

/// The host's calls (docs/abi.md), arguments named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // The names of docs/abi.md.
pub enum HostCall {
    Version,
    Features,
    VmCreate { pfn: FrameName, count: u64, ram: u64, vcpus: u64, flags: u64 },
    VmTopup { vm: VmName, pfn: FrameName, count: u64 },
    FrameDonate { vm: VmName, pfn: FrameName, gfn: u64, count: u64, flags: u64 },
    FrameShare { vm: VmName, device: u64, page: u64, pfn: FrameName, count: u64 },
    VmFinalise { vm: VmName, entry: u64, argument: u64 },
    VmMeasurement { vm: VmName, part: u64 },
    VmStop { vm: VmName },
    FrameReclaim { vm: VmName, pfn: FrameName, count: u64 },
    VmDestroy { vm: VmName },
    DeviceCreate { vm: VmName, kind: u64, policy: u64, pages: u64, queues: u64 },
    DeviceConfig { vm: VmName, device: u64, offset: u64, value: u64, bytes: u64 },
    DeviceState { vm: VmName, device: u64 },
    QueueInfo { vm: VmName, device: u64, queue: u64, part: u64 },
    DeviceInterrupt { vm: VmName, device: u64, cause: u64 },
    DeviceFail { vm: VmName, device: u64 },
    EventNext,
    Stats { vm: VmName, index: u64 },
    FrameState { pfn: FrameName },
    UartLine { vm: VmName, level: u64 },
    AbortStyle { style: u64 },
}

/// An instruction of a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Instruction {
    /// HVC with x0 to x3.
    Hvc {
        /// x0.
        function: u64,
        /// The immediate.
        immediate: u16,
        /// x1 to x3; the first is an address in most calls.
        arguments: (IpaName, u64, u64),
    },
    /// SMC with x0.
    Smc(u64),
    /// SMC of a realm: x0, an address, another so many pages on, x3 and x4.
    Realm {
        /// x0.
        function: u64,
        /// x1.
        base: IpaName,
        /// From x1 to x2.
        pages: u64,
        /// x3 and x4.
        state: (u64, u64),
    },
    /// A load to x9, or a store of x9.
    Access {
        /// Where.
        ipa: IpaName,
        /// Bytes: 1, 2, 4 or 8.
        size: u8,
        /// Store this; `None` loads.
        store: Option<u64>,
        /// Does the syndrome describe the access?
        described: bool,
    },
    /// MRS to x9, or MSR of x9.
    SystemRegister {
        /// op0, op1, CRn, CRm, op2.
        encoding: (u8, u8, u8, u8, u8),
        /// Write this; `None` reads.
        write: Option<u64>,
    },
    /// WFI.
    Wait,
    /// A physical interrupt arrives.
    Interrupt,
    /// Any synchronous exception, by its syndrome.
    Syndrome(u64),
}

/// What happens on a CPU that runs a vCPU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// The guest executes.
    Guest(Instruction),
    /// Before it does, the host acts on another CPU.
    Meanwhile(u8, HostAction),
}

/// What the host does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HostAction {
    /// A hypercall.
    Call(HostCall),
    /// VCPU_RUN, and what happens until it returns.
    Run {
        /// Whose vCPU.
        vm: VmName,
        /// Which.
        vcpu: u64,
        /// The MMIO reply.
        reply: u64,
        /// What happens meanwhile; then comes an interrupt.
        steps: Vec<Step>,
    },
    /// An HVC with any registers at all.
    Hvc(u64, u16, [u64; 5]),
    /// An SMC.
    Smc(u64, u16, [u64; 3]),
    /// A load or store of this byte of a frame.
    Access(FrameName, u16, bool),
    /// MRS or MSR of a register that traps: op0, op1, CRn, CRm, op2, read.
    SystemRegister(u8, u8, u8, u8, u8, bool),
}

/// One event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The host acts on a CPU.
    Host(u8, HostAction),
    /// From now on EL2 can (not) map more frames: its tables are exhausted.
    AllocationFails(bool),
    /// In the next trap of the host that allocates, the heap gives this many
    /// allocations and no more, if the program has
    /// [`crate::heap::FailingHeap`].
    HeapFails(u64),
    /// The timer line of whichever guest is loaded next.
    Timer(bool),
}
