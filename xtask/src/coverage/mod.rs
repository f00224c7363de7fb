//! `cargo xtask coverage`: which lines of `hyp` its tests, its fuzz corpora and
//! the booted machine execute.
//!
//! The unit tests, the model's tests and the checkers (over the committed
//! seeds and over whatever corpus `cargo xtask fuzz` has bred here) are built
//! with the compiler's own instrumentation and run once. The booted machine is
//! watched from outside, as it is.

mod booted;
mod lines;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use crate::term::{BAD, DIM, GOOD, HEAD, Step, paint, run_quietly};
use crate::workspace::{Workspace, cargo, shown};
use crate::{Outcome, setup};
use lines::Count;

/// Percent of the lines of `hyp` that are to be covered.
const GOAL: f64 = 95.0;
/// Packages whose tests exercise `hyp`.
const PACKAGES: [&str; 3] = ["hyp", "model", "checkers"];
/// How many of the least covered files are named.
const LOWEST: usize = 8;

/// `coverage`'s options.
#[derive(Debug, Clone, Args)]
pub struct CoverageOptions {
    /// Open the annotated source in a browser
    #[arg(long)]
    pub open: bool,
    /// Write the figures as JSON to FILE
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// The figures.
#[derive(Debug, Serialize)]
struct Figures {
    percent: f64,
    goal: f64,
    covered: u64,
    lines: u64,
    modules: Vec<Part>,
    files: Vec<Part>,
    /// Of the lines that have an instruction in bouncer's image, those that
    /// the story executes.
    booted: Booted,
}

/// What the booted machine executed.
#[derive(Debug, Serialize)]
struct Booted {
    percent: f64,
    covered: u64,
    lines: u64,
    modules: Vec<Part>,
    files: Vec<Part>,
}

/// A module's or a file's.
#[derive(Debug, Serialize)]
struct Part {
    name: String,
    percent: f64,
    covered: u64,
    lines: u64,
}

/// Measures and prints; fails below the goal.
///
/// # Errors
/// When something cannot be built or run, or a test fails.
pub fn run(workspace: &Workspace, options: &CoverageOptions) -> Result<Outcome> {
    setup::run()?;
    let tools = Tools::find()?;
    let folder = workspace.folder("coverage")?;
    let programs = test(workspace, &folder)?;
    let step = Step::new("Counting");
    let profile = merge(&step, &tools, &folder)?;
    let mut export = tools.cov("export", &profile, &programs);
    let lcov = run_quietly(&step, export.arg("-format=lcov"))?;
    let files = lines::count(&lcov, &workspace.root.join("hyp/src"))?;
    let html = folder.join("html");
    let mut show = tools.cov("show", &profile, &programs);
    show.args(["-format=html", "-show-line-counts-or-regions", "-ignore-filename-regex"]);
    show.arg("(registry|rustc|/sim/|/tests/|library/)");
    run_quietly(&step, show.arg(format!("-output-dir={}", html.display())))?;
    step.done("which lines were executed");
    let figures = figures(&files, &booted::count(workspace)?);
    print(&figures, &html.join("index.html"));
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_string_pretty(&figures)?)
            .with_context(|| format!("cannot write {}", shown(path)))?;
    }
    if options.open {
        open(&html.join("index.html"))?;
    }
    Ok(if figures.percent >= GOAL { Outcome::Pass } else { Outcome::Fail })
}

/// Builds and runs the tests; returns their programs.
fn test(workspace: &Workspace, folder: &Path) -> Result<Vec<PathBuf>> {
    let profiles = folder.join("profiles");
    if profiles.exists() {
        std::fs::remove_dir_all(&profiles)?;
    }
    let command = |profile: &str, arguments: &[&str]| {
        let mut command = cargo();
        command.current_dir(&workspace.root).args(["test", "--lib", "--tests"]);
        for package in PACKAGES {
            command.args(["--package", package]);
        }
        command.env("RUSTFLAGS", "-Cinstrument-coverage");
        command.env("CARGO_TARGET_DIR", folder.join("build"));
        command.env("LLVM_PROFILE_FILE", profiles.join(profile));
        command.env("BOUNCER_CORPUS", workspace.target.join("bouncer/fuzz/corpus"));
        command.args(arguments);
        command
    };
    let step = Step::new("Building");
    let mut build =
        command("build-%m.profraw", &["--no-run", "--message-format=json-render-diagnostics"]);
    let messages = run_quietly(&step, &mut build).context("the build failed")?;
    step.done("tests, instrumented");
    let step = Step::new("Testing");
    run_quietly(&step, &mut command("%m-%p.profraw", &[])).context("a test failed")?;
    step.done("unit tests, model, seeds and corpora");
    let programs: Vec<PathBuf> = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
        .collect();
    if programs.is_empty() { bail!("cargo built no tests") } else { Ok(programs) }
}

