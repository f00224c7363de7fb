//! G6: tables that make no sense, or lead where the guest may not lead a
//! device.

use super::super::hostile::Attacks;
use super::super::pci::Function;
use super::super::{Machine, iommu_hal, pkvm};
use super::{BYTES, Spare, domain, number, second, store};
use guest::iotable::{TablePages, VALID, WRITABLE};
use hyp::error::Error;
use pkvm::{iotable_info, iotable_set, mem_relinquish, mem_share, mem_unshare, refresh};
use rt::println;

/// Calls during which another vCPU rewrites the table.
const STORM: usize = 3000;

const BAD: i64 = Error::InvalidParameter.code();
const DENIED: i64 = Error::Denied.code();
const NOT_FOUND: i64 = Error::NotFound.code();
const BUSY: i64 = Error::Busy.code();
const BAD_STATE: i64 = Error::BadState.code();

/// The parts of one table, and pages to play with.
struct Rig {
    device: u64,
    /// First address of the aperture.
    first: u64,
    /// The tables: each has the next in its first word of the aperture.
    root: u64,
    middle: u64,
    last: u64,
    /// A page of its own, and one that is lent to the host.
    own: u64,
    lent: u64,
    /// Of a device, and behind RAM.
    bar: u64,
    behind: u64,
    budget: u64,
}

impl Rig {
    /// Makes the table good again: own page at the first address, no more.
    fn mend(&self) {
        store(self.root + 8 * (self.first >> 30 & 511), self.middle | VALID);
        store(self.middle, self.last | VALID);
        store(self.last, 0);
    }

    fn look(&self) -> i64 {
        refresh(self.device, self.first, 1).0
    }

    fn mapped(&self) -> u64 {
        iotable_info(self.device).map_or(u64::MAX, |[_, _, pages]| pages >> 32)
    }

    /// With this word at `at`, REFRESH must give `code` and map nothing.
    fn word(&self, attacks: &mut Attacks, what: &str, (at, word): (u64, u64), code: i64) {
        self.mend();
        store(at, word);
        let got = self.look();
        refused(attacks, what, got, code, self.mapped() == 0);
    }
}

fn refused(attacks: &mut Attacks, what: &str, got: i64, code: i64, unchanged: bool) {
    attacks.note("G6.table", what, got == code && unchanged);
    if got != code || !unchanged {
        println!("guest: {what}: {got} where {code} is right, unchanged: {unchanged}");
    }
}

/// What must go well, or the refusals prove nothing.
fn must(attacks: &mut Attacks, what: &str, held: bool) {
    if !held {
        println!("guest: not so: {what}");
    }
    attacks.all_refused &= held;
}

/// All of them, on a device that nobody drives. `None` if there is no memory.
pub(super) fn all(
    machine: &Machine,
    function: &Function,
    spare: &mut Spare,
    attacks: &mut Attacks,
) -> Option<()> {
    let device = number(function);
    let [first, _, budget] = iotable_info(device)?;
    refused(attacks, "refresh-without-a-table", refresh(device, first, 1).0, BAD_STATE, true);
    let mut domain = domain(spare, device)?;
    // Makes the tables on the way.
    domain.table.set(first, 0, false);
    let root = domain.table.root();
    let middle = domain.table.pages.read(root, first >> 30 & 511) & !VALID;
    let last = domain.table.pages.read(middle, 0) & !VALID;
    let (own, lent) = (spare.take(1)? as u64, spare.take(1)? as u64);
    let bar = function.bars.iter().flatten().next()?.0;
    let behind = machine.ram.end as u64;
    let budget = budget & 0xffff_ffff;
    let rig = Rig { device, first, root, middle, last, own, lent, bar, behind, budget };
    roots(&rig, attacks);
    ranges(&rig, attacks);
    if mem_share(lent, 1).0 != 0 {
        return None;
    }
    words(&rig, attacks);
    used_twice(&rig, attacks);
    if second::is_there(machine) {
        changed_meanwhile(machine, &rig, attacks);
    }
    if mem_unshare(lent, 1).0 != 0 {
        return None;
    }
    over_budget(&rig, spare, attacks)?;
    let gone = iommu_hal::take_away(device) && rig.mapped() == 0;
    must(attacks, "the table can be taken away", gone);
    Some(())
}

