//! A transport that holds the device to its contract.
//!
//! The drivers of the `virtio-drivers` crate know nothing of bounce memory,
//! never look whether the device kept FEATURES_OK, and wait for ever where a
//! hostile device may let them. This wrapper adds what they lack. What it
//! refuses it notes; the device then gets no queue and no DRIVER_OK.

use super::virtio::{NO_VECTOR, register};
use alloc::rc::Rc;
use core::cell::Cell;
use core::mem::ManuallyDrop;
use guest::contract::{Contract, Refusal};
use rt::mmio;
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Status reads before a reset counts as stuck.
const RESET_PATIENCE: u32 = 100_000;
/// Config generations that may pass before a read gives up.
const GENERATIONS: u32 = 64;

/// Why the device was refused, shared with whoever opened it.
pub(crate) type Verdict = Rc<Cell<Option<Refusal>>>;

/// Keeps kicks back, so that one can serve many requests. Shared with whoever
/// opened the device.
#[derive(Default)]
pub(crate) struct Plug {
    held: Cell<bool>,
    wanted: Cell<bool>,
}

impl Plug {
    /// From here on no kick passes.
    pub(crate) fn hold(&self) {
        self.held.set(true);
    }

    /// They pass again. Was one kept back? Then whoever calls this kicks.
    pub(crate) fn release(&self) -> bool {
        self.held.set(false);
        self.wanted.take()
    }
}

/// A PCI transport under a contract.
pub(crate) struct CheckedTransport {
    // Its own drop would wait for a reset without limit.
    inner: ManuallyDrop<PciTransport>,
    contract: Contract,
    /// Address of the common configuration.
    common: usize,
    /// Vector for every queue; [`NO_VECTOR`] without MSI-X.
    vector: u16,
    verdict: Verdict,
    plug: Rc<Plug>,
}

impl CheckedTransport {
    /// Wraps `inner`, whose common configuration is at `common`. With
    /// `interrupts` queues use MSI-X vector 0. The verdict stays readable
    /// after a driver has taken the transport.
    pub(crate) fn new(
        inner: PciTransport,
        contract: Contract,
        common: u64,
        interrupts: bool,
    ) -> (Self, Verdict) {
        let verdict = Verdict::default();
        let transport = Self {
            inner: ManuallyDrop::new(inner),
            contract,
            common: common as usize,
            vector: if interrupts { 0 } else { NO_VECTOR },
            verdict: verdict.clone(),
            plug: Rc::default(),
        };
        (transport, verdict)
    }

    /// What keeps this device's kicks back; readable after a driver has taken
    /// the transport, too.
    pub(crate) fn plug(&self) -> Rc<Plug> {
        Rc::clone(&self.plug)
    }

    fn refuse(&self, why: Refusal) {
        if self.verdict.get().is_none() {
            self.verdict.set(Some(why));
        }
    }

    fn refused(&self) -> bool {
        self.verdict.get().is_some()
    }

    fn reset(&mut self) {
        self.inner.set_status(DeviceStatus::empty());
        for _ in 0..RESET_PATIENCE {
            if self.inner.get_status().is_empty() {
                return;
            }
        }
        self.refuse(Refusal::ResetStuck);
    }

    /// Gives queue `queue` the MSI-X vector; a device that cannot reads back
    /// NO_VECTOR.
    fn set_vector(&mut self, queue: u16) {
        // SAFETY: registers of the common configuration, whose 64 bytes were
        // checked to lie in its BAR.
        let taken = unsafe {
            mmio::write16(self.common + register::CONFIG_MSIX_VECTOR, self.vector);
            mmio::write16(self.common + register::QUEUE_SELECT, queue);
            mmio::write16(self.common + register::QUEUE_MSIX_VECTOR, self.vector);
            mmio::read16(self.common + register::QUEUE_MSIX_VECTOR)
        };
        if taken != self.vector {
            self.refuse(Refusal::NoVector);
        }
    }
}

impl Transport for CheckedTransport {
    fn device_type(&self) -> DeviceType {
        self.inner.device_type()
    }

    fn read_device_features(&mut self) -> u64 {
        let offered = self.inner.read_device_features();
        if offered == self.contract.offered {
            return offered;
        }
        self.refuse(Refusal::Changed);
        0
    }

    fn write_driver_features(&mut self, wanted: u64) {
        self.inner.write_driver_features(self.contract.accept(wanted));
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        // A queue that is too small is how a driver is made to give up.
        if self.refused() { 0 } else { self.inner.max_queue_size(queue) }
    }

    fn notify(&mut self, queue: u16) {
        if self.plug.held.get() {
            return self.plug.wanted.set(true);
        }
        self.inner.notify(queue);
    }

    fn get_status(&self) -> DeviceStatus {
        self.inner.get_status()
    }

    fn set_status(&mut self, status: DeviceStatus) {
        if status.is_empty() {
            return self.reset();
        }
        if self.refused() {
            return self.inner.set_status(DeviceStatus::FAILED);
        }
        self.inner.set_status(status);
        // virtio 1.4, 3.1.1: the device may refuse the set; re-read to know.
        let negotiating = status.contains(DeviceStatus::FEATURES_OK);
        if negotiating && !self.inner.get_status().contains(DeviceStatus::FEATURES_OK) {
            self.refuse(Refusal::FeaturesRejected);
            self.inner.set_status(DeviceStatus::FAILED);
        }
    }

    fn set_guest_page_size(&mut self, size: u32) {
        self.inner.set_guest_page_size(size);
    }

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        self.set_vector(queue);
        self.inner.queue_set(queue, size, descriptors, driver_area, device_area);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.inner.queue_unset(queue);
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.inner.queue_used(queue)
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        self.inner.ack_interrupt()
    }

    fn read_config_generation(&self) -> u32 {
        self.inner.read_config_generation()
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        self.inner.read_config_space(offset)
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> Result<()> {
        self.inner.write_config_space(offset, value)
    }

    fn read_consistent<T>(&self, read: impl Fn() -> Result<T>) -> Result<T> {
        for _ in 0..GENERATIONS {
            let before = self.read_config_generation();
            let result = read();
            if self.read_config_generation() == before {
                return result;
            }
        }
        self.refuse(Refusal::Changed);
        Err(Error::IoError)
    }
}

impl Drop for CheckedTransport {
    fn drop(&mut self) {
        self.reset();
    }
}
