//! The host's hypercalls, typed: `hyp::abi` in one function per call.

use hyp::abi::{self, exit, host};
use hyp::error::Error;

/// Makes a hypercall: function id in x0, arguments in x1 to x5, x0 to x3 back.
pub trait Conduit {
    /// Calls EL2.
    fn call(&self, function: u32, arguments: [u64; 5]) -> [u64; 4];
}

/// Why bouncer refused a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// One of its errors.
    Error(Error),
    /// A code this host does not know.
    Unknown(i64),
}

/// Every error bouncer may answer with.
const ERRORS: [Error; 7] = [
    Error::NotSupported,
    Error::InvalidParameter,
    Error::Denied,
    Error::NotFound,
    Error::Busy,
    Error::NoMemory,
    Error::BadState,
];

impl Refusal {
    /// The error of a return code; `None` for success.
    pub fn from_code(code: i64) -> Option<Self> {
        if code == 0 {
            return None;
        }
        let known = ERRORS.into_iter().find(|error| error.code() == code);
        Some(known.map_or(Refusal::Unknown(code), Refusal::Error))
    }
}

/// Why VCPU_RUN came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// An interrupt of the host's is pending.
    Interrupt,
    /// The vCPU waits; its timer fires at this CNTPCT_EL0, if at all.
    Wait {
        /// Counter value.
        deadline: Option<u64>,
    },
    /// A device access the host serves.
    Mmio {
        /// Guest address.
        ipa: u64,
        /// Bytes, 1 to 8.
        size: u8,
        /// The value written; `None` for a read.
        write: Option<u64>,
    },
    /// The driver kicked a queue.
    Notify {
        /// Device index.
        device: u64,
        /// Queue index.
        queue: u16,
    },
    /// The driver changed a device's status or reset something.
    Device {
        /// Device index.
        device: u64,
    },
    /// The guest is done.
    Shutdown {
        /// It wants to start again.
        reset: bool,
    },
    /// The guest started a vCPU.
    CpuOn {
        /// Its index.
        vcpu: u64,
    },
    /// The vCPU turned itself off.
    CpuOff,
    /// vCPUs that have something new pending.
    Kick {
        /// One bit each.
        vcpus: u64,
    },
    /// The guest touched RAM that nobody donated yet.
    MemFault {
        /// Page-aligned guest address.
        ipa: u64,
    },
    /// The VM is dying.
    Dead,
    /// A number this host does not know.
    Unknown(u64),
}

impl Exit {
    /// Decodes x1 to x3 of VCPU_RUN.
    pub fn decode(x1: u64, x2: u64, x3: u64) -> Self {
        match x1 & 0xff {
            exit::INTERRUPT => Exit::Interrupt,
            exit::WFI => Exit::Wait { deadline: (x2 != u64::MAX).then_some(x2) },
            exit::MMIO => Exit::Mmio {
                ipa: x2,
                size: (x1 >> 9 & 0xf) as u8,
                write: (x1 >> 8 & 1 == 1).then_some(x3),
            },
            exit::NOTIFY => Exit::Notify { device: x2 & 0xffff, queue: (x2 >> 16) as u16 },
            exit::DEVICE => Exit::Device { device: x2 },
            exit::SHUTDOWN => Exit::Shutdown { reset: x2 != 0 },
            exit::CPU_ON => Exit::CpuOn { vcpu: x2 },
            exit::CPU_OFF => Exit::CpuOff,
            exit::KICK => Exit::Kick { vcpus: x2 },
            exit::MEM_FAULT => Exit::MemFault { ipa: x2 },
            exit::DEAD => Exit::Dead,
            other => Exit::Unknown(other),
        }
    }
}

