//! `cargo xtask test`: everything, in the order in which a failure says most.

use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::attack::{self, AttackOptions};
use crate::term::{BAD, DIM, GOOD, HEAD, paint};
use crate::workspace::{Workspace, cargo};
use crate::{Outcome, build, check, fuzz, guest, qemu};

/// Environment variables by which the end-to-end tests learn what to boot.
pub mod environment {
    /// Number of CPUs.
    pub const CPUS: &str = "BOUNCER_CPUS";
    /// CPU model.
    pub const CPU: &str = "BOUNCER_CPU";
    /// MiB of memory.
    pub const MEMORY: &str = "BOUNCER_MEMORY";
    /// Set: bouncer is built with its oracle and checks itself.
    pub const ORACLE: &str = "BOUNCER_ORACLE";
    /// A user's file as the disk.
    pub const DISK: &str = "BOUNCER_DISK";
    /// Set: there is no network, so what must be fetched is left out.
    pub const OFFLINE: &str = "BOUNCER_OFFLINE";
}

/// `test`'s options.
#[derive(Debug, Clone, clap::Args)]
pub struct TestOptions {
    /// Leave out what needs files from Debian's archive: Linux as the guest
    #[arg(long)]
    pub offline: bool,
    /// Only what says most in five minutes: the checks, the native tests, and
    /// the story
    #[arg(long, conflicts_with = "long")]
    pub quick: bool,
    /// Also what takes hours on a small machine: every attack and Debian's
    /// kernel on each tested CPU model, with one CPU and with four
    #[arg(long)]
    pub long: bool,
}

/// Machines on which every promise is tested, beside the default one: (name,
/// CPU model, CPUs, MiB, own disk). Each tested model is one of them.
const MATRIX: [(&str, &str, u32, u64, bool); 10] = [
    ("one small CPU", "cortex-a72", 1, 512, false),
    ("the smallest core", "cortex-a53", 4, 1024, false),
    ("four CPUs of Armv8.2", "cortex-a76", 4, 1024, false),
    ("four server CPUs, 8 GiB", "neoverse-n1", 4, 8192, false),
    ("one server CPU with SVE", "neoverse-v1", 1, 1024, false),
    ("one CPU of Armv9", "neoverse-n2", 1, 1024, false),
    ("the widest vectors", "a64fx", 4, 1024, false),
    ("four CPUs of Armv9", "cortex-a710", 4, 1024, false),
    ("every CPU feature", "max", 4, 1024, false),
    ("a disk of the user's, no FAT", "cortex-a72", 2, 1024, true),
];

/// What is built from Debian's source for the tests.
const PKVM_KERNEL: &str = "a Linux kernel with the pKVM guest driver";

/// How long each fuzz target runs: long enough to try the seeds and some
/// thousand inputs like them.
const FUZZ: Duration = Duration::from_secs(5);

/// The end-to-end tests that boot the story.
const STORY: &str = "promises";
/// How the names of those begin that boot Linux, and take longest.
const LINUX: &str = "linux";

/// Runs everything, in the order in which a failure comes soonest and says
/// most: what needs no machine, the story, the rest of the booted machine,
/// Linux. Goes on after a failure.
///
/// # Errors
/// When something cannot even be started.
pub fn run(workspace: &Workspace, options: &TestOptions) -> Result<Outcome> {
    let start = Instant::now();
    let mut suites = Suites::default();
    // Beside the others, which leave it what they do not need: it is long,
    // and only the tests with Linux ask for it.
    let kernel = (!options.quick && !options.offline).then(|| build_pkvm_kernel(workspace));
    anstream::println!("\n  {}", paint(HEAD, "checks"));
    suites.add("formatting, lints, documentation, catalogue, unsafe audit".into(), || {
        Ok(Some(check::run(workspace)? == Outcome::Pass))
    })?;
    native(workspace, &mut suites)?;
    // Once, with progress: the test programs then find everything built.
    build::images(workspace)?;
    suites.tests(workspace, "end to end: the story", &mut end_to_end(&[STORY]))?;
    if !options.quick {
        rest(workspace, options, kernel, &mut suites)?;
    }
    if options.long {
        long(workspace, options, &mut suites)?;
    }
    if qemu::interrupted() {
        return Ok(Outcome::Interrupted);
    }
    Ok(summary(&suites.0, start.elapsed()))
}

