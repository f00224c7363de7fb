//! A guest that knows only PCI and virtio, and a host that knows only its
//! calls.
//!
//! Register offsets are written as the specifications give them; nothing is
//! taken from the code under test but its interface.

use crate::addr::GfnRange;
use crate::layout;
use crate::virtio::{Effects, PciBus, Policy, Signal};
use std::vec::Vec;

// Features, and what a well-behaved driver of each policy accepts.
pub(crate) const BOUNCE_FEATURES: u64 = 1 << 27 | 1 << 32 | 1 << 33;
pub(crate) const MEMORY_FEATURES: u64 = 1 << 32 | 1 << 33 | 1 << 44;
pub(crate) const SHARED_FEATURES: u64 = 1 << 32 | 1 << 33;

// Common configuration (section 4.1.4.3).
pub(crate) const DEVICE_FEATURE_SELECT: u64 = 0x00;
pub(crate) const DEVICE_FEATURE: u64 = 0x04;
pub(crate) const DRIVER_FEATURE_SELECT: u64 = 0x08;
pub(crate) const DRIVER_FEATURE: u64 = 0x0c;
pub(crate) const CONFIG_VECTOR: u64 = 0x10;
pub(crate) const NUM_QUEUES: u64 = 0x12;
pub(crate) const STATUS: u64 = 0x14;
pub(crate) const GENERATION: u64 = 0x15;
pub(crate) const QUEUE_SELECT: u64 = 0x16;
pub(crate) const QUEUE_SIZE: u64 = 0x18;
pub(crate) const QUEUE_VECTOR: u64 = 0x1a;
pub(crate) const QUEUE_ENABLE: u64 = 0x1c;
pub(crate) const QUEUE_NOTIFY_OFF: u64 = 0x1e;
pub(crate) const QUEUE_DESC: u64 = 0x20;
pub(crate) const QUEUE_DRIVER: u64 = 0x28;
pub(crate) const QUEUE_DEVICE: u64 = 0x30;
pub(crate) const QUEUE_RESET: u64 = 0x3a;

// PCI header.
pub(crate) const COMMAND: u64 = 0x04;
pub(crate) const BAR0: u64 = 0x10;
pub(crate) const BAR2: u64 = 0x18;
pub(crate) const MEMORY: u64 = 2;
pub(crate) const MASTER: u64 = 4;

/// Pages of bounce memory most tests use: 1 MiB.
pub(crate) const PAGES: u64 = 256;
pub(crate) const BOUNCE_BYTES: u64 = PAGES * 4096;

/// Where the guest's firmware puts the BARs of device `index`.
pub(crate) fn register_base(index: usize) -> u64 {
    layout::PCI_MEM32 + index as u64 * 0x1_0000
}
pub(crate) fn bounce_base(index: usize) -> u64 {
    layout::PCI_MEM64 + index as u64 * 0x100_0000
}

/// What a driver of this policy must accept, and may use alone.
pub(crate) fn features(policy: Policy) -> u64 {
    match policy {
        Policy::BounceBar => BOUNCE_FEATURES,
        Policy::SharedPages | Policy::ShadowIommu => SHARED_FEATURES,
        Policy::DeviceMemory => MEMORY_FEATURES,
        Policy::LegacyNoPlatform | Policy::GuestChoice => 1 << 32,
    }
}

/// First address that a driver of device `index` gives it, and how many bytes
/// it may name from there on. Device memory is named by offsets, and the first
/// page of it is left alone.
pub(crate) fn addresses(policy: Policy, index: usize, pages: u64) -> (u64, u64) {
    match policy {
        Policy::BounceBar => (bounce_base(index), pages * 4096),
        Policy::SharedPages | Policy::LegacyNoPlatform | Policy::GuestChoice => {
            (layout::RAM, 1 << 30)
        }
        Policy::DeviceMemory => (0x1000, (pages - 1) * 4096),
        Policy::ShadowIommu => (layout::APERTURE, 1 << 30),
    }
}

/// Where a virtio structure is: BAR, offset, length, and the capability's
/// place in configuration space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Structure {
    pub(crate) bar: u64,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) place: u64,
}

