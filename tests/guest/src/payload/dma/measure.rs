//! The measured load: requests of every size, one and sixteen at a time.
//!
//! A case is 64 requests, half of them writes, after 16 that are not counted;
//! case 0 is none at all, and what it costs is what asking costs. Then what the
//! host can see: its pages after each step of 64 requests of 4 KiB, sixteen at
//! a time, and marks of the guest's in them.

#![allow(unsafe_code)]

use rt::println;
use virtio_drivers::Hal;
use virtio_drivers::device::blk::VirtIOBlk;
use virtio_drivers::transport::DeviceType;

use guest::contract::Dma;
use guest::slots::Counters;

use super::super::bounce_hal::{self, BounceHal};
use super::super::checked_transport::CheckedTransport;
use super::super::device::{self, Opened};
use super::super::direct_hal::DirectHal;
use super::super::iommu_hal::{self, IommuHal};
use super::super::pci::{self, Msi};
use super::super::share_hal::{self, ShareHal};
use super::super::{Machine, raw_device};
use super::bell::{Deed, ask};
use super::legacy;
use super::load::{BYTES, DEPTH, Load, MOST, When};
use super::pages;

/// Bytes of a request.
const SIZES: [usize; 5] = [512, 4 << 10, 16 << 10, 64 << 10, 256 << 10];
/// Requests at a time.
const DEPTHS: [usize; 2] = [1, DEPTH];
/// Batches of the largest requests before anything is measured.
const WARM: usize = 3;
/// Requests of a case.
const REQUESTS: usize = 64;

/// What fills the buffers before a request that reads into them: what is left
/// of somebody's data. And what fills the memory around them.
const STALE: u8 = 0xa7;
const NEIGHBOUR: u8 = 0xb3;
/// What a write writes.
const DATA: u8 = 0x11;

/// Makes requests of every size and depth; true if all were served.
pub(super) fn all(machine: &Machine, mode: &str) -> bool {
    let Some((mut bus, functions)) = pci::enumerate(&machine.tree) else { return false };
    let mut msi = Msi::new(&machine.tree);
    let disk = functions.iter().find(|function| function.kind == DeviceType::Block);
    let Some(function) = disk else { return false };
    let Some(kick) = raw_device::kick_register(&bus, function) else { return false };
    let opened = if mode == "unprotected" {
        if pages::share_all(machine).is_none() {
            return false;
        }
        device::open_on(legacy::OPEN, machine, &mut bus, msi.as_mut(), function, 0)
    } else {
        device::open(machine, &mut bus, msi.as_mut(), function, 0)
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(refusal) => {
            println!("guest: `{mode}`: I go without the disk: {refusal:?}");
            return false;
        }
    };
    let start = machine.spare.start;
    if start + BYTES > machine.spare.end {
        return false;
    }
    // SAFETY: spare RAM at its near end, which nothing else uses; the devices'
    // pages are at its far end.
    let memory = unsafe { core::slice::from_raw_parts_mut(start as *mut u8, BYTES) };
    let mapped = machine.argument("map").is_some();
    match opened.contract.dma {
        Dma::Bounce(_) | Dma::Memory(_) => {
            run::<BounceHal<0>>(opened, kick, memory, || bounce_hal::counters(0).0, mapped)
        }
        Dma::Table => run::<IommuHal<0>>(opened, kick, memory, || iommu_hal::copied(0), mapped),
        Dma::Direct => run::<DirectHal>(opened, kick, memory, Counters::default, mapped),
        Dma::SharedPages | Dma::ForcedBounce => {
            run::<ShareHal<0>>(opened, kick, memory, || share_hal::counters(0), mapped)
        }
    }
}

/// Drives the disk through `H`, whose counters are `copied`; or only makes what
/// the map shows, if that is wanted.
pub(super) fn run<H: Hal>(
    opened: Opened,
    kick: usize,
    memory: &mut [u8],
    copied: impl Fn() -> Counters,
    mapped: bool,
) -> bool {
    let plug = opened.transport.plug();
    let disk = match VirtIOBlk::<H, CheckedTransport>::new(opened.transport) {
        Ok(disk) if opened.verdict.get().is_none() => disk,
        _ => return false,
    };
    let mut load = Load::new(disk, (plug, kick), memory);
    load.fill(DATA);
    // Every page of a pool or a BAR has been touched after these.
    if !(0..WARM).all(|_| load.batch(DEPTH, MOST, |number| number % 2 == 1, &mut |_| ())) {
        return false;
    }
    if mapped {
        return load.batch(DEPTH, 4 << 10, |_| false, &mut |_| ());
    }
    case(&mut load, 0, None, &copied)
        && (1..).zip(cases()).all(|(number, case_)| case(&mut load, number, Some(case_), &copied))
        && SIZES.into_iter().take(2).all(|bytes| exposure(&mut load, bytes))
}

fn cases() -> impl Iterator<Item = (usize, usize)> {
    DEPTHS.into_iter().flat_map(|depth| SIZES.into_iter().map(move |bytes| (bytes, depth)))
}

/// Measures case `number`: bytes and depth.
fn case<H: Hal>(
    load: &mut Load<'_, H>,
    number: u64,
    case: Option<(usize, usize)>,
    copied: &impl Fn() -> Counters,
) -> bool {
    let mut batches = |count, depth: usize, bytes| {
        // One at a time every other one writes, too.
        (0..count)
            .all(|batch| load.batch(depth, bytes, |number| (number + batch) % 2 == 1, &mut |_| ()))
    };
    let (bytes, depth) = case.unwrap_or((0, 1));
    let count = if case.is_some() { REQUESTS / depth } else { 0 };
    if case.is_some() && !batches(DEPTH / depth, depth, bytes) {
        return false;
    }
    let before = copied();
    ask(Deed::Begin, 0);
    let served = batches(count, depth, bytes);
    ask(Deed::End, number);
    let after = copied();
    println!(
        "@guest dma copied case={number} bytes={bytes} depth={depth} requests={} in={} out={}",
        count * depth,
        after.bytes_in - before.bytes_in,
        after.bytes_out - before.bytes_out
    );
    served
}

/// What the host can see of 64 requests, sixteen at a time.
fn exposure<H: Hal>(load: &mut Load<'_, H>, bytes: usize) -> bool {
    let case = bytes as u64;
    load.fill(NEIGHBOUR);
    ask(Deed::Scan, case << 8 | When::Back as u64);
    (0..REQUESTS / DEPTH).all(|_| {
        load.fill_first(bytes, STALE);
        // Only reads: what a write shows is meant to be seen.
        load.batch(DEPTH, bytes, |_| false, &mut |when| {
            let deed = if when == When::Changed { Deed::Pages } else { Deed::Scan };
            ask(deed, case << 8 | when as u64);
        })
    })
}
