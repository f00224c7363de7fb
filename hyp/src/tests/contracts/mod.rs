//! Foreign calls, held to their own specifications, rule by rule.
//!
//! bouncer answers calls that others defined: RSI to a realm, PSCI and SMCCC
//! to guests and the host. What a call must do is in its specification, not in
//! our documents, which said for a year that a realm's page keeps its contents
//! when it is shared. A front end that keeps such an interface's calls but not
//! its guarantees is the kind of mistake that these tables are for: each row is
//! a rule with its paragraph, and a check on the simulated machine.
//!
//! | file | specification |
//! |---|---|
//! | `rsi` | RMM 1.0 (DEN0137 1.0-rel0): realms and their services |
//! | `power` | PSCI 1.3 (DEN0022F.b), and for realms RMM 1.0's chapter B6 |
//! | `smccc` | SMC Calling Convention (DEN0028) |
//!
//! Where bouncer differs on purpose a row says so, and how. Paragraphs of PSCI
//! and of the RMM are the documents'. Those of the calling convention are as
//! other projects cite them (Linux, EDK2, QEMU, Xen), each with the issue that
//! they name.

mod power;
mod rsi;
mod smccc;

use super::rig::{RAM_GFN, Rig, interrupt, sync};
use crate::abi::exit;
use crate::machine::{El1Register, Machine};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::vec::Vec;

/// A rule of a specification.
struct Rule {
    /// Where it stands.
    paragraph: &'static str,
    /// What it says, in our words.
    says: &'static str,
    /// Panics if it does not hold.
    check: fn(&mut Rig),
}

/// Checks a table, all of it, and tells which rows do not hold.
fn hold(document: &str, rules: &[Rule]) {
    let broken: Vec<_> = rules
        .iter()
        .filter(|rule| {
            let check = || (rule.check)(&mut Rig::new());
            catch_unwind(AssertUnwindSafe(check)).is_err()
        })
        .map(|rule| (rule.paragraph, rule.says))
        .collect();
    assert!(broken.is_empty(), "{document} is not kept: {broken:#?}");
}

/// Address of a page of a guest's RAM.
fn ipa(page: u64) -> u64 {
    (RAM_GFN + page) << 12
}

/// How a guest calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    Smc,
    Hvc,
}

/// Where the guest's call stands, and its vectors.
const PC: u64 = 0x4000_0100;
const VECTORS: u64 = 0x4000_0800;

/// What a guest finds after a call that is answered at EL2.
struct Found {
    x: [u64; 31],
    pc: u64,
}

/// A call of vCPU 0 with x0 = `function` and x1… = `arguments`; all other
/// registers hold marks. Gives what the guest finds.
fn call(rig: &Rig, handle: u64, by: By, function: u64, arguments: &[u64]) -> Found {
    call_imm(rig, handle, (by, 0), function, arguments)
}

fn call_imm(
    rig: &Rig,
    handle: u64,
    (by, immediate): (By, u64),
    function: u64,
    arguments: &[u64],
) -> Found {
    let arguments: Vec<u64> = arguments.to_vec();
    rig.hyp.machine().write_el1(El1Register::Vbar, VECTORS);
    rig.script(move |vcpu| {
        vcpu.frame.x = marks();
        vcpu.frame.x[0] = function;
        vcpu.frame.x[1..=arguments.len()].copy_from_slice(&arguments);
        vcpu.frame.pstate = 5;
        // A trapped SMC is not behind the instruction, an HVC is (Arm ARM
        // D1.3.5).
        let (class, pc) = if by == By::Smc { (0x17, PC) } else { (0x16, PC + 4) };
        vcpu.frame.pc = pc;
        sync(class << 26 | immediate)
    });
    let found: Arc<Mutex<Option<Found>>> = Arc::default();
    let sink = found.clone();
    rig.script(move |vcpu| {
        *sink.lock().unwrap() = Some(Found { x: vcpu.frame.x, pc: vcpu.frame.pc });
        interrupt()
    });
    assert_eq!(rig.run(handle)[0], exit::INTERRUPT, "the host is not asked");
    let found = found.lock().unwrap().take();
    found.expect("the guest goes on")
}

fn marks() -> [u64; 31] {
    core::array::from_fn(|register| 0x9e_0000 + register as u64)
}

/// The call was answered: x0 to x3. Everything else is the caller's (SMCCC
/// 1.1 preserves x4 to x17), and the caller goes on behind it.
fn answer(rig: &Rig, handle: u64, by: By, function: u64, arguments: &[u64]) -> [u64; 4] {
    let found = call(rig, handle, by, function, arguments);
    assert_eq!(found.pc, PC + 4, "behind the call");
    let mut kept = marks();
    kept[0] = function;
    kept[1..=arguments.len()].copy_from_slice(arguments);
    assert_eq!(found.x[4..], kept[4..], "x4 to x30");
    [0, 1, 2, 3].map(|register| found.x[register])
}

/// NOT_SUPPORTED, in all four registers of an answer.
const NOT_SUPPORTED: [u64; 4] = [u64::MAX, 0, 0, 0];

/// The instruction at [`PC`] was an exception of unknown reason for the guest,
/// which changed none of its general registers.
fn is_undefined(rig: &Rig, found: &Found, function: u64) {
    let machine = rig.hyp.machine();
    assert_eq!(found.pc, VECTORS + 0x200, "synchronous, current EL with SP_ELx");
    assert_eq!(machine.read_el1(El1Register::Elr), PC, "the instruction itself");
    assert_eq!(machine.read_el1(El1Register::Esr), 1 << 25, "EC 0, IL");
    let mut kept = marks();
    kept[0] = function;
    assert_eq!(found.x, kept);
}
