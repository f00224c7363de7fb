//! Where things are: the checkout, and the one folder xtask may write to.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// How long another process may have the turn before the user hears of it.
const QUIET: Duration = Duration::from_secs(2);

/// The checkout and its target folder.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// The folder of the workspace's `Cargo.toml`.
    pub root: PathBuf,
    /// Cargo's target folder: everything xtask writes is below it.
    pub target: PathBuf,
}

impl Workspace {
    /// Asks cargo, so that `CARGO_TARGET_DIR` and cargo's own configuration
    /// are obeyed and a moved checkout is found where it is now.
    ///
    /// # Errors
    /// When cargo cannot be run or does not know the workspace.
    pub fn find() -> Result<Self> {
        // Cargo sets this for what it runs; the compiled-in path serves a
        // binary started by hand.
        let manifest = std::env::var("CARGO_MANIFEST_DIR")
            .unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
        let output = cargo()
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .current_dir(&manifest)
            .output()
            .context("cannot run `cargo metadata`; is cargo on the PATH?")?;
        if !output.status.success() {
            bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let path = |key: &str| {
            metadata
                .get(key)
                .and_then(|value| value.as_str())
                .map(PathBuf::from)
                .with_context(|| format!("cargo metadata does not say {key}"))
        };
        Ok(Self { root: path("workspace_root")?, target: path("target_directory")? })
    }

    /// A folder for xtask's own results, made if it is missing.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.target.join("bouncer").join(name);
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot make the folder {}", path.display()))?;
        Ok(path)
    }

    /// Waits until no other process works in this folder of xtask's. The turn
    /// lasts as long as the file is open, and ends with the process at the
    /// latest: the lock is the kernel's.
    ///
    /// # Errors
    /// When there can be no lock, or on Ctrl-C while another has the turn.
    pub fn turn(&self, name: &str) -> Result<File> {
        let path = self.folder(name)?.join(".turn");
        let file = File::create(&path);
        let file = file.with_context(|| format!("cannot make {}", path.display()))?;
        let start = Instant::now();
        let mut told = false;
        loop {
            if !told && start.elapsed() > QUIET {
                told = true;
                anstream::eprintln!("waiting for another xtask, which works in {}", shown(&path));
            }
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) if crate::qemu::interrupted() => {
                    bail!("stopped while another xtask works in {}", shown(&path));
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => sleep(Duration::from_millis(20)),
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
                Ok(()) => return Ok(file),
            }
        }
    }
}

/// The toolchain all further commands run in, if it is not the active one.
static TOOLCHAIN: OnceLock<&'static str> = OnceLock::new();

/// Runs all further cargo commands in this toolchain of rustup's.
pub fn use_toolchain(name: &'static str) {
    TOOLCHAIN.get_or_init(|| name);
}

/// The cargo that runs us or the one on the PATH, unless set-up had to choose
/// another toolchain.
#[must_use]
pub fn cargo() -> Command {
    let Some(toolchain) = TOOLCHAIN.get() else {
        return Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    };
    let mut command = Command::new("rustup");
    command.args(["run", toolchain, "cargo"]);
    // The cargo that runs us has set these for its own toolchain.
    command.env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
    command
}

/// A path as short as a person wants to read it: relative to here if below.
#[must_use]
pub fn shown(path: &Path) -> String {
    let short = std::env::current_dir().ok().and_then(|here| path.strip_prefix(here).ok());
    short.unwrap_or(path).display().to_string()
}
