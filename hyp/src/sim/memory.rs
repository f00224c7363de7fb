//! Memory of the simulated machine: contents, and who has mapped what.

use super::frames::{Frame, Frames, WORDS};
use super::tlb::{DMA, HOST, SimLeaf, Tlbs};
use crate::addr::Pfn;
use crate::error::Error;
use std::collections::BTreeMap;
use std::format;
use std::string::String;
use std::vec::Vec;

#[derive(Default)]
pub(super) struct Memory {
    frames: Frames,
    tlbs: Tlbs,
    violations: Vec<String>,
    /// Words of guests that EL2 has read in this call, and in the last one that
    /// read any.
    guest_words: BTreeMap<(u64, usize), u64>,
    guest_words_before: BTreeMap<(u64, usize), u64>,
    /// What is not per frame and can be put back.
    pub(super) settings: Settings,
    checkpoint: Option<(Tlbs, Settings)>,
}

/// Switches and counters.
#[derive(Clone, Copy, Default)]
pub(super) struct Settings {
    /// Calls of `reserve_hyp` that still succeed.
    pub(super) reserve_left: Option<u64>,
    pub(super) hostile: bool,
    /// What a guest makes of a word that EL2 has just read.
    pub(super) rewrite: Option<fn(u64) -> u64>,
    pub(super) invalidations: u64,
    /// How often the IOMMU was told to forget something.
    pub(super) dma_invalidations: u64,
    /// Words written to tables.
    pub(super) table_words: u64,
    /// Everything EL2 did to memory or mappings so far.
    pub(super) effects: u64,
}

impl Memory {
    pub(super) fn word(&self, pfn: u64, index: usize) -> u64 {
        self.frames.word(pfn, index)
    }

    /// Every frame that was ever touched, by number.
    pub(super) fn frames(&self) -> impl Iterator<Item = (u64, &Frame)> {
        self.frames.iter()
    }

    /// A frame.
    pub(super) fn frame(&self, pfn: u64) -> &Frame {
        self.frames.get(pfn)
    }

    /// Hands every frame that changed since the last call to `visit`.
    pub(super) fn take_changes(&mut self, visit: impl FnMut(u64, &Frame)) {
        self.frames.take_noted(visit);
    }

    pub(super) fn set_word(&mut self, pfn: u64, index: usize, value: u64) {
        self.frames.set_word(pfn, index, value);
    }

    pub(super) fn fill(&mut self, pfn: u64, tag: u64) {
        self.frames.fill(pfn, tag);
    }

    pub(super) fn tag(&self, pfn: u64) -> Option<u64> {
        self.frames.get(pfn).tag()
    }

    pub(super) fn non_zero_bytes(&self, pfn: u64) -> u64 {
        let frame = self.frames.get(pfn);
        let words = (0..WORDS).map(|index| frame.word(index).to_le_bytes());
        words.flatten().filter(|byte| *byte != 0).count() as u64
    }

