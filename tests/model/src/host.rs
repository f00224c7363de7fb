//! The host's calls: who may make them when, and what they change.
//!
//! [`refusals`] collects *every* reason that docs/abi.md gives to refuse a
//! call. The code that comes back must be one of them; a call without a
//! reason must succeed. Then [`commit`] computes the next state.

use crate::state::{Device, Page, Stage, State, Vcpu, Vm, one_call, range};
use hyp::abi::{self, host as id};
use hyp::addr::{FRAME_LIMIT, FRAME_SHIFT};
use hyp::error::Error;
use hyp::layout;
use hyp::machine::CpuId;
use hyp::stats::{MachineCounter, VmCounter};
use std::ops::Range;

/// A call as it is made: x0, immediate, x1 to x5.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    /// x0.
    pub function: u64,
    /// The immediate of the HVC.
    pub immediate: u16,
    /// x1 to x5.
    pub a: [u64; 5],
}

/// Reasons to refuse.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Refusals {
    /// It must be refused with one of these.
    must: u16,
    /// It may be refused with one of these: the rules leave it to a part of
    /// the state (a driver's progress) that this model does not have.
    may: u16,
}

fn bit(error: Error) -> u16 {
    1 << -error.code()
}

impl Refusals {
    /// `error` is right if `so`.
    pub fn when(&mut self, so: bool, error: Error) -> &mut Self {
        self.must |= if so { bit(error) } else { 0 };
        self
    }

    /// `error` may be right if `so`.
    pub fn perhaps(&mut self, so: bool, error: Error) -> &mut Self {
        self.may |= if so { bit(error) } else { 0 };
        self
    }

    /// Must it succeed, as far as these go?
    pub fn none(self) -> bool {
        self.must == 0
    }

    /// Is `x0` an answer they allow?
    ///
    /// # Errors
    /// Why not.
    pub fn judge(self, x0: i64) -> Result<(), String> {
        if x0 == 0 && self.must == 0 {
            return Ok(());
        }
        let named = (-15..0).contains(&x0) && (self.must | self.may) & 1 << -x0 != 0;
        if named {
            return Ok(());
        }
        let codes = |set: u16| (1..16).filter(move |n| set & 1 << n != 0).map(|n| -n);
        let must: Vec<i32> = codes(self.must).collect();
        let may: Vec<i32> = codes(self.may).collect();
        Err(format!("x0 is {x0}, the rules ask for one of {must:?} (or, perhaps, {may:?})"))
    }
}

/// Most RAM: it ends where the 64-bit PCI window begins.
const MOST_RAM: u64 = (layout::PCI_MEM64 - layout::RAM) >> FRAME_SHIFT;

/// Bytes of configuration of a device type, and its fewest queues (virtio
/// 1.4, chapter 5).
fn device_type(kind: u64) -> Option<(u64, u64)> {
    match kind {
        1 => Some((16, 2)),
        2 => Some((64, 1)),
        3 => Some((16, 2)),
        4 => Some((0, 1)),
        _ => None,
    }
}

/// Is every frame of the range the host's alone?
fn all_hosts(state: &State, start: u64, count: u64) -> bool {
    range(start, count)
        .is_none_or(|range| one_call(range).all(|pfn| state.page(pfn) == Some(Page::Host)))
}

