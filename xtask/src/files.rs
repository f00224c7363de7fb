//! Files that a user names: read and copied without surprises.
//!
//! `/dev/zero` has no end and a FIFO may have no writer. So what is a disk, a
//! kernel or a ramdisk must be a regular file or a block device, whose size is
//! known before the first byte is read and bounded. A script may come through
//! a pipe, but not without a bound. Whatever takes long says how far it is and
//! heeds Ctrl-C.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::qemu::interrupted;
use crate::term::Step;

/// Bytes between two looks at Ctrl-C.
const CHUNK: usize = 1 << 20;
/// How long a copy may take before it says how far it is.
const SOON: Duration = Duration::from_millis(500);
/// How often somebody who waits looks at Ctrl-C.
const GLANCE: Duration = Duration::from_millis(100);

/// Opens a regular file or a block device of at most `most` bytes; with its
/// size. `what` names it for the user: "disk".
///
/// # Errors
/// When it is something else, too large, or cannot be opened.
pub fn open(path: &Path, what: &str, most: u64) -> Result<(File, u64)> {
    let named = || format!("cannot open the {what} {}", path.display());
    // A FIFO is not waited for, and looked at before anything is read.
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let mut file =
        OpenOptions::new().read(true).custom_flags(flags).open(path).with_context(named)?;
    let kind = file.metadata().with_context(named)?.file_type();
    let size = if kind.is_file() {
        file.metadata().with_context(named)?.len()
    } else if kind.is_block_device() {
        let size = file.seek(SeekFrom::End(0)).with_context(named)?;
        file.rewind().with_context(named)?;
        size
    } else {
        let is = if kind.is_dir() {
            "a folder"
        } else if kind.is_fifo() {
            "a pipe"
        } else if kind.is_char_device() {
            "a character device"
        } else {
            "no regular file"
        };
        bail!("the {what} {} is {is}: it must be a regular file or a block device", path.display());
    };
    if size > most {
        bail!(
            "the {what} {} has {}; at most {} are possible",
            path.display(),
            amount(size),
            amount(most)
        );
    }
    Ok((file, size))
}

/// Reads such a file.
///
/// # Errors
/// As [`open`], and when it cannot be read or Ctrl-C was pressed.
pub fn read(path: &Path, what: &str, most: u64) -> Result<Vec<u8>> {
    let (file, size) = open(path, what, most)?;
    let mut bytes = Vec::new();
    // It may grow while it is read.
    copy(file.take(size), &mut bytes, size, &format!("{what} {}", path.display()))?;
    Ok(bytes)
}

/// Copies to the end; says how far it is if that takes long. `about` are the
/// bytes to expect.
///
/// # Errors
/// When one side fails or Ctrl-C was pressed.
pub fn copy(mut from: impl Read, mut to: impl Write, about: u64, name: &str) -> Result<u64> {
    let start = Instant::now();
    let mut step = None;
    let mut chunk = vec![0; CHUNK];
    let mut copied = 0;
    loop {
        if interrupted() {
            bail!("stopped by Ctrl-C");
        }
        let read = match from.read(&mut chunk) {
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot read the {name}")),
        };
        if read == 0 {
            return Ok(copied);
        }
        to.write_all(chunk.get(..read).unwrap_or_default())
            .map_err(|error| full(error, about))
            .with_context(|| format!("cannot copy the {name}"))?;
        copied += read as u64;
        if start.elapsed() > SOON {
            step.get_or_insert_with(|| Step::new("Reading")).note(&format!(
                "{name}: {} of {}",
                amount(copied),
                amount(about)
            ));
        }
    }
}

/// Writes a file as [`copy`] copies: with progress, Ctrl-C, and a clear word
/// about a disk that is full. What is half written is taken away.
///
/// # Errors
/// When it cannot be written or Ctrl-C was pressed.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_from(path, bytes, bytes.len() as u64)
}

/// The same with what can be read; `about` are the bytes to expect.
///
/// # Errors
/// As [`write()`].
pub fn write_from(path: &Path, from: impl Read, about: u64) -> Result<()> {
    let name = format!("file {}", path.display());
    let file = File::create(path).with_context(|| format!("cannot write the {name}"))?;
    let copied = copy(from, file, about, &name);
    if copied.is_err() {
        let _ = std::fs::remove_file(path);
    }
    copied.map(drop)
}

