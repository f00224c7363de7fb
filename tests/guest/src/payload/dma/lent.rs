//! A driver's pages, shared once in a pool or for each buffer: what one request
//! needs, and what a page goes through.

#![allow(unsafe_code)]

use alloc::format;

use guest::contract::ACCESS_PLATFORM;
use guest::lending::PAGE;
use hyp::stats::VmCounter;
use virtio_drivers::device::blk::VirtIOBlk;
use virtio_drivers::transport::DeviceType;
use virtio_drivers::{BufferDirection, Hal};

use super::bell::{Deed, ask};
use super::pages::Pages;
use super::{Outcome, Show, still};
use crate::payload::checked_transport::CheckedTransport;
use crate::payload::disk::BlockDisk;
use crate::payload::pci::{self, Bus, Function};
use crate::payload::raw_device::RawDevice;
use crate::payload::share_hal::{self, ShareHal};
use crate::payload::{Machine, device, pkvm};
use guest::files::Disk;

/// Pages that the raw device lies in.
const WINDOW: usize = 8;
/// Requests made.
const REQUESTS: u64 = 64;

/// Shows them; `None` if there is no such disk.
pub(super) fn show(machine: &Machine, show: &mut Show) -> Option<()> {
    let (mut bus, functions) = pci::enumerate(&machine.tree)?;
    let disk = functions.iter().find(|function| function.kind == DeviceType::Block)?;
    a_page(Pages::new(machine).take(1, 0x7365_6372_6574)?, show);
    declined(&bus, disk, Pages::new(machine).take_shared(WINDOW, 0)?, show)?;
    transfers(machine, &mut bus, disk, show)
}

/// A page, before it is shared, while it is, and after.
fn a_page(page: u64, show: &mut Show) {
    let aborted = || ask(Deed::Read, page) == 1;
    let before = aborted();
    show.tell("0.4", Outcome::refused(before), "an abort before MEM_SHARE");
    let shared = pkvm::mem_share(page, 1) == (0, 1);
    show.tell("0.5a", Outcome::shown(shared && !aborted()), "the host reads it after MEM_SHARE");
    let back = pkvm::mem_unshare(page, 1) == (0, 1);
    show.tell("2.1", Outcome::refused(back && aborted()), "an abort after MEM_UNSHARE");
    let twice = pkvm::mem_unshare(page, 1).0;
    let seen = format!("MEM_UNSHARE of a private page returns {twice}");
    show.tell("0.5a-twice", Outcome::refused(twice != 0), &seen);
}

/// A driver that declines ACCESS_PLATFORM; its rings would be in these pages.
fn declined(bus: &Bus, disk: &Function, window: u64, show: &mut Show) -> Option<()> {
    // SAFETY: pages set aside for it just now.
    let raw = unsafe { RawDevice::in_pages(bus, disk, (window, window), (WINDOW * PAGE) as u64) }?;
    let kept = raw.reset() && raw.negotiate((raw.decent() & !ACCESS_PLATFORM).into());
    let seen = format!("without ACCESS_PLATFORM FEATURES_OK reads {}", u8::from(kept));
    show.tell("0.19", Outcome::refused(!kept), &seen);
    raw.reset();
    Some(())
}

/// A driver that keeps to the rules.
fn transfers(machine: &Machine, bus: &mut Bus, function: &Function, show: &mut Show) -> Option<()> {
    let opened = device::open(machine, bus, None, function, 0).ok()?;
    still::<ShareHal<0>>(show, |address| {
        ask(Deed::Write, address);
    });
    let mut buffer = *b"what the driver wants to send...";
    let pointer = core::ptr::NonNull::from(&mut buffer[..]);
    // SAFETY: the buffer outlives the transfer and nothing else uses it.
    let address = unsafe { ShareHal::<0>::share(pointer, BufferDirection::DriverToDevice) };
    // SAFETY: RAM is mapped where its guest physical address is.
    let there = unsafe { *(address as *const [u8; 32]) } == buffer;
    let elsewhere = address != buffer.as_ptr() as u64;
    let readable = ask(Deed::Read, address) == 0;
    // SAFETY: the same buffer.
    unsafe { ShareHal::<0>::unshare(address, pointer, BufferDirection::DriverToDevice) };
    let seen = format!("{address:#x}, where the host reads the copy; the buffer is elsewhere");
    show.tell("0.14", Outcome::shown(there && elsewhere && readable), &seen);

    let driver = VirtIOBlk::<ShareHal<0>, CheckedTransport>::new(opened.transport).ok()?;
    let mut disk = BlockDisk::new(driver);
    let before = ask(Deed::Count, VmCounter::Hypercalls as u64);
    let mut sector = [0; 512];
    let served = (0..REQUESTS).all(|number| disk.read(number, &mut sector));
    let calls = ask(Deed::Count, VmCounter::Hypercalls as u64) - before;
    drop(disk);
    let report = share_hal::close(0)?;
    let each = machine.argument("dma") == Some("shared-each");
    // Four buffers: header, data, status, indirect table.
    let expected = if each { REQUESTS * 4 * 2 } else { 0 };
    let seen = format!("{REQUESTS} requests, {calls} hypercalls, {} pages lost", report.leaked);
    let held = served && calls == expected && report.leaked == 0;
    show.tell("0.10", Outcome::shown(held), &seen);
    Some(())
}
