//! What the host learns when a vCPU returns to it. This is the whole table:
//! per reason, x1 to x3 of VCPU_RUN's result. The guest's registers stay in
//! EL2's `VcpuState`; nothing else of them leaves.
//!
//! What the host may change on the way in is the table's other half: the
//! destination register of an MMIO load that it was asked to answer, masked
//! to the size of the access (`Vcpu::complete_load`), and nothing else.

use crate::abi::exit;
use crate::vgic::VcpuSet;

/// A return to the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HostExit {
    /// A physical interrupt is pending.
    Interrupt,
    /// WFI, until this value of CNTPCT_EL0 at the latest: 0 if there is
    /// something to take already, all ones if only an interrupt will end it.
    Wait { deadline: u64 },
    /// Load from a page that the guest granted to the host.
    MmioRead { ipa: u64, size: u8 },
    /// Store to one. The value is the guest's word to the host.
    MmioWrite { ipa: u64, size: u8, value: u64 },
    /// The driver notified a queue.
    Notify { device: usize, queue: u16 },
    /// The driver wrote the device's status, or reset a queue.
    Device { device: usize },
    /// SYSTEM_OFF or SYSTEM_RESET.
    Shutdown { reset: bool },
    /// CPU_ON of this vCPU.
    CpuOn { index: u64 },
    /// CPU_OFF of the calling vCPU.
    CpuOff,
    /// Other vCPUs have something to take.
    Kick,
    /// A page that nobody gave yet: RAM to donate, or (outside RAM) a bounce
    /// page, an alias or a page of a window that wants a table, so that memcache
    /// is needed.
    MemoryFault { page: u64 },
    /// The VM is dying.
    Dead,
}

impl HostExit {
    /// x1 to x3. `kick` are the vCPUs that the host should interrupt or
    /// schedule; it is told with every reason but MMIO.
    pub(crate) fn registers(self, kick: VcpuSet) -> [u64; 3] {
        let kick = u64::from(kick.bits());
        match self {
            HostExit::Interrupt => [exit::INTERRUPT, 0, kick],
            HostExit::Wait { deadline } => [exit::WFI, deadline, kick],
            HostExit::MmioRead { ipa, size } => [exit::MMIO | u64::from(size) << 9, ipa, 0],
            HostExit::MmioWrite { ipa, size, value } => {
                [exit::MMIO | 1 << 8 | u64::from(size) << 9, ipa, value]
            }
            HostExit::Notify { device, queue } => {
                [exit::NOTIFY, device as u64 | u64::from(queue) << 16, kick]
            }
            HostExit::Device { device } => [exit::DEVICE, device as u64, kick],
            HostExit::Shutdown { reset } => [exit::SHUTDOWN, u64::from(reset), kick],
            HostExit::CpuOn { index } => [exit::CPU_ON, index, kick],
            HostExit::CpuOff => [exit::CPU_OFF, 0, kick],
            HostExit::Kick => [exit::KICK, kick, kick],
            HostExit::MemoryFault { page } => [exit::MEM_FAULT, page, kick],
            HostExit::Dead => [exit::DEAD, 0, kick],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of docs/abi.md, in numbers.
    #[test]
    fn each_reason_tells_this_and_no_more() {
        let mut kick = VcpuSet::EMPTY;
        [0, 3].into_iter().for_each(|vcpu| kick.insert(vcpu));
        let vcpus = 0b1001;
        let (ipa, value) = (0x900_0018, 0x5a);
        for (exit, registers) in [
            (HostExit::Interrupt, [0, 0, vcpus]),
            (HostExit::Wait { deadline: 77 }, [1, 77, vcpus]),
            (HostExit::MmioRead { ipa, size: 4 }, [2 | 4 << 9, ipa, 0]),
            (HostExit::MmioWrite { ipa, size: 8, value }, [2 | 1 << 8 | 8 << 9, ipa, value]),
            (HostExit::Notify { device: 2, queue: 5 }, [3, 2 | 5 << 16, vcpus]),
            (HostExit::Device { device: 3 }, [4, 3, vcpus]),
            (HostExit::Shutdown { reset: false }, [5, 0, vcpus]),
            (HostExit::Shutdown { reset: true }, [5, 1, vcpus]),
            (HostExit::CpuOn { index: 6 }, [6, 6, vcpus]),
            (HostExit::CpuOff, [7, 0, vcpus]),
            (HostExit::Kick, [8, vcpus, vcpus]),
            (HostExit::MemoryFault { page: 0x4000_1000 }, [9, 0x4000_1000, vcpus]),
            (HostExit::Dead, [10, 0, vcpus]),
        ] {
            assert_eq!(exit.registers(kick), registers, "{exit:?}");
        }
    }
}
