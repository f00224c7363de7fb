//! The guest's driver as attacker (G3): whatever it writes into registers and
//! rings, the device reaches nothing but its window, and works again after a
//! reset.

use super::hostile::Attacks;
use super::pci::{Bus, Function};
use super::raw_device::*;
use super::virtio::{NO_VECTOR, register};
use super::{Machine, pci, secrets, yes};
use guest::contract::{ACCESS_PLATFORM, DMB, SWIOTLB};
use rt::println;
use virtio_drivers::transport::DeviceType;

/// Longest wait for a device that should do nothing, in milliseconds.
const QUIET: u64 = 30;
/// Longest wait for one that should do something.
const PATIENCE: u64 = 5000;

/// The scenario of that name: the attempts alone.
pub(super) fn play(machine: &Machine) -> bool {
    let mut attacks = Attacks::new();
    let Some((bus, functions)) = pci::enumerate(&machine.tree) else { return false };
    attack(&bus, &functions, &mut attacks) == Some(true)
}

/// Makes the attempts; true if all were refused and the device still works,
/// `None` if there is no disk that brings its memory.
pub(super) fn attack(bus: &Bus, functions: &[Function], attacks: &mut Attacks) -> Option<bool> {
    let disk = functions.iter().find(|function| function.kind == DeviceType::Block);
    let Some(device) = disk.and_then(|function| RawDevice::new(bus, function)) else {
        println!("guest: no disk that brings its memory, its attempts are left out");
        return None;
    };
    attacks.driver_row = if device.by_offset() { "G3.memory" } else { "G3.bounce" };
    let private = secrets::plant();
    negotiation(&device, attacks);
    queues(&device, private, attacks);
    kicks(&device, attacks);
    without_mastering(&device, attacks);
    for (id, what, chain, answer) in chains(&device, private) {
        one_chain(&device, attacks, (id, what), &chain, answer);
    }
    goes_on(&device, private, attacks);
    avail(&device, attacks);
    tables(&device, private, attacks);
    let served = works(&device, 0) == Outcome::Served(0);
    // A sector no disk has: the request fails, the device goes on.
    let beyond = works(&device, 1 << 60);
    note(attacks, "D11", "sector-overflow", matches!(beyond, Outcome::Served(1..)));
    let alive = works(&device, 0) == Outcome::Served(0);
    let intact = secrets::page_intact();
    device.reset();
    println!("@guest driver works-again={} private-intact={}", yes(served && alive), yes(intact));
    Some(attacks.all_refused && served && alive && intact)
}

/// Tells of one attempt: a row of G3 by its own number.
fn note(attacks: &mut Attacks, id: &str, what: &str, refused: bool) {
    attacks.note(attacks.driver_row, &alloc::format!("{id}-{what}"), refused);
}

/// A decent request on a fresh device.
fn works(device: &RawDevice, sector: u64) -> Outcome {
    if !device.bring_up() {
        return Outcome::Silent;
    }
    device.header(sector);
    device.describe(DESCRIPTORS, &device.good());
    device.offer(0, 1);
    device.outcome(PATIENCE)
}

/// VIRTIO_BLK_S_IOERR (virtio 1.4, 5.2.6): the answer to a request with a
/// buffer where the device may not go.
const IO_ERROR: Outcome = Outcome::Served(1);
/// The request came back, and its status is what it was: it could not be
/// reached.
const NO_STATUS: Outcome = Outcome::Served(UNWRITTEN);

/// D6: feature sets that the contract does not allow.
fn negotiation(device: &RawDevice, attacks: &mut Attacks) {
    device.reset();
    let decent = u128::from(device.decent());
    let sets = [
        ("accept-never-offered", decent | 1 << 50),
        ("accept-beyond-64", decent | 1 << 100),
        ("decline-bounce", decent & !u128::from(SWIOTLB | DMB)),
        ("decline-platform", decent & !u128::from(ACCESS_PLATFORM)),
        ("accept-nothing", 0),
    ];
    for (what, set) in sets {
        let kept = device.reset() && device.negotiate(set);
        note(attacks, "D6", what, !kept);
        device.driver_ok();
        let queue = device.set_decent_queue();
        device.header(0);
        device.describe(DESCRIPTORS, &device.good());
        device.offer(0, 1);
        let still = queue && matches!(device.outcome(QUIET), Outcome::Served(_));
        note(attacks, "D6", &alloc::format!("{what}-and-go-on"), !still);
    }
}

