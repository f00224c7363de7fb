//! `cargo xtask dma --compare`: the systems side by side, in figures.
//!
//! One cortex-a72 under instruction counting, a bouncer that measures itself:
//! the figures are the same on every machine and every day, for the same
//! binaries.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::DmaOptions;
use super::cost::Measured;
use super::modes::Mode;
use super::{owners, report, table};
use crate::build::{self, Images, Variant};
use crate::qemu::{self, End, Machine};
use crate::story::{self, Config, Run};
use crate::term::{BAD, GOOD, Step, paint};
use crate::workspace::Workspace;
use crate::{Outcome, setup};

/// The committed figures.
pub(super) const FIGURES: &str = "docs/dma-figures.json";
/// How much a figure may differ from the committed one.
const TOLERANCE: f64 = 0.03;

/// A file of figures: `--json`, and the committed ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Figures {
    pub(super) systems: Vec<Measured>,
}

/// Measures, prints, and compares or writes if that was asked for.
///
/// # Errors
/// When something cannot be set up, built, booted, read or written, or a boot
/// does not tell all that it should.
pub(super) fn run(
    workspace: &Workspace,
    options: &DmaOptions,
    modes: &[&'static Mode],
) -> Result<Outcome> {
    let file = workspace.root.join(FIGURES);
    // Before it is measured for minutes.
    options.report.as_deref().map_or(Ok(()), report::prepare)?;
    let committed = if options.check || options.write { read(&file, options.write)? } else { None };
    setup::run()?;
    let images = build::images_of(workspace, Variant::Profiled)?;
    let mut systems = Vec::new();
    for mode in modes.iter().filter(|mode| mode.words.is_some()) {
        let Some(measured) = measure(workspace, &images, mode)? else {
            return Ok(Outcome::Interrupted);
        };
        systems.push(measured);
    }
    if options.report.is_some() {
        let traced = build::images_of(workspace, Variant::Traced)?;
        for system in &mut systems {
            let Some(mode) = modes.iter().find(|mode| mode.name == system.mode) else { continue };
            let Some(owners) = owners::watch(workspace, &traced, mode)? else {
                return Ok(Outcome::Interrupted);
            };
            system.owners = owners;
        }
    }
    let figures = Figures { systems };
    table::print(&figures.systems, modes);
    if let Some(path) = &options.json {
        write(path, &figures)?;
    }
    if let Some(path) = options.report.as_deref() {
        report::write(path, &figures.systems, modes)?;
        anstream::println!("\n  report: {}", path.display());
    }
    let over: Vec<String> = figures.systems.iter().flat_map(over_goal).collect();
    over.iter().for_each(|line| anstream::println!("    {}", paint(BAD, line)));
    if options.write {
        write(&file, &merged(committed, &figures))?;
        anstream::println!("\n  written to {FIGURES}");
        return Ok(if over.is_empty() { Outcome::Pass } else { Outcome::Fail });
    }
    let outcome = committed.map(|committed| judge(&differences(&committed, &figures)));
    Ok(if over.is_empty() { outcome.unwrap_or(Outcome::Pass) } else { Outcome::Fail })
}

/// Systems in which the device brings its memory, and what a request may cost
/// there.
const BROUGHT: [&str; 2] = ["bounce-bar", "device-memory"];
/// Exits to the host of a request, sixteen at a time.
const EXITS: f64 = 0.2;
/// Bytes of a request beside its data: header, status, indirect table.
const BESIDE: f64 = (16 + 1 + 3 * 16) as f64;

/// What of a system is more than it may be.
fn over_goal(system: &Measured) -> Vec<String> {
    let mut over = Vec::new();
    if !BROUGHT.contains(&system.mode.as_str()) {
        return over;
    }
    for cost in &system.requests {
        let exits = if cost.depth == 1 { f64::INFINITY } else { EXITS };
        let copied = cost.of.copied_in + cost.of.copied_out;
        for (what, value, most) in [
            ("hypercalls", cost.of.hypercalls, 0.0),
            ("TLB invalidations", cost.of.tlb_invalidations, 0.0),
            ("bytes copied", copied, cost.bytes as f64 + BESIDE),
            ("exits to the host", cost.of.returns_to_host, exits),
        ] {
            if value > most {
                over.push(format!(
                    "{}, {} bytes, depth {}: {value} {what}, and the goal is {most}",
                    system.mode, cost.bytes, cost.depth
                ));
            }
        }
    }
    over
}

/// Boots one system; `None` after Ctrl-C.
fn measure(workspace: &Workspace, images: &Images, mode: &Mode) -> Result<Option<Measured>> {
    let cpu = "cortex-a72,cntfrq=1000000000".to_owned();
    let config = Config {
        machine: Machine { cpu, cpus: 1, icount: true, ..Machine::default() },
        scenario: "dma".into(),
        words: format!("mode={} part=measure", mode.name),
        reserves: false,
        ..Config::new(&format!("dma-{}", mode.name))
    };
    let step = Step::new("Measuring");
    let Some(run) = boot(workspace, images, &config, &step)? else { return Ok(None) };
    step.done(mode.name);
    let measured = Measured::read(mode.name, &run.transcript.lines);
    measured.with_context(|| format!("the figures of {}", mode.name)).map(Some)
}

/// Boots what is measured or watched to its end; `None` after Ctrl-C.
///
/// # Errors
/// When it does not come to its end.
pub(super) fn boot(
    workspace: &Workspace,
    images: &Images,
    config: &Config,
    step: &Step,
) -> Result<Option<Run>> {
    let run = story::tell(workspace, images, config, &mut |line| step.note(line))?;
    if qemu::interrupted() || run.end == End::Interrupted {
        return Ok(None);
    }
    if run.end != End::PoweredOff || run.transcript.host_result.as_deref() != Some("pass") {
        for line in run.transcript.tail(crate::run::TAIL) {
            anstream::eprintln!("    {line}");
        }
        bail!("{}: not run to its end; above is the end of the console", config.name);
    }
    Ok(Some(run))
}

fn read(file: &Path, may_be_missing: bool) -> Result<Option<Figures>> {
    if may_be_missing && !file.exists() {
        return Ok(None);
    }
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let figures = serde_json::from_str(&text);
    figures.with_context(|| format!("{} is no file of figures", file.display())).map(Some)
}

fn write(file: &Path, figures: &Figures) -> Result<()> {
    let json = serde_json::to_string_pretty(figures)? + "\n";
    std::fs::write(file, json).with_context(|| format!("cannot write {}", file.display()))
}

/// The committed figures with these in the place of their own systems', without
/// what is not compared.
fn merged(committed: Option<Figures>, measured: &Figures) -> Figures {
    let mut systems = committed.map_or_else(Vec::new, |figures| figures.systems);
    let mut measured = measured.clone();
    let seen = measured.systems.iter_mut().flat_map(|system| &mut system.exposure);
    seen.for_each(|seen| seen.pages.clear());
    for new in &measured.systems {
        match systems.iter_mut().find(|old| old.mode == new.mode) {
            Some(old) => old.clone_from(new),
            None => systems.push(new.clone()),
        }
    }
    Figures { systems }
}

fn judge(differences: &[String]) -> Outcome {
    if differences.is_empty() {
        let word = paint(GOOD, "PASS");
        anstream::println!("\n  {word}: the figures are those of {FIGURES}, within 3 %");
        return Outcome::Pass;
    }
    anstream::println!();
    differences.iter().for_each(|difference| anstream::println!("    {difference}"));
    let (word, count) = (paint(BAD, "FAIL"), differences.len());
    anstream::println!(
        "\n  {word}: {count} figures differ from {FIGURES}; if they should, use --compare --write"
    );
    Outcome::Fail
}

/// What differs, one line for each figure.
pub(super) fn differences(committed: &Figures, measured: &Figures) -> Vec<String> {
    let mut all = Vec::new();
    for new in &measured.systems {
        match committed.systems.iter().find(|old| old.mode == new.mode) {
            Some(old) => system(old, new, &mut all),
            None => all.push(format!("{}: there are no committed figures of it", new.mode)),
        }
    }
    all
}

fn system(old: &Measured, new: &Measured, all: &mut Vec<String>) {
    let mode = &new.mode;
    let mut differ = |what: String, old: f64, new: f64| {
        if !close(old, new) {
            all.push(format!("{mode}, {what}: {new}, and was {old}"));
        }
    };
    for cost in &new.requests {
        let case = format!("{} bytes, depth {}", cost.bytes, cost.depth);
        match old.cost(cost.bytes, cost.depth) {
            Some(before) => {
                for ((name, old), (_, new)) in before.named().into_iter().zip(cost.of.named()) {
                    differ(format!("{case}, {name}"), old, new);
                }
            }
            None => differ(case, f64::NAN, cost.of.all()),
        }
    }
    for seen in &new.exposure {
        let case = format!("{} bytes", seen.bytes);
        let Some(before) = old.exposed(seen.bytes) else {
            differ(case, f64::NAN, seen.mean);
            continue;
        };
        for (name, old, new) in [
            ("pages at peak", before.peak as f64, seen.peak as f64),
            ("pages on average", before.mean, seen.mean),
            ("pages after unmap", before.after as f64, seen.after as f64),
            ("bytes beyond", before.beyond as f64, seen.beyond as f64),
            ("stale bytes", before.stale as f64, seen.stale as f64),
        ] {
            differ(format!("{case}, {name}"), old, new);
        }
    }
}

/// Within 3 %; what was nothing must be nothing.
fn close(old: f64, new: f64) -> bool {
    (new - old).abs() <= TOLERANCE * old.abs()
}

#[cfg(test)]
mod tests {
    use super::super::cost::tests::console;
    use super::*;

    fn figures() -> Figures {
        Figures { systems: vec![Measured::read("x", &console()).unwrap()] }
    }

    #[test]
    fn three_percent_are_close_and_nothing_is_close_to_nothing_only() {
        assert!(close(100.0, 103.0) && close(100.0, 97.0) && close(0.0, 0.0));
        assert!(!close(100.0, 103.1) && !close(100.0, 96.9) && !close(0.0, 0.001));
        assert!(!close(f64::NAN, 1.0) && !close(1.0, f64::NAN));
    }

    #[test]
    fn every_figure_is_compared() {
        let old = figures();
        assert!(differences(&old, &old).is_empty());
        let mut new = old.clone();
        new.systems[0].requests[4].of.el2 *= 1.04;
        new.systems[0].requests[4].of.tlb_invalidations = 1.0;
        new.systems[0].exposure[1].stale += 1;
        let found = differences(&old, &new);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].contains("x, 262144 bytes, depth 1, TLB invalidations: 1, and was 0"));
        // A little is none.
        let mut new = old.clone();
        new.systems[0].requests[4].of.el2 *= 1.02;
        assert!(differences(&old, &new).is_empty());
    }

    #[test]
    fn what_has_no_committed_figure_differs() {
        let new = figures();
        let mut old = new.clone();
        old.systems[0].requests.remove(0);
        old.systems[0].exposure.remove(0);
        assert_eq!(differences(&old, &new).len(), 2);
        old.systems[0].mode = "y".into();
        assert!(differences(&old, &new)[0].contains("no committed figures"));
    }

    #[test]
    fn a_device_that_brings_its_memory_has_goals() {
        let mut system = figures().systems.remove(0);
        assert!(over_goal(&system).is_empty(), "of others there are none");
        system.mode = "bounce-bar".into();
        assert_eq!(over_goal(&system).len(), 10, "one hypercall each");
        for cost in &mut system.requests {
            cost.of.hypercalls = 0.0;
        }
        assert!(over_goal(&system).is_empty());
        system.requests[9].of.returns_to_host = 0.3;
        system.requests[0].of.returns_to_host = 1.0;
        system.requests[0].of.copied_out = 66.0;
        assert_eq!(over_goal(&system).len(), 2);
    }

    #[test]
    fn systems_that_were_not_measured_keep_their_figures() {
        let (mut old, new) = (figures(), figures());
        old.systems[0].mode = "y".into();
        let both = merged(Some(old), &new);
        assert_eq!(both.systems.len(), 2);
        assert_eq!(merged(Some(both.clone()), &new), both);
    }
}
