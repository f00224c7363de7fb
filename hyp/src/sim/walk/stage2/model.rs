//! What each input frame should map to: an array, and the comparison of an
//! array with the tables.

use super::arena::{WORDS, Words};
use super::watch::{frame_of, span};
use super::words::{ALL_STRIDES, strides};
use crate::addr::Pfn;

/// A page, readable and writable, normal memory (Arm ARM D8.3.2).
pub(super) const MEMORY: u64 = 0x7ff;
/// The same with the mark of a loan, a bit of the software's.
pub(super) const BORROWED: u64 = MEMORY | 1 << 55;
/// The same, never executable.
pub(super) const BOUNCE: u64 = MEMORY | 1 << 54;
/// A page of Device-nGnRE, never executable.
pub(super) const DEVICE: u64 = 1 << 54 | 0x4c7;
/// Everything of a leaf but where it leads.
const KIND: u64 = !0x7f_ffff_f000;

/// Regions of a space; two of them in one GiB, the others in two more.
pub(super) const REGIONS: usize = 4;
/// Frames in a region: what one table of pages translates.
pub(super) const REGION: u64 = WORDS as u64;

/// The descriptor of a page.
pub(super) const fn page(pfn: u64, kind: u64) -> u64 {
    pfn << 12 | kind
}

/// The frame a page leads to.
pub(super) fn output(word: u64) -> u64 {
    frame_of(word).number()
}

/// Memory type and permissions of a page, and its mark.
pub(super) fn kind(word: u64) -> u64 {
    word & KIND
}

/// How many entries are in use below a descriptor of a table. The hardware
/// ignores the field.
fn counted(word: u64) -> u64 {
    word >> 2 & 0x3ff
}

/// One address space: page descriptors for the frames of four regions, zero
/// where nothing is mapped.
pub(super) struct Space {
    /// First frames of the regions, in order.
    pub(super) bases: [u64; REGIONS],
    pub(super) pages: [[u64; WORDS]; REGIONS],
    /// How many pages of each region are mapped.
    used: [u64; REGIONS],
    /// First frame and end of the GiB that are the host's, by identity, also
    /// outside the regions.
    pub(super) identity: (u64, u64),
    /// Regions that were changed since they were last laid out.
    changed: [bool; REGIONS],
    /// The table that each region was last compared with, and what has changed
    /// of the region since then, as strides of [`Words`].
    compared: [Option<Pfn>; REGIONS],
    news: [u64; REGIONS],
}

impl Space {
    /// A space in which nothing is mapped.
    pub(super) const fn new(bases: [u64; REGIONS]) -> Self {
        Self {
            bases,
            pages: [[0; WORDS]; REGIONS],
            used: [0; REGIONS],
            identity: (0, 0),
            changed: [true; REGIONS],
            compared: [None; REGIONS],
            news: [0; REGIONS],
        }
    }

    /// Makes the regions what they were, as in `space`, which is always the
    /// same.
    pub(super) fn lay_out(&mut self, space: &Self) {
        self.compared = [None; REGIONS];
        for region in 0..REGIONS {
            if core::mem::take(&mut self.changed[region]) {
                self.pages[region].copy_from_slice(&space.pages[region]);
                self.used[region] = space.used[region];
            }
        }
    }

    /// The same space with the regions mapped by identity.
    pub(super) const fn by_identity(bases: [u64; REGIONS]) -> Self {
        let mut space = Self::new(bases);
        let mut frame = 0;
        while frame < REGIONS * WORDS {
            let (region, index) = (frame / WORDS, frame % WORDS);
            space.pages[region][index] = page(bases[region] + index as u64, MEMORY);
            space.used[region] += 1;
            frame += 1;
        }
        space
    }

    /// Cuts a range at the borders of the regions: region, and which frames
    /// of it.
    pub(super) fn parts(
        &self,
        (start, end): (u64, u64),
    ) -> impl Iterator<Item = (usize, core::ops::Range<usize>)> + use<> {
        let bases = self.bases;
        (0..REGIONS).filter_map(move |region| {
            let base = bases[region];
            let (from, to) = (start.max(base), end.min(base + REGION));
            (from < to).then(|| (region, (from - base) as usize..(to - base) as usize))
        })
    }

    /// One past the last frame of the regions that follow `start` without a
    /// gap.
    pub(super) fn end_of_run(&self, start: u64) -> u64 {
        let covers = |at: &u64| (*at..*at + REGION).contains(&start);
        let mut end =
            self.bases.iter().find(|base| covers(base)).map_or(start, |base| base + REGION);
        for base in self.bases {
            end = if base == end { base + REGION } else { end };
        }
        end
    }

    /// The page of a frame.
    pub(super) fn at(&self, gfn: u64) -> u64 {
        let mut parts = self.parts((gfn, gfn + 1));
        parts.next().map_or(0, |(region, frames)| self.pages[region][frames.start])
    }

