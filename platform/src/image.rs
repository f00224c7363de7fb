//! The header of an arm64 kernel Image (Linux, Documentation/arch/arm64/booting).

/// Bytes of the header.
pub const HEADER_SIZE: usize = 64;
/// Alignment a kernel asks for: its text offset counts from such a boundary.
pub const ALIGNMENT: u64 = 0x20_0000;

/// Offset and value of the header's magic number.
const MAGIC: (usize, [u8; 4]) = (56, *b"ARM\x64");
const IMAGE_SIZE: usize = 16;

/// Bytes of RAM the kernel that starts with `header` needs from its first
/// byte on, zero-initialised data included; `None` if it is no arm64 Image.
pub fn memory_size(header: &[u8; HEADER_SIZE]) -> Option<u64> {
    let (at, magic) = MAGIC;
    if header.get(at..at + magic.len())? != magic {
        return None;
    }
    let size = header.get(IMAGE_SIZE..IMAGE_SIZE + 8)?.try_into().ok()?;
    Some(u64::from_le_bytes(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_an_image_counts_its_bss_and_other_files_have_none() {
        let mut header = [0; HEADER_SIZE];
        header[16..24].copy_from_slice(&0x12_3456u64.to_le_bytes());
        assert_eq!(memory_size(&header), None);
        header[56..60].copy_from_slice(b"ARM\x64");
        assert_eq!(memory_size(&header), Some(0x12_3456));
    }
}
