//! Running a guest: the loop between the world switch and the policy.
//!
//! VCPU_RUN moves the vCPU out of its VM, makes it current on this CPU and
//! runs it until something needs the host. Traps that EL2 can answer alone
//! go round the loop. No lock is held while the guest runs.

mod abort;
mod debug;
mod exposure;
mod hypercall;
mod iotable;
mod listing;
mod mmio;
mod power;
mod random;
mod rsi;
mod sysreg;

use crate::error::Error;
use crate::event::EventKind;
use crate::hypervisor::Hypervisor;
use crate::machine::{Cause, Machine, Vmid};
use crate::stats::{VmCounter, VmStats};
use crate::syndrome::{Exception, decode};
use crate::trap::{Trap, TrapKind};
use crate::vcpu::Vcpu;
use crate::vgic::VcpuSet;
use crate::vm::vcpus::Power;
use crate::vm::{GuestAbi, Handle, Stage};

use exposure::HostExit;

/// What a trap leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    /// Enter the guest again.
    Resume,
    /// Return to the host.
    Return(HostExit, VcpuSet),
}

impl Outcome {
    /// Return with nobody to kick.
    fn exit(exit: HostExit) -> Self {
        Outcome::Return(exit, VcpuSet::default())
    }

    /// Resume, unless others have something to take that only the host can
    /// bring to their attention.
    fn resume_or_kick(kick: VcpuSet) -> Self {
        if kick.is_empty() { Outcome::Resume } else { Outcome::Return(HostExit::Kick, kick) }
    }
}

/// A vCPU on a CPU, and whose it is.
struct Running<'a, M> {
    hyp: &'a Hypervisor<M>,
    handle: Handle,
    vmid: Vmid,
    abi: GuestAbi,
    vcpu: &'a mut Vcpu,
    /// The list registers are filled: with what the VM was after so many
    /// changes (`Hypervisor::changes`).
    listed_at: Option<u32>,
    /// When the guest's physical timer fires, as the machine was told
    /// (`Machine::set_alarm`).
    alarm: Option<u64>,
    /// The last trap was an interrupt that was explained by the guest's own
    /// timer or list registers. A second one in a row is the host's, whatever
    /// the guest's state says.
    explained: bool,
    /// Other vCPUs that have gained something to take meanwhile.
    kick: VcpuSet,
    /// What is counted of this run; the VM gets it at the end.
    stats: VmStats,
}

/// VCPU_RUN(handle, vcpu, MMIO reply).
///
/// # Errors
/// [`Error::NotFound`], [`Error::Busy`] if the vCPU runs, and
/// [`Error::BadState`] if it is off or the VM is not finalised or dying.
pub(crate) fn run<M: Machine>(
    hyp: &Hypervisor<M>,
    handle: Handle,
    index: u64,
    reply: u64,
) -> Result<[u64; 3], Error> {
    let (mut vcpu, regime, abi) = hyp.with_vm(handle, |vm| {
        vm.expect_stage(Stage::Running)?;
        Ok((vm.vcpus.take(index, hyp.machine.cpu())?, vm.regime(), vm.abi))
    })?;
    let [current] = &mut *vcpu;
    current.complete_load(reply);
    hyp.machine.load_vcpu(&mut current.state, regime);
    let mut running = Running {
        hyp,
        handle,
        vmid: regime.vmid,
        abi,
        vcpu: current,
        listed_at: None,
        alarm: None,
        explained: false,
        kick: VcpuSet::default(),
        stats: VmStats::default(),
    };
    let (mut exit, kick) = running.run_until_exit();
    running.count(VmCounter::HostReturns);
    let stats = running.stats;
    hyp.machine.unload_vcpu(&mut current.state);

    let index = current.index;
    hyp.with_vm(handle, |vm| {
        vm.stats.merge(&stats);
        let waiting = matches!(exit, HostExit::Wait { .. });
        // An interrupt that came between the WFI and here must not be slept
        // through: whoever sent it saw a vCPU that was still running.
        if waiting && vm.vgic.deliverable(index, &vcpu[0].state.gic) {
            exit = HostExit::Wait { deadline: 0 };
        }
        let power = if exit == HostExit::CpuOff { Power::Off } else { Power::On };
        vm.vcpus.put_back(vcpu, power, waiting);
        if vm.stage == Stage::Dying {
            vm.vcpus.wipe(&hyp.machine);
        }
        Ok(())
    })?;
    Ok(exit.registers(kick))
}

