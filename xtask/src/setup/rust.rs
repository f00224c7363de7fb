//! The Rust side of set-up: the compiler's age, the bare-metal target, and
//! the tools `check` needs.
//!
//! Usually the active toolchain serves, and at most the target is added to
//! it. Where the active toolchain's channel does not offer the target, one
//! that is known to have it is installed beside it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::distro::{Version, version_in};
use crate::term::{Step, run_quietly};
use crate::workspace::use_toolchain;

/// What bouncer and the payloads are compiled for: EL1 and EL2 without
/// floating point, whose registers belong to the guests.
pub const TARGET: &str = "aarch64-unknown-none-softfloat";
/// The workspace's rust-version.
const OLDEST: Version = (1, 88);
/// The release that is known to have the target.
const KNOWN: &str = "1.95.0";
/// What `check` needs beside the compiler.
const COMPONENTS: [(&str, &str); 2] = [("clippy", "cargo-clippy"), ("rustfmt", "rustfmt")];

/// Installs what is missing; returns the compiler's version.
///
/// # Errors
/// When Rust is too old, or rustup is missing or fails.
pub fn ensure(step: &Step) -> Result<String> {
    let version = output("rustc", &["--version"])
        .context("rustc does not run: install Rust with rustup, see https://rustup.rs")?;
    let version = version.split_whitespace().nth(1).unwrap_or_default().to_owned();
    if version_in(&version).is_none_or(|found| found < OLDEST) {
        bail!(
            "Rust {version} is too old, {}.{} or newer is needed: run `rustup update stable`",
            OLDEST.0,
            OLDEST.1
        );
    }
    if active_is_complete() {
        return Ok(version);
    }
    // Looked for before anything is installed: a second run needs no network.
    if known_has_target() {
        use_toolchain(KNOWN);
        return Ok(KNOWN.to_owned());
    }
    if complete_active(step).is_ok() {
        return Ok(version);
    }
    let mut arguments = vec!["toolchain", "install", KNOWN, "--profile", "minimal"];
    arguments.extend(["--no-self-update", "--target", TARGET]);
    for (component, _) in COMPONENTS {
        arguments.extend(["--component", component]);
    }
    rustup(step, &arguments)?;
    use_toolchain(KNOWN);
    Ok(KNOWN.to_owned())
}

fn active_is_complete() -> bool {
    let has_tools = COMPONENTS.iter().all(|(_, tool)| output(tool, &["--version"]).is_some());
    let folder = output("rustc", &["--print", "target-libdir", "--target", TARGET]);
    has_tools && is_folder(folder)
}

/// Adds what the active toolchain lacks, if its channel has it.
fn complete_active(step: &Step) -> Result<()> {
    rustup(step, &["target", "add", TARGET])?;
    for (component, tool) in COMPONENTS {
        if output(tool, &["--version"]).is_none() {
            rustup(step, &["component", "add", component])?;
        }
    }
    Ok(())
}

/// Adds a component that only one command needs.
///
/// # Errors
/// When rustup is missing or fails.
pub fn add_component(step: &Step, component: &str) -> Result<()> {
    rustup(step, &["component", "add", component])
}

fn known_has_target() -> bool {
    let installed = output("rustup", &["toolchain", "list"]).unwrap_or_default();
    // `rustup run` might install what it does not find.
    installed.lines().any(|line| line.starts_with(KNOWN))
        && is_folder(output(
            "rustup",
            &["run", KNOWN, "rustc", "--print", "target-libdir", "--target", TARGET],
        ))
}

/// Looks for the target's libraries themselves: right with or without rustup.
fn is_folder(path: Option<String>) -> bool {
    path.is_some_and(|path| Path::new(path.trim()).is_dir())
}

fn rustup(step: &Step, arguments: &[&str]) -> Result<()> {
    let shown = format!("rustup {}", arguments.join(" "));
    step.note(&shown);
    run_quietly(step, Command::new("rustup").args(arguments)).with_context(|| {
        format!(
            "`{shown}` failed; run it by hand to see why. Without rustup, install what it names \
             the way your toolchain came; needed are the target {TARGET}, clippy and rustfmt, and \
             llvm-tools for `coverage`"
        )
    })?;
    Ok(())
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
