//! The oracle: page tables are derived from the frame table, so derive them
//! again and compare.
//!
//! One text of the rules, used twice. The tests, the fuzzer and the model
//! checker call it through [`crate::sim::check`] on the simulated machine. A
//! bouncer built with the feature `oracle` calls it on the machine it runs on,
//! at the end of every trap of the host (module `watch`). It only ever reads, and
//! what it finds wrong is bouncer's own mistake: the caller panics.
//!
//! It shares as little as possible with what it judges: descriptors are
//! decoded here from the architecture, not by [`crate::stage2`], and what a
//! party may do with a frame is read off the frame table alone.
//!
//! | file | one idea |
//! |---|---|
//! | `rules` | what must hold, in words |
//! | `descriptor` | a word, as the architecture reads it |
//! | `entry` | which frame-table entries make sense; counting them |
//! | `host` | the host's tables against the frame table |
//! | `guest` | a guest's tables against the frame table |
//! | `dma` | the IOMMU's table against the frame table |
//! | `watch` | when a running bouncer checks what |

mod descriptor;
mod dma;
mod entry;
mod guest;
mod host;
mod rules;
#[cfg(feature = "oracle")]
pub mod watch;

#[cfg(test)]
mod tests;

pub use rules::{Rule, Violation};

use crate::addr::PfnRange;
use crate::machine::Machine;
use crate::memory::{GuestMemory, HostMemory};
use entry::Tally;

/// A full check under way: the host first ([`Full::begin`]), then each guest,
/// then the counters, which are right only if every guest was shown.
#[derive(Debug)]
pub struct Full(Tally);

impl Full {
    /// Checks every frame of RAM, every table of the host's and of its devices,
    /// and the counters.
    ///
    /// # Errors
    /// The first violation.
    pub fn begin(m: &impl Machine, memory: &HostMemory<'_>) -> Result<Self, Violation> {
        let mut tally = Tally::default();
        host::check(m, memory, &mut tally)?;
        tally.compare(memory.counts())?;
        dma::check(m, memory)?;
        Ok(Self(tally))
    }

    /// Checks one guest: its tables, and that what it owns and has mapped of
    /// what it borrows is there, all of it and each frame once.
    ///
    /// # Errors
    /// The first violation.
    pub fn guest(
        &self,
        m: &impl Machine,
        memory: &HostMemory<'_>,
        guest: &GuestMemory,
    ) -> Result<(), Violation> {
        let found = guest::check(m, memory, guest)?;
        if guest.is_dying() { Ok(()) } else { self.0.compare_guest(guest.id(), &found) }
    }
}

/// Checks one guest and, for each frame it maps, what the host has there.
/// Frames the guest owns but does not map are found by a [`Full`] check only.
///
/// # Errors
/// The first violation.
pub fn check_guest(
    m: &impl Machine,
    memory: &HostMemory<'_>,
    guest: &GuestMemory,
) -> Result<(), Violation> {
    let found = guest::check(m, memory, guest)?;
    let owned = memory.counts().owned(guest.party());
    if !guest.is_dying() && found.own.frames != owned {
        return Err(Violation::count(Rule::GuestHasItsFrames, found.own.frames, owned));
    }
    Ok(())
}

/// Checks what the host has at these frames and at their nearest neighbours.
///
/// # Errors
/// The first violation.
pub fn check_frames(
    m: &impl Machine,
    memory: &HostMemory<'_>,
    frames: PfnRange,
) -> Result<(), Violation> {
    host::check_around(m, memory, frames)?;
    dma::check_frames(m, memory, frames)
}
