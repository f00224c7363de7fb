//! What a guest can see for itself of the promises made to it.

#![allow(unsafe_code)]

use super::{Machine, interrupts, pkvm, secrets, yes};
use hyp::abi::host;
use rt::smccc::{hvc, hvc_audit, hvc_imm1, smc, smc_imm1};
use rt::{attempt, println, psci, try_mrs, try_msr};

/// NOT_SUPPORTED of the SMC Calling Convention.
const NOT_SUPPORTED: u64 = -1i64 as u64;
/// Pages looked at for leftovers.
const FRESH: usize = 16;

/// All checks; true if every one holds.
pub(crate) fn all(machine: &Machine) -> bool {
    let results = [
        ("fp", fp_survives_exits()),
        ("fresh-zero", fresh_pages_are_zero(machine)),
        ("idregs", features_are_hidden()),
        ("smc", smcs_are_refused()),
        ("unknown-hvc", unknown_calls_are_refused()),
        ("preserved", registers_are_preserved()),
        ("psci", psci_is_sane()),
        ("timers", super::timers::work()),
        ("debug", super::debug::work(machine)),
    ];
    for (name, good) in results {
        println!("@guest check name={name} ok={}", yes(good));
    }
    results.iter().all(|(_, good)| *good)
}

/// FP/SIMD registers are the same after a hypercall, an MMIO exit and a wait.
fn fp_survives_exits() -> bool {
    let pattern =
        core::array::from_fn(|index| (index as u128 + 1) * 0x0123_4567_89ab_cdef_0f1e_2d3c);
    secrets::load_fp(&pattern);
    psci::version();
    println!("guest: floating point is loaded while this line leaves");
    interrupts::wait(3, || false);
    secrets::read_fp() == pattern
}

/// Memory that nothing has touched yet holds nothing of its former owner.
pub(crate) fn fresh_pages_are_zero(machine: &Machine) -> bool {
    let pages = machine.spare.clone().step_by(4096).take(FRESH);
    let mut words = pages.flat_map(|page| (page..page + 4096).step_by(8));
    !machine.spare.is_empty() && words.all(|address| attempt::try_read_u64(address as u64) == Ok(0))
}

/// Bits `low..low + 4` of an identification register are zero.
fn absent(register: Result<u64, attempt::Fault>, low: u32) -> bool {
    register.is_ok_and(|value| value >> low & 15 == 0)
}

/// SVE, SME, MTE, SPE, TRBE, AMU and PMU are neither described nor there.
fn features_are_hidden() -> bool {
    let pfr0 = try_mrs!("id_aa64pfr0_el1");
    let pfr1 = try_mrs!("id_aa64pfr1_el1");
    let dfr0 = try_mrs!("id_aa64dfr0_el1");
    let described = [
        ("sve", absent(pfr0, 32)),
        ("amu", absent(pfr0, 44)),
        ("ras", absent(pfr0, 28)),
        ("mte", absent(pfr1, 8)),
        ("sme", absent(pfr1, 24)),
        ("pmu", absent(dfr0, 8)),
        ("spe", absent(dfr0, 32)),
        ("trbe", absent(dfr0, 44)),
    ];
    for (name, hidden) in described {
        if !hidden {
            println!("@guest idreg name={name} hidden=no");
        }
    }
    // The guest's own traps of SVE and SME (CPACR_EL1.ZEN and SMEN) come
    // first, so they are opened: the question is what lies behind them.
    let own_traps = try_mrs!("cpacr_el1").unwrap_or(3 << 20);
    // SAFETY: floating point stays as it is; no other instruction that these
    // bits govern is ever executed.
    let _ = unsafe { try_msr!("cpacr_el1", own_traps | 3 << 16 | 3 << 24) };
    // ZCR_EL1, SMCR_EL1, PMCR_EL0, PMSCR_EL1, TRBLIMITR_EL1: gone, not just
    // left out of the description.
    let gone = [
        try_mrs!("S3_0_C1_C2_0"),
        try_mrs!("S3_0_C1_C2_6"),
        try_mrs!("S3_3_C9_C12_0"),
        try_mrs!("S3_0_C9_C9_0"),
        try_mrs!("S3_0_C9_C11_0"),
    ];
    // SAFETY: puts the register back.
    let _ = unsafe { try_msr!("cpacr_el1", own_traps) };
    let undefined = gone.iter().all(|result| result.is_err_and(|fault| fault.is_undefined()));
    println!(
        "@guest idregs hidden={} undefined={}",
        yes(described.iter().all(|(_, hidden)| *hidden)),
        yes(undefined)
    );
    described.iter().all(|(_, hidden)| *hidden) && undefined
}

