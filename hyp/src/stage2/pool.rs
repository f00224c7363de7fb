//! Free frames for page tables.
//!
//! The list runs through the free frames themselves (word 0 names the next),
//! so a pool of any size costs three words and no heap. A frame in the pool
//! is zero but for that word; a link has bit 0 clear, so that even a walker
//! that could still reach the frame would read an invalid descriptor.

use crate::addr::{FRAME_SHIFT, Pfn, PfnRange};
use crate::machine::Machine;

/// Marks a link, to tell "next is frame 0" from "no next". Not bit 0.
const LINK: u64 = 1 << 2;

/// Frames that EL2 owns and may use as page tables: the host's boot pool, or
/// the memcache of a VM.
#[derive(Debug, Default)]
#[cfg_attr(any(test, feature = "sim"), derive(Clone))]
pub struct TablePool {
    head: Option<Pfn>,
    listed: u64,
    /// Frames never used so far, `next..end`: they are wiped when first taken
    /// and not all at once at boot.
    fresh_next: u64,
    fresh_end: u64,
}

impl TablePool {
    /// A pool without frames.
    pub const fn empty() -> Self {
        Self { head: None, listed: 0, fresh_next: 0, fresh_end: 0 }
    }

    /// A pool of frames that EL2 owns and has mapped since boot, whatever
    /// they contain.
    pub const fn fresh(frames: PfnRange) -> Self {
        let next = frames.start().number();
        Self { head: None, listed: 0, fresh_next: next, fresh_end: frames.end() }
    }

    /// Frames that can be taken.
    pub const fn len(&self) -> u64 {
        self.listed + (self.fresh_end - self.fresh_next)
    }

    /// Is nothing left?
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a frame that EL2 owns, has mapped and has zeroed, and that no TLB
    /// can reach as a table any more.
    pub(crate) fn push(&mut self, m: &impl Machine, frame: Pfn) {
        let link = self.head.map_or(0, |next| next.base() | LINK);
        m.write_word(frame, 0, link);
        self.head = Some(frame);
        self.listed += 1;
    }

    /// Takes a frame; it is all zeros.
    pub(crate) fn pop(&mut self, m: &impl Machine) -> Option<Pfn> {
        if let Some(frame) = self.head {
            let link = m.read_word(frame, 0);
            m.write_word(frame, 0, 0);
            self.head = if link & LINK != 0 { Pfn::new(link >> FRAME_SHIFT) } else { None };
            self.listed -= 1;
            return Some(frame);
        }
        if self.fresh_next == self.fresh_end {
            return None;
        }
        let frame = Pfn::new(self.fresh_next)?;
        self.fresh_next += 1;
        m.zero_frame(frame);
        Some(frame)
    }

    /// Takes a frame that *prepare* has counted.
    pub(crate) fn take(&mut self, m: &impl Machine) -> Pfn {
        match self.pop(m) {
            Some(frame) => frame,
            // Not reachable by any input: every commit is preceded by a
            // comparison of `len` with the exact number of tables.
            None => unreachable!("the pool is smaller than prepare counted"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimMachine;
    use std::vec::Vec;

    #[test]
    fn frames_come_out_zeroed_and_each_once() {
        let range = PfnRange::new(0, 5).unwrap();
        let machine = SimMachine::new(&[range]);
        range.iter().for_each(|pfn| machine.plant(pfn, 0xdead));
        let mut pool = TablePool::fresh(range);
        let mut taken: Vec<Pfn> = core::iter::from_fn(|| pool.pop(&machine)).collect();
        assert!(taken.iter().all(|pfn| machine.tag(*pfn) == Some(0)));
        assert!(pool.is_empty());
        // Back in another order, frame 0 among them, and out again.
        taken.swap(1, 3);
        taken.iter().for_each(|pfn| pool.push(&machine, *pfn));
        assert_eq!(pool.len(), 5);
        let mut again: Vec<Pfn> = core::iter::from_fn(|| pool.pop(&machine)).collect();
        assert!(again.iter().all(|pfn| machine.tag(*pfn) == Some(0)));
        again.sort_unstable();
        assert!(again.into_iter().eq(range.iter()));
        machine.settle();
    }

    #[test]
    fn a_link_is_never_a_valid_descriptor() {
        let range = PfnRange::new(0, 3).unwrap();
        let machine = SimMachine::new(&[range]);
        let mut pool = TablePool::empty();
        for pfn in range.iter() {
            pool.push(&machine, pfn);
            assert_eq!(machine.peek(pfn, 0) & 1, 0);
        }
    }
}
