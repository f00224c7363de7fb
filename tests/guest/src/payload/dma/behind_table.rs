//! A device behind an I/O table, in each of the ways in which its driver can
//! tell the hypervisor what it has unmapped.

#![allow(unsafe_code)]

use alloc::format;

use guest::iommu::Error;
use guest::lending::PAGE;
use guest::mappings::{Arena, Mappings, Mode};
use guest::slots::Direction;
use hyp::stats::VmCounter;
use virtio_drivers::device::blk::VirtIOBlk;
use virtio_drivers::transport::DeviceType;

use super::bell::{Deed, ask};
use super::{Outcome, Show};
use crate::payload::disk::BlockDisk;
use crate::payload::iommu_hal::{self, GuestDomain, IommuHal};
use crate::payload::pci::{Bus, Function};
use crate::payload::raw_device::{self, DESCRIPTORS, RawDevice, SIZE};
use crate::payload::tables::{Spare, domain, fill, is_full_of, load, number, store};
use crate::payload::{Machine, checked_transport, device, pci, pkvm, story};
use checked_transport::CheckedTransport;
use guest::files::Disk;

/// Bytes of a page.
const BYTES: u64 = PAGE as u64;
/// Most milliseconds for a request.
const PATIENCE: u64 = 5000;
/// Requests made.
const REQUESTS: u64 = 64;
/// What a page holds that the device may see, and one that it may not.
const SHOWN: u64 = u64::from_le_bytes(*b"for them");
const SECRET: u64 = u64::from_le_bytes(*b"not them");

/// Shows the mode that the command line names; `None` if there is no such disk.
pub(super) fn show(machine: &Machine, show: &mut Show) -> Option<()> {
    let mode = iommu_hal::mode(machine.argument("dma")?)?;
    let mut spare = Spare::new(machine.spare.clone());
    let (mut bus, functions) = pci::enumerate(&machine.tree)?;
    let disk = functions.iter().find(|function| function.kind == DeviceType::Block)?;
    if mode == Mode::Strict {
        table(&bus, disk, &mut spare, show)?;
    }
    next_owner(mode, number(disk), &mut spare, show)?;
    requests(machine, &mut bus, disk, mode, &mut spare, show)?;
    let opened = device::open(machine, &mut bus, None, disk, 0).ok()?;
    let right = story::use_disk::<IommuHal<0>>(machine, opened, "iommu");
    let report = iommu_hal::close(0)?;
    iommu_hal::tell(&report);
    let seen = format!(
        "{} refreshes, {} pages mapped, {} unmapped, {} bytes copied out",
        report.counters.calls(),
        report.counters.mapped_pages,
        report.counters.unmapped_pages,
        report.used.copied.bytes_out
    );
    show.tell("disk", Outcome::shown(right && report.lost() == 0), &seen);
    Some(())
}

fn hypercalls() -> u64 {
    ask(Deed::Count, VmCounter::Hypercalls as u64)
}

/// What the table and its calls do, whoever uses them.
fn table(bus: &Bus, disk: &Function, spare: &mut Spare, show: &mut Show) -> Option<()> {
    let device = number(disk);
    let mut domain = domain(spare, device)?;
    one_call(&mut domain, spare, show)?;
    without_the_host(&mut domain, spare, show)?;
    pageable(&mut domain, spare, show)?;
    seen_or_not(bus, disk, &mut domain, spare, show)?;
    over_budget(&mut domain, device, spare, show)?;
    iommu_hal::take_away(device).then_some(())
}

/// 4.11, 4.8: how many calls it takes for how many pages.
fn one_call(domain: &mut GuestDomain, spare: &mut Spare, show: &mut Show) -> Option<()> {
    let page = spare.take(512)? as u64;
    let before = hypercalls();
    let iova = domain.map(page, 64, true).ok()?;
    let to_map = hypercalls() - before;
    domain.unmap(iova, 64).ok()?;
    let to_unmap = hypercalls() - before - to_map;
    let seen = format!("64 pages: {to_map} hypercall to map, {to_unmap} to unmap");
    show.tell("4.11", Outcome::shown((to_map, to_unmap) == (1, 1)), &seen);
    // 512 pages that begin in the middle of a table are in two of them.
    let mut seen = alloc::string::String::from("hypercalls per page:");
    let mut most = 0;
    for pages in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512] {
        let before = hypercalls();
        let iova = domain.map(page, pages, true).ok()?;
        let calls = hypercalls() - before;
        domain.unmap(iova, pages).ok()?;
        most = most.max(calls);
        seen += &format!(" {pages}: {calls}/{pages}");
    }
    show.tell("4.8", Outcome::shown(most <= 2), &seen);
    Some(())
}

