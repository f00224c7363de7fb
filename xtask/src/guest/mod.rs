//! Linux as the guest: `cargo xtask run --guest …` and `cargo xtask guest …`.
//!
//! A Debian guest is made of pinned packages ([`pins`], [`archive`]) that are
//! read ([`deb`]) and put together ([`modules`], [`initramfs`]); a kernel with
//! the pKVM guest driver is built from Debian's source ([`pkvm`]), and our own
//! kernel module from its headers ([`bounce`]). [`boot`]
//! starts it or the user's own, [`screen`] connects its console with the
//! user's terminal, and [`siege`] tells what came of a host that attacks it.

pub mod archive;
pub mod attend;
pub mod bench;
pub mod boot;
pub mod bounce;
pub mod deb;
pub mod debian;
pub mod disk;
pub mod initramfs;
pub mod lie;
pub mod memory;
pub mod modules;
pub mod newest;
pub mod options;
pub mod output;
pub mod pins;
pub mod pkvm;
pub mod run;
pub mod screen;
pub mod siege;
pub mod terminal;

use anyhow::{Context, Result, anyhow};

use crate::Outcome;
use crate::term::{BAD, HEAD, paint};
use crate::workspace::{Workspace, shown};
use options::{BuildModulesOptions, FetchOptions, GuestTask};
use pins::{Pins, Role};

/// `cargo xtask guest`.
///
/// # Errors
/// When something cannot be fetched or built.
pub fn task(workspace: &Workspace, task: &GuestTask) -> Result<Outcome> {
    match task {
        GuestTask::Fetch(options) => fetch(workspace, options)?,
        GuestTask::BuildPkvm => {
            pkvm::build(workspace)?;
        }
        GuestTask::BuildModules(options) => build_modules(workspace, options)?,
    }
    Ok(Outcome::Pass)
}

fn build_modules(workspace: &Workspace, options: &BuildModulesOptions) -> Result<()> {
    let pins = chosen(workspace, options.newest)?;
    let target = if options.pkvm { bounce::Target::Pkvm } else { bounce::Target::Debian };
    let module = bounce::build(workspace, &pins, target)?;
    anstream::eprintln!("  the module is {}", shown(&module));
    Ok(())
}

fn fetch(workspace: &Workspace, options: &FetchOptions) -> Result<()> {
    let pins = chosen(workspace, options.newest)?;
    for role in [Role::Kernel, Role::Modules, Role::Busybox] {
        debian::package(workspace, &pins, role)?;
    }
    let folder = workspace.folder("guest/packages")?;
    anstream::eprintln!("  all packages of the Debian guest are in {}", folder.display());
    Ok(())
}

/// The pins to use: the source's own, or what the archive holds today.
///
/// # Errors
/// When the archive does not say.
pub fn chosen(workspace: &Workspace, newest: bool) -> Result<Pins> {
    let own = Pins::own()?;
    if !newest {
        return Ok(own);
    }
    let found = newest::look(workspace, &own)?;
    if found.pins.pins == own.pins {
        anstream::eprintln!("  the pinned packages are the newest");
        return Ok(own);
    }
    anstream::eprintln!("\n  {}\n", paint(HEAD, "to pin them, put this into pins.txt:"));
    anstream::println!("{}", found.pins.lines());
    if !found.signed {
        let warning = "Debian's keys are not on this machine (package debian-archive-keyring): \
            nobody has checked these SHA-256";
        anstream::eprintln!("  {}\n", paint(BAD, warning));
    }
    Ok(found.pins)
}

/// Adds to an error about a package what the archive holds instead.
fn with_advice(
    workspace: &Workspace,
    pins: &Pins,
    role: Role,
    error: anyhow::Error,
) -> anyhow::Error {
    if crate::qemu::interrupted() {
        return error;
    }
    let advice = newest::look(workspace, pins).and_then(|found| {
        let newer = found.pins.of(role)?.title();
        Ok(format!(
            "The archive now holds {newer}. To use it this once add --newest; to pin it run \
             `cargo xtask guest fetch --newest`."
        ))
    });
    let advice = advice.unwrap_or_else(|_| {
        "Nor can the archive's index be read: is the network up? apt's proxy settings are used."
            .to_owned()
    });
    anyhow!("{error:#}\n{advice}")
}

/// A file's bytes, with its name in the error.
fn read(path: &std::path::Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
