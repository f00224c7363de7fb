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
    pub const INVALID_ADDRESS: i64 = -9;
}

/// What bouncer tells guests: PSCI 1.1, SMCCC 1.1, no trusted OS to migrate.
pub(crate) const VERSION: i64 = 1 << 16 | 1;
/// MIGRATE_INFO_TYPE: nothing to migrate.
pub(crate) const NO_TRUSTED_OS: i64 = 2;
/// AFFINITY_INFO: the CPU is on.
pub(crate) const AFFINITY_ON: i64 = 0;
/// AFFINITY_INFO: the CPU is off.
pub(crate) const AFFINITY_OFF: i64 = 1;

/// SMCCC_ARCH_FEATURES, which SMCCC 1.1 must have (DEN0028 7.3): of the calls
/// that can be asked about there are the two that ask. Its argument is 32 bits
/// wide, whatever is above them (2.7).
pub(crate) fn arch_features(id: u64) -> i64 {
    match id as u32 {
        function::SMCCC_VERSION | function::SMCCC_ARCH_FEATURES => code::SUCCESS,
        _ => code::NOT_SUPPORTED,
    }
}

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
    }
}
