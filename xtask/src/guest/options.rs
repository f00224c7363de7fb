//! The options of `run` that are about a Linux guest, and those of `guest`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::lie::Lie;
use super::memory;

/// Whose Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// Debian's kernel and a busybox, fetched and checked by xtask
    Debian,
    /// Yours: --kernel, --initrd, --append
    Linux,
}

/// Whose calls the guest's kernel speaks with the hypervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Abi {
    /// Arm CCA's RSI: ordinary kernels from 6.13 on
    Rsi,
    /// pKVM's: kernels with `ARM_PKVM_GUEST`, see `guest build-pkvm`
    Pkvm,
    /// None: a kernel that does not know it is protected. It has no devices
    /// but its UART, unless they bring their own memory (--policy)
    None,
}

impl Abi {
    /// The word on the host's command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Rsi => "rsi",
            Self::Pkvm => "pkvm",
            Self::None => "none",
        }
    }
}

/// Which memory the guest's devices may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Policy {
    /// Pages that the guest shared
    SharedPages,
    /// Memory that each device brings along (virtio RFC of 2025, bit 27); the
    /// kernel needs the module in linux/bounce
    BounceBar,
    /// The same, named by offsets (VIRTIO_F_DMB of 2026, bit 44)
    DeviceMemory,
    /// Pages that the guest shared, and the device does not say so: it lacks
    /// ACCESS_PLATFORM. Linux gives it others; the run ends there, with status 125
    LegacyNoPlatform,
}

impl Policy {
    /// The word on the host's command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::SharedPages => "shared-pages",
            Self::BounceBar => "bounce-bar",
            Self::DeviceMemory => "device-memory",
            Self::LegacyNoPlatform => "legacy-no-platform",
        }
    }

    /// Whether devices bring their own memory, and the guest shares none.
    #[must_use]
    pub fn brings_memory(self) -> bool {
        matches!(self, Self::BounceBar | Self::DeviceMemory)
    }
}

/// What the guest's console is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Console {
    /// An emulated UART, ttyAMA0
    Pl011,
    /// A virtio console, hvc0
    Hvc0,
}

impl Console {
    /// The word on the host's command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Pl011 => "pl011",
            Self::Hvc0 => "hvc0",
        }
    }

    /// Linux's name for it.
    #[must_use]
    pub fn device(self) -> &'static str {
        match self {
            Self::Pl011 => "ttyAMA0",
            Self::Hvc0 => "hvc0",
        }
    }
}

/// What becomes of the marker in a guest that is attacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Attack {
    /// The guest keeps it to itself: nobody else may have it
    Secret,
    /// The script shows it, on the disk or the network: the host must find it
    Shown,
}

/// Linux without memory that it shares for DMA: no swiotlb, and of its pool for
/// atomic allocations the least there is, one page.
pub const NO_SHARED_POOLS: &str = "swiotlb=noforce coherent_pool=4K";

