//! A guest's hypercalls and trapped instructions: what it gets, what the host
//! hears, what changes.

use crate::commit::{comes_back, rewritten, start};
use crate::expected::{Exit, Expected, Next, gone};
use crate::fault::{DATA, Place, place};
use crate::firmware::{arch_features, features};
use crate::iotable;
use crate::state::{Page, Stage, State, Vcpu, Vm, one_call, range};
use hyp::abi::{exit, guest as id};
use hyp::addr::{FRAME_SHIFT, FRAME_SIZE};
use hyp::error::Error;
use hyp::psci::{code, function as psci};

/// An HVC with its registers in the vCPU.
pub fn hvc(state: &mut State, slot: u8, index: usize, immediate: u16) -> Expected {
    let Some(vm) = state.vm_in(slot).cloned() else { return gone() };
    let Some(vcpu) = vm.vcpus.get(index) else { return gone() };
    let [function, a1, a2, a3] = [0, 1, 2, 3].map(|register: usize| vcpu.x[register]);
    let refuse = |error: Error| Expected::results(vcpu, [error.code() as u64, 0, 0, 0]);
    let value = |value: i64| Expected::results(vcpu, [value as u64, 0, 0, 0]);
    // Not an instruction of this guest's: it speaks RSI.
    if vm.realm {
        return Expected::vector(vcpu);
    }
    let (Ok(function), 0) = (u32::try_from(function), immediate) else {
        return refuse(Error::NotSupported);
    };
    if let Some(expected) = power(state, &vm, vcpu, function, [a1, a2, a3]) {
        return expected;
    }
    if let Some(expected) = iotable::call(state, &vm, vcpu, function, [a1, a2, a3]) {
        return expected;
    }
    match function {
        id::UID => Expected::results(vcpu, [0xb66f_b428, 0xe911_c52e, 0x564b_caa9, 0x743a_004d]),
        id::FEATURES => value(0b11_1111_1100),
        id::HYP_MEMINFO | id::MMIO_GUARD_INFO if [a1, a2, a3] != [0; 3] => {
            refuse(Error::InvalidParameter)
        }
        id::HYP_MEMINFO => Expected::results(vcpu, [4096, 1, 0, 0]),
        id::MMIO_GUARD_INFO => value(4096),
        id::MMIO_GUARD_ENROLL => value(0),
        id::MEM_SHARE | id::MEM_UNSHARE => {
            let lent = function == id::MEM_UNSHARE;
            match guest_frames(state, &vm, [a1, a2.max(1), a3], lent) {
                Err(no) => no.results(vcpu),
                Ok(frames) => {
                    for (gfn, pfn) in &frames {
                        change_sides(state, &vm, (*gfn, *pfn), !lent);
                    }
                    Expected::results(vcpu, [0, frames.len() as u64, 0, 0])
                }
            }
        }
        id::EXTENSIONS => {
            Expected::results(vcpu, [0, 0b011 | if vm.zeroes { 0b100 } else { 0 }, 0, 0])
        }
        id::MEM_UNSHARE_ALL => match unshare_all(state, &vm, a1) {
            Ok([pages, next]) => Expected::results(vcpu, [0, pages, next, 0]),
            Err(error) => refuse(error),
        },
        id::MEM_RELINQUISH => match guest_frames(state, &vm, [a1, 1, 0], false) {
            Err(no) => no.results(vcpu),
            Ok(frames) => {
                frames.into_iter().for_each(|(_, pfn)| comes_back(state, pfn, false));
                value(0)
            }
        },
        id::MMIO_GUARD_MAP | id::MMIO_GUARD_UNMAP => {
            match guard(state, &vm, a1, function == id::MMIO_GUARD_MAP) {
                Ok(()) => value(0),
                Err(error) => refuse(error),
            }
        }
        _ => refuse(Error::NotSupported),
    }
}

