//! The acts in which the host attacks: alone, and against guests.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use host::bouncer::Handle;
use hyp::abi;
use rt::println;

use super::{BOUNCE_PAGES, LIFE, Stage, payload};
use crate::payload::attacks::{self, Owner, donation};
use crate::payload::lies::Lie;
use crate::payload::report::{Finding, GOOD};
use crate::payload::run;
use crate::payload::run::FREE;
use crate::payload::vm::{DevicePlan, FEW_PAGES, Plan, Vm, end};

/// Longest wait for a word from a guest, in milliseconds.
pub(super) const PATIENCE: u64 = 20_000;
/// Exits looked at for left-over register values.
const EXITS: usize = 64;
/// Pages of the guest that is never finalised, given away one by one.
const RACE_PAGES: u64 = 32;

impl Stage<'_> {
    /// Act one.
    pub(super) fn alone(&mut self) {
        if self.options.attacks == "none" {
            return;
        }
        println!("host: tries what it can reach without any guest");
        self.check_tools();
        let options = self.options;
        let has_pcie = self.machine.ecam.is_some();
        self.report_all(attacks::devices::doors(has_pcie, |row| options.attacks(row)));
        for pfn in self.bouncer.clone() {
            let place = format!("bouncer's memory at {:#x}", pfn << 12);
            self.report_all(attacks::memory::reach(pfn, Owner::Bouncer, &place));
        }
        self.report_all(attacks::reserved::all(&self.firmware));
        let Some(first) = self.bouncer.first().copied() else {
            return self.fail("no memory of bouncer's was found to attack");
        };
        self.report_all(attacks::devices::lpi_tables(self.machine.gicr, first << 12));
        self.report_all(attacks::memory::choose_style(first));
        self.report_all(attacks::power::calls(first));
        self.report_all(attacks::power::behind_stage2(first));
        self.report_all(attacks::exhaustion::all(&FREE));
    }

    /// The instructions of C1 and C2 work where they may.
    fn check_tools(&mut self) {
        let Some(run) = FREE.lock().take(1, 1) else { return };
        if let Some(tool) = attacks::memory::broken_tool(run.base()) {
            self.fail(&format!("{tool} does not even work on the host's own memory"));
        }
        FREE.lock().give(run);
        for tool in attacks::memory::not_tried() {
            println!("host: this CPU does not check the address of {tool}: not tried");
        }
    }

    /// Act three, first guest: it keeps a secret while the host reaches for it.
    pub(super) fn secrets(&mut self) {
        let Some(vm) = self.raise("secrets secret_ms=1000", "@guest secret planted=yes") else {
            return;
        };
        self.reach_for_secret(&vm);
        run::retire(&vm);
        self.bury(vm);
    }

    fn reach_for_secret(&mut self, vm: &Vm) {
        println!("host: a guest keeps a secret; the host tries to get it");
        let page = vm.said("@guest secret planted=yes").and_then(|words| page_in(&words));
        let Some(secret) = page.and_then(|ipa| vm.frame_of(ipa)) else {
            return self.fail("the guest did not say where its secret is");
        };
        let mut findings = Vec::new();
        let forged = run::FORGED.load(Relaxed);
        run::FORGES.store(true, Relaxed);
        for (pfn, what) in [
            (secret, "the page with the secret"),
            (vm.ram.pfn, "the guest's device tree"),
            (vm.ram.pfn + 512, "the guest's code"),
            (vm.ram.pfn + vm.ram.count / 2, "the guest's free memory"),
        ] {
            let place = format!("{what} at {:#x}", pfn << 12);
            findings.extend(attacks::memory::reach(pfn, Owner::Guest, &place));
        }
        findings.push(attacks::memory::translate(secret));
        findings.extend(attacks::attributes::all(secret));
        let looked = || vm.count_said("@guest secret intact=") != 0;
        let early = !looked();
        run::until(PATIENCE, || looked() || vm.end() != end::NOT_YET);
        run::FORGES.store(false, Relaxed);
        findings.push(forged_replies(run::FORGED.load(Relaxed) - forged));
        self.judge_secret(vm, early, &mut findings);
        self.report_all(findings);
    }

    /// The guest has looked at its secret after the attacks. If it is damaged,
    /// or if it looked too `early`, nothing was refused for sure.
    fn judge_secret(&mut self, vm: &Vm, early: bool, findings: &mut [Finding]) {
        if early && vm.said("@guest secret intact=yes").is_some() {
            println!("host: the guest finds its secret intact after all that");
            return;
        }
        self.fail("the guest did not find its secret intact after the attacks");
        for finding in findings {
            finding.outcome = "unverified";
        }
    }

    /// Builds a guest with a device no driver touches, and runs it until it
    /// says `word`.
    pub(super) fn raise(&mut self, scenario: &str, word: &str) -> Option<Arc<Vm>> {
        let vm =
            self.build("bounce-bar", scenario, 1, Vec::from([DevicePlan::Console(FEW_PAGES)]))?;
        run::admit(Arc::clone(&vm));
        run::until(PATIENCE, || vm.said(word).is_some() || vm.end() != end::NOT_YET);
        if vm.said(word).is_some() {
            return Some(vm);
        }
        self.fail(&format!("guest `{scenario}` never said {word}"));
        run::retire(&vm);
        self.bury(vm);
        None
    }

    /// Act three, second guest: it lends a page and takes it back.
    pub(super) fn lent(&mut self) {
        let Some(vm) = self.raise("lend", "@guest lend state=shared") else { return };
        self.hold_on_to(&vm, false);
        run::retire(&vm);
        self.bury(vm);
    }

    /// Uses a page while it is lent, and tries to afterwards. One that a realm
    /// lends has no contents.
    fn hold_on_to(&mut self, vm: &Vm, realm: bool) {
        let page = vm.said("@guest lend state=shared").and_then(|words| page_in(&words));
        let Some(pfn) = page.and_then(|ipa| vm.frame_of(ipa)) else {
            return self.fail("the guest did not say which page it lent");
        };
        if realm {
            self.report(attacks::lent::residue(pfn));
        }
        if !attacks::lent::warm_up(pfn) {
            self.fail("a page that a guest lent cannot be read on every CPU");
        }
        run::until(PATIENCE, || vm.said("@guest lend state=returned").is_some());
        let mut findings = attacks::lent::after_return(pfn);
        if realm {
            let heard = || vm.said("@guest lend state=back");
            run::until(PATIENCE, || heard().is_some() || vm.end() != end::NOT_YET);
            let zeros = heard().map(|words| words.contains("zeros=yes"));
            findings.push(attacks::lent::stays_behind(zeros));
        }
        let checked = || vm.said("@guest lend state=checked").is_some();
        run::until(PATIENCE, || checked() || vm.end() != end::NOT_YET);
        if vm.said("@guest lend state=checked stable=yes").is_none() {
            self.fail("the page changed after the guest took it back");
        }
        self.report_all(findings);
    }

    /// Act six: a guest that speaks Arm CCA's RSI. It keeps a secret, lends a
    /// page at its alias, and attacks.
    pub(super) fn realm(&mut self) {
        let scenario = "realm secret_ms=600";
        let Some(vm) = self.build_with(abi::CREATE_RSI, "no-device", scenario, 1, Vec::new())
        else {
            return;
        };
        run::admit(Arc::clone(&vm));
        let heard = |word: &str| {
            run::until(PATIENCE, || vm.said(word).is_some() || vm.end() != end::NOT_YET);
            vm.said(word).is_some()
        };
        if heard("@guest secret planted=yes") {
            self.reach_for_secret(&vm);
        }
        if heard("@guest lend state=shared") {
            self.hold_on_to(&vm, true);
        }
        if !run::until(LIFE, || vm.end() != end::NOT_YET) || vm.said("@guest result=pass").is_none()
        {
            self.fail("the realm did not say that all is well");
        }
        run::retire(&vm);
        self.report_told(&vm);
        self.bury(vm);
    }

    /// Reports what a guest told of its own attempts, in its name.
    pub(super) fn report_told(&mut self, vm: &Vm) {
        let told: Vec<Finding> =
            vm.words.lock().iter().filter_map(|line| guest_finding(line)).collect();
        if told.is_empty() {
            self.fail("the hostile guest attacked nothing");
        }
        self.report_all(told);
    }

    /// Act three, third guest: it spins with its marker in every register, and
    /// is mistreated in all ways that need a guest that lives.
    pub(super) fn spinning(&mut self) {
        let Some(vm) = self.raise("spin", "@guest ready") else { return };
        let mut findings = Vec::from([attacks::registers::after_exits(&vm, EXITS)]);
        findings.extend(attacks::interrupts::all(&vm));
        self.with_building(&vm, &mut findings);
        self.report_all(findings);
        run::retire(&vm);
        self.report(attacks::vcpus::dying(&vm));
        self.bury(vm);
    }

    /// C10, C11: two guests and the host with patterns in all their registers,
    /// in turns on one CPU.
    pub(super) fn registers(&mut self) {
        let mut build =
            |who: u64| self.build("bounce-bar", &format!("registers who={who}"), 1, Vec::new());
        let (Some(one), Some(other)) = (build(0), build(1)) else { return };
        let findings = attacks::scan::all([&one, &other]);
        self.report_all(findings);
        for vm in [one, other] {
            run::retire(&vm);
            self.bury(vm);
        }
    }

    /// A guest that debugs itself, at whose code and data the host aims its own
    /// breakpoints and watchpoints meanwhile.
    pub(super) fn debugging(&mut self) {
        let Some(vm) = self.raise("debug", "@guest debug code=") else { return };
        let words = vm.said("@guest debug ").unwrap_or_default();
        let place = |key| {
            let hex = rt::dt::argument(&words, key).and_then(|word| word.strip_prefix("0x"));
            hex.and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0)
        };
        let aimed = attacks::debug::aim(place("code"), place("data"));
        let early = vm.said("@guest debug quiet").is_some();
        run::until(PATIENCE, || vm.end() != end::NOT_YET);
        let told = vm.said("@guest debug quiet");
        self.report(attacks::debug::judge(aimed, early, told));
        run::retire(&vm);
        self.bury(vm);
    }

    /// The attacks that need a guest that is still being built.
    fn with_building(&mut self, vm: &Arc<Vm>, findings: &mut Vec<Finding>) {
        let plan = Plan {
            on_demand: 2 * RACE_PAGES,
            devices: Vec::from([DevicePlan::Console(FEW_PAGES)]),
            ..payload(&[])
        };
        let building = match Vm::begin(&FREE, plan) {
            Ok(building) => building,
            Err(problem) => return self.fail(&format!("cannot begin a guest: {problem}")),
        };
        let spare = FREE.lock().take(1, 1);
        if let (Some(own), Some(lent), Some(bouncer)) =
            (spare, building.lent_frame(), self.bouncer.first())
        {
            let targets = donation::Targets {
                building: &building,
                foreign: vm.ram.pfn,
                bouncer: *bouncer,
                firmware: self.firmware.first().copied(),
                lent,
                own: own.pfn,
            };
            findings.extend(donation::donations(&targets));
            findings.extend(donation::other_uses(&targets));
            findings.extend(attacks::calls::all(building.handle.0, vm.handle.0, own.pfn));
            FREE.lock().give(own);
        }
        let first = building.ram.count - 2 * RACE_PAGES;
        match attacks::race::donation(&building, first, RACE_PAGES) {
            Some(finding) => findings.push(finding),
            None => println!("host: C3 needs two CPUs: not tried"),
        }
        // The slot's next life, which has not begun.
        let unborn = Handle(building.handle.0 + (1 << 8));
        findings.extend(attacks::vcpus::wrong_ones(vm, &building, unborn));
        findings.push(attacks::vcpus::stays(vm));
        match attacks::vcpus::twice_at_once(vm) {
            Some(finding) => findings.push(finding),
            None => println!("host: C11 on two CPUs needs two CPUs: not tried"),
        }
        self.bury(Arc::new(building));
    }

    /// Act four: a guest that attacks. What it tells of its own attempts is
    /// reported in its name.
    pub(super) fn hostile(&mut self, policy: &str) {
        let disk = self.disk.take().map(|disk| DevicePlan::Disk(disk, BOUNCE_PAGES));
        // The bus is full: what a device is told must be no other's.
        let others = (1..abi::MAX_DEVICES as u8).map(|seed| DevicePlan::Entropy(Vec::from([seed])));
        let devices: Vec<_> = disk.into_iter().chain(others).collect();
        let count = devices.len();
        let Some(vm) = self.build(policy, "hostile", 1, devices) else { return };
        run::admit(Arc::clone(&vm));
        if !run::until(LIFE, || vm.end() != end::NOT_YET) {
            self.fail("the hostile guest did not end");
        }
        if vm.said(&format!("@guest devices={count}")).is_none() {
            self.fail("the hostile guest did not find all its devices");
        }
        run::retire(&vm);
        self.report_told(&vm);
        self.bury(vm);
    }
}

