//! `cargo xtask test`: everything, in the order in which a failure says most.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

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
}

/// Machines on which every promise is tested, beside the default one that
/// plain `cargo test` boots: (name, CPU model, CPUs, MiB, own disk).
const MATRIX: [(&str, &str, u32, u64, bool); 4] = [
    ("one small CPU", "cortex-a72", 1, 512, false),
    ("four server CPUs, 8 GiB", "neoverse-n1", 4, 8192, false),
    ("every CPU feature", "max", 4, 1024, false),
    ("a disk of the user's, no FAT", "cortex-a72", 2, 1024, true),
];

/// What is built from Debian's source for the tests.
const PKVM_KERNEL: &str = "a Linux kernel with the pKVM guest driver";

/// How long each fuzz target runs: long enough to try the seeds and some
/// thousand inputs like them.
const FUZZ: Duration = Duration::from_secs(5);

/// Runs everything; goes on after a failure.
///
/// # Errors
/// When something cannot even be started.
pub fn run(workspace: &Workspace, options: &TestOptions) -> Result<Outcome> {
    let start = Instant::now();
    // Once, with progress: the test binaries then find everything built.
    build::images(workspace)?;
    let mut suites = Suites::default();
    // The test that boots it leaves itself out where there is none.
    if !options.offline {
        suites
            .add(format!("building {PKVM_KERNEL}"), || Ok(Some(builds_pkvm_kernel(workspace))))?;
    }
    let mut suite = |name: String, command: &mut Command| -> Result<()> {
        let title = name.clone();
        suites.add(name, || Ok(Some(!qemu::interrupted() && tests(workspace, &title, command)?)))
    };
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]);
    if options.offline {
        command.env(environment::OFFLINE, "1");
    }
    suite("unit, simulated machine, default boot, Linux as the guest".into(), &mut command)?;
    for (name, cpu, cpus, memory, own_disk) in MATRIX {
        let mut command = cargo();
        command.args(["test", "--no-fail-fast", "--package", "tests", "--test", "promises"]);
        command.env(environment::CPU, cpu);
        command.env(environment::CPUS, cpus.to_string());
        command.env(environment::MEMORY, memory.to_string());
        if own_disk {
            command.env(environment::DISK, own_disk_file(workspace)?);
        }
        suite(format!("end to end: {name}"), &mut command)?;
    }
    let mut command = cargo();
    command.args(["test", "--package", "hyp", "--features", "oracle", "--lib", "tests::"]);
    suite("simulated machine, rules checked after each call".into(), &mut command)?;
    // A check that lives in a debug assertion is none at EL2.
    let mut command = cargo();
    command.args(["test", "--package", "hyp", "--lib", "tests::"]);
    command.env("CARGO_PROFILE_DEV_DEBUG_ASSERTIONS", "false");
    suite("simulated machine, without debug assertions".into(), &mut command)?;
    let mut command = cargo();
    command.args(["test", "--no-fail-fast", "--package", "tests", "--test", "promises"]);
    command.env(environment::ORACLE, "changes");
    suite("end to end: bouncer with its oracle".into(), &mut command)?;
    if options.offline {
        let name = "Linux as the guest, which must be fetched (--offline)";
        suites.add(name.into(), || Ok(None))?;
    }
    if !qemu::interrupted() {
        let name = format!("fuzz targets, {} s each", FUZZ.as_secs());
        anstream::println!("\n  {}", paint(HEAD, &name));
        suites.add(name, || fuzz::short_round(workspace, FUZZ))?;
    }
    anstream::println!("\n  {}", paint(HEAD, "checks"));
    suites.add("formatting, lints, documentation, unsafe audit".into(), || {
        Ok(Some(check::run(workspace)? == Outcome::Pass))
    })?;
    if qemu::interrupted() {
        return Ok(Outcome::Interrupted);
    }
    Ok(summary(&suites.0, start.elapsed()))
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
}

/// Builds the kernel that no distribution has, once; says why not.
fn builds_pkvm_kernel(workspace: &Workspace) -> bool {
    anstream::println!("\n  {}", paint(HEAD, format!("{PKVM_KERNEL}, built once")));
    match guest::pkvm::build(workspace) {
        Ok(_) => true,
        Err(error) => {
            anstream::eprintln!("{}: {error:#}", paint(BAD, "error"));
            false
        }
    }
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
    std::fs::write(&path, text)?;
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
