//! The act of the guest with I/O tables: it makes wrong ones, and the host
//! reaches for more than it is shown. The two go in step (`tests/guest`,
//! `payload/tables`).

#![allow(unsafe_code)]

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use hyp::layout;
use rt::attempt;

use super::acts::PATIENCE;
use super::{FEW_PAGES, Stage};
use crate::payload::attacks::windows;
use crate::payload::calls::BOUNCER;
use crate::payload::report::{Finding, GOOD};
use crate::payload::vm::{DevicePlan, Vm, end};
use crate::payload::{cpus, run};

/// Pages that may be mapped for its disk.
const BUDGET: u64 = 1200;
/// What the guest has put into the page that it shows.
const SHOWN: u64 = u64::from_le_bytes(*b"for them");
/// And into those of which it is killed.
const SECRET: u64 = u64::from_le_bytes(*b"not them");
/// Bytes of a page.
const PAGE: u64 = 4096;

/// The values of some words that a guest has said.
fn values<const N: usize>(words: &str, keys: [&str; N]) -> Option<[u64; N]> {
    let mut values = [0; N];
    for (value, key) in values.iter_mut().zip(keys) {
        let word = rt::dt::argument(words, key)?;
        *value = match word.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok()?,
            None => word.parse().ok()?,
        };
    }
    Some(values)
}

impl Stage<'_> {
    /// The whole act.
    pub(super) fn tables(&mut self) {
        let disk = self.disk.take().map(|disk| DevicePlan::Disk(disk, BUDGET));
        let devices = disk.into_iter().chain([DevicePlan::Console(FEW_PAGES)]).collect();
        let vcpus = (cpus::count() as u64).min(2);
        let Some(vm) = self.build("shadow-iommu", "tables", vcpus, devices) else { return };
        run::admit(Arc::clone(&vm));
        let played = self.windows(&vm);
        if !played {
            self.fail("the guest with I/O tables did not play its part");
        }
        run::retire(&vm);
        self.report_told(&vm);
        if played {
            self.dies_mapped(&vm);
        }
        self.bury(vm);
    }

    /// Waits for what it says at the beginning of a step.
    fn step<const N: usize>(&self, vm: &Vm, step: u64, keys: [&str; N]) -> Option<[u64; N]> {
        let start = format!("@guest tables step={step} ");
        let said = || vm.said(&start);
        run::until(PATIENCE, || said().is_some() || vm.end() != end::NOT_YET);
        values(&said()?, keys)
    }

    /// Steps one to three; false if the guest did not take them.
    fn windows(&mut self, vm: &Arc<Vm>) -> bool {
        let keys = ["device", "mail", "rw", "ro", "hole", "page"];
        let Some([device, mail, rw, ro, hole, page]) = self.step(vm, 1, keys) else {
            return false;
        };
        let Ok(info) = BOUNCER.queue_info(vm.handle, device, 0) else { return false };
        let here = |iova: u64| info.here + (iova - layout::APERTURE);
        let answer = |step| {
            // SAFETY: a page that the guest has mapped for its device to write.
            unsafe { attempt::try_write_u64(here(mail), step) }.is_ok()
        };
        let Some(pfn) = vm.frame_of(page) else { return false };
        if [rw, ro].iter().any(|iova| attempt::try_read_u64(here(*iova)) != Ok(SHOWN)) {
            self.fail("what the guest has mapped is not to be seen in the device's window");
        }
        if !windows::warm_up(here(rw)) {
            self.fail("a mapped page cannot be used on every CPU");
        }
        let mut findings = Vec::new();
        let last = layout::APERTURE + layout::APERTURE_SIZE - PAGE;
        for (iova, what) in [
            (hole, "the page behind a mapped one"),
            (hole + (2 << 20), "a page that has no table"),
            (last, "the last page of the window"),
            (last + PAGE, "the next device's window"),
        ] {
            findings.extend(windows::unmapped(here(iova), what));
        }
        findings.extend(windows::read_only(here(ro)));
        let free = (layout::RAM >> 12) + vm.ram.count - 1;
        findings.extend(windows::at_its_own_place(pfn, vm.handle, free));
        if attempt::try_read_u64(here(rw)) != Ok(SHOWN) {
            self.fail("a mapped page is gone after what was refused");
        }
        let mut played = answer(1);

        played &= self.step(vm, 2, ["iova"]) == Some([rw]);
        findings.extend(windows::gone("C20.warm", here(rw), "a page the guest has unmapped"));
        played &= answer(2);
        let told = || vm.said("@guest tables intact=");
        run::until(PATIENCE, || told().is_some() || vm.end() != end::NOT_YET);
        if told().as_deref() != Some("yes") {
            self.fail("a page that was to be read, or was unmapped, is not as it was");
            findings.iter_mut().for_each(|finding| finding.outcome = "unverified");
        }
        self.report_all(findings);
        played && self.step(vm, 3, ["pages"]).is_some()
    }

    /// It is killed while a thousand pages are mapped. From the moment it is
    /// stopped there is nothing in the window, and what is reclaimed is zeros:
    /// `bury` looks.
    fn dies_mapped(&mut self, vm: &Vm) {
        let Some([iova, pages]) = self.step(vm, 3, ["iova", "pages"]) else {
            return self.fail("the guest did not map its last pages");
        };
        let Ok(info) = BOUNCER.queue_info(vm.handle, 0, 0) else { return };
        let here = |page: u64| info.here + (iova - layout::APERTURE) + page * PAGE;
        let seen = (0..pages).filter(|page| attempt::try_read_u64(here(*page)) == Ok(SECRET));
        let seen = seen.count() as u64;
        if seen != pages || !windows::warm_up(here(0)) || !windows::warm_up(here(pages - 1)) {
            self.fail(&format!("{seen} of {pages} mapped pages can be read"));
        }
        if let Err(refusal) = BOUNCER.vm_stop(vm.handle) {
            return self.fail(&format!("the guest cannot be stopped: {refusal:?}"));
        }
        let still = (0..pages).filter(|page| attempt::try_read_u64(here(*page)).is_ok()).count();
        let (outcome, detail) = match still {
            0 => (GOOD, format!("{pages} pages mapped, {pages} aborts")),
            _ => ("succeeded", format!("{still} of {pages} pages can still be read")),
        };
        let what = "read a window after its guest was stopped".into();
        self.report(Finding { id: "C20.dead", what, outcome, detail });
        for page in [0, pages - 1] {
            let whose = "a page of a guest that was stopped";
            self.report_all(windows::gone("C20.dead", here(page), whose));
        }
    }
}
