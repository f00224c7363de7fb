//! The host makes hypercalls, VCPU_RUN among them.

use crate::call::Call;
use crate::event::Step;
use crate::expected::judge_exit;
use crate::session::{Checker, Inner, TAINT};
use crate::state::Stage;
use crate::{commit, host, names, traps};
use hyp::abi::host as id;
use hyp::addr::Pfn;
use hyp::error::Error;
use hyp::sim::heap;
use hyp::trap::Trap;
use hyp::vcpu::state::Frame;
use std::collections::VecDeque;
use std::sync::Arc;

/// Bits that say "a guest's register".
const TAINT_MASK: u64 = 0xffff_0000_0000_0000;
/// Where the host is.
pub(crate) const HOST_PC: u64 = 0x4000_1000;
/// Its PSTATE.
pub(crate) const HOST_PSTATE: u64 = 0x3c5;

/// The host's registers, each with a value of its own.
pub(crate) fn marked() -> Frame {
    let mut frame = Frame { pc: HOST_PC, pstate: HOST_PSTATE, ..Frame::default() };
    frame.x.iter_mut().zip(0x0e10_0000..).for_each(|(x, mark)| *x = mark);
    frame
}

impl Inner {
    /// A trap of the host's on a CPU. Every register but those in `changes`
    /// must survive, and none may hold a guest's secret. Tells whether an
    /// allocation of bouncer's failed.
    pub(crate) fn host_trap(
        &self,
        cpu: u8,
        frame: &mut Frame,
        trap: Trap,
        changes: &[usize],
    ) -> Result<bool, String> {
        let machine = self.booted.hyp().machine();
        let before = frame.clone();
        let here = hyp::machine::Machine::cpu(machine);
        machine.be_cpu(usize::from(cpu));
        let left = self.lock().heap.allows();
        let act = || self.booted.hyp().handle_host_trap(frame, trap);
        let ((), used) = heap::watch(left, act);
        machine.be_cpu(here);
        {
            let mut checker = self.lock();
            checker.stats.traps += 1;
            checker.stats.starved += u64::from(used.failed > 0);
            checker.heap.account(used);
        }
        let mut expected = before.x;
        changes.iter().for_each(|index| expected[*index] = frame.x[*index]);
        // As a whole first: they are nearly always the same.
        if frame.x != expected {
            let differs = |(now, then): (&u64, &u64)| now != then;
            let index = frame.x.iter().zip(&expected).position(differs).unwrap_or(0);
            let (now, then) = (frame.x[index], expected[index]);
            return Err(format!("x{index} of the host's changed from {then:#x} to {now:#x}"));
        }
        Ok(used.failed > 0)
    }

    /// An HVC of the host's: x0 to x3, and whether an allocation failed.
    pub(crate) fn hypercall(&self, cpu: u8, call: &Call) -> Result<([u64; 4], bool), String> {
        let mut frame = marked();
        frame.x[0] = call.function;
        frame.x[1..6].copy_from_slice(&call.a);
        let trap = traps::sync(0x16 << 26 | u64::from(call.immediate));
        let starved = self.host_trap(cpu, &mut frame, trap, &[0, 1, 2, 3])?;
        if (frame.pc, frame.pstate) != (HOST_PC, HOST_PSTATE) {
            return Err("a hypercall moves the host's pc".into());
        }
        Ok(([0, 1, 2, 3].map(|register: usize| frame.x[register]), starved))
    }

