//! A virtio block device driven by hand, without any of the care a driver
//! takes: what the hostile driver writes its nonsense with.

#![allow(unsafe_code)]

use super::interrupts;
use super::pci::{Bus, Ecam, Function};
use super::virtio::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, register};
pub(crate) use super::virtio::{INDIRECT, INDIRECT_DESC, NEEDS_RESET, NEXT, WRITE};
use guest::contract;
use rt::mmio;
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};

/// Entries of its queue.
pub(crate) const SIZE: u16 = 8;
/// Where things lie in the window; not in its first page.
pub(crate) const DESCRIPTORS: u64 = 0x1000;
pub(crate) const AVAIL: u64 = 0x2000;
pub(crate) const USED: u64 = 0x3000;
pub(crate) const HEADER: u64 = 0x4000;
pub(crate) const STATUS: u64 = 0x4100;
pub(crate) const TABLE: u64 = 0x4200;
pub(crate) const DATA: u64 = 0x5000;
/// Bytes of it that are used.
const USED_BYTES: usize = 0x6000;

/// The PCI command register, and its bus-master bit (PCI Local Bus 3.0, 6.2.2).
const COMMAND: u8 = 4;
const BUS_MASTER: u32 = 4;

/// The status byte of a request that nobody has answered.
pub(crate) const UNWRITTEN: u8 = 0xee;

/// One descriptor: address, length, flags, next.
pub(crate) type Descriptor = (u64, u32, u16, u16);

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// It was used; the request's status byte.
    Served(u8),
    /// The device wants to be reset.
    Stopped,
    /// Nothing happened.
    Silent,
}

/// The device, its registers and its window.
pub(crate) struct RawDevice {
    ecam: Ecam,
    function: DeviceFunction,
    common: usize,
    kick: usize,
    multiplier: usize,
    /// Where the CPU finds its window.
    pub(crate) window: u64,
    /// The device's name for the window's first byte, and for what is behind
    /// its last.
    first: u64,
    pub(crate) window_end: u64,
}

impl RawDevice {
    /// The function's registers, if they are where they should be and it
    /// brings its memory.
    pub(crate) fn new(bus: &Bus, function: &Function) -> Option<Self> {
        let capabilities = &function.capabilities;
        capabilities.check(|bar| function.bar_size(bar)).ok()?;
        let memory = super::device::device_memory(function);
        let region = capabilities.bounce.or(memory)?;
        let window = function.address(region)?;
        let first = if memory.is_some() { 0 } else { window };
        Self::over(bus, function, (window, first), region.length)
    }

    /// The same, in pages of the guest's own, shared or behind a table: `length`
    /// bytes that the CPU finds at the first address and the device at the second.
    ///
    /// # Safety
    /// They must be mapped, used by nothing else, and six pages at least.
    pub(crate) unsafe fn in_pages(
        bus: &Bus,
        function: &Function,
        places: (u64, u64),
        length: u64,
    ) -> Option<Self> {
        function.capabilities.check(|bar| function.bar_size(bar)).ok()?;
        Self::over(bus, function, places, length)
    }

    fn over(
        bus: &Bus,
        function: &Function,
        (window, first): (u64, u64),
        length: u64,
    ) -> Option<Self> {
        let capabilities = &function.capabilities;
        Some(Self {
            ecam: bus.ecam,
            function: function.at,
            common: function.address(capabilities.common?)? as usize,
            kick: function.address(capabilities.notify?)? as usize,
            multiplier: bus.ecam.read_word(function.at, notify_at(bus, function)? + 16) as usize,
            window,
            first,
            window_end: first + length,
        })
    }

    // SAFETY (of all accesses below): the 64 bytes of common configuration and
    // the notification register lie in their BARs, as `new` checked; the
    // window is the device's and no driver is open on it.

    pub(crate) fn write8(&self, offset: usize, value: u8) {
        // SAFETY: see above.
        unsafe { mmio::write8(self.common + offset, value) }
    }

    pub(crate) fn write16(&self, offset: usize, value: u16) {
        // SAFETY: see above.
        unsafe { mmio::write16(self.common + offset, value) }
    }

    pub(crate) fn read16(&self, offset: usize) -> u16 {
        // SAFETY: see above.
        unsafe { mmio::read16(self.common + offset) }
    }

