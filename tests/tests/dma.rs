//! The demonstrations of `cargo xtask dma` that other pages count on.

use anyhow::Result;
use tests::linux::{said, xtask};
use tests::two_at_a_time;

/// Makes those of one system; each must end as it must, and all must be made.
fn holds(mode: &str, rows: usize) -> Result<()> {
    let _turn = two_at_a_time();
    let output = xtask(&["dma", mode])?.output()?;
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let verdict = format!("PASS: {rows} of {rows} demonstrations of 1 systems");
    assert!(said.contains(&verdict), "{said}");
    Ok(())
}

/// Every system: what works and what is refused. A demonstration that was not
/// made is a failure.
#[test]
fn every_system_shows_what_works_and_what_is_refused() -> Result<()> {
    let _turn = two_at_a_time();
    let output = xtask(&["dma"])?.output()?;
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for mode in ["bounce-bar", "device-memory", "shared-pool", "shared-each", "iommu-kept"] {
        assert!(said.contains(&format!("\n  {mode}  ")), "{mode}: {said}");
    }
    Ok(())
}

/// What a request costs is what docs/dma-figures.json says, and no device that
/// brings its memory is over its goals.
#[test]
fn a_request_costs_what_the_committed_figures_say() -> Result<()> {
    let _turn = two_at_a_time();
    let output = xtask(&["dma", "--compare", "--check"])?.output()?;
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("within 3 %"), "{said}");
    Ok(())
}

/// A device that works in pages the guest shares: rings and buffers that are
/// not shared, a ring that both look at, a slot that is rewritten, a page that
/// is taken away.
#[test]
fn a_device_reaches_what_is_shared_for_as_long_as_it_is() -> Result<()> {
    holds("shared-pages", 11)
}

/// A device without ACCESS_PLATFORM, and a secure, a naive, a normal guest and
/// a realm.
#[test]
fn a_device_that_does_not_say_so_gets_what_the_guest_knows_to_give() -> Result<()> {
    holds("legacy-no-platform", 10)
}

/// A process has a disk, and wants another process's bytes: where the device
/// ignores the platform's translation it gets them, where the device obeys it
/// does not, and where its driver chooses it does.
#[test]
fn a_process_with_a_device_gets_what_the_host_lets_its_driver_choose() -> Result<()> {
    holds("host-bypass", 5)?;
    holds("host-platform", 6)?;
    holds("host-choice", 5)
}
