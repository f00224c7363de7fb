//! Fetching pinned files from Debian's archive into the target folder.
//!
//! What counts is the SHA-256 of the pin, so any mirror will do and no keys
//! are needed (Ubuntu does not have Debian's). apt's own downloader goes
//! first: it knows this machine's proxies. A file has its final name only
//! after its bytes were checked, and they are checked again before each use.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::pins::{Pin, Pins};
use crate::qemu::interrupted;
use crate::setup;
use crate::setup::distro::debian_mirror;
use crate::term::Step;
use crate::workspace::Workspace;

/// Debian's archive, where the machine names no mirror of it.
pub const DEBIAN: &str = "http://deb.debian.org/debian";
/// What Debian's archive has ever held, by date.
const SNAPSHOT: &str = "http://snapshot.debian.org/archive/debian";
/// apt's downloader.
const APT_HELPER: &str = "/usr/lib/apt/apt-helper";
/// How often the progress is looked at.
const GLANCE: Duration = Duration::from_millis(100);

/// The package of a pin, as a file with exactly the pinned bytes.
///
/// # Errors
/// When it is not here and no archive gives it; the message tells what each
/// said.
pub fn fetch(workspace: &Workspace, pins: &Pins, pin: &Pin) -> Result<PathBuf> {
    let folder = workspace.folder("guest/packages")?;
    let path = folder.join(pin.file_name());
    if path.exists() {
        if is_pinned(&path, pin)? {
            return Ok(path);
        }
        std::fs::remove_file(&path)?;
    }
    remove_abandoned(&folder)?;
    let step = Step::new("Fetching");
    let part = folder.join(format!("{}.{}.part", pin.file_name(), std::process::id()));
    let mut said = Vec::new();
    for url in urls(&mirrors(), pins, pin) {
        let result = download(&step, &url, &part, pin);
        let good = result.and_then(|()| match is_pinned(&part, pin)? {
            true => Ok(()),
            false => bail!("the file there has other bytes than the pinned ones"),
        });
        if good.is_ok() {
            std::fs::rename(&part, &path)?;
            step.done(&format!("{}, {}", pin.title(), megabytes(pin.size)));
            return Ok(path);
        }
        // Half a file helps nobody, nor one that apt has put aside as wrong.
        for path in [part.clone(), part.with_extension("part.FAILED")] {
            let _ = std::fs::remove_file(path);
        }
        if interrupted() {
            bail!("stopped while fetching {}", pin.title());
        }
        if let Err(error) = good {
            said.push(format!("    {url}\n        {error:#}"));
        }
    }
    bail!("{} cannot be fetched:\n{}", pin.title(), said.join("\n"))
}

/// Where a pin may be found, the nearest first.
fn urls(mirrors: &[String], pins: &Pins, pin: &Pin) -> Vec<String> {
    let snapshot = format!("{SNAPSHOT}/{}", pins.snapshot);
    let bases = mirrors.iter().chain([&snapshot]);
    bases.map(|base| format!("{}/{}", base.trim_end_matches('/'), pin.path)).collect()
}

/// This machine's mirror of Debian, if it is a Debian, and the archive.
#[must_use]
pub fn mirrors() -> Vec<String> {
    let facts = setup::facts();
    let mut mirrors: Vec<String> = debian_mirror(&facts.os_release, &facts.apt_sources)
        .filter(|mirror| mirror.starts_with("http"))
        .into_iter()
        .collect();
    if !mirrors.iter().any(|mirror| mirror.trim_end_matches('/') == DEBIAN) {
        mirrors.push(DEBIAN.to_owned());
    }
    mirrors
}

/// Whether a file has the pinned bytes.
fn is_pinned(path: &Path, pin: &Pin) -> Result<bool> {
    let file = std::fs::File::open(path);
    let mut file = file.with_context(|| format!("cannot open {}", path.display()))?;
    if file.metadata()?.len() != pin.size {
        return Ok(false);
    }
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        let length = file.read(&mut chunk)?;
        let Some(read) = chunk.get(..length).filter(|read| !read.is_empty()) else { break };
        hash.update(read);
    }
    Ok(hex(&hash.finalize()) == pin.sha256)
}

