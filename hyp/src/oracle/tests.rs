//! The oracle must see what it is there to see: each test breaks one rule by
//! hand, in a table word or in the frame table.

use super::{Rule, Violation, check_frames, check_guest};
use crate::addr::{Gfn, GfnRange, Pfn, PfnRange};
use crate::memory::{Contents, GuestMemory, Owner, SharedPlace, View, Views};
use crate::sim::{Fixture, try_check};
use std::string::ToString;
use std::vec::Vec;

const RAM: u64 = crate::layout::RAM >> 12;
const BAR: u64 = crate::layout::PCI_MEM64 >> 12;

/// A guest with four pages of RAM, the last of them lent to the host, and two
/// pages of bounce memory, the first of them mapped.
struct Scene {
    fixture: Fixture,
    guest: GuestMemory,
    own: PfnRange,
    lent: PfnRange,
}

impl Scene {
    fn new() -> Self {
        Self::sharing(SharedPlace::InPlace)
    }

    fn sharing(shared: SharedPlace) -> Self {
        let mut fixture = Fixture::new(16);
        let mut guest = fixture.guest_of_kind(0, 64, 16, shared);
        let (own, lent) = (fixture.host_frames(4), fixture.host_frames(2));
        let (m, memory) = (&fixture.machine, &mut fixture.memory);
        let ram = Gfn::new(RAM).unwrap();
        memory.host_donate_guest(m, &mut guest, own, ram, Contents::Zeroed).unwrap();
        memory.guest_share_host(m, &mut guest, GfnRange::new(RAM + 3, 1).unwrap()).unwrap();
        memory.host_share_guest(m, &guest, lent).unwrap();
        let first = PfnRange::one(lent.start());
        memory.map_borrowed(m, &mut guest, Gfn::new(BAR).unwrap(), first).unwrap();
        fixture.machine.settle();
        let scene = Self { fixture, guest, own, lent };
        assert_eq!(scene.check(), Ok(()));
        scene
    }

    fn check(&self) -> Result<(), Violation> {
        try_check(&self.fixture.machine, &self.fixture.memory, &[&self.guest])
    }

    /// The table word that the walk from `root` finds at `level` for `gfn`.
    fn word(&self, root: Pfn, gfn: u64, level: u8) -> (Pfn, usize) {
        let mut table = root;
        for above in 1..level {
            let index = (gfn >> (9 * (3 - above)) & 511) as usize;
            let word = self.fixture.machine.peek(table, index);
            table = Pfn::new((word & 0x7f_ffff_f000) >> 12).unwrap();
        }
        (table, (gfn >> (9 * (3 - level)) & 511) as usize)
    }

    fn host_word(&self, pfn: Pfn, level: u8) -> (Pfn, usize) {
        self.word(self.fixture.memory.regime().root, pfn.number(), level)
    }

    fn guest_word(&self, gfn: u64, level: u8) -> (Pfn, usize) {
        self.word(self.guest.regime().root, gfn, level)
    }

    /// Changes a word behind everybody's back, checks, and puts it back.
    fn with(
        &self,
        (table, index): (Pfn, usize),
        change: impl Fn(u64) -> u64,
        look: impl Fn(&Self),
    ) {
        let before = self.fixture.machine.peek(table, index);
        self.fixture.machine.poke(table, index, change(before));
        look(self);
        self.fixture.machine.poke(table, index, before);
        assert_eq!(self.check(), Ok(()));
    }

    #[track_caller]
    fn breaks(&self, word: (Pfn, usize), change: impl Fn(u64) -> u64, rule: Rule) {
        self.with(word, change, |scene| {
            assert_eq!(scene.check().map_err(|found| found.rule), Err(rule));
        });
    }
}

fn page(pfn: Pfn) -> u64 {
    pfn.base() | 0x7ff
}

