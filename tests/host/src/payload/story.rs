//! What happens, in order.
//!
//! Act one: the host alone attacks what it can reach without a guest. Act two:
//! a guest uses its disk through the bounce BAR, then another through shared
//! pages. Act three: guests that keep a secret, lend a page and spin, while
//! the host attacks them. Act four: a hostile guest. After each guest its
//! memory must come back wiped.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use host::bootargs::Options;
use host::bouncer::Handle;
use hyp::abi;
use rt::{cpio, println};

use super::attacks::{self, Owner, donation};
use super::calls::BOUNCER;
use super::machine::Machine;
use super::report::{self, Finding, GOOD};
use super::run::FREE;
use super::vm::{DevicePlan, Plan, Vm, end};
use super::{clock, cpus, run, window};

/// RAM of a guest, in MiB.
const RAM_MIB: u64 = 16;
/// Pages of a disk's bounce BAR: 1 MiB.
const BOUNCE_PAGES: u64 = 256;
/// Longest life of a guest, in milliseconds.
const LIFE: u64 = 120_000;
/// Longest wait for a word from a guest, in milliseconds.
const PATIENCE: u64 = 20_000;
/// Exits looked at for left-over register values.
const EXITS: usize = 64;
/// Pages of the guest that is never finalised, given away one by one.
const RACE_PAGES: u64 = 32;

/// What the acts share.
struct Stage<'a> {
    machine: &'a Machine,
    options: Options<'a>,
    image: &'static [u8],
    /// The disk, while no guest has it.
    disk: Option<&'static mut [u8]>,
    /// A frame of bouncer's in each piece of RAM that is not the host's.
    bouncer: Vec<u64>,
    passed: bool,
}

/// Plays everything the command line asks for; true if all went well.
pub(super) fn tell(mut machine: Machine) -> bool {
    let line = machine.command_line;
    let options = match Options::parse(line) {
        Ok(options) => options,
        Err(word) => {
            println!("host: the command line's `{word}` makes no sense");
            return false;
        }
    };
    let Ok(version) = BOUNCER.version() else {
        println!("host: no bouncer answers: start this image with bouncer below it");
        return false;
    };
    println!(
        "host: {} CPUs behind stage 2 of bouncer ABI {}.{}",
        cpus::count(),
        version >> 16,
        version & 0xffff
    );
    *FREE.lock() = machine.free_frames();
    let ramdisk = machine.take_ramdisk();
    let Some((image, disk)) = split_ramdisk(ramdisk) else {
        println!("host: the ramdisk has no guest.img");
        return false;
    };
    let mut stage = Stage {
        bouncer: bouncer_frames(&machine),
        machine: &machine,
        options,
        image,
        disk,
        passed: true,
    };
    stage.play();
    stage.finish()
}

/// The guest's image, and the disk behind it.
fn split_ramdisk(ramdisk: &'static mut [u8]) -> Option<(&'static [u8], Option<&'static mut [u8]>)> {
    let start = ramdisk.as_ptr() as usize;
    let place =
        |name| cpio::find(ramdisk, name).map(|data| (data.as_ptr() as usize - start, data.len()));
    let (image_at, image_length) = place("guest.img")?;
    let Some((disk_at, disk_length)) = place("disk.img") else {
        let image: &'static [u8] = ramdisk;
        return Some((image.get(image_at..image_at + image_length)?, None));
    };
    // Two parts of one archive: whichever comes second begins the tail.
    if image_at < disk_at {
        let (head, tail) = ramdisk.split_at_mut_checked(disk_at)?;
        let head: &'static [u8] = head;
        Some((head.get(image_at..image_at + image_length)?, tail.get_mut(..disk_length)))
    } else {
        let (head, tail) = ramdisk.split_at_mut_checked(image_at)?;
        let tail: &'static [u8] = tail;
        Some((tail.get(..image_length)?, head.get_mut(disk_at..disk_at + disk_length)))
    }
}

