//! Numbers of the Power State Coordination Interface (DEN0022) and of the
//! SMC Calling Convention (DEN0028).

/// Function ids.
pub mod function {
    #![allow(missing_docs)] // The specifications' names.
    pub const SMCCC_VERSION: u32 = 0x8000_0000;
    pub const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;
    pub const PSCI_VERSION: u32 = 0x8400_0000;
    pub const CPU_SUSPEND_32: u32 = 0x8400_0001;
    pub const CPU_SUSPEND_64: u32 = 0xC400_0001;
    pub const CPU_OFF: u32 = 0x8400_0002;
    pub const CPU_ON_32: u32 = 0x8400_0003;
    pub const CPU_ON_64: u32 = 0xC400_0003;
    pub const AFFINITY_INFO_32: u32 = 0x8400_0004;
    pub const AFFINITY_INFO_64: u32 = 0xC400_0004;
    pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
    pub const SYSTEM_OFF: u32 = 0x8400_0008;
    pub const SYSTEM_RESET: u32 = 0x8400_0009;
    pub const PSCI_FEATURES: u32 = 0x8400_000A;
}

/// Return codes.
pub mod code {
    #![allow(missing_docs)] // The specifications' names.
    pub const SUCCESS: i64 = 0;
    pub const NOT_SUPPORTED: i64 = -1;
    pub const INVALID_PARAMETERS: i64 = -2;
    pub const DENIED: i64 = -3;
    pub const ALREADY_ON: i64 = -4;
    pub const ON_PENDING: i64 = -5;
    pub const INVALID_ADDRESS: i64 = -9;
}

/// What bouncer tells guests: PSCI 1.1, and no trusted OS to migrate.
pub(crate) const VERSION: i64 = 1 << 16 | 1;
/// The calling convention of what EL2 answers to the host and to guests with
/// pKVM's calls: results in x0 to x3, x4 to x17 preserved. Nobody is told of 1.3
/// or later, where bit 16 of an identifier is a hint.
pub(crate) const SMCCC_1_1: i64 = 1 << 16 | 1;
/// A realm's: results in x1 to x8, too (DEN0137 B1.1, RNNFPH).
pub(crate) const SMCCC_1_2: i64 = 1 << 16 | 2;
/// MIGRATE_INFO_TYPE: nothing to migrate.
pub(crate) const NO_TRUSTED_OS: i64 = 2;
/// AFFINITY_INFO: the CPU is on.
pub(crate) const AFFINITY_ON: i64 = 0;
/// AFFINITY_INFO: the CPU is off.
pub(crate) const AFFINITY_OFF: i64 = 1;
/// AFFINITY_INFO: CPU_ON was called for it, and it has not arrived.
pub(crate) const AFFINITY_ON_PENDING: i64 = 2;

/// SMCCC_ARCH_FEATURES, which SMCCC 1.1 must have (DEN0028G.b 7.3): of the calls
/// that can be asked about there are the two that ask. Its argument is 32 bits
/// wide, whatever is above them (DEN0028E 2.6).
pub(crate) fn arch_features(id: u64) -> i64 {
    match id as u32 {
        function::SMCCC_VERSION | function::SMCCC_ARCH_FEATURES => code::SUCCESS,
        _ => code::NOT_SUPPORTED,
    }
}

/// Does CPU_SUSPEND's power_state name a power-down state? StateType is bit 16
/// of the original format, which PSCI_FEATURES says is spoken here, and bit 30
/// of the extended one, where the original one has a zero (DEN0022F.b 5.4.2).
pub(crate) const fn is_power_down(state: u64) -> bool {
    state & (1 << 16 | 1 << 30) != 0
}

/// Does a call only ask whether something is there? A kernel makes them at boot
/// for what it could use; −1 is the whole answer. They are version and features
/// of interfaces with a specification of their own, and DEN0028's general queries:
/// count, UID and revision of each owner's fast calls.
pub(crate) fn is_discovery(id: u32) -> bool {
    const FAST: u32 = 1 << 31;
    const FUNCTION: u32 = 0xffff;
    let is_general = id & FAST != 0
        && id & 0x00ff_0000 == 0
        && matches!(id & FUNCTION, 0xff00 | 0xff01 | 0xff03);
    is_general || DISCOVERY.contains(&id)
}

/// Those of [`is_discovery`] with numbers of their own.
const DISCOVERY: [u32; 18] = [
    // SMCCC_ARCH_SOC_ID, by either width (DEN0028G.b 7.4).
    0x8000_0002,
    0xC000_0002,
    // SDEI_VERSION, SDEI_FEATURES (DEN0054).
    0xC400_0020,
    0xC400_0030,
    // MM_VERSION (DEN0060).
    0x8400_0040,
    // TRNG_VERSION, TRNG_FEATURES, TRNG_GET_UUID (DEN0098).
    0x8400_0050,
    0x8400_0051,
    0x8400_0052,
    // FFA_VERSION, FFA_FEATURES (DEN0077).
    0x8400_0063,
    0x8400_0064,
    // DRTM_VERSION, DRTM_FEATURES (DEN0113).
    0xC400_0110,
    0xC400_0111,
    // PCI_VERSION, PCI_FEATURES (DEN0115).
    0x8400_0130,
    0x8400_0131,
    // RMI_VERSION, RMI_FEATURES, RSI_VERSION, RSI_FEATURES (DEN0137).
    0xC400_0150,
    0xC400_0165,
    0xC400_0190,
    0xC400_0191,
];

/// PSCI_FEATURES, for host and guests alike: both front ends serve the same
/// functions. Its argument is 32 bits wide, whatever is above them.
pub(crate) fn features(id: u64) -> i64 {
    match id as u32 {
        function::SMCCC_VERSION
        | function::PSCI_VERSION
        | function::PSCI_FEATURES
        | function::MIGRATE_INFO_TYPE
        | function::AFFINITY_INFO_32
        | function::AFFINITY_INFO_64
        | function::CPU_ON_32
        | function::CPU_ON_64
        | function::CPU_OFF
        | function::CPU_SUSPEND_32
        | function::CPU_SUSPEND_64
        | function::SYSTEM_OFF
        | function::SYSTEM_RESET => code::SUCCESS,
        _ => code::NOT_SUPPORTED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_served_is_a_feature() {
        let served = [0x8000_0000, 0x8400_000a, 0x8400_0006, 0x8400_0008, 0x8400_0009]
            .into_iter()
            .chain([0x8400_0000, 0x8400_0002])
            .chain([1, 3, 4].into_iter().flat_map(|n| [0x8400_0000 | n, 0xc400_0000 | n]));
        let served: std::vec::Vec<u64> = served.collect();
        for base in [0x8000_0000u64, 0x8400_0000, 0xc400_0000, 0xc600_0000] {
            for id in base..base + 0x40 {
                let answer = if served.contains(&id) { 0 } else { -1 };
                assert_eq!(features(id), answer, "{id:#x}");
                assert_eq!(features(id | 1 << 32), answer, "an argument of 32 bits");
            }
        }
        assert_eq!((VERSION, NO_TRUSTED_OS), (0x1_0001, 2));
        assert_eq!((SMCCC_1_1, SMCCC_1_2), (0x1_0001, 0x1_0002));
    }
}