/// This guest's conduit is HVC: SMC reaches nobody.
fn smcs_are_refused() -> bool {
    let none = [0; 7];
    [
        smc(0x8400_0000, none),
        smc(0xc400_0190, [0x10000, 0, 0, 0, 0, 0, 0]),
        smc(hyp::abi::guest::UID.into(), none),
        smc(host::VERSION.into(), none),
        smc_imm1(0x8400_0000, none),
    ]
    .iter()
    .all(|result| result[0] == NOT_SUPPORTED)
}

/// Calls nobody defined, and the host's, get NOT_SUPPORTED.
fn unknown_calls_are_refused() -> bool {
    let none = [0; 7];
    let calls = [
        0xc600_003f,
        0x8600_003e,
        u64::MAX,
        0,
        // The upper half must be clear.
        0x1_8600_0000,
        0xffff_ffff_8400_0000,
        host::VERSION.into(),
        host::VM_CREATE.into(),
        host::VCPU_RUN.into(),
        host::FRAME_RECLAIM.into(),
        host::EVENT_NEXT.into(),
    ];
    calls.iter().all(|call| hvc(*call, none)[0] == NOT_SUPPORTED)
        && hvc_imm1(0x8400_0000, none)[0] == NOT_SUPPORTED
}

/// x4 to x17 survive calls (SMCCC 1.1 and later).
fn registers_are_preserved() -> bool {
    [0x8400_0000, u64::from(hyp::abi::guest::HYP_MEMINFO), 0xc600_003f]
        .iter()
        .all(|call| hvc_audit(*call, [0; 7]).1 == 0)
}

/// PSCI 1.x with SMCCC discovery; no trusted OS to migrate.
fn psci_is_sane() -> bool {
    psci::version() >= 0x1_0000
        && psci::features(0x8000_0000) >= 0
        && psci::call(0x8000_0000, 0, 0, 0) >= 0x1_0001
        && psci::call(0x8400_0006, 0, 0, 0) == 2
}

/// Takes a fault it does not survive: reads behind its memory.
pub(crate) fn die(machine: &Machine) -> ! {
    println!("@guest fault reading={:#x}", machine.ram.end);
    // SAFETY: there is none: the address belongs to nobody, and the abort that
    // this must take ends the program.
    let value = unsafe { rt::mmio::read64(machine.ram.end) };
    println!("@guest fault survived=yes value={value:#x}");
    psci::shutdown()
}

/// Gives a page back and touches it again: what was in it is gone.
pub(crate) fn relinquished_page_is_zero(machine: &Machine) -> bool {
    // Behind the pages `fresh_pages_are_zero` looks at.
    let page = machine.spare.start + FRESH * 4096;
    if page + 4096 > machine.spare.end {
        return false;
    }
    // SAFETY: a spare page, used by nobody.
    if unsafe { attempt::try_write_u64(page as u64, 0x1122_3344_5566_7788) }.is_err() {
        return false;
    }
    let code = pkvm::mem_relinquish(page as u64);
    let value = attempt::try_read_u64(page as u64);
    println!("@guest relinquish ipa={page:#x} code={code} zero={}", yes(value == Ok(0)));
    code == 0 && value == Ok(0)
}