/// First and last frame of each gap in the host's RAM, and the frames around
/// its end: what is RAM and not the host's is bouncer's.
fn bouncer_frames(machine: &Machine) -> Vec<u64> {
    let mut banks: Vec<_> = machine.ram.iter().collect();
    banks.sort_by_key(|bank| bank.start);
    let mut frames = Vec::new();
    for pair in banks.windows(2) {
        if let [low, high] = pair
            && low.end < high.start
        {
            frames.extend([low.end as u64 >> 12, (high.start as u64 >> 12) - 1]);
        }
    }
    if let (Some(first), Some(last)) = (banks.first(), banks.last()) {
        frames.extend([(first.start as u64 >> 12) - 1, last.end as u64 >> 12]);
    }
    frames.dedup();
    frames.retain(|pfn| is_bouncers(*pfn));
    frames
}

/// Asks the event log whose a frame is.
fn is_bouncers(pfn: u64) -> bool {
    attacks::drain_events();
    let refused = rt::attempt::try_read_u64(pfn << 12).is_err();
    refused && attacks::drain_events().iter().any(|event| event.owner == 1)
}

impl Stage<'_> {
    fn play(&mut self) {
        if self.options.scenario != "story" {
            let policy = if self.options.bounce { "bounce-bar" } else { "shared-pages" };
            self.guest(policy, self.options.scenario);
            return;
        }
        self.alone();
        if self.options.bounce {
            self.guest("bounce-bar", "story");
        }
        if self.options.shared {
            self.guest("shared-pages", "story");
        }
        if self.options.attacks != "none" {
            self.secrets();
            self.lent();
            self.spinning();
            self.hostile();
        }
    }

    /// Notes that something must not have happened.
    fn fail(&mut self, why: &str) {
        println!("host: FAILED: {why}");
        self.passed = false;
    }

    fn report(&mut self, finding: Finding) {
        let row = finding.id.split('.').next().unwrap_or(finding.id);
        if self.options.attacks(row) {
            report::attack(&finding);
            self.passed &= finding.outcome == GOOD;
        }
    }

    fn report_all(&mut self, findings: impl IntoIterator<Item = Finding>) {
        findings.into_iter().for_each(|finding| self.report(finding));
    }

    /// Act one.
    fn alone(&mut self) {
        if self.options.attacks == "none" {
            return;
        }
        println!("host: tries what it can reach without any guest");
        self.check_tools();
        let options = self.options;
        self.report_all(attacks::devices::doors(|row| options.attacks(row)));
        for pfn in self.bouncer.clone() {
            let place = format!("bouncer's memory at {:#x}", pfn << 12);
            self.report_all(attacks::memory::reach(pfn, Owner::Bouncer, &place));
        }
        let Some(first) = self.bouncer.first().copied() else {
            return self.fail("no memory of bouncer's was found to attack");
        };
        self.report_all(attacks::devices::lpi_tables(self.machine.gicr, first << 12));
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

    /// Builds a guest.
    fn build(
        &mut self,
        policy: &str,
        scenario: &str,
        vcpus: u64,
        devices: Vec<DevicePlan>,
    ) -> Option<Arc<Vm>> {
        let shared = policy == "shared-pages";
        let mut bootargs =
            format!("scenario={scenario} dma={}", if shared { "shared" } else { "bounce" });
        for (name, value) in [("hash", self.options.hash), ("note", self.options.note)] {
            if let Some(value) = value {
                bootargs += &format!(" {name}={value}");
            }
        }
        let plan = Plan {
            image: self.image,
            vcpus,
            ram_mib: RAM_MIB,
            bootargs,
            policy: if shared { abi::POLICY_SHARED_PAGES } else { abi::POLICY_BOUNCE_BAR },
            devices,
        };
        let vm = match Vm::build(&FREE, plan) {
            Ok(vm) => vm,
            Err(problem) => {
                self.fail(&format!("cannot build the guest: {problem}"));
                return None;
            }
        };
        let digest = BOUNCER.vm_measurement(vm.handle).unwrap_or_default();
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        println!("host: guest `{scenario}` ({policy}, {vcpus} vCPUs) measured sha256={digest}");
        Some(vm)
    }

    /// Act two: one guest from start to end.
    fn guest(&mut self, policy: &str, scenario: &str) {
        let disk = self.disk.take().map(|disk| DevicePlan::Disk(disk, BOUNCE_PAGES));
        let devices = disk.into_iter().chain([DevicePlan::Console]).collect();
        let Some(vm) = self.build(policy, scenario, self.options.vcpus, devices) else { return };
        let (exits, refused) = (load(&run::EXITS), load(&window::REFUSED));
        run::admit(Arc::clone(&vm));
        let start = clock::now();
        if !run::until(LIFE, || vm.end() != end::NOT_YET) {
            self.fail(&format!("guest `{scenario}` did not end"));
        }
        let micros = (clock::now() - start) / (rt::timer::frequency() / 1_000_000).max(1);
        run::retire(&vm);
        report::vm_counters(policy, vm.handle);
        report::counter(policy, "host_vcpu_runs", load(&run::EXITS) - exits);
        report::counter(policy, "host_backend_faults", load(&window::REFUSED) - refused);
        report::counter(policy, "microseconds", micros);
        self.traffic(policy, &vm);
        if vm.end() != end::OFF || vm.said("@guest result=pass").is_none() {
            self.fail(&format!("guest `{scenario}` ({policy}) did not say that all is well"));
        }
        self.bury(vm);
    }

    fn traffic(&self, run: &str, vm: &Vm) {
        for traffic in vm.devices.iter().filter_map(|device| device.lock().traffic()) {
            report::counter(run, "disk_requests", traffic.requests);
            report::counter(run, "disk_bytes_read", traffic.bytes_read);
            report::counter(run, "disk_bytes_written", traffic.bytes_written);
            report::counter(run, "disk_errors", traffic.errors);
        }
    }

    /// Takes a guest down: C5, and the disk comes back. Gives its handle,
    /// which names nothing now.
    fn bury(&mut self, vm: Arc<Vm>) -> Option<Handle> {
        let handle = vm.handle;
        match vm.tear_down(&FREE) {
            Ok(remains) => {
                let (outcome, detail) = match remains.leftover {
                    None => (GOOD, format!("{} frames came back, all zero", remains.frames)),
                    Some(pfn) => ("leaked", format!("frame {pfn:#x} is not zero")),
                };
                let what = "read what a guest left in its frames".into();
                self.report(Finding { id: "C5.leftovers", what, outcome, detail });
            }
            Err(problem) => {
                self.fail(&format!("a guest cannot be taken down: {problem}"));
                return None;
            }
        }
        match Arc::try_unwrap(vm) {
            Ok(vm) => self.disk = vm.into_disks().pop().or(self.disk.take()),
            Err(_) => self.fail("somebody still holds a guest that is gone"),
        }
        Some(handle)
    }

    /// Act three, first guest: it keeps a secret while the host reaches for it.
    fn secrets(&mut self) {
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
        let early = vm.count_said("@guest secret intact=") == 0;
        run::until(PATIENCE, || vm.end() != end::NOT_YET);
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
    fn raise(&mut self, scenario: &str, word: &str) -> Option<Arc<Vm>> {
        let vm = self.build("bounce-bar", scenario, 1, Vec::from([DevicePlan::Console]))?;
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
    fn lent(&mut self) {
        let Some(vm) = self.raise("lend", "@guest lend state=shared") else { return };
        self.hold_on_to(&vm);
        run::retire(&vm);
        self.bury(vm);
    }

    fn hold_on_to(&mut self, vm: &Vm) {
        let page = vm.said("@guest lend state=shared").and_then(|words| page_in(&words));
        let Some(pfn) = page.and_then(|ipa| vm.frame_of(ipa)) else {
            return self.fail("the guest did not say which page it lent");
        };
        if !attacks::lent::warm_up(pfn) {
            self.fail("a page that a guest lent cannot be read on every CPU");
        }
        run::until(PATIENCE, || vm.said("@guest lend state=returned").is_some());
        let findings = attacks::lent::after_return(pfn);
        run::until(PATIENCE, || vm.end() != end::NOT_YET);
        if vm.said("@guest lend state=checked stable=yes").is_none() {
            self.fail("the page changed after the guest took it back");
        }
        self.report_all(findings);
    }

    /// Act three, third guest: it spins with its marker in every register, and
    /// is mistreated in all ways that need a guest that lives.
    fn spinning(&mut self) {
        let Some(vm) = self.raise("spin", "@guest ready") else { return };
        let mut findings = Vec::from([attacks::registers::after_exits(&vm, EXITS)]);
        findings.extend(attacks::interrupts::all(&vm));
        self.with_building(&vm, &mut findings);
        self.report_all(findings);
        run::retire(&vm);
        self.report(attacks::vcpus::dying(&vm));
        self.bury(vm);
    }

    /// The attacks that need a guest that is still being built.
    fn with_building(&mut self, vm: &Arc<Vm>, findings: &mut Vec<Finding>) {
        let plan = Plan {
            image: &[],
            vcpus: 1,
            ram_mib: RAM_MIB,
            bootargs: String::new(),
            policy: abi::POLICY_BOUNCE_BAR,
            devices: Vec::from([DevicePlan::Console]),
        };
        let building = match Vm::begin(&FREE, plan, 2 * RACE_PAGES) {
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
        match attacks::vcpus::twice_at_once(vm) {
            Some(finding) => findings.push(finding),
            None => println!("host: C11 on two CPUs needs two CPUs: not tried"),
        }
        self.bury(Arc::new(building));
    }

    /// Act four: a guest that attacks. What it tells of its own attempts is
    /// reported in its name.
    fn hostile(&mut self) {
        let disk = self.disk.take().map(|disk| DevicePlan::Disk(disk, BOUNCE_PAGES));
        let devices = disk.into_iter().collect();
        let Some(vm) = self.build("bounce-bar", "hostile", 1, devices) else { return };
        run::admit(Arc::clone(&vm));
        if !run::until(LIFE, || vm.end() != end::NOT_YET) {
            self.fail("the hostile guest did not end");
        }
        run::retire(&vm);
        let told: Vec<Finding> =
            vm.words.lock().iter().filter_map(|line| guest_finding(line)).collect();
        if told.is_empty() {
            self.fail("the hostile guest attacked nothing");
        }
        self.report_all(told);
        self.bury(vm);
    }

    fn finish(self) -> bool {
        report::machine_counters();
        let (made, refused) = report::tally();
        println!("host: {refused} of {made} attempts refused");
        self.passed && refused == made
    }
}

/// The value of `page=` or `ipa=` among a guest's words.
fn page_in(words: &str) -> Option<u64> {
    let value = ["page", "ipa"].iter().find_map(|key| rt::dt::argument(words, key))?;
    u64::from_str_radix(value.strip_prefix("0x")?, 16).ok()
}

/// An attempt that a guest tells of: `@guest attack id= what= outcome=`.
fn guest_finding(line: &str) -> Option<Finding> {
    let words = line.strip_prefix("@guest attack ")?;
    let id = ["G1", "G2", "G3", "G4", "G5"]
        .into_iter()
        .find(|id| rt::dt::argument(words, "id") == Some(id))?;
    let what = rt::dt::argument(words, "what")?.replace('-', " ");
    let refused = rt::dt::argument(words, "outcome") == Some(GOOD);
    let outcome = if refused { GOOD } else { "allowed" };
    Some(Finding { id, what, outcome, detail: "told by the guest, which goes on".into() })
}

fn load(counter: &core::sync::atomic::AtomicU64) -> u64 {
    counter.load(core::sync::atomic::Ordering::Relaxed)
}
