//! `cargo xtask fuzz`: coverage-guided fuzzing of what bouncer decides.
//!
//! The targets are `tests/fuzz/fuzz_targets/*.rs`; what they check is the
//! package `checkers`. They are built with the coverage instrumentation that
//! cargo-fuzz uses, and libFuzzer breeds inputs for them. bouncer's policy has
//! no unsafe code, so it is fuzzed without a memory sanitiser, on the ordinary
//! toolchain and at full speed; `--sanitizer address` adds it, on nightly.

mod build;
mod options;
mod session;
mod targets;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::setup::cpp;
use crate::term::{BAD, DIM, GOOD, HEAD, paint};
use crate::workspace::{Workspace, shown};
use crate::{Outcome, Usage, on_target};
use build::Fuzzers;
pub use options::{FuzzOptions, Sanitizer};
use targets::Target;

/// What a replay prints step by step, asked for by this variable.
const LISTING: &str = "BOUNCER_FUZZ_LIST";

/// How a target fared.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// The target.
    pub target: String,
    /// Seconds it ran.
    pub seconds: f64,
    /// Inputs executed.
    pub executions: u64,
    /// Inputs per second, all jobs together.
    pub per_second: u64,
    /// Steps of these inputs per second, all jobs together, where a checker
    /// counts them; 0 where it does not.
    pub steps_per_second: u64,
    /// Edges covered, as libFuzzer counts them.
    pub coverage: u64,
    /// Inputs kept because each covers something of its own.
    pub corpus: u64,
    /// Inputs that broke a rule.
    pub crashes: Vec<PathBuf>,
}

impl Report {
    /// Its steps per second, where they are counted.
    fn steps(&self) -> String {
        match self.steps_per_second {
            0 => String::new(),
            steps => format!("  {steps} steps/s"),
        }
    }
}

/// Fuzzes, lists, replays or minimises, as the options say.
///
/// # Errors
/// When the targets cannot be built or started.
pub fn run(workspace: &Workspace, options: &FuzzOptions) -> Result<Outcome> {
    if options.booted.on_target {
        on_target::require_no_target(options.target.as_deref())?;
        let seed = options.replay.as_deref().map(|text| text.to_string_lossy());
        let json = options.json.as_ref();
        return on_target::run(workspace, &options.booted, options.time(), seed.as_deref(), json);
    }
    let all = targets::find(workspace)?;
    if options.list {
        for target in &all {
            let name = format!("{:<12}", target.name);
            anstream::println!("  {} {}", paint(HEAD, name), target.about);
        }
        return Ok(Outcome::Pass);
    }
    let input = options.replay.as_deref().or(options.minimise.as_deref());
    let chosen = targets::choose(all, options.target.as_deref(), input)?;
    // What cannot work should not wait for a build.
    if let Some(missing) = input.filter(|input| !input.is_file()) {
        return Err(Usage(format!("there is no file {}", shown(missing))).into());
    }
    if let Some(path) = &options.json {
        std::fs::write(path, "[]").with_context(|| format!("cannot write {}", shown(path)))?;
    }
    let fuzzers = build::build(workspace, options.sanitizer, &chosen)?;
    if let (Some(file), [target]) = (&options.replay, &chosen[..]) {
        return replay(&fuzzers, target, file);
    }
    if let (Some(file), [target]) = (&options.minimise, &chosen[..]) {
        return minimise(workspace, &fuzzers, target, file);
    }
    let share = options.time().div_f64(chosen.len() as f64).max(Duration::from_secs(1));
    let (results, interrupted) = fuzz(workspace, &fuzzers, &chosen, share, options.jobs)?;
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&results)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", shown(path)))?;
    }
    let crashed = results.iter().any(|result| !result.crashes.is_empty());
    Ok(match (crashed, interrupted) {
        (true, _) => Outcome::Fail,
        (_, true) => Outcome::Interrupted,
        _ => Outcome::Pass,
    })
}

