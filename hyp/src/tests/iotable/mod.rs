//! I/O tables (policy shadow-iommu): the guest's calls, its table, and what an
//! adversary makes of both.

mod attacks;

use super::holds::{MOST, effects};
use super::rig::{PAGES, RAM_GFN, Rig, pfn};
use crate::abi::{self, exit, guest as id, host};
use crate::error::Error;
use crate::layout;
use crate::machine::Vmid;
use crate::stats::VmCounter;
use std::sync::{Arc, Mutex};
use std::vec::Vec;

/// First address that a device has, as a driver knows it.
const IOVA: u64 = 0x50_0000_0000;
/// Pages that are donated: the tables are the first three.
const RAM_PAGES: u64 = 40;
const ROOT: u64 = 0;
const MIDDLE: u64 = 1;
const LAST: u64 = 2;
/// Word of the root that the aperture is behind.
const ROOT_WORD: usize = 320;
/// The device with the table.
const DEVICE: u64 = 1;

/// Address of the guest's page `page`.
fn ipa(page: u64) -> u64 {
    (RAM_GFN + page) << 12
}

/// A word that leads to a page or a table.
fn valid(page: u64) -> u64 {
    ipa(page) | 1
}

fn writable(page: u64) -> u64 {
    ipa(page) | 3
}

struct Guest {
    rig: Rig,
    handle: u64,
    ram: u64,
}

impl Guest {
    /// A guest with a shared-pages device and one with an I/O table, which is
    /// set and empty.
    fn new(budget: u64) -> Self {
        let guest = Self::without_table(budget, 16);
        assert_eq!(guest.set(ipa(ROOT)), Ok(0));
        guest.poke(ROOT, ROOT_WORD, valid(MIDDLE));
        guest.poke(MIDDLE, 0, valid(LAST));
        guest
    }

    fn without_table(budget: u64, memcache: u64) -> Self {
        let mut rig = Rig::new();
        let (handle, _) = rig.building_with(1, memcache, 0);
        let create = |policy, pages| [handle, 2, policy, pages, 1];
        assert_eq!(rig.hvc(host::DEVICE_CREATE, &create(1, 0)), Ok([0, 0, 0]));
        assert_eq!(rig.hvc(host::DEVICE_CREATE, &create(4, budget)), Ok([DEVICE, 0, 0]));
        let rest = RAM_PAGES - PAGES;
        let ram = rig.frames(rest) - PAGES;
        let donate = [handle, ram + PAGES, RAM_GFN + PAGES, rest, 0];
        assert_eq!(rig.hvc(host::FRAME_DONATE, &donate), Ok([rest, 0, 0]));
        rig.hvc(host::VM_FINALISE, &[handle, layout::RAM, 0]).unwrap();
        Self { rig, handle, ram }
    }

    /// A store of the guest's.
    fn poke(&self, page: u64, word: usize, value: u64) {
        self.rig.hyp.machine().poke(self.frame(page), word, value);
    }

    fn frame(&self, page: u64) -> crate::addr::Pfn {
        // The measured pages are somewhere else than the rest.
        let handle = crate::vm::Handle::from_raw(self.handle);
        let leaf = self.rig.hyp.with_vm(handle, |vm| {
            let gfn = crate::addr::Gfn::new(RAM_GFN + page).unwrap();
            Ok(vm.memory.lookup(self.rig.hyp.machine(), gfn))
        });
        leaf.unwrap().unwrap().pfn
    }

    /// A call from start to end; a refusal tells nothing else.
    fn call(&self, function: u32, arguments: &[u64]) -> Result<[u64; 3], i64> {
        let results = Arc::new(Mutex::new([0; 4]));
        let sink = results.clone();
        self.rig.script_hvc(u64::from(function), arguments);
        self.rig.script_check(move |vcpu| {
            *sink.lock().unwrap() = [0, 1, 2, 3].map(|register| vcpu.frame.x[register]);
        });
        assert_eq!(self.rig.run(self.handle)[0], exit::INTERRUPT);
        let [code, values @ ..] = *results.lock().unwrap();
        match code {
            0 => Ok(values),
            code => {
                assert_eq!(values, [0; 3]);
                Err(code as i64)
            }
        }
    }