/// A platform with one bus: it carries out effects and remembers them.
pub(crate) struct Platform {
    pub(crate) bus: PciBus,
    pub(crate) lines: [bool; 4],
    pub(crate) messages: Vec<(u64, u32)>,
    pub(crate) closed: Vec<GfnRange>,
    pub(crate) kicks: Vec<(usize, u16)>,
    pub(crate) status_changes: Vec<usize>,
}

impl Platform {
    pub(crate) fn empty() -> Self {
        Self {
            bus: PciBus::new(),
            lines: [false; 4],
            messages: Vec::new(),
            closed: Vec::new(),
            kicks: Vec::new(),
            status_changes: Vec::new(),
        }
    }

    /// One block device with two queues, BARs placed, decode on.
    pub(crate) fn with_block(policy: Policy) -> Self {
        let mut platform = Self::empty();
        let pages = match policy {
            Policy::SharedPages | Policy::LegacyNoPlatform => 0,
            _ => PAGES,
        };
        platform.bus.create(2, policy, pages, 2, 0).unwrap();
        platform.place_bars(0);
        platform
    }

    /// The same, set up to DRIVER_OK with queue 0 at the start of its memory.
    pub(crate) fn with_live_block(policy: Policy) -> Self {
        let mut platform = Self::with_block(policy);
        let (base, _) = addresses(policy, 0, PAGES);
        assert!(platform.negotiate(0, features(policy) | 1 << 40));
        assert!(platform.enable_queue(0, 0, 64, [base, base + 0x1000, base + 0x2000]));
        platform.set_status(0, 15);
        assert_eq!(platform.status(0), 15);
        platform
    }

    // ---- effects ------------------------------------------------------------

