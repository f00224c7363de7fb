//! The guest on its virtual machine.

#![allow(unsafe_code)]

mod bench;
mod bounce_hal;
mod checked_transport;
mod checks;
mod debug;
mod device;
mod direct_hal;
mod disk;
mod dma;
mod hostile;
mod hostile_driver;
mod interrupts;
mod iommu_hal;
mod pci;
mod pkvm;
mod raw_device;
mod realm;
mod registers;
mod secrets;
mod share_hal;
mod smp;
mod story;
mod tables;
mod timers;
mod virtio;

use rt::fdt::Fdt;
use rt::{cpu, dt, gic, heap, irq, println, psci};

rt::entry!(main);

/// Bytes of the heap; the rest of memory stays untouched, so that a host that
/// gives memory on demand gives little.
const HEAP: usize = 4 << 20;

/// What the guest was told about its machine.
struct Machine {
    tree: Fdt<'static>,
    /// First byte of RAM and the byte after it.
    ram: core::ops::Range<usize>,
    /// Pages of RAM that nothing has used yet.
    spare: core::ops::Range<usize>,
    protection: pkvm::Protection,
    arguments: &'static str,
}

impl Machine {
    /// The value of `key=` on the command line.
    fn argument(&self, key: &str) -> Option<&'static str> {
        dt::argument(self.arguments, key)
    }
}

/// Prints why the guest gives up, for people and for the test harness.
fn fail(reason: &str, advice: &str) -> ! {
    println!("guest: {reason}: {advice}");
    println!("@guest result=fail reason={}", reason.replace(' ', "-"));
    psci::shutdown()
}

fn main(dtb: usize) -> ! {
    // SAFETY: the boot protocol puts a device tree there; nothing writes it.
    let Ok(tree) = (unsafe { Fdt::from_ptr(dtb as *const u8) }) else {
        // Nobody has said where a console is.
        psci::shutdown()
    };
    let by_smc = dt::psci_method(&tree) == Some("smc");
    if by_smc {
        psci::set_conduit(psci::Conduit::Smc);
    }
    let uart = dt::device(&tree, "arm,pl011", 0).map_or(0, |(base, _)| base);
    let ram = dt::memory(&tree).map_or(0..0, |(start, size)| start..start.saturating_add(size));

    // The heap lies behind the image; the tree may lie behind that.
    let image = cpu::image();
    let end = if dtb > image.start { ram.end.min(dtb) } else { ram.end };
    let heap_end = (image.end + HEAP).min(end);
    // SAFETY: RAM behind the image, in front of the tree, used by nobody.
    unsafe { heap::add(image.end, heap_end) };
    let spare_end = end & !0xfff;
    let spare = heap_end.next_multiple_of(4096).min(spare_end)..spare_end;

    // Protection first: the console's page is the host's to serve only once it
    // has been granted. (A realm's console is from the start.)
    let protection = if by_smc { realm::start(&ram) } else { pkvm::start(uart) };
    rt::console::init(uart);
    let Some(protection) = protection else {
        fail("no protection", "neither pKVM nor RSI answers; start this guest with bouncer")
    };
    let Some((gicd, _)) = dt::device(&tree, "arm,gic-v3", 0) else {
        fail("no GICv3", "the device tree must describe one")
    };
    irq::set_handler(interrupts::handle);
    gic::init(gicd, dt::redistributors(&tree));
    gic::enable(rt::timer::INTID);
    cpu::unmask_interrupts();

    let arguments = dt::command_line(&tree);
    play(&Machine { tree, ram, spare, protection, arguments })
}

fn play(machine: &Machine) -> ! {
    let scenario = machine.argument("scenario").unwrap_or("story");
    println!(
        "guest: {} KiB of RAM at {:#x}, command line \"{}\"",
        machine.ram.len() / 1024,
        machine.ram.start,
        machine.arguments
    );
    println!(
        "@guest hello scenario={scenario} ram={:#x} bytes={:#x} ranges={} guard={}",
        machine.ram.start,
        machine.ram.len(),
        yes(machine.protection.ranges),
        yes(machine.protection.guard)
    );
    let passed = match scenario {
        "story" => story::tell(machine),
        "hostile" => hostile::attack(machine),
        "driver" => hostile_driver::play(machine),
        "secrets" => secrets::keep(machine),
        "lend" => secrets::lend(machine),
        "realm" => realm::tell(machine),
        "idle" => secrets::hold_for_ever(true),
        "spin" => secrets::hold_for_ever(false),
        "smp" => smp::start_all(machine),
        "registers" => registers::keep(machine),
        "tables" => tables::play(machine),
        "bench" => bench::measure(machine),
        "debug" => debug::play(machine),
        "dma" => dma::play(machine),
        "fault" => checks::die(machine),
        _ => fail(
            "unknown scenario",
            "use story, hostile, driver, secrets, lend, realm, registers, idle, spin, smp, tables, bench, \
             debug, dma or fault",
        ),
    };
    println!("@guest result={}", if passed { "pass" } else { "fail" });
    psci::shutdown()
}

/// How the harness reads a truth.
fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}
