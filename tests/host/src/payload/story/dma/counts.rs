//! What a piece of a guest's life cost, and what of it the host can see.

use alloc::vec::Vec;

use hyp::stats::{MachineCounter, VmCounter};
use rt::{attempt, timer};
use spin::Mutex;

use crate::payload::calls::BOUNCER;
use crate::payload::vm::Vm;

/// Of EL2's counters of the VM, what is told.
const OF_VM: [VmCounter; 4] = [
    VmCounter::Hypercalls,
    VmCounter::HostReturns,
    VmCounter::Notifications,
    VmCounter::DeviceInterrupts,
];
/// And of those of the machine: what is cheap first, the ticks last, so that
/// as little as possible lies between them.
const OF_MACHINE: [MachineCounter; 6] = [
    MachineCounter::Invalidations,
    MachineCounter::TableWords,
    MachineCounter::Entries,
    MachineCounter::TicksEl2,
    MachineCounter::TicksHost,
    MachineCounter::TicksGuests,
];

/// The counters when it began.
static BEGUN: Mutex<Vec<u64>> = Mutex::new(Vec::new());

fn now(vm: &Vm) -> Vec<u64> {
    let mut values = Vec::with_capacity(OF_VM.len() + OF_MACHINE.len());
    let of_vm = OF_VM.map(|counter| BOUNCER.stats(Some(vm.handle), counter as u64));
    let of_machine = OF_MACHINE.map(|counter| BOUNCER.stats(None, counter as u64));
    values.extend(of_vm.into_iter().chain(of_machine).map(|value| value.unwrap_or(0)));
    values
}

/// Begins to count. What it answers is nothing, as all of these do.
pub(super) fn begin(vm: &Vm) -> u64 {
    *BEGUN.lock() = now(vm);
    0
}

/// Ends counting, and prints what it was, under a number.
pub(super) fn end(vm: &Vm, case: u64) -> u64 {
    let after = now(vm);
    let before = core::mem::take(&mut *BEGUN.lock());
    let names = OF_VM.iter().map(|counter| counter.name());
    let names = names.chain(OF_MACHINE.iter().map(|counter| counter.name()));
    let mut line = alloc::format!("@host dma cost case={case} frequency={}", timer::frequency());
    for ((name, after), before) in names.zip(after).zip(before) {
        line += &alloc::format!(" {name}={}", after.wrapping_sub(before));
    }
    rt::println!("{line}");
    0
}

/// Prints how many pages the host can see that are this guest's too.
pub(super) fn pages(case: u64) -> u64 {
    let shared = BOUNCER.stats(None, MachineCounter::FramesShared as u64).unwrap_or(0);
    rt::println!("@host dma pages bytes={} when={} pages={shared}", case >> 8, case & 0xff);
    0
}

/// What the guest fills memory with: what is left in a buffer, and what is
/// beside one.
const STALE: u64 = 0xa7a7_a7a7_a7a7_a7a7;
const NEIGHBOUR: u64 = 0xb3b3_b3b3_b3b3_b3b3;

/// Reads all that the host can see of this guest's, as far as it knows where to
/// look, and prints how much of it is what.
pub(super) fn scan(vm: &Vm, case: u64) -> u64 {
    let (mut seen, mut stale, mut beside) = (0u64, 0u64, 0u64);
    vm.for_each_visible_page(|page| {
        seen += 1;
        for word in (page..page + 4096).step_by(8) {
            match attempt::try_read_u64(word) {
                Ok(STALE) => stale += 8,
                Ok(NEIGHBOUR) => beside += 8,
                _ => {}
            }
        }
    });
    pages(case);
    rt::println!(
        "@host dma scan bytes={} when={} pages={seen} stale={stale} beyond={beside}",
        case >> 8,
        case & 0xff
    );
    0
}
