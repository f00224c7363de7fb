//! Memory of the simulated machine: contents, and who has mapped what.

use super::tlb::{HOST, SimLeaf, Tlbs};
use crate::addr::{FRAME_SIZE, Pfn};
use crate::error::Error;
use std::boxed::Box;
use std::collections::{BTreeMap, BTreeSet};
use std::format;
use std::string::String;
use std::vec::Vec;

const WORDS: usize = FRAME_SIZE as usize / 8;

/// Contents of memory; a frame that is not here is zero.
#[derive(Default)]
pub(super) struct Frames(BTreeMap<u64, Box<[u64; WORDS]>>);

impl Frames {
    pub(super) fn word(&self, pfn: u64, index: usize) -> u64 {
        self.0.get(&pfn).map_or(0, |words| words[index])
    }

    fn set_word(&mut self, pfn: u64, index: usize, value: u64) {
        self.0.entry(pfn).or_insert_with(|| Box::new([0; WORDS]))[index] = value;
    }

    fn fill(&mut self, pfn: u64, value: u64) {
        if value == 0 {
            self.0.remove(&pfn);
        } else {
            self.0.insert(pfn, Box::new([value; WORDS]));
        }
    }
}

#[derive(Default)]
pub(super) struct Memory {
    frames: Frames,
    hyp_mapped: BTreeSet<u64>,
    /// Frames whose cached and uncached views agree, for all that EL2 knows.
    coherent: BTreeSet<u64>,
    tlbs: Tlbs,
    violations: Vec<String>,
    /// Calls of `reserve_hyp` that still succeed.
    pub(super) reserve_left: Option<u64>,
    pub(super) hostile: bool,
    pub(super) invalidations: u64,
    /// Everything EL2 did to memory or mappings so far.
    pub(super) effects: u64,
}

impl Memory {
    pub(super) fn word(&self, pfn: u64, index: usize) -> u64 {
        self.frames.word(pfn, index)
    }

    /// Every frame that is written, by number.
    pub(super) fn contents(&self) -> impl Iterator<Item = (u64, &[u64])> {
        self.frames.0.iter().map(|(pfn, words)| (*pfn, &words[..]))
    }

    /// All words of a frame; none if it is zero.
    pub(super) fn words(&self, pfn: u64) -> &[u64] {
        self.frames.0.get(&pfn).map_or(&[], |words| &words[..])
    }

    pub(super) fn set_word(&mut self, pfn: u64, index: usize, value: u64) {
        self.frames.set_word(pfn, index, value);
    }

    pub(super) fn fill(&mut self, pfn: u64, tag: u64) {
        self.frames.fill(pfn, tag);
    }

    pub(super) fn tag(&self, pfn: u64) -> Option<u64> {
        let Some(words) = self.frames.0.get(&pfn) else { return Some(0) };
        words.iter().all(|word| *word == words[0]).then_some(words[0])
    }

