//! `cargo xtask fuzz --on-target`: a host that calls the booted bouncer at
//! random, on several CPUs at once, over a bouncer that checks its own rules.
//!
//! A round is one boot with one seed. A seed that fails is kept with its
//! console, and made smaller: on one CPU, with time counted in instructions,
//! a run repeats exactly, and its first *n* calls are the same however many
//! follow, so the fewest calls that still fail are found by bisection.
//!
//! This bouncer is instrumented: after each round the edges that it has taken
//! are read out of its memory, and rounds that took new ones are varied.

mod edges;
mod seeds;

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use crate::Outcome;
use crate::build::{self, Images, Variant};
use crate::console::Record;
use crate::qemu::{Boot, End, Machine, Module, interrupted};
use crate::setup;
use crate::term::{BAD, DIM, GOOD, paint};
use crate::workspace::{Workspace, shown};
use edges::{Edges, Flags};
pub use seeds::Mix;
use seeds::{Choice, Random, Seeds};

/// First byte of RAM on QEMU virt, and where the host is put.
const RAM: u64 = 0x4000_0000;
const HOST: u64 = RAM + (64 << 20);
/// MiB: little, because a full check reads an entry for each frame of it.
const MEMORY: u64 = 512;
/// Calls of each CPU in the first round; later ones are made to last
/// [`ROUND`].
const FIRST: u64 = 4_000;
/// What a round should take, boot included.
const ROUND: Duration = Duration::from_secs(10);
/// A machine that says nothing new for so long hangs.
const PATIENCE: Duration = Duration::from_secs(240);

/// Options of `--on-target`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Fuzz the booted machine instead: a hostile host on all its CPUs, and a
    /// bouncer that checks its rules after each call that changes memory
    ///
    /// With --replay SEED one round is repeated.
    #[arg(long)]
    pub on_target: bool,
    /// CPUs of the machine
    #[arg(long, value_name = "N", default_value_t = 4, requires = "on_target", value_parser = clap::value_parser!(u32).range(1..=4))]
    pub cpus: u32,
    /// Seed of the first round, and of the choice of all that follow.
    /// Default: the clock
    #[arg(long, value_name = "SEED", requires = "on_target", value_parser = seed)]
    pub seed: Option<u64>,
    /// Calls of each CPU in a round. Default: as many as take 10 seconds
    #[arg(long, value_name = "N", requires = "on_target", value_parser = clap::value_parser!(u64).range(1..))]
    pub calls: Option<u64>,
    /// How often the host does what, for --replay: as a round prints it
    #[arg(long, value_name = "NUMBERS", requires = "on_target")]
    pub mix: Option<Mix>,
    /// What bouncer checks: `changes`, `every` or `off`
    #[arg(long, value_name = "WHAT", default_value = "changes", requires = "on_target", value_parser = ["changes", "every", "off"])]
    pub oracle: String,
}

/// "7" or "0x7".
///
/// # Errors
/// What is wrong with it.
pub fn seed(text: &str) -> Result<u64, String> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    }
    .map_err(|_| format!("{text:?} is no seed: write a number, such as 7 or 0x1f"))
}

/// One round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Round {
    choice: Choice,
    calls: u64,
    cpus: u32,
}

/// How a round went.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// How often the host did what.
    pub mix: String,
    /// CPUs.
    pub cpus: u32,
    /// Calls asked of each CPU.
    pub calls_per_cpu: u64,
    /// Calls made by all.
    pub calls: u64,
    /// In a second, by the machine's clock.
    pub per_second: u64,
    /// Calls refused and accesses that faulted.
    pub errors: u64,
    /// What was wrong; empty if nothing was.
    pub failure: String,
    /// Edges of bouncer's code that it took.
    pub edges: usize,
    /// Those of them that no round before has taken.
    pub new_edges: usize,
    /// Edges taken by this round and all before it, also of earlier runs of
    /// the same image.
    pub covered: usize,
    /// Edges there are.
    pub total: usize,
    #[serde(skip)]
    console: Vec<String>,
    #[serde(skip)]
    taken: Edges,
}

struct Field<'a> {
    workspace: &'a Workspace,
    images: Images,
    flags: Flags,
    oracle: &'a str,
}

/// Fuzzes for `time`, or repeats the seed `replay`; judges what came of it.
///
/// # Errors
/// When something cannot be set up, built or booted.
pub fn run(
    workspace: &Workspace,
    options: &Options,
    time: Duration,
    replay: Option<&str>,
    json: Option<&PathBuf>,
) -> Result<Outcome> {
    let reports = play(workspace, options, time, replay)?;
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&reports)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", shown(path)))?;
    }
    if interrupted() {
        return Ok(Outcome::Interrupted);
    }
    let failed = reports.iter().any(|report| !report.failure.is_empty());
    Ok(if failed { Outcome::Fail } else { Outcome::Pass })
}

