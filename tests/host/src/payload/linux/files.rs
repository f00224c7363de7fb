//! The files in the ramdisk.

use core::ops::Range;

use rt::cpio;

/// What there is to boot.
pub(super) struct Files {
    /// An arm64 Image.
    pub(super) kernel: &'static [u8],
    /// The guest's ramdisk; empty if it has none.
    pub(super) initrd: &'static [u8],
    /// The guest's kernel arguments.
    pub(super) command_line: &'static str,
    /// Another guest to run beside it: bouncer's own.
    pub(super) other: Option<&'static [u8]>,
    /// Its disk, served in place, while no guest has it.
    pub(super) disk: Option<&'static mut [u8]>,
}

impl Files {
    /// Finds them; `None` without a kernel.
    pub(super) fn open(ramdisk: &'static mut [u8]) -> Option<Self> {
        let start = ramdisk.as_ptr() as usize;
        let find = |name| {
            let data = cpio::find(ramdisk, name)?;
            let offset = data.as_ptr() as usize - start;
            Some(offset..offset + data.len())
        };
        let (kernel, initrd, words) = (find("kernel")?, find("initrd"), find("cmdline"));
        let other = find("guest.img");
        // The disk is written, so it is cut out of the rest.
        let disk = find("disk.img").unwrap_or(ramdisk.len()..ramdisk.len());
        let (head, rest) = ramdisk.split_at_mut_checked(disk.start)?;
        let (middle, tail) = rest.split_at_mut_checked(disk.len())?;
        let (head, tail): (&'static [u8], &'static [u8]) = (head, tail);
        let get = |place: Range<usize>| match place.start.checked_sub(disk.end) {
            Some(offset) => tail.get(offset..offset + place.len()),
            None => head.get(place),
        };
        Some(Self {
            kernel: get(kernel)?,
            initrd: initrd.and_then(&get).unwrap_or_default(),
            command_line: words.and_then(&get).map_or("", text),
            other: other.and_then(&get),
            disk: (!middle.is_empty()).then_some(middle),
        })
    }
}

/// A file of one line, up to its end; nothing if it is no text.
fn text(bytes: &'static [u8]) -> &'static str {
    core::str::from_utf8(bytes).map_or("", |text| text.trim_end_matches(['\n', '\r', '\0', ' ']))
}
