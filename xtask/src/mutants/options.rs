//! `mutants`' command line.

use std::path::PathBuf;

use clap::Args;

/// `mutants`' options.
#[derive(Debug, Clone, Args)]
pub struct MutantsOptions {
    /// Bugs to try, as K5 (all its mutants) or K05b (one); all if none
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
    /// Only show which there are
    #[arg(long)]
    pub list: bool,
    /// Write the result as JSON to FILE
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Let each test program run for at most this many seconds (the tool
    /// finds its own limit)
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: u64,
    /// Boot those that are below the simulated machine, too, and run the
    /// end-to-end tests that a patch names (`Seen-by:` or `Also-seen-by:
    /// tests/tests/FILE.rs#FUNCTION`): minutes
    #[arg(long)]
    pub boot: bool,
    /// Instead, let the tool cargo-mutants make mistakes all over `hyp`, and
    /// report its score; it is installed below the target folder if missing
    #[arg(long, conflicts_with_all = ["ids", "list", "json", "boot"])]
    pub cargo_mutants: bool,
    /// Only one part of the tool's mutants, as 7/80; all take hours
    #[arg(long, value_name = "K/N", requires = "cargo_mutants")]
    pub shard: Option<String>,
    /// How many of the tool's mutants to try at once
    #[arg(long, value_name = "N", requires = "cargo_mutants", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub jobs: u32,
}
