//! The host's calls about a VM's devices: it makes them, describes them, and
//! serves them. The contract with the driver is not the host's to change
//! (`virtio`).

use crate::abi;
use crate::addr::{FRAME_SIZE, PfnRange};
use crate::error::Error;
use crate::hypervisor::Hypervisor;
use crate::layout;
use crate::machine::Machine;
use crate::stats::VmCounter;
use crate::virtio::{Policy, Signal};
use crate::vm::{GuestAbi, Handle, Stage, Vm};

use super::hypercall::Results;

fn index(raw: u64) -> Result<usize, Error> {
    usize::try_from(raw).map_err(|_| Error::NotFound)
}

fn halfword(raw: u64) -> Result<u16, Error> {
    u16::try_from(raw).map_err(|_| Error::InvalidParameter)
}

/// DEVICE_CREATE(handle, type, policy, pages, queues | size << 16) → device.
/// With shadow-iommu and guest-choice the pages are the budget of the device's
/// window. A realm has no such device: an address of its own says who can see a page.
pub(super) fn create<M: Machine>(
    hyp: &Hypervisor<M>,
    handle: Handle,
    kind: u64,
    policy: u64,
    pages: u64,
    queues: u64,
) -> Results {
    let policy = Policy::from_abi(policy)?;
    let (kind, size) = (halfword(kind)?, halfword(queues >> 16)?);
    let queues = queues as u16;
    let device = hyp.with_memory_and_vm(handle, |memory, vm| {
        vm.expect_stage(Stage::Building)?;
        if policy.has_window() && vm.abi == GuestAbi::Rsi {
            return Err(Error::InvalidParameter);
        }
        let device = vm.bus.create(kind, policy, pages, queues, size)?;
        if policy.has_window() {
            memory.open_window(&mut vm.memory, device, pages)?;
        }
        Ok(device)
    })?;
    Ok([device as u64, 0, 0])
}

/// FRAME_SHARE(handle, device, first BAR page, first pfn, count) → frames
/// done: lends frames to the guest as the bounce BAR's memory.
pub(super) fn share<M: Machine>(
    hyp: &Hypervisor<M>,
    handle: Handle,
    device: u64,
    page: u64,
    pfn: u64,
    count: u64,
) -> Results {
    let device = index(device)?;
    let frames = PfnRange::new(pfn, count)?.truncate(abi::MAX_RANGE);
    let done = hyp.with_memory_and_vm(handle, |memory, vm| {
        vm.expect_stage(Stage::Building)?;
        expect_free_pages(vm, device, page, frames.count())?;
        let done = memory.host_share_guest(&hyp.machine, &vm.memory, frames)?;
        for (page, pfn) in (page..).zip(frames.truncate(done).iter()) {
            vm.bus.set_bounce_frame(device, page, pfn)?;
        }
        Ok(done)
    })?;
    Ok([done, 0, 0])
}

/// Are these pages of the device's bounce BAR there, and without a frame?
fn expect_free_pages(vm: &Vm, device: usize, page: u64, count: u64) -> Result<(), Error> {
    let end = page.checked_add(count).ok_or(Error::InvalidParameter)?;
    if end > vm.bus.bounce_pages(device) {
        return Err(Error::NotFound);
    }
    match (page..end).any(|page| vm.bus.bounce_frame(device, page).is_some()) {
        true => Err(Error::BadState),
        false => Ok(()),
    }
}

/// DEVICE_CONFIG(handle, device, offset, value, bytes) → vCPUs to kick.
pub(super) fn config<M: Machine>(
    hyp: &Hypervisor<M>,
    handle: Handle,
    device: u64,
    offset: u64,
    value: u64,
    bytes: u64,
) -> Results {
    let device = index(device)?;
    let bytes = u8::try_from(bytes).map_err(|_| Error::InvalidParameter)?;
    let kick = hyp.with_vm(handle, |vm| {
        let live = match vm.stage {
            Stage::Building => false,
            Stage::Running => true,
            Stage::Dying => return Err(Error::BadState),
        };
        let effects = vm.bus.config_write(device, offset, value, bytes, live)?;
        Ok(signal_guest(hyp, vm, effects.signals.iter()))
    })?;
    Ok([kick, 0, 0])
}