/// Where a table may not begin.
fn roots(rig: &Rig, attacks: &mut Attacks) {
    let set = |root| iotable_set(rig.device, root).0;
    for (what, root) in [
        ("root-behind-ram", rig.behind),
        ("root-in-the-bar", rig.bar),
        ("root-misaligned", rig.root + 8),
        ("root-beyond-39-bits", 1 << 39),
        ("root-at-the-top", !0xfff),
    ] {
        refused(attacks, what, set(root), BAD, true);
    }
    let nobody = iotable_set(7, rig.root).0;
    refused(attacks, "root-for-no-device", nobody, NOT_FOUND, iotable_info(7).is_none());
    // Still the good one.
    rig.mend();
    must(attacks, "a refused root changes nothing", rig.look() == 0);
}

/// What is no part of the aperture.
fn ranges(rig: &Rig, attacks: &mut Attacks) {
    let Some([first, pages, _]) = iotable_info(rig.device) else { return };
    for (what, iova, count) in [
        ("range-before-the-aperture", first - BYTES, 2),
        ("range-behind-the-aperture", first + pages * BYTES, 1),
        ("range-over-its-end", first + (pages - 1) * BYTES, 2),
        ("range-empty", first, 0),
        ("range-misaligned", first + 8, 1),
        ("range-wraps", !0xfff, 2),
        ("range-without-end", first, u64::MAX),
        ("range-of-guest-addresses", rig.own, 1),
    ] {
        refused(attacks, what, refresh(rig.device, iova, count).0, BAD, true);
    }
}

/// Words that lead where they may not, at each level.
fn words(rig: &Rig, attacks: &mut Attacks) {
    let top = rig.root + 8 * (rig.first >> 30 & 511);
    for (at, level) in [(top, "root"), (rig.middle, "middle"), (rig.last, "last")] {
        let mut try_one = |what: &str, word, code| {
            rig.word(attacks, &alloc::format!("{level}-word-{what}"), (at, word), code);
        };
        try_one("behind-ram", rig.behind | VALID, BAD);
        try_one("in-the-bar", rig.bar | VALID, BAD);
        try_one("to-a-lent-page", rig.lent | VALID, DENIED);
        try_one("with-bit-2", rig.own | VALID | 4, BAD);
        try_one("with-bit-39", rig.own | VALID | 1 << 39, BAD);
        try_one("with-bit-63", rig.own | VALID | 1 << 63, BAD);
        try_one("without-bit-0", rig.own, BAD);
        if level != "last" {
            try_one("with-bit-1", rig.last | VALID | WRITABLE, BAD);
            try_one("to-the-root", rig.root | VALID, BAD);
        }
    }
    // A table in a page that the host can write.
    rig.mend();
    let set = iotable_set(rig.device, rig.lent).0;
    refused(attacks, "root-in-a-lent-page", rig.look(), DENIED, set == 0 && rig.mapped() == 0);
    let again = iotable_set(rig.device, rig.root).0 == 0;
    must(attacks, "without a page mapped another root is welcome", again);
}

