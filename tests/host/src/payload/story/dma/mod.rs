//! The scenario `dma`: one guest that shows a DMA system, or measures it.
//!
//! `mode=` names the system and `part=` what is done (`show`, `measure`); both
//! are passed to the guest, which does most of it. What only a host can do or
//! know, the guest asks of it by a doorbell (`deeds`).

mod counts;
pub(in crate::payload) mod deeds;
mod watch;

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
    /// The guests that show it, one after the other.
    guests: &'static [Guest],
}

/// A guest.
struct Guest {
    /// `guest=`: which of the mode's it is.
    name: &'static str,
    /// VM_CREATE's flags.
    flags: u64,
}

const ONE: &[Guest] = &[Guest { name: "only", flags: 0 }];

/// Four kinds of guest that meet a device which does not say whose memory it
/// takes.
const FOUR: &[Guest] = &[
    Guest { name: "secure", flags: abi::CREATE_SHARE_ZEROES },
    Guest { name: "naive", flags: 0 },
    Guest { name: "normal", flags: 0 },
    Guest { name: "realm", flags: abi::CREATE_RSI },
];

const MODES: [Mode; 14] = [
    Mode { name: "bounce-bar", policy: abi::POLICY_BOUNCE_BAR, dma: "bounce", guests: ONE },
    Mode { name: "device-memory", policy: abi::POLICY_DEVICE_MEMORY, dma: "memory", guests: ONE },
    Mode { name: "shared-pool", policy: abi::POLICY_SHARED_PAGES, dma: "shared", guests: ONE },
    Mode { name: "shared-each", policy: abi::POLICY_SHARED_PAGES, dma: "shared-each", guests: ONE },
    Mode { name: "shared-pages", policy: abi::POLICY_SHARED_PAGES, dma: "shared", guests: ONE },
    Mode { name: "legacy-no-platform", policy: abi::POLICY_LEGACY, dma: "shared", guests: FOUR },
    Mode { name: "unprotected", policy: abi::POLICY_LEGACY, dma: "any", guests: ONE },
    Mode { name: "iommu-strict", policy: IOMMU, dma: "iommu-strict", guests: ONE },
    Mode { name: "iommu-lazy", policy: IOMMU, dma: "iommu-lazy", guests: ONE },
    Mode { name: "iommu-naive", policy: IOMMU, dma: "iommu-naive", guests: ONE },
    Mode { name: "iommu-kept", policy: IOMMU, dma: "iommu-kept", guests: ONE },
    // A driver of their own has the disk.
    Mode { name: "host-bypass", policy: abi::POLICY_LEGACY, dma: "none", guests: ONE },
    Mode { name: "host-platform", policy: IOMMU, dma: "none", guests: ONE },
    Mode { name: "host-choice", policy: abi::POLICY_GUEST_CHOICE, dma: "none", guests: ONE },
];
const IOMMU: u64 = abi::POLICY_SHADOW_IOMMU;

/// RAM of the guest, in MiB: sixteen requests of 256 KiB are in flight, in
/// private memory and once more where the device sees them.
const RAM_MIB: u64 = 32;
/// Pages for data of sixteen such requests, their rings and headers, and for
/// gaps between them: what a disk brings, and what a pool has.
const PAGES: u64 = 1280;
/// The budget of a device behind a table.
const BUDGET: u64 = 8192;
/// What a guest sets aside beyond that, if a measured device works in its own
/// pages: for rings that are in no pool, and, with each buffer in pages of its
/// own, for headers.
const MORE: u64 = 32;
const MORE_FOR_EACH: u64 = 128;

impl Stage<'_> {
    /// Runs the guest of the mode that the command line names.
    pub(super) fn dma(&mut self) {
        let word = |name| rt::dt::argument(self.machine.command_line, name);
        let name = word("mode").unwrap_or_default();
        let part = word("part").unwrap_or("show");
        let Some(mode) = MODES.iter().find(|mode| mode.name == name) else {
            return self.fail(&format!("there is no DMA mode `{name}`"));
        };
        let most = if part == "measure" { 1 } else { mode.guests.len() };
        mode.guests.iter().take(most).for_each(|guest| self.show(mode, guest, part));
    }

    fn show(&mut self, mode: &Mode, guest: &Guest, part: &str) {
        let Some(disk) = self.disk.take() else { return self.fail("there is no disk") };
        let (name, dma) = (mode.name, mode.dma);
        let measured = part == "measure";
        let mut bootargs =
            format!("scenario=dma mode={name} part={part} dma={dma} guest={}", guest.name);
        for word in ["hash", "note", "write"] {
            if let Some(value) = rt::dt::argument(self.machine.command_line, word) {
                bootargs += &format!(" {word}={value}");
            }
        }
        if measured {
            let more = if dma == "shared-each" { MORE_FOR_EACH } else { MORE };
            bootargs += &format!(" pages={}", PAGES + more);
            if rt::dt::argument(self.machine.command_line, "map").is_some() {
                bootargs += " map=yes";
            }
        }
        // Behind a table it is the most that may be mapped.
        let device_pages = if measured && mode.policy == IOMMU { BUDGET } else { PAGES };
        let plan = Plan {
            policy: mode.policy,
            flags: guest.flags,
            ram_mib: RAM_MIB,
            on_demand: 0,
            bootargs,
            devices: vec![DevicePlan::Disk(disk, device_pages)],
            ..payload(self.image)
        };
        match Vm::build(&FREE, plan) {
            Ok(vm) => {
                if measured {
                    rt::println!("@host dma ram pages={}", vm.ram.count);
                }
                self.act(name, vm);
            }
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
