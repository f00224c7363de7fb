//! The host's firmware calls: PSCI, relayed so that every CPU comes up
//! behind stage 2, and an allow-list for the rest (DEN0022, DEN0028).

use core::sync::atomic::{AtomicU8, Ordering};

use crate::addr::{Pfn, aligned_frame_number};
use crate::event::EventKind;
use crate::hypervisor::Hypervisor;
use crate::machine::{CpuId, MAX_CPUS, Machine, PowerAction};
use crate::memory::PageState;
use crate::psci::{self, code, function};
use crate::stats::MachineCounter;
use crate::trap::Trap;
use crate::vcpu::state::Frame;

/// A CPU of the host's, as PSCI sees it (DEN0022F.b 6.6).
pub(crate) mod state {
    pub(crate) const OFF: u8 = 0;
    /// CPU_ON was called for it; it has not entered the host yet.
    pub(crate) const PENDING: u8 = 1;
    pub(crate) const ON: u8 = 2;
}

/// Which CPUs the host has running.
#[derive(Debug)]
pub(crate) struct HostPower {
    cpus: [AtomicU8; MAX_CPUS],
}

impl HostPower {
    /// Only the boot CPU is on.
    pub(crate) const fn new() -> Self {
        let mut cpus = [const { AtomicU8::new(state::OFF) }; MAX_CPUS];
        cpus[0] = AtomicU8::new(state::ON);
        Self { cpus }
    }

    /// Claims an off CPU for starting.
    ///
    /// # Errors
    /// CPU_ON's answer if it is not off.
    pub(crate) fn claim(&self, cpu: CpuId) -> Result<(), i64> {
        match self.change(cpu, state::OFF, state::PENDING) {
            Ok(()) => Ok(()),
            Err(state::PENDING) => Err(code::ON_PENDING),
            Err(_) => Err(code::ALREADY_ON),
        }
    }

    /// One that was claimed did not start.
    pub(crate) fn give_up(&self, cpu: CpuId) {
        // Or it has refused to go off meanwhile, and is on.
        let _ = self.change(cpu, state::PENDING, state::OFF);
    }

    /// One that was claimed enters the host.
    pub(crate) fn arrives(&self, cpu: CpuId) {
        // The boot CPU has been on.
        let _ = self.change(cpu, state::PENDING, state::ON);
    }

    fn is_pending(&self, cpu: CpuId) -> bool {
        self.cpus.get(cpu).is_some_and(|at| at.load(Ordering::Acquire) == state::PENDING)
    }

    pub(crate) fn set(&self, cpu: CpuId, to: u8) {
        if let Some(at) = self.cpus.get(cpu) {
            at.store(to, Ordering::Release);
        }
    }

    fn change(&self, cpu: CpuId, from: u8, to: u8) -> Result<(), u8> {
        let at = self.cpus.get(cpu).ok_or(state::ON)?;
        at.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).map(drop)
    }
}

/// An SMC of the host. ELR is on the instruction.
pub(super) fn handle_smc<M: Machine>(
    hyp: &Hypervisor<M>,
    frame: &mut Frame,
    immediate: u16,
    trap: &Trap,
) {
    hyp.stats.count(MachineCounter::HostSmcs);
    let pc = frame.pc;
    frame.advance();
    let [id, a1, a2, a3] = [frame.get(0), frame.get(1), frame.get(2), frame.get(3)];
    let result = match u32::try_from(id) {
        Ok(id) if immediate == 0 => call(hyp, id, [a1, a2, a3]),
        _ => None,
    };
    let asks = immediate == 0 && u32::try_from(id).is_ok_and(psci::is_discovery);
    let value = result.or(asks.then_some(code::NOT_SUPPORTED)).unwrap_or_else(|| {
        hyp.record(EventKind::HostSmc, 0, trap, id, pc);
        code::NOT_SUPPORTED
    });
    frame.set(0, value as u64);
    for register in 1..=3 {
        frame.set(register, 0);
    }
}

