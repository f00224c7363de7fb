//! I/O tables and the hosts of them: a guest that makes wrong tables, and one
//! whose pages the host reaches for through a device's window.
//!
//! The two go in step by a page that the device sees: the guest says what is
//! mapped, `@guest tables step=N`, and goes on when the host has written N
//! there, through the window.

#![allow(unsafe_code)]

mod attacks;
mod second;
mod stage;

use super::hostile::Attacks;
use super::iommu_hal::{self, GuestDomain};
use super::pci::{self, Function};
use super::{Machine, interrupts, secrets, yes};
use core::ops::Range;
use guest::lending::PAGE;
use rt::println;
use virtio_drivers::transport::DeviceType;

/// Bytes of a page.
const BYTES: u64 = PAGE as u64;
/// Pages for one table: as many 2 MiB as are ever in use, and two.
const TABLES: usize = 32;
/// Longest wait for the host, in milliseconds.
const PATIENCE: u64 = 20_000;
/// Pages that are mapped when the guest is killed.
const MANY: u64 = 1000;

/// Spare pages, given out once.
pub(super) struct Spare(Range<usize>);

impl Spare {
    /// Pages of RAM that nothing uses.
    pub(super) fn new(pages: Range<usize>) -> Self {
        Self(pages)
    }

    /// So many in a row, each written once: the host gives them now.
    pub(super) fn take(&mut self, pages: usize) -> Option<usize> {
        let (start, end) = (self.0.start, self.0.start + pages * PAGE);
        if end > self.0.end {
            return None;
        }
        self.0.start = end;
        // SAFETY: spare RAM that is given out once.
        unsafe { core::ptr::write_bytes(start as *mut u8, 0, pages * PAGE) };
        Some(start)
    }
}

/// A word of a page that the device may be writing.
pub(super) fn load(at: u64) -> u64 {
    // SAFETY: a page of `Spare`; volatile, for the device may write it.
    unsafe { (at as *const u64).read_volatile() }
}

pub(super) fn store(at: u64, value: u64) {
    // SAFETY: as above.
    unsafe { (at as *mut u64).write_volatile(value) };
}

/// Writes `word` all over some pages.
pub(super) fn fill(page: u64, pages: u64, word: u64) {
    (page..page + pages * BYTES).step_by(8).for_each(|at| store(at, word));
}

/// Is it there still?
pub(super) fn is_full_of(page: u64, pages: u64, word: u64) -> bool {
    (page..page + pages * BYTES).step_by(8).all(|at| load(at) == word)
}

/// What EL2 calls a device.
pub(super) fn number(function: &Function) -> u64 {
    u64::from(function.at.device).wrapping_sub(1)
}

/// A table for a device, of spare pages.
pub(super) fn domain(spare: &mut Spare, device: u64) -> Option<GuestDomain> {
    let [first, pages, _] = super::pkvm::iotable_info(device)?;
    let tables = spare.take(TABLES)?;
    // SAFETY: pages of `Spare`.
    unsafe { iommu_hal::domain(device, tables..tables + TABLES * PAGE, (first, pages)) }
}

/// Waits until the host has written `step` where it may.
struct Mailbox(u64);

impl Mailbox {
    fn await_host(&self, step: u64) -> bool {
        interrupts::wait(PATIENCE, || load(self.0) == step)
    }
}

/// The scenario; it ends only if something went wrong, for the host kills this
/// guest in the end.
pub(super) fn play(machine: &Machine) -> bool {
    let Some((bus, functions)) = pci::enumerate(&machine.tree) else { return false };
    let find = |kind| functions.iter().find(|function: &&Function| function.kind == kind);
    let (Some(disk), Some(console)) = (find(DeviceType::Block), find(DeviceType::Console)) else {
        println!("guest: a disk and a console are needed");
        return false;
    };
    let mut spare = Spare::new(machine.spare.clone());
    let mut attacks = Attacks::new();
    if attacks::all(machine, console, &mut spare, &mut attacks).is_none() {
        println!("guest: no memory for the attacks on tables");
        return false;
    }
    println!("@guest tables refused={}", yes(attacks.all_refused));
    if !attacks.all_refused {
        return false;
    }
    match stage::play(machine, &bus, disk, &mut spare, &mut attacks) {
        Some(true) => secrets::hold_for_ever(true),
        result => {
            println!("guest: the host did not answer, or a page changed: {result:?}");
            false
        }
    }
}
