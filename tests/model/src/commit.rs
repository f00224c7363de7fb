//! The host's calls: what they change.

use crate::call::Call;
use crate::host::has_window;
use crate::iotable::Table;
use crate::state::{Device, Page, Stage, State, Vcpu, Vm, one_call, one_donation, range};
use hyp::abi::{self, host as id};
use hyp::addr::FRAME_SHIFT;
use hyp::error::Error;
use hyp::layout;
use hyp::stats::MachineCounter;

/// A refused call changes nothing, but for two that say so: VM_STOP answers
/// Busy and the VM is dying all the same, and whatever the host asks of a
/// dying VM first ends its translations.
pub fn refused(state: &mut State, call: &Call, x0: i64) {
    let stop = call.function == u64::from(id::VM_STOP);
    let reclaim = call.function == u64::from(id::FRAME_RECLAIM);
    let Some(vm) = state.vm_mut(call.a[0]) else { return };
    if stop && x0 == Error::Busy.code() {
        vm.stage = Stage::Dying;
    }
    let reached = reclaim && x0 == Error::Denied.code();
    if reached && vm.stage == Stage::Dying && !vm.any_running() {
        vm.unlinked = true;
    }
}

/// The call succeeded: the next state. `x` are x1 to x3; `is_host` says what
/// became of frames whose choice is EL2's.
///
/// # Errors
/// What is wrong with the results.
pub fn commit(
    state: &mut State,
    call: &Call,
    x: [u64; 3],
    is_host: &dyn Fn(u64) -> bool,
) -> Result<(), String> {
    let [a1, a2, a3, a4, a5] = call.a;
    let expect = |what: &str, expected: [u64; 3]| {
        if x == expected { Ok(()) } else { Err(format!("{what}: {x:x?}, not {expected:x?}")) }
    };
    let slot = state.vm(a1).map_or(u8::MAX, |vm| vm.slot);
    let call_range = |start, count| range(start, count).map_or(0..0, one_call);
    match call.function as u32 {
        id::VERSION => expect("version", [0x1_0001, 0, 0]),
        id::FEATURES => {
            let (vms, vcpus, devices) = (abi::MAX_VMS, abi::MAX_VCPUS, abi::MAX_DEVICES);
            expect("limits", [(vms | vcpus << 8 | devices << 16) as u64, abi::MAX_RANGE, 0])
        }
        id::VM_CREATE => created(state, call, x[0]),
        id::VM_TOPUP => {
            let frames = call_range(a2, a3);
            let count = frames.end - frames.start;
            frames.for_each(|pfn| state.set(pfn, Page::Table(slot)));
            expect("frames taken", [count, 0, 0])
        }
        id::FRAME_DONATE => {
            let frames = range(a2, a4).map_or(0..0, |frames| one_donation(frames, a5));
            let count = frames.end - frames.start;
            for (pfn, gfn) in frames.zip(a3..) {
                state.set(pfn, Page::Guest(slot, gfn, false));
                if a5 & abi::DONATE_MEASURED == 0 {
                    state.fill(pfn, 0);
                }
            }
            expect("frames done", [count, 0, 0])
        }
        id::FRAME_SHARE => {
            let frames = call_range(a4, a5);
            let count = frames.end - frames.start;
            for (pfn, page) in frames.zip(a3..) {
                state.set(pfn, Page::Lent(slot, None));
                let device = state.vm_mut(a1).and_then(|vm| vm.devices.get_mut(a2 as usize));
                if let Some(place) = device.and_then(|d| d.pages.get_mut(page as usize)) {
                    *place = Some(pfn);
                }
            }
            expect("frames done", [count, 0, 0])
        }
        id::VM_FINALISE => {
            if let Some(vm) = state.vm_mut(a1) {
                vm.stage = Stage::Running;
                vm.finalised = true;
                if let Some(vcpu) = vm.vcpus.first_mut() {
                    start(vcpu, a2, a3);
                }
            }
            expect("nothing", [0; 3])
        }
        id::VM_MEASUREMENT => {
            let part = state.vm_mut(a1).and_then(|vm| vm.measurement.get_mut(a2 as usize));
            let before = part.and_then(|part| part.replace([x[0], x[1]]));
            match before {
                Some(before) if before != [x[0], x[1]] => Err("the measurement changed".into()),
                _ => expect("measurement", [x[0], x[1], 0]),
            }
        }
        id::VM_STOP => {
            if let Some(vm) = state.vm_mut(a1) {
                vm.stage = Stage::Dying;
                vm.unlinked = true;
            }
            expect("nothing", [0; 3])
        }
        id::FRAME_RECLAIM => {
            let frames = call_range(a2, a3);
            let count = frames.end - frames.start;
            for pfn in frames {
                if let Some(Page::Guest(_, _, lent)) = state.page(pfn) {
                    comes_back(state, pfn, lent);
                }
                state.set(pfn, Page::Host);
            }
            if let Some(vm) = state.vm_mut(a1) {
                vm.unlinked = true;
            }
            expect("frames done", [count, 0, 0])
        }
        id::VM_DESTROY => destroyed(state, a1, x, is_host),
        id::DEVICE_CREATE => {
            let Some(vm) = state.vm_mut(a1) else { return Err("no VM".into()) };
            let index = vm.devices.len() as u64;
            // With a table there is a budget of the guest's pages, and no own.
            let own = if has_window(a3) { 0 } else { a4 };
            let pages = vec![None; own as usize];
            let queues = a5 & 0xffff;
            let table = has_window(a3).then_some(Table { budget: a4, root: None });
            vm.devices.push(Device { kind: a2, queues, pages, window: None, table });
            expect("device", [index, 0, 0])
        }
        id::DEVICE_CONFIG | id::DEVICE_INTERRUPT | id::DEVICE_FAIL | id::UART_LINE => {
            let vcpus = state.vm(a1).map_or(0, |vm| vm.vcpus.len());
            if x[0] >> vcpus != 0 { Err(format!("kicks {:#x}", x[0])) } else { Ok(()) }
        }
        id::DEVICE_STATE | id::QUEUE_INFO => Ok(()),
        id::EVENT_NEXT => {
            let event = state.log.pop_front().ok_or("an event from nowhere")?;
            expect("event", [event.what, event.address, event.pc])
        }
        id::STATS => match (a1, frames_counter(state, a2)) {
            (0, Some(value)) => expect("counter", [value, 0, 0]),
            _ => expect("counter", [x[0], 0, 0]),
        },
        id::ABORT_STYLE => {
            let before = core::mem::replace(&mut state.alignment_faults, a1 == 1);
            expect("style before", [before.into(), 0, 0])
        }
        id::FRAME_STATE => {
            let value = match state.page(a1) {
                Some(Page::Host) => 0,
                Some(Page::Lent(..)) => 1,
                Some(Page::Guest(_, _, true)) => 2,
                _ => 3,
            };
            expect("state of the frame", [value, 0, 0])
        }
        other => Err(format!("{other:#x} should not succeed here")),
    }
}

