//! bouncer and its model, side by side.
//!
//! A [`Session`] applies one event to both and compares. What runs inside a
//! VCPU_RUN is applied from inside the simulated world switch, where no lock
//! is held: so the host can act on one CPU while a guest runs on another, and
//! the comparison is made after *every* trap.

use crate::abstraction;
use crate::event::{Event, HostAction};
use crate::guest::{Expected, judge_exit};
use crate::host::{self, Call};
use crate::machine::{Booted, CPUS};
use crate::names;
use crate::state::{Page, Refusal, Stage, State};
use crate::traps;
use hyp::abi::host as id;
use hyp::addr::Pfn;
use hyp::machine::Vmid;
use hyp::trap::Trap;
use hyp::vcpu::state::Frame;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Registers of a guest have these bits and nothing else has: if the host
/// finds one in its own, a secret has leaked.
pub const TAINT: u64 = 0x7a17_0000_0000_0000;
const TAINT_MASK: u64 = 0xffff_0000_0000_0000;

/// What a sequence did, to see that it is worth its time.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Stats {
    /// Traps handled.
    pub traps: u64,
    /// Calls of the host that succeeded.
    pub successes: u64,
    /// That were refused.
    pub refusals: u64,
    /// Guests entered.
    pub runs: u64,
    /// Traps of guests.
    pub guest_traps: u64,
    /// Accesses of the host that were refused.
    pub aborts: u64,
}

impl Stats {
    /// Adds another's.
    pub fn add(&mut self, other: &Stats) {
        self.traps += other.traps;
        self.successes += other.successes;
        self.refusals += other.refusals;
        self.runs += other.runs;
        self.guest_traps += other.guest_traps;
        self.aborts += other.aborts;
    }
}

/// A vCPU on a CPU.
pub(crate) struct Run {
    pub(crate) handle: u64,
    pub(crate) slot: u8,
    pub(crate) vcpu: usize,
    pub(crate) steps: VecDeque<crate::event::Step>,
    /// What may come of its last trap.
    pub(crate) expected: Expected,
}

/// The model's half.
pub(crate) struct Checker {
    pub(crate) state: State,
    pub(crate) runs: [Option<Run>; CPUS],
    pub(crate) failure: Option<String>,
    pub(crate) stats: Stats,
    pub(crate) serial: u64,
    /// Effects of EL2's when everything was compared last.
    compared: u64,
    listing: Option<Vec<String>>,
}

pub(crate) struct Inner {
    pub(crate) booted: Booted,
    pub(crate) checker: Mutex<Checker>,
}

/// A booted machine and its model.
pub struct Session {
    inner: Arc<Inner>,
}

impl Session {
    /// Boots. With `listing` the session writes down what happens.
    ///
    /// # Errors
    /// What is wrong after boot.
    pub fn new(listing: bool) -> Result<Self, String> {
        let booted = Booted::new()?;
        let range = |range: &hyp::addr::PfnRange| range.start().number()..range.end();
        let hyp: Vec<_> = booted.layout.hyp.iter().map(range).collect();
        let ram = booted.layout.ram.first().map(range).ok_or("no RAM")?;
        let checker = Checker {
            state: State::new(ram, &hyp, CPUS),
            runs: [const { None }; CPUS],
            failure: None,
            stats: Stats::default(),
            serial: 0,
            compared: u64::MAX,
            listing: listing.then(Vec::new),
        };
        let inner = Arc::new(Inner { booted, checker: Mutex::new(checker) });
        inner.compare(&mut inner.lock())?;
        Ok(Self { inner })
    }

    /// Applies one event.
    ///
    /// # Errors
    /// What bouncer did that the rules do not allow.
    pub fn apply(&self, event: &Event) -> Result<(), String> {
        if self.inner.lock().state.off {
            return Ok(());
        }
        let applied = match event {
            Event::Host(cpu, action) => self.inner.act(*cpu, action),
            Event::AllocationFails(fails) => {
                self.inner.lock().state.allocations_fail = *fails;
                let machine = self.inner.booted.hyp().machine();
                match fails {
                    true => machine.fail_allocation_after(0),
                    false => machine.allow_allocations(),
                }
                Ok(())
            }
            Event::Timer(level) => {
                self.inner.lock().state.timer = *level;
                self.inner.booted.hyp().machine().world().timer_line = *level;
                Ok(())
            }
        };
        let failure = self.inner.lock().failure.take();
        applied.and(failure.map_or(Ok(()), Err))
    }

