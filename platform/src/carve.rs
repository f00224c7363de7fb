//! Room for bouncer's own memory.

use crate::boot_info::{BootError, BootInfo};
use crate::image;
use crate::range::ByteRange;
use crate::reserved::refuse_overlap;
use arrayvec::ArrayVec;

/// A thing in RAM that must stay where it is, and its name for messages.
pub type Placed = (ByteRange, &'static str);

/// Most placed things: bouncer, the tree, kernel, ramdisk.
pub type Placement = ArrayVec<Placed, 4>;

/// The things in RAM, checked: all in RAM, all apart, none in memory that is
/// left to `firmware`.
///
/// `kernel_size` is the memory the kernel's header asks for.
///
/// # Errors
/// [`BootError::OutsideRam`], [`BootError::Overlap`] or
/// [`BootError::MisalignedKernel`].
pub fn place(
    info: &BootInfo,
    bouncer: ByteRange,
    tree: ByteRange,
    kernel_size: u64,
    firmware: &[ByteRange],
) -> Result<Placement, BootError> {
    let kernel = info.kernel.range;
    if !kernel.start().is_multiple_of(image::ALIGNMENT) {
        return Err(BootError::MisalignedKernel(kernel.start()));
    }
    let kernel = ByteRange::new(kernel.start(), kernel.size().max(kernel_size))
        .ok_or(BootError::OutsideRam("the host kernel"))?;
    let mut placed = Placement::new();
    placed.extend([
        (bouncer, "bouncer's image"),
        (tree, "the device tree"),
        (kernel, "the host kernel"),
    ]);
    placed.extend(info.ramdisk.iter().map(|ramdisk| (ramdisk.range, "the ramdisk")));
    for (index, &(range, name)) in placed.iter().enumerate() {
        if !info.memory.iter().any(|bank| bank.contains(range)) {
            return Err(BootError::OutsideRam(name));
        }
        refuse_overlap(firmware, range, name)?;
        for &(other, other_name) in placed.iter().skip(index + 1) {
            if range.overlaps(other) {
                return Err(BootError::Overlap(name, other_name));
            }
        }
    }
    Ok(placed)
}

/// The highest free piece of RAM below `limit`, `size` bytes long and a
/// multiple of `align` (a power of two), apart from what is placed and what is
/// left to `firmware`. High, so that the host keeps one long piece below it.
///
/// # Errors
/// [`BootError::TooLittleMemory`].
pub fn carve(
    info: &BootInfo,
    placed: &[Placed],
    firmware: &[ByteRange],
    size: u64,
    align: u64,
    limit: u64,
) -> Result<ByteRange, BootError> {
    let occupied = || placed.iter().map(|&(range, _)| range).chain(firmware.iter().copied());
    for bank in info.memory.iter().rev() {
        let mut end = bank.end().min(limit);
        // Each step goes below one occupied range, so the loop ends.
        while let Some(start) = end.checked_sub(size).map(|start| start & !(align - 1)) {
            let candidate = ByteRange::between(start, start + size);
            if !bank.contains(candidate) {
                break;
            }
            match occupied().find(|range| range.overlaps(candidate)) {
                Some(range) => end = range.start(),
                None => return Ok(candidate),
            }
        }
    }
    Err(BootError::TooLittleMemory(size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_trees;

    const BOUNCER: ByteRange = ByteRange::between(0x4020_0000, 0x4026_0000);
    const TREE: ByteRange = ByteRange::between(0x4700_0000, 0x4710_0000);
    const MIB: u64 = 0x10_0000;

    fn info() -> BootInfo {
        test_trees::read(&test_trees::virt().build()).unwrap()
    }

    #[test]
    fn the_highest_gap_between_placed_things_is_taken() {
        let info = info();
        let placed = place(&info, BOUNCER, TREE, 0, &[]).unwrap();
        let top = carve(&info, &placed, &[], 4 * MIB, 2 * MIB, u64::MAX).unwrap();
        assert_eq!(top, ByteRange::between(0x8000_0000 - 4 * MIB, 0x8000_0000));
        let firmware = [ByteRange::between(0x7000_0000, 0x7fff_0000)];
        let below = carve(&info, &placed, &firmware, 4 * MIB, 2 * MIB, u64::MAX).unwrap();
        assert_eq!(below.end(), 0x7000_0000);
    }

    #[test]
    fn memory_that_is_full_or_small_is_refused_with_the_size_needed() {
        let info = info();
        let placed = place(&info, BOUNCER, TREE, 0, &[]).unwrap();
        let all = info.memory[0];
        assert_eq!(
            carve(&info, &placed, &[], 2 * all.size(), 4096, u64::MAX),
            Err(BootError::TooLittleMemory(2 * all.size()))
        );
        assert_eq!(
            carve(&info, &placed, &[all], 4096, 4096, u64::MAX),
            Err(BootError::TooLittleMemory(4096))
        );
    }

    #[test]
    fn modules_that_overlap_or_lie_outside_ram_are_named() {
        let info = info();
        let ramdisk = info.ramdisk.as_ref().unwrap().range;
        assert_eq!(
            place(&info, BOUNCER, TREE, ramdisk.end() - info.kernel.range.start(), &[]),
            Err(BootError::Overlap("the host kernel", "the ramdisk"))
        );
        assert_eq!(
            place(&info, BOUNCER, TREE, u64::MAX, &[]),
            Err(BootError::OutsideRam("the host kernel"))
        );
        let beyond = ByteRange::between(0x8000_0000, 0x8000_1000);
        assert_eq!(
            place(&info, BOUNCER, beyond, 0, &[]),
            Err(BootError::OutsideRam("the device tree"))
        );
    }
}
