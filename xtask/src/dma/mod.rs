//! `cargo xtask dma`: DMA systems side by side.
//!
//! | file | one idea |
//! |---|---|
//! | `modes` | the systems, and the demonstrations that each must make |
//! | `judge` | from console lines to one verdict for each demonstration |
//! | `cost` | from console lines to the figures of a request |
//! | `compare` | measuring all, and comparing with the committed figures |
//! | `owners` | whose each page of the guest's is, from a trace of page tables |
//! | `table` | the figures on a terminal |
//! | `report` | the figures as a page, with charts and the ownership map |

mod compare;
mod cost;
mod judge;
mod modes;
mod owners;
mod report;
mod table;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::report::DiskReport;
use crate::story::{self, Config};
use crate::term::{BAD, DIM, GOOD, HEAD, Step, paint};
use crate::workspace::Workspace;
use crate::{Outcome, Usage, build, qemu, setup};
use judge::{Shown, Verdict};
use modes::{MODES, Mode};

/// `dma`'s options.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct DmaOptions {
    /// Systems, as bounce-bar; all if none
    #[arg(value_name = "MODE")]
    pub modes: Vec<String>,
    /// Only show which systems and demonstrations there are
    #[arg(long)]
    pub list: bool,
    /// Instead of demonstrations, figures: what a request costs by size and
    /// depth, what the host can see meanwhile, limits and trust
    ///
    /// Counted on one cortex-a72 under QEMU's instruction counting, so the
    /// figures are the same on every machine and every day, for the same
    /// binaries.
    #[arg(long, conflicts_with = "list")]
    pub compare: bool,
    /// Compare the figures with docs/dma-figures.json: exits 1 if one differs
    /// by more than 3 %
    #[arg(long, requires = "compare")]
    pub check: bool,
    /// Write a page of HTML with charts, and whose each page of the guest's is,
    /// to FILE [default: target/bouncer/dma.html]
    #[arg(long, value_name = "FILE", requires = "compare", num_args = 0..=1,
        default_missing_value = "target/bouncer/dma.html")]
    pub report: Option<PathBuf>,
    /// Write the figures to docs/dma-figures.json
    #[arg(long, requires = "compare", conflicts_with = "check")]
    pub write: bool,
    /// Write the result as JSON to FILE
    #[arg(long, value_name = "FILE", conflicts_with = "list")]
    pub json: Option<PathBuf>,
}

/// `--json`.
#[derive(Debug, Serialize)]
struct Report {
    result: &'static str,
    modes: Vec<OfMode>,
}

/// What came of one system.
#[derive(Debug, Serialize)]
struct OfMode {
    mode: &'static str,
    demonstrations: Vec<Shown>,
    /// Why the boot failed as a whole, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

impl OfMode {
    fn held(&self) -> bool {
        let each = self.demonstrations.iter().all(|shown| shown.verdict == Verdict::Held);
        // Nothing shown is nothing held.
        each && !self.demonstrations.is_empty() && self.trouble.is_none()
    }
}

/// Makes the demonstrations, or the comparison.
///
/// # Errors
/// When a mode is unknown, or something cannot be set up, built or booted.
pub fn run(workspace: &Workspace, options: &DmaOptions) -> Result<Outcome> {
    let modes = select(&options.modes)?;
    if options.list {
        modes.iter().for_each(|mode| list(mode));
        return Ok(Outcome::Pass);
    }
    reject(options, &modes)?;
    if options.compare {
        return compare::run(workspace, options, &modes);
    }
    setup::run()?;
    let images = build::images(workspace)?;
    let mut all = Vec::new();
    for mode in modes.into_iter().filter(|mode| !mode.rows.is_empty()) {
        let mut config = Config::new(&format!("dma-{}", mode.name));
        config.scenario = "dma".into();
        config.words = format!("mode={} part=show", mode.name);
        let step = Step::new("Booting");
        let run = story::tell(workspace, &images, &config, &mut |line| step.note(line))?;
        if qemu::interrupted() {
            return Ok(Outcome::Interrupted);
        }
        step.done(mode.name);
        let mut seen = OfMode {
            mode: mode.name,
            demonstrations: judge::judge(mode, &run.transcript.lines),
            trouble: None,
        };
        if mode.rows.iter().any(|row| row.id == "disk") {
            seen.trouble = wrong_data(&run.report.disk);
        }
        if run.transcript.host_result.as_deref() != Some("pass") {
            seen.trouble = Some("the host did not say that all is well".into());
            run.transcript.tail(crate::run::TAIL).iter().for_each(|line| {
                anstream::eprintln!("    {line}");
            });
        }
        show(mode, &seen);
        all.push(seen);
    }
    conclude(options, all)
}

/// What is wrong with the data that a guest has read and written.
fn wrong_data(disk: &DiskReport) -> Option<String> {
    if disk.sha256_guest != disk.sha256_host {
        let (guest, host) = (&disk.sha256_guest, &disk.sha256_host);
        return Some(format!("SHA-256 of {}: guest {guest:?}, image {host:?}", disk.file));
    }
    (!disk.write_seen).then(|| "the guest's write is not on the disk".into())
}

/// The systems asked for, in the table's order.
fn select(names: &[String]) -> Result<Vec<&'static Mode>> {
    for name in names {
        if !MODES.iter().any(|mode| mode.name == name) {
            let all: Vec<&str> = MODES.iter().map(|mode| mode.name).collect();
            let error = format!("there is no DMA system {name}; there are {}", all.join(", "));
            return Err(Usage(error).into());
        }
    }
    let wanted = |mode: &&Mode| names.is_empty() || names.iter().any(|name| name == mode.name);
    Ok(MODES.iter().filter(wanted).collect())
}

