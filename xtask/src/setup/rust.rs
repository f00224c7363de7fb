//! The Rust side of set-up: the compiler's age, the bare-metal target, and
//! the tools `check` needs.

use std::process::Command;

use anyhow::{Context, Result, bail};

use super::distro::{Version, version_in};
use crate::term::{Step, run_quietly};

/// What bouncer and the payloads are compiled for: EL1 and EL2 without
/// floating point, whose registers belong to the guests.
pub const TARGET: &str = "aarch64-unknown-none-softfloat";
/// The workspace's rust-version.
const OLDEST: Version = (1, 88);

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
    if !has_target() {
        rustup(step, &["target", "add", TARGET])?;
    }
    for (component, tool) in [("clippy", "cargo-clippy"), ("rustfmt", "rustfmt")] {
        if output(tool, &["--version"]).is_none() {
            rustup(step, &["component", "add", component])?;
        }
    }
    Ok(version)
}

/// Looks for the target's libraries themselves: right with or without rustup.
fn has_target() -> bool {
    output("rustc", &["--print", "target-libdir", "--target", TARGET])
        .is_some_and(|folder| std::path::Path::new(folder.trim()).is_dir())
}

fn rustup(step: &Step, arguments: &[&str]) -> Result<()> {
    let shown = format!("rustup {}", arguments.join(" "));
    step.note(&shown);
    run_quietly(step, Command::new("rustup").args(arguments)).with_context(|| {
        format!(
            "`{shown}` failed; run it by hand to see why. Without rustup, install the target \
             {TARGET}, clippy and rustfmt the way your toolchain came"
        )
    })?;
    Ok(())
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