/// Bytes in hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Downloads with what there is, and shows how far it is.
fn download(step: &Step, url: &str, part: &Path, pin: &Pin) -> Result<()> {
    let mut command = downloader(url, part, pin);
    let mut child = command
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("neither apt nor curl is on this machine to download with")?;
    let mut stderr = child.stderr.take().context("no stderr")?;
    let complaints = std::thread::spawn(move || {
        let mut text = String::new();
        // What is no text is no help either.
        let _ = stderr.read_to_string(&mut text);
        text
    });
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if interrupted() {
            child.kill()?;
        }
        let so_far = std::fs::metadata(part).map_or(0, |file| file.len());
        let (done, all) = (megabytes(so_far), megabytes(pin.size));
        step.note(&format!("{}: {done} of {all}", pin.title()));
        std::thread::sleep(GLANCE);
    };
    let complaints = complaints.join().unwrap_or_default();
    if !status.success() {
        let line = complaints.lines().find(|line| line.starts_with("E:") || line.contains("curl:"));
        bail!("{}", line.unwrap_or("the download failed").trim_start_matches("E: "));
    }
    Ok(())
}

fn downloader(url: &str, part: &Path, pin: &Pin) -> Command {
    if Path::new(APT_HELPER).exists() {
        let mut command = Command::new(APT_HELPER);
        command.args(["-o", "Acquire::Retries=2", "download-file", url]).arg(part);
        command.arg(format!("SHA256:{}", pin.sha256));
        return command;
    }
    let mut command = Command::new("curl");
    command.args(["--fail", "--location", "--silent", "--show-error", "--output"]);
    command.arg(part).arg(url);
    command
}

/// What a killed xtask may have left: `NAME.PID.part` of no living process.
fn remove_abandoned(folder: &Path) -> Result<()> {
    for path in std::fs::read_dir(folder)?.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let process = name.strip_suffix(".part").and_then(|stem| stem.rsplit('.').next());
        if process.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// "17.6 MB".
fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::pins::Role;

    #[test]
    fn the_nearest_mirror_is_asked_first_and_the_snapshot_last() {
        let pins = Pins::own().unwrap();
        let pin = pins.of(Role::Busybox).unwrap();
        let urls = urls(&["http://near.example/debian/".into(), DEBIAN.into()], &pins, pin);
        assert_eq!(urls.len(), 3);
        assert_eq!(urls[0], format!("http://near.example/debian/{}", pin.path));
        assert_eq!(urls[1], format!("{DEBIAN}/{}", pin.path));
        assert_eq!(urls[2], format!("{SNAPSHOT}/{}/{}", pins.snapshot, pin.path));
    }

    #[test]
    fn only_the_pinned_bytes_will_do() {
        let folder = std::env::temp_dir().join(format!("bouncer-pin-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("file");
        let mut pin = Pins::own().unwrap().pins.remove(0);
        (pin.size, pin.sha256) = (3, hex(&Sha256::digest(b"abc")));
        for (bytes, good) in [("abc", true), ("abd", false), ("ab", false), ("abcd", false)] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(is_pinned(&path, &pin).unwrap(), good, "{bytes}");
        }
        std::fs::write(folder.join("x.deb.999999999.part"), "half").unwrap();
        let ours = folder.join(format!("x.deb.{}.part", std::process::id()));
        std::fs::write(&ours, "coming").unwrap();
        remove_abandoned(&folder).unwrap();
        assert!(!folder.join("x.deb.999999999.part").exists());
        assert!(ours.exists() && path.exists());
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!(megabytes(17_574_744), "17.5 MB");
        assert_eq!(megabytes(40_000), "0.0 MB");
    }
}
