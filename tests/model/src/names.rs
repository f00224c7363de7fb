//! Who and what an event means, now.

use crate::call::Call;
use crate::event::{FrameName, HostAction, HostCall, IpaName, VmName};
use crate::frame_set::FrameSet;
use crate::state::{ALIAS, Frames, Page, RAM, State};
use hyp::abi::host as id;
use hyp::addr::FRAME_SHIFT;
use hyp::layout;

/// A number that names no VM and no frame.
const NOBODY: u64 = 0xdead_0000;

fn vm(state: &State, name: VmName) -> u64 {
    match name {
        VmName::Slot(slot) => {
            let there = state.vm_in(slot).or_else(|| state.vms.iter().flatten().next());
            there.map_or(NOBODY, |vm| vm.handle)
        }
        VmName::Raw(raw) => raw,
    }
}

/// The number of the frame a name means; `count` frames are wanted.
pub fn frame(state: &State, name: FrameName, count: u64) -> u64 {
    let of = |slot, which: fn(&Frames) -> &FrameSet, n: u8| {
        state.of(slot).and_then(|its| which(its).iter().nth(usize::from(n)))
    };
    let found = match name {
        FrameName::Raw(raw) => return raw,
        FrameName::Free(skip) => free(state, skip, count),
        FrameName::OwnedBy(slot, n) => of(slot, |its| &its.owned, n),
        FrameName::LentTo(slot, n) => of(slot, |its| &its.lent, n),
        FrameName::TableOf(slot, n) => of(slot, |its| &its.tables, n),
        FrameName::Hyp(n) => {
            let is_for_ever = |page| matches!(page, Page::Hyp | Page::Firmware);
            let mut kept = state.frames().filter(|(_, page)| is_for_ever(*page));
            kept.nth(usize::from(n)).map(|(pfn, _)| pfn)
        }
    };
    found.unwrap_or(NOBODY)
}

/// The first frame of the first run of the host's own, past `skip` starts.
fn free(state: &State, skip: u8, count: u64) -> Option<u64> {
    let count = count.clamp(1, 32);
    let (mut run, mut next) = (0, 0);
    let mut skip = u64::from(skip);
    for pfn in state.free().iter() {
        run = if pfn == next { run + 1 } else { 1 };
        next = pfn + 1;
        if run >= count {
            if skip == 0 {
                return Some(next - count);
            }
            skip -= 1;
        }
    }
    None
}

/// The address a guest's name means.
pub fn ipa(state: &State, slot: u8, name: IpaName) -> u64 {
    let device = |index: u8| state.vm_in(slot)?.devices.get(usize::from(index));
    match name {
        IpaName::Ram(page, offset) => {
            (RAM + u64::from(page)) << FRAME_SHIFT | u64::from(offset & 0xfff)
        }
        IpaName::Alias(page, offset) => {
            ipa(state, slot, IpaName::Ram(page, offset)) | ALIAS << FRAME_SHIFT
        }
        IpaName::Bounce(index, page, offset) => {
            let window = device(index).and_then(|device| device.window);
            let start = window.map_or(layout::PCI_MEM64 >> FRAME_SHIFT, |(start, _)| start);
            (start + u64::from(page)) << FRAME_SHIFT | u64::from(offset & 0xff8)
        }
        IpaName::Registers(index, offset) => {
            layout::PCI_MEM32 + u64::from(index) * 0x1_0000 + u64::from(offset)
        }
        IpaName::Config(index, offset) => {
            layout::ECAM + u64::from(index) * 0x8000 + u64::from(offset)
        }
        // What a stage-2 fault can report: 48 bits.
        IpaName::Raw(raw) => raw & 0xffff_ffff_ffff,
    }
}

/// An address as an argument of a hypercall: nothing is cut off.
pub fn argument(state: &State, slot: u8, name: IpaName) -> u64 {
    match name {
        IpaName::Raw(raw) => raw,
        name => ipa(state, slot, name),
    }
}

