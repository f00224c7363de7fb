//! The options of `cargo xtask fuzz`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

/// Memory sanitisers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sanitizer {
    /// AddressSanitizer; needs a nightly compiler
    Address,
}

/// `fuzz`'s options.
#[derive(Debug, Clone, Args)]
pub struct FuzzOptions {
    /// What to fuzz: one of --list; all of them if left out
    pub target: Option<String>,
    /// Minutes in total
    #[arg(long, value_name = "N", conflicts_with = "seconds", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub minutes: Option<u64>,
    /// Seconds in total [default: 120]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub seconds: Option<u64>,
    /// Processes per target, which share a corpus
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub jobs: u32,
    /// List the targets and what each checks
    #[arg(long)]
    pub list: bool,
    /// Run one input and print every call it makes
    #[arg(long, value_name = "FILE", conflicts_with_all = ["minimise", "list"])]
    pub replay: Option<PathBuf>,
    /// Look for a shorter input that breaks a rule, too
    #[arg(long, value_name = "FILE", conflicts_with = "list")]
    pub minimise: Option<PathBuf>,
    /// Write the results as JSON to FILE
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Fuzz with a memory sanitiser
    #[arg(long, value_name = "NAME", value_enum)]
    pub sanitizer: Option<Sanitizer>,
    /// Fuzzing the booted machine.
    #[command(flatten)]
    pub booted: crate::on_target::Options,
}

impl FuzzOptions {
    /// How long to fuzz in total.
    #[must_use]
    pub fn time(&self) -> Duration {
        let minutes = self.minutes.map(|minutes| minutes * 60);
        Duration::from_secs(minutes.or(self.seconds).unwrap_or(120))
    }
}
