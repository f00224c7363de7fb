//! Calls of several CPUs, interleaved at every lock and every access to the
//! machine: `cargo test -p model --features shuttle --test interleaved`.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use hyp::abi::{self, exit, guest, host as id, rsi};
use hyp::addr::{Gfn, Pfn};
use hyp::machine::{Machine, Vmid};
use hyp::psci::function as psci;
use hyp::trap::{Trap, TrapKind};
use hyp::vcpu::state::Frame;
use model::machine::Booted;
use model::state::RAM;
use shuttle::sync::Arc;
use shuttle::thread;
use std::sync::atomic::{AtomicBool, Ordering};

/// Schedules per scenario.
const SCHEDULES: usize = 300;
/// First frame of the host's that the scenarios use.
const FRAMES: u64 = 0x4_0000;
const INTERRUPT: Trap = Trap { kind: TrapKind::Interrupt, esr: 0, far: 0, hpfar: 0 };

/// Plays a scenario in [`SCHEDULES`] random interleavings.
fn check(scenario: impl Fn() + Send + Sync + 'static) {
    let mut config = shuttle::Config::default();
    // A VM is built on the stack before it moves to its slot.
    config.stack_size = 4 << 20;
    let scheduler = shuttle::scheduler::RandomScheduler::new(SCHEDULES);
    shuttle::Runner::new(scheduler, config).run(scenario);
}

fn trap(class: u64) -> Trap {
    Trap { kind: TrapKind::Sync, esr: class << 26 | 1 << 25, far: 0, hpfar: 0 }
}

/// HVC (class 0x16) or SMC (0x17) of the host on `cpu`: x0 and x1.
fn host(booted: &Booted, cpu: usize, class: u64, function: u32, a: &[u64]) -> (i64, u64) {
    booted.hyp().machine().be_cpu(cpu);
    let mut frame = Frame::default();
    frame.x[0] = function.into();
    frame.x[1..=a.len()].copy_from_slice(a);
    booted.hyp().handle_host_trap(&mut frame, trap(class));
    (frame.x[0] as i64, frame.x[1])
}

fn hvc(booted: &Booted, cpu: usize, function: u32, a: &[u64]) -> (i64, u64) {
    host(booted, cpu, 0x16, function, a)
}

/// A VM with one page of RAM (frame `at` + 12) that can run; its handle.
fn vm(booted: &Booted, at: u64) -> u64 {
    let (status, handle) = hvc(booted, 0, id::VM_CREATE, &[at, 12, 16, 1]);
    assert_eq!(status, 0);
    booted.hyp().machine().attach(booted.hyp().view_vm(handle).unwrap().regime);
    assert_eq!(hvc(booted, 0, id::FRAME_DONATE, &[handle, at + 12, RAM, 1, 1]), (0, 1));
    assert_eq!(hvc(booted, 0, id::VM_FINALISE, &[handle, RAM << 12, 0]).0, 0);
    handle
}

fn quiet(booted: &Booted) {
    assert_eq!(booted.hyp().machine().take_violations(), Vec::<String>::new());
}

/// The scheduler is worth its name: it switches between two stores to a table,
/// and between two accesses to what is not memory, where there is no lock.
#[test]
fn another_cpu_can_come_between_any_two_accesses() {
    static BETWEEN: [AtomicBool; 2] = [const { AtomicBool::new(false) }; 2];
    let scenario = || {
        let booted = Arc::new(Booted::new().unwrap());
        let table = booted.layout.hyp[0].start();
        let other = booted.clone();
        let storing = thread::spawn(move || {
            let machine = other.hyp().machine();
            machine.write_word(table, 0, 2);
            machine.write_word(table, 1, 2);
            machine.world().counter = 1;
            machine.world().timer_line = true;
        });
        let machine = booted.hyp().machine();
        let words = [1, 0].map(|index| machine.read_word(table, index));
        let (line, counter) = (machine.timer_line(), machine.counter());
        BETWEEN[0].fetch_or(words == [0, 2], Ordering::SeqCst);
        BETWEEN[1].fetch_or(!line && counter == 1, Ordering::SeqCst);
        storing.join().unwrap();
    };
    check(scenario);
    assert!(BETWEEN.iter().all(|seen| seen.load(Ordering::SeqCst)), "{BETWEEN:?}");
}