/// The same; returns how each round went.
///
/// # Errors
/// As [`run`].
pub fn play(
    workspace: &Workspace,
    options: &Options,
    time: Duration,
    replay: Option<&str>,
) -> Result<Vec<Report>> {
    setup::run()?;
    let images = build::images_of(workspace, Variant::Covered)?;
    let flags = Flags::find(&images.bouncer_elf)?;
    let field = Field { workspace, images, flags, oracle: &options.oracle };
    let Some(text) = replay else {
        return field.rounds(options, time);
    };
    let seed = seed(text).map_err(anyhow::Error::msg)?;
    let choice = Choice { seed, mix: options.mix.unwrap_or_default() };
    let calls = options.calls.unwrap_or(FIRST);
    let report = field.play(Round { choice, calls, cpus: options.cpus })?;
    show(&report);
    if !report.failure.is_empty() {
        report.console.iter().rev().take(12).rev().for_each(|line| {
            anstream::println!("    {line}");
        });
    }
    Ok(vec![report])
}

impl Field<'_> {
    fn rounds(&self, options: &Options, time: Duration) -> Result<Vec<Report>> {
        let mut reports = Vec::new();
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let first = options.seed.unwrap_or_else(|| clock().as_nanos() as u64 & 0xffff_ffff);
        let end = Instant::now() + time;
        let mut calls = options.calls.unwrap_or(FIRST);
        let mut seeds = Seeds::load(self.workspace, &self.flags)?;
        let mut random = Random::new(first);
        let mut choice = Choice { seed: first, mix: options.mix.unwrap_or_default() };
        loop {
            if Instant::now() >= end || interrupted() {
                break;
            }
            let start = Instant::now();
            let round = Round { choice, calls, cpus: options.cpus };
            let mut report = self.play(round)?;
            report.new_edges = seeds.learn(choice, &report.taken)?;
            report.covered = seeds.covered();
            choice = seeds.next(&mut random);
            show(&report);
            if options.calls.is_none() {
                // What is left, if that is less than a round.
                let left = ROUND.min(end.saturating_duration_since(Instant::now()));
                let scale = left.as_secs_f64() / start.elapsed().as_secs_f64().max(1.0);
                calls = ((calls as f64 * scale) as u64).max(1000);
            }
            let failed = !report.failure.is_empty();
            if failed && !interrupted() {
                self.keep(round, &report)?;
                self.shrink(round)?;
            }
            reports.push(report);
            if failed {
                break;
            }
        }
        let calls: u64 = reports.iter().map(|report| report.calls).sum();
        let rounds = reports.len();
        let new: usize = reports.iter().map(|report| report.new_edges).sum();
        let text = format!(
            "{calls} calls in {rounds} rounds on {} CPUs; {} of {} edges of bouncer's code \
             covered, {new} of them new",
            options.cpus,
            seeds.covered(),
            self.flags.total,
        );
        anstream::println!("  {}", paint(DIM, text));
        Ok(reports)
    }

    fn play(&self, round: Round) -> Result<Report> {
        let Round { choice: Choice { seed, mix }, calls, cpus } = round;
        let bootargs = format!("scenario=fuzz seed={seed:#x} calls={calls} mix={mix}");
        let boot = Boot {
            machine: Machine {
                cpus,
                memory: MEMORY,
                icount: cpus == 1,
                command_line: format!("oracle={}", self.oracle),
                ..Machine::default()
            },
            kernel: self.images.bouncer.clone(),
            modules: vec![Module {
                path: self.images.host.clone(),
                address: HOST,
                bootargs: Some(bootargs),
            }],
            blobs: Vec::new(),
            gdb: None,
            timeout: Some(PATIENCE),
        };
        let total = self.flags.total;
        let mut report = Report { seed, cpus, calls_per_cpu: calls, total, ..Report::default() };
        report.mix = mix.to_string();
        let dump = self
            .workspace
            .folder("fuzz-on-target")?
            .join(format!("edges-{}.bin", std::process::id()));
        let mut taken = Edges::default();
        let ended = boot.run(
            |line| report.listen(line),
            |qemu| {
                taken = self.flags.read(qemu, &dump)?;
                Ok(())
            },
        )?;
        (report.edges, report.taken) = (taken.count(), taken);
        if ended.end != End::PoweredOff {
            report.blame(format!("the machine {}", ended.end.text()));
        }
        if !report.console.iter().any(|line| line.starts_with("@host result=pass")) {
            report.blame("the host did not come to a good end".into());
        }
        Ok(report)
    }

    fn keep(&self, round: Round, report: &Report) -> Result<()> {
        let folder = self.workspace.folder("fuzz-on-target")?;
        let path = folder.join(format!("{:x}.log", round.choice.seed));
        std::fs::write(&path, report.console.join("\n") + "\n")?;
        anstream::println!("    console:   {}", shown(&path));
        Ok(())
    }

    /// Finds a smaller round that fails, and says how to repeat it.
    fn shrink(&self, found: Round) -> Result<()> {
        let mut smallest = found;
        for cpus in 1..found.cpus {
            let tried = Round { cpus, ..found };
            if !self.play(tried)?.failure.is_empty() {
                smallest = tried;
                break;
            }
        }
        // Fewest calls that fail; `good` do not. With several CPUs a round
        // may pass by luck: the answer is then only an upper bound.
        let mut good = 0;
        while smallest.calls - good > 1 && !interrupted() {
            let middle = Round { calls: good + (smallest.calls - good) / 2, ..smallest };
            if self.play(middle)?.failure.is_empty() {
                good = middle.calls;
            } else {
                smallest = middle;
            }
        }
        let Round { choice: Choice { seed, mix }, calls, cpus } = smallest;
        let mix = if mix == Mix::default() { String::new() } else { format!(" --mix {mix}") };
        let exact = if cpus == 1 { "repeats exactly" } else { "needs several CPUs" };
        anstream::println!(
            "    again:     cargo xtask fuzz --on-target --cpus {cpus} --calls {calls}{mix} \
             --replay {seed:#x}   ({exact})"
        );
        Ok(())
    }
}