    /// The pages of a range, in order.
    pub(super) fn range(&self, range: (u64, u64)) -> impl Iterator<Item = u64> + '_ {
        self.parts(range).flat_map(|(region, frames)| self.pages[region][frames].iter().copied())
    }

    /// How many frames from the first are so.
    pub(super) fn run(&self, range: (u64, u64), is: impl Fn(u64) -> bool) -> u64 {
        self.range(range).take_while(|word| is(*word)).count() as u64
    }

    /// Is nothing of the range mapped?
    pub(super) fn is_unmapped(&self, range: (u64, u64)) -> bool {
        self.parts(range).all(|(region, frames)| {
            self.pages[region][frames].iter().fold(0, |any, word| any | word) == 0
        })
    }

    /// From now on the range is mapped to the frames from `first` on.
    pub(super) fn map(&mut self, range: (u64, u64), first: u64, kind: u64) {
        let mut word = page(first, kind);
        for (region, frames) in self.parts(range) {
            self.touch(region, &frames);
            let pages = &mut self.pages[region][frames];
            self.used[region] += pages.len() as u64 - mapped(pages);
            for page in pages {
                *page = word;
                word = word.wrapping_add(1 << 12);
            }
        }
    }

    fn touch(&mut self, region: usize, frames: &core::ops::Range<usize>) {
        self.changed[region] = true;
        self.news[region] |= strides(frames.clone());
    }

    /// From now on the range is not mapped.
    pub(super) fn unmap(&mut self, range: (u64, u64)) {
        for (region, frames) in self.parts(range) {
            self.touch(region, &frames);
            let pages = &mut self.pages[region][frames];
            self.used[region] -= mapped(pages);
            pages.fill(0);
        }
    }

    /// Tables that page-level mappings need, the root included.
    pub(super) fn tables(&self) -> u64 {
        let (mut tables, mut last) = (1, u64::MAX);
        for (base, used) in self.bases.iter().zip(self.used) {
            if used != 0 {
                tables += 1 + u64::from(base / span(1) != last);
                last = base / span(1);
            }
        }
        tables
    }

    /// Is the whole region the host's own, so that a block serves?
    pub(super) fn is_whole(&self, region: usize) -> bool {
        self.used[region] == REGION
            && follows(&self.pages[region], page(self.bases[region], MEMORY))
    }

    /// Does a block translate the region?
    pub(super) fn is_block(&self, words: &Words, root: Pfn, region: usize) -> bool {
        let base = self.bases[region];
        let entry = |table, level| words.word(table, (base / span(level)) as usize % WORDS);
        let word = entry(root, 1);
        word & 0b11 == 0b01 || word & 0b11 == 0b11 && entry(frame_of(word), 2) & 0b11 == 0b01
    }

    /// The next comparison reads every word.
    pub(super) fn forget(&mut self) {
        self.compared = [None; REGIONS];
    }

    /// The tables say of the region what the array says. Of a table that has
    /// been compared it reads what was written since, there or here.
    pub(super) fn compare(&mut self, words: &Words, root: Pfn, region: usize) {
        let compared = self.compared[region].take();
        let news = core::mem::take(&mut self.news[region]);
        let (base, pages) = (self.bases[region], &self.pages[region]);
        let (mut table, mut above) = (root, 0);
        for level in 1..=2 {
            let word = words.word(table, (base / span(level)) as usize % WORDS);
            match word & 0b11 {
                0b11 => (table, above) = (frame_of(word), word),
                0b01 => {
                    let first = frame_of(word).number() + base % span(level);
                    let block = page(first, word & KIND | 0b11);
                    return assert!(follows(pages, block), "{base:#x}: a block");
                }
                _ => {
                    assert_eq!(word, 0, "{base:#x}: something is left half done");
                    return assert_eq!(self.used[region], 0, "{base:#x}: a hole");
                }
            }
        }
        let news = if compared == Some(table) { news } else { ALL_STRIDES };
        if words.differ(table, pages, news) {
            let mut wrong = words.table(table).zip(pages).zip(base..);
            let wrong = wrong.find(|((word, page), _)| word != *page);
            panic!("(found, expected), at frame: {wrong:x?}");
        }
        assert_eq!(
            counted(above),
            self.used[region],
            "{base:#x}: pages in use, by the entry above"
        );
        self.compared[region] = Some(table);
    }

    /// Outside the regions is what has always been there.
    pub(super) fn compare_elsewhere(&self, words: &Words, root: Pfn) {
        let mut ours = [0_u64; WORDS];
        for base in self.bases.map(|base| base - base % span(1)) {
            let index = (base / span(1)) as usize % WORDS;
            if core::mem::replace(&mut ours[index], !0) != 0 {
                continue; // two regions of the same GiB
            }
            let own = self.identity.0 <= base && base < self.identity.1;
            let block = if own { page(base, MEMORY & !0b10) } else { 0 };
            match words.word(root, index) {
                word if word & 0b11 == 0b11 => {
                    self.compare_blocks(words, word, (base, block));
                }
                word => assert_eq!(word, block, "{base:#x}: the level-1 entry"),
            }
        }
        assert_eq!(
            words.any_set(root, |index, word| word & !ours[index]),
            0,
            "another level-1 entry"
        );
    }

    /// The entries beside our regions are blocks from `first` on, or empty.
    fn compare_blocks(&self, words: &Words, entry: u64, (base, first): (u64, u64)) {
        let mut ours = [0_u64; WORDS];
        for at in self.bases.iter().filter(|at| (base..base + span(1)).contains(*at)) {
            ours[(at / span(2)) as usize % WORDS] = !0;
        }
        let step = if first == 0 { 0 } else { span(2) << 12 };
        let differs =
            |index: usize, word: u64| (word ^ (first + index as u64 * step)) & !ours[index];
        let table = frame_of(entry);
        assert_eq!(words.any(table, differs), 0, "a level-2 entry of the GiB from {base:#x}");
        let used = words.valid(table);
        assert_eq!(counted(entry), used, "{base:#x}: tables and blocks in use, by the entry above");
    }
}

/// How many of them are mapped.
fn mapped(pages: &[u64]) -> u64 {
    pages.iter().map(|page| page & 1).sum()
}

/// Are they the pages from `first` on? Without a branch, nor a check of each
/// sum, so that the compiler takes several at once.
fn follows(pages: &[u64; WORDS], first: u64) -> bool {
    let mut expected = first;
    let differs = pages.iter().fold(0, |any, word| {
        let differs = word ^ expected;
        expected = expected.wrapping_add(1 << 12);
        any | differs
    });
    differs == 0
}
