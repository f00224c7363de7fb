//! Hands out pieces of a region, by offset.
//!
//! One bit per 64 bytes: rings want whole pages, a request header wants 16
//! bytes, and a bounce window must not be eaten up by rounding one to the
//! other. The region itself is never touched: bookkeeping lives in private
//! memory, where the device cannot change it.

use alloc::vec;
use alloc::vec::Vec;

/// Bytes per bit.
pub const GRANULE: usize = 64;

/// What [`Pool::free`] refuses: the piece was not handed out as named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAllocated;

/// A region of which pieces are in use.
#[derive(Debug)]
pub struct Pool {
    /// One entry per granule.
    taken: Vec<bool>,
    /// Where the search starts: after the last piece handed out, so that a
    /// slot is not reused at once and a late device write hits nothing fresh.
    next: usize,
    used: usize,
    high_water: usize,
}

impl Pool {
    /// A region of `bytes` bytes, all free; a rest smaller than a granule is
    /// never handed out.
    pub fn new(bytes: usize) -> Self {
        Self { taken: vec![false; bytes / GRANULE], next: 0, used: 0, high_water: 0 }
    }

    /// Offset of `bytes` free bytes, a multiple of `align` (a power of two);
    /// `None` if there is no such run, or `bytes` is zero.
    pub fn allocate(&mut self, bytes: usize, align: usize) -> Option<usize> {
        let count = bytes.div_ceil(GRANULE);
        let step = align.div_ceil(GRANULE).max(1);
        if count == 0 || count > self.taken.len() {
            return None;
        }
        let from = self.next.next_multiple_of(step);
        let start = self.search(from, count, step).or_else(|| self.search(0, count, step))?;
        self.taken.get_mut(start..start + count)?.fill(true);
        self.next = start + count;
        self.used += count;
        self.high_water = self.high_water.max(self.used);
        Some(start * GRANULE)
    }

    fn search(&self, from: usize, count: usize, step: usize) -> Option<usize> {
        (from..self.taken.len()).step_by(step).find(|start| {
            self.taken.get(*start..start + count).is_some_and(|run| !run.contains(&true))
        })
    }

    /// Takes back what [`Self::allocate`] gave for `bytes` bytes at `offset`.
    ///
    /// # Errors
    /// [`NotAllocated`] if not all of it is in use; nothing changes then.
    pub fn free(&mut self, offset: usize, bytes: usize) -> Result<(), NotAllocated> {
        let (start, count) = (offset / GRANULE, bytes.div_ceil(GRANULE));
        let end = start.checked_add(count).ok_or(NotAllocated)?;
        let run = self.taken.get_mut(start..end).ok_or(NotAllocated)?;
        if !offset.is_multiple_of(GRANULE) || count == 0 || run.contains(&false) {
            return Err(NotAllocated);
        }
        run.fill(false);
        self.used -= count;
        Ok(())
    }

    /// Are all of `bytes` bytes at `offset` in use?
    pub fn is_taken(&self, offset: usize, bytes: usize) -> bool {
        let (start, count) = (offset / GRANULE, bytes.div_ceil(GRANULE));
        let run = start.checked_add(count).and_then(|end| self.taken.get(start..end));
        offset.is_multiple_of(GRANULE) && count > 0 && run.is_some_and(|run| !run.contains(&false))
    }

    /// Bytes in use now.
    pub fn used(&self) -> usize {
        self.used * GRANULE
    }

    /// Most bytes ever in use at once.
    pub fn high_water(&self) -> usize {
        self.high_water * GRANULE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_never_overlap_and_keep_their_alignment() {
        let mut pool = Pool::new(64 * 1024);
        let mut pieces = Vec::new();
        for (bytes, align) in [(16, 1), (4096, 4096), (1, 1), (512, 512), (8192, 4096), (100, 64)] {
            let offset = pool.allocate(bytes, align).unwrap();
            assert!(offset.is_multiple_of(align));
            pieces.push((offset, bytes));
        }
        pieces.sort_unstable();
        assert!(pieces.windows(2).all(|two| two[0].0 + two[0].1 <= two[1].0));
    }

    #[test]
    fn a_full_pool_says_no_and_a_freed_piece_can_be_had_again() {
        let mut pool = Pool::new(4096);
        let first = pool.allocate(2048, 1).unwrap();
        let second = pool.allocate(2048, 1).unwrap();
        assert_eq!(pool.allocate(1, 1), None);
        pool.free(first, 2048).unwrap();
        assert_eq!(pool.allocate(4096, 1), None);
        assert_eq!(pool.allocate(2048, 1), Some(first));
        assert_ne!(first, second);
        assert_eq!((pool.used(), pool.high_water()), (4096, 4096));
    }

    #[test]
    fn a_slot_is_not_reused_at_once() {
        let mut pool = Pool::new(4096);
        let first = pool.allocate(64, 1).unwrap();
        pool.free(first, 64).unwrap();
        assert_ne!(pool.allocate(64, 1), Some(first));
    }

    #[test]
    fn what_was_not_handed_out_cannot_be_freed() {
        let mut pool = Pool::new(4096);
        let piece = pool.allocate(128, 64).unwrap();
        assert_eq!(pool.free(piece, 256), Err(NotAllocated));
        assert_eq!(pool.free(piece + 1, 64), Err(NotAllocated));
        assert_eq!(pool.free(usize::MAX - 63, 128), Err(NotAllocated));
        assert_eq!(pool.free(1 << 20, 64), Err(NotAllocated));
        assert_eq!(pool.free(piece, 128), Ok(()));
        assert_eq!(pool.free(piece, 128), Err(NotAllocated));
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let mut pool = Pool::new(4096);
        assert_eq!(pool.allocate(0, 1), None);
        assert_eq!(pool.allocate(4097, 1), None);
        assert_eq!(pool.allocate(usize::MAX, 1), None);
        assert_eq!(Pool::new(0).allocate(1, 1), None);
    }
}
