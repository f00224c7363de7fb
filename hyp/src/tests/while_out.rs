//! Whatever ends a VM or the machine while one of its vCPUs is out, on a CPU
//! that runs it: nothing of its registers stays behind (attack row C18).

use super::rig::{PAGES, RAM_GFN, Rig, interrupt, pfn, sync};
use crate::abi::{exit, host as id};
use crate::addr::Gfn;
use crate::error::Error;
use crate::layout;
use crate::machine::PowerAction;
use crate::psci::function;
use crate::trap::{Trap, TrapKind};
use crate::vcpu::state::{Frame, VcpuState};
use crate::vm::Handle;
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc;
use std::thread;

/// What the guest has in its registers.
const SECRET: u64 = 0x5ec2_e75e;

fn fill(vcpu: &mut VcpuState) {
    vcpu.frame.x = [SECRET; 31];
    vcpu.fp.v = [u128::from(SECRET); 32];
    vcpu.el1.tpidr_el0 = SECRET;
    vcpu.gic.ap1r[0] = SECRET;
}

/// VCPU_RUN on this CPU; gives why it came back.
fn run(rig: &Rig, handle: u64, vcpu: u64) -> u64 {
    let mut frame = Frame::default();
    frame.x[..4].copy_from_slice(&[u64::from(id::VCPU_RUN), handle, vcpu, 0]);
    rig.hyp.handle_host_trap(&mut frame, sync(0x16 << 26));
    assert_eq!(frame.x[0], 0, "the vCPU was entered");
    frame.x[1]
}

/// Makes `call` on CPU 1 while vCPU 0 is out on CPU 0 with a secret in its
/// registers. It comes to its next trap when the call is done, or waits for it;
/// before that, `look` is called with whether it waits.
fn meanwhile(rig: &Rig, handle: u64, call: impl FnOnce() + Send, look: impl FnOnce(bool)) {
    let (is_out, out) = mpsc::channel();
    let (let_go, go) = mpsc::channel();
    rig.script(move |vcpu| {
        fill(vcpu);
        is_out.send(()).unwrap();
        go.recv().unwrap();
        interrupt()
    });
    rig.hyp.machine().world().patience = u32::MAX;
    thread::scope(|scope| {
        let runner = scope.spawn(|| run(rig, handle, 0));
        out.recv().unwrap();
        let caller = scope.spawn(|| {
            rig.hyp.machine().be_cpu(1);
            call();
        });
        let waits = || rig.hyp.machine().world().waits > 0;
        while !waits() && !caller.is_finished() {
            thread::yield_now();
        }
        // Whatever was seen, both come to their end, and then it is said.
        let seen = panic::catch_unwind(AssertUnwindSafe(|| look(waits())));
        let_go.send(()).unwrap();
        caller.join().unwrap();
        runner.join().unwrap();
        seen.unwrap_or_else(|said| panic::resume_unwind(said));
    });
    assert!(!rig.keeps(handle, SECRET), "the vCPU's registers are still there");
}

/// Is vCPU 0 still able to execute an instruction?
fn has_memory(rig: &Rig, handle: u64) -> bool {
    let vmid = rig.hyp.with_vm(Handle::from_raw(handle), |vm| Ok(vm.regime().vmid)).unwrap();
    let mut ram = (RAM_GFN..RAM_GFN + PAGES).filter_map(Gfn::new);
    ram.any(|gfn| !rig.hyp.machine().access(vmid, gfn).is_empty())
}

#[test]
fn c18_the_machine_stops_when_every_vcpu_is_home_and_wiped() {
    for (call, action) in
        [(function::SYSTEM_OFF, PowerAction::Off), (function::SYSTEM_RESET, PowerAction::Reset)]
    {
        let mut rig = Rig::new();
        let (handle, ram) = rig.vm(1);
        rig.hyp.machine().poke(pfn(ram), 7, SECRET);
        assert!(has_memory(&rig, handle));
        let stop = || assert_eq!(rig.smc(u64::from(call), &[]), 0);
        // The simulated machine watches that no vCPU is on a CPU when it stops.
        meanwhile(&rig, handle, stop, |waits| {
            assert!(waits, "{action:?} did not wait for the vCPU");
            assert!(!has_memory(&rig, handle), "so it would run on for ever");
            assert!(rig.hyp.machine().world().power.is_empty());
        });
        assert_eq!(rig.hyp.machine().world().power, [action]);
        assert_eq!(rig.hyp.machine().peek(pfn(ram), 7), 0);
    }
}

#[test]
fn c18_a_cpu_that_never_comes_back_does_not_keep_the_machine_from_stopping() {
    let mut rig = Rig::new();
    let (handle, ram) = rig.vm(1);
    rig.hyp.machine().poke(pfn(ram), 7, SECRET);
    let (is_out, out) = mpsc::channel();
    let (let_go, go) = mpsc::channel();
    rig.script(move |_| {
        is_out.send(()).unwrap();
        go.recv().unwrap();
        interrupt()
    });
    thread::scope(|scope| {
        let runner = scope.spawn(|| run(&rig, handle, 0));
        out.recv().unwrap();
        rig.hyp.machine().be_cpu(1);
        rig.smc(u64::from(function::SYSTEM_RESET), &[]);
        rig.hyp.machine().be_cpu(0);
        let power = rig.hyp.machine().world().power.clone();
        let memory = rig.hyp.machine().peek(pfn(ram), 7);
        let_go.send(()).unwrap();
        runner.join().unwrap();
        assert_eq!(power, [PowerAction::Reset]);
        assert_eq!(memory, 0, "its memory is wiped all the same");
    });
}

