//! The bus: who answers at an address, and the calls of the host.
//!
//! Bus 0 has a host bridge in slot 0 and the devices in slots 1 and up, one
//! function each. Everything else is empty: reads give all ones.
//!
//! The four interrupt lines are shared by the devices in turn. A line is what
//! its devices assert, all together: it falls when the last of them lets go.

use super::all_ones;
use super::config_space::{REGISTER_BAR_SIZE, lanes};
use super::device::{Device, DeviceState};
use super::effects::{Effects, Signal};
use super::policy::Policy;
use super::queue::QueueInfo;
use crate::abi::MAX_DEVICES;
use crate::addr::{Gfn, GfnRange, Pfn};
use crate::error::Error;
use alloc::vec::Vec;

/// Slot of the first device.
const FIRST_SLOT: usize = 1;
/// Interrupt lines a bus has.
const LINES: usize = 4;

/// Vendor and device of the host bridge: QEMU's generic PCIe host.
const BRIDGE_ID: u32 = 0x0008_1b36;
/// Its class: host bridge.
const BRIDGE_CLASS: u32 = 0x0600_0000;

/// The PCI functions of one VM.
///
/// All calls are bounded by the number of devices and queues, except
/// [`Self::create`], which is bounded by the bounce pages asked for.
#[derive(Default)]
pub struct PciBus {
    devices: Vec<Device>,
}

/// What a configuration address names.
enum Slot {
    Bridge,
    Device(usize),
    Empty,
}

impl PciBus {
    /// A bus with its host bridge and nothing else.
    pub const fn new() -> Self {
        Self { devices: Vec::new() }
    }

    /// Adds a device of virtio type `device_type` (1 network, 2 block,
    /// 3 console, 4 entropy) with `queues` queues and, unless it works in
    /// [`Policy::SharedPages`], `pages` pages of memory of its own, or with a
    /// window ([`Policy::has_window`]) of the guest's at once.
    /// Returns its index; it is in slot index + 1.
    ///
    /// That memory may be any multiple of 64 KiB up to 16 MiB. The BAR
    /// is the next power of two; its rest stays empty. A queue has at most
    /// `queue_size` descriptors, a power of two up to 256; 0 means 256.
    ///
    /// # Errors
    /// [`Error::NotSupported`] for another type, [`Error::InvalidParameter`]
    /// if type or policy forbid these queues or pages, or the size is none that
    /// a queue may have, [`Error::NoMemory`] if
    /// the bus is full or the heap exhausted.
    pub fn create(
        &mut self,
        device_type: u16,
        policy: Policy,
        pages: u64,
        queues: u16,
        queue_size: u16,
    ) -> Result<usize, Error> {
        let index = self.devices.len();
        if index >= MAX_DEVICES {
            return Err(Error::NoMemory);
        }
        // The usual rotation of INTA over the lines by slot.
        let line = ((index + FIRST_SLOT) % LINES) as u8;
        let queues = (queues, queue_size);
        let device = Device::new(index, line, device_type, policy, pages, queues)?;
        self.devices.try_reserve(1).map_err(|_| Error::NoMemory)?;
        self.devices.push(device);
        Ok(index)
    }

    /// Number of devices.
    pub fn len(&self) -> usize {
        self.devices.len()
    }

    /// Is there no device?
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// Does what device `index` signals reach the interrupt controller? The
    /// level of a line does not change while another device asserts it.
    fn is_felt(&self, index: usize, signal: Signal) -> bool {
        let Signal::Intx { line, .. } = signal else { return true };
        let mut others = self.devices.iter().enumerate().filter(|(other, _)| *other != index);
        !others.any(|(_, device)| device.asserted_line() == Some(line))
    }

    /// What of a device's signal is felt.
    fn felt(&self, index: usize, signal: Option<Signal>) -> Option<Signal> {
        signal.filter(|signal| self.is_felt(index, *signal))
    }

