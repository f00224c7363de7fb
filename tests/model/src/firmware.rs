//! The host's SMCs (DEN0022, DEN0028).

use crate::state::State;
use hyp::addr::FRAME_SHIFT;
use hyp::machine::CpuId;

/// The host's firmware calls: x0, or `None` if it is not on the allow-list
/// and becomes an event.
pub fn firmware(
    state: &mut State,
    (id, immediate): (u64, u16),
    [a1, a2, _]: [u64; 3],
    cpu: CpuId,
) -> Option<i64> {
    use hyp::psci::{code, function as f};
    let id = u32::try_from(id).ok().filter(|_| immediate == 0)?;
    Some(match id {
        // Relayed; the simulated firmware says 0.
        f::PSCI_VERSION | f::MIGRATE_INFO_TYPE => 0,
        f::AFFINITY_INFO_32 | f::AFFINITY_INFO_64 => 0,
        f::SMCCC_VERSION => 0x1_0001,
        f::PSCI_FEATURES => features(a1),
        f::SMCCC_ARCH_FEATURES => arch_features(a1),
        f::CPU_ON_32 => cpu_on(state, a1 & 0xffff_ffff, a2 & 0xffff_ffff),
        f::CPU_ON_64 => cpu_on(state, a1, a2),
        // The simulated firmware returns, and so the CPU is still on.
        f::CPU_OFF => {
            if let Some(on) = state.cpus_on.get_mut(cpu) {
                *on = true;
            }
            0
        }
        f::CPU_SUSPEND_32 | f::CPU_SUSPEND_64 if a1 & (1 << 16 | 1 << 30) != 0 => {
            code::INVALID_PARAMETERS
        }
        f::CPU_SUSPEND_32 | f::CPU_SUSPEND_64 => 0,
        f::SYSTEM_OFF | f::SYSTEM_RESET => {
            state.off = true;
            0
        }
        _ => return None,
    })
}

/// PSCI_FEATURES: 0 for what is there, of the host's and the guest's.
pub fn features(id: u64) -> i64 {
    use hyp::psci::function as f;
    let known = [
        f::SMCCC_VERSION,
        f::PSCI_VERSION,
        f::PSCI_FEATURES,
        f::MIGRATE_INFO_TYPE,
        f::AFFINITY_INFO_32,
        f::AFFINITY_INFO_64,
        f::CPU_ON_32,
        f::CPU_ON_64,
        f::CPU_OFF,
        f::CPU_SUSPEND_32,
        f::CPU_SUSPEND_64,
        f::SYSTEM_OFF,
        f::SYSTEM_RESET,
    ];
    if known.contains(&(id as u32)) { 0 } else { -1 }
}

/// SMCCC_ARCH_FEATURES: there are the two calls that ask.
pub fn arch_features(id: u64) -> i64 {
    if matches!(id as u32, 0x8000_0000 | 0x8000_0001) { 0 } else { -1 }
}

fn cpu_on(state: &mut State, mpidr: u64, entry: u64) -> i64 {
    use hyp::psci::code;
    let may = entry.is_multiple_of(4) && state.host_may(entry >> FRAME_SHIFT);
    let Some(on) = usize::try_from(mpidr).ok().and_then(|cpu| state.cpus_on.get_mut(cpu)) else {
        return code::INVALID_PARAMETERS;
    };
    match (may, *on) {
        (false, _) => code::INVALID_ADDRESS,
        (true, true) => code::ALREADY_ON,
        (true, false) => {
            *on = true;
            code::SUCCESS
        }
    }
}