/// Refuses what would do nothing and pass, and a report that would be a file
/// of a system's name.
fn reject(options: &DmaOptions, modes: &[&Mode]) -> Result<()> {
    if let Some(file) = options.report.as_deref().and_then(Path::to_str)
        && MODES.iter().any(|mode| mode.name == file)
    {
        let error = format!("--report takes {file} for a file: name systems before --report");
        return Err(Usage(error).into());
    }
    let does =
        |mode: &&Mode| if options.compare { mode.words.is_some() } else { !mode.rows.is_empty() };
    if modes.iter().any(does) {
        return Ok(());
    }
    let names: Vec<&str> = modes.iter().map(|mode| mode.name).collect();
    let error = match options.compare {
        true => format!("there are no figures of {}: leave --compare out", names.join(", ")),
        false => format!("{} has no demonstrations: add --compare", names.join(", ")),
    };
    Err(Usage(error).into())
}

fn list(mode: &Mode) {
    anstream::println!("  {}", paint(HEAD, mode.name));
    for row in mode.rows {
        anstream::println!("    {:<11} {:<8} {}", row.id, row.must.word(), row.what);
    }
}

fn show(mode: &Mode, seen: &OfMode) {
    anstream::println!("\n  {}  {}", paint(HEAD, mode.name), paint(DIM, mode.what));
    for shown in &seen.demonstrations {
        let (mark, how) = match &shown.verdict {
            Verdict::Held => (paint(GOOD, "✓"), shown.seen.clone()),
            Verdict::Broken => (paint(BAD, "✗"), paint(BAD, &shown.seen)),
            Verdict::Missing => (paint(BAD, "✗"), paint(BAD, "not tried")),
        };
        let what = format!("{}, {}", shown.what, shown.must);
        anstream::println!("    {mark} {:<11} {what}: {how}", shown.id);
    }
    if let Some(trouble) = &seen.trouble {
        anstream::println!("    {} {}", paint(BAD, "✗"), paint(BAD, trouble));
    }
}

fn conclude(options: &DmaOptions, modes: Vec<OfMode>) -> Result<Outcome> {
    let held = modes.iter().all(OfMode::held);
    let all: usize = modes.iter().map(|mode| mode.demonstrations.len()).sum();
    let good = modes.iter().flat_map(|mode| &mode.demonstrations);
    let good = good.filter(|shown| shown.verdict == Verdict::Held).count();
    let text = format!("{good} of {all} demonstrations of {} systems", modes.len());
    let word = if held { paint(GOOD, "PASS") } else { paint(BAD, "FAIL") };
    anstream::println!("\n  {word}: {text}");
    if let Some(path) = &options.json {
        let report = Report { result: if held { "pass" } else { "fail" }, modes };
        let json = serde_json::to_string_pretty(&report)? + "\n";
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(if held { Outcome::Pass } else { Outcome::Fail })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_system_is_wrong_usage_and_none_is_all() {
        assert_eq!(select(&[]).unwrap().len(), MODES.len());
        let one = select(&["device-memory".into()]).unwrap();
        assert_eq!(one.iter().map(|mode| mode.name).collect::<Vec<_>>(), ["device-memory"]);
        let error = select(&["iommu".into()]).unwrap_err();
        assert!(error.is::<Usage>() && error.to_string().contains("bounce-bar"), "{error}");
    }

    #[test]
    fn a_command_that_would_do_nothing_is_wrong_usage() {
        let refusal = |options: DmaOptions| {
            let modes = select(&options.modes).unwrap();
            reject(&options, &modes).err().map(|error| {
                assert!(error.is::<Usage>());
                error.to_string()
            })
        };
        let of = |names: &[&str], compare| DmaOptions {
            modes: names.iter().map(|&name| name.to_owned()).collect(),
            compare,
            ..DmaOptions::default()
        };
        for (names, compare) in [
            (&[][..], false),
            (&[], true),
            (&["unprotected"], true),
            (&["shared-pages"], false),
            (&["unprotected", "shared-pages"], false),
            (&["unprotected", "shared-pages"], true),
        ] {
            assert_eq!(refusal(of(names, compare)), None, "{names:?}");
        }
        let nothing = refusal(of(&["unprotected"], false));
        assert!(nothing.is_some_and(|why| why.contains("unprotected") && why.contains("add")));
        let nothing = refusal(of(&["shared-pages", "host-choice"], true));
        assert!(nothing.is_some_and(|why| why.contains("shared-pages, host-choice")));
        let report = |file: &str| DmaOptions { report: Some(file.into()), ..of(&[], true) };
        assert_eq!(refusal(report("page.html")), None);
        assert!(refusal(report("bounce-bar")).is_some_and(|why| why.contains("before --report")));
    }

    #[test]
    fn data_must_be_read_right_and_written() {
        let disk = DiskReport {
            file: "A".into(),
            sha256_guest: "00".into(),
            sha256_host: "00".into(),
            write_seen: true,
        };
        assert_eq!(wrong_data(&disk), None);
        assert!(wrong_data(&DiskReport { write_seen: false, ..disk.clone() }).is_some());
        let other = DiskReport { sha256_guest: String::new(), ..disk };
        assert!(wrong_data(&other).is_some_and(|why| why.contains("SHA-256 of A")));
    }

    #[test]
    fn nothing_shown_has_not_held() {
        let seen = OfMode { mode: "x", demonstrations: Vec::new(), trouble: None };
        assert!(!seen.held());
    }
}