    /// The effects, with those signals that are felt.
    fn felt_of(&self, index: usize, mut effects: Effects) -> Effects {
        if !effects.signals.is_empty() {
            effects.signals.retain(|signal| self.is_felt(index, signal));
        }
        effects
    }

    fn device(&self, device: usize) -> Result<&Device, Error> {
        self.devices.get(device).ok_or(Error::NotFound)
    }

    fn device_mut(&mut self, device: usize) -> Result<&mut Device, Error> {
        self.devices.get_mut(device).ok_or(Error::NotFound)
    }

    // ---- the guest's accesses ------------------------------------------------

    /// The guest reads `size` bytes of configuration space, `offset` bytes
    /// into the ECAM window. The read may change an interrupt line (ISR,
    /// through the PCI_CFG window).
    pub fn ecam_read(&mut self, offset: u64, size: u8) -> (u64, Option<Signal>) {
        let register = offset & 0xfff;
        match self.slot(offset) {
            Slot::Device(index) => match self.devices.get_mut(index) {
                Some(device) => {
                    let (value, signal) = device.config_read(register, size);
                    (value, self.felt(index, signal))
                }
                None => (all_ones(size), None),
            },
            Slot::Bridge => (bridge_read(register, size), None),
            Slot::Empty => (all_ones(size), None),
        }
    }

    /// The guest writes configuration space.
    pub fn ecam_write(&mut self, offset: u64, size: u8, value: u64) -> Effects {
        if let Slot::Device(index) = self.slot(offset)
            && let Some(device) = self.devices.get_mut(index)
        {
            let effects = device.config_write(offset & 0xfff, size, value);
            return self.felt_of(index, effects);
        }
        Effects::default()
    }

    /// Bus number in bits 27:20, device in 19:15, function in 14:12.
    fn slot(&self, offset: u64) -> Slot {
        match offset >> 12 {
            0 => Slot::Bridge,
            // Slots count on from bus to bus; those that have a device are few.
            function if function % 8 == 0 => {
                let index = (function / 8) as usize - FIRST_SLOT;
                if index < self.devices.len() { Slot::Device(index) } else { Slot::Empty }
            }
            _ => Slot::Empty,
        }
    }

    /// The guest reads `size` bytes at `ipa`; `None` if no register BAR is
    /// there. The read may change an interrupt line (ISR).
    pub fn bar_read(&mut self, ipa: u64, size: u8) -> Option<(u64, Option<Signal>)> {
        let (index, offset) = self.register_at(ipa)?;
        let (value, signal) = self.devices.get_mut(index)?.register_read(offset, size);
        Some((value, self.felt(index, signal)))
    }

    /// The guest writes `size` bytes at `ipa`; `None` if no register BAR is
    /// there.
    pub fn bar_write(&mut self, ipa: u64, size: u8, value: u64) -> Option<Effects> {
        let (index, offset) = self.register_at(ipa)?;
        let effects = self.devices.get_mut(index)?.register_write(offset, size, value);
        Some(self.felt_of(index, effects))
    }

    /// If the guest put several BARs at one address, the lowest device wins.
    fn register_at(&self, ipa: u64) -> Option<(usize, u64)> {
        self.devices.iter().enumerate().find_map(|(index, device)| {
            let offset = ipa.checked_sub(device.register_bar()?)?;
            (offset < REGISTER_BAR_SIZE).then_some((index, offset))
        })
    }

    // ---- bounce memory ---------------------------------------------------------

    /// The device whose open bounce window covers `gfn`, and which page of
    /// the BAR is there: what a stage-2 fault in the window needs to know.
    pub fn bounce_page_at(&self, gfn: Gfn) -> Option<(usize, u64)> {
        self.devices.iter().enumerate().find_map(|(index, device)| {
            let window = device.bounce_window()?;
            window.contains(gfn).then(|| (index, gfn.number() - window.start().number()))
        })
    }

    /// Where the bounce memory of a device is; `None` while its BAR is not
    /// decoded, and for devices without one.
    pub fn bounce_window(&self, device: usize) -> Option<GfnRange> {
        self.device(device).ok()?.bounce_window()
    }