#[test]
fn a_guests_frame_in_the_hosts_tables() {
    let scene = Scene::new();
    let private = scene.own.start();
    let word = scene.host_word(private, 3);
    scene.breaks(word, |_| page(private), Rule::HostRight);
    // Seen by the check of the frames a call named, and by that of the VM.
    scene.with(
        word,
        |_| page(private),
        |scene| {
            let (m, memory) = (&scene.fixture.machine, &scene.fixture.memory);
            let named = check_frames(m, memory, PfnRange::one(scene.lent.start()));
            assert_eq!(named.unwrap_err().frame, Some(private));
            assert_eq!(check_guest(m, memory, &scene.guest).unwrap_err().rule, Rule::HostRight);
        },
    );
}

#[test]
fn el2s_own_frame_in_the_hosts_tables() {
    let scene = Scene::new();
    let table = scene.guest.regime().root;
    scene.breaks(scene.host_word(table, 3), |_| page(table), Rule::HostRight);
}

#[test]
fn a_host_mapping_that_is_missing_elsewhere_or_of_another_kind() {
    let scene = Scene::new();
    let shared = scene.own.iter().next_back().unwrap();
    let word = scene.host_word(shared, 3);
    scene.breaks(word, |_| 0, Rule::HostRight);
    scene.breaks(word, |word| word & !(1 << 55), Rule::HostRight);
    scene.breaks(word, |word| word + 4096, Rule::HostIsIdentity);
    scene.breaks(word, |word| word & !1, Rule::WordMakesSense);
    // Memory where there is none, a device that can be executed.
    let beyond = Pfn::new(0x9000).unwrap();
    scene.breaks(scene.host_word(beyond, 3), |_| page(beyond), Rule::HostDevices);
}

#[test]
fn a_device_that_has_what_is_not_the_hosts_or_lacks_what_is() {
    let scene = Scene::new();
    let root = scene.fixture.memory.dma_root().unwrap();
    let shared = scene.own.iter().next_back().unwrap();
    let (private, table) = (scene.own.start(), scene.guest.regime().root);
    for other in [private, shared, table, root] {
        let word = scene.word(root, other.number(), 3);
        scene.breaks(word, |_| page(other), Rule::DmaIsOwned);
        scene.with(
            word,
            |_| page(other),
            |scene| {
                let (m, memory) = (&scene.fixture.machine, &scene.fixture.memory);
                let named = check_frames(m, memory, PfnRange::one(other)).unwrap_err();
                assert_eq!((named.rule, named.frame), (Rule::DmaIsOwned, Some(other)));
            },
        );
    }
    // Lent to a guest, and the host's own all the same.
    let lent = scene.word(root, scene.lent.start().number(), 3);
    scene.breaks(lent, |_| 0, Rule::DmaIsOwned);
    scene.breaks(lent, |word| word + 4096, Rule::DmaIsOwned);
    scene.breaks(lent, |word| word & !(1 << 7), Rule::DmaIsOwned);
    scene.breaks(lent, |word| word & !1, Rule::DmaIsOwned);
    // A block, a table of somebody else's, a table that is not there.
    for level in [1, 2] {
        let word = scene.word(root, scene.lent.start().number(), level);
        scene.breaks(word, |word| word & !2, Rule::DmaIsOwned);
        scene.breaks(word, |_| private.base() | 3, Rule::DmaIsOwned);
        scene.breaks(word, |_| 0, Rule::DmaIsOwned);
    }
}

#[test]
fn a_guest_that_maps_what_is_not_its_own() {
    let scene = Scene::new();
    let word = scene.guest_word(RAM, 3);
    let host = Pfn::new(scene.lent.end()).unwrap();
    scene.breaks(word, |_| page(host), Rule::GuestOwns);
    scene.breaks(word, |_| page(scene.guest.regime().root), Rule::GuestOwns);
    scene.breaks(word, |word| word | 1 << 54, Rule::GuestRight);
    // The loan that is not marked as mapped, and bounce memory as code.
    let bounce = scene.guest_word(BAR, 3);
    let other = scene.lent.iter().next_back().unwrap();
    scene.breaks(bounce, |_| page(other) | 1 << 54, Rule::GuestBorrows);
    scene.breaks(bounce, |word| word & !(1 << 54), Rule::GuestRight);
}

