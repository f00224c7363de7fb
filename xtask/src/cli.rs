//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::cpu;
use crate::guest::options::{GuestOptions, GuestTask};
use crate::host::options::HostOptions;
use crate::qemu::Machine;
use crate::status;
use crate::story::{Config, Loader};

/// bouncer's front door: set up, build, boot, show, test.
///
/// bouncer is a small EL2 hypervisor for arm64 that puts the operating system
/// which used to own the machine behind a stage-2 page table and runs
/// protected guests whose memory that system cannot see. Everything here runs
/// on an emulated machine; nothing is written outside the target folder,
/// except that set-up installs a Rust target through rustup and QEMU through
/// apt if they are missing.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
#[command(after_help = status::text("Exit status:", &status::COMMANDS, 80))]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Task,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Sets up what is missing, builds, boots, and shows the whole story
    ///
    /// bouncer boots, the host comes up deprivileged, a protected guest starts
    /// and works on its disk, and the host's attempts to look inside are
    /// refused and shown, one by one. Exits 0 only if all of it held.
    #[command(after_help = status::text("Exit status with --guest or --host:", &status::GUESTS, 80))]
    Run(RunOptions),
    /// Sets up what is missing and runs every test: unit, simulated machine,
    /// end-to-end on QEMU, lints
    Test(crate::test::TestOptions),
    /// Makes the attempts of docs/threats.md on the booted machine, by row
    ///
    /// One line for each row: how it was refused, that the data is unchanged,
    /// and that the machine goes on. Exits 1 if an attempt was not refused, or
    /// not made.
    Attack(crate::attack::AttackOptions),
    /// Counts instructions: what bouncer's calls, exits and boot cost
    ///
    /// On one CPU under QEMU's instruction counting, so the figures are the
    /// same on every machine and every day, for the same binaries. Each is
    /// what the caller spends, its own wrapper included.
    Bench(BenchOptions),
    /// Shows DMA systems side by side: what works, what is refused
    ///
    /// Each system (mode) is booted with a guest that uses it and a host that
    /// serves it, and each of its demonstrations is one line: what was done and
    /// what was seen. Exits 1 if one did not end as it must, or was not made.
    Dma(crate::dma::DmaOptions),
    /// Builds bouncer, the host and the guest into bootable images
    Build,
    /// Fuzzes what bouncer decides, guided by coverage
    ///
    /// Without a target all of them share the time. Every rule that is broken
    /// is shown with the calls that led to it. The working corpus and the
    /// inputs that broke a rule are kept below the target folder.
    Fuzz(crate::fuzz::FuzzOptions),
    /// Replays a trace of page-table events on the simulated machine
    ///
    /// Its TLB remembers whatever a TLB may: a missing invalidation or barrier,
    /// an entry changed without a break, a table freed too early are reported
    /// with the number of the record.
    TraceCheck(crate::trace::TraceCheckOptions),
    /// Which lines of the policy are executed by its tests and fuzz corpora
    Coverage(crate::coverage::CoverageOptions),
    /// Formatting, lints, documentation, the catalogue of attacks, and an
    /// audit of all unsafe code
    Check(crate::check::CheckOptions),
    /// Installs what is missing: the bare-metal Rust target and QEMU
    Setup,
    /// Fetches or builds what a Linux guest is made of
    #[command(subcommand)]
    Guest(GuestTask),
    /// Puts known bugs of hypervisors into a copy of bouncer, one at a time,
    /// and shows which check catches each
    ///
    /// Exits 0 only if every bug that can exist here is caught, and the
    /// compiler still refuses those that cannot.
    Mutants(crate::mutants::MutantsOptions),
}