/// A vCPU at its first instruction.
pub fn start(vcpu: &mut Vcpu, entry: u64, argument: u64) {
    *vcpu = Vcpu { on: true, pc: entry, ..Vcpu::default() };
    vcpu.x[0] = argument;
}

/// What a hostile host puts into a frame that it can reach while it is wiped.
pub const SPOILT: u64 = 0xbad0_0001;

/// What a guest puts into a page of its that is wiped while it has it: it is a
/// hostile one, and this is how such a page can be told.
pub fn rewritten(slot: u8) -> u64 {
    SPOILT + 1 + u64::from(slot)
}

/// A guest's frame is the host's (again): nothing of the guest's is left. A
/// frame that was lent, the host may have written to right after the wipe.
pub fn comes_back(state: &mut State, pfn: u64, lent: bool) {
    state.fill(pfn, if lent { SPOILT } else { 0 });
    state.set(pfn, Page::Host);
}

fn created(state: &mut State, call: &Call, handle: u64) -> Result<(), String> {
    let [pfn, count, ram, vcpus, flags] = call.a;
    let realm = flags & abi::CREATE_RSI != 0;
    let slot = (handle & 0xff).wrapping_sub(1);
    let place = usize::try_from(slot).map_err(|_| "no slot")?;
    let (Some(free), Some(generation)) =
        (state.vms.get(place).map(Option::is_none), state.generations.get_mut(place))
    else {
        return Err(format!("handle {handle:#x} names no slot"));
    };
    *generation += 1;
    if !free || handle >> 8 != *generation {
        return Err(format!("handle {handle:#x} is not a new one of a free slot"));
    }
    let slot = slot as u8;
    // A realm has no call to grant its console, and has.
    let console = realm || flags & abi::CREATE_CONSOLE != 0;
    let console = console.then_some(layout::UART >> FRAME_SHIFT);
    (pfn..pfn + count).for_each(|pfn| state.set(pfn, Page::Table(slot)));
    if let Some(place) = state.vms.get_mut(place) {
        *place = Some(Vm {
            handle,
            slot,
            stage: Stage::Building,
            finalised: false,
            unlinked: false,
            ram: crate::state::RAM..crate::state::RAM + ram,
            vcpus: vec![Vcpu::default(); vcpus as usize],
            realm,
            zeroes: flags & abi::CREATE_SHARE_ZEROES != 0,
            granted: console.into_iter().collect(),
            devices: Vec::new(),
            driver: false,
            measurement: [None; 2],
        });
    }
    Ok(())
}

