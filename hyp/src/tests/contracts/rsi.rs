//! RMM 1.0 (DEN0137 1.0-rel0): what a realm is promised, and its services.

use super::super::rig::{PAGES, Rig, abort, interrupt, pfn};
use super::{By, NOT_SUPPORTED, Rule, VECTORS, answer, call, call_imm, hold, ipa, is_undefined};
use crate::abi::rsi::{self as id, ripas, status};
use crate::abi::{exit, guest};
use crate::layout;
use crate::machine::{El1Register, Machine, Vmid};
use crate::trap::Trap;
use std::sync::{Arc, Mutex};

/// The unprotected half of the address space.
const ALIAS: u64 = 1 << (id::IPA_BITS - 1);

fn smc(rig: &Rig, realm: u64, function: u32, arguments: &[u64]) -> [u64; 4] {
    answer(rig, realm, By::Smc, function.into(), arguments)
}

fn set(rig: &Rig, realm: u64, base: u64, top: u64, state: u64) -> [u64; 4] {
    smc(rig, realm, id::IPA_STATE_SET, &[base, top, state, 0])
}

/// It has got this far.
fn accepted(top: u64) -> [u64; 4] {
    [status::SUCCESS, top, id::ACCEPT, 0]
}

const INPUT: [u64; 4] = [status::ERROR_INPUT, 0, 0, 0];

/// A load from `address`, where stage 2 has nothing.
fn load(address: u64) -> Trap {
    abort(address, 8, 3, false)
}

/// A fetch from there; `status` is what stage 2 has against it.
fn fetch(address: u64, status: u64) -> Trap {
    Trap { esr: 0x20 << 26 | 1 << 25 | status, ..load(address) }
}

/// IFSC of a translation fault and of a permission fault, at level 3.
const TRANSLATION: u64 = 0x07;
const PERMISSION: u64 = 0x0f;

/// The realm reaches for something: the syndrome of the exception it takes.
fn reach(rig: &Rig, realm: u64, access: Trap) -> u64 {
    rig.hyp.machine().write_el1(El1Register::Vbar, VECTORS);
    rig.script(move |vcpu| {
        vcpu.frame.pstate = 5;
        access
    });
    rig.script_check(|vcpu| assert_eq!(vcpu.frame.pc, VECTORS + 0x200));
    assert_eq!(rig.run(realm)[0], exit::INTERRUPT, "the Host does not hear of it");
    rig.hyp.machine().read_el1(El1Register::Esr)
}