/// `run`'s options.
#[derive(Debug, Clone, Args)]
pub struct RunOptions {
    /// CPUs of the machine, 1 to 8
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=8))]
    pub cpus: u32,
    /// Memory of the machine, 512M to 24G [default: 1G, or what a Linux guest
    /// needs]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    pub memory: Option<u64>,
    /// CPU model, any that QEMU has [tested: cortex-a53, cortex-a72, cortex-a76,
    /// neoverse-n1, neoverse-v1, neoverse-n2, a64fx, cortex-a710, max]
    #[arg(long, value_name = "MODEL", value_parser = cpu::parse, default_value = cpu::DEFAULT)]
    pub cpu: String,
    /// A machine with an SMMU: bouncer drives it, and the host gets PCIe, whose
    /// devices reach what the host owns and nothing else
    #[arg(long)]
    pub smmu: bool,
    /// Any file of yours as the guest's disk
    ///
    /// A raw FAT image is listed and its largest file hashed; anything else is
    /// hashed whole. The guest works on a copy, padded to whole sectors; your
    /// file is only read. Without this the guest gets a small FAT disk.
    /// With --guest it is Linux's disk: what Linux has written is in your file
    /// after it has powered off, and without a FILE there is none.
    #[arg(long, value_name = "FILE")]
    pub disk: Option<PathBuf>,
    /// Write the result as JSON to FILE
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Give up after this many seconds [default: 300]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: Option<u64>,
    /// Build bouncer with its oracle: after each call that changes memory it
    /// checks all its rules, and stops the machine if one is broken
    ///
    /// With `off` it only counts what a realm shares that is not zero.
    #[arg(
        long, value_name = "HOW", value_enum,
        num_args = 0..=1, require_equals = true, default_missing_value = "changes"
    )]
    pub oracle: Option<Oracle>,
    /// Let bouncer keep a trace of what it does to page tables and TLBs, write
    /// it to FILE and check it (see trace-check)
    #[arg(long, value_name = "FILE", requires = "oracle")]
    pub trace: Option<PathBuf>,
    /// Wait for a debugger before the first instruction, and print how to
    /// attach it
    #[arg(long)]
    pub gdb: bool,
    /// What puts the images into memory and starts bouncer
    #[arg(long, value_enum, default_value_t, conflicts_with = "gdb")]
    pub loader: Loader,
    /// Show the console as it is
    #[arg(short, long)]
    pub verbose: bool,
    /// Linux as the host.
    #[command(flatten)]
    pub host: HostOptions,
    /// Linux as the guest.
    #[command(flatten)]
    pub linux: GuestOptions,
}

/// `bench`'s options.
#[derive(Debug, Clone, Args)]
pub struct BenchOptions {
    /// Instead of single calls: what this guest costs, from its creation to
    /// its last frame, and what its requests cost
    #[arg(long, value_enum)]
    pub guest: Option<Measured>,
    /// Which memory the guest's devices may use [default: shared-pages]
    #[arg(long, value_enum, requires = "guest")]
    pub policy: Option<crate::guest::options::Policy>,
    /// CPU model, any that QEMU has; `max` has forced write-back and so cleans
    /// no cache lines. The documents' figures are of the default
    #[arg(long, value_name = "MODEL", value_parser = cpu::parse, default_value = cpu::DEFAULT)]
    #[arg(conflicts_with = "guest")]
    pub cpu: String,
    /// Write the figures as JSON to FILE
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Guests whose cost can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Measured {
    /// Debian's kernel, as `run --guest debian` has it
    Debian,
}

/// How much bouncer's oracle checks (`hyp::oracle::watch::Mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Oracle {
    /// Nothing
    Off,
    /// After a call what it changed, everything now and then
    Changes,
    /// Everything, after every trap of the host
    Every,
}

impl Oracle {
    /// What tells bouncer so.
    const fn command_line(self) -> &'static str {
        match self {
            Self::Off => "oracle=off",
            Self::Changes => "oracle=changes",
            Self::Every => "oracle=every",
        }
    }
}

/// How many seconds the story may take if nothing else is said.
const LIMIT: u64 = 300;

/// Port of `--gdb`, on the local machine only.
pub const GDB_PORT: u16 = 1234;

impl RunOptions {
    /// What does not go together, as clap cannot say it.
    ///
    /// # Errors
    /// The complaint for the user.
    pub fn check(&self) -> Result<(), String> {
        if self.linux.guest.is_some() && self.json.is_some() {
            return Err("--json is for the story, not for --guest".into());
        }
        if self.linux.guest.is_some() && self.loader != Loader::Qemu {
            return Err("--loader is for the story, not for --guest".into());
        }
        let others = [
            ("--json", self.json.is_some()),
            ("--loader", self.loader != Loader::Qemu),
            ("--trace", self.trace.is_some()),
            ("--disk", self.disk.is_some()),
        ];
        self.host.check(&self.linux, &others)?;
        self.linux.check(self.disk.is_some(), self.host.host.is_some())
    }

    /// The run these options describe.
    #[must_use]
    pub fn config(&self) -> Config {
        Config {
            name: "run".into(),
            machine: Machine {
                cpu: self.cpu.clone(),
                cpus: self.cpus,
                memory: self.memory.unwrap_or(1024),
                smmu: self.smmu,
                command_line: self.oracle.map(Oracle::command_line).unwrap_or_default().into(),
                ..Machine::default()
            },
            disk: self.disk.clone(),
            // Nobody debugs against the clock.
            timeout: (!self.gdb).then(|| Duration::from_secs(self.timeout.unwrap_or(LIMIT))),
            gdb: self.gdb.then_some(GDB_PORT),
            scenario: "story".into(),
            words: String::new(),
            trace: self.trace.clone(),
            loader: self.loader,
            entered_first: None,
            reserves: true,
        }
    }
}