/// VM_DESTROY gives at most 512 table frames back, wiped, once the VM has no
/// other frame; which of them is EL2's choice.
fn destroyed(
    state: &mut State,
    handle: u64,
    x: [u64; 3],
    is_host: &dyn Fn(u64) -> bool,
) -> Result<(), String> {
    let slot = state.vm(handle).map_or(u8::MAX, |vm| vm.slot);
    let (others, tables) = (state.frames_of(slot), state.tables_held(slot));
    let back = if others == 0 { tables.min(abi::MAX_RANGE) } else { 0 };
    let left = others + tables - back;
    if x != [left, 0, 0] {
        return Err(format!("{x:x?} frames left, not {left:#x}"));
    }
    let its: Vec<u64> = state.of(slot).map(|its| its.tables.iter().collect()).unwrap_or_default();
    let gone: Vec<u64> = its.into_iter().filter(|pfn| is_host(*pfn)).collect();
    if gone.len() as u64 != back {
        return Err(format!("{} frames came back, not {back}", gone.len()));
    }
    for pfn in gone {
        comes_back(state, pfn, false);
    }
    if left == 0 {
        if let Some(place) = state.vms.get_mut(usize::from(slot)) {
            *place = None;
        }
    } else if let Some(vm) = state.vm_mut(handle) {
        vm.unlinked = true;
    }
    Ok(())
}

/// Counters that are read off the frame table.
fn frames_counter(state: &State, index: u64) -> Option<u64> {
    let count =
        |of: &dyn Fn(Page) -> bool| state.frames().filter(|(_, page)| of(*page)).count() as u64;
    match *MachineCounter::ALL.get(usize::try_from(index).ok()?)? {
        MachineCounter::FramesHyp => Some(count(&|p| matches!(p, Page::Hyp | Page::Table(_)))),
        MachineCounter::FramesHost => Some(count(&|p| matches!(p, Page::Host | Page::Lent(..)))),
        MachineCounter::FramesGuest => Some(count(&|p| matches!(p, Page::Guest(..)))),
        MachineCounter::FramesFirmware => Some(count(&|p| p == Page::Firmware)),
        MachineCounter::FramesShared => {
            Some(count(&|p| matches!(p, Page::Lent(..) | Page::Guest(_, _, true))))
        }
        _ => None,
    }
}
