//! Three kinds of host (A. Lutomirski, 2016): one whose devices ignore the
//! platform's translation, one whose devices obey it, and one that leaves it to
//! the driver. A process of the guest's has the disk, as VFIO gives one out;
//! it is after the bytes of another process, which lie where the kernel does
//! I/O for that one: in a page that the guest shares.

#![allow(unsafe_code)]

use alloc::format;

use virtio_drivers::transport::DeviceType;

use super::process::{Ended, Job, Registers, run};
use super::{Outcome, Show};
use crate::payload::{Machine, iommu_hal, pci, pkvm, secrets};
use guest::contract::{ACCESS_PLATFORM, VERSION_1};
use guest::lending::PAGE;

/// The kind of host.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Addresses are physical, whatever a table says.
    Bypass,
    /// Addresses are translated, whatever the driver says.
    Platform,
    /// The driver says.
    Choice,
}

/// What the other process keeps.
const OTHERS: u64 = 0x6f74_6865_7273_2121;
/// This sector and the next are of a file that nothing here reads: the first is
/// written over.
const SECTOR: u64 = 64;
/// Pages for tables.
const TABLES: usize = 4;

/// The machine as the kernel has set it up.
struct World {
    registers: Registers,
    /// The process's page.
    page: usize,
    /// Where the kernel does I/O for processes, shared with the host: what the
    /// process with the disk saved, and what the other one did.
    saved: usize,
    others: usize,
    private: u64,
    /// What the device's addresses have more than physical ones, behind the
    /// table; the table is the identity but for that.
    offset: u64,
}

/// Shows them; `None` if there is no such disk.
pub(super) fn show(machine: &Machine, show: &mut Show, kind: Kind) -> Option<()> {
    let world = World::new(machine, kind)?;
    let accepts = if kind == Kind::Bypass { VERSION_1 } else { VERSION_1 | ACCESS_PLATFORM };
    world.works(show, kind, accepts);
    let peek = Job { peek: world.others as u64, ..world.job(accepts) };
    let ended = world.run(&peek);
    let refused = ended == Ended::Fault(world.others as u64);
    show.tell("cpu", Outcome::refused(refused), &format!("load from the page: {ended:x?}"));
    match kind {
        Kind::Bypass => world.steals(show, accepts, 0),
        Kind::Choice => world.steals(show, accepts, world.saved as u64),
        Kind::Platform => world.is_kept(show, accepts),
    }
    world.private(show, kind, accepts);
    Some(())
}

impl World {
    fn new(machine: &Machine, kind: Kind) -> Option<Self> {
        let (_, functions) = pci::enumerate(&machine.tree)?;
        let disk = functions.iter().find(|function| function.kind == DeviceType::Block)?;
        disk.capabilities.check(|bar| disk.bar_size(bar)).ok()?;
        let registers = Registers {
            common: disk.address(disk.capabilities.common?)? as usize,
            kick: disk.address(disk.capabilities.notify?)? as usize,
        };
        let spare = machine.spare.start;
        let [page, saved, others] = [0, 1, 2].map(|index| spare + index * PAGE);
        if others + (1 + TABLES) * PAGE > machine.spare.end {
            return None;
        }
        for page in [page, saved, others] {
            // SAFETY: spare RAM, which nothing else uses.
            unsafe { core::ptr::write_bytes(page as *mut u8, 0, PAGE) };
        }
        // SAFETY: as above.
        unsafe { (others as *mut u64).write_volatile(OTHERS) };
        let mut offset = 0;
        if kind != Kind::Bypass {
            let [first, pages, _] = pkvm::iotable_info(0)?;
            offset = first - machine.ram.start as u64;
            let tables = others + PAGE..others + (1 + TABLES) * PAGE;
            // SAFETY: as above.
            let mut domain = unsafe { iommu_hal::domain(0, tables, (first, pages)) }?;
            let at = page as u64 + offset;
            if !domain.table.set(at, page as u64, true) || pkvm::refresh(0, at, 1).0 != 0 {
                return None;
            }
        }
        let shared = [saved, others].into_iter().chain((kind == Kind::Bypass).then_some(page));
        for page in shared {
            if pkvm::mem_share(page as u64, 0).0 != 0 {
                return None;
            }
        }
        let private = secrets::plant();
        Some(Self { registers, page, saved, others, private, offset })
    }

