//! PSCI (DEN0022D.b): of a guest that speaks pKVM's calls, and of the host.

use super::super::rig::Rig;
use super::{By, NOT_SUPPORTED, Rule, answer, hold, ipa};
use crate::abi::{exit, host};
use crate::machine::{El1Register, Machine};
use crate::psci::{code, function as f};

fn value(rig: &Rig, vm: u64, function: u32, arguments: &[u64]) -> i64 {
    answer(rig, vm, By::Hvc, function.into(), arguments)[0] as i64
}

/// Functions of PSCI 1.1 that are mandatory (table 5).
const MANDATORY: [u32; 11] = [
    f::PSCI_VERSION,
    f::CPU_SUSPEND_32,
    f::CPU_SUSPEND_64,
    f::CPU_OFF,
    f::CPU_ON_32,
    f::CPU_ON_64,
    f::AFFINITY_INFO_32,
    f::AFFINITY_INFO_64,
    f::SYSTEM_OFF,
    f::SYSTEM_RESET,
    f::PSCI_FEATURES,
];

const GUEST: &[Rule] = &[
    Rule {
        paragraph: "5.3",
        says: "PSCI_VERSION: major in 30:16, minor in 15:0",
        check: |rig| {
            let (vm, _) = rig.vm(1);
            assert_eq!(value(rig, vm, f::PSCI_VERSION, &[]), 1 << 16 | 1);
        },
    },
    Rule {
        paragraph: "5.4",
        says: "CPU_SUSPEND: standby returns SUCCESS; a state that is not there is INVALID",
        check: |rig| {
            let (vm, _) = rig.vm(1);
            for function in [f::CPU_SUSPEND_32, f::CPU_SUSPEND_64] {
                for power_down in [1 << 16, 1 << 30] {
                    let invalid = code::INVALID_PARAMETERS;
                    assert_eq!(value(rig, vm, function, &[power_down, ipa(0), 0]), invalid);
                }
                rig.script_hvc(function.into(), &[0, 0, 0]);
                assert_eq!(rig.run(vm)[0], exit::WFI);
                rig.script_check(|vcpu| assert_eq!(vcpu.frame.x[0], 0));
                rig.run(vm);
            }
        },
    },
    Rule {
        paragraph: "5.5",
        says: "CPU_OFF does not return",
        check: |rig| {
            let (vm, _) = rig.vm(1);
            rig.script_hvc(f::CPU_OFF.into(), &[]);
            assert_eq!(rig.run(vm)[0], exit::CPU_OFF);
            assert!(rig.hvc(host::VCPU_RUN, &[vm, 0, 0]).is_err());
        },
    },
    Rule {
        paragraph: "5.6",
        says: "CPU_ON: INVALID_PARAMETERS, INVALID_ADDRESS, ALREADY_ON",
        check: |rig| {
            let (vm, _) = rig.vm(2);
            let on = |target, entry| value(rig, vm, f::CPU_ON_64, &[target, entry, 0]);
            assert_eq!(on(2, ipa(0)), code::INVALID_PARAMETERS);
            assert_eq!(on(1, 0x1000), code::INVALID_ADDRESS);
            assert_eq!(on(0, ipa(0)), code::ALREADY_ON);
        },
    },
    Rule {
        paragraph: "6.4.3",
        says: "CPU_ON: EL1h, D A I F masked, MMU and caches off, x0 the context",
        check: |rig| {
            let (vm, _) = rig.vm(2);
            rig.script_hvc(f::CPU_ON_64.into(), &[1, ipa(1), 7]);
            assert_eq!(rig.run(vm)[0], exit::CPU_ON);
            rig.script_check(|vcpu| {
                let frame = &vcpu.frame;
                assert_eq!((frame.pc, frame.x[0], frame.pstate), (ipa(1), 7, 0x3c5));
                assert_eq!(vcpu.el1.sctlr_el1 & (1 << 12 | 1 << 2 | 1), 0);
            });
            rig.hvc(host::VCPU_RUN, &[vm, 1, 0]).unwrap();
        },
    },
    Rule {
        paragraph: "6.4.3",
        says: "CPU_ON: the endianness is the caller's",
        check: |rig| {
            for big_endian in [0, 1 << 25] {
                let (vm, _) = rig.vm(2);
                rig.script_hvc(f::CPU_ON_64.into(), &[1, ipa(1), 7]);
                rig.hyp.machine().write_el1(El1Register::Sctlr, 0x30d0_0801 | big_endian);
                assert_eq!(rig.run(vm)[0], exit::CPU_ON);
                rig.script_check(move |vcpu| {
                    assert_eq!(vcpu.el1.sctlr_el1 & 1 << 25, big_endian);
                    assert_eq!(vcpu.el1.sctlr_el1 & 1, 0);
                });
                rig.hvc(host::VCPU_RUN, &[vm, 1, 0]).unwrap();
            }
        },
    },
    Rule {
        paragraph: "5.7",
        says: "AFFINITY_INFO: 0 on, 1 off; other levels and CPUs are INVALID_PARAMETERS",
        check: |rig| {
            let (vm, _) = rig.vm(2);
            let info = |target, level| value(rig, vm, f::AFFINITY_INFO_64, &[target, level]);
            assert_eq!([info(0, 0), info(1, 0)], [0, 1]);
            assert_eq!([info(2, 0), info(0, 1)], [code::INVALID_PARAMETERS; 2]);
        },
    },
    Rule {
        paragraph: "5.8, 5.9, 5.10",
        says: "MIGRATE_INFO_TYPE 2: there is nothing to migrate, and no call that would",
        check: |rig| {
            let (vm, _) = rig.vm(1);
            assert_eq!(value(rig, vm, f::MIGRATE_INFO_TYPE, &[]), 2);
            for migrate in [0x8400_0005, 0xc400_0005, 0x8400_0007, 0xc400_0007] {
                assert_eq!(answer(rig, vm, By::Hvc, migrate, &[]), NOT_SUPPORTED);
            }
        },
    },
    Rule {
        paragraph: "5.11, 5.12",
        says: "SYSTEM_OFF and SYSTEM_RESET do not return",
        check: |rig| {
            for (function, reset) in [(f::SYSTEM_OFF, 0), (f::SYSTEM_RESET, 1)] {
                let (vm, _) = rig.vm(1);
                rig.script_hvc(function.into(), &[]);
                assert_eq!(rig.run(vm)[..2], [exit::SHUTDOWN, reset]);
                assert!(rig.hvc(host::VCPU_RUN, &[vm, 0, 0]).is_err());
            }
        },
    },
    Rule {
        paragraph: "5.15",
        says: "PSCI_FEATURES: 0 for each mandatory function and for SMCCC_VERSION",
        check: |rig| {
            let (vm, _) = rig.vm(1);
            for function in MANDATORY.into_iter().chain([f::SMCCC_VERSION]) {
                assert_eq!(value(rig, vm, f::PSCI_FEATURES, &[function.into()]), 0);
            }
        },
    },
    Rule {
        paragraph: "5.15",
        says: "PSCI_FEATURES: what is not there is NOT_SUPPORTED, and calling it too",
        check: |rig| {
            let (vm, _) = rig.vm(1);
            for base in [0x8400_0000u32, 0xc400_0000] {
                for function in base..base + 0x20 {
                    let there = MANDATORY.contains(&function) || function == f::MIGRATE_INFO_TYPE;
                    if !there {
                        let features = value(rig, vm, f::PSCI_FEATURES, &[function.into()]);
                        assert_eq!(features, code::NOT_SUPPORTED, "{function:#x}");
                        let called = answer(rig, vm, By::Hvc, function.into(), &[]);
                        assert_eq!(called, NOT_SUPPORTED, "{function:#x}");
                    }
                }
            }
        },
    },
];

