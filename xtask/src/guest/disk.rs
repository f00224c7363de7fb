//! The guest's disk: the user's file, copied for the run, and replaced after
//! it only if the guest has written and has come to an orderly end.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::read;
use crate::workspace::shown;

/// What a disk consists of.
const SECTOR: usize = 512;

/// The user's file and what was in it.
#[derive(Debug)]
pub struct Disk {
    /// The file itself, behind any links.
    file: PathBuf,
    before: Vec<u8>,
}

impl Disk {
    /// Reads the user's file.
    ///
    /// # Errors
    /// When it cannot be read, or is empty.
    pub fn open(path: &Path) -> Result<Self> {
        let file = path.canonicalize();
        let file = file.with_context(|| format!("cannot open the disk {}", path.display()))?;
        let before = read(&file)?;
        if before.is_empty() {
            anyhow::bail!(
                "{} is empty; make a disk of 64 MiB with `truncate -s 64M FILE`",
                path.display()
            );
        }
        Ok(Self { file, before })
    }

    /// What the guest gets: the file, padded to whole sectors.
    #[must_use]
    pub fn image(&self) -> Vec<u8> {
        let mut image = self.before.clone();
        image.resize(image.len().next_multiple_of(SECTOR), 0);
        image
    }

    /// Puts what the guest has left into the user's file, if that differs.
    /// Whoever looks sees all of the old or all of the new.
    ///
    /// # Errors
    /// When `after` is no such disk, or the file cannot be written.
    pub fn save(&self, after: &[u8]) -> Result<bool> {
        let image = self.image();
        if after.len() != image.len() {
            anyhow::bail!("the disk came back with {} bytes of {}", after.len(), image.len());
        }
        if after == image {
            return Ok(false);
        }
        let name = self.file.file_name().unwrap_or_default().to_string_lossy();
        let new = self.file.with_file_name(format!(".{name}.{}.new", std::process::id()));
        let written = self.replace_by(&new, after.get(..self.before.len()).unwrap_or(after));
        if written.is_err() {
            let _ = std::fs::remove_file(&new);
        }
        written.with_context(|| format!("cannot save the disk to {}", shown(&self.file)))?;
        Ok(true)
    }

    fn replace_by(&self, new: &Path, bytes: &[u8]) -> Result<()> {
        std::fs::write(new, bytes)?;
        std::fs::set_permissions(new, std::fs::metadata(&self.file)?.permissions())?;
        std::fs::File::open(new)?.sync_all()?;
        std::fs::rename(new, &self.file)?;
        Ok(())
    }

    /// Its name for a message.
    #[must_use]
    pub fn shown(&self) -> String {
        shown(&self.file)
    }
}

/// The host's last word on where it keeps the guest's disk: physical address
/// and size in `linux: disk at 0xADDRESS size 0xSIZE`.
#[must_use]
pub fn place_in(line: &str) -> Option<(u64, u64)> {
    let rest = line.trim().strip_prefix("linux: disk at 0x")?;
    let (address, size) = rest.split_once(" size 0x")?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    Some((hex(address)?, hex(size)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_file_changes_only_as_a_whole_and_only_if_it_must() {
        let folder = std::env::temp_dir().join(format!("bouncer-disk-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("disk.img");
        std::fs::write(&path, [1; 700]).unwrap();
        let disk = Disk::open(&path).unwrap();
        let mut image = disk.image();
        assert_eq!(image.len(), 1024);
        assert!(!disk.save(&image).unwrap());
        assert!(disk.save(&image[..512]).is_err());
        image[3] = 9;
        image[1023] = 9;
        assert!(disk.save(&image).unwrap());
        let saved = std::fs::read(&path).unwrap();
        assert_eq!((saved.len(), saved[3]), (700, 9));
        // Nothing else is left beside it.
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        std::fs::write(&path, []).unwrap();
        assert!(Disk::open(&path).is_err());
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn the_hosts_line_about_the_disk() {
        let line = "linux: disk at 0x49000000 size 0x400000\r";
        assert_eq!(place_in(line), Some((0x4900_0000, 0x40_0000)));
        for other in ["guest: linux: disk at 0x1 size 0x2", "linux: disk at 0x1", "linux: disk"] {
            assert_eq!(place_in(other), None);
        }
    }
}
