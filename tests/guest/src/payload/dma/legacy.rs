//! A device that lacks ACCESS_PLATFORM, and four guests that meet it: one that
//! follows the rule proposed for POWER's secure guests, one that goes by the
//! bit, one that has nothing to hide, and a realm, for which the rule does not
//! work.

#![allow(unsafe_code)]

use alloc::format;
use alloc::vec;
use core::hint::black_box;

use guest::contract::{ACCESS_PLATFORM, Dma, Platform, Refusal};
use guest::files::{Disk, SECTOR};
use guest::lending::PAGE;
use hyp::abi::guest::{self as id, extension};
use hyp::stats::VmCounter;
use virtio_drivers::device::blk::{BlkReq, BlkResp, VirtIOBlk};
use virtio_drivers::transport::DeviceType;
use virtio_drivers::{BufferDirection, Hal};

use super::bell::{Deed, WRITTEN, ask};
use super::pages::{self, Pages};
use super::{Outcome, Show};
use crate::payload::checked_transport::CheckedTransport;
use crate::payload::device::{self, Opened};
use crate::payload::direct_hal::DirectHal;
use crate::payload::disk::BlockDisk;
use crate::payload::pci::{self, Bus, Function};
use crate::payload::raw_device::{NEEDS_RESET, RawDevice};
use crate::payload::share_hal::{self, ShareHal};
use crate::payload::virtio::register;
use crate::payload::{Machine, interrupts, pkvm, realm, secrets};

/// Number of the disk among the devices.
const DISK: usize = 0;
/// Requests made.
const REQUESTS: u64 = 64;
/// Most milliseconds for what a device must do.
const PATIENCE: u64 = 20_000;
/// A guest that has given its memory away.
pub(super) const OPEN: Platform = Platform { secure: false, dma_is_physical: true };

/// Shows them; `None` if there is no such disk, or nobody knows this guest.
pub(super) fn show(machine: &Machine, show: &mut Show) -> Option<()> {
    let (mut bus, functions) = pci::enumerate(&machine.tree)?;
    let disk = functions.iter().find(|function| function.kind == DeviceType::Block)?;
    match machine.argument("guest")? {
        "secure" => {
            offered(machine, &bus, disk, show)?;
            secure(machine, &mut bus, disk, show)?;
            zeroes(machine, show)
        }
        "naive" => naive(machine, &mut bus, disk, show),
        "normal" => normal(machine, &mut bus, disk, show),
        "realm" => alias(machine, &mut bus, disk, show),
        _ => None,
    }
}

/// 2.4 and 2.6: the device does not have the bit, and cannot be given it.
fn offered(machine: &Machine, bus: &Bus, disk: &Function, show: &mut Show) -> Option<()> {
    let window = Pages::new(machine).take(8, 0)?;
    // SAFETY: pages set aside for it.
    let raw = unsafe { RawDevice::in_pages(bus, disk, (window, window), 8 * PAGE as u64) }?;
    raw.reset();
    let offered = raw.offered();
    let lacks = offered & ACCESS_PLATFORM == 0;
    show.tell("2.4", Outcome::shown(lacks), &format!("it offers {offered:#x}, without bit 33"));
    let kept = raw.reset() && raw.negotiate((raw.decent() | ACCESS_PLATFORM).into());
    let without = raw.reset() && raw.negotiate(raw.decent().into());
    let seen = format!("FEATURES_OK with it {}, without it {}", u8::from(kept), u8::from(without));
    show.tell("2.6", Outcome::refused(!kept && without), &seen);
    raw.reset();
    Some(())
}

fn block<H: Hal>(opened: Opened) -> Option<BlockDisk<H>> {
    let Opened { transport, verdict, .. } = opened;
    let driver = VirtIOBlk::<H, CheckedTransport>::new(transport).ok()?;
    verdict.get().is_none().then(|| BlockDisk::new(driver))
}