    /// Pages of bounce memory of a device; 0 for one without or none at all.
    pub fn bounce_pages(&self, device: usize) -> u64 {
        self.device(device).map_or(0, |device| device.frames.pages())
    }

    /// The frame behind a page of a device's bounce memory.
    pub fn bounce_frame(&self, device: usize, page: u64) -> Option<Pfn> {
        self.device(device).ok()?.frames.get(page)
    }

    /// Records the frame behind a page.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a device or page that does not exist,
    /// [`Error::BadState`] if the page has a frame.
    pub fn set_bounce_frame(&mut self, device: usize, page: u64, frame: Pfn) -> Result<(), Error> {
        self.device_mut(device)?.frames.set(page, frame)
    }

    /// Takes the frame of a page away again; `None` if it had none. Only for
    /// a guest that cannot run (any more): stage 2 is the caller's.
    pub fn take_bounce_frame(&mut self, device: usize, page: u64) -> Option<Pfn> {
        self.device_mut(device).ok()?.frames.take(page)
    }

    /// Has every page of every bounce BAR its frame?
    pub fn is_complete(&self) -> bool {
        self.devices.iter().all(|device| device.frames.is_complete())
    }

    /// What the host chose for each device, for the VM's measurement:
    /// type, policy, pages, queues, most descriptors of a queue.
    pub fn descriptions(&self) -> impl Iterator<Item = [u64; 5]> + '_ {
        self.devices.iter().map(Device::description)
    }

    // ---- the host's calls -----------------------------------------------------

    /// The host writes the low `bytes` bytes of `value` into the device's own
    /// configuration. `live` says that the guest may have started: then the
    /// generation changes and a driver that is set up is interrupted; before,
    /// a field with a value may add the feature that announces it. What is
    /// offered never changes once the guest may have seen it.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::InvalidParameter`] unless 1 to 8 bytes
    /// inside the structure.
    pub fn config_write(
        &mut self,
        device: usize,
        offset: u64,
        value: u64,
        bytes: u8,
        live: bool,
    ) -> Result<Effects, Error> {
        let effects = self.device_mut(device)?.host_config_write(offset, value, bytes, live)?;
        Ok(self.felt_of(device, effects))
    }

    /// What the host may know of a device. Clears the notifications.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn state(&mut self, device: usize) -> Result<DeviceState, Error> {
        Ok(self.device_mut(device)?.take_state())
    }

    /// What the backend may know of a queue.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a device or queue that does not exist.
    pub fn queue(&self, device: usize, queue: u16) -> Result<QueueInfo, Error> {
        self.device(device)?.queue_info(queue)
    }

    /// The backend interrupts the guest: `cause` is a queue or
    /// [`crate::abi::CAUSE_CONFIG`]. `None` means there is nothing to deliver
    /// now: masked (it waits), already asserted, or the driver wants none.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a device or queue that does not exist,
    /// [`Error::Denied`] before DRIVER_OK, after a reset, and for a queue that
    /// is not enabled or whose device needs a reset.
    pub fn interrupt(&mut self, device: usize, cause: u64) -> Result<Option<Signal>, Error> {
        let signal = self.device_mut(device)?.interrupt(cause)?;
        Ok(self.felt(device, signal))
    }

    /// The backend gives up: DEVICE_NEEDS_RESET, and a configuration
    /// interrupt if the driver is set up (section 2.1.2).
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Denied`] while no driver has the device
    /// (status 0): a reset always completes.
    pub fn fail(&mut self, device: usize) -> Result<Option<Signal>, Error> {
        let signal = self.device_mut(device)?.fail()?;
        Ok(self.felt(device, signal))
    }
}

/// The host bridge has an identity and nothing to set.
fn bridge_read(register: u64, size: u8) -> u64 {
    if !super::is_natural(register, size) || size == 8 {
        return all_ones(size);
    }
    let word = match register & !3 {
        0x00 => BRIDGE_ID,
        0x08 => BRIDGE_CLASS,
        _ => 0,
    };
    lanes(word, register, size)
}
