//! What EL2 reads and writes of the host's memory before the host runs: the
//! kernel's header and the device tree. Early map only.
#![allow(unsafe_code)]

use crate::{entry, sysreg};
use core::arch::asm;
use hyp::addr::ADDRESS_BITS;
use platform::parse::{TREE_HEADER_SIZE, tree_size};
use platform::{BootError, BootInfo, Seed, image};

/// Devices end and RAM may begin here.
const RAM_START: u64 = 1 << 30;

/// The device tree at `address`, as long as its header says.
///
/// # Errors
/// [`BootError::NoTree`].
pub(crate) fn tree(address: u64) -> Result<&'static [u8], BootError> {
    let plausible = (RAM_START..(1 << ADDRESS_BITS) - (1 << 30)).contains(&address);
    if !plausible || !address.is_multiple_of(8) {
        return Err(BootError::NoTree);
    }
    // SAFETY: entry.S has mapped the 2 MiB from here on as memory. That it is
    // RAM is the boot protocol's promise; the tree will say so below, and a
    // tree that is not there has no magic number.
    let header = unsafe { (address as *const [u8; TREE_HEADER_SIZE]).read() };
    let size = tree_size(header)? as usize;
    // SAFETY: as above; `tree_size` allows no more than 2 MiB. Nobody writes
    // it before `replace_tree`, after which nobody reads it.
    Ok(unsafe { core::slice::from_raw_parts(address as *const u8, size) })
}

/// The first bytes of the host's kernel; zeros beyond its end.
///
/// # Errors
/// [`BootError::OutsideRam`] if the loader has put it where no RAM is.
pub(crate) fn image_header(info: &BootInfo) -> Result<[u8; image::HEADER_SIZE], BootError> {
    let kernel = info.kernel.range;
    if !info.memory.iter().any(|bank| bank.contains(kernel)) {
        return Err(BootError::OutsideRam("the host kernel"));
    }
    entry::map_early(kernel.start());
    entry::map_early(kernel.end() - 1);
    let mut header = [0; image::HEADER_SIZE];
    let length = header.len().min(kernel.size() as usize);
    // SAFETY: RAM, mapped above as far as it is read; the loader has filled it.
    let bytes = unsafe { core::slice::from_raw_parts(kernel.start() as *const u8, length) };
    header.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    Ok(header)
}

/// Puts the host's tree where the firmware's, `old_size` bytes, was.
///
/// # Errors
/// [`BootError::HostTreeTooLong`].
pub(crate) fn replace_tree(
    address: u64,
    old_size: usize,
    tree: &[u8],
    seed: Option<&Seed>,
) -> Result<(), BootError> {
    if tree.len() > old_size {
        return Err(BootError::HostTreeTooLong);
    }
    // SAFETY: `tree` (the function) found `old_size` bytes mapped here; the
    // new tree is on the heap, so they do not overlap.
    unsafe { core::ptr::copy_nonoverlapping(tree.as_ptr(), address as *mut u8, tree.len()) }
    clean(address, tree.len());
    // What the new tree does not cover of the firmware's random bytes.
    let hidden = seed.map_or(0..0, |seed| seed.place.start.max(tree.len())..seed.place.end);
    if !hidden.is_empty() {
        let start = address + hidden.start as u64;
        // SAFETY: inside the old tree, behind the new one.
        unsafe { core::ptr::write_bytes(start as *mut u8, 0, hidden.len()) }
        clean(start, hidden.len());
    }
    Ok(())
}

/// Cleans `size` bytes to memory, for a reader whose MMU is off.
pub(crate) fn clean(address: u64, size: usize) {
    let line = sysreg::data_cache_line();
    let mut at = address & !(line - 1);
    while at < address + size as u64 {
        // SAFETY: mapped memory; cleaning changes no contents.
        unsafe { asm!("dc cvac, {}", in(reg) at, options(nostack, preserves_flags)) }
        at += line;
    }
    sysreg::dsb_sy();
}