fn merge(step: &Step, tools: &Tools, folder: &Path) -> Result<PathBuf> {
    let profile = folder.join("all.profdata");
    let mut command = Command::new(tools.path("llvm-profdata"));
    command.args(["merge", "-sparse", "-o"]).arg(&profile).arg(folder.join("profiles"));
    run_quietly(step, &mut command)?;
    Ok(profile)
}

/// The compiler's own LLVM tools: others may not read its profiles.
struct Tools(PathBuf);

impl Tools {
    /// Installs them if they are missing.
    fn find() -> Result<Self> {
        let output = Command::new("rustc").args(["--print", "target-libdir"]).output()?;
        let libraries = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        let tools = Self(libraries.parent().context("a target folder")?.join("bin"));
        if tools.missing().is_some() {
            let step = Step::new("Setting up");
            setup::rust::add_component(&step, "llvm-tools")?;
            step.done("llvm-tools");
        }
        match tools.missing() {
            None => Ok(tools),
            Some(tool) => bail!("{tool} is not in {}: install llvm-tools", shown(&tools.0)),
        }
    }

    fn missing(&self) -> Option<&'static str> {
        ["llvm-profdata", "llvm-cov"].into_iter().find(|tool| !self.path(tool).is_file())
    }

    fn path(&self, tool: &str) -> PathBuf {
        self.0.join(tool)
    }

    fn cov(&self, task: &str, profile: &Path, programs: &[PathBuf]) -> Command {
        let mut command = Command::new(self.path("llvm-cov"));
        command.arg(task).arg(format!("-instr-profile={}", profile.display()));
        for (index, program) in programs.iter().enumerate() {
            if index > 0 {
                command.arg("-object");
            }
            command.arg(program);
        }
        command
    }
}

fn part((name, count): &(String, Count)) -> Part {
    let Count { covered, lines } = *count;
    Part { name: name.clone(), percent: count.percent(), covered, lines }
}

/// The sums of each module, and of all.
fn sums(files: &[(String, Count)]) -> (Vec<(String, Count)>, Count) {
    let mut modules: Vec<(String, Count)> = Vec::new();
    for (name, count) in files {
        let module = name.split(['/', '.']).next().unwrap_or_default();
        match modules.iter_mut().find(|(known, _)| known == module) {
            Some((_, sum)) => *sum = sum.plus(*count),
            None => modules.push((module.to_owned(), *count)),
        }
    }
    let total = files.iter().fold(Count::default(), |sum, (_, count)| sum.plus(*count));
    (modules, total)
}

fn figures(native: &[(String, Count)], booted: &[(String, Count)]) -> Figures {
    let parts = |counts: &[(String, Count)]| counts.iter().map(part).collect();
    let (modules, total) = sums(native);
    let (booted_modules, booted_total) = sums(booted);
    Figures {
        percent: total.percent(),
        goal: GOAL,
        covered: total.covered,
        lines: total.lines,
        modules: parts(&modules),
        files: parts(native),
        booted: Booted {
            percent: booted_total.percent(),
            covered: booted_total.covered,
            lines: booted_total.lines,
            modules: parts(&booted_modules),
            files: parts(booted),
        },
    }
}

fn print(figures: &Figures, html: &Path) {
    anstream::println!(
        "\n  {}\n    {:<16} {:^27} {:^27}",
        paint(HEAD, "lines of hyp that are executed, by module"),
        "",
        "by tests and corpora",
        "by the booted story"
    );
    for part in &figures.modules {
        let row = format!("    {:<16} {}", part.name, columns(part));
        let booted = figures.booted.modules.iter().find(|booted| booted.name == part.name);
        let booted = booted.map(columns).unwrap_or_default();
        anstream::println!("{}", format!("{row} {booted}").trim_end());
    }
    let mut files: Vec<&Part> = figures.files.iter().filter(|file| file.percent < 100.0).collect();
    files.sort_by(|a, b| a.percent.total_cmp(&b.percent));
    anstream::println!("\n  {}", paint(HEAD, "lowest files, by tests and corpora"));
    for part in files.iter().take(LOWEST) {
        let missed = part.lines - part.covered;
        anstream::println!("    {:<28} {:>6.1} %  {missed} lines missed", part.name, part.percent);
    }
    let style = if figures.percent >= GOAL { GOOD } else { BAD };
    let total = format!("{:.1} % of {} lines", figures.percent, figures.lines);
    anstream::println!("\n  {}, the goal is {GOAL} %", paint(style, total));
    let booted = &figures.booted;
    anstream::println!(
        "  {:.1} % of the {} lines that have code in the image, on the booted machine",
        booted.percent,
        booted.lines
    );
    anstream::println!("  {}\n", paint(DIM, shown(html)));
}

/// Percent and lines, in columns.
fn columns(part: &Part) -> String {
    format!("{:>7.1} %  {:>5} of {:>5}  ", part.percent, part.covered, part.lines)
}

fn open(page: &Path) -> Result<()> {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let status = Command::new(program).arg(page).status();
    let status = status.with_context(|| format!("cannot run {program}; open it by hand"))?;
    if status.success() { Ok(()) } else { bail!("{program} could not open {}", shown(page)) }
}
