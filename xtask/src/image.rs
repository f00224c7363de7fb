//! From ELF to flat arm64 Image: what QEMU and bouncer load.

use anyhow::{Context, Result, bail};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, elf};

/// "ARM\x64" at offset 56 of an arm64 Image (Linux, arm64/booting.rst).
const MAGIC: &[u8; 4] = b"ARM\x64";
/// A flat image larger than this means a segment at a stray address.
const LARGEST: u64 = 256 << 20;

/// Copies the loadable bytes of an ELF to one flat image that begins at the
/// lowest physical address. Memory beyond the file's bytes (.bss) is not
/// written: the header's image_size accounts for it.
///
/// # Errors
/// When this is no 64-bit ELF, or what comes out has no arm64 Image header.
pub fn flatten(elf_file: &[u8]) -> Result<Vec<u8>> {
    let header = elf::FileHeader64::<Endianness>::parse(elf_file).context("not a 64-bit ELF")?;
    let endian = header.endian()?;
    let segments: Vec<_> = header
        .program_headers(endian, elf_file)?
        .iter()
        .filter(|segment| segment.p_type(endian) == elf::PT_LOAD && segment.p_filesz(endian) > 0)
        .collect();
    let start = segments.iter().map(|segment| segment.p_paddr(endian)).min();
    let start = start.context("the ELF has nothing to load")?;
    let mut image = Vec::new();
    for segment in segments {
        let data = segment.data(endian, elf_file).ok().context("a segment is cut short")?;
        let offset = segment.p_paddr(endian) - start;
        let end = offset + data.len() as u64;
        if end > LARGEST {
            bail!("a segment lies at {:#x}, far from {start:#x}", segment.p_paddr(endian));
        }
        let (offset, end) = (usize::try_from(offset)?, usize::try_from(end)?);
        if image.len() < end {
            image.resize(end, 0);
        }
        image.get_mut(offset..end).context("segment out of range")?.copy_from_slice(data);
    }
    if image.get(56..60) != Some(MAGIC.as_slice()) {
        bail!("the image has no arm64 Image header (\"ARM\\x64\" at offset 56)");
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A little-endian ELF64 with the given (physical address, bytes) segments.
    fn elf_with(segments: &[(u64, &[u8])]) -> Vec<u8> {
        let mut file = vec![0u8; 64];
        file[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
        file[16..20].copy_from_slice(&[2, 0, 183, 0]);
        file[20] = 1;
        file[32] = 64;
        file[52] = 64;
        file[54] = 56;
        file[56] = segments.len() as u8;
        let mut data: Vec<u8> = Vec::new();
        for (address, bytes) in segments {
            let offset = 64 + segments.len() * 56 + data.len();
            let size = bytes.len() as u64;
            file.extend([1u32.to_le_bytes(), 5u32.to_le_bytes()].concat());
            for word in [offset as u64, *address, *address, size, size + 4096, 4096] {
                file.extend(word.to_le_bytes());
            }
            data.extend(*bytes);
        }
        file.extend(data);
        file
    }

    fn header() -> Vec<u8> {
        let mut bytes = vec![0u8; 64];
        bytes[56..60].copy_from_slice(MAGIC);
        bytes
    }

    #[test]
    fn segments_land_at_their_physical_offsets_and_bss_is_left_out() {
        let first = header();
        let image = flatten(&elf_with(&[(0x4020_0100, b"data"), (0x4020_0000, &first)])).unwrap();
        assert_eq!(image.len(), 0x104);
        assert_eq!(&image[..64], first.as_slice());
        assert_eq!(&image[0x100..], b"data");
        assert!(image[64..0x100].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn what_is_no_kernel_image_is_refused() {
        assert!(flatten(b"#!/bin/sh").is_err());
        assert!(flatten(&elf_with(&[(0x4020_0000, &[0; 64])])).is_err());
        assert!(flatten(&elf_with(&[(0, &header()), (1 << 40, b"far")])).is_err());
    }
}