const PROMISES: &[Rule] = &[
    Rule {
        paragraph: "A2.1.2.2",
        says: "a protected page changes only by the realm's own doing or consent",
        check: |rig| {
            let (realm, ram) = rig.realm(1);
            (0..PAGES).for_each(|page| rig.hyp.machine().plant(pfn(ram + page), 7 + page));
            set(rig, realm, ipa(1), ipa(2), ripas::EMPTY);
            set(rig, realm, ipa(1), ipa(2), ripas::RAM);
            set(rig, realm, ipa(0), ipa(PAGES), ripas::RAM);
            for page in [0, 2, 3] {
                assert_eq!(rig.hyp.machine().tag(pfn(ram + page)), Some(7 + page));
            }
        },
    },
    Rule {
        paragraph: "A2.1.2.3",
        says: "feature registers are architecturally valid: SMC is there, and so EL3",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            let (other, _) = rig.vm(1);
            for (handle, el3) in [(realm, 1), (other, 0)] {
                // MRS x3, ID_AA64PFR0_EL1.
                let esr = 0x18 << 26 | 3 << 20 | 4 << 1 | 3 << 5 | 1;
                rig.script(move |_| super::sync(esr));
                rig.script_check(move |vcpu| assert_eq!(vcpu.frame.x[3] >> 12 & 0xf, el3));
                assert_eq!(rig.run(handle)[0], exit::INTERRUPT);
            }
        },
    },
    Rule {
        paragraph: "A2.2.4 RTMGSL",
        says: "contents do not leave a realm with a granule: a shared page is wiped",
        check: |rig| {
            let (realm, ram) = rig.realm(1);
            rig.hyp.machine().set_hostile(true);
            rig.hyp.machine().plant(pfn(ram + 1), 0x5ec2e7);
            assert_eq!(set(rig, realm, ipa(1), ipa(2), ripas::EMPTY), accepted(ipa(2)));
            assert_eq!(rig.hyp.machine().tag(pfn(ram + 1)), Some(0));
            assert_eq!(rig.hyp.machine().access(Vmid::HOST, pfn(ram + 1).identity()).len(), 1);
        },
    },
    Rule {
        paragraph: "A2.2.4 RTMGSL",
        says: "nor come in with one: a page that is private again is wiped",
        check: |rig| {
            let (realm, ram) = rig.realm(1);
            set(rig, realm, ipa(1), ipa(2), ripas::EMPTY);
            rig.hyp.machine().set_hostile(true);
            rig.hyp.machine().plant(pfn(ram + 1), 0xbad);
            assert_eq!(set(rig, realm, ipa(1), ipa(2), ripas::RAM), accepted(ipa(2)));
            assert_eq!(rig.hyp.machine().tag(pfn(ram + 1)), Some(0));
        },
    },
    Rule {
        paragraph: "A4.3.4 IRPSNC, A4.5 RDNBQF",
        says: "HVC is an exception of unknown reason, whatever is in its registers",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            for function in [guest::UID, guest::MEM_SHARE, id::VERSION, 0x8400_0000] {
                for immediate in [0, 1, 0xffff] {
                    let function = u64::from(function);
                    let found = call_imm(rig, realm, (By::Hvc, immediate), function, &[]);
                    is_undefined(rig, &found, function);
                }
            }
        },
    },
    Rule {
        paragraph: "A4.3.4 RYLFMD, B1.1",
        says: "an SMC that is neither PSCI nor RSI is not supported (but for TRNG, ours)",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            for function in [
                0,
                0x8000_0001,
                0x8000_8000,
                0x8600_ff01,
                0xc400_018f,
                0xc400_019a,
                0xc400_0150,
                0xc600_0003,
                0xc600_0102,
                0xffff_ffff,
            ] {
                let found = answer(rig, realm, By::Smc, function, &[ipa(0), 1, 0]);
                assert_eq!(found, NOT_SUPPORTED, "{function:#x}");
            }
        },
    },
    Rule {
        paragraph: "A5.2.3 RJVQQR, RMKLSD",
        says: "a protected page that is EMPTY is a synchronous external abort",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            set(rig, realm, ipa(1), ipa(2), ripas::EMPTY);
            for (access, class) in [(load(ipa(1)), 0x25), (fetch(ipa(1), TRANSLATION), 0x21)] {
                let esr = reach(rig, realm, access);
                assert_eq!((esr >> 26, esr & 0x3f), (class, 0x10), "{esr:#x}");
            }
        },
    },
    Rule {
        paragraph: "A5.2.7 RVKNJW",
        says: "a synchronous external abort has EA set",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            set(rig, realm, ipa(1), ipa(2), ripas::EMPTY);
            for access in [load(ipa(1)), fetch(ipa(1), TRANSLATION)] {
                assert_eq!(reach(rig, realm, access) >> 9 & 1, 1);
            }
        },
    },
    Rule {
        paragraph: "A5.2.6 RXLSKP",
        says: "a fetch from an unprotected page is a synchronous external abort",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            set(rig, realm, ipa(1), ipa(2), ripas::EMPTY);
            // A shared page is there, but not to be executed; the next is not.
            for (page, status) in [(1, PERMISSION), (2, TRANSLATION)] {
                let esr = reach(rig, realm, fetch(ALIAS | ipa(page), status));
                assert_eq!((esr >> 26, esr & 0x3f), (0x21, 0x10), "{esr:#x}");
            }
        },
    },
    Rule {
        paragraph: "A5.2.8 RGYVZQ, RLSJJR",
        says: "what is beyond the realm's address space is an Address size fault",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            for (access, class) in [
                (load(1 << id::IPA_BITS), 0x25),
                (load(1 << 47 | 0x18), 0x25),
                (fetch(1 << id::IPA_BITS, TRANSLATION), 0x21),
            ] {
                let esr = reach(rig, realm, access);
                assert_eq!((esr >> 26, esr & 0x3f), (class, 0), "{esr:#x}");
            }
            // What is no fault of stage 2's names no address, whatever an
            // earlier one of another guest has left in HPFAR_EL2.
            let unaligned = Trap { esr: 0x24 << 26 | 1 << 25 | 0x21, ..load(1 << id::IPA_BITS) };
            assert_eq!(reach(rig, realm, unaligned) & 0x3f, 0x10);
            // Its last page is within, and answers as a bus does.
            let esr = reach(rig, realm, load((1 << id::IPA_BITS) - 0x1000));
            assert_eq!(esr & 0x3f, 0x10);
        },
    },
    Rule {
        paragraph: "A5.2.3 IPGHBT, A5.3.1",
        says: "a protected page that is RAM and not assigned exits to the Host",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            rig.script(|_| abort(ipa(PAGES), 8, 3, false));
            assert_eq!(rig.run(realm)[..2], [exit::MEM_FAULT, ipa(PAGES)]);
        },
    },
];

