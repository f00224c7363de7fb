//! One virtio function: its parts, and what an access to one does to others.

use super::bounce::BounceFrames;
use super::common::{Common, Outcome};
use super::config_space::{ConfigSpace, NOTIFY_MULTIPLIER, SIZE, structure};
use super::device_config::DeviceConfig;
use super::effects::{Effects, Signal};
use super::interrupts::Interrupts;
use super::pci_cfg;
use super::policy::{DeviceType, Policy, feature};
use super::queue::{MAX_QUEUES, Queue, QueueInfo, Reach};
use super::{all_ones, is_natural};
use crate::abi;
use crate::addr::GfnRange;
use crate::error::Error;

/// What the host may know of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceState {
    /// The `device_status` register.
    pub status: u8,
    /// How often the driver reset the device.
    pub reset_count: u32,
    /// May the device access memory? Its driver decides, by the bus-master
    /// bit of the PCI command register.
    pub bus_master: bool,
    /// Bit per queue that was notified since the last call; 0 while the device
    /// may not access memory.
    pub notified: u64,
    /// Features both sides agreed on; 0 before FEATURES_OK.
    pub features: u64,
}

/// A function.
pub(super) struct Device {
    index: usize,
    policy: Policy,
    /// What DEVICE_CREATE was given: pages of its own, or that it may have.
    pages: u64,
    device_type: DeviceType,
    space: ConfigSpace,
    common: Common,
    config: DeviceConfig,
    interrupts: Interrupts,
    notified: u64,
    /// The frames behind the bounce BAR.
    pub(super) frames: BounceFrames,
}

impl Device {
    /// The device `index` of its bus, wired to `line`.
    ///
    /// # Errors
    /// [`Error::NotSupported`] for a device type bouncer has no transport
    /// for, [`Error::InvalidParameter`] for a number or size of queues or a
    /// number of pages that type or policy do not allow, [`Error::NoMemory`].
    pub(super) fn new(
        index: usize,
        line: u8,
        device_type: u16,
        policy: Policy,
        pages: u64,
        (queues, queue_size): (u16, u16),
    ) -> Result<Self, Error> {
        let device_type = DeviceType::new(device_type)?;
        if queues < device_type.min_queues || usize::from(queues) > MAX_QUEUES {
            return Err(Error::InvalidParameter);
        }
        let queue_size = Queue::largest(queue_size)?;
        policy.check_pages(pages)?;
        let bounce_pages = policy.own_pages(pages);
        let offered = policy.offered() | device_type.offered;
        Ok(Self {
            index,
            policy,
            pages,
            device_type,
            space: ConfigSpace::new(&device_type, policy, queues, bounce_pages),
            common: Common::new(offered, policy.mandatory(), queues, queue_size),
            config: DeviceConfig::new(&device_type),
            interrupts: Interrupts::new(line, queues + 1),
            notified: 0,
            frames: BounceFrames::new(bounce_pages)?,
        })
    }

    /// Where the register BAR is, if it is decoded.
    pub(super) fn register_bar(&self) -> Option<u64> {
        self.space.register_bar()
    }

    /// Where the bounce memory is, if it is decoded.
    pub(super) fn bounce_window(&self) -> Option<GfnRange> {
        self.space.bounce_window()
    }

    // ---- the guest's accesses ------------------------------------------------

    /// Reads configuration space. Reading ISR through the PCI_CFG window may
    /// lower the interrupt line.
    pub(super) fn config_read(&mut self, offset: u64, size: u8) -> (u64, Option<Signal>) {
        if !is_natural(offset, size) || size == 8 {
            return (all_ones(size), None);
        }
        if offset >= SIZE {
            return (0, None);
        }
        if pci_cfg::is_data(offset) {
            return match pci_cfg::target(&self.space, offset, size) {
                Some(target) => self.register_read(target.offset, target.size),
                None => (all_ones(size), None),
            };
        }
        let interrupt = self.interrupts.is_pending(&self.space);
        (self.space.read(offset, size, interrupt), None)
    }

