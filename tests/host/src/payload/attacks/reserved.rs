//! C15: memory that firmware keeps for itself.
//!
//! The host's tree does not say where it is; it is somewhere in the holes of
//! the host's RAM. So the host looks at every frame of them, and the event log
//! tells whose each one is.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use hyp::abi;
use hyp::error::Error;
use hyp::stats::MachineCounter;
use rt::{attempt, psci};

use super::{Finding, Owner, drain_events, judge_frame_call, memory};
use crate::payload::calls::BOUNCER;
use crate::payload::machine::Machine;
use crate::payload::report::GOOD;

/// PSCI CPU_ON and INVALID_ADDRESS (DEN0022F.b 5.1.4 and 5.2.2).
const CPU_ON: u32 = 0xc400_0003;
const INVALID_ADDRESS: i64 = -9;

/// Frames of firmware's in the holes of the host's RAM.
pub(in crate::payload) fn frames(machine: &Machine) -> Vec<u64> {
    let mut banks: Vec<_> = machine.ram.iter().collect();
    banks.sort_by_key(|bank| bank.start);
    let holes = banks.windows(2).flat_map(|pair| match pair {
        [low, high] => low.end as u64 >> 12..high.start as u64 >> 12,
        _ => 0..0,
    });
    holes.filter(|pfn| is_firmwares(*pfn)).collect()
}

fn is_firmwares(pfn: u64) -> bool {
    drain_events();
    let refused = attempt::try_read_u64(pfn << 12).is_err();
    refused && drain_events().iter().any(|event| Owner::Firmware.is(event.owner))
}

/// Everything the host can do to them. Nothing if there are none.
pub(in crate::payload) fn all(frames: &[u64]) -> Vec<Finding> {
    let (Some(&first), Some(&last)) = (frames.first(), frames.last()) else {
        return Vec::new();
    };
    let mut findings = Vec::from([survey(frames)]);
    for pfn in [first, last] {
        let place = format!("memory that firmware keeps at {:#x}", pfn << 12);
        findings.extend(memory::reach(pfn, Owner::Firmware, &place));
    }
    findings.push(judge_frame_call(
        "C15.create",
        "make firmware's memory a guest's page tables".into(),
        &[Error::Denied],
        first,
        || BOUNCER.vm_create(first, abi::MIN_MEMCACHE, 512, 1, 0).map(|vm| vm.0),
    ));
    findings.push(start(first));
    findings
}

/// No frame of firmware's lies outside the holes, where the host could use it.
fn survey(frames: &[u64]) -> Finding {
    let index = MachineCounter::FramesFirmware as u64;
    let (found, kept) = (frames.len() as u64, BOUNCER.stats(None, index));
    Finding {
        id: "C15.survey",
        what: "find a frame of firmware's that the host may use".into(),
        outcome: if kept == Ok(found) { GOOD } else { "miscounted" },
        detail: format!("{found} frames abort, of {kept:?}"),
    }
}

fn start(pfn: u64) -> Finding {
    let code = psci::call(CPU_ON, rt::cpu::mpidr(), pfn << 12, 0);
    Finding {
        id: "C15.start",
        what: String::from("start a CPU in memory that firmware keeps"),
        outcome: if code == INVALID_ADDRESS { GOOD } else { "wrong-error" },
        detail: format!("PSCI code {code}"),
    }
}