/// `run`'s options for a Linux guest.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Linux as the guest")]
pub struct GuestOptions {
    /// Run Linux in the guest instead of the story
    ///
    /// At a terminal you get the guest's console; Ctrl-] leaves at once.
    /// Otherwise stdin is a list of commands for the guest's shell.
    #[arg(long, value_name = "WHICH", value_enum)]
    pub guest: Option<Which>,
    /// Run this shell script in the Debian guest (or --host), and exit with its
    /// status
    ///
    /// Its output is xtask's output, byte by byte. /dev/stdin or a pipe will
    /// do. The exit statuses are listed below.
    #[arg(long, value_name = "FILE")]
    pub script: Option<PathBuf>,
    /// Your kernel, an arm64 Image
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Your initial ramdisk
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// More for the kernel's command line
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// Whose calls the guest speaks with bouncer [default: rsi]
    #[arg(long, value_enum)]
    pub abi: Option<Abi>,
    /// Which memory the guest's devices may use [default: shared-pages]
    ///
    /// With bounce-bar and device-memory the Debian guest gets the kernel
    /// module in linux/bounce, which is built when it is wanted, and does without
    /// bounce buffers (swiotlb=noforce coherent_pool=4K).
    #[arg(long, value_enum)]
    pub policy: Option<Policy>,
    /// Leave the module out that --policy wants: all devices refuse
    #[arg(long, requires = "policy")]
    pub without_module: bool,
    /// CPUs of the guest, 1 to 8 [default: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8))]
    pub vcpus: Option<u32>,
    /// Memory of the guest, 64M to 16G [default: 256M]
    ///
    /// A Debian realm needs 144M at least, for 64M are its bounce buffers
    /// (swiotlb; fewer with --append swiotlb=8192); 80M with --abi none, 64M with --abi
    /// pkvm.
    #[arg(long, value_name = "SIZE", value_parser = parse_guest_memory)]
    pub guest_memory: Option<u64>,
    /// Run N more Debian guests beside it, on the same network
    ///
    /// They are 10.0.2.16 and up, answer pings, and say on TCP port 9000 the
    /// SHA-256 of what they were sent. bouncer's own small guest, which speaks
    /// pKVM's calls, runs beside them. What they print is shown only if they
    /// end badly.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3))]
    pub neighbours: Option<u32>,
    /// Build, run and take down the guest N times, one after the other
    ///
    /// All its memory must come back each time, as zeros: else status 123.
    /// The status is the last life's.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub lives: Option<u32>,
    /// Let the host end the guest while requests of its disk are under way
    ///
    /// Ones that it does not answer, after another number of answered ones in
    /// each life. Needs --disk, and a guest that uses it. Status 123: the guest
    /// ended by itself before.
    #[arg(long, requires = "disk")]
    pub kill_in_io: bool,
    /// What the guest's console is [default: pl011]
    #[arg(long, value_enum)]
    pub console: Option<Console>,
    /// Let the host try to get at the guest all the while
    ///
    /// In every page, between the guest's turns and from another CPU. It
    /// looks for a marker that the Debian guest makes in /run/marker and in a
    /// process's memory, in all memory that it can read. Status 123: an
    /// attempt was not refused, or the marker is where it must not be.
    #[arg(
        long, value_name = "MARKER", value_enum,
        num_args = 0..=1, require_equals = true, default_missing_value = "secret"
    )]
    pub attack: Option<Attack>,
    /// Let the host's devices lie to the guest's drivers: rows of docs/threats.md
    ///
    /// By commas. The devices (disk, network, entropy, console, as far as they
    /// are there) get one each, over and over.
    #[arg(long, value_name = "ROWS", value_enum, value_delimiter = ',')]
    pub lie: Vec<Lie>,
    /// Start the guest on QEMU directly, without bouncer and host: to see
    /// whether something is the guest's own doing
    #[arg(long)]
    pub no_bouncer: bool,
    /// Use what Debian's archive holds today instead of the pinned packages
    #[arg(long)]
    pub newest: bool,
}

impl GuestOptions {
    /// The DMA contract of its devices.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy.unwrap_or(Policy::SharedPages)
    }

    /// What is on a Debian guest's command line for its policy: a kernel that
    /// knows that it is protected would share pools at boot that nobody uses.
    #[must_use]
    pub fn policy_words(&self) -> Option<&'static str> {
        let shares = self.guest == Some(Which::Debian) && self.abi != Some(Abi::None);
        (shares && self.policy().brings_memory()).then_some(NO_SHARED_POOLS)
    }

    /// MiB of the guest's memory.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.guest_memory.unwrap_or(256)
    }

    /// Its virtio devices in their order, by the host's words; `disk` says
    /// whether it has one.
    #[must_use]
    pub fn devices(&self, disk: bool) -> Vec<&'static str> {
        let abi = self.abi.unwrap_or(Abi::Rsi);
        let console = self.console.unwrap_or(Console::Pl011);
        devices(abi, self.policy(), disk, console)
    }

    /// The options that only a guest can have, and whether they were given.
    fn guests_own(&self) -> [(&'static str, bool); 10] {
        [
            ("--abi", self.abi.is_some()),
            ("--policy", self.policy.is_some()),
            ("--vcpus", self.vcpus.is_some()),
            ("--guest-memory", self.guest_memory.is_some()),
            ("--console", self.console.is_some()),
            ("--no-bouncer", self.no_bouncer),
            ("--lives", self.lives.is_some()),
            ("--kill-in-io", self.kill_in_io),
            ("--attack", self.attack.is_some()),
            ("--lie", !self.lie.is_empty()),
        ]
    }

    /// An option that was given and that a Linux host has no use for.
    #[must_use]
    pub fn only_for_guests(&self) -> Option<(&'static str, bool)> {
        let more = [
            ("--without-module", self.without_module),
            ("--neighbours", self.neighbours.is_some()),
        ];
        self.guests_own().into_iter().chain(more).find(|(_, given)| *given)
    }

    /// What does not go together, as clap cannot say it; `disk` says whether
    /// the guest has one, `is_host` whether Linux is the host.
    ///
    /// # Errors
    /// The complaint for the user.
    pub fn check(&self, disk: bool, is_host: bool) -> Result<(), String> {
        let there = self.devices(disk);
        if self.guest.is_some() && self.lie.len() > there.len() {
            return Err(match there.len() {
                0 => "--lie: the guest has no device that could lie; with --abi none it has some \
                    under a --policy of devices that bring their memory"
                    .to_owned(),
                count => format!(
                    "--lie: {} rows, but the guest has {count} devices: {}",
                    self.lie.len(),
                    there.join(", ")
                ),
            });
        }
        let debians = [
            ("--script", self.script.is_some()),
            ("--without-module", self.without_module),
            ("--newest", self.newest),
            ("--neighbours", self.neighbours.is_some()),
        ];
        let users = [("--kernel", self.kernel.is_some()), ("--initrd", self.initrd.is_some())];
        let any = [[("--append", self.append.is_some())].as_slice(), &self.guests_own()].concat();
        let given = |options: &[(&str, bool)]| {
            options.iter().find(|(_, given)| *given).map(|(name, _)| (*name).to_owned())
        };
        if self.no_bouncer && self.attack.is_some() {
            return Err("--attack is the host's behind bouncer, not for --no-bouncer".to_owned());
        }
        if self.no_bouncer && !self.lie.is_empty() {
            return Err("--lie is for the host's devices, not --no-bouncer".to_owned());
        }
        if self.no_bouncer && (self.lives.is_some() || self.kill_in_io) {
            return Err("--lives and --kill-in-io are for the host, not --no-bouncer".to_owned());
        }
        if self.no_bouncer && self.policy.is_some() {
            return Err("--policy is for the host's devices, not --no-bouncer".to_owned());
        }
        if self.without_module && !self.policy().brings_memory() {
            return Err("--without-module: this --policy needs no module".to_owned());
        }
        if self.neighbours.is_some() {
            if self.no_bouncer {
                return Err("--neighbours are the host's guests, not for --no-bouncer".to_owned());
            }
            if self.abi == Some(Abi::None) && !self.policy().brings_memory() {
                return Err("--neighbours need a network, which --abi none has only with a \
                    --policy of devices that bring their memory"
                    .to_owned());
            }
        }
        match self.guest {
            // Looked at already.
            None if is_host => Ok(()),
            None => {
                let all = [debians.as_slice(), &users, &any].concat();
                given(&all).map_or(Ok(()), |name| Err(format!("{name} needs --guest")))
            }
            Some(Which::Debian) => {
                if let Some(name) = given(&users) {
                    return Err(format!("{name} is for --guest linux, not debian"));
                }
                let abi = self.abi.unwrap_or(Abi::Rsi);
                let behind_bouncer = if self.no_bouncer { Abi::None } else { abi };
                let words = [self.policy_words(), self.append.as_deref()];
                let words: Vec<&str> = words.into_iter().flatten().collect();
                memory::check_debian(behind_bouncer, self.memory(), &words.join(" "))
            }
            Some(Which::Linux) => {
                if let Some(name) = given(&debians) {
                    return Err(format!("{name} is for --guest debian, not linux"));
                }
                let missing = "--guest linux needs --kernel FILE, an arm64 Image";
                self.kernel.as_ref().map_or(Err(missing.to_owned()), |_| Ok(()))
            }
        }
    }
}

