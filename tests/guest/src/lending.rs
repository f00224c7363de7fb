//! Pages lent to the host, and got back.
//!
//! A page that could not be shared, or whose return was refused, is in a state
//! the guest does not know: the host may still see it. Such a page is leaked.
//! It is never handed out again, neither as private nor as shared memory.

use alloc::vec::Vec;

/// Bytes in a page.
pub const PAGE: usize = 4096;

/// Who shares pages: the hypervisor behind its calls, or a test.
pub trait Lender {
    /// Shares `count` pages from `first` on, in order; how many were shared
    /// before one was refused.
    fn share(&mut self, first: usize, count: usize) -> usize;
    /// Takes them back; how many came before one was refused.
    fn unshare(&mut self, first: usize, count: usize) -> usize;
}

/// Whose a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Page {
    Private,
    Lent,
    /// In a state that nobody knows.
    Leaked,
}

/// Private pages of which some are lent.
#[derive(Debug, Default)]
pub struct Lending {
    /// Their addresses, in order, and whose they are.
    pages: Vec<(usize, Page)>,
    /// Where the next search begins: behind what was lent last.
    next: usize,
    leaked: usize,
    calls: u64,
}

impl Lending {
    /// Pages to lend: the page-aligned addresses of `pages`.
    pub fn new(pages: impl Iterator<Item = usize>) -> Self {
        let mut pages: Vec<_> = pages.map(|page| (page, Page::Private)).collect();
        pages.sort_unstable_by_key(|(page, _)| *page);
        Self { pages, ..Self::default() }
    }

    /// Lends `count` pages in a row; the address of the first. `None` if there
    /// is no such run or the lender refused: then those that were already
    /// lent are taken back, and what cannot be taken back is leaked.
    pub fn lend(&mut self, lender: &mut impl Lender, count: usize) -> Option<usize> {
        let index = self.run(self.next, count).or_else(|| self.run(0, count))?;
        let (first, _) = *self.pages.get(index)?;
        self.calls += 1;
        let done = lender.share(first, count).min(count);
        self.mark(index, done, Page::Lent);
        self.next = index + count;
        if done == count {
            return Some(first);
        }
        // Refused, but by a party that may be mistaken: that page is lost.
        self.lose(index + done);
        self.take_back(lender, first, done);
        None
    }

    /// Takes `count` pages from `first` back. True if all came; those that did
    /// not are leaked.
    pub fn take_back(&mut self, lender: &mut impl Lender, first: usize, count: usize) -> bool {
        let (mut at, mut all) = (0, true);
        let Ok(index) = self.pages.binary_search_by_key(&first, |(page, _)| *page) else {
            return count == 0;
        };
        while at < count {
            self.calls += 1;
            let done = lender.unshare(first + at * PAGE, count - at).min(count - at);
            self.mark(index + at, done, Page::Private);
            at += done;
            if at < count {
                self.lose(index + at);
                all = false;
                at += 1;
            }
        }
        all
    }

    /// Takes back whatever is still lent, as [`Self::take_back`] does: for the
    /// end of a device that is no longer using any of it.
    pub fn take_all_back(&mut self, lender: &mut impl Lender) -> bool {
        let mut all = true;
        let mut index = 0;
        while let Some((first, page)) = self.pages.get(index).copied() {
            let count = if page == Page::Lent { self.stretch(index, Page::Lent) } else { 0 };
            all &= count == 0 || self.take_back(lender, first, count);
            index += count.max(1);
        }
        all
    }

    /// Index of the first of `count` private pages in a row, from `from` on.
    fn run(&self, from: usize, count: usize) -> Option<usize> {
        let mut index = from;
        while count > 0 && index + count <= self.pages.len() {
            let private = self.stretch_of(index, Page::Private, count);
            if private == count {
                return Some(index);
            }
            index += private + 1;
        }
        None
    }

    /// How many pages in a row from `index` on are such ones.
    fn stretch(&self, index: usize, which: Page) -> usize {
        self.stretch_of(index, which, usize::MAX)
    }

    /// The same, and at most `most`.
    fn stretch_of(&self, index: usize, which: Page, most: usize) -> usize {
        let Some(rest) = self.pages.get(index..) else { return 0 };
        let first = rest.first().map_or(0, |(page, _)| *page);
        (0..)
            .zip(rest)
            .take(most)
            .take_while(|(n, (page, whose))| *page == first + n * PAGE && *whose == which)
            .count()
    }

