//! The watcher must see what it is there to see: each test breaks one rule
//! of a live table by hand.

use super::*;
use std::vec;

const ROOT: u64 = 0x100;
const MIDDLE: u64 = 0x101;
const PAGES: u64 = 0x102;
const GUEST: Regime = Regime { vmid: Vmid(2), root: root() };

const fn root() -> Pfn {
    match Pfn::new(ROOT) {
        Some(pfn) => pfn,
        None => unreachable!(),
    }
}

fn frame(number: u64) -> Pfn {
    Pfn::new(number).unwrap()
}

fn page(number: u64) -> u64 {
    number << 12 | 0x7ff
}

/// Three tables; the first page leads to frame 0x555.
fn machine() -> SimMachine {
    let machine = SimMachine::new(&[PfnRange::new(ROOT, 4).unwrap()]);
    machine.write_word(frame(ROOT), 0, MIDDLE << 12 | 3);
    machine.write_word(frame(MIDDLE), 0, PAGES << 12 | 3);
    machine.write_word(frame(PAGES), 0, page(0x555));
    machine.attach(GUEST);
    machine.publish();
    machine.settle();
    machine
}

fn first_gfn() -> Gfn {
    Gfn::new(0).unwrap()
}

#[test]
fn a_tlb_remembers_what_was_not_invalidated() {
    let machine = machine();
    machine.write_word(frame(PAGES), 0, 0);
    assert_eq!(machine.access(GUEST.vmid, first_gfn()), vec![frame(0x555)]);
    machine.publish();
    assert_eq!(machine.take_violations().len(), 1);
}

#[test]
fn invalidating_another_vmid_or_another_page_does_not_help() {
    let machine = machine();
    machine.write_word(frame(PAGES), 0, 0);
    machine.invalidate_all(Regime { vmid: Vmid(3), root: GUEST.root });
    machine.invalidate(GUEST, GfnRange::new(1, 1).unwrap());
    assert_eq!(machine.access(GUEST.vmid, first_gfn()).len(), 1);
    machine.invalidate(GUEST, GfnRange::new(0, 1).unwrap());
    assert_eq!(machine.access(GUEST.vmid, first_gfn()).len(), 0);
    machine.settle();
}

#[test]
fn a_valid_entry_may_not_become_another_without_a_break() {
    let machine = machine();
    machine.write_word(frame(PAGES), 0, page(0x556));
    machine.invalidate_all(GUEST);
    // No break, and so the old entry was still there when the new one came.
    assert_eq!(machine.take_violations().len(), 2);
    // The software bits are not the hardware's business.
    machine.write_word(frame(PAGES), 0, page(0x556) | 1 << 55);
    machine.settle();
}

#[test]
fn a_frame_that_el2_has_written_to_is_cleaned_before_a_world_gets_it() {
    let machine = machine();
    let given = frame(PAGES + 1);
    machine.map_hyp(given);
    machine.write_word(given, 7, 0);
    machine.unmap_hyp(given);
    machine.write_word(frame(PAGES), 1, page(PAGES + 1));
    machine.publish();
    // Zeros, but in a cache: whoever reads past it sees what was there before.
    assert_eq!(machine.take_violations().len(), 1);
    machine.write_word(frame(PAGES), 1, 0);
    machine.invalidate(GUEST, GfnRange::new(1, 1).unwrap());
    machine.zero_frame(given);
    machine.write_word(frame(PAGES), 2, page(PAGES + 1));
    machine.publish();
    machine.settle();
}

#[test]
fn a_dirty_frame_is_seen_below_a_block_of_any_size() {
    for (table, dirty, size) in [(MIDDLE, 0x9ff, 0x200), (ROOT, 0xb_ffff, 0x4_0000)] {
        let machine = machine();
        machine.map_hyp(frame(dirty));
        machine.write_word(frame(dirty), 0, 1);
        let block = dirty + 1 - size;
        // The block before it is clean.
        machine.write_word(frame(table), 7, (block - size) << 12 | 0x7fd);
        machine.publish();
        machine.settle();
        machine.write_word(frame(table), 8, block << 12 | 0x7fd);
        machine.publish();
        assert_eq!(machine.take_violations().len(), 1);
    }
}

#[test]
fn a_break_without_invalidation_does_not_count() {
    let machine = machine();
    machine.write_word(frame(PAGES), 0, 0);
    machine.write_word(frame(PAGES), 0, page(0x556));
    machine.publish();
    // Seen twice: when it is made, and as a stale entry at the end.
    assert_eq!(machine.take_violations().len(), 2);
}

