//! C13: what the host's own stage 1 and cache instructions could do to a
//! guest's frame: another memory type, maintenance by set and way, allocation
//! tags. Stage 2 decides about the frame whatever stage 1 says of it.

#![allow(unsafe_code)]

use alloc::format;
use alloc::vec::Vec;
use core::arch::asm;

use rt::attempt::Fault;
use rt::mmu::{self, Memory};
use rt::{attempt, try_mrs, try_msr};

use super::{Finding, Owner, drain_events, judge_access};
use crate::payload::report::GOOD;

/// Where a frame is mapped a second time: beyond everything that is mapped.
const VIEW: u64 = 0x7f_0000_0000;
/// The cache levels that CLIDR_EL1 tells of.
const LEVELS: u64 = 7;
/// Most sets and ways of a level that are gone through: more than caches have.
const MOST: u64 = 1 << 16;

/// An instruction's name, and what executes it at an address.
type Tool = (&'static str, fn(u64) -> Result<u64, Fault>);

/// All of them, aimed at a guest's private frame. Whether the data is
/// unchanged the guest says afterwards.
pub(in crate::payload) fn all(pfn: u64) -> Vec<Finding> {
    let mut findings = other_types(pfn);
    findings.extend(tags(pfn));
    findings.push(set_and_way());
    findings
}

/// The frame as Device and as Normal non-cacheable memory (Arm ARM B2.16,
/// mismatched attributes). Expected: aborts, as with any other type.
fn other_types(pfn: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    let types = [
        ("C13.device", Memory::Device, "Device"),
        ("C13.uncached", Memory::NonCacheable, "non-cacheable"),
    ];
    for (id, memory, name) in types {
        if mmu::map(VIEW, pfn << 12, 4096, memory).is_err() {
            let what = format!("map a guest's frame as {name} memory");
            findings.push(Finding { id, what, outcome: "not-tried", detail: "no table".into() });
            continue;
        }
        let at = VIEW + 0x40;
        let write = |at| {
            // SAFETY: a view of a frame that is not the host's, where no Rust
            // object can be.
            unsafe { attempt::try_write_u64(at, 0) }.map(|()| 0)
        };
        let mut look = |what: &str, access: &dyn Fn(u64) -> Result<u64, Fault>| {
            drain_events();
            let what = format!("{what} a guest's frame as {name} memory");
            findings.push(judge_access(id, what, (pfn << 12) + 0x40, Owner::Guest, access(at)));
        };
        look("read", &attempt::try_read_u64);
        look("write", &write);
        // Mapped above, so it can be taken away.
        let _ = mmu::unmap(VIEW, 4096);
    }
    findings
}

/// Allocation tags (FEAT_MTE2): instructions that load and store them, or
/// zero memory with them. Expected: undefined where the CPU has none, aborts
/// where it has.
fn tags(pfn: u64) -> Vec<Finding> {
    let address = (pfn << 12) + 0x40;
    // SAFETY: the frame is not the host's, so no Rust object is there.
    let tools: [Tool; 4] = unsafe {
        [
            ("LDG", |at| attempt!(".arch_extension memtag\nldg x0, [x4]", at, 0u64)),
            ("STG", |at| attempt!(".arch_extension memtag\nstg x4, [x4]", at, 0u64)),
            ("STZG", |at| attempt!(".arch_extension memtag\nstzg x4, [x4]", at, 0u64)),
            ("DC GZVA", |at| attempt!(".arch_extension memtag\ndc gzva, x4", at, 0u64)),
        ]
    };
    let judge = |(name, tool): Tool| {
        drain_events();
        let what = format!("{name} on a guest's frame");
        match tool(address) {
            Err(fault) if fault.is_undefined() => {
                let detail = "undefined on this CPU".into();
                Finding { id: "C13.tags", what, outcome: GOOD, detail }
            }
            result => judge_access("C13.tags", what, address, Owner::Guest, result),
        }
    };
    tools.into_iter().map(judge).collect()
}

/// Every line of every cache by set and way: DC ISW, which drops what was
/// written, and DC CSW and DC CISW, which write it back. Expected: nothing is
/// lost. HCR_EL2.SWIO makes an invalidation one with a clean (Arm ARM
/// D19.2.48), and lines of a guest's that are written back are in its frames.
fn set_and_way() -> Finding {
    let (id, what) = ("C13.set-way", "maintain every cache by set and way".into());
    let mut lines = 0;
    let levels = try_mrs!("clidr_el1").unwrap_or(0);
    for level in (0..LEVELS).filter(|level| levels >> (3 * level) & 7 >= 2) {
        let Some((sets, ways)) = shape(level) else { continue };
        // Ways are numbered from the top of the word, sets from the line's
        // length on, which CCSIDR_EL1 gives with the shape.
        let way_bits = 64 - (ways - 1).leading_zeros();
        let way_shift = 32 - way_bits.min(31);
        let line_shift = try_mrs!("ccsidr_el1").map_or(6, |shape| (shape & 7) + 4);
        for (set, way) in (0..sets).flat_map(|set| (0..ways).map(move |way| (set, way))) {
            let operand = way << way_shift | set << line_shift | level << 1;
            // SAFETY: maintenance changes no value that a program can see as
            // long as an invalidation also cleans, which is what is tried on
            // the guest's behalf and holds for the host's own memory, too.
            unsafe {
                asm!("dc isw, {0}", "dc csw, {0}", "dc cisw, {0}", in(reg) operand, options(nostack));
            }
            lines += 1;
        }
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack)) };
    let detail = format!("{lines} lines; invalidated is cleaned, too");
    Finding { id, what, outcome: GOOD, detail }
}

/// Sets and ways of a data cache, by CCSIDR_EL1 in the format that the CPU has
/// (FEAT_CCIDX).
fn shape(level: u64) -> Option<(u64, u64)> {
    // SAFETY: selects what the next register tells of.
    unsafe { try_msr!("csselr_el1", level << 1) }.ok()?;
    // SAFETY: a barrier.
    unsafe { asm!("isb", options(nostack)) };
    let shape = try_mrs!("ccsidr_el1").ok()?;
    let long = try_mrs!("S3_0_C0_C7_2").is_ok_and(|features| features >> 20 & 15 != 0);
    let (sets, ways) = if long {
        (shape >> 32 & 0xff_ffff, shape >> 3 & 0x1f_ffff)
    } else {
        (shape >> 13 & 0x7fff, shape >> 3 & 0x3ff)
    };
    let (sets, ways) = (sets + 1, ways + 1);
    (sets <= MOST && ways <= MOST).then_some((sets, ways))
}