/// What EVENT_NEXT tells of a refused access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Kind of event.
    pub kind: u8,
    /// CPU it happened on.
    pub cpu: u8,
    /// Owner of the frame: 0 nobody, 1 EL2, 2 the host, 3 and up guests.
    pub owner: u8,
    /// Syndrome, low 32 bits of ESR_EL2.
    pub syndrome: u32,
    /// Physical address.
    pub address: u64,
    /// Program counter of the attempt.
    pub pc: u64,
}

/// What DEVICE_STATE tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceState {
    /// The driver's status byte.
    pub status: u8,
    /// May the device access memory?
    pub bus_master: bool,
    /// How often the driver reset the device.
    pub resets: u32,
    /// Queues notified since the last call, one bit each.
    pub notified: u64,
    /// Features the driver accepted.
    pub features: u64,
}

/// What QUEUE_INFO tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueInfo {
    /// Number of descriptors.
    pub size: u16,
    /// The driver enabled it.
    pub enabled: bool,
    /// Descriptor table.
    pub descriptors: u64,
    /// Available ring.
    pub driver: u64,
    /// Used ring.
    pub device: u64,
    /// What the guest calls the first byte that its device may touch: the
    /// address of the bounce BAR when the queue was enabled, or the first I/O
    /// virtual address. No use with shared pages.
    pub window: u64,
    /// Pages from there on.
    pub pages: u64,
    /// Of a device with an I/O table, the host's own address of that byte.
    pub here: u64,
    /// How often the driver reset this queue.
    pub resets: u32,
}

/// A VM's handle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handle(pub u64);

/// bouncer, as the host calls it. All methods fail with [`Refusal`].
#[derive(Clone, Copy, Debug)]
pub struct Bouncer<C>(pub C);

impl<C: Conduit> Bouncer<C> {
    fn call(&self, function: u32, arguments: [u64; 5]) -> Result<[u64; 3], Refusal> {
        let [code, x1, x2, x3] = self.0.call(function, arguments);
        match Refusal::from_code(code as i64) {
            None => Ok([x1, x2, x3]),
            Some(refusal) => Err(refusal),
        }
    }

    /// VERSION: major << 16 | minor.
    pub fn version(&self) -> Result<u64, Refusal> {
        Ok(self.call(host::VERSION, [0; 5])?[0])
    }

    /// FEATURES: limits, and most frames per range call.
    pub fn features(&self) -> Result<(u64, u64), Refusal> {
        let [limits, range, _] = self.call(host::FEATURES, [0; 5])?;
        Ok((limits, range))
    }

    /// VM_CREATE with `count` frames of memcache from `pfn`. `flags` chooses
    /// whose calls the guest speaks, [`abi::CREATE_RSI`] or pKVM's, and
    /// whether its console is the host's from the start
    /// ([`abi::CREATE_CONSOLE`]).
    pub fn vm_create(
        &self,
        pfn: u64,
        count: u64,
        ram_pages: u64,
        vcpus: u64,
        flags: u64,
    ) -> Result<Handle, Refusal> {
        let [handle, ..] = self.call(host::VM_CREATE, [pfn, count, ram_pages, vcpus, flags])?;
        Ok(Handle(handle))
    }

    /// VM_TOPUP: frames taken.
    pub fn vm_topup(&self, vm: Handle, pfn: u64, count: u64) -> Result<u64, Refusal> {
        Ok(self.call(host::VM_TOPUP, [vm.0, pfn, count, 0, 0])?[0])
    }

    /// FRAME_DONATE: frames done.
    pub fn frame_donate(
        &self,
        vm: Handle,
        pfn: u64,
        gfn: u64,
        count: u64,
        measured: bool,
    ) -> Result<u64, Refusal> {
        let flags = if measured { abi::DONATE_MEASURED } else { 0 };
        self.frame_donate_raw(vm, pfn, gfn, count, flags)
    }

    /// FRAME_DONATE with any flags.
    pub fn frame_donate_raw(
        &self,
        vm: Handle,
        pfn: u64,
        gfn: u64,
        count: u64,
        flags: u64,
    ) -> Result<u64, Refusal> {
        Ok(self.call(host::FRAME_DONATE, [vm.0, pfn, gfn, count, flags])?[0])
    }

