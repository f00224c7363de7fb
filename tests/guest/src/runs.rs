//! Hands out runs of numbers: I/O virtual pages, or pages of memory.

use alloc::collections::BTreeMap;

/// Where the search for a free run begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fit {
    /// At the lowest number: what was given back is used again at once.
    First,
    /// Behind the run handed out last: a number is used again as late as
    /// possible.
    Next,
}

/// What [`Runs::give`] refuses: these numbers were not handed out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotTaken;

/// A range of numbers of which some are handed out.
#[derive(Debug)]
pub struct Runs {
    /// Free runs: first number and how many. No two touch.
    free: BTreeMap<u64, u64>,
    /// The whole range.
    range: core::ops::Range<u64>,
    fit: Fit,
    next: u64,
    taken: u64,
    most: u64,
}

impl Runs {
    /// The numbers of `range`, all free.
    pub fn new(range: core::ops::Range<u64>, fit: Fit) -> Self {
        let count = range.end.saturating_sub(range.start);
        let free = BTreeMap::from_iter((count != 0).then_some((range.start, count)));
        Self { free, next: range.start, range, fit, taken: 0, most: 0 }
    }

    /// Takes `count` numbers in a row; the first. `None` if there is no such
    /// run, or `count` is 0.
    pub fn take(&mut self, count: u64) -> Option<u64> {
        if count == 0 {
            return None;
        }
        let from = if self.fit == Fit::Next { self.next } else { self.range.start };
        let found = self.search(from, count).or_else(|| self.search(self.range.start, count));
        let (run, first) = found?;
        let length = self.free.remove(&run)?;
        let end = run + length;
        if first > run {
            self.free.insert(run, first - run);
        }
        if first + count < end {
            self.free.insert(first + count, end - first - count);
        }
        self.next = first + count;
        self.taken += count;
        self.most = self.most.max(self.taken);
        Some(first)
    }

    /// The free run, and the number in it from which on `count` are free.
    fn search(&self, from: u64, count: u64) -> Option<(u64, u64)> {
        self.free.iter().find_map(|(run, length)| {
            let first = from.max(*run);
            (first + count <= run + length).then_some((*run, first))
        })
    }

    /// Takes back what [`Self::take`] gave, or a part of it.
    ///
    /// # Errors
    /// [`NotTaken`] if one of the numbers is free already or not in the range;
    /// nothing changes then.
    pub fn give(&mut self, first: u64, count: u64) -> Result<(), NotTaken> {
        let end = first.checked_add(count).ok_or(NotTaken)?;
        let before = self.free.range(..end).next_back().map(|(run, length)| (*run, run + length));
        let overlaps = before.is_some_and(|(_, before_end)| before_end > first);
        if count == 0 || overlaps || first < self.range.start || end > self.range.end {
            return Err(NotTaken);
        }
        let (mut run, mut run_end) = (first, end);
        if let Some((start, before_end)) = before
            && before_end == first
        {
            run = start;
        }
        if let Some(length) = self.free.remove(&end) {
            run_end += length;
        }
        self.free.insert(run, run_end - run);
        self.taken -= count;
        Ok(())
    }

    /// Numbers that are handed out.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// The most there were at once.
    pub fn most(&self) -> u64 {
        self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn runs_do_not_overlap_and_come_back_whole() {
        for fit in [Fit::First, Fit::Next] {
            let mut runs = Runs::new(100..132, fit);
            let taken: Vec<u64> = (0..8).map(|_| runs.take(4).unwrap()).collect();
            let expected: Vec<u64> = (0..8).map(|run| 100 + 4 * run).collect();
            assert_eq!(taken, expected);
            assert_eq!((runs.take(1), runs.taken()), (None, 32));
            for first in [104, 112, 108, 100, 124, 116, 120, 128] {
                runs.give(first, 4).unwrap();
            }
            assert_eq!(runs.take(32), Some(100));
            assert_eq!(runs.most(), 32);
        }
    }

    #[test]
    fn next_fit_uses_an_address_again_as_late_as_it_can() {
        let mut runs = Runs::new(0..4, Fit::Next);
        for expected in [0, 1, 2, 3, 0, 1] {
            assert_eq!(runs.take(1), Some(expected));
            runs.give(expected, 1).unwrap();
        }
        // Two in a row: not over the end, but from the beginning.
        assert_eq!((runs.take(1), runs.take(2)), (Some(2), Some(0)));
        let mut first = Runs::new(0..4, Fit::First);
        for _ in 0..3 {
            assert_eq!(first.take(1), Some(0));
            first.give(0, 1).unwrap();
        }
    }

    #[test]
    fn what_was_not_taken_is_not_taken_back() {
        let mut runs = Runs::new(10..20, Fit::First);
        assert_eq!(runs.take(0), None);
        assert_eq!(runs.take(4), Some(10));
        for (first, count) in [(9, 2), (10, 5), (14, 1), (13, 2), (10, 0), (19, 2), (u64::MAX, 2)] {
            assert_eq!(runs.give(first, count), Err(NotTaken), "{first} {count}");
        }
        assert_eq!(runs.taken(), 4);
        runs.give(11, 2).unwrap();
        assert_eq!(runs.give(11, 1), Err(NotTaken));
        assert_eq!(runs.take(2), Some(11));
        assert_eq!(Runs::new(5..5, Fit::Next).take(1), None);
    }
}