#[test]
fn a_page_in_the_half_it_should_not_be_in_or_in_both() {
    let scene = Scene::sharing(SharedPlace::Alias);
    let alias = |page| Gfn::new(RAM + page).unwrap().alias().number();
    let shared = Pfn::new(scene.own.end() - 1).unwrap();
    let above = scene.guest_word(alias(3), 3);
    // The shared page is at home as well; a private one also, or only, above.
    scene.breaks(scene.guest_word(RAM + 3, 3), |_| page(shared), Rule::SharedAtAlias);
    let private = page(scene.own.start()) | 1 << 54;
    scene.breaks(scene.guest_word(alias(0), 3), |_| private, Rule::SharedAtAlias);
    scene.breaks(above, |_| private, Rule::SharedAtAlias);
    // What the host can write is never code.
    scene.breaks(above, |word| word & !(1 << 54), Rule::GuestRight);
    // Bounce memory has no business there.
    let bounce = page(scene.lent.start()) | 1 << 54;
    scene.breaks(scene.guest_word(alias(64), 3), |_| bounce, Rule::SharedAtAlias);
    // The alias of somebody else's frame.
    let host = Pfn::new(scene.lent.end()).unwrap();
    scene.breaks(above, |_| page(host) | 1 << 54, Rule::GuestOwns);
}

/// A frame in windows, what is at its own address, and what a window has.
#[test]
fn a_window_that_shows_something_else_or_more_or_otherwise() {
    let mut scene = Scene::new();
    let (m, memory) = (&scene.fixture.machine, &mut scene.fixture.memory);
    memory.open_window(&mut scene.guest, 2, 2).unwrap();
    let page = |page| View::of_guest(Gfn::new(RAM + page).unwrap(), false);
    let mut wanted = Views::default();
    [0, 1].into_iter().for_each(|at| wanted.push(page(at), 1));
    memory.refresh_window(m, &mut scene.guest, 2, 7, &wanted).unwrap();
    m.settle();
    assert_eq!(scene.check(), Ok(()));
    let first = scene.guest.window(2).unwrap().first().number();
    let root = scene.fixture.memory.regime().root;
    let word = |page, level| scene.word(root, first + page, level);
    let leaf = word(7, 3);
    // Not in windows: the guest's own, the guest's lent, the host's.
    let [own, lent] = [2, 3].map(|page| scene.own.start().checked_add(page).unwrap());
    for other in [own, lent, scene.lent.start(), Pfn::new(0x9000).unwrap()] {
        scene.breaks(leaf, |word| word & 0xfff | 1 << 54 | other.base(), Rule::WindowMaps);
    }
    // One frame twice and the other not at all; code; another kind of memory.
    let second = scene.own.start().checked_add(1).unwrap();
    scene.breaks(leaf, |word| word & 0xfff | 1 << 54 | second.base(), Rule::WindowMaps);
    scene.breaks(leaf, |word| word & !(1 << 54), Rule::WindowMaps);
    scene.breaks(leaf, |word| word & !0x3c, Rule::WindowMaps);
    // Fewer than are counted, and more than the budget.
    scene.breaks(leaf, |_| 0, Rule::EntriesCounted);
    let middle = word(7, 2);
    scene.breaks(middle, |word| word & !1, Rule::NothingParked);
    scene.breaks(middle, |word| word + 4, Rule::EntriesCounted);
    scene.breaks(middle, |_| scene.own.start().base() | 3, Rule::TableIsHyps);
    scene.breaks(word(7, 1), |_| 0, Rule::TableCounted);
    // At its own address it is not.
    let home = scene.host_word(scene.own.start(), 3);
    let at_home = |_| scene.own.start().base() | 0x7ff | 1 << 55;
    scene.breaks(home, at_home, Rule::WindowOnly);
    // Where no window is, of this guest and of nobody.
    let above = scene.fixture.machine.peek(root, word(7, 1).1);
    for closed in [word(7, 1).1 - 1, word(7, 1).1 + 1, 447] {
        scene.breaks((root, closed), |_| above, Rule::WindowOnly);
    }
    // And the dead have none.
    let table = word(7, 1).1;
    scene.guest.begin_dying(&scene.fixture.machine, &mut scene.fixture.memory);
    scene.fixture.machine.settle();
    assert_eq!(scene.check(), Ok(()));
    scene.fixture.machine.poke(root, table, above);
    assert_eq!(scene.check().unwrap_err().rule, Rule::WindowOnly);
    scene.fixture.machine.poke(root, table, 0);
}