    /// The checks that take too long for every event.
    ///
    /// # Errors
    /// What is wrong.
    pub fn finish(&self) -> Result<(), String> {
        let checker = self.inner.lock();
        if checker.state.off { Ok(()) } else { self.inner.compare_all(&checker) }
    }

    /// The abstract state.
    pub fn state(&self) -> State {
        self.inner.lock().state.clone()
    }

    /// What it did so far.
    pub fn stats(&self) -> Stats {
        self.inner.lock().stats
    }

    /// What happened, a line per trap.
    pub fn listing(&self) -> String {
        self.inner.lock().listing.as_ref().map(|lines| lines.join("\n")).unwrap_or_default()
    }
}

impl Checker {
    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.listing {
            lines.push(line());
        }
    }

    /// This CPU, or the next one on which the host runs.
    fn free_cpu(&self, cpu: u8) -> Option<u8> {
        let from = usize::from(cpu) % CPUS;
        let candidates = (from..CPUS).chain(0..from);
        let free = |cpu: &usize| self.runs.get(*cpu).is_some_and(Option::is_none);
        candidates.into_iter().find(free).map(|cpu| cpu as u8)
    }
}

impl Inner {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Checker> {
        self.checker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end of a trap: no rule broken on the way, and everything as the
    /// model says. What was not touched is not compared again.
    pub(crate) fn compare(&self, checker: &mut Checker) -> Result<(), String> {
        let machine = self.booted.hyp().machine();
        let broken = machine.take_violations();
        if !broken.is_empty() {
            return Err(format!("rules broken: {}", broken.join("; ")));
        }
        abstraction::frame_table(&self.booted, &checker.state)?;
        let effects = machine.effects();
        if checker.compared != effects {
            checker.compared = effects;
            abstraction::host_tables(&self.booted, &checker.state)?;
            abstraction::contents(&self.booted, &checker.state)?;
        }
        (0..hyp::abi::MAX_VMS as u8)
            .try_for_each(|slot| abstraction::vm(&self.booted, &checker.state, slot))
    }

    fn compare_all(&self, checker: &Checker) -> Result<(), String> {
        abstraction::contents(&self.booted, &checker.state)?;
        abstraction::host_tables(&self.booted, &checker.state)?;
        abstraction::own_mappings(&self.booted, &checker.state)
    }

    /// The host acts on a CPU.
    pub(crate) fn act(self: &Arc<Self>, cpu: u8, action: &HostAction) -> Result<(), String> {
        let resolved = {
            let checker = self.lock();
            // With a guest on every CPU the host has to wait.
            let Some(cpu) = checker.free_cpu(cpu) else { return Ok(()) };
            (cpu, names::host_call(&checker.state, action))
        };
        match (resolved, action) {
            ((cpu, Some(call)), HostAction::Run { steps, .. }) => {
                self.vcpu_run(cpu, &call, steps.iter().cloned().collect())
            }
            ((cpu, Some(call)), _) if is_run(&call) => self.vcpu_run(cpu, &call, VecDeque::new()),
            ((cpu, Some(call)), _) => self.host_call(cpu, &call),
            ((cpu, None), HostAction::Smc(function, immediate, arguments)) => {
                self.smc(cpu, (*function, *immediate), *arguments)
            }
            ((cpu, None), HostAction::Access(frame, word, write)) => {
                let pfn = names::frame(&self.lock().state, *frame, 1);
                self.host_access(cpu, pfn, *word, *write)
            }
            ((cpu, None), HostAction::SystemRegister(op0, op1, crn, crm, op2, read)) => {
                self.host_register(cpu, (*op0, *op1, *crn, *crm, *op2), *read)
            }
            _ => Ok(()),
        }
    }

    /// A trap of the host's on a CPU. Every register but those in `changes`
    /// must survive, and none may hold a guest's secret.
    fn host_trap(
        &self,
        cpu: u8,
        frame: &mut Frame,
        trap: Trap,
        changes: &[usize],
    ) -> Result<(), String> {
        let machine = self.booted.hyp().machine();
        let before = frame.clone();
        let here = hyp::machine::Machine::cpu(machine);
        machine.be_cpu(usize::from(cpu));
        self.booted.hyp().handle_host_trap(frame, trap);
        machine.be_cpu(here);
        self.lock().stats.traps += 1;
        for (index, (now, then)) in frame.x.iter().zip(before.x).enumerate() {
            if *now != then && !changes.contains(&index) {
                return Err(format!("x{index} of the host's changed from {then:#x} to {now:#x}"));
            }
        }
        Ok(())
    }