#[test]
fn what_a_realm_is_promised_holds() {
    hold("RMM 1.0 (DEN0137), part A", PROMISES);
}

const COMMANDS: &[Rule] = &[
    Rule {
        paragraph: "B1.2 RKBWJD",
        says: "x1 to x3 are zero where they are no output (x4 on stay: SMCCC, Linux)",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            assert_eq!(smc(rig, realm, id::REALM_CONFIG, &[ipa(1)]), [0; 4]);
            assert_eq!(smc(rig, realm, id::MEASUREMENT_EXTEND, &[1, 0]), [0; 4]);
            assert_eq!(smc(rig, realm, id::FEATURES, &[0]), [0; 4]);
        },
    },
    Rule {
        paragraph: "B1.2 RSTJHR, B1.6 RVHFHD",
        says: "what should be zero is ignored: a call without a failure condition succeeds",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            for (x3, x4) in [(0, 2), (0, u64::MAX), (1 << 8, 0), (u64::MAX << 8, 1)] {
                let call = [ipa(1), ipa(2), x3 | ripas::EMPTY, x4];
                assert_eq!(smc(rig, realm, id::IPA_STATE_SET, &call), accepted(ipa(2)));
                let back = [ipa(1), ipa(2), x3 | ripas::RAM, x4, 9, 9, 9];
                assert_eq!(smc(rig, realm, id::IPA_STATE_SET, &back), accepted(ipa(2)));
            }
            for wanted in [0x1_0000, 0x8001_0000, u64::MAX << 31 | 0x1_0000] {
                let version = [wanted, 9, 9, 9, 9];
                assert_eq!(smc(rig, realm, id::VERSION, &version)[0], status::SUCCESS);
            }
        },
    },
    Rule {
        paragraph: "B1.3 IRVPGY, B5.3",
        says: "the function identifier is all of x0",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            for bit in [32, 63] {
                let function = u64::from(id::VERSION) | 1 << bit;
                assert_eq!(answer(rig, realm, By::Smc, function, &[0x1_0000]), NOT_SUPPORTED);
            }
        },
    },
    Rule {
        paragraph: "B5.3.1.2",
        says: "ATTESTATION_TOKEN_CONTINUE: align, bound, offset, overflow, size, state, unknown",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            let token =
                |arguments: [u64; 3]| smc(rig, realm, id::ATTESTATION_TOKEN_CONTINUE, &arguments);
            let state = [status::ERROR_STATE, 0, 0, 0];
            assert_eq!(token([ipa(1), 0, 4096]), state, "nothing is in progress");
            smc(rig, realm, id::ATTESTATION_TOKEN_INIT, &[1, 2, 3, 4, 5, 6, 7, 8]);
            for wrong in [
                [ipa(1) + 8, 0, 8],
                [ALIAS | ipa(1), 0, 8],
                [u64::MAX << 12, 0, 8],
                [ipa(1), 4096, 0],
                [ipa(1), 8, u64::MAX],
                [ipa(1), 8, 4089],
            ] {
                assert_eq!(token(wrong), INPUT, "{wrong:x?}");
            }
            // Still in progress; its making fails, and that is the end of it.
            assert_eq!(token([ipa(1), 4095, 1]), [status::ERROR_UNKNOWN, 0, 0, 0]);
            assert_eq!(token([ipa(1), 0, 4096]), state);
        },
    },
    Rule {
        paragraph: "B5.3.2.2",
        says: "ATTESTATION_TOKEN_INIT has no failure condition; x1 is an upper bound",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            for challenge in [[0; 8], [u64::MAX; 8]] {
                let [x0, bound, x2, x3] = smc(rig, realm, id::ATTESTATION_TOKEN_INIT, &challenge);
                assert_eq!([x0, x2, x3], [status::SUCCESS, 0, 0]);
                assert!(bound > 0);
            }
        },
    },
    Rule {
        paragraph: "B5.3.3",
        says: "FEATURES succeeds for every index; what is not defined is zero",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            for index in [0, 1, 2, u64::MAX] {
                assert_eq!(smc(rig, realm, id::FEATURES, &[index]), [0; 4]);
            }
        },
    },
    Rule {
        paragraph: "B5.3.4.2, B5.4.1",
        says: "HOST_CALL: align 256, bound; else the Host's refusal, as ERROR_UNKNOWN (ours)",
        check: |rig| {
            let (realm, ram) = rig.realm(1);
            rig.hyp.machine().plant(pfn(ram + 1), 7);
            for wrong in [ipa(1) + 8, ipa(1) + 128, ALIAS | ipa(1), u64::MAX << 8, 1 << 39] {
                assert_eq!(smc(rig, realm, id::HOST_CALL, &[wrong]), INPUT, "{wrong:#x}");
            }
            let refused = [status::ERROR_UNKNOWN, 0, 0, 0];
            assert_eq!(smc(rig, realm, id::HOST_CALL, &[ipa(1) + 256]), refused);
            assert_eq!(rig.hyp.machine().tag(pfn(ram + 1)), Some(7), "nobody wrote there");
        },
    },
    Rule {
        paragraph: "B5.3.5.2",
        says: "IPA_STATE_GET: base_align, end_align, size_valid, rgn_bound",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            for (base, top) in [
                (ipa(0) + 1, ipa(1)),
                (ipa(0), ipa(1) + 8),
                (ipa(0), ipa(0)),
                (ipa(1), ipa(0)),
                (ALIAS | ipa(0), ALIAS | ipa(1)),
                (ipa(0), ALIAS | ipa(0)),
                (ipa(0), u64::MAX << 12),
            ] {
                let found = smc(rig, realm, id::IPA_STATE_GET, &[base, top]);
                assert_eq!(found, INPUT, "{base:#x} {top:#x}");
            }
        },
    },
    Rule {
        paragraph: "B5.3.5.1.3",
        says: "IPA_STATE_GET: base < out_top <= top, and all of it is as reported",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            set(rig, realm, ipa(1), ipa(2), ripas::EMPTY);
            let state = |page: u64| if page == 1 { ripas::EMPTY } else { ripas::RAM };
            for base in 0..4 {
                for top in base + 1..=4 {
                    let [x0, out, found, x3] =
                        smc(rig, realm, id::IPA_STATE_GET, &[ipa(base), ipa(top)]);
                    assert_eq!((x0, x3), (status::SUCCESS, 0));
                    assert!(out > ipa(base) && out <= ipa(top));
                    let pages = base..base + ((out - ipa(base)) >> 12);
                    assert!(pages.into_iter().all(|page| state(page) == found));
                }
            }
            let device = [layout::UART, layout::UART + 0x1000];
            let found = smc(rig, realm, id::IPA_STATE_GET, &device);
            assert_eq!(found, [status::SUCCESS, device[1], ripas::DEV, 0]);
        },
    },
    Rule {
        paragraph: "B5.3.6.2",
        says: "IPA_STATE_SET: base_align, top_align, size_valid, rgn_bound, ripas_valid",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            let before = rig.ownership();
            for (base, top, state) in [
                (ipa(0) + 1, ipa(1), 0),
                (ipa(0), ipa(1) + 8, 0),
                (ipa(0), ipa(0), 0),
                (ipa(1), ipa(0), 0),
                (ALIAS | ipa(0), ALIAS | ipa(1), 0),
                (ipa(0), ALIAS | ipa(0), 0),
                (ipa(0), u64::MAX << 12, 0),
                (ipa(0), ipa(1), 2),
                (ipa(0), ipa(1), 3),
                (ipa(0), ipa(1), 0xff),
            ] {
                assert_eq!(set(rig, realm, base, top, state), INPUT, "{base:#x} {top:#x} {state}");
            }
            assert_eq!(rig.ownership(), before);
        },
    },
    Rule {
        paragraph: "B5.3.6.1.3",
        says: "IPA_STATE_SET that the Host rejects: SUCCESS, new_base = base, REJECT, no change",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            let before = rig.ownership();
            for (base, top) in [
                (layout::UART, layout::UART + 0x1000),
                (ipa(63), ipa(65)),
                (layout::RAM - 0x1000, ipa(1)),
                (0, ALIAS),
            ] {
                for state in [ripas::EMPTY, ripas::RAM] {
                    let rejected = [status::SUCCESS, base, id::REJECT, 0];
                    assert_eq!(set(rig, realm, base, top, state), rejected, "{base:#x}");
                }
            }
            assert_eq!(rig.ownership(), before);
        },
    },
    Rule {
        paragraph: "B5.3.6.3, A5.4",
        says: "IPA_STATE_SET: all below new_base is in the state asked for, and repeats make progress",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            for state in [ripas::EMPTY, ripas::EMPTY, ripas::RAM, ripas::RAM] {
                let mut base = ipa(0);
                while base < ipa(PAGES) {
                    let [x0, next, response, x3] = set(rig, realm, base, ipa(PAGES), state);
                    assert_eq!([x0, response, x3], [status::SUCCESS, id::ACCEPT, 0]);
                    assert!(next > base && next <= ipa(PAGES));
                    base = next;
                }
                let found = smc(rig, realm, id::IPA_STATE_GET, &[ipa(0), ipa(PAGES)]);
                assert_eq!(found, [status::SUCCESS, ipa(PAGES), state, 0]);
            }
        },
    },
    Rule {
        paragraph: "B5.4.8, B5.4.9",
        says: "CHANGE_DESTROYED permits a change of what is DESTROYED, which nothing is here",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            for flags in [0, id::CHANGE_DESTROYED] {
                let all = [ipa(0), ipa(64), ripas::RAM, flags];
                assert_eq!(smc(rig, realm, id::IPA_STATE_SET, &all), accepted(ipa(64)));
            }
        },
    },
    Rule {
        paragraph: "B5.3.7.2",
        says: "MEASUREMENT_EXTEND: not the initial one, none above 4, at most 64 bytes",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            let extend = |index, bytes| smc(rig, realm, id::MEASUREMENT_EXTEND, &[index, bytes]);
            for (index, bytes) in [(0, 8), (5, 8), (u64::MAX, 8), (1, 65), (4, u64::MAX)] {
                assert_eq!(extend(index, bytes), INPUT, "{index} {bytes}");
            }
            for (index, bytes) in [(1, 0), (4, 64)] {
                assert_eq!(extend(index, bytes), [status::SUCCESS, 0, 0, 0]);
            }
        },
    },
    Rule {
        paragraph: "B5.3.8",
        says: "MEASUREMENT_READ: none above 4; 64 bytes in x1 to x8, zeros behind the digest",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            for wrong in [5, u64::MAX] {
                assert_eq!(smc(rig, realm, id::MEASUREMENT_READ, &[wrong]), INPUT);
            }
            let found = call(rig, realm, By::Smc, id::MEASUREMENT_READ.into(), &[0]);
            assert_eq!(found.x[0], status::SUCCESS);
            assert_ne!(found.x[1..5], [0; 4]);
            assert_eq!(found.x[5..9], [0; 4]);
            assert_eq!(found.x[9..], super::marks()[9..]);
        },
    },
    Rule {
        paragraph: "B5.3.9.2",
        says: "REALM_CONFIG: addr_align, addr_bound",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            for wrong in [ipa(1) + 8, ALIAS | ipa(1), ALIAS, 1 << 39, u64::MAX << 12] {
                assert_eq!(smc(rig, realm, id::REALM_CONFIG, &[wrong]), INPUT, "{wrong:#x}");
            }
        },
    },
    Rule {
        paragraph: "B5.3.9.3, B5.4.5",
        says: "REALM_CONFIG: width, hash algorithm, all unused bits zero",
        check: |rig| {
            let (realm, ram) = rig.realm(1);
            rig.hyp.machine().plant(pfn(ram + 1), u64::MAX);
            assert_eq!(smc(rig, realm, id::REALM_CONFIG, &[ipa(1)]), [0; 4]);
            let word = |index| rig.hyp.machine().peek(pfn(ram + 1), index);
            assert_eq!(word(0), id::IPA_BITS);
            assert!((1..512).all(|index| word(index) == 0), "SHA-256 is 0, no RPV");
        },
    },
    Rule {
        paragraph: "B5.3.10, B5.1, B5.4.4",
        says: "VERSION: success for 1.0; else ERROR_INPUT; both revisions told in any case",
        check: |rig| {
            let (realm, _) = rig.realm(1);
            let version = |wanted| smc(rig, realm, id::VERSION, &[wanted]);
            assert_eq!(version(1 << 16), [status::SUCCESS, 1 << 16, 1 << 16, 0]);
            for other in [0, 1, 0xffff, 1 << 16 | 1, 2 << 16, 0x7fff_ffff] {
                assert_eq!(version(other), [status::ERROR_INPUT, 1 << 16, 1 << 16, 0]);
            }
        },
    },
];

#[test]
fn realm_services_do_what_their_specification_says() {
    hold("RMM 1.0 (DEN0137), chapter B5", COMMANDS);
}

/// A token belongs to the vCPU that asked for it (DEN0137 B5.3.1.1.2: the
/// context is the current REC).
#[test]
fn a_token_that_one_vcpu_asked_for_is_not_anothers() {
    let mut rig = Rig::new();
    let (realm, _) = rig.realm(2);
    smc(&rig, realm, id::ATTESTATION_TOKEN_INIT, &[]);
    rig.script_smc(u64::from(crate::psci::function::CPU_ON_64), &[1, ipa(0), 0]);
    assert_eq!(rig.run(realm)[0], exit::CPU_ON);
    let found: Arc<Mutex<u64>> = Arc::default();
    let sink = found.clone();
    rig.script_smc(u64::from(id::ATTESTATION_TOKEN_CONTINUE), &[ipa(0), 0, 8]);
    rig.script(move |vcpu| {
        *sink.lock().unwrap() = vcpu.frame.x[0];
        interrupt()
    });
    rig.hvc(crate::abi::host::VCPU_RUN, &[realm, 1, 0]).unwrap();
    assert_eq!(*found.lock().unwrap(), status::ERROR_STATE);
}
