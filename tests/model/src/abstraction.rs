//! From the concrete machine to the abstract state: is what bouncer has what
//! the model says?
//!
//! Each function here compares one thing, and its answer depends on nothing
//! but that thing and the model's idea of it. [`crate::compared`] decides when.

use crate::machine::Booted;
use crate::state::{CONFIGURATION, Page, Stage, State, Vm};
use crate::tables::{HostTables, Tables, is_good};
use hyp::memory::{FrameEntry, GuestId, Owner};
use hyp::sim::{FrameView, VmView};

fn owner(slot: u8) -> Owner {
    GuestId::new(usize::from(slot)).map_or(Owner::None, Owner::Guest)
}

/// Owner and borrower of a frame, as the frame table has them.
fn parties(page: Page) -> (Owner, Owner) {
    match page {
        Page::Hyp | Page::Table(_) => (Owner::Hyp, Owner::None),
        Page::Firmware => (Owner::Firmware, Owner::None),
        Page::Host => (Owner::Host, Owner::None),
        Page::Lent(slot, _) => (Owner::Host, owner(slot)),
        Page::Guest(slot, _, false) => (owner(slot), Owner::None),
        Page::Guest(slot, _, true) => (owner(slot), Owner::Host),
    }
}

/// The frame table says of this frame what the model says.
pub(crate) fn entry(expected: Option<Page>, pfn: u64, entry: FrameEntry) -> Result<(), String> {
    let found = (entry.owner(), entry.borrower(), entry.pins());
    let same = expected.is_some_and(|page| {
        let (owner, borrower) = parties(page);
        found == (owner, borrower, 0)
    });
    match same {
        true => Ok(()),
        false => Err(format!("frame {pfn:#x} is {entry:?}, the model has {expected:x?}")),
    }
}

/// A realm's configuration: the width of its address space, and zeros.
fn is_configuration(words: &[u64; 512]) -> bool {
    words.split_first() == Some((&39, [0; 511].as_slice()))
}

/// A frame that is not EL2's contains what its last legal writer left, and one
/// is mapped by EL2 exactly if it is EL2's.
pub(crate) fn content(page: Page, expected: u64, frame: FrameView<'_>) -> Result<(), String> {
    let pfn = frame.number();
    let own = matches!(page, Page::Hyp | Page::Table(_));
    if own != frame.is_hyp_mapped() {
        return Err(format!("EL2's mapping of frame {pfn:#x}, which is {page:x?}"));
    }
    let good = match expected {
        CONFIGURATION => frame.words().is_some_and(is_configuration),
        word => frame.tag() == Some(word),
    };
    if !own && !good {
        let (first, found) = (frame.words().and_then(|words| words.first()), frame.tag());
        return Err(format!("frame {pfn:#x} contains {found:x?} {first:x?}, not {expected:#x}"));
    }
    Ok(())
}

/// The host's stage 2 is the identity on what the host may access and on
/// nothing else.
pub(crate) fn host(state: &State, tables: &HostTables) -> Result<(), String> {
    let Some(pfn) = tables.mapped.first_difference(state.reach()) else { return Ok(()) };
    let word = if tables.mapped.contains(pfn) { "has" } else { "lacks" };
    Err(format!("the host {word} frame {pfn:#x}, which is {:x?}", state.page(pfn)))
}

/// A VM is what the model says, apart from its memory.
pub(crate) fn vm(model: &Vm, view: &VmView) -> Result<(), String> {
    let slot = model.slot;
    let stage = (view.running, view.dying);
    let expected = (model.stage == Stage::Running, model.stage == Stage::Dying);
    if stage != expected || view.unlinked != model.unlinked {
        return Err(format!("VM {slot} is {view:?}, the model has {:?}", model.stage));
    }
    let on = model.vcpus.iter().enumerate().filter(|(_, vcpu)| vcpu.on);
    let on = on.fold(0, |on, (index, _)| on | 1 << index);
    if model.any_running() != view.any_running || on != view.on {
        return Err(format!("vCPUs of VM {slot}: the model has {:?}", model.vcpus));
    }
    let windows = view.windows.iter().map(|window| window.map(|w| (w.start().number(), w.end())));
    if !windows.eq(model.devices.iter().map(|device| device.window)) {
        return Err(format!("the bounce windows of VM {slot} are {:x?}", view.windows));
    }
    Ok(())
}

/// The tables of a VM, if it still has some.
pub(crate) fn read_tables(
    booted: &Booted,
    state: &State,
    model: &Vm,
    view: &VmView,
) -> Result<Tables, String> {
    let (slot, root) = (model.slot, view.regime.root.number());
    match state.page(root) {
        Some(Page::Table(owner)) if owner == slot => Ok(Tables::read(booted.hyp().machine(), root)),
        // Of a VM that is being destroyed in steps the root may be gone.
        _ if model.unlinked => Ok(Tables::default()),
        other => Err(format!("the root of VM {slot} is frame {root:#x}: {other:x?}")),
    }
}

/// Its stage 2 maps exactly what it owns and what of its bounce memory it has
/// touched, and what it does not need for that is free.
pub(crate) fn vm_memory(
    state: &State,
    model: &Vm,
    view: &VmView,
    tables: &Tables,
) -> Result<(), String> {
    let slot = model.slot;
    let right = |leaf: &&crate::tables::Leaf| is_good(model.ram.contains(&leaf.gfn), leaf.word);
    if let Some(leaf) = tables.leaves.iter().find(|leaf| !right(leaf)) {
        return Err(format!("VM {slot} maps with wrong rights: {leaf:x?}"));
    }
    let mut expected: Vec<(u64, u64)> = state.mapped(slot).collect();
    expected.sort_unstable();
    if !tables.pages().map(|(gfn, pfn, _)| (gfn, pfn)).eq(expected.iter().copied()) {
        let found = &tables.leaves;
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
