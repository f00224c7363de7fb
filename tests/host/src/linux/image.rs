//! Where a kernel goes: the header of an arm64 `Image` (the Linux kernel's
//! Documentation/arch/arm64/booting.rst) and what it asks for.

use core::fmt;

use hyp::layout;

/// Kernels want a multiple of this, plus the offset in their header.
const ALIGNMENT: u64 = 2 << 20;
/// The device tree is at the start of RAM and must not cross 2 MiB.
const TREE_ROOM: u64 = ALIGNMENT;
const PAGE: u64 = 4096;
/// `ARM\x64` at offset 56.
const MAGIC: u32 = 0x644d_5241;
const HEADER: usize = 64;
/// Header flags: big-endian kernel; page size in bits 2:1.
const BIG_ENDIAN: u64 = 1;
const PAGE_SIZE: u64 = 3 << 1;

/// Sizes of pages that the CPU's stage 1 has, as ID_AA64MMFR0_EL1 tells (Arm
/// ARM D24.2.79). bouncer shows a guest these fields as they are: stage 2 has
/// 4 KiB pages whatever stage 1 has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Granules(u64);

impl Granules {
    /// Those of a CPU with this ID_AA64MMFR0_EL1.
    pub const fn of(mmfr0: u64) -> Self {
        Self(mmfr0)
    }

    /// Whether a kernel with these header flags finds its pages.
    fn suit(self, flags: u64) -> Result<(), BadKernel> {
        let field = |position: u32| self.0 >> position & 0xf;
        let (kib, has) = match (flags & PAGE_SIZE) >> 1 {
            // TGran4 and TGran64: all ones is none; TGran16: 0 is none.
            1 => (4, field(28) != 0xf),
            2 => (16, field(20) != 0),
            3 => (64, field(24) != 0xf),
            // Kernels before 4.6 do not say.
            _ => return Ok(()),
        };
        if has { Ok(()) } else { Err(BadKernel::Pages(kib)) }
    }
}

/// Offsets into guest RAM of what is loaded there. The tree is at 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// The kernel's first byte, and its entry point.
    pub kernel: u64,
    /// The ramdisk's first byte: behind the kernel and all the memory that
    /// the kernel uses before it reads any tree.
    pub initrd: u64,
    /// Behind everything, a multiple of a page.
    pub end: u64,
}

/// Why a file is not started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadKernel {
    /// No arm64 Image: compressed, or something else.
    NotAnImage,
    /// Big-endian, or of a size that makes no sense.
    Unsuitable,
    /// It is built for pages of so many KiB, which this CPU has not.
    Pages(u64),
    /// It and the ramdisk need so many MiB of RAM.
    NoRoom(u64),
}

impl fmt::Display for BadKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadKernel::NotAnImage => f.write_str(
                "the kernel is no arm64 Image (a compressed one must be unpacked first)",
            ),
            BadKernel::Unsuitable => {
                f.write_str("the kernel is big-endian, older than 3.17, or claims too much memory")
            }
            BadKernel::Pages(kib) => write!(
                f,
                "the kernel is built for pages of {kib} KiB, which this CPU has not \
                 (ID_AA64MMFR0_EL1): use another kernel, or a CPU that has them"
            ),
            BadKernel::NoRoom(mib) => {
                write!(f, "kernel and ramdisk need {mib} MiB of memory: use memory={mib} or more")
            }
        }
    }
}

