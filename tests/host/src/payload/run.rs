//! Scheduling: which vCPU is on this CPU, and what its exits mean.
//!
//! vCPU *n* belongs to CPU *n* modulo the number of CPUs. Each CPU gives its
//! vCPUs turns of a time slice, so that any number of vCPUs make progress on
//! any number of CPUs.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::{Acquire, Release, SeqCst};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use host::bouncer::{Exit, Refusal};
use host::frames::FreeFrames;
use hyp::error::Error;
use rt::cpu;
use spin::Mutex;

use super::calls::BOUNCER;
use super::vm::{Vm, end, state};
use super::{clock, cpus};

/// Longest time on a CPU before the next vCPU has its turn, in milliseconds.
const SLICE: u64 = 5;
/// Longest sleep of a CPU with nothing to do, in milliseconds.
const NAP: u64 = 50;

/// How long [`enter_directly`] waits for a vCPU to want to run, in milliseconds.
const PATIENCE: u64 = 5000;

/// The guests that may run.
static VMS: Mutex<Vec<Arc<Vm>>> = Mutex::new(Vec::new());
/// The host's free memory.
pub(super) static FREE: Mutex<FreeFrames> = Mutex::new(FreeFrames::new());
/// Exits from guests to the host, all causes.
pub(super) static EXITS: AtomicU64 = AtomicU64::new(0);
/// I3: give a guest with each entry a reply that it has not asked for, or more
/// of one than it has.
pub(super) static FORGES: AtomicBool = AtomicBool::new(false);
/// How often that was done.
pub(super) static FORGED: AtomicU64 = AtomicU64::new(0);
/// What a guest must never see in a register.
const FORGERY: u64 = 0x4f52_4745_4420_4f52;

/// Lets a guest be scheduled.
pub(super) fn admit(vm: Arc<Vm>) {
    VMS.lock().push(vm);
    (0..cpus::count()).for_each(cpus::wake);
}

/// Takes it off the schedule; returns when no CPU is inside it.
pub(super) fn retire(vm: &Arc<Vm>) {
    vm.stopping.store(true, SeqCst);
    VMS.lock().retain(|other| !Arc::ptr_eq(other, vm));
    (0..cpus::count()).for_each(cpus::wake);
    while vm.vcpus.iter().any(|vcpu| vcpu.state.load(SeqCst) == state::RUNNING)
        || Arc::strong_count(vm) > 1
    {
        core::hint::spin_loop();
    }
}

/// Gives each vCPU of this CPU one turn; false if none wanted it.
pub(super) fn turn(cpu: usize) -> bool {
    let vms: Vec<Arc<Vm>> = VMS.lock().clone();
    let mut ran = false;
    for vm in &vms {
        for device in &vm.devices {
            let Some(mut device) = device.try_lock() else { continue };
            if let Some(vcpus) = device.catch_up(vm.handle, &mut |bytes| vm.hear_console(bytes)) {
                kick(vm, vcpus);
                ran = true;
            }
        }
        for index in share(vm, cpu) {
            ran |= slice(vm, index);
        }
    }
    ran
}

/// Sleeps until there may be something to do for CPU `cpu`, or `more` holds.
pub(super) fn idle(cpu: usize, more: impl Fn() -> bool) {
    let mut wake_at = clock::now() + clock::milliseconds(NAP);
    let mut ready = more();
    for vm in VMS.lock().iter() {
        for vcpu in share(vm, cpu).filter_map(|index| vm.vcpus.get(index)) {
            match vcpu.state.load(Acquire) {
                state::RUNNABLE => ready = true,
                state::WAITING => {
                    ready |= vcpu.kicked.load(Acquire);
                    wake_at = wake_at.min(vcpu.deadline.load(Acquire));
                }
                _ => {}
            }
        }
    }
    if !ready {
        clock::interrupt_at(wake_at);
        // A pending interrupt ends WFI although it is masked, so a wake-up
        // call that came after the look above is not lost.
        cpu::wfi();
    }
    cpus::take_interrupts();
}

/// The vCPUs of a VM that belong to a CPU.
fn share(vm: &Vm, cpu: usize) -> impl Iterator<Item = usize> {
    (0..vm.vcpus.len()).filter(move |index| index % cpus::count() == cpu)
}