    /// What a decent driver in the process would do: read a sector.
    fn job(&self, features: u64) -> Job {
        let page = self.page as u64 + self.offset;
        Job { features, page, source: 0, sector: 0, saved: 0, peek: 0 }
    }

    fn run(&self, job: &Job) -> Ended {
        run(self.registers, self.page, job, || {
            // SAFETY: two pages of ours; the process does not run.
            unsafe {
                core::ptr::copy_nonoverlapping(self.page as *const u8, self.saved as *mut u8, PAGE);
            }
        })
    }

    /// The process drives its disk. The table is the identity but for one
    /// number: the same driver, told that number, works with it and without.
    fn works(&self, show: &mut Show, kind: Kind, accepts: u64) {
        let row = match kind {
            Kind::Bypass => "1.9a",
            Kind::Platform => "1.9b",
            Kind::Choice => "1.9c",
        };
        let ended = self.run(&self.job(accepts));
        let works = matches!(ended, Ended::Read(word) if word != 0);
        let seen = format!("by addresses + {:#x} it reads sector 0: {ended:x?}", self.offset);
        show.tell(row, Outcome::shown(works), &seen);
    }

    /// The device is asked to write the other process's page to the disk, and
    /// the disk is read.
    fn steals(&self, show: &mut Show, accepts: u64, saved: u64) {
        let source = self.others as u64;
        let job = Job { source, sector: SECTOR, saved, ..self.job(accepts) };
        let ended = self.run(&job);
        let seen = format!("another process's word is {OTHERS:x}; by the device: {ended:x?}");
        show.tell("1.10", Outcome::shown(ended == Ended::Read(OTHERS)), &seen);
    }

    /// The same, where the platform's translation is not the driver's to
    /// decline: it declines; it names the page as physical; as it would be
    /// named if it were mapped; it makes a queue in what it saved.
    fn is_kept(&self, show: &mut Show, accepts: u64) {
        let declined = self.run(&self.job(VERSION_1));
        let seen = format!("FEATURES_OK without ACCESS_PLATFORM: {declined:x?}");
        show.tell("1.2", Outcome::refused(declined == Ended::Declined), &seen);
        let others = self.others as u64;
        let job = |source| Job { source, sector: SECTOR, ..self.job(accepts) };
        let by = |job: &Job| self.run(job);
        let physical = by(&job(others));
        let behind = by(&job(others + self.offset));
        let elsewhere = by(&Job { page: self.saved as u64, ..job(others) });
        let kept = [physical, behind] == [Ended::Unserved; 2];
        let seen = format!(
            "physical: {physical:x?}; behind the table: {behind:x?}; a queue there: {elsewhere:x?}"
        );
        show.tell("1.10", Outcome::refused(kept && elsewhere == Ended::NoQueue), &seen);
    }

    /// What the guest has not shared is out of reach whatever the kind.
    fn private(&self, show: &mut Show, kind: Kind, accepts: u64) {
        let saved = if kind == Kind::Choice { self.saved as u64 } else { 0 };
        let source = self.private;
        let ended = self.run(&Job { source, sector: SECTOR + 1, saved, ..self.job(accepts) });
        let word = guest::secret::marker_words()[0];
        let intact = secrets::page_intact();
        // Where the driver chooses, what it reads is what the sector held before.
        let unseen = match kind {
            Kind::Choice => matches!(ended, Ended::Read(there) if there != word),
            Kind::Bypass | Kind::Platform => ended == Ended::Unserved,
        };
        let refused = intact && unseen;
        let seen = format!("a page of the kernel's that is not shared, by the device: {ended:x?}");
        show.tell("0.4", Outcome::refused(refused), &seen);
    }
}
