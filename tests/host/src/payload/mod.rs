//! The host on the machine.
//!
//! `machine` reads the device tree and brings up the CPUs, `vm` builds and
//! takes down guests, `run` schedules them, `device` serves their disks,
//! `linux` boots a distribution's kernel as one, `terminal` types to it,
//! `story` says what happens in which order, `attacks` tries to break in.

mod attacks;
mod backend;
mod bench;
mod calls;
mod clock;
mod cpus;
mod device;
mod edu;
mod fuzz;
mod lies;
mod linux;
mod machine;
mod report;
mod run;
mod story;
mod terminal;
mod vm;
mod window;

use rt::{console, cpu, gic, irq, println, psci};

/// First Rust on the boot CPU. `dtb` is what bouncer (or, without it, the
/// firmware) left in x0.
pub(crate) fn main(dtb: usize) -> ! {
    let machine = match machine::Machine::from_tree(dtb) {
        Ok(machine) => machine,
        Err(message) => {
            console::init(hyp::layout::UART as usize);
            println!("host: {message}");
            println!("@host result=fail reason=\"{message}\"");
            // The tree could not be asked; bouncer answers SMC.
            psci::set_conduit(psci::Conduit::Smc);
            psci::shutdown()
        }
    };
    console::init(machine.uart);
    machine::give_heap(&machine);
    psci::set_conduit(machine.conduit);
    gic::init(machine.gicd, machine.redistributors.into_iter());
    irq::set_handler(cpus::on_interrupt);
    cpus::prepare();
    let started = cpus::start_all(&machine);
    println!(
        "host: {started} CPUs up, {} MiB of RAM, image at {:#x}",
        machine.ram_bytes >> 20,
        cpu::image().start
    );
    let passed = match rt::dt::argument(machine.command_line, "scenario") {
        Some("fuzz") => fuzz::run(&machine),
        Some("linux") => linux::run(machine),
        _ => story::tell(machine),
    };
    println!("@host result={}", if passed { "pass" } else { "fail" });
    psci::shutdown()
}