#[test]
fn psci_of_a_guest_does_what_its_specification_says() {
    hold("PSCI (DEN0022), of a guest", GUEST);
}

const HOST: &[Rule] = &[
    Rule {
        paragraph: "5.4",
        says: "CPU_SUSPEND: standby returns SUCCESS, power-down is DENIED",
        check: |rig| {
            for function in [f::CPU_SUSPEND_32, f::CPU_SUSPEND_64] {
                assert_eq!(rig.smc(function.into(), &[0, 0, 0]), code::SUCCESS);
                assert_eq!(rig.smc(function.into(), &[1 << 16, 0, 0]), code::DENIED);
            }
        },
    },
    Rule {
        paragraph: "5.6",
        says: "CPU_ON: INVALID_PARAMETERS, INVALID_ADDRESS, ALREADY_ON",
        check: |rig| {
            let entry = rig.frames(1) << 12;
            let on = |target, entry| rig.smc(f::CPU_ON_64.into(), &[target, entry, 0]);
            assert_eq!(on(9, entry), code::INVALID_PARAMETERS);
            assert_eq!(on(1, rig.layout.hyp[0].start().base()), code::INVALID_ADDRESS);
            assert_eq!(on(0, entry), code::ALREADY_ON);
        },
    },
    Rule {
        paragraph: "5.15",
        says: "PSCI_FEATURES: each mandatory function and SMCCC_VERSION",
        check: |rig| {
            for function in MANDATORY.into_iter().chain([f::SMCCC_VERSION]) {
                assert_eq!(rig.smc(f::PSCI_FEATURES.into(), &[function.into()]), 0);
            }
            assert_eq!(rig.smc(f::PSCI_FEATURES.into(), &[0x8400_000e]), code::NOT_SUPPORTED);
        },
    },
];

#[test]
fn psci_of_the_host_does_what_its_specification_says() {
    hold("PSCI (DEN0022), of the host", HOST);
}
