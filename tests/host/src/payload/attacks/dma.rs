//! M3, M4, M6, M8 on a machine with an SMMU: the host has PCIe functions, and
//! aims them at what is not its own.

#![allow(unsafe_code)]

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use host::bouncer::Event;
use hyp::event::EventKind;
use hyp::layout;
use rt::attempt;

use super::{Finding, Owner, drain_events, judge_access, owner_name};
use crate::payload::calls::BOUNCER;
use crate::payload::clock;
use crate::payload::edu::{Edu, IDENTITY, Way};
use crate::payload::report::GOOD;
use crate::payload::vm::Vm;

/// What the host writes into its own pages.
const PATTERN: u64 = 0x000d_dba1_10dd_ba11;
/// F_TRANSLATION.
const TRANSLATION: u64 = 0x10;
/// Bit 8 of an event's third word: a write.
const WRITE: u64 = 1 << 8;
const PAGE: u64 = 4096;

/// Two pages of the host's and a function that can reach them.
#[derive(Clone, Copy)]
pub(in crate::payload) struct Tool<'a> {
    pub(in crate::payload) edu: &'a Edu,
    /// Another function, if that may be the one that answers.
    pub(in crate::payload) or: Option<&'a Edu>,
    pub(in crate::payload) from: u64,
    pub(in crate::payload) to: u64,
}

fn fill(page: u64, value: u64) {
    for word in 0..PAGE / 8 {
        // SAFETY: a page of the host's that nothing else uses.
        unsafe { ((page + word * 8) as *mut u64).write_volatile(value) };
    }
}

/// Every word of a page of the host's.
fn words(page: u64) -> impl Iterator<Item = u64> {
    // SAFETY: as above; a function may have written it.
    (0..PAGE / 8).map(move |word| unsafe { ((page + word * 8) as *const u64).read_volatile() })
}

impl Tool<'_> {
    /// Fills the function's buffer with the host's pattern.
    fn load(&self) -> bool {
        fill(self.from, PATTERN);
        self.edu.transfer(Way::Read, self.from, PAGE)
    }

    /// Shows what is in the function's buffer, in the host's second page.
    fn show(&self) -> bool {
        fill(self.to, !PATTERN);
        self.edu.transfer(Way::Write, self.to, PAGE)
    }

    /// Does it work between pages of the host's, in both directions? A tool that
    /// cannot succeed proves nothing.
    pub(in crate::payload) fn works(&self) -> bool {
        self.load() && self.show() && words(self.to).all(|word| word == PATTERN)
    }

    /// Reads `address` and writes it. Expected: two events that name the
    /// function, the address, the owner and the direction; and nothing was read.
    pub(in crate::payload) fn reach(
        &self,
        ids: [&'static str; 2],
        address: u64,
        owner: Owner,
        place: &str,
    ) -> Vec<Finding> {
        let mut findings = Vec::new();
        self.load();
        drain_events();
        let done = self.edu.transfer(Way::Read, address, PAGE);
        let mut read = self.judge(ids[0], format!("DMA from {place}"), (address, owner), Way::Read);
        let shown = done && self.show();
        let seen = words(self.to).find(|word| *word != PATTERN && *word != 0);
        if let (true, Some(word)) = (shown, seen) {
            read.outcome = "succeeded";
            read.detail = format!("{}; but it read {word:#x}", read.detail);
        }
        findings.push(read);
        self.load();
        drain_events();
        self.edu.transfer(Way::Write, address, PAGE);
        findings.push(self.judge(ids[1], format!("DMA to {place}"), (address, owner), Way::Write));
        findings
    }

    /// Judges a transfer that is over by what bouncer tells of it.
    fn judge(
        &self,
        id: &'static str,
        what: String,
        (address, owner): (u64, Owner),
        way: Way,
    ) -> Finding {
        let events = drain_events();
        let about = |event: &&Event| {
            event.kind == EventKind::HostDma as u8 && event.address >> 12 == address >> 12
        };
        let (outcome, detail) = match events.iter().find(about) {
            None => ("succeeded", format!("no event for {address:#x}")),
            Some(event) => {
                let told = format!(
                    "event: stream {:#x}, {} of a frame of {}, address {:#x}",
                    event.syndrome,
                    if event.pc & WRITE != 0 { "write" } else { "read" },
                    owner_name(event.owner),
                    event.address
                );
                let functions = [Some(self.edu), self.or];
                let mut streams = functions.into_iter().flatten().map(|edu| edu.stream);
                let right = streams.any(|stream| stream == event.syndrome)
                    && event.pc & 0xff == TRANSLATION
                    && (event.pc & WRITE != 0) == (way == Way::Write)
                    && owner.is(event.owner);
                (if right { GOOD } else { "misreported" }, told)
            }
        };
        Finding { id, what, outcome, detail }
    }

    /// M6: a transfer to the page is under way, and the page is given to a
    /// guest. Expected: when the call has returned, the transfer cannot reach it.
    /// `page` is one of the guest's RAM that was not donated yet.
    pub(in crate::payload) fn donate_in_use(&self, vm: &Vm, page: u64, wait: u64) -> Finding {
        const ID: &str = "M6.smmu-donated";
        let pfn = vm.ram.pfn + page;
        let what = format!("give a guest a frame that a function writes {wait} ms later");
        self.load();
        // It works while the frame is the host's.
        let before = self.edu.transfer(Way::Write, pfn << 12, PAGE)
            && words(pfn << 12).all(|word| word == PATTERN);
        drain_events();
        self.edu.start(Way::Write, pfn << 12, PAGE);
        clock::spin_until(wait, || false);
        let given = BOUNCER.frame_donate(vm.handle, pfn, (layout::RAM >> 12) + page, 1, false);
        let under_way = self.edu.is_busy();
        if let Ok(1) = given {
            vm.note_donated(pfn);
        }
        let done = self.edu.finish();
        if !before || given != Ok(1) || !done {
            let detail = format!("reached before: {before}, donated: {given:?}, ended: {done}");
            return Finding { id: ID, what, outcome: "invalid", detail };
        }
        if !under_way {
            let detail = "it was written before the call had returned, and wiped".into();
            return Finding { id: ID, what, outcome: GOOD, detail };
        }
        self.judge(ID, what, (pfn << 12, Owner::Guest), Way::Write)
    }

    /// M3: a frame that has come back from a guest is the functions' again, at
    /// once.
    pub(in crate::payload) fn works_again(&self, pfn: u64) -> bool {
        self.load()
            && self.edu.transfer(Way::Write, pfn << 12, PAGE)
            && words(pfn << 12).all(|word| word == PATTERN)
    }
}

