//! From a device's signal to a vCPU's pending interrupt.

use crate::addr::{Gfn, aligned_frame_number};
use crate::error::Error;
use crate::layout;
use crate::stats::VmCounter;
use crate::vgic::VcpuSet;
use crate::virtio::Signal;

use super::Vm;

impl Vm {
    /// Delivers what the transport signals; returns the vCPUs that gained
    /// something to take.
    pub(crate) fn signal(&mut self, signals: impl IntoIterator<Item = Signal>) -> VcpuSet {
        let mut targets = VcpuSet::default();
        for signal in signals {
            self.stats.add(VmCounter::DeviceInterrupts, 1);
            let gained = match signal {
                Signal::Msi { address, data } => self.vgic.msi(address, data),
                Signal::Intx { line, level } => {
                    self.vgic.set_level(layout::INTX_INTID + u32::from(line & 3), level)
                }
            };
            targets = targets.union(gained);
        }
        targets
    }

    /// The UART's line changes to `level`. Returns the vCPUs that must look
    /// at their interrupts again.
    ///
    /// # Errors
    /// [`Error::Denied`] unless the guest lets the host serve its UART: a
    /// line that the guest did not ask for is none of the host's.
    pub(crate) fn set_uart_line(&mut self, level: bool) -> Result<VcpuSet, Error> {
        if !self.guard.allows(uart_page()?) {
            return Err(Error::Denied);
        }
        Ok(self.vgic.set_level(layout::UART_INTID, level))
    }

    /// The guest takes its grant of `page` back. A UART that nobody serves
    /// does not interrupt. Returns the vCPUs as [`Self::set_uart_line`] does.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it was not granted.
    pub(crate) fn revoke(&mut self, page: Gfn) -> Result<VcpuSet, Error> {
        self.guard.unmap(page)?;
        if page == uart_page()? {
            return Ok(self.vgic.set_level(layout::UART_INTID, false));
        }
        Ok(VcpuSet::EMPTY)
    }
}

fn uart_page() -> Result<Gfn, Error> {
    Gfn::new(aligned_frame_number(layout::UART)?).ok_or(Error::InvalidParameter)
}
