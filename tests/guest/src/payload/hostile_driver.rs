//! The guest's driver as attacker (G3): whatever it writes into registers and
//! rings, the device reaches nothing but its window, and works again after a
//! reset.

use super::hostile::Attacks;
use super::pci::{Bus, Function};
use super::raw_device::*;
use super::{Machine, pci, secrets, yes};
use guest::contract::SWIOTLB;
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
/// `None` if there is no disk with a bounce window.
pub(super) fn attack(bus: &Bus, functions: &[Function], attacks: &mut Attacks) -> Option<bool> {
    let disk = functions.iter().find(|function| function.kind == DeviceType::Block);
    let Some(device) = disk.and_then(|function| RawDevice::new(bus, function)) else {
        println!("guest: no disk with a bounce window, its attempts are left out");
        return None;
    };
    let private = secrets::plant();
    negotiation(&device, attacks);
    queues(&device, private, attacks);
    kicks(&device, attacks);
    for (id, what, chain) in chains(&device, private) {
        one_chain(&device, attacks, id, what, &chain);
    }
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
    attacks.note("G3", &alloc::format!("{id}-{what}"), refused);
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

/// Was it refused: did the device stop, or at least not serve it?
fn refused(outcome: Outcome) -> bool {
    !matches!(outcome, Outcome::Served(0))
}

/// D6: feature sets that the contract does not allow.
fn negotiation(device: &RawDevice, attacks: &mut Attacks) {
    device.reset();
    let decent = u128::from(device.decent());
    let sets = [
        ("accept-never-offered", decent | 1 << 50),
        ("accept-beyond-64", decent | 1 << 100),
        ("decline-bounce", decent & !u128::from(SWIOTLB)),
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
    ];
    for (id, what, size, descriptors, avail, used) in setups {
        device.reset();
        let negotiated = device.negotiate(device.decent().into());
        let enabled = device.set_queue(size, descriptors, avail, used);
        // A size the device does not take is as good as no queue.
        let taken = enabled && device.read16(0x18) == size;
        note(attacks, id, what, negotiated && !taken);
    }
    device.bring_up();
    device.write16(0x16, 0);
    device.write16(0x18, SIZE / 2);
    note(attacks, "D5", "resize-enabled-queue", device.read16(0x18) == SIZE);
    device.write16(0x1a, 0x700);
    note(attacks, "D9", "vector-out-of-range", device.read16(0x1a) == 0xffff);
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

type Chain = (&'static str, &'static str, alloc::vec::Vec<Descriptor>);

/// D1, D3, D4, D10: chains of descriptors in the queue's own table.
fn chains(device: &RawDevice, private: u64) -> alloc::vec::Vec<Chain> {
    let good = device.good();
    let [header, data, status] = good;
    let with_data = |address, length| [header, (address, length, NEXT | WRITE, 2), status].to_vec();
    let table = |length| [(device.at(TABLE), length, INDIRECT, 0)].to_vec();
    [
        ("D1", "loop", [header, (data.0, 512, NEXT | WRITE, 0)].to_vec()),
        ("D1", "self-loop", [(header.0, 16, NEXT, 0)].to_vec()),
        ("D1", "indirect-with-next", [(device.at(TABLE), 48, INDIRECT | NEXT, 1), status].to_vec()),
        ("D2", "next-out-of-range", [(header.0, 16, NEXT, 100)].to_vec()),
        ("D3", "zero-length", with_data(data.0, 0)),
        ("D3", "wrapping-buffer", with_data(0u64.wrapping_sub(256), 512)),
        ("D3", "sum-over-32-bits", with_data(data.0, u32::MAX)),
        ("D4", "indirect-empty", table(0)),
        ("D4", "indirect-not-whole", table(24)),
        ("D4", "indirect-huge", table(0xffff_fff0)),
        ("D10", "data-in-private-memory", with_data(private, 512)),
        ("D10", "header-in-private-memory", [(private, 16, NEXT, 1), data, status].to_vec()),
        ("D10", "status-in-private-memory", [header, data, (private, 1, WRITE, 0)].to_vec()),
        ("D10", "data-straddles-the-end", with_data(device.window_end - 256, 512)),
        ("D10", "data-in-its-own-ring", with_data(device.at(USED), 512)),
        (
            "D10",
            "writable-before-readable",
            [(data.0, 512, NEXT | WRITE, 1), (header.0, 16, NEXT, 2), status].to_vec(),
        ),
    ]
    .into()
}

fn one_chain(
    device: &RawDevice,
    attacks: &mut Attacks,
    id: &str,
    what: &str,
    chain: &[Descriptor],
) {
    let ready = device.bring_up();
    device.header(0);
    device.describe(TABLE, &device.good());
    device.describe(DESCRIPTORS, chain);
    device.offer(0, 1);
    let outcome = device.outcome(PATIENCE);
    note(attacks, id, what, ready && refused(outcome));
    if outcome == Outcome::Silent {
        println!("guest: {what}: the device says nothing");
    }
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
        note(attacks, "D2", what, ready && refused(device.outcome(PATIENCE)));
    }
}

/// D1, D4, D10: what stands in an indirect table.
fn tables(device: &RawDevice, private: u64, attacks: &mut Attacks) {
    let [header, data, status] = device.good();
    let cases = [
        ("D1", "nested-indirect", [header, (device.at(TABLE), 48, INDIRECT, 0), status]),
        ("D1", "loop-in-table", [header, (data.0, 512, NEXT | WRITE, 0), status]),
        ("D2", "next-outside-table", [header, (data.0, 512, NEXT | WRITE, 9), status]),
        ("D10", "table-names-private-memory", [header, (private, 512, NEXT | WRITE, 2), status]),
    ];
    for (id, what, table) in cases {
        let ready = device.bring_up();
        device.header(0);
        device.describe(TABLE, &table);
        device.describe(DESCRIPTORS, &[(device.at(TABLE), 48, INDIRECT, 0)]);
        device.offer(0, 1);
        note(attacks, id, what, ready && refused(device.outcome(PATIENCE)));
    }
}
