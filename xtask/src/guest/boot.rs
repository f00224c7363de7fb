//! Boots a Linux guest: behind bouncer and its host, or on QEMU directly.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::attend::{Finished, Seat, attend};
use super::disk::Disk;
use super::lie::Lie;
use super::options::{Abi, Console, Policy, devices};
use super::output::Marks;
use super::read;
use super::screen::Keyboard;
use super::siege::Marker;
use crate::build::Images;
use crate::cpio::{newc, newc_around};
use crate::files;
use crate::qemu::{Boot, End, Machine, Module, Qemu};
use crate::runs::RunFolder;
use crate::story::{HOST, RAM, RAMDISK};
use crate::workspace::Workspace;

/// MiB of memory beyond the guest's for bouncer, its tables and the host.
const ELBOW_ROOM: u64 = 192;

/// A guest that is ready to boot.
#[derive(Debug)]
pub struct Guest {
    /// What its folder below target/bouncer/runs begins with.
    pub name: String,
    /// An arm64 Image.
    pub kernel: Vec<u8>,
    /// Its first root folder.
    pub initrd: Option<Vec<u8>>,
    /// Its command line.
    pub command_line: String,
    /// Whose calls it speaks.
    pub abi: Abi,
    /// Which memory its devices may use.
    pub policy: Policy,
    /// Its console.
    pub console: Console,
    /// Its CPUs.
    pub vcpus: u32,
    /// Its memory, in MiB.
    pub memory: u64,
    /// How often it is built, run and taken down.
    pub lives: u32,
    /// Whether the host ends it while its disk serves requests.
    pub kill_in_io: bool,
    /// How many more of its kind run beside it, on the same network.
    pub neighbours: u32,
    /// Its disk.
    pub disk: Option<Disk>,
    /// The word that marks its output; none if it does not know of that.
    pub word: Option<String>,
    /// Where what is typed comes from.
    pub keyboard: Keyboard,
    /// Wall-clock limit.
    pub timeout: Option<Duration>,
    /// Lies that the host's devices tell its drivers, by rows; none if empty.
    pub lies: Vec<Lie>,
    /// Whether the host attacks it, and what it looks for, if anything.
    pub attack: Option<Option<Marker>>,
}

/// How to boot it.
#[derive(Debug, Clone)]
pub struct Ways {
    /// The machine around it; without bouncer, only the CPUs' kind counts.
    pub machine: Machine,
    /// Wait for a debugger on this local port.
    pub gdb: Option<u16>,
    /// Show every line of the console.
    pub verbose: bool,
}

impl Guest {
    /// The machine's memory in MiB: what the guest and the rest need, or what
    /// was asked for if that is not less.
    ///
    /// # Errors
    /// When it is less.
    pub fn machine_memory(&self, asked: Option<u64>) -> Result<u64> {
        let size = |bytes: Option<usize>| bytes.unwrap_or(0) as u64;
        let ramdisk = size(Some(self.kernel.len()))
            + size(self.initrd.as_ref().map(Vec::len))
            + self.disk.as_ref().map_or(0, Disk::size);
        let fixed = (RAMDISK - RAM + ramdisk) >> 20;
        let guests = self.memory * u64::from(1 + self.neighbours);
        let needed = (fixed + guests + ELBOW_ROOM).next_multiple_of(256);
        match asked {
            Some(memory) if memory < needed => bail!(
                "guests of {guests} MiB and their files do not fit into {memory} MiB of memory: \
                 use --memory {needed}M or smaller guests"
            ),
            Some(memory) => Ok(memory),
            None => Ok(needed.max(1024)),
        }
    }

    /// The host's command line.
    fn bootargs(&self) -> String {
        let devices = devices(self.abi, self.policy, self.disk.is_some(), self.console);
        let devices = if devices.is_empty() { "none".to_owned() } else { devices.join(",") };
        let policy = match self.policy {
            Policy::SharedPages => String::new(),
            other => format!(" policy={}", other.word()),
        };
        let attack = match self.attack {
            None => String::new(),
            Some(None) => " attack=on".to_owned(),
            Some(Some(marker)) => format!(" attack=on marker={}", marker.products()),
        };
        let lives = match self.lives {
            1 => String::new(),
            count => format!(" lives={count}"),
        };
        let kill = if self.kill_in_io { " kill=io" } else { "" };
        let lies: Vec<String> = self.lies.iter().map(|lie| lie.id()).collect();
        let lies = if lies.is_empty() { String::new() } else { format!(" lie={}", lies.join(",")) };
        let neighbours = match self.neighbours {
            0 => String::new(),
            count => format!(" neighbours={count}"),
        };
        format!(
            "scenario=linux abi={} memory={} vcpus={} devices={devices}{policy} console={}{neighbours}{lives}{kill}{lies}{attack}",
            self.abi.word(),
            self.memory,
            self.vcpus,
            self.console.word()
        )
    }

