//! Pages that a device sees, and a host that reaches for more.

#![allow(unsafe_code)]

use super::super::hostile::Attacks;
use super::super::iommu_hal::GuestDomain;
use super::super::pci::{Bus, Function};
use super::super::raw_device::{self, DESCRIPTORS, Outcome, RawDevice};
use super::super::{Machine, pkvm, yes};
use super::*;
use alloc::vec::Vec;

/// What is in a page that the device may see, and in one that it may not.
const SHOWN: u64 = u64::from_le_bytes(*b"for them");
const SECRET: u64 = u64::from_le_bytes(*b"not them");
/// Pages that the backend copies while they are unmapped, and how often that is
/// tried until it was in the middle.
const COPIED: u64 = 128;
const ROUNDS: usize = 100;

/// The steps; the last leaves [`MANY`] pages mapped. `None` if there is no
/// memory, `Some(false)` if a page is not what it was.
pub(super) fn play(
    machine: &Machine,
    bus: &Bus,
    disk: &Function,
    spare: &mut Spare,
    attacks: &mut Attacks,
) -> Option<bool> {
    let device = number(disk);
    let mut domain = domain(spare, device)?;
    let [page, readable, mail] = [(); 3].map(|()| spare.take(1).map(|page| page as u64));
    let (page, readable, mail) = (page?, readable?, mail?);
    fill(page, 1, SHOWN);
    fill(readable, 1, SHOWN);
    let mailbox = Mailbox(mail);
    let mail = domain.map(mail, 1, true).ok()?;
    let rw = domain.map(page, 1, true).ok()?;
    let ro = domain.map(readable, 1, false).ok()?;
    let hole = ro + BYTES;
    println!("guest: the device sees one page to read and write, one to read");
    println!(
        "@guest tables step=1 device={device} mail={mail:#x} rw={rw:#x} ro={ro:#x} hole={hole:#x} page={page:#x}"
    );
    let mut good = mailbox.await_host(1) && is_full_of(readable, 1, SHOWN);

    domain.unmap(rw, 1).ok()?;
    fill(page, 1, SECRET);
    println!("@guest tables step=2 iova={rw:#x}");
    good &= mailbox.await_host(2) && is_full_of(page, 1, SECRET);
    println!("@guest tables intact={}", yes(good));

    if second::is_there(machine) {
        let refused = unmapped_meanwhile(machine, bus, disk, &mut domain, spare)?;
        attacks.note("C20.race", "write-on-while-the-guest-unmaps", refused);
        good &= refused;
    }

    let many = spare.take(MANY as usize)? as u64;
    fill(many, MANY, SECRET);
    let iova = domain.map(many, MANY, true).ok()?;
    println!("@guest tables step=3 iova={iova:#x} pages={MANY}");
    Some(good)
}

/// The backend copies what it has read from the disk into pages of the guest's;
/// when the first word is there the second vCPU unmaps all of them, and then
/// uses them for something else. Nothing of that may be written over.
fn unmapped_meanwhile(
    machine: &Machine,
    bus: &Bus,
    disk: &Function,
    domain: &mut GuestDomain,
    spare: &mut Spare,
) -> Option<bool> {
    const RINGS: u64 = 6;
    let rings = spare.take(RINGS as usize)? as u64;
    let data = spare.take(COPIED as usize)? as u64;
    let rings_iova = domain.map(rings, RINGS, true).ok()?;
    let places = (rings, rings_iova);
    // SAFETY: pages of `Spare`, mapped for this device.
    let raw = unsafe { RawDevice::in_pages(bus, disk, places, RINGS * BYTES) }?;
    let device = number(disk);
    let (mut rounds, mut middle, mut stable) = (0, false, true);
    while rounds < ROUNDS && !middle && stable {
        rounds += 1;
        fill(data, COPIED, SHOWN);
        let iova = domain.map(data, COPIED, true).ok()?;
        let words: Vec<u64> =
            (0..COPIED).filter_map(|page| domain.table.word_at(iova + page * BYTES)).collect();
        let unmap = move || {
            words.iter().for_each(|word| store(*word, 0));
            let told = refresh_all(device, iova, COPIED);
            fill(data, COPIED, SECRET);
            told
        };
        if !raw.bring_up() {
            return Some(false);
        }
        raw.header(0);
        let [header, _, status] = raw.good();
        let length = (COPIED * BYTES) as u32;
        let all = (iova, length, raw_device::NEXT | raw_device::WRITE, 2);
        raw.describe(DESCRIPTORS, &[header, all, status]);
        let mut outcome = Outcome::Silent;
        let acted = second::when_it_changes(machine, (data, SHOWN), unmap, || {
            raw.offer(0, 1);
            outcome = raw.outcome(PATIENCE);
        })?;
        match acted {
            Some(told) => {
                stable &= told && is_full_of(data, COPIED, SECRET);
                domain.release(iova, COPIED).ok()?;
            }
            None => domain.unmap(iova, COPIED).ok()?,
        }
        // An error: a part of the buffer was gone when the backend came to it.
        middle = acted.is_some() && outcome == Outcome::Served(1);
        stable &= matches!(outcome, Outcome::Served(0 | 1));
    }
    raw.reset();
    domain.unmap(rings_iova, RINGS).ok()?;
    println!(
        "guest: unmapped in the middle of a copy: {middle}, after {rounds} rounds; nothing was written over: {stable}"
    );
    Some(stable && middle)
}

/// REFRESH, a table's worth per call.
fn refresh_all(device: u64, iova: u64, pages: u64) -> bool {
    let mut at = 0;
    while at < pages {
        match pkvm::refresh(device, iova + at * BYTES, pages - at) {
            (0, [done, 0, _]) if done > 0 => at += done,
            _ => return false,
        }
    }
    true
}
