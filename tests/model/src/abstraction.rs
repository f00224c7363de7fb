//! From the concrete machine to the abstract state: is what bouncer has what
//! the model says?
//!
//! The frame table is read entry by entry. Page tables are walked from their
//! roots in simulated memory, with a decoder of our own written from the Arm
//! ARM (D8.3, stage 2, 4 KiB granule), so that a mistake in bouncer's is seen.

use crate::machine::Booted;
use crate::state::{CONFIGURATION, Page, Stage, State};
use hyp::addr::Pfn;
use hyp::memory::{GuestId, Owner};
use hyp::sim::SimMachine;

/// A translation: first input frame, first output frame, frames, descriptor.
type Leaf = (u64, u64, u64, u64);

/// S2AP read and write, and execute-never (XN\[1\] of bits 54:53).
const READ_WRITE: u64 = 0b11 << 6;
const EXECUTE_NEVER: u64 = 0b10 << 53;

fn walk(machine: &SimMachine, (table, level, base): (u64, u32, u64), visit: &mut impl FnMut(Leaf)) {
    let words = machine.view_frame(table, |frame| match frame.words() {
        Some(words) => *words,
        None => [frame.tag().unwrap_or(0); 512],
    });
    let span = 1u64 << (9 * (3 - level));
    for (word, start) in words.into_iter().zip((base..).step_by(span as usize)) {
        let output = (word & 0x7f_ffff_f000) >> 12;
        match (word & 0b11, level) {
            (0b11, 1 | 2) => walk(machine, (output, level + 1, start), visit),
            (0b11, 3) | (0b01, 1 | 2) => visit((start, output, span, word)),
            _ => {}
        }
    }
}

fn owner(slot: u8) -> Owner {
    GuestId::new(usize::from(slot)).map_or(Owner::None, Owner::Guest)
}

/// Owner and borrower of a frame, as the frame table has them.
fn parties(page: Page) -> (Owner, Owner) {
    match page {
        Page::Hyp | Page::Table(_) => (Owner::Hyp, Owner::None),
        Page::Host => (Owner::Host, Owner::None),
        Page::Lent(slot, _) => (Owner::Host, owner(slot)),
        Page::Guest(slot, _, false) => (owner(slot), Owner::None),
        Page::Guest(slot, _, true) => (owner(slot), Owner::Host),
    }
}

/// The frame table says what the model says.
pub fn frame_table(booted: &Booted, state: &State) -> Result<(), String> {
    let mut wrong = None;
    let mut model = state.frames();
    booted.hyp().view_frames(|pfn, entry| {
        let expected = model.next();
        let found = (entry.owner(), entry.borrower(), entry.pins());
        let same = expected.is_some_and(|(number, page)| {
            let (owner, borrower) = parties(page);
            number == pfn.number() && found == (owner, borrower, 0)
        });
        if !same && wrong.is_none() {
            wrong = Some(format!(
                "frame {:#x} is {entry:?}, the model has {expected:x?}",
                pfn.number()
            ));
        }
    });
    match (wrong, model.next()) {
        (Some(wrong), _) => Err(wrong),
        (None, Some(frame)) => Err(format!("the frame table ends before {frame:x?}")),
        (None, None) => Ok(()),
    }
}

/// The host's stage 2 is the identity on what the host may access and on
/// nothing else.
pub fn host_tables(booted: &Booted, state: &State) -> Result<(), String> {
    let mut mapped = vec![false; state.pages.len()];
    let mut wrong = None;
    let root = booted.hyp().host_regime().root.number();
    walk(booted.hyp().machine(), (root, 1, 0), &mut |(gfn, pfn, frames, word)| {
        if gfn != pfn || word & READ_WRITE != READ_WRITE {
            wrong = Some(format!("the host's {gfn:#x} leads to {pfn:#x} by {word:#x}"));
        }
        for number in pfn..pfn + frames {
            let index = number.checked_sub(state.first).map(|index| index as usize);
            match index.and_then(|index| mapped.get_mut(index)) {
                Some(mapped) => *mapped = true,
                None if booted.is_host_device(number) && word & EXECUTE_NEVER != 0 => {}
                None => wrong = Some(format!("the host has {number:#x} mapped, which is nothing")),
            }
        }
    });
    for ((pfn, page), mapped) in state.frames().zip(mapped) {
        if mapped != state.host_may(pfn) {
            let word = if mapped { "has" } else { "lacks" };
            return Err(format!("the host {word} frame {pfn:#x}, which is {page:x?}"));
        }
    }
    wrong.map_or(Ok(()), Err)
}