impl Stage<'_> {
    /// H rows: guests whose disk lies. Whatever a guest makes of that, it must
    /// end by its own decision, without a panic, and keep its memory to
    /// itself.
    pub(super) fn lies(&mut self) {
        for lie in Lie::ALL {
            let disk = self.disk.take().map(|disk| DevicePlan::Disk(disk, BOUNCE_PAGES));
            let devices = disk.into_iter().collect();
            let Some(vm) = self.build("bounce-bar", "story", 1, devices) else { return };
            for device in &vm.devices {
                device.lock().lie = Some(lie);
            }
            run::admit(Arc::clone(&vm));
            let ended = run::until(LIFE, || vm.end() != end::NOT_YET);
            let probe = attacks::memory::reach(vm.ram.pfn, Owner::Guest, "the guest");
            run::retire(&vm);
            let kept = probe.iter().all(|finding| finding.outcome == GOOD);
            let (outcome, detail) = match (ended, vm.end(), vm.said("@panic"), kept) {
                (_, _, Some(panic), _) => ("panic", panic),
                (false, ..) => ("hung", String::from("the guest did not end")),
                (_, end::OFF, None, true) => (GOOD, self.verdict(&vm)),
                _ => ("broken", String::from("the guest died, or its memory was open")),
            };
            let what = format!("as a disk: {}", lie.words());
            self.report(Finding { id: lie.id(), what, outcome, detail });
            self.bury(vm);
        }
    }

    fn verdict(&self, vm: &Vm) -> String {
        let result = vm.said("@guest result=").unwrap_or_default();
        format!("the guest ended itself, result {result}; its memory is still closed")
    }
}

