//! A PCIe function that does DMA wherever it is told to: QEMU's `edu`
//! (docs/specs/edu.rst there).
//!
//! It moves up to a page between an address and its own buffer, a tenth of a
//! second after it was told to: long enough to do something about the page in
//! between.

#![allow(unsafe_code)]

use alloc::vec::Vec;

use hyp::layout::PCI_MEM32;
use rt::mmio;

use super::clock;

/// Vendor and device in the first word of configuration space.
const EDU: u32 = 0x11e8_1234;
/// Registers of configuration space: command, first BAR.
const COMMAND: u64 = 0x04;
const BAR: u64 = 0x10;
/// Decodes memory, may do DMA.
const MEMORY_AND_MASTER: u32 = 0b110;
/// Bytes of its BAR.
const SIZE: u64 = 1 << 20;
/// What its first register reads.
pub(super) const IDENTITY: u32 = 0x0100_00ed;
/// Registers of its DMA engine, and where it has its buffer.
const SOURCE: u64 = 0x80;
const DESTINATION: u64 = 0x88;
const COUNT: u64 = 0x90;
const START: u64 = 0x98;
const BUFFER: u64 = 0x4_0000;
/// It runs; and it writes to memory.
const RUN: u64 = 1;
const TO_MEMORY: u64 = 2;
/// Longest wait for it, in milliseconds.
const PATIENCE: u64 = 20_000;

/// Which way data goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// The function reads memory.
    Read,
    /// It writes memory.
    Write,
}

/// One of them, on bus 0.
pub(super) struct Edu {
    config: u64,
    bar: u64,
    /// Its StreamID: bus, device and function.
    pub(super) stream: u32,
}

fn read(address: u64) -> u32 {
    // SAFETY: configuration space, or registers of a function of the host's.
    unsafe { mmio::read32(address as usize) }
}

fn write(address: u64, value: u32) {
    // SAFETY: as above; what the function does with memory is what is tried.
    unsafe { mmio::write32(address as usize, value) }
}

fn write_wide(address: u64, value: u64) {
    // SAFETY: as above.
    unsafe { mmio::write64(address as usize, value) }
}

impl Edu {
    /// All there are on bus 0, each with its BAR in the window for BARs.
    pub(super) fn all(ecam: u64) -> Vec<Self> {
        let mut found = Vec::new();
        for device in 0..32u32 {
            let config = ecam + (u64::from(device) << 15);
            if read(config) == EDU {
                let edu = Edu { config, bar: 0, stream: device << 3 };
                found.push(edu.at(PCI_MEM32 + found.len() as u64 * SIZE));
            }
        }
        found
    }

    /// The same with its BAR there.
    fn at(mut self, bar: u64) -> Self {
        self.bar = bar;
        self.aim_bar(bar);
        self
    }

    /// Puts its BAR anywhere, and lets it answer there.
    pub(super) fn aim_bar(&self, address: u64) {
        write(self.config + BAR, address as u32);
        write(self.config + COMMAND, MEMORY_AND_MASTER);
    }

    /// Puts its BAR back where its registers are used.
    pub(super) fn reset_bar(&self) {
        self.aim_bar(self.bar);
    }

    /// What its BAR is now.
    pub(super) fn bar_now(&self) -> u64 {
        u64::from(read(self.config + BAR) & !0xf)
    }

    /// Where its registers are.
    pub(super) fn registers(&self) -> u64 {
        self.bar
    }

    /// Its first register.
    pub(super) fn identity(&self) -> u32 {
        read(self.bar)
    }

    /// Moves `count` bytes between `address` and its buffer, soon.
    pub(super) fn start(&self, way: Way, address: u64, count: u64) {
        let (source, destination, direction) = match way {
            Way::Read => (address, BUFFER, 0),
            Way::Write => (BUFFER, address, TO_MEMORY),
        };
        write_wide(self.bar + SOURCE, source);
        write_wide(self.bar + DESTINATION, destination);
        write_wide(self.bar + COUNT, count);
        write_wide(self.bar + START, RUN | direction);
    }

    /// Has it not moved them yet?
    pub(super) fn is_busy(&self) -> bool {
        u64::from(read(self.bar + START)) & RUN != 0
    }

    /// Waits until it has; false if it never has.
    pub(super) fn finish(&self) -> bool {
        clock::spin_until(PATIENCE, || !self.is_busy())
    }

    /// Both.
    pub(super) fn transfer(&self, way: Way, address: u64, count: u64) -> bool {
        self.start(way, address, count);
        self.finish()
    }
}
