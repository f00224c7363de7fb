//! What has been compared, so that after a step only what can have changed is
//! compared again.
//!
//! This is as strong as comparing everything. What [`crate::abstraction`] says
//! of a frame, of a table or of a VM's memory depends on that alone and on
//! what the model has for it; if neither has changed since both agreed, they
//! agree. Nobody who might be wrong is asked what has changed:
//!
//! - entries of the frame table: all of them are compared with a copy;
//! - frames: the simulated machine lists each one that it was told to change,
//!   by bouncer, by a guest, by the host or by a test behind their backs;
//! - tables: read again if a frame that they were read from is in that list;
//!   what the host's map is compared as a whole with what the host may access;
//! - the model lists each frame that it changes;
//! - what a VM is, apart from its memory, is compared after every step.
//!
//! Those lists could be wrong, too. So every [`EVERYTHING`] steps, and at the
//! end of each sequence, everything is read and compared from scratch.

use crate::abstraction;
use crate::machine::Booted;
use crate::state::{State, Vm};
use crate::tables::{HostTables, Tables};
use hyp::abi;
use hyp::addr::Pfn;
use hyp::memory::FrameEntry;
use hyp::sim::VmView;

/// Steps from one comparison of everything to the next.
const EVERYTHING: u32 = 64;

/// What the memory of a VM is compared by: its handle, its root, the version of
/// its frames in the model, whether it is unlinked, its memcache.
type Key = (u64, u64, u64, bool, u64);

/// What was compared last.
#[derive(Clone)]
pub struct Compared {
    entries: Vec<FrameEntry>,
    host: HostTables,
    vms: [Option<(Key, Tables)>; abi::MAX_VMS],
    steps: u32,
    /// Kept for its room.
    changed: Vec<u64>,
}

fn key(state: &State, vm: &Vm, view: &VmView) -> Key {
    let version = state.of(vm.slot).map_or(0, |its| its.version);
    (vm.handle, view.regime.root.number(), version, vm.unlinked, view.memcache)
}

impl Compared {
    /// Compares everything.
    ///
    /// # Errors
    /// The first difference.
    pub fn everything(booted: &Booted, state: &mut State) -> Result<Self, String> {
        let machine = booted.hyp().machine();
        machine.take_changes(|_| ());
        state.take_changes(|_| ());
        let mut result = Ok(());
        let mut entries = Vec::new();
        let mut pages = state.frames();
        let mut before = None;
        booted.hyp().view_changes(&mut entries, |pfn, entry| {
            let now = pages.next();
            let same = now.is_some_and(|(number, page)| {
                // The same twice running needs to be looked at once.
                let known = before.replace((page, entry)) == Some((page, entry));
                number == pfn.number() && known
            });
            if !same {
                let page = now.filter(|(number, _)| *number == pfn.number()).map(|(_, page)| page);
                first(&mut result, || abstraction::entry(page, pfn.number(), entry));
            }
        });
        if let (Ok(()), Some((pfn, page))) = (&result, pages.next()) {
            return Err(format!("the frame table ends before {pfn:#x}, which is {page:x?}"));
        }
        let mut model = state.frames().zip(state.contents());
        machine.view_range(state.first, entries.len() as u64, |frame| {
            if let Some(((_, page), expected)) = model.next() {
                first(&mut result, || abstraction::content(page, expected, frame));
            }
        });
        result?;
        let host = HostTables::read(booted, state)?;
        abstraction::host(state, &host)?;
        let mut compared = Self {
            entries,
            host,
            vms: [const { None }; abi::MAX_VMS],
            steps: 0,
            changed: Vec::new(),
        };
        compared.vms(booted, state)?;
        Ok(compared)
    }

    /// The end of a step: compares what can have changed, and now and then
    /// everything.
    ///
    /// # Errors
    /// The first difference.
    pub fn again(&mut self, booted: &Booted, state: &mut State) -> Result<(), String> {
        self.steps += 1;
        if self.steps == EVERYTHING {
            *self = Self::everything(booted, state)?;
            return Ok(());
        }
        let machine = booted.hyp().machine();
        let mut changed = std::mem::take(&mut self.changed);
        changed.clear();
        let mut result = Ok(());
        machine.take_changes(|frame| {
            changed.push(frame.number());
            if let Some(page) = state.page(frame.number()) {
                let expected = state.content(frame.number());
                first(&mut result, || abstraction::content(page, expected, frame));
            }
        });
        booted.hyp().view_changes(&mut self.entries, |pfn, entry| {
            let page = state.page(pfn.number());
            first(&mut result, || abstraction::entry(page, pfn.number(), entry));
        });
        let mut modelled = Vec::new();
        state.take_changes(|pfn| modelled.push(pfn));
        for pfn in modelled {
            first(&mut result, || {
                let frame = Pfn::new(pfn).ok_or("no frame")?;
                let page = state.page(pfn).ok_or("no RAM")?;
                abstraction::entry(Some(page), pfn, booted.hyp().view_entry(frame))?;
                let expected = state.content(pfn);
                machine.view_frame(pfn, |frame| abstraction::content(page, expected, frame))
            });
        }
        result?;
        for frame in &changed {
            self.host.changed(booted, state, *frame)?;
            for vm in &mut self.vms {
                if vm.as_ref().is_some_and(|(_, tables)| tables.depend_on(*frame)) {
                    *vm = None;
                }
            }
        }
        self.changed = changed;
        abstraction::host(state, &self.host)?;
        self.vms(booted, state)
    }

    /// The VMs; their memory, where it is not the one that was compared.
    fn vms(&mut self, booted: &Booted, state: &State) -> Result<(), String> {
        for model in state.vms.iter().flatten() {
            let Some(view) = booted.hyp().view_vm(model.handle) else {
                return Err(format!("VM {:#x} is gone", model.handle));
            };
            abstraction::vm(model, &view)?;
            let Some(compared) = self.vms.get_mut(usize::from(model.slot)) else { continue };
            let now = key(state, model, &view);
            if compared.as_ref().is_some_and(|(then, _)| *then == now) {
                continue;
            }
            let tables = abstraction::read_tables(booted, state, model, &view)?;
            abstraction::vm_memory(state, model, &view, &tables)?;
            *compared = Some((now, tables));
        }
        Ok(())
    }
}

/// Checks something, unless something before was wrong.
fn first(result: &mut Result<(), String>, check: impl FnOnce() -> Result<(), String>) {
    if result.is_ok() {
        *result = check();
    }
}
