//! The host's free memory, in runs of frames.
//!
//! First fit over a sorted list of free runs: a host with a handful of guests
//! needs no more, and what comes back merges, so a test can ask for exactly
//! the memory that an earlier guest had.

use alloc::vec::Vec;

/// A run of frames: first frame number and count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// First frame.
    pub pfn: u64,
    /// Number of frames.
    pub count: u64,
}

impl Run {
    /// One past the last frame.
    pub fn end(&self) -> u64 {
        self.pfn + self.count
    }

    /// Address of the first byte.
    pub fn base(&self) -> u64 {
        self.pfn << 12
    }

    /// Bytes of it.
    pub fn bytes(&self) -> u64 {
        self.count << 12
    }

    /// The run in pieces of at most `most` frames.
    pub fn pieces(self, most: u64) -> impl Iterator<Item = Run> {
        (0..self.count.div_ceil(most))
            .map(move |i| Run { pfn: self.pfn + i * most, count: most.min(self.count - i * most) })
    }
}

/// Frames nobody uses.
#[derive(Debug, Default)]
pub struct FreeFrames {
    runs: Vec<Run>,
}

impl FreeFrames {
    /// No frame.
    pub const fn new() -> Self {
        Self { runs: Vec::new() }
    }

    /// Number of free frames.
    pub fn available(&self) -> u64 {
        self.runs.iter().map(|run| run.count).sum()
    }

    /// Adds a run that nobody uses (any more).
    pub fn give(&mut self, run: Run) {
        if run.count == 0 {
            return;
        }
        let at = self.runs.partition_point(|other| other.pfn < run.pfn);
        self.runs.insert(at, run);
        let mut merged: Vec<Run> = Vec::with_capacity(self.runs.len());
        for run in &self.runs {
            match merged.last_mut() {
                Some(last) if last.end() == run.pfn => last.count += run.count,
                _ => merged.push(*run),
            }
        }
        self.runs = merged;
    }

    /// Removes whatever part of `run` is free: somebody uses it.
    pub fn remove(&mut self, run: Run) {
        let mut rest = Vec::with_capacity(self.runs.len() + 1);
        for free in &self.runs {
            let before =
                Run { pfn: free.pfn, count: run.pfn.min(free.end()).saturating_sub(free.pfn) };
            let start = run.end().max(free.pfn);
            let after = Run { pfn: start, count: free.end().saturating_sub(start) };
            rest.extend([before, after].into_iter().filter(|part| part.count != 0));
        }
        self.runs = rest;
    }

    /// Takes `count` frames, the first at a multiple of `align` frames.
    pub fn take(&mut self, count: u64, align: u64) -> Option<Run> {
        let found = self.runs.iter().find_map(|free| {
            let pfn = free.pfn.next_multiple_of(align.max(1));
            (pfn + count <= free.end()).then_some(Run { pfn, count })
        })?;
        self.remove(found);
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_aligned_and_what_comes_back_merges() {
        let mut frames = FreeFrames::default();
        frames.give(Run { pfn: 0x40001, count: 0x1fff });
        let a = frames.take(512, 512).unwrap();
        assert_eq!(a, Run { pfn: 0x40200, count: 512 });
        let b = frames.take(512, 512).unwrap();
        assert_eq!(b.pfn, 0x40400);
        assert!(frames.take(0x2000, 1).is_none());
        frames.give(a);
        frames.give(b);
        assert_eq!(frames.runs, [Run { pfn: 0x40001, count: 0x1fff }]);
    }

    #[test]
    fn used_memory_is_cut_out_wherever_it_lies() {
        let mut frames = FreeFrames::default();
        frames.give(Run { pfn: 100, count: 100 });
        frames.remove(Run { pfn: 50, count: 60 });
        frames.remove(Run { pfn: 150, count: 10 });
        frames.remove(Run { pfn: 190, count: 100 });
        frames.remove(Run { pfn: 500, count: 1 });
        assert_eq!(frames.runs, [Run { pfn: 110, count: 40 }, Run { pfn: 160, count: 30 }]);
        assert_eq!(frames.available(), 70);
    }

    #[test]
    fn pieces_cover_a_run() {
        let pieces: Vec<_> = Run { pfn: 10, count: 1025 }.pieces(512).collect();
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces.last(), Some(&Run { pfn: 1034, count: 1 }));
    }
}
