//! The scenario `dma`: one guest that shows a DMA system, or measures it.
//!
//! `mode=` names the system and `part=` what is done (`show`, `measure`); both
//! are passed to the guest, which does most of it. What only a host can do or
//! know, the guest asks of it by a doorbell (`deeds`).

pub(in crate::payload) mod deeds;

use alloc::format;
use alloc::sync::Arc;
use alloc::vec;

use hyp::abi;

use super::{LIFE, Stage, payload};
use crate::payload::run::{self, FREE};
use crate::payload::vm::{DevicePlan, Plan, Vm, end};

/// A system, as the host has to know it.
struct Mode {
    /// `mode=` of host and guest.
    name: &'static str,
    /// DEVICE_CREATE's policy.
    policy: u64,
    /// `dma=` of the guest: what it insists on.
    dma: &'static str,
}

const MODES: [Mode; 4] = [
    Mode { name: "bounce-bar", policy: abi::POLICY_BOUNCE_BAR, dma: "bounce" },
    Mode { name: "device-memory", policy: abi::POLICY_DEVICE_MEMORY, dma: "memory" },
    Mode { name: "shared-pool", policy: abi::POLICY_SHARED_PAGES, dma: "shared" },
    Mode { name: "shared-each", policy: abi::POLICY_SHARED_PAGES, dma: "shared-each" },
];

/// RAM of the guest, in MiB: sixteen requests of 256 KiB are in flight, in
/// private memory and once more where the device sees them.
const RAM_MIB: u64 = 32;
/// Pages of memory that the disk brings: 8 MiB.
const PAGES: u64 = 2048;

impl Stage<'_> {
    /// Runs the guest of the mode that the command line names.
    pub(super) fn dma(&mut self) {
        let word = |name| rt::dt::argument(self.machine.command_line, name);
        let name = word("mode").unwrap_or_default();
        let part = word("part").unwrap_or("show");
        let Some(mode) = MODES.iter().find(|mode| mode.name == name) else {
            return self.fail(&format!("there is no DMA mode `{name}`"));
        };
        let Some(disk) = self.disk.take() else { return self.fail("there is no disk") };
        let plan = Plan {
            policy: mode.policy,
            ram_mib: RAM_MIB,
            on_demand: 0,
            bootargs: format!("scenario=dma mode={name} part={part} dma={}", mode.dma),
            devices: vec![DevicePlan::Disk(disk, PAGES)],
            ..payload(self.image)
        };
        match Vm::build(&FREE, plan) {
            Ok(vm) => self.act(name, vm),
            Err(problem) => self.fail(&format!("cannot build the guest: {problem}")),
        }
    }

    fn act(&mut self, name: &str, vm: Arc<Vm>) {
        deeds::listen();
        run::admit(Arc::clone(&vm));
        if !run::until(LIFE, || vm.end() != end::NOT_YET) {
            self.fail(&format!("guest `{name}` did not end"));
        }
        run::retire(&vm);
        if vm.end() != end::OFF || vm.said("@guest result=pass").is_none() {
            self.fail(&format!("guest `{name}` did not say that all is well"));
        }
        self.bury(vm);
    }
}