#[test]
fn a_guest_has_a_frame_at_one_address_at_a_time() {
    let machine = machine();
    machine.write_word(frame(PAGES), 1, page(0x556));
    machine.write_word(frame(PAGES), 2, page(0x556));
    machine.publish();
    assert_eq!(machine.take_violations(), ["frame 0x556 at 0x2 and 0x1 of VMID 2"]);
    // What a TLB remembers counts as well.
    machine.write_word(frame(PAGES), 1, 0);
    machine.write_word(frame(PAGES), 2, 0);
    machine.write_word(frame(PAGES), 3, page(0x556));
    machine.invalidate_all(GUEST);
    assert_eq!(machine.take_violations().len(), 1);
    machine.write_word(frame(PAGES), 3, 0);
    machine.invalidate_all(GUEST);
    machine.write_word(frame(PAGES), 4, page(0x556));
    machine.publish();
    machine.settle();
}

/// Guest pages 1 and 2, and the host's page at frame 0x556, by hand.
#[test]
fn a_frame_that_nobody_reached_comes_to_the_next_without_contents() {
    let machine = machine();
    let host = Regime { vmid: Vmid::HOST, root: frame(0x103) };
    machine.attach(host);
    let (middle, pages) = (0x110, 0x111);
    [middle, pages].into_iter().for_each(|table| machine.map_hyp(frame(table)));
    machine.write_word(frame(middle), 2, pages << 12 | 3);
    machine.write_word(frame(0x103), 0, middle << 12 | 3);
    let guest = |valid| machine.write_word(frame(PAGES), 1, if valid { page(0x556) } else { 0 });
    let hosts = |valid| {
        machine.write_word(frame(pages), 0x156, if valid { page(0x556) } else { 0 });
    };
    let broken = || {
        machine.publish();
        [GUEST, host].into_iter().for_each(|regime| machine.invalidate_all(regime));
        machine.take_violations().len()
    };
    guest(true);
    assert_eq!(broken(), 0);
    // In place: the guest lets the host in, and shuts it out.
    hosts(true);
    assert_eq!(broken(), 0);
    hosts(false);
    assert_eq!(broken(), 0);
    // A page that leaves the guest, wiped and not.
    guest(false);
    assert_eq!(broken(), 0);
    machine.zero_frame(frame(0x556));
    hosts(true);
    assert_eq!(broken(), 0);
    hosts(false);
    assert_eq!(broken(), 0);
    machine.zero_frame(frame(0x556));
    guest(true);
    assert_eq!(broken(), 0);
    guest(false);
    assert_eq!(broken(), 0);
    hosts(true);
    assert_eq!(broken(), 1, "the guest's contents");
    // And back.
    hosts(false);
    assert_eq!(broken(), 0);
    guest(true);
    assert_eq!(broken(), 1, "the host's contents");
}

#[test]
fn el2_writes_a_frame_only_if_it_is_one_guests_alone() {
    let machine = machine();
    machine.write_word(frame(PAGES), 1, page(0x556));
    machine.publish();
    machine.write_frame(frame(0x556), &|index| index as u64);
    machine.settle();
    assert_eq!(machine.peek(frame(0x556), 511), 511);
    for other in [frame(0x557), frame(PAGES)] {
        machine.write_frame(other, &|_| 0);
        assert_eq!(machine.take_violations().len(), 1, "{other:x?}");
    }
}

#[test]
fn a_change_must_be_published() {
    let machine = machine();
    machine.write_word(frame(PAGES), 1, page(0x556));
    assert_eq!(machine.take_violations().len(), 1);
}

#[test]
fn a_table_is_live_until_all_it_translated_is_invalidated() {
    let machine = machine();
    machine.write_word(frame(MIDDLE), 0, 0);
    machine.invalidate(GUEST, GfnRange::new(0, 1).unwrap());
    machine.zero_frame(frame(PAGES));
    assert_eq!(machine.take_violations().len(), 2);

    let machine = self::machine();
    machine.write_word(frame(MIDDLE), 0, 0);
    machine.invalidate(GUEST, GfnRange::new(0, 512).unwrap());
    machine.zero_frame(frame(PAGES));
    machine.settle();
}

#[test]
fn el2_touches_only_what_it_has_mapped() {
    let machine = machine();
    machine.read_word(frame(0x104), 0);
    machine.write_word(frame(0x104), 0, 1);
    assert_eq!(machine.take_violations().len(), 2);
}

