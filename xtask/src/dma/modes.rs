//! The systems, and what each must show.
//!
//! A row that the booted machine does not tell of is a failure: a
//! demonstration that was not made cannot pass. The ids are those of the claims
//! in the mailing-list threads that proposed the systems, by thread and number.

use Must::{Refused, Shown};

/// A system of DMA.
#[derive(Debug)]
pub(super) struct Mode {
    /// `mode=` of host and guest.
    pub(super) name: &'static str,
    /// For people.
    pub(super) what: &'static str,
    /// The demonstrations it must make. Only what is measured to compare with
    /// has none.
    pub(super) rows: &'static [Row],
    /// What is no figure, of those that are measured.
    pub(super) words: Option<Words>,
}

/// Limits and trust.
#[derive(Debug)]
pub(super) struct Words {
    /// The largest buffer that can be mapped.
    pub(super) largest: &'static str,
    /// What happens when the memory for DMA is used up, and who tells.
    pub(super) full: &'static str,
    /// What must be done before the first request.
    pub(super) setup: &'static str,
    /// Who decides what the device can reach.
    pub(super) decides: &'static str,
    /// What becomes of a driver that declines the bit that says so.
    pub(super) declined: &'static str,
    /// Whether Linux does it.
    pub(super) linux: &'static str,
}

impl Words {
    /// With their names.
    pub(super) fn named(&self) -> [(&'static str, &'static str); 6] {
        [
            ("largest buffer", self.largest),
            ("when full", self.full),
            ("set-up", self.setup),
            ("who decides", self.decides),
            ("bit declined", self.declined),
            ("Linux", self.linux),
        ]
    }
}

/// A demonstration.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) id: &'static str,
    pub(super) must: Must,
    /// What is done.
    pub(super) what: &'static str,
}

/// How a demonstration must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Must {
    /// It works.
    Shown,
    /// It is refused.
    Refused,
}

impl Must {
    /// The console's `outcome=`.
    pub(super) fn word(self) -> &'static str {
        match self {
            Shown => "shown",
            Refused => "refused",
        }
    }
}

const fn row(id: &'static str, must: Must, what: &'static str) -> Row {
    Row { id, must, what }
}

/// Of both systems in which the device brings its memory.
const BROUGHT: [Row; 7] = [
    row("0.4", Refused, "the host reads a private page"),
    row("3.5", Shown, "64 requests without a hypercall"),
    row("3.10", Refused, "a driver declines the memory"),
    row("1.2", Refused, "a driver declines ACCESS_PLATFORM"),
    row("3.13", Refused, "a ring in private memory"),
    row("3.8", Refused, "a buffer in private memory"),
    row("0.15", Shown, "the host writes over a mapped buffer"),
];

/// Of both ways in which a driver shares its pages.
const LENT: [Row; 8] = [
    row("0.4", Refused, "the host reads a private page"),
    row("0.5a", Shown, "the guest shares it"),
    row("2.1", Refused, "the host reads it when it is taken back"),
    row("0.5a-twice", Refused, "the guest takes it back again"),
    row("0.19", Refused, "a driver declines ACCESS_PLATFORM"),
    row("0.15", Shown, "the host writes over a mapped buffer"),
    row("0.14", Shown, "the device's address is where the copy is"),
    row("0.10", Shown, "64 requests through shared pages"),
];

/// Of pages that the guest shares.
const SHARED: [Row; 11] = [
    row("0.11a", Refused, "a descriptor table in a page that is not shared"),
    row("0.11b", Refused, "an available ring in such a page"),
    row("0.11c", Refused, "a used ring in such a page"),
    row("0.11d", Refused, "an indirect table in such a page"),
    row("0.11e", Refused, "a buffer to write in such a page"),
    row("0.11f", Refused, "a buffer to read in such a page"),
    row("0.1", Shown, "a request in shared pages, after all that"),
    row("0.12", Shown, "both look at a ring at once, each on its CPU"),
    row("0.14", Shown, "what the device is told is the bounce buffer's physical address"),
    row("0.15", Shown, "the host rewrites a slot while it is mapped, and later"),
    row("0.4", Refused, "the host copies from a page while it is taken back"),
];

/// Of a device that lacks ACCESS_PLATFORM, and four guests.
const LEGACY: [Row; 10] = [
    row("2.4", Shown, "a device that cannot offer ACCESS_PLATFORM"),
    row("2.6", Refused, "its driver accepts the bit all the same"),
    row("2.7", Shown, "a secure guest gives it physical addresses, of its bounce buffer"),
    row("2.8d", Shown, "all three conditions hold: all data through the bounce buffer"),
    row("2.11a", Refused, "what a page held goes with it when it is shared"),
    row("2.11b", Refused, "what the host wrote comes back with it"),
    row("0.8", Refused, "a naive guest gives it private addresses"),
    row("2.9", Shown, "a guest that shared all its memory gives it any"),
    row("2.11c", Shown, "that guest takes everything back"),
    row("2.8b", Refused, "a realm, whose shared pages are not at physical addresses"),
];