impl Report {
    fn listen(&mut self, line: &str) {
        self.console.push(line.to_owned());
        let lower = line.to_lowercase();
        if ["panic", "oracle: rule", "exception in el2"].iter().any(|word| lower.contains(word)) {
            // The line after "panicked at" says what it was about.
            if self.failure.is_empty() || lower.contains("oracle: rule") {
                self.failure = line.to_owned();
            }
        }
        let Some(record) = Record::parse(line).filter(|record| record.name == "fuzz") else {
            return;
        };
        if let Some(problem) = record.get("failed") {
            self.blame(problem.to_owned());
        }
        let number = |name: &str| record.get(name).and_then(|text| text.parse().ok());
        if let (Some(calls), Some(rate)) = (number("calls"), number("per_second")) {
            (self.calls, self.per_second) = (calls, rate);
            self.errors = number("errors").unwrap_or(0);
        }
    }

    /// The first reason stays.
    fn blame(&mut self, why: String) {
        if self.failure.is_empty() {
            self.failure = why;
        }
    }
}

fn show(report: &Report) {
    let mark = if report.failure.is_empty() { paint(GOOD, "✓") } else { paint(BAD, "✗") };
    anstream::println!(
        "  {mark} seed {:#010x}  mix {:<26}  {:>7} calls  {:>6}/s  {:>4}/{} edges (+{})  {}",
        report.seed,
        report.mix,
        report.calls,
        report.per_second,
        report.covered.max(report.edges),
        report.total,
        report.new_edges,
        paint(BAD, &report.failure)
    );
}

/// Refuses options that say nothing on the booted machine.
///
/// # Errors
/// If a target of libFuzzer's is named.
pub fn require_no_target(target: Option<&str>) -> Result<()> {
    match target {
        Some(target) => bail!("--on-target takes no target: leave out {target:?}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_decimal_or_hexadecimal() {
        assert_eq!((seed("7"), seed("0x1f")), (Ok(7), Ok(31)));
        assert!(seed("crash-1").is_err());
    }

    #[test]
    fn the_last_numbers_count_and_the_rule_is_the_reason() {
        let mut report = Report::default();
        for line in [
            "@fuzz start seed=0x1 calls=10 cpus=2",
            "@fuzz progress calls=5 per_second=100 errors=1 runs=0 seed=0x1",
            "@fuzz end calls=20 per_second=90 errors=3 runs=1 seed=0x1",
        ] {
            report.listen(line);
        }
        assert_eq!((report.calls, report.per_second, report.errors), (20, 90, 3));
        assert_eq!(report.failure, "");
        report.listen("bouncer: panicked at hyp/src/oracle/watch.rs:1:1:");
        report.listen("oracle: rule HostRight is broken (…); frame 0x1");
        report.blame("the machine died".into());
        assert!(report.failure.contains("HostRight"));
    }
}
