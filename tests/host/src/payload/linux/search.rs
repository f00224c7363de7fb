//! The marker, looked for in every frame that the host can read.

use alloc::vec::Vec;

use host::frames::Run;
use host::linux::Marker;
use rt::attempt;

use crate::payload::calls::BOUNCER;

/// What FRAME_STATE says of a page that the guest shared, and of a frame that
/// is none of the host's.
const BORROWED: u64 = 2;
const FOREIGN: u64 = 3;

/// A search that goes round through the machine's memory.
pub(super) struct Search {
    marker: Marker,
    ram: Vec<Run>,
    next: u64,
    /// Frames that were read.
    pub(super) frames: u64,
    /// Frames with the marker in them, that the guest shared.
    pub(super) shared: u64,
    /// Frames with the marker in them, that are the host's own.
    pub(super) own: u64,
    /// The first of either kind.
    pub(super) first: Option<u64>,
}

impl Search {
    pub(super) fn new(marker: Marker, ram: &[Run]) -> Self {
        let ram = ram.to_vec();
        Self { marker, ram, next: 0, frames: 0, shared: 0, own: 0, first: None }
    }

    /// Looks at the next `count` frames.
    pub(super) fn go(&mut self, count: u64) {
        let all = self.len().max(1);
        for index in self.next..self.next + count {
            if let Some(pfn) = self.frame(index % all) {
                self.look(pfn);
            }
        }
        self.next = (self.next + count) % all;
    }

    /// Looks at all of them once.
    pub(super) fn everywhere(&mut self) {
        self.go(self.len());
    }

    fn len(&self) -> u64 {
        self.ram.iter().map(|run| run.count).sum()
    }

    fn frame(&self, mut index: u64) -> Option<u64> {
        for run in &self.ram {
            if index < run.count {
                return Some(run.pfn + index);
            }
            index -= run.count;
        }
        None
    }

    fn look(&mut self, pfn: u64) {
        let Ok(state) = BOUNCER.frame_state(pfn) else { return };
        if state == FOREIGN {
            return;
        }
        self.frames += 1;
        // The guest may take a page back meanwhile.
        let words = (0..512).map_while(|word| attempt::try_read_u64((pfn << 12) + word * 8).ok());
        let marker = self.marker;
        if words.into_iter().any(|word| marker.is_in(word)) {
            let place = if state == BORROWED { &mut self.shared } else { &mut self.own };
            *place += 1;
            self.first.get_or_insert(pfn);
        }
    }
}