/// PSCI and SMCCC discovery, for either kind of guest; `None` if it is none of
/// them.
pub fn power(
    state: &mut State,
    vm: &Vm,
    vcpu: &Vcpu,
    function: u32,
    [a1, a2, a3]: [u64; 3],
) -> Option<Expected> {
    let value = |value: i64| Expected::results(vcpu, [value as u64, 0, 0, 0]);
    let low = |value: u64| value & 0xffff_ffff;
    Some(match function {
        psci::SMCCC_VERSION if vm.realm => value(0x1_0002),
        psci::SMCCC_VERSION | psci::PSCI_VERSION => value(0x1_0001),
        psci::MIGRATE_INFO_TYPE | psci::SMCCC_ARCH_FEATURES if vm.realm => value(-1),
        psci::PSCI_FEATURES if vm.realm && low(a1) == u64::from(psci::MIGRATE_INFO_TYPE) => {
            value(-1)
        }
        psci::MIGRATE_INFO_TYPE => value(2),
        psci::PSCI_FEATURES => value(features(a1)),
        psci::SMCCC_ARCH_FEATURES => value(arch_features(a1)),
        psci::AFFINITY_INFO_32 => value(affinity(vm, low(a1), low(a2))),
        psci::AFFINITY_INFO_64 => value(affinity(vm, a1, low(a2))),
        psci::CPU_ON_32 => cpu_on(state, vm, vcpu, [low(a1), low(a2), low(a3)]),
        psci::CPU_ON_64 => cpu_on(state, vm, vcpu, [a1, a2, a3]),
        psci::CPU_OFF => Expected::exit(vcpu, 0, Exit::Exactly([exit::CPU_OFF, 0, 0])),
        psci::CPU_SUSPEND_32 | psci::CPU_SUSPEND_64 => {
            if !vm.realm && a1 & (1 << 16 | 1 << 30) != 0 {
                value(code::INVALID_PARAMETERS)
            } else {
                value(0).or(Exit::Wait(u64::MAX))
            }
        }
        psci::SYSTEM_OFF | psci::SYSTEM_RESET => {
            if let Some(vm) = state.vm_mut(vm.handle) {
                vm.stage = Stage::Dying;
            }
            let reset = u64::from(function == psci::SYSTEM_RESET);
            Expected::exit(vcpu, 0, Exit::Exactly([exit::SHUTDOWN, reset, 0]))
        }
        _ => return None,
    })
}

fn affinity(vm: &Vm, mpidr: u64, level: u64) -> i64 {
    let vcpu = usize::try_from(mpidr).ok().and_then(|index| vm.vcpus.get(index));
    match vcpu {
        Some(vcpu) if level == 0 && vcpu.on => {
            if is_pending(vm, vcpu) {
                2
            } else {
                0
            }
        }
        Some(_) if level == 0 => 1,
        _ => code::INVALID_PARAMETERS,
    }
}

/// Started and not run yet: a state that realms do not have.
fn is_pending(vm: &Vm, vcpu: &Vcpu) -> bool {
    !vm.realm && !vcpu.ran
}

fn cpu_on(state: &mut State, vm: &Vm, vcpu: &Vcpu, [mpidr, entry, context]: [u64; 3]) -> Expected {
    let target = usize::try_from(mpidr).ok();
    let target = target.and_then(|index| state.vm_mut(vm.handle)?.vcpus.get_mut(index));
    let answer = match target {
        _ if !vm.is_entry(entry) => code::INVALID_ADDRESS,
        None => code::INVALID_PARAMETERS,
        Some(target) if target.on && is_pending(vm, target) => code::ON_PENDING,
        Some(target) if target.on => code::ALREADY_ON,
        Some(target) => {
            start(target, entry, context);
            code::SUCCESS
        }
    };
    let mut expected = Expected::results(vcpu, [answer as u64, 0, 0, 0]);
    if answer == code::SUCCESS {
        expected.resume = false;
        expected.exits = vec![Exit::Exactly([exit::CPU_ON, mpidr, 0])];
    }
    expected
}

/// Why a range is refused. If some pages are not there and others are not in
/// the right state, either reason will do.
struct Wrong {
    first: Error,
    other: Option<Error>,
}

impl Wrong {
    fn results(&self, vcpu: &Vcpu) -> Expected {
        let expected = Expected::results(vcpu, [self.first.code() as u64, 0, 0, 0]);
        Expected { or_x0: self.other.map(|error| error.code() as u64), ..expected }
    }
}

