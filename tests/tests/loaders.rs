//! Loaders that do not make it easy: the whole story must hold all the same.

use anyhow::{Result, ensure};
use tests::{file, one_at_a_time, ready};
use xtask::bad_entry::{Interrupts, image};
use xtask::story::{Config, Loader, Run, tell};
use xtask::test::environment;

/// The story on this machine must hold.
fn holds(config: &Config) -> Result<Run> {
    let (workspace, images) = ready()?;
    let run = {
        let _turn = one_at_a_time();
        tell(&workspace, &images, config, &mut |_| {})?
    };
    let (failures, tail) = (run.report.failures.join("\n"), run.transcript.tail(20).join("\n"));
    let folder = run.folder.display();
    ensure!(run.report.passed(), "{failures}\nthe end of the console in {folder}:\n{tail}");
    Ok(run)
}

/// A machine with the CPU that is asked for, or else this one.
fn machine(test: &str, cpu: &str) -> Config {
    let mut config = Config::new(test);
    config.machine.cpu = std::env::var(environment::CPU).unwrap_or_else(|_| cpu.into());
    config
}

/// Enters bouncer through a program that leaves a bad state behind.
fn entered_badly(test: &str, cpu: &str, interrupts: Interrupts) -> Result<Run> {
    let mut config = machine(test, cpu);
    config.entered_first = Some(file(test, "bad-entry.img", &image(interrupts))?);
    holds(&config)
}

#[test]
fn b3_every_register_is_bad_at_entry_and_an_interrupt_is_pending() -> Result<()> {
    let run = entered_badly("b3-pending", "cortex-a72", Interrupts::Pending)?;
    // M10: xtask has looked at each of them after the end.
    let told = |line: &String| line.contains("left 3 PCI functions and 1 virtio-mmio devices");
    ensure!(run.transcript.lines.iter().any(told), "bouncer did not say what it found");
    Ok(())
}

#[test]
fn b3_every_register_is_bad_at_entry_and_no_interrupt_is_masked() -> Result<()> {
    entered_badly("b3-unmasked", "max", Interrupts::Unmasked).map(|_| ())
}

/// Ten CPUs of which bouncer drives eight, redistributors of a GICv4, two
/// UARTs, and a third that is disabled because it is the secure world's. The
/// host reads every redistributor of its tree, as Linux does. Nothing of that
/// depends on how large the machine is: bouncer's upper end is at 65 GiB.
#[test]
fn b5_the_hosts_tree_has_what_answers_and_nothing_else() -> Result<()> {
    let mut config = machine("b5-crowd", "cortex-a72");
    // Ten CPUs on two, of a model whose pointer authentication is slow to
    // emulate: only a hang takes so long.
    config.timeout = Some(std::time::Duration::from_secs(1800));
    config.machine.cpus = 10;
    config.machine.gic = 4;
    config.machine.memory = 64 << 10;
    config.machine.extra = ["-machine", "secure=on", "-serial", "null"].map(String::from).into();
    let run = holds(&config)?;
    let lines = &run.transcript.lines;
    ensure!(lines.iter().any(|line| line.contains("2 more CPUs stay off")));
    ensure!(lines.iter().any(|line| line.starts_with("host: 8 CPUs up")));
    Ok(())
}

/// U-Boot: another address, the tree edited by a script, booti's ramdisk, cells
/// of 32 bits, and a disk that may still write to memory.
#[test]
fn u_boot_boots_the_whole_story() -> Result<()> {
    let mut config = machine("u-boot", "cortex-a72");
    config.loader = Loader::UBoot;
    let run = holds(&config)?;
    let said = |text: &str| run.transcript.lines.iter().any(|line| line.contains(text));
    ensure!(said("KiB image at 0x40400000"), "bouncer is not where the script has put it");
    ensure!(said("able to write to memory: switched off"), "the loader's disk is still on");
    Ok(())
}