/// A short round of every target, for `cargo xtask test`. `None` where
/// libFuzzer cannot be built.
///
/// # Errors
/// When the targets cannot be built or started.
pub fn short_round(workspace: &Workspace, each: Duration) -> Result<Option<bool>> {
    if let Err(missing) = cpp::ensure() {
        anstream::println!("    {} {missing:#}", paint(DIM, "skipped:"));
        return Ok(None);
    }
    let targets = targets::find(workspace)?;
    let fuzzers = build::build(workspace, None, &targets)?;
    let (results, _) = fuzz(workspace, &fuzzers, &targets, each, 1)?;
    Ok(Some(results.iter().all(|result| result.crashes.is_empty())))
}

/// One target after the other; true if Ctrl-C ended it.
fn fuzz(
    workspace: &Workspace,
    fuzzers: &Fuzzers,
    targets: &[Target],
    each: Duration,
    jobs: u32,
) -> Result<(Vec<Report>, bool)> {
    let mut results = Vec::new();
    for target in targets {
        let result = session::run(workspace, fuzzers, target, each, jobs)?;
        let mark = if result.crashes.is_empty() { paint(GOOD, "✓") } else { paint(BAD, "✗") };
        anstream::println!(
            "  {mark} {:<12} {:>9} executions  {:>7}/s{}  coverage {:>5}  corpus {:>4}  {}",
            target.name,
            result.executions,
            result.per_second,
            result.steps(),
            result.coverage,
            result.corpus,
            match result.crashes.len() {
                0 => paint(DIM, format!("{:.0} s", result.seconds)),
                crashes => paint(BAD, format!("{crashes} crashed")),
            }
        );
        for crash in &result.crashes {
            explain(fuzzers, target, crash)?;
        }
        results.push(result);
        if crate::qemu::interrupted() {
            return Ok((results, true));
        }
    }
    Ok((results, false))
}

/// What an input that broke a rule does, and how to see it again.
fn explain(fuzzers: &Fuzzers, target: &Target, crash: &Path) -> Result<()> {
    let _ = replay(fuzzers, target, crash)?;
    anstream::println!(
        "    again:     cargo xtask fuzz {} --replay {}\n    shorter:   cargo xtask fuzz {} --minimise {}",
        target.name,
        shown(crash),
        target.name,
        shown(crash)
    );
    Ok(())
}

/// Runs one input and prints what it does.
fn replay(fuzzers: &Fuzzers, target: &Target, file: &Path) -> Result<Outcome> {
    anstream::println!("\n  {} {}", paint(HEAD, &target.name), shown(file));
    let output = Command::new(fuzzers.path(target))
        .arg(file)
        .env(LISTING, "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .with_context(|| format!("cannot start {}", target.name))?;
    anstream::print!("{}", String::from_utf8_lossy(&output.stdout));
    if output.status.success() {
        anstream::println!("  {}\n", paint(GOOD, "it breaks no rule"));
        return Ok(Outcome::Pass);
    }
    for line in session::reason(&String::from_utf8_lossy(&output.stderr)) {
        anstream::println!("  {}", paint(BAD, line));
    }
    Ok(Outcome::Fail)
}

/// Looks for a shorter input that breaks a rule, too.
fn minimise(
    workspace: &Workspace,
    fuzzers: &Fuzzers,
    target: &Target,
    file: &Path,
) -> Result<Outcome> {
    if replay(fuzzers, target, file)? == Outcome::Pass {
        bail!("{} breaks no rule: there is nothing to minimise", shown(file));
    }
    let name = file.file_name().context("a file has a name")?.to_string_lossy();
    let shorter = workspace.folder(&format!("fuzz/crashes/{}", target.name))?;
    let shorter = shorter.join(format!("{name}.min"));
    std::fs::copy(file, &shorter)?;
    let step = crate::term::Step::new("Shorten");
    Command::new(fuzzers.path(target))
        .args(["-minimize_crash=1", "-max_total_time=30"])
        .arg(format!("-exact_artifact_path={}", shorter.display()))
        .arg(file)
        .output()
        .with_context(|| format!("cannot start {}", target.name))?;
    let bytes = |path: &Path| std::fs::metadata(path).map(|file| file.len());
    step.done(&format!("{} bytes to {}", bytes(file)?, bytes(&shorter)?));
    explain(fuzzers, target, &shorter)?;
    Ok(Outcome::Fail)
}
