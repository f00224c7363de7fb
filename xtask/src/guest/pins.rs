//! The table of pinned packages, `pins.txt`: which file of Debian's archive
//! plays which role, and the bytes it must consist of.

use std::fmt::{self, Write};

use anyhow::{Context, Result, bail};

/// The table that comes with the source.
const TABLE: &str = include_str!("pins.txt");

/// What a package is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Debian's kernel for virtual machines: an arm64 Image.
    Kernel,
    /// Its modules.
    Modules,
    /// A static busybox.
    Busybox,
    /// The kernel's source, for a kernel with the pKVM guest driver.
    Source,
    /// U-Boot for QEMU's machines, which `run --loader u-boot` boots by.
    Loader,
    /// The same kernel built for pages of 16 KiB, which a test boots.
    Kernel16k,
    /// The kernel's headers, with its configuration: to build modules.
    Headers,
    /// The headers that all configurations of it share.
    HeadersCommon,
    /// The programs that modules are built with, for x86-64.
    Kbuild,
    /// The C library of these programs, for machines whose own is older.
    Libc,
}

impl Role {
    /// All roles, in the order of the table.
    pub const ALL: [Self; 10] = [
        Self::Kernel,
        Self::Modules,
        Self::Busybox,
        Self::Source,
        Self::Loader,
        Self::Kernel16k,
        Self::Headers,
        Self::HeadersCommon,
        Self::Kbuild,
        Self::Libc,
    ];

    /// The word in the table.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Modules => "modules",
            Self::Busybox => "busybox",
            Self::Source => "source",
            Self::Loader => "loader",
            Self::Kernel16k => "kernel-16k",
            Self::Headers => "headers",
            Self::HeadersCommon => "common",
            Self::Kbuild => "kbuild",
            Self::Libc => "libc",
        }
    }
}

/// One pinned file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// What it is for.
    pub role: Role,
    /// The suite that holds it, and that newer ones are looked for in.
    pub suite: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 as 64 hexadecimal digits in lower case.
    pub sha256: String,
    /// Path below the archive's root: `pool/…/NAME_VERSION_ARCH.deb`.
    pub path: String,
}

impl Pin {
    /// The file's own name.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Name and version, as a person says them.
    #[must_use]
    pub fn title(&self) -> String {
        let mut parts = self.file_name().split('_');
        format!("{} {}", parts.next().unwrap_or_default(), self.version())
    }

    /// The package's version (without epoch, which file names leave out).
    #[must_use]
    pub fn version(&self) -> &str {
        self.file_name().split('_').nth(1).unwrap_or_default()
    }
}

impl fmt::Display for Pin {
    /// As the table has it, ready to be put there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { role, suite, size, sha256, path } = self;
        write!(f, "{:<11} {suite:<17} {size:<10} {sha256}\n            {path}", role.word())
    }
}

/// The whole table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pins {
    /// One of each role.
    pub pins: Vec<Pin>,
    /// When the archive held all of them, in snapshot.debian.org's form.
    pub snapshot: String,
}

impl Pins {
    /// The table that comes with the source.
    ///
    /// # Errors
    /// When somebody has broken it.
    pub fn own() -> Result<Self> {
        Self::parse(TABLE).context("xtask/src/guest/pins.txt is broken")
    }

    /// Reads a table.
    ///
    /// # Errors
    /// When a line is not as the table's head describes, or a role is missing
    /// or there twice.
    pub fn parse(text: &str) -> Result<Self> {
        let mut words = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .flat_map(str::split_whitespace);
        let mut table = Self { pins: Vec::new(), snapshot: String::new() };
        while let Some(word) = words.next() {
            let mut next = || words.next().with_context(|| format!("{word}: the line ends early"));
            if word == "snapshot" {
                table.snapshot = next()?.to_owned();
                continue;
            }
            let role = Role::ALL.into_iter().find(|role| role.word() == word);
            let role = role.with_context(|| format!("{word:?} is no role"))?;
            let pin = Pin {
                role,
                suite: next()?.to_owned(),
                size: next()?.parse().with_context(|| format!("{word}: no size"))?,
                sha256: next()?.to_owned(),
                path: next()?.to_owned(),
            };
            table.check(&pin)?;
            table.pins.push(pin);
        }
        for role in Role::ALL {
            table.of(role)?;
        }
        Ok(table)
    }

    /// The pin of a role.
    ///
    /// # Errors
    /// When there is none.
    pub fn of(&self, role: Role) -> Result<&Pin> {
        let pin = self.pins.iter().find(|pin| pin.role == role);
        pin.with_context(|| format!("there is no pin for {}", role.word()))
    }

    /// The table's lines, ready to be put into the file.
    #[must_use]
    pub fn lines(&self) -> String {
        let mut text = String::new();
        for pin in &self.pins {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{pin}");
        }
        text + &format!("snapshot    {}\n", self.snapshot)
    }

    fn check(&self, pin: &Pin) -> Result<()> {
        let word = pin.role.word();
        if self.pins.iter().any(|other| other.role == pin.role) {
            bail!("{word} is there twice");
        }
        let hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
        if pin.sha256.len() != 64 || !pin.sha256.chars().all(hex) {
            bail!("{word}: {:?} is no SHA-256", pin.sha256);
        }
        let steps_out = pin.path.split('/').any(|part| part == ".." || part.is_empty());
        let named = pin.file_name().split('_').count() == 3;
        if !pin.path.starts_with("pool/") || !pin.path.ends_with(".deb") || steps_out || !named {
            bail!("{word}: {:?} is no pool/…/NAME_VERSION_ARCH.deb", pin.path);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_that_comes_with_the_source_is_whole() {
        let pins = Pins::own().unwrap();
        assert_eq!(pins.pins.len(), Role::ALL.len());
        let kernel = pins.of(Role::Kernel).unwrap();
        assert!(kernel.title().starts_with("linux-binary-"), "{}", kernel.title());
        // A module fits the kernel it was built with, and no other.
        for role in [Role::Modules, Role::Source, Role::Headers, Role::HeadersCommon, Role::Kbuild]
        {
            assert_eq!(kernel.version(), pins.of(role).unwrap().version(), "{role:?}");
        }
        assert_eq!(pins.snapshot.len(), "20261115T000000Z".len());
    }

    #[test]
    fn what_is_printed_for_the_table_is_read_back() {
        let pins = Pins::own().unwrap();
        assert_eq!(Pins::parse(&pins.lines()).unwrap(), pins);
    }

    #[test]
    fn broken_tables_are_refused_by_line() {
        let good = Pins::own().unwrap().lines();
        for (from, to, complaint) in [
            ("kernel ", "kernal ", "\"kernal\" is no role"),
            ("modules ", "kernel ", "kernel is there twice"),
            ("847552", "some", "busybox: no size"),
            ("pool/main/b", "pool/../b", "no pool/"),
            ("pool/main/b", "/etc/main/b", "no pool/"),
            ("c833be48", "C833be48", "no SHA-256"),
            ("c833be48", "c833be4", "no SHA-256"),
        ] {
            let broken = good.replacen(from, to, 1);
            assert_ne!(broken, good, "{from}");
            let said = Pins::parse(&broken).unwrap_err().to_string();
            assert!(said.contains(complaint), "{said}");
        }
        let cut = good.split("source").next().unwrap();
        assert!(Pins::parse(cut).unwrap_err().to_string().contains("no pin for source"));
    }
}
