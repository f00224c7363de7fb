//! Builds the targets the way cargo-fuzz does.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Sanitizer;
use super::targets::{Target, home};
use crate::term::{Step, run_quietly};
use crate::workspace::{Workspace, cargo};

/// Edge counters and traced comparisons, as libFuzzer reads them.
const INSTRUMENTATION: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// The built targets.
#[derive(Debug)]
pub(super) struct Fuzzers {
    folder: PathBuf,
}

impl Fuzzers {
    /// The program of a target.
    pub(super) fn path(&self, target: &Target) -> PathBuf {
        self.folder.join(&target.name)
    }
}

/// libFuzzer is C++, compiled on the spot.
///
/// # Errors
/// When there is no compiler for it.
pub(super) fn require_cpp() -> Result<()> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    if runs(Command::new(&compiler).arg("--version")) {
        return Ok(());
    }
    bail!("no C++ compiler for libFuzzer ({compiler} does not run): install one, for example g++")
}

fn runs(command: &mut Command) -> bool {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Builds all targets in one go.
///
/// # Errors
/// When a compiler is missing or refuses something.
pub(super) fn build(workspace: &Workspace, sanitizer: Option<Sanitizer>) -> Result<Fuzzers> {
    require_cpp()?;
    let step = Step::new("Building");
    let (mut command, flags, folder) = match sanitizer {
        None => (cargo(), INSTRUMENTATION.to_owned(), "fuzz/build"),
        Some(Sanitizer::Address) => {
            let mut nightly = Command::new("rustup");
            nightly.args(["run", "nightly", "cargo"]);
            if !runs(Command::new("rustup").args(["run", "nightly", "cargo", "--version"])) {
                bail!(
                    "the address sanitiser needs a nightly compiler: \
                     run `rustup toolchain install nightly`"
                );
            }
            (nightly, format!("{INSTRUMENTATION} -Zsanitizer=address"), "fuzz/build-address")
        }
    };
    let folder = workspace.folder(folder)?;
    let triple = host_triple()?;
    command.current_dir(home(workspace)).env("RUSTFLAGS", flags);
    // Named, so that build scripts are not instrumented.
    command.args(["build", "--release", "--target", &triple, "--target-dir"]).arg(&folder);
    run_quietly(&step, &mut command).context("the fuzz targets cannot be built")?;
    step.done("the fuzz targets, instrumented");
    Ok(Fuzzers { folder: folder.join(triple).join("release") })
}

fn host_triple() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let triple = text.lines().find_map(|line| line.strip_prefix("host: "));
    triple.map(str::to_owned).context("rustc -vV does not name its host")
}
