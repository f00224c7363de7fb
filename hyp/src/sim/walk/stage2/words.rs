//! The contents of all frames, and loops over them that a fuzzer can afford.
//!
//! Words are atomics only because a [`crate::machine::Machine`] is shared by
//! its CPUs. Which strides of a frame were written since it was wiped is kept
//! beside them: most tables are nearly empty.

use crate::addr::{FRAME_SIZE, Pfn, PfnRange};
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::boxed::Box;

/// Words in a frame.
pub(super) const WORDS: usize = FRAME_SIZE as usize / 8;
/// Words that a loop over a frame takes at once.
const STRIDE: usize = 16;
/// Every stride of a frame.
pub(super) const ALL_STRIDES: u64 = (1 << (WORDS / STRIDE)) - 1;
/// How many frames there are; one bit of a word each.
pub(super) const FRAMES: u64 = 64;
/// The first: a multiple of [`FRAMES`].
const FIRST: u64 = 0x100;

/// All frames of the machine.
pub(super) fn frames() -> PfnRange {
    PfnRange::new(FIRST, FRAMES).unwrap()
}

/// Position of a frame among all; beyond them if it is none of them.
pub(super) fn slot(frame: Pfn) -> u64 {
    frame.number() ^ FIRST
}

/// The contents of all frames.
pub(super) struct Words {
    words: Box<[AtomicU64]>,
    /// Strides of each frame that were written since they were wiped, one bit
    /// each: the others hold zeros, and need not be wiped or looked through.
    written: Box<[AtomicU64]>,
    /// Strides of each frame that may have changed since [`Words::differ`]
    /// looked at them.
    news: Box<[AtomicU64]>,
}

/// The strides of some words, one bit each.
#[inline]
pub(super) fn strides(indices: Range<usize>) -> u64 {
    let below = |end: usize| (1_u64 << end) - 1;
    below(indices.end.div_ceil(STRIDE)) & !below(indices.start / STRIDE)
}

/// The strides whose bits are set in `mask`, which has no others.
fn each(mut mask: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let stride = mask.trailing_zeros() as usize;
        mask &= mask.checked_sub(1)?;
        Some(stride)
    })
}

fn add(mask: &AtomicU64, bits: u64) {
    mask.store(mask.load(Relaxed) | bits, Relaxed);
}

impl Words {
    pub(super) fn new() -> Self {
        let zeros = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        let frames = || zeros(FRAMES as usize);
        Self { words: zeros(FRAMES as usize * WORDS), written: frames(), news: frames() }
    }

    #[inline]
    pub(super) fn get(&self, frame: Pfn, index: usize) -> &AtomicU64 {
        // One comparison refuses a wrong frame and a wrong index alike: this
        // is the hottest line of all.
        let beyond = (index / WORDS) << 40;
        let place = ((slot(frame) as usize) << 9) | (index % WORDS) | beyond;
        match self.words.get(place) {
            Some(word) => word,
            None => panic!("EL2 uses word {index} of {frame:x?}, which is no table of its own"),
        }
    }

    /// Word `index` of the frame is about to be written.
    #[inline]
    pub(super) fn mark(&self, frame: Pfn, index: usize) {
        self.mark_strides(frame, 1 << (index % WORDS / STRIDE));
    }

    /// The same for several, side by side.
    #[inline]
    pub(super) fn mark_run(&self, frame: Pfn, indices: Range<usize>) {
        self.mark_strides(frame, strides(indices));
    }

    #[inline]
    fn mark_strides(&self, frame: Pfn, strides: u64) {
        let slot = slot(frame) as usize;
        add(&self.written[slot], strides);
        add(&self.news[slot], strides);
    }

    /// Words of a frame side by side.
    #[inline]
    pub(super) fn run(&self, frame: Pfn, indices: Range<usize>) -> &[AtomicU64] {
        let words = self.frame(frame).get(indices.clone());
        words.unwrap_or_else(|| panic!("EL2 uses words {indices:?} of {frame:x?}"))
    }

    /// The strides of a frame that may hold something, with their numbers.
    fn written(&self, frame: Pfn) -> impl Iterator<Item = (usize, &[AtomicU64; STRIDE])> {
        let (strides, _) = self.frame(frame).as_chunks::<STRIDE>();
        let mask = self.written[slot(frame) as usize].load(Relaxed);
        each(mask).filter_map(|stride| Some((stride, strides.get(stride)?)))
    }

    #[inline]
    pub(super) fn word(&self, frame: Pfn, index: usize) -> u64 {
        self.get(frame, index).load(Relaxed)
    }