/// Makes the vCPUs of bitmap `vcpus` notice what is pending for them: they
/// are scheduled if they wait, and re-entered if they run on another CPU.
pub(super) fn kick(vm: &Vm, vcpus: u64) {
    for (index, vcpu) in vm.vcpus.iter().enumerate().filter(|(index, _)| vcpus >> index & 1 == 1) {
        vcpu.kicked.store(true, SeqCst);
        let cpu = index % cpus::count();
        if cpu != cpu::index() {
            cpus::wake(cpu);
        }
    }
}

/// Does vCPU `index` want a turn? If so it is marked as running.
fn claim(vm: &Vm, index: usize) -> bool {
    let Some(vcpu) = vm.vcpus.get(index) else { return false };
    if vm.stopping.load(SeqCst) || vm.end() != end::NOT_YET {
        return false;
    }
    let from = match vcpu.state.load(SeqCst) {
        state::RUNNABLE => state::RUNNABLE,
        state::WAITING
            if vcpu.kicked.load(SeqCst) || clock::now() >= vcpu.deadline.load(SeqCst) =>
        {
            state::WAITING
        }
        _ => return false,
    };
    vcpu.state.compare_exchange(from, state::RUNNING, SeqCst, SeqCst).is_ok()
}

/// One turn of a vCPU; false if it did not want one.
fn slice(vm: &Vm, index: usize) -> bool {
    if !claim(vm, index) {
        return false;
    }
    enter(vm, index, usize::MAX, |reply| BOUNCER.vcpu_run(vm.handle, index as u64, reply));
    true
}

/// Enters a claimed vCPU with `call` until its slice is over, it does not
/// want to run, or `most` exits were served.
fn enter(vm: &Vm, index: usize, most: usize, mut call: impl FnMut(u64) -> Result<Exit, Refusal>) {
    let Some(vcpu) = vm.vcpus.get(index) else { return };
    let end_of_slice = clock::now() + clock::milliseconds(SLICE);
    clock::interrupt_at(end_of_slice);
    let mut next = state::RUNNABLE;
    for _ in 0..most {
        vcpu.kicked.store(false, SeqCst);
        let exit = call(vcpu.reply.load(Acquire));
        EXITS.fetch_add(1, Ordering::Relaxed);
        if FORGES.load(Ordering::Relaxed) {
            // Whatever answer the exit gets replaces it.
            vcpu.reply.store(FORGERY, Release);
            FORGED.fetch_add(1, Ordering::Relaxed);
        }
        let wanted = match exit {
            Ok(exit) => after(vm, index, exit),
            Err(refusal) => refused(vm, index, refusal),
        };
        if wanted != state::RUNNING {
            next = wanted;
            break;
        }
        let over = vm.stopping.load(SeqCst) || vm.end() != end::NOT_YET;
        if over || clock::now() >= end_of_slice {
            break;
        }
    }
    cpus::take_interrupts();
    vcpu.state.store(next, SeqCst);
}

/// Enters vCPU `index` of `vm`, which belongs to this CPU, with the caller's
/// own `call` (which gives x0 and the exit) until `exits` exits were served;
/// false if it did not want to run that often within [`PATIENCE`].
pub(super) fn enter_directly(
    vm: &Vm,
    index: usize,
    exits: usize,
    mut call: impl FnMut(u64) -> (u64, Exit),
) -> bool {
    let mut served = 0;
    let limit = clock::now() + clock::milliseconds(PATIENCE);
    while served < exits && vm.end() == end::NOT_YET && clock::now() < limit {
        if !claim(vm, index) {
            idle(cpu::index(), || false);
            continue;
        }
        enter(vm, index, exits - served, |reply| {
            served += 1;
            let (code, exit) = call(reply);
            Refusal::from_code(code as i64).map_or(Ok(exit), Err)
        });
    }
    served == exits
}