impl<M: Machine> Running<'_, M> {
    fn run_until_exit(&mut self) -> (HostExit, VcpuSet) {
        loop {
            if self.prepare_entry().is_err() {
                return (HostExit::Dead, self.kick);
            }
            self.count(VmCounter::Entries);
            let trap = self.hyp.machine.run_vcpu(&mut self.vcpu.state);
            let cause = Cause::of(self.vmid, &trap, self.vcpu.state.frame.get(0));
            let outcome = self.handle(&trap);
            self.hyp.note_quiet(cause);
            let (exit, kick) = match outcome {
                Outcome::Resume if self.kick.is_empty() => continue,
                Outcome::Resume => (HostExit::Kick, VcpuSet::EMPTY),
                Outcome::Return(exit, kick) => (exit, kick),
            };
            self.unlist();
            return (exit, kick.union(self.kick));
        }
    }

    fn count(&mut self, counter: VmCounter) {
        self.stats.add(counter, 1);
    }

    fn handle(&mut self, trap: &Trap) -> Outcome {
        if self.vcpu.state.frame.is_aarch32() {
            return self.system_error(trap);
        }
        match trap.kind {
            TrapKind::Sync => {}
            TrapKind::Interrupt => return self.interrupt(),
            TrapKind::SError => return self.system_error(trap),
        }
        self.explained = false;
        match decode(trap) {
            Exception::Wait { .. } => self.wait(),
            Exception::Hvc(immediate) => match self.abi {
                GuestAbi::Pkvm => self.hypercall(immediate),
                GuestAbi::Rsi => self.hvc_of_a_realm(),
            },
            Exception::Smc(immediate) => match self.abi {
                GuestAbi::Rsi => self.rsi_call(immediate),
                GuestAbi::Pkvm => {
                    // A trapped SMC leaves the pc on the instruction.
                    self.advance();
                    self.no_call()
                }
            },
            Exception::SystemRegister(access) => self.system_register(access),
            Exception::Abort(fault) => self.abort(trap, &fault),
            Exception::Undefined => self.undefined(),
        }
    }

    /// A physical interrupt. If a timer of the guest's fired, or its list registers
    /// ran dry, the next entry answers it; everything else is the host's.
    fn interrupt(&mut self) -> Outcome {
        self.count(VmCounter::Interrupts);
        let own = self.unlist_after_interrupt();
        if own && !self.explained {
            self.explained = true;
            return Outcome::Resume;
        }
        Outcome::exit(HostExit::Interrupt)
    }

    /// The machine lost or damaged something while the guest ran, and nobody
    /// can say what. The guest must not go on with it. Nor does one whose EL0
    /// was in AArch32 state, which no guest has (ID_AA64PFR0_EL1.EL0): traps
    /// of that state have syndromes and registers of their own (Arm ARM G1).
    fn system_error(&mut self, trap: &Trap) -> Outcome {
        let here = self.hyp.machine.cpu();
        let ended = self.hyp.with_vm(self.handle, |vm| {
            vm.begin_dying(&self.hyp.machine);
            Ok((vm.memory.party().code(), vm.vcpus.to_kick(vm.vcpus.all(), here)))
        });
        let (owner, kick) = ended.unwrap_or_default();
        // Where the guest was is its own business.
        self.hyp.record(EventKind::GuestDied, owner, trap, 0, 0);
        Outcome::Return(HostExit::Dead, kick)
    }

    /// WFI: back to the host, with the time at which the first of the guest's
    /// timers fires.
    fn wait(&mut self) -> Outcome {
        self.count(VmCounter::Waits);
        self.advance();
        self.standby()
    }

    /// Waits, behind the instruction or call that asked for it.
    fn standby(&mut self) -> Outcome {
        self.unlist();
        let timers = self.timers();
        // After the line: one that rises in between has a deadline that is over.
        let virtual_deadline = self.hyp.machine.timer_deadline();
        let vcpu = &*self.vcpu;
        let ready = self.hyp.with_vm(self.handle, |vm| {
            timers.raise(&mut vm.vgic, vcpu.index);
            Ok(vm.vgic.deliverable(vcpu.index, &vcpu.state.gic))
        });
        if ready == Ok(true) {
            return Outcome::Resume;
        }
        let first = [virtual_deadline, timers.physical.deadline].into_iter().flatten().min();
        Outcome::exit(HostExit::Wait { deadline: first.unwrap_or(u64::MAX) })
    }

    /// Steps over the trapped instruction.
    fn advance(&mut self) {
        self.vcpu.state.frame.advance();
    }

    /// The instruction is withheld: an UNDEFINED exception, as on a CPU that
    /// does not have it.
    fn undefined(&mut self) -> Outcome {
        self.count(VmCounter::Injected);
        crate::exception::inject_undefined(&self.hyp.machine, &mut self.vcpu.state.frame);
        Outcome::Resume
    }
}
