//! Boots the whole machine once and judges what it showed.
//!
//! The judge trusts nobody's word where it can look for itself: the guest's
//! hash is compared with one made from the image, its write is searched in
//! the disk's memory after power-off, and a promise that was not put to the
//! test counts as broken.

use std::cell::Cell;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use crate::bad_entry;
use crate::build::Images;
use crate::cpio::{LARGEST, newc_around};
use crate::disk::{Disk, Kind, WHOLE_DISK};
use crate::files;
use crate::qemu::{Boot, End, Machine, Module, Qemu};
use crate::report::{Facts, Report};
use crate::runs::RunFolder;
use crate::trace::Place;
use crate::transcript::Transcript;
use crate::tree::{self, Reserved};
use crate::uboot;
use crate::workspace::Workspace;

/// First byte of RAM on QEMU virt.
pub const RAM: u64 = 0x4000_0000;
/// Where QEMU loads bouncer, a flat Image that asks for no other place.
pub const BOUNCER: u64 = RAM + (2 << 20);
/// Where the host's kernel is put. QEMU puts the device tree at RAM + 128 MiB
/// (RAM + half of it if that is less).
pub const HOST: u64 = RAM + (64 << 20);
/// Where the ramdisk is put: beyond the device tree.
pub const RAMDISK: u64 = RAM + (144 << 20);
/// RAM beyond the ramdisk for bouncer's tables, the host and its guests.
const ELBOW_ROOM: u64 = 128 << 20;
/// The disk's name in the ramdisk.
const DISK_NAME: &str = "disk.img";

/// What puts the images into memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Loader {
    /// QEMU itself
    #[default]
    Qemu,
    /// U-Boot, by a script on a disk of its own (docs/booting.md)
    #[value(name = "u-boot")]
    UBoot,
}

/// What to boot.
#[derive(Debug, Clone)]
pub struct Config {
    /// What its folder below target/bouncer/runs begins with.
    pub name: String,
    /// The machine.
    pub machine: Machine,
    /// A user's file as the guest's disk; none makes one.
    pub disk: Option<PathBuf>,
    /// Wall-clock limit; none waits for ever.
    pub timeout: Option<Duration>,
    /// Wait for a debugger on this local port.
    pub gdb: Option<u16>,
    /// The host's scenario.
    pub scenario: String,
    /// Further words of the host's command line, for its scenario.
    pub words: String,
    /// Where the trace is written of a bouncer that keeps one.
    pub trace: Option<PathBuf>,
    /// What puts the images into memory and enters bouncer.
    pub loader: Loader,
    /// The program of [`bad_entry`], which is entered in bouncer's place.
    pub entered_first: Option<PathBuf>,
    /// The machine's firmware keeps memory for itself.
    pub reserves: bool,
}

impl Config {
    /// The default machine under a name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            machine: Machine::default(),
            disk: None,
            timeout: Some(Duration::from_secs(600)),
            gdb: None,
            scenario: "story".into(),
            words: String::new(),
            trace: None,
            loader: Loader::Qemu,
            entered_first: None,
            reserves: true,
        }
    }

    /// The machine of a scenario of the host's, under a name.
    #[must_use]
    pub fn of_scenario(name: &str, scenario: &str) -> Self {
        let mut config = Self { scenario: scenario.to_owned(), ..Self::new(name) };
        if scenario == "smmu" {
            config.machine.smmu = true;
            // Two functions that do DMA wherever they are told to.
            let edu = ["-device", "edu,dma_mask=0x7fffffffff"];
            config.machine.extra = edu.iter().cycle().take(4).map(|&word| word.into()).collect();
        }
        config
    }
}

/// A run that came to some end.
#[derive(Debug)]
pub struct Run {
    /// The judgement.
    pub report: Report,
    /// Everything the console showed.
    pub transcript: Transcript,
    /// How the machine ended.
    pub end: End,
    /// Where the console and the disks are kept.
    pub folder: RunFolder,
}

