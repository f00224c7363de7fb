//! The guest's disk: the user's file, copied for the run, and replaced after
//! it only if the guest has written and has come to an orderly end.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};

use crate::cpio::LARGEST;
use crate::files;
use crate::workspace::shown;

/// What a disk consists of.
const SECTOR: u64 = 512;
/// Bytes compared at a time.
const CHUNK: usize = 1 << 20;

/// The user's file as it was before the run.
#[derive(Debug)]
pub struct Disk {
    /// The file itself, behind any links.
    file: PathBuf,
    size: u64,
    changed: SystemTime,
}

impl Disk {
    /// Looks at the user's file.
    ///
    /// # Errors
    /// When it cannot be opened, is empty, too large, or no regular file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = path.canonicalize();
        let file = file.with_context(|| format!("cannot open the disk {}", path.display()))?;
        let (opened, size) = files::open(&file, "disk", LARGEST - SECTOR)?;
        let about = opened.metadata()?;
        if !about.is_file() {
            bail!(
                "the disk {} is a block device: what the guest writes is saved by renaming a file, \
                 so copy it into one",
                path.display()
            );
        }
        if size == 0 {
            bail!("{} is empty; make a disk of 64 MiB with `truncate -s 64M FILE`", path.display());
        }
        Ok(Self { file, size, changed: about.modified()? })
    }

    /// Bytes of what the guest gets: whole sectors.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size.next_multiple_of(SECTOR)
    }

    /// What the guest gets: the file, padded to whole sectors.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn image(&self) -> Result<impl Read + use<>> {
        let file = File::open(&self.file);
        let file = file.with_context(|| format!("cannot open the disk {}", self.shown()))?;
        // It may have become smaller, and must not be.
        Ok(file.take(self.size).chain(std::io::repeat(0)).take(self.size()))
    }

    /// Puts what the guest has left (the file `after`) into the user's file, if
    /// that differs. Whoever looks sees all of the old or all of the new.
    ///
    /// # Errors
    /// When `after` is no such disk, somebody else has changed the file
    /// meanwhile, or it cannot be written.
    pub fn save(&self, after: &Path) -> Result<bool> {
        let came = std::fs::metadata(after)?.len();
        if came != self.size() {
            bail!("the disk came back with {came} bytes of {}", self.size());
        }
        if same(self.image()?, File::open(after)?)? {
            return Ok(false);
        }
        if std::fs::metadata(&self.file)?.modified()? != self.changed {
            bail!(
                "{} has changed during the run and stays as it is; what the guest has written is in \
                 {}",
                self.shown(),
                shown(after)
            );
        }
        let name = self.file.file_name().unwrap_or_default().to_string_lossy();
        let new = self.file.with_file_name(format!(".{name}.{}.new", std::process::id()));
        let written = self.replace_by(&new, after);
        if written.is_err() {
            let _ = std::fs::remove_file(&new);
        }
        written.with_context(|| {
            let (file, after) = (self.shown(), shown(after));
            format!("cannot save the disk to {file}; what the guest has written is in {after}")
        })?;
        Ok(true)
    }

    fn replace_by(&self, new: &Path, after: &Path) -> Result<()> {
        files::write_from(new, File::open(after)?.take(self.size), self.size)?;
        std::fs::set_permissions(new, std::fs::metadata(&self.file)?.permissions())?;
        File::open(new)?.sync_all()?;
        std::fs::rename(new, &self.file)?;
        Ok(())
    }

    /// Its name for a message.
    #[must_use]
    pub fn shown(&self) -> String {
        shown(&self.file)
    }
}

/// Whether two readers give the same bytes.
fn same(mut one: impl Read, mut other: impl Read) -> Result<bool> {
    let (mut left, mut right) = (vec![0; CHUNK], vec![0; CHUNK]);
    loop {
        let (a, b) = (fill(&mut one, &mut left)?, fill(&mut other, &mut right)?);
        if left.get(..a) != right.get(..b) {
            return Ok(false);
        }
        if a == 0 {
            return Ok(true);
        }
    }
}

/// Reads until the buffer is full or nothing more comes.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match from.read(rest)? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
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

    fn folder(test: &str) -> PathBuf {
        let name = format!("bouncer-disk-{test}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn the_users_file_changes_only_as_a_whole_and_only_if_it_must() {
        let (folder, work) = (folder("user"), folder("work"));
        let (path, after) = (folder.join("disk.img"), work.join("after"));
        std::fs::write(&path, [1; 700]).unwrap();
        let disk = Disk::open(&path).unwrap();
        let mut image = Vec::new();
        disk.image().unwrap().read_to_end(&mut image).unwrap();
        assert_eq!((image.len(), disk.size()), (1024, 1024));
        let save = |bytes: &[u8]| {
            std::fs::write(&after, bytes).unwrap();
            disk.save(&after)
        };
        assert!(!save(&image).unwrap());
        assert!(save(&image[..512]).is_err());
        image[3] = 9;
        image[1023] = 9;
        assert!(save(&image).unwrap());
        let saved = std::fs::read(&path).unwrap();
        assert_eq!((saved.len(), saved[3]), (700, 9));
        // Nothing else is left beside it.
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        std::fs::write(&path, []).unwrap();
        assert!(Disk::open(&path).is_err());
        std::fs::remove_dir_all(folder).unwrap();
        std::fs::remove_dir_all(work).unwrap();
    }

    #[test]
    fn what_somebody_else_has_written_meanwhile_stays() {
        let folder = folder("changed");
        let (path, after) = (folder.join("disk.img"), folder.join("after"));
        std::fs::write(&path, [1; 512]).unwrap();
        let disk = Disk::open(&path).unwrap();
        std::fs::write(&after, [3; 512]).unwrap();
        std::fs::write(&path, [2; 512]).unwrap();
        let later = disk.changed + std::time::Duration::from_secs(5);
        File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        let refused = format!("{:#}", disk.save(&after).unwrap_err());
        assert!(refused.contains("has changed during the run"), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), [2; 512]);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_no_file_or_too_large_for_the_archive_is_no_disk() {
        assert!(Disk::open(Path::new("/dev/zero")).is_err());
        let folder = folder("large");
        let path = folder.join("disk.img");
        File::create(&path).unwrap().set_len(4 << 30).unwrap();
        assert!(Disk::open(&path).is_err());
        std::fs::remove_dir_all(folder).unwrap();
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
