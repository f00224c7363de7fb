//! PSCI of a realm: RMM 1.0 (DEN0137 1.0-rel0), A4.3.7 and chapter B6.

use super::super::rig::Rig;
use super::{By, NOT_SUPPORTED, Rule, answer, hold, ipa};
use crate::abi::rsi;
use crate::abi::{exit, host};
use crate::layout;
use crate::psci::{code, function as f};

const ALIAS: u64 = 1 << (rsi::IPA_BITS - 1);

fn value(rig: &Rig, realm: u64, function: u32, arguments: &[u64]) -> i64 {
    let [x0, rest @ ..] = answer(rig, realm, By::Smc, function.into(), arguments);
    assert_eq!(rest, [0; 3]);
    x0 as i64
}

/// The functions a realm has.
const TABLE: [u32; 12] = [
    f::PSCI_VERSION,
    f::PSCI_FEATURES,
    f::CPU_SUSPEND_32,
    f::CPU_SUSPEND_64,
    f::CPU_OFF,
    f::CPU_ON_32,
    f::CPU_ON_64,
    f::AFFINITY_INFO_32,
    f::AFFINITY_INFO_64,
    f::SYSTEM_OFF,
    f::SYSTEM_RESET,
    f::SMCCC_VERSION,
];

const RULES: &[Rule] = &[
    Rule {
        paragraph: "A4.3.7 IVBJXY",
        says: "functions that are not in the table are not supported",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            for base in [0x8400_0000u32, 0xc400_0000] {
                for function in (base..base + 0x20).filter(|id| !TABLE.contains(id)) {
                    let found = answer(rig, realm, By::Smc, function.into(), &[0; 3]);
                    assert_eq!(found, NOT_SUPPORTED, "{function:#x}");
                }
            }
        },
    },
    Rule {
        paragraph: "B6.1",
        says: "there is no HVC conduit",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            let function = u64::from(f::PSCI_VERSION);
            let found = super::call(rig, realm, By::Hvc, function, &[]);
            super::is_undefined(rig, &found, function);
        },
    },
    Rule {
        paragraph: "B6.2, B6.3.8",
        says: "PSCI_VERSION is 1.1 or later",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            assert!(value(rig, realm, f::PSCI_VERSION, &[]) >= 0x1_0001);
        },
    },
    Rule {
        paragraph: "B6.3.1.2, B6.3.1.3",
        says: "AFFINITY_INFO: level 0 only, a vCPU of the realm; 0 runnable, 1 not",
        check: |rig| {
            let (realm, _) = rig.realm(2);
            let info = |mpidr, level| value(rig, realm, f::AFFINITY_INFO_64, &[mpidr, level]);
            assert_eq!((info(0, 0), info(1, 0)), (0, 1));
            for (mpidr, level) in [(0, 1), (1, 3), (2, 0), (1 << 32, 0), (u64::MAX, 0)] {
                assert_eq!(info(mpidr, level), code::INVALID_PARAMETERS, "{mpidr:#x} {level}");
            }
        },
    },
    Rule {
        paragraph: "B6.3.2",
        says: "CPU_OFF does not return to the caller; the vCPU is not runnable",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            rig.script_smc(f::CPU_OFF.into(), &[]);
            assert_eq!(rig.run(realm)[0], exit::CPU_OFF);
            assert!(rig.hvc(host::VCPU_RUN, &[realm, 0, 0]).is_err());
        },
    },
    Rule {
        paragraph: "B6.3.3.2",
        says: "CPU_ON: entry must be protected, the vCPU the realm's and not on",
        check: |rig| {
            let (realm, _) = rig.realm(2);
            let on = |target, entry| value(rig, realm, f::CPU_ON_64, &[target, entry, 7]);
            assert_eq!(on(1, ALIAS | ipa(0)), code::INVALID_ADDRESS);
            // Protected, and no memory: nothing could run there.
            assert_eq!(on(1, layout::UART), code::INVALID_ADDRESS);
            assert_eq!(on(2, ipa(0)), code::INVALID_PARAMETERS);
            assert_eq!(on(0, ipa(0)), code::ALREADY_ON);
        },
    },
    Rule {
        paragraph: "B6.3.3.3",
        says: "CPU_ON: pc is the entry, x0 the context",
        check: |rig| {
            let (realm, _) = rig.realm(2);
            rig.script_smc(f::CPU_ON_64.into(), &[1, ipa(1), 7]);
            assert_eq!(rig.run(realm)[..2], [exit::CPU_ON, 1]);
            rig.script_check(|vcpu| assert_eq!((vcpu.frame.pc, vcpu.frame.x[0]), (ipa(1), 7)));
            rig.hvc(host::VCPU_RUN, &[realm, 1, 0]).unwrap();
        },
    },
    Rule {
        paragraph: "B6.3.4.1.1",
        says: "CPU_SUSPEND: every power state is a suspend request, the entry is ignored",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            for state in [0, 1 << 16, 1 << 30, 0xffff_ffff] {
                for function in [f::CPU_SUSPEND_32, f::CPU_SUSPEND_64] {
                    rig.script_smc(function.into(), &[state, u64::MAX, 0]);
                    assert_eq!(rig.run(realm)[0], exit::WFI, "{state:#x}");
                    rig.script_check(|vcpu| assert_eq!(vcpu.frame.x[0], 0));
                    rig.run(realm);
                }
            }
        },
    },
    Rule {
        paragraph: "B6.3.5.3",
        says: "PSCI_FEATURES: 0 for what is in the table, whatever is in x1's upper half",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            for function in (0..0x20).flat_map(|n| [0x8400_0000 | n, 0xc400_0000 | n]) {
                let there = if TABLE.contains(&function) { 0 } else { code::NOT_SUPPORTED };
                for dirty in [0, 1 << 63 | 1 << 32] {
                    let argument = [dirty | u64::from(function)];
                    assert_eq!(value(rig, realm, f::PSCI_FEATURES, &argument), there);
                }
            }
        },
    },
    Rule {
        paragraph: "B6.3.6, A2.1.5.1",
        says: "SYSTEM_OFF: the realm is not eligible for execution any more",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            rig.script_smc(f::SYSTEM_OFF.into(), &[]);
            assert_eq!(rig.run(realm)[..2], [exit::SHUTDOWN, 0]);
            assert!(rig.hvc(host::VCPU_RUN, &[realm, 0, 0]).is_err());
        },
    },
    Rule {
        paragraph: "B6.3.7, A2.1.5.1",
        says: "SYSTEM_RESET: neither is it after this",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            rig.script_smc(f::SYSTEM_RESET.into(), &[]);
            assert_eq!(rig.run(realm)[..2], [exit::SHUTDOWN, 1]);
            assert!(rig.hvc(host::VCPU_RUN, &[realm, 0, 0]).is_err());
        },
    },
];

#[test]
fn psci_of_a_realm_does_what_the_rmm_says() {
    hold("RMM 1.0 (DEN0137), chapter B6", RULES);
}