    fn set(&self, root: u64) -> Result<u64, i64> {
        self.call(id::IOTABLE_SET, &[DEVICE, root]).map(|[left, ..]| left)
    }

    /// REFRESH from page `page` of the aperture on.
    fn refresh(&self, page: u64, pages: u64) -> Result<[u64; 3], i64> {
        self.call(id::REFRESH, &[DEVICE, IOVA + (page << 12), pages])
    }

    /// The same; refused with `error`, and nothing has changed.
    #[track_caller]
    fn refused(&self, page: u64, pages: u64, error: Error) {
        let before = (self.rig.ownership(), self.window(64), self.info());
        assert_eq!(self.refresh(page, pages), Err(error.code()));
        assert_eq!((self.rig.ownership(), self.window(64), self.info()), before);
    }

    fn info(&self) -> [u64; 3] {
        self.call(id::IOTABLE_INFO, &[DEVICE]).unwrap()
    }

    /// Where the host finds the window.
    fn address(&self) -> u64 {
        self.rig.hvc(host::QUEUE_INFO, &[self.handle, DEVICE, 0, 2]).unwrap()[2]
    }

    /// The frame that the host reaches at a page of the window.
    fn seen(&self, page: u64) -> Option<u64> {
        let gfn = crate::addr::Gfn::new((self.address() >> 12) + page).unwrap();
        let reached = self.rig.hyp.machine().access(Vmid::HOST, gfn);
        assert!(reached.len() < 2);
        reached.first().map(|frame| frame.number())
    }

    fn window(&self, pages: u64) -> Vec<Option<u64>> {
        (0..pages).map(|page| self.seen(page)).collect()
    }

    fn counter(&self, counter: VmCounter) -> u64 {
        self.rig.hvc(host::STATS, &[self.handle, counter as u64]).unwrap()[0]
    }
}

#[test]
fn one_call_maps_what_the_table_says() {
    let guest = Guest::new(100);
    assert_eq!(guest.info(), [IOVA, 1 << 18, 100]);
    let part = guest.rig.hvc(host::QUEUE_INFO, &[guest.handle, DEVICE, 0, 2]).unwrap();
    assert_eq!((part[0], part[1]), (0, 1 << 18), "no queue yet; pages of the aperture");
    for page in 0..20 {
        guest.poke(LAST, page, if page % 2 == 0 { writable(4 + page as u64) } else { valid(30) });
    }
    let [calls, returns] = [VmCounter::Hypercalls, VmCounter::Refreshes];
    let before = (guest.counter(calls), guest.counter(returns));
    assert_eq!(guest.refresh(0, 20), Ok([20, 0, 20]));
    assert_eq!((guest.counter(calls), guest.counter(returns)), (before.0 + 1, before.1 + 1));
    for page in 0..20 {
        let frame = if page % 2 == 0 { guest.frame(4 + page) } else { guest.frame(30) };
        assert_eq!(guest.seen(page), Some(frame.number()));
        assert_eq!(guest.rig.frame_state(frame.number()), 3, "at its own place it is not");
    }
    assert_eq!(guest.seen(20), None);
    assert_eq!(guest.info()[2], 100 | 20 << 32);
    assert_eq!(guest.counter(VmCounter::PagesMapped), 20);
    // A write through a read-only mapping is refused by hardware.
    let leaves = guest.rig.hyp.machine().leaves(Vmid::HOST);
    let window = guest.address() >> 12;
    let rights = leaves.iter().filter(|leaf| leaf.gfn.number() >= window);
    assert!(rights.map(|leaf| leaf.word >> 6 & 3).eq((0..20).map(|page| [3, 1][page % 2])));
}