#[test]
fn c18_the_hosts_calls_about_the_vm_are_busy_until_the_vcpu_is_back() {
    let mut rig = Rig::new();
    let (handle, ram) = rig.vm(2);
    let busy = Err(Error::Busy.code());
    let calls = || {
        assert_eq!(rig.hvc(id::VM_STOP, &[handle]), busy);
        assert_eq!(rig.hvc(id::FRAME_RECLAIM, &[handle, ram, PAGES]), busy);
        assert_eq!(rig.hvc(id::VM_DESTROY, &[handle]), busy);
        assert!(rig.hvc(id::VCPU_RUN, &[handle, 1, 0]).is_err(), "nobody enters any more");
    };
    meanwhile(&rig, handle, calls, |waits| assert!(!waits));
    assert_eq!(rig.hvc(id::VM_STOP, &[handle]), Ok([0; 3]));
    assert_eq!(rig.hvc(id::FRAME_RECLAIM, &[handle, ram, PAGES]), Ok([PAGES, 0, 0]));
    while rig.hvc(id::VM_DESTROY, &[handle]).unwrap()[0] > 0 {}
}

/// The other vCPU ends the VM: by its call, by an error of the machine, by
/// being what no guest is. Its own registers go, and those of vCPU 0, too.
#[test]
fn c18_the_guests_own_end_wipes_the_vcpu_that_is_out() {
    let off = |function: u32| {
        move |vcpu: &mut VcpuState| {
            fill(vcpu);
            vcpu.frame.x[0] = u64::from(function);
            sync(0x16 << 26)
        }
    };
    let error = |vcpu: &mut VcpuState| {
        fill(vcpu);
        Trap { kind: TrapKind::SError, esr: 0, far: 0, hpfar: 0 }
    };
    let aarch32 = |vcpu: &mut VcpuState| {
        fill(vcpu);
        vcpu.frame.pstate = 0x10;
        interrupt()
    };
    type Step = std::boxed::Box<dyn FnOnce(&mut VcpuState) -> Trap + Send>;
    let ends: [(Step, u64); 4] = [
        (std::boxed::Box::new(off(function::SYSTEM_OFF)), exit::SHUTDOWN),
        (std::boxed::Box::new(off(function::SYSTEM_RESET)), exit::SHUTDOWN),
        (std::boxed::Box::new(error), exit::DEAD),
        (std::boxed::Box::new(aarch32), exit::DEAD),
    ];
    for (step, reason) in ends {
        let mut rig = Rig::new();
        let (handle, _) = rig.vm(2);
        let started = rig
            .hyp
            .with_vm(Handle::from_raw(handle), |vm| Ok(vm.vcpus.start(1, layout::RAM, 0, 0, 0)));
        assert_eq!(started, Ok(Ok(())));
        rig.hyp.machine().world().script(1, step);
        let end = || assert_eq!(run(&rig, handle, 1), reason);
        meanwhile(&rig, handle, end, |waits| assert!(!waits));
    }
}

/// A VM that dies keeps no register until it is destroyed: the machine may be
/// gone before that.
#[test]
fn c18_registers_of_a_vcpu_at_home_are_wiped_when_its_vm_begins_to_die() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(1);
    rig.script(|vcpu| {
        fill(vcpu);
        interrupt()
    });
    rig.run(handle);
    assert!(rig.keeps(handle, SECRET));
    rig.hvc(id::VM_STOP, &[handle]).unwrap();
    assert!(!rig.keeps(handle, SECRET));
}

/// The same if the guest ends itself, by another vCPU's SYSTEM_OFF (DEN0022) or
/// fault: no vCPU comes back from there, so nobody takes its registers later.
#[test]
fn c18_registers_of_a_vcpu_at_home_are_wiped_when_its_guest_ends_itself() {
    let off = |vcpu: &mut VcpuState| {
        vcpu.frame.x[0] = u64::from(function::SYSTEM_OFF);
        sync(0x16 << 26)
    };
    let error = |_: &mut VcpuState| Trap { kind: TrapKind::SError, esr: 0, far: 0, hpfar: 0 };
    type Step = fn(&mut VcpuState) -> Trap;
    let ends: [(Step, u64); 2] = [(off, exit::SHUTDOWN), (error, exit::DEAD)];
    for (step, reason) in ends {
        let mut rig = Rig::new();
        let (handle, _) = rig.vm(2);
        rig.script(|vcpu| {
            fill(vcpu);
            interrupt()
        });
        rig.run(handle);
        assert!(rig.keeps(handle, SECRET));
        let started = rig
            .hyp
            .with_vm(Handle::from_raw(handle), |vm| Ok(vm.vcpus.start(1, layout::RAM, 0, 0, 0)));
        assert_eq!(started, Ok(Ok(())));
        rig.script(step);
        assert_eq!(run(&rig, handle, 1), reason);
        assert!(!rig.keeps(handle, SECRET), "exit {reason} left registers of vCPU 0");
    }
}
