//! The SMMU: what the host's devices may reach goes through it.
//!
//! Boot looks whether it can do what is asked of it ([`find`]); [`Smmu::start`]
//! puts it in force before the host runs. From then on two things are done with
//! it: commands that make it forget translations, and events that it has
//! recorded. Stream table and queues are EL2's memory, its registers are mapped
//! for EL2 alone. What its words mean is `platform::smmu`'s.
//!
//! A command that does not end stops the machine. It comes in the middle of a
//! transition: the host's CPUs have lost a frame, a device may still have it,
//! and neither going on nor going back would be true. Nothing that a host or a
//! guest can do leads there: commands are only read and completed by the SMMU.
#![allow(unsafe_code)]

use crate::mmu::{self, Stage1};
use crate::{gic, panic, sysreg};
use core::sync::atomic::Ordering;
use hyp::addr::{FRAME_SIZE, Pfn, PfnRange};
use hyp::error::Error;
use hyp::machine::DmaFault;
use hyp::memory::WINDOWS;
use hyp::sync::Mutex;
use log::{info, warn};
use platform::parse::Tree;
use platform::smmu::{self, Command, Identification, register};
use platform::{BootInfo, ByteRange};

/// Milliseconds that a register or a command may take. QEMU needs none.
const PATIENCE: u64 = 1000;
/// Ranges of more frames are not invalidated one by one.
const FEW_FRAMES: u64 = 16;

/// Bytes of the entries of all streams, all alike, so that all buses have one
/// table; aligned to their size.
const STREAMS: u64 = smmu::STREAMS_PER_BUS * smmu::STREAM_WORDS * 8;
/// Bytes of its memory: the streams, wherever they are aligned, the first
/// level, both queues.
pub(crate) const MEMORY: u64 = 2 * STREAMS - FRAME_SIZE + 3 * FRAME_SIZE;

/// Looks for an SMMU that can guard the host's PCIe, and says if there is one
/// that cannot. Early map only.
pub(crate) fn find(tree: Tree<'_>, info: &BootInfo) -> Option<smmu::Smmu> {
    let found = smmu::find(tree, info, WINDOWS.base()).and_then(|found| {
        let Some(found) = found else { return Ok(None) };
        let at = found.registers.start();
        // SAFETY: the first GiB is mapped as devices, and the tree says that the
        // SMMU is there; identification has no side effects.
        let read = |register| unsafe { gic::read(at + register, 4) } as u32;
        let [idr0, idr1, idr5] = [register::IDR0, register::IDR1, register::IDR5].map(read);
        let identification = Identification { idr0, idr1, idr5 };
        identification.check(found.bridge.last_bus).map(|()| Some(found))
    });
    match found {
        Ok(found) => {
            if let Some(found) = &found {
                let at = found.registers.start();
                info!("the SMMU at {at:#x} guards PCIe: the host has it");
            }
            found
        }
        Err(unfit) => {
            warn!("the host has no PCIe, because the SMMU cannot guard it: {unfit}");
            None
        }
    }
}

/// The SMMU, in force.
pub(crate) struct Smmu {
    registers: u64,
    commands: u64,
    events: u64,
    queues: Mutex<Queues>,
}

/// Indices with the wrap bit above.
struct Queues {
    /// Where the next command goes.
    command: u32,
    /// Where the next event is.
    event: u32,
}

