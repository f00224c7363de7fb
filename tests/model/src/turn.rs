//! A guest's turn: what its vCPU does between two entries.
//!
//! Called from inside the world switch of the simulated machine. First the
//! registers that bouncer hands back are compared, then the next instruction
//! is made up: every register gets a new value that is recognised wherever it
//! turns up, a load or store that stage 2 translates is done at once, and
//! everything else traps.

use crate::call::Call;
use crate::event::{Instruction, Step};
use crate::expected::{Adopt, Expected, Next};
use crate::fault::{self, Access, DATA, mask};
use crate::guest::{self, Trapped};
use crate::names;
use crate::realm;
use crate::session::{Checker, Inner, Run, TAINT};
use crate::state::Page;
use crate::traps;
use hyp::abi::exit;
use hyp::addr::{FRAME_SIZE, Gfn, Pfn};
use hyp::machine::Vmid;
use hyp::trap::Trap;
use hyp::vcpu::state::VcpuState;
use std::collections::VecDeque;
use std::sync::Arc;

impl Checker {
    /// The model of a VCPU_RUN that nothing refuses.
    pub(crate) fn begin_run(
        &mut self,
        cpu: u8,
        call: &Call,
        steps: VecDeque<Step>,
    ) -> Result<(), String> {
        let [handle, index, reply, ..] = call.a;
        let index = index as usize;
        let vm = self.state.vm_mut(handle).ok_or("no VM")?;
        let slot = vm.slot;
        let vcpu = vm.vcpus.get_mut(index).ok_or("no vCPU")?;
        vcpu.running = Some(cpu);
        vcpu.ran = true;
        vcpu.explained = false;
        let after = vcpu.after.take();
        let mut expected = after.unwrap_or_else(|| Expected::resume(vcpu, 0));
        expected.resume = true;
        if let Some((register, size)) = vcpu.load.take() {
            expected.x[register] = reply & mask(size);
            expected.free = None;
        }
        if let Some(place) = self.runs.get_mut(usize::from(cpu)) {
            *place = Some(Run { handle, slot, vcpu: index, steps, expected });
        }
        Ok(())
    }

    /// It has returned, with this reason.
    pub(crate) fn end_run(&mut self, run: Run, reason: u64) {
        let vm = self.state.vm_mut(run.handle);
        let Some(vcpu) = vm.and_then(|vm| vm.vcpus.get_mut(run.vcpu)) else { return };
        vcpu.running = None;
        if reason == exit::CPU_OFF {
            vcpu.on = false;
        } else {
            vcpu.after = Some(Expected { adopt: Adopt::Nothing, ..run.expected });
        }
    }

    fn run(&mut self, cpu: u8) -> Result<&mut Run, String> {
        let run = self.runs.get_mut(usize::from(cpu)).and_then(Option::as_mut);
        run.ok_or_else(|| format!("a guest is entered on CPU {cpu}, where none may be"))
    }
}

impl Inner {
    /// One entry of the guest on `cpu`: until its next trap.
    pub(crate) fn guest_turn(self: &Arc<Self>, cpu: u8, vcpu: &mut VcpuState) -> Trap {
        self.turn(cpu, vcpu).unwrap_or_else(|error| {
            let mut checker = self.lock();
            checker.failure.get_or_insert(error);
            if let Ok(run) = checker.run(cpu) {
                run.steps.clear();
            }
            traps::INTERRUPT
        })
    }

    fn turn(self: &Arc<Self>, cpu: u8, vcpu: &mut VcpuState) -> Result<Trap, String> {
        let mut checker = self.lock();
        if checker.failure.is_some() || checker.state.off {
            return Ok(traps::INTERRUPT);
        }
        self.entered(&mut checker, cpu, vcpu)?;
        loop {
            match checker.run(cpu)?.steps.pop_front() {
                Some(Step::Meanwhile(other, action)) => {
                    drop(checker);
                    self.act(other, &action)?;
                    checker = self.lock();
                    if checker.state.off || checker.failure.is_some() {
                        return Ok(traps::INTERRUPT);
                    }
                }
                Some(Step::Guest(instruction)) => {
                    let trap = self.execute(&mut checker, cpu, vcpu, &instruction)?;
                    if let Some(trap) = trap {
                        return Ok(trap);
                    }
                }
                None => {
                    let trap = self.execute(&mut checker, cpu, vcpu, &Instruction::Interrupt)?;
                    return Ok(trap.unwrap_or(traps::INTERRUPT));
                }
            }
        }
    }