    fn write64(&self, offset: usize, value: u64) {
        // SAFETY: see above.
        unsafe {
            mmio::write32(self.common + offset, value as u32);
            mmio::write32(self.common + offset + 4, (value >> 32) as u32);
        }
    }

    pub(crate) fn status(&self) -> u8 {
        // SAFETY: see above.
        unsafe { mmio::read8(self.common + register::STATUS) }
    }

    /// The device's address of a place in the window.
    pub(crate) fn at(&self, offset: u64) -> u64 {
        self.first + offset
    }

    /// What it would be under the other policy: an offset where addresses are
    /// wanted, an address where offsets are.
    pub(crate) fn misnamed(&self, offset: u64) -> u64 {
        if self.by_offset() { self.window + offset } else { offset }
    }

    /// Are places in the window named by their offsets?
    pub(crate) fn by_offset(&self) -> bool {
        self.first == 0
    }

    /// The CPU's.
    fn here(&self, offset: u64) -> u64 {
        self.window + offset
    }

    fn store16(&self, offset: u64, value: u16) {
        // SAFETY: see above.
        unsafe { (self.here(offset) as *mut u16).write_volatile(value) };
    }

    fn load16(&self, offset: u64) -> u16 {
        // SAFETY: see above.
        unsafe { (self.here(offset) as *const u16).read_volatile() }
    }

    /// Resets the device and clears its window.
    pub(crate) fn reset(&self) -> bool {
        self.write8(register::STATUS, 0);
        let done = interrupts::wait(1000, || self.status() == 0);
        // SAFETY: see above.
        unsafe { core::ptr::write_bytes(self.window as *mut u8, 0, USED_BYTES) };
        done
    }

    /// Features on offer.
    pub(crate) fn offered(&self) -> u64 {
        let half = |select| {
            // SAFETY: see above.
            unsafe {
                mmio::write32(self.common + register::DEVICE_FEATURE_SELECT, select);
                u64::from(mmio::read32(self.common + register::DEVICE_FEATURE))
            }
        };
        half(0) | half(1) << 32
    }

