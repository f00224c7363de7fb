//! Accesses of worlds, in and past the caches.
//!
//! A frame has a value in the caches and one in memory below. A world's stage 1
//! chooses which it sees, unless stage 2 forces write-back (Arm ARM B2.16,
//! D8.6). An eviction may come at any time: dirty lines go to memory, clean
//! ones are forgotten.

use super::SimMachine;
use crate::addr::Pfn;

impl SimMachine {
    /// A world fills the frame through the caches.
    pub fn store_cached(&self, pfn: Pfn, tag: u64) {
        self.memory().frames_mut().fill_cached(pfn.number(), tag);
    }

    /// A world fills it past the caches, as far as that is possible.
    pub fn store_uncached(&self, pfn: Pfn, tag: u64) {
        match self.forced_write_back() {
            true => self.store_cached(pfn, tag),
            false => self.memory().frames_mut().fill_uncached(pfn.number(), tag),
        }
    }

    /// What a world reads past the caches, as far as that is possible.
    pub fn load_uncached(&self, pfn: Pfn) -> u64 {
        let memory = self.memory();
        let frame = memory.frame(pfn.number());
        if self.forced_write_back() { frame.word(0) } else { frame.memory() }
    }

    /// The caches lose the frame.
    pub fn evict(&self, pfn: Pfn) {
        self.memory().frames_mut().evict(pfn.number());
    }

    /// Does a read see the same in and past the caches?
    pub fn is_coherent(&self, pfn: Pfn) -> bool {
        self.tag(pfn) == Some(self.load_uncached(pfn))
    }

    fn forced_write_back(&self) -> bool {
        use crate::machine::Machine;
        self.forces_write_back()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: Pfn = Pfn::containing(0x4000_0000).unwrap();

    #[test]
    fn what_is_in_the_caches_is_not_in_memory_until_it_is_evicted() {
        let machine = SimMachine::new(&[]);
        machine.plant(PAGE, 1);
        machine.store_cached(PAGE, 2);
        assert_eq!((machine.tag(PAGE), machine.load_uncached(PAGE)), (Some(2), 1));
        machine.store_cached(PAGE, 3);
        assert_eq!((machine.tag(PAGE), machine.load_uncached(PAGE)), (Some(3), 1));
        // A dirty line goes over what was stored below it.
        machine.store_uncached(PAGE, 4);
        machine.evict(PAGE);
        assert_eq!((machine.tag(PAGE), machine.load_uncached(PAGE)), (Some(3), 3));
    }

    #[test]
    fn a_clean_line_hides_what_is_below_until_it_is_forgotten() {
        let machine = SimMachine::new(&[]);
        machine.plant(PAGE, 1);
        machine.store_uncached(PAGE, 2);
        assert_eq!((machine.tag(PAGE), machine.load_uncached(PAGE)), (Some(1), 2));
        machine.evict(PAGE);
        assert_eq!((machine.tag(PAGE), machine.load_uncached(PAGE)), (Some(2), 2));
    }

    #[test]
    fn forced_write_back_leaves_no_way_past_the_caches() {
        let machine = SimMachine::new(&[]);
        machine.force_write_back();
        machine.store_cached(PAGE, 2);
        assert_eq!(machine.load_uncached(PAGE), 2);
        machine.store_uncached(PAGE, 3);
        assert_eq!((machine.tag(PAGE), machine.load_uncached(PAGE)), (Some(3), 3));
        assert!(machine.is_coherent(PAGE));
    }
}
