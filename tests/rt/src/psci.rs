//! PSCI (Arm DEN0022) from the payload's side.

use crate::smccc;
use core::sync::atomic::{AtomicBool, Ordering};

/// How the firmware is reached: the psci node's `method`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conduit {
    /// HVC: the firmware is a hypervisor. The default.
    Hvc,
    /// SMC: it is at EL3, or a hypervisor that traps SMC.
    Smc,
}

static USE_SMC: AtomicBool = AtomicBool::new(false);

/// Chooses the conduit.
pub fn set_conduit(conduit: Conduit) {
    USE_SMC.store(conduit == Conduit::Smc, Ordering::Relaxed);
}

/// Any PSCI function with three arguments; x0 as a signed code.
pub fn call(function: u32, a: u64, b: u64, c: u64) -> i64 {
    let arguments = [a, b, c, 0, 0, 0, 0];
    let result = if USE_SMC.load(Ordering::Relaxed) {
        smccc::smc(function.into(), arguments)
    } else {
        smccc::hvc(function.into(), arguments)
    };
    // PSCI codes are 32 bits wide, whichever convention carried them.
    i64::from(result[0] as i32)
}

/// PSCI_VERSION: major << 16 | minor.
pub fn version() -> i64 {
    call(0x8400_0000, 0, 0, 0)
}

/// PSCI_FEATURES of a function id.
pub fn features(function: u32) -> i64 {
    call(0x8400_000a, function.into(), 0, 0)
}

/// CPU_ON: starts the CPU with affinity `mpidr` at `entry` with x0 = `context`.
///
/// # Errors
/// The PSCI code.
pub fn cpu_on(mpidr: u64, entry: u64, context: u64) -> Result<(), i64> {
    match call(0xc400_0003, mpidr, entry, context) {
        0 => Ok(()),
        code => Err(code),
    }
}

/// CPU_OFF: stops this CPU. Returns the code if it was refused.
pub fn cpu_off() -> i64 {
    call(0x8400_0002, 0, 0, 0)
}

/// AFFINITY_INFO of one CPU: 0 on, 1 off, 2 on its way.
pub fn affinity_info(mpidr: u64) -> i64 {
    call(0xc400_0004, mpidr, 0, 0)
}

/// SYSTEM_OFF. Waits for ever if it comes back.
pub fn shutdown() -> ! {
    call(0x8400_0008, 0, 0, 0);
    crate::cpu::park()
}

/// SYSTEM_RESET. Waits for ever if it comes back.
pub fn reset() -> ! {
    call(0x8400_0009, 0, 0, 0);
    crate::cpu::park()
}
