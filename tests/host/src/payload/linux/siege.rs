//! `attack=on`: all the while that the guest runs, the host tries to get in.
//!
//! On the boot CPU a round is made between two turns of the guest; another CPU,
//! if there is one, sweeps through the guest's memory at the same time. That is
//! the last one: if there are more CPUs than vCPUs it never enters the guest,
//! so nothing but an invalidation takes from its TLB what it once held. What
//! came of it is told after the guest's end: until then the terminal is the
//! guest's. The guest must not notice, so nothing is tried that a host may do
//! and that would disturb it, as taking a page away.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use host::bouncer::Handle;
use host::frames::Run;
use host::linux::Marker;
use hyp::error::Error;
use rt::println;
use spin::Mutex;

use super::search::Search;
use super::sweep::{Seen, Sweep};
use crate::payload::attacks::{self, Owner, judge_call, registers};
use crate::payload::calls::BOUNCER;
use crate::payload::report::{self, Finding, GOOD};
use crate::payload::vm::{TREE_ROOM, Vm, end};
use crate::payload::{clock, cpus, run};

/// Frames of the guest's that a CPU tries in a round.
const SLICE: u64 = 256;
/// Frames searched in a round.
const SEARCHED: u64 = 512;
/// Rounds between two of the attempts that need no frame.
const SELDOM: u64 = 16;
/// Entries at which the host looks at its registers, each time.
const EXITS: usize = 8;
/// What a guest that ended answers to who would run it.
const ENDED: &[Error] = &[Error::BadState];
/// How long the other CPU may take to finish, in milliseconds.
const PATIENCE: u64 = 5000;

/// The attempts of one kind, as one finding.
struct Row {
    made: u64,
    finding: Finding,
}

/// One guest's.
pub(super) struct Siege {
    rows: Vec<Row>,
    sweep: Sweep,
    /// Frames that held a device's ring at some time: looked at in each round,
    /// so that none is taken back unseen.
    rings: BTreeSet<u64>,
    /// What was seen by the boot CPU, and by the other.
    here: Seen,
    there: Arc<Mutex<Seen>>,
    search: Option<Search>,
    rounds: u64,
}

impl Siege {
    pub(super) fn begin(vm: &Vm, marker: Option<Marker>, ram: &[Run]) -> Self {
        run::FORGED.store(0, Relaxed);
        run::FORGES.store(true, Relaxed);
        Self {
            rows: Vec::new(),
            sweep: Sweep::new(vm.ram),
            rings: BTreeSet::new(),
            here: Seen::default(),
            there: Arc::default(),
            search: marker.map(|marker| Search::new(marker, ram)),
            rounds: 0,
        }
    }

    /// A bit of everything.
    pub(super) fn round(&mut self, vm: &Vm) {
        let first = self.rounds * SLICE;
        self.here.add(self.sweep.go(first, SLICE));
        for device in &vm.devices {
            device.lock().ring_frames(vm.handle, &mut self.rings);
        }
        self.here.add(self.sweep.these(self.rings.iter().copied()));
        if let Some(search) = &mut self.search {
            search.go(SEARCHED);
        }
        if cpus::finished(other_cpu()) {
            // Events tell whose attempt it was only while one CPU makes them.
            if self.rounds.is_multiple_of(SELDOM) {
                self.seldom(vm);
            }
            let first = first + vm.ram.count / 2;
            let rings = self.rings.clone();
            self.elsewhere(move |sweep| {
                // Last as well as first: between two rounds this CPU's TLB
                // holds them, and not what came after them.
                let mut seen = sweep.these(rings.iter().copied());
                seen.add(sweep.go(first, SLICE));
                seen.add(sweep.these(rings));
                seen
            });
        }
        self.rounds += 1;
    }

    /// Lets the other CPU go some way, if there is one.
    fn elsewhere(&self, way: impl FnOnce(&Sweep) -> Seen + Send + 'static) {
        let (sweep, there) = (self.sweep.clone(), Arc::clone(&self.there));
        cpus::give(other_cpu(), move || {
            let seen = way(&sweep);
            there.lock().add(seen);
        });
    }

    fn seldom(&mut self, vm: &Vm) {
        // The kernel's text, which it never shares: what executes or clears
        // must not meet a page that has just become the host's to use.
        let page = (TREE_ROOM >> 12) + 16 + self.rounds / SELDOM % 256;
        let pfn = vm.ram.pfn + page;
        self.note_all(attacks::memory::reach(pfn, Owner::Guest, "the kernel's text"));
        self.note(attacks::memory::translate(pfn));
        self.note_all(vcpus(vm));
        self.note_all(interrupts(vm));
        attacks::drain_events();
        let finding = registers::after_exits(vm, EXITS);
        // It may have slept, or ended, before that many exits.
        if finding.outcome != "invalid" {
            self.note(finding);
        }
    }

    fn note_all(&mut self, findings: Vec<Finding>) {
        findings.into_iter().for_each(|finding| self.note(finding));
    }

    /// The first bad finding of a kind stays, else the first.
    fn note(&mut self, finding: Finding) {
        self.note_many(1, finding);
    }