    fn frame(&self, frame: Pfn) -> &[AtomicU64; WORDS] {
        let (frames, _) = self.words.as_chunks();
        frames
            .get(slot(frame) as usize)
            .unwrap_or_else(|| panic!("EL2 uses {frame:x?}, which is no table of its own"))
    }

    /// Every word of a frame.
    pub(super) fn table(&self, frame: Pfn) -> impl Iterator<Item = u64> + Clone {
        self.frame(frame).iter().map(|word| word.load(Relaxed))
    }

    /// Is a word of the frame another than that of `expected`? Looks at the
    /// strides of `changed`, and at those that were written since it looked
    /// last.
    pub(super) fn differ(&self, frame: Pfn, expected: &[u64; WORDS], changed: u64) -> bool {
        let (strides, _) = self.frame(frame).as_chunks::<STRIDE>();
        let (expected, _) = expected.as_chunks::<STRIDE>();
        let news = &self.news[slot(frame) as usize];
        let mut any = 0;
        for stride in each((news.load(Relaxed) | changed) & ALL_STRIDES) {
            for (word, expected) in strides[stride].iter().zip(&expected[stride]) {
                any |= word.load(Relaxed) ^ expected;
            }
        }
        news.store(0, Relaxed);
        any != 0
    }

    /// Every word of a frame through `of` (index, word), all added up by OR.
    /// In strides: a loop costs a fuzzer an event per turn.
    pub(super) fn any(&self, frame: Pfn, of: impl Fn(usize, u64) -> u64) -> u64 {
        let (strides, _) = self.frame(frame).as_chunks::<STRIDE>();
        let mut any = 0;
        for (index, stride) in strides.iter().enumerate() {
            for (offset, word) in stride.iter().enumerate() {
                any |= of((index * STRIDE + offset) % WORDS, word.load(Relaxed));
            }
        }
        any
    }

    /// The same where `of` makes nothing of a zero.
    pub(super) fn any_set(&self, frame: Pfn, of: impl Fn(usize, u64) -> u64) -> u64 {
        let mut any = 0;
        for (index, stride) in self.written(frame) {
            for (offset, word) in stride.iter().enumerate() {
                any |= of((index * STRIDE + offset) % WORDS, word.load(Relaxed));
            }
        }
        any
    }

    /// Visits the words of which `bits` are all set.
    pub(super) fn for_each_with(&self, frame: Pfn, bits: u64, mut visit: impl FnMut(usize, u64)) {
        // Without a comparison: 1 for a word that has them all.
        let has = |word: &AtomicU64| (!word.load(Relaxed) & bits).wrapping_sub(1) >> 63;
        for (index, stride) in self.written(frame) {
            let mut any = 0;
            for word in stride {
                any |= has(word);
            }
            if any != 0 {
                let found = stride.iter().zip(index * STRIDE..).filter(|(word, _)| has(word) == 1);
                found.for_each(|(word, index)| visit(index, word.load(Relaxed)));
            }
        }
    }

    /// The first word from `from` on that is not zero.
    pub(super) fn next(&self, frame: Pfn, from: usize) -> Option<(usize, u64)> {
        self.written(frame).filter(|(index, _)| (index + 1) * STRIDE > from).find_map(
            |(stride, words)| {
                let mut words = words.iter().zip(stride * STRIDE..);
                words.find_map(|(word, index)| {
                    let word = word.load(Relaxed);
                    (word != 0 && index >= from).then_some((index, word))
                })
            },
        )
    }

    /// How many words are valid descriptors.
    pub(super) fn valid(&self, frame: Pfn) -> u64 {
        let valid = |stride: &[AtomicU64; STRIDE]| -> u64 {
            stride.iter().map(|word| word.load(Relaxed) & 1).sum()
        };
        self.written(frame).map(|(_, stride)| valid(stride)).sum()
    }

    pub(super) fn wipe(&self, frame: Pfn) {
        for (_, stride) in self.written(frame) {
            stride.iter().for_each(|word| word.store(0, Relaxed));
        }
        let slot = slot(frame) as usize;
        add(&self.news[slot], self.written[slot].load(Relaxed));
        self.written[slot].store(0, Relaxed);
    }

    pub(super) fn fill(&self, frame: Pfn, first: u64, step: u64) {
        let (strides, _) = self.frame(frame).as_chunks::<STRIDE>();
        let mut next = first;
        for stride in strides {
            for word in stride {
                word.store(next, Relaxed);
                next = next.wrapping_add(step);
            }
        }
        self.mark_strides(frame, ALL_STRIDES);
    }

    /// Is the frame wiped?
    pub(super) fn is_zero(&self, frame: Pfn) -> bool {
        self.any_set(frame, |_, word| word) == 0
    }
}
