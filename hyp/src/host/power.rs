//! The host's firmware calls: PSCI, relayed so that every CPU comes up
//! behind stage 2, and an allow-list for the rest (DEN0022, DEN0028).

use core::sync::atomic::{AtomicBool, Ordering};

use crate::addr::{Pfn, aligned_frame_number};
use crate::event::EventKind;
use crate::hypervisor::Hypervisor;
use crate::machine::{CpuId, MAX_CPUS, Machine, PowerAction};
use crate::memory::PageState;
use crate::psci::{self, code, function};
use crate::stats::MachineCounter;
use crate::trap::Trap;
use crate::vcpu::state::Frame;

/// Which CPUs the host has running.
#[derive(Debug)]
pub(crate) struct HostPower {
    on: [AtomicBool; MAX_CPUS],
}

impl HostPower {
    /// Only the boot CPU is on.
    pub(crate) const fn new() -> Self {
        let mut on = [const { AtomicBool::new(false) }; MAX_CPUS];
        on[0] = AtomicBool::new(true);
        Self { on }
    }

    /// Claims an off CPU for starting; false if it is on already.
    fn claim(&self, cpu: CpuId) -> bool {
        self.on.get(cpu).is_some_and(|on| !on.swap(true, Ordering::AcqRel))
    }

    fn release(&self, cpu: CpuId) {
        if let Some(on) = self.on.get(cpu) {
            on.store(false, Ordering::Release);
        }
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
    let value = result.unwrap_or_else(|| {
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
        function::PSCI_VERSION | function::MIGRATE_INFO_TYPE => relay([u64::from(id), 0, 0, 0]),
        // What the host calls is EL2. The firmware may have none, after
        // PSCI_FEATURES said there is one, or one with hints in identifiers,
        // which are not on this list.
        function::SMCCC_VERSION => psci::SMCCC_1_1,
        function::PSCI_FEATURES => psci::features(a1),
        function::SMCCC_ARCH_FEATURES => psci::arch_features(a1),
        function::AFFINITY_INFO_32 => relay([u64::from(id), low(a1), low(a2), 0]),
        function::AFFINITY_INFO_64 => relay([u64::from(id), a1, low(a2), 0]),
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
    if !hyp.power.claim(cpu) {
        return code::ALREADY_ON;
    }
    let result = hyp.machine.start_cpu(cpu, entry, context);
    if result != code::SUCCESS {
        // Also for ALREADY_ON: the CPU is on its way off; the host tries again.
        hyp.power.release(cpu);
    }
    result
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
    hyp.power.release(cpu);
    let refused = hyp.machine.stop_cpu();
    hyp.power.claim(cpu);
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