/// Serves an exit; returns the vCPU's next state, RUNNING to enter again.
fn after(vm: &Vm, index: usize, exit: Exit) -> u32 {
    match exit {
        Exit::Interrupt => cpus::take_interrupts(),
        Exit::Wait { deadline } => {
            if let Some(vcpu) = vm.vcpus.get(index) {
                vcpu.deadline.store(deadline.unwrap_or(u64::MAX), SeqCst);
            }
            return state::WAITING;
        }
        Exit::Mmio { ipa, size, write } => mmio(vm, index, ipa, size, write),
        Exit::Notify { device, queue } => notify(vm, device, queue),
        Exit::Device { device } => {
            if let Some(device) = vm.devices.get(device as usize) {
                device.lock().refresh(vm.handle);
            }
        }
        Exit::Shutdown { reset } => {
            finish(vm, if reset { end::RESET } else { end::OFF });
            return state::OFF;
        }
        Exit::CpuOn { vcpu } => start(vm, vcpu as usize),
        Exit::CpuOff => return state::OFF,
        Exit::Kick { vcpus } => kick(vm, vcpus),
        Exit::MemFault { ipa } => {
            if let Err(problem) = vm.demand(&FREE, ipa) {
                rt::println!("host: no memory for the guest at {ipa:#x}: {problem}");
                finish(vm, end::DEAD);
                return state::OFF;
            }
        }
        Exit::Dead => {
            finish(vm, end::DEAD);
            return state::OFF;
        }
        Exit::Unknown(number) => {
            rt::println!("host: exit {number} is unknown to this host");
            finish(vm, end::DEAD);
            return state::OFF;
        }
    }
    state::RUNNING
}

/// VCPU_RUN was refused. A dying VM says so; anything else is a mistake of
/// this host or of bouncer, and ends the guest with a line that says so.
fn refused(vm: &Vm, index: usize, refusal: Refusal) -> u32 {
    match refusal {
        Refusal::Error(Error::Busy) => return state::RUNNABLE,
        // Another CPU may have heard of the end and not told yet.
        Refusal::Error(Error::BadState)
            if clock::spin_until(PATIENCE, || vm.end() != end::NOT_YET) => {}
        refusal => {
            rt::println!("host: VCPU_RUN of vCPU {index}: {refusal:?}");
        }
    }
    finish(vm, end::DEAD);
    state::OFF
}

fn finish(vm: &Vm, how: u8) {
    // The first reason stays. But a vCPU on another CPU may find the VM dying
    // before the one that turned it off is back to say so. Who wants to know
    // how it ended waits for all of them (`retire`).
    let _ = vm.ended.fetch_update(SeqCst, SeqCst, |before| {
        matches!(before, end::NOT_YET | end::DEAD).then_some(how)
    });
    vm.hear_the_rest();
    (0..cpus::count()).for_each(cpus::wake);
}

/// The guest started a vCPU.
fn start(vm: &Vm, index: usize) {
    let Some(vcpu) = vm.vcpus.get(index) else { return };
    vcpu.state.store(state::RUNNABLE, Release);
    kick(vm, 1 << index);
}

/// The guest accessed a device that the host serves: its UART.
fn mmio(vm: &Vm, index: usize, ipa: u64, size: u8, write: Option<u64>) {
    let value = vm.mmio(ipa, size, write);
    if let Some(vcpu) = vm.vcpus.get(index)
        && write.is_none()
    {
        let beyond = if FORGES.load(Ordering::Relaxed) { FORGERY } else { 0 };
        // Bits of an access of eight bytes are all asked for.
        let beyond = beyond.checked_shl(8 * u32::from(size)).unwrap_or(0);
        vcpu.reply.store(value | beyond, Release);
    }
}

fn notify(vm: &Vm, device: u64, queue: u16) {
    if let Some(device) = vm.devices.get(device as usize) {
        let vcpus = device.lock().notified(vm.handle, queue, &mut |bytes| vm.hear_console(bytes));
        kick(vm, vcpus);
    }
}

/// Runs this CPU's share of all guests until `done` holds, or for at most
/// `limit` milliseconds; says whether it held. The boot CPU's main loop.
pub(super) fn until(limit: u64, mut done: impl FnMut() -> bool) -> bool {
    let end = clock::now() + clock::milliseconds(limit);
    let me = cpu::index();
    while !done() {
        if clock::now() >= end {
            return false;
        }
        if !turn(me) {
            idle(me, || false);
        }
    }
    true
}