/// Reads sectors, and writes and reads back the last one, which is then as it
/// was. True if all was served and the data are the data.
fn uses(disk: &mut impl Disk) -> bool {
    let last = disk.sectors().saturating_sub(1);
    let mut was = vec![0; SECTOR];
    let mut now = vec![0; SECTOR];
    let reads = (0..REQUESTS).all(|sector| disk.read(sector, &mut now));
    let text: alloc::vec::Vec<u8> = (0..SECTOR).map(|at| at as u8 ^ 0x35).collect();
    let kept = disk.read(last, &mut was) && disk.write(last, &text) && disk.read(last, &mut now);
    let back = disk.write(last, &was);
    reads && kept && back && now == text
}

/// 2.7 and 2.8d: all three conditions hold, so all data go through the pool.
fn secure(machine: &Machine, bus: &mut Bus, disk: &Function, show: &mut Show) -> Option<()> {
    let opened = device::open(machine, bus, None, disk, DISK).ok()?;
    let forced = opened.contract.dma == Dma::ForcedBounce;
    let faults = ask(Deed::Faults, 0);
    let shared = ask(Deed::Count, VmCounter::PagesShared as u64);
    let calls = ask(Deed::Count, VmCounter::Hypercalls as u64);
    let mut disk = block::<ShareHal<DISK>>(opened)?;
    let served = uses(&mut disk);
    let calls = ask(Deed::Count, VmCounter::Hypercalls as u64) - calls;

    let buffer = vec![0x35; SECTOR];
    let bytes = core::ptr::NonNull::from(buffer.as_slice());
    // SAFETY: a buffer that lives until it is unshared.
    let told = unsafe { ShareHal::<DISK>::share(bytes, BufferDirection::DriverToDevice) };
    let there = ask(Deed::Word, told) == 0x3535_3535_3535_3535;
    let hidden = ask(Deed::Read, buffer.as_ptr() as u64 & !7) == 1;
    // SAFETY: the same buffer.
    unsafe { ShareHal::<DISK>::unshare(told, bytes, BufferDirection::DriverToDevice) };
    let seen = format!("told {told:#x}, where the host finds the data; the buffer is an abort");
    show.tell("2.7", Outcome::shown(forced && there && hidden), &seen);

    drop(disk);
    let faults = ask(Deed::Faults, 0) - faults;
    let report = share_hal::close(DISK)?;
    let good = forced && served && calls == 0 && faults == 0 && report.leaked == 0;
    let seen = format!(
        "{} bytes in and {} out through {shared} shared pages, {calls} hypercalls, aborts: {faults}",
        report.counters.bytes_in, report.counters.bytes_out
    );
    show.tell("2.8d", Outcome::shown(good && report.counters.bytes_out > 0), &seen);
    Some(())
}

/// 2.11: a page that changes sides is zeros, both ways.
fn zeroes(machine: &Machine, show: &mut Show) -> Option<()> {
    const SECRET: u64 = 0x5ec2_e75e_c2e7;
    let told = rt::smccc::hvc(id::EXTENSIONS.into(), [0; 7]);
    let says = told[0] == 0 && told[1] & extension::SHARE_ZEROES != 0;
    let page = Pages::new(machine).take(1, SECRET)?;
    let shared = pkvm::mem_share(page, 1) == (0, 1);
    let word = ask(Deed::Word, page);
    let clean = shared && word == 0 && pages::is_full_of(page, 1, 0);
    show.tell("2.11a", Outcome::refused(says && clean), &format!("the host reads {word:#x}"));
    let wrote = ask(Deed::Write, page) == 0 && ask(Deed::Word, page) == WRITTEN;
    let back = pages::unshare(page) && pages::is_full_of(page, 1, 0);
    let seen = if back { "the page comes back as zeros" } else { "the page is NOT zeros" };
    show.tell("2.11b", Outcome::refused(wrote && back), seen);
    Some(())
}