/// C18: the machine stops while a vCPU is out. The simulated machine writes down
/// a stop with a vCPU on a CPU.
#[test]
fn a_vcpu_that_is_out_is_home_before_the_machine_stops() {
    static OUT: AtomicBool = AtomicBool::new(false);
    let scenario = || {
        let booted = Arc::new(Booted::new().unwrap());
        let handle = vm(&booted, FRAMES);
        let vmid = booted.hyp().view_vm(handle).unwrap().regime.vmid;
        let page = Gfn::new(RAM).unwrap();
        booted.hyp().machine().world().patience = u32::MAX;
        let guest = booted.clone();
        booted.hyp().machine().world().script(0, move |_| {
            OUT.store(true, Ordering::SeqCst);
            // It executes for as long as it can.
            while !guest.hyp().machine().access(vmid, page).is_empty() {
                thread::yield_now();
            }
            INTERRUPT
        });
        let other = booted.clone();
        let running = thread::spawn(move || {
            hvc(&other, 0, id::VCPU_RUN, &[handle, 0, 0]);
        });
        host(&booted, 1, 0x17, psci::SYSTEM_RESET, &[]);
        assert_eq!(booted.hyp().machine().world().power.len(), 1);
        running.join().unwrap();
        quiet(&booted);
    };
    check(scenario);
    assert!(OUT.load(Ordering::SeqCst), "the guest never ran");
}

#[test]
fn a_donated_frame_is_zero_whatever_the_host_stores_meanwhile() {
    let scenario = || {
        let booted = Arc::new(Booted::new().unwrap());
        let handle = vm(&booted, FRAMES);
        let frame = Pfn::new(FRAMES + 20).unwrap();
        let other = booted.clone();
        let storing = thread::spawn(move || {
            for value in 1..6 {
                other.hyp().machine().view_store(Vmid::HOST, frame.identity(), value);
            }
        });
        let donate = [handle, frame.number(), RAM + 1, 1, 0];
        assert_eq!(hvc(&booted, 1, id::FRAME_DONATE, &donate), (0, 1));
        // From here on no store arrives, late or not.
        assert_eq!(booted.hyp().machine().tag(frame), Some(0));
        storing.join().unwrap();
        assert_eq!(booted.hyp().machine().tag(frame), Some(0));
        quiet(&booted);
    };
    check(scenario);
}

#[test]
fn two_guests_cannot_both_get_one_frame() {
    let scenario = || {
        let booted = Arc::new(Booted::new().unwrap());
        let handles = [vm(&booted, FRAMES), vm(&booted, FRAMES + 16)];
        let donating = handles.map(|handle| {
            let booted = booted.clone();
            thread::spawn(move || {
                let cpu = (handle & 0xff) as usize;
                hvc(&booted, cpu, id::FRAME_DONATE, &[handle, FRAMES + 40, RAM + 1, 1, 0])
            })
        });
        let mut results = donating.map(|thread| thread.join().unwrap());
        results.sort_unstable();
        assert_eq!(results, [(-4, 0), (0, 1)]);
        quiet(&booted);
    };
    check(scenario);
}

#[test]
fn a_vm_that_is_run_and_torn_down_at_once_leaves_nothing() {
    let scenario = || {
        let booted = Arc::new(Booted::new().unwrap());
        let handle = vm(&booted, FRAMES);
        let frame = FRAMES + 12;
        let machine = booted.hyp().machine();
        // A page that is lent when its guest dies, the host could spoil.
        machine.set_hostile(false);
        machine.plant(Pfn::new(frame).unwrap(), 0x5ec1);
        machine.world().script(1, |vcpu| {
            vcpu.frame.x[..4].copy_from_slice(&[guest::MEM_SHARE.into(), RAM << 12, 1, 0]);
            trap(0x16)
        });
        machine.world().script_trap(1, INTERRUPT);
        let running = thread::spawn({
            let booted = booted.clone();
            move || hvc(&booted, 1, id::VCPU_RUN, &[handle, 0, 0])
        });
        let (stopped, _) = hvc(&booted, 2, id::VM_STOP, &[handle]);
        let (reclaimed, _) = hvc(&booted, 2, id::FRAME_RECLAIM, &[handle, frame, 1]);
        assert!([0, -6].contains(&stopped) && [0, -6].contains(&reclaimed));
        let (status, reason) = running.join().unwrap();
        let ended = [exit::INTERRUPT, exit::DEAD].contains(&(reason & 0xff));
        assert!(status == -8 || status == 0 && ended, "{status} {reason:#x}");
        assert_eq!(hvc(&booted, 2, id::VM_STOP, &[handle]).0, 0);
        if reclaimed != 0 {
            assert_eq!(hvc(&booted, 2, id::FRAME_RECLAIM, &[handle, frame, 1]), (0, 1));
        }
        assert_eq!(hvc(&booted, 2, id::VM_DESTROY, &[handle]), (0, 0));
        assert_eq!(booted.hyp().machine().tag(Pfn::new(frame).unwrap()), Some(0));
        assert_eq!(hvc(&booted, 2, id::FRAME_STATE, &[frame]), (0, 0));
        quiet(&booted);
    };
    check(scenario);
}

