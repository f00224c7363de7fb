//! What a device sees of pages side by side, as runs.
//!
//! A driver maps buffers, and a buffer is pages side by side that are seen
//! alike. So whoever reads a table, a guest's or EL2's own, compares each word
//! with the one that would go on, and everything else is done once a run.

use super::PART_PAGES;
use crate::addr::{Gfn, Pfn, PfnRange};
use crate::stage2::Attributes;
use arrayvec::ArrayVec;

/// What a device sees of one page: a frame number and a right, or nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct View(u32);

impl View {
    /// Nothing: an access is refused.
    pub const NOTHING: Self = Self(0);
    const PRESENT: u32 = 1 << 31;
    const WRITABLE: u32 = 1 << 30;
    const FRAME: u32 = (crate::addr::FRAME_LIMIT - 1) as u32;

    /// A page of the guest's, to read and perhaps to write.
    pub const fn of_guest(page: Gfn, writable: bool) -> Self {
        Self::new(page.number(), writable)
    }

    /// The same of a frame, by its number.
    pub(super) const fn new(frame: u64, writable: bool) -> Self {
        Self(frame as u32 | Self::PRESENT | if writable { Self::WRITABLE } else { 0 })
    }

    /// The number of the page or frame; `None` of nothing.
    pub(super) const fn number(self) -> Option<u64> {
        if self.0 & Self::PRESENT == 0 { None } else { Some((self.0 & Self::FRAME) as u64) }
    }

    /// May the device write?
    pub(super) const fn is_writable(self) -> bool {
        self.0 & Self::WRITABLE != 0
    }

    /// How the host's stage 2 shows it.
    pub(super) const fn attributes(self) -> Attributes {
        if self.is_writable() { Attributes::WINDOW } else { Attributes::WINDOW_READ_ONLY }
    }

    /// What goes on after `pages` pages that begin with this one.
    const fn after(self, pages: u16) -> Self {
        // The rights are above all numbers: the sum changes none.
        Self(self.0 + if self.0 & Self::PRESENT == 0 { 0 } else { pages as u32 })
    }
}

/// Pages side by side: consecutive frames that are seen alike, or nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    first: View,
    count: u16,
}

/// The pages of a step from its first page on, as runs.
#[derive(Default)]
pub struct Views {
    /// At most one for each page.
    runs: ArrayVec<Run, PART_PAGES>,
}

impl Views {
    /// `count` pages more: the first is seen like `first`, and what goes on
    /// from it. What is more than [`PART_PAGES`] in all is not taken.
    #[inline]
    pub fn push(&mut self, first: View, count: u64) {
        let count = count.min(PART_PAGES as u64) as u16;
        match self.runs.last_mut() {
            _ if count == 0 => {}
            Some(last) if last.first.after(last.count) == first => {
                last.count = last.count.saturating_add(count);
            }
            _ => _ = self.runs.try_push(Run { first, count }),
        }
    }

    fn all(&self) -> impl Iterator<Item = Run> {
        self.runs.iter().copied()
    }

    /// How many pages.
    pub(super) fn pages(&self) -> u64 {
        self.all().map(|run| u64::from(run.count)).sum()
    }

    /// Runs in order: the number of the first page, how it is seen, how many.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, View, u64)> {
        self.all().scan(0, |at, Run { first, count }| {
            let page = *at;
            *at += u64::from(count);
            Some((page, first, u64::from(count)))
        })
    }

    /// Those that are something: the number of the first page, the frames, how
    /// the first is seen.
    pub(super) fn frames(&self) -> impl Iterator<Item = (u64, PfnRange, View)> {
        self.iter().filter_map(|(page, first, count)| {
            Some((page, PfnRange::new(first.number()?, count).ok()?, first))
        })
    }

    /// The same, a frame at a time.
    pub(super) fn each_frame(&self) -> impl Iterator<Item = Pfn> {
        self.frames().flat_map(|(_, run, _)| run.iter())
    }

    /// Pages side by side that are something, whatever: the first, how many.
    pub(super) fn for_each_stretch(&self, mut visit: impl FnMut(u64, u64)) {
        let (mut start, mut end) = (0, 0);
        for (page, run, _) in self.frames() {
            if page != end {
                if end > start {
                    visit(start, end - start);
                }
                start = page;
            }
            end = page + run.count();
        }
        if end > start {
            visit(start, end - start);
        }
    }

    /// Hands the pages of two lists to `visit`, as many at a time as are one
    /// run in both.
    pub(super) fn for_each_pair(&self, other: &Self, mut visit: impl FnMut(View, View, u64)) {
        fn rest(run: Run, done: u16) -> Option<Run> {
            let count = run.count.checked_sub(done).filter(|count| *count > 0)?;
            Some(Run { first: run.first.after(done), count })
        }
        let (mut left_runs, mut right_runs) = (self.all(), other.all());
        let (mut left_run, mut right_run) = (left_runs.next(), right_runs.next());
        while let (Some(left), Some(right)) = (left_run, right_run) {
            let count = left.count.min(right.count);
            visit(left.first, right.first, u64::from(count));
            left_run = rest(left, count).or_else(|| left_runs.next());
            right_run = rest(right, count).or_else(|| right_runs.next());
        }
    }

    /// Keeps the first `count` pages that are something, and forgets the rest.
    pub(super) fn keep(&mut self, mut count: u64) {
        for run in self.runs.iter_mut().filter(|run| run.first != View::NOTHING) {
            run.count = u64::from(run.count).min(count) as u16;
            count -= u64::from(run.count);
            if run.count == 0 {
                run.first = View::NOTHING;
            }
        }
    }
}