    pub(super) fn reserve(&mut self) -> Result<(), Error> {
        match &mut self.settings.reserve_left {
            None => Ok(()),
            Some(0) => Err(Error::NoMemory),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    pub(super) fn is_hyp_mapped(&self, pfn: u64) -> bool {
        self.frames.get(pfn).hyp_mapped
    }

    pub(super) fn map_hyp(&mut self, pfn: u64) {
        self.settings.effects += 1;
        let reach = self.tlbs.who_reaches(&self.frames, pfn);
        if !reach.is_empty() {
            self.violations.push(format!("EL2 maps frame {pfn:#x}, which {reach:?} can reach"));
        }
        self.frames.change(pfn).hyp_mapped = true;
    }

    pub(super) fn report(&mut self, violation: String) {
        self.violations.push(violation);
    }

    pub(super) fn unmap_hyp(&mut self, pfn: u64) {
        self.settings.effects += 1;
        let frame = self.frames.change(pfn);
        if !core::mem::replace(&mut frame.hyp_mapped, false) {
            self.violations.push(format!("EL2 unmaps frame {pfn:#x}, which it has not mapped"));
        }
        if frame.place.is_some() {
            self.violations.push(format!("frame {pfn:#x} leaves EL2 while it is a live table"));
        }
    }

    pub(super) fn read_table(&mut self, pfn: u64, index: usize) -> u64 {
        let frame = self.frames.get(pfn);
        if !frame.hyp_mapped {
            self.violations.push(format!("EL2 reads frame {pfn:#x}, which it has not mapped"));
        }
        frame.word(index)
    }

    /// All words of a table.
    pub(super) fn table_words(&mut self, pfn: u64) -> [u64; WORDS] {
        let frame = self.frames.get(pfn);
        if !frame.hyp_mapped {
            self.violations.push(format!("EL2 reads frame {pfn:#x}, which it has not mapped"));
        }
        frame.words().copied().unwrap_or_else(|| [frame.word(0); WORDS])
    }

    pub(super) fn write_table(&mut self, pfn: u64, index: usize, value: u64) {
        self.settings.effects += 1;
        self.settings.table_words += 1;
        let (old, frame) = self.frames.store(pfn, index, value);
        if !frame.hyp_mapped {
            self.violations.push(format!("EL2 writes frame {pfn:#x}, which it has not mapped"));
        }
        if let Some(place) = frame.place {
            let (frames, broken) = (&mut self.frames, &mut self.violations);
            self.tlbs.written(frames, place, (pfn, index), (old, value), broken);
        }
    }

    pub(super) fn zero(&mut self, pfn: u64) {
        self.settings.effects += 1;
        if self.frames.get(pfn).place.is_some() {
            self.violations.push(format!("frame {pfn:#x} is wiped while it is a live table"));
        }
        self.frames.fill(pfn, 0);
        self.frames.set_dirty(pfn, false);
        self.tlbs.forget_contents(&mut self.frames, pfn);
        if self.settings.hostile
            && let Some(vmid) = self.tlbs.who_reaches(&self.frames, pfn).first()
        {
            self.frames.fill(pfn, 0xbad0_0000 + u64::from(*vmid));
        }
    }

    /// EL2 reads a word that a guest may be writing.
    pub(super) fn read_guest_word(&mut self, pfn: u64, index: usize) -> u64 {
        let word = self.frames.word(pfn, index);
        if self.guest_words.insert((pfn, index), word).is_some() {
            self.violations.push(format!("word {index} of the guest's {pfn:#x} is read twice"));
        }
        let reach = self.tlbs.who_reaches(&self.frames, pfn);
        if self.frames.get(pfn).hyp_mapped || reach.len() != 1 || reach.contains(&HOST) {
            self.violations.push(format!("EL2 reads frame {pfn:#x}, which {reach:?} can reach"));
        }
        if let Some(rewrite) = self.settings.rewrite {
            self.frames.set_word(pfn, index, rewrite(word));
        }
        word
    }

    /// A guest goes on, or the host does: a word may be read again.
    pub(super) fn end_call_of_guest(&mut self) {
        if !self.guest_words.is_empty() {
            self.guest_words_before = core::mem::take(&mut self.guest_words);
        }
    }

    /// See [`super::SimMachine::guest_words`].
    pub(super) fn guest_words(&self) -> Vec<(Pfn, usize, u64)> {
        let words = self.guest_words_before.iter();
        words.map(|((frame, index), word)| (pfn(*frame), *index, *word)).collect()
    }

    /// EL2 writes a guest's frame. Nobody else may be able to reach it: what
    /// is written is for that guest.
    pub(super) fn write_private(&mut self, pfn: u64, word: &dyn Fn(usize) -> u64) {
        self.settings.effects += 1;
        let reach = self.tlbs.who_reaches(&self.frames, pfn);
        if self.frames.get(pfn).hyp_mapped || reach.len() != 1 || reach.contains(&HOST) {
            self.violations.push(format!("EL2 writes frame {pfn:#x}, which {reach:?} can reach"));
        }
        self.frames.evict(pfn);
        (0..WORDS).for_each(|index| self.frames.set_word(pfn, index, word(index)));
    }

    pub(super) fn clean(&mut self, pfn: u64) {
        self.settings.effects += 1;
        self.frames.evict(pfn);
    }

    pub(super) fn frames_mut(&mut self) -> &mut Frames {
        &mut self.frames
    }

    pub(super) fn make_coherent(&mut self, pfn: u64) {
        self.settings.effects += 1;
        self.frames.evict(pfn);
        if self.tlbs.who_reaches(&self.frames, pfn).is_empty() {
            self.frames.edit(pfn).coherent = true;
            // Measured next: then its contents are no secret of anybody's.
            self.tlbs.forget_contents(&mut self.frames, pfn);
        }
    }

    pub(super) fn measure(&mut self, pfn: u64) -> Vec<u8> {
        // Whoever gets the frame next may spoil it again.
        if !core::mem::replace(&mut self.frames.edit(pfn).coherent, false) {
            self.violations.push(format!("frame {pfn:#x} is read before its caches are cleaned"));
        }
        let reach = self.tlbs.who_reaches(&self.frames, pfn);
        if !reach.is_empty() {
            self.violations.push(format!("frame {pfn:#x} is read while {reach:?} can write it"));
        }
        let frame = self.frames.get(pfn);
        match frame.words() {
            None => frame.word(0).to_le_bytes().repeat(WORDS),
            Some(words) => words.iter().flat_map(|word| word.to_le_bytes()).collect(),
        }
    }

    pub(super) fn publish(&mut self) {
        self.tlbs.publish();
    }

    pub(super) fn invalidate(&mut self, vmid: u8, start: u64, end: u64) {
        self.settings.invalidations += 1;
        self.tlbs.invalidate(&mut self.frames, vmid, (start, end));
    }

    pub(super) fn invalidate_dma(&mut self, start: u64, end: u64) {
        self.settings.dma_invalidations += 1;
        self.tlbs.invalidate_dma((start, end));
    }

    pub(super) fn sync_dma(&mut self) {
        self.tlbs.sync_dma();
    }

    pub(super) fn attach_dma(&mut self, root: u64) {
        self.attach(DMA, root);
    }

    pub(super) fn access_of_device(&self, pfn: u64) -> Vec<u64> {
        self.access(DMA, pfn)
    }

    pub(super) fn attach(&mut self, vmid: u8, root: u64) {
        self.tlbs.attach(&mut self.frames, (vmid, root), &mut self.violations);
    }

    pub(super) fn access(&self, vmid: u8, gfn: u64) -> Vec<u64> {
        self.tlbs.access(&self.frames, vmid, gfn)
    }

    pub(super) fn leaves(&self, vmid: u8) -> Vec<SimLeaf> {
        self.tlbs.leaves(&self.frames, vmid)
    }

    pub(super) fn take_broken(&mut self) -> Vec<String> {
        core::mem::take(&mut self.violations)
    }

    pub(super) fn settle(&mut self) -> Vec<String> {
        self.tlbs.settle(&mut self.frames, &mut self.violations);
        self.end_call_of_guest();
        core::mem::take(&mut self.violations)
    }

    /// Keeps what everything is now.
    pub(super) fn checkpoint(&mut self) {
        assert!(self.settle().is_empty(), "a checkpoint of a machine that has broken rules");
        self.frames.checkpoint();
        self.checkpoint = Some((self.tlbs.clone(), self.settings));
    }

    /// Everything is as it was at the checkpoint.
    pub(super) fn rewind(&mut self) {
        let (tlbs, settings) = self.checkpoint.as_ref().expect("a machine with a checkpoint");
        self.tlbs.clone_from(tlbs);
        self.settings = *settings;
        self.violations.clear();
        self.guest_words.clear();
        self.frames.rewind();
    }
}

/// For messages and tests: a frame number that fits.
pub(super) fn pfn(number: u64) -> Pfn {
    Pfn::new(number).expect("the simulated machine has 39 address bits")
}