/// I3: so many exits, most of which ask for no answer, got one all the same.
/// That the guest goes on as if nothing had been said, it says afterwards.
fn forged_replies(count: u64) -> Finding {
    let what = "answer what the guest did not ask".into();
    let (outcome, detail) = match count {
        0 => ("not-tried", String::from("the guest did not exit")),
        _ => (GOOD, format!("{count} exits answered; no register of the guest changed")),
    };
    Finding { id: "I3.reply", what, outcome, detail }
}

/// The value of `page=` or `ipa=` among a guest's words.
pub(super) fn page_in(words: &str) -> Option<u64> {
    let value = ["page", "ipa"].iter().find_map(|key| rt::dt::argument(words, key))?;
    u64::from_str_radix(value.strip_prefix("0x")?, 16).ok()
}

/// An attempt that a guest tells of: `@guest attack id= what= outcome=`.
fn guest_finding(line: &str) -> Option<Finding> {
    let words = line.strip_prefix("@guest attack ")?;
    let ids =
        ["G1", "G2", "G3.bounce", "G3.memory", "G4", "G5", "G6.table", "G6.changing", "C20.race"];
    let id = ids.into_iter().find(|id| rt::dt::argument(words, "id") == Some(id))?;
    let what = rt::dt::argument(words, "what")?.replace('-', " ");
    let refused = rt::dt::argument(words, "outcome") == Some(GOOD);
    let outcome = if refused { GOOD } else { "allowed" };
    Some(Finding { id, what, outcome, detail: "told by the guest, which goes on".into() })
}
