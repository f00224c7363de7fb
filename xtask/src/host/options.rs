//! The options of `run` that are about a Linux host.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::files;
use crate::guest::initramfs::Extra;
use crate::guest::options::{GuestOptions, Which};
use crate::guest::run::LARGEST_INITRD;

/// `run`'s options for a Linux host.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Linux as the host")]
pub struct HostOptions {
    /// Run Linux as bouncer's host instead of bouncer's own, behind stage 2
    ///
    /// At a terminal you get its console; Ctrl-] leaves at once. Otherwise
    /// stdin is a list of commands for its shell. --script (and --newest) are
    /// for it then, and with `--host linux` --kernel and --initrd; --append is
    /// for either.
    #[arg(long, value_name = "WHICH", value_enum)]
    pub host: Option<Which>,
    /// Put FILE into the Debian host's first root folder, at PATH
    ///
    /// As often as wanted. Its permissions come along. A script at
    /// /etc/bouncer/start is read by the init (a `sh`) before its task.
    #[arg(long = "host-file", value_name = "PATH=FILE", value_parser = parse_file, requires = "host")]
    pub files: Vec<HostFile>,
}

/// A file of the user's for the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFile {
    /// Where the host finds it, without the first slash.
    pub path: String,
    /// Where it is here.
    pub file: PathBuf,
}

impl HostFile {
    /// Reads it.
    ///
    /// # Errors
    /// When it is no regular file, too large, or cannot be read.
    pub fn read(&self) -> Result<Extra> {
        let contents = files::read(&self.file, "file", LARGEST_INITRD)?;
        let named = || format!("cannot open the file {}", self.file.display());
        let permissions = File::open(&self.file).and_then(|file| file.metadata());
        let mode = permissions.with_context(named)?.permissions().mode() & 0o777;
        Ok(Extra { path: self.path.clone(), contents, mode })
    }
}

impl HostOptions {
    /// The further files, read.
    ///
    /// # Errors
    /// As [`HostFile::read`].
    pub fn extras(&self) -> Result<Vec<Extra>> {
        self.files.iter().map(HostFile::read).collect()
    }

    /// What does not go together, as clap cannot say it. The rest of `run`'s
    /// options are said by name if they were given.
    ///
    /// # Errors
    /// The complaint for the user.
    pub fn check(&self, linux: &GuestOptions, others: &[(&str, bool)]) -> Result<(), String> {
        let Some(host) = self.host else { return Ok(()) };
        if linux.guest.is_some() {
            return Err("--host and --guest do not go together: a Linux host has no driver for \
                guests"
                .to_owned());
        }
        let foreign = others.iter().find(|(_, given)| *given);
        if let Some((name, _)) = foreign.copied().or_else(|| linux.only_for_guests()) {
            return Err(format!("{name} is not for --host"));
        }
        let kernel = linux.kernel.is_some();
        match host {
            Which::Debian if kernel || linux.initrd.is_some() => {
                let name = if kernel { "--kernel" } else { "--initrd" };
                Err(format!("{name} is for --host linux, not debian"))
            }
            Which::Linux if !kernel => {
                Err("--host linux needs --kernel FILE, an arm64 Image".to_owned())
            }
            Which::Linux if linux.script.is_some() => {
                Err("--script is for --host debian, not linux".to_owned())
            }
            Which::Linux if linux.newest => {
                Err("--newest is for --host debian, not linux".to_owned())
            }
            Which::Linux if !self.files.is_empty() => Err("--host-file is for --host debian, \
                not linux: put it into your --initrd"
                .to_owned()),
            _ => Ok(()),
        }
    }
}

/// "/lib/x.ko=target/x.ko".
fn parse_file(text: &str) -> Result<HostFile, String> {
    let (path, file) = text.split_once('=').ok_or("write it as PATH=FILE")?;
    checked_path(Path::new(path)).map_err(|error| error.to_string())?;
    let path = path.trim_start_matches('/').to_owned();
    Ok(HostFile { path, file: file.into() })
}

/// An absolute path of plain names.
fn checked_path(path: &Path) -> Result<()> {
    let mut parts = path.components();
    let plain = parts.next() == Some(Component::RootDir)
        && parts.clone().count() > 0
        && parts.all(|part| matches!(part, Component::Normal(_)))
        && !path.as_os_str().to_string_lossy().ends_with('/');
    if plain { Ok(()) } else { bail!("PATH is a file's in the host: /lib/x.ko") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_for_the_host_has_a_path_there_and_one_here() {
        let file = parse_file("/lib/modules/x.ko=a=b.ko").unwrap();
        assert_eq!((file.path.as_str(), file.file.to_str()), ("lib/modules/x.ko", Some("a=b.ko")));
        for wrong in ["x", "x=y", "/=y", "/a/../b=y", "/a/=y", "=y"] {
            assert!(parse_file(wrong).is_err(), "{wrong}");
        }
        let missing = HostFile { path: "x".into(), file: "/nowhere/x.ko".into() };
        let error = format!("{:#}", missing.read().unwrap_err());
        assert!(error.starts_with("cannot open the file /nowhere/x.ko"), "{error}");
    }
}