    /// An HVC of the host's: x0 to x3.
    fn hypercall(&self, cpu: u8, call: &Call) -> Result<[u64; 4], String> {
        let mut frame = marked();
        frame.x[0] = call.function;
        frame.x[1..6].copy_from_slice(&call.a);
        let trap = traps::sync(0x16 << 26 | u64::from(call.immediate));
        self.host_trap(cpu, &mut frame, trap, &[0, 1, 2, 3])?;
        if (frame.pc, frame.pstate) != (HOST_PC, HOST_PSTATE) {
            return Err("a hypercall moves the host's pc".into());
        }
        Ok([0, 1, 2, 3].map(|register: usize| frame.x[register]))
    }

    /// Any call but VCPU_RUN.
    fn host_call(&self, cpu: u8, call: &Call) -> Result<(), String> {
        let machine = self.booted.hyp().machine();
        let (allowed, effects) = {
            let checker = self.lock();
            (host::refusals(&checker.state, call), machine.effects())
        };
        let [x0, x @ ..] = self.hypercall(cpu, call)?;
        let mut guard = self.lock();
        let checker = &mut *guard;
        checker.note(|| format!("cpu{cpu} {} → {} {x:x?}", names::listing(call), x0 as i64));
        allowed.judge(x0 as i64)?;
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
            let mut is = false;
            hyp.view_frames(|pfn, entry| {
                is |= pfn.number() == number && entry.owner() == hyp::memory::Owner::Host;
            });
            is
        };
        host::commit(&mut checker.state, call, x, &is_host)?;
        if call.function == u64::from(id::VM_CREATE) {
            let view = hyp.view_vm(x[0]).ok_or("the new VM is not there")?;
            machine.attach(view.regime);
        }
        self.compare(checker)
    }

    fn refused(
        &self,
        checker: &mut Checker,
        call: &Call,
        x0: i64,
        (x, effects): ([u64; 3], u64),
    ) -> Result<(), String> {
        let before = checker.state.vm(call.a[0]).map(|vm| vm.unlinked);
        host::refused(&mut checker.state, call, x0);
        let unlinked = checker.state.vm(call.a[0]).map(|vm| vm.unlinked) != before;
        if x != [0; 3] {
            return Err(format!("a refusal tells {x:x?}"));
        }
        if self.booted.hyp().machine().effects() != effects && !unlinked {
            return Err("refused, but EL2 wrote to memory".into());
        }
        self.compare(checker)
    }

