//! What guests' random numbers start from: everything the machine has.

use crate::{features, firmware, sysreg};
use arrayvec::ArrayVec;
use hyp::entropy::{Entropy, Given, SIZE, Source, from_cpu, from_firmware, is_loaders_alone};
use log::{debug, warn};
use platform::BootInfo;

/// EL2's generator and the seed for the host. Says so if it depends on what
/// the boot loader knows; `None` if nobody gives anything.
pub(crate) fn gather(info: &BootInfo) -> Option<(Entropy, [u8; SIZE])> {
    let firmware = from_firmware(firmware::call_for_all);
    let cpu = features::has_random_numbers().then(|| from_cpu(sysreg::rndr)).flatten();
    let mut given: ArrayVec<Given<'_>, 3> = ArrayVec::new();
    if let Some(seed) = &info.seed {
        given.push((Source::Loader, &seed.bytes));
    }
    if let Some(bytes) = &firmware {
        given.push((Source::Firmware, bytes));
    }
    if let Some(bytes) = &cpu {
        given.push((Source::Cpu, bytes));
    }
    for (source, bytes) in &given {
        debug!("{} random bytes from {source:?}", bytes.len());
    }
    let mixed = Entropy::mix(&given);
    match mixed {
        None => warn!("nobody gives random numbers: guests get none"),
        Some(_) if is_loaders_alone(&given) => warn!(
            "guests' random numbers depend on the boot loader's rng-seed alone: neither this CPU \
             nor its firmware gives any"
        ),
        Some(_) => {}
    }
    mixed
}
