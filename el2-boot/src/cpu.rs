//! The life of a physical CPU in bouncer: come up, become the host's, and
//! then the loop everything happens in.
#![allow(unsafe_code)]

use crate::machine::Cpus;
use crate::{entry, features, firmware, gic, panic, percpu, stop, sysreg, trace, world};
use core::sync::atomic::Ordering;
use hyp::Hypervisor;
use hyp::machine::Machine;
use hyp::trace::Event;
use hyp::vcpu::state::Frame;
use hyp::vcpu::{BOOT_PSTATE, controls};
use spin::Once;

/// bouncer, once the boot CPU has built it.
pub(crate) static HYPERVISOR: Once<Hypervisor<Cpus>> = Once::new();

/// INVALID_PARAMETERS (PSCI).
const INVALID_PARAMETERS: i64 = -2;

/// Switches CPU `index` on; it enters the host at `entry` with x0 =
/// `context`. Returns the firmware's code. The policy starts no CPU twice, so
/// nobody reads the two values while they are written.
pub(crate) fn start(index: usize, entry: u64, context: u64) -> i64 {
    let Some(cpu) = percpu::of(index) else { return INVALID_PARAMETERS };
    cpu.host_entry.store(entry, Ordering::Relaxed);
    cpu.host_context.store(context, Ordering::Release);
    sysreg::dsb_ish();
    let start = &raw const cpu.start as u64;
    firmware::cpu_on(cpu.mpidr.get(), entry::secondary_entry_address(), start)
}

/// A CPU the firmware has switched on, in Rust for the first time: MMU on,
/// own stack, own per-CPU data.
pub(crate) extern "C" fn secondary_main() -> ! {
    let cpu = percpu::this();
    let context = cpu.host_context.load(Ordering::Acquire);
    run_host(cpu.host_entry.load(Ordering::Relaxed), context)
}

/// Sets this CPU up and runs the host on it for ever.
pub(crate) fn run_host(entry: u64, context: u64) -> ! {
    let Some(hypervisor) = HYPERVISOR.get() else {
        panic::broken("a CPU runs before bouncer is built");
    };
    percpu::this().is_on.store(true, Ordering::Release);
    if stop::is_ending() {
        stop::park();
    }
    // Descriptors are encoded for the boot CPU's stage 2. One that reads them
    // in another way would have RAM that is not cacheable.
    if hypervisor.machine().forces_write_back() && !features::has_forced_write_back() {
        panic::broken("a CPU without FEAT_S2FWB beside a boot CPU that has it");
    }
    gic::initialise();
    let mpidr = sysreg::mpidr_el1::read();
    // SAFETY: this CPU has entered no world since it was switched on, and the
    // regime and the controls are the host's.
    unsafe {
        world::controls::initialise();
        let controls = controls::host(hypervisor.machine(), mpidr);
        world::controls::become_host(hypervisor.host_regime(), controls);
    }
    trace::record(Event::Attach(hypervisor.host_regime()));
    let mut frame = Frame { pc: entry, pstate: BOOT_PSTATE, ..Frame::default() };
    frame.set(0, context);
    hypervisor.host_cpu_arrives();
    loop {
        let trap = world::run(&mut frame);
        hypervisor.handle_host_trap(&mut frame, trap);
    }
}

/// A CPU's name by its MIDR, for the boot message.
pub(crate) fn model(midr: u64) -> &'static str {
    const ARM: u64 = 0x41;
    match (midr >> 24 & 0xff, midr >> 4 & 0xfff) {
        (ARM, 0xd03) => "Cortex-A53",
        (ARM, 0xd05) => "Cortex-A55",
        (ARM, 0xd07) => "Cortex-A57",
        (ARM, 0xd08) => "Cortex-A72",
        (ARM, 0xd0b) => "Cortex-A76",
        (ARM, 0xd0c) => "Neoverse-N1",
        (ARM, 0xd40) => "Neoverse-V1",
        (ARM, 0xd47) => "Cortex-A710",
        (ARM, 0xd49) => "Neoverse-N2",
        (0, 0x051) => "QEMU max",
        _ => "an unknown model",
    }
}
