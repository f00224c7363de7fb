//! I/O tables: a guest says in a table of its own what each device sees.
//!
//! The guest writes the table as it likes and then says which addresses it
//! has changed; one call looks at what is there now and makes the device's
//! window so (`memory::window`). The model is s390's zPCI, where the
//! instruction RPCIT does this; the table's format is ours (`docs/iotable.md`).
//!
//! The table is the guest's memory, and another vCPU may write it at the same
//! time. So each word is read **once**, into EL2, and only the copy is looked
//! at; and a table is read only while no one but the guest can write it.

use crate::abi::MAX_RANGE;
use crate::addr::{FRAME_SHIFT, FRAME_SIZE, Gfn, GfnRange, Pfn, aligned_frame_number};
use crate::error::Error;
use crate::layout::{APERTURE, APERTURE_SIZE};
use crate::machine::Machine;
use crate::memory::{DmaWindow, GuestMemory, HostMemory, PART_PAGES, Refreshed, Stop, View, Views};
use crate::stats::VmCounter;

use super::exposure::HostExit;
use super::{Outcome, Running};

/// A word of a table: it leads somewhere.
const VALID: u64 = 1 << 0;
/// Last level: the device may write.
const WRITABLE: u64 = 1 << 1;
/// Where to: bits 38:12, of the next table or of the page.
const ADDRESS: u64 = ((1 << 39) - 1) & !(FRAME_SIZE - 1);

/// First page of the aperture, and its pages.
const FIRST: u64 = APERTURE >> FRAME_SHIFT;
const PAGES: u64 = APERTURE_SIZE >> FRAME_SHIFT;
/// Words of a table; pages that a word of the middle level leads to.
const WORDS: u64 = PART_PAGES as u64;
// One call does what one table of the last level says.
const _: () = assert!(WORDS == MAX_RANGE && PAGES == WORDS * WORDS);

/// What one call did.
struct Part {
    /// Pages from the first on.
    done: u64,
    changes: Refreshed,
    /// Pages mapped in the whole window now.
    mapped: u64,
}

impl<M: Machine> Running<'_, M> {
    /// IOTABLE_SET(device, root or 0) → pages still mapped.
    pub(super) fn iotable_set(&mut self, device: u64, root: u64) -> Outcome {
        let machine = &self.hyp.machine;
        let result = self.on_memory(|memory, guest| set(machine, memory, guest, device, root));
        let (left, unmapped) = match result {
            Ok(left_and_unmapped) => left_and_unmapped,
            Err(stop) => return self.stopped(stop),
        };
        self.stats.add(VmCounter::PagesUnmapped, unmapped);
        self.results([0, left, 0, 0])
    }

    /// REFRESH(device, iova, pages) → pages done, left out, mapped now.
    pub(super) fn refresh(&mut self, device: u64, iova: u64, pages: u64) -> Outcome {
        let machine = &self.hyp.machine;
        let result =
            self.on_memory(|memory, guest| refresh(machine, memory, guest, device, (iova, pages)));
        let part = match result {
            Ok(part) => part,
            Err(stop) => return self.stopped(stop),
        };
        self.count(VmCounter::Refreshes);
        self.stats.add(VmCounter::PagesMapped, part.changes.mapped);
        self.stats.add(VmCounter::PagesUnmapped, part.changes.unmapped);
        self.stats.add(VmCounter::PagesLeftOut, part.changes.left_out);
        self.results([0, part.done, part.changes.left_out, part.mapped])
    }

    /// IOTABLE_INFO(device) → first address, pages, budget | mapped << 32.
    pub(super) fn iotable_info(&mut self, device: u64) -> Outcome {
        let result = self.on_memory(|_, guest| {
            let window = window(guest, device)?;
            Ok(window.budget() | window.mapped() << 32)
        });
        match result {
            Ok(pages) => self.results([0, APERTURE, PAGES, pages]),
            Err(stop) => self.stopped(stop),
        }
    }

    fn on_memory<R>(
        &self,
        act: impl FnOnce(&mut HostMemory<'static>, &mut GuestMemory) -> Result<R, Stop>,
    ) -> Result<R, Stop> {
        let done = self.hyp.with_guest_memory(self.handle, |memory, guest| Ok(act(memory, guest)));
        done.unwrap_or_else(|error| Err(error.into()))
    }

    /// A refusal; or the host must give something first, and the guest makes
    /// its call again without knowing.
    fn stopped(&mut self, stop: Stop) -> Outcome {
        let page = match stop {
            Stop::Refused(error) => return self.results([error.code() as u64, 0, 0, 0]),
            Stop::NoFrame(page) => page.base(),
            // An address outside RAM asks for memcache.
            Stop::NoTables => APERTURE,
        };
        let frame = &mut self.vcpu.state.frame;
        // The pc is behind the HVC.
        frame.pc = frame.pc.wrapping_sub(4);
        self.count(VmCounter::MemoryFaults);
        Outcome::exit(HostExit::MemoryFault { page })
    }
}

