//! The host reached for memory that its stage 2 does not map.
//!
//! Its own RAM is mapped from the first instruction on, so an abort means one
//! of three things: another CPU is splitting or has just restored the block
//! (look again), a redistributor register that is filtered, or a frame that
//! is not the host's: refused with a synchronous external abort, as a bus
//! would refuse it, or with the alignment fault that the host has chosen.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::abi;
use crate::error::Error;
use crate::event::EventKind;
use crate::exception::{inject_alignment_fault, inject_sync_external_abort};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::memory::HostFault;
use crate::stats::MachineCounter;
use crate::syndrome::{Abort, FaultStatus};
use crate::trap::Trap;
use crate::vcpu::state::Frame;

use super::redistributor;

pub(super) fn handle<M: Machine>(
    hyp: &Hypervisor<M>,
    frame: &mut Frame,
    fault: &Abort,
    trap: &Trap,
) {
    if redistributor::handle(hyp, frame, fault, trap) {
        return;
    }
    let owner = match verdict(hyp, fault) {
        HostFault::Retry => {
            hyp.stats.count(MachineCounter::HostRetries);
            return;
        }
        HostFault::Refused(owner) => owner,
    };
    hyp.stats.count(MachineCounter::HostAborts);
    hyp.record(EventKind::HostAbort, owner.code(), trap, fault.ipa, frame.pc);
    if hyp.abort_style.is_alignment() && is_plain(fault) {
        inject_alignment_fault(&hyp.machine, frame, fault);
    } else {
        inject_sync_external_abort(&hyp.machine, frame, fault);
    }
}

/// How the host wants its data accesses to be refused (ABORT_STYLE).
#[derive(Debug)]
pub(crate) struct AbortStyle(AtomicBool);

impl AbortStyle {
    /// As a bus would.
    pub(crate) const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    fn is_alignment(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Chooses one, and returns the one before.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] if there is none of this number.
    pub(super) fn choose(&self, style: u64) -> Result<u64, Error> {
        if style > abi::ABORTS_ALIGNMENT {
            return Err(Error::InvalidParameter);
        }
        let before = self.0.swap(style == abi::ABORTS_ALIGNMENT, Ordering::Relaxed);
        Ok(if before { abi::ABORTS_ALIGNMENT } else { abi::ABORTS_EXTERNAL })
    }
}

/// A load or store that stage 2 refused. Not a fetch, which has no such fault,
/// nor a walk of the host's own tables, nor what the bus itself has answered.
fn is_plain(fault: &Abort) -> bool {
    !fault.instruction
        && !fault.table_walk
        && matches!(fault.status, FaultStatus::Translation | FaultStatus::Permission)
}

fn verdict<M: Machine>(hyp: &Hypervisor<M>, fault: &Abort) -> HostFault {
    let nobody = HostFault::Refused(crate::memory::Owner::None);
    // Permission faults are final: a device that may only read has written
    // (hardware does not tell where). Elsewhere the host's mappings allow
    // everything. An external abort is the bus's own answer.
    match (fault.status, fault.gfn()) {
        (FaultStatus::Translation, Some(gfn)) => {
            hyp.with_memory(|memory| memory.host_fault(&hyp.machine, gfn))
        }
        _ => nobody,
    }
}
