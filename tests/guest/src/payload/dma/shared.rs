//! Pages that the guest shares: what s390's protected virtualization is, and
//! what its device must not reach.

#![allow(unsafe_code)]

use alloc::format;
use alloc::vec;

use guest::lending::PAGE;
use guest::slots::{Direction, Slots};
use guest::streaming::Mapping;
use hyp::stats::VmCounter;
use virtio_drivers::transport::DeviceType;

use super::bell::{COPIED, Deed, RING, WRITTEN, ask, watched};
use super::pages::{self, Pages};
use super::{Outcome, Show};
use crate::payload::raw_device::{self, INDIRECT, NEXT, RawDevice, SIZE, UNWRITTEN, WRITE};
use crate::payload::{Machine, interrupts, pci, secrets};

/// Most milliseconds for a request, or for the host's other CPU.
const PATIENCE: u64 = 20_000;
/// Pages that the raw device lies in.
const WINDOW: usize = 8;

/// Shows them; `None` if there is no such disk, or no memory to share.
pub(super) fn show(machine: &Machine, show: &mut Show) -> Option<()> {
    let (bus, functions) = pci::enumerate(&machine.tree)?;
    let disk = functions.iter().find(|function| function.kind == DeviceType::Block)?;
    let mut pages = Pages::new(machine);
    let window = pages.take_shared(WINDOW, 0)?;
    // SAFETY: pages set aside for it just now.
    let device =
        unsafe { RawDevice::in_pages(&bus, disk, (window, window), (WINDOW * PAGE) as u64) }?;
    rings(&device, show);
    buffers(&device, show);
    again(&device, show);
    device.reset();
    concurrent(pages.take_shared(1, 0)?, show);
    streaming(pages.take_shared(2, 0)?, show);
    taken_away(pages.take_shared(1, COPIED)?, show);
    Some(())
}

/// Accesses of the device's that were aborts while `work` was done.
fn faults(work: impl FnOnce() -> raw_device::Outcome) -> (raw_device::Outcome, u64) {
    let before = ask(Deed::Faults, 0);
    let outcome = work();
    (outcome, ask(Deed::Faults, 0) - before)
}

/// Nobody has read or written the private page.
fn untouched(private: u64) -> bool {
    ask(Deed::Read, private) == 1 && secrets::page_intact()
}

/// A request of a decent driver, but for where its rings are.
fn request(device: &RawDevice, [descriptors, avail, used]: [u64; 3]) -> raw_device::Outcome {
    device.reset();
    let ready = device.negotiate(device.decent().into())
        && device.set_queue(SIZE, descriptors, avail, used);
    if !ready {
        return raw_device::Outcome::Silent;
    }
    device.driver_ok();
    device.header(0);
    device.describe(raw_device::DESCRIPTORS, &device.good());
    device.offer(0, 1);
    device.outcome(PATIENCE)
}

/// 0.11: a ring in a page that is not shared. The queue can be enabled, for the
/// transport does not know what is shared; the device's first look faults.
fn rings(device: &RawDevice, show: &mut Show) {
    let good =
        [raw_device::DESCRIPTORS, raw_device::AVAIL, raw_device::USED].map(|at| device.at(at));
    let private = secrets::plant();
    for (index, row) in ["0.11a", "0.11b", "0.11c"].into_iter().enumerate() {
        let mut places = good;
        places[index] = private;
        let (outcome, faults) = faults(|| request(device, places));
        let refused = outcome == raw_device::Outcome::Stopped && faults > 0 && untouched(private);
        let seen =
            format!("{outcome:?} (NEEDS_RESET), aborts: {faults}, page unread and unchanged");
        show.tell(row, Outcome::refused(refused), &seen);
    }
}

/// 0.11: an indirect table and buffers in a page that is not shared. The
/// request comes back with an error, and the device goes on.
fn buffers(device: &RawDevice, show: &mut Show) {
    let private = secrets::plant();
    let [header, data, status] = device.good();
    let io_error = raw_device::Outcome::Served(1);
    for (row, chain, answer) in [
        ("0.11d", vec![(private, 48, INDIRECT, 0)], raw_device::Outcome::Served(UNWRITTEN)),
        ("0.11e", vec![header, (private, 512, NEXT | WRITE, 2), status], io_error),
        ("0.11f", vec![(private, 16, NEXT, 1), data, status], io_error),
    ] {
        let ready = device.bring_up();
        let (outcome, faults) = faults(|| {
            device.header(0);
            device.describe(raw_device::DESCRIPTORS, &chain);
            device.offer(0, 1);
            device.outcome(PATIENCE)
        });
        let refused = ready && outcome == answer && faults > 0 && untouched(private);
        let seen = format!("{outcome:?}, aborts: {faults}, page unread and unchanged");
        show.tell(row, Outcome::refused(refused), &seen);
    }
}

/// After all that the device works.
fn again(device: &RawDevice, show: &mut Show) {
    let at = [raw_device::DESCRIPTORS, raw_device::AVAIL, raw_device::USED];
    let (outcome, faults) = faults(|| request(device, at.map(|at| device.at(at))));
    let works = outcome == raw_device::Outcome::Served(0) && faults == 0;
    show.tell("0.1", Outcome::shown(works), &format!("{outcome:?}, aborts: {faults}"));
}

