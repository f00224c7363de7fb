//! Devices that bring the memory they use: bounce-bar and device-memory.

use alloc::format;

use hyp::stats::VmCounter;
use virtio_drivers::transport::DeviceType;

use super::bell::{Deed, ask};
use super::{Outcome, Show, still};
use crate::payload::bounce_hal::BounceHal;
use crate::payload::raw_device::{self, RawDevice, SIZE};
use crate::payload::{Machine, device, pci, secrets};
use guest::contract::{ACCESS_PLATFORM, DMB, SWIOTLB};

/// Shows them; `None` if there is no such disk.
pub(super) fn show(machine: &Machine, show: &mut Show) -> Option<()> {
    let (mut bus, functions) = pci::enumerate(&machine.tree)?;
    let disk = functions.iter().find(|function| function.kind == DeviceType::Block)?;
    let device = RawDevice::new(&bus, disk)?;
    requests(&device, show);
    declined(&device, show);
    outside(&device, show);
    let first = device.at(0);
    device::open(machine, &mut bus, None, disk, 0).ok()?;
    still::<BounceHal<0>>(show, |address| {
        ask(Deed::WriteBrought, address - first);
    });
    Some(())
}

/// Most milliseconds for a request.
const PATIENCE: u64 = 5000;
/// Requests made.
const REQUESTS: u16 = 64;

/// Once it is set up, the driver needs nobody's help.
fn requests(device: &RawDevice, show: &mut Show) {
    let ready = device.bring_up();
    let before = ask(Deed::Count, VmCounter::Hypercalls as u64);
    let served = (1..=REQUESTS).all(|count| {
        device.header(0);
        device.describe(raw_device::DESCRIPTORS, &device.good());
        device.offer(0, 1);
        device.outcome_of(count, PATIENCE) == raw_device::Outcome::Served(0)
    });
    let calls = ask(Deed::Count, VmCounter::Hypercalls as u64) - before;
    let seen = format!("{REQUESTS} requests, {calls} hypercalls");
    show.tell("3.5", Outcome::shown(ready && served && calls == 0), &seen);
}

/// A driver that declines what keeps the device inside its memory.
fn declined(device: &RawDevice, show: &mut Show) {
    let decent = device.decent();
    for (row, bits, name) in
        [("3.10", SWIOTLB | DMB, "memory"), ("1.2", ACCESS_PLATFORM, "ACCESS_PLATFORM")]
    {
        let kept = device.reset() && device.negotiate((decent & !bits).into());
        let seen = format!("without the {name} bit FEATURES_OK reads {}", u8::from(kept));
        show.tell(row, Outcome::refused(!kept), &seen);
    }
}

/// Rings and buffers in private memory: no mixing of the two.
fn outside(device: &RawDevice, show: &mut Show) {
    let private = secrets::plant();
    let aborted = ask(Deed::Read, private) == 1;
    let seen = if aborted { "an abort" } else { "the host has read it" };
    show.tell("0.4", Outcome::refused(aborted), seen);

    device.reset();
    let ready = device.negotiate(device.decent().into());
    let enabled =
        device.set_queue(SIZE, private, device.at(raw_device::AVAIL), device.at(raw_device::USED));
    let stops = device.status() & raw_device::NEEDS_RESET != 0;
    let seen = format!("queue_enable reads {}, NEEDS_RESET {}", u8::from(enabled), u8::from(stops));
    show.tell("3.13", Outcome::refused(ready && !enabled && stops), &seen);

    let ready = device.bring_up();
    let [header, _, status] = device.good();
    let data = (private, 512, raw_device::NEXT | raw_device::WRITE, 2);
    device.header(0);
    device.describe(raw_device::DESCRIPTORS, &[header, data, status]);
    let before = ask(Deed::Faults, 0);
    device.offer(0, 1);
    let outcome = device.outcome(PATIENCE);
    let faults = ask(Deed::Faults, 0) - before;
    let intact = secrets::page_intact();
    let refused = ready && intact && outcome == raw_device::Outcome::Served(1);
    let seen = format!(
        "{outcome:?} (1 is an I/O error), {faults} aborts of the backend, page unchanged: {intact}"
    );
    show.tell("3.8", Outcome::refused(refused), &seen);
    device.reset();
}
