//! C1, C2 and C15: the host's CPU reaches for frames that are not the host's, with
//! every instruction that touches memory.

#![allow(unsafe_code)]

use alloc::format;
use alloc::vec::Vec;

use rt::attempt::{self, Fault};

use host::bouncer::Refusal;
use hyp::abi;
use hyp::error::Error;

use super::{Finding, Owner, drain_events, judge_access, judge_fault};
use crate::payload::calls::BOUNCER;
use crate::payload::report::GOOD;

/// An instruction that touches memory at an address.
struct Tool {
    id: [&'static str; 4],
    name: &'static str,
    apply: fn(u64) -> Result<u64, Fault>,
}

/// What a write would leave behind.
const FOOTPRINT: u64 = 0x6861_636b_6564_2121;
/// RET.
const RET: u64 = 0xd65f_03c0;

const TOOLS: [Tool; 8] = [
    Tool {
        id: ["C1.read", "C2.read", "C15.read", "C20.read"],
        name: "read",
        apply: attempt::try_read_u64,
    },
    Tool { id: ["C1.write", "C2.write", "C15.write", "C20.write"], name: "write", apply: write },
    Tool { id: ["C1.exec", "C2.exec", "C15.exec", "C20.exec"], name: "execute", apply: execute },
    Tool {
        id: ["C1.atomic", "C2.atomic", "C15.atomic", "C20.atomic"],
        name: "atomically add to",
        apply: add,
    },
    Tool { id: ["C1.zva", "C2.zva", "C15.zva", "C20.zva"], name: "DC ZVA", apply: zva },
    Tool { id: ["C1.ivac", "C2.ivac", "C15.ivac", "C20.ivac"], name: "DC IVAC", apply: ivac },
    Tool {
        id: ["C1.civac", "C2.civac", "C15.civac", "C20.civac"],
        name: "DC CIVAC",
        apply: attempt::try_dc_civac,
    },
    Tool {
        id: ["C1.ivau", "C2.ivau", "C15.ivau", "C20.ivau"],
        name: "IC IVAU",
        apply: attempt::try_ic_ivau,
    },
];

// The addresses these are applied to are frames taken from the free list, or
// frames that are not the host's, where no Rust object can be.

fn write(address: u64) -> Result<u64, Fault> {
    // SAFETY: see above.
    unsafe { attempt::try_write_u64(address, FOOTPRINT) }.map(|()| 0)
}

fn execute(address: u64) -> Result<u64, Fault> {
    // SAFETY: the host's own scratch frame holds RET; anything else is not
    // executable for the host, and that is what is being tested.
    unsafe { attempt::try_exec(address) }.map(|()| 0)
}

fn add(address: u64) -> Result<u64, Fault> {
    // SAFETY: see above.
    unsafe { attempt::try_atomic_add(address, 0) }
}

fn zva(address: u64) -> Result<u64, Fault> {
    // SAFETY: see above.
    unsafe { attempt::try_dc_zva(address) }.map(|()| 0)
}

fn ivac(address: u64) -> Result<u64, Fault> {
    // SAFETY: see above.
    unsafe { attempt::try_dc_ivac(address) }.map(|()| 0)
}

/// Does the CPU check this instruction's address at all? Some emulators treat
/// cache maintenance as a no-op; aimed at an address without a stage-1
/// mapping it must fault, or there is nothing to refuse.
fn is_real(tool: &Tool) -> bool {
    const UNMAPPED: u64 = 0x7f_f000_0000;
    (tool.apply)(UNMAPPED).is_err()
}

/// Do all tools work on `scratch`, a frame of the host's own? Names the first
/// that does not.
pub(in crate::payload) fn broken_tool(scratch: u64) -> Option<&'static str> {
    TOOLS.iter().find_map(|tool| {
        // SAFETY: a frame from the free list.
        unsafe {
            core::ptr::write_bytes(scratch as *mut u8, 0, 4096);
            (scratch as *mut u64).write_volatile(RET);
        }
        let made_visible = attempt::try_dc_civac(scratch).and(attempt::try_ic_ivau(scratch));
        // SAFETY: barriers only: the instruction just written is fetched.
        unsafe { core::arch::asm!("dsb ish", "isb", options(nostack)) };
        (made_visible.is_err() || (tool.apply)(scratch).is_err()).then_some(tool.name)
    })
}

/// C1: a guest's private frame. C2: one of bouncer's. C15: one that firmware
/// keeps. Expected: a synchronous external abort at the instruction, and an
/// event that names it.
pub(in crate::payload) fn reach(pfn: u64, owner: Owner, place: &str) -> Vec<Finding> {
    let row = match owner {
        Owner::Guest => 0,
        Owner::Bouncer | Owner::Nobody => 1,
        Owner::Firmware => 2,
    };
    apply(row, pfn, owner, place)
}

