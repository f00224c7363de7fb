//! DMA systems side by side: demonstrations of one, or a measured load on it.
//!
//! The host says which by `mode=`, and by `part=` what is to be done: `show`
//! makes the demonstrations, one line each, `measure` makes requests of every
//! size and depth. What only the host can know or do, the guest asks of it by
//! a doorbell: a register of its UART that no UART has. The host is asked in
//! order to be caught, and its answers prove nothing: xtask judges.

#![allow(unsafe_code)]

mod behind_table;
mod bell;
mod brought;
mod hosts;
mod legacy;
mod lent;
mod load;
mod measure;
mod pages;
mod process;
mod shared;

use core::ptr::NonNull;

use rt::println;
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

use super::Machine;

/// How a demonstration ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// What must work has worked.
    Shown,
    /// What must not work was refused, and nothing was seen or changed.
    Refused,
    /// Neither.
    Failed,
}

impl Outcome {
    /// [`Self::Shown`] if it worked.
    pub(crate) fn shown(worked: bool) -> Self {
        if worked { Self::Shown } else { Self::Failed }
    }

    /// [`Self::Refused`] if it was refused.
    pub(crate) fn refused(refused: bool) -> Self {
        if refused { Self::Refused } else { Self::Failed }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Shown => "shown",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// The demonstrations of one mode.
pub(crate) struct Show {
    mode: &'static str,
    passed: bool,
}

impl Show {
    /// Tells of one demonstration: the row of `xtask/src/dma/modes.rs` that it
    /// is, how it ended, and what was seen.
    pub(crate) fn tell(&mut self, row: &str, outcome: Outcome, seen: &str) {
        println!(
            "@guest dma mode={} id={row} outcome={} detail=\"{seen}\"",
            self.mode,
            outcome.word()
        );
        self.passed &= outcome != Outcome::Failed;
    }
}

/// The scenario of that name; true if all went as it should.
pub(super) fn play(machine: &Machine) -> bool {
    let mode = machine.argument("mode").unwrap_or_default();
    if machine.argument("part") == Some("measure") {
        return measure::all(machine, mode);
    }
    let mut show = Show { mode, passed: true };
    let tried = match mode {
        "bounce-bar" | "device-memory" => brought::show(machine, &mut show),
        "shared-pool" | "shared-each" => lent::show(machine, &mut show),
        "shared-pages" => shared::show(machine, &mut show),
        "legacy-no-platform" => legacy::show(machine, &mut show),
        "iommu-strict" | "iommu-lazy" | "iommu-kept" | "iommu-naive" => {
            behind_table::show(machine, &mut show)
        }
        "host-bypass" => hosts::show(machine, &mut show, hosts::Kind::Bypass),
        "host-platform" => hosts::show(machine, &mut show, hosts::Kind::Platform),
        "host-choice" => hosts::show(machine, &mut show, hosts::Kind::Choice),
        _ => None,
    };
    if tried.is_none() {
        println!("guest: `{mode}` cannot be shown: no such mode, or no such device");
    }
    tried.is_some() && show.passed
}

/// A host that writes to a buffer's memory while it is mapped, by `rewrite`,
/// which is told the device's address: what the device reads is a copy, and
/// what it writes arrives when the driver unmaps, at once.
fn still<H: Hal>(show: &mut Show, rewrite: impl Fn(PhysAddr)) {
    const OWN: [u8; 64] = [0x21; 64];
    let mut after = [OWN; 2];
    let mut mapped = [false; 2];
    let ways = [BufferDirection::DriverToDevice, BufferDirection::DeviceToDriver];
    for ((buffer, mapped), way) in after.iter_mut().zip(&mut mapped).zip(ways) {
        let pointer = NonNull::from(&mut buffer[..]);
        // SAFETY: the buffer outlives the transfer, and meanwhile it is only
        // looked at.
        let address = unsafe { H::share(pointer, way) };
        rewrite(address);
        *mapped = *buffer == OWN;
        // SAFETY: the buffer that was mapped.
        unsafe { H::unshare(address, NonNull::from(&mut buffer[..]), way) };
    }
    let [sent, received] = after;
    // Eight bytes are the host's, the rest what a fresh slot holds.
    let arrived =
        received.starts_with(&bell::WRITTEN.to_le_bytes()) && received.ends_with(&[0; 56]);
    let held = mapped == [true; 2] && sent == OWN && arrived;
    let seen = "the host writes while it is mapped: the buffer changes at unmap, \
                and only one that the device writes";
    show.tell("0.15", Outcome::shown(held), seen);
}
