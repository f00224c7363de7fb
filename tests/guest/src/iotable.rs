//! The table that says what a device sees of the guest's memory
//! (`docs/iotable.md`): three levels of 4 KiB, of which the first has one word
//! that counts.
//!
//! This writes words. That a device sees what they say takes a REFRESH.

use crate::lending::PAGE;

/// A word that leads somewhere.
pub const VALID: u64 = 1;
/// Last level: the device may write the page.
pub const WRITABLE: u64 = 2;
/// Where to: bits 38:12.
const ADDRESS: u64 = (1 << 39) - PAGE as u64;
/// Words of a table.
pub const WORDS: u64 = 512;

/// Private pages that tables are made of, and the words in them.
pub trait TablePages {
    /// A page of zeros that nobody else has: its guest physical address.
    fn page(&mut self) -> Option<u64>;
    /// The word of a table; `index` is below [`WORDS`].
    fn read(&self, table: u64, index: u64) -> u64;
    /// Writes it, in one access: the hypervisor may be reading.
    fn write(&mut self, table: u64, index: u64, word: u64);
}

/// Index into the table of `level`, 0 being the root.
fn index(iova: u64, level: u32) -> u64 {
    iova >> (30 - 9 * level) & (WORDS - 1)
}

/// A device's table.
#[derive(Debug)]
pub struct IoTable<P> {
    /// What it is made of.
    pub pages: P,
    root: u64,
    tables: u64,
}

impl<P: TablePages> IoTable<P> {
    /// An empty one; `None` if there is no page for it.
    pub fn new(mut pages: P) -> Option<Self> {
        let root = pages.page()?;
        Some(Self { pages, root, tables: 1 })
    }

    /// Where it begins: what IOTABLE_SET is told.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// Pages that it consists of.
    pub fn tables(&self) -> u64 {
        self.tables
    }

    /// Where the word of the last level for `iova` is, or of the level above
    /// that leads nowhere.
    fn last(&self, iova: u64) -> Result<(u64, u64), (u64, u32)> {
        let mut table = self.root;
        for level in 0..2 {
            let word = self.pages.read(table, index(iova, level));
            if word & VALID == 0 {
                return Err((table, level));
            }
            table = word & ADDRESS;
        }
        Ok((table, index(iova, 2)))
    }

    /// Puts `page` behind `iova`. False, and nothing done, if there is no page
    /// for a table.
    pub fn set(&mut self, iova: u64, page: u64, writable: bool) -> bool {
        loop {
            match self.last(iova) {
                Ok((table, index)) => {
                    let right = if writable { WRITABLE } else { 0 };
                    self.pages.write(table, index, page & ADDRESS | right | VALID);
                    return true;
                }
                Err((table, level)) => {
                    let Some(fresh) = self.pages.page() else { return false };
                    self.tables += 1;
                    self.pages.write(table, index(iova, level), fresh | VALID);
                }
            }
        }
    }

    /// Puts nothing behind `iova`. Tables stay.
    pub fn clear(&mut self, iova: u64) {
        if let Ok((table, index)) = self.last(iova) {
            self.pages.write(table, index, 0);
        }
    }

    /// The guest physical address of the word of the last level for `iova`, if
    /// there are tables down to it.
    pub fn word_at(&self, iova: u64) -> Option<u64> {
        self.last(iova).ok().map(|(table, index)| table + 8 * index)
    }

    /// The page behind `iova`, and whether the device may write it.
    pub fn get(&self, iova: u64) -> Option<(u64, bool)> {
        let (table, index) = self.last(iova).ok()?;
        let word = self.pages.read(table, index);
        (word & VALID != 0).then_some((word & ADDRESS, word & WRITABLE != 0))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use alloc::rc::Rc;
    use core::cell::RefCell;

    /// Tables that a test reads too: words by the address they are at.
    #[derive(Clone, Default, Debug)]
    pub(crate) struct Shared {
        pub(crate) words: Rc<RefCell<BTreeMap<u64, u64>>>,
        made: u64,
        /// How many pages there are for tables.
        pub(crate) most: u64,
    }

    impl Shared {
        pub(crate) fn of(most: u64) -> Self {
            Self { most, ..Self::default() }
        }
    }

    impl TablePages for Shared {
        fn page(&mut self) -> Option<u64> {
            self.made += 1;
            (self.made <= self.most).then_some(0x4100_0000 + self.made * PAGE as u64)
        }

        fn read(&self, table: u64, index: u64) -> u64 {
            assert!(table.is_multiple_of(PAGE as u64) && index < WORDS);
            self.words.borrow().get(&(table + 8 * index)).copied().unwrap_or(0)
        }

        fn write(&mut self, table: u64, index: u64, word: u64) {
            assert!(table.is_multiple_of(PAGE as u64) && index < WORDS);
            self.words.borrow_mut().insert(table + 8 * index, word);
        }
    }

    const FIRST: u64 = hyp::layout::APERTURE;

    #[test]
    fn a_word_is_what_the_page_on_tables_says() {
        let pages = Shared::of(3);
        let mut table = IoTable::new(pages.clone()).unwrap();
        assert!(table.set(FIRST + 5 * PAGE as u64, 0x4000_3000, true));
        assert!(table.set(FIRST + 6 * PAGE as u64, 0x4000_4000, false));
        let (root, middle, last) = (0x4100_1000, 0x4100_2000, 0x4100_3000);
        let words = pages.words.borrow().clone();
        assert_eq!(table.root(), root);
        // Word 320 of the root: the aperture.
        let expected = [
            (root + 8 * 320, middle | 1),
            (middle, last | 1),
            (last + 8 * 5, 0x4000_3003),
            (last + 8 * 6, 0x4000_4001),
        ];
        assert_eq!(words, BTreeMap::from(expected));
        assert_eq!(table.get(FIRST + 5 * PAGE as u64), Some((0x4000_3000, true)));
        assert_eq!(table.get(FIRST), None);
        assert_eq!(table.word_at(FIRST + 6 * PAGE as u64), Some(last + 8 * 6));
        assert_eq!(table.word_at(FIRST + (2 << 20)), None);
    }

    #[test]
    fn what_is_cleared_is_zero_and_its_tables_stay() {
        let pages = Shared::of(4);
        let mut table = IoTable::new(pages.clone()).unwrap();
        table.clear(FIRST);
        assert!(
            table.set(FIRST, 0x4000_0000, true) && table.set(FIRST + (2 << 20), 0x4000_1000, true)
        );
        assert_eq!(table.tables(), 4);
        table.clear(FIRST);
        assert_eq!((table.get(FIRST), pages.read(0x4100_3000, 0)), (None, 0));
        assert!(table.set(FIRST, 0x4000_2000, false));
        assert_eq!(table.tables(), 4);
    }

    #[test]
    fn without_a_page_for_a_table_nothing_is_mapped() {
        assert!(IoTable::new(Shared::of(0)).is_none());
        let mut table = IoTable::new(Shared::of(3)).unwrap();
        assert!(table.set(FIRST, 0x4000_0000, true));
        assert!(!table.set(FIRST + (2 << 20), 0x4000_0000, true));
        assert_eq!(table.get(FIRST + (2 << 20)), None);
        assert_eq!(table.get(FIRST), Some((0x4000_0000, true)));
    }
}