/// A realm with two vCPUs that are on and one page of RAM (frame `at` + 12).
fn realm(booted: &Booted, at: u64) -> u64 {
    let (status, handle) = hvc(booted, 0, id::VM_CREATE, &[at, 12, 16, 2, abi::CREATE_RSI]);
    assert_eq!(status, 0);
    booted.hyp().machine().attach(booted.hyp().view_vm(handle).unwrap().regime);
    assert_eq!(hvc(booted, 0, id::FRAME_DONATE, &[handle, at + 12, RAM, 1, 1]), (0, 1));
    assert_eq!(hvc(booted, 0, id::VM_FINALISE, &[handle, RAM << 12, 0]).0, 0);
    booted.hyp().machine().world().script(0, |vcpu| {
        vcpu.frame.x[..4].copy_from_slice(&[psci::CPU_ON_64.into(), 1, RAM << 12, 0]);
        trap(0x17)
    });
    assert_eq!(hvc(booted, 0, id::VCPU_RUN, &[handle, 0, 0]), (0, exit::CPU_ON));
    handle
}

#[test]
fn a_page_that_is_shared_and_taken_back_at_once_is_in_one_place() {
    static SEEN: [AtomicBool; 2] = [const { AtomicBool::new(false) }; 2];
    let scenario = || {
        let booted = Arc::new(Booted::new().unwrap());
        let handle = realm(&booted, FRAMES);
        let frame = Pfn::new(FRAMES + 12).unwrap();
        let changing = [rsi::ripas::EMPTY, rsi::ripas::RAM].map(|state| {
            let (booted, cpu) = (booted.clone(), 1 + state as usize);
            booted.hyp().machine().world().script(cpu, move |vcpu| {
                let set = rsi::IPA_STATE_SET.into();
                vcpu.frame.x[..5].copy_from_slice(&[set, RAM << 12, (RAM + 1) << 12, state, 0]);
                trap(0x17)
            });
            booted.hyp().machine().world().script(cpu, |vcpu| {
                let done = [rsi::status::SUCCESS, (RAM + 1) << 12, rsi::ACCEPT];
                assert_eq!(vcpu.frame.x[..3], done);
                INTERRUPT
            });
            thread::spawn(move || hvc(&booted, cpu, id::VCPU_RUN, &[handle, state, 0]))
        });
        for run in changing.map(|thread| thread.join().unwrap()) {
            assert_eq!(run, (0, exit::INTERRUPT));
        }
        let home = Gfn::new(RAM).unwrap();
        let machine = booted.hyp().machine();
        let reached = [home, home.alias()].map(|gfn| machine.access(Vmid(2), gfn) == [frame]);
        assert!(reached[0] != reached[1], "{reached:?}");
        let state = if reached[1] { 2 } else { 3 };
        assert_eq!(hvc(&booted, 0, id::FRAME_STATE, &[frame.number()]), (0, state));
        SEEN[usize::from(reached[1])].store(true, Ordering::SeqCst);
        quiet(&booted);
    };
    check(scenario);
    assert!(SEEN.iter().all(|seen| seen.load(Ordering::SeqCst)), "only one order was tried");
}

#[test]
fn a_vcpu_runs_on_one_cpu_at_a_time() {
    let scenario = || {
        let booted = Arc::new(Booted::new().unwrap());
        let handle = vm(&booted, FRAMES);
        let inside = Arc::new(AtomicBool::new(false));
        let running = [1, 2].map(|cpu| {
            let (booted, inside) = (booted.clone(), inside.clone());
            booted.hyp().machine().world().script(cpu, move |_| {
                assert!(!inside.swap(true, Ordering::SeqCst), "two CPUs run one vCPU");
                thread::yield_now();
                inside.store(false, Ordering::SeqCst);
                INTERRUPT
            });
            thread::spawn(move || hvc(&booted, cpu, id::VCPU_RUN, &[handle, 0, 0]).0)
        });
        let results = running.map(|thread| thread.join().unwrap());
        assert!(results.iter().all(|status| [0, -6].contains(status)), "{results:?}");
        assert!(results.contains(&0), "{results:?}");
        quiet(&booted);
    };
    check(scenario);
}

#[test]
fn a_cpu_is_started_once() {
    let scenario = || {
        let booted = Arc::new(Booted::new().unwrap());
        let starting = [0, 1].map(|cpu| {
            let booted = booted.clone();
            thread::spawn(move || {
                host(&booted, cpu, 0x17, psci::CPU_ON_64, &[2, FRAMES << 12, 0]).0
            })
        });
        let mut results = starting.map(|thread| thread.join().unwrap());
        results.sort_unstable();
        // ON_PENDING (DEN0022 5.6): nothing has come up on it yet.
        assert_eq!(results, [-5, 0]);
        assert_eq!(booted.hyp().machine().world().started.len(), 1);
        assert!(booted.hyp().machine().cpu() < 3);
    };
    check(scenario);
}