    /// Writes configuration space.
    pub(super) fn config_write(&mut self, offset: u64, size: u8, value: u64) -> Effects {
        let mut effects = Effects::default();
        if !is_natural(offset, size) || size == 8 || offset >= SIZE {
            return effects;
        }
        if pci_cfg::is_data(offset) {
            return match pci_cfg::target(&self.space, offset, size) {
                Some(target) => self.register_write(target.offset, target.size, value),
                None => effects,
            };
        }
        let (before, master) = (self.bounce_window(), self.space.is_master());
        self.space.write(offset, size, value);
        if before != self.bounce_window() {
            effects.window_closed = before;
        }
        // The backend has to stop, or may go on, before the driver does.
        if master != self.space.is_master() && self.common.driver_ok() {
            effects.status_changed = Some(self.index);
        }
        self.interrupts.settle(&self.space, &mut effects.signals);
        effects
    }

    /// Reads `size` bytes at an offset of the register BAR.
    pub(super) fn register_read(&mut self, offset: u64, size: u8) -> (u64, Option<Signal>) {
        if !is_natural(offset, size) {
            return (all_ones(size), None);
        }
        let value = match Register::at(offset) {
            Register::Common(offset) => self.common.read(offset, size, &mut self.config),
            Register::Isr if size == 1 => return self.interrupts.read_isr(&self.space),
            Register::Device(offset) => self.config.read(offset, size),
            Register::MsixTable(offset) => self.interrupts.msix.read_table(offset, size),
            Register::MsixPending(offset) => self.interrupts.msix.read_pending(offset, size),
            Register::Notify(_) | Register::Isr | Register::Nothing => all_ones(size),
        };
        (value, None)
    }

    /// Writes `size` bytes at an offset of the register BAR.
    pub(super) fn register_write(&mut self, offset: u64, size: u8, value: u64) -> Effects {
        let mut effects = Effects::default();
        if !is_natural(offset, size) {
            return effects;
        }
        let value = value & all_ones(size);
        match Register::at(offset) {
            Register::Notify(offset) => {
                effects.notify = self.notified_queue(offset, size, value);
                return effects;
            }
            Register::Common(offset) => {
                let reach = self.reach();
                let msix = &self.interrupts.msix;
                let outcome = self.common.write(offset, size, value, msix, reach);
                self.follow(outcome, &mut effects);
            }
            Register::MsixTable(offset) => self.interrupts.msix.write_table(offset, size, value),
            Register::Isr | Register::Device(_) | Register::MsixPending(_) | Register::Nothing => {}
        }
        self.interrupts.settle(&self.space, &mut effects.signals);
        effects
    }

    /// Memory in which the policy lets a ring be, as the BARs are now.
    fn reach(&self) -> Option<Reach> {
        match self.policy {
            Policy::BounceBar => self.bounce_window().map(Reach::window),
            Policy::SharedPages | Policy::LegacyNoPlatform => Some(Reach::guest()),
            Policy::DeviceMemory => Some(Reach::region(self.frames.pages())),
            Policy::ShadowIommu => Some(Reach::aperture()),
            Policy::GuestChoice if self.common.agreed() & feature::ACCESS_PLATFORM == 0 => {
                Some(Reach::guest())
            }
            Policy::GuestChoice => Some(Reach::aperture()),
        }
    }

    /// A notification: 16 bits of queue index, or 32 bits whose low half is
    /// the index (NOTIFICATION_DATA; the rest is a hint the backend does not
    /// need). Register and value must name the same queue.
    ///
    /// A device that may not access memory (PCI 3.0 section 6.2.2) has no use
    /// for it now: the backend hears of it when the device may again.
    fn notified_queue(&mut self, offset: u64, size: u8, value: u64) -> Option<(usize, u16)> {
        let multiplier = u64::from(NOTIFY_MULTIPLIER);
        let index = value as u16;
        let well_formed = matches!(size, 2 | 4) && offset == u64::from(index) * multiplier;
        if !well_formed || !self.queue_is_live(index) {
            return None;
        }
        self.notified |= 1 << index;
        self.space.is_master().then_some((self.index, index))
    }

    fn queue_is_live(&self, index: u16) -> bool {
        self.common.is_live() && self.common.queue(index).is_some_and(|queue| queue.is_enabled())
    }

    /// Carries a change of the common registers to the rest of the device.
    fn follow(&mut self, outcome: Outcome, effects: &mut Effects) {
        match outcome {
            Outcome::Quiet => return,
            Outcome::StatusChanged => {}
            Outcome::Reset => {
                self.notified = 0;
                self.interrupts.reset();
            }
            Outcome::QueueReset(index) => self.notified &= !(1 << index),
            Outcome::Broken => {
                if let Some(signal) = self.config_interrupt() {
                    effects.signals.push(signal);
                }
            }
        }
        effects.status_changed = Some(self.index);
    }

