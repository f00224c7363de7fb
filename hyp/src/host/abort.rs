//! The host reached for memory that its stage 2 does not map.
//!
//! Its own RAM is mapped from the first instruction on, so an abort means one
//! of three things: another CPU is splitting or has just restored the block
//! (look again), a redistributor register that is filtered, or a frame that
//! is not the host's: refused with a synchronous external abort, as a bus
//! would refuse it.

use crate::event::EventKind;
use crate::exception::inject_sync_external_abort;
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
    inject_sync_external_abort(&hyp.machine, frame, fault);
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