#[test]
fn the_table_counts_only_when_it_is_refreshed() {
    let guest = Guest::new(100);
    guest.poke(LAST, 3, writable(10));
    assert_eq!(guest.seen(3), None, "job 2 of the instruction: not before");
    assert_eq!(guest.refresh(0, 3), Ok([3, 0, 0]), "another range");
    assert_eq!(guest.seen(3), None);
    assert_eq!(guest.refresh(3, 1), Ok([1, 0, 1]));
    guest.poke(LAST, 3, 0);
    assert!(guest.seen(3).is_some(), "job 1: what lazy drivers live on");
    guest.poke(MIDDLE, 0, 0);
    assert_eq!(guest.refresh(0, 512), Ok([512, 0, 0]));
    assert_eq!(guest.seen(3), None);
    assert_eq!(guest.counter(VmCounter::PagesUnmapped), 1);
}

#[test]
fn a_call_does_one_table_and_skips_what_is_empty() {
    let guest = Guest::new(1000);
    // Pages 0, 3 × 512 and the aperture's last.
    guest.poke(LAST, 0, valid(10));
    guest.poke(LAST, 511, valid(11));
    guest.poke(MIDDLE, 3, valid(LAST));
    guest.poke(MIDDLE, 511, valid(LAST));
    let all = 1 << 18;
    let mut done = 0;
    let mut parts = Vec::new();
    while done < all {
        let [pages, left_out, _] = guest.refresh(done, all - done).unwrap();
        assert_eq!(left_out, 0);
        done += pages;
        parts.push(pages);
    }
    assert_eq!(parts, [512, 3 * 512, 508 * 512], "one call for each 2 MiB that has something");
    assert_eq!(guest.info()[2] >> 32, 6);
    // A part of a table: no other word of it is looked at.
    guest.poke(LAST, 9, u64::MAX);
    assert_eq!(guest.refresh(0, 9), Ok([9, 0, 6]));
    guest.refused(9, 1, Error::InvalidParameter);
}

/// G4: a whole last table, every word changed and no two pages neighbours, is
/// as long as host memory is held.
#[test]
fn a_refresh_is_as_short_as_any_call_on_a_range() {
    let guest = Guest::new(600);
    for shift in [0, 7, 11] {
        for word in 0..512 {
            guest.poke(LAST, word, writable(3 + (word as u64 * 5 + shift) % 30));
        }
        let (cost, done) = effects(&guest.rig, || guest.refresh(0, 512));
        assert_eq!(done, Ok([512, 0, 512]));
        assert!(cost > 512 && cost <= MOST, "{cost} effects, at most {MOST}");
    }
    let (cost, left) = effects(&guest.rig, || guest.set(0));
    assert_eq!(left, Ok(0));
    assert!(cost > 512 && cost <= MOST, "{cost} effects, at most {MOST}");
}

