//! What a device sees of the guest's memory: a table, and the calls that make
//! it count (`docs/iotable.md`).
//!
//! A [`Domain`] maps and unmaps. What is unmapped without telling the
//! hypervisor is still there for the device: [`Domain::forget`] and
//! [`Domain::flush`] are the two halves of an unmap for those who collect many
//! and pay once ([`crate::mappings`]).

use crate::iotable::{IoTable, TablePages};
use crate::lending::PAGE;
use crate::runs::Runs;

/// What one REFRESH did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refreshed {
    /// Pages from the first on that are now as the table says.
    pub done: u64,
    /// Of these, left out for want of budget.
    pub left_out: u64,
}

/// Who answers REFRESH: the hypervisor behind its calls, or a test.
pub trait Refresh {
    /// REFRESH of `pages` pages from `iova` on.
    ///
    /// # Errors
    /// The code.
    fn refresh(&mut self, iova: u64, pages: u64) -> Result<Refreshed, i64>;
}

/// Why a page is not mapped, or is perhaps not unmapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// No I/O virtual addresses are free.
    NoAddresses,
    /// No page for a table.
    NoTable,
    /// The budget is used up, also after everything unmapped was told.
    NoMemory,
    /// REFRESH was refused with this code.
    Refused(i64),
    /// REFRESH told something that cannot be.
    Nonsense,
    /// These addresses are not mapped.
    NotMapped,
}

/// What it did, in the words of s390's counters (debugfs `pci/*/statistics`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Pages mapped, over all calls.
    pub mapped_pages: u64,
    /// Pages unmapped.
    pub unmapped_pages: u64,
    /// REFRESH calls made to map.
    pub map_calls: u64,
    /// REFRESH calls made to unmap.
    pub unmap_calls: u64,
    /// Refreshes of the whole aperture, each of one or more calls.
    pub global: u64,
    /// Calls those took.
    pub global_calls: u64,
    /// Pages whose fate is unknown, because unmapping them was refused. The
    /// device may see them for ever.
    pub lost_pages: u64,
}

impl Counters {
    /// All REFRESH calls.
    pub fn calls(&self) -> u64 {
        self.map_calls + self.unmap_calls + self.global_calls
    }
}

/// A device's I/O virtual addresses.
#[derive(Debug)]
pub struct Domain<P, C> {
    /// Its table.
    pub table: IoTable<P>,
    /// Who is told.
    pub calls: C,
    addresses: Runs,
    /// First address, and pages.
    aperture: (u64, u64),
    /// See [`Counters`].
    pub counters: Counters,
}

const BYTES: u64 = PAGE as u64;

impl<P: TablePages, C: Refresh> Domain<P, C> {
    /// A domain in which nothing is mapped: `pages` pages from `first` on.
    /// `None` if there is no page for a table.
    pub fn new(tables: P, calls: C, (first, pages): (u64, u64)) -> Option<Self> {
        let table = IoTable::new(tables)?;
        let numbers = first / BYTES..first / BYTES + pages;
        let addresses = Runs::new(numbers);
        let counters = Counters::default();
        Some(Self { table, calls, addresses, aperture: (first, pages), counters })
    }

    /// Maps `count` pages from guest physical `page` on; where the device
    /// sees them.
    ///
    /// # Errors
    /// [`Error`]; the device sees none of them then, or they are lost
    /// ([`Counters::lost_pages`]).
    pub fn map(&mut self, page: u64, count: u64, writable: bool) -> Result<u64, Error> {
        let iova = self.reserve(page, count, writable)?;
        if let Err(error) = self.show(iova, count) {
            self.withdraw(iova, count).or(Err(error))?;
            return Err(error);
        }
        self.counters.mapped_pages += count;
        Ok(iova)
    }

    /// The first half of [`Self::map`]: addresses and words. The device sees
    /// nothing yet.
    ///
    /// # Errors
    /// [`Error::NoAddresses`] or [`Error::NoTable`]; nothing has changed then.
    pub fn reserve(&mut self, page: u64, count: u64, writable: bool) -> Result<u64, Error> {
        let first = self.addresses.take(count).ok_or(Error::NoAddresses)?;
        let iova = first * BYTES;
        for step in (0..count).map(|page| page * BYTES) {
            if !self.table.set(iova + step, page + step, writable) {
                self.forget(iova, count);
                self.give_back(iova, count)?;
                return Err(Error::NoTable);
            }
        }
        Ok(iova)
    }

    /// The second half: tells. If there is no budget, everything that was
    /// unmapped meanwhile is told too, and this once more.
    fn show(&mut self, iova: u64, count: u64) -> Result<(), Error> {
        let (calls, left_out) = self.tell(iova, count);
        self.counters.map_calls += calls;
        if left_out? == 0 {
            return Ok(());
        }
        self.flush()?;
        let (calls, left_out) = self.tell(iova, count);
        self.counters.map_calls += calls;
        if left_out? == 0 { Ok(()) } else { Err(Error::NoMemory) }
    }

