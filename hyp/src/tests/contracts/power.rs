//! PSCI 1.1 and later (DEN0022F.b), of guests and of the host. A realm's is
//! RMM 1.0's (DEN0137 1.0-rel0), A4.3.7 and chapter B6: mostly the same rules,
//! and one check holds both kinds of guest to them.

use super::super::rig::Rig;
use super::{By, NOT_SUPPORTED, Rule, answer, hold, ipa};
use crate::abi::rsi;
use crate::abi::{exit, host};
use crate::layout;
use crate::machine::{El1Register, Machine};
use crate::psci::{code, function as f};

const ALIAS: u64 = 1 << (rsi::IPA_BITS - 1);

/// Functions of PSCI 1.1 that are mandatory (table 17), and no other is there;
/// a realm has just these, too (A4.3.7 IVBJXY, by either width).
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

/// Every identifier that PSCI has a use for, and some.
fn identifiers() -> impl Iterator<Item = u32> {
    [0x8400_0000, 0xc400_0000].into_iter().flat_map(|base| base..base + 0x20)
}

/// Upper halves of an argument that is 32 bits wide.
const DIRTY: [u64; 3] = [0, 1 << 32, u64::MAX << 32];

/// A guest, by its conduit: HVC with pKVM's calls, SMC with RSI.
struct Guest<'a> {
    rig: &'a Rig,
    handle: u64,
    by: By,
}

impl<'a> Guest<'a> {
    /// One that speaks pKVM's calls.
    fn pkvm(rig: &'a mut Rig, vcpus: u64) -> Self {
        let (handle, _) = rig.vm(vcpus);
        Self { rig, handle, by: By::Hvc }
    }

    fn realm(rig: &'a mut Rig, vcpus: u64) -> Self {
        let (handle, _) = rig.realm(vcpus);
        Self { rig, handle, by: By::Smc }
    }

    /// x0 of a call that is answered; a PSCI function gives nothing else.
    fn value(&self, function: u32, arguments: &[u64]) -> i64 {
        let [x0, rest @ ..] = answer(self.rig, self.handle, self.by, function.into(), arguments);
        assert_eq!(rest, [0; 3]);
        x0 as i64
    }

    /// A call that the host hears of: its exit.
    fn exit(&self, function: u32, arguments: &[u64]) -> [u64; 3] {
        match self.by {
            By::Hvc => self.rig.script_hvc(function.into(), arguments),
            By::Smc => self.rig.script_smc(function.into(), arguments),
        }
        self.rig.run(self.handle)
    }

    /// The vCPU may not run.
    fn rests(&self, vcpu: u64) -> bool {
        self.rig.hvc(host::VCPU_RUN, &[self.handle, vcpu, 0]).is_err()
    }

    /// A standby that ends with SUCCESS.
    fn stands_by(&self, function: u32, arguments: &[u64]) {
        assert_eq!(self.exit(function, arguments)[0], exit::WFI, "{arguments:x?}");
        self.rig.script_check(|vcpu| assert_eq!(vcpu.frame.x[0], 0));
        self.rig.run(self.handle);
    }

    fn has(&self, function: u32) -> bool {
        MANDATORY.contains(&function) || self.by == By::Hvc && function == f::MIGRATE_INFO_TYPE
    }
}