/// M4: the SMMU's registers, by the host's CPUs. Expected: an abort, and an event.
pub(in crate::payload) fn registers() -> Vec<Finding> {
    let mut findings = Vec::new();
    for (register, name) in [
        (0x0905_0020, "CR0, to switch it off"),
        (0x0905_0044, "GBPA, to let everything pass"),
        (0x0905_0080, "STRTAB_BASE, to give it another stream table"),
        (0x0905_0098, "CMDQ_PROD, to make it read commands"),
        (0x0906_00a8, "EVENTQ_PROD in its second page"),
    ] {
        drain_events();
        let result = attempt::try_read_u32(register);
        let what = format!("read the SMMU's {name}");
        findings.push(judge_access("M4.smmu-registers", what, register, Owner::Nobody, result));
        // SAFETY: a device register, not memory of this program.
        let result = unsafe { attempt::try_write_u32(register, 0) }.map(|()| 0);
        let what = format!("write the SMMU's {name}");
        findings.push(judge_access("M4.smmu-registers", what, register, Owner::Nobody, result));
    }
    findings
}

/// M8: a BAR is put over a page that must not become the function's: what the
/// CPU finds there is as before, an abort or the host's own page.
pub(in crate::payload) fn bar_over(
    edu: &Edu,
    id: &'static str,
    address: u64,
    owner: Option<Owner>,
    place: &str,
) -> Finding {
    let what = format!("put a function's BAR over {place}");
    if owner.is_none() {
        fill(address & !(PAGE - 1), PATTERN);
    }
    edu.aim_bar(address & !((1 << 20) - 1));
    let aimed = edu.bar_now();
    drain_events();
    let result = attempt::try_read_u32(address);
    let finding = match owner {
        Some(owner) => judge_access(id, what, address, owner, result),
        None => {
            let own = result == Ok(PATTERN & 0xffff_ffff);
            let outcome = if own { GOOD } else { "succeeded" };
            let detail = format!("BAR at {aimed:#x}; the page is the host's as before: {own}");
            Finding { id, what, outcome, detail }
        }
    };
    edu.reset_bar();
    if edu.identity() != IDENTITY {
        let detail = "the function does not answer where its BAR was".into();
        return Finding { outcome: "invalid", detail, ..finding };
    }
    finding
}
