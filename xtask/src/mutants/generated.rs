//! `--cargo-mutants`: mistakes that a tool makes up, by the hundred.
//!
//! The patches of `tests/mutants` are bugs somebody had; cargo-mutants knows
//! no hypervisor and replaces operators and results all over `hyp`. Its score
//! says how much of the policy would be missed if it were wrong.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::options::MutantsOptions;
use super::scratch::Scratch;
use crate::Outcome;
use crate::term::{BAD, GOOD, Step, paint, run_quietly};
use crate::workspace::{Workspace, cargo, shown};

/// The version that is installed if there is none.
const VERSION: &str = "27.1.0";
/// What is no production code: the simulated machine and tests.
const EXCLUDED: [&str; 3] = ["hyp/src/sim/**", "**/tests/**", "**/tests.rs"];
/// Flags are disjoint bits: XOR is the same as OR, so this is no mistake.
const SAME: &str = r"replace \| with \^";

/// Runs cargo-mutants over `hyp` and reports its score.
///
/// # Errors
/// When it cannot be installed or does not begin.
pub(super) fn run(workspace: &Workspace, options: &MutantsOptions) -> Result<Outcome> {
    let scratch = Scratch::new(workspace)?;
    let tool = installed(workspace)?;
    let results = workspace.target.join("mutants/generated");
    let temporary = workspace.target.join("mutants/tmp");
    std::fs::create_dir_all(&temporary)?;
    let mut command = Command::new(&tool);
    command.args(["mutants", "--package", "hyp", "--colors", "never", "--no-times"]);
    for excluded in EXCLUDED {
        command.args(["--exclude", excluded]);
    }
    command.args(["--exclude-re", SAME, "--sharding", "round-robin"]);
    command.args(["--jobs", &options.jobs.to_string(), "--timeout", &options.seconds.to_string()]);
    if let Some(shard) = &options.shard {
        command.args(["--shard", shard]);
    }
    command.arg("--output").arg(&results);
    // Its own copies of the tree are temporary files: keep them here, too.
    command.current_dir(&scratch.workspace().root).env("TMPDIR", &temporary);
    command.env_remove("CARGO_TARGET_DIR");
    anstream::eprintln!("  each mutant takes about as long as hyp's tests; Ctrl-C ends it");
    let status = command.status().with_context(|| format!("cannot run {}", tool.display()))?;
    // 0: all caught; 2: some missed; 3: some did not end (cargo-mutants' book).
    if !matches!(status.code(), Some(0 | 2 | 3)) {
        bail!("cargo-mutants failed ({status}); its log is in {}", shown(&results));
    }
    report(&results.join("mutants.out"))
}

/// cargo-mutants on the PATH, or one of our own below the target folder.
fn installed(workspace: &Workspace) -> Result<PathBuf> {
    let on_path = Command::new("cargo-mutants").args(["mutants", "--version"]).output();
    if on_path.is_ok_and(|output| output.status.success()) {
        return Ok("cargo-mutants".into());
    }
    let root = workspace.folder("tools")?;
    let tool = root.join("bin/cargo-mutants");
    if !tool.exists() {
        let step = Step::new("Installing");
        let mut command = cargo();
        command.args(["install", "cargo-mutants", "--locked", "--version", VERSION, "--root"]);
        run_quietly(&step, command.arg(&root))
            .context("cannot install cargo-mutants; `cargo install cargo-mutants` tells why")?;
        step.done(&format!("cargo-mutants {VERSION} in {}", shown(&root)));
    }
    Ok(tool)
}

/// Its lists of mutants, as a score. Those that do not compile do not count,
/// and a test that never ends has noticed.
fn report(folder: &Path) -> Result<Outcome> {
    let list = |name: &str| -> Result<Vec<String>> {
        let path = folder.join(format!("{name}.txt"));
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok(text.lines().map(str::to_owned).collect())
    };
    let (caught, hung) = (list("caught")?.len(), list("timeout")?.len());
    let missed = list("missed")?;
    let viable = caught + hung + missed.len();
    if viable == 0 {
        bail!("no mutant was tried; is the shard one of its kind, as 3/40?");
    }
    let percent = 100 * (caught + hung) / viable;
    let score = format!("{percent} % of {viable} noticed: {caught} caught, {hung} never ended");
    let style = if missed.is_empty() { GOOD } else { BAD };
    anstream::println!("\n  {}", paint(style, score));
    for line in &missed {
        anstream::println!("    {} {line}", paint(BAD, "missed"));
    }
    Ok(if missed.is_empty() { Outcome::Pass } else { Outcome::Fail })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_is_of_those_that_compile_and_one_missed_fails() {
        let folder = std::env::temp_dir().join(format!("generated-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let write = |name: &str, text| std::fs::write(folder.join(name), text).unwrap();
        write("caught.txt", "a\nb\n");
        write("timeout.txt", "");
        write("missed.txt", "");
        assert_eq!(report(&folder).unwrap(), Outcome::Pass);
        write("missed.txt", "c\n");
        assert_eq!(report(&folder).unwrap(), Outcome::Fail);
        write("caught.txt", "");
        write("missed.txt", "");
        assert!(report(&folder).is_err(), "nothing was tried");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