/// 0.8: a driver that goes by the bit gives the device private addresses, of
/// its rings and of the page it wants to write to the disk.
fn naive(machine: &Machine, bus: &mut Bus, disk: &Function, show: &mut Show) -> Option<()> {
    let private = secrets::plant();
    let common = disk.capabilities.common.and_then(|region| disk.address(region))?;
    let opened = device::open_on(OPEN, machine, bus, None, disk, DISK).ok()?;
    let direct = opened.contract.dma == Dma::Direct;
    let before = ask(Deed::Faults, 0);
    let mut driver = VirtIOBlk::<DirectHal, CheckedTransport>::new(opened.transport).ok()?;
    let (mut request, mut response) = (BlkReq::default(), BlkResp::default());
    // SAFETY: the page that `plant` filled; nobody changes it.
    let secret = unsafe { core::slice::from_raw_parts(private as *const u8, SECTOR) };
    // SAFETY: all three live until the driver, and with it the device's claim
    // to them, is gone.
    let submitted = unsafe { driver.write_blocks_nb(0, &mut request, secret, &mut response) };
    // SAFETY: the status register, which the capability says is there.
    let status = || unsafe { rt::mmio::read8(common as usize + register::STATUS) };
    let stopped = interrupts::wait(PATIENCE, || status() & NEEDS_RESET != 0);
    let used = driver.peek_used();
    drop(driver);
    black_box((&request, &response));
    let faults = ask(Deed::Faults, 0) - before;
    let unread = ask(Deed::Read, private) == 1 && secrets::page_intact();
    let refused = direct && submitted.is_ok() && stopped && used.is_none() && faults > 0 && unread;
    let seen = format!("NEEDS_RESET, aborts: {faults}, the secret at {private:#x} unread");
    show.tell("0.8", Outcome::refused(refused), &seen);
    Some(())
}

/// 2.9: a guest that has shared all its memory, itself included, and lets the
/// device use its buffers where they are. 2.11: all of it comes back.
fn normal(machine: &Machine, bus: &mut Bus, disk: &Function, show: &mut Show) -> Option<()> {
    let (start, pages) = (machine.ram.start as u64, pages::share_all(machine)?);
    let opened = device::open_on(OPEN, machine, bus, None, disk, DISK).ok()?;
    let direct = opened.contract.dma == Dma::Direct;
    let faults = ask(Deed::Faults, 0);
    let calls = ask(Deed::Count, VmCounter::Hypercalls as u64);
    let mut disk = block::<DirectHal>(opened)?;
    let served = uses(&mut disk);
    let calls = ask(Deed::Count, VmCounter::Hypercalls as u64) - calls;
    drop(disk);
    let faults = ask(Deed::Faults, 0) - faults;
    let buffer = vec![0x35_u8; SECTOR];
    let seen_by_host = ask(Deed::Word, black_box(buffer.as_ptr()) as u64 & !7);
    let good = direct && served && calls == 0 && faults == 0;
    let direct = good && seen_by_host == 0x3535_3535_3535_3535;
    let seen =
        format!("{pages} pages shared, {REQUESTS} reads, no byte copied, {calls} hypercalls");
    show.tell("2.9", Outcome::shown(direct), &seen);

    let (mut at, mut back, mut calls) = (start, 0, 0);
    loop {
        let told = rt::smccc::hvc(id::MEM_UNSHARE_ALL.into(), [at, 0, 0, 0, 0, 0, 0]);
        calls += 1;
        back += told[1];
        at = told[2];
        if told[0] != 0 || told[3] != 0 || at == 0 {
            break;
        }
    }
    let hidden = ask(Deed::Read, buffer.as_ptr() as u64 & !7) == 1;
    let all = back == pages && at == 0 && hidden;
    let seen = format!("{back} of {pages} pages came back in {calls} calls");
    show.tell("2.11c", Outcome::shown(all), &seen);
    Some(())
}

/// 2.8b: what a realm shares is at an alias, which is no physical address. The
/// device would take the one for the other, so the realm goes without it.
fn alias(machine: &Machine, bus: &mut Bus, disk: &Function, show: &mut Show) -> Option<()> {
    let page = Pages::new(machine).take(1, 0)?;
    let (code, shared) = realm::share(page);
    let (back, _) = realm::unshare(page);
    let refusal = device::open(machine, bus, None, disk, DISK).err();
    let moved = code == 0 && back == 0 && shared == page + (1 << 38);
    let refused = moved && refusal == Some(Refusal::NotPhysical);
    let seen = format!("page {page:#x} is at {shared:#x} when shared: {refusal:?}");
    show.tell("2.8b", Outcome::refused(refused), &seen);
    Some(())
}
