//! One target for a while: libFuzzer in one process per job, watched.

use std::io::{BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;

use super::Report;
use super::build::Fuzzers;
use super::targets::{Target, home};
use crate::workspace::Workspace;

/// Asks a checker that counts its steps to tell how many it makes a second.
const STEPS: &str = "BOUNCER_FUZZ_STEPS";
/// A single input that takes longer than this is a finding, in seconds.
const TIMEOUT: u32 = 20;

/// What a libFuzzer process last said.
#[derive(Debug, Clone, Default)]
struct Progress {
    executions: u64,
    per_second: u64,
    steps_per_second: u64,
    coverage: u64,
    corpus: u64,
    crash: Option<PathBuf>,
    said: Vec<String>,
}

impl Progress {
    /// Takes one line of its standard error.
    fn hear(&mut self, line: &str) {
        if let Some(path) = line.split("Test unit written to ").nth(1) {
            self.crash = Some(PathBuf::from(path.trim()));
        }
        if let Some(rest) = line.strip_prefix('#') {
            let mut words = rest.split_whitespace();
            self.executions = words.next().and_then(|n| n.parse().ok()).unwrap_or(self.executions);
            while let Some(word) = words.next() {
                let field = match word {
                    "cov:" => &mut self.coverage,
                    "corp:" => &mut self.corpus,
                    "exec/s:" => &mut self.per_second,
                    _ => continue,
                };
                let number = words.next().and_then(|value| value.split('/').next()?.parse().ok());
                *field = number.unwrap_or(*field);
            }
        } else if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            self.executions = count.trim().parse().unwrap_or(self.executions);
        } else if let Some(rate) = line.strip_prefix("stat::steps_per_second:") {
            self.steps_per_second = rate.trim().parse().unwrap_or(self.steps_per_second);
        } else if self.said.len() < 200 {
            self.said.push(line.to_owned());
        }
    }
}

/// What of a crash's output a person wants: the panic's message, or what
/// libFuzzer found (a timeout, memory without end).
pub(super) fn reason(output: &str) -> Vec<String> {
    let skipped = |line: &&str| !line.starts_with("note:") && !line.trim().is_empty();
    let ends = |line: &&str| !line.starts_with("==") && !line.starts_with("stack backtrace");
    let mut lines = output.lines().skip_while(|line| !line.contains("panicked at")).peekable();
    if lines.peek().is_some() {
        return lines.take_while(ends).filter(skipped).map(str::to_owned).collect();
    }
    let found =
        output.lines().filter(|line| line.contains("libFuzzer:") || line.contains("ERROR:"));
    found.map(str::to_owned).collect()
}

