//! The checks a mutant is put to, and stopping at the first that fails.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::scratch::Scratch;
use crate::qemu::interrupted;
use crate::term::{Step, run_quietly};

/// How often a running test is looked after.
const TICK: Duration = Duration::from_millis(200);

/// A set of native tests.
struct Stage {
    /// What a person calls it.
    name: &'static str,
    /// The package whose tests they are; skipped if the tree has it not.
    package: &'static str,
    folder: &'static str,
    environment: &'static [(&'static str, &'static str)],
    /// Tests whose names contain this are left out.
    skip: Option<&'static str>,
    /// Only for mutants that name the package.
    named_only: bool,
}

/// What most stages are.
const USUAL: Stage =
    Stage { name: "", package: "", folder: "", environment: &[], skip: None, named_only: false };

/// In the order of how much they find for their time.
const STAGES: [Stage; 8] = [
    Stage { name: "hyp", package: "hyp", folder: "hyp", ..USUAL },
    // As at EL2: a check that lives in a debug assertion is none.
    Stage {
        name: "hyp without debug assertions",
        package: "hyp",
        folder: "hyp",
        environment: &[("CARGO_PROFILE_DEV_DEBUG_ASSERTIONS", "false")],
        ..USUAL
    },
    Stage { name: "platform", package: "platform", folder: "platform", ..USUAL },
    Stage { name: "host", package: "host", folder: "tests/host", ..USUAL },
    Stage { name: "guest", package: "guest", folder: "tests/guest", ..USUAL },
    Stage { name: "model", package: "model", folder: "tests/model", ..USUAL },
    // What the fuzzers check, over their seeds.
    Stage { name: "checkers", package: "checkers", folder: "tests/fuzz/checkers", ..USUAL },
    // Its own test of the patches fails on a tree that one of them has changed.
    Stage {
        name: "xtask",
        package: "xtask",
        folder: "xtask",
        skip: Some("mutants::"),
        named_only: true,
        ..USUAL
    },
];

/// Can a mutant name this package?
pub(super) fn has_package(package: &str) -> bool {
    STAGES.iter().any(|stage| stage.package == package)
}

/// How the native tests took it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All passed.
    Passed,
    /// This one did not, for this reason.
    Caught(String),
    /// One had no end within its limit, which says nothing of what is wrong.
    Endless(String),
    /// The compiler refused; its words.
    DoesNotBuild(String),
}

/// What became of a test program that did not pass.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    /// This test failed, or the program died.
    Failed(String),
    /// It has no end.
    Endless(String),
}

/// Runs the native tests until one fails, each program for at most `limit`; of
/// the package `only`, or the usual ones.
///
/// # Errors
/// When the tests cannot be started.
pub(super) fn native(
    scratch: &Scratch,
    only: Option<&str>,
    limit: Duration,
    step: &Step,
) -> Result<Verdict> {
    let wanted = |stage: &&Stage| only.map_or(!stage.named_only, |only| stage.package == only);
    for stage in STAGES.iter().filter(wanted) {
        if !scratch.workspace().root.join(stage.folder).join("Cargo.toml").exists() {
            continue;
        }
        step.note(&format!("building the tests of {}", stage.name));
        let programs = match build(scratch, stage, step) {
            Ok(programs) => programs,
            Err(error) => return Ok(Verdict::DoesNotBuild(format!("{error:#}"))),
        };
        for program in programs {
            let mut command = scratch.program(&program, stage.folder);
            // A mutant may send one test round in circles; others then speak.
            command.args(["--test-threads", "6"]);
            command.args(stage.skip.iter().flat_map(|name| ["--skip", name]));
            let named = |what: String| format!("{}: {what}", stage.name);
            match first_failure(&mut command, limit, step)? {
                Some(Failure::Failed(what)) => return Ok(Verdict::Caught(named(what))),
                Some(Failure::Endless(what)) => return Ok(Verdict::Endless(named(what))),
                None => {}
            }
        }
    }
    Ok(Verdict::Passed)
}

/// Builds a stage's test programs.
fn build(scratch: &Scratch, stage: &Stage, step: &Step) -> Result<Vec<PathBuf>> {
    let mut command = scratch.cargo(&["test", "--no-run", "--locked", "--package", stage.package]);
    command.arg("--message-format=json-render-diagnostics");
    command.envs(stage.environment.iter().copied());
    Ok(test_programs(&run_quietly(step, &mut command)?))
}