/// The virtio devices of a guest, by the host's words and in its order. One
/// that shares nothing can use those only that bring their own memory.
#[must_use]
pub fn devices(abi: Abi, policy: Policy, disk: bool, console: Console) -> Vec<&'static str> {
    let mut devices = Vec::new();
    if abi != Abi::None || policy.brings_memory() {
        devices.extend(disk.then_some("blk"));
        devices.extend(["net", "rng"]);
        devices.extend((console == Console::Hvc0).then_some("console"));
    }
    devices
}

/// "64M" to "16G" in MiB.
fn parse_guest_memory(text: &str) -> Result<u64, String> {
    crate::cli::parse_size(text, 64, 16 << 10, "64M to 16G")
}

/// `guest`'s tasks.
#[derive(Debug, Clone, Subcommand)]
pub enum GuestTask {
    /// Fetches the pinned packages of the Debian guest into the target folder
    ///
    /// `run --guest debian` does so by itself. Every file is checked against
    /// its pinned SHA-256.
    Fetch(FetchOptions),
    /// Builds a small kernel with the pKVM guest driver from Debian's source
    ///
    /// Once, into the target folder, with gcc-aarch64-linux-gnu; needs 3 GB
    /// of disk while it builds.
    BuildPkvm,
    /// Builds the kernel module in linux/bounce for Debian's pinned kernel
    ///
    /// From the kernel's pinned headers, with gcc-aarch64-linux-gnu; `run
    /// --policy` does so by itself.
    BuildModules(BuildModulesOptions),
}

/// `guest build-modules`' options.
#[derive(Debug, Clone, Args)]
pub struct BuildModulesOptions {
    /// For the newest kernel in Debian's archive instead of the pinned one
    #[arg(long)]
    pub newest: bool,
    /// For the small kernel that `guest build-pkvm` builds
    #[arg(long, conflicts_with = "newest")]
    pub pkvm: bool,
}

/// `guest fetch`'s options.
#[derive(Debug, Clone, Args)]
pub struct FetchOptions {
    /// Fetch what Debian's archive holds today, and print the pins for it
    #[arg(long)]
    pub newest: bool,
}
