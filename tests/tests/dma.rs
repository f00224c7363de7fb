//! The demonstrations of `cargo xtask dma` that other pages count on.

use anyhow::{Context, Result};
use tests::linux::{said, xtask};
use tests::two_at_a_time;

/// Systems that have a test of their own here, which pages name, and how many
/// demonstrations each.
const NAMED: [(&str, usize); 5] = [
    ("shared-pages", 11),
    ("legacy-no-platform", 10),
    ("host-bypass", 4),
    ("host-platform", 5),
    ("host-choice", 4),
];

/// Makes those of one of them; each must end as it must, and all must be made.
fn holds(mode: &str) -> Result<()> {
    let _turn = two_at_a_time();
    let rows = NAMED.iter().find(|named| named.0 == mode).context("not named")?.1;
    let output = xtask(&["dma", mode])?.output()?;
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let verdict = format!("PASS: {rows} of {rows} demonstrations of 1 systems");
    assert!(said.contains(&verdict), "{said}");
    Ok(())
}

/// The systems that have demonstrations, and how many in all: `--list` has a
/// name, and below it, further in, a line for each.
fn listed() -> Result<Vec<(String, usize)>> {
    let output = xtask(&["dma", "--list"])?.output()?;
    let mut systems: Vec<(String, usize)> = Vec::new();
    for line in said(&output).lines() {
        match (line.strip_prefix("  "), systems.last_mut()) {
            (Some(row), Some((_, rows))) if row.starts_with(' ') => *rows += 1,
            (Some(name), _) => systems.push((name.trim().to_owned(), 0)),
            _ => {}
        }
    }
    systems.retain(|(_, rows)| *rows > 0);
    Ok(systems)
}

/// Every system, those below in their own tests: what works and what is
/// refused. A demonstration that was not made is a failure.
#[test]
fn every_system_shows_what_works_and_what_is_refused() -> Result<()> {
    let _turn = two_at_a_time();
    let mut rest = listed()?;
    for (name, rows) in NAMED {
        let place = rest.iter().position(|system| *system == (name.to_owned(), rows));
        rest.remove(place.with_context(|| format!("{name} with {rows} rows is not listed"))?);
    }
    assert!(rest.len() >= 8, "{rest:?}");
    let modes: Vec<&str> = rest.iter().map(|(name, _)| name.as_str()).collect();
    let output = xtask(&[&["dma"], modes.as_slice()].concat())?.output()?;
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let rows: usize = rest.iter().map(|(_, rows)| rows).sum();
    let verdict = format!("PASS: {rows} of {rows} demonstrations of {} systems", rest.len());
    assert!(said.contains(&verdict), "{said}");
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
    holds("shared-pages")
}

/// A device without ACCESS_PLATFORM, and a secure, a naive, a normal guest and
/// a realm.
#[test]
fn a_device_that_does_not_say_so_gets_what_the_guest_knows_to_give() -> Result<()> {
    holds("legacy-no-platform")
}

/// A process has a disk, and wants another process's bytes: where the device
/// ignores the platform's translation it gets them, where the device obeys it
/// does not, and where its driver chooses it does.
#[test]
fn a_process_with_a_device_gets_what_the_host_lets_its_driver_choose() -> Result<()> {
    holds("host-bypass")?;
    holds("host-platform")?;
    holds("host-choice")
}
