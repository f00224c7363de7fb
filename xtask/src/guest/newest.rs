//! What Debian's archive holds today: for a pin that has gone, or has grown
//! old. apt reads the archive's index in a place of its own below the target
//! folder, for arm64 and for the machine that builds, without touching the
//! machine's packages.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::archive::{DEBIAN, mirrors};
use super::pins::{Pin, Pins, Role};
use crate::term::{Step, run_quietly};
use crate::workspace::Workspace;

/// Debian's keys; Ubuntu has them in the package debian-archive-keyring.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The package that always depends on the newest kernel.
const NEWEST_KERNEL: &str = "linux-image-cloud-arm64";

/// What was found.
#[derive(Debug)]
pub struct Newest {
    /// The table as it would be today.
    pub pins: Pins,
    /// Whether apt has checked the archive's signature.
    pub signed: bool,
}

/// Asks the archive.
///
/// # Errors
/// When there is no apt, or the archive does not answer.
pub fn look(workspace: &Workspace, old: &Pins) -> Result<Newest> {
    let step = Step::new("Asking");
    let suite_of = |role| old.of(role).map(|pin| pin.suite.clone());
    let mut suites = vec![suite_of(Role::Kernel)?, suite_of(Role::Busybox)?];
    suites.dedup();
    let apt = Apt::new(workspace, &suites)?;
    step.note("reading the archive's index");
    run_quietly(&step, Command::new("apt-get").args(&apt.options).arg("update"))
        .context("Debian's archive cannot be read; is the network up?")?;
    let kernel_suite = suite_of(Role::Kernel)?;
    let image = apt.show(&step, &kernel_suite, NEWEST_KERNEL)?;
    let release = release_in(&image).context("the newest kernel's package names no kernel")?;
    let kernel = apt.show(&step, &kernel_suite, &format!("linux-binary-{release}"))?;
    let large_pages = release.replace("cloud-arm64", "arm64-16k");
    let version = field(&kernel, "Version").context("a package without a version")?;
    let series: Vec<&str> = version.split(['.', '-', '~']).take(2).collect();
    let source = format!("linux-source-{}={version}", series.join("."));
    let stanzas = [
        (Role::Kernel, kernel.clone()),
        (Role::Modules, apt.show(&step, &kernel_suite, &format!("linux-modules-{release}"))?),
        (Role::Busybox, apt.show(&step, &suite_of(Role::Busybox)?, "busybox-static")?),
        (Role::Source, apt.show(&step, &kernel_suite, &source)?),
        (Role::Loader, apt.show(&step, &suite_of(Role::Loader)?, "u-boot-qemu")?),
        (Role::Kernel16k, apt.show(&step, &kernel_suite, &format!("linux-binary-{large_pages}"))?),
        (Role::Headers, apt.show(&step, &kernel_suite, &format!("linux-headers-{release}"))?),
        (
            Role::HeadersCommon,
            apt.show(&step, &kernel_suite, &format!("linux-headers-{}common", stem(release)))?,
        ),
        (
            Role::Kbuild,
            apt.show(
                &step,
                &kernel_suite,
                &format!("linux-kbuild-{}:amd64", stem(release).trim_end_matches('-')),
            )?,
        ),
        (Role::Libc, apt.show(&step, &suite_of(Role::Libc)?, "libc6:amd64")?),
    ];
    let mut pins = Vec::new();
    for (role, stanza) in stanzas {
        pins.push(pin_of(role, &suite_of(role)?, &stanza)?);
    }
    let now = run_quietly(&step, Command::new("date").args(["-u", "+%Y%m%dT%H%M%SZ"]))?;
    let text = Pins { pins, snapshot: now.trim().to_owned() }.lines();
    // Read back: what cannot be put into the table must not be offered.
    let pins = Pins::parse(&text).context("the archive's index is not as expected")?;
    step.done(&format!("the archive has {}", pins.of(Role::Kernel)?.title()));
    Ok(Newest { pins, signed: apt.signed })
}

/// apt on a state of its own.
struct Apt {
    options: Vec<String>,
    signed: bool,
}

