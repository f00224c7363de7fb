//! The C++ compiler, which only the fuzzers need: libFuzzer is compiled on
//! the spot.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::install_packages;
use crate::term::Step;

/// Looks for a C++ compiler, and installs one where that is possible.
///
/// # Errors
/// When there is none and it cannot be installed from here; the message has
/// the exact command.
pub fn ensure() -> Result<()> {
    let compiler = compiler();
    if runs(&compiler) {
        return Ok(());
    }
    if let Ok(named) = std::env::var("CXX") {
        bail!("CXX names {named}, which does not run: it is needed to compile libFuzzer");
    }
    let step = Step::new("Setting up");
    install_packages(&step, &["g++"], "a C++ compiler for libFuzzer")?;
    step.done("a C++ compiler, for the fuzzers");
    if runs(&compiler) {
        return Ok(());
    }
    Err(anyhow::anyhow!("{compiler} is still not on the PATH"))
        .context("apt reported success, but there is no C++ compiler")
}

/// What the build of libFuzzer will call.
fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "c++".into())
}

fn runs(compiler: &str) -> bool {
    let mut command = Command::new(compiler);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
