//! Hands out runs of numbers: I/O virtual pages, or pages of memory.

use alloc::collections::BTreeMap;

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
    taken: u64,
    most: u64,
}

impl Runs {
    /// The numbers of `range`, all free.
    pub fn new(range: core::ops::Range<u64>) -> Self {
        let count = range.end.saturating_sub(range.start);
        let free = BTreeMap::from_iter((count != 0).then_some((range.start, count)));
        Self { free, range, taken: 0, most: 0 }
    }

    /// Takes `count` numbers in a row, the lowest there are; the first. `None`
    /// if there is no such run, or `count` is 0.
    pub fn take(&mut self, count: u64) -> Option<u64> {
        if count == 0 {
            return None;
        }
        let fits = |(_, length): &(&u64, &u64)| **length >= count;
        let first = *self.free.iter().find(fits)?.0;
        let length = self.free.remove(&first)?;
        if length > count {
            self.free.insert(first + count, length - count);
        }
        self.taken += count;
        self.most = self.most.max(self.taken);
        Some(first)
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
        let mut runs = Runs::new(100..132);
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

    #[test]
    fn the_lowest_run_that_is_long_enough_is_taken() {
        let mut runs = Runs::new(0..8);
        assert_eq!((runs.take(2), runs.take(1), runs.take(3)), (Some(0), Some(2), Some(3)));
        runs.give(0, 2).unwrap();
        assert_eq!((runs.take(3), runs.take(2)), (None, Some(0)));
        runs.give(2, 1).unwrap();
        assert_eq!((runs.take(1), runs.take(2)), (Some(2), Some(6)));
    }

    #[test]
    fn what_was_not_taken_is_not_taken_back() {
        let mut runs = Runs::new(10..20);
        assert_eq!(runs.take(0), None);
        assert_eq!(runs.take(4), Some(10));
        for (first, count) in [(9, 2), (10, 5), (14, 1), (13, 2), (10, 0), (19, 2), (u64::MAX, 2)] {
            assert_eq!(runs.give(first, count), Err(NotTaken), "{first} {count}");
        }
        assert_eq!(runs.taken(), 4);
        runs.give(11, 2).unwrap();
        assert_eq!(runs.give(11, 1), Err(NotTaken));
        assert_eq!(runs.take(2), Some(11));
        assert_eq!(Runs::new(5..5).take(1), None);
    }
}
