//! The world switch: who is on this CPU, and the way to it and back.
//!
//! Two worlds share a CPU. The *host* is what is current when nothing else
//! is: a trap of the host changes no register but the general ones. A *guest*
//! is put in its place by [`load`], runs any number of times by [`run`],
//! and is taken away by [`unload`]; between the two the host's EL1 registers
//! wait in the CPU's `HostState`.
//!
//! | file | registers |
//! |---|---|
//! | `vectors.S` | general registers, PC, PSTATE |
//! | `el1` | EL1 and EL0 system registers, virtual timer |
//! | `fp` | FP and SIMD |
//! | `gic` | virtual CPU interface |
//! | `timer` | EL2's timer, in place of the host's virtual one |
//! | `controls` | what traps |
#![allow(unsafe_code)]

pub(crate) mod controls;
mod el1;
mod fp;
mod gic;
pub(crate) mod timer;

pub(crate) use gic::{list_registers, save_interrupts};

use crate::entry::enter_world;
use crate::{features, percpu, sysreg, tlb};
use hyp::machine::Regime;
use hyp::trap::{Trap, TrapKind};
use hyp::vcpu::state::{Frame, VcpuState, VirtualCpuInterface};

/// Bits of ESR_EL2 (Arm ARM D24.2.40).
mod esr {
    pub(super) const CLASS_SHIFT: u32 = 26;
    pub(super) const INSTRUCTION_ABORT: u64 = 0x20;
    pub(super) const DATA_ABORT: u64 = 0x24;
    /// Fault on the stage-2 translation of a stage-1 table walk.
    pub(super) const S1PTW: u64 = 1 << 7;
    /// Fault status: permission fault, whatever the level.
    pub(super) const STATUS_TYPE: u64 = 0x3c;
    pub(super) const PERMISSION: u64 = 0x0c;
}

/// Runs the world that is current on this CPU until it traps.
pub(crate) fn run(frame: &mut Frame) -> Trap {
    loop {
        #[cfg(feature = "profile")]
        crate::profile::leave_el2();
        // SAFETY: stage 2, traps and EL1 registers in force are those of the
        // world `frame` belongs to: the host's, or a guest's after `load`.
        let vector = unsafe { enter_world(frame) };
        #[cfg(feature = "profile")]
        crate::profile::enter_el2();
        if let Some(trap) = read_trap(vector) {
            return trap;
        }
    }
}

/// The syndrome of the exception that was just taken; `None` if its address
/// can no longer be told and the access is simply to be repeated.
fn read_trap(vector: u64) -> Option<Trap> {
    let kind = match vector {
        0 => TrapKind::Sync,
        1 => TrapKind::Interrupt,
        _ => TrapKind::SError,
    };
    let esr = sysreg::esr_el2::read();
    let far = sysreg::far_el2::read();
    let class = esr >> esr::CLASS_SHIFT & 0x3f;
    let is_abort = class == esr::INSTRUCTION_ABORT || class == esr::DATA_ABORT;
    let permission = esr & esr::STATUS_TYPE == esr::PERMISSION && esr & esr::S1PTW == 0;
    let hpfar = if kind == TrapKind::Sync && is_abort && permission {
        // HPFAR_EL2 is UNKNOWN for a stage-2 permission fault (D24.2.67).
        resolve_intermediate_address(far)?
    } else {
        sysreg::hpfar_el2::read()
    };
    Some(Trap { kind, esr, far, hpfar })
}

/// The intermediate physical address of `far`, as HPFAR_EL2 would have it;
/// `None` if the world has changed its own translation meanwhile.
fn resolve_intermediate_address(far: u64) -> Option<u64> {
    const FAILED: u64 = 1;
    // PAR_EL1 is the world's, which may be between an AT and reading it.
    let par = sysreg::par_el1::read();
    sysreg::at_s1e1r(far);
    let translated = sysreg::par_el1::read();
    // SAFETY: the world's own value back.
    unsafe { sysreg::par_el1::write(par) }
    (translated & FAILED == 0).then_some((translated >> 12 & 0xf_ffff_ffff) << 4)
}

/// See `Machine::load_vcpu`.
pub(crate) fn load(vcpu: &mut VcpuState, regime: Regime) {
    let cpu = percpu::this();
    // SAFETY: this CPU's, and the only reference: no function that is called
    // here takes another. Every register written is the guest's own or
    // decides about the guest; EL2's stage 1 is not among them.
    unsafe {
        let host = cpu.host();
        if features::has_pmu() {
            // No event counter observes a guest (bit 0: enable).
            host.pmcr_el0 = sysreg::pmcr_el0::read();
            sysreg::pmcr_el0::write(host.pmcr_el0 & !1);
        }
        el1::save(&mut host.el1);
        fp::save(&mut host.fp);
        host.icc_sre_el1 = sysreg::icc_sre_el1::read();

        controls::apply(&vcpu.controls);
        sysreg::vttbr_el2::write(tlb::vttbr(regime));
        sysreg::isb();
        forget_other_vcpu(cpu, regime, vcpu.controls.vmpidr_el2);

        el1::restore(&vcpu.el1);
        fp::restore(&vcpu.fp);
        gic::load(&vcpu.gic);
        if crate::gic::lend_private() {
            timer::stand_in(&host.el1);
        }
    }
}

/// TLBs and instruction caches are tagged by VM, not by vCPU: when another
/// vCPU of the VM was here last, its entries (which only it may have meant to
/// be valid) must not be used by this one.
fn forget_other_vcpu(cpu: &percpu::PerCpu, regime: Regime, vmpidr: u64) {
    let last = cpu.last_vcpu.get(usize::from(regime.vmid.0));
    // VMPIDR_EL2 bit 31 is RES1, so 0 means "none yet".
    if last.is_none_or(|last| last.replace(vmpidr) != vmpidr) {
        sysreg::tlbi_vmalle1();
        sysreg::ic_iallu();
        sysreg::dsb_nsh();
        sysreg::isb();
    }
}

/// See `Machine::load_interrupts`.
pub(crate) fn load_interrupts(state: &VirtualCpuInterface) {
    gic::load_interrupts(state, timer::line());
}

/// See `Machine::unload_vcpu`.
pub(crate) fn unload(vcpu: &mut VcpuState) {
    // SAFETY: as in `load`, with the host's own values.
    unsafe {
        let host = percpu::this().host();
        gic::unload();
        timer::stand_down();
        crate::gic::return_private();
        el1::save(&mut vcpu.el1);
        fp::save(&mut vcpu.fp);
        el1::stop_timer();

        controls::apply(&host.controls);
        sysreg::vttbr_el2::write(host.vttbr_el2);
        sysreg::icc_sre_el1::write(host.icc_sre_el1);
        sysreg::isb();

        el1::restore(&host.el1);
        fp::restore(&host.fp);
        if features::has_pmu() {
            sysreg::pmcr_el0::write(host.pmcr_el0);
        }
    }
}