    /// Where the user sits; `otherwise` marks the guest's output if its init
    /// does not.
    fn seat(&self, otherwise: Marks, ways: &Ways) -> Seat {
        Seat {
            marks: Marks::of(self.word.as_deref(), self.keyboard, otherwise),
            keyboard: self.keyboard,
            // A Debian guest that says nothing resets when its kernel panics.
            reset_is_end: self.word.is_some(),
            verbose: ways.verbose,
        }
    }

    /// Boots it as a protected guest.
    ///
    /// # Errors
    /// When QEMU cannot be started, or the disk cannot be saved.
    pub fn boot(&self, workspace: &Workspace, images: &Images, ways: &Ways) -> Result<Finished> {
        let folder = RunFolder::new(workspace, &self.name)?;
        let mut files: Vec<(&str, &[u8])> =
            vec![("kernel", &self.kernel), ("cmdline", self.command_line.as_bytes())];
        let other = if self.neighbours > 0 { Some(read(&images.guest)?) } else { None };
        files.extend(other.as_deref().map(|other| ("guest.img", other)));
        files.extend(self.initrd.as_deref().map(|initrd| ("initrd", initrd)));
        let ramdisk = folder.join("ramdisk.cpio");
        match &self.disk {
            None => files::write(&ramdisk, &newc(&files).bytes)?,
            Some(disk) => {
                let around = newc_around(&files, "disk.img", usize::try_from(disk.size())?);
                let size = (around.head.len() + around.tail.len()) as u64 + disk.size();
                let whole = around.head.chain(disk.image()?).chain(around.tail.as_slice());
                files::write_from(&ramdisk, whole, size)?;
            }
        }
        let host = images.host.clone();
        let boot = Boot {
            machine: ways.machine.clone(),
            kernel: images.bouncer.clone(),
            modules: vec![
                Module { path: host, address: HOST, bootargs: Some(self.bootargs()) },
                Module { path: ramdisk, address: RAMDISK, bootargs: None },
            ],
            blobs: Vec::new(),
            gdb: ways.gdb,
            timeout: self.timeout,
        };
        let seat = self.seat(Marks::Host, ways);
        let finished = attend(&boot, &seat, folder, |qemu, place, folder| match &self.disk {
            Some(disk) => save_disk(qemu, disk, place, folder),
            None => Ok(()),
        })?;
        finished.folder.forget("ramdisk.cpio");
        Ok(finished)
    }

    /// Boots it on QEMU without bouncer.
    ///
    /// # Errors
    /// When QEMU cannot be started, or the disk cannot be saved.
    pub fn boot_plainly(&self, workspace: &Workspace, ways: &Ways) -> Result<Finished> {
        let folder = RunFolder::new(workspace, &self.name)?;
        let escaped = |path: &Path| path.display().to_string().replace(',', ",,");
        let file = |name: &str, bytes: &[u8]| -> Result<String> {
            let path = folder.join(name);
            files::write(&path, bytes)?;
            Ok(escaped(&path))
        };
        file("kernel", &self.kernel)?;
        let mut extra = Vec::new();
        let mut add = |words: &[&str]| extra.extend(words.iter().map(|&word| word.to_owned()));
        if let Some(initrd) = &self.initrd {
            add(&["-initrd", &file("initrd", initrd)?]);
        }
        if let Some(disk) = &self.disk {
            let path = folder.join("disk.img");
            files::write_from(&path, disk.image()?, disk.size())?;
            let path = escaped(&path);
            add(&["-drive", &format!("file={path},if=none,id=disk,format=raw")]);
            add(&["-device", "virtio-blk-pci,drive=disk,romfile="]);
        }
        add(&["-netdev", "user,id=net,restrict=on"]);
        add(&["-device", "virtio-net-pci,netdev=net,romfile="]);
        add(&["-device", "virtio-rng-pci,romfile="]);
        let boot = Boot {
            machine: Machine {
                cpu: ways.machine.cpu.clone(),
                cpus: self.vcpus,
                memory: self.memory,
                virtualization: false,
                command_line: self.command_line.clone(),
                extra,
                ..Machine::default()
            },
            kernel: folder.join("kernel"),
            modules: Vec::new(),
            blobs: Vec::new(),
            gdb: None,
            timeout: self.timeout,
        };
        let seat = self.seat(Marks::None, ways);
        let finished = attend(&boot, &seat, folder, |_, _, _| Ok(()))?;
        let ended = finished.end == End::PoweredOff || finished.reboots;
        if let (true, Some(disk)) = (ended, &self.disk) {
            disk.save(&finished.folder.join("disk.img"))?;
        }
        ["kernel", "initrd", "disk.img"].iter().for_each(|name| finished.folder.forget(name));
        Ok(finished)
    }
}