/// A page that was never donated, or a table that there is no memory for, is
/// an exit to the host; then the call begins anew.
#[test]
fn what_the_host_must_give_first_is_asked_for_and_the_call_repeated() {
    let mut guest = Guest::without_table(100, 8);
    assert_eq!(guest.set(ipa(ROOT)), Ok(0));
    guest.poke(ROOT, ROOT_WORD, valid(MIDDLE));
    guest.poke(MIDDLE, 0, valid(LAST));
    // A page that was never donated, as data and as a table.
    for (table, index) in [(LAST, 5), (MIDDLE, 0)] {
        guest.poke(table, index, valid(50));
        let window = guest.window(64);
        guest.rig.script(move |vcpu| {
            vcpu.frame.pc = 0x4000_0104;
            vcpu.frame.x[..4].copy_from_slice(&[id::REFRESH.into(), DEVICE, IOVA, 512]);
            super::rig::sync(0x16 << 26)
        });
        let page = ipa(50);
        assert_eq!(guest.rig.run(guest.handle)[..2], [exit::MEM_FAULT, page]);
        assert_eq!(guest.window(64), window);
        // The guest is still on the HVC, with its arguments.
        guest.rig.script_check(|vcpu| {
            assert_eq!(vcpu.frame.pc, 0x4000_0100);
            assert_eq!(vcpu.frame.x[..4], [id::REFRESH.into(), DEVICE, IOVA, 512]);
        });
        guest.rig.run(guest.handle);
        guest.poke(MIDDLE, 0, valid(LAST));
    }
    let frame = guest.rig.frames(1);
    let donate = [guest.handle, frame, RAM_GFN + 50, 1, 0];
    guest.rig.hvc(host::FRAME_DONATE, &donate).unwrap();
    // The memcache has room for the tables of two places, not of more.
    let mut places = 0;
    let exit = loop {
        guest.poke(MIDDLE, places, valid(LAST));
        let page = places as u64 * 512 + 5;
        guest.rig.script_hvc(id::REFRESH.into(), &[DEVICE, IOVA + (page << 12), 1]);
        let [exit, address, _] = guest.rig.run(guest.handle);
        if exit != exit::INTERRUPT {
            break (exit, address);
        }
        places += 1;
        assert_eq!(guest.seen(page), Some(frame));
    };
    assert_eq!(exit, (exit::MEM_FAULT, IOVA), "outside RAM: the host tops the memcache up");
    assert!(places > 0 && places < 16);
    let more = guest.rig.frames(4);
    guest.rig.hvc(host::VM_TOPUP, &[guest.handle, more, 4]).unwrap();
    assert_eq!(guest.refresh(places as u64 * 512 + 5, 1), Ok([1, 0, places as u64 + 1]));
}

#[test]
fn over_budget_is_no_error_and_a_whole_refresh_recovers() {
    let guest = Guest::new(8);
    for page in 0..16 {
        guest.poke(LAST, page, writable(4 + page as u64));
    }
    assert_eq!(guest.refresh(0, 16), Ok([16, 8, 8]));
    assert_eq!(guest.counter(VmCounter::PagesLeftOut), 8);
    assert!((8..16).all(|page| guest.seen(page).is_none()));
    (0..8).for_each(|page| guest.poke(LAST, page, 0));
    // The whole aperture: one call for the table, one for the empty rest.
    assert_eq!(guest.refresh(0, 1 << 18), Ok([512, 0, 8]));
    assert_eq!(guest.refresh(512, (1 << 18) - 512), Ok([(1 << 18) - 512, 0, 8]));
    for page in 8..16 {
        assert_eq!(guest.seen(page), Some(guest.frame(4 + page).number()));
    }
}

#[test]
fn another_root_waits_until_nothing_is_mapped() {
    let guest = Guest::new(1000);
    for place in [0, 9] {
        guest.poke(MIDDLE, place, valid(LAST));
        (0..3).for_each(|page| guest.poke(LAST, page, valid(10)));
        assert_eq!(guest.refresh(place as u64 * 512, 512).unwrap()[0], 512);
    }
    assert_eq!(guest.set(ipa(20)), Err(Error::Busy.code()));
    assert_eq!(guest.set(ipa(ROOT)), Ok(6), "the same");
    assert_eq!(guest.info()[2] >> 32, 6);
    assert_eq!(guest.set(0), Ok(3), "a part at a time");
    guest.refused(0, 1, Error::BadState);
    assert_eq!(guest.set(ipa(20)), Err(Error::Busy.code()));
    assert_eq!(guest.set(0), Ok(0));
    assert_eq!(guest.set(ipa(20)), Ok(0));
    assert_eq!(guest.counter(VmCounter::PagesUnmapped), 6);
    assert_eq!(guest.window(5 * 1024), [None; 5 * 1024]);
}