/// It did not do something in time: what.
#[derive(Debug)]
pub(crate) struct Silent(pub(crate) &'static str);

/// Maps the registers, for EL2.
///
/// # Errors
/// [`Error::NoMemory`].
pub(crate) fn map(stage1: &Stage1, found: &smmu::Smmu) -> Result<(), Error> {
    stage1.map_at_boot(found.registers, mmu::DEVICE_DATA)
}

impl Smmu {
    /// Puts it in force: whatever comes from a stream of buses 0 to `last_bus`
    /// is translated by the table at `root`, whatever comes from elsewhere is
    /// aborted, and so is everything until then.
    ///
    /// # Errors
    /// [`Silent`] if it does not do as it is told.
    pub(crate) fn start(
        registers: ByteRange,
        memory: ByteRange,
        last_bus: u8,
        root: Pfn,
    ) -> Result<Self, Silent> {
        let streams = memory.start().next_multiple_of(STREAMS);
        let first_level = streams + STREAMS;
        let commands = first_level + FRAME_SIZE;
        let events = commands + FRAME_SIZE;
        let queues = Mutex::new(Queues { command: 0, event: 0 });
        let it = Self { registers: registers.start(), commands, events, queues };

        let gbpa = it.read(register::GBPA) & !smmu::GBPA_UPDATE | smmu::GBPA_ABORT;
        it.wait("GBPA", || it.read(register::GBPA) & smmu::GBPA_UPDATE == 0)?;
        it.write(register::GBPA, gbpa | smmu::GBPA_UPDATE);
        it.wait("GBPA", || it.read(register::GBPA) & smmu::GBPA_UPDATE == 0)?;
        // A loader may have had it on.
        it.control(0)?;
        it.write(register::IRQ_CTRL, 0);
        it.wait("IRQ_CTRL", || it.read(register::IRQ_CTRLACK) == 0)?;
        it.write(register::GERRORN, it.read(register::GERROR));
        it.write(register::CR1, smmu::CR1);
        it.write(register::CR2, smmu::CR2);

        for index in 0..smmu::STREAMS_PER_BUS {
            for (word, value) in smmu::stream(root.base()).into_iter().enumerate() {
                let at = streams + (index * smmu::STREAM_WORDS) * 8;
                store(at, word as u64, value);
            }
        }
        for bus in 0..1u64 << smmu::first_level_bits() {
            let known = bus <= u64::from(last_bus);
            store(first_level, bus, if known { smmu::first_level(streams) } else { 0 });
        }
        let identification = Identification {
            idr0: it.read(register::IDR0),
            idr1: it.read(register::IDR1),
            idr5: it.read(register::IDR5),
        };
        it.write_wide(register::STRTAB_BASE, first_level | smmu::ALLOCATE);
        it.write(register::STRTAB_BASE_CFG, identification.stream_table());
        it.write_wide(
            register::CMDQ_BASE,
            commands | smmu::ALLOCATE | u64::from(smmu::COMMAND_BITS),
        );
        it.write(register::CMDQ_PROD, 0);
        it.write(register::CMDQ_CONS, 0);
        it.write_wide(
            register::EVENTQ_BASE,
            events | smmu::ALLOCATE | u64::from(smmu::EVENT_BITS),
        );
        it.write(register::EVENTQ_PROD, 0);
        it.write(register::EVENTQ_CONS, 0);
        sysreg::dsb_sy();

        it.control(smmu::CMDQEN)?;
        it.issue(Command::ForgetStreams)?;
        it.issue(Command::ForgetAll)?;
        it.complete()?;
        it.control(smmu::CMDQEN | smmu::EVENTQEN)?;
        it.control(smmu::CMDQEN | smmu::EVENTQEN | smmu::SMMUEN)?;
        Ok(it)
    }

    /// See `Machine::invalidate_dma`.
    pub(crate) fn invalidate(&self, frames: PfnRange) {
        let mut frames_or_all = match frames.count() {
            0..=FEW_FRAMES => Ok(frames.iter()),
            _ => Err(Some(Command::ForgetHost)),
        };
        let commands = core::iter::from_fn(|| match &mut frames_or_all {
            Ok(frames) => frames.next().map(|frame| Command::ForgetPage(frame.base())),
            Err(all) => all.take(),
        });
        for command in commands {
            self.issue(command).unwrap_or_else(|silent| silent.stop());
        }
    }

    /// See `Machine::sync_dma`.
    pub(crate) fn sync(&self) {
        self.complete().unwrap_or_else(|silent| silent.stop());
    }

    /// See `Machine::next_dma_fault`.
    pub(crate) fn next_fault(&self) -> Option<DmaFault> {
        const INDEX: u32 = (1 << smmu::EVENT_BITS) - 1;
        /// Index and wrap bit.
        const PLACE: u32 = INDEX << 1 | 1;
        /// The queue was full and events were lost; EL2 knows it.
        const OVERFLOW: u32 = 1 << 31;
        let mut queues = self.queues.lock();
        let produced = self.read(register::EVENTQ_PROD);
        if produced & PLACE == queues.event {
            return None;
        }
        // The record is written before the index is.
        sysreg::dsb_sy();
        let at = self.events + u64::from(queues.event & INDEX) * smmu::EVENT_WORDS * 8;
        let fault = smmu::fault([0, 1, 2, 3].map(|word| load(at, word)));
        queues.event = (queues.event + 1) & PLACE;
        sysreg::dsb_sy();
        self.write(register::EVENTQ_CONS, queues.event | produced & OVERFLOW);
        let smmu::Fault { stream, event, write, address } = fault;
        Some(DmaFault { stream, event, write, address })
    }

    /// Puts a command into the queue.
    fn issue(&self, command: Command) -> Result<(), Silent> {
        self.issue_to(&mut self.queues.lock(), command)
    }

    fn issue_to(&self, queues: &mut Queues, command: Command) -> Result<(), Silent> {
        const SIZE: u32 = 1 << smmu::COMMAND_BITS;
        let full = |next: u32| next ^ SIZE;
        self.wait("room for a command", || self.consumed() != full(queues.command))?;
        let index = queues.command & (SIZE - 1);
        let at = self.commands + u64::from(index) * smmu::COMMAND_WORDS * 8;
        for (word, value) in (0..).zip(command.words()) {
            store(at, word, value);
        }
        queues.command = (queues.command + 1) & (2 * SIZE - 1);
        // The command, and the words of tables before it.
        sysreg::dsb_sy();
        self.write(register::CMDQ_PROD, queues.command);
        Ok(())
    }

    /// Waits until all commands are complete.
    fn complete(&self) -> Result<(), Silent> {
        // Nobody adds more meanwhile: the SYNC is the last.
        let mut queues = self.queues.lock();
        self.issue_to(&mut queues, Command::Sync)?;
        self.wait("the end of its commands", || self.consumed() == queues.command)?;
        match (self.read(register::GERROR) ^ self.read(register::GERRORN)) & smmu::GERROR_CMDQ {
            0 => Ok(()),
            _ => Err(Silent("a command that it takes for wrong")),
        }
    }

    /// How far the SMMU has read commands, with the wrap bit.
    fn consumed(&self) -> u32 {
        const PLACE: u32 = (2 << smmu::COMMAND_BITS) - 1;
        self.read(register::CMDQ_CONS) & PLACE
    }

    fn control(&self, value: u32) -> Result<(), Silent> {
        self.write(register::CR0, value);
        self.wait("CR0", || self.read(register::CR0ACK) == value)
    }

    fn wait(&self, what: &'static str, done: impl Fn() -> bool) -> Result<(), Silent> {
        let ticks = sysreg::cntfrq_el0::read() / 1000 * PATIENCE;
        let begin = sysreg::cntpct_el0::read();
        while !done() {
            sysreg::isb();
            if sysreg::cntpct_el0::read().wrapping_sub(begin) > ticks {
                return Err(Silent(what));
            }
        }
        Ok(())
    }

    fn read(&self, register: u64) -> u32 {
        // SAFETY: mapped as device memory for EL2 alone; reading these has no
        // side effect.
        unsafe { gic::read(self.registers + register, 4) as u32 }
    }

    fn write(&self, register: u64, value: u32) {
        // SAFETY: mapped; what is written keeps the SMMU from any memory but
        // its own tables and queues, and devices from any but the table's.
        unsafe { gic::write(self.registers + register, 4, u64::from(value)) }
    }

    fn write_wide(&self, register: u64, value: u64) {
        // SAFETY: as above.
        unsafe { gic::write(self.registers + register, 8, value) }
    }
}

impl Silent {
    fn stop(self) {
        let Self(what) = self;
        panic::broken_device("the SMMU", what);
    }
}

/// Stores a word of the SMMU's memory.
fn store(at: u64, word: u64, value: u64) {
    let frame = at & !(FRAME_SIZE - 1);
    mmu::word(frame, ((at - frame) / 8 + word) as usize).store(value, Ordering::Relaxed);
}

/// Loads one.
fn load(at: u64, word: u64) -> u64 {
    let frame = at & !(FRAME_SIZE - 1);
    mmu::word(frame, ((at - frame) / 8 + word) as usize).load(Ordering::Relaxed)
}
