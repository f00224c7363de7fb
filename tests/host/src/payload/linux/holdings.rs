//! Whether a guest that is gone has left everything as it was.

use alloc::format;
use alloc::string::String;

use hyp::stats::MachineCounter;

use crate::payload::calls::BOUNCER;
use crate::payload::run::FREE;

/// What is counted.
const COUNTERS: [MachineCounter; 5] = [
    MachineCounter::FramesHyp,
    MachineCounter::FramesHost,
    MachineCounter::FramesGuest,
    MachineCounter::FramesShared,
    MachineCounter::Heap,
];

/// What is whose while no guest is there.
#[derive(PartialEq, Eq)]
pub(super) struct Holdings {
    /// Frames that the host may give away.
    free: u64,
    /// What bouncer counts: frames by owner, shared ones, its own heap.
    counted: [u64; COUNTERS.len()],
}

impl Holdings {
    /// # Errors
    /// When bouncer does not tell its counts.
    pub(super) fn now() -> Result<Self, String> {
        let mut counted = [0; COUNTERS.len()];
        for (value, counter) in counted.iter_mut().zip(COUNTERS) {
            *value = BOUNCER
                .stats(None, counter as u64)
                .map_err(|refusal| format!("no count of {}: {refusal:?}", counter.name()))?;
            // Without a guest there is nothing of these two, and always of the others.
            let may_be_none = [MachineCounter::FramesGuest, MachineCounter::FramesShared];
            if *value == 0 && !may_be_none.contains(&counter) {
                return Err(format!("bouncer counts no {}, which cannot be", counter.name()));
            }
        }
        Ok(Self { free: FREE.lock().available(), counted })
    }

    /// A guest has been taken down since.
    ///
    /// # Errors
    /// What is not as it was.
    pub(super) fn compare(&self) -> Result<(), String> {
        let now = Self::now()?;
        if now == *self {
            return Ok(());
        }
        let mut text =
            format!("a guest left its traces: frames_free {}, was {}", now.free, self.free);
        for (counter, (now, was)) in COUNTERS.iter().zip(now.counted.iter().zip(self.counted)) {
            text += &format!("; {} {now}, was {was}", counter.name());
        }
        Err(text)
    }
}