/// Takes the guest's disk out of the stopped machine's memory, from where the
/// host said last that it is.
fn save_disk(qemu: &mut Qemu, disk: &Disk, place: Option<(u64, u64)>, folder: &Path) -> Result<()> {
    let (address, size) = place.with_context(|| {
        format!("the host does not say where the disk is: {} stays as it was", disk.shown())
    })?;
    if size != disk.size() {
        bail!("the host's disk has {size:#x} bytes: {} stays as it was", disk.shown());
    }
    let after = folder.join("disk-after.img");
    qemu.save_memory(address, size, &after)?;
    // If it cannot be saved it stays there.
    let saved = disk.save(&after)?;
    std::fs::remove_file(&after)?;
    if saved {
        anstream::eprintln!("  what the guest has written is in {}", disk.shown());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest() -> Guest {
        Guest {
            name: "x".into(),
            kernel: vec![0; 40 << 20],
            initrd: None,
            command_line: String::new(),
            abi: Abi::Rsi,
            policy: Policy::SharedPages,
            console: Console::Pl011,
            vcpus: 3,
            memory: 256,
            lives: 1,
            kill_in_io: false,
            neighbours: 0,
            disk: None,
            word: None,
            keyboard: Keyboard::None,
            timeout: None,
            lies: Vec::new(),
            attack: None,
        }
    }

    #[test]
    fn the_machine_is_as_large_as_its_guest_needs() {
        assert_eq!(guest().machine_memory(None).unwrap(), 1024);
        assert_eq!(guest().machine_memory(Some(2048)).unwrap(), 2048);
        let large = Guest { memory: 4096, ..guest() };
        assert_eq!(large.machine_memory(None).unwrap(), 4608);
        let crowd = Guest { neighbours: 3, ..guest() };
        assert_eq!(crowd.machine_memory(None).unwrap(), 1536);
        let advice = large.machine_memory(Some(1024)).unwrap_err().to_string();
        assert!(advice.contains("--memory 4608M"), "{advice}");
    }

    #[test]
    fn the_host_is_told_what_to_build() {
        let wanted = "scenario=linux abi=rsi memory=256 vcpus=3 devices=net,rng console=pl011";
        assert_eq!(guest().bootargs(), wanted);
        // Nothing is shared, so there is nothing to build a device on.
        let plain = Guest { abi: Abi::None, ..guest() };
        assert!(plain.bootargs().contains("devices=none"));
        let own_memory = Guest { policy: Policy::BounceBar, ..plain };
        let wanted = "abi=none memory=256 vcpus=3 devices=net,rng policy=bounce-bar console=pl011";
        assert!(own_memory.bootargs().ends_with(wanted), "{}", own_memory.bootargs());
        let hvc = Guest { abi: Abi::Pkvm, console: Console::Hvc0, ..guest() };
        assert!(hvc.bootargs().contains("abi=pkvm"));
        assert!(hvc.bootargs().ends_with("devices=net,rng,console console=hvc0"));
        let crowd = Guest { neighbours: 2, ..guest() };
        assert!(crowd.bootargs().ends_with(" neighbours=2"));
        let many = Guest { lives: 50, kill_in_io: true, ..guest() };
        assert!(many.bootargs().ends_with(" lives=50 kill=io"));
        let lied_to = Guest { lies: vec![Lie::Length, Lie::Twice], ..guest() };
        assert!(lied_to.bootargs().ends_with(" lie=H2.length,H1.twice"));
        let attacked = Guest { attack: Some(None), ..guest() };
        assert!(attacked.bootargs().ends_with(" attack=on"));
        let searched = Guest { attack: Some(Some(Marker::chance())), ..guest() };
        assert!(searched.bootargs().contains(" attack=on marker="));
    }
}