/// A process that ends with its session whatever happens.
struct Job {
    child: Child,
    progress: Arc<Mutex<Progress>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Job {
    fn start(command: &mut Command) -> Result<Self> {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let stderr = child.stderr.take().context("no stderr")?;
        let progress = Arc::new(Mutex::new(Progress::default()));
        let heard = progress.clone();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                heard.lock().unwrap_or_else(PoisonError::into_inner).hear(&line);
            }
        });
        Ok(Self { child, progress, reader: Some(reader) })
    }

    fn progress(&self) -> Progress {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Fuzzes one target for `time` with `jobs` processes on one corpus.
///
/// # Errors
/// When a process cannot be started, or ends without a finding.
pub(super) fn run(
    workspace: &Workspace,
    fuzzers: &Fuzzers,
    target: &Target,
    time: Duration,
    jobs: u32,
) -> Result<Report> {
    let start = Instant::now();
    let mut running = Vec::new();
    for _ in 0..jobs {
        let mut command = command(workspace, fuzzers, target, time)?;
        running.push(
            Job::start(&mut command).with_context(|| format!("cannot start {}", target.name))?,
        );
    }
    let bar = std::io::stderr().is_terminal().then(ProgressBar::new_spinner);
    loop {
        let ended = running.iter_mut().all(|job| !matches!(job.child.try_wait(), Ok(None)));
        if ended || crate::qemu::interrupted() {
            break;
        }
        if let Some(bar) = &bar {
            bar.set_message(live_line(target, &running, start, time));
            bar.tick();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    finish(target, running, start)
}

fn command(
    workspace: &Workspace,
    fuzzers: &Fuzzers,
    target: &Target,
    time: Duration,
) -> Result<Command> {
    let corpus = workspace.folder(&format!("fuzz/corpus/{}", target.name))?;
    let crashes = workspace.folder(&format!("fuzz/crashes/{}", target.name))?;
    let mut command = Command::new(fuzzers.path(target));
    command.env("RUST_BACKTRACE", "0").env(STEPS, "1").args(["-print_final_stats=1", "-reload=1"]);
    if target.is_fast() {
        // Counting how rare each edge is, and looking for a shorter input for
        // each, would take a fifth of their time.
        command.args(["-entropic=0", "-reduce_inputs=0"]);
    }
    command.arg(format!("-max_total_time={}", time.as_secs().max(1)));
    command.arg(format!("-max_len={}", target.max_length())).arg(format!("-timeout={TIMEOUT}"));
    command.arg(format!("-artifact_prefix={}/", crashes.display()));
    let dictionary = home(workspace).join("dictionaries").join(&target.name);
    if dictionary.is_file() {
        command.arg(format!("-dict={}", dictionary.display()));
    }
    command.arg(corpus);
    let seeds = home(workspace).join("seeds").join(&target.name);
    if seeds.is_dir() {
        command.arg(seeds);
    }
    Ok(command)
}

fn live_line(target: &Target, jobs: &[Job], start: Instant, time: Duration) -> String {
    let report = sum(target, jobs, start);
    let left = time.saturating_sub(start.elapsed()).as_secs();
    format!(
        "{:<12} {} executions  {}/s{}  coverage {}  corpus {}  crashes {}  {left} s left",
        target.name,
        report.executions,
        report.per_second,
        report.steps(),
        report.coverage,
        report.corpus,
        report.crashes.len()
    )
}

fn sum(target: &Target, jobs: &[Job], start: Instant) -> Report {
    let mut report = Report {
        target: target.name.clone(),
        seconds: start.elapsed().as_secs_f64(),
        ..Report::default()
    };
    for progress in jobs.iter().map(Job::progress) {
        report.executions += progress.executions;
        report.per_second += progress.per_second;
        report.steps_per_second += progress.steps_per_second;
        report.coverage = report.coverage.max(progress.coverage);
        report.corpus = report.corpus.max(progress.corpus);
        report.crashes.extend(progress.crash);
    }
    report
}

fn finish(target: &Target, mut jobs: Vec<Job>, start: Instant) -> Result<Report> {
    let mut trouble = None;
    for job in &mut jobs {
        let status = match job.child.try_wait()? {
            Some(status) => status,
            None => continue, // Ctrl-C
        };
        // All it had to say.
        if let Some(reader) = job.reader.take() {
            let _ = reader.join();
        }
        let progress = job.progress();
        if !status.success() && progress.crash.is_none() && !crate::qemu::interrupted() {
            trouble = Some(format!("{status}\n{}", progress.said.join("\n")));
        }
    }
    if let Some(trouble) = trouble {
        bail!("{} ended without a finding: {trouble}", target.name);
    }
    let mut report = sum(target, &jobs, start);
    report.per_second = (report.executions as f64 / report.seconds.max(0.001)) as u64;
    report.crashes.retain(|crash: &PathBuf| Path::is_file(crash));
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libfuzzers_lines_are_understood() {
        let mut progress = Progress::default();
        progress.hear("INFO: Seed: 1406118476");
        progress.hear("#2\tINITED cov: 7 ft: 7 corp: 1/1b exec/s: 0 rss: 27Mb");
        progress.hear(
            "#4194304\tpulse  cov: 10 ft: 11 corp: 4/13b lim: 4096 exec/s: 2097152 rss: 27Mb",
        );
        assert_eq!((progress.executions, progress.per_second), (4_194_304, 2_097_152));
        assert_eq!((progress.coverage, progress.corpus), (10, 4));
        progress.hear("stat::number_of_executed_units: 4194400");
        assert_eq!(progress.executions, 4_194_400);
        progress.hear("stat::steps_per_second: 31415");
        assert_eq!((progress.steps_per_second, progress.said.len()), (31_415, 1));
        assert_eq!(progress.crash, None);
        progress.hear("artifact_prefix='/x/'; Test unit written to /x/crash-0123");
        assert_eq!(progress.crash, Some(PathBuf::from("/x/crash-0123")));
    }

    #[test]
    fn the_reason_of_a_crash_is_its_panic_or_what_libfuzzer_says() {
        let panic = "INFO: x\n\nthread '<unnamed>' (1) panicked at a.rs:1:2:\nrules broken:\none\n\
                     note: run with\n==1== ERROR: libFuzzer: deadly signal\n";
        assert_eq!(reason(panic).last().map(String::as_str), Some("one"));
        assert_eq!(reason(panic).len(), 3);
        let timeout = "INFO: x\nALARM: working\n==7== ERROR: libFuzzer: timeout after 20 seconds\n";
        assert_eq!(reason(timeout), ["==7== ERROR: libFuzzer: timeout after 20 seconds"]);
    }
}