/// A VM is what the model says, and its stage 2 maps exactly what it owns and
/// what of its bounce memory it has touched.
pub fn vm(booted: &Booted, state: &State, slot: u8) -> Result<(), String> {
    let Some(model) = state.vm_in(slot) else { return Ok(()) };
    let Some(view) = booted.hyp().view_vm(model.handle) else {
        return Err(format!("VM {:#x} is gone", model.handle));
    };
    let stage = (view.running, view.dying);
    let expected = (model.stage == Stage::Running, model.stage == Stage::Dying);
    if stage != expected || view.unlinked != model.unlinked {
        return Err(format!("VM {slot} is {view:?}, the model has {:?}", model.stage));
    }
    let on = |vcpu: &crate::state::Vcpu| vcpu.on;
    if model.any_running() != view.any_running || !model.vcpus.iter().map(on).eq(view.on) {
        return Err(format!("vCPUs of VM {slot}: the model has {:?}", model.vcpus));
    }
    let windows = view.windows.iter().map(|window| window.map(|w| (w.start().number(), w.end())));
    if !windows.eq(model.devices.iter().map(|device| device.window)) {
        return Err(format!("the bounce windows of VM {slot} are {:x?}", view.windows));
    }
    let root = view.regime.root.number();
    // Of a VM that is being destroyed in steps the root may be gone already.
    let mut found = match state.page(root) {
        Some(Page::Table(owner)) if owner == slot => mapped(booted, root),
        _ if model.unlinked => Vec::new(),
        other => return Err(format!("the root of VM {slot} is frame {root:#x}: {other:x?}")),
    };
    if let Some(leaf) = found.iter().find(|(gfn, _, word)| !is_good(model.ram.contains(gfn), *word))
    {
        return Err(format!("VM {slot} maps with wrong rights: {leaf:x?}"));
    }
    found.sort_unstable();
    let mut expected: Vec<(u64, u64)> = state.mapped(slot).collect();
    expected.sort_unstable();
    if !found.iter().map(|(gfn, pfn, _)| (*gfn, *pfn)).eq(expected.iter().copied()) {
        return Err(format!("VM {slot} maps {found:x?}, the model has {expected:x?}"));
    }
    if !model.unlinked {
        let used = State::tables_needed(expected.iter().map(|(gfn, _)| *gfn));
        let free = state.tables_held(slot).checked_sub(used);
        if free != Some(view.memcache) {
            return Err(format!("memcache of VM {slot}: {}, not {free:?}", view.memcache));
        }
    }
    Ok(())
}

/// Everything mapped below a root, page by page.
pub fn mapped(booted: &Booted, root: u64) -> Vec<(u64, u64, u64)> {
    let mut leaves = Vec::new();
    walk(booted.hyp().machine(), (root, 1, 0), &mut |(gfn, pfn, frames, word)| {
        leaves.extend((0..frames).map(|offset| (gfn + offset, pfn + offset, word)));
    });
    leaves
}

/// RAM can do everything; memory that the host can write, everything but run.
fn is_good(ram: bool, word: u64) -> bool {
    word & READ_WRITE == READ_WRITE && (ram || word & EXECUTE_NEVER != 0)
}

/// A realm's configuration: the width of its address space, and zeros.
fn is_configuration(words: &[u64; 512]) -> bool {
    words.split_first() == Some((&39, [0; 511].as_slice()))
}

/// Every frame that is not EL2's contains what its last legal writer left.
pub fn contents(booted: &Booted, state: &State) -> Result<(), String> {
    let is_data = |page: Option<Page>| !matches!(page, None | Some(Page::Hyp | Page::Table(_)));
    let mut wrong = None;
    let mut seen = 0;
    booted.hyp().machine().view_memory(|frame| {
        let pfn = frame.number();
        if !is_data(state.page(pfn)) {
            return;
        }
        let expected = state.content(pfn);
        let good = match expected {
            CONFIGURATION => frame.words().is_some_and(is_configuration),
            word => frame.tag() == Some(word),
        };
        if !good && wrong.is_none() {
            let found = frame.tag();
            wrong = Some(format!("frame {pfn:#x} contains {found:x?}, not {expected:#x}"));
        }
        seen += u64::from(expected != 0);
    });
    if let Some(wrong) = wrong {
        return Err(wrong);
    }
    let full =
        state.frames().filter(|(pfn, page)| is_data(Some(*page)) && state.content(*pfn) != 0);
    match full.count() as u64 {
        count if count == seen => Ok(()),
        count => Err(format!("{seen} frames have contents, the model has {count}")),
    }
}

/// EL2 has mapped its own frames and no others.
pub fn own_mappings(booted: &Booted, state: &State) -> Result<(), String> {
    for (number, page) in state.frames() {
        let own = matches!(page, Page::Hyp | Page::Table(_));
        let mapped = Pfn::new(number).is_some_and(|pfn| booted.hyp().machine().is_hyp_mapped(pfn));
        if own != mapped {
            return Err(format!("EL2's mapping of frame {number:#x}, which is {page:x?}"));
        }
    }
    Ok(())
}
