//! Sequences of events: the door for tests and fuzz targets.
//!
//! ```
//! use model::sequence::{Sequence, run};
//! let bytes = [0x42; 600];
//! run(&Sequence::from_bytes(&bytes).events).expect("bouncer keeps its rules");
//! ```

use crate::decode::prologue;
pub use crate::event::Event;
use crate::machine::VM_SLOTS;
use crate::session::Session;
pub use crate::session::Stats;
use arbitrary::{Arbitrary, Unstructured};
use std::fmt;

/// Most events of one sequence: longer ones find nothing more.
pub const MOST_EVENTS: usize = 256;

/// What happened, event by event.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sequence {
    /// In order.
    pub events: Vec<Event>,
}

impl Sequence {
    /// The events that any bytes mean. Longer input means more events.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut source = Unstructured::new(bytes);
        // Two bits per slot: does it begin with a VM, and a device? The rest:
        // do the VMs in even slots speak RSI, and those in odd ones?
        let bits = u8::arbitrary(&mut source).unwrap_or(0);
        let begin = |slot: u8| (slot, bits >> (2 * slot));
        let realm = |slot: u8| bits >> (6 + slot % 2) & 1 != 0;
        let vms = (0..VM_SLOTS as u8).map(begin).filter(|(_, bits)| bits & 1 != 0);
        let mut events: Vec<Event> =
            vms.flat_map(|(slot, bits)| prologue(slot, bits & 2 != 0, realm(slot))).collect();
        while !source.is_empty() && events.len() < MOST_EVENTS {
            match Event::arbitrary(&mut source) {
                Ok(event) => events.push(event),
                Err(_) => break,
            }
        }
        Self { events }
    }
}

/// A rule that bouncer broke.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// At which event; one past the last for the checks at the end.
    pub step: usize,
    /// What the model says to it.
    pub reason: String,
    /// Everything up to there, a line per trap.
    pub listing: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\nevent {}: {}", self.listing, self.step, self.reason)
    }
}

fn play(session: &Session, events: &[Event]) -> Result<(), (usize, String)> {
    for (step, event) in events.iter().enumerate() {
        session.apply(event).map_err(|reason| (step, reason))?;
    }
    session.finish().map_err(|reason| (events.len(), reason))
}

/// Plays the events to bouncer and to its model.
///
/// # Errors
/// The first difference between the two, or the first rule broken.
pub fn run(events: &[Event]) -> Result<Stats, Failure> {
    let boot = |reason| Failure { step: 0, reason, listing: String::new() };
    let session = Session::new(false).map_err(boot)?;
    let Err((step, reason)) = play(&session, events) else { return Ok(session.stats()) };
    // Once more, this time writing everything down.
    let session = Session::new(true).map_err(boot)?;
    let again = play(&session, events);
    let reason = match again {
        Err((same, _)) if same == step => reason,
        other => format!("{reason} (the second time: {other:?})"),
    };
    Err(Failure { step, reason, listing: session.listing() })
}
