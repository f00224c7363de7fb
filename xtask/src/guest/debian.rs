//! The Debian guest, put together from its packages.

use std::path::PathBuf;

use anyhow::Result;

use super::initramfs::{self, Task};
use super::options::Abi;
use super::pins::{Pins, Role};
use super::{archive, chosen, pkvm, with_advice};
use crate::term::Step;
use crate::workspace::Workspace;

/// A kernel and its first root folder.
#[derive(Debug)]
pub struct Debian {
    /// An arm64 Image.
    pub kernel: Vec<u8>,
    /// The initramfs.
    pub initrd: Vec<u8>,
}

/// Fetches and packs. The pKVM guest has a kernel of its own.
///
/// # Errors
/// When a package cannot be fetched or read, or the pKVM kernel is not built.
pub fn make(
    workspace: &Workspace,
    abi: Abi,
    newest: bool,
    task: &Task,
    word: &str,
    marker: Option<&str>,
) -> Result<Debian> {
    let pins = chosen(workspace, newest)?;
    let busybox = package(workspace, &pins, Role::Busybox)?;
    let (kernel, modules) = if abi == Abi::Pkvm {
        (pkvm::built(workspace)?, Vec::new())
    } else {
        let kernel = package(workspace, &pins, Role::Kernel)?;
        let modules = package(workspace, &pins, Role::Modules)?;
        let step = Step::new("Unpacking");
        let kernel = initramfs::kernel(&kernel)?;
        let modules = initramfs::modules(&modules)?;
        step.done(&pins.of(Role::Kernel)?.title());
        (kernel, modules)
    };
    let busybox = initramfs::busybox(&busybox)?;
    Ok(Debian { kernel, initrd: initramfs::pack(&busybox, &modules, task, word, marker) })
}

/// The package of a role; if it cannot be had, what could be instead.
///
/// # Errors
/// When it cannot be had.
pub fn package(workspace: &Workspace, pins: &Pins, role: Role) -> Result<PathBuf> {
    let fetched = archive::fetch(workspace, pins, pins.of(role)?);
    fetched.map_err(|error| with_advice(workspace, pins, role, error))
}
