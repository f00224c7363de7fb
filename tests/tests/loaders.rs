//! Loaders that do not make it easy: the whole story must hold all the same.

use anyhow::{Result, ensure};
use tests::{file, one_at_a_time, ready};
use xtask::bad_entry::{Interrupts, image};
use xtask::story::{Config, tell};

/// Enters bouncer through a program that leaves a bad state behind.
fn entered_badly(test: &str, cpu: &str, interrupts: Interrupts) -> Result<()> {
    let (workspace, images) = ready()?;
    let mut config = Config::new(test);
    config.machine.cpu = cpu.into();
    config.entered_first = Some(file(test, "bad-entry.img", &image(interrupts))?);
    let run = {
        let _turn = one_at_a_time();
        tell(&workspace, &images, &config, &mut |_| {})?
    };
    let failures = run.report.failures.join("\n");
    ensure!(run.report.passed(), "{failures}\nconsole in {}", run.folder.display());
    Ok(())
}

#[test]
fn b3_every_register_is_bad_at_entry_and_an_interrupt_is_pending() -> Result<()> {
    entered_badly("b3-pending", "cortex-a72", Interrupts::Pending)
}

#[test]
fn b3_every_register_is_bad_at_entry_and_no_interrupt_is_masked() -> Result<()> {
    entered_badly("b3-unmasked", "max", Interrupts::Unmasked)
}
