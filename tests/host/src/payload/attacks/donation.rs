//! C6: frames that must not be given to a guest, and ranges that are none.

use alloc::format;
use alloc::vec::Vec;

use hyp::abi;
use hyp::addr::FRAME_LIMIT;
use hyp::error::Error;
use hyp::layout;

use super::{Finding, judge_frame_call};
use crate::payload::calls::BOUNCER;
use crate::payload::vm::Vm;

const REFUSED: &[Error] = &[Error::Denied];
const MALFORMED: &[Error] = &[Error::InvalidParameter];

/// What the attempts are aimed at.
pub(in crate::payload) struct Targets<'a> {
    /// A guest that is still being built.
    pub(in crate::payload) building: &'a Vm,
    /// A frame of another guest's.
    pub(in crate::payload) foreign: u64,
    /// A frame of bouncer's.
    pub(in crate::payload) bouncer: u64,
    /// A frame that firmware keeps, if it keeps any.
    pub(in crate::payload) firmware: Option<u64>,
    /// A frame the host lent to be a bounce BAR.
    pub(in crate::payload) lent: u64,
    /// A free frame of the host's.
    pub(in crate::payload) own: u64,
}

/// A donation that must fail: id, words for it, pfn, gfn, count, flags, and
/// the errors it may fail with.
type Case<'a> = (&'static str, &'a str, u64, u64, u64, u64, &'a [Error]);

/// C6: each attempt is refused with the right error, and the frame it named is
/// to the host what it was.
pub(in crate::payload) fn donations(targets: &Targets<'_>) -> Vec<Finding> {
    let vm = targets.building.handle;
    let spare = (layout::RAM >> 12) + targets.building.ram.count - 1;
    let uart = layout::UART >> 12;
    let cases: [Case<'_>; 12] = [
        ("C6.foreign", "a frame of another guest", targets.foreign, spare, 1, 0, REFUSED),
        ("C6.twice", "a frame this guest has", targets.building.ram.pfn, spare, 1, 0, REFUSED),
        ("C6.el2", "a frame of bouncer's", targets.bouncer, spare, 1, 0, REFUSED),
        ("C6.lent", "a frame lent as bounce memory", targets.lent, spare, 1, 0, REFUSED),
        ("C6.mmio", "the console's registers", uart, spare, 1, 0, REFUSED),
        ("C6.no-ram", "a frame where no RAM is", FRAME_LIMIT - 1, spare, 1, 0, REFUSED),
        (
            "C6.occupied",
            "to a guest page that has one",
            targets.own,
            layout::RAM >> 12,
            1,
            0,
            &[Error::Denied, Error::Busy],
        ),
        (
            "C6.outside",
            "outside the guest's RAM",
            targets.own,
            layout::UART >> 12,
            1,
            0,
            &[Error::Denied, Error::InvalidParameter],
        ),
        ("C6.empty", "no frame at all", targets.own, spare, 0, 0, MALFORMED),
        ("C6.wrapping", "a range that wraps", targets.own, spare, u64::MAX, 0, MALFORMED),
        ("C6.beyond", "a frame number of 64 bits", u64::MAX, spare, 1, 0, MALFORMED),
        ("C6.flags", "with unknown flags", targets.own, spare, 1, 1 << 40, MALFORMED),
    ];
    cases
        .into_iter()
        .map(|(id, what, pfn, gfn, count, flags, expected)| {
            let what = format!("donate {what}");
            judge_frame_call(id, what, expected, pfn, || {
                let result = BOUNCER.frame_donate_raw(vm, pfn, gfn, count, flags);
                result.map(|done| format!("{done} frames"))
            })
        })
        .chain(partly(targets))
        .chain(firmwares(targets))
        .collect()
}

/// C15: what firmware keeps becomes no guest's RAM, bounce memory or table.
fn firmwares(targets: &Targets<'_>) -> Vec<Finding> {
    let Some(pfn) = targets.firmware else { return Vec::new() };
    let vm = targets.building.handle;
    let spare = (layout::RAM >> 12) + targets.building.ram.count - 1;
    let mut findings = Vec::new();
    for (id, what, flags) in [
        ("C15.donate", "donate a frame that firmware keeps", 0),
        ("C15.measured", "have a frame measured that firmware keeps", abi::DONATE_MEASURED),
    ] {
        findings.push(judge_frame_call(id, what.into(), REFUSED, pfn, || {
            BOUNCER.frame_donate_raw(vm, pfn, spare, 1, flags)
        }));
    }
    let what = "make a frame that firmware keeps a page table".into();
    findings
        .push(judge_frame_call("C15.topup", what, REFUSED, pfn, || BOUNCER.vm_topup(vm, pfn, 1)));
    findings
}

/// C6, K4: only the last frame of the range is another guest's. Expected:
/// nothing of the range moves.
fn partly(targets: &Targets<'_>) -> Option<Finding> {
    // The frame before a guest's RAM, which the host has.
    let first = targets.foreign.checked_sub(1)?;
    if BOUNCER.frame_state(first) != Ok(0) {
        return None;
    }
    let gfn = (layout::RAM >> 12) + targets.building.ram.count - 2;
    let vm = targets.building.handle;
    let what = "donate two frames, the second another guest's".into();
    Some(judge_frame_call("C6.partly", what, REFUSED, first, || {
        BOUNCER.frame_donate_raw(vm, first, gfn, 2, 0)
    }))
}

/// C6: frames of a guest's are no page-table memory, no bounce memory, and
/// cannot be reclaimed while it lives.
pub(in crate::payload) fn other_uses(targets: &Targets<'_>) -> Vec<Finding> {
    let vm = targets.building.handle;
    let foreign = targets.foreign;
    Vec::from([
        judge_frame_call(
            "C6.memcache",
            "make a guest's frame a page table of another".into(),
            REFUSED,
            foreign,
            || BOUNCER.vm_topup(vm, foreign, 1),
        ),
        judge_frame_call(
            "C6.create",
            "make bouncer's frames a new guest's page tables".into(),
            REFUSED,
            targets.bouncer,
            || BOUNCER.vm_create(targets.bouncer, abi::MIN_MEMCACHE, 512, 1, 0).map(|vm| vm.0),
        ),
        judge_frame_call(
            "C6.reclaim",
            "reclaim a frame of a guest that lives".into(),
            &[Error::BadState, Error::Denied],
            targets.building.ram.pfn,
            || BOUNCER.frame_reclaim(vm, targets.building.ram.pfn, 1),
        ),
    ])
}