/// 0.12: a long-lived page that both look at at once. The guest fills a ring on
/// one CPU, the host polls it on another, and each index is seen in its turn.
fn concurrent(page: u64, show: &mut Show) {
    let counters =
        || [VmCounter::Hypercalls, VmCounter::Notifications].map(|c| ask(Deed::Count, c as u64));
    let before = counters();
    let begun = ask(Deed::Follow, page) == 1;
    let end = rt::timer::now() + rt::timer::ticks(1000 * PATIENCE);
    // SAFETY: the page is set aside for this, and shared: the host may write, so
    // it is volatile.
    let used = || unsafe { ((page + 0x802) as *const u16).read_volatile() };
    let mut all = begun;
    for number in 1..=RING {
        let entry = page + 4 + 2 * u64::from((number - 1) % 256);
        // SAFETY: the same page.
        unsafe {
            (entry as *mut u16).write_volatile(number.rotate_left(5));
            core::sync::atomic::fence(core::sync::atomic::Ordering::Release);
            ((page + 2) as *mut u16).write_volatile(number);
        }
        while all && used() != number {
            all = rt::timer::now() < end;
            core::hint::spin_loop();
        }
    }
    let over = all && interrupts::wait(PATIENCE, || watched().over);
    let watched = watched();
    let calls: u64 = counters().iter().zip(before).map(|(now, before)| now - before).sum();
    let good = over && watched.seen == u64::from(RING) && !watched.odd && calls == 0;
    let seen = format!("{} of {RING} indices seen in order, {calls} calls and kicks", watched.seen);
    show.tell("0.12", Outcome::shown(good), &seen);
}

/// 0.14 and 0.15: the streaming half. The device is told where the slot is, and
/// that is a physical address; until sync or unmap nothing comes of what it
/// writes there, and after unmap nothing any more.
fn streaming(pool: u64, show: &mut Show) {
    // SAFETY: two pages set aside for it.
    let mut slots = unsafe { Slots::new(pool as *mut u8, 2 * PAGE) };
    let mut buffer = vec![0x5a; PAGE];
    let private = buffer.as_ptr();
    // SAFETY: it is alive; what the CPU finds there, whatever the compiler may
    // believe.
    let word = || unsafe { private.cast::<[u8; 8]>().read_volatile() };
    let untouched = [0x5a; 8];

    let Some(mapping) = Mapping::map(&mut slots, &mut buffer, Direction::ToDevice) else { return };
    let told = mapping.address();
    let inside = (pool..pool + 2 * PAGE as u64).contains(&told);
    let same = ask(Deed::Word, told) == u64::from_le_bytes(untouched);
    let hidden = ask(Deed::Read, private as u64 & !7) == 1;
    let ended = mapping.unmap(&mut slots);
    let seen = format!("told {told:#x}, in the pool at {pool:#x}; the host finds the data there");
    show.tell("0.14", Outcome::shown(inside && same && hidden && ended), &seen);

    let Some(mut mapping) = Mapping::map(&mut slots, &mut buffer, Direction::FromDevice) else {
        return;
    };
    let slot = mapping.address();
    let wrote = ask(Deed::Write, slot) == 0;
    let mapped = wrote && word() == untouched;
    let synced =
        mapping.sync(&mut slots).is_some_and(|now| now.starts_with(&WRITTEN.to_le_bytes()));
    // SAFETY: a slot in the pool. The host writes another word later.
    unsafe { (slot as *mut u64).write_volatile(0) };
    let still = word() == WRITTEN.to_le_bytes();
    let ended = mapping.unmap(&mut slots);
    let last = word() == [0; 8];
    let late = ask(Deed::Write, slot) == 0 && word() == [0; 8];
    let good = mapped && synced && still && ended && last && late;
    let seen = format!(
        "after the host's write: mapped {}, sync {}, unmap {}, later {}",
        held(mapped),
        held(synced && still),
        held(ended && last),
        held(late)
    );
    show.tell("0.15", Outcome::shown(good), &seen);
}

fn held(good: bool) -> &'static str {
    if good { "as it should be" } else { "WRONG" }
}

/// 0.4: a page is taken back while the host copies from it. What the guest
/// writes next is not in the copy.
fn taken_away(page: u64, show: &mut Show) {
    let begun = ask(Deed::Copy, page) == 1;
    let going = begun && interrupts::wait(PATIENCE, || watched().seen > 10_000);
    let back = pages::unshare(page);
    pages::fill(page, 1, 0x005e_c2e7);
    let over = interrupts::wait(PATIENCE, || watched().over);
    let watched = watched();
    let kept = pages::is_full_of(page, 1, 0x005e_c2e7) && ask(Deed::Read, page) == 1;
    let refused = going && back && over && watched.abort && !watched.odd && kept;
    let seen = format!("{} words copied, then an abort, and no other word", watched.seen);
    show.tell("0.4", Outcome::refused(refused), &seen);
}