    pub(crate) fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::Msi { address, data } => self.messages.push((address, data)),
            Signal::Intx { line, level } => {
                let old = std::mem::replace(&mut self.lines[usize::from(line)], level);
                assert_ne!(old, level, "an unchanged level was signalled");
            }
        }
    }

    pub(crate) fn carry_out(&mut self, effects: Effects) {
        self.kicks.extend(effects.notify);
        self.status_changes.extend(effects.status_changed);
        self.closed.extend(effects.window_closed);
        effects.signals.iter().for_each(|signal| self.signal(signal));
    }

    // ---- the guest's accesses ------------------------------------------------

    pub(crate) fn config_read(&mut self, index: usize, register: u64, size: u8) -> u64 {
        let (value, signal) = self.bus.ecam_read(((index as u64 + 1) << 15) + register, size);
        signal.into_iter().for_each(|signal| self.signal(signal));
        value
    }

    pub(crate) fn config_write(&mut self, index: usize, register: u64, size: u8, value: u64) {
        let effects = self.bus.ecam_write(((index as u64 + 1) << 15) + register, size, value);
        self.carry_out(effects);
    }

    pub(crate) fn read(&mut self, address: u64, size: u8) -> Option<u64> {
        let (value, signal) = self.bus.bar_read(address, size)?;
        signal.into_iter().for_each(|signal| self.signal(signal));
        Some(value)
    }

    pub(crate) fn write(&mut self, address: u64, size: u8, value: u64) -> Option<()> {
        let effects = self.bus.bar_write(address, size, value)?;
        self.carry_out(effects);
        Some(())
    }

    /// Base of the register BAR as configuration space says.
    pub(crate) fn registers(&mut self, index: usize) -> u64 {
        self.config_read(index, BAR0, 4) & !0xf
    }

    /// Walks the capability list for a `cfg_type`.
    pub(crate) fn structure(&mut self, index: usize, cfg_type: u64) -> Option<Structure> {
        let mut place = self.config_read(index, 0x34, 1);
        for _ in 0..16 {
            if place == 0 {
                return None;
            }
            let id = self.config_read(index, place, 1);
            if id == 9 && self.config_read(index, place + 3, 1) == cfg_type {
                return Some(Structure {
                    bar: self.config_read(index, place + 4, 1),
                    offset: self.config_read(index, place + 8, 4),
                    length: self.config_read(index, place + 12, 4),
                    place,
                });
            }
            place = self.config_read(index, place + 1, 1);
        }
        panic!("the capability list does not end");
    }

    /// Place of the MSI-X capability.
    pub(crate) fn msix_place(&mut self, index: usize) -> u64 {
        let mut place = self.config_read(index, 0x34, 1);
        while self.config_read(index, place, 1) != 0x11 {
            place = self.config_read(index, place + 1, 1);
        }
        place
    }

    pub(crate) fn common(&mut self, index: usize) -> u64 {
        let offset = self.structure(index, 1).unwrap().offset;
        self.registers(index) + offset
    }

    pub(crate) fn common_read(&mut self, index: usize, field: u64, size: u8) -> u64 {
        let address = self.common(index) + field;
        self.read(address, size).unwrap()
    }

    pub(crate) fn common_write(&mut self, index: usize, field: u64, size: u8, value: u64) {
        let address = self.common(index) + field;
        self.write(address, size, value).unwrap();
    }

    pub(crate) fn status(&mut self, index: usize) -> u64 {
        self.common_read(index, STATUS, 1)
    }

    pub(crate) fn set_status(&mut self, index: usize, status: u64) {
        self.common_write(index, STATUS, 1, status);
    }

    pub(crate) fn isr(&mut self, index: usize) -> u64 {
        let offset = self.structure(index, 3).unwrap().offset;
        let address = self.registers(index) + offset;
        self.read(address, 1).unwrap()
    }

    pub(crate) fn kick(&mut self, index: usize, queue: u64) {
        let notify = self.structure(index, 2).unwrap();
        let address = self.registers(index) + notify.offset + 4 * queue;
        self.write(address, 2, queue);
    }

    /// Puts both BARs in their windows and turns decode and mastering on.
    pub(crate) fn place_bars(&mut self, index: usize) {
        self.config_write(index, BAR0, 4, register_base(index));
        self.config_write(index, BAR2, 4, bounce_base(index));
        self.config_write(index, BAR2 + 4, 4, bounce_base(index) >> 32);
        self.config_write(index, COMMAND, 2, MEMORY | MASTER);
    }

    pub(crate) fn offered(&mut self, index: usize) -> u64 {
        self.common_write(index, DEVICE_FEATURE_SELECT, 4, 0);
        let low = self.common_read(index, DEVICE_FEATURE, 4);
        self.common_write(index, DEVICE_FEATURE_SELECT, 4, 1);
        low | self.common_read(index, DEVICE_FEATURE, 4) << 32
    }

    /// Resets, acknowledges and accepts `features`; was FEATURES_OK granted?
    pub(crate) fn negotiate(&mut self, index: usize, features: u64) -> bool {
        self.set_status(index, 0);
        self.set_status(index, 1);
        self.set_status(index, 3);
        for (select, word) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
            self.common_write(index, DRIVER_FEATURE_SELECT, 4, select);
            self.common_write(index, DRIVER_FEATURE, 4, word);
        }
        self.set_status(index, 11);
        self.status(index) & 8 != 0
    }

    /// Sets up a queue; is it enabled?
    pub(crate) fn enable_queue(
        &mut self,
        index: usize,
        queue: u64,
        size: u64,
        rings: [u64; 3],
    ) -> bool {
        self.common_write(index, QUEUE_SELECT, 2, queue);
        self.common_write(index, QUEUE_SIZE, 2, size);
        for (field, address) in [QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE].into_iter().zip(rings) {
            self.common_write(index, field, 8, address);
        }
        self.common_write(index, QUEUE_ENABLE, 2, 1);
        self.common_read(index, QUEUE_ENABLE, 2) == 1
    }

    // ---- the host's calls -----------------------------------------------------

    pub(crate) fn interrupt(
        &mut self,
        index: usize,
        cause: u64,
    ) -> Result<(), crate::error::Error> {
        let signal = self.bus.interrupt(index, cause)?;
        signal.into_iter().for_each(|signal| self.signal(signal));
        Ok(())
    }

    pub(crate) fn fail(&mut self, index: usize) -> Result<(), crate::error::Error> {
        let signal = self.bus.fail(index)?;
        signal.into_iter().for_each(|signal| self.signal(signal));
        Ok(())
    }
}
