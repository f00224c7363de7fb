//! Private or shared: the guest says it page by page, and asks what holds.
//!
//! EMPTY is a page of RAM that is lent to the host, and so at its alias; RAM
//! one that is not, whether the host has donated it yet or not; DEV is all
//! that is not RAM, where a driver looks for its device and finds it or an
//! abort. A call does one step of bounded work and says how far it got.

use crate::abi::rsi::{self, ripas, status};
use crate::addr::{Gfn, GfnRange};
use crate::error::Error;
use crate::machine::Machine;
use crate::memory::HostMemory;
use crate::stats::VmCounter;
use crate::vm::Vm;

use super::{Answer, Stop, pages};
use crate::guest::Running;

/// What a call did to its range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// So many pages from the start were in the wanted state already.
    Were(u64),
    /// So many are now.
    Are(u64),
    /// Refused: a device of the host's uses the first page, or the range is
    /// not all RAM.
    Refused,
}

/// The bits of x3 that are the state; the rest is SBZ (DEN0137 B5.3.6.1.1).
const RIPAS: u64 = 0xff;

/// A step over a range.
type Change<M> = fn(&M, &mut HostMemory<'_>, &mut Vm, GfnRange) -> Result<Step, Stop>;

impl<M: Machine> Running<'_, M> {
    /// IPA_STATE_SET(base, top, state, flags) → first byte not done, accepted.
    /// The one flag there is, bit 0, is about pages that the host destroyed
    /// ([`rsi::CHANGE_DESTROYED`]): it changes nothing, as there are none.
    pub(super) fn ipa_state_set(
        &mut self,
        base: u64,
        top: u64,
        state: u64,
    ) -> Result<Answer, Stop> {
        let range = pages(base, top)?;
        let (change, counter): (Change<M>, _) = match state & RIPAS {
            ripas::EMPTY => (share, VmCounter::PagesShared),
            ripas::RAM => (unshare, VmCounter::PagesUnshared),
            _ => return Err(Stop::Input),
        };
        let machine = &self.hyp.machine;
        let step = self.hyp.with_memory_and_vm(self.handle, |memory, vm| {
            Ok(match vm.memory.is_ram(range) {
                true => change(machine, memory, vm, range),
                // The lower half is the guest's to ask about, all of it; that
                // it is what it is, is the host's refusal in the Host's place.
                false => Ok(Step::Refused),
            })
        })??;
        let (done, response) = match step {
            Step::Were(done) => (done, rsi::ACCEPT),
            Step::Are(done) => {
                self.stats.add(counter, done);
                (done, rsi::ACCEPT)
            }
            Step::Refused => (0, rsi::REJECT),
        };
        Ok([status::SUCCESS, end_of(range, done), response, 0])
    }

    /// IPA_STATE_GET(base, top) → end of the pages that are alike, their state.
    pub(super) fn ipa_state_get(&mut self, base: u64, top: u64) -> Result<Answer, Stop> {
        let range = pages(base, top)?;
        let machine = &self.hyp.machine;
        let (count, state) = self.hyp.with_vm(self.handle, |vm| Ok(alike(machine, vm, range)))?;
        Ok([status::SUCCESS, end_of(range, count), state, 0])
    }
}

fn end_of(range: GfnRange, done: u64) -> u64 {
    range.start().base() + done * crate::addr::FRAME_SIZE
}

/// Lends the first pages of the range that are private, or skips those that
/// are not.
fn share<M: Machine>(
    machine: &M,
    memory: &mut HostMemory<'_>,
    vm: &mut Vm,
    range: GfnRange,
) -> Result<Step, Stop> {
    let above = vm.memory.pages_at_alias(machine, range);
    if above > 0 {
        return Ok(Step::Were(above));
    }
    let below = vm.memory.pages_in_place(machine, range);
    if below == 0 {
        return Err(Stop::Needs(range.start()));
    }
    let result = memory.guest_share_host(machine, &mut vm.memory, range.truncate(below));
    vm.stats.add(VmCounter::SharedResidue, vm.memory.take_residue());
    step(result, range.start())
}

/// Takes back the first pages of the range if they are lent, or skips those
/// that are not, however many.
fn unshare<M: Machine>(
    machine: &M,
    memory: &mut HostMemory<'_>,
    vm: &mut Vm,
    range: GfnRange,
) -> Result<Step, Stop> {
    let private = private_pages(machine, vm, range);
    if private > 0 {
        return Ok(Step::Were(private));
    }
    let above = vm.memory.pages_at_alias(machine, range);
    let result = memory.guest_unshare_host(machine, &mut vm.memory, range.truncate(above));
    step(result, range.start())
}

fn step(result: Result<u64, Error>, first: Gfn) -> Result<Step, Stop> {
    match result {
        Ok(done) => Ok(Step::Are(done)),
        // Whichever half wants a table: an address outside RAM asks the host
        // for memcache.
        Err(Error::NoMemory) => Err(Stop::Needs(first.alias())),
        Err(Error::Denied) => Ok(Step::Refused),
        Err(error) => Err(error.into()),
    }
}

/// How many pages from the start of a range of RAM on are not lent.
fn private_pages<M: Machine>(machine: &M, vm: &Vm, range: GfnRange) -> u64 {
    let lent = vm.memory.first_at_alias(machine, range);
    lent.map_or(range.count(), |lent| lent.number() - range.start().number())
}

/// How many pages from the start of the range on are alike, and their state.
fn alike<M: Machine>(machine: &M, vm: &Vm, range: GfnRange) -> (u64, u64) {
    let (start, ram) = (range.start().number(), vm.memory.ram());
    let upto = |end: u64| range.truncate(end - start);
    if start < ram.start().number() {
        return (upto(ram.start().number()).count(), ripas::DEV);
    }
    if start >= ram.end() {
        return (range.count(), ripas::DEV);
    }
    let range = upto(ram.end());
    match vm.memory.pages_at_alias(machine, range) {
        0 => (private_pages(machine, vm, range), ripas::RAM),
        lent => (lent, ripas::EMPTY),
    }
}