/// DEVICE_STATE(handle, device).
pub(super) fn state<M: Machine>(hyp: &Hypervisor<M>, handle: Handle, device: u64) -> Results {
    let device = index(device)?;
    let state = hyp.with_vm(handle, |vm| vm.bus.state(device))?;
    Ok([
        u64::from(state.status)
            | u64::from(state.bus_master) << 8
            | u64::from(state.reset_count) << 32,
        state.notified,
        state.features,
    ])
}

/// QUEUE_INFO(handle, device, queue, part).
pub(super) fn queue<M: Machine>(
    hyp: &Hypervisor<M>,
    handle: Handle,
    device: u64,
    queue: u64,
    part: u64,
) -> Results {
    let (device, queue) = (index(device)?, halfword(queue)?);
    let (info, (pages, window)) = hyp.with_vm(handle, |vm| {
        let place = match vm.memory.window(device) {
            Some(window) => (layout::APERTURE_SIZE / FRAME_SIZE, window.first().base()),
            None => (vm.bus.bounce_pages(device), 0),
        };
        Ok((vm.bus.queue(device, queue)?, place))
    })?;
    match part {
        0 => {
            let shape = u64::from(info.size) | u64::from(info.enabled) << 16;
            Ok([shape, info.descriptor, u64::from(info.resets)])
        }
        1 => Ok([info.driver, info.device, 0]),
        2 => Ok([info.base, pages, window]),
        _ => Err(Error::InvalidParameter),
    }
}

/// DEVICE_INTERRUPT(handle, device, cause) → vCPUs to kick.
pub(super) fn interrupt<M: Machine>(
    hyp: &Hypervisor<M>,
    handle: Handle,
    device: u64,
    cause: u64,
) -> Results {
    let device = index(device)?;
    let kick = hyp.with_vm(handle, |vm| {
        vm.expect_stage(Stage::Running)?;
        let signal = vm.bus.interrupt(device, cause).inspect_err(|_| {
            vm.stats.add(VmCounter::RefusedInterrupts, 1);
        })?;
        Ok(signal_guest(hyp, vm, signal))
    })?;
    Ok([kick, 0, 0])
}

/// DEVICE_FAIL(handle, device) → vCPUs to kick.
pub(super) fn fail<M: Machine>(hyp: &Hypervisor<M>, handle: Handle, device: u64) -> Results {
    let device = index(device)?;
    let kick = hyp.with_vm(handle, |vm| {
        vm.expect_stage(Stage::Running)?;
        let signal = vm.bus.fail(device)?;
        Ok(signal_guest(hyp, vm, signal))
    })?;
    Ok([kick, 0, 0])
}

/// UART_LINE(handle, level) → vCPUs to kick.
pub(super) fn uart_line<M: Machine>(hyp: &Hypervisor<M>, handle: Handle, level: u64) -> Results {
    if level > 1 {
        return Err(Error::InvalidParameter);
    }
    let kick = hyp.with_vm(handle, |vm| {
        vm.expect_stage(Stage::Running)?;
        let targets = vm.set_uart_line(level == 1)?;
        Ok(u64::from(vm.vcpus.to_kick(targets, hyp.machine.cpu()).bits()))
    })?;
    Ok([kick, 0, 0])
}

/// Gives the guest what the transport decided, and the host the bitmap of
/// vCPUs that it must interrupt or schedule for the guest to notice.
fn signal_guest<M: Machine>(
    hyp: &Hypervisor<M>,
    vm: &mut Vm,
    signals: impl IntoIterator<Item = Signal>,
) -> u64 {
    let targets = vm.signal(signals);
    u64::from(vm.vcpus.to_kick(targets, hyp.machine.cpu()).bits())
}