    /// A change of configuration or status. A driver that is not set up is
    /// not interrupted: it will read what it needs.
    fn config_interrupt(&mut self) -> Option<Signal> {
        if !self.common.driver_ok() {
            return None;
        }
        self.interrupts.raise_config(self.common.config_vector(), &self.space)
    }

    // ---- the host's calls -----------------------------------------------------

    /// See [`super::PciBus::interrupt`].
    pub(super) fn interrupt(&mut self, cause: u64) -> Result<Option<Signal>, Error> {
        if cause == abi::CAUSE_CONFIG {
            return match self.common.driver_ok() {
                true => Ok(self.config_interrupt()),
                false => Err(Error::Denied),
            };
        }
        let index = u16::try_from(cause).map_err(|_| Error::NotFound)?;
        let vector = self.common.queue(index).ok_or(Error::NotFound)?.vector();
        if !self.queue_is_live(index) {
            return Err(Error::Denied);
        }
        Ok(self.interrupts.raise_queue(vector, &self.space))
    }

    /// See [`super::PciBus::fail`].
    pub(super) fn fail(&mut self) -> Result<Option<Signal>, Error> {
        if self.common.status() == 0 {
            return Err(Error::Denied);
        }
        self.common.break_down();
        Ok(self.config_interrupt())
    }

    /// See [`super::PciBus::config_write`].
    pub(super) fn host_config_write(
        &mut self,
        offset: u64,
        value: u64,
        bytes: u8,
        live: bool,
    ) -> Result<Effects, Error> {
        self.config.host_write(offset, value, bytes)?;
        let mut effects = Effects::default();
        if live {
            if let Some(signal) = self.config_interrupt() {
                effects.signals.push(signal);
            }
        } else {
            self.common.offer(self.offered());
        }
        Ok(effects)
    }

    fn offered(&self) -> u64 {
        let always = self.policy.offered() | self.device_type.offered;
        let fields = self.device_type.field_features.iter();
        fields.fold(always, |offered, &(bit, offset, length)| {
            if self.config.is_set(offset, length) { offered | bit } else { offered }
        })
    }

    /// See [`super::PciBus::state`].
    pub(super) fn take_state(&mut self) -> DeviceState {
        DeviceState {
            status: self.common.status(),
            reset_count: self.common.resets(),
            bus_master: self.space.is_master(),
            notified: if self.space.is_master() { core::mem::take(&mut self.notified) } else { 0 },
            features: self.common.agreed(),
        }
    }

    /// See [`super::PciBus::descriptions`].
    pub(super) fn description(&self) -> [u64; 5] {
        let (queues, size) = (self.common.queue_count(), self.common.largest_queue());
        let [kind, queues, size] = [self.device_type.id, queues, size].map(u64::from);
        [kind, self.policy.to_abi(), self.pages, queues, size]
    }

    /// The interrupt line that it asserts now, if it does.
    pub(super) fn asserted_line(&self) -> Option<u8> {
        self.interrupts.asserted_line()
    }

    /// See [`super::PciBus::queue`].
    pub(super) fn queue_info(&self, index: u16) -> Result<QueueInfo, Error> {
        self.common.queue(index).map(|queue| queue.info()).ok_or(Error::NotFound)
    }
}

/// A structure of the register BAR and the offset inside it.
enum Register {
    Common(u64),
    Isr,
    Device(u64),
    Notify(u64),
    MsixTable(u64),
    MsixPending(u64),
    Nothing,
}

impl Register {
    fn at(offset: u64) -> Self {
        let inside = |(start, length): (u64, u64)| {
            offset.checked_sub(start).filter(|offset| *offset < length)
        };
        if let Some(offset) = inside(structure::NOTIFY) {
            Register::Notify(offset)
        } else if let Some(offset) = inside(structure::COMMON) {
            Register::Common(offset)
        } else if let Some(0) = inside(structure::ISR) {
            Register::Isr
        } else if let Some(offset) = inside(structure::DEVICE) {
            Register::Device(offset)
        } else if let Some(offset) = inside(structure::MSIX_TABLE) {
            Register::MsixTable(offset)
        } else if let Some(offset) = inside(structure::MSIX_PENDING) {
            Register::MsixPending(offset)
        } else {
            Register::Nothing
        }
    }
}
