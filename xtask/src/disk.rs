//! The guest's disk: made or copied before the boot, read back after it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::cpio::LARGEST;
use crate::files;
use crate::workspace::Workspace;

/// Bytes of a virtio-blk sector.
pub const SECTOR: u64 = 512;
/// The file a guest writes to prove that its writes arrive.
pub const GUEST_FILE: &str = "GUEST.TXT";
/// Name a guest gives to the hash of a whole disk.
pub const WHOLE_DISK: &str = "disk";
/// Size of the disk made without `--disk`.
const OWN_SIZE: u64 = 4 << 20;

/// What is on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A FAT file system without a partition table: files are listed.
    Fat,
    /// Anything else: hashed whole, its last sector written by the guest.
    Raw,
}

/// A disk image under target/, ready to be given to a guest.
#[derive(Debug, Clone)]
pub struct Disk {
    /// The image.
    pub path: PathBuf,
    /// What is on it.
    pub kind: Kind,
    /// Bytes, a multiple of [`SECTOR`].
    pub size: u64,
    /// Files in the root directory: (name, bytes).
    pub files: Vec<(String, u64)>,
    /// What the guest shall hash: a file's name or [`WHOLE_DISK`].
    pub hash_name: String,
    /// The SHA-256 it must get, in hex.
    pub sha256: String,
}

impl Disk {
    /// Makes a small FAT disk with files worth reading.
    ///
    /// # Errors
    /// When the image cannot be written.
    pub fn make(workspace: &Workspace, folder: &Path) -> Result<Self> {
        let path = folder.join("disk.img");
        let mut file = create(&path)?;
        file.set_len(OWN_SIZE)?;
        let label = *b"BOUNCER    ";
        fatfs::format_volume(&mut file, fatfs::FormatVolumeOptions::new().volume_label(label))
            .context("cannot format the disk image")?;
        {
            let volume = fatfs::FileSystem::new(&mut file, fatfs::FsOptions::new())?;
            let root = volume.root_dir();
            let readme = std::fs::read(workspace.root.join("README.md")).unwrap_or_default();
            let hello = b"Hello from the disk of a protected guest.\n".to_vec();
            let files =
                [("HELLO.TXT", hello), ("README.TXT", readme), ("RANDOM.BIN", noise(200 << 10))];
            for (name, contents) in &files {
                root.create_file(name)?.write_all(contents)?;
            }
        }
        file.flush()?;
        Self::open(path)
    }

    /// Copies a user's file; the original is only ever read.
    ///
    /// # Errors
    /// When the file cannot be read or is empty, or the copy not written.
    pub fn copy_of(original: &Path, folder: &Path) -> Result<Self> {
        let path = folder.join("disk.img");
        let (from, size) = files::open(original, "disk", LARGEST - 2 * SECTOR)?;
        let mut to = create(&path)?;
        let name = format!("disk {}", original.display());
        let size = files::copy(from.take(size), &mut to, size, &name)?;
        if size == 0 {
            bail!("{} is empty: a disk needs at least one byte", original.display());
        }
        let mut padded = size.next_multiple_of(SECTOR);
        if volume_files(&mut to).is_err() {
            // The guest's note goes to a sector of its own at the end, so
            // that the user's bytes are all read back as they were.
            padded += SECTOR;
        }
        to.set_len(padded)?;
        Self::open(path)
    }

    /// Looks at an image that is already in place.
    fn open(path: PathBuf) -> Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
        let size = file.metadata()?.len();
        let (kind, files) = match volume_files(&mut file) {
            Ok(files) => (Kind::Fat, files),
            Err(_) => (Kind::Raw, Vec::new()),
        };
        file.seek(SeekFrom::Start(0))?;
        let (hash_name, sha256) = match kind {
            Kind::Raw => (WHOLE_DISK.to_owned(), sha256_of(&mut file, size)?),
            Kind::Fat => {
                let name = hashable(&files).context(
                    "the disk's file system has no file in its root directory to hash: put one \
                     there, or give a disk without a file system",
                )?;
                let volume = fatfs::FileSystem::new(&mut file, fatfs::FsOptions::new())?;
                let sha256 = sha256_of(&mut volume.root_dir().open_file(&name)?, size)?;
                (name, sha256)
            }
        };
        Ok(Self { path, kind, size, files, hash_name, sha256 })
    }

    /// What the same hash is once the guest has left its note on the disk.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn sha256_with(&self, note: &str) -> Result<String> {
        if self.kind == Kind::Fat {
            return Ok(self.sha256.clone());
        }
        let mut sector = note.as_bytes().to_vec();
        sector.resize(SECTOR as usize, 0);
        let before = File::open(&self.path)?.take(self.size - SECTOR);
        sha256_of(&mut before.chain(sector.as_slice()), self.size)
    }

    /// Looks for the guest's note in the disk as it was after the run.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn note_found(&self, after: &Path, note: &str) -> Result<bool> {
        let mut file = OpenOptions::new().read(true).write(true).open(after)?;
        let mut text = Vec::new();
        match self.kind {
            Kind::Fat => {
                let volume = fatfs::FileSystem::new(&mut file, fatfs::FsOptions::new())
                    .context("the disk has no readable FAT file system after the run")?;
                let Ok(mut found) = volume.root_dir().open_file(GUEST_FILE) else {
                    return Ok(false);
                };
                found.read_to_end(&mut text)?;
            }
            Kind::Raw => {
                file.seek(SeekFrom::Start(self.size - SECTOR))?;
                file.read_to_end(&mut text)?;
            }
        }
        Ok(!note.is_empty() && text.windows(note.len()).any(|part| part == note.as_bytes()))
    }
}

