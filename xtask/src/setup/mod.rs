//! Finds out what is missing on this machine and installs it: a Rust target
//! through rustup, QEMU and the fuzzers' C++ compiler through apt. With
//! everything in place it only looks, and needs no network.

pub mod cpp;
pub mod distro;
pub mod rust;

use std::io::IsTerminal;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::qemu::PROGRAM;
use crate::term::{DIM, Step, paint, run_quietly};
use distro::{Facts, Plan, Privilege, Version};

/// Oldest QEMU that serves: guest-loader, EL2 and GICv3 as bouncer needs
/// them, with the fixes of 8.2.
pub const OLDEST_QEMU: Version = (8, 2);

/// Makes this machine ready to build and boot.
///
/// # Errors
/// When something is missing that cannot be installed from here; the message
/// has the exact commands.
pub fn run() -> Result<()> {
    let step = Step::new("Setting up");
    let rust = rust::ensure(&step)?;
    let qemu = ensure_qemu(&step)?;
    step.done(&format!("rust {rust}, target {}, QEMU {}.{}", rust::TARGET, qemu.0, qemu.1));
    Ok(())
}

/// The same, and what the fuzzers need; bouncer runs without them, so here
/// the lack of it is only told.
///
/// # Errors
/// As [`run`].
pub fn run_with_fuzzers() -> Result<()> {
    run()?;
    if let Err(missing) = cpp::ensure() {
        anstream::println!("  {} {missing:#}", paint(DIM, "no fuzzing:"));
    }
    Ok(())
}

/// The installed QEMU's version, if there is one.
#[must_use]
pub fn qemu_version() -> Option<Version> {
    let output = Command::new(PROGRAM).arg("--version").output().ok()?;
    distro::qemu_version(&String::from_utf8_lossy(&output.stdout))
}

fn ensure_qemu(step: &Step) -> Result<Version> {
    if let Some(version) = qemu_version().filter(|version| *version >= OLDEST_QEMU) {
        return Ok(version);
    }
    carry_out(step, distro::plan(&facts()))?;
    match qemu_version() {
        Some(version) if version >= OLDEST_QEMU => Ok(version),
        Some((major, minor)) => bail!(
            "apt installed QEMU {major}.{minor}, but {PROGRAM} {}.{} or newer is needed; \
             install it by hand and put it on the PATH",
            OLDEST_QEMU.0,
            OLDEST_QEMU.1
        ),
        None => bail!("apt reported success, but {PROGRAM} is still not on the PATH"),
    }
}

/// Installs ordinary packages of the distribution.
///
/// # Errors
/// When that is not possible from here; the message has the exact commands.
pub fn install_packages(step: &Step, packages: &[&str], what_for: &str) -> Result<()> {
    carry_out(step, distro::plan_packages(&facts(), packages, what_for))
}

fn carry_out(step: &Step, plan: Plan) -> Result<()> {
    match plan {
        Plan::Install { sources, commands } => {
            if let Some((path, text)) = sources {
                step.note(&format!("writing {path}"));
                write_as_root(path, &text)?;
            }
            for words in commands {
                step.note(&words.join(" "));
                run_quietly(step, &mut as_root(&words)).with_context(|| {
                    format!("installing failed at `{}`; is the network up?", words.join(" "))
                })?;
            }
            Ok(())
        }
        Plan::Manual { why, commands } => {
            bail!("{why}\nRun these, then try again:\n\n    {}\n", commands.join("\n    "))
        }
    }
}

/// What this machine is.
#[must_use]
pub fn facts() -> Facts {
    let mut sources = std::fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    if let Ok(folder) = std::fs::read_dir("/etc/apt/sources.list.d") {
        for path in folder.flatten().map(|entry| entry.path()) {
            // A blank line keeps deb822 paragraphs of two files apart.
            sources.push_str("\n\n");
            sources.push_str(&std::fs::read_to_string(path).unwrap_or_default());
        }
    }
    Facts {
        os_release: std::fs::read_to_string("/etc/os-release").unwrap_or_default(),
        apt_sources: sources,
        privilege: privilege(),
        has_apt: Path::new("/usr/bin/apt-get").exists(),
        qemu: qemu_version(),
    }
}

fn privilege() -> Privilege {
    let quiet = |program: &str, arguments: &[&str]| {
        Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output()
    };
    if quiet("id", &["-u"]).is_ok_and(|output| output.stdout.trim_ascii() == b"0") {
        return Privilege::Root;
    }
    if quiet("sudo", &["-n", "true"]).is_ok_and(|output| output.status.success()) {
        return Privilege::Sudo;
    }
    Privilege::None
}

fn as_root(words: &[String]) -> Command {
    let mut command = match privilege() {
        Privilege::Sudo => {
            let mut command = Command::new("sudo");
            command.args(["-n", "env", "DEBIAN_FRONTEND=noninteractive"]);
            command
        }
        Privilege::Root | Privilege::None => {
            let mut command = Command::new("env");
            command.arg("DEBIAN_FRONTEND=noninteractive");
            command
        }
    };
    command.args(words);
    if std::io::stderr().is_terminal() {
        command.env("DEBIAN_PRIORITY", "critical");
    }
    command
}

fn write_as_root(path: &str, text: &str) -> Result<()> {
    if privilege() == Privilege::Root {
        return std::fs::write(path, text).with_context(|| format!("cannot write {path}"));
    }
    let mut child = Command::new("sudo")
        .args(["-n", "tee", path])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    std::io::Write::write_all(&mut child.stdin.take().context("no stdin")?, text.as_bytes())?;
    if !child.wait()?.success() {
        bail!("cannot write {path}");
    }
    Ok(())
}

/// The packages of those programs that do not start here, of (program,
/// package) pairs.
pub(crate) fn missing(tools: &[(&str, &'static str)]) -> Vec<&'static str> {
    let runs = |program: &str| {
        let quiet = std::process::Stdio::null;
        let mut command = std::process::Command::new(program);
        command.arg("--version").stdin(quiet()).stdout(quiet()).stderr(quiet());
        command.status().is_ok()
    };
    tools.iter().filter(|(program, _)| !runs(program)).map(|(_, package)| *package).collect()
}
