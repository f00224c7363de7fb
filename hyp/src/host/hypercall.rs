//! The host's hypercalls: one table from function id to function.
//!
//! Arguments are values in x1 to x5, results values in x1 to x3; there is no
//! pointer in this ABI. `docs/abi.md` describes every call.

use crate::abi::{self, host as id};
use crate::addr::Pfn;
use crate::error::Error;
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::memory::PageState;
use crate::stats::MachineCounter;
use crate::vcpu::state::Frame;
use crate::vm::Handle;

use super::{device_calls as device, vm_calls as vm};

/// x1 to x5 of a call.
pub(super) type Arguments = [u64; 5];
/// x1 to x3 of its result.
pub(super) type Results = Result<[u64; 3], Error>;

/// Serves an HVC. The pc is already behind the instruction.
pub(super) fn handle<M: Machine>(hyp: &Hypervisor<M>, frame: &mut Frame, immediate: u16) {
    hyp.stats.count(MachineCounter::HostHypercalls);
    let [function, arguments @ ..] = [0, 1, 2, 3, 4, 5].map(|index| frame.get(index));
    let result = match u32::try_from(function) {
        Ok(function) if immediate == 0 => call(hyp, function, arguments),
        _ => Err(Error::NotSupported),
    };
    let (status, values) = match result {
        Ok(values) => (0, values),
        Err(error) => {
            hyp.stats.count(MachineCounter::HostHypercallErrors);
            (error.code(), [0; 3])
        }
    };
    frame.set(0, status as u64);
    for (register, value) in (1..).zip(values) {
        frame.set(register, value);
    }
}

fn call<M: Machine>(hyp: &Hypervisor<M>, function: u32, arguments: Arguments) -> Results {
    let [a1, a2, a3, a4, a5] = arguments;
    let handle = Handle::from_raw(a1);
    match function {
        id::VERSION => Ok([abi::VERSION, 0, 0]),
        id::FEATURES => Ok([limits(), abi::MAX_RANGE, 0]),
        id::VM_CREATE => vm::create(hyp, a1, a2, a3, a4, a5),
        id::VM_TOPUP => vm::topup(hyp, handle, a2, a3),
        id::FRAME_DONATE => vm::donate(hyp, handle, a2, a3, a4, a5),
        id::FRAME_SHARE => device::share(hyp, handle, a2, a3, a4, a5),
        id::VM_FINALISE => vm::finalise(hyp, handle, a2, a3),
        id::VM_MEASUREMENT => vm::measurement(hyp, handle, a2),
        id::VCPU_RUN => crate::guest::run(hyp, handle, a2, a3),
        id::VM_STOP => vm::stop(hyp, handle),
        id::FRAME_RECLAIM => vm::reclaim(hyp, handle, a2, a3),
        id::VM_DESTROY => vm::destroy(hyp, handle),
        id::DEVICE_CREATE => device::create(hyp, handle, a2, a3, a4, a5),
        id::DEVICE_CONFIG => device::config(hyp, handle, a2, a3, a4, a5),
        id::DEVICE_STATE => device::state(hyp, handle, a2),
        id::QUEUE_INFO => device::queue(hyp, handle, a2, a3, a4),
        id::DEVICE_INTERRUPT => device::interrupt(hyp, handle, a2, a3),
        id::DEVICE_FAIL => device::fail(hyp, handle, a2),
        id::UART_LINE => device::uart_line(hyp, handle, a2),
        id::EVENT_NEXT => next_event(hyp),
        id::STATS => statistics(hyp, a1, a2),
        id::FRAME_STATE => frame_state(hyp, a1),
        id::ABORT_STYLE => hyp.abort_style.choose(a1).map(|before| [before, 0, 0]),
        _ => Err(Error::NotSupported),
    }
}

fn limits() -> u64 {
    abi::MAX_VMS as u64 | (abi::MAX_VCPUS as u64) << 8 | (abi::MAX_DEVICES as u64) << 16
}

fn next_event<M: Machine>(hyp: &Hypervisor<M>) -> Results {
    let event = hyp.next_event().ok_or(Error::NotFound)?;
    let what = event.kind as u64
        | (event.cpu as u64) << 8
        | u64::from(event.owner) << 16
        | u64::from(event.syndrome) << 32;
    Ok([what, event.address, event.pc])
}

fn statistics<M: Machine>(hyp: &Hypervisor<M>, handle: u64, index: u64) -> Results {
    let value = if handle == 0 {
        let index = usize::try_from(index).map_err(|_| Error::InvalidParameter)?;
        let counter = MachineCounter::ALL.get(index).ok_or(Error::InvalidParameter)?;
        hyp.machine_counter(*counter)
    } else {
        hyp.with_vm(Handle::from_raw(handle), |vm| {
            vm.stats.get(index).ok_or(Error::InvalidParameter)
        })?
    };
    Ok([value, 0, 0])
}

/// What the host can find out by touching the frame, without the abort.
fn frame_state<M: Machine>(hyp: &Hypervisor<M>, pfn: u64) -> Results {
    let pfn = Pfn::new(pfn).ok_or(Error::InvalidParameter)?;
    let state = match hyp.with_memory(|memory| memory.state_for_host(pfn)) {
        PageState::Owned => 0,
        PageState::SharedOwned => 1,
        PageState::SharedBorrowed => 2,
        PageState::NoPage => 3,
    };
    Ok([state, 0, 0])
}
