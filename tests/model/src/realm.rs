//! The calls of a guest that speaks RSI (docs/abi.md), by SMC.

use crate::expected::{Exit, Expected, Next, gone};
use crate::guest::power;
use crate::host::has_tables_for;
use crate::state::{ALIAS, CONFIGURATION, Page, State, Vcpu, Vm, one_call, range};
use hyp::abi::{exit, rsi as id};
use hyp::addr::{FRAME_SHIFT, FRAME_SIZE};
use std::ops::Range;

/// An SMC with its registers in the vCPU. What is answered goes on behind it;
/// a call that wants memory stays where it is.
pub fn smc(state: &mut State, slot: u8, index: usize) -> Expected {
    let Some(vm) = state.vm_in(slot).cloned() else { return gone() };
    let Some(vcpu) = vm.vcpus.get(index) else { return gone() };
    let [function, a1, a2, a3] = [0, 1, 2, 3].map(|register: usize| vcpu.x[register]);
    let answer = |values| Ok(Expected::results(vcpu, values));
    let function = u32::try_from(function).ok().filter(|_| vm.realm);
    let expected = match function {
        Some(id::VERSION) => {
            answer([u64::from(a1 & 0x7fff_ffff != 0x1_0000), 0x1_0000, 0x1_0000, 0])
        }
        Some(id::FEATURES) => answer([0; 4]),
        Some(id::ATTESTATION_TOKEN_INIT) => {
            if let Some(vcpu) = vcpu_mut(state, slot, index) {
                vcpu.attesting = true;
            }
            answer([0, id::TOKEN_BOUND, 0, 0])
        }
        Some(id::ATTESTATION_TOKEN_CONTINUE) => {
            let page = a1.checked_add(FRAME_SIZE).and_then(|top| pages(a1, top));
            let buffer = a2 < FRAME_SIZE && a2.checked_add(a3).is_some_and(|end| end <= FRAME_SIZE);
            let attesting = vcpu_mut(state, slot, index).filter(|_| page.is_some() && buffer);
            let attesting = attesting.map(|vcpu| std::mem::take(&mut vcpu.attesting));
            answer([attesting.map_or(1, |asked| if asked { 4 } else { 2 }), 0, 0, 0])
        }
        Some(id::HOST_CALL) => {
            let within = a1.is_multiple_of(256) && a1 >> FRAME_SHIFT < ALIAS;
            answer([if within { 4 } else { 1 }, 0, 0, 0])
        }
        Some(id::REALM_CONFIG) => realm_config(state, &vm, a1).map(|x| Expected::results(vcpu, x)),
        Some(id::IPA_STATE_SET) => {
            set(state, &vm, [a1, a2, a3]).map(|x| Expected::results(vcpu, x))
        }
        Some(id::IPA_STATE_GET) => answer(get(state, &vm, a1, a2)),
        Some(function) => match power(state, &vm, vcpu, function, [a1, a2, a3]) {
            Some(expected) => Ok(expected),
            None => answer(NOT_SUPPORTED),
        },
        None => answer(NOT_SUPPORTED),
    };
    match expected {
        Ok(mut expected) => {
            expected.next = Next::At(vcpu.pc.wrapping_add(4));
            expected
        }
        Err(page) => asks_for(vcpu, page),
    }
}

fn vcpu_mut(state: &mut State, slot: u8, index: usize) -> Option<&mut Vcpu> {
    let handle = state.vm_in(slot)?.handle;
    state.vm_mut(handle)?.vcpus.get_mut(index)
}

const NOT_SUPPORTED: [u64; 4] = [-1i64 as u64, 0, 0, 0];
const ERROR_INPUT: [u64; 4] = [1, 0, 0, 0];

fn asks_for(vcpu: &Vcpu, gfn: u64) -> Expected {
    Expected::exit(vcpu, 0, Exit::Exactly([exit::MEM_FAULT, gfn << FRAME_SHIFT, 0]))
}

/// x0 to x3, or the page that must be there first.
type Answer = Result<[u64; 4], u64>;