/// Finds the places for `kernel` and `initrd` bytes of ramdisk in `ram` bytes
/// of guest RAM, for a CPU with these granules.
///
/// # Errors
/// [`BadKernel`].
pub fn place(kernel: &[u8], initrd: u64, ram: u64, granules: Granules) -> Result<Load, BadKernel> {
    let header = kernel.get(..HEADER).ok_or(BadKernel::NotAnImage)?;
    let word = |offset: usize| {
        let bytes = header.get(offset..offset + 8).unwrap_or_default();
        bytes.iter().rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte))
    };
    if word(56) as u32 != MAGIC {
        return Err(BadKernel::NotAnImage);
    }
    let (text_offset, image_size, flags) = (word(8), word(16), word(24));
    // An image size of 0 is that of kernels before 3.17.
    let endless = text_offset >= ALIGNMENT || image_size == 0 || image_size >= layout::PCI_MEM64;
    if flags & BIG_ENDIAN != 0 || endless {
        return Err(BadKernel::Unsuitable);
    }
    granules.suit(flags)?;
    let start = TREE_ROOM + text_offset;
    let kernel_end = start + image_size.max(kernel.len() as u64);
    let initrd_at = kernel_end.next_multiple_of(ALIGNMENT);
    let end = (initrd_at + initrd).next_multiple_of(PAGE);
    // What is loaded must leave the kernel memory to work with.
    let needed = (end + end / 2).next_multiple_of(ALIGNMENT);
    if needed > ram {
        return Err(BadKernel::NoRoom(needed >> 20));
    }
    Ok(Load { kernel: start, initrd: initrd_at, end })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    /// A Cortex-A72's: all but 16 KiB. A Cortex-A53's: 4 and 64. An Apple M1's
    /// has no 64 KiB.
    const A72: Granules = Granules::of(0x0000_1124);
    const ALL: Granules = Granules::of(0x0010_1122);
    const NO_64K: Granules = Granules::of(0x0f10_0003);
    const NO_4K: Granules = Granules::of(0xf010_0000);

    fn image(text_offset: u64, size: u64, flags: u64) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        bytes[8..16].copy_from_slice(&text_offset.to_le_bytes());
        bytes[16..24].copy_from_slice(&size.to_le_bytes());
        bytes[24..32].copy_from_slice(&flags.to_le_bytes());
        bytes[56..60].copy_from_slice(b"ARM\x64");
        bytes
    }

    #[test]
    fn the_ramdisk_is_behind_all_memory_the_kernel_claims() {
        let load = place(&image(0, 40 << 20, 0xa), 3 << 20, 256 << 20, A72).unwrap();
        assert_eq!(load, Load { kernel: 2 << 20, initrd: 42 << 20, end: 45 << 20 });
        let old = place(&image(0x8_0000, 40 << 20, 0xa), 1, 256 << 20, A72).unwrap();
        assert_eq!((old.kernel, old.initrd), (0x28_0000, 44 << 20));
        assert_eq!(old.end, (44 << 20) + 4096);
    }

    #[test]
    fn what_is_no_kernel_for_this_machine_is_refused_by_name() {
        let ram = 256 << 20;
        assert_eq!(place(&[0x1f, 0x8b], 0, ram, A72), Err(BadKernel::NotAnImage));
        assert_eq!(place(&[0; 4096], 0, ram, A72), Err(BadKernel::NotAnImage));
        for (offset, size, flags) in
            [(0, 1 << 20, 1), (0, 1 << 20, 3), (0, 0, 2), (0, u64::MAX, 2), (1 << 40, 1, 2)]
        {
            let refused = place(&image(offset, size, flags), 0, ram, A72);
            assert_eq!(refused, Err(BadKernel::Unsuitable), "{offset:#x} {size:#x} {flags}");
        }
    }

    /// The page size in the header (0 to 3: not said, 4, 16, 64 KiB) against
    /// the CPU's.
    #[test]
    fn the_cpu_decides_which_pages_a_kernel_may_have() {
        let ram = 256 << 20;
        for (granules, missing) in
            [(A72, Some(16)), (ALL, None), (NO_64K, Some(64)), (NO_4K, Some(4))]
        {
            for (size, kib) in [(0, 0), (1, 4), (2, 16), (3, 64)] {
                // 2 MiB aligned or anywhere (bit 3): that does not matter.
                for flags in [size << 1, size << 1 | 8] {
                    let placed = place(&image(0, 1 << 20, flags), 0, ram, granules);
                    match Some(kib) == missing {
                        true => assert_eq!(placed, Err(BadKernel::Pages(kib)), "{granules:x?}"),
                        false => assert!(placed.is_ok(), "{kib} KiB on {granules:x?}"),
                    }
                }
            }
        }
    }

    #[test]
    fn too_little_memory_is_refused_with_what_would_do() {
        let kernel = image(0, 40 << 20, 0xa);
        let Err(BadKernel::NoRoom(mib)) = place(&kernel, 30 << 20, 64 << 20, A72) else { panic!() };
        assert!(place(&kernel, 30 << 20, mib << 20, A72).is_ok());
        assert!(place(&kernel, 30 << 20, (mib - 2) << 20, A72).is_err());
    }
}