    /// FRAME_SHARE: frames done, from `page` of the device's bounce BAR.
    pub fn frame_share(
        &self,
        vm: Handle,
        device: u64,
        page: u64,
        pfn: u64,
        count: u64,
    ) -> Result<u64, Refusal> {
        Ok(self.call(host::FRAME_SHARE, [vm.0, device, page, pfn, count])?[0])
    }

    /// VM_FINALISE.
    pub fn vm_finalise(&self, vm: Handle, entry: u64, argument: u64) -> Result<(), Refusal> {
        self.call(host::VM_FINALISE, [vm.0, entry, argument, 0, 0]).map(|_| ())
    }

    /// VM_MEASUREMENT: the SHA-256 digest.
    pub fn vm_measurement(&self, vm: Handle) -> Result<[u8; 32], Refusal> {
        let mut digest = [0; 32];
        for (part, half) in digest.chunks_exact_mut(16).enumerate() {
            let [low, high, _] = self.call(host::VM_MEASUREMENT, [vm.0, part as u64, 0, 0, 0])?;
            let words = u128::from(low) | u128::from(high) << 64;
            half.copy_from_slice(&words.to_le_bytes());
        }
        Ok(digest)
    }

    /// VCPU_RUN with the reply to the MMIO read it exited with, if any.
    pub fn vcpu_run(&self, vm: Handle, vcpu: u64, reply: u64) -> Result<Exit, Refusal> {
        let [x1, x2, x3] = self.call(host::VCPU_RUN, [vm.0, vcpu, reply, 0, 0])?;
        Ok(Exit::decode(x1, x2, x3))
    }

    /// VM_STOP.
    pub fn vm_stop(&self, vm: Handle) -> Result<(), Refusal> {
        self.call(host::VM_STOP, [vm.0, 0, 0, 0, 0]).map(|_| ())
    }

    /// FRAME_RECLAIM: frames done.
    pub fn frame_reclaim(&self, vm: Handle, pfn: u64, count: u64) -> Result<u64, Refusal> {
        Ok(self.call(host::FRAME_RECLAIM, [vm.0, pfn, count, 0, 0])?[0])
    }

    /// VM_DESTROY: frames EL2 still holds.
    pub fn vm_destroy(&self, vm: Handle) -> Result<u64, Refusal> {
        Ok(self.call(host::VM_DESTROY, [vm.0, 0, 0, 0, 0])?[0])
    }

    /// DEVICE_CREATE: the device's index. So many queues of at most so many
    /// descriptors each; 0 stands for the most there can be.
    pub fn device_create(
        &self,
        vm: Handle,
        kind: u64,
        policy: u64,
        bounce_pages: u64,
        (queues, size): (u64, u64),
    ) -> Result<u64, Refusal> {
        let queues = queues | size << 16;
        Ok(self.call(host::DEVICE_CREATE, [vm.0, kind, policy, bounce_pages, queues])?[0])
    }

    /// DEVICE_CONFIG: writes `bytes` bytes of `value` at `offset`.
    pub fn device_config(
        &self,
        vm: Handle,
        device: u64,
        offset: u64,
        value: u64,
        bytes: u64,
    ) -> Result<(), Refusal> {
        self.call(host::DEVICE_CONFIG, [vm.0, device, offset, value, bytes]).map(|_| ())
    }

    /// DEVICE_STATE. Clears the notifications it returns.
    pub fn device_state(&self, vm: Handle, device: u64) -> Result<DeviceState, Refusal> {
        let [state, notified, features] = self.call(host::DEVICE_STATE, [vm.0, device, 0, 0, 0])?;
        Ok(DeviceState {
            status: state as u8,
            bus_master: state >> 8 & 1 == 1,
            resets: (state >> 32) as u32,
            notified,
            features,
        })
    }