impl Apt {
    fn new(workspace: &Workspace, suites: &[String]) -> Result<Self> {
        let folder = workspace.folder("guest/apt")?;
        for name in ["state/lists/partial", "cache/archives/partial", "empty"] {
            std::fs::create_dir_all(folder.join(name))?;
        }
        let signed = Path::new(KEYRING).exists();
        let trust = if signed { format!("signed-by={KEYRING}") } else { "trusted=yes".to_owned() };
        let mirror = mirrors().into_iter().next().unwrap_or_else(|| DEBIAN.to_owned());
        let lines = suites.iter().map(|suite| format!("deb [{trust}] {mirror} {suite} main\n"));
        let sources = folder.join("sources.list");
        std::fs::write(&sources, lines.collect::<String>())?;
        Ok(Self { options: options(&folder, &sources), signed })
    }

    /// One package's paragraph of the index. `-t`, or a suite of backports
    /// would only be second choice.
    fn show(&self, step: &Step, suite: &str, package: &str) -> Result<String> {
        let mut command = Command::new("apt-cache");
        command.args(&self.options).args(["-t", suite, "show", "--no-all-versions", package]);
        run_quietly(step, &mut command).with_context(|| format!("{suite} has no {package}"))
    }
}

fn options(folder: &Path, sources: &Path) -> Vec<String> {
    let under = |name: &str| -> PathBuf { folder.join(name) };
    let settings = [
        ("Dir::State", under("state")),
        ("Dir::State::status", "/dev/null".into()),
        ("Dir::Cache", under("cache")),
        ("Dir::Etc::sourcelist", sources.to_path_buf()),
        ("Dir::Etc::sourceparts", under("empty")),
        ("Dir::Etc::preferences", "/dev/null".into()),
        ("Dir::Etc::preferencesparts", under("empty")),
        ("APT::Architecture", "arm64".into()),
        ("APT::Architectures", "arm64,amd64".into()),
        ("Acquire::Languages", "none".into()),
    ];
    let word = |(key, value): (&str, PathBuf)| ["-o".into(), format!("{key}={}", value.display())];
    settings.into_iter().flat_map(word).collect()
}

/// A field of a package's paragraph.
fn field<'a>(stanza: &'a str, name: &str) -> Option<&'a str> {
    stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// The kernel release that the package of the newest kernel depends on.
fn release_in(stanza: &str) -> Option<&str> {
    field(stanza, "Depends")?
        .split(", ")
        .find_map(|package| package.split(' ').next()?.strip_prefix("linux-image-"))
}

/// A release without its flavour: `7.2.12+deb13-cloud-arm64` is
/// `7.2.12+deb13-`.
fn stem(release: &str) -> &str {
    let end = release.find('-').map_or(release.len(), |at| at + 1);
    release.get(..end).unwrap_or(release)
}

fn pin_of(role: Role, suite: &str, stanza: &str) -> Result<Pin> {
    let (Some(path), Some(size), Some(sha256)) =
        (field(stanza, "Filename"), field(stanza, "Size"), field(stanza, "SHA256"))
    else {
        bail!("the archive's index says too little about the {}", role.word());
    };
    Ok(Pin {
        role,
        suite: suite.to_owned(),
        size: size.parse().context("no size")?,
        sha256: sha256.to_owned(),
        path: path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_leads_from_the_newest_kernel_to_its_files() {
        let image = "Package: linux-image-cloud-arm64\nVersion: 7.2.12-1~bpo13+1\n\
            Depends: linux-base-cloud-arm64 (= 7.2), linux-image-7.2.12+deb13-cloud-arm64 (= 7.2)\n";
        assert_eq!(release_in(image), Some("7.2.12+deb13-cloud-arm64"));
        assert_eq!(release_in("Package: x\n"), None);
        assert_eq!(stem("7.2.12+deb13-cloud-arm64"), "7.2.12+deb13-");
        let stanza = format!("Filename: pool/a_1_arm64.deb\nSize: 12\nSHA256: {:064x}\n", 7);
        let pin = pin_of(Role::Kernel, "sid", &stanza).unwrap();
        assert_eq!((pin.size, pin.path.as_str()), (12, "pool/a_1_arm64.deb"));
        assert!(pin_of(Role::Kernel, "sid", "Size: 12\n").is_err());
    }
}