/// Tests that need no machine.
fn native(workspace: &Workspace, suites: &mut Suites) -> Result<()> {
    let mut command = cargo();
    command.args(["test", "--workspace", "--exclude", "tests", "--no-fail-fast"]);
    suites.tests(workspace, "native: unit tests, simulated machine, models", &mut command)
}

/// End-to-end tests. The whole workspace is named, and not their package,
/// because what cargo builds depends on it: so nothing is built twice.
fn end_to_end<S: AsRef<OsStr>>(programs: &[S]) -> Command {
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]);
    programs.iter().for_each(|program| {
        command.arg("--test").arg(program);
    });
    command
}

/// What a quick run leaves out.
fn rest(
    workspace: &Workspace,
    options: &TestOptions,
    kernel: Option<JoinHandle<(bool, Duration)>>,
    suites: &mut Suites,
) -> Result<()> {
    let mut command = cargo();
    command.args(["test", "--package", "hyp", "--features", "oracle", "--lib", "tests::"]);
    suites.tests(workspace, "simulated machine, rules checked after each call", &mut command)?;
    // A check that lives in a debug assertion is none at EL2.
    let mut command = cargo();
    command.args(["test", "--package", "hyp", "--lib", "tests::"]);
    command.env("CARGO_PROFILE_DEV_DEBUG_ASSERTIONS", "false");
    suites.tests(workspace, "simulated machine, without debug assertions", &mut command)?;
    let mut command = cargo();
    command.args(["test", "--package", "model", "--features", "shuttle", "--test", "interleaved"]);
    suites.tests(workspace, "model, several CPUs interleaved", &mut command)?;

    let others = programs(workspace, Kind::Other)?;
    suites.tests(workspace, "end to end: all but the story and Linux", &mut end_to_end(&others))?;
    for (name, cpu, cpus, memory, own_disk) in MATRIX {
        let mut command = end_to_end(&[STORY]);
        command.env(environment::CPU, cpu);
        command.env(environment::CPUS, cpus.to_string());
        command.env(environment::MEMORY, memory.to_string());
        if own_disk {
            command.env(environment::DISK, own_disk_file(workspace)?);
        }
        let name = format!("end to end: {name} ({cpus} × {cpu})");
        suites.tests(workspace, &name, &mut command)?;
    }
    let mut command = end_to_end(&[STORY]);
    command.env(environment::ORACLE, "changes");
    suites.tests(workspace, "end to end: bouncer with its oracle", &mut command)?;
    if !qemu::interrupted() {
        let name = format!("fuzz targets, {} s each", FUZZ.as_secs());
        anstream::println!("\n  {}", paint(HEAD, &name));
        suites.add(name, || fuzz::short_round(workspace, FUZZ))?;
    }
    if let Some(kernel) = kernel {
        let (passed, took) = kernel.join().unwrap_or_default();
        let name = format!("building {PKVM_KERNEL}, beside the others");
        suites.0.push(Suite { name, passed: Some(passed), took });
    }
    let mut command = end_to_end(&programs(workspace, Kind::Linux)?);
    if options.offline {
        command.env(environment::OFFLINE, "1");
        suites.add("Linux as the guest, which must be fetched (--offline)".into(), || Ok(None))?;
    } else {
        suites.tests(workspace, "end to end: Linux as the guest", &mut command)?;
    }
    Ok(())
}

/// What a machine with two cores needs hours for.
fn long(workspace: &Workspace, options: &TestOptions, suites: &mut Suites) -> Result<()> {
    for cpus in [1, 4] {
        let name = format!("every attack on every CPU model, {cpus} CPUs");
        anstream::println!("\n  {}", paint(HEAD, &name));
        let attack =
            AttackOptions { ids: vec![], cpu: vec!["all".into()], cpus, json: None, list: false };
        suites.add(name, || Ok(Some(attack::run(workspace, &attack)? == Outcome::Pass)))?;
    }
    if !options.offline {
        let mut command = end_to_end(&programs(workspace, Kind::Linux)?);
        command.args(["--", "--ignored"]);
        suites.tests(workspace, "end to end: Linux as the guest, the long ones", &mut command)?;
    }
    Ok(())
}

/// What a program of end-to-end tests boots.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Story,
    Linux,
    Other,
}