/// A page that a device has is moved by no call, and is no table; afterwards
/// it can be.
fn used_twice(rig: &Rig, attacks: &mut Attacks) {
    rig.mend();
    store(rig.last, rig.own | VALID | WRITABLE);
    if rig.look() != 0 || rig.mapped() != 1 {
        return must(attacks, "a good page is mapped", false);
    }
    let still = || rig.mapped() == 1;
    refused(attacks, "share-a-mapped-page", mem_share(rig.own, 1).0, DENIED, still());
    refused(attacks, "unshare-a-mapped-page", mem_unshare(rig.own, 1).0, DENIED, still());
    refused(attacks, "relinquish-a-mapped-page", mem_relinquish(rig.own), DENIED, still());
    let other = iotable_set(rig.device, rig.middle).0;
    refused(attacks, "another-root-meanwhile", other, BUSY, still());
    // A table that the device could write.
    store(rig.middle + 8, rig.own | VALID);
    let code = refresh(rig.device, rig.first + (2 << 20), 1).0;
    refused(attacks, "table-in-a-mapped-page", code, DENIED, still());
    store(rig.middle + 8, 0);
    // Taken out of the table it is the device's until EL2 is told.
    store(rig.last, 0);
    let untold = mem_share(rig.own, 1).0;
    refused(attacks, "share-a-page-that-is-only-forgotten", untold, DENIED, still());
    let told = rig.look() == 0 && rig.mapped() == 0;
    let shared = mem_share(rig.own, 1).0 == 0 && mem_unshare(rig.own, 1).0 == 0;
    must(attacks, "a page that was unmapped can be shared", told && shared);
}

/// Another vCPU writes the word that EL2 reads: good, good with another right,
/// malformed, and one that leads to a page that is lent. Each call gives what
/// one of them means.
fn changed_meanwhile(machine: &Machine, rig: &Rig, attacks: &mut Attacks) {
    rig.mend();
    let words = [rig.own | VALID, rig.own | VALID | WRITABLE, rig.own | 4, rig.lent | VALID];
    let mut seen = [0; 3];
    let mut all_known = true;
    let written = second::rewriting(machine, rig.last, words, || {
        for _ in 0..STORM {
            let (code, [done, left_out, mapped]) = refresh(rig.device, rig.first, 1);
            let kind = match (code, done, left_out, mapped) {
                (0, 1, 0, 1) => 0,
                (BAD, 0, 0, 0) => 1,
                (DENIED, 0, 0, 0) => 2,
                _ => {
                    all_known = false;
                    continue;
                }
            };
            seen[kind] += 1;
        }
    });
    rig.mend();
    let clean = rig.look() == 0 && rig.mapped() == 0;
    // The page that was lent has no mapping and can come back: `all` sees to it.
    let writes = written.unwrap_or(0);
    println!(
        "guest: {STORM} refreshes while a vCPU wrote {writes} words: {} mapped, {} malformed, {} denied",
        seen[0], seen[1], seen[2]
    );
    let tried = written.is_some() && seen.iter().filter(|count| **count > 0).count() > 1;
    attacks.note("G6.changing", "rewrite-the-table-during-the-walk", all_known && tried && clean);
}

/// More than the budget is left out, told, and there after others went.
fn over_budget(rig: &Rig, spare: &mut Spare, attacks: &mut Attacks) -> Option<()> {
    const MORE: u64 = 8;
    let pages = rig.budget + MORE;
    let own = spare.take(pages as usize)? as u64;
    rig.mend();
    for page in 0..pages {
        store(rig.last + 8 * page, (own + page * BYTES) | VALID | WRITABLE);
    }
    let told = refresh(rig.device, rig.first, pages);
    let full = (0, [pages, MORE, rig.budget]);
    attacks.note(
        "G6.table",
        "more-pages-than-the-budget",
        told == full && rig.mapped() == rig.budget,
    );
    // As many others are taken out; the whole aperture makes room and maps.
    (0..MORE).for_each(|page| store(rig.last + 8 * page, 0));
    let [first, aperture, _] = iotable_info(rig.device)?;
    let (code, [done, left_out, mapped]) = refresh(rig.device, first, aperture);
    let rest = refresh(rig.device, first + done * BYTES, aperture - done);
    let recovered = (code, left_out, mapped) == (0, 0, rig.budget) && rest.0 == 0;
    must(attacks, "room was made for those that were left out", recovered);
    (0..pages).for_each(|page| store(rig.last + 8 * page, 0));
    let empty = refresh(rig.device, first, aperture).0 == 0 && rig.mapped() == 0;
    must(attacks, "nothing is mapped after unmapping all", empty);
    Some(())
}
