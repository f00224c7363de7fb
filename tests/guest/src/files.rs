//! What the guest does with a disk: look for a FAT file system on the whole
//! of it, list and hash files, write one.
//!
//! The disk belongs to the host, so nothing on it is trusted; what is wrong
//! with it becomes an error here and nothing else.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use axfatfs::{FatType, FileSystem, FsOptions, IoBase, IoError, Read, Seek, SeekFrom, Write};
use sha2::{Digest, Sha256};

/// Bytes in a sector.
pub const SECTOR: usize = 512;
/// Most bytes of one transfer.
const CHUNK: usize = 32 * 1024;

/// A disk: whole sectors, by number.
pub trait Disk {
    /// Sectors there are.
    fn sectors(&self) -> u64;
    /// Reads sectors from `first` on into `buffer`, a multiple of [`SECTOR`];
    /// false if the device failed.
    fn read(&mut self, first: u64, buffer: &mut [u8]) -> bool;
    /// Writes sectors from `first` on; false if the device failed.
    fn write(&mut self, first: u64, buffer: &[u8]) -> bool;
    /// Makes what was written durable; false if the device failed.
    fn flush(&mut self) -> bool;
}

/// Why something did not work.
#[derive(Debug)]
pub enum Error {
    /// The device failed a request.
    Device,
    /// An access beyond the end of the disk.
    End,
    /// The file system says no.
    FileSystem(axfatfs::Error<Trouble>),
}

/// A failure below the file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// The device failed a request.
    Device,
    /// An access beyond the end of the disk.
    End,
    /// Nothing could be written.
    Zero,
}

impl IoError for Trouble {
    fn is_interrupted(&self) -> bool {
        false
    }

    fn new_unexpected_eof_error() -> Self {
        Trouble::End
    }

    fn new_write_zero_error() -> Self {
        Trouble::Zero
    }
}

impl From<axfatfs::Error<Trouble>> for Error {
    fn from(error: axfatfs::Error<Trouble>) -> Self {
        match error {
            axfatfs::Error::Io(Trouble::Device) => Error::Device,
            axfatfs::Error::Io(Trouble::End) => Error::End,
            other => Error::FileSystem(other),
        }
    }
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Self {
        axfatfs::Error::Io(trouble).into()
    }
}

/// A disk as a stream of bytes, one sector of it cached; writes go through.
struct Stream<'a, D> {
    disk: &'a mut D,
    position: u64,
    cached: Option<u64>,
    sector: [u8; SECTOR],
}

impl<'a, D: Disk> Stream<'a, D> {
    fn new(disk: &'a mut D) -> Self {
        Self { disk, position: 0, cached: None, sector: [0; SECTOR] }
    }

    /// Sector of the position, offset in it, bytes up to the end of the disk.
    fn place(&self) -> (u64, usize, u64) {
        let size = self.disk.sectors().saturating_mul(SECTOR as u64);
        let sector = self.position / SECTOR as u64;
        (sector, (self.position % SECTOR as u64) as usize, size.saturating_sub(self.position))
    }

    fn load(&mut self, sector: u64) -> Result<(), Trouble> {
        if self.cached != Some(sector) {
            self.cached = None;
            if !self.disk.read(sector, &mut self.sector) {
                return Err(Trouble::Device);
            }
            self.cached = Some(sector);
        }
        Ok(())
    }
}

impl<D> IoBase for Stream<'_, D> {
    type Error = Trouble;
}

impl<D: Disk> Read for Stream<'_, D> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Trouble> {
        let (sector, offset, left) = self.place();
        let mut count = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if offset == 0 && count >= SECTOR {
            count = (count - count % SECTOR).min(CHUNK);
            if !buffer.get_mut(..count).is_some_and(|whole| self.disk.read(sector, whole)) {
                return Err(Trouble::Device);
            }
        } else if count > 0 {
            count = count.min(SECTOR - offset);
            self.load(sector)?;
            buffer[..count].copy_from_slice(&self.sector[offset..offset + count]);
        }
        self.position += count as u64;
        Ok(count)
    }
}

impl<D: Disk> Write for Stream<'_, D> {
    fn write(&mut self, buffer: &[u8]) -> Result<usize, Trouble> {
        let (sector, offset, left) = self.place();
        let count = buffer.len().min(SECTOR - offset).min(usize::try_from(left).unwrap_or(SECTOR));
        if count == 0 {
            return Ok(0);
        }
        self.load(sector)?;
        self.sector[offset..offset + count].copy_from_slice(&buffer[..count]);
        if !self.disk.write(sector, &self.sector) {
            self.cached = None;
            return Err(Trouble::Device);
        }
        self.position += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> Result<(), Trouble> {
        if self.disk.flush() { Ok(()) } else { Err(Trouble::Device) }
    }
}

