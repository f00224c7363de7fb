//! What every transition promises, and what it refuses.

mod boot;
mod bounce;
mod caches;
mod dma;
mod donate;
mod reclaim;
mod share;
mod views;
mod window;

use super::*;
use crate::sim::walk::memory::{BAR, RAM, SECRET, gfn, gfns, nth, pfns};
use crate::sim::{Fixture, SimMachine, check};
use std::vec::Vec;

/// What the host leaves in its own.
const HOST_DATA: u64 = 0x0057_da7a_0057_da7a;

/// The call is refused with `error`, and nothing at all has changed: no word,
/// no frame, no pool, no counter.
#[track_caller]
fn refused(
    fixture: &mut Fixture,
    error: Error,
    call: impl FnOnce(&SimMachine, &mut HostMemory<'static>) -> Result<u64, Error>,
) {
    let entries = |fixture: &Fixture| fixture.memory.entries().collect::<Vec<_>>();
    let before = (entries(fixture), *fixture.memory.counts(), fixture.memory.pool_len());
    let effects = fixture.machine.effects();
    assert_eq!(call(&fixture.machine, &mut fixture.memory), Err(error));
    assert_eq!(fixture.machine.effects(), effects, "a refused call wrote something");
    let after = (entries(fixture), *fixture.memory.counts(), fixture.memory.pool_len());
    assert_eq!(before, after);
    fixture.machine.settle();
}

/// The call succeeds for `count` frames, breaks no rule on the way, and the
/// tables are again what the frame table says.
#[track_caller]
fn done(
    fixture: &mut Fixture,
    count: u64,
    call: impl FnOnce(&SimMachine, &mut HostMemory<'static>) -> Result<u64, Error>,
) {
    assert_eq!(call(&fixture.machine, &mut fixture.memory), Ok(count));
    fixture.machine.settle();
}

/// A hostile machine with one guest that has `count` frames at the start of
/// its RAM, each holding a secret.
fn with_guest(count: u64) -> (Fixture, GuestMemory, PfnRange) {
    let mut fixture = Fixture::new(16);
    fixture.machine.set_hostile(true);
    let guest = fixture.guest(0, 1024);
    let (guest, frames) = donate(&mut fixture, guest, RAM, count);
    check(&fixture.machine, &fixture.memory, &[&guest]);
    (fixture, guest, frames)
}

/// Donates fresh frames at `at` and lets the guest put its secret there.
fn donate(
    fixture: &mut Fixture,
    mut guest: GuestMemory,
    at: u64,
    count: u64,
) -> (GuestMemory, PfnRange) {
    let frames = fixture.host_frames(count);
    done(fixture, count, |m, memory| {
        memory.host_donate_guest(m, &mut guest, frames, gfn(at), Contents::Zeroed)
    });
    frames.iter().for_each(|pfn| fixture.machine.plant(pfn, SECRET));
    (guest, frames)
}

/// Can the host reach the frame, by tables or by any TLB?
fn host_reaches(fixture: &Fixture, pfn: Pfn) -> bool {
    !fixture.machine.access(crate::machine::Vmid::HOST, pfn.identity()).is_empty()
}
