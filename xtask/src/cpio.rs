//! The ramdisk: a cpio archive in "newc" form, each file's bytes on a page
//! boundary so that the host can hand whole frames to a guest or a device.

/// Alignment of file contents inside the archive.
const PAGE: usize = 4096;
/// Bytes of a newc header.
const HEADER: usize = 110;
/// The name that ends an archive.
const TRAILER: &str = "TRAILER!!!";
/// Most bytes of a file: newc writes its size with eight hexadecimal digits.
pub const LARGEST: u64 = u32::MAX as u64;

/// An archive and where its files' contents begin.
#[derive(Debug)]
pub struct Archive {
    /// The archive.
    pub bytes: Vec<u8>,
    /// Offset of each file's first byte, in the order given.
    pub offsets: Vec<usize>,
}

/// Packs files (name, contents).
#[must_use]
pub fn newc(files: &[(&str, &[u8])]) -> Archive {
    let mut bytes = Vec::new();
    let offsets = add(&mut bytes, files);
    entry(&mut bytes, TRAILER, 0, 0);
    align(&mut bytes, PAGE);
    Archive { bytes, offsets }
}

/// An archive whose last file is too large to be in memory: what comes before
/// its contents, and what after them.
#[derive(Debug)]
pub struct Frame {
    /// The archive up to the last file's first byte.
    pub head: Vec<u8>,
    /// The archive behind its last.
    pub tail: Vec<u8>,
}

/// Packs files, and behind them one that the caller writes: name and bytes.
#[must_use]
pub fn newc_around(files: &[(&str, &[u8])], name: &str, size: usize) -> Frame {
    let mut head = Vec::new();
    add(&mut head, files);
    pad_before(&mut head, name);
    entry(&mut head, name, 0o100_644, size);
    let begin = (head.len() + size).next_multiple_of(4) - size;
    let mut tail = vec![0; begin - head.len()];
    let mut end = Vec::new();
    entry(&mut end, TRAILER, 0, 0);
    tail.extend(end);
    let all = head.len() + size + tail.len();
    tail.resize(tail.len() + all.next_multiple_of(PAGE) - all, 0);
    Frame { head, tail }
}

/// Adds files; returns where the contents of each begin.
fn add(bytes: &mut Vec<u8>, files: &[(&str, &[u8])]) -> Vec<usize> {
    let mut offsets = Vec::new();
    for (name, contents) in files {
        pad_before(bytes, name);
        entry(bytes, name, 0o100_644, contents.len());
        offsets.push(bytes.len());
        bytes.extend_from_slice(contents);
        align(bytes, 4);
    }
    offsets
}

/// Something in a folder tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A folder.
    Folder,
    /// A file and its permissions.
    File(Vec<u8>, u32),
    /// A character device: major, minor.
    Device(u32, u32),
}

