//! Every frame of the simulated machine: what is in it, and what the watcher
//! knows about it.
//!
//! Frames are found by number through two directories, as a table walker
//! finds pages, so that any access costs three loads wherever RAM lies. A
//! frame is mostly filled with one word (a wiped one with zero), so that word
//! is what is kept of it; only frames that really differ inside, which are
//! page tables, have 512.
//!
//! Two lists remember what has changed: one since the checkpoint, with the
//! former state, so that the machine can be rewound; one since somebody asked
//! last, so that a model compares only what can have changed.

use super::tlb::Place;
use crate::addr::FRAME_SIZE;
use core::array;
use std::boxed::Box;
use std::vec::Vec;

/// Words of a frame.
pub(super) const WORDS: usize = FRAME_SIZE as usize / 8;
/// Entries of a directory, and frames that the last one leads to.
const FANOUT: usize = 512;

/// What is in a frame.
#[derive(Clone)]
enum Content {
    /// This word everywhere.
    Tag(u64),
    /// These.
    Words(Box<[u64; WORDS]>),
}

/// A frame.
#[derive(Clone)]
pub(super) struct Frame {
    content: Content,
    /// Where it hangs, if walkers may reach it as a table.
    pub(super) place: Option<Place>,
    /// Which guests map it, and where; the host where it is not the
    /// identity.
    pub(super) guests: Vec<(u8, u64)>,
    /// EL2 has it mapped.
    pub(super) hyp_mapped: bool,
    /// Cached and uncached views agree, for all that EL2 knows.
    pub(super) coherent: bool,
    /// Who may know what is in it, one bit per VMID: whoever has reached it
    /// since it was wiped. The host's bit only where a guest's is, too.
    pub(super) seen: u32,
    /// It has stores of EL2's that were not cleaned to memory since.
    dirty: bool,
    /// What memory holds under the caches, everywhere in it; `None` if that
    /// is what the caches have.
    under: Option<u64>,
    /// The lines over it are dirty: an eviction writes them to memory, and
    /// does not only forget them.
    unwritten: bool,
    /// It is in the list of changes since the checkpoint.
    saved: bool,
    /// It is in the list of changes since somebody asked.
    noted: bool,
}

impl Frame {
    const fn new() -> Self {
        Self {
            content: Content::Tag(0),
            place: None,
            guests: Vec::new(),
            hyp_mapped: false,
            coherent: false,
            seen: 0,
            dirty: false,
            under: None,
            unwritten: false,
            saved: false,
            noted: false,
        }
    }

    pub(super) fn word(&self, index: usize) -> u64 {
        match &self.content {
            Content::Tag(tag) => *tag,
            Content::Words(words) => words[index],
        }
    }

    /// Stores a word; returns the old one.
    fn set_word(&mut self, index: usize, value: u64) -> u64 {
        match &mut self.content {
            Content::Tag(tag) if *tag == value => value,
            Content::Tag(tag) => {
                let old = *tag;
                let mut words = Box::new([old; WORDS]);
                words[index] = value;
                self.content = Content::Words(words);
                old
            }
            Content::Words(words) => core::mem::replace(&mut words[index], value),
        }
    }

    /// The word that is everywhere in it; `None` if there are several.
    pub(super) fn tag(&self) -> Option<u64> {
        match &self.content {
            Content::Tag(tag) => Some(*tag),
            Content::Words(words) => {
                let first = words[0];
                let other = words.iter().fold(0, |other, word| other | (word ^ first));
                (other == 0).then_some(first)
            }
        }
    }

    /// What an access past the caches finds in its first word.
    pub(super) fn memory(&self) -> u64 {
        self.under.unwrap_or_else(|| self.word(0))
    }

    /// All its words; `None` if one word is everywhere and no other was ever
    /// stored since it was filled.
    pub(super) fn words(&self) -> Option<&[u64; WORDS]> {
        match &self.content {
            Content::Tag(_) => None,
            Content::Words(words) => Some(words),
        }
    }

    /// Is every word an invalid descriptor?
    pub(super) fn leads_nowhere(&self) -> bool {
        match &self.content {
            Content::Tag(tag) => tag & 1 == 0,
            Content::Words(words) => words.iter().fold(0, |any, word| any | word) & 1 == 0,
        }
    }
}