fn device_index(device: u64) -> usize {
    usize::try_from(device).unwrap_or(usize::MAX)
}

fn window(guest: &GuestMemory, device: u64) -> Result<&DmaWindow, Error> {
    guest.window(device_index(device)).ok_or(Error::NotFound)
}

/// Sets the table, or takes it away together with what is mapped, a part at a
/// time. Returns the pages that are still mapped, and that were unmapped.
fn set<M: Machine>(
    m: &M,
    memory: &mut HostMemory<'_>,
    guest: &mut GuestMemory,
    device: u64,
    root: u64,
) -> Result<(u64, u64), Stop> {
    let window = window(guest, device)?;
    let (table, mapped) = (window.table, window.mapped());
    let new = match root {
        0 => None,
        root => {
            let page = Gfn::new(aligned_frame_number(root)?).ok_or(Error::InvalidParameter)?;
            if !guest.ram().contains(page) {
                return Err(Error::InvalidParameter.into());
            }
            Some(page)
        }
    };
    if new.is_some() && new != table && mapped > 0 {
        return Err(Error::Busy.into());
    }
    let device = device_index(device);
    let unmapped = match new {
        None => memory.empty_window(m, guest, device)?,
        Some(_) => 0,
    };
    guest.window_mut(device).ok_or(Error::NotFound)?.table = new;
    Ok((mapped - unmapped, unmapped))
}

/// Does the first 2 MiB of the range for which the guest's table or the window
/// has anything, after whatever is empty in both before it.
fn refresh<M: Machine>(
    m: &M,
    memory: &mut HostMemory<'_>,
    guest: &mut GuestMemory,
    device: u64,
    (iova, pages): (u64, u64),
) -> Result<Part, Stop> {
    let range = GfnRange::new(aligned_frame_number(iova)?, pages)?;
    if range.start().number() < FIRST || range.end() > FIRST + PAGES {
        return Err(Error::InvalidParameter.into());
    }
    let window = window(guest, device)?;
    let root = window.table.ok_or(Error::BadState)?;
    let (start, end) = (range.start().number() - FIRST, range.end() - FIRST);

    let mut tables = Tables { m, memory, guest, seen: [None; 3] };
    let root = tables.enter(root)?;
    let middle = match tables.word(root, FIRST / PAGES)? {
        Some(table) => Some(tables.enter(table)?),
        None => None,
    };
    let found = tables.first(window, middle, (start, end))?;
    let (from, to, last) = match found {
        None => {
            return Ok(Part {
                done: range.count(),
                changes: Refreshed::default(),
                mapped: window.mapped(),
            });
        }
        Some((index, last)) => (start.max(index * WORDS), end.min((index + 1) * WORDS), last),
    };
    let mut wanted = Views::default();
    match last {
        Some(last) => {
            let last = tables.enter(last)?;
            tables.pages(last, from % WORDS, to - from, &mut wanted)?;
        }
        None => wanted.push(View::NOTHING, to - from),
    }

    let device = device_index(device);
    let changes = memory.refresh_window(m, guest, device, from, &wanted)?;
    let mapped = guest.window(device).map_or(0, DmaWindow::mapped);
    Ok(Part { done: to - start, changes, mapped })
}

