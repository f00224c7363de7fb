//! The host's calls: who may make them when.
//!
//! [`refusals`] collects *every* reason that docs/abi.md gives to refuse a
//! call. The code that comes back must be one of them; a call without a
//! reason must succeed. Then [`crate::commit`] computes the next state.

use crate::call::{Call, Refusals};
use crate::state::{ALIAS, Page, Stage, State, Vm, one_call, one_donation, range};
use hyp::abi::{self, host as id};
use hyp::addr::{FRAME_LIMIT, FRAME_SHIFT};
use hyp::error::Error;
use hyp::layout;
use hyp::stats::{MachineCounter, VmCounter};
use std::ops::Range;

/// Most RAM: it ends where the 64-bit PCI window begins.
const MOST_RAM: u64 = (layout::PCI_MEM64 - layout::RAM) >> FRAME_SHIFT;

/// Has a device of this policy a window, and a budget of the guest's pages for
/// it?
pub(crate) fn has_window(policy: u64) -> bool {
    matches!(policy, abi::POLICY_SHADOW_IOMMU | abi::POLICY_GUEST_CHOICE)
}

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
    range(start, count).is_none_or(|range| are_hosts(state, one_call(range)))
}

fn are_hosts(state: &State, mut frames: Range<u64>) -> bool {
    frames.all(|pfn| state.page(pfn) == Some(Page::Host))
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
                .when(
                    a5 & !(abi::CREATE_RSI | abi::CREATE_CONSOLE | abi::CREATE_SHARE_ZEROES) != 0,
                    Malformed,
                )
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
                .when(vm.is_some() && stage(Stage::Running) && measured, BadState);
            let frames = range(a2, a4).map(|frames| one_donation(frames, a5));
            no.when(frames.is_some_and(|frames| !are_hosts(state, frames)), Denied);
            if let (Some(vm), Some(places)) = (vm, places) {
                if !inside(&vm, &places) {
                    no.when(true, Malformed);
                } else if vm.stage != Stage::Dying {
                    let places = one_donation(places, a5);
                    let there = |gfn| state.translate(vm.slot, gfn).is_some();
                    let taken = |gfn| there(gfn) || vm.realm && there(gfn | ALIAS);
                    let taken = places.clone().any(taken);
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
                abi::POLICY_BOUNCE_BAR | abi::POLICY_DEVICE_MEMORY => {
                    (1..=256).any(|granule| a4 == granule * 16)
                }
                abi::POLICY_SHARED_PAGES | abi::POLICY_LEGACY => a4 == 0,
                policy => has_window(policy) && (1..=65_535).contains(&a4),
            };
            let (queues, size) = (a5 & 0xffff, a5 >> 16);
            let size = matches!(size, 0 | 1 | 2 | 4 | 8 | 16 | 32 | 64 | 128 | 256);
            no.when(a2 > 0xffff || !size || !pages, Malformed)
                .when(rules.is_none(), NotSupported)
                .when(vm.is_none(), NotFound)
                .when(!stage(Stage::Building), BadState)
                .when(has_window(a3) && vm.is_some_and(|vm| vm.realm), Malformed)
                .when(rules.is_none_or(|(_, fewest)| queues < fewest || queues > 8), Malformed)
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
        id::UART_LINE => {
            let page = layout::UART >> FRAME_SHIFT;
            no.when(a2 > 1, Malformed)
                .when(vm.is_none(), NotFound)
                .when(!stage(Stage::Running), BadState)
                .when(vm.is_some_and(|vm| !vm.granted.contains(&page)), Denied);
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
        id::ABORT_STYLE => {
            no.when(a1 > 1, Malformed);
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