/// 2 MiB of frames.
struct Chunk {
    frames: [Frame; FANOUT],
    /// How many of them are dirty.
    dirty: usize,
}

impl Chunk {
    fn new() -> Box<Self> {
        Box::new(Self { frames: [const { Frame::new() }; FANOUT], dirty: 0 })
    }
}

/// Chunks by 2 MiB of a GiB.
type Gigabyte = Box<[Option<Box<Chunk>>; FANOUT]>;

/// All frames below 39 bits; one that nobody has touched is zero.
pub(super) struct Frames {
    gigabytes: Box<[Option<Gigabyte>; FANOUT]>,
    /// Since the checkpoint, if there is one: number and former state.
    saved: Option<Vec<(u64, Frame)>>,
    noted: Vec<u64>,
}

/// Index of a frame in the first directory, the second, and the chunk.
const fn split(pfn: u64) -> [usize; 3] {
    let mask = FANOUT - 1;
    [(pfn >> 18) as usize & mask, (pfn >> 9) as usize & mask, pfn as usize & mask]
}

fn chunk_of(gigabytes: &mut [Option<Gigabyte>; FANOUT], pfn: u64) -> &mut Chunk {
    let [first, second, _] = split(pfn);
    let gigabyte = gigabytes[first].get_or_insert_with(|| Box::new(array::from_fn(|_| None)));
    gigabyte[second].get_or_insert_with(Chunk::new)
}

/// A frame is about to change: keeps what it is, unless that is kept already.
fn save(saved: &mut Option<Vec<(u64, Frame)>>, pfn: u64, frame: &mut Frame) {
    if !frame.saved
        && let Some(saved) = saved
    {
        saved.push((pfn, frame.clone()));
        frame.saved = true;
    }
}

fn note(noted: &mut Vec<u64>, pfn: u64, frame: &mut Frame) {
    if !frame.noted {
        noted.push(pfn);
        frame.noted = true;
    }
}

static UNTOUCHED: Frame = Frame::new();

impl Default for Frames {
    fn default() -> Self {
        Self { gigabytes: Box::new(array::from_fn(|_| None)), saved: None, noted: Vec::new() }
    }
}

impl Frames {
    fn chunk(&self, pfn: u64) -> Option<&Chunk> {
        let [first, second, _] = split(pfn);
        self.gigabytes[first].as_ref()?[second].as_deref()
    }

    pub(super) fn get(&self, pfn: u64) -> &Frame {
        match self.chunk(pfn) {
            Some(chunk) => &chunk.frames[split(pfn)[2]],
            None => &UNTOUCHED,
        }
    }

    /// The frame, to change what the watcher knows of it.
    pub(super) fn edit(&mut self, pfn: u64) -> &mut Frame {
        let frame = &mut chunk_of(&mut self.gigabytes, pfn).frames[split(pfn)[2]];
        save(&mut self.saved, pfn, frame);
        frame
    }

    /// The frame, to change what is in it or whether EL2 has mapped it.
    pub(super) fn change(&mut self, pfn: u64) -> &mut Frame {
        let frame = &mut chunk_of(&mut self.gigabytes, pfn).frames[split(pfn)[2]];
        save(&mut self.saved, pfn, frame);
        note(&mut self.noted, pfn, frame);
        frame
    }

    pub(super) fn word(&self, pfn: u64, index: usize) -> u64 {
        self.get(pfn).word(index)
    }

    pub(super) fn set_word(&mut self, pfn: u64, index: usize, value: u64) {
        self.change(pfn).set_word(index, value);
    }

    /// Stores a word that is not cleaned to memory. Returns the old one, and
    /// the frame.
    pub(super) fn store(&mut self, pfn: u64, index: usize, value: u64) -> (u64, &Frame) {
        let chunk = chunk_of(&mut self.gigabytes, pfn);
        let frame = &mut chunk.frames[split(pfn)[2]];
        save(&mut self.saved, pfn, frame);
        note(&mut self.noted, pfn, frame);
        chunk.dirty += usize::from(!frame.dirty);
        frame.dirty = true;
        (frame.set_word(index, value), frame)
    }