/// D5 and ring addresses; D9's vector.
fn queues(device: &RawDevice, private: u64, attacks: &mut Attacks) {
    let (descriptors, avail, used) = (device.at(DESCRIPTORS), device.at(AVAIL), device.at(USED));
    let end = device.window_end;
    let setups = [
        ("D5", "size-zero", 0, descriptors, avail, used),
        ("D5", "size-three", 3, descriptors, avail, used),
        ("D10", "table-in-private-memory", SIZE, private, avail, used),
        ("D10", "used-in-private-memory", SIZE, descriptors, avail, private),
        ("D10", "table-straddles-the-end", SIZE, end - 64, avail, used),
        ("D10", "used-behind-the-end", SIZE, descriptors, avail, end),
        ("D10", "table-wraps", SIZE, 0u64.wrapping_sub(64), avail, used),
        ("D10", "table-misaligned", SIZE, descriptors + 8, avail, used),
        ("D10", "table-at-zero", SIZE, 0, avail, used),
        ("D10", "available-at-zero", SIZE, descriptors, 0, used),
        ("D10", "used-at-zero", SIZE, descriptors, avail, 0),
        ("D10", "table-by-the-other-name", SIZE, device.misnamed(DESCRIPTORS), avail, used),
    ];
    for (id, what, size, descriptors, avail, used) in setups {
        device.reset();
        let negotiated = device.negotiate(device.decent().into());
        let enabled = device.set_queue(size, descriptors, avail, used);
        // A size the device does not take is as good as no queue.
        let taken = enabled && device.read16(register::QUEUE_SIZE) == size;
        note(attacks, id, what, negotiated && !taken);
    }
    device.bring_up();
    device.write16(register::QUEUE_SELECT, 0);
    device.write16(register::QUEUE_SIZE, SIZE / 2);
    note(attacks, "D5", "resize-enabled-queue", device.read16(register::QUEUE_SIZE) == SIZE);
    device.write16(register::QUEUE_MSIX_VECTOR, 0x700);
    note(
        attacks,
        "D9",
        "vector-out-of-range",
        device.read16(register::QUEUE_MSIX_VECTOR) == NO_VECTOR,
    );
}

/// D8: kicks at the wrong time.
fn kicks(device: &RawDevice, attacks: &mut Attacks) {
    device.reset();
    let ready = device.negotiate(device.decent().into()) && device.set_decent_queue();
    device.header(0);
    device.describe(DESCRIPTORS, &device.good());
    device.offer(0, 1);
    note(attacks, "D8", "kick-before-driver-ok", ready && device.outcome(QUIET) == Outcome::Silent);
    device.bring_up();
    device.reset();
    device.header(0);
    device.describe(DESCRIPTORS, &device.good());
    device.offer(0, 1);
    note(attacks, "D8", "kick-after-reset", device.outcome(QUIET) == Outcome::Silent);
}

/// D12: a device that its driver does not let access memory. The host is not
/// told of the kick; it is when the device may again, and then serves what
/// waits, without another one.
fn without_mastering(device: &RawDevice, attacks: &mut Attacks) {
    let ready = device.bring_up();
    device.set_master(false);
    device.header(0);
    device.describe(DESCRIPTORS, &device.good());
    device.offer(0, 1);
    let quiet = device.outcome(QUIET) == Outcome::Silent;
    device.set_master(true);
    let served = device.outcome(PATIENCE) == Outcome::Served(0);
    note(attacks, "D12", "kick-without-bus-master", ready && quiet && served);
}

type Chain = (&'static str, &'static str, alloc::vec::Vec<Descriptor>, Outcome);

