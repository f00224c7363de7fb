//! A driver in a process of the guest's, at EL0: it has a disk's registers and
//! one page, as Linux gives a device out by VFIO. What it may reach by the
//! CPU, its page tables decide; what it may reach by the device, the contract
//! of the device does.
//!
//! Everything in [`drive`] runs at EL0: it has no heap, no console and no
//! variables, only its stack, and may not panic.

#![allow(unsafe_code)]

use rt::mmio;
use rt::user::{self, Process, Trap};

use crate::payload::interrupts;
use crate::payload::virtio::{
    self, ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, NEXT, register,
};
use guest::contract::VERSION_1;

/// What the process wants of its kernel: x0 of its SVC.
const PARAMETER: u64 = 1;
const WAIT: u64 = 2;
/// To write its page to a file: the kernel copies it to where it does I/O.
const SAVE: u64 = 3;
const DONE: u64 = 4;

/// Where things lie in its page.
const DESCRIPTORS: u64 = 0;
const AVAIL: u64 = 0x100;
const USED: u64 = 0x200;
const HEADER: u64 = 0x300;
const STATUS: u64 = 0x310;
/// Where a sector is read to.
pub(super) const DATA: u64 = 0x400;

/// Request types (virtio 1.4, 5.2.6).
const READ: u32 = 0;
const WRITE: u32 = 1;
/// Milliseconds for a request.
const PATIENCE: u64 = 5000;

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    /// Its device served it; the first word of the sector.
    Read(u64),
    /// FEATURES_OK did not stay.
    Declined,
    /// The queue could not be enabled.
    NoQueue,
    /// The device wants to be reset.
    Stopped,
    /// The device reported an error, or nothing at all.
    Unserved,
    /// The process touched what is not its own, there.
    Fault(u64),
}

/// What it is told.
#[derive(Clone, Copy)]
pub(super) struct Job {
    /// The features it accepts.
    pub(super) features: u64,
    /// The device's address of its page.
    pub(super) page: u64,
    /// The device's address from which a sector is written first; 0: none is,
    /// and the sector is only read.
    pub(super) source: u64,
    /// The sector.
    pub(super) sector: u64,
    /// The device's address of where the kernel keeps what the process saves;
    /// 0: no use is made of it. Else a queue is made there first, by a driver
    /// that accepts nothing but VERSION_1, to write the sector.
    pub(super) saved: u64,
    /// A virtual address that it loads from before all else; 0: none.
    pub(super) peek: u64,
}

/// A disk's registers: of the common configuration and of queue 0's
/// notification. Both are in pages that the process is given.
#[derive(Clone, Copy)]
pub(super) struct Registers {
    pub(super) common: usize,
    pub(super) kick: usize,
}

/// Lets a process with these registers and this page do the job; `save` gets
/// what it saves.
pub(super) fn run(registers: Registers, page: usize, job: &Job, mut save: impl FnMut()) -> Ended {
    let mut process = Process::new(1, drive);
    let mut give = |address: usize| process.map_registers(address & !0xfff, 1) + (address & 0xfff);
    let (common, kick) = (give(registers.common), give(registers.kick));
    let memory = process.map(page, true);
    let parameters = [
        common as u64,
        kick as u64,
        memory as u64,
        job.features,
        job.page,
        job.source,
        job.sector,
        job.peek,
        job.saved,
    ];
    loop {
        match process.run() {
            Trap::Call([PARAMETER, index, ..]) => {
                let value = parameters.get(index as usize).copied();
                process.answer(value.unwrap_or_default());
            }
            Trap::Call([WAIT, ..]) => {
                interrupts::wait(1, || false);
            }
            Trap::Call([SAVE, ..]) => save(),
            Trap::Call([DONE, how, word, ..]) => return ended(how, word),
            Trap::Call(_) => process.answer(0),
            Trap::Fault { address, .. } => return Ended::Fault(address),
        }
    }
}

const HOW: [Ended; 4] = [Ended::Declined, Ended::NoQueue, Ended::Stopped, Ended::Unserved];

fn ended(how: u64, word: u64) -> Ended {
    HOW.get(how as usize).copied().unwrap_or(Ended::Read(word))
}

// ---- at EL0 --------------------------------------------------------------------

/// Numbers of [`HOW`], and of a word that was read.
const DECLINED: u64 = 0;
const NO_QUEUE: u64 = 1;
const STOPPED: u64 = 2;
const UNSERVED: u64 = 3;
const A_WORD: u64 = 4;

/// A process's whole life.
extern "C" fn drive() -> ! {
    let word = |index| user::call([PARAMETER, index, 0, 0]);
    let driver =
        Driver { common: word(0) as usize, kick: word(1) as usize, page: word(2), at: word(4) };
    let peek = word(7);
    if peek != 0 {
        // SAFETY: nothing is promised of the address: that is the point. It
        // faults, or the word is told to the kernel.
        done(A_WORD, unsafe { (peek as *const u64).read_volatile() });
    }
    let (source, sector, saved) = (word(5), word(6), word(8));
    let mut count = 0;
    if saved != 0 {
        let other = Driver { at: saved, ..driver };
        other.bring_up(VERSION_1);
        other.compose(1, WRITE, sector, source);
        user::call([SAVE, 0, 0, 0]);
        other.kick();
        // Its used ring is in a page that the process cannot see.
        for _ in 0..50 {
            user::call([WAIT, 0, 0, 0]);
        }
        if other.status() & NEEDS_RESET != 0 {
            done(STOPPED, 0);
        }
    }
    driver.bring_up(word(3));
    if source != 0 && saved == 0 {
        count += 1;
        driver.request(count, WRITE, sector, source);
    }
    driver.request(count + 1, READ, sector, driver.at + DATA);
    // SAFETY: in the page.
    done(A_WORD, unsafe { ((driver.page + DATA) as *const u64).read_volatile() })
}

