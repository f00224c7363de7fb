//! Which commands install QEMU on this distribution: a decision on facts,
//! kept apart from carrying it out so that every case can be tested.

/// major, minor.
pub type Version = (u32, u32);

/// May we install packages?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// We are root.
    Root,
    /// sudo works without a password.
    Sudo,
    /// Neither.
    None,
}

/// What was found on the machine.
#[derive(Debug, Clone)]
pub struct Facts {
    /// /etc/os-release.
    pub os_release: String,
    /// All of apt's sources, one-line and deb822, joined.
    pub apt_sources: String,
    /// Whether packages may be installed.
    pub privilege: Privilege,
    /// Whether there is an apt-get.
    pub has_apt: bool,
    /// QEMU that is installed but too old.
    pub qemu: Option<Version>,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Write this file if there is one, then run these commands, as root.
    Install {
        /// An apt source to add: (path, text).
        sources: Option<(&'static str, String)>,
        /// Commands, word by word.
        commands: Vec<Vec<String>>,
    },
    /// A person must.
    Manual {
        /// What is the matter.
        why: String,
        /// What to run.
        commands: Vec<String>,
    },
}

/// The source file added on Debian 12, whose own QEMU is too old.
const BACKPORTS_FILE: &str = "/etc/apt/sources.list.d/bouncer-backports.sources";
/// Debian's mirror name, used where no source on the machine names another.
const DEBIAN_MIRROR: &str = "http://deb.debian.org/debian";
/// The package with qemu-system-aarch64, on Debian and Ubuntu alike.
const PACKAGE: &str = "qemu-system-arm";

/// Decides how to get QEMU.
#[must_use]
pub fn plan(facts: &Facts) -> Plan {
    let id = os_field(&facts.os_release, "ID");
    let debian_like = id == "debian"
        || id == "ubuntu"
        || os_field(&facts.os_release, "ID_LIKE").split(' ').any(|like| like == "debian");
    if !debian_like || !facts.has_apt {
        return Plan::Manual {
            why: format!("{} is missing or too old, and this is not Debian or Ubuntu.", PACKAGE_OF),
            commands: vec!["# install QEMU 8.2 or newer with qemu-system-aarch64".into()],
        };
    }
    let bookworm = id == "debian" && os_field(&facts.os_release, "VERSION_ID") == "12";
    let mut sources = None;
    let mut install = words("apt-get install -y --no-install-recommends");
    if bookworm {
        // qemu-utils may already come from backports; apt then resolves only
        // if it is told to take the rest from there too.
        install.extend(words("-t bookworm-backports"));
        if !has_suite(&facts.apt_sources, "bookworm-backports") {
            sources = Some((BACKPORTS_FILE, backports_source(&facts.apt_sources)));
        }
    }
    install.push(PACKAGE.into());
    let commands = vec![words("apt-get update"), install];
    if facts.privilege != Privilege::None {
        return Plan::Install { sources, commands };
    }
    let mut by_hand = Vec::new();
    if let Some((path, text)) = sources {
        let lines: Vec<String> = text.lines().map(|line| format!("'{line}'")).collect();
        by_hand.push(format!("printf '%s\\n' {} | sudo tee {path}", lines.join(" ")));
    }
    by_hand.extend(commands.iter().map(|words| format!("sudo {}", words.join(" "))));
    let why = format!("{PACKAGE_OF} is missing or too old, and installing needs root.");
    Plan::Manual { why, commands: by_hand }
}

const PACKAGE_OF: &str = "qemu-system-aarch64";

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

/// A field of os-release, without quotes; empty if absent.
fn os_field<'a>(os_release: &'a str, key: &str) -> &'a str {
    os_release
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .map(|value| value.trim().trim_matches(['"', '\'']))
        .unwrap_or_default()
}

/// deb822 text for bookworm-backports from the mirror this machine uses.
fn backports_source(apt_sources: &str) -> String {
    let mirror = mirror_of(apt_sources, "bookworm").unwrap_or_else(|| DEBIAN_MIRROR.into());
    format!(
        "Types: deb\nURIs: {mirror}\nSuites: bookworm-backports\nComponents: main\n\
         Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    )
}

fn has_suite(apt_sources: &str, suite: &str) -> bool {
    mirror_of(apt_sources, suite).is_some()
}

/// The mirror of Debian that this machine uses; none if it is no Debian.
#[must_use]
pub fn debian_mirror(os_release: &str, apt_sources: &str) -> Option<String> {
    if os_field(os_release, "ID") != "debian" {
        return None;
    }
    mirror_of(apt_sources, os_field(os_release, "VERSION_CODENAME"))
}

/// How to install packages that every Debian and Ubuntu has.
#[must_use]
pub fn plan_packages(facts: &Facts, packages: &[&str], what_for: &str) -> Plan {
    let mut install = words("apt-get install -y --no-install-recommends");
    install.extend(packages.iter().map(|&package| package.to_owned()));
    let commands = vec![words("apt-get update"), install];
    if facts.has_apt && facts.privilege != Privilege::None {
        return Plan::Install { sources: None, commands };
    }
    let (why, commands) = if facts.has_apt {
        let sudo = commands.iter().map(|words| format!("sudo {}", words.join(" ")));
        (format!("{what_for} is missing, and installing needs root."), sudo.collect())
    } else {
        let what = packages.join(", ");
        let command = format!("# install what Debian calls {what}");
        (format!("{what_for} is missing, and this is not Debian or Ubuntu."), vec![command])
    };
    Plan::Manual { why, commands }
}

/// The first URI that serves a suite's binary packages, from either form of
/// source: `deb [options] URI suite …` or a deb822 paragraph.
fn mirror_of(apt_sources: &str, suite: &str) -> Option<String> {
    one_line_mirror(apt_sources, suite).or_else(|| deb822_mirror(apt_sources, suite))
}

fn one_line_mirror(apt_sources: &str, suite: &str) -> Option<String> {
    apt_sources.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        let mut fields = rest.split_whitespace();
        let uri = fields.next()?;
        (fields.next()? == suite).then(|| uri.to_owned())
    })
}

fn deb822_mirror(apt_sources: &str, suite: &str) -> Option<String> {
    let lines: Vec<&str> =
        apt_sources.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    lines.split(|line| line.trim().is_empty()).find_map(|paragraph| {
        let field = |name: &str| {
            paragraph.iter().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        if field("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no")) {
            return None;
        }
        let binary = field("Types")?.split_whitespace().any(|kind| kind == "deb");
        let serves = field("Suites")?.split_whitespace().any(|name| name == suite);
        let uri = field("URIs")?.split_whitespace().next()?;
        (binary && serves).then(|| uri.to_owned())
    })
}

/// The version in `qemu-system-aarch64 --version`.
#[must_use]
pub fn qemu_version(output: &str) -> Option<Version> {
    version_in(output.split_once("version ")?.1)
}

/// The first two numbers of "1.95.0" and the like.
#[must_use]
pub fn version_in(text: &str) -> Option<Version> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
#[path = "distro_tests.rs"]
mod tests;