/// Checks a guest of each kind, with so many vCPUs.
fn each(rig: &mut Rig, vcpus: u64, check: impl Fn(&Guest<'_>)) {
    check(&Guest::pkvm(rig, vcpus));
    check(&Guest::realm(rig, vcpus));
}

const GUESTS: &[Rule] = &[
    Rule {
        paragraph: "5.3.1, table 6; B6.2 RTFCVF, B6.3.8",
        says: "PSCI_VERSION: major in 30:16, minor in 15:0; it is 1.1",
        check: |rig| {
            each(rig, 1, |guest| assert_eq!(guest.value(f::PSCI_VERSION, &[]), 1 << 16 | 1));
        },
    },
    Rule {
        paragraph: "5.4.9; B6.3.4",
        says: "CPU_SUSPEND: standby returns SUCCESS, the entry is ignored",
        check: |rig| {
            each(rig, 1, |guest| {
                for function in [f::CPU_SUSPEND_32, f::CPU_SUSPEND_64] {
                    for dirty in DIRTY {
                        guest.stands_by(function, &[dirty, u64::MAX, 0]);
                    }
                }
            });
        },
    },
    Rule {
        paragraph: "5.5.1; B6.3.2",
        says: "CPU_OFF does not return",
        check: |rig| {
            each(rig, 1, |guest| {
                assert_eq!(guest.exit(f::CPU_OFF, &[])[0], exit::CPU_OFF);
                assert!(guest.rests(0));
            });
        },
    },
    Rule {
        paragraph: "5.6.2; B6.3.3.2",
        says: "CPU_ON: INVALID_PARAMETERS, INVALID_ADDRESS, ALREADY_ON",
        check: |rig| {
            each(rig, 2, |guest| {
                let on = |target, entry| guest.value(f::CPU_ON_64, &[target, entry, 7]);
                for nobody in [2, 1 << 8, 1 << 24, 1 << 32, 1 << 40 | 1, u64::MAX] {
                    assert_eq!(on(nobody, ipa(0)), code::INVALID_PARAMETERS, "{nobody:#x}");
                }
                // No memory: nothing could run there.
                for nowhere in [0x1000, layout::UART, ALIAS | ipa(0), u64::MAX << 12] {
                    assert_eq!(on(1, nowhere), code::INVALID_ADDRESS, "{nowhere:#x}");
                }
                assert_eq!(on(0, ipa(0)), code::ALREADY_ON);
            });
        },
    },
    Rule {
        paragraph: "6.4.1, 6.4.3.3, 6.4.3.4, 6.4.3.7; B6.3.3.3",
        says: "CPU_ON: EL1h at the entry, D A I F masked, MMU and caches off, x0 the context",
        check: |rig| {
            each(rig, 2, |guest| {
                let exit = guest.exit(f::CPU_ON_64, &[1, ipa(1), 7]);
                assert_eq!(exit[..2], [exit::CPU_ON, 1]);
                guest.rig.script_check(|vcpu| {
                    let frame = &vcpu.frame;
                    assert_eq!((frame.pc, frame.x[0], frame.pstate), (ipa(1), 7, 0x3c5));
                    assert_eq!(vcpu.el1.sctlr_el1 & (1 << 12 | 1 << 2 | 1), 0);
                });
                guest.rig.hvc(host::VCPU_RUN, &[guest.handle, 1, 0]).unwrap();
            });
        },
    },
    Rule {
        paragraph: "6.4.3.2",
        says: "CPU_ON: the endianness is the caller's",
        check: |rig| {
            for big_endian in [0, 1 << 25] {
                each(rig, 2, |guest| {
                    let machine = guest.rig.hyp.machine();
                    machine.write_el1(El1Register::Sctlr, 0x30d0_0801 | big_endian);
                    assert_eq!(guest.exit(f::CPU_ON_64, &[1, ipa(1), 7])[0], exit::CPU_ON);
                    guest.rig.script_check(move |vcpu| {
                        assert_eq!(vcpu.el1.sctlr_el1 & 1 << 25, big_endian);
                        assert_eq!(vcpu.el1.sctlr_el1 & 1, 0);
                    });
                    guest.rig.hvc(host::VCPU_RUN, &[guest.handle, 1, 0]).unwrap();
                });
            }
        },
    },
    Rule {
        paragraph: "5.1.5, 5.7; B6.3.1",
        says: "AFFINITY_INFO: 0 on, 1 off; other CPUs and levels are INVALID_PARAMETERS",
        check: |rig| {
            each(rig, 2, |guest| {
                let info = |target, level| guest.value(f::AFFINITY_INFO_64, &[target, level]);
                // The level is 32 bits wide, the target is not.
                for dirty in DIRTY {
                    assert_eq!([info(0, dirty), info(1, dirty)], [0, 1], "{dirty:#x}");
                }
                for (target, level) in [(0, 1), (1, 3), (2, 0), (1 << 32, 0), (u64::MAX, 0)] {
                    let found = info(target, level);
                    assert_eq!(found, code::INVALID_PARAMETERS, "{target:#x} {level}");
                }
            });
        },
    },
    Rule {
        paragraph: "5.10, 5.12; B6.3.6, B6.3.7, A2.1.5.1",
        says: "SYSTEM_OFF and SYSTEM_RESET do not return, and nothing runs after them",
        check: |rig| {
            for (function, reset) in [(f::SYSTEM_OFF, 0), (f::SYSTEM_RESET, 1)] {
                each(rig, 2, |guest| {
                    assert_eq!(guest.exit(function, &[])[..2], [exit::SHUTDOWN, reset]);
                    assert!(guest.rests(0) && guest.rests(1));
                });
            }
        },
    },
    Rule {
        paragraph: "5.16, table 11; B6.3.5",
        says: "PSCI_FEATURES: 0 for what is there and for SMCCC_VERSION, else NOT_SUPPORTED",
        check: |rig| {
            each(rig, 1, |guest| {
                for function in identifiers().chain([f::SMCCC_VERSION]) {
                    let there = guest.has(function) || function == f::SMCCC_VERSION;
                    let wanted = if there { 0 } else { code::NOT_SUPPORTED };
                    for dirty in DIRTY {
                        let argument = [dirty | u64::from(function)];
                        let found = guest.value(f::PSCI_FEATURES, &argument);
                        assert_eq!(found, wanted, "{argument:x?}");
                    }
                }
            });
        },
    },
    Rule {
        paragraph: "5.3.2; A4.3.7 IVBJXY",
        says: "a function that is not there is NOT_SUPPORTED",
        check: |rig| {
            each(rig, 1, |guest| {
                for function in identifiers().filter(|id| !guest.has(*id)) {
                    let (rig, handle) = (guest.rig, guest.handle);
                    let found = answer(rig, handle, guest.by, function.into(), &[0; 3]);
                    assert_eq!(found, NOT_SUPPORTED, "{function:#x}");
                }
            });
        },
    },
];

#[test]
fn psci_of_guests_does_what_its_specifications_say() {
    hold("PSCI (DEN0022; DEN0137), of guests", GUESTS);
}

const PKVM: &[Rule] = &[
    Rule {
        paragraph: "5.6.2, 5.7.1, 6.6",
        says: "CPU_ON of a CPU that was started and has not run is ON_PENDING, then ALREADY_ON",
        check: |rig| {
            let guest = Guest::pkvm(rig, 2);
            let info = || guest.value(f::AFFINITY_INFO_64, &[1, 0]);
            assert_eq!(info(), 1);
            guest.exit(f::CPU_ON_64, &[1, ipa(1), 7]);
            guest.rig.script_check(|vcpu| assert_eq!(vcpu.frame.x[0], 0));
            guest.rig.run(guest.handle);
            assert_eq!(info(), 2);
            for on in [f::CPU_ON_32, f::CPU_ON_64] {
                assert_eq!(guest.value(on, &[1, ipa(2), 8]), code::ON_PENDING);
            }
            // It runs where the first call said.
            guest.rig.script_check(|vcpu| assert_eq!(vcpu.frame.pc, ipa(1)));
            guest.rig.hvc(host::VCPU_RUN, &[guest.handle, 1, 0]).unwrap();
            assert_eq!(info(), 0);
            assert_eq!(guest.value(f::CPU_ON_64, &[1, ipa(1), 7]), code::ALREADY_ON);
        },
    },
    Rule {
        paragraph: "5.4.5",
        says: "CPU_SUSPEND: a state that is not there is INVALID_PARAMETERS",
        check: |rig| {
            let guest = Guest::pkvm(rig, 1);
            for function in [f::CPU_SUSPEND_32, f::CPU_SUSPEND_64] {
                for power_down in [1 << 16, 1 << 30] {
                    let found = guest.value(function, &[power_down, ipa(0), 0]);
                    assert_eq!(found, code::INVALID_PARAMETERS);
                }
            }
        },
    },
    Rule {
        paragraph: "5.9.1",
        says: "MIGRATE_INFO_TYPE 2: there is nothing to migrate",
        check: |rig| assert_eq!(Guest::pkvm(rig, 1).value(f::MIGRATE_INFO_TYPE, &[]), 2),
    },
];

#[test]
fn psci_of_a_pkvm_guest_does_what_its_specification_says() {
    hold("PSCI (DEN0022), of a pKVM guest", PKVM);
}

const REALM: &[Rule] = &[
    Rule {
        paragraph: "B6.3.1, B6.3.3",
        says: "CPU_ON puts the CPU on at once (there is no ON_PENDING)",
        check: |rig| {
            let realm = Guest::realm(rig, 2);
            realm.exit(f::CPU_ON_64, &[1, ipa(1), 7]);
            realm.rig.script_check(|vcpu| assert_eq!(vcpu.frame.x[0], 0));
            realm.rig.run(realm.handle);
            assert_eq!(realm.value(f::AFFINITY_INFO_64, &[1, 0]), 0);
            assert_eq!(realm.value(f::CPU_ON_64, &[1, ipa(1), 7]), code::ALREADY_ON);
        },
    },
    Rule {
        paragraph: "B6.1 IXHDQF",
        says: "there is no HVC conduit",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            let function = u64::from(f::PSCI_VERSION);
            let found = super::call(rig, realm, By::Hvc, function, &[]);
            super::is_undefined(rig, &found, function);
        },
    },
    Rule {
        paragraph: "B6.3.4.1.1",
        says: "CPU_SUSPEND: every power state is a suspend request",
        check: |rig| {
            let guest = Guest::realm(rig, 1);
            for state in [0, 1 << 16, 1 << 30, 0xffff_ffff] {
                for function in [f::CPU_SUSPEND_32, f::CPU_SUSPEND_64] {
                    guest.stands_by(function, &[state, u64::MAX, 0]);
                }
            }
        },
    },
];

