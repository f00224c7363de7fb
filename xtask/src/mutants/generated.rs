//! `--cargo-mutants`: mistakes that a tool makes up, by the thousand.
//!
//! The patches of `tests/mutants` are bugs somebody had; cargo-mutants knows
//! no hypervisor and replaces operators and results all over `hyp`. Its score
//! says how much of the policy would be missed if it were wrong.
//!
//! What is mutated, and how it is built, says `.cargo/mutants.toml`. A mutant
//! first meets `hyp`'s own tests, which take a second; only those that these
//! miss meet the model and the fuzzers' checks, which take ten.

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

/// Runs cargo-mutants over `hyp` and reports its score.
///
/// # Errors
/// When it cannot be installed or does not begin.
pub(super) fn run(workspace: &Workspace, options: &MutantsOptions) -> Result<Outcome> {
    let scratch = Scratch::new(workspace)?;
    let tool = Tool { program: installed(workspace)?, scratch: &scratch, jobs: options.jobs };
    let results = workspace.target.join("mutants/generated");
    anstream::eprintln!("  each mutant takes a few seconds; Ctrl-C ends it");
    let mut part = Vec::new();
    if let Some(shard) = &options.shard {
        part.extend(["--sharding=round-robin".to_owned(), format!("--shard={shard}")]);
    }
    let mut tally = tool.run(&part, &["--lib"], &results.join("quick"))?;
    if !tally.missed.is_empty() {
        anstream::eprintln!("  what hyp's tests have missed meets the model and the checkers");
        let mut those: Vec<String> =
            ["model", "checkers"].iter().map(|name| format!("--test-package={name}")).collect();
        those.extend(tally.missed.iter().map(|name| format!("--re=^{}$", escaped(name))));
        tally.correct(&tool.run(&those, &["--tests"], &results.join("again"))?);
    }
    report(&tally)
}

/// cargo-mutants, and where it works.
struct Tool<'a> {
    program: PathBuf,
    scratch: &'a Scratch,
    jobs: u32,
}

impl Tool<'_> {
    /// Tries the mutants that `which` selects against the tests that
    /// `tests` selects.
    fn run(&self, which: &[String], tests: &[&str], results: &Path) -> Result<Tally> {
        let workspace = self.scratch.workspace();
        let temporary = workspace.target.join("tmp");
        for folder in [results, &temporary] {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        let mut command = Command::new(&self.program);
        command.args(["mutants", "--package", "hyp", "--colors", "never", "--no-times"]);
        command.args(which).arg("--output").arg(results);
        // The tree is a copy already, which one job may use, and its build.
        // Several make copies of the copy, as temporary files: here, too.
        if self.jobs == 1 {
            command.arg("--in-place").env("CARGO_TARGET_DIR", &workspace.target);
        } else {
            command.args(["--jobs", &self.jobs.to_string()]).env_remove("CARGO_TARGET_DIR");
        }
        command.arg("--").args(tests).env("TMPDIR", &temporary);
        command.current_dir(&workspace.root);
        let program = shown(&self.program);
        let status = command.status().with_context(|| format!("cannot run {program}"))?;
        // 0: all caught; 2: some missed; 3: some did not end (cargo-mutants' book).
        if !matches!(status.code(), Some(0 | 2 | 3)) {
            bail!("cargo-mutants failed ({status}); its log is in {}", shown(results));
        }
        Tally::read(&results.join("mutants.out"))
    }
}

/// A name as a regular expression that means it.
fn escaped(name: &str) -> String {
    let meta = |c: char| r"\.+*?()|[]{}^$#&-~".contains(c);
    name.chars().flat_map(|c| meta(c).then_some('\\').into_iter().chain([c])).collect()
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

/// What became of the mutants, by name. Those that do not compile do not count.
#[derive(Debug, PartialEq, Eq)]
struct Tally {
    caught: Vec<String>,
    /// A test that never ends has noticed.
    hung: Vec<String>,
    missed: Vec<String>,
}

impl Tally {
    /// From cargo-mutants' lists.
    fn read(folder: &Path) -> Result<Self> {
        let list = |name: &str| -> Result<Vec<String>> {
            let path = folder.join(format!("{name}.txt"));
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            Ok(text.lines().map(str::to_owned).collect())
        };
        Ok(Self { caught: list("caught")?, hung: list("timeout")?, missed: list("missed")? })
    }

    /// Takes over what a second run has noticed of those that were missed.
    /// (Some mutants come whatever was asked for: cargo-mutants deletes fields
    /// of expressions without looking at `--re`.)
    fn correct(&mut self, again: &Tally) {
        let missed = self.missed.clone();
        let of_those = |names: &[String]| -> Vec<String> {
            names.iter().filter(|name| missed.contains(*name)).cloned().collect()
        };
        self.caught.extend(of_those(&again.caught));
        self.hung.extend(of_those(&again.hung));
        self.missed.retain(|name| !again.caught.contains(name) && !again.hung.contains(name));
    }

    fn noticed(&self) -> usize {
        self.caught.len() + self.hung.len()
    }

    fn percent(&self) -> Option<usize> {
        (100 * self.noticed()).checked_div(self.noticed() + self.missed.len())
    }
}

/// The score.
fn report(tally: &Tally) -> Result<Outcome> {
    let Some(percent) = tally.percent() else {
        bail!("no mutant was tried; is the shard one of its kind, as 3/40?");
    };
    let missed = &tally.missed;
    let score = format!(
        "{percent} % of {} noticed: {} caught, {} never ended",
        tally.noticed() + missed.len(),
        tally.caught.len(),
        tally.hung.len(),
    );
    let style = if missed.is_empty() { GOOD } else { BAD };
    anstream::println!("\n  {}", paint(style, score));
    for line in missed {
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
        let outcome = || Tally::read(&folder).and_then(|tally| report(&tally));
        write("caught.txt", "a\nb\n");
        write("timeout.txt", "");
        write("missed.txt", "");
        assert_eq!(outcome().unwrap(), Outcome::Pass);
        write("missed.txt", "c\n");
        assert_eq!(Tally::read(&folder).unwrap().percent(), Some(66));
        assert_eq!(outcome().unwrap(), Outcome::Fail);
        write("caught.txt", "");
        write("missed.txt", "");
        assert!(outcome().is_err(), "nothing was tried");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_second_run_corrects_the_first_for_those_it_was_asked_about() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let tally = |caught: &[&str], hung: &[&str], missed: &[&str]| Tally {
            caught: names(caught),
            hung: names(hung),
            missed: names(missed),
        };
        let mut first = tally(&["a", "b"], &[], &["c", "d", "e"]);
        first.correct(&tally(&["c", "a"], &["d"], &["e"]));
        assert_eq!(first, tally(&["a", "b", "c"], &["d"], &["e"]));
    }

    #[test]
    fn a_name_matches_itself_only() {
        let name = "hyp/src/a.rs:1:2: replace f -> Option<u8> with Some(1)";
        let expected = r"hyp/src/a\.rs:1:2: replace f \-> Option<u8> with Some\(1\)";
        assert_eq!(escaped(name), expected);
        assert_eq!(escaped("replace |= with &="), r"replace \|= with \&=");
    }
}
