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

/// Private pages of which some are lent.
#[derive(Debug, Default)]
pub struct Lending {
    private: Vec<usize>,
    lent: Vec<usize>,
    leaked: usize,
    calls: u64,
}

impl Lending {
    /// Pages to lend: the page-aligned addresses of `pages`.
    pub fn new(pages: impl Iterator<Item = usize>) -> Self {
        Self { private: pages.collect(), ..Self::default() }
    }

    /// Lends `count` pages in a row; the address of the first. `None` if there
    /// is no such run or the lender refused: then those that were already
    /// lent are taken back, and what cannot be taken back is leaked.
    pub fn lend(&mut self, lender: &mut impl Lender, count: usize) -> Option<usize> {
        let first = self.run(count)?;
        self.private.retain(|page| *page < first || *page >= first + count * PAGE);
        self.calls += 1;
        let done = lender.share(first, count).min(count);
        self.lent.extend((0..done).map(|page| first + page * PAGE));
        if done == count {
            return Some(first);
        }
        // Refused, but by a party that may be mistaken: that page is lost.
        self.leaked += 1;
        self.private.extend((done + 1..count).map(|rest| first + rest * PAGE));
        self.take_back(lender, first, done);
        None
    }

    /// Takes `count` pages from `first` back. True if all came; those that did
    /// not are leaked.
    pub fn take_back(&mut self, lender: &mut impl Lender, first: usize, count: usize) -> bool {
        let (mut at, mut all) = (0, true);
        self.lent.retain(|page| *page < first || *page >= first + count * PAGE);
        while at < count {
            self.calls += 1;
            let done = lender.unshare(first + at * PAGE, count - at).min(count - at);
            self.private.extend((at..at + done).map(|page| first + page * PAGE));
            at += done;
            if at < count {
                self.leaked += 1;
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
        self.lent.sort_unstable();
        while let Some(first) = self.lent.first().copied() {
            let run = (0..).zip(&self.lent).take_while(|(n, page)| **page == first + n * PAGE);
            let count = run.count();
            all &= self.take_back(lender, first, count);
        }
        all
    }

    fn run(&mut self, count: usize) -> Option<usize> {
        self.private.sort_unstable();
        let last = count.checked_sub(1)?;
        self.private
            .windows(count)
            .find(|run| run.last() == run.first().map(|first| first + last * PAGE).as_ref())
            .and_then(|run| run.first().copied())
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