/// The frames behind a range of guest RAM that all are the guest's own, and
/// all lent to the host or all not.
fn guest_frames(
    state: &State,
    vm: &Vm,
    [ipa, pages, reserved]: [u64; 3],
    lent: bool,
) -> Result<Vec<(u64, u64)>, Wrong> {
    let malformed = reserved != 0 || !ipa.is_multiple_of(FRAME_SIZE);
    let places = range(ipa >> FRAME_SHIFT, pages).filter(|_| !malformed);
    let inside = |r: &std::ops::Range<u64>| r.start >= vm.ram.start && r.end <= vm.ram.end;
    let Some(places) = places.filter(inside) else {
        return Err(Wrong { first: Error::InvalidParameter, other: None });
    };
    let mut frames = Vec::new();
    let (mut absent, mut denied) = (false, false);
    for gfn in one_call(places) {
        match state.translate(vm.slot, gfn) {
            None => absent = true,
            Some(pfn) => {
                denied |= state.page(pfn) != Some(Page::Guest(vm.slot, gfn, lent));
                frames.push((gfn, pfn));
            }
        }
    }
    match (absent, denied) {
        (false, false) => Ok(frames),
        (true, denied) => {
            Err(Wrong { first: Error::NotFound, other: denied.then_some(Error::Denied) })
        }
        (false, true) => Err(Wrong { first: Error::Denied, other: None }),
    }
}

/// A page of the guest's is lent to the host from now on, or no longer.
fn change_sides(state: &mut State, vm: &Vm, (gfn, pfn): (u64, u64), lent: bool) {
    if vm.zeroes {
        state.fill(pfn, rewritten(vm.slot));
    }
    state.set(pfn, Page::Guest(vm.slot, gfn, lent));
}

/// MEM_UNSHARE_ALL: the pages taken back, and where to go on. (Nothing here
/// pins a page.)
fn unshare_all(state: &mut State, vm: &Vm, ipa: u64) -> Result<[u64; 2], Error> {
    if !ipa.is_multiple_of(FRAME_SIZE) || !vm.is_ram(ipa) {
        return Err(Error::InvalidParameter);
    }
    let looked_at = one_call(ipa >> FRAME_SHIFT..vm.ram.end);
    let next = if looked_at.end < vm.ram.end { looked_at.end << FRAME_SHIFT } else { 0 };
    let mut pages = 0;
    for gfn in looked_at {
        let pfn = state.translate(vm.slot, gfn);
        let lent = |pfn: &u64| state.page(*pfn) == Some(Page::Guest(vm.slot, gfn, true));
        if let Some(pfn) = pfn.filter(lent) {
            change_sides(state, vm, (gfn, pfn), false);
            pages += 1;
        }
    }
    Ok([pages, next])
}

/// Pages that a guest can grant.
const GRANTS: usize = 16;

fn guard(state: &mut State, vm: &Vm, ipa: u64, map: bool) -> Result<(), Error> {
    if !ipa.is_multiple_of(FRAME_SIZE) || range(ipa >> FRAME_SHIFT, 1).is_none() {
        return Err(Error::InvalidParameter);
    }
    if vm.is_ram(ipa) {
        return Err(Error::Denied);
    }
    if place(vm, ipa) != Place::Elsewhere {
        return Ok(());
    }
    let granted = state.vm_mut(vm.handle).map(|vm| &mut vm.granted).ok_or(Error::NotFound)?;
    match map {
        true if granted.len() == GRANTS && !granted.contains(&(ipa >> FRAME_SHIFT)) => {
            Err(Error::NoMemory)
        }
        true => {
            granted.insert(ipa >> FRAME_SHIFT);
            Ok(())
        }
        false if granted.remove(&(ipa >> FRAME_SHIFT)) => Ok(()),
        false => Err(Error::NotFound),
    }
}

/// A trapped instruction that is no access to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trapped {
    /// WFI.
    Wait,
    /// A system register; written?
    SystemRegister(bool),
    /// What no guest has.
    Undefined,
    /// Nothing of the guest's: an interrupt.
    Interrupt,
}

/// Any other trap.
pub fn other(state: &State, slot: u8, index: usize, trapped: Trapped) -> Expected {
    let Some(vcpu) = state.vm_in(slot).and_then(|vm| vm.vcpus.get(index)) else { return gone() };
    match trapped {
        Trapped::Wait => Expected::resume(vcpu, 4).or(Exit::Wait(u64::MAX)),
        Trapped::SystemRegister(write) => {
            let mut expected = Expected::resume(vcpu, 4);
            expected.next = Next::Either(vcpu.pc.wrapping_add(4));
            expected.free = (!write).then_some(DATA);
            if write { expected.or(Exit::Kick) } else { expected }
        }
        Trapped::Undefined => Expected::vector(vcpu),
        Trapped::Interrupt => {
            let expected = Expected::resume(vcpu, 0).or(Exit::Exactly([exit::INTERRUPT, 0, 0]));
            // One that the guest's timer explains; a second is the host's.
            Expected { resume: !vcpu.explained, ..expected }
        }
    }
}
