//! What the host's traps mean.
//!
//! The host is not trusted: everything here is a question that is answered
//! with a result, an error code or an exception, never with a stop.

pub(crate) mod abort;
mod device_calls;
mod hypercall;
pub(crate) mod power;
mod redistributor;
mod vm_calls;

use crate::event::EventKind;
use crate::exception::inject_undefined;
use crate::hypervisor::Hypervisor;
use crate::machine::{IdRegister, Machine};
use crate::stats::MachineCounter;
use crate::syndrome::{Exception, SystemRegister, SystemRegisterAccess, decode};
use crate::trap::{Trap, TrapKind};
use crate::vcpu::id_registers::{World, sanitised};
use crate::vcpu::state::Frame;

/// ACTLR_EL1: implementation defined. Kernels may read it or clear it, so it is
/// there and does nothing.
const ACTLR: SystemRegister = SystemRegister::new(3, 0, 1, 0, 1);

/// Handles one trap of the host.
pub(crate) fn handle<M: Machine>(hyp: &Hypervisor<M>, frame: &mut Frame, trap: Trap) {
    // Interrupts and SErrors go to the host's EL1 without EL2 (HCR_EL2.IMO,
    // FMO and AMO are clear while it runs); one that arrived in EL2 will be
    // taken there as soon as it resumes.
    if trap.kind != TrapKind::Sync {
        return;
    }
    match decode(&trap) {
        Exception::Hvc(immediate) => hypercall::handle(hyp, frame, immediate),
        Exception::Smc(immediate) => power::handle_smc(hyp, frame, immediate, &trap),
        Exception::Abort(fault) => abort::handle(hyp, frame, &fault, &trap),
        Exception::SystemRegister(access) => system_register(hyp, frame, access, &trap),
        // WFI and WFE do not trap for the host.
        Exception::Wait { .. } => frame.advance(),
        Exception::Undefined => undefined(hyp, frame, &trap, 0),
    }
}

/// Identification registers read as `id_registers` says and ACTLR_EL1 as zero;
/// what else traps is withheld.
fn system_register<M: Machine>(
    hyp: &Hypervisor<M>,
    frame: &mut Frame,
    access: SystemRegisterAccess,
    trap: &Trap,
) {
    let register = access.register;
    let identification = register.op0 == 3
        && register.op1 == 0
        && register.crn == 0
        && (1..=7).contains(&register.crm)
        && access.read;
    if register == ACTLR {
        if access.read {
            frame.set(access.rt, 0);
        }
        return frame.advance();
    }
    if !identification {
        return undefined(hyp, frame, trap, trap.esr & 0x1ff_ffff);
    }
    hyp.stats.count(MachineCounter::HostSystemRegisters);
    let id = IdRegister { crm: register.crm, op2: register.op2 };
    frame.set(access.rt, sanitised(World::Host, id, hyp.machine.id_register(id)));
    frame.advance();
}

fn undefined<M: Machine>(hyp: &Hypervisor<M>, frame: &mut Frame, trap: &Trap, what: u64) {
    hyp.record(EventKind::HostUndefined, 0, trap, what, frame.pc);
    inject_undefined(&hyp.machine, frame);
}
