//! Taking a guest down: everything comes back, and comes back wiped.

use alloc::vec::Vec;

use host::bouncer::Refusal;
use host::frames::{FreeFrames, Run};
use hyp::abi;
use hyp::error::Error;
use spin::Mutex;

use super::{Problem, Vm, no_memory, step};
use crate::payload::calls::BOUNCER;

/// Most VM_DESTROY calls until its frames must be back.
const DESTROY_CALLS: usize = 4096;

/// What a guest left.
pub(in crate::payload) struct Remains {
    /// Frames that came back.
    pub(in crate::payload) frames: u64,
    /// First frame that was not zero.
    pub(in crate::payload) leftover: Option<u64>,
}

/// Does any of the frames still hold what was in them? Called after they were
/// given back (C5). Returns the first frame that is not all zero.
fn leftovers(runs: &[Run]) -> Option<u64> {
    let nonzero = |address| rt::attempt::try_read_u64(address).unwrap_or(u64::MAX) != 0;
    let mut frames = runs.iter().flat_map(|run| run.pfn..run.end());
    frames.find(|pfn| (0..512).any(|word| nonzero((pfn << 12) + word * 8)))
}

impl Vm {
    /// Stops the VM, takes everything back and checks that it was wiped.
    /// No CPU may be about to run it.
    pub(in crate::payload) fn tear_down(
        &self,
        free: &Mutex<FreeFrames>,
    ) -> Result<Remains, Problem> {
        match BOUNCER.vm_stop(self.handle) {
            // It may have died by itself.
            Ok(()) | Err(Refusal::Error(Error::BadState)) => {}
            Err(refusal) => return Err(step("VM_STOP")(refusal)),
        }
        let runs: Vec<Run> = self.donated.lock().clone();
        let mut frames = 0;
        for run in runs.iter().chain(&self.bounce) {
            frames += self.reclaim(*run)?;
        }
        let leftover = leftovers(&runs);
        let mut calls = 0;
        while BOUNCER.vm_destroy(self.handle).map_err(step("VM_DESTROY"))? != 0 {
            calls += 1;
            if calls == DESTROY_CALLS {
                return Err(no_memory("VM_DESTROY never ends"));
            }
        }
        // EL2's tables for it tell where its memory was.
        let leftover = leftover.or_else(|| leftovers(&self.memcache.lock()));
        let mut free = free.lock();
        free.give(self.ram);
        self.bounce.iter().chain(self.memcache.lock().iter()).for_each(|run| free.give(*run));
        Ok(Remains { frames, leftover })
    }

    /// Takes a run back, in ranges where that goes. Frames that the guest gave
    /// back itself, or that were taken back already, are the host's.
    fn reclaim(&self, run: Run) -> Result<u64, Problem> {
        let (mut pfn, mut total) = (run.pfn, 0);
        let mut most = abi::MAX_RANGE;
        while pfn < run.end() {
            let count = (run.end() - pfn).min(most);
            match BOUNCER.frame_reclaim(self.handle, pfn, count) {
                Ok(0) => return Err(no_memory("FRAME_RECLAIM made no progress")),
                Ok(done) => {
                    total += done;
                    pfn += done;
                }
                Err(_) if BOUNCER.frame_state(pfn) == Ok(0) => pfn += 1,
                Err(_) if count > 1 => most = 1,
                Err(refusal) => return Err(step("FRAME_RECLAIM")(refusal)),
            }
        }
        Ok(total)
    }

    /// Takes the disks back. Nobody else may hold the VM.
    pub(in crate::payload) fn into_disks(self) -> Vec<&'static mut [u8]> {
        self.devices.into_iter().filter_map(|device| device.into_inner().into_disk()).collect()
    }
}
