//! SMC Calling Convention (DEN0028), for all three callers. EL2 speaks version
//! 1.1 of it, and 1.2 with realms; a letter is the issue whose number it is.

use super::{By, NOT_SUPPORTED, PC, Rule, answer, call, call_imm, hold, ipa};
use crate::abi::rsi;
use crate::psci::{code, function as f};

const RULES: &[Rule] = &[
    Rule {
        paragraph: "E 2.6, E 2.7",
        says: "x4 to x30 are preserved, also by a call that is not known",
        check: |rig| {
            let (vm, _) = rig.vm(1);
            let (realm, _) = rig.realm(1);
            for function in [f::PSCI_VERSION, f::AFFINITY_INFO_64, 0x8600_ff01, 0x8400_001f] {
                // `answer` compares.
                answer(rig, vm, By::Hvc, function.into(), &[]);
                answer(rig, realm, By::Smc, function.into(), &[]);
            }
            answer(rig, realm, By::Smc, rsi::IPA_STATE_GET.into(), &[ipa(0), ipa(1)]);
        },
    },
    Rule {
        paragraph: "E 2.6",
        says: "a 32-bit call has 32-bit arguments, whatever is above them",
        check: |rig| {
            let (vm, _) = rig.vm(2);
            let (realm, _) = rig.realm(2);
            let dirty = 0xdead_beef << 32;
            for (handle, by) in [(vm, By::Hvc), (realm, By::Smc)] {
                let x0 = |function: u32, arguments: &[u64]| {
                    answer(rig, handle, by, function.into(), arguments)[0] as i64
                };
                assert_eq!(x0(f::AFFINITY_INFO_32, &[dirty | 1, dirty]), 1);
                let features = [dirty | u64::from(f::CPU_OFF)];
                assert_eq!(x0(f::PSCI_FEATURES, &features), 0);
                let nowhere = [dirty | 1, dirty | 0x1000, dirty];
                assert_eq!(x0(f::CPU_ON_32, &nowhere), code::INVALID_ADDRESS);
            }
            let features = [dirty | u64::from(f::CPU_OFF)];
            assert_eq!(rig.smc(f::PSCI_FEATURES.into(), &features), 0);
        },
    },
    Rule {
        paragraph: "E 2.9",
        says: "an immediate that is not zero is reserved: no function is behind it",
        check: |rig| {
            let (vm, _) = rig.vm(1);
            let (realm, _) = rig.realm(1);
            for immediate in [1, 0x4a48, 0xffff] {
                for (handle, by) in [(vm, By::Hvc), (realm, By::Smc)] {
                    let version = u64::from(f::PSCI_VERSION);
                    let found = call_imm(rig, handle, (by, immediate), version, &[]);
                    assert_eq!((found.pc, found.x[0]), (PC + 4, u64::MAX));
                }
                assert_eq!(rig.smc_raw(f::PSCI_VERSION.into(), immediate as u16, &[]), -1);
            }
        },
    },
    Rule {
        paragraph: "D 5.2",
        says: "an unknown function is -1 in all of x0",
        check: |rig| {
            let (vm, _) = rig.vm(1);
            let (realm, _) = rig.realm(1);
            // Yielding calls, other owners, functions nobody defined.
            let unknown =
                [0, 0x0400_0000, 0x8100_0000, 0x8200_0000, 0x8300_0000, 0xb200_0000, 0xc800_0000];
            for function in unknown.into_iter().chain([0x8000_ffff, 0x8400_ffff, 0x8500_0000]) {
                assert_eq!(answer(rig, vm, By::Hvc, function, &[]), NOT_SUPPORTED);
                assert_eq!(answer(rig, realm, By::Smc, function, &[]), NOT_SUPPORTED);
                assert_eq!(rig.smc(function, &[]), -1);
            }
        },
    },
    Rule {
        paragraph: "D 5.2",
        says: "a function of 32 bits is not there under its 64-bit identifier",
        check: |rig| {
            let (vm, _) = rig.vm(1);
            let (realm, _) = rig.realm(1);
            for function in [f::PSCI_VERSION, f::CPU_OFF, f::SYSTEM_OFF, f::PSCI_FEATURES] {
                let wide = u64::from(function | 1 << 30);
                assert_eq!(answer(rig, vm, By::Hvc, wide, &[]), NOT_SUPPORTED);
                assert_eq!(answer(rig, realm, By::Smc, wide, &[]), NOT_SUPPORTED);
                assert_eq!(rig.smc(wide, &[]), -1);
            }
        },
    },
    Rule {
        paragraph: "G.b table 2-1",
        says: "bits 23:16 of a fast call are zero (from 1.3 on bit 16 is a hint: nobody is told 1.3)",
        check: |rig| {
            let (vm, _) = rig.vm(1);
            let (realm, _) = rig.realm(1);
            for bit in 16..=23 {
                let function = u64::from(f::PSCI_VERSION) | 1 << bit;
                assert_eq!(answer(rig, vm, By::Hvc, function, &[]), NOT_SUPPORTED);
                assert_eq!(answer(rig, realm, By::Smc, function, &[]), NOT_SUPPORTED);
                assert_eq!(rig.smc(function, &[]), -1);
            }
        },
    },
    Rule {
        paragraph: "D 3.1",
        says: "the identifier is w0; bits above it are ignored (ours: refused, as pKVM does)",
        check: |rig| {
            let (vm, _) = rig.vm(1);
            for bit in [32, 63] {
                let function = u64::from(f::PSCI_VERSION) | 1 << bit;
                assert_eq!(answer(rig, vm, By::Hvc, function, &[]), NOT_SUPPORTED);
                assert_eq!(rig.smc(function, &[]), -1);
            }
        },
    },
    Rule {
        paragraph: "G.b 7.2; DEN0137 B1.1 RNNFPH",
        says: "SMCCC_VERSION: 1.1; a realm's is 1.2 or later, for it has results behind x3",
        check: |rig| {
            let (vm, _) = rig.vm(1);
            let (realm, _) = rig.realm(1);
            let version = u64::from(f::SMCCC_VERSION);
            assert_eq!(answer(rig, vm, By::Hvc, version, &[]), [0x1_0001, 0, 0, 0]);
            assert_eq!(answer(rig, realm, By::Smc, version, &[]), [0x1_0002, 0, 0, 0]);
            assert_eq!(rig.smc(version, &[]), 0x1_0001);
        },
    },
    Rule {
        paragraph: "G.b 7.3",
        says: "SMCCC_ARCH_FEATURES is there from 1.1 on (not a realm's: DEN0137 RYLFMD)",
        check: |rig| {
            let (vm, _) = rig.vm(1);
            for (asked, there) in [
                (f::SMCCC_VERSION, 0),
                (f::SMCCC_ARCH_FEATURES, 0),
                (0x8000_0002, -1),
                (0x8000_8000, -1),
                (0x8000_7fff, -1),
                (0x8000_3fff, -1),
            ] {
                let features = u64::from(f::SMCCC_ARCH_FEATURES);
                let guest = answer(rig, vm, By::Hvc, features, &[asked.into()]);
                assert_eq!(guest, [there as u64, 0, 0, 0], "{asked:#x}");
                assert_eq!(rig.smc(features, &[asked.into()]), there, "{asked:#x}");
            }
        },
    },
    Rule {
        paragraph: "Arm ARM D1.3.5",
        says: "a call by the instruction that is not a guest's conduit (pKVM: SMC) is -1",
        check: |rig| {
            let (vm, _) = rig.vm(1);
            let found = call(rig, vm, By::Smc, f::SYSTEM_OFF.into(), &[]);
            assert_eq!((found.pc, found.x[0]), (PC + 4, u64::MAX));
        },
    },
];

#[test]
fn calls_keep_the_calling_convention() {
    hold("SMCCC (DEN0028)", RULES);
}