    /// QUEUE_INFO, all parts.
    pub fn queue_info(&self, vm: Handle, device: u64, queue: u16) -> Result<QueueInfo, Refusal> {
        let part = |part| self.call(host::QUEUE_INFO, [vm.0, device, queue.into(), part, 0]);
        let [shape, descriptors, resets] = part(0)?;
        let [driver, used, _] = part(1)?;
        let [window, pages, here] = part(2)?;
        Ok(QueueInfo {
            size: shape as u16,
            enabled: shape >> 16 & 1 == 1,
            descriptors,
            driver,
            device: used,
            window,
            pages,
            here,
            resets: resets as u32,
        })
    }

    /// DEVICE_INTERRUPT for a queue or [`abi::CAUSE_CONFIG`]: vCPUs to kick.
    pub fn device_interrupt(&self, vm: Handle, device: u64, cause: u64) -> Result<u64, Refusal> {
        Ok(self.call(host::DEVICE_INTERRUPT, [vm.0, device, cause, 0, 0])?[0])
    }

    /// DEVICE_FAIL: vCPUs to kick.
    pub fn device_fail(&self, vm: Handle, device: u64) -> Result<u64, Refusal> {
        Ok(self.call(host::DEVICE_FAIL, [vm.0, device, 0, 0, 0])?[0])
    }

    /// UART_LINE: vCPUs to kick.
    pub fn uart_line(&self, vm: Handle, level: bool) -> Result<u64, Refusal> {
        Ok(self.call(host::UART_LINE, [vm.0, level.into(), 0, 0, 0])?[0])
    }

    /// EVENT_NEXT: the oldest event, `None` if there is none.
    pub fn event_next(&self) -> Option<Event> {
        let [x1, address, pc] = self.call(host::EVENT_NEXT, [0; 5]).ok()?;
        Some(Event {
            kind: x1 as u8,
            cpu: (x1 >> 8) as u8,
            owner: (x1 >> 16) as u8,
            syndrome: (x1 >> 32) as u32,
            address,
            pc,
        })
    }

    /// STATS: counter `index` of a VM, or of the machine with `None`.
    pub fn stats(&self, vm: Option<Handle>, index: u64) -> Result<u64, Refusal> {
        let handle = vm.map_or(0, |vm| vm.0);
        Ok(self.call(host::STATS, [handle, index, 0, 0, 0])?[0])
    }

    /// ABORT_STYLE: the one before.
    pub fn abort_style(&self, style: u64) -> Result<u64, Refusal> {
        Ok(self.call(host::ABORT_STYLE, [style, 0, 0, 0, 0])?[0])
    }

    /// FRAME_STATE: see [`host::FRAME_STATE`].
    pub fn frame_state(&self, pfn: u64) -> Result<u64, Refusal> {
        Ok(self.call(host::FRAME_STATE, [pfn, 0, 0, 0, 0])?[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_of_bouncer_has_a_name_here() {
        for error in ERRORS {
            assert_eq!(Refusal::from_code(error.code()), Some(Refusal::Error(error)));
        }
        assert_eq!(Refusal::from_code(0), None);
        assert_eq!(Refusal::from_code(-99), Some(Refusal::Unknown(-99)));
    }

    #[test]
    fn an_mmio_exit_says_what_the_guest_did() {
        let write = Exit::decode(exit::MMIO | 1 << 8 | 4 << 9, 0x0900_0000, 0x41);
        assert_eq!(write, Exit::Mmio { ipa: 0x0900_0000, size: 4, write: Some(0x41) });
        let read = Exit::decode(exit::MMIO | 2 << 9, 0x0900_0018, 0);
        assert_eq!(read, Exit::Mmio { ipa: 0x0900_0018, size: 2, write: None });
        assert_eq!(Exit::decode(exit::WFI, u64::MAX, 0), Exit::Wait { deadline: None });
    }
}