fn create(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The files in the root directory of a FAT volume by their short names,
/// the only ones the guest's small driver knows.
fn volume_files(file: &mut File) -> Result<Vec<(String, u64)>> {
    file.seek(SeekFrom::Start(0))?;
    let volume = fatfs::FileSystem::new(file, fatfs::FsOptions::new())?;
    let mut files = Vec::new();
    for entry in volume.root_dir().iter() {
        let entry = entry?;
        if entry.is_file() {
            files.push((entry.short_file_name(), entry.len()));
        }
    }
    Ok(files)
}

/// The file to hash: the largest, since it crosses the bounce window most
/// often; one whose name fits the host's command line, and not the file the
/// guest writes.
fn hashable(files: &[(String, u64)]) -> Option<String> {
    let fits = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || "._-~".contains(c));
    files
        .iter()
        .filter(|(name, _)| fits(name) && name != GUEST_FILE)
        .max_by_key(|(_, bytes)| *bytes)
        .map(|(name, _)| name.clone())
}

/// SHA-256 of all that can be read, in hex; `about` are the bytes to expect.
///
/// # Errors
/// When reading fails, or Ctrl-C was pressed.
pub fn sha256_of(reader: &mut impl Read, about: u64) -> Result<String> {
    struct Hashing(Sha256);
    impl Write for Hashing {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut hashing = Hashing(Sha256::new());
    files::copy(reader, &mut hashing, about, "disk, for its SHA-256")?;
    let hash = hashing.0;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Bytes without a pattern, the same in each run (xorshift64*).
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x626f_756e_6365_7221_u64;
    let mut bytes = Vec::with_capacity(count);
    while bytes.len() < count {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend(state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("xtask-disk-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn workspace() -> Workspace {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
        Workspace { target: root.join("target"), root }
    }

    #[test]
    fn our_own_disk_holds_files_and_knows_the_hash_of_the_largest() {
        let folder = folder("own");
        let disk = Disk::make(&workspace(), &folder).unwrap();
        assert_eq!(disk.kind, Kind::Fat);
        assert!(disk.files.iter().any(|(name, bytes)| name == "HELLO.TXT" && *bytes > 0));
        assert_eq!(disk.hash_name, "RANDOM.BIN");
        assert_eq!(disk.sha256, sha256_of(&mut noise(200 << 10).as_slice(), 0).unwrap());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_note_is_found_only_where_the_guest_wrote_it() {
        let folder = folder("note");
        let disk = Disk::make(&workspace(), &folder).unwrap();
        assert!(!disk.note_found(&disk.path, "note-17").unwrap());
        let mut file = OpenOptions::new().read(true).write(true).open(&disk.path).unwrap();
        let volume = fatfs::FileSystem::new(&mut file, fatfs::FsOptions::new()).unwrap();
        let mut guest = volume.root_dir().create_file(GUEST_FILE).unwrap();
        guest.write_all(b"written by the guest: note-17\n").unwrap();
        drop(guest);
        drop(volume);
        assert!(disk.note_found(&disk.path, "note-17").unwrap());
        assert!(!disk.note_found(&disk.path, "note-18").unwrap());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_users_file_is_copied_padded_and_left_alone() {
        let folder = folder("user");
        let original = folder.join("photo.jpg");
        std::fs::write(&original, [0xab; 1000]).unwrap();
        let disk = Disk::copy_of(&original, &folder).unwrap();
        assert_eq!((disk.kind, disk.size), (Kind::Raw, 1536));
        let copy = std::fs::read(&disk.path).unwrap();
        assert_eq!(disk.sha256, sha256_of(&mut copy.as_slice(), 0).unwrap());
        let mut after = copy;
        after[1024..1031].copy_from_slice(b"note-17");
        let predicted = disk.sha256_with("note-17").unwrap();
        assert_eq!(predicted, sha256_of(&mut after.as_slice(), 0).unwrap());
        std::fs::write(&disk.path, after).unwrap();
        assert!(disk.note_found(&disk.path, "note-17").unwrap());
        assert_eq!(std::fs::read(&original).unwrap(), [0xab; 1000]);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn an_empty_or_missing_disk_is_refused() {
        let folder = folder("empty");
        let original = folder.join("empty");
        std::fs::write(&original, b"").unwrap();
        assert!(Disk::copy_of(&original, &folder).is_err());
        assert!(Disk::copy_of(&folder.join("none"), &folder).is_err());
        assert!(Disk::copy_of(Path::new("/dev/zero"), &folder).is_err());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_largest_file_with_a_plain_name_is_hashed() {
        let files = |names: &[(&str, u64)]| -> Vec<(String, u64)> {
            names.iter().map(|(name, bytes)| ((*name).to_owned(), *bytes)).collect()
        };
        let all = files(&[("A.TXT", 1), ("B C.TXT", 9), ("D~1.BIN", 5), (GUEST_FILE, 8)]);
        assert_eq!(hashable(&all).as_deref(), Some("D~1.BIN"));
        assert_eq!(hashable(&files(&[("X Y", 1)])), None);
    }

    #[test]
    fn hashes_are_sha256() {
        let empty = sha256_of(&mut [].as_slice(), 0).unwrap();
        assert_eq!(empty, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
