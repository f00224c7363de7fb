//! The event log: what was refused, for the host to read and to show.
//!
//! EL2 does not print while the host runs. It keeps the last refusals here;
//! the host takes them out one by one with EVENT_NEXT. A full log drops the
//! newest and counts, so a flood cannot hide what came first. What nobody has
//! read when the machine stops is printed then: a stock kernel reads nothing.

use core::fmt;

use crate::machine::CpuId;
use crate::memory::Owner;

/// What was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    /// The host touched a frame or device that is not its own.
    HostAbort = 1,
    /// The host made an SMC that is not on the allow-list.
    HostSmc = 2,
    /// The host wrote a redistributor register that would give the GIC
    /// access to memory.
    HostRedistributor = 3,
    /// The host used an instruction or register that is withheld.
    HostUndefined = 4,
    /// A guest did something that ended it.
    GuestDied = 5,
    /// A guest accessed what is not memory by an instruction of which the
    /// syndrome tells neither register nor size (ISV = 0): a pair, a vector,
    /// one that writes its base back. Nobody can answer it. Told once for each
    /// vCPU, with the page only.
    GuestUndescribed = 6,
    /// A device of the host's accessed memory that it may not, and the IOMMU
    /// refused: `address` is what it gave, `syndrome` its StreamID, `pc` the
    /// number of the SMMU's event (bits 7:0), bit 8 set for a write.
    HostDma = 7,
}

/// One refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// On which CPU.
    pub cpu: CpuId,
    /// Owner of what was touched (`memory::Owner::code`), 0 if nobody's.
    pub owner: u8,
    /// ESR_EL2, lower half.
    pub syndrome: u32,
    /// Physical address, function id or register offset.
    pub address: u64,
    /// Where the host or guest was.
    pub pc: u64,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, address, pc, .. } = self;
        let whose = match self.owner {
            0 => "nobody's",
            1 => "bouncer's",
            2 => "its own",
            firmware if firmware == Owner::Firmware.code() => "firmware's",
            _ => "a guest's",
        };
        match self.kind {
            EventKind::HostDma => {
                let stream = self.syndrome;
                return write!(f, "device {stream:#x} of the host's touched {address:#x}, {whose}");
            }
            EventKind::HostAbort => {
                write!(f, "the host touched {address:#x}, which is {whose}")
            }
            EventKind::HostSmc => write!(f, "the host called the firmware: {address:#x}"),
            EventKind::HostRedistributor => write!(f, "the host wrote a register at {address:#x}"),
            EventKind::HostUndefined => write!(f, "the host used what is withheld: {address:#x}"),
            EventKind::GuestDied => write!(f, "a guest ended"),
            EventKind::GuestUndescribed => write!(f, "a guest touched {address:#x} undescribed"),
        }?;
        write!(f, " (cpu {cpu}, pc {pc:#x})")
    }
}

/// Events kept.
const CAPACITY: usize = 128;

/// A ring of the oldest unread events.
#[derive(Debug)]
pub(crate) struct EventLog {
    events: [Option<Event>; CAPACITY],
    first: usize,
    count: usize,
    dropped: u64,
}

impl EventLog {
    pub(crate) const fn new() -> Self {
        Self { events: [None; CAPACITY], first: 0, count: 0, dropped: 0 }
    }

    pub(crate) fn push(&mut self, event: Event) {
        let slot = (self.first + self.count) % CAPACITY;
        match self.events.get_mut(slot) {
            Some(place) if self.count < CAPACITY => {
                *place = Some(event);
                self.count += 1;
            }
            _ => self.dropped += 1,
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Event> {
        if self.count == 0 {
            return None;
        }
        let event = self.events.get_mut(self.first).and_then(Option::take);
        self.first = (self.first + 1) % CAPACITY;
        self.count -= 1;
        event
    }

    /// Events lost to a full log.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(address: u64) -> Event {
        Event { kind: EventKind::HostAbort, cpu: 0, owner: 1, syndrome: 0, address, pc: 0 }
    }

    #[test]
    fn an_event_is_told_in_a_line() {
        let told = |event: Event| std::format!("{event}");
        assert_eq!(
            told(event(0x4020_0000)),
            "the host touched 0x40200000, which is bouncer's (cpu 0, pc 0x0)"
        );
        let whose = |owner| told(Event { owner, ..event(0) });
        assert!(whose(0).contains("nobody's") && whose(3).contains("a guest's"));
        assert!(whose(Owner::Firmware.code()).contains("firmware's"));
        let smc = Event { kind: EventKind::HostSmc, cpu: 2, pc: 8, ..event(0x8400_0053) };
        assert_eq!(told(smc), "the host called the firmware: 0x84000053 (cpu 2, pc 0x8)");
    }

    #[test]
    fn a_full_log_keeps_the_oldest_and_counts_the_rest() {
        let mut log = EventLog::new();
        for address in 0..CAPACITY as u64 + 3 {
            log.push(event(address));
        }
        assert_eq!(log.dropped(), 3);
        for address in 0..CAPACITY as u64 {
            assert_eq!(log.pop(), Some(event(address)));
        }
        assert_eq!(log.pop(), None);
        log.push(event(9));
        assert_eq!(log.pop(), Some(event(9)));
    }
}