/// Reads a file or a pipe (`/dev/stdin`, too) of at most `most` bytes to its
/// end.
///
/// # Errors
/// When it is larger, cannot be read, or Ctrl-C was pressed.
pub fn read_stream(path: &Path, what: &str, most: u64) -> Result<Vec<u8>> {
    let named = path.display().to_string();
    let (sender, receiver) = channel();
    let from = path.to_owned();
    // To open a FIFO or to read a terminal may take for ever. The thread ends
    // with the process.
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = File::open(from)
            .and_then(|file| file.take(most.saturating_add(1)).read_to_end(&mut bytes));
        let _ = sender.send(read.map(|_| bytes));
    });
    loop {
        match receiver.recv_timeout(GLANCE) {
            Ok(read) => {
                let bytes = read.with_context(|| format!("cannot read the {what} {named}"))?;
                if bytes.len() as u64 > most {
                    bail!("the {what} {named} has more than {}", amount(most));
                }
                return Ok(bytes);
            }
            Err(RecvTimeoutError::Timeout) if !interrupted() => {}
            Err(_) => bail!("stopped by Ctrl-C"),
        }
    }
}

/// A file that is about to be written: is that possible?
///
/// # Errors
/// When it is a folder, or its folder is missing.
pub fn will_be_written(path: &Path) -> Result<()> {
    if path.is_dir() {
        bail!("{} is a folder, not a file to write to", path.display());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        bail!("cannot write {}: there is no folder {}", path.display(), folder.display());
    }
    Ok(())
}

/// What a full disk means, in words.
fn full(error: std::io::Error, about: u64) -> anyhow::Error {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => anyhow::anyhow!(
            "no space is left for {}: make room, or set CARGO_TARGET_DIR to another disk",
            amount(about)
        ),
        _ => error.into(),
    }
}

/// So many bytes, as a person wants to read them.
#[must_use]
pub fn amount(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{} KiB", bytes / 1024),
        1_048_576..10_737_418_240 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(test: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("xtask-files-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn what_has_no_end_or_no_writer_is_refused_at_once() {
        let folder = folder("kinds");
        let fifo = folder.join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        for (path, is) in [
            (Path::new("/dev/zero"), "a character device"),
            (Path::new("/dev/null"), "a character device"),
            (&fifo, "a pipe"),
            (&folder, "a folder"),
        ] {
            let refused = format!("{:#}", read(path, "disk", 1 << 20).unwrap_err());
            assert!(refused.contains(is), "{refused}");
            assert!(refused.starts_with("the disk "), "{refused}");
        }
        let missing = format!("{:#}", read(&folder.join("none"), "kernel", 1).unwrap_err());
        assert!(missing.starts_with("cannot open the kernel "), "{missing}");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_file_is_as_large_as_it_may_be_and_no_larger() {
        let folder = folder("size");
        let path = folder.join("file");
        std::fs::write(&path, [7; 100]).unwrap();
        assert_eq!(read(&path, "disk", 100).unwrap(), [7; 100]);
        assert!(read(&path, "disk", 99).is_err());
        // Nothing of it is read.
        std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let refused = format!("{:#}", read(&path, "disk", 24 << 30).unwrap_err());
        assert!(refused.contains("has 1024 GiB; at most 24 GiB"), "{refused}");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_script_may_come_through_a_pipe_but_not_for_ever() {
        let folder = folder("stream");
        let fifo = folder.join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let writer = fifo.clone();
        let written = std::thread::spawn(move || std::fs::write(writer, "exit 3\n"));
        assert_eq!(read_stream(&fifo, "script", 100).unwrap(), b"exit 3\n");
        written.join().unwrap().unwrap();
        assert!(read_stream(Path::new("/dev/zero"), "script", 1 << 20).is_err());
        assert!(read_stream(&folder, "script", 100).is_err());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_full_disk_is_told_in_words() {
        let error = copy([0; 100].as_slice(), File::create("/dev/full").unwrap(), 100, "disk x");
        let text = format!("{:#}", error.unwrap_err());
        assert!(text.contains("cannot copy the disk x: no space is left for 100 bytes"), "{text}");
    }

    #[test]
    fn where_a_result_goes_is_looked_at_before_the_run() {
        let folder = folder("results");
        assert!(will_be_written(&folder).is_err());
        assert!(will_be_written(&folder.join("no/result.json")).is_err());
        assert!(will_be_written(&folder.join("result.json")).is_ok());
        assert!(will_be_written(Path::new("result.json")).is_ok());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