/// A walk through a guest's table.
struct Tables<'a, M> {
    m: &'a M,
    memory: &'a HostMemory<'a>,
    guest: &'a GuestMemory,
    /// The tables on the way: none is there twice, so no word is read twice.
    seen: [Option<Pfn>; 3],
}

impl<M: Machine> Tables<'_, M> {
    /// The frame of a table, which must be the guest's alone.
    fn enter(&mut self, page: Gfn) -> Result<Pfn, Stop> {
        let frame = self.memory.private_frame(self.m, self.guest, page)?;
        if self.seen.contains(&Some(frame)) {
            return Err(Error::InvalidParameter.into());
        }
        if let Some(place) = self.seen.iter_mut().find(|place| place.is_none()) {
            *place = Some(frame);
        }
        Ok(frame)
    }

    /// Where a word of the first level leads.
    fn word(&self, table: Pfn, index: u64) -> Result<Option<Gfn>, Error> {
        let mut copy = 0;
        self.m.read_guest_words(table, index as usize..index as usize + 1, |_, word| {
            copy = word;
            true
        });
        leads_to(copy, 0)
    }

    /// The first word of the middle level, for pages `start` to `end` - 1 of
    /// the aperture, that leads to a table, or for which the window has
    /// something: its index, and the table.
    fn first(
        &self,
        window: &DmaWindow,
        middle: Option<Pfn>,
        (start, end): (u64, u64),
    ) -> Result<Option<(u64, Option<Gfn>)>, Error> {
        let mut found = Ok(None);
        let mut look = |index: usize, word: u64| {
            let page = index as u64 * WORDS;
            found = match leads_to(word, 0) {
                Ok(None) if !window.has_table(self.m, page) => return true,
                Ok(table) => Ok(Some((index as u64, table))),
                Err(error) => Err(error),
            };
            false
        };
        let mut words = (start / WORDS) as usize..end.div_ceil(WORDS) as usize;
        match middle {
            Some(middle) => self.m.read_guest_words(middle, words, look),
            None => _ = words.all(|index| look(index, 0)),
        }
        found
    }

    /// What `count` words of the last level want, from its word `from` on. A
    /// word that is the one before and a page further goes on; only one that
    /// is not is looked at.
    fn pages(&self, table: Pfn, from: u64, count: u64, wanted: &mut Views) -> Result<(), Error> {
        let (from, end) = (from as usize, (from + count) as usize);
        let (mut first, mut view, mut next, mut step) = (from, View::NOTHING, 0, 0);
        let mut result = Ok(());
        self.m.read_guest_words(table, from..end, |index, word| {
            if word != next {
                wanted.push(view, (index - first) as u64);
                first = index;
                (view, step) = match leads_to(word, WRITABLE) {
                    Ok(Some(page)) => (View::of_guest(page, word & WRITABLE != 0), FRAME_SIZE),
                    Ok(None) => (View::NOTHING, 0),
                    Err(error) => {
                        result = Err(error);
                        return false;
                    }
                };
            }
            // Beyond the last address there is no page: a run that goes there is
            // not RAM, and refused.
            next = word.wrapping_add(step);
            true
        });
        wanted.push(view, (end - first) as u64);
        result
    }
}

/// Where a word leads; `rights` are the bits that it may have besides.
///
/// # Errors
/// [`Error::InvalidParameter`] if a bit is set that means nothing here: of a
/// word that is not valid, any.
#[inline(always)]
fn leads_to(word: u64, rights: u64) -> Result<Option<Gfn>, Error> {
    if word == 0 {
        return Ok(None);
    }
    if word & VALID == 0 || word & !(VALID | ADDRESS | rights) != 0 {
        return Err(Error::InvalidParameter);
    }
    Ok(Gfn::containing(word & ADDRESS))
}
