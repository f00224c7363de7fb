//! The kernel module in linux/bounce, built from pinned headers: as Debian's
//! packages have them, unpacked below the target folder and nothing installed.
//!
//! A module fits the kernel whose headers it was built from and no other, so
//! both come from the same pins. What is built is kept under the digest of all
//! that it depends on.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::archive::hex;
use super::pins::{Pins, Role};
use super::pkvm::{self, CROSS};
use super::{deb, debian, read};
use crate::setup;
use crate::term::{Step, run_quietly};
use crate::workspace::{Workspace, shown};

/// The module's name.
pub const NAME: &str = "virtio_bounce";
/// Where its source is.
const SOURCE: &str = "linux/bounce";
/// What building needs: a program and its package.
const TOOLS: [(&str, &str); 2] =
    [("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"), ("make", "make")];
/// The packages that are unpacked into one folder.
const PACKAGES: [Role; 3] = [Role::Headers, Role::HeadersCommon, Role::Kbuild];

/// Whose module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Debian's kernel.
    Debian,
    /// The small kernel that knows pKVM, of the same version.
    Pkvm,
}

/// Builds the module unless it is there; its path.
///
/// # Errors
/// When headers cannot be fetched, a tool is missing and cannot be installed,
/// the pKVM kernel is wanted and not built, or the source does not build
/// without a warning.
pub fn build(workspace: &Workspace, pins: &Pins, target: Target) -> Result<PathBuf> {
    let source = workspace.root.join(SOURCE);
    let own = match target {
        Target::Debian => None,
        Target::Pkvm => Some(pkvm::headers(workspace)?),
    };
    let name = digest(&source, pins, own.as_deref())?;
    let place = workspace.folder("guest")?.join(format!("module-{name}"));
    let module = place.join(format!("{NAME}.ko"));
    if module.exists() {
        return Ok(module);
    }
    if std::env::consts::ARCH != "x86_64" {
        bail!(
            "Debian's programs to build modules with are pinned for x86-64 only: on this machine \
             build linux/bounce with its Makefile, in a Debian guest"
        );
    }
    // Two that start together on a new machine would unpack the same headers,
    // and one would build with what the other has not made yet.
    let _turn = workspace.turn("guest")?;
    if module.exists() {
        return Ok(module);
    }
    ensure_tools()?;
    let headers = Headers::ready(workspace, pins)?;
    // Half a build must not be taken for a whole one.
    let work = place.with_extension(format!("{}.part", std::process::id()));
    empty(&work)?;
    let made = make(&source, &work, &headers, own.as_deref());
    if made.is_ok() {
        std::fs::create_dir_all(&place)?;
        std::fs::rename(work.join(format!("{NAME}.ko")), &module)?;
    }
    let log = work.with_extension("log");
    match made {
        Ok(()) => {
            std::fs::remove_dir_all(&work)?;
            let _ = std::fs::remove_file(log);
            Ok(module)
        }
        Err(error) => {
            let _ = std::fs::remove_dir_all(&work);
            Err(error.context(format!("all that the build said is in {}", shown(&log))))
        }
    }
}

/// Makes a folder with nothing in it, whatever a process that was killed, and
/// had this one's number, has left there.
fn empty(folder: &Path) -> Result<()> {
    let made = match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => std::fs::create_dir_all(folder),
    };
    made.with_context(|| format!("cannot make {}", folder.display()))
}

/// A name made of all that the module depends on.
fn digest(source: &Path, pins: &Pins, own: Option<&Path>) -> Result<String> {
    let mut hash = Sha256::new();
    for role in PACKAGES {
        hash.update(&pins.of(role)?.sha256);
    }
    if let Some(own) = own {
        hash.update(own.display().to_string());
    }
    for file in sources(source)? {
        hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
        hash.update(read(&file)?);
    }
    let digest = hex(&hash.finalize());
    Ok(digest.get(..12).unwrap_or(&digest).to_owned())
}