/// Packs a folder tree (path, what is there) as Linux wants its initramfs:
/// every folder before what is in it, and no filler in between.
#[must_use]
pub fn tree(nodes: &[(String, Node)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (path, node) in nodes {
        match node {
            Node::Folder => entry(&mut bytes, path, 0o040_755, 0),
            Node::File(contents, permissions) => {
                entry(&mut bytes, path, 0o100_000 | permissions, contents.len());
                bytes.extend_from_slice(contents);
                align(&mut bytes, 4);
            }
            Node::Device(major, minor) => device(&mut bytes, path, *major, *minor),
        }
    }
    entry(&mut bytes, TRAILER, 0, 0);
    align(&mut bytes, PAGE);
    bytes
}

/// Adds a filler file so that the contents of `name` begin on a page.
fn pad_before(bytes: &mut Vec<u8>, name: &str) {
    const FILLER: &str = ".pad";
    let data = bytes.len() + header_size(name);
    if data.is_multiple_of(PAGE) {
        return;
    }
    let with_filler = data + header_size(FILLER);
    let gap = with_filler.next_multiple_of(PAGE) - with_filler;
    entry(bytes, FILLER, 0o100_644, gap);
    bytes.resize(bytes.len() + gap, 0);
}

/// Header and name, padded as newc pads them.
fn header_size(name: &str) -> usize {
    (HEADER + name.len() + 1).next_multiple_of(4)
}

fn entry(bytes: &mut Vec<u8>, name: &str, mode: u32, size: usize) {
    header(bytes, name, mode, size, (0, 0));
}

fn device(bytes: &mut Vec<u8>, name: &str, major: u32, minor: u32) {
    header(bytes, name, 0o020_600, 0, (major as usize, minor as usize));
}

fn header(bytes: &mut Vec<u8>, name: &str, mode: u32, size: usize, device: (usize, usize)) {
    // Fields: ino, mode, uid, gid, nlink, mtime, filesize, devmajor,
    // devminor, rdevmajor, rdevminor, namesize, check.
    let (major, minor) = device;
    let fields = [0, mode as usize, 0, 0, 1, 0, size, 0, 0, major, minor, name.len() + 1, 0];
    bytes.extend_from_slice(b"070701");
    for field in fields {
        bytes.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(0);
    align(bytes, 4);
}

fn align(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_begin_on_pages_and_are_intact() {
        let image = vec![7u8; 5000];
        let archive = newc(&[("guest.img", &image), ("disk.img", b"blocks"), ("x", b"")]);
        assert!(archive.offsets.iter().all(|offset| offset % PAGE == 0));
        assert_eq!(&archive.bytes[archive.offsets[0]..][..5000], image.as_slice());
        assert_eq!(&archive.bytes[archive.offsets[1]..][..6], b"blocks");
        assert_eq!(archive.bytes.len() % PAGE, 0);
    }

    #[test]
    fn an_archive_around_a_large_file_is_the_same_archive() {
        for size in [0, 1, 3, 512, 4096, 5000] {
            let last = vec![7u8; size];
            let files: [(&str, &[u8]); 2] = [("kernel", b"Image"), ("cmdline", &[b'x'; 300])];
            let around = newc_around(&files, "disk.img", size);
            let whole = newc(&[files[0], files[1], ("disk.img", &last)]);
            assert_eq!([around.head.clone(), last, around.tail].concat(), whole.bytes);
            assert_eq!(around.head.len(), whole.offsets[2]);
        }
    }

    #[test]
    fn a_tree_keeps_kinds_permissions_and_device_numbers() {
        let nodes = [
            ("dev".to_owned(), Node::Folder),
            ("dev/console".to_owned(), Node::Device(5, 1)),
            ("init".to_owned(), Node::File(b"#!/bin/sh\n".to_vec(), 0o755)),
        ];
        let bytes = tree(&nodes);
        let text = String::from_utf8_lossy(&bytes);
        // Mode, links and sizes stand where the form has them.
        let field = |name: &str, n: usize| {
            let at = text.find(&format!("{name}\0")).unwrap() - HEADER + 6 + 8 * n;
            u32::from_str_radix(&text[at..at + 8], 16).unwrap()
        };
        assert_eq!((field("dev", 1), field("init", 1)), (0o040_755, 0o100_755));
        assert_eq!(field("dev/console", 1), 0o020_600);
        assert_eq!((field("dev/console", 9), field("dev/console", 10)), (5, 1));
        assert_eq!(field("init", 6), 10);
        assert!(!text.contains(".pad"), "a filler would be a file in the guest");
    }

    #[test]
    fn a_reader_that_walks_the_headers_finds_the_files() {
        let archive = newc(&[("a", b"one"), ("longer-name", b"four"), ("c", &[9; 4096])]);
        let mut seen = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!(&archive.bytes[at..at + 6], b"070701", "header at {at}");
            let field = |n: usize| {
                let text = &archive.bytes[at + 6 + 8 * n..at + 14 + 8 * n];
                usize::from_str_radix(std::str::from_utf8(text).unwrap(), 16).unwrap()
            };
            let (size, name_size) = (field(6), field(11));
            let name = &archive.bytes[at + HEADER..at + HEADER + name_size - 1];
            let name = std::str::from_utf8(name).unwrap().to_owned();
            at = (at + HEADER + name_size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                break;
            }
            let contents = archive.bytes[at..at + size].to_vec();
            at = (at + size).next_multiple_of(4);
            if name != ".pad" {
                seen.push((name, contents));
            }
        }
        let names: Vec<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "longer-name", "c"]);
        assert_eq!(seen[1].1, b"four");
        assert_eq!(seen[2].1, vec![9; 4096]);
    }
}