impl<D: Disk> Seek for Stream<'_, D> {
    fn seek(&mut self, to: SeekFrom) -> Result<u64, Trouble> {
        let size = self.disk.sectors().saturating_mul(SECTOR as u64);
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => size.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.filter(|position| *position <= size).ok_or(Trouble::End)?;
        Ok(self.position)
    }
}

/// A file in the root directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its name; long if it has one.
    pub name: String,
    /// Bytes.
    pub size: u64,
}

/// What is on a disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// A FAT file system: `"fat12"`, `"fat16"` or `"fat32"`, and the files in
    /// its root directory.
    Fat(&'static str, Vec<Entry>),
    /// Something else.
    Raw,
}

/// Looks what is on the disk.
///
/// # Errors
/// The device failed, or the file system is broken beyond its boot sector.
pub fn look(disk: &mut impl Disk) -> Result<Content, Error> {
    let Some(fs) = mount(disk)? else { return Ok(Content::Raw) };
    let kind = match fs.fat_type() {
        FatType::Fat12 => "fat12",
        FatType::Fat16 => "fat16",
        FatType::Fat32 => "fat32",
    };
    let mut files = Vec::new();
    for entry in fs.root_dir().iter() {
        let entry = entry?;
        if entry.is_file() {
            files.push(Entry { name: entry.file_name(), size: entry.len() });
        }
    }
    Ok(Content::Fat(kind, files))
}

type Mounted<'a, D> =
    FileSystem<Stream<'a, D>, axfatfs::NullTimeProvider, axfatfs::LossyOemCpConverter>;

/// The file system on the disk; `None` if its first sector is not a FAT boot
/// sector.
fn mount<D: Disk>(disk: &mut D) -> Result<Option<Mounted<'_, D>>, Error> {
    match FileSystem::new(Stream::new(disk), FsOptions::new()) {
        Ok(fs) => Ok(Some(fs)),
        Err(axfatfs::Error::Io(trouble)) => Err(trouble.into()),
        Err(_) => Ok(None),
    }
}

fn must_mount<D: Disk>(disk: &mut D) -> Result<Mounted<'_, D>, Error> {
    mount(disk)?.ok_or(Error::FileSystem(axfatfs::Error::CorruptedFileSystem))
}

/// SHA-256 of the file called `name`.
///
/// # Errors
/// See [`Error`].
pub fn hash_file(disk: &mut impl Disk, name: &str) -> Result<[u8; 32], Error> {
    let fs = must_mount(disk)?;
    let mut file = fs.root_dir().open_file(name)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().into()),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// SHA-256 of the whole disk.