/// The command that holds the source to the kernel's style, if the program for
/// that is here (it comes with `guest build-pkvm`).
///
/// # Errors
/// When the source cannot be read.
pub fn checkpatch(workspace: &Workspace) -> Result<Option<Command>> {
    let Some(mut command) = pkvm::checkpatch(workspace) else { return Ok(None) };
    let files = sources(&workspace.root.join(SOURCE))?;
    command.args(files.iter().filter(|file| file.extension().is_some()));
    Ok(Some(command))
}

/// The files that are built, in order.
fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries = std::fs::read_dir(folder);
    for entry in entries.with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let is_source = path.extension().is_some_and(|end| end == "c" || end == "h");
        if is_source || path.file_name().is_some_and(|name| name == "Kbuild") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn ensure_tools() -> Result<()> {
    let missing = setup::missing(&TOOLS);
    if missing.is_empty() {
        return Ok(());
    }
    let step = Step::new("Setting up");
    setup::install_packages(&step, &missing, "What a kernel module is built with")?;
    step.done(&missing.join(", "));
    Ok(())
}

/// The unpacked headers.
struct Headers {
    /// Those of all configurations, where make starts.
    common: PathBuf,
    /// Those of Debian's configuration for virtual machines.
    cloud: PathBuf,
}

impl Headers {
    /// Fetches and unpacks them, once.
    fn ready(workspace: &Workspace, pins: &Pins) -> Result<Self> {
        let short = pins.of(Role::Headers)?.sha256.get(..12).unwrap_or_default().to_owned();
        let folder = workspace.folder("guest")?.join(format!("headers-{short}"));
        if !folder.exists() {
            let packages: Result<Vec<PathBuf>> =
                PACKAGES.iter().map(|role| debian::package(workspace, pins, *role)).collect();
            let packages = packages?;
            let step = Step::new("Unpacking");
            let part = folder.with_extension("part");
            empty(&part)?;
            for package in &packages {
                deb::unpack(package, &part)?;
            }
            step.done("the kernel's headers");
            std::fs::rename(&part, &folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        // Each time: the target folder may have come here from another machine.
        fit_modpost(workspace, pins, &folder)?;
        let sources = folder.join("usr/src");
        let named = |end: &str| -> Result<PathBuf> {
            let entries = std::fs::read_dir(&sources)?.flatten().map(|entry| entry.path());
            let found = entries.into_iter().find(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                name.starts_with("linux-headers-") && name.ends_with(end)
            });
            found.with_context(|| format!("the packages hold no linux-headers-…{end}"))
        };
        Ok(Self { common: named("-common")?, cloud: named("-cloud-arm64")? })
    }
}

/// Debian's modpost needs the C library of Debian 13. Where this machine's is
/// older, the pinned one is unpacked beside it, and modpost runs with that.
fn fit_modpost(workspace: &Workspace, pins: &Pins, headers: &Path) -> Result<()> {
    let library = headers.join("usr/lib");
    let kbuild = std::fs::read_dir(&library)?.flatten().map(|entry| entry.path());
    let mut kbuild = kbuild.filter(|path| path.join("scripts/mod").exists());
    let folder = kbuild.next().context("the packages hold no modpost")?.join("scripts/mod");
    // For a kernel of 64 bits whose lowest byte comes first.
    let real = folder.join("modpost.real-lsb-64");
    let mut command = Command::new(&real);
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {}", real.display()))?;
    if !String::from_utf8_lossy(&output.stderr).contains("GLIBC_") {
        return Ok(());
    }
    let libc = headers.join("libc");
    let loader = "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";
    if !libc.exists() {
        let package = debian::package(workspace, pins, Role::Libc)?;
        let part = headers.join("libc.part");
        empty(&part)?;
        deb::unpack(&package, &part)?;
        if !part.join(loader).exists() {
            bail!("{} holds no {loader}", package.display());
        }
        std::fs::rename(&part, &libc)?;
    }
    // By its own place: the folder may have come here from elsewhere. Written
    // each time: who was killed after the library has not written it.
    let script = format!(
        "#!/bin/sh\n\
         here=$(cd \"$(dirname \"$0\")\" && pwd -P)\n\
         libc=$(cd \"$here/../../../../..\" && pwd -P)/libc\n\
         exec \"$libc/{loader}\" --library-path \"$libc/usr/lib/x86_64-linux-gnu\" \
         \"$here/modpost.real-lsb-64\" \"$@\"\n"
    );
    let modpost = folder.join("modpost");
    // The mode stays what it was.
    std::fs::write(&modpost, script).with_context(|| format!("{}", modpost.display()))
}

/// Builds in a folder of its own, which then holds the module without debug
/// information. A warning is an error.
fn make(source: &Path, work: &Path, headers: &Headers, own: Option<&Path>) -> Result<()> {
    let step = Step::new("Building");
    step.note("the kernel module");
    for file in sources(source)? {
        std::fs::copy(&file, work.join(file.file_name().unwrap_or_default()))?;
    }
    let output = match own {
        None => headers.cloud.clone(),
        Some(own) => with_programs(own, headers, work)?,
    };
    let mut command = Command::new("make");
    command.arg("-C").arg(&headers.common);
    command.arg(format!("KBUILD_OUTPUT={}", output.display()));
    command.arg(format!("M={}", work.display()));
    // Debian's files ask for its own gcc; its BTF is made by a program that
    // is not here, and the alignment by a flag that only newer gcc have.
    command.args(["ARCH=arm64", &format!("CC={CROSS}gcc"), &format!("CROSS_COMPILE={CROSS}")]);
    command.args(["CONFIG_DEBUG_INFO_BTF_MODULES=", "CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT="]);
    command.args(["W=1", "KCFLAGS=-Werror", "modules"]);
    // cargo's make flags are not the kernel's.
    command.env_remove("MAKEFLAGS").env_remove("MFLAGS");
    pkvm::follow(&step, command, &work.with_extension("log"))?;
    let module = work.join(format!("{NAME}.ko"));
    run_quietly(&step, Command::new(format!("{CROSS}strip")).arg("-g").arg(&module))?;
    step.done("the kernel module");
    Ok(())
}

/// Headers of a kernel that was built here, with Debian's programs.
fn with_programs(own: &Path, headers: &Headers, work: &Path) -> Result<PathBuf> {
    let output = work.join("kernel");
    let mut copy = Command::new("cp");
    let status = copy.arg("-rT").arg(own).arg(&output).status().context("cannot start cp")?;
    if !status.success() {
        bail!("{} cannot be copied ({status})", shown(own));
    }
    for name in ["scripts", "tools"] {
        let programs = headers.cloud.join(name).canonicalize()?;
        std::os::unix::fs::symlink(programs, output.join(name))?;
    }
    // It only names sections: one that a kernel does not ask for stays empty.
    let script = "arch/arm64/module.lds";
    std::fs::copy(headers.cloud.join(script), output.join(script))
        .with_context(|| format!("the packages hold no {script}"))?;
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_source_or_other_headers_are_another_module() {
        let folder = std::env::temp_dir().join(format!("bouncer-module-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
        write("main.c", "int x;");
        write("Kbuild", "obj-m := x.o");
        let mut pins = Pins::own().unwrap();
        let first = digest(&folder, &pins, None).unwrap();
        write("README.md", "does not count");
        assert_eq!(digest(&folder, &pins, None).unwrap(), first);
        assert_ne!(digest(&folder, &pins, Some(Path::new("other"))).unwrap(), first);
        write("main.c", "int y;");
        let second = digest(&folder, &pins, None).unwrap();
        assert_ne!(second, first);
        for pin in &mut pins.pins {
            pin.sha256 = "0".repeat(64);
        }
        assert_ne!(digest(&folder, &pins, None).unwrap(), second);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_module_has_the_name_that_it_is_loaded_by() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(SOURCE);
        let kbuild = std::fs::read_to_string(source.join("Kbuild")).unwrap();
        assert!(kbuild.contains(&format!("obj-m := {NAME}.o")), "{kbuild}");
        let init = include_str!("init.sh");
        assert!(init.contains(&format!("/lib/modules/{NAME}.ko")), "{init}");
    }
}
