//! One test of `tests/tests`, which boots machines of its own: power-offs,
//! resets and broken machines that the story cannot have.

use std::fmt;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::scratch::Scratch;
use super::suite::{Verdict, test_programs};
use crate::build;
use crate::term::{Step, run_quietly};

/// A test function, written as in docs/threats.toml:
/// `tests/tests/FILE.rs#FUNCTION`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Test {
    /// The file's name without its ending, which is the program's.
    program: String,
    function: String,
}

impl Test {
    /// Reads such a name.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let parts = text.strip_prefix("tests/tests/").and_then(|name| name.split_once(".rs#"));
        let Some((program, function)) = parts else {
            bail!("{text:?} is no test; one is named tests/tests/FILE.rs#FUNCTION");
        };
        Ok(Self { program: program.into(), function: function.into() })
    }

    /// Does the tree at `root` have it?
    #[cfg(test)]
    pub(super) fn is_in(&self, root: &std::path::Path) -> bool {
        let file = root.join(format!("tests/tests/{}.rs", self.program));
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.contains(&format!("\nfn {}()", self.function))
    }

    /// Runs it on the copy. It sets itself its time limits.
    ///
    /// # Errors
    /// When it cannot be started, or there is no such test.
    pub(super) fn run(&self, scratch: &Scratch, step: &Step) -> Result<Verdict> {
        step.note("building what boots");
        // Or a mutant that does not build would pass for one that fails.
        if let Err(error) = build::images(scratch.workspace()) {
            return Ok(Verdict::DoesNotBuild(format!("{error:#}")));
        }
        step.note(&format!("building {self}"));
        scratch.lend_packages()?;
        let words = ["test", "--no-run", "--locked", "--package", "tests", "--test"];
        let mut command = scratch.cargo(&words);
        command.arg(&self.program).arg("--message-format=json-render-diagnostics");
        let programs = match run_quietly(step, &mut command) {
            Ok(messages) => test_programs(&messages),
            Err(error) => return Ok(Verdict::DoesNotBuild(format!("{error:#}"))),
        };
        let program = programs.first().with_context(|| format!("{self} has no program"))?;
        step.note(&format!("booting: {self}"));
        let mut command = scratch.program(program, "tests");
        command.args(["--exact", &self.function]).stdin(Stdio::null());
        let output = command.output().with_context(|| format!("cannot start {self}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        if output.status.success() {
            if !said.contains(" 1 passed") {
                bail!("there is no test {self}, or it leaves itself out");
            }
            return Ok(Verdict::Passed);
        }
        let message = message_in(&said).unwrap_or("it says nothing");
        Ok(Verdict::Caught(format!("{}::{}: {message}", self.program, self.function)))
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tests/tests/{}.rs#{}", self.program, self.function)
    }
}

/// The first line of what a failed test says: behind a panic's place, or as
/// the error that it returned.
fn message_in(said: &str) -> Option<&str> {
    let mut lines = said.lines();
    while let Some(line) = lines.next() {
        if line.contains("panicked at ") {
            return lines.next();
        }
        if let Some(error) = line.strip_prefix("Error: ") {
            return Some(error);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_named_as_in_the_catalogue_of_threats() {
        let name = "tests/tests/scenarios.rs#c18_x";
        let test = Test::parse(name).unwrap();
        assert_eq!((test.program.as_str(), test.function.as_str()), ("scenarios", "c18_x"));
        assert_eq!(test.to_string(), name);
        assert!(Test::parse("scenarios::c18_x").is_err() && Test::parse("nobody").is_err());
    }

    #[test]
    fn what_a_failed_test_says_is_found() {
        let panicked = "running 1 test\ntest a ... FAILED\n\n---- a stdout ----\n\n\
            thread 'a' (7) panicked at tests/tests/x.rs:1:5:\n3 copies in memory: []\nnote: x\n";
        assert_eq!(message_in(panicked), Some("3 copies in memory: []"));
        assert_eq!(message_in("---- a stdout ----\nError: no end\n"), Some("no end"));
        assert_eq!(message_in("running 0 tests\n"), None);
    }
}
