//! Builds what boots: bouncer, the host payload and the guest payload.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::image::flatten;
use crate::setup::rust::TARGET;
use crate::term::{Step, run_quietly};
use crate::workspace::{Workspace, cargo, shown};

/// The packages that become images; each builds one binary of its name.
const PACKAGES: [&str; 3] = ["el2-boot", "host", "guest"];

/// The images a boot needs.
#[derive(Debug, Clone)]
pub struct Images {
    /// bouncer as a flat arm64 Image, for QEMU's `-kernel`.
    pub bouncer: PathBuf,
    /// bouncer with its symbols, for a debugger.
    pub bouncer_elf: PathBuf,
    /// The host payload as a flat arm64 Image.
    pub host: PathBuf,
    /// The host payload with its symbols.
    pub host_elf: PathBuf,
    /// The guest payload as a flat arm64 Image.
    pub guest: PathBuf,
}

/// Builds all three and flattens them into target/bouncer/images.
///
/// # Errors
/// When the compiler refuses something, or a result is no arm64 Image.
pub fn images(workspace: &Workspace) -> Result<Images> {
    let step = Step::new("Building");
    let mut command = cargo();
    command.current_dir(&workspace.root).args(["build", "--release", "--target", TARGET]);
    command.arg("--message-format=json-render-diagnostics");
    for package in PACKAGES {
        command.args(["--package", package]);
    }
    let messages = run_quietly(&step, &mut command).context("the build failed")?;

    let folder = workspace.folder("images")?;
    let mut flat = Vec::new();
    let mut elves = Vec::new();
    let mut sizes = Vec::new();
    for package in PACKAGES {
        let elf = executable(&messages, package)
            .with_context(|| format!("cargo built no executable of package {package}"))?;
        let bytes = std::fs::read(&elf)?;
        let image = flatten(&bytes).with_context(|| format!("{} is not bootable", shown(&elf)))?;
        sizes.push(format!("{package} {} KiB", image.len().div_ceil(1024)));
        flat.push(write_image(&folder, package, &image)?);
        elves.push(elf);
    }
    step.done(&sizes.join(", "));
    let [bouncer, host, guest] = <[PathBuf; 3]>::try_from(flat).ok().context("three images")?;
    let [bouncer_elf, host_elf, _] = <[PathBuf; 3]>::try_from(elves).ok().context("three ELFs")?;
    Ok(Images { bouncer, bouncer_elf, host, host_elf, guest })
}

/// A bouncer that does more than its work: it checks the rules of memory while
/// it runs (hyp's feature `oracle`), or counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// It checks.
    Oracle,
    /// It checks, and keeps a trace of page-table events (feature `trace`).
    Traced,
    /// It checks, and notes which edges of its code were taken.
    Covered,
    /// It counts whose time it was (feature `profile`).
    Profiled,
}

/// Flags rather than counters: a counter of eight bits that came round to 0
/// would look as if nobody had been there.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 \
    -Cllvm-args=-sanitizer-coverage-inline-bool-flag";

impl Variant {
    /// Features, folder and image name, and what it is called.
    fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Oracle => ("oracle", "oracle", "bouncer with its oracle"),
            Self::Traced => ("oracle,trace", "oracle-trace", "bouncer with its oracle and a trace"),
            Self::Covered => ("oracle", "oracle-edges", "bouncer with its oracle, instrumented"),
            Self::Profiled => ("profile", "profile", "bouncer that counts whose time it was"),
        }
    }
}

/// The same with a bouncer that checks itself.
///
/// # Errors
/// As [`images`].
pub fn images_with_oracle(workspace: &Workspace) -> Result<Images> {
    images_of(workspace, Variant::Oracle)
}

/// The same with this bouncer.
///
/// # Errors
/// As [`images`].
pub fn images_of(workspace: &Workspace, variant: Variant) -> Result<Images> {
    let images = images(workspace)?;
    let (features, name, about) = variant.names();
    let step = Step::new("Building");
    let mut command = cargo();
    command.current_dir(&workspace.root).args(["build", "--release", "--target", TARGET]);
    command.args(["--package", "el2-boot", "--features", features]);
    if variant == Variant::Covered {
        command.env("RUSTFLAGS", COVERAGE);
    }
    // In a place of its own: the plain bouncer's files stay as they are.
    command.arg("--target-dir").arg(workspace.target.join(name));
    command.arg("--message-format=json-render-diagnostics");
    let messages = run_quietly(&step, &mut command).context("the build failed")?;
    let elf = executable(&messages, "el2-boot").context("cargo built no executable of el2-boot")?;
    let bytes = std::fs::read(&elf)?;
    let image = flatten(&bytes).with_context(|| format!("{} is not bootable", shown(&elf)))?;
    let folder = workspace.folder("images")?;
    let bouncer = write_image(&folder, &format!("bouncer-{name}"), &image)?;
    step.done(&format!("{about}, {} KiB", image.len().div_ceil(1024)));
    Ok(Images { bouncer, bouncer_elf: elf, ..images })
}

/// Where cargo put the executable of a package.
fn executable(messages: &str, package: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message.pointer("/target/name").and_then(|n| n.as_str()) == Some(package))
        .find_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
}

/// Writes an image so that another boot never reads half of it.
fn write_image(folder: &Path, package: &str, image: &[u8]) -> Result<PathBuf> {
    let name = if package == "el2-boot" { "bouncer" } else { package };
    let path = folder.join(format!("{name}.img"));
    let unfinished = folder.join(format!(".{name}.{}", std::process::id()));
    std::fs::write(&unfinished, image)
        .with_context(|| format!("cannot write {}", unfinished.display()))?;
    std::fs::rename(&unfinished, &path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_found_among_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"rt"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"host"},"executable":"/t/host"}
not json
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, "host"), Some(PathBuf::from("/t/host")));
        assert_eq!(executable(messages, "rt"), None);
    }
}
