//! What happens, in order.
//!
//! Act one: the host alone attacks what it can reach without a guest. Act two:
//! a guest uses its disk through the bounce BAR, another through shared pages,
//! a third through device memory, a fourth through an I/O table. Act three: guests that keep a secret, lend a page and spin, while
//! the host attacks them; guests that keep patterns in all their registers. Act four: a hostile guest. Act five: a guest with I/O
//! tables attacks, and is attacked. Act six: a realm, which
//! does all three. After each guest its memory must come back wiped.

mod acts;
mod behind_smmu;
pub(super) mod dma;
mod measured;
mod survey;
mod tables;

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use host::bootargs::Options;
use host::bouncer::Handle;
use hyp::abi;
use rt::{println, psci};

use super::bench;
use super::calls::BOUNCER;
use super::machine::Machine;
use super::report::{self, Finding, GOOD};
use super::run::FREE;
use super::vm::{DevicePlan, FEW_PAGES, Input, Part, Plan, Shown, TREE_ROOM, Vm, end};
use super::{attacks, clock, cpus, run, window};

/// RAM of a guest, in MiB.
const RAM_MIB: u64 = 16;
/// Last pages of a guest's RAM, that are donated when it touches them.
const ON_DEMAND: u64 = 64;
/// Pages of memory that a disk brings: 1 MiB.
const BOUNCE_PAGES: u64 = 256;
/// Pages that may be mapped for a disk at once.
const TABLE_PAGES: u64 = 1024;
/// How long a guest that nothing interrupts stays on its CPU, at least, in
/// milliseconds.
const AWHILE: u64 = 300;
/// Longest life of a guest, in milliseconds.
const LIFE: u64 = 120_000;

