//! How much memory a guest needs, before it is booted and panics for want of it.

use anyhow::{Result, bail};

use super::options::Abi;

/// MiB that the Debian guest needs beside its bounce buffers, measured: its
/// kernel, its ramdisk, and something to work with.
const DEBIAN: u64 = REALM - SWIOTLB;
/// The same of a realm with the usual bounce buffers.
const REALM: u64 = 144;
/// The same with `--abi none`, which has no bounce buffers.
const PLAIN: u64 = DEBIAN;
/// The same of the small kernel that knows pKVM.
const PKVM: u64 = 64;
/// MiB of bounce buffers (swiotlb) that Linux takes in a realm if its command
/// line says nothing: 32,768 slabs of 2 KiB.
const SWIOTLB: u64 = 64;
/// Below so many MiB the Debian guest does without a contiguous area for DMA
/// (CMA), of which its kernel takes 64 MiB and has no use for in here.
const NEEDS_ALL: u64 = 256;

/// MiB of bounce buffers that a realm with this command line takes.
fn swiotlb(command_line: &str) -> u64 {
    let words = command_line.split_whitespace();
    let Some(value) = words.filter_map(|word| word.strip_prefix("swiotlb=")).next_back() else {
        return SWIOTLB;
    };
    match value.split(',').next().unwrap_or_default() {
        "noforce" => 0,
        slabs => slabs.parse::<u64>().map_or(SWIOTLB, |slabs| slabs.div_ceil(512)),
    }
}

/// Refuses a Debian guest that would panic: memory in MiB; `words` are what is
/// added to its command line.
///
/// # Errors
/// The complaint, with what would do.
pub fn check_debian(abi: Abi, memory: u64, words: &str) -> Result<(), String> {
    if abi != Abi::Rsi {
        let least = if abi == Abi::Pkvm { PKVM } else { PLAIN };
        let complaint =
            || format!("--guest-memory: a Debian guest like this needs {least}M or more");
        return if memory < least { Err(complaint()) } else { Ok(()) };
    }
    let bounce = swiotlb(words);
    let least = DEBIAN + bounce;
    if memory >= least {
        return Ok(());
    }
    Err(format!(
        "--guest-memory: a Debian realm needs at least {least}M, for {bounce}M are its bounce \
         buffers (swiotlb); fewer of them: --append swiotlb=8192 (16M)"
    ))
}

/// What a small Debian guest's kernel is told besides.
#[must_use]
pub fn words(memory: u64) -> Option<&'static str> {
    (memory < NEEDS_ALL).then_some("cma=0")
}

/// Refuses a user's kernel that does not fit, as the host would after its boot;
/// warns of bounce buffers that take half of the memory.
///
/// # Errors
/// With what would do.
pub fn check_own(
    abi: Abi,
    kernel: &[u8],
    initrd: u64,
    memory: u64,
    command_line: &str,
) -> Result<()> {
    const ALIGNMENT: u64 = 2 << 20;
    let word = |at: usize| {
        let bytes = kernel.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_le_bytes)
    };
    // text_offset and image_size (Linux, arm64/booting.rst).
    let size = word(16).max(kernel.len() as u64);
    let end = word(8).saturating_add(size).saturating_add(ALIGNMENT);
    let end = end.checked_next_multiple_of(ALIGNMENT).unwrap_or(end).saturating_add(initrd);
    // Half as much again to work with.
    let needed = end.saturating_add(end / 2).div_ceil(ALIGNMENT) * (ALIGNMENT >> 20);
    if memory < needed {
        bail!(
            "kernel and ramdisk need {needed} MiB of memory: use --guest-memory {needed}M or \
             more"
        );
    }
    let bounce = swiotlb(command_line);
    if abi == Abi::Rsi && memory < needed + bounce {
        anstream::eprintln!(
            "  a realm's kernel takes {bounce} MiB of bounce buffers (swiotlb), which hardly fit into \
             {memory} MiB: use --guest-memory {}M or --append swiotlb=8192 (16 MiB)",
            needed + bounce
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debian_realm_is_refused_if_its_bounce_buffers_do_not_fit() {
        let said = |memory, words| check_debian(Abi::Rsi, memory, words).err().unwrap_or_default();
        assert_eq!(said(REALM, ""), "");
        let complaint = said(REALM - 1, "");
        assert!(complaint.contains(&format!("at least {REALM}M, for 64M are")), "{complaint}");
        assert!(complaint.contains("swiotlb=8192"), "{complaint}");
        assert_eq!(said(REALM - 48, "quiet swiotlb=8192"), "");
        assert_ne!(said(REALM - 49, "swiotlb=8192,force"), "");
        assert_eq!(said(DEBIAN, "swiotlb=noforce"), "");
        for (abi, least) in [(Abi::Pkvm, PKVM), (Abi::None, PLAIN)] {
            assert!(check_debian(abi, least, "").is_ok());
            assert!(check_debian(abi, least - 1, "").is_err());
        }
        assert_eq!((words(255), words(256)), (Some("cma=0"), None));
    }

    #[test]
    fn a_users_kernel_needs_room_for_what_its_header_claims() {
        let mut kernel = vec![0; 4096];
        kernel[16..24].copy_from_slice(&(40_u64 << 20).to_le_bytes());
        let check = |memory, initrd| check_own(Abi::None, &kernel, initrd, memory, "");
        assert!(check(64, 0).is_ok() && check(256, 100 << 20).is_ok());
        let advice = format!("{:#}", check(64, 100 << 20).unwrap_err());
        assert!(advice.contains("--guest-memory 214M"), "{advice}");
        // A header that claims everything is no reason to panic.
        kernel[8..24].fill(0xff);
        assert!(check_own(Abi::Rsi, &kernel, u64::MAX, 64, "").is_err());
    }
}
