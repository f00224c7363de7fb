//! A small kernel with the pKVM guest driver: no distribution enables it, so
//! it is built here, once, from Debian's source of the pinned kernel.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use super::archive::hex;
use super::pins::{Pin, Pins, Role};
use super::{deb, debian, read};
use crate::setup;
use crate::term::{Step, run_quietly};
use crate::workspace::{Workspace, shown};

/// Debian's prefix of the cross compiler.
pub const CROSS: &str = "aarch64-linux-gnu-";
/// What building needs: a program and its package.
const TOOLS: [(&str, &str); 9] = [
    ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
    ("gcc", "gcc"),
    ("make", "make"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("perl", "perl"),
    ("tar", "tar"),
    ("xz", "xz-utils"),
];
/// What of a build is needed to build modules for its kernel: the
/// configuration, what was generated from it, and the kernel's symbols.
const HEADERS: [&str; 5] = [
    ".config",
    "Module.symvers",
    "include/config",
    "include/generated",
    "arch/arm64/include/generated",
];
/// The program that knows the kernel's style, and what it reads.
const CHECKPATCH: [&str; 3] = ["checkpatch.pl", "spelling.txt", "const_structs.checkpatch"];
/// What the kernel is built for; without them it would be of no use.
const VITAL: [&str; 3] =
    ["CONFIG_ARM_PKVM_GUEST=y", "CONFIG_DMA_RESTRICTED_POOL=y", "CONFIG_VIRTIO_PCI=y"];

/// The kernel, if it has been built from what is pinned now.
///
/// # Errors
/// When it has not.
pub fn built(workspace: &Workspace) -> Result<Vec<u8>> {
    let image = place(workspace)?.join("Image");
    if !image.exists() {
        bail!(
            "the kernel with the pKVM guest driver is not built yet: run `cargo xtask guest \
             build-pkvm` (some minutes, once)"
        );
    }
    read(&image)
}

/// Builds it unless it is there.
///
/// # Errors
/// When a tool is missing and cannot be installed, or the build fails.
pub fn build(workspace: &Workspace) -> Result<PathBuf> {
    let place = place(workspace)?;
    let image = place.join("Image");
    if image.exists() {
        anstream::eprintln!("  it is built already: {}", shown(&image));
        return Ok(image);
    }
    ensure_tools()?;
    let pins = Pins::own()?;
    let package = debian::package(workspace, &pins, Role::Source)?;
    // Not in the final place: half a build must not be taken for a whole one.
    // One that was stopped goes on where it was.
    let work = place.with_extension("part");
    std::fs::create_dir_all(&work)?;
    let _turn = only_one(&work)?;
    let made = unpack(&package, &work).and_then(|source| {
        let log = work.join("build.log");
        make_kernel(workspace, &source, &work.join("build"), &log)
            .with_context(|| format!("all that the build said is in {}", shown(&log)))
    });
    let built = made?;
    std::fs::create_dir_all(&place)?;
    std::fs::copy(built.join(".config"), place.join("config"))?;
    keep(&built, &HEADERS, &place.join("headers"))?;
    keep(&work.join("source/scripts"), &CHECKPATCH, &place.join("checkpatch"))?;
    std::fs::copy(built.join("arch/arm64/boot/Image"), place.join("Image.part"))?;
    std::fs::rename(place.join("Image.part"), &image)?;
    // Source and objects are two gigabytes that nobody needs any more.
    std::fs::remove_dir_all(&work)?;
    anstream::eprintln!("  the kernel with the pKVM guest driver is {}", shown(&image));
    Ok(image)
}

/// The command that holds files to the kernel's style, all of it, if the kernel
/// has been built: it comes with the source.
#[must_use]
pub fn checkpatch(workspace: &Workspace) -> Option<Command> {
    let program = place(workspace).ok()?.join("checkpatch").join(CHECKPATCH[0]);
    let mut command = Command::new("perl");
    command.arg(&program).args([
        "--no-tree",
        "--strict",
        "--no-summary",
        "--terse",
        "--quiet",
        "--file",
    ]);
    program.exists().then_some(command)
}

/// Keeps what is wanted later of a folder that is removed.
fn keep(from: &Path, names: &[&str], to: &Path) -> Result<()> {
    for name in names {
        let target = to.join(name);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let mut copy = Command::new("cp");
        copy.arg("-rT").arg(from.join(name)).arg(&target);
        let status = copy.status().context("cannot start cp")?;
        if !status.success() {
            bail!("{name} of the kernel's cannot be kept ({status})");
        }
    }
    Ok(())
}

/// Where the headers of the kernel are, as a folder to build modules in.
///
/// # Errors
/// When the kernel is not built.
pub fn headers(workspace: &Workspace) -> Result<PathBuf> {
    built(workspace)?;
    Ok(place(workspace)?.join("headers"))
}

/// Keeps a second build out of the folder; dropped, it lets the next one in.
fn only_one(work: &Path) -> Result<std::fs::File> {
    let file = std::fs::File::create(work.join("lock"))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!("another `guest build-pkvm` is at work in {}", shown(work));
    }
    Ok(file)
}

/// A folder named after all that the kernel depends on.
fn place(workspace: &Workspace) -> Result<PathBuf> {
    let pins = Pins::own()?;
    let source = pins.of(Role::Source)?;
    let name = name_for(source, &read(&fragment(workspace))?);
    Ok(workspace.folder("guest")?.join(name))
}