/// Every reason to refuse the call.
pub fn refusals(state: &State, call: &Call) -> Refusals {
    use Error::{
        BadState, Busy, Denied, InvalidParameter as Malformed, NoMemory, NotFound, NotSupported,
    };
    let mut no = Refusals::default();
    let Ok(function) = u32::try_from(call.function) else {
        return *no.when(true, NotSupported);
    };
    if call.immediate != 0 {
        return *no.when(true, NotSupported);
    }
    let [a1, a2, a3, a4, a5] = call.a;
    let vm = state.vm(a1);
    // What a missing VM is not, it is not: no further reason.
    let stage = |stage: Stage| vm.is_none_or(|vm| vm.stage == stage);
    let device = vm.and_then(|vm| vm.devices.get(usize::try_from(a2).ok()?));
    let queues = device.map_or(u64::MAX, |device| device.queues);
    match function {
        id::VERSION | id::FEATURES => {}
        id::VM_CREATE => {
            no.when(range(a1, a2).is_none(), Malformed)
                .when(!(abi::MIN_MEMCACHE..=abi::MAX_RANGE).contains(&a2), Malformed)
                .when(a3 == 0 || a3 > MOST_RAM, Malformed)
                .when(a4 == 0 || a4 > abi::MAX_VCPUS as u64, Malformed)
                .when(!all_hosts(state, a1, a2), Denied)
                .when(state.allocations_fail, NoMemory)
                .when(state.vms.iter().all(Option::is_some), NoMemory);
        }
        id::VM_TOPUP => {
            no.when(range(a2, a3).is_none(), Malformed)
                .when(vm.is_none(), NotFound)
                .when(vm.is_some() && stage(Stage::Dying), BadState)
                .when(!all_hosts(state, a2, a3), Denied)
                .when(state.allocations_fail, NoMemory);
        }
        id::FRAME_DONATE => {
            let places = range(a3, a4);
            let measured = a5 & abi::DONATE_MEASURED != 0;
            let inside = |vm: &&Vm, r: &Range<u64>| r.start >= vm.ram.start && r.end <= vm.ram.end;
            no.when(range(a2, a4).is_none() || places.is_none(), Malformed)
                .when(a5 & !abi::DONATE_MEASURED != 0, Malformed)
                .when(vm.is_none(), NotFound)
                .when(vm.is_some() && stage(Stage::Dying), BadState)
                .when(vm.is_some() && stage(Stage::Running) && measured, BadState)
                .when(!all_hosts(state, a2, a4), Denied);
            if let (Some(vm), Some(places)) = (vm, places) {
                if !inside(&vm, &places) {
                    no.when(true, Malformed);
                } else if vm.stage != Stage::Dying {
                    let places = one_call(places);
                    let taken = places.clone().any(|gfn| state.translate(vm.slot, gfn).is_some());
                    no.when(taken, Denied).when(!has_tables_for(state, vm, places), NoMemory);
                }
            }
        }
        id::FRAME_SHARE => {
            let pages = a3.checked_add(range(a4, a5).map_or(0, |r| one_call(r).count() as u64));
            no.when(range(a4, a5).is_none() || pages.is_none(), Malformed)
                .when(vm.is_none() || device.is_none(), NotFound)
                .when(vm.is_some() && !stage(Stage::Building), BadState)
                .when(!all_hosts(state, a4, a5), Denied);
            if let (Some(device), Some(end)) = (device, pages) {
                no.when(end > device.pages.len() as u64, NotFound).when(
                    (a3..end.min(device.pages.len() as u64))
                        .any(|page| device.pages.get(page as usize).is_some_and(Option::is_some)),
                    BadState,
                );
            }
        }
        id::VM_FINALISE => {
            let incomplete =
                |vm: &Vm| vm.devices.iter().any(|d| d.pages.iter().any(Option::is_none));
            no.when(vm.is_none(), NotFound)
                .when(!stage(Stage::Building) || vm.is_some_and(incomplete), BadState)
                .when(vm.is_some_and(|vm| !vm.is_entry(a2)), Malformed);
        }
        id::VM_MEASUREMENT => {
            no.when(a2 > 1, Malformed)
                .when(vm.is_none(), NotFound)
                .when(vm.is_some_and(|vm| !vm.finalised), BadState);
        }
        id::VCPU_RUN => {
            let vcpu = vm.and_then(|vm| vm.vcpus.get(usize::try_from(a2).ok()?));
            no.when(vcpu.is_none(), NotFound)
                .when(vcpu.is_some_and(|vcpu| vcpu.running.is_some()), Busy)
                .when(vcpu.is_some_and(|vcpu| !vcpu.on), BadState)
                .when(!stage(Stage::Running), BadState);
        }
        id::VM_STOP => {
            no.when(vm.is_none(), NotFound).when(vm.is_some_and(Vm::any_running), Busy);
        }
        id::FRAME_RECLAIM => {
            no.when(range(a2, a3).is_none(), Malformed)
                .when(vm.is_none(), NotFound)
                .when(vm.is_some() && !stage(Stage::Dying), BadState)
                .when(vm.is_some_and(Vm::any_running), Busy);
            if let (Some(vm), Some(frames)) = (vm, range(a2, a3)) {
                let its = |pfn| match state.page(pfn) {
                    Some(Page::Guest(slot, ..) | Page::Lent(slot, _)) => slot == vm.slot,
                    _ => false,
                };
                no.when(!one_call(frames).all(its), Denied);
            }
        }
        id::VM_DESTROY => {
            no.when(vm.is_none(), NotFound)
                .when(!stage(Stage::Dying), BadState)
                .when(vm.is_some_and(Vm::any_running), Busy);
        }
        id::DEVICE_CREATE => {
            let rules = device_type(a2);
            let pages = match a3 {
                abi::POLICY_BOUNCE_BAR => (1..=256).any(|granule| a4 == granule * 16),
                abi::POLICY_SHARED_PAGES => a4 == 0,
                _ => false,
            };
            no.when(a2 > 0xffff || a5 > 0xffff || !pages, Malformed)
                .when(rules.is_none(), NotSupported)
                .when(vm.is_none(), NotFound)
                .when(!stage(Stage::Building), BadState)
                .when(rules.is_none_or(|(_, fewest)| a5 < fewest || a5 > 8), Malformed)
                .when(vm.is_some_and(|vm| vm.devices.len() >= abi::MAX_DEVICES), NoMemory);
        }
        id::DEVICE_CONFIG => {
            let length = device.and_then(|device| device_type(device.kind)).map(|(bytes, _)| bytes);
            let inside = |length| a3.checked_add(a5).is_some_and(|end| end <= length);
            no.when(a5 == 0 || a5 > 8, Malformed)
                .when(device.is_none(), NotFound)
                .when(length.is_some_and(|length| !inside(length)), Malformed)
                .when(vm.is_some() && stage(Stage::Dying), BadState);
        }
        id::DEVICE_STATE => {
            no.when(device.is_none(), NotFound);
        }
        id::QUEUE_INFO => {
            no.when(a3 > 0xffff || a4 > 2, Malformed)
                .when(device.is_none() || a3 >= queues, NotFound);
        }
        id::DEVICE_INTERRUPT => {
            // No driver, no interrupt.
            let asleep = vm.is_some_and(|vm| !vm.driver);
            no.when(device.is_none() || a3 != abi::CAUSE_CONFIG && a3 >= queues, NotFound)
                .when(!stage(Stage::Running), BadState)
                .when(asleep && device.is_some(), Denied)
                .perhaps(!asleep, Denied);
        }
        id::DEVICE_FAIL => {
            let asleep = vm.is_some_and(|vm| !vm.driver);
            no.when(device.is_none(), NotFound)
                .when(!stage(Stage::Running), BadState)
                .when(asleep && device.is_some(), Denied)
                .perhaps(!asleep, Denied);
        }
        id::EVENT_NEXT => {
            no.when(state.log.is_empty(), NotFound);
        }
        id::STATS => {
            let counters = if a1 == 0 { MachineCounter::ALL.len() } else { VmCounter::ALL.len() };
            no.when(a2 >= counters as u64, Malformed).when(a1 != 0 && vm.is_none(), NotFound);
        }
        id::FRAME_STATE => {
            no.when(a1 >= FRAME_LIMIT, Malformed);
        }
        _ => {
            no.when(true, NotSupported);
        }
    }
    no
}