#[test]
fn the_policy_is_made_with_a_budget_and_not_for_a_realm() {
    let mut rig = Rig::new();
    let (handle, _) = rig.building(1);
    let create = |handle, pages| [handle, 2, abi::POLICY_SHADOW_IOMMU, pages, 1];
    for pages in [0, 65_536, u64::MAX] {
        assert_eq!(rig.hvc(host::DEVICE_CREATE, &create(handle, pages)), Err(-3), "{pages}");
    }
    for (pages, device) in [(1, 0), (65_535, 1)] {
        assert_eq!(rig.hvc(host::DEVICE_CREATE, &create(handle, pages)), Ok([device, 0, 0]));
    }
    // One whose driver chooses has a table as well.
    let choice = |handle| [handle, 2, abi::POLICY_GUEST_CHOICE, 8, 1];
    assert_eq!(rig.hvc(host::DEVICE_CREATE, &choice(handle)), Ok([2, 0, 0]));
    // No memory of its own, so nothing that FRAME_SHARE could fill.
    let frame = rig.frames(1);
    assert_eq!(rig.hvc(host::FRAME_SHARE, &[handle, 0, 0, frame, 1]), Err(-5));
    rig.hvc(host::VM_FINALISE, &[handle, layout::RAM, 0]).unwrap();

    let (realm, _) = rig.building_with(1, 16, abi::CREATE_RSI);
    assert_eq!(rig.hvc(host::DEVICE_CREATE, &create(realm, 8)), Err(-3));
    assert_eq!(rig.hvc(host::DEVICE_CREATE, &choice(realm)), Err(-3));
    assert_eq!(rig.hvc(host::DEVICE_STATE, &[realm, 0]), Err(-5), "nothing was made");
}

/// The budget is what the guest's owner agreed to: it is measured.
#[test]
fn the_budget_is_part_of_the_measurement() {
    let digest = |budget| {
        let guest = Guest::without_table(budget, 16);
        guest.rig.hvc(host::VM_MEASUREMENT, &[guest.handle, 0]).unwrap()
    };
    assert_ne!(digest(8), digest(9));
    assert_eq!(digest(8), digest(8));
}

#[test]
fn an_access_to_what_is_not_mapped_is_refused_and_told() {
    let guest = Guest::new(100);
    guest.poke(LAST, 0, valid(10));
    guest.refresh(0, 1).unwrap();
    let touch = |address: u64| {
        let mut frame = crate::vcpu::state::Frame::default();
        guest.rig.hyp.handle_host_trap(&mut frame, super::rig::abort(address, 8, 0, false));
        guest.rig.hvc(host::EVENT_NEXT, &[])
    };
    let address = guest.address() + 0x1000;
    let [what, at, _] = touch(address).unwrap();
    assert_eq!((what & 0xff, what >> 16 & 0xff, at), (1, 3, address), "whose window it is");
    assert_eq!(touch(guest.address()), Err(-5), "what is mapped is there");
}

#[test]
fn the_window_lives_and_dies_with_the_guest() {
    let guest = Guest::new(100);
    let (ram, handle) = (guest.ram, guest.handle);
    for page in 0..30 {
        guest.poke(LAST, page, writable(4 + page as u64));
    }
    guest.refresh(0, 30).unwrap();
    let frames: Vec<u64> = (4..34).map(|page| guest.frame(page).number()).collect();
    frames.iter().for_each(|frame| guest.rig.hyp.machine().plant(pfn(*frame), 0x5ec2e7));
    let (window, address) = (guest.window(64), guest.address());
    assert_eq!(window.iter().flatten().count(), 30);
    let rig = &guest.rig;
    rig.hvc(host::VM_STOP, &[handle]).unwrap();
    let gone = |page: u64| {
        let gfn = crate::addr::Gfn::new((address >> 12) + page).unwrap();
        rig.hyp.machine().access(Vmid::HOST, gfn).is_empty()
    };
    assert!((0..64).all(gone), "on every CPU");
    assert_eq!(frames, (ram + 4..ram + 34).collect::<Vec<_>>());
    assert_eq!(rig.hvc(host::FRAME_RECLAIM, &[handle, ram + 4, 36]), Ok([36, 0, 0]));
    assert!(frames.iter().all(|frame| rig.hyp.machine().tag(pfn(*frame)) == Some(0)));
}
