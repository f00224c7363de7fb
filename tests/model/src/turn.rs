//! A guest's turn: what its vCPU does between two entries.
//!
//! Called from inside the world switch of the simulated machine. First the
//! registers that bouncer hands back are compared, then the next instruction
//! is made up: every register gets a new value that is recognised wherever it
//! turns up, a load or store that stage 2 translates is done at once, and
//! everything else traps.

use crate::abstraction;
use crate::event::{Instruction, Step};
use crate::guest::{self, Access, Adopt, DATA, Expected, Next, Trapped, mask};
use crate::host::Call;
use crate::names;
use crate::session::{Checker, Inner, Run, TAINT};
use crate::state::Page;
use crate::traps;
use hyp::abi::exit;
use hyp::addr::{FRAME_SHIFT, Gfn, Pfn};
use hyp::machine::Vmid;
use hyp::trap::Trap;
use hyp::vcpu::state::VcpuState;
use std::collections::VecDeque;
use std::sync::Arc;

/// Most pages that one fault in a bounce window maps (docs/trap.md).
const FAULT_AROUND: u64 = 64;

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
        for (register, (found, value)) in frame.x.iter().zip(expected.x).enumerate() {
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
        let private = |(pfn, page): &(u64, Page)| {
            matches!(page, Page::Guest(s, _, false) if *s == slot)
                && checker.state.content(*pfn) & TAINT != TAINT
        };
        let frames: Vec<u64> = checker.state.frames().filter(private).map(|(pfn, _)| pfn).collect();
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

    /// Takes over what was EL2's or the driver's to choose, within limits.
    pub(crate) fn adopt(
        &self,
        checker: &mut Checker,
        handle: u64,
        adopt: Adopt,
    ) -> Result<(), String> {
        match adopt {
            Adopt::Nothing => Ok(()),
            Adopt::Pages(gfn) => self.adopt_pages(checker, handle, gfn),
            Adopt::Windows => self.adopt_windows(checker, handle),
        }
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
            (_, Some(access)) => guest::fault(&mut checker.state, slot, index, &access),
            (Instruction::Hvc { immediate, .. }, _) => {
                guest::hvc(&mut checker.state, slot, index, immediate)
            }
            (Instruction::Smc(_), _) => checker.other(slot, index, Trapped::Smc),
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

    /// A fault in a bounce window has mapped its page and perhaps some that
    /// follow, each to the device's frame for it.
    fn adopt_pages(&self, checker: &mut Checker, handle: u64, first: u64) -> Result<(), String> {
        let view = self.booted.hyp().view_vm(handle).ok_or("no VM")?;
        let mapped = abstraction::mapped(&self.booted, view.regime.root.number());
        let vm = checker.state.vm(handle).ok_or("no VM")?;
        let slot = vm.slot;
        let window = |device: &&crate::state::Device| {
            device.window.is_some_and(|(start, end)| (start..end).contains(&first))
        };
        let device = vm.devices.iter().find(window).cloned().ok_or("no window")?;
        let start = device.window.map_or(0, |(start, _)| start);
        for gfn in first..first + FAULT_AROUND {
            let Some((_, pfn, _)) = mapped.iter().find(|(at, _, _)| *at == gfn) else { break };
            let page = device.pages.get((gfn - start) as usize).copied().flatten();
            if page != Some(*pfn) || checker.state.page(*pfn) != Some(Page::Lent(slot, None)) {
                break;
            }
            checker.state.set(*pfn, Page::Lent(slot, Some(gfn)));
        }
        match checker.state.translate(slot, first) {
            Some(_) => Ok(()),
            None => Err(format!("the fault at guest frame {first:#x} has mapped nothing")),
        }
    }

    /// The guest wrote to configuration space: its bounce windows may be
    /// elsewhere, but only where a bridge forwards. What was mapped in one
    /// that has moved is not any more.
    fn adopt_windows(&self, checker: &mut Checker, handle: u64) -> Result<(), String> {
        let Some(view) = self.booted.hyp().view_vm(handle) else { return Ok(()) };
        let Some(vm) = checker.state.vm_mut(handle) else { return Ok(()) };
        let (slot, unlinked) = (vm.slot, vm.unlinked);
        let mut closed = Vec::new();
        for (device, window) in vm.devices.iter_mut().zip(view.windows) {
            let window = window.map(|window| (window.start().number(), window.end()));
            if device.window == window {
                continue;
            }
            if let Some((start, end)) = window
                && (end - start != device.pages.len() as u64 || !is_forwarded(start, end))
            {
                return Err(format!("a bounce window at {start:#x}..{end:#x}"));
            }
            closed.extend(device.window);
            device.window = window;
        }
        if unlinked {
            return Ok(());
        }
        let its: Vec<(u64, u64)> = checker.state.mapped(slot).collect();
        for (gfn, pfn) in its {
            let outside = closed.iter().any(|(start, end)| (*start..*end).contains(&gfn));
            if outside && checker.state.page(pfn) == Some(Page::Lent(slot, Some(gfn))) {
                checker.state.set(pfn, Page::Lent(slot, None));
            }
        }
        Ok(())
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

/// Is this inside a window of the bridge?
fn is_forwarded(start: u64, end: u64) -> bool {
    use hyp::layout::{PCI_MEM32, PCI_MEM32_SIZE, PCI_MEM64, PCI_MEM64_SIZE};
    let within =
        |base: u64, size: u64| start >= base >> FRAME_SHIFT && end <= (base + size) >> FRAME_SHIFT;
    within(PCI_MEM32, PCI_MEM32_SIZE) || within(PCI_MEM64, PCI_MEM64_SIZE)
}

/// A syndrome of a class for which there is no instruction above: withheld.
fn without_meaning(esr: u64) -> u64 {
    match esr >> 26 & 0x3f {
        0x01 | 0x16 | 0x17 | 0x18 | 0x20 | 0x24 => esr & !(0x3f << 26) | 0x07 << 26,
        _ => esr,
    }
}
