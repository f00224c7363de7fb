//! A guest, from creation to the last reclaimed frame.

mod build;
mod devices;
mod serial;
mod teardown;
mod voice;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use host::bouncer::{Handle, Refusal};
use host::frames::Run;
use host::measurement::Expected;
use hyp::abi;
use hyp::layout;
use spin::Mutex;

pub(super) use build::{Part, Plan, TREE_ROOM};
pub(super) use devices::{DevicePlan, FEW_PAGES};
pub(super) use serial::ALIAS;
pub(super) use voice::Shown;

use serial::Serial;
use voice::Voice;

use super::device::Device;

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

/// Lines that are kept of a guest whose lines are not shown.
const KEPT: usize = 32;

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

/// Where what is typed goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Input {
    /// To its UART.
    Uart,
    /// To its virtio console.
    Console,
}

/// A guest.
pub(super) struct Vm {
    pub(super) handle: Handle,
    /// Its first instruction.
    entry: u64,
    /// Flags of VM_CREATE: whose calls it speaks.
    flags: u64,
    pub(super) vcpus: Vec<Vcpu>,
    /// The frames that are, or will be when touched, its RAM.
    pub(super) ram: Run,
    /// What of them was donated.
    donated: Mutex<Vec<Run>>,
    memcache: Mutex<Vec<Run>>,
    /// What bouncer must have measured, if the host works that out.
    expected: Mutex<Option<Expected>>,
    bounce: Vec<Run>,
    pub(super) devices: Vec<Mutex<Device>>,
    serial: Mutex<Serial>,
    uart_voice: Mutex<Voice>,
    console_voice: Mutex<Voice>,
    input: Input,
    shown: Shown,
    /// Lines it printed that begin with `@`; the last ones it printed if they
    /// are not shown.
    pub(super) words: Mutex<Vec<String>>,
    pub(super) ended: AtomicU8,
    /// Nobody should enter it any more.
    pub(super) stopping: AtomicBool,
}

impl Vm {
    /// The frame of guest page `gfn`, if that is in its RAM.
    pub(super) fn frame_of(&self, ipa: u64) -> Option<u64> {
        let page = (ipa >> 12).checked_sub(layout::RAM >> 12)?;
        (page < self.ram.count).then(|| self.ram.pfn + page)
    }

    fn hear(&self, voice: &Mutex<Voice>, bytes: &[u8]) {
        voice.lock().hear(bytes, |line| self.say(line));
    }

    /// The guest prints bytes on its virtio console.
    pub(super) fn hear_console(&self, bytes: &[u8]) {
        self.hear(&self.console_voice, bytes);
    }

    /// It has ended, and will not end the lines that it began.
    pub(super) fn hear_the_rest(&self) {
        for voice in [&self.uart_voice, &self.console_voice] {
            let rest = voice.lock().finish();
            if let Some(line) = rest {
                self.say(&line);
            }
        }
    }

    /// Prints a line of the guest's, and keeps it if it is meant for tests.
    /// A guest speaks only for itself: a line that looks like another party's
    /// is shown as the guest's text.
    fn say(&self, line: &str) {
        if self.shown == Shown::IfAsked {
            let mut words = self.words.lock();
            if words.len() == KEPT {
                words.remove(0);
            }
            words.push(String::from(line));
            return;
        }
        if line.starts_with("@guest ") || line.starts_with("@panic") {
            self.words.lock().push(String::from(line));
        }
        if line.starts_with("@guest ") {
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

    /// Hands the address of each page to `visit` that the host can see and that
    /// is this guest's too: bounce memory, RAM that it shared (2 is
    /// *borrowed*, of FRAME_STATE), and the first pages of a device's window.
    pub(super) fn for_each_visible_page(&self, mut visit: impl FnMut(u64)) {
        let lent = self.bounce.iter().flat_map(|run| run.pfn..run.pfn + run.count);
        lent.for_each(|pfn| visit(pfn << 12));
        for page in 0..self.ram.count {
            let pfn = self.ram.pfn + page;
            if matches!(super::calls::BOUNCER.frame_state(pfn), Ok(2)) {
                visit(pfn << 12);
            }
        }
        for device in &self.devices {
            let window = device.lock().window(self.handle);
            for address in window.into_iter().flatten().step_by(4096) {
                if rt::attempt::try_read_u64(address).is_ok() {
                    visit(address);
                }
            }
        }
    }

    /// A frame that EL2 has for its page tables.
    pub(super) fn table_frame(&self) -> Option<u64> {
        self.memcache.lock().first().map(|run| run.pfn)
    }

    /// A frame the host lent it as bounce memory.
    pub(super) fn lent_frame(&self) -> Option<u64> {
        self.bounce.first().map(|run| run.pfn)
    }

    /// Does it speak RSI?
    fn is_realm(&self) -> bool {
        self.flags & abi::CREATE_RSI != 0
    }

    /// Its measurement as bouncer tells it; `None` if that is not the digest of
    /// what it was given.
    pub(super) fn measurement(&self) -> Option<[u8; 32]> {
        let vcpus = self.vcpus.len() as u64;
        let boot = [self.entry, layout::RAM, self.ram.count, vcpus, self.flags];
        let measured = super::calls::BOUNCER.vm_measurement(self.handle).ok()?;
        match self.expected.lock().as_ref() {
            Some(expected) => (measured == expected.digest(boot)).then_some(measured),
            None => Some(measured),
        }
    }

    /// How it ended, if it did.
    pub(super) fn end(&self) -> u8 {
        self.ended.load(Ordering::Acquire)
    }
}