///
/// # Errors
/// [`Error::Device`].
pub fn hash_disk(disk: &mut impl Disk) -> Result<[u8; 32], Error> {
    let mut stream = Stream::new(disk);
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(hash.finalize().into()),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// Creates or replaces the file called `name`.
///
/// # Errors
/// See [`Error`].
pub fn write_file(disk: &mut impl Disk, name: &str, content: &[u8]) -> Result<(), Error> {
    let fs = must_mount(disk)?;
    let mut file = fs.root_dir().create_file(name)?;
    file.truncate()?;
    file.write_all(content)?;
    file.flush()?;
    drop(file);
    fs.unmount()?;
    if disk.flush() { Ok(()) } else { Err(Error::Device) }
}

/// Writes `content` into the last sector, zeros behind it.
///
/// # Errors
/// [`Error::Device`], or [`Error::End`] if there is no sector.
pub fn write_last_sector(disk: &mut impl Disk, content: &[u8]) -> Result<(), Error> {
    let last = disk.sectors().checked_sub(1).ok_or(Error::End)?;
    let mut sector = [0; SECTOR];
    sector.iter_mut().zip(content).for_each(|(to, from)| *to = *from);
    if disk.write(last, &sector) && disk.flush() { Ok(()) } else { Err(Error::Device) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use axfatfs::FormatVolumeOptions;

    struct Memory {
        bytes: Vec<u8>,
        fail: bool,
        requests: usize,
    }

    impl Memory {
        fn raw(sectors: usize) -> Self {
            Self { bytes: vec![0; sectors * SECTOR], fail: false, requests: 0 }
        }

        fn formatted(sectors: usize, kind: FatType) -> Self {
            let mut disk = Self::raw(sectors);
            let options = FormatVolumeOptions::new().fat_type(kind);
            axfatfs::format_volume(&mut Stream::new(&mut disk), options).unwrap();
            disk
        }
    }

    impl Disk for Memory {
        fn sectors(&self) -> u64 {
            (self.bytes.len() / SECTOR) as u64
        }

        fn read(&mut self, first: u64, buffer: &mut [u8]) -> bool {
            assert!(buffer.len().is_multiple_of(SECTOR) && !buffer.is_empty());
            self.requests += 1;
            let start = first as usize * SECTOR;
            buffer.copy_from_slice(&self.bytes[start..start + buffer.len()]);
            !self.fail
        }

        fn write(&mut self, first: u64, buffer: &[u8]) -> bool {
            assert!(buffer.len().is_multiple_of(SECTOR) && !buffer.is_empty());
            let start = first as usize * SECTOR;
            self.bytes[start..start + buffer.len()].copy_from_slice(buffer);
            !self.fail
        }

        fn flush(&mut self) -> bool {
            !self.fail
        }
    }

    #[test]
    fn files_written_are_listed_hashed_and_replaced() {
        for (kind, name) in [(FatType::Fat12, "fat12"), (FatType::Fat16, "fat16")] {
            let mut disk = Memory::formatted(16384, kind);
            let long: Vec<u8> = (0..100_000u32).map(|byte| byte as u8).collect();
            write_file(&mut disk, "HELLO.TXT", b"something longer").unwrap();
            write_file(&mut disk, "A longer name.bin", &long).unwrap();
            write_file(&mut disk, "HELLO.TXT", b"hello").unwrap();
            let Content::Fat(found, files) = look(&mut disk).unwrap() else { panic!("no FAT") };
            assert_eq!(found, name);
            assert_eq!(
                files,
                [
                    Entry { name: "HELLO.TXT".to_string(), size: 5 },
                    Entry { name: "A longer name.bin".to_string(), size: 100_000 },
                ]
            );
            assert_eq!(hash_file(&mut disk, "hello.txt").unwrap(), *Sha256::digest(b"hello"));
            let hash = hash_file(&mut disk, "A longer name.bin").unwrap();
            assert_eq!(hash, *Sha256::digest(&long));
        }
    }

    #[test]
    fn a_disk_without_fat_is_raw_and_can_be_hashed_in_few_requests() {
        let mut disk = Memory::raw(1024);
        assert_eq!(look(&mut disk).unwrap(), Content::Raw);
        write_last_sector(&mut disk, b"note").unwrap();
        assert_eq!(&disk.bytes[1023 * SECTOR..][..5], b"note\0");
        disk.requests = 0;
        assert_eq!(hash_disk(&mut disk).unwrap(), *Sha256::digest(&disk.bytes));
        assert_eq!(disk.requests, 1024 * SECTOR / CHUNK);
    }

    #[test]
    fn a_failing_device_is_an_error_and_not_a_raw_disk() {
        let mut disk = Memory::formatted(4096, FatType::Fat12);
        disk.fail = true;
        assert!(matches!(look(&mut disk), Err(Error::Device)));
        assert!(matches!(hash_disk(&mut disk), Err(Error::Device)));
        assert!(matches!(write_file(&mut disk, "X", b"x"), Err(Error::Device)));
        assert!(matches!(write_last_sector(&mut disk, b"x"), Err(Error::Device)));
    }

    #[test]
    fn a_disk_shorter_than_its_boot_sector_says_is_an_error_not_a_panic() {
        let mut disk = Memory::formatted(16384, FatType::Fat16);
        disk.bytes.truncate(8 * SECTOR);
        assert!(look(&mut disk).is_err() || hash_file(&mut disk, "X").is_err());
        let mut empty = Memory::raw(0);
        assert!(look(&mut empty).is_err());
        assert!(matches!(write_last_sector(&mut empty, b"x"), Err(Error::End)));
    }

    #[test]
    fn a_missing_file_is_not_found() {
        let mut disk = Memory::formatted(4096, FatType::Fat12);
        assert!(matches!(
            hash_file(&mut disk, "NONE.TXT"),
            Err(Error::FileSystem(axfatfs::Error::NotFound))
        ));
    }
}