    /// Any call but VCPU_RUN.
    pub(crate) fn host_call(&self, cpu: u8, call: &Call) -> Result<(), String> {
        let machine = self.booted.hyp().machine();
        let (allowed, effects) = {
            let checker = self.lock();
            (host::refusals(&checker.state, call), machine.effects())
        };
        let ([x0, x @ ..], starved) = self.hypercall(cpu, call)?;
        let mut guard = self.lock();
        let checker = &mut *guard;
        checker.note(|| format!("cpu{cpu} {} → {} {x:x?}", names::listing(call), x0 as i64));
        match starved {
            true if x0 as i64 == Error::NoMemory.code() => {}
            true => return Err(format!("x0 is {} although the heap is exhausted", x0 as i64)),
            false => allowed.judge(x0 as i64)?,
        }
        if x0 != 0 {
            checker.stats.refusals += 1;
            return self.refused(checker, call, x0 as i64, (x, effects));
        }
        checker.stats.successes += 1;
        if x.iter().any(|x| x & TAINT_MASK == TAINT) && call.function != u64::from(id::EVENT_NEXT) {
            return Err(format!("a guest's register leaks: {x:x?}"));
        }
        let hyp = self.booted.hyp();
        let is_host = |number| {
            let entry = Pfn::new(number).map(|pfn| hyp.view_entry(pfn));
            entry.is_some_and(|entry| entry.owner() == hyp::memory::Owner::Host)
        };
        commit::commit(&mut checker.state, call, x, &is_host)?;
        if call.function == u64::from(id::VM_CREATE) {
            let view = hyp.view_vm(x[0]).ok_or("the new VM is not there")?;
            machine.attach(view.regime);
        }
        self.compare(checker)
    }

    pub(crate) fn refused(
        &self,
        checker: &mut Checker,
        call: &Call,
        x0: i64,
        (x, effects): ([u64; 3], u64),
    ) -> Result<(), String> {
        let before = checker.state.vm(call.a[0]).map(|vm| vm.unlinked);
        commit::refused(&mut checker.state, call, x0);
        let unlinked = checker.state.vm(call.a[0]).map(|vm| vm.unlinked) != before;
        if x != [0; 3] {
            return Err(format!("a refusal tells {x:x?}"));
        }
        checker.heap.refused()?;
        if self.booted.hyp().machine().effects() != effects && !unlinked {
            return Err("refused, but EL2 wrote to memory".into());
        }
        self.compare(checker)
    }

    /// VCPU_RUN from start to end.
    pub(crate) fn vcpu_run(
        self: &Arc<Self>,
        cpu: u8,
        call: &Call,
        steps: VecDeque<Step>,
    ) -> Result<(), String> {
        let mut checker = self.lock();
        let allowed = host::refusals(&checker.state, call);
        if allowed.none() {
            let length = steps.len();
            checker.note(|| format!("cpu{cpu} {} …", names::listing(call)));
            checker.begin_run(cpu, call, steps)?;
            checker.stats.runs += 1;
            // A closure for each entry: one per step, and the interrupts.
            let mut world = self.booted.hyp().machine().world();
            for _ in world.steps_left(usize::from(cpu))..length + 3 {
                let inner = Arc::downgrade(self);
                world.script(usize::from(cpu), move |vcpu| match inner.upgrade() {
                    Some(inner) => inner.guest_turn(cpu, vcpu),
                    None => traps::INTERRUPT,
                });
            }
        }
        let effects = self.booted.hyp().machine().effects();
        drop(checker);
        let ([x0, x @ ..], _) = self.hypercall(cpu, call)?;
        let mut guard = self.lock();
        let checker = &mut *guard;
        let run = checker.runs.get_mut(usize::from(cpu)).and_then(Option::take);
        checker.note(|| format!("cpu{cpu} {} → {} {x:x?}", names::listing(call), x0 as i64));
        if checker.state.off || checker.failure.is_some() {
            return Ok(());
        }
        allowed.judge(x0 as i64)?;
        let Some(run) = run else {
            checker.stats.refusals += 1;
            return self.refused(checker, call, x0 as i64, (x, effects));
        };
        checker.stats.successes += 1;
        let Some(vm) = checker.state.vm(run.handle) else { return Err("the VM is gone".into()) };
        judge_exit(&run.expected, vm.stage == Stage::Dying, vm, x)?;
        let adopt = run.expected.adopt;
        checker.end_run(run, x[0] & 0xff);
        self.adopt(checker, call.a[0], adopt)?;
        self.compare(checker)
    }
}