    pub(super) fn fill(&mut self, pfn: u64, tag: u64) {
        let frame = self.change(pfn);
        frame.content = Content::Tag(tag);
        frame.under = None;
    }

    /// A world fills a frame through its caches, which keep it.
    pub(super) fn fill_cached(&mut self, pfn: u64, tag: u64) {
        let frame = self.change(pfn);
        frame.under = Some(frame.memory());
        frame.unwritten = true;
        frame.content = Content::Tag(tag);
    }

    /// A world fills it past the caches, which may have what was there before.
    pub(super) fn fill_uncached(&mut self, pfn: u64, tag: u64) {
        let frame = self.change(pfn);
        frame.unwritten &= frame.under.is_some();
        frame.under = Some(tag);
    }

    /// The caches lose it: by themselves, or because they are cleaned and
    /// invalidated.
    pub(super) fn evict(&mut self, pfn: u64) {
        if self.get(pfn).under.is_none() {
            return;
        }
        let frame = self.change(pfn);
        if let (Some(memory), false) = (frame.under.take(), frame.unwritten) {
            frame.content = Content::Tag(memory);
        }
    }

    pub(super) fn set_dirty(&mut self, pfn: u64, dirty: bool) {
        let frame = self.edit(pfn);
        let before = core::mem::replace(&mut frame.dirty, dirty);
        self.count_dirty(pfn, before, dirty);
    }

    fn count_dirty(&mut self, pfn: u64, before: bool, now: bool) {
        if before != now {
            let chunk = chunk_of(&mut self.gigabytes, pfn);
            chunk.dirty = chunk.dirty + usize::from(now) - usize::from(before);
        }
    }

    /// The first dirty frame of `count` from `first` on.
    pub(super) fn first_dirty(&self, first: u64, count: u64) -> Option<u64> {
        if count == 1 {
            return self.get(first).dirty.then_some(first);
        }
        let end = first + count;
        let mut next = first;
        while next < end {
            let [gigabyte, _, index] = split(next);
            if self.gigabytes[gigabyte].is_none() {
                next = (next | ((1 << 18) - 1)) + 1;
                continue;
            }
            let rest = end.min((next | (FANOUT as u64 - 1)) + 1) - next;
            if let Some(chunk) = self.chunk(next).filter(|chunk| chunk.dirty != 0) {
                let frames = &chunk.frames[index..index + rest as usize];
                if let Some(found) = frames.iter().position(|frame| frame.dirty) {
                    return Some(next + found as u64);
                }
            }
            next += rest;
        }
        None
    }

    /// Every frame that was ever touched.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Frame)> {
        let gigabytes =
            self.gigabytes.iter().zip(0u64..).filter_map(|(g, i)| Some((g.as_ref()?, i)));
        let chunks = gigabytes.flat_map(|(gigabyte, high)| {
            let chunks = gigabyte.iter().zip(high << 9..);
            chunks.filter_map(|(chunk, number)| Some((chunk.as_ref()?, number)))
        });
        chunks.flat_map(|(chunk, number)| (number << 9..).zip(&chunk.frames))
    }

    /// Calls `visit` with each frame changed since the last call.
    pub(super) fn take_noted(&mut self, mut visit: impl FnMut(u64, &Frame)) {
        let mut noted = core::mem::take(&mut self.noted);
        for pfn in noted.drain(..) {
            let frame = self.edit(pfn);
            frame.noted = false;
            visit(pfn, frame);
        }
        self.noted = noted;
    }

    /// From now on former states are kept, for [`Self::rewind`].
    pub(super) fn checkpoint(&mut self) {
        self.take_noted(|_, _| ());
        if let Some(saved) = self.saved.take() {
            saved.into_iter().for_each(|(pfn, _)| self.edit(pfn).saved = false);
        }
        self.saved = Some(Vec::new());
    }

    /// Everything is as it was at the checkpoint.
    pub(super) fn rewind(&mut self) {
        self.noted.clear();
        let Some(mut saved) = self.saved.take() else { return };
        for (pfn, former) in saved.drain(..) {
            let now = former.dirty;
            let before = core::mem::replace(self.edit(pfn), former).dirty;
            self.count_dirty(pfn, before, now);
        }
        self.saved = Some(saved);
    }
}