/// Boots, listens to the end, looks at the disk, judges. Each console line
/// goes to `line` as it comes.
///
/// # Errors
/// When the run cannot be set up: the disk, the memory, QEMU itself. A run
/// that breaks a promise is no error but a report that says so.
pub fn tell(
    workspace: &Workspace,
    images: &Images,
    config: &Config,
    line: &mut dyn FnMut(&str),
) -> Result<Run> {
    if let Some(original) = &config.disk {
        // Before it is copied.
        let (_, size) = files::open(original, "disk", LARGEST)?;
        check_memory(config.machine.memory, size)?;
    }
    let folder = RunFolder::new(workspace, &config.name)?;
    let disk = match &config.disk {
        Some(original) => Disk::copy_of(original, &folder)?,
        None => Disk::make(workspace, &folder)?,
    };
    let guest = std::fs::read(&images.guest)?;
    let around = newc_around(&[("guest.img", &guest)], DISK_NAME, usize::try_from(disk.size)?);
    let disk_offset = around.head.len();
    let size = (around.head.len() + around.tail.len()) as u64 + disk.size;
    check_memory(config.machine.memory, size)?;
    let behind_ramdisk = (RAMDISK + size).next_multiple_of(2 << 20);
    let ramdisk = folder.join("ramdisk.cpio");
    let whole = around.head.chain(File::open(&disk.path)?).chain(around.tail.as_slice());
    files::write_from(&ramdisk, whole, size)?;

    let note = note();
    let bootargs = bootargs(config, &disk, &note);
    let bouncer = images.bouncer.clone();
    let (kernel, blobs) = match &config.entered_first {
        Some(program) => (program.clone(), vec![(bouncer, BOUNCER)]),
        None => (bouncer, Vec::new()),
    };
    let mut boot = Boot {
        machine: config.machine.clone(),
        kernel,
        modules: vec![
            Module { path: images.host.clone(), address: HOST, bootargs: Some(bootargs) },
            Module { path: ramdisk, address: RAMDISK, bootargs: None },
        ],
        blobs,
        gdb: config.gdb,
        timeout: config.timeout,
    };
    if config.loader == Loader::UBoot {
        uboot::load(workspace, &folder, images, &mut boot)?;
    }
    if config.entered_first.is_some() {
        boot.machine.extra.extend(bad_entry::devices());
    }
    if config.reserves {
        let reserved = Reserved::of_every_kind(behind_ramdisk);
        tree::reserve(&mut boot, &reserved, &folder)?;
    }
    let after = folder.join("disk-after.img");
    // Nothing but an old trace is taken away.
    if let Some(file) = config.trace.as_ref().filter(|file| file.exists()) {
        if !file.is_file() {
            bail!("the trace {} is no regular file", file.display());
        }
        std::fs::remove_file(file)?;
    }
    let log = Cell::new(None);
    let mut left_on = Vec::new();
    let started = SystemTime::now();
    let mut transcript = Transcript::default();
    let ended = boot.run(
        |text| {
            line(text);
            log.set(Place::told(text).or(log.get()));
            transcript.push(text);
        },
        |qemu| {
            if let Some(file) = &config.trace {
                log.get().context("this bouncer keeps no trace")?.save(qemu, file)?;
            }
            if config.entered_first.is_some() {
                left_on = still_on(qemu, &folder)?;
            }
            qemu.save_memory(RAMDISK + disk_offset as u64, disk.size, &after)
        },
    )?;
    folder.forget("ramdisk.cpio");
    std::fs::write(folder.join("console.log"), transcript.lines.join("\n") + "\n")?;
    let write_seen = ended.end == End::PoweredOff && disk.note_found(&after, &note)?;
    let facts = Facts {
        machine: &config.machine,
        disk: &disk,
        end: ended.end,
        orderly: ended.status.success(),
        write_seen,
        sha256_written: disk.sha256_with(&note)?,
        seconds: started.elapsed().unwrap_or_default().as_secs_f64(),
    };
    let mut report = Report::judge(&facts, &transcript);
    report.failures.append(&mut left_on);
    Ok(Run { report, transcript, end: ended.end, folder })
}

/// Devices that a bad loader has left on and that are on still.
fn still_on(qemu: &mut Qemu, folder: &Path) -> Result<Vec<String>> {
    let file = folder.join("register.bin");
    let mut on = Vec::new();
    for (what, address, bits) in bad_entry::MUST_BE_OFF {
        qemu.save_memory(address, 4, &file)?;
        let bytes: [u8; 4] = std::fs::read(&file)?.try_into().unwrap_or([0xff; 4]);
        if u32::from_le_bytes(bytes) & bits != 0 {
            on.push(format!("{what} that the loader left on may still write to memory"));
        }
    }
    std::fs::remove_file(&file)?;
    Ok(on)
}

/// The host's command line. Even one CPU runs a guest of two.
fn bootargs(config: &Config, disk: &Disk, note: &str) -> String {
    // No more than bouncer drives.
    let vcpus = config.machine.cpus.clamp(2, 8);
    let Config { scenario, words, .. } = config;
    let (hash, write) = match disk.kind {
        Kind::Fat => (disk.hash_name.as_str(), "file"),
        Kind::Raw => (WHOLE_DISK, "last-sector"),
    };
    format!(
        "scenario={scenario} vcpus={vcpus} policy=all attacks=all hash={hash} write={write} note={note} {words}"
    )
}

/// Refuses a ramdisk that does not fit, before QEMU would.
fn check_memory(memory: u64, ramdisk: u64) -> Result<()> {
    let needed = ((RAMDISK - RAM + ramdisk + ELBOW_ROOM) >> 20) + 1;
    if memory < needed {
        bail!(
            "a disk of {} MiB does not fit into {memory} MiB of memory: use --memory {}M or a \
             smaller disk",
            ramdisk >> 20,
            needed.next_multiple_of(256)
        );
    }
    Ok(())
}

/// A word that no earlier run has written to a disk.
fn note() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("note-{:x}-{:x}", now.as_nanos(), std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_too_large_for_the_memory_is_refused_with_advice() {
        assert!(check_memory(512, 4 << 20).is_ok());
        let advice = check_memory(512, 300 << 20).unwrap_err().to_string();
        assert!(advice.contains("--memory 768M"), "{advice}");
        assert!(check_memory(768, 300 << 20).is_ok());
    }

    #[test]
    fn two_notes_differ_and_fit_a_command_line() {
        let (one, two) = (note(), note());
        assert_ne!(one, two);
        assert!(one.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'));
    }
}
