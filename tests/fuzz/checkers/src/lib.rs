//! What the fuzz targets check, as ordinary functions of bytes.
//!
//! Each function turns bytes into a sequence of calls, accesses or inputs,
//! lets bouncer answer, and panics if an answer breaks a rule. libFuzzer calls
//! them with bytes that coverage has bred (`tests/fuzz/fuzz_targets`); the
//! native tests of this crate call them with the committed seeds and with
//! random bytes. With the environment variable `BOUNCER_FUZZ_LIST` set they
//! print what they do, one line per step.

// A checker stops where something is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod boot_input;
mod steps;
mod sysreg_exit;
mod virtqueue;

use hyp::sim::walk::{self, Choices};
pub use model::heap::FailingHeap;
use model::sequence::{self, Sequence};
use std::sync::OnceLock;

/// A checker by the name of its target.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 9] = [
    ("boot_input", boot_input),
    ("hypercalls", hypercalls),
    ("iotable", iotable),
    ("ownership", ownership),
    ("stage2", stage2),
    ("sysreg_exit", sysreg_exit),
    ("vgic", vgic),
    ("virtio_pci", virtio_pci),
    ("virtqueue", virtqueue),
];

/// Is somebody reading along?
fn listing() -> bool {
    static LISTING: OnceLock<bool> = OnceLock::new();
    *LISTING.get_or_init(|| std::env::var_os("BOUNCER_FUZZ_LIST").is_some())
}

fn choices(data: &[u8]) -> Choices<'_> {
    Choices::bytes(data).listed(listing())
}

/// Events of host, guests and devices against the model of all rules.
pub fn hypercalls(data: &[u8]) {
    let events = Sequence::from_bytes(data).events;
    match sequence::run(&events) {
        Ok(_) if listing() => events.iter().for_each(|event| println!("  {event:x?}")),
        Ok(stats) => steps::count(stats.traps + stats.guest_traps),
        Err(failure) => panic!("{failure}"),
    }
}

/// I/O tables and the calls about them against a reading of their page.
pub fn iotable(data: &[u8]) {
    walk::iotable::run(choices(data));
}

/// Transitions of the ownership engine against a plain map.
pub fn ownership(data: &[u8]) {
    walk::memory::run(choices(data));
}

/// The table code alone, against arrays of pages.
pub fn stage2(data: &[u8]) {
    walk::stage2::run(choices(data));
}

/// The interrupt controller against a plain GICv3.
pub fn vgic(data: &[u8]) {
    walk::vgic::run(choices(data));
}

/// The PCI and virtio transport against the promises of virtio 1.4.
pub fn virtio_pci(data: &[u8]) {
    walk::virtio::run(choices(data));
}

/// The host's backend against hostile rings and against rust-vmm's queue.
pub fn virtqueue(data: &[u8]) {
    virtqueue::run(|| choices(data));
}

/// Every syndrome, of host and guest, against the architecture's rules of
/// what an exception may change.
pub fn sysreg_exit(data: &[u8]) {
    sysreg_exit::run(choices(data));
}

/// Device trees and boot modules, from bytes to the host's tree.
pub fn boot_input(data: &[u8]) {
    boot_input::run(choices(data));
}