    /// bouncer enters the guest: is that allowed, and are its registers as
    /// they must be?
    fn entered(&self, checker: &mut Checker, cpu: u8, vcpu: &VcpuState) -> Result<(), String> {
        let run = checker.run(cpu)?;
        let (handle, index, expected) = (run.handle, run.vcpu, run.expected.clone());
        let frame = &vcpu.frame;
        if !expected.resume {
            return Err(format!("the guest goes on, the rules ask for {:x?}", expected.exits));
        }
        // As a whole first: they are mostly the same.
        let same = if frame.x == expected.x { frame.x.len() } else { 0 };
        for (register, (found, value)) in frame.x.iter().zip(expected.x).enumerate().skip(same) {
            let chosen =
                expected.free == Some(register) || register == 0 && expected.or_x0 == Some(*found);
            if *found != value && !chosen {
                return Err(format!("x{register} of the guest is {found:#x}, not {value:#x}"));
            }
        }
        let good = match expected.next {
            Next::At(pc) => frame.pc == pc,
            Next::Vector => traps::is_vector(frame.pc),
            Next::Either(pc) => frame.pc == pc || traps::is_vector(frame.pc),
        };
        if !good {
            return Err(format!("pc of the guest is {:#x}, not {:x?}", frame.pc, expected.next));
        }
        if let Some(model) = checker.state.vm_mut(handle).and_then(|vm| vm.vcpus.get_mut(index)) {
            (model.x, model.pc) = (frame.x, frame.pc);
        }
        self.adopt(checker, handle, expected.adopt)?;
        self.compare(checker)?;
        self.fill_with_secrets(checker, handle);
        Ok(())
    }

    /// The guest has used all of its private memory, so that every frame it
    /// ever gives up is worth a wipe.
    fn fill_with_secrets(&self, checker: &mut Checker, handle: u64) {
        let Some(vm) = checker.state.vm(handle) else { return };
        let slot = vm.slot;
        let Some(its) = checker.state.of(slot) else { return };
        let private = |pfn: &u64| {
            matches!(checker.state.page(*pfn), Some(Page::Guest(_, _, false)))
                && checker.state.content(*pfn) & TAINT != TAINT
        };
        let frames: Vec<u64> = its.owned.iter().filter(private).collect();
        for number in frames {
            self.secret(checker, slot, number);
        }
    }

    /// A guest fills one frame.
    fn secret(&self, checker: &mut Checker, slot: u8, number: u64) {
        let Some(pfn) = Pfn::new(number) else { return };
        checker.serial += 1;
        let secret = TAINT | u64::from(slot) << 40 | checker.serial;
        self.booted.hyp().machine().plant(pfn, secret);
        checker.state.fill(number, secret);
    }