/// 4.2: the host is not asked. It runs now and then for reasons of its own, so
/// what counts is the quietest of some attempts.
fn without_the_host(domain: &mut GuestDomain, spare: &mut Spare, show: &mut Show) -> Option<()> {
    let page = spare.take(1)? as u64;
    let returns = || ask(Deed::Count, VmCounter::HostReturns as u64);
    let mut quietest = u64::MAX;
    for _ in 0..20 {
        let start = returns();
        let silence = returns() - start;
        let start = returns();
        for _ in 0..32 {
            let iova = domain.map(page, 1, true).ok()?;
            domain.unmap(iova, 1).ok()?;
        }
        quietest = quietest.min((returns() - start).saturating_sub(silence));
    }
    let seen = format!("64 refreshes, {quietest} returns to the host");
    show.tell("4.2", Outcome::shown(quietest == 0), &seen);
    Some(())
}

/// 4.6: what is mapped is the guest's to unmap, and nobody's to move meanwhile.
fn pageable(domain: &mut GuestDomain, spare: &mut Spare, show: &mut Show) -> Option<()> {
    let page = spare.take(1)? as u64;
    let iova = domain.map(page, 1, true).ok()?;
    let codes =
        [pkvm::mem_share(page, 1).0, pkvm::mem_unshare(page, 1).0, pkvm::mem_relinquish(page)];
    domain.unmap(iova, 1).ok()?;
    let seen = format!("share, unshare, relinquish of a mapped page: {codes:?}");
    show.tell("4.6-mapped", Outcome::refused(codes.iter().all(|code| *code == -4)), &seen);
    let after = pkvm::mem_relinquish(page);
    let fresh = load(page);
    let seen = format!("after REFRESH relinquish gives {after}; touched again it reads {fresh:#x}");
    show.tell("4.6", Outcome::shown(after == 0 && fresh == 0), &seen);
    Some(())
}

/// A read of one page into `data`, as the device is told: its outcome, and the
/// accesses of the backend that were aborted.
fn read_into(raw: &RawDevice, data: u64) -> (raw_device::Outcome, u64) {
    if !raw.bring_up() {
        return (raw_device::Outcome::Silent, 0);
    }
    let [header, _, status] = raw.good();
    raw.header(0);
    let data = (data, PAGE as u32, raw_device::NEXT | raw_device::WRITE, 2);
    raw.describe(DESCRIPTORS, &[header, data, status]);
    let before = ask(Deed::Faults, 0);
    raw.offer(0, 1);
    let outcome = raw.outcome(PATIENCE);
    (outcome, ask(Deed::Faults, 0) - before)
}