    fn mark(&mut self, index: usize, count: usize, whose: Page) {
        let pages = self.pages.get_mut(index..index + count).into_iter().flatten();
        pages.for_each(|page| page.1 = whose);
    }

    fn lose(&mut self, index: usize) {
        self.mark(index, 1, Page::Leaked);
        self.leaked += 1;
    }

    /// Pages lost for good.
    pub fn leaked(&self) -> usize {
        self.leaked
    }

    /// Share and unshare calls made.
    pub fn calls(&self) -> u64 {
        self.calls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Host {
        shared: Vec<usize>,
        refuse_share_of: Option<usize>,
        refuse_unshare_of: Option<usize>,
    }

    impl Host {
        fn each(
            &mut self,
            first: usize,
            count: usize,
            mut page: impl FnMut(&mut Self, usize) -> bool,
        ) -> usize {
            (0..count).take_while(|index| page(self, first + index * PAGE)).count()
        }
    }

    impl Lender for Host {
        fn share(&mut self, first: usize, count: usize) -> usize {
            self.each(first, count, |host, page| {
                assert!(!host.shared.contains(&page), "lent twice");
                let granted = host.refuse_share_of != Some(page);
                if granted {
                    host.shared.push(page);
                }
                granted
            })
        }

        fn unshare(&mut self, first: usize, count: usize) -> usize {
            self.each(first, count, |host, page| {
                assert!(host.shared.contains(&page), "not lent");
                let granted = host.refuse_unshare_of != Some(page);
                if granted {
                    host.shared.retain(|shared| *shared != page);
                }
                granted
            })
        }
    }

    fn lending(pages: usize) -> Lending {
        Lending::new((0..pages).map(|page| 0x10_0000 + page * PAGE))
    }

    #[test]
    fn pages_are_lent_in_runs_and_come_back() {
        let (mut host, mut lending) = (Host::default(), lending(4));
        let run = lending.lend(&mut host, 3).unwrap();
        assert_eq!(host.shared, [run, run + PAGE, run + 2 * PAGE]);
        assert_eq!(lending.lend(&mut host, 2), None);
        assert!(lending.take_back(&mut host, run, 3));
        assert!(host.shared.is_empty());
        assert!(lending.lend(&mut host, 4).is_some());
        assert_eq!(lending.calls(), 3);
    }

    #[test]
    fn a_page_whose_return_is_refused_is_leaked_and_never_reused() {
        let (mut host, mut lending) = (Host::default(), lending(2));
        let lost = lending.lend(&mut host, 1).unwrap();
        host.refuse_unshare_of = Some(lost);
        assert!(!lending.take_back(&mut host, lost, 1));
        assert_eq!(lending.leaked(), 1);
        // `Host::share` would notice a page lent twice.
        assert_ne!(lending.lend(&mut host, 1), Some(lost));
        assert_eq!(lending.lend(&mut host, 1), None);
    }

    #[test]
    fn at_the_end_everything_comes_back() {
        let (mut host, mut lending) = (Host::default(), lending(4));
        let run = lending.lend(&mut host, 3).unwrap();
        assert!(lending.take_back(&mut host, run + PAGE, 1));
        assert!(lending.take_all_back(&mut host));
        assert!(host.shared.is_empty());
        assert_eq!(lending.calls(), 2 + 2);
        assert!(lending.lend(&mut host, 4).is_some());
    }

    #[test]
    fn the_pages_behind_a_lost_one_still_come_back() {
        let (mut host, mut lending) = (Host::default(), lending(3));
        let run = lending.lend(&mut host, 3).unwrap();
        host.refuse_unshare_of = Some(run + PAGE);
        assert!(!lending.take_back(&mut host, run, 3));
        assert_eq!(host.shared, [run + PAGE]);
        assert_eq!(lending.lend(&mut host, 1), Some(run));
        assert_eq!(lending.lend(&mut host, 1), Some(run + 2 * PAGE));
    }

    #[test]
    fn a_refused_share_leaks_that_page_and_keeps_the_others() {
        let (mut host, mut lending) = (Host::default(), lending(3));
        host.refuse_share_of = Some(0x10_0000 + PAGE);
        assert_eq!(lending.lend(&mut host, 3), None);
        assert!(host.shared.is_empty());
        assert_eq!(lending.leaked(), 1);
        assert_eq!(lending.lend(&mut host, 2), None);
        assert!(lending.lend(&mut host, 1).is_some());
        assert!(lending.lend(&mut host, 1).is_some());
    }

    #[test]
    fn nothing_cannot_be_lent() {
        assert_eq!(lending(1).lend(&mut Host::default(), 0), None);
    }
}