/// Of every way to use an I/O table.
const DISK: Row = row("disk", Shown, "the disk is read and written (SHA-256 and note, by xtask)");
const STALE: &str = "after a transfer the host reads what the page's next owner put there";

/// What the table does, and the way that unmaps at once.
const STRICT: [Row; 16] = [
    row("4.11", Shown, "64 pages in one call"),
    row("4.8", Shown, "calls for 1 to 512 pages"),
    row("4.2", Shown, "mapping does not ask the host"),
    row("4.6-mapped", Refused, "share, unshare, relinquish of a page that a device has"),
    row("4.6", Shown, "the same page is the guest's to give back after REFRESH"),
    row("4.10-before", Refused, "the device uses a page whose word is there and not refreshed"),
    row("4.10", Shown, "it uses it after REFRESH"),
    row("4.5", Refused, "it writes a page that is mapped to be read"),
    row("1.9b", Refused, "it is given a guest physical address"),
    row("0.4", Refused, "the host reads a mapped page at its own address"),
    row("0.9", Refused, "a ring at a guest physical address"),
    row("budget", Refused, "more pages than the budget"),
    row("4.12", Shown, "pages left out come after a refresh of all, if others went"),
    row("stale", Refused, STALE),
    row("strict", Shown, "64 requests of 4 KiB: two calls each"),
    DISK,
];
const LAZY: &str = "64 requests of 4 KiB: unmapped together";

/// Of a device behind an I/O table.
const TABLE: Words = Words {
    largest: "what is free of the aperture (1 GiB), the budget and the pages set aside",
    full: "REFRESH tells what was left out; the driver refreshes all, then is out of memory",
    setup: "IOTABLE_SET, and REFRESH of the rings",
    decides: "the guest's kernel, by its table; EL2 reads it and nothing else",
    declined: "FEATURES_OK does not stay; without a mapping the device faults all the same",
    linux: "no: a driver for these tables would have to be written",
};

/// Of every kind of host.
const BY_CPU: Row = row("cpu", Refused, "the process loads from another one's page");
const KERNELS: Row = row("0.4", Refused, "it asks the device for a private page of the kernel's");

/// Of a host whose devices ignore the platform's translation.
const BYPASS: [Row; 4] = [
    row("1.9a", Shown, "a driver in a process, by physical addresses"),
    BY_CPU,
    row("1.10", Shown, "the device brings it the bytes all the same"),
    KERNELS,
];

/// Of one whose devices obey it.
const PLATFORM: [Row; 5] = [
    row("1.9b", Shown, "a driver in a process, by addresses of a table"),
    BY_CPU,
    row("1.2", Refused, "the process's driver declines the translation"),
    row("1.10", Refused, "the device is to bring it the bytes"),
    KERNELS,
];

/// Of one that leaves it to the driver.
const CHOICE: [Row; 4] = [
    row("1.9c", Shown, "a driver in a process, by addresses of a table"),
    BY_CPU,
    row("1.10", Shown, "it declines for a moment: the device brings it the bytes"),
    KERNELS,
];