/// A machine's memory: "512M" to "24G" in MiB.
fn parse_memory(text: &str) -> Result<u64, String> {
    parse_size(text, 512, 24 << 10, "512M to 24G")
}

/// "512M" or "2G" to MiB, if not outside of a range.
///
/// # Errors
/// What is wrong with it, for the user.
pub fn parse_size(text: &str, least: u64, most: u64, range: &str) -> Result<u64, String> {
    let unit = text.chars().last().unwrap_or(' ').to_ascii_uppercase();
    let shift = match unit {
        'M' => 0,
        'G' => 10,
        _ => return Err("write it with a unit: 512M, 2G".into()),
    };
    let digits = text.get(..text.len() - 1).unwrap_or_default();
    let number: u64 = digits.parse().map_err(|_| format!("{digits:?} is no number"))?;
    let memory = number.checked_mul(1 << shift).ok_or("too large")?;
    if (least..=most).contains(&memory) { Ok(memory) } else { Err(format!("not in {range}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn run(arguments: &[&str]) -> Result<RunOptions, clap::Error> {
        let words = ["cargo xtask", "run"].iter().chain(arguments);
        Cli::try_parse_from(words).map(|cli| match cli.command {
            Task::Run(options) => options,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_names_the_tested_models() {
        let mut command = Cli::command();
        let run = command.find_subcommand_mut("run").unwrap();
        let help = run.render_long_help().to_string();
        let help: Vec<&str> = help.split([' ', ',', '\n', ']']).collect();
        assert!(cpu::TESTED.iter().all(|model| help.contains(model)));
    }

    #[test]
    fn options_reach_the_machine() {
        let options = run(&["--cpus", "4", "--memory", "8G", "--cpu", "neoverse-n1"]).unwrap();
        let config = options.config();
        assert_eq!((config.machine.cpus, config.machine.memory), (4, 8192));
        assert_eq!(config.machine.cpu, "neoverse-n1");
        assert_eq!(config.timeout, Some(Duration::from_secs(300)));
        assert_eq!(run(&["--gdb"]).unwrap().config().timeout, None);
        assert_eq!(options.config().machine.command_line, "");
        let oracle = run(&["--oracle"]).unwrap().config();
        assert_eq!(oracle.machine.command_line, "oracle=changes");
        let off = run(&["--oracle=off"]).unwrap().config();
        assert_eq!(off.machine.command_line, "oracle=off");
    }

    #[test]
    fn a_linux_guest_is_described_completely_or_refused() {
        let complaint = |words: &[&str]| run(words).unwrap().check().err().unwrap_or_default();
        for words in [
            ["--guest", "debian", "--script", "x"].as_slice(),
            &["--guest", "debian", "--abi", "pkvm", "--vcpus", "4", "--disk", "d"],
            &["--guest", "linux", "--kernel", "Image", "--append", "-- x"],
            &["--guest", "debian", "--attack", "--script", "x"],
            &["--guest", "debian", "--attack=shown"],
            &["--guest", "debian", "--neighbours", "2"],
            &["--guest", "debian", "--lives", "50", "--kill-in-io", "--disk", "x"],
            &["--guest", "debian", "--policy", "bounce-bar", "--without-module"],
            &["--guest", "debian", "--policy", "device-memory", "--lie", "H1.beyond,H2.length"],
            &[
                "--guest",
                "debian",
                "--disk",
                "d",
                "--console",
                "hvc0",
                "--lie",
                "H1.beyond,H1.beyond,H6.storm,H2.length",
            ],
            &["--guest", "linux", "--kernel", "Image", "--policy", "bounce-bar"],
            &["--guest", "debian", "--abi", "none", "--policy", "bounce-bar", "--neighbours", "1"],
            // Without bounce buffers a realm needs less.
            &["--guest", "debian", "--policy", "bounce-bar", "--guest-memory", "80M"],
            &["--disk", "d"],
        ] {
            assert_eq!(complaint(words), "", "{words:?}");
        }
        for (words, wanted) in [
            (["--script", "x"].as_slice(), "--script needs --guest"),
            (&["--guest-memory", "1G"], "--guest-memory needs --guest"),
            (&["--guest", "linux"], "--guest linux needs --kernel"),
            (&["--guest", "linux", "--kernel", "k", "--script", "x"], "--script is for"),
            (&["--guest", "debian", "--initrd", "x"], "--initrd is for"),
            (&["--guest", "debian", "--json", "x"], "--json is for"),
            (&["--guest", "debian", "--loader", "u-boot"], "--loader is for"),
            (&["--attack"], "--attack needs --guest"),
            (&["--policy", "bounce-bar"], "--policy needs --guest"),
            (&["--lie", "H1.beyond"], "--lie needs --guest"),
            (&["--guest", "debian", "--lie", "H1.beyond", "--no-bouncer"], "--lie is for"),
            (&["--guest", "debian", "--lie", "H1.beyond,H1.twice,H6.storm"], "--lie: 3 rows, but"),
            (
                &["--guest", "debian", "--abi", "none", "--lie", "H6.storm"],
                "--lie: the guest has no",
            ),
            (
                &["--guest", "debian", "--policy", "bounce-bar", "--no-bouncer"],
                "--policy is for the host's",
            ),
            (
                &["--guest", "debian", "--policy", "shared-pages", "--without-module"],
                "--without-module: this --policy",
            ),
            (&["--guest", "debian", "--guest-memory", "80M"], "--guest-memory: a Debian realm"),
            (&["--lives", "2"], "--lives needs --guest"),
            (
                &["--guest", "debian", "--lives", "2", "--no-bouncer"],
                "--lives and --kill-in-io are",
            ),
            (&["--neighbours", "1"], "--neighbours needs --guest"),
            (&["--guest", "debian", "--neighbours", "1", "--no-bouncer"], "--neighbours are the"),
            (
                &["--guest", "debian", "--neighbours", "1", "--abi", "none"],
                "--neighbours need a network",
            ),
            (&["--guest", "debian", "--attack", "--no-bouncer"], "--attack is the host's"),
        ] {
            assert!(complaint(words).starts_with(wanted), "{words:?}: {}", complaint(words));
        }
        let guest = run(&["--guest", "debian", "--guest-memory", "2G"]).unwrap();
        assert_eq!(guest.linux.guest_memory, Some(2048));
        assert!(run(&["--guest", "debian", "--guest-memory", "32M"]).is_err());
    }

    #[test]
    fn a_linux_host_is_described_completely_or_refused() {
        let complaint = |words: &[&str]| run(words).unwrap().check().err().unwrap_or_default();
        for words in [
            ["--host", "debian"].as_slice(),
            &["--host", "debian", "--script", "x", "--newest", "--oracle"],
            &["--host", "debian", "--host-file", "/x=y", "--host-file", "/z=y", "--gdb"],
            &["--host", "linux", "--kernel", "k", "--initrd", "i", "--append", "quiet"],
            &["--host", "debian", "--cpus", "8", "--memory", "24G", "--cpu", "max"],
        ] {
            assert_eq!(complaint(words), "", "{words:?}");
        }
        for (words, wanted) in [
            (["--host", "debian", "--guest", "debian"].as_slice(), "--host and --guest do not"),
            (&["--host", "debian", "--json", "x"], "--json is not for --host"),
            (&["--host", "debian", "--disk", "x"], "--disk is not for --host"),
            (&["--host", "debian", "--oracle", "--trace", "x"], "--trace is not for --host"),
            (&["--host", "debian", "--vcpus", "2"], "--vcpus is not for --host"),
            (&["--host", "debian", "--no-bouncer"], "--no-bouncer is not for --host"),
            (&["--host", "debian", "--kernel", "k"], "--kernel is for --host linux"),
            (&["--host", "debian", "--initrd", "k"], "--initrd is for --host linux"),
            (&["--host", "linux"], "--host linux needs --kernel"),
            (&["--host", "linux", "--kernel", "k", "--script", "x"], "--script is for --host"),
            (&["--host", "linux", "--kernel", "k", "--newest"], "--newest is for --host"),
            (&["--host", "linux", "--kernel", "k", "--host-file", "/x=y"], "--host-file is for"),
        ] {
            assert!(complaint(words).starts_with(wanted), "{words:?}: {}", complaint(words));
        }
        assert!(run(&["--host", "windows"]).is_err());
        assert!(run(&["--host-file", "/x=y"]).is_err());
    }

    #[test]
    fn machines_out_of_range_are_refused() {
        for words in [
            ["--cpus", "0"],
            ["--cpus", "9"],
            ["--memory", "256M"],
            ["--memory", "25G"],
            ["--memory", "1024"],
            ["--memory", "ü"],
            ["--memory", "99999999999999999999G"],
            ["--cpu", "host"],
            ["--cpu", "cortex-a15"],
            ["--timeout", "0"],
        ] {
            assert!(run(&words).is_err(), "{words:?}");
        }
    }
}