/// D1, D3, D4, D10: chains of descriptors in the queue's own table, and what
/// must become of each. What makes no sense as a ring stops the device; what
/// only names a wrong place comes back with an error.
fn chains(device: &RawDevice, private: u64) -> alloc::vec::Vec<Chain> {
    let good = device.good();
    let [header, data, status] = good;
    let with_data = |address, length| [header, (address, length, NEXT | WRITE, 2), status].to_vec();
    let table = |at, length| [(at, length, INDIRECT, 0)].to_vec();
    let ours = device.at(TABLE);
    let stop = Outcome::Stopped;
    [
        ("D1", "loop", [header, (data.0, 512, NEXT | WRITE, 0)].to_vec(), stop),
        ("D1", "self-loop", [(header.0, 16, NEXT, 0)].to_vec(), stop),
        ("D1", "indirect-with-next", [(ours, 48, INDIRECT | NEXT, 1), status].to_vec(), stop),
        ("D2", "next-out-of-range", [(header.0, 16, NEXT, 100)].to_vec(), stop),
        ("D3", "zero-length", with_data(data.0, 0), IO_ERROR),
        ("D3", "wrapping-buffer", with_data(0u64.wrapping_sub(256), 512), IO_ERROR),
        ("D3", "sum-over-32-bits", with_data(data.0, u32::MAX), IO_ERROR),
        ("D4", "indirect-empty", table(ours, 0), stop),
        ("D4", "indirect-not-whole", table(ours, 24), stop),
        ("D4", "indirect-huge", table(ours, 0xffff_fff0), stop),
        ("D10", "table-in-private-memory", table(private, 48), NO_STATUS),
        ("D10", "data-in-private-memory", with_data(private, 512), IO_ERROR),
        (
            "D10",
            "header-in-private-memory",
            [(private, 16, NEXT, 1), data, status].to_vec(),
            IO_ERROR,
        ),
        (
            "D10",
            "status-in-private-memory",
            [header, data, (private, 1, WRITE, 0)].to_vec(),
            NO_STATUS,
        ),
        ("D10", "data-straddles-the-end", with_data(device.window_end - 256, 512), IO_ERROR),
        ("D10", "data-in-its-own-ring", with_data(device.at(USED), 512), IO_ERROR),
        ("D10", "data-at-zero", with_data(0, 512), IO_ERROR),
        ("D10", "data-by-the-other-name", with_data(device.misnamed(DATA), 512), IO_ERROR),
        ("D10", "status-at-zero", [header, data, (0, 1, WRITE, 0)].to_vec(), NO_STATUS),
        ("D10", "table-straddles-the-end", table(device.window_end - 16, 48), NO_STATUS),
        ("D10", "table-at-zero", table(0, 48), NO_STATUS),
        (
            "D10",
            "writable-before-readable",
            [(data.0, 512, NEXT | WRITE, 1), (header.0, 16, NEXT, 2), status].to_vec(),
            stop,
        ),
    ]
    .into()
}

fn one_chain(
    device: &RawDevice,
    attacks: &mut Attacks,
    (id, what): (&str, &str),
    chain: &[Descriptor],
    answer: Outcome,
) {
    let ready = device.bring_up();
    device.header(0);
    device.describe(TABLE, &device.good());
    device.describe(DESCRIPTORS, chain);
    device.offer(0, 1);
    let outcome = device.outcome(PATIENCE);
    note(attacks, id, what, ready && outcome == answer);
    if outcome != answer {
        println!("guest: {what}: {outcome:?}, and it should be {answer:?}");
    }
}

/// A request that cannot be served holds up none that can: no reset between.
fn goes_on(device: &RawDevice, private: u64, attacks: &mut Attacks) {
    let [header, data, status] = device.good();
    let ready = device.bring_up();
    device.header(0);
    device.describe(DESCRIPTORS, &[header, (private, 512, NEXT | WRITE, 2), status]);
    device.offer(0, 1);
    let bad = device.outcome_of(1, PATIENCE);
    device.header(0);
    device.describe(DESCRIPTORS, &[header, data, status]);
    device.offer(0, 1);
    let good = device.outcome_of(2, PATIENCE);
    let served = bad == IO_ERROR && good == Outcome::Served(0);
    note(attacks, "D10", "wrong-place-then-a-good-request", ready && served);
}

/// D2: the available ring itself.
fn avail(device: &RawDevice, attacks: &mut Attacks) {
    for (what, head, step) in
        [("head-out-of-range", SIZE, 1), ("index-jumps", 0, SIZE + 1), ("index-backwards", 0, !0)]
    {
        let ready = device.bring_up();
        device.header(0);
        device.describe(DESCRIPTORS, &device.good());
        device.offer(head, step);
        note(attacks, "D2", what, ready && device.outcome(PATIENCE) == Outcome::Stopped);
    }
}

/// D1, D4, D10: what stands in an indirect table.
fn tables(device: &RawDevice, private: u64, attacks: &mut Attacks) {
    let [header, data, status] = device.good();
    let cases = [
        ("D1", "nested-indirect", (device.at(TABLE), 48, INDIRECT, 0), Outcome::Stopped),
        ("D1", "loop-in-table", (data.0, 512, NEXT | WRITE, 0), Outcome::Stopped),
        ("D2", "next-outside-table", (data.0, 512, NEXT | WRITE, 9), Outcome::Stopped),
        ("D10", "table-names-private-memory", (private, 512, NEXT | WRITE, 2), IO_ERROR),
    ];
    for (id, what, middle, answer) in cases {
        let ready = device.bring_up();
        device.header(0);
        device.describe(TABLE, &[header, middle, status]);
        device.describe(DESCRIPTORS, &[(device.at(TABLE), 48, INDIRECT, 0)]);
        device.offer(0, 1);
        note(attacks, id, what, ready && device.outcome(PATIENCE) == answer);
    }
}
