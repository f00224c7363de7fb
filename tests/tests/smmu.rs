//! A machine with an SMMU: the host has PCIe functions that do DMA, and aims
//! them at what is not its own. One boot for all.

use std::sync::OnceLock;

use anyhow::{Result, ensure};
use tests::{one_at_a_time, ready};
use xtask::qemu::{Boot, End};
use xtask::story::{Config, Run, tell};

fn run() -> Result<&'static Run> {
    static RUN: OnceLock<Result<Run, String>> = OnceLock::new();
    let boot = || {
        let (workspace, images) = ready()?;
        let config = Config::of_scenario("smmu", "smmu");
        let _turn = one_at_a_time();
        tell(&workspace, &images, &config, &mut |_| {})
    };
    let run = RUN.get_or_init(|| boot().map_err(|error: anyhow::Error| format!("{error:#}")));
    run.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
}

/// Each of these attempts was made, every one of the row was refused, and the
/// host has found nothing wrong: its functions reach its own memory before,
/// between and after.
fn refused(ids: &[&str]) -> Result<()> {
    let run = run()?;
    let console = run.folder.display();
    for id in ids {
        let attempts = || run.transcript.attacks.iter().filter(|attempt| attempt.id == *id);
        ensure!(attempts().count() > 0, "{id} was never tried; console in {console}");
        if let Some(attempt) = attempts().find(|attempt| attempt.outcome != "refused") {
            let (what, outcome) = (&attempt.what, &attempt.outcome);
            anyhow::bail!("{id}: {what} was {outcome}: {}", attempt.detail);
        }
    }
    ensure!(run.end == End::PoweredOff, "the machine {}; console in {console}", run.end.text());
    let passed = run.transcript.lines.iter().any(|line| line == "@host result=pass");
    ensure!(passed, "the host did not end well; console in {console}");
    Ok(())
}

#[test]
fn m3_no_function_reaches_what_is_not_the_hosts() -> Result<()> {
    refused(&[
        "M3.smmu-read",
        "M3.smmu-write",
        "M3.smmu-el2-read",
        "M3.smmu-el2-write",
        "M3.smmu-firmware-read",
        "M3.smmu-firmware-write",
        "M3.smmu-table-read",
        "M3.smmu-table-write",
        "M3.smmu-lent-read",
        "M3.smmu-lent-write",
    ])
}

#[test]
fn m4_the_smmu_is_el2s() -> Result<()> {
    refused(&["M4.smmu-registers", "M4.smmu-dma-read", "M4.smmu-dma-write"])
}

#[test]
fn m6_a_frame_that_a_function_uses_is_given_away() -> Result<()> {
    refused(&["M6.smmu-donated"])?;
    // At least one was still under way when the call had returned.
    let attempts = &run()?.transcript.attacks;
    let caught = |id: &str, detail: &str| id == "M6.smmu-donated" && detail.starts_with("event: ");
    let caught = attempts.iter().any(|attempt| caught(&attempt.id, &attempt.detail));
    ensure!(caught, "every transfer was over before its frame was given away");
    Ok(())
}

#[test]
fn m8_a_bar_reaches_nothing_outside_its_window() -> Result<()> {
    refused(&[
        "M8.smmu-bar-ram",
        "M8.smmu-bar-device",
        "M8.smmu-bar-el2",
        "M8.smmu-bar-guest",
        "M8.smmu-bar-bar-read",
        "M8.smmu-bar-bar-write",
    ])
}

/// A virtio device that was not told to use the SMMU goes around it, and nobody
/// inside the machine can tell.
#[test]
fn m9_no_machine_is_started_with_a_device_that_goes_around_the_smmu() -> Result<()> {
    let (_, images) = ready()?;
    let mut machine = Config::of_scenario("smmu", "smmu").machine;
    machine.extra.extend(["-device", "virtio-rng-pci,romfile="].map(str::to_owned));
    let boot = Boot {
        machine,
        kernel: images.bouncer,
        modules: Vec::new(),
        blobs: Vec::new(),
        gdb: None,
        timeout: None,
    };
    let refused = boot.run(|_| {}, |_| Ok(())).err().map(|error| error.to_string());
    ensure!(refused.is_some_and(|error| error.contains("around the SMMU")));
    Ok(())
}
