//! Runs test functions by their names and hears which passed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::term::Step;
use crate::test::environment;
use crate::workspace::{Workspace, cargo};

/// Test functions by name, and whether each passed. One that is missing has
/// not run.
pub(super) type Results = BTreeMap<String, bool>;

/// Runs native tests, named `crate::path::name`.
pub(super) fn run_native(workspace: &Workspace, paths: &BTreeSet<String>) -> Result<Results> {
    if paths.is_empty() {
        return Ok(Results::new());
    }
    let mut command = cargo();
    command.args(["test", "--no-fail-fast", "--lib", "--tests"]);
    let packages: BTreeSet<&str> =
        paths.iter().filter_map(|path| path.split("::").next()).collect();
    packages.into_iter().for_each(|package| {
        command.args(["--package", package]);
    });
    command.arg("--").args(paths.iter().map(|path| name_of(path)));
    let all = run(workspace, "native tests", &mut command)?;
    let asked = |path: &String| {
        let found = all.iter().find(|(name, _)| name_of(name) == name_of(path));
        found.map(|(_, passed)| (path.clone(), *passed))
    };
    Ok(paths.iter().filter_map(asked).collect())
}

/// Runs end-to-end tests on a machine with such CPUs.
pub(super) fn run_booted(
    workspace: &Workspace,
    tests: &BTreeMap<String, BTreeSet<String>>,
    model: &str,
    cpus: u32,
) -> Result<Results> {
    let mut results = Results::new();
    for (file, functions) in tests {
        let binary = Path::new(file).file_stem().unwrap_or_default().to_string_lossy();
        let mut command = cargo();
        command.args(["test", "--package", "tests", "--test", &binary, "--", "--exact"]);
        command.args(functions);
        command.env(environment::CPU, model).env(environment::CPUS, cpus.to_string());
        let what = format!("{binary} on {model}");
        let told = run(workspace, &what, &mut command)?;
        results.extend(told.into_iter().map(|(name, passed)| (format!("{file}#{name}"), passed)));
    }
    Ok(results)
}

/// The last part of a path.
fn name_of(path: &str) -> &str {
    path.rsplit("::").next().unwrap_or(path)
}

/// Runs a test command to its end. Its output is shown only when one fails.
fn run(workspace: &Workspace, what: &str, command: &mut Command) -> Result<Results> {
    let step = Step::new("Testing");
    step.note(what);
    let output = command
        .current_dir(&workspace.root)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {what}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let results = passed(&text);
    let good = results.values().filter(|passed| **passed).count();
    step.done(&format!("{what}: {good} of {} passed", results.len()));
    if !output.status.success() {
        anstream::eprintln!("{}{text}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(results)
}

/// What the test runner says of each test.
fn passed(text: &str) -> Results {
    let line = |line: &str| {
        let (name, outcome) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
        match outcome {
            "ok" => Some((name.to_owned(), true)),
            "FAILED" => Some((name.to_owned(), false)),
            _ => None,
        }
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod own_tests {
    use super::*;

    #[test]
    fn the_runners_lines_tell_which_passed_and_what_was_ignored_has_not_run() {
        let text = "running 3 tests\ntest a::b ... ok\ntest c ... FAILED\ntest d ... ignored\n\
            test result: FAILED. 1 passed; 1 failed";
        let expected = [("a::b".to_owned(), true), ("c".to_owned(), false)].into();
        assert_eq!(passed(text), expected);
        assert_eq!(name_of("hyp::a::b"), "b");
    }
}