/// All of them, in the order in which they are shown.
pub(super) const MODES: &[Mode] = &[
    Mode {
        name: "unprotected",
        what: "to compare with: the guest has shared all its RAM, nothing is copied",
        rows: &[],
        words: Some(Words {
            largest: "RAM",
            full: "never",
            setup: "MEM_SHARE of all RAM, 512 pages a call",
            decides: "nobody: the host sees and writes everything",
            declined: "nothing changes",
            linux: "what any guest of a hypervisor without protection does",
        }),
    },
    Mode {
        name: "bounce-bar",
        what: "the device brings the memory, in a BAR (Woodhouse, 2025)",
        rows: &BROUGHT,
        words: Some(Words {
            largest: "what is free in the BAR, at most 16 MiB",
            full: "the driver waits for a request to come back; the guest alone knows",
            setup: "none; the first touch of each page of the BAR is a fault served by EL2",
            decides: "the host, when it makes the device; EL2 keeps it",
            declined: "FEATURES_OK does not stay: the driver goes without the device",
            linux: "with the module of linux/, patched for nothing else; not upstream",
        }),
    },
    Mode {
        name: "device-memory",
        what: "the same, named by offsets (Graf, 2026)",
        rows: &BROUGHT,
        words: Some(Words {
            largest: "what is free in the BAR, at most 16 MiB less a page",
            full: "as bounce-bar",
            setup: "none; the first touch of each page of the BAR is a fault served by EL2",
            decides: "the host, when it makes the device; EL2 keeps it",
            declined: "FEATURES_OK does not stay: the driver goes without the device",
            linux: "with the module of linux/; proposed upstream, not merged",
        }),
    },
    Mode {
        name: "shared-pool",
        what: "a pool of the guest's pages, shared once (s390, Linux's swiotlb)",
        rows: &LENT,
        words: Some(Words {
            largest: "what is free in the pool; Linux's swiotlb: 256 KiB",
            full: "the driver waits; Linux: \"swiotlb buffer is full\", an I/O error",
            setup: "MEM_SHARE of the pool, 512 pages a call",
            decides: "the guest, page by page; EL2 asks nobody else",
            declined: "FEATURES_OK does not stay; a page that was not shared faults all the same",
            linux: "stock, as a realm or with restricted-dma-pool",
        }),
    },
    Mode {
        name: "shared-each",
        what: "every buffer in pages of its own, shared for one transfer",
        rows: &LENT,
        words: Some(Words {
            largest: "what is free of the pages set aside",
            full: "the driver waits; the guest alone knows",
            setup: "none",
            decides: "the guest, page by page; EL2 asks nobody else",
            declined: "FEATURES_OK does not stay; a page that was not shared faults all the same",
            linux: "no",
        }),
    },
    Mode {
        name: "shared-pages",
        what: "both of these, and a driver that breaks their rules (Pasic for s390, 2020)",
        rows: &SHARED,
        words: None,
    },
    Mode {
        name: "legacy-no-platform",
        what: "the device does not say so (Bauermann for POWER, 2019)",
        rows: &LEGACY,
        words: Some(Words {
            largest: "what is free in the pool",
            full: "the driver waits; the guest alone knows",
            setup: "MEM_SHARE of the pool, 512 pages a call",
            decides: "the guest, page by page, by three conditions; the device says nothing",
            declined: "there is no bit to decline; one that is accepted all the same is refused",
            linux: "no: the rule was not merged; a stock guest stops the device at its first abort",
        }),
    },
    Mode {
        name: "iommu-strict",
        what: "a table of the guest's says what the device sees (s390 RPCIT, 2022)",
        rows: &STRICT,
        words: Some(TABLE),
    },
    Mode {
        name: "iommu-lazy",
        what: "unmapped together; until then pages are in quarantine",
        rows: &[row("stale", Refused, STALE), row("4.9", Shown, LAZY), DISK],
        words: Some(TABLE),
    },
    Mode {
        name: "iommu-naive",
        what: "unmapped together and used again at once, as elsewhere: it leaks",
        rows: &[row("stale", Shown, STALE), row("4.9", Shown, LAZY), DISK],
        words: None,
    },
    Mode {
        name: "iommu-kept",
        what: "a pool that stays mapped",
        rows: &[
            row("stale", Refused, STALE),
            row("4.21", Shown, "64 requests of 4 KiB without a hypercall"),
            DISK,
        ],
        words: Some(Words {
            largest: "what is free in the pool",
            full: "the driver waits; the guest alone knows",
            setup: "IOTABLE_SET, and REFRESH of the pool, 512 pages a call",
            ..TABLE
        }),
    },
    Mode {
        name: "host-bypass",
        what: "devices ignore the platform's translation (Lutomirski, 2016)",
        rows: &BYPASS,
        words: None,
    },
    Mode { name: "host-platform", what: "devices obey it", rows: &PLATFORM, words: None },
    Mode { name: "host-choice", what: "the driver chooses", rows: &CHOICE, words: None },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ids_are_words_and_there_is_one_of_each() {
        for (index, mode) in MODES.iter().enumerate() {
            assert!(MODES[..index].iter().all(|other| other.name != mode.name), "{}", mode.name);
            for (index, row) in mode.rows.iter().enumerate() {
                assert!(mode.rows[..index].iter().all(|other| other.id != row.id), "{}", row.id);
                assert!(!row.id.contains(char::is_whitespace) && !row.what.is_empty());
            }
        }
    }

    #[test]
    fn something_is_refused_wherever_something_is_shown() {
        let has = |mode: &Mode, must| mode.rows.iter().any(|row| row.must == must);
        let shown = || MODES.iter().filter(|mode| !mode.rows.is_empty());
        assert!(shown().count() > 3);
        assert!(shown().all(|mode| has(mode, Shown)));
        // The naive one is there to be looked at.
        let careful = |mode: &&Mode| mode.name != "iommu-naive";
        assert!(shown().filter(careful).all(|mode| has(mode, Refused)));
    }
}