    /// Accepts exactly `features`, in 32-bit halves from half 0 on; did
    /// FEATURES_OK stay?
    pub(crate) fn negotiate(&self, features: u128) -> bool {
        self.write8(register::STATUS, ACKNOWLEDGE | DRIVER);
        for select in 0..4 {
            // SAFETY: see above.
            unsafe {
                mmio::write32(self.common + register::DRIVER_FEATURE_SELECT, select);
                mmio::write32(
                    self.common + register::DRIVER_FEATURE,
                    (features >> (32 * select)) as u32,
                );
            }
        }
        self.write8(register::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        self.status() & FEATURES_OK != 0
    }

    /// The set a decent driver accepts.
    pub(crate) fn decent(&self) -> u64 {
        let wanted = contract::VERSION_1 | contract::ACCESS_PLATFORM;
        let memory = contract::SWIOTLB | contract::DMB;
        self.offered() & (wanted | memory | INDIRECT_DESC)
    }

    /// Sets queue 0 up; is it enabled then?
    pub(crate) fn set_queue(&self, size: u16, descriptors: u64, avail: u64, used: u64) -> bool {
        self.write16(register::QUEUE_SELECT, 0);
        self.write16(register::QUEUE_SIZE, size);
        self.write64(register::QUEUE_DESC, descriptors);
        self.write64(register::QUEUE_DRIVER, avail);
        self.write64(register::QUEUE_DEVICE, used);
        self.write16(register::QUEUE_ENABLE, 1);
        self.read16(register::QUEUE_ENABLE) == 1 && self.status() & NEEDS_RESET == 0
    }

    /// Queue 0 where it belongs.
    pub(crate) fn set_decent_queue(&self) -> bool {
        self.set_queue(SIZE, self.at(DESCRIPTORS), self.at(AVAIL), self.at(USED))
    }

    pub(crate) fn driver_ok(&self) {
        self.write8(register::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    /// From reset to a working device.
    pub(crate) fn bring_up(&self) -> bool {
        let ready = self.reset() && self.negotiate(self.decent().into()) && self.set_decent_queue();
        self.driver_ok();
        ready
    }

    /// Writes descriptors to `table`, an offset into the window.
    pub(crate) fn describe(&self, table: u64, descriptors: &[Descriptor]) {
        for (index, (address, length, flags, next)) in (0..).zip(descriptors) {
            let at = self.here(table + 16 * index);
            // SAFETY: see above.
            unsafe {
                (at as *mut u64).write_volatile(*address);
                ((at + 8) as *mut u32).write_volatile(*length);
                ((at + 12) as *mut u16).write_volatile(*flags);
                ((at + 14) as *mut u16).write_volatile(*next);
            }
        }
    }

    /// Writes a request header: read of `sector`.
    pub(crate) fn header(&self, sector: u64) {
        // SAFETY: see above.
        unsafe {
            (self.here(HEADER) as *mut u64).write_volatile(0);
            (self.here(HEADER + 8) as *mut u64).write_volatile(sector);
            (self.here(STATUS) as *mut u8).write_volatile(UNWRITTEN);
        }
    }

    /// The three descriptors of a good read.
    pub(crate) fn good(&self) -> [Descriptor; 3] {
        [
            (self.at(HEADER), 16, NEXT, 1),
            (self.at(DATA), 512, NEXT | WRITE, 2),
            (self.at(STATUS), 1, WRITE, 0),
        ]
    }

    /// Makes `head` available, moves the index by `step`, and kicks.
    pub(crate) fn offer(&self, head: u16, step: u16) {
        let index = self.load16(AVAIL + 2);
        self.store16(AVAIL + 4 + 2 * u64::from(index % SIZE), head);
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        self.store16(AVAIL + 2, index.wrapping_add(step));
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        self.ring();
    }

    /// Kicks queue 0.
    pub(crate) fn ring(&self) {
        self.write16(register::QUEUE_SELECT, 0);
        let offset = usize::from(self.read16(register::QUEUE_NOTIFY_OFF)) * self.multiplier;
        // SAFETY: see above.
        unsafe { mmio::write16(self.kick + offset, 0) };
    }

    /// Lets the device access memory, or not.
    pub(crate) fn set_master(&self, on: bool) {
        let mut ecam = self.ecam;
        let command = ecam.read_word(self.function, COMMAND) & 0xffff;
        let bit = if on { BUS_MASTER } else { 0 };
        ecam.write_word(self.function, COMMAND, command & !BUS_MASTER | bit);
    }

    /// What became of the first request, after at most so many milliseconds.
    pub(crate) fn outcome(&self, milliseconds: u64) -> Outcome {
        self.outcome_of(1, milliseconds)
    }

    /// What became of request `count` since the reset.
    pub(crate) fn outcome_of(&self, count: u16, milliseconds: u64) -> Outcome {
        let used = || self.load16(USED + 2) >= count;
        let stopped = || self.status() & NEEDS_RESET != 0;
        interrupts::wait(milliseconds, || used() || stopped());
        if used() {
            // SAFETY: see above.
            Outcome::Served(unsafe { (self.here(STATUS) as *const u8).read_volatile() })
        } else if stopped() {
            Outcome::Stopped
        } else {
            Outcome::Silent
        }
    }
}

/// The register by which queue 0 of a function is kicked.
pub(crate) fn kick_register(bus: &Bus, function: &Function) -> Option<usize> {
    let capabilities = &function.capabilities;
    let common = function.address(capabilities.common?)? as usize;
    let multiplier = bus.ecam.read_word(function.at, notify_at(bus, function)? + 16) as usize;
    // SAFETY: registers of the common configuration: queue 0, and where it is
    // kicked.
    let offset = unsafe {
        mmio::write16(common + register::QUEUE_SELECT, 0);
        mmio::read16(common + register::QUEUE_NOTIFY_OFF)
    };
    Some(function.address(capabilities.notify?)? as usize + usize::from(offset) * multiplier)
}

/// Configuration offset of the notification capability.
fn notify_at(bus: &Bus, function: &Function) -> Option<u8> {
    bus.root
        .capabilities(function.at)
        .find(|capability| capability.id == 9 && capability.private_header >> 8 == 2)
        .map(|capability| capability.offset)
}
