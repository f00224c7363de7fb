//! Does again what the records say was done.

use hyp::addr::PfnRange;
use hyp::machine::Machine;
use hyp::sim::SimMachine;
use hyp::trace::{Event, Record};

/// A broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The record with which it broke.
    pub record: Record,
    /// What is wrong, in the simulated machine's words.
    pub problem: String,
}

/// Replays all of it; an empty list is good.
pub fn replay(records: &[Record]) -> Vec<Finding> {
    let boot: Vec<PfnRange> = records
        .iter()
        .filter_map(|record| match record.event {
            Event::Boot(range) => Some(range),
            _ => None,
        })
        .collect();
    let machine = SimMachine::new(&boot);
    let mut findings = Vec::new();
    for record in records {
        machine.be_cpu(record.cpu);
        act(&machine, record.event);
        // What a call may not leave behind is asked at its end only.
        let problems = match record.event {
            Event::Quiet(_) => machine.take_violations(),
            _ => machine.take_violations_so_far(),
        };
        findings.extend(problems.into_iter().map(|problem| Finding { record: *record, problem }));
    }
    findings
}

fn act(machine: &SimMachine, event: Event) {
    match event {
        // Before the first record, and at the end of one.
        Event::Boot(_) | Event::Quiet(_) => {}
        Event::Attach(regime) => machine.attach(regime),
        Event::MapHyp(frame) => machine.map_hyp(frame),
        Event::UnmapHyp(frame) => machine.unmap_hyp(frame),
        Event::Store { table, index, value } => {
            machine.write_word(table, usize::from(index), value);
        }
        Event::Wipe(frames) => machine.zero_frames(frames),
        Event::Read(frame) => machine.read_frame(frame, &mut |_| {}),
        // What it was is not in the trace, only that it is not zero.
        Event::Write(frame) => machine.write_frame(frame, &|_| 1),
        Event::MakeExecutable(frames) => machine.make_executable(frames),
        Event::Publish => machine.publish(),
        Event::Invalidate(regime, range) => machine.invalidate(regime, range),
        Event::InvalidateAll(regime) => machine.invalidate_all(regime),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyp::addr::{GfnRange, Pfn};
    use hyp::machine::{Cause, Regime, Vmid};

    const ROOT: u64 = 0x4_1000;

    fn pfn(number: u64) -> Pfn {
        Pfn::new(number).unwrap()
    }

    fn host() -> Regime {
        Regime { vmid: Vmid::HOST, root: pfn(ROOT) }
    }

    fn quiet() -> Event {
        Event::Quiet(Cause { vmid: Vmid::HOST, esr: 0, x0: 0 })
    }

    fn store(table: u64, index: u16, value: u64) -> Event {
        Event::Store { table: pfn(table), index, value }
    }

    /// A page of the host's that is unmapped.
    fn unmapped(invalidation: &[Event]) -> Vec<Record> {
        let [middle, last] = [ROOT + 1, ROOT + 2];
        let mut events = vec![
            Event::Boot(PfnRange::new(ROOT, 3).unwrap()),
            store(last, 5, 5 << 12 | 0x7ff),
            store(middle, 0, last << 12 | 0b11),
            store(ROOT, 0, middle << 12 | 0b11),
            Event::Publish,
            Event::Attach(host()),
            quiet(),
            store(last, 5, 0),
        ];
        events.extend(invalidation);
        events.push(quiet());
        (0..).zip(events).map(|(number, event)| Record { number, cpu: 0, event }).collect()
    }

    fn range(start: u64, count: u64) -> GfnRange {
        GfnRange::new(start, count).unwrap()
    }

    #[test]
    fn an_invalidation_of_the_page_or_of_everything_is_right() {
        assert_eq!(replay(&unmapped(&[Event::Invalidate(host(), range(5, 1))])), []);
        assert_eq!(replay(&unmapped(&[Event::InvalidateAll(host())])), []);
    }

    #[test]
    fn a_missing_a_misplaced_and_a_late_invalidation_are_found() {
        let guest = Regime { vmid: Vmid(3), ..host() };
        let wrong: [&[Event]; 4] = [
            &[],
            &[Event::Publish],
            &[Event::Invalidate(host(), range(6, 1))],
            &[Event::Invalidate(guest, range(5, 1))],
        ];
        for invalidation in wrong {
            let records = unmapped(invalidation);
            let [found] = &replay(&records)[..] else { panic!("{invalidation:?}") };
            assert_eq!(Some(&found.record), records.last(), "{found:?}");
            assert!(found.problem.contains("stale translation"), "{found:?}");
        }
    }

    #[test]
    fn an_entry_made_again_before_the_invalidation_is_found_at_its_store() {
        let again = store(ROOT + 2, 5, 7 << 12 | 0x7ff);
        let records = unmapped(&[again, Event::InvalidateAll(host())]);
        let found = &replay(&records)[0];
        assert_eq!(found.record.event, again);
        assert!(found.problem.contains("before the old entry is invalidated"), "{found:?}");
    }
}