    /// Unmaps: when it returns no CPU of the host's sees the pages.
    ///
    /// # Errors
    /// [`Error`]; the device may still see them, and addresses and pages must
    /// not be used again.
    pub fn unmap(&mut self, iova: u64, count: u64) -> Result<(), Error> {
        self.withdraw(iova, count)?;
        self.counters.unmapped_pages += count;
        Ok(())
    }

    fn withdraw(&mut self, iova: u64, count: u64) -> Result<(), Error> {
        self.forget(iova, count);
        let (calls, told) = self.tell(iova, count);
        self.counters.unmap_calls += calls;
        if let Err(error) = told {
            self.counters.lost_pages += count;
            return Err(error);
        }
        self.give_back(iova, count)
    }

    /// Takes pages out of the table and tells nobody: the device still sees
    /// them.
    pub fn forget(&mut self, iova: u64, count: u64) {
        (0..count).for_each(|page| self.table.clear(iova + page * BYTES));
    }

    /// Tells of everything that was forgotten. When it returns no CPU of the
    /// host's sees any of that.
    ///
    /// # Errors
    /// [`Error`]; what was forgotten may still be seen.
    pub fn flush(&mut self) -> Result<(), Error> {
        let (first, pages) = self.aperture;
        let (calls, told) = self.tell(first, pages);
        self.counters.global += 1;
        self.counters.global_calls += calls;
        told.map(|_| ())
    }

    /// Makes addresses free again that were forgotten and told.
    ///
    /// # Errors
    /// [`Error::NotMapped`] if they were not in use.
    pub fn release(&mut self, iova: u64, count: u64) -> Result<(), Error> {
        self.give_back(iova, count)?;
        self.counters.unmapped_pages += count;
        Ok(())
    }

    fn give_back(&mut self, iova: u64, count: u64) -> Result<(), Error> {
        self.addresses.give(iova / BYTES, count).or(Err(Error::NotMapped))
    }

