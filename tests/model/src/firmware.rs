//! The host's SMCs (DEN0022, DEN0028).

use crate::state::{CpuPower, State};
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
        f::PSCI_VERSION => 0,
        f::MIGRATE_INFO_TYPE => 2,
        f::AFFINITY_INFO_32 => affinity(state, a1 & 0xffff_ffff, a2),
        f::AFFINITY_INFO_64 => affinity(state, a1, a2),
        f::SMCCC_VERSION => 0x1_0001,
        f::PSCI_FEATURES => features(a1),
        f::SMCCC_ARCH_FEATURES => arch_features(a1),
        f::CPU_ON_32 => cpu_on(state, a1 & 0xffff_ffff, a2 & 0xffff_ffff),
        f::CPU_ON_64 => cpu_on(state, a1, a2),
        // The simulated firmware returns, and so the CPU is still on.
        f::CPU_OFF => {
            if let Some(power) = state.cpus.get_mut(cpu) {
                *power = CpuPower::On;
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
        // It only asks.
        _ if asks(id) => -1,
        _ => return None,
    })
}

/// Count, UID and revision of an owner's fast calls, and the interfaces that a
/// kernel looks for at boot: TRNG, FF-A, SDEI, MM, PCI, DRTM, RMI, RSI, SOC_ID.
fn asks(id: u32) -> bool {
    let general =
        id >> 31 == 1 && id >> 16 & 0xff == 0 && [0xff00, 0xff01, 0xff03].contains(&(id & 0xffff));
    let low = [2, 0x40, 0x50, 0x51, 0x52, 0x63, 0x64, 0x130, 0x131];
    let wide = [0x20, 0x30, 0x110, 0x111, 0x150, 0x165, 0x190, 0x191];
    let standard = match id >> 24 {
        0x80 | 0xc0 => id & 0xff_ffff == 2,
        0x84 => id & 0xff_ffff != 2 && low.contains(&(id & 0xff_ffff)),
        0xc4 => wide.contains(&(id & 0xff_ffff)),
        _ => false,
    };
    general || standard
}

/// What the firmware says (0) but for a CPU that is on its way.
fn affinity(state: &State, mpidr: u64, level: u64) -> i64 {
    let cpu = usize::try_from(mpidr).ok().and_then(|cpu| state.cpus.get(cpu));
    let asked = level as u32 == 0;
    if asked && cpu == Some(&CpuPower::Pending) { 2 } else { 0 }
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
    let Some(power) = usize::try_from(mpidr).ok().and_then(|cpu| state.cpus.get_mut(cpu)) else {
        return code::INVALID_PARAMETERS;
    };
    match (may, *power) {
        (false, _) => code::INVALID_ADDRESS,
        (true, CpuPower::On) => code::ALREADY_ON,
        (true, CpuPower::Pending) => code::ON_PENDING,
        (true, CpuPower::Off) => {
            *power = CpuPower::Pending;
            code::SUCCESS
        }
    }
}