fn done(how: u64, word: u64) -> ! {
    loop {
        user::call([DONE, how, word, 0]);
    }
}

/// The disk, as the process sees it.
#[derive(Clone, Copy)]
struct Driver {
    common: usize,
    kick: usize,
    /// Its page, and the device's address of it.
    page: u64,
    at: u64,
}

// SAFETY (of all accesses below): the kernel has given these registers and
// this page, and mapped nothing else: a mistake faults.
impl Driver {
    fn write8(&self, offset: usize, value: u8) {
        // SAFETY: see above.
        unsafe { mmio::write8(self.common + offset, value) }
    }

    fn write16(&self, offset: usize, value: u16) {
        // SAFETY: see above.
        unsafe { mmio::write16(self.common + offset, value) }
    }

    fn write32(&self, offset: usize, value: u32) {
        // SAFETY: see above.
        unsafe { mmio::write32(self.common + offset, value) }
    }

    fn status(&self) -> u8 {
        // SAFETY: see above.
        unsafe { mmio::read8(self.common + register::STATUS) }
    }

    fn store<T>(&self, offset: u64, value: T) {
        // SAFETY: see above.
        unsafe { ((self.page + offset) as *mut T).write_volatile(value) }
    }

    fn load16(&self, offset: u64) -> u16 {
        // SAFETY: see above.
        unsafe { ((self.page + offset) as *const u16).read_volatile() }
    }

    /// From reset to DRIVER_OK with one queue of 8.
    fn bring_up(&self, features: u64) {
        self.write8(register::STATUS, 0);
        while self.status() != 0 {
            user::call([WAIT, 0, 0, 0]);
        }
        // Rings of a queue that has not served anything.
        for word in 0..HEADER / 8 {
            self.store(8 * word, 0_u64);
        }
        self.write8(register::STATUS, ACKNOWLEDGE | DRIVER);
        for half in 0..2 {
            self.write32(register::DRIVER_FEATURE_SELECT, half);
            self.write32(register::DRIVER_FEATURE, (features >> (32 * half)) as u32);
        }
        self.write8(register::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        if self.status() & FEATURES_OK == 0 {
            done(DECLINED, 0);
        }
        self.write16(register::QUEUE_SELECT, 0);
        self.write16(register::QUEUE_SIZE, 8);
        let rings = [
            (register::QUEUE_DESC, DESCRIPTORS),
            (register::QUEUE_DRIVER, AVAIL),
            (register::QUEUE_DEVICE, USED),
        ];
        for (at, offset) in rings {
            self.write32(at, (self.at + offset) as u32);
            self.write32(at + 4, ((self.at + offset) >> 32) as u32);
        }
        self.write16(register::QUEUE_ENABLE, 1);
        // SAFETY: see above.
        let enabled = unsafe { mmio::read16(self.common + register::QUEUE_ENABLE) } == 1;
        if !enabled || self.status() & NEEDS_RESET != 0 {
            done(NO_QUEUE, 0);
        }
        self.write8(register::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    /// Writes request number `count` down, but for the kick.
    fn compose(&self, count: u16, kind: u32, sector: u64, data: u64) {
        self.store(HEADER, u64::from(kind));
        self.store(HEADER + 8, sector);
        self.store(STATUS, 0xee_u8);
        let direction = if kind == READ { virtio::WRITE } else { 0 };
        self.describe(0, self.at + HEADER, 16, NEXT, 1);
        self.describe(1, data, 512, NEXT | direction, 2);
        self.describe(2, self.at + STATUS, 1, virtio::WRITE, 0);
        self.store(AVAIL + 4 + 2 * u64::from((count - 1) & 7), 0_u16);
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        self.store(AVAIL + 2, count);
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
    }

    fn kick(&self) {
        // SAFETY: see above.
        unsafe { mmio::write16(self.kick, 0) };
    }

    /// Makes request number `count`, and returns if it was served.
    fn request(&self, count: u16, kind: u32, sector: u64, data: u64) {
        self.compose(count, kind, sector, data);
        self.kick();
        for _ in 0..PATIENCE {
            if self.load16(USED + 2) == count {
                // SAFETY: see above.
                let status = unsafe { ((self.page + STATUS) as *const u8).read_volatile() };
                if status != 0 {
                    done(UNSERVED, status.into());
                }
                return;
            }
            if self.status() & NEEDS_RESET != 0 {
                done(STOPPED, 0);
            }
            user::call([WAIT, 0, 0, 0]);
        }
        done(UNSERVED, 0)
    }

    fn describe(&self, index: u64, address: u64, length: u32, flags: u16, next: u16) {
        let at = DESCRIPTORS + 16 * index;
        self.store(at, address);
        self.store(at + 8, length);
        self.store(at + 12, flags);
        self.store(at + 14, next);
    }
}