impl Kind {
    fn of(program: &str) -> Self {
        match program {
            STORY => Kind::Story,
            _ if program.starts_with(LINUX) => Kind::Linux,
            _ => Kind::Other,
        }
    }
}

/// The programs of end-to-end tests of one kind, by name.
fn programs(workspace: &Workspace, kind: Kind) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(workspace.root.join("tests/tests"))? {
        let path = entry?.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.extension().is_some_and(|end| end == "rs") && Kind::of(&stem) == kind {
            names.push(stem);
        }
    }
    names.sort();
    Ok(names)
}

/// A suite that has run, or could not.
struct Suite {
    name: String,
    /// `None`: left out, because something it needs is not on this machine.
    passed: Option<bool>,
    took: Duration,
}

#[derive(Default)]
struct Suites(Vec<Suite>);

impl Suites {
    /// Runs one and keeps what came of it.
    fn add(&mut self, name: String, run: impl FnOnce() -> Result<Option<bool>>) -> Result<()> {
        let start = Instant::now();
        let passed = run()?;
        self.0.push(Suite { name, passed, took: start.elapsed() });
        Ok(())
    }

    /// Runs a test command as one, unless Ctrl-C was pressed.
    fn tests(&mut self, workspace: &Workspace, name: &str, command: &mut Command) -> Result<()> {
        self.add(name.to_owned(), || {
            Ok(Some(!qemu::interrupted() && tests(workspace, name, command)?))
        })
    }
}

/// Builds the kernel that no distribution has, once, and says why not: as a
/// thread, of which one hears whether it is there and how long it took.
fn build_pkvm_kernel(workspace: &Workspace) -> JoinHandle<(bool, Duration)> {
    let workspace = workspace.clone();
    anstream::println!(
        "\n  {}",
        paint(HEAD, format!("{PKVM_KERNEL}, built once, beside the rest"))
    );
    std::thread::spawn(move || {
        let start = Instant::now();
        let built = guest::pkvm::build(&workspace);
        if let Err(error) = &built {
            anstream::eprintln!("{}: {PKVM_KERNEL}: {error:#}", paint(BAD, "error"));
        }
        (built.is_ok(), start.elapsed())
    })
}

/// Runs a test command; its output is the user's.
fn tests(workspace: &Workspace, name: &str, command: &mut Command) -> Result<bool> {
    anstream::println!("\n  {}", paint(HEAD, name));
    let status = command
        .current_dir(&workspace.root)
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot run the tests of {name}"))?;
    Ok(status.success())
}

/// A disk such as a user may bring: neither FAT nor whole sectors.
fn own_disk_file(workspace: &Workspace) -> Result<std::path::PathBuf> {
    let path = workspace.folder("runs")?.join("users-file.txt");
    let text: String = (0..20_000).map(|line| format!("line {line} of a user's file\n")).collect();
    // Another run may be reading it.
    let new = path.with_extension(std::process::id().to_string());
    std::fs::write(&new, text)?;
    std::fs::rename(new, &path)?;
    Ok(path)
}

fn dim(took: Duration) -> String {
    let seconds = took.as_secs();
    paint(DIM, format!("({} min {} s)", seconds / 60, seconds % 60))
}

fn summary(suites: &[Suite], took: Duration) -> Outcome {
    anstream::println!("\n  {}", paint(HEAD, "summary"));
    for Suite { name, passed, took } in suites {
        let took = dim(*took);
        match passed {
            Some(true) => anstream::println!("    {} {name} {took}", paint(GOOD, "✓")),
            Some(false) => anstream::println!("    {} {name} {took}", paint(BAD, "✗")),
            None => anstream::println!("    {} {name}: left out, see above", paint(BAD, "–")),
        }
    }
    let count = |what| suites.iter().filter(|suite| suite.passed == what).count();
    let (failed, left_out) = (count(Some(false)), count(None));
    let took = dim(took);
    if failed == 0 {
        // What did not run has not passed.
        let text = match left_out {
            0 => "PASS: all suites".to_owned(),
            _ => format!("PASS: {} suites, {left_out} left out", suites.len() - left_out),
        };
        anstream::println!("\n  {} {took}", paint(GOOD, text));
        return Outcome::Pass;
    }
    let text = format!("FAIL: {failed} of {} suites", suites.len());
    anstream::println!("\n  {} {took}", paint(BAD, text));
    Outcome::Fail
}
