//! From a device's signal to a vCPU's pending interrupt.

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
}