    fn note_many(&mut self, made: u64, finding: Finding) {
        match self.rows.iter_mut().find(|row| row.finding.id == finding.id) {
            None => self.rows.push(Row { made, finding }),
            Some(row) => {
                row.made += made;
                if row.finding.outcome == GOOD && finding.outcome != GOOD {
                    row.finding = finding;
                }
            }
        }
    }

    /// The guest has ended, and its frames are still its own: tells what came
    /// of it all; true if nothing came of it.
    pub(super) fn end(mut self, vm: &Vm) -> bool {
        run::FORGES.store(false, Relaxed);
        let waits = || clock::spin_until(PATIENCE, || cpus::finished(other_cpu()));
        let mut finished = waits();
        self.here.add(self.sweep.once_lent());
        if finished && other_cpu() != 0 {
            self.elsewhere(Sweep::once_lent);
            finished = waits();
        }
        if vm.end() != end::NOT_YET {
            let ran = BOUNCER.vcpu_run(vm.handle, 0, 0);
            self.note(judge_call("C11.dying", "run a guest that ended".into(), ENDED, ran));
        }
        self.note_sweeps(vm, finished);
        let held = self.rows.iter().all(|row| row.finding.outcome == GOOD);
        let mut refused = 0;
        for Row { made, finding } in &self.rows {
            let detail = format!("{made} times; {}", finding.detail);
            report::attack(&Finding { detail, ..finding.clone() });
            refused += if finding.outcome == GOOD { *made } else { 0 };
        }
        println!("linux: {refused} attempts refused, {}", self.found());
        held
    }

    fn note_sweeps(&mut self, vm: &Vm, finished: bool) {
        let here = core::mem::take(&mut self.here);
        let there = core::mem::take(&mut *self.there.lock());
        let other = if finished {
            there
        } else {
            Seen { breach: Some("the other CPU did not come back".into()), ..there }
        };
        let forged = run::FORGED.load(Relaxed);
        let rows = [
            ("C1.sweep", "read and write every private frame", here.private, &here.breach),
            ("C1.other", "the same from another CPU", other.private, &other.breach),
            ("C4.sweep", "use pages the guest took back", here.returned, &here.breach),
            ("C4.other", "the same from another CPU", other.returned, &other.breach),
        ];
        for (id, what, made, breach) in rows {
            if made == 0 && breach.is_none() {
                continue;
            }
            let (outcome, detail) = match breach {
                None => (GOOD, String::from("each an external abort")),
                Some(breach) => ("succeeded", breach.clone()),
            };
            self.note_many(made, Finding { id, what: what.into(), outcome, detail });
        }
        // Had one arrived, the guest would not have come that far.
        let (outcome, detail) = match vm.end() {
            end::DEAD => ("guest-died", "the guest died"),
            _ => (GOOD, "the guest went on"),
        };
        let what = "reply to what the guest did not ask, and with more bits than it asked for";
        let (what, detail) = (what.into(), detail.into());
        self.note_many(forged, Finding { id: "I3.reply", what, outcome, detail });
    }

    /// What the search found, once more through everything.
    fn found(&mut self) -> String {
        let Some(search) = &mut self.search else { return "no marker searched".into() };
        search.everywhere();
        let times = search.shared + search.own;
        let mut text = format!("marker found {times} times in {} frames searched", search.frames);
        if let Some(first) = search.first {
            let (shared, own) = (search.shared, search.own);
            text += &format!(
                ": {shared} in pages the guest shared, {own} in the host's own, the first at {:#x}",
                first << 12
            );
        }
        text
    }
}

/// The CPU that attacks beside the boot CPU; that one itself if it is alone.
fn other_cpu() -> usize {
    cpus::count().saturating_sub(1)
}

/// C11: vCPUs that are none. A register cannot even be asked for.
fn vcpus(vm: &Vm) -> Vec<Finding> {
    let run = |handle, vcpu| BOUNCER.vcpu_run(handle, vcpu, 0);
    let none: &[Error] = &[Error::NotFound, Error::InvalidParameter];
    let count = vm.vcpus.len() as u64;
    let stranger = Handle(vm.handle.0 ^ 1 << 20);
    Vec::from([
        judge_call("C11.index", "run a vCPU that is none".into(), none, run(vm.handle, count)),
        judge_call("C11.huge", "run vCPU 2^64 - 1".into(), none, run(vm.handle, u64::MAX)),
        judge_call("C11.handle", "run a guest that is none".into(), none, run(stranger, 0)),
    ])
}

/// I1: interrupts that are no device's. The call names a device and a queue,
/// never an interrupt, so there is no way to ask for a timer's or an IPI.
fn interrupts(vm: &Vm) -> Vec<Finding> {
    let none: &[Error] = &[Error::NotFound, Error::InvalidParameter, Error::Denied];
    let devices = vm.devices.len() as u64;
    [
        ("I1.queue", "raise the interrupt of a queue that is none", 0, 7),
        ("I1.device", "raise that of a device that is none", devices, 0),
        ("I1.huge", "raise that of device 2^64 - 1", u64::MAX, u64::MAX),
    ]
    .into_iter()
    .map(|(id, what, device, cause)| {
        judge_call(id, what.into(), none, BOUNCER.device_interrupt(vm.handle, device, cause))
    })
    .collect()
}