/// 4.10, 4.5, 1.9b, 0.9: what a device reaches, and by which names.
fn seen_or_not(
    bus: &Bus,
    disk: &Function,
    domain: &mut GuestDomain,
    spare: &mut Spare,
    show: &mut Show,
) -> Option<()> {
    const RINGS: u64 = 6;
    let rings = spare.take(RINGS as usize)? as u64;
    let page = spare.take(1)? as u64;
    let at = domain.map(rings, RINGS, true).ok()?;
    // SAFETY: pages of `Spare`, mapped for this device.
    let raw = unsafe { RawDevice::in_pages(bus, disk, (rings, at), RINGS * BYTES) }?;
    let error = raw_device::Outcome::Served(1);

    fill(page, 1, SHOWN);
    let iova = domain.reserve(page, 1, true).ok()?;
    let (outcome, faults) = read_into(&raw, iova);
    let refused = outcome == error && faults == 1 && is_full_of(page, 1, SHOWN);
    let seen = format!("{outcome:?} (1 is an I/O error), {faults} abort of the backend");
    show.tell("4.10-before", Outcome::refused(refused), &seen);
    let told = pkvm::refresh(number(disk), iova, 1).0 == 0;
    let (outcome, faults) = read_into(&raw, iova);
    let served = outcome == raw_device::Outcome::Served(0) && !is_full_of(page, 1, SHOWN);
    let seen = format!("{outcome:?} (0 is success), {faults} aborts");
    show.tell("4.10", Outcome::shown(told && served && faults == 0), &seen);
    domain.unmap(iova, 1).ok()?;

    fill(page, 1, SHOWN);
    let iova = domain.map(page, 1, false).ok()?;
    let (outcome, faults) = read_into(&raw, iova);
    let refused = outcome == error && faults == 1 && is_full_of(page, 1, SHOWN);
    let seen = format!("{outcome:?}, {faults} abort of the backend, page unchanged");
    show.tell("4.5", Outcome::refused(refused), &seen);
    domain.unmap(iova, 1).ok()?;

    let (outcome, faults) = read_into(&raw, page);
    let refused = outcome == error && is_full_of(page, 1, SHOWN);
    let seen = format!("{outcome:?}, {faults} aborts: the backend itself knows no such address");
    show.tell("1.9b", Outcome::refused(refused), &seen);
    let aborted = ask(Deed::Read, rings) == 1;
    let seen = if aborted { "an abort" } else { "the host has read it" };
    show.tell("0.4", Outcome::refused(aborted), seen);

    raw.reset();
    let ready = raw.negotiate(raw.decent().into());
    let enabled = raw.set_queue(SIZE, rings, raw.at(raw_device::AVAIL), raw.at(raw_device::USED));
    let stops = raw.status() & raw_device::NEEDS_RESET != 0;
    let seen = format!("queue_enable reads {}, NEEDS_RESET {}", u8::from(enabled), u8::from(stops));
    show.tell("0.9", Outcome::refused(ready && !enabled && stops), &seen);
    raw.reset();
    domain.unmap(at, RINGS).ok()
}

/// 4.12: the protocol for pages that were left out.
fn over_budget(
    domain: &mut GuestDomain,
    device: u64,
    spare: &mut Spare,
    show: &mut Show,
) -> Option<()> {
    const MORE: u64 = 8;
    let [_, _, budget] = pkvm::iotable_info(device)?;
    let half = (budget & 0xffff_ffff) / 2;
    let first = spare.take(half as usize)? as u64;
    let second = spare.take((half + MORE) as usize)? as u64;
    let left_out = || ask(Deed::Count, VmCounter::PagesLeftOut as u64);
    let (before, global) = (left_out(), domain.counters.global);
    let a = domain.map(first, half, true).ok()?;
    let refused = domain.map(second, half + MORE, true);
    let count = left_out() - before;
    let seen = format!(
        "{} pages of {}: {refused:?}, after refreshing all {} time; {count} pages left out in 3 looks",
        2 * half + MORE,
        2 * half,
        domain.counters.global - global
    );
    let right = refused == Err(Error::NoMemory) && count == 3 * MORE;
    show.tell("budget", Outcome::refused(right), &seen);
    // As many are out of the table and not told: refreshing all makes room.
    domain.forget(a, MORE);
    let (before, global) = (left_out(), domain.counters.global);
    let b = domain.map(second, half + MORE, true);
    let seen = format!(
        "{MORE} left out, {} refresh of all, then {} left out",
        domain.counters.global - global,
        left_out() - before - MORE
    );
    let right = b.is_ok() && domain.counters.global - global == 1 && left_out() - before == MORE;
    show.tell("4.12", Outcome::shown(right), &seen);
    domain.release(a, MORE).ok()?;
    domain.unmap(a + MORE * BYTES, half - MORE).ok()?;
    domain.unmap(b.ok()?, half + MORE).ok()
}