/// Has the VM's memcache what it takes to map these guest frames too?
pub fn has_tables_for(state: &State, vm: &Vm, more: impl Iterator<Item = u64>) -> bool {
    let all = state.mapped(vm.slot).map(|(gfn, _)| gfn).chain(more);
    State::tables_needed(all) <= state.tables_held(vm.slot)
}

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
        id::VERSION => expect("version", [0x1_0000, 0, 0]),
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
            let frames = call_range(a2, a4);
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
            let pages = vec![None; a4 as usize];
            vm.devices.push(Device { kind: a2, queues: a5, pages, window: None });
            expect("device", [index, 0, 0])
        }
        id::DEVICE_CONFIG | id::DEVICE_INTERRUPT | id::DEVICE_FAIL => {
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

/// A guest's frame is the host's (again): nothing of the guest's is left. A
/// frame that was lent, the host may have written to right after the wipe.
pub fn comes_back(state: &mut State, pfn: u64, lent: bool) {
    state.fill(pfn, if lent { SPOILT } else { 0 });
    state.set(pfn, Page::Host);
}

fn created(state: &mut State, call: &Call, handle: u64) -> Result<(), String> {
    let [pfn, count, ram, vcpus, _] = call.a;
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
            granted: Default::default(),
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
    let its: Vec<u64> =
        state.frames().filter(|(_, page)| *page == Page::Table(slot)).map(|(pfn, _)| pfn).collect();
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
    let count = |of: &dyn Fn(Page) -> bool| state.pages.iter().filter(|p| of(**p)).count() as u64;
    match *MachineCounter::ALL.get(usize::try_from(index).ok()?)? {
        MachineCounter::FramesHyp => Some(count(&|p| matches!(p, Page::Hyp | Page::Table(_)))),
        MachineCounter::FramesHost => Some(count(&|p| matches!(p, Page::Host | Page::Lent(..)))),
        MachineCounter::FramesGuest => Some(count(&|p| matches!(p, Page::Guest(..)))),
        MachineCounter::FramesShared => {
            Some(count(&|p| matches!(p, Page::Lent(..) | Page::Guest(_, _, true))))
        }
        _ => None,
    }
}

/// The host's firmware calls: x0, or `None` if it is not on the allow-list
/// and becomes an event.
pub fn firmware(
    state: &mut State,
    (id, immediate): (u64, u16),
    [a1, a2, _]: [u64; 3],
    cpu: CpuId,
) -> Option<i64> {
    use hyp::psci::{code, function as f};
    let id = u32::try_from(id).ok().filter(|_| immediate == 0)?;
    Some(match id {
        // Relayed; the simulated firmware says 0.
        f::SMCCC_VERSION | f::PSCI_VERSION | f::MIGRATE_INFO_TYPE => 0,
        f::AFFINITY_INFO_32 | f::AFFINITY_INFO_64 => 0,
        f::PSCI_FEATURES => features(a1),
        f::CPU_ON_32 => cpu_on(state, a1 & 0xffff_ffff, a2 & 0xffff_ffff),
        f::CPU_ON_64 => cpu_on(state, a1, a2),
        // The simulated firmware returns, and so the CPU is still on.
        f::CPU_OFF => {
            if let Some(on) = state.cpus_on.get_mut(cpu) {
                *on = true;
            }
            0
        }
        f::CPU_SUSPEND_32 | f::CPU_SUSPEND_64 if a1 & (1 << 16 | 1 << 30) != 0 => code::DENIED,
        f::CPU_SUSPEND_32 | f::CPU_SUSPEND_64 => 0,
        f::SYSTEM_OFF | f::SYSTEM_RESET => {
            state.off = true;
            0
        }
        _ => return None,
    })
}

/// PSCI_FEATURES: 0 for what is there, of the host's and the guest's.
pub fn features(id: u64) -> i64 {
    use hyp::psci::function as f;
    let known = [
        f::SMCCC_VERSION,
        f::PSCI_VERSION,
        f::PSCI_FEATURES,
        f::MIGRATE_INFO_TYPE,
        f::AFFINITY_INFO_32,
        f::AFFINITY_INFO_64,
        f::CPU_ON_32,
        f::CPU_ON_64,
        f::CPU_OFF,
        f::CPU_SUSPEND_32,
        f::CPU_SUSPEND_64,
        f::SYSTEM_OFF,
        f::SYSTEM_RESET,
    ];
    if known.iter().any(|known| u64::from(*known) == id) { 0 } else { -1 }
}

fn cpu_on(state: &mut State, mpidr: u64, entry: u64) -> i64 {
    use hyp::psci::code;
    let may = entry.is_multiple_of(4) && state.host_may(entry >> FRAME_SHIFT);
    let Some(on) = usize::try_from(mpidr).ok().and_then(|cpu| state.cpus_on.get_mut(cpu)) else {
        return code::INVALID_PARAMETERS;
    };
    match (may, *on) {
        (false, _) => code::INVALID_ADDRESS,
        (true, true) => code::ALREADY_ON,
        (true, false) => {
            *on = true;
            code::SUCCESS
        }
    }
}