/// Pages of the lower half, from one address to another.
fn pages(base: u64, top: u64) -> Option<Range<u64>> {
    let aligned = base.is_multiple_of(FRAME_SIZE) && top.is_multiple_of(FRAME_SIZE);
    let pages = range(base >> FRAME_SHIFT, top.checked_sub(base)? >> FRAME_SHIFT)?;
    (aligned && pages.end <= ALIAS).then_some(pages)
}

fn realm_config(state: &mut State, vm: &Vm, ipa: u64) -> Answer {
    let page = ipa.checked_add(FRAME_SIZE).and_then(|top| pages(ipa, top));
    let Some(gfn) = page.map(|page| page.start).filter(|gfn| vm.ram.contains(gfn)) else {
        return Ok(ERROR_INPUT);
    };
    if is_shared(state, vm, gfn) {
        return Ok(ERROR_INPUT);
    }
    let pfn = state.translate(vm.slot, gfn).ok_or(gfn)?;
    state.fill(pfn, CONFIGURATION);
    Ok([0; 4])
}

fn is_shared(state: &State, vm: &Vm, gfn: u64) -> bool {
    state.translate(vm.slot, gfn | ALIAS).is_some()
}

/// How many pages of the range from its start on are (not) shared.
fn alike(state: &State, vm: &Vm, range: Range<u64>, shared: bool) -> u64 {
    range.take_while(|gfn| is_shared(state, vm, *gfn) == shared).count() as u64
}

fn set(state: &mut State, vm: &Vm, [base, top, wanted]: [u64; 3]) -> Answer {
    // What is above the state, and all flags, change nothing.
    let wanted = wanted & 0xff;
    let Some(range) = pages(base, top).filter(|_| wanted <= id::ripas::RAM) else {
        return Ok(ERROR_INPUT);
    };
    if range.start < vm.ram.start || range.end > vm.ram.end {
        return Ok([0, base, id::REJECT, 0]);
    }
    let first = range.start;
    let shared = wanted == id::ripas::EMPTY;
    let upto = |done: u64| Ok([0, (first + done) << FRAME_SHIFT, id::ACCEPT, 0]);
    // Private pages are skipped however many they are.
    let looked_at = if shared { one_call(range.clone()) } else { range.clone() };
    match alike(state, vm, looked_at, shared) {
        0 => {}
        done => return upto(done),
    }
    // Pages that have a frame, from one half to the other.
    let from = |gfn: u64| if shared { gfn } else { gfn | ALIAS };
    let to = |gfn: u64| from(gfn) ^ ALIAS;
    let frames: Vec<u64> =
        one_call(range).map_while(|gfn| state.translate(vm.slot, from(gfn))).collect();
    if frames.is_empty() {
        return Err(first);
    }
    // Room in the other half before anything in this one is given back.
    if !has_tables_for(state, vm, (first..).take(frames.len()).map(to)) {
        return Err(first | ALIAS);
    }
    for (gfn, pfn) in (first..).zip(&frames) {
        // No contents go either way, and nobody reaches it meanwhile.
        state.fill(*pfn, 0);
        state.set(*pfn, Page::Guest(vm.slot, gfn, shared));
    }
    upto(frames.len() as u64)
}

fn get(state: &State, vm: &Vm, base: u64, top: u64) -> [u64; 4] {
    let Some(range) = pages(base, top) else { return ERROR_INPUT };
    let (end, what) = if range.start < vm.ram.start {
        (range.end.min(vm.ram.start), id::ripas::DEV)
    } else if range.start >= vm.ram.end {
        (range.end, id::ripas::DEV)
    } else {
        let first = range.start;
        let range = first..range.end.min(vm.ram.end);
        match alike(state, vm, one_call(range.clone()), true) {
            0 => (first + alike(state, vm, range, false), id::ripas::RAM),
            shared => (first + shared, id::ripas::EMPTY),
        }
    };
    [0, end << FRAME_SHIFT, what, 0]
}
