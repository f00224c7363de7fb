//! Boots a Linux kernel as bouncer's host.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::build::Images;
use crate::files;
use crate::guest::attend::{Finished, Seat, attend};
use crate::guest::boot::Ways;
use crate::guest::output::Marks;
use crate::guest::screen::Keyboard;
use crate::qemu::{Boot, Module};
use crate::runs::RunFolder;
use crate::story::{HOST, RAM, RAMDISK};
use crate::workspace::Workspace;

/// Where QEMU puts the device tree.
const TREE: u64 = RAM + (128 << 20);
/// What an arm64 Image and a ramdisk are aligned to here.
const ALIGNMENT: u64 = 2 << 20;
/// MiB of memory that are left for bouncer's tables and for the host to work
/// with.
const ELBOW_ROOM: u64 = 192;

/// A Linux host that is ready to boot.
#[derive(Debug)]
pub struct Host {
    /// What its folder below target/bouncer/runs begins with.
    pub name: String,
    /// An arm64 Image.
    pub kernel: Vec<u8>,
    /// Its first root folder.
    pub initrd: Option<Vec<u8>>,
    /// Its command line.
    pub command_line: String,
    /// The word that marks its output; none if it does not know of that.
    pub word: Option<String>,
    /// Where what is typed comes from.
    pub keyboard: Keyboard,
    /// Wall-clock limit.
    pub timeout: Option<Duration>,
}

/// Where kernel and ramdisk are put, and where they end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Places {
    kernel: u64,
    initrd: u64,
    end: u64,
}

impl Places {
    /// For a kernel that claims so many bytes (`image_size` of its header) and
    /// a ramdisk of so many: the kernel before the device tree if it fits there.
    fn of(kernel: u64, initrd: u64) -> Self {
        let fits = HOST.saturating_add(kernel) <= TREE;
        let (kernel_at, behind) =
            if fits { (HOST, RAMDISK) } else { (RAMDISK, RAMDISK.saturating_add(kernel)) };
        let initrd_at = behind.checked_next_multiple_of(ALIGNMENT).unwrap_or(u64::MAX);
        Self { kernel: kernel_at, initrd: initrd_at, end: initrd_at.saturating_add(initrd) }
    }
}

impl Host {
    fn places(&self) -> Places {
        let initrd = self.initrd.as_ref().map_or(0, Vec::len) as u64;
        Places::of(claimed(&self.kernel), initrd)
    }

    /// The machine's memory in MiB: what kernel and ramdisk need, or what was
    /// asked for if that is not less.
    ///
    /// # Errors
    /// When it is less.
    pub fn machine_memory(&self, asked: Option<u64>) -> Result<u64> {
        let needed = ((self.places().end - RAM) >> 20) + 1;
        let needed = needed.saturating_add(ELBOW_ROOM).next_multiple_of(128);
        match asked {
            Some(memory) if memory < needed => bail!(
                "a host with this kernel and ramdisk does not fit into {memory} MiB of memory: use \
                 --memory {needed}M"
            ),
            Some(memory) => Ok(memory),
            None => Ok(needed.max(1024)),
        }
    }

    /// Boots bouncer, and this kernel behind it.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub fn boot(&self, workspace: &Workspace, images: &Images, ways: &Ways) -> Result<Finished> {
        let folder = RunFolder::new(workspace, &self.name)?;
        let boot = self.described(images, ways, &folder)?;
        let seat = Seat {
            marks: Marks::of(self.word.as_deref(), self.keyboard, Marks::None),
            keyboard: self.keyboard,
            reset_is_end: false,
            verbose: ways.verbose,
        };
        let finished = attend(&boot, &seat, folder, |_, _, _| Ok(()))?;
        ["kernel", "initrd"].iter().for_each(|name| finished.folder.forget(name));
        Ok(finished)
    }

    /// The machine, its files written into `folder`.
    fn described(&self, images: &Images, ways: &Ways, folder: &Path) -> Result<Boot> {
        let places = self.places();
        let kernel = folder.join("kernel");
        files::write(&kernel, &self.kernel)?;
        let bootargs = Some(self.command_line.clone());
        let mut modules = vec![Module { path: kernel, address: places.kernel, bootargs }];
        if let Some(bytes) = &self.initrd {
            let path = folder.join("initrd");
            files::write(&path, bytes)?;
            modules.push(Module { path, address: places.initrd, bootargs: None });
        }
        Ok(Boot {
            machine: ways.machine.clone(),
            kernel: images.bouncer.clone(),
            modules,
            blobs: Vec::new(),
            gdb: ways.gdb,
            timeout: self.timeout,
        })
    }
}

/// The bytes that a kernel's header claims (`image_size`, Linux's
/// arm64/booting.rst), or those of its file if they are more.
fn claimed(kernel: &[u8]) -> u64 {
    let word = kernel.get(16..24).and_then(|bytes| bytes.try_into().ok());
    word.map_or(0, u64::from_le_bytes).max(kernel.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(kernel: u64, initrd: usize) -> Host {
        let mut image = vec![0; 4096];
        image[16..24].copy_from_slice(&kernel.to_le_bytes());
        Host {
            name: "x".into(),
            kernel: image,
            initrd: Some(vec![0; initrd]),
            command_line: "console=ttyAMA0".into(),
            word: None,
            keyboard: Keyboard::None,
            timeout: None,
        }
    }

    #[test]
    fn a_kernel_lies_where_nothing_else_does() {
        assert_eq!(
            (host(40 << 20, 1).places().kernel, host(40 << 20, 1).places().initrd),
            (HOST, RAMDISK)
        );
        let large = host(65 << 20, 1).places();
        assert_eq!((large.kernel, large.initrd), (RAMDISK, RAMDISK + (66 << 20)));
        // A header that claims everything is no reason to panic.
        assert!(host(u64::MAX, 1).machine_memory(Some(24 << 10)).is_err());
    }

    #[test]
    fn too_little_memory_is_refused_with_advice() {
        assert_eq!(host(40 << 20, 4 << 20).machine_memory(Some(512)).unwrap(), 512);
        assert_eq!(host(40 << 20, 4 << 20).machine_memory(None).unwrap(), 1024);
        let advice = host(40 << 20, 300 << 20).machine_memory(Some(512)).unwrap_err().to_string();
        assert!(advice.contains("--memory 640M"), "{advice}");
    }
}
