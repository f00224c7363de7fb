//! Builds the targets the way cargo-fuzz does.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Sanitizer;
use super::targets::{Target, home};
use crate::setup::cpp;
use crate::term::{Step, run_quietly};
use crate::workspace::{Workspace, cargo};

/// Edge counters, as libFuzzer reads them.
const INSTRUMENTATION: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table";
/// Comparisons that libFuzzer learns numbers from (cargo-fuzz leaves them out
/// with `--no-trace-compares`), and where indirect calls lead.
const TRACED: &str = " -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-trace-compares";
/// Edges, and nothing else.
const UNTRACED: &str = " -Cllvm-args=-sanitizer-coverage-level=3";

/// The built targets.
#[derive(Debug)]
pub(super) struct Fuzzers {
    /// Where those with traced comparisons are, and those without.
    traced: PathBuf,
    untraced: PathBuf,
}

impl Fuzzers {
    /// The program of a target.
    pub(super) fn path(&self, target: &Target) -> PathBuf {
        let folder = if target.is_fast() { &self.untraced } else { &self.traced };
        folder.join(&target.name)
    }
}

fn runs(command: &mut Command) -> bool {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Builds these targets.
///
/// # Errors
/// When a compiler is missing or refuses something.
pub(super) fn build(
    workspace: &Workspace,
    sanitizer: Option<Sanitizer>,
    targets: &[Target],
) -> Result<Fuzzers> {
    cpp::ensure()?;
    let triple = host_triple()?;
    let step = Step::new("Building");
    let folder = |name: &str| Ok::<_, anyhow::Error>(workspace.folder("fuzz")?.join(name));
    let [traced, untraced] = match sanitizer {
        None => [folder("build")?, folder("build-untraced")?],
        Some(Sanitizer::Address) => [folder("build-address")?, folder("build-address-untraced")?],
    };
    for (fast, folder) in [(false, &traced), (true, &untraced)] {
        let chosen: Vec<&Target> = targets.iter().filter(|it| it.is_fast() == fast).collect();
        if chosen.is_empty() {
            continue;
        }
        let (mut command, mut flags) = match sanitizer {
            None => (cargo(), INSTRUMENTATION.to_owned()),
            Some(Sanitizer::Address) => {
                (nightly()?, format!("{INSTRUMENTATION} -Zsanitizer=address"))
            }
        };
        flags.push_str(if fast { UNTRACED } else { TRACED });
        command.current_dir(home(workspace)).env("RUSTFLAGS", flags);
        if fast {
            // A fifth faster, for a build that takes longer.
            command.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1");
        }
        // Named, so that build scripts are not instrumented.
        command.args(["build", "--release", "--target", &triple, "--target-dir"]).arg(folder);
        for target in chosen {
            command.args(["--bin", &target.name]);
        }
        run_quietly(&step, &mut command).context("the fuzz targets cannot be built")?;
    }
    step.done("the fuzz targets, instrumented");
    let programs = |folder: &Path| folder.join(&triple).join("release");
    Ok(Fuzzers { traced: programs(&traced), untraced: programs(&untraced) })
}

/// Cargo of the nightly toolchain.
fn nightly() -> Result<Command> {
    let nightly = ["run", "nightly", "cargo"];
    if !runs(Command::new("rustup").args(nightly).arg("--version")) {
        bail!(
            "the address sanitiser needs a nightly compiler: \
             run `rustup toolchain install nightly`"
        );
    }
    let mut command = Command::new("rustup");
    command.args(nightly);
    Ok(command)
}

fn host_triple() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let triple = text.lines().find_map(|line| line.strip_prefix("host: "));
    triple.map(str::to_owned).context("rustc -vV does not name its host")
}