/// C20: a page of a device's window at which its guest has mapped nothing.
/// Expected: the same, and the event names the guest. Nothing is executed: the
/// host's own stage 1 would refuse it.
pub(in crate::payload) fn reach_window(page: u64, place: &str) -> Vec<Finding> {
    let mut findings = apply(3, page, Owner::Guest, place);
    findings.retain(|finding| finding.id != "C20.exec");
    findings
}

/// C21: the host chooses alignment faults, and reaches for a frame of bouncer's
/// again; then the bus's aborts as before; then what is no style. Expected: what
/// it chose, only for loads and stores, each with its event.
pub(in crate::payload) fn choose_style(pfn: u64) -> Vec<Finding> {
    let address = (pfn << 12) + 0x40;
    let mut findings = Vec::new();
    for (style, is_right) in [
        (abi::ABORTS_ALIGNMENT, Fault::is_alignment_fault as fn(Fault) -> bool),
        (abi::ABORTS_EXTERNAL, Fault::is_external_abort),
    ] {
        let before = BOUNCER.abort_style(style);
        if before != Ok(1 - style) {
            let detail = format!("{before:?} was before style {style}");
            let what = "choose how it is refused".into();
            findings.push(Finding { id: "C21.style", what, outcome: "wrong-error", detail });
        }
        for (id, tool) in
            ["C21.read", "C21.write", "C21.exec", "C21.atomic"].into_iter().zip(&TOOLS)
        {
            drain_events();
            let result = (tool.apply)(address);
            let what = format!("{} bouncer's memory, refusals of style {style}", tool.name);
            let is_right = if id == "C21.exec" { Fault::is_external_abort } else { is_right };
            findings.push(judge_fault(id, what, address, Owner::Bouncer, result, is_right));
        }
    }
    let none = [2, 0x10, 0x21, u64::MAX].map(|style| BOUNCER.abort_style(style));
    let refused = none.iter().all(|result| *result == Err(Refusal::Error(Error::InvalidParameter)));
    let outcome = if refused { GOOD } else { "wrong-error" };
    let detail = format!("{none:?}");
    let what = "choose a style that does not exist".into();
    findings.push(Finding { id: "C21.style", what, outcome, detail });
    findings
}

fn apply(row: usize, pfn: u64, owner: Owner, place: &str) -> Vec<Finding> {
    let address = (pfn << 12) + 0x40;
    let mut findings = Vec::new();
    for tool in TOOLS.iter().filter(|tool| is_real(tool)) {
        drain_events();
        let before = BOUNCER.frame_state(pfn);
        let result = (tool.apply)(address);
        let Some(id) = tool.id.get(row) else { continue };
        let what = format!("{} {place}", tool.name);
        let mut finding = judge_access(id, what, address, owner, result);
        if BOUNCER.frame_state(pfn) != before && finding.outcome == GOOD {
            finding.outcome = "state-changed";
        }
        findings.push(finding);
    }
    findings
}

/// C1, C2: names of instructions that this CPU does not check, which were
/// therefore not tried.
pub(in crate::payload) fn not_tried() -> Vec<&'static str> {
    TOOLS.iter().filter(|tool| !is_real(tool)).map(|tool| tool.name).collect()
}

/// C1: ask the MMU instead. AT S1E1R answers from the host's own stage 1
/// alone, whoever owns the frame; AT S12E1R, which would tell of stage 2, must
/// be undefined at EL1.
pub(in crate::payload) fn translate(pfn: u64) -> Finding {
    let address = pfn << 12;
    let (outcome, detail) = match attempt::try_at_s12e1r(address) {
        Ok(_) => ("succeeded", format!("PAR {:#x}", attempt::par())),
        Err(fault) if !fault.is_undefined() => {
            ("wrong-fault", format!("AT S12E1R: ESR {:#x}", fault.esr))
        }
        Err(_) => match attempt::try_at_s1e1r(address) {
            Ok(_) if attempt::par() & 0xff_ffff_f001 == address => (
                GOOD,
                format!("AT S12E1R is undefined; AT S1E1R gives the host's own {address:#x}"),
            ),
            Ok(_) => ("odd-answer", format!("PAR {:#x} for {address:#x}", attempt::par())),
            Err(fault) => {
                (GOOD, format!("AT S12E1R undefined, AT S1E1R refused: ESR {:#x}", fault.esr))
            }
        },
    };
    Finding { id: "C1.at", what: "translate a guest's frame".into(), outcome, detail }
}