    /// Executes one instruction; `None` if it does not trap.
    fn execute(
        &self,
        checker: &mut Checker,
        cpu: u8,
        vcpu: &mut VcpuState,
        instruction: &Instruction,
    ) -> Result<Option<Trap>, String> {
        let run = checker.run(cpu)?;
        let (slot, index, handle) = (run.slot, run.vcpu, run.handle);
        checker.stats.guest_traps += 1;
        if *instruction != Instruction::Interrupt {
            checker.taint(slot, index, vcpu);
        }
        let x = &mut vcpu.frame.x;
        let mut access = None;
        let trap = match *instruction {
            Instruction::Hvc { function, immediate, arguments: (ipa, pages, reserved) } => {
                let ipa = names::argument(&checker.state, slot, ipa);
                x[..4].copy_from_slice(&[function, ipa, pages, reserved]);
                traps::sync(0x16 << 26 | u64::from(immediate))
            }
            Instruction::Smc(function) => {
                x[0] = function;
                traps::sync(0x17 << 26)
            }
            Instruction::Realm { function, base, pages, state: (x3, x4) } => {
                let base = names::argument(&checker.state, slot, base);
                let top = base.wrapping_add(pages.wrapping_mul(FRAME_SIZE));
                x[..5].copy_from_slice(&[function, base, top, x3, x4]);
                traps::sync(0x17 << 26)
            }
            Instruction::Access { ipa, size, store, described } => {
                let ipa = names::ipa(&checker.state, slot, ipa);
                if let Some(value) = store {
                    x[DATA] = value;
                }
                access = Some(Access { ipa, size, write: store.is_some(), described });
                traps::abort(ipa, size, DATA as u8, store.is_some(), described)
            }
            Instruction::SystemRegister { encoding, write } => {
                if let Some(value) = write {
                    x[DATA] = value;
                }
                traps::register(encoding, DATA as u8, write.is_none())
            }
            Instruction::Wait => traps::sync(0x01 << 26),
            Instruction::Interrupt => traps::INTERRUPT,
            Instruction::Syndrome(esr) => traps::sync(without_meaning(esr)),
        };
        let registers = (vcpu.frame.x, vcpu.frame.pc);
        if let Some(model) = checker.state.vm_mut(handle).and_then(|vm| vm.vcpus.get_mut(index)) {
            (model.x, model.pc) = registers;
            model.explained &= *instruction == Instruction::Interrupt;
        }
        if let Some(access) = &access
            && self.translated(checker, slot, access)?
        {
            return Ok(None);
        }
        let expected = match (*instruction, access) {
            (_, Some(access)) => fault::fault(&mut checker.state, slot, index, &access),
            (Instruction::Hvc { immediate, .. }, _) => {
                guest::hvc(&mut checker.state, slot, index, immediate)
            }
            (Instruction::Smc(_) | Instruction::Realm { .. }, _) => {
                realm::smc(&mut checker.state, slot, index)
            }
            (Instruction::SystemRegister { write, .. }, _) => {
                checker.other(slot, index, Trapped::SystemRegister(write.is_some()))
            }
            (Instruction::Wait, _) => checker.other(slot, index, Trapped::Wait),
            (Instruction::Interrupt, _) => {
                let expected = checker.other(slot, index, Trapped::Interrupt);
                let vm = checker.state.vm_mut(handle);
                if let Some(model) = vm.and_then(|vm| vm.vcpus.get_mut(index)) {
                    model.explained = true;
                }
                expected
            }
            _ => checker.other(slot, index, Trapped::Undefined),
        };
        checker.note(|| format!("  cpu{cpu} guest {slot}.{index} {instruction:x?}"));
        checker.run(cpu)?.expected = expected;
        Ok(Some(trap))
    }

    /// If stage 2 translates the access it is simply done. It must reach one
    /// frame, the one the model says, with what was written there last.
    fn translated(&self, checker: &mut Checker, slot: u8, access: &Access) -> Result<bool, String> {
        let machine = self.booted.hyp().machine();
        let Some(gfn) = Gfn::containing(access.ipa) else { return Ok(false) };
        let reached = machine.access(Vmid(2 + slot), gfn);
        let expected = checker.state.translate(slot, gfn.number());
        let reached: Vec<u64> = reached.into_iter().map(|pfn| pfn.number()).collect();
        if !reached.iter().copied().eq(expected) {
            return Err(format!("VM {slot} at {:#x} reaches {reached:x?}", access.ipa));
        }
        let (Some(pfn), Some(number)) = (expected.and_then(Pfn::new), expected) else {
            return Ok(false);
        };
        let found = machine.peek(pfn, (access.ipa & 0xfff) as usize / 8);
        if found != checker.state.content(number) {
            return Err(format!("VM {slot} reads {found:#x} at {:#x}", access.ipa));
        }
        if access.write {
            self.secret(checker, slot, number);
        }
        Ok(true)
    }
}

impl Checker {
    fn other(&self, slot: u8, index: usize, trapped: Trapped) -> Expected {
        guest::other(&self.state, slot, index, trapped)
    }

    /// The guest has computed: every register has a new value.
    fn taint(&mut self, slot: u8, index: usize, vcpu: &mut VcpuState) {
        self.serial += 1;
        let base = TAINT | u64::from(slot) << 44 | (index as u64) << 40 | self.serial << 8;
        vcpu.frame.x.iter_mut().zip(base..).for_each(|(x, value)| *x = value);
    }
}

/// A syndrome of a class for which there is no instruction above: withheld.
fn without_meaning(esr: u64) -> u64 {
    match esr >> 26 & 0x3f {
        0x01 | 0x16 | 0x17 | 0x18 | 0x20 | 0x24 => esr & !(0x3f << 26) | 0x07 << 26,
        _ => esr,
    }
}
