//! What the host finds when it comes up: its ramdisk, and the memory that is
//! not its own.

use alloc::vec::Vec;

use rt::cpio;

use crate::payload::attacks;
use crate::payload::machine::Machine;

/// The guest's image, and the disk behind it.
pub(super) fn split_ramdisk(
    ramdisk: &'static mut [u8],
) -> Option<(&'static [u8], Option<&'static mut [u8]>)> {
    let start = ramdisk.as_ptr() as usize;
    let place =
        |name| cpio::find(ramdisk, name).map(|data| (data.as_ptr() as usize - start, data.len()));
    let (image_at, image_length) = place("guest.img")?;
    let Some((disk_at, disk_length)) = place("disk.img") else {
        let image: &'static [u8] = ramdisk;
        return Some((image.get(image_at..image_at + image_length)?, None));
    };
    // Two parts of one archive: whichever comes second begins the tail.
    if image_at < disk_at {
        let (head, tail) = ramdisk.split_at_mut_checked(disk_at)?;
        let head: &'static [u8] = head;
        Some((head.get(image_at..image_at + image_length)?, tail.get_mut(..disk_length)))
    } else {
        let (head, tail) = ramdisk.split_at_mut_checked(image_at)?;
        let tail: &'static [u8] = tail;
        Some((tail.get(..image_length)?, head.get_mut(disk_at..disk_at + disk_length)))
    }
}

/// First and last frame of each gap in the host's RAM, and the frames around
/// its end: what is RAM and not the host's is bouncer's or firmware's.
pub(super) fn bouncer_frames(machine: &Machine) -> Vec<u64> {
    let mut banks: Vec<_> = machine.ram.iter().collect();
    banks.sort_by_key(|bank| bank.start);
    let mut frames = Vec::new();
    for pair in banks.windows(2) {
        if let [low, high] = pair
            && low.end < high.start
        {
            frames.extend([low.end as u64 >> 12, (high.start as u64 >> 12) - 1]);
        }
    }
    if let (Some(first), Some(last)) = (banks.first(), banks.last()) {
        frames.extend([(first.start as u64 >> 12) - 1, last.end as u64 >> 12]);
    }
    frames.dedup();
    frames.retain(|pfn| is_bouncers(*pfn));
    frames
}

/// Asks the event log whose a frame is.
fn is_bouncers(pfn: u64) -> bool {
    attacks::drain_events();
    let refused = rt::attempt::try_read_u64(pfn << 12).is_err();
    refused && attacks::drain_events().iter().any(|event| event.owner == 1)
}