/// The registers of a hypercall; `None` for what is none.
pub fn host_call(state: &State, action: &HostAction) -> Option<Call> {
    let call = |function: u32, arguments: [u64; 5]| {
        Some(Call { function: function.into(), immediate: 0, a: arguments })
    };
    let vm = |name| vm(state, name);
    let named = match action {
        HostAction::Call(named) => *named,
        HostAction::Run { vm: name, vcpu, reply, .. } => {
            return call(id::VCPU_RUN, [vm(*name), *vcpu, *reply, 0, 0]);
        }
        HostAction::Hvc(function, immediate, arguments) => {
            return Some(Call { function: *function, immediate: *immediate, a: *arguments });
        }
        _ => return None,
    };
    use HostCall as C;
    match named {
        C::Version => call(id::VERSION, [0; 5]),
        C::Features => call(id::FEATURES, [0; 5]),
        C::VmCreate { pfn, count, ram, vcpus, flags } => {
            call(id::VM_CREATE, [frame(state, pfn, count), count, ram, vcpus, flags])
        }
        C::VmTopup { vm: v, pfn, count } => {
            call(id::VM_TOPUP, [vm(v), frame(state, pfn, count), count, 0, 0])
        }
        C::FrameDonate { vm: v, pfn, gfn, count, flags } => {
            call(id::FRAME_DONATE, [vm(v), frame(state, pfn, count), gfn, count, flags])
        }
        C::FrameShare { vm: v, device, page, pfn, count } => {
            call(id::FRAME_SHARE, [vm(v), device, page, frame(state, pfn, count), count])
        }
        C::VmFinalise { vm: v, entry, argument } => {
            call(id::VM_FINALISE, [vm(v), entry, argument, 0, 0])
        }
        C::VmMeasurement { vm: v, part } => call(id::VM_MEASUREMENT, [vm(v), part, 0, 0, 0]),
        C::VmStop { vm: v } => call(id::VM_STOP, [vm(v), 0, 0, 0, 0]),
        C::FrameReclaim { vm: v, pfn, count } => {
            call(id::FRAME_RECLAIM, [vm(v), frame(state, pfn, count), count, 0, 0])
        }
        C::VmDestroy { vm: v } => call(id::VM_DESTROY, [vm(v), 0, 0, 0, 0]),
        C::DeviceCreate { vm: v, kind, policy, pages, queues } => {
            call(id::DEVICE_CREATE, [vm(v), kind, policy, pages, queues])
        }
        C::DeviceConfig { vm: v, device, offset, value, bytes } => {
            call(id::DEVICE_CONFIG, [vm(v), device, offset, value, bytes])
        }
        C::DeviceState { vm: v, device } => call(id::DEVICE_STATE, [vm(v), device, 0, 0, 0]),
        C::QueueInfo { vm: v, device, queue, part } => {
            call(id::QUEUE_INFO, [vm(v), device, queue, part, 0])
        }
        C::DeviceInterrupt { vm: v, device, cause } => {
            call(id::DEVICE_INTERRUPT, [vm(v), device, cause, 0, 0])
        }
        C::DeviceFail { vm: v, device } => call(id::DEVICE_FAIL, [vm(v), device, 0, 0, 0]),
        C::EventNext => call(id::EVENT_NEXT, [0; 5]),
        C::Stats { vm: v, index } => call(id::STATS, [vm(v), index, 0, 0, 0]),
        C::UartLine { vm: v, level } => call(id::UART_LINE, [vm(v), level, 0, 0, 0]),
        C::AbortStyle { style } => call(id::ABORT_STYLE, [style, 0, 0, 0, 0]),
        C::FrameState { pfn } => call(id::FRAME_STATE, [frame(state, pfn, 1), 0, 0, 0, 0]),
    }
}

/// A call as docs/abi.md writes it.
pub fn listing(call: &Call) -> String {
    let names = [
        "VERSION",
        "FEATURES",
        "VM_CREATE",
        "VM_TOPUP",
        "FRAME_DONATE",
        "FRAME_SHARE",
        "VM_FINALISE",
        "VM_MEASUREMENT",
        "VCPU_RUN",
        "VM_STOP",
        "FRAME_RECLAIM",
        "VM_DESTROY",
        "DEVICE_CREATE",
        "DEVICE_CONFIG",
        "DEVICE_STATE",
        "QUEUE_INFO",
        "DEVICE_INTERRUPT",
        "DEVICE_FAIL",
        "EVENT_NEXT",
        "STATS",
        "FRAME_STATE",
        "UART_LINE",
        "ABORT_STYLE",
    ];
    let index = call.function.checked_sub(id::VERSION.into()).map(|index| index as usize);
    let name = index.and_then(|index| names.get(index)).filter(|_| call.immediate == 0);
    match name {
        Some(name) => format!("{name}{:x?}", call.a),
        None => format!("HVC #{} {:#x} {:x?}", call.immediate, call.function, call.a),
    }
}