/// The test programs among cargo's messages.
pub(super) fn test_programs(messages: &str) -> Vec<PathBuf> {
    let program = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_test = message.pointer("/profile/test")?.as_bool()?;
        is_test.then(|| message.get("executable")?.as_str().map(PathBuf::from)).flatten()
    };
    messages.lines().filter_map(program).collect()
}

/// Kills what it started, whatever happens.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a test program up to its first failure: the test's name and its
/// message.
fn first_failure(command: &mut Command, limit: Duration, step: &Step) -> Result<Option<Failure>> {
    let again = bare(command);
    let deadline = Instant::now() + limit;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = Killed(command.spawn().context("cannot start the tests")?);
    let stdout = child.0.stdout.take().context("no stdout")?;
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let mut last = String::from("the first test");
    loop {
        match lines.recv_timeout(TICK) {
            Ok(line) => {
                let Some((name, result)) = test_result(&line) else { continue };
                step.note(name);
                last = name.to_owned();
                if result != "FAILED" {
                    continue;
                }
                drop(child);
                return Ok(Some(Failure::Failed(match message_of(again, &last, deadline) {
                    Some(message) => format!("{last}: {message}"),
                    None => last,
                })));
            }
            Err(RecvTimeoutError::Timeout) if interrupted() => return Ok(None),
            Err(RecvTimeoutError::Timeout) if Instant::now() > deadline => {
                let what = format!("no end after {} s; last done {last}", limit.as_secs());
                return Ok(Some(Failure::Endless(what)));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let status = child.0.wait()?;
                let died = format!("the test program dies ({status}) after {last}");
                return Ok((!status.success()).then_some(Failure::Failed(died)));
            }
        }
    }
}

/// "test a::b ... ok" to ("a::b", "ok").
fn test_result(line: &str) -> Option<(&str, &str)> {
    let (name, result) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    Some((name.trim_end_matches(" - should panic"), result))
}

/// The same program, folder and environment, without arguments.
fn bare(command: &Command) -> Command {
    let mut bare = Command::new(command.get_program());
    command.get_current_dir().map(|folder| bare.current_dir(folder));
    bare.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    bare
}

/// Runs one failed test again, alone, for the first line of what it says.
fn message_of(mut command: Command, test: &str, deadline: Instant) -> Option<String> {
    command.args(["--exact", test, "--nocapture"]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = Killed(child.spawn().ok()?);
    let stderr = child.0.stderr.take()?;
    let (sender, message) = channel();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        let panicked = lines.any(|line| line.contains("panicked at"));
        let said = panicked.then(|| message_in(&mut lines)).flatten();
        let _ = sender.send(said);
    });
    message.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok().flatten()
}

/// The first line that says something, and if it announces a list, its first
/// entry.
fn message_in(lines: &mut impl Iterator<Item = String>) -> Option<String> {
    let first = lines.next()?.trim().to_owned();
    if first.ends_with(':') {
        let next = lines.next().unwrap_or_default();
        return Some(format!("{first} {}", next.trim()));
    }
    (!first.is_empty() && !first.starts_with("note:")).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: u64) -> Option<Failure> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        first_failure(&mut command, Duration::from_secs(limit), &Step::new("t")).unwrap()
    }

    #[test]
    fn the_first_failure_ends_the_run() {
        let found = shell("echo 'test a::b ... ok'; echo 'test a::c ... FAILED'; sleep 60", 50);
        assert_eq!(found, Some(Failure::Failed("a::c".into())));
        assert_eq!(shell("echo 'test a::b ... ok'", 50), None);
    }

    #[test]
    fn a_program_that_dies_or_never_ends_has_failed() {
        let died = shell("echo 'test a ... ok'; exit 101", 50).unwrap();
        assert!(matches!(&died, Failure::Failed(what) if what.contains("after a")), "{died:?}");
        let endless = shell("sleep 60", 0).unwrap();
        assert!(matches!(&endless, Failure::Endless(what) if what.starts_with("no end")));
    }

    #[test]
    fn test_programs_are_told_from_libraries() {
        let messages = r#"{"profile":{"test":false},"executable":"/t/tool"}
{"profile":{"test":true},"executable":"/t/hyp-1"}
{"profile":{"test":true},"executable":null}
{"reason":"build-finished","success":true}"#;
        assert_eq!(test_programs(messages), [PathBuf::from("/t/hyp-1")]);
    }

    #[test]
    fn a_list_of_broken_rules_is_shown_by_its_first() {
        let mut lines = ["rules broken:", "the call ends stale"].map(String::from).into_iter();
        assert_eq!(message_in(&mut lines).unwrap(), "rules broken: the call ends stale");
    }
}