    /// REFRESH over a range, in as many calls as it takes. Gives how many, and
    /// the pages left out.
    fn tell(&mut self, iova: u64, pages: u64) -> (u64, Result<u64, Error>) {
        let (mut at, mut calls, mut left_out) = (0, 0, 0);
        while at < pages {
            calls += 1;
            match self.calls.refresh(iova + at * BYTES, pages - at) {
                Err(code) => return (calls, Err(Error::Refused(code))),
                Ok(part) if part.done == 0 || part.done > pages - at => {
                    return (calls, Err(Error::Nonsense));
                }
                Ok(part) => {
                    at += part.done;
                    left_out += part.left_out;
                }
            }
        }
        (calls, Ok(left_out))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::iotable::tests::Shared;
    use alloc::collections::BTreeMap;
    use alloc::rc::Rc;
    use alloc::vec::Vec;
    use core::cell::RefCell;

    /// The hypervisor as docs/iotable.md describes it: what a device sees, by
    /// address.
    pub(crate) struct Hypervisor {
        pub(crate) tables: Shared,
        pub(crate) root: u64,
        pub(crate) view: Rc<RefCell<BTreeMap<u64, (u64, bool)>>>,
        pub(crate) budget: usize,
        /// The next calls are refused with these, the last first.
        pub(crate) refuses: Vec<i64>,
    }

    impl Hypervisor {
        pub(crate) fn new(tables: &Shared, budget: usize) -> Self {
            // The first page a table takes is its root.
            let root = 0x4100_1000;
            Self { tables: tables.clone(), root, view: Rc::default(), budget, refuses: Vec::new() }
        }

        fn wanted(&self, iova: u64) -> Option<(u64, bool)> {
            let mut table = self.root;
            for level in [30, 21] {
                let word = self.tables.read(table, iova >> level & 511);
                if word == 0 {
                    return None;
                }
                table = word & !0xfff;
            }
            let word = self.tables.read(table, iova >> 12 & 511);
            (word & 1 == 1).then_some((word & !0xfff, word & 2 != 0))
        }
    }

    impl Refresh for Hypervisor {
        fn refresh(&mut self, iova: u64, pages: u64) -> Result<Refreshed, i64> {
            if let Some(code) = self.refuses.pop() {
                return Err(code);
            }
            let end = iova + pages * BYTES;
            let view = self.view.clone();
            let mut view = view.borrow_mut();
            let pages = (iova..end).step_by(PAGE);
            // The first 2 MiB that have anything on either side.
            let any = |page: &u64| view.contains_key(page) || self.wanted(*page).is_some();
            let Some(first) = pages.clone().find(any) else {
                return Ok(Refreshed { done: pages.count() as u64, left_out: 0 });
            };
            let part_end = end.min((first | 0x1f_ffff) + 1);
            let mut left_out = 0;
            for page in (first..part_end).step_by(PAGE) {
                if self.wanted(page) != view.get(&page).copied() {
                    view.remove(&page);
                }
            }
            for page in (first..part_end).step_by(PAGE) {
                let Some(wanted) = self.wanted(page) else { continue };
                if view.contains_key(&page) {
                } else if view.len() < self.budget {
                    view.insert(page, wanted);
                } else {
                    left_out += 1;
                }
            }
            Ok(Refreshed { done: (part_end - iova) / BYTES, left_out })
        }
    }

    const FIRST: u64 = hyp::layout::APERTURE;
    const RAM: u64 = 0x4000_0000;

    fn domain(budget: usize, tables: u64, pages: u64) -> Domain<Shared, Hypervisor> {
        let tables = Shared::of(tables);
        let hypervisor = Hypervisor::new(&tables, budget);
        Domain::new(tables, hypervisor, (FIRST, pages)).unwrap()
    }

    fn seen(domain: &Domain<Shared, Hypervisor>) -> usize {
        domain.calls.view.borrow().len()
    }

    #[test]
    fn pages_are_seen_from_map_to_unmap_and_cost_a_call_each_way() {
        let mut domain = domain(100, 3, 512);
        let iova = domain.map(RAM, 64, false).unwrap();
        assert_eq!(
            domain.calls.view.borrow().get(&(iova + 5 * BYTES)),
            Some(&(RAM + 5 * BYTES, false))
        );
        assert_eq!((seen(&domain), domain.counters.calls()), (64, 1));
        domain.unmap(iova, 64).unwrap();
        assert_eq!((seen(&domain), domain.counters.calls()), (0, 2));
        let expected = Counters {
            mapped_pages: 64,
            unmapped_pages: 64,
            map_calls: 1,
            unmap_calls: 1,
            ..Counters::default()
        };
        assert_eq!(domain.counters, expected);
    }

    #[test]
    fn what_is_only_forgotten_is_seen_until_the_flush() {
        let mut domain = domain(100, 3, 512);
        let iova = domain.map(RAM, 4, true).unwrap();
        domain.forget(iova, 4);
        assert_eq!(seen(&domain), 4);
        domain.flush().unwrap();
        assert_eq!(seen(&domain), 0);
        domain.release(iova, 4).unwrap();
        assert_eq!(domain.release(iova, 4), Err(Error::NotMapped));
    }

    #[test]
    fn a_full_budget_is_made_room_in_by_telling_what_was_forgotten() {
        let mut domain = domain(8, 3, 512);
        let stale = domain.map(RAM, 6, true).unwrap();
        domain.forget(stale, 6);
        let iova = domain.map(RAM + 8 * BYTES, 8, true).unwrap();
        assert_eq!((seen(&domain), domain.counters.global), (8, 1));
        assert!(domain.calls.view.borrow().keys().all(|page| *page >= iova));
        // Of what is really in use nothing can go.
        assert_eq!(domain.map(RAM, 1, true), Err(Error::NoMemory));
        assert_eq!((seen(&domain), domain.counters.global), (8, 2));
        assert_eq!(domain.counters.lost_pages, 0);
        domain.unmap(iova, 8).unwrap();
        domain.map(RAM, 8, true).unwrap();
    }

    #[test]
    fn a_refused_map_shows_nothing_and_gives_its_addresses_back() {
        let mut domain = domain(100, 3, 4);
        domain.calls.refuses = alloc::vec![-4];
        assert_eq!(domain.map(RAM, 4, true), Err(Error::Refused(-4)));
        assert_eq!((seen(&domain), domain.counters.mapped_pages), (0, 0));
        assert_eq!(domain.counters.unmapped_pages, 0);
        assert_eq!(domain.map(RAM, 5, true), Err(Error::NoAddresses));
        assert!(domain.map(RAM, 4, true).is_ok());
    }

    #[test]
    fn a_refused_unmap_loses_addresses_and_pages_and_says_so() {
        let mut domain = domain(100, 3, 4);
        let iova = domain.map(RAM, 4, true).unwrap();
        domain.calls.refuses = alloc::vec![-6];
        assert_eq!(domain.unmap(iova, 4), Err(Error::Refused(-6)));
        assert_eq!(domain.counters.lost_pages, 4);
        assert_eq!(domain.map(RAM, 1, true), Err(Error::NoAddresses));
    }

    #[test]
    fn no_page_for_a_table_is_no_mapping() {
        let mut domain = domain(1024, 3, 1024);
        domain.map(RAM, 512, true).unwrap();
        assert_eq!(domain.map(RAM, 1, true), Err(Error::NoTable));
        assert_eq!(seen(&domain), 512);
    }

    #[test]
    fn a_range_over_two_tables_takes_a_call_for_each() {
        let mut domain = domain(1024, 4, 1024);
        domain.map(RAM, 500, true).unwrap();
        domain.map(RAM, 24, true).unwrap();
        assert_eq!((seen(&domain), domain.counters.map_calls), (524, 3));
        domain.flush().unwrap();
        assert_eq!(domain.counters.global_calls, 2);
    }
}
