//! The trace of page-table events: out of the stopped machine into a file,
//! and its check.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::Outcome;
use crate::qemu::Qemu;
use crate::workspace::{Workspace, cargo, shown};

/// Bytes before the records: how many there were to be.
const HEAD: u64 = 8;
/// Bytes of a record.
const RECORD: u64 = 32;

/// `trace-check`'s options.
#[derive(Debug, Clone, Args)]
pub struct TraceCheckOptions {
    /// What `cargo xtask run --oracle --trace FILE` has written
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// Where a booted bouncer keeps its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    address: u64,
    room: u64,
}

impl Place {
    /// The place, if this line of the console tells it.
    #[must_use]
    pub fn told(line: &str) -> Option<Self> {
        let rest = line.strip_prefix("bouncer: trace: room for ")?;
        let (room, address) = rest.split_once(" records at 0x")?;
        Some(Self {
            address: u64::from_str_radix(address.trim(), 16).ok()?,
            room: room.parse().ok()?,
        })
    }

    /// Writes the log to a file; what there was no room for is counted in it.
    ///
    /// # Errors
    /// When the emulator does not give its memory out.
    pub fn save(self, qemu: &mut Qemu, file: &Path) -> Result<()> {
        let file = std::path::absolute(file)?;
        qemu.save_memory(self.address, HEAD, &file)?;
        let head = std::fs::read(&file).with_context(|| format!("no trace in {}", shown(&file)))?;
        let made = head.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        let made = made.context("the emulator has written no memory")?;
        qemu.save_memory(self.address, HEAD + made.min(self.room) * RECORD, &file)
    }
}

/// Replays a trace on the simulated machine (package `trace`).
///
/// # Errors
/// When it cannot be built, or the file is no trace.
pub fn check(workspace: &Workspace, file: &Path) -> Result<Outcome> {
    let file = std::path::absolute(file)?;
    if !file.is_file() {
        bail!("no file {}: `cargo xtask run --oracle --trace FILE` writes one", shown(&file));
    }
    let mut command = cargo();
    command.current_dir(&workspace.root);
    command.args(["run", "--quiet", "--package", "trace", "--bin", "trace-check", "--"]);
    let status = command.arg(file).status().context("cannot run cargo")?;
    match status.code() {
        Some(0) => Ok(Outcome::Pass),
        Some(1) => Ok(Outcome::Fail),
        _ => bail!("the trace could not be checked ({status})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bouncer_says_where_its_log_is() {
        let line = "bouncer: trace: room for 1048576 records at 0x40263000";
        assert_eq!(Place::told(line), Some(Place { address: 0x4026_3000, room: 1 << 20 }));
        assert_eq!(Place::told("bouncer: starting the host at 0x44000000"), None);
        assert_eq!(Place::told("bouncer: trace: room for x records at 0x1"), None);
    }
}
