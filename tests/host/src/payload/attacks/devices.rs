//! M1 to M8: devices that would do the host's DMA, and other back doors of
//! the board. None of them may answer.

#![allow(unsafe_code)]

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use hyp::event::EventKind;
use rt::attempt;
use rt::cpu;

use super::{Finding, Owner, drain_events, judge_access};
use crate::payload::report::GOOD;

/// A register block of QEMU virt, and why the host must not have it.
struct Door {
    id: &'static str,
    address: u64,
    what: &'static str,
}

const DOORS: [Door; 14] = [
    Door { id: "M1.fw-cfg", address: 0x0902_0010, what: "fw_cfg's DMA register" },
    Door { id: "M1.fw-cfg-data", address: 0x0902_0000, what: "fw_cfg's data register" },
    Door { id: "M2.first", address: 0x0a00_0000, what: "the first virtio-mmio transport" },
    Door { id: "M2.last", address: 0x0a00_3e00, what: "the last virtio-mmio transport" },
    Door { id: "M3.ecam", address: 0x40_1000_0000, what: "PCIe configuration space" },
    Door { id: "M3.ecam-low", address: 0x3f00_0000, what: "PCIe configuration space below 1 GiB" },
    Door { id: "M4.smmu", address: 0x0905_0000, what: "the SMMU's registers" },
    Door { id: "M5.its", address: 0x0808_0000, what: "the interrupt translation service" },
    Door { id: "M5.its-doorbell", address: 0x0809_0040, what: "the ITS doorbell" },
    Door { id: "M7.flash", address: 0x0000_0000, what: "the flash with the firmware" },
    Door { id: "M7.hole", address: 0x0901_1000, what: "the page behind the real-time clock" },
    Door { id: "M7.gpio", address: 0x0903_0000, what: "the GPIO block that powers the board off" },
    Door { id: "M8.bar-window", address: 0x1000_0000, what: "the PCIe memory window" },
    Door { id: "M8.io-window", address: 0x3eff_0000, what: "the PCIe port window" },
];

/// Makes addresses above 64 GiB reachable by the host's own stage 1.
fn map(address: u64) {
    if address >= 8 << 30 {
        // An earlier attempt mapped it: then it is there already.
        let _ = rt::mmu::map_identity(address & !0xfff, 0x1000, rt::mmu::Memory::Device);
    }
}

/// What is the host's on a machine with an SMMU.
const PCIE: [&str; 3] = ["M3.ecam-low", "M8.bar-window", "M8.io-window"];

/// M1 to M5, M7, M8: read and write a register of each. Expected: an external
/// abort each time; the block is nobody's as far as the host can see.
pub(in crate::payload) fn doors(has_pcie: bool, wanted: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let shut = |door: &&Door| !(has_pcie && PCIE.contains(&door.id));
    for door in DOORS.iter().filter(shut).filter(|door| wanted(row(door.id))) {
        map(door.address);
        drain_events();
        let result = attempt::try_read_u32(door.address);
        findings.push(judge_access(
            door.id,
            format!("read {}", door.what),
            door.address,
            Owner::Nobody,
            result,
        ));
        // SAFETY: a device register, not memory of this program.
        let result = unsafe { attempt::try_write_u32(door.address, 0) }.map(|()| 0);
        findings.push(judge_access(
            door.id,
            format!("write {}", door.what),
            door.address,
            Owner::Nobody,
            result,
        ));
    }
    findings
}

fn row(id: &str) -> &str {
    id.split('.').next().unwrap_or(id)
}

/// Redistributor registers, from the RD frame's start.
const GICR_CTLR: u64 = 0x0000;
const GICR_PROPBASER: u64 = 0x0070;
const GICR_PENDBASER: u64 = 0x0078;
const ENABLE_LPIS: u64 = 1;

/// M5: aim the LPI tables at `target`, a frame that is not the host's, and
/// switch LPIs on: the GIC would write there. Expected: nothing is stored,
/// LPIs stay off, and each write is an event.
pub(in crate::payload) fn lpi_tables(gicr: usize, target: u64) -> Vec<Finding> {
    let gicr = gicr as u64;
    let cases: [(&'static str, &str, u64, u64, bool); 3] = [
        (
            "M5.propbaser",
            "aim the LPI configuration table at it",
            GICR_PROPBASER,
            target | 13,
            true,
        ),
        ("M5.pendbaser", "aim the LPI pending table at it", GICR_PENDBASER, target, true),
        ("M5.enable-lpis", "switch LPIs on", GICR_CTLR, ENABLE_LPIS, false),
    ];
    cases
        .into_iter()
        .map(|(id, what, register, value, wide)| {
            drain_events();
            let outcome = write_and_read_back(gicr + register, value, wide);
            let (outcome, detail) = match outcome {
                Err(detail) => ("wrong-fault", detail),
                Ok(stored) if stored & value != 0 => ("stored", format!("reads back {stored:#x}")),
                Ok(stored) => judge_redistributor_event(stored),
            };
            Finding { id, what: what.into(), outcome, detail }
        })
        .collect()
}

fn write_and_read_back(register: u64, value: u64, wide: bool) -> Result<u64, String> {
    // SAFETY: redistributor registers, not memory of this program.
    let written = unsafe {
        if wide {
            attempt::try_write_u64(register, value)
        } else {
            attempt::try_write_u32(register, value)
        }
    };
    let stored =
        if wide { attempt::try_read_u64(register) } else { attempt::try_read_u32(register) };
    written.and(stored).map_err(|fault| format!("ESR {:#x} at {:#x}", fault.esr, fault.elr))
}

fn judge_redistributor_event(stored: u64) -> (&'static str, String) {
    let me = cpu::index();
    let events = drain_events();
    let told = events.iter().any(|event| {
        event.kind == EventKind::HostRedistributor as u8 && usize::from(event.cpu) == me
    });
    if told {
        (GOOD, format!("reads back {stored:#x}; event names cpu {me}"))
    } else {
        ("unlogged", format!("reads back {stored:#x}, but no event"))
    }
}
