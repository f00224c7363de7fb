//! The scenario `smmu`: the host has functions that do DMA, behind an SMMU that
//! is EL2's.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use rt::println;

use super::acts::{PATIENCE, page_in};
use super::{Plan, Stage, payload};
use crate::payload::attacks::{self, Owner, dma::Tool};
use crate::payload::edu::Edu;
use crate::payload::run::{self, FREE};
use crate::payload::vm::{DevicePlan, FEW_PAGES, Vm, end};

/// Pages that are given to a guest while a function uses them, and how long
/// after it was told to, in milliseconds: it waits for 100.
const MOMENTS: [u64; 4] = [0, 30, 60, 90];
/// A page of the host's, to lie under a BAR: on a boundary of BARs.
const MIB: u64 = 256;

impl Stage<'_> {
    pub(super) fn behind_smmu(&mut self) {
        let Some(ecam) = self.machine.ecam else {
            return self.fail("the host has no PCIe: is there an SMMU?");
        };
        let functions = Edu::all(ecam as u64);
        println!("host: {} PCIe functions that do DMA", functions.len());
        let [edu, other] = functions.as_slice() else {
            return self.fail("there should be two functions");
        };
        let (Some(from), Some(to), Some(own)) = (take(1), take(1), take(MIB)) else {
            return self.fail("no memory for DMA");
        };
        let tool = Tool { edu, or: None, from, to };
        let second = Tool { edu: other, ..tool };
        if !tool.works() || !second.works() {
            return self.fail("a function cannot even reach the host's own memory");
        }
        println!("host: a function moves a page of the host's");

        for pfn in self.bouncer.clone() {
            let place = format!("bouncer's memory at {:#x}", pfn << 12);
            let ids = ["M3.smmu-el2-read", "M3.smmu-el2-write"];
            self.report_all(tool.reach(ids, pfn << 12, Owner::Bouncer, &place));
        }
        if let Some(pfn) = self.firmware.first().copied() {
            let ids = ["M3.smmu-firmware-read", "M3.smmu-firmware-write"];
            self.report_all(tool.reach(ids, pfn << 12, Owner::Firmware, "firmware's memory"));
        }
        self.report_all(attacks::dma::registers());
        for (address, place) in [
            (0x0905_0000, "the SMMU's registers"),
            (0x0809_0000, "the ITS's doorbell"),
            (0x0800_0000, "the interrupt distributor"),
            (ecam as u64, "configuration space"),
            (other.registers(), "another function's BAR"),
        ] {
            let ids = ["M4.smmu-dma-read", "M4.smmu-dma-write"];
            self.report_all(tool.reach(ids, address, Owner::Nobody, place));
        }
        self.with_secret(&tool, other);
        self.with_lent(&tool);
        self.in_use(&tool);
        self.report(attacks::dma::bar_over(other, "M8.smmu-bar-ram", own, None, "its own RAM"));
        for (address, place) in
            [(0x0905_0000, "the SMMU's registers"), (0x0902_0000, "fw_cfg's registers")]
        {
            let nobody = Some(Owner::Nobody);
            self.report(attacks::dma::bar_over(
                other,
                "M8.smmu-bar-device",
                address,
                nobody,
                place,
            ));
        }
        if let Some(pfn) = self.bouncer.first() {
            let (at, whose) = (pfn << 12, Some(Owner::Bouncer));
            self.report(attacks::dma::bar_over(other, "M8.smmu-bar-el2", at, whose, "bouncer"));
        }
        self.one_over_the_other(&tool, other);
        if !tool.works() || !second.works() {
            self.fail("after all that a function does not reach the host's own memory");
        }
    }

    /// A guest keeps a secret, and functions reach for it.
    fn with_secret(&mut self, tool: &Tool<'_>, other: &Edu) {
        // Long enough for some transfers of a tenth of a second each.
        let Some(vm) = self.raise("secrets secret_ms=6000", "@guest secret planted=yes") else {
            return;
        };
        let page = vm.said("@guest secret planted=yes").and_then(|words| page_in(&words));
        let Some(secret) = page.and_then(|ipa| vm.frame_of(ipa)) else {
            return self.fail("the guest did not say where its secret is");
        };
        let mut findings = Vec::new();
        let ids = ["M3.smmu-read", "M3.smmu-write"];
        for (pfn, owner, what) in [
            (secret, Owner::Guest, "the page with the secret"),
            (vm.ram.pfn + 512, Owner::Guest, "the guest's code"),
        ] {
            findings.extend(tool.reach(ids, pfn << 12, owner, what));
        }
        let ids = ["M3.smmu-table-read", "M3.smmu-table-write"];
        if let Some(pfn) = vm.table_frame() {
            findings.extend(tool.reach(ids, pfn << 12, Owner::Bouncer, "a page table"));
        }
        let (at, whose) = (secret << 12, Some(Owner::Guest));
        findings.push(attacks::dma::bar_over(other, "M8.smmu-bar-guest", at, whose, "a guest"));
        let looked = || vm.count_said("@guest secret intact=") != 0;
        let early = looked();
        run::until(PATIENCE, || looked() || vm.end() != end::NOT_YET);
        if early || vm.said("@guest secret intact=yes").is_none() {
            self.fail("the guest did not find its secret intact after the attacks");
            findings.iter_mut().for_each(|finding| finding.outcome = "unverified");
        }
        self.report_all(findings);
        let frames = [secret, vm.ram.pfn + 512];
        run::retire(&vm);
        self.bury(vm);
        for pfn in frames {
            if !tool.works_again(pfn) {
                self.fail("a function does not reach a frame that has come back");
            }
        }
    }

    /// A page that a guest lends is the host's CPUs' to see, and no function's.
    fn with_lent(&mut self, tool: &Tool<'_>) {
        let Some(vm) = self.raise("lend", "@guest lend state=shared") else { return };
        let page = vm.said("@guest lend state=shared").and_then(|words| page_in(&words));
        match page.and_then(|ipa| vm.frame_of(ipa)) {
            Some(pfn) => {
                let ids = ["M3.smmu-lent-read", "M3.smmu-lent-write"];
                let findings =
                    tool.reach(ids, pfn << 12, Owner::Guest, "a page that a guest lends");
                self.report_all(findings);
            }
            None => self.fail("the guest did not say which page it lent"),
        }
        run::retire(&vm);
        self.bury(vm);
    }

    /// Frames are given away while a function is about to write them.
    fn in_use(&mut self, tool: &Tool<'_>) {
        let pages = MOMENTS.len() as u64;
        let plan = Plan {
            on_demand: 2 * pages,
            devices: Vec::from([DevicePlan::Console(FEW_PAGES)]),
            ..payload(&[])
        };
        let building = match Vm::begin(&FREE, plan) {
            Ok(building) => building,
            Err(problem) => return self.fail(&format!("cannot begin a guest: {problem}")),
        };
        let first = building.ram.count - pages;
        for (page, wait) in (first..).zip(MOMENTS) {
            self.report(tool.donate_in_use(&building, page, wait));
        }
        let pfn = building.ram.pfn + first;
        self.bury(Arc::new(building));
        if !tool.works_again(pfn) {
            self.fail("a function does not reach a frame that has come back");
        }
    }

    /// M8: two BARs at one place are the host's own affair: nobody else's memory
    /// is there, and the SMMU does not ask BARs.
    fn one_over_the_other(&mut self, tool: &Tool<'_>, other: &Edu) {
        other.aim_bar(tool.edu.registers());
        let tool = Tool { or: Some(other), ..*tool };
        let ids = ["M8.smmu-bar-bar-read", "M8.smmu-bar-bar-write"];
        let at = self.bouncer.first().map_or(0, |pfn| pfn << 12);
        let findings = tool.reach(ids, at, Owner::Bouncer, "bouncer, with two BARs at one place");
        self.report_all(findings);
        other.reset_bar();
    }
}

/// Frames of the host's, as an address.
fn take(count: u64) -> Option<u64> {
    FREE.lock().take(count, count).map(|run| run.base())
}
