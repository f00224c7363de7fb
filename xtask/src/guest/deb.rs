//! Reading a Debian package without installing it: an `ar` archive with an
//! xz-compressed tar in it.
//!
//! `dpkg-deb` unpacks it where there is one, for it is quick; elsewhere
//! crates do, to the same result. Nothing is installed or left behind.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use lzma_rust2::XzReader;

/// A file out of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Path without the leading `./`.
    pub path: String,
    /// Contents.
    pub bytes: Vec<u8>,
}

/// The regular files of a package whose path is wanted.
///
/// # Errors
/// When the package cannot be read or is not of the usual form.
pub fn members(package: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<Member>> {
    let mut found = Vec::new();
    visit(package, &mut |path, contents| {
        if wanted(path) {
            let mut bytes = Vec::new();
            contents.read_to_end(&mut bytes)?;
            found.push(Member { path: path.to_owned(), bytes });
        }
        Ok(())
    })?;
    Ok(found)
}

/// What is done with a file: its path, its contents.
type Visit<'a> = dyn FnMut(&str, &mut dyn Read) -> Result<()> + 'a;

/// Shows each regular file of a package.
///
/// # Errors
/// As [`members`], and those of `visit`.
pub fn visit(package: &Path, visit: &mut Visit<'_>) -> Result<()> {
    read(package, &mut |tar| files(tar, visit))
}

/// Puts all that a package has into a folder: links and modes, too.
///
/// # Errors
/// As [`members`], and when it cannot be written.
pub fn unpack(package: &Path, folder: &Path) -> Result<()> {
    read(package, &mut |tar| Ok(tar::Archive::new(tar).unpack(folder)?))
}

/// What is done with the tar archive of a package's files.
type Use<'a> = dyn FnMut(&mut dyn Read) -> Result<()> + 'a;

fn read(package: &Path, with: &mut Use<'_>) -> Result<()> {
    let result = match dpkg(package) {
        Some(command) => with_dpkg(command, with),
        None => with_crates(package, with),
    };
    result.with_context(|| format!("{} cannot be read", package.display()))
}

/// The command that prints a package's files as a tar archive, if there is
/// a dpkg-deb.
fn dpkg(package: &Path) -> Option<Command> {
    let mut command = Command::new("dpkg-deb");
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().ok().filter(std::process::ExitStatus::success)?;
    let mut command = Command::new("dpkg-deb");
    command.arg("--fsys-tarfile").arg(package);
    Some(command)
}

fn with_dpkg(mut command: Command, with: &mut Use<'_>) -> Result<()> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut tar = BufReader::new(child.stdout.take().context("no stdout")?);
    let used = with(&mut tar);
    // To its end, or dpkg-deb would complain of a broken pipe.
    let drained = std::io::copy(&mut tar, &mut std::io::sink());
    let status = child.wait()?;
    used?;
    drained?;
    if !status.success() {
        bail!("dpkg-deb failed ({status})");
    }
    Ok(())
}

fn with_crates(package: &Path, with: &mut Use<'_>) -> Result<()> {
    let mut archive = ar::Archive::new(BufReader::new(File::open(package)?));
    while let Some(entry) = archive.next_entry() {
        let entry = entry?;
        let name = String::from_utf8_lossy(entry.header().identifier()).into_owned();
        match name.trim_end_matches('/') {
            "data.tar.xz" => return with(&mut XzReader::new(entry, true)),
            other if other.starts_with("data.tar") => {
                bail!("its files are in {other}; install dpkg, only .xz is read without it")
            }
            _ => {}
        }
    }
    bail!("it holds no data.tar")
}

/// Shows each regular file of a tar archive.
fn files(tar: &mut dyn Read, visit: &mut Visit<'_>) -> Result<()> {
    for entry in tar::Archive::new(tar).entries()? {
        let mut entry = entry?;
        if entry.header().entry_type().is_file() {
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            visit(path.trim_start_matches("./"), &mut entry)?;
        }
    }
    Ok(())
}

/// Unpacks xz.
///
/// # Errors
/// When it is none, or damaged.
pub fn unxz(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    XzReader::new(bytes, true).read_to_end(&mut out).context("damaged xz data")?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let options = lzma_rust2::XzOptions::with_preset(1);
        let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    }

    fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, path, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    /// A package such as dpkg-deb makes them, its files in `data`.
    fn package(name: &str, data: &[u8]) -> std::path::PathBuf {
        let me = std::thread::current().name().unwrap_or_default().replace(':', "-");
        let folder = std::env::temp_dir().join(format!("bouncer-{me}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("some.deb");
        let mut archive = ar::Builder::new(File::create(&path).unwrap());
        let control = xz(&tar(&[("./control", b"Package: some\n")]));
        let parts = [("debian-binary", b"2.0\n".as_slice()), ("control.tar.xz", &control)];
        for (name, bytes) in parts.into_iter().chain([(name, data)]) {
            let header = ar::Header::new(name.into(), bytes.len() as u64);
            archive.append(&header, bytes).unwrap();
        }
        path
    }

    #[test]
    fn both_readers_find_the_same_files() {
        let large = vec![7; 1 << 20];
        let data = tar(&[("./usr/bin/busybox", b"elf"), ("./usr/lib/large", &large)]);
        let path = package("data.tar.xz", &xz(&data));
        let read = |reader: &dyn Fn(&mut Visit<'_>) -> Result<()>| {
            let mut seen = Vec::new();
            reader(&mut |path, contents| {
                let mut bytes = Vec::new();
                contents.read_to_end(&mut bytes)?;
                seen.push((path.to_owned(), bytes));
                Ok(())
            })
            .unwrap();
            seen
        };
        let wanted =
            [("usr/bin/busybox".to_owned(), b"elf".to_vec()), ("usr/lib/large".to_owned(), large)];
        assert_eq!(read(&|visit| with_crates(&path, &mut |tar| files(tar, visit))), wanted);
        // On a machine without dpkg-deb this is the crates once more.
        assert_eq!(read(&|visit| super::visit(&path, visit)), wanted);
        let some = members(&path, |path| path.ends_with("busybox")).unwrap();
        assert_eq!(some, [Member { path: "usr/bin/busybox".into(), bytes: b"elf".into() }]);

        let cut = std::fs::read(&path).unwrap();
        std::fs::write(&path, &cut[..cut.len() / 2]).unwrap();
        assert!(members(&path, |_| true).is_err());
        assert!(with_crates(&path, &mut |tar| files(tar, &mut |_, _| Ok(()))).is_err());
        let path = package("data.tar.lz", b"");
        let said =
            with_crates(&path, &mut |tar| files(tar, &mut |_, _| Ok(()))).unwrap_err().to_string();
        assert!(said.contains("data.tar.lz"), "{said}");
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn links_and_modes_are_unpacked_too() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o755);
        builder.append_data(&mut header, "./usr/bin/tool", b"elf".as_slice()).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, "./usr/lib", "bin").unwrap();
        let path = package("data.tar.xz", &xz(&builder.into_inner().unwrap()));
        let folder = path.with_extension("unpacked");
        unpack(&path, &folder).unwrap();
        assert_eq!(std::fs::read(folder.join("usr/lib/tool")).unwrap(), b"elf");
        let mode = std::fs::metadata(folder.join("usr/bin/tool")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn damaged_xz_is_no_module() {
        let good = xz(b"module");
        assert_eq!(unxz(&good).unwrap(), b"module");
        assert!(unxz(&good[..good.len() - 4]).is_err());
        assert!(unxz(b"").is_err());
    }
}