#[test]
fn psci_of_a_realm_does_what_the_rmm_says() {
    hold("RMM 1.0 (DEN0137), chapter B6", REALM);
}

const HOST: &[Rule] = &[
    Rule {
        paragraph: "5.4.5, 5.4.9",
        says: "CPU_SUSPEND: standby returns SUCCESS, power-down is INVALID_PARAMETERS",
        check: |rig| {
            for function in [f::CPU_SUSPEND_32, f::CPU_SUSPEND_64] {
                assert_eq!(rig.smc(function.into(), &[0, 0, 0]), code::SUCCESS);
                for power_down in [1 << 16, 1 << 30] {
                    let found = rig.smc(function.into(), &[power_down, 0, 0]);
                    assert_eq!(found, code::INVALID_PARAMETERS);
                }
            }
        },
    },
    Rule {
        paragraph: "5.6.2",
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
        paragraph: "5.6.2, 5.7.1, 6.6",
        says: "CPU_ON of a CPU that was started and has not arrived is ON_PENDING, then ALREADY_ON",
        check: |rig| {
            let entry = rig.frames(1) << 12;
            let on = || rig.smc(f::CPU_ON_64.into(), &[1, entry, 0]);
            let info = |level| rig.smc(f::AFFINITY_INFO_64.into(), &[1, level]);
            // The firmware: it is on already.
            rig.hyp.machine().world().firmware_answer = 0;
            assert_eq!(on(), code::SUCCESS);
            assert_eq!((info(0), on()), (2, code::ON_PENDING));
            assert_eq!(info(1), 0, "another level is the firmware's to answer");
            rig.hyp.machine().be_cpu(1);
            rig.hyp.host_cpu_arrives();
            rig.hyp.machine().be_cpu(0);
            assert_eq!((info(0), on()), (0, code::ALREADY_ON));
        },
    },
    Rule {
        paragraph: "5.9.1",
        says: "MIGRATE_INFO_TYPE 2, for there is no MIGRATE_INFO_UP_CPU, whatever firmware says",
        check: |rig| {
            for firmware in [0, 1, 2, u64::MAX] {
                rig.hyp.machine().world().firmware_answer = firmware;
                assert_eq!(rig.smc(f::MIGRATE_INFO_TYPE.into(), &[]), 2, "{firmware:#x}");
            }
            for migrate in [0x8400_0005, 0xc400_0005, 0x8400_0007, 0xc400_0007] {
                assert_eq!(rig.smc(migrate, &[]), code::NOT_SUPPORTED);
            }
            assert!(rig.hyp.machine().world().firmware_log.is_empty());
        },
    },
    Rule {
        paragraph: "5.3.2, 5.16, table 17",
        says: "PSCI_FEATURES: 0 for what is there; what is not is NOT_SUPPORTED, called or asked",
        check: |rig| {
            let asked = |function: u32| rig.smc(f::PSCI_FEATURES.into(), &[function.into()]);
            assert_eq!(asked(f::SMCCC_VERSION), 0);
            for function in identifiers() {
                if MANDATORY.contains(&function) || function == f::MIGRATE_INFO_TYPE {
                    assert_eq!(asked(function), 0, "{function:#x}");
                } else {
                    assert_eq!(asked(function), code::NOT_SUPPORTED, "{function:#x}");
                    let called = rig.smc(function.into(), &[0, 0, 0]);
                    assert_eq!(called, code::NOT_SUPPORTED, "{function:#x}");
                }
            }
        },
    },
];

#[test]
fn psci_of_the_host_does_what_its_specification_says() {
    hold("PSCI (DEN0022), of the host", HOST);
}