fn name_for(source: &Pin, fragment: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(&source.sha256);
    hash.update(fragment);
    HEADERS.iter().for_each(|name| hash.update(name));
    let digest = hex(&hash.finalize());
    let short = digest.get(..12).unwrap_or(&digest);
    format!("pkvm-{}-{short}", source.version().replace(|c: char| !c.is_ascii_alphanumeric(), "-"))
}

/// The options that differ from the smallest kernel.
fn fragment(workspace: &Workspace) -> PathBuf {
    workspace.root.join("tests/linux/pkvm.config")
}

fn ensure_tools() -> Result<()> {
    let step = Step::new("Setting up");
    let missing = setup::missing(&TOOLS);
    if missing.is_empty() {
        return Ok(());
    }
    // gcc alone has no headers to build the kernel's own tools with.
    let packages: Vec<&str> = missing.iter().copied().chain(["libc6-dev"]).collect();
    setup::install_packages(&step, &packages, "What a kernel is built with")?;
    step.done(&packages.join(", "));
    Ok(())
}

/// Unpacks the source; returns its folder.
fn unpack(package: &Path, work: &Path) -> Result<PathBuf> {
    let source = work.join("source");
    if source.exists() {
        return Ok(source);
    }
    let step = Step::new("Unpacking");
    step.note("the package of the source");
    let archive = work.join("source.tar.xz");
    deb::visit(package, &mut |path, contents| {
        if path.ends_with(".tar.xz") {
            std::io::copy(contents, &mut std::fs::File::create(&archive)?)?;
        }
        Ok(())
    })?;
    let part = work.join("source.part");
    std::fs::create_dir_all(&part)?;
    step.note("90000 files of Linux");
    let mut tar = Command::new("tar");
    tar.args(["--strip-components=1", "-xJf"]).arg(&archive).arg("-C").arg(&part);
    run_quietly(&step, &mut tar)?;
    std::fs::rename(&part, &source)?;
    step.done("the source of Linux");
    Ok(source)
}

/// Configures and builds; returns the folder of the results.
fn make_kernel(workspace: &Workspace, source: &Path, out: &Path, log: &Path) -> Result<PathBuf> {
    let step = Step::new("Building");
    std::fs::create_dir_all(out)?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let make = |words: &[&str]| {
        // It is long and nobody waits for its first minutes: what runs beside it
        // goes first.
        let mut command = Command::new("nice");
        command
            .args(["-n", "19", "make"])
            .arg("-C")
            .arg(source)
            .arg(format!("O={}", out.display()));
        command.args(["ARCH=arm64", &format!("CROSS_COMPILE={CROSS}")]).args(words);
        command.env("KCONFIG_ALLCONFIG", fragment(workspace));
        // Whoever builds it, whenever: the same kernel.
        command.env("KBUILD_BUILD_USER", "bouncer").env("KBUILD_BUILD_HOST", "bouncer");
        command.env("KBUILD_BUILD_TIMESTAMP", "1970-01-01");
        // cargo's make flags are not the kernel's.
        command.env_remove("MAKEFLAGS").env_remove("MFLAGS");
        command
    };
    follow(&step, make(&["allnoconfig"]), log)?;
    let config = std::fs::read_to_string(out.join(".config"))?;
    if let Some(lost) = VITAL.iter().find(|wanted| !config.lines().any(|line| line == **wanted)) {
        bail!("this kernel's configuration drops {lost}");
    }
    follow(&step, make(&[&format!("-j{jobs}"), "Image"]), log)?;
    // There are none, but the table of the kernel's symbols comes with them.
    follow(&step, make(&["modules"]), log)?;
    step.done("a kernel");
    Ok(out.to_path_buf())
}

/// Runs a command; its lines are the step's notes and go to the log.
pub fn follow(step: &Step, mut command: Command, log: &Path) -> Result<()> {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(file.try_clone()?)
        .spawn()
        .context("cannot start make")?;
    let stdout = child.stdout.take().context("no stdout")?;
    let mut done = 0;
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        done += 1;
        step.note(&format!("step {done}: {}", line.trim()));
        writeln!(file, "{line}")?;
    }
    let status = child.wait()?;
    if !status.success() {
        let said = String::from_utf8_lossy(&read(log)?).into_owned();
        let error = said.lines().find(|line| line.contains("rror:") || line.contains("not found"));
        bail!("make failed ({status}): {}", error.unwrap_or_default().trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_source_or_configuration_is_another_kernel() {
        let mut pin = Pins::own().unwrap().of(Role::Source).unwrap().clone();
        let name = name_for(&pin, b"CONFIG_A=y");
        assert!(name.starts_with("pkvm-7-") && !name.contains('~'), "{name}");
        assert_ne!(name, name_for(&pin, b"CONFIG_B=y"));
        pin.sha256 = "0".repeat(64);
        assert_ne!(name, name_for(&pin, b"CONFIG_A=y"));
    }

    #[test]
    fn the_fragment_asks_for_what_is_vital() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/linux/pkvm.config");
        let fragment = std::fs::read_to_string(root).unwrap();
        for wanted in VITAL {
            assert!(fragment.lines().any(|line| line == wanted), "{wanted}");
        }
    }
}
