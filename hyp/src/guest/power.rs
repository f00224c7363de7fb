//! The guest's PSCI and SMCCC discovery, answered at EL2 (DEN0022, DEN0028).

use crate::machine::{El1Register, Machine};
use crate::psci::{self, code, function};
use crate::vm::GuestAbi;
use crate::vm::vcpus::{Power, StartError};

use super::exposure::HostExit;
use super::{Outcome, Running};

/// SCTLR_EL1.EE: data at EL1 is big-endian.
const SCTLR_EE: u64 = 1 << 25;

impl<M: Machine> Running<'_, M> {
    /// Serves `id` if it is a power or discovery call, or one of the random
    /// number generator's.
    pub(super) fn power_call(&mut self, id: u32, [a1, a2, a3]: [u64; 3]) -> Option<Outcome> {
        let low = |value: u64| value & 0xffff_ffff;
        let realm = self.abi == GuestAbi::Rsi;
        let value = match id {
            function::PSCI_VERSION => psci::VERSION,
            function::SMCCC_VERSION if realm => psci::SMCCC_1_2,
            function::SMCCC_VERSION => psci::SMCCC_1_1,
            // Not in the table of what a realm has (DEN0137 A4.3.7, A4.3.4).
            function::MIGRATE_INFO_TYPE | function::SMCCC_ARCH_FEATURES if realm => {
                code::NOT_SUPPORTED
            }
            function::PSCI_FEATURES if realm && a1 as u32 == function::MIGRATE_INFO_TYPE => {
                code::NOT_SUPPORTED
            }
            function::MIGRATE_INFO_TYPE => psci::NO_TRUSTED_OS,
            function::PSCI_FEATURES => psci::features(a1),
            function::SMCCC_ARCH_FEATURES => psci::arch_features(a1),
            function::AFFINITY_INFO_32 => self.affinity_info(low(a1), low(a2)),
            // The level is a uint32 of both (DEN0022F.b 5.1.5).
            function::AFFINITY_INFO_64 => self.affinity_info(a1, low(a2)),
            function::CPU_ON_32 => return Some(self.cpu_on(low(a1), low(a2), low(a3))),
            function::CPU_ON_64 => return Some(self.cpu_on(a1, a2, a3)),
            function::CPU_OFF => return Some(Outcome::exit(HostExit::CpuOff)),
            function::CPU_SUSPEND_32 | function::CPU_SUSPEND_64 => return Some(self.suspend(a1)),
            function::SYSTEM_OFF => return Some(self.shut_down(false)),
            function::SYSTEM_RESET => return Some(self.shut_down(true)),
            _ => return self.random_call(id, a1),
        };
        Some(self.results([value as u64, 0, 0, 0]))
    }

    fn affinity_info(&mut self, mpidr: u64, level: u64) -> i64 {
        if level != 0 {
            return code::INVALID_PARAMETERS;
        }
        let power = self.hyp.with_vm(self.handle, |vm| Ok(vm.vcpus.power(mpidr)));
        match power {
            Ok(Some(Power::On)) => psci::AFFINITY_ON,
            // A realm's vCPU is on as soon as it may run (DEN0137 B6.3.1).
            Ok(Some(Power::Pending)) if self.abi == GuestAbi::Rsi => psci::AFFINITY_ON,
            Ok(Some(Power::Pending)) => psci::AFFINITY_ON_PENDING,
            Ok(Some(Power::Off)) => psci::AFFINITY_OFF,
            _ => code::INVALID_PARAMETERS,
        }
    }

    /// CPU_ON: the vCPU is ready at once; the host learns that it should run
    /// it. A vCPU's MPIDR affinity is its number. It starts with the caller's
    /// endianness (DEN0022F.b 6.4.3.2).
    fn cpu_on(&mut self, mpidr: u64, entry: u64, context: u64) -> Outcome {
        let endianness = self.hyp.machine.read_el1(El1Register::Sctlr) & SCTLR_EE;
        let realm = self.abi == GuestAbi::Rsi;
        let started = self.hyp.with_vm(self.handle, |vm| {
            if !vm.is_ram(entry) || !entry.is_multiple_of(4) {
                return Ok(code::INVALID_ADDRESS);
            }
            let offset = vm.counter_offset;
            Ok(match vm.vcpus.start(mpidr, entry, context, offset, endianness) {
                Ok(()) => code::SUCCESS,
                Err(StartError::AlreadyOn) => code::ALREADY_ON,
                // As above (DEN0137 B6.3.3): there is no ON_PENDING.
                Err(StartError::Pending) if realm => code::ALREADY_ON,
                Err(StartError::Pending) => code::ON_PENDING,
                Err(StartError::Unknown) => code::INVALID_PARAMETERS,
            })
        });
        let value = started.unwrap_or(code::INVALID_PARAMETERS);
        self.results([value as u64, 0, 0, 0]);
        if value == code::SUCCESS {
            Outcome::exit(HostExit::CpuOn { index: mpidr })
        } else {
            Outcome::Resume
        }
    }

    /// CPU_SUSPEND: standby is a WFI; power-down states do not exist here. A
    /// realm's is standby whatever it asks for (DEN0137 B6.3.4.1.1).
    fn suspend(&mut self, state: u64) -> Outcome {
        if self.abi == GuestAbi::Pkvm && psci::is_power_down(state) {
            return self.results([code::INVALID_PARAMETERS as u64, 0, 0, 0]);
        }
        self.results([code::SUCCESS as u64, 0, 0, 0]);
        self.standby()
    }

    /// SYSTEM_OFF and SYSTEM_RESET end the VM; a reset is the host's to build
    /// again, and to be measured again.
    fn shut_down(&mut self, reset: bool) -> Outcome {
        let here = self.hyp.machine.cpu();
        let kick = self.hyp.with_vm(self.handle, |vm| {
            vm.begin_dying(&self.hyp.machine);
            Ok(vm.vcpus.to_kick(vm.vcpus.all(), here))
        });
        Outcome::Return(HostExit::Shutdown { reset }, kick.unwrap_or_default())
    }
}