    /// VCPU_RUN from start to end.
    fn vcpu_run(
        self: &Arc<Self>,
        cpu: u8,
        call: &Call,
        steps: VecDeque<crate::event::Step>,
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
        let [x0, x @ ..] = self.hypercall(cpu, call)?;
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

    /// An SMC of the host's.
    fn smc(&self, cpu: u8, function: (u64, u16), arguments: [u64; 3]) -> Result<(), String> {
        let mut frame = marked();
        frame.x[0] = function.0;
        frame.x[1..4].copy_from_slice(&arguments);
        let trap = traps::sync(0x17 << 26 | u64::from(function.1));
        let expected = {
            let mut checker = self.lock();
            host::firmware(&mut checker.state, function, arguments, usize::from(cpu))
        };
        self.host_trap(cpu, &mut frame, trap, &[0, 1, 2, 3])?;
        let mut guard = self.lock();
        let checker = &mut *guard;
        let x0 = frame.x[0] as i64;
        checker.note(|| format!("cpu{cpu} SMC {:#x} {arguments:x?} → {x0}", function.0));
        if frame.pc != HOST_PC + 4 || x0 != expected.unwrap_or(-1) || frame.x[1..4] != [0; 3] {
            return Err(format!("SMC {:#x} gives {x0}, not {expected:?}", function.0));
        }
        if checker.state.off {
            return self.machine_is_off(checker);
        }
        if expected.is_none() {
            let what = 2 | u64::from(cpu) << 8 | trap.esr << 32;
            checker.state.record(Refusal { what, address: function.0, pc: HOST_PC });
        }
        self.compare(checker)
    }

    /// The machine ended. Whatever runs on it next finds nothing of a guest.
    fn machine_is_off(&self, checker: &Checker) -> Result<(), String> {
        let machine = self.booted.hyp().machine();
        if machine.world().power.len() != 1 {
            return Err("the machine goes on".into());
        }
        for (number, page) in checker.state.frames() {
            let lent = match page {
                Page::Guest(_, _, lent) => lent,
                _ => continue,
            };
            let tag = Pfn::new(number).and_then(|pfn| machine.tag(pfn));
            if tag != Some(0) && !(lent && tag == Some(host::SPOILT)) {
                return Err(format!("the machine ends with {tag:x?} of a guest in {number:#x}"));
            }
        }
        Ok(())
    }

    /// A load or store of the host's.
    fn host_access(&self, cpu: u8, pfn: u64, word: u16, write: bool) -> Result<(), String> {
        let machine = self.booted.hyp().machine();
        // What EL2 filters for the host has its own tests.
        if (crate::machine::RD_BASE >> 12..(crate::machine::RD_BASE >> 12) + 16).contains(&pfn) {
            return Ok(());
        }
        let mut guard = self.lock();
        let checker = &mut *guard;
        let reached =
            Pfn::new(pfn).map(|pfn| machine.access(Vmid::HOST, pfn.identity())).unwrap_or_default();
        if let Some(frame) = reached.first() {
            if reached != [*frame] || frame.number() != pfn {
                return Err(format!("the host's {pfn:#x} reaches {reached:x?}"));
            }
            if self.booted.is_host_device(pfn) {
                return Ok(());
            }
            if !checker.state.host_may(pfn) {
                return Err(format!("the host reaches {pfn:#x}: {:?}", checker.state.page(pfn)));
            }
            let found = machine.peek(*frame, usize::from(word) % 512);
            if found != checker.state.content(pfn) {
                return Err(format!("the host reads {found:#x} in {pfn:#x}"));
            }
            if write {
                checker.serial += 1;
                let value = 0x4057_0000_0000_0000 | checker.serial;
                machine.plant(*frame, value);
                checker.state.fill(pfn, value);
            }
            return Ok(());
        }
        if checker.state.host_may(pfn) {
            return Err(format!("the host does not reach its own frame {pfn:#x}"));
        }
        let ipa = ((pfn << 12) | (u64::from(word) % 512 * 8)) & 0xffff_ffff_ffff;
        let trap = traps::abort(ipa, 8, 9, write, true);
        let (owner, what) = {
            let owner = checker.state.owner_code(ipa >> 12);
            (owner, 1 | u64::from(cpu) << 8 | owner << 16 | trap.esr << 32)
        };
        drop(guard);
        let mut frame = marked();
        self.host_trap(cpu, &mut frame, trap, &[])?;
        let mut guard = self.lock();
        let checker = &mut *guard;
        checker.note(|| format!("cpu{cpu} access to {ipa:#x}, which is {owner}'s: abort"));
        checker.stats.aborts += 1;
        if !traps::is_vector(frame.pc) {
            return Err(format!("no abort for {ipa:#x}: pc {:#x}", frame.pc));
        }
        checker.state.record(Refusal { what, address: ipa, pc: HOST_PC });
        self.compare(checker)
    }

    /// MRS or MSR of the host's.
    fn host_register(
        &self,
        cpu: u8,
        encoding: (u8, u8, u8, u8, u8),
        read: bool,
    ) -> Result<(), String> {
        let trap = traps::register(encoding, 9, read);
        let (op0, op1, crn, crm, _) = encoding;
        let identification = (op0, op1, crn) == (3, 0, 0) && (1..=7).contains(&crm) && read;
        let mut frame = marked();
        let changes: &[usize] = if identification { &[9] } else { &[] };
        self.host_trap(cpu, &mut frame, trap, changes)?;
        let mut guard = self.lock();
        let checker = &mut *guard;
        checker.note(|| format!("cpu{cpu} system register {encoding:?}"));
        match identification {
            true if frame.pc == HOST_PC + 4 => {}
            false if traps::is_vector(frame.pc) => {
                let what = 4 | u64::from(cpu) << 8 | trap.esr << 32;
                let address = trap.esr & 0x1ff_ffff;
                checker.state.record(Refusal { what, address, pc: HOST_PC });
            }
            _ => return Err(format!("register {encoding:?}: pc {:#x}", frame.pc)),
        }
        self.compare(checker)
    }
}

fn is_run(call: &Call) -> bool {
    call.function == u64::from(id::VCPU_RUN) && call.immediate == 0
}

const HOST_PC: u64 = 0x4000_1000;
const HOST_PSTATE: u64 = 0x3c5;

/// The host's registers, each with a value of its own.
fn marked() -> Frame {
    let mut frame = Frame { pc: HOST_PC, pstate: HOST_PSTATE, ..Frame::default() };
    frame.x.iter_mut().zip(0x0e10_0000..).for_each(|(x, mark)| *x = mark);
    frame
}
