//! Whether a guest that is gone has left everything as it was.

use alloc::format;
use alloc::string::String;

use hyp::stats::MachineCounter;

use crate::payload::calls::BOUNCER;
use crate::payload::run::FREE;

/// What is counted.
const COUNTERS: [MachineCounter; 4] = [
    MachineCounter::FramesHyp,
    MachineCounter::FramesHost,
    MachineCounter::FramesGuest,
    MachineCounter::FramesShared,
];

/// What is whose while no guest is there.
#[derive(PartialEq, Eq)]
pub(super) struct Holdings {
    /// Frames that the host may give away.
    free: u64,
    /// What bouncer counts: frames by owner, and shared ones.
    counted: [Option<u64>; COUNTERS.len()],
}

impl Holdings {
    pub(super) fn now() -> Self {
        let counted = COUNTERS.map(|counter| BOUNCER.stats(None, counter as u64).ok());
        Self { free: FREE.lock().available(), counted }
    }

    /// A guest has been taken down since.
    ///
    /// # Errors
    /// What is not as it was.
    pub(super) fn compare(&self) -> Result<(), String> {
        let now = Self::now();
        if now == *self {
            return Ok(());
        }
        let mut text =
            format!("a guest left its traces: frames_free {}, was {}", now.free, self.free);
        for (counter, (now, was)) in COUNTERS.iter().zip(now.counted.iter().zip(self.counted)) {
            text += &format!("; {} {now:?}, was {was:?}", counter.name());
        }
        Err(text)
    }
}
