//! DMA systems side by side: demonstrations of one, or a measured load on it.
//!
//! The host says which by `mode=`, and by `part=` what is to be done: `show`
//! makes the demonstrations, one line each, `measure` makes requests of every
//! size and depth. What only the host can know or do, the guest asks of it by
//! a doorbell: a register of its UART that no UART has. The host is asked in
//! order to be caught, and its answers prove nothing: xtask judges.

mod behind_table;
mod bell;
mod brought;
mod legacy;
mod measure;
mod pages;
mod shared;

use rt::println;

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
        "shared-pages" => shared::show(machine, &mut show),
        "legacy-no-platform" => legacy::show(machine, &mut show),
        "iommu-strict" | "iommu-lazy" | "iommu-kept" | "iommu-naive" => {
            behind_table::show(machine, &mut show)
        }
        _ => None,
    };
    if tried.is_none() {
        println!("guest: `{mode}` cannot be shown: no such mode, or no such device");
    }
    tried.is_some() && show.passed
}
