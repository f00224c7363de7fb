//! What the tests with Linux as the guest, or as the host, share: they use it as
//! a user does, through `cargo xtask run --guest debian` or `--host debian`.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use xtask::test::environment;
use xtask::workspace::{Workspace, cargo};

use crate::{file, ready, two_at_a_time};

/// Seconds that many boots in a row may take, on a machine that does other
/// things, too.
pub const LONG: &str = "1800";

/// Whether to leave a test out; then it is said past the test harness, which
/// keeps back what tests that pass print.
#[must_use]
pub fn left_out(test: &str) -> bool {
    let offline = std::env::var_os(environment::OFFLINE).is_some();
    if offline {
        let why = format!("{test}: LEFT OUT, {} is set\n", environment::OFFLINE);
        let _ = std::io::stderr().write_all(why.as_bytes());
    }
    offline
}

/// `cargo xtask` with these words, everything built.
///
/// # Errors
/// When something does not build.
pub fn xtask(words: &[&str]) -> Result<Command> {
    let (workspace, _) = ready()?;
    let mut command = cargo();
    command.args(["run", "--quiet", "--package", "xtask", "--"]).args(words);
    command.current_dir(&workspace.root).stdin(Stdio::null());
    Ok(command)
}

/// A script in a guest; `more` are further options.
///
/// # Errors
/// When xtask cannot be built or started.
pub fn script(test: &str, script: &str, more: &[&str]) -> Result<Output> {
    script_in("--guest", test, script, more)
}

/// A script in a Linux host.
///
/// # Errors
/// As [`script`].
pub fn host_script(test: &str, script: &str, more: &[&str]) -> Result<Output> {
    script_in("--host", test, script, more)
}

fn script_in(place: &str, test: &str, script: &str, more: &[&str]) -> Result<Output> {
    let script = file(test, "script.sh", script.as_bytes())?.display().to_string();
    let _turn = two_at_a_time();
    let words = [["run", place, "debian", "--script", &script].as_slice(), more].concat();
    Ok(xtask(&words)?.output()?)
}

/// What went wrong, if anything did: the status, and all that was said.
#[must_use]
pub fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr))
}

/// The kernel with the pKVM guest driver takes minutes to build. `cargo xtask
/// test` builds it; who runs plain `cargo test` has its tests only behind
/// `cargo xtask guest build-pkvm`.
///
/// # Errors
/// When that cannot be said.
pub fn left_out_without_pkvm(test: &str) -> Result<bool> {
    if left_out(test) || xtask::guest::pkvm::built(&Workspace::find()?).is_ok() {
        return Ok(left_out(test));
    }
    let why = format!("{test}: LEFT OUT, run `cargo xtask guest build-pkvm` to have it\n");
    std::io::stderr().write_all(why.as_bytes())?;
    Ok(true)
}

/// What a run with `--verbose` counted of its first guest.
///
/// # Errors
/// When it did not.
pub fn counter(output: &Output, name: &str) -> Result<u64> {
    let text = said(output);
    let rest = text.split(&format!(" {name}=")).nth(1);
    let value = rest.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    value.with_context(|| format!("no count of {name}: {text}"))
}

/// A program in `tests/linux` for an arm64 Linux, compiled without a library.
///
/// # Errors
/// When it does not compile.
pub fn program(test: &str, name: &str) -> Result<PathBuf> {
    let workspace = Workspace::find()?;
    let program = file(test, name, b"")?;
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition", "2024", "--target", "aarch64-unknown-none-softfloat"]);
    rustc.args(["-C", "panic=abort", "-C", "opt-level=2", "-o"]).arg(&program);
    rustc.arg(workspace.root.join("tests/linux").join(name).with_extension("rs"));
    let output = rustc.current_dir(&workspace.root).output()?;
    ensure!(output.status.success(), "{}", said(&output));
    Ok(program)
}