#[test]
fn a_guest_that_lost_a_page_or_has_one_twice() {
    let scene = Scene::new();
    let first = scene.own.start();
    scene.breaks(scene.guest_word(RAM + 1, 3), |_| page(first), Rule::GuestHasItsFrames);
    // The page and its count of entries gone together.
    let word = scene.guest_word(RAM, 3);
    let before = scene.fixture.machine.peek(word.0, word.1);
    let middle = scene.guest_word(RAM, 2);
    let above = scene.fixture.machine.peek(middle.0, middle.1);
    scene.fixture.machine.poke(word.0, word.1, 0);
    scene.fixture.machine.poke(middle.0, middle.1, above - 4);
    let (m, memory) = (&scene.fixture.machine, &scene.fixture.memory);
    assert_eq!(check_guest(m, memory, &scene.guest).unwrap_err().rule, Rule::GuestHasItsFrames);
    scene.fixture.machine.poke(word.0, word.1, before);
    scene.fixture.machine.poke(middle.0, middle.1, above);
    assert_eq!(scene.check(), Ok(()));
}

#[test]
fn tables_that_are_parked_miscounted_not_el2s_or_reachable_after_death() {
    let mut scene = Scene::new();
    for word in [scene.guest_word(RAM, 2), scene.host_word(scene.own.start(), 2)] {
        scene.breaks(word, |word| word & !1, Rule::NothingParked);
        scene.breaks(word, |word| word + 4, Rule::EntriesCounted);
        scene.breaks(word, |_| page(scene.own.start()) & !0x7fc, Rule::TableIsHyps);
    }
    let top = scene.guest_word(RAM, 1);
    scene.guest.begin_dying(&scene.fixture.machine, &mut scene.fixture.memory);
    scene.fixture.machine.settle();
    assert_eq!(scene.check(), Ok(()));
    scene.breaks(top, |word| word | 1, Rule::DyingHasNothing);
    // One table less than the guest counts.
    scene.breaks(top, |_| 0, Rule::TableCounted);
}

#[test]
fn a_frame_table_entry_that_makes_no_sense() {
    let mut scene = Scene::new();
    // The host's DMA may not be in what the host may not access.
    scene.fixture.memory.pin(scene.lent).unwrap();
    assert_eq!(scene.check(), Ok(()));
    let pinned: Vec<_> =
        scene.fixture.memory.entries().filter(|(_, entry)| entry.pins() != 0).collect();
    assert_eq!(pinned.len() as u64, scene.lent.count());
    for (pfn, entry) in pinned {
        assert_eq!(super::entry::check(pfn, entry), Ok(()));
        let party = scene.guest.party();
        let alone = crate::memory::FrameEntry::owned(party).pinned().unwrap();
        let rule = super::entry::check(pfn, alone).unwrap_err().rule;
        assert_eq!(rule, Rule::EntryMakesSense);
    }
}

#[test]
fn a_counter_that_is_not_the_sum_of_the_entries() {
    let mut scene = Scene::new();
    let frames = scene.fixture.host_frames(3);
    let owned = scene.fixture.memory.counts().owned(Owner::Host);
    scene.fixture.memory.count_twice(frames);
    let found = scene.check().unwrap_err();
    assert_eq!((found.rule, found.found, found.expected), (Rule::CountersAgree, owned + 3, owned));
}

#[test]
fn a_violation_names_rule_frame_and_word() {
    let scene = Scene::new();
    let private = scene.own.start();
    let (table, index) = scene.host_word(private, 3);
    scene.with(
        (table, index),
        |_| page(private),
        |scene| {
            let text = scene.check().unwrap_err().to_string();
            for part in [
                "HostRight".to_string(),
                Rule::HostRight.text().to_string(),
                std::format!("frame {:#x}", private.number()),
                std::format!("table {:#x} word {index}", table.number()),
                "found 0x7fc, expected 0x0".to_string(),
            ] {
                assert!(text.contains(&part), "{text}");
            }
        },
    );
}