#[test]
fn a_frame_is_measured_only_when_nobody_can_write_it_and_caches_agree() {
    let machine = machine();
    machine.make_executable(PfnRange::one(frame(0x555)));
    machine.read_frame(frame(0x555), &mut |_| {});
    assert_eq!(machine.take_violations().len(), 2, "reached, and so never coherent");
    machine.read_frame(frame(0x556), &mut |_| {});
    assert_eq!(machine.take_violations().len(), 1, "caches never cleaned");
    machine.make_executable(PfnRange::one(frame(0x556)));
    machine.read_frame(frame(0x556), &mut |_| {});
    machine.settle();
}

#[test]
fn a_hostile_world_writes_into_a_frame_that_is_wiped_too_early() {
    let machine = machine();
    machine.set_hostile(true);
    machine.zero_frame(frame(0x555));
    assert_eq!(machine.tag(frame(0x555)), Some(0xbad0_0002));
    machine.write_word(frame(PAGES), 0, 0);
    machine.invalidate_all(GUEST);
    machine.zero_frame(frame(0x555));
    assert_eq!(machine.tag(frame(0x555)), Some(0));
}

#[test]
fn a_vmid_is_not_used_again_before_it_is_flushed() {
    let machine = machine();
    machine.write_word(frame(PAGES), 0, 0);
    machine.attach(Regime { vmid: GUEST.vmid, root: frame(0x103) });
    assert!(machine.take_violations().iter().any(|rule| rule.contains("used again")));
}

/// All that can be asked about the machine.
type Everything = (Vec<(u64, [u64; 512], bool)>, Vec<SimLeaf>, [u64; 2]);

fn everything(machine: &SimMachine) -> Everything {
    let mut frames = Vec::new();
    machine.view_memory(|frame| {
        let words = frame.words().copied().unwrap_or([frame.tag().unwrap_or(0); 512]);
        if frame.is_hyp_mapped() || words != [0; 512] {
            frames.push((frame.number(), words, frame.is_hyp_mapped()));
        }
    });
    (frames, machine.leaves(GUEST.vmid), [machine.effects(), machine.invalidations()])
}

#[test]
fn a_rewound_machine_is_what_it_was_at_the_checkpoint() {
    let machine = machine();
    machine.map_hyp(frame(0x110));
    machine.write_word(frame(0x110), 1, 7);
    machine.checkpoint();
    let before = everything(&machine);
    for _ in 0..2 {
        // A frame becomes a table, a table another's, and a wipe cleans.
        machine.zero_frame(frame(0x110));
        machine.write_word(frame(0x103), 5, page(0x777));
        machine.write_word(frame(MIDDLE), 1, 0x103 << 12 | 3);
        machine.write_word(frame(PAGES), 0, 0);
        machine.plant(frame(0x4_0000), 0x5ec1);
        machine.unmap_hyp(frame(0x110));
        machine.set_hostile(true);
        machine.fail_allocation_after(0);
        machine.world().counter = 9;
        assert_ne!(everything(&machine), before);
        machine.rewind();
        assert_eq!(everything(&machine), before);
        assert_eq!((machine.world().counter, machine.reserve_hyp(hyp())), (0, Ok(())));
        machine.settle();
        // The frame that was dirty is dirty, and the one that was no table is none.
        machine.write_word(frame(PAGES), 1, page(0x110));
        machine.publish();
        assert_eq!(machine.take_violations().len(), 1, "dirty");
        machine.zero_frame(frame(0x103));
        machine.settle();
        machine.rewind();
    }
}

fn hyp() -> PfnRange {
    PfnRange::new(ROOT, 4).unwrap()
}

#[test]
fn changes_are_told_once_and_to_whoever_asks_next() {
    let machine = machine();
    let changed = || {
        let mut frames = Vec::new();
        machine.take_changes(|frame| frames.push((frame.number(), frame.tag())));
        frames
    };
    assert_eq!(changed().len(), 4, "EL2's frames were mapped");
    assert_eq!(changed(), []);
    machine.plant(frame(0x555), 1);
    machine.plant(frame(0x555), 2);
    machine.poke(frame(0x556), 3, 3);
    assert_eq!(changed(), [(0x555, Some(2)), (0x556, None)]);
    machine.unmap_hyp(frame(0x103));
    assert_eq!(changed(), [(0x103, Some(0))]);
    assert_eq!(changed(), []);
}