/// What the acts share.
struct Stage<'a> {
    machine: &'a Machine,
    options: Options<'a>,
    image: &'static [u8],
    /// The disk, while no guest has it.
    disk: Option<&'static mut [u8]>,
    /// A frame of bouncer's in each piece of RAM that is not the host's.
    bouncer: Vec<u64>,
    /// Every frame that firmware keeps in the host's RAM.
    firmware: Vec<u64>,
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
    let Some((image, disk)) = survey::split_ramdisk(ramdisk) else {
        println!("host: the ramdisk has no guest.img");
        return false;
    };
    let mut stage = Stage {
        bouncer: survey::bouncer_frames(&machine),
        firmware: attacks::reserved::frames(&machine),
        machine: &machine,
        options,
        image,
        disk,
        passed: true,
    };
    stage.play();
    stage.finish()
}
impl Stage<'_> {
    fn play(&mut self) {
        if self.options.scenario.starts_with("leave-") {
            return self.leave();
        }
        if self.options.scenario == "bench" {
            self.passed &= bench::measure();
            self.guest("shadow-iommu", "bench");
            return;
        }
        if self.options.scenario == "lies" {
            return self.lies();
        }
        if self.options.scenario == "smmu" {
            return self.behind_smmu();
        }
        if self.options.scenario == "dma" {
            return self.dma();
        }
        if self.options.scenario == "registers" {
            return self.registers();
        }
        if self.options.scenario == "tables" {
            return self.tables();
        }
        if self.options.scenario != "story" {
            let policy = self.options.policies().next().unwrap_or("bounce-bar");
            self.guest(policy, self.options.scenario);
            return;
        }
        self.alone();
        for policy in self.options.policies() {
            self.guest(policy, "story");
        }
        if self.options.attacks != "none" {
            self.measured();
            self.secrets();
            self.lent();
            self.spinning();
            self.registers();
            self.debugging();
            self.hostile("bounce-bar");
            self.hostile("device-memory");
            self.tables();
            self.realm();
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

    /// Builds a guest.
    fn build(
        &mut self,
        policy: &str,
        scenario: &str,
        vcpus: u64,
        devices: Vec<DevicePlan>,
    ) -> Option<Arc<Vm>> {
        self.build_with(0, policy, scenario, vcpus, devices)
    }

    /// The same, with flags of VM_CREATE.
    fn build_with(
        &mut self,
        flags: u64,
        policy: &str,
        scenario: &str,
        vcpus: u64,
        devices: Vec<DevicePlan>,
    ) -> Option<Arc<Vm>> {
        let (policy_number, dma) = match policy {
            "shared-pages" => (abi::POLICY_SHARED_PAGES, "shared"),
            "device-memory" => (abi::POLICY_DEVICE_MEMORY, "memory"),
            "shadow-iommu" => (abi::POLICY_SHADOW_IOMMU, "iommu"),
            _ => (abi::POLICY_BOUNCE_BAR, "bounce"),
        };
        let mut bootargs = format!("scenario={scenario} dma={dma}");
        let options = &self.options;
        let passed_on = [("hash", options.hash), ("note", options.note), ("write", options.write)];
        for (name, value) in passed_on {
            if let Some(value) = value {
                bootargs += &format!(" {name}={value}");
            }
        }
        let plan =
            Plan { policy: policy_number, flags, vcpus, bootargs, devices, ..payload(self.image) };
        let vm = match Vm::build(&FREE, plan) {
            Ok(vm) => vm,
            Err(problem) => {
                self.fail(&format!("cannot build the guest: {problem}"));
                return None;
            }
        };
        let Some(digest) = vm.measurement() else {
            self.fail("the measurement is not that of what the guest was given");
            return Some(vm);
        };
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        println!("host: guest `{scenario}` ({policy}, {vcpus} vCPUs) measured sha256={digest}");
        Some(vm)
    }

    /// Act two: one guest from start to end.
    fn guest(&mut self, policy: &str, scenario: &str) {
        let pages = if policy == "shadow-iommu" { TABLE_PAGES } else { BOUNCE_PAGES };
        let disk = self.disk.take().map(|disk| DevicePlan::Disk(disk, pages));
        let devices = disk.into_iter().chain([DevicePlan::Console(FEW_PAGES)]).collect();
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
        bounced(policy, &vm);
        if vm.end() != end::OFF || vm.said("@guest result=pass").is_none() {
            self.fail(&format!("guest `{scenario}` ({policy}) did not say that all is well"));
        }
        self.bury(vm);
    }

    fn traffic(&self, run: &str, vm: &Vm) {
        for device in &vm.devices {
            for (name, value) in device.lock().backend.counters() {
                report::counter(run, name, value);
            }
        }
    }

    /// C9: powers the machine off, or resets it, while a guest holds secrets
    /// and the host has taken nothing back. Whoever looks at the memory
    /// afterwards must not find them; this program is gone by then. C18: the
    /// same while the guest is on another CPU, and while somebody outside
    /// breaks bouncer.
    fn leave(&mut self) {
        let Some(vm) = self.raise("spin", "@guest ready") else { return };
        let scenario = self.options.scenario;
        if scenario != "leave-off" && scenario != "leave-reset" && !send_out(&vm) {
            return self.fail("there is no second CPU that runs the guest");
        }
        println!("@host leaves={scenario}");
        match scenario {
            "leave-reset" | "leave-reset-out" => psci::reset(),
            "leave-break-out" => loop {
                // A call after another: each goes through all of bouncer.
                let _ = BOUNCER.version();
            },
            _ => psci::shutdown(),
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

    fn finish(self) -> bool {
        report::machine_counters();
        let (made, refused) = report::tally();
        println!("host: {refused} of {made} attempts refused");
        self.passed && refused == made
    }
}

/// The plan of a guest of this story, with nothing special about it.
fn payload(image: &[u8]) -> Plan<'_> {
    Plan {
        image: Part { at: TREE_ROOM, bytes: image },
        initrd: Part { at: 0, bytes: &[] },
        dma_pool: 0,
        on_demand: ON_DEMAND,
        flags: 0,
        check_measurement: true,
        shown: Shown::AsLines,
        input: Input::Uart,
        vcpus: 1,
        ram_mib: RAM_MIB,
        bootargs: String::new(),
        policy: abi::POLICY_BOUNCE_BAR,
        devices: Vec::new(),
    }
}

/// What the guest's own DMA layer counted: bytes copied and calls made.
fn bounced(run: &str, vm: &Vm) {
    let Some(words) = vm.said("@guest dma ") else { return };
    for (key, name) in [
        ("bytes_in", "bytes_copied_to_device"),
        ("bytes_out", "bytes_copied_from_device"),
        ("hypercalls", "dma_hypercalls"),
    ] {
        let value = rt::dt::argument(&words, key).and_then(|value| value.parse().ok());
        if let Some(value) = value {
            report::counter(run, name, value);
        }
    }
}

fn load(counter: &core::sync::atomic::AtomicU64) -> u64 {
    counter.load(core::sync::atomic::Ordering::Relaxed)
}

/// Runs the guest on CPU 1 and leaves it there: nothing interrupts it. False if
/// there is no such CPU.
fn send_out(vm: &Vm) -> bool {
    static ENTRIES: AtomicU64 = AtomicU64::new(0);
    let handle = vm.handle;
    let given = cpus::give(1, move || {
        loop {
            cpus::take_interrupts();
            ENTRIES.fetch_add(1, Ordering::Relaxed);
            if BOUNCER.vcpu_run(handle, 0, 0).is_err() {
                return;
            }
        }
    });
    // It is in when it has not come out for a while.
    let quiet = || {
        let before = ENTRIES.load(Ordering::Relaxed);
        clock::spin_until(AWHILE, || false);
        before > 0 && ENTRIES.load(Ordering::Relaxed) == before
    };
    given && clock::spin_until(LIFE, quiet) && !cpus::finished(1)
}