/// The allow-list. `None` for everything that is not on it.
fn call<M: Machine>(hyp: &Hypervisor<M>, id: u32, [a1, a2, a3]: [u64; 3]) -> Option<i64> {
    let relay = |arguments: [u64; 4]| hyp.machine.firmware_call(arguments) as i64;
    let low = |value: u64| value & 0xffff_ffff;
    Some(match id {
        function::PSCI_VERSION => relay([u64::from(id), 0, 0, 0]),
        // A firmware whose trusted OS sits on one CPU would answer that it does,
        // and a caller ask which (DEN0022F.b 5.9.1): MIGRATE_INFO_UP_CPU and
        // MIGRATE are not on this list.
        function::MIGRATE_INFO_TYPE => psci::NO_TRUSTED_OS,
        // What the host calls is EL2. The firmware may have none, after
        // PSCI_FEATURES said there is one, or one with hints in identifiers,
        // which are not on this list.
        function::SMCCC_VERSION => psci::SMCCC_1_1,
        function::PSCI_FEATURES => psci::features(a1),
        function::SMCCC_ARCH_FEATURES => psci::arch_features(a1),
        function::AFFINITY_INFO_32 => affinity_info(hyp, id, low(a1), low(a2)),
        function::AFFINITY_INFO_64 => affinity_info(hyp, id, a1, low(a2)),
        function::CPU_ON_32 => cpu_on(hyp, low(a1), low(a2), low(a3)),
        function::CPU_ON_64 => cpu_on(hyp, a1, a2, a3),
        function::CPU_OFF => cpu_off(hyp),
        // A power-down state would resume at an address of the host's choice
        // with EL2 gone. Standby is a WFI, which the host can do itself. (DENIED
        // would be a reason of OS-initiated mode: DEN0022F.b 5.4.5.)
        function::CPU_SUSPEND_32 | function::CPU_SUSPEND_64 => {
            if psci::is_power_down(a1) {
                code::INVALID_PARAMETERS
            } else {
                code::SUCCESS
            }
        }
        function::SYSTEM_OFF => power(hyp, PowerAction::Off),
        function::SYSTEM_RESET => power(hyp, PowerAction::Reset),
        _ => return None,
    })
}

/// CPU_ON: the CPU starts in bouncer and reaches `entry` only behind stage 2.
fn cpu_on<M: Machine>(hyp: &Hypervisor<M>, mpidr: u64, entry: u64, context: u64) -> i64 {
    let Some(cpu) = hyp.machine.cpu_by_mpidr(mpidr) else { return code::INVALID_PARAMETERS };
    if !host_may_run(hyp, entry) {
        return code::INVALID_ADDRESS;
    }
    if let Err(refused) = hyp.power.claim(cpu) {
        return refused;
    }
    let result = hyp.machine.start_cpu(cpu, entry, context);
    if result != code::SUCCESS {
        // Also for ALREADY_ON: the CPU is on its way off; the host tries again.
        hyp.power.give_up(cpu);
    }
    result
}

/// AFFINITY_INFO: what the firmware knows, but for a CPU that it has started and
/// that bouncer is still setting up (DEN0022F.b 6.6).
fn affinity_info<M: Machine>(hyp: &Hypervisor<M>, id: u32, mpidr: u64, level: u64) -> i64 {
    let cpu = hyp.machine.cpu_by_mpidr(mpidr).filter(|_| level == 0);
    if cpu.is_some_and(|cpu| hyp.power.is_pending(cpu)) {
        return psci::AFFINITY_ON_PENDING;
    }
    hyp.machine.firmware_call([u64::from(id), mpidr, level, 0]) as i64
}

/// Is `entry` an instruction in RAM that the host may read? Stage 2 would
/// stop it anyway; saying so at once is kinder.
fn host_may_run<M: Machine>(hyp: &Hypervisor<M>, entry: u64) -> bool {
    let page = entry & !(crate::addr::FRAME_SIZE - 1);
    let Some(pfn) = aligned_frame_number(page).ok().and_then(Pfn::new) else { return false };
    entry.is_multiple_of(4)
        && hyp.with_memory(|memory| memory.state_for_host(pfn)) != PageState::NoPage
}

/// CPU_OFF. No vCPU can be loaded here: VCPU_RUN has returned.
fn cpu_off<M: Machine>(hyp: &Hypervisor<M>) -> i64 {
    let cpu = hyp.machine.cpu();
    hyp.power.set(cpu, state::OFF);
    let refused = hyp.machine.stop_cpu();
    hyp.power.set(cpu, state::ON);
    refused
}

/// Off or reset: what guests leave in RAM, in EL2's memory and in registers is
/// wiped before the machine, or whatever runs on it next, can look.
///
/// A vCPU may be out, on a CPU that runs it. EL2 interrupts nobody (decision
/// 5): the vCPU is brought home by taking its memory away. No lock is held
/// while this CPU waits for it, because it takes some on its way home.
fn power<M: Machine>(hyp: &Hypervisor<M>, action: PowerAction) -> i64 {
    hyp.end_all();
    hyp.machine.wait_for_others(&|| !hyp.any_vcpu_runs());
    hyp.with_memory(|memory| memory.wipe_guests(&hyp.machine));
    hyp.machine.power(action);
    code::SUCCESS
}