/// A transfer is over and its page gets another owner, who is private: what
/// does the host read where the buffer was?
fn next_owner(mode: Mode, device: u64, spare: &mut Spare, show: &mut Show) -> Option<()> {
    const TIMES: usize = 16;
    const PAGES: usize = 48;
    let domain = domain(spare, device)?;
    let base = spare.take(PAGES)?;
    let arena = Arena { base: base as *mut u8, ipa: base as u64, pages: PAGES as u64 };
    // SAFETY: pages of `Spare`.
    let mut mappings = unsafe { Mappings::new(domain, mode, arena, 4) }?;
    let buffer = spare.take(2)? + 64;
    // SAFETY: as above; this and no other reference is made of them.
    let buffer = unsafe { core::slice::from_raw_parts_mut(buffer as *mut u8, PAGE) };
    let (mut leaked, mut aborted) = (0, 0);
    for _ in 0..TIMES {
        let buffer = core::ptr::NonNull::from(&mut *buffer);
        // SAFETY: nobody uses the buffer in between.
        let iova = unsafe {
            let iova = mappings.share(buffer, Direction::FromDevice)?;
            mappings.unshare(iova, buffer, Direction::FromDevice).then_some(iova)?
        };
        let owner = mappings.take_private()?;
        let at = owner.as_ptr() as u64;
        fill(at, 1, SECRET);
        let word = ask(Deed::Look, iova);
        leaked += usize::from(word == SECRET);
        aborted += usize::from(word == u64::MAX);
        store(at, 0);
        mappings.give_private(owner).then_some(())?;
    }
    let stale = mappings.used().stale;
    mappings.flush().then_some(())?;
    let seen = format!(
        "{leaked} of {TIMES} times the next owner's bytes, {aborted} aborts; at most {stale} pages unmapped and still seen"
    );
    let outcome = match mode {
        Mode::Naive => Outcome::shown(leaked == TIMES),
        Mode::Strict => Outcome::refused(leaked == 0 && aborted == TIMES && stale == 0),
        Mode::Lazy | Mode::Kept => Outcome::refused(leaked == 0),
    };
    show.tell("stale", outcome, &seen);
    iommu_hal::take_away(device).then_some(())
}

/// Requests of a page each, by an ordinary driver.
fn requests(
    machine: &Machine,
    bus: &mut Bus,
    disk: &Function,
    mode: Mode,
    spare: &mut Spare,
    show: &mut Show,
) -> Option<()> {
    let page = spare.take(1)?;
    // SAFETY: a page of `Spare`; this and no other reference is made of it.
    let buffer = unsafe { core::slice::from_raw_parts_mut(page as *mut u8, PAGE) };
    let opened = device::open(machine, bus, None, disk, 0).ok()?;
    let driver = VirtIOBlk::<IommuHal<0>, CheckedTransport>::new(opened.transport).ok()?;
    let mut driver = BlockDisk::new(driver);
    // Whatever is done once.
    let mut served = driver.read(0, buffer);
    let unmapped = || ask(Deed::Count, VmCounter::PagesUnmapped as u64);
    let (before, gone) = (hypercalls(), unmapped());
    for request in 0..REQUESTS {
        served &= driver.read(8 * request, buffer);
    }
    let (calls, gone) = (hypercalls() - before, unmapped() - gone);
    drop(driver);
    let report = iommu_hal::close(0)?;
    let flushes = report.counters.global;
    let right = match mode {
        // One of the two unmaps, which is one invalidation.
        Mode::Strict => {
            calls == 2 * REQUESTS && gone == REQUESTS && report.used.in_place > REQUESTS
        }
        Mode::Lazy | Mode::Naive => calls < REQUESTS + REQUESTS / 4,
        Mode::Kept => calls == 0 && gone == 0,
    };
    let seen = format!(
        "{REQUESTS} requests of 4 KiB: {calls} hypercalls, {gone} pages unmapped, all refreshed {flushes} times"
    );
    let row = match mode {
        Mode::Strict => "strict",
        Mode::Lazy | Mode::Naive => "4.9",
        Mode::Kept => "4.21",
    };
    show.tell(row, Outcome::shown(served && right && report.lost() == 0), &seen);
    Some(())
}