    pub(super) fn reserve(&mut self) -> Result<(), Error> {
        match &mut self.reserve_left {
            None => Ok(()),
            Some(0) => Err(Error::NoMemory),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    pub(super) fn is_hyp_mapped(&self, pfn: u64) -> bool {
        self.hyp_mapped.contains(&pfn)
    }

    pub(super) fn map_hyp(&mut self, pfn: u64) {
        self.effects += 1;
        let reach = self.tlbs.who_reaches(&self.frames, pfn);
        if !reach.is_empty() {
            self.violations.push(format!("EL2 maps frame {pfn:#x}, which {reach:?} can reach"));
        }
        self.hyp_mapped.insert(pfn);
    }

    pub(super) fn report(&mut self, violation: String) {
        self.violations.push(violation);
    }

    pub(super) fn unmap_hyp(&mut self, pfn: u64) {
        self.effects += 1;
        if !self.hyp_mapped.remove(&pfn) {
            self.violations.push(format!("EL2 unmaps frame {pfn:#x}, which it has not mapped"));
        }
        if self.tlbs.is_table(pfn) {
            self.violations.push(format!("frame {pfn:#x} leaves EL2 while it is a live table"));
        }
    }

    pub(super) fn read_table(&mut self, pfn: u64, index: usize) -> u64 {
        if !self.hyp_mapped.contains(&pfn) {
            self.violations.push(format!("EL2 reads frame {pfn:#x}, which it has not mapped"));
        }
        self.frames.word(pfn, index)
    }

    pub(super) fn write_table(&mut self, pfn: u64, index: usize, value: u64) {
        self.effects += 1;
        if !self.hyp_mapped.contains(&pfn) {
            self.violations.push(format!("EL2 writes frame {pfn:#x}, which it has not mapped"));
        }
        let old = self.frames.word(pfn, index);
        self.frames.set_word(pfn, index, value);
        self.tlbs.dirty.insert(pfn);
        self.tlbs.written(&self.frames, (pfn, index), (old, value), &mut self.violations);
    }

    pub(super) fn zero(&mut self, pfn: u64) {
        self.effects += 1;
        if self.tlbs.is_table(pfn) {
            self.violations.push(format!("frame {pfn:#x} is wiped while it is a live table"));
        }
        self.frames.fill(pfn, 0);
        self.tlbs.dirty.remove(&pfn);
        if self.hostile
            && let Some(vmid) = self.tlbs.who_reaches(&self.frames, pfn).first()
        {
            self.frames.fill(pfn, 0xbad0_0000 + u64::from(*vmid));
        }
    }

    /// EL2 writes a guest's frame. Nobody else may be able to reach it: what
    /// is written is for that guest.
    pub(super) fn write_private(&mut self, pfn: u64, word: &dyn Fn(usize) -> u64) {
        self.effects += 1;
        let reach = self.tlbs.who_reaches(&self.frames, pfn);
        if self.hyp_mapped.contains(&pfn) || reach.len() != 1 || reach.contains(&HOST) {
            self.violations.push(format!("EL2 writes frame {pfn:#x}, which {reach:?} can reach"));
        }
        (0..WORDS).for_each(|index| self.frames.set_word(pfn, index, word(index)));
    }

    pub(super) fn make_coherent(&mut self, pfn: u64) {
        self.effects += 1;
        if self.tlbs.who_reaches(&self.frames, pfn).is_empty() {
            self.coherent.insert(pfn);
        }
    }

    pub(super) fn measure(&mut self, pfn: u64) -> Vec<u8> {
        // Whoever gets the frame next may spoil it again.
        if !self.coherent.remove(&pfn) {
            self.violations.push(format!("frame {pfn:#x} is read before its caches are cleaned"));
        }
        let reach = self.tlbs.who_reaches(&self.frames, pfn);
        if !reach.is_empty() {
            self.violations.push(format!("frame {pfn:#x} is read while {reach:?} can write it"));
        }
        (0..WORDS).flat_map(|index| self.frames.word(pfn, index).to_le_bytes()).collect()
    }

    pub(super) fn publish(&mut self) {
        self.tlbs.publish();
    }

    pub(super) fn invalidate(&mut self, vmid: u8, start: u64, end: u64) {
        self.invalidations += 1;
        self.tlbs.invalidate(&self.frames, vmid, (start, end));
    }

    pub(super) fn attach(&mut self, vmid: u8, root: u64) {
        self.tlbs.attach(&self.frames, (vmid, root), &mut self.violations);
    }

    pub(super) fn access(&self, vmid: u8, gfn: u64) -> Vec<u64> {
        self.tlbs.access(&self.frames, vmid, gfn)
    }

    pub(super) fn leaves(&self, vmid: u8) -> Vec<SimLeaf> {
        self.tlbs.leaves(&self.frames, vmid)
    }

    pub(super) fn settle(&mut self) -> Vec<String> {
        self.tlbs.settle(&self.frames, &mut self.violations);
        core::mem::take(&mut self.violations)
    }
}

/// For messages and tests: a frame number that fits.
pub(super) fn pfn(number: u64) -> Pfn {
    Pfn::new(number).expect("the simulated machine has 39 address bits")
}
