//! The oracle's rules on the simulated machine, which can also be asked what
//! EL2 itself has mapped.

use super::SimMachine;
use crate::memory::{GuestMemory, HostMemory, Owner};
use crate::oracle::{Full, Violation};

/// Compares the tables of the host and of all guests with the frame table,
/// and the counters with both ([`crate::oracle`]).
///
/// # Panics
/// If they differ. `guests` must name every guest that owns or borrows.
#[track_caller]
#[allow(clippy::panic)]
pub fn check(machine: &SimMachine, memory: &HostMemory<'_>, guests: &[&GuestMemory]) {
    if let Err(violation) = try_check(machine, memory, guests) {
        panic!("{violation}");
    }
    for (pfn, entry) in memory.entries() {
        let hyp = entry.owner() == Owner::Hyp;
        assert_eq!(hyp, machine.is_hyp_mapped(pfn), "EL2's own mapping of {pfn:x?}");
    }
}

/// The rules alone, without EL2's own mappings.
///
/// # Errors
/// The first violation.
pub fn try_check(
    machine: &SimMachine,
    memory: &HostMemory<'_>,
    guests: &[&GuestMemory],
) -> Result<(), Violation> {
    let full = Full::begin(machine, memory)?;
    guests.iter().try_for_each(|guest| full.guest(machine, memory, guest))
}
