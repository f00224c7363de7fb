//! The host's view of the physical redistributors' RD_base frames.
//!
//! The host owns the GIC, but a redistributor can be told to read and write
//! memory on its own: the LPI configuration and pending tables. Those
//! registers are withheld (LPIs do not exist for the host); the others are
//! passed through one by one (IHI0069 12.11).

use crate::addr::PfnRange;
use crate::event::EventKind;
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::stats::MachineCounter;
use crate::syndrome::{Abort, FaultStatus, Transfer};
use crate::trap::Trap;
use crate::vcpu::state::Frame;

/// Offsets in RD_base.
mod offset {
    pub(super) const CTLR: u64 = 0x0000;
    pub(super) const IIDR: u64 = 0x0004;
    pub(super) const TYPER: u64 = 0x0008;
    pub(super) const TYPER_HIGH: u64 = 0x000c;
    pub(super) const STATUSR: u64 = 0x0010;
    pub(super) const WAKER: u64 = 0x0014;
    pub(super) const ID_FIRST: u64 = 0xffd0;
    pub(super) const ID_LAST: u64 = 0xfffc;
}

/// GICR_TYPER.Last: no redistributor follows in the region.
const TYPER_LAST: u64 = 1 << 4;
/// Frames of 4 KiB from one redistributor to the next of its region: without
/// VLPIS, RD_base and SGI_base (IHI0069 12.10).
const PITCH: u64 = 2 * 16;
/// GICR_TYPER.PLPIS, VLPIS and DirectLPI: what would need memory tables.
const TYPER_LPIS: u64 = 0b1011;
/// GICR_CTLR bits the host may set: DPG1S, DPG1NS, DPG0. Not EnableLPIs.
const CTLR_WRITABLE: u64 = 0b111 << 24;
/// GICR_CTLR bits that read through: the above, RWP and UWP.
const CTLR_READABLE: u64 = CTLR_WRITABLE | 1 << 3 | 1 << 31;

/// Handles the abort if it hit an RD_base frame; says whether it did.
pub(super) fn handle<M: Machine>(
    hyp: &Hypervisor<M>,
    frame: &mut Frame,
    fault: &Abort,
    trap: &Trap,
) -> bool {
    let (FaultStatus::Translation, Some(gfn)) = (fault.status, fault.gfn()) else { return false };
    let pfn = gfn.identity();
    let mut frames = hyp.platform.redistributors.iter().flatten();
    let Some(range) = frames.find(|range| range.contains(pfn)) else { return false };
    let (Some(transfer), false) = (fault.transfer, fault.table_walk) else { return false };
    hyp.stats.count(MachineCounter::HostRedistributor);
    let offset = fault.ipa - range.start().base();
    // Nothing answers a misaligned access. EL2 must not repeat it either: its
    // own access to device memory would be an alignment fault in EL2.
    if !offset.is_multiple_of(u64::from(transfer.size)) {
        return false;
    }
    if fault.write {
        let value = transfer.stored(frame.get(transfer.register));
        if !write(&hyp.machine, fault.ipa, offset, transfer, value) {
            hyp.record(EventKind::HostRedistributor, 0, trap, fault.ipa, frame.pc);
        }
    } else {
        let value = match (offset, transfer.size) {
            (offset::TYPER, 4 | 8) => typer(hyp, *range, fault.ipa, transfer.size),
            _ => read(&hyp.machine, fault.ipa, offset, transfer),
        };
        frame.set(transfer.register, transfer.loaded(value));
    }
    frame.advance();
    true
}

/// GICR_TYPER with Last as it is for the host, to which a redistributor of
/// another CPU than bouncer drives does not answer: whoever walks a region
/// ends at the last of them, whatever the region's length (IHI0069 12.11.35).
fn typer<M: Machine>(hyp: &Hypervisor<M>, frame: PfnRange, address: u64, size: u8) -> u64 {
    let next = frame.start().number() + PITCH;
    let mut all = hyp.platform.redistributors.iter().flatten();
    let follows = all.any(|other| other.start().number() == next);
    let real = hyp.machine.device_read(address, size) & !(TYPER_LPIS | TYPER_LAST);
    real | if follows { 0 } else { TYPER_LAST }
}

fn read(machine: &impl Machine, address: u64, offset: u64, transfer: Transfer) -> u64 {
    match (offset, transfer.size) {
        (offset::CTLR, 4) => machine.device_read(address, 4) & CTLR_READABLE,
        (offset::IIDR | offset::TYPER_HIGH | offset::STATUSR | offset::WAKER, 4)
        | (offset::ID_FIRST..=offset::ID_LAST, 4) => machine.device_read(address, 4),
        _ => 0,
    }
}

/// Passes the write on if it is harmless; false if it was withheld.
fn write(
    machine: &impl Machine,
    address: u64,
    offset: u64,
    transfer: Transfer,
    value: u64,
) -> bool {
    match (offset, transfer.size) {
        (offset::CTLR, 4) => {
            machine.device_write(address, 4, value & CTLR_WRITABLE);
            value & 1 == 0
        }
        (offset::WAKER | offset::STATUSR, 4) => {
            machine.device_write(address, 4, value);
            true
        }
        _ => false,
    }
}
