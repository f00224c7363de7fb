//! The Debian guest, put together from its packages.

use std::path::PathBuf;

use anyhow::Result;

use super::bounce::{self, Target};
use super::initramfs::{self, Extra, Root, Task};
use super::modules::Module;
use super::options::Abi;
use super::pins::{Pins, Role};
use super::{archive, chosen, pkvm, read, with_advice};
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

/// Which Debian guest.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Whose calls it speaks. The pKVM guest has a kernel of its own.
    pub abi: Abi,
    /// With what Debian's archive holds today.
    pub newest: bool,
    /// With the module for devices that bring their own memory.
    pub module: bool,
}

/// Fetches and packs, and builds the module if it is wanted.
///
/// # Errors
/// When a package cannot be fetched or read, or the pKVM kernel is not built,
/// or the module cannot be.
pub fn make(
    workspace: &Workspace,
    kind: &Kind,
    task: &Task,
    word: &str,
    marker: Option<&str>,
) -> Result<Debian> {
    let pins = chosen(workspace, kind.newest)?;
    let busybox = package(workspace, &pins, Role::Busybox)?;
    let built_for = if kind.abi == Abi::Pkvm { Target::Pkvm } else { Target::Debian };
    // The pKVM kernel is made of the pinned source, whatever is the newest.
    let module_pins = if kind.abi == Abi::Pkvm { Pins::own()? } else { pins.clone() };
    let own = kind.module.then(|| bounce::build(workspace, &module_pins, built_for)).transpose()?;
    let (kernel, modules) = if kind.abi == Abi::Pkvm {
        (pkvm::built(workspace)?, Vec::new())
    } else {
        unpacked(workspace, &pins)?
    };
    // Before the drivers: they shall find their devices usable.
    let own = own.map(|path| Module::new(bounce::NAME, read(&path)?)).transpose()?;
    let modules: Vec<Module> = own.into_iter().chain(modules).collect();
    let busybox = initramfs::busybox(&busybox)?;
    let root = Root {
        name: "guest",
        busybox: &busybox,
        modules: &modules,
        task,
        word,
        marker,
        files: &[],
    };
    Ok(Debian { kernel, initrd: initramfs::pack(&root) })
}

/// The same kernel as bouncer's host, with further files in its first root
/// folder; `newest` as in [`Kind`].
///
/// # Errors
/// When a package cannot be fetched or read.
pub fn host(
    workspace: &Workspace,
    newest: bool,
    task: &Task,
    word: &str,
    files: &[Extra],
) -> Result<Debian> {
    let pins = chosen(workspace, newest)?;
    let busybox = initramfs::busybox(&package(workspace, &pins, Role::Busybox)?)?;
    let (kernel, modules) = unpacked(workspace, &pins)?;
    let (busybox, modules) = (busybox.as_slice(), modules.as_slice());
    let root = Root { name: "host", busybox, modules, task, word, marker: None, files };
    Ok(Debian { kernel, initrd: initramfs::pack(&root) })
}

/// Debian's kernel and the modules that are wanted.
fn unpacked(workspace: &Workspace, pins: &Pins) -> Result<(Vec<u8>, Vec<Module>)> {
    let kernel = package(workspace, pins, Role::Kernel)?;
    let modules = package(workspace, pins, Role::Modules)?;
    let step = Step::new("Unpacking");
    let kernel = initramfs::kernel(&kernel)?;
    let modules = initramfs::modules(&modules)?;
    step.done(&pins.of(Role::Kernel)?.title());
    Ok((kernel, modules))
}

/// The package of a role; if it cannot be had, what could be instead.
///
/// # Errors
/// When it cannot be had.
pub fn package(workspace: &Workspace, pins: &Pins, role: Role) -> Result<PathBuf> {
    let fetched = archive::fetch(workspace, pins, pins.of(role)?);
    fetched.map_err(|error| with_advice(workspace, pins, role, error))
}
