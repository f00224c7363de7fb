//! How long a CPU can keep the others waiting: each call changes a bounded
//! number of frames, however much it was asked for (attack row G4). REFRESH is
//! tried where its table is ([`super::iotable`]).

use super::rig::{RAM_GFN, Rig};
use crate::abi::{self, guest, host as id};
use crate::layout;

/// What is done to one frame at most: unmapped, wiped, mapped, and its
/// block's or table's share of splitting and merging.
const PER_FRAME: u64 = 4;
/// Tables that are made, split or merged beside the frames: 512 words each.
const TABLES: u64 = 4 * 512;

/// What a call on [`abi::MAX_RANGE`] frames does at most.
pub(super) const MOST: u64 = abi::MAX_RANGE * PER_FRAME + TABLES;

/// Stores, wipes and mappings that `act` makes, and its result.
pub(super) fn effects<R>(rig: &Rig, act: impl FnOnce() -> R) -> (u64, R) {
    let before = rig.hyp.machine().effects();
    let result = act();
    (rig.hyp.machine().effects() - before, result)
}

/// No hold of host memory's lock is longer than [`abi::MAX_RANGE`] frames, and
/// whoever insists waits for two holds of each other CPU at most.
#[test]
fn no_call_holds_the_memory_for_longer_than_a_range_of_frames() {
    let mut rig = Rig::new();
    let much = abi::MAX_RANGE + 256;
    let memcache = rig.frames(much);
    let ram = rig.frames(much);
    let create = [memcache, 64, 1024, 1, 0];
    let (cost, created) = effects(&rig, || rig.hvc(id::VM_CREATE, &create));
    let [handle, ..] = created.unwrap();
    assert!(cost <= 64 * PER_FRAME + TABLES, "VM_CREATE: {cost}");

    let check = |what: &str, function: u32, arguments: &[u64]| {
        let (cost, result) = effects(&rig, || rig.hvc(function, arguments));
        let [done, ..] = result.unwrap_or_else(|code| panic!("{what}: {code}"));
        assert!(cost <= MOST, "{what}: {cost} effects for {done} frames, more than {MOST}");
        done
    };
    let topup = [handle, memcache + 64, much - 64];
    assert_eq!(check("VM_TOPUP", id::VM_TOPUP, &topup), abi::MAX_RANGE);
    let donate = |flags| [handle, ram, RAM_GFN, much, flags];
    let done = check("FRAME_DONATE, measured", id::FRAME_DONATE, &donate(abi::DONATE_MEASURED));
    assert_eq!(done, abi::MAX_MEASURED);
    let rest = [handle, ram + done, RAM_GFN + done, much - done, 0];
    assert_eq!(check("FRAME_DONATE", id::FRAME_DONATE, &rest), abi::MAX_RANGE);
    let done = done + abi::MAX_RANGE;
    let rest = [handle, ram + done, RAM_GFN + done, much - done, 0];
    assert_eq!(check("FRAME_DONATE", id::FRAME_DONATE, &rest), much - done);
    check("VM_FINALISE", id::VM_FINALISE, &[handle, layout::RAM, 0]);
    check("VM_STOP", id::VM_STOP, &[handle]);
    let reclaim = [handle, ram, much];
    assert_eq!(check("FRAME_RECLAIM", id::FRAME_RECLAIM, &reclaim), abi::MAX_RANGE);
    let rest = [handle, ram + abi::MAX_RANGE, much - abi::MAX_RANGE];
    check("FRAME_RECLAIM", id::FRAME_RECLAIM, &rest);
    while check("VM_DESTROY", id::VM_DESTROY, &[handle]) > 0 {}
}

/// A guest's calls hold it as well: sharing, taking back, taking back whatever
/// there is, and giving up, of pages that are wiped on the way.
#[test]
fn no_call_of_a_guests_holds_the_memory_for_longer_either() {
    let mut rig = Rig::new();
    let much = abi::MAX_RANGE + 64;
    let (memcache, ram) = (rig.frames(64), rig.frames(much));
    let create = [memcache, 64, 1024, 1, abi::CREATE_SHARE_ZEROES];
    let [handle, ..] = rig.hvc(id::VM_CREATE, &create).unwrap();
    for done in [0, abi::MAX_RANGE] {
        rig.hvc(id::FRAME_DONATE, &[handle, ram + done, RAM_GFN + done, much - done, 0]).unwrap();
    }
    rig.hvc(id::VM_FINALISE, &[handle, layout::RAM, 0]).unwrap();
    let check = |function: u32, pages: u64| {
        let arguments = [layout::RAM, pages, 0];
        let (cost, answer) = effects(&rig, || rig.guest_hvc(handle, function.into(), &arguments));
        assert!(cost <= MOST, "{function:#x}: {cost} effects, more than {MOST}");
        (cost, answer)
    };
    let all = (0, abi::MAX_RANGE);
    for back in [guest::MEM_UNSHARE, guest::MEM_UNSHARE_ALL] {
        for call in [guest::MEM_SHARE, back] {
            let (cost, answer) = check(call, much);
            assert_eq!(answer, all, "{call:#x}");
            assert!(cost > abi::MAX_RANGE, "{call:#x}: {cost} effects cannot be all");
        }
    }
    assert_eq!(check(guest::MEM_RELINQUISH, 1).1.0, 0);
}

/// Interrupts are masked while a call is in EL2. A page that is hashed costs as
/// much as 25 that are wiped, so a call takes fewer of those; what it did not
/// take is the host's still, unread, and the next call goes on there.
#[test]
fn a_call_hashes_few_pages_and_the_host_goes_on_behind_them() {
    let mut rig = Rig::new();
    let count = 2 * abi::MAX_MEASURED + 3;
    let (memcache, ram) = (rig.frames(16), rig.frames(count));
    let [handle, ..] = rig.hvc(id::VM_CREATE, &[memcache, 16, 256, 1, 0]).unwrap();
    let mut done = 0;
    let mut calls = std::vec::Vec::new();
    while done < count {
        let rest = [handle, ram + done, RAM_GFN + done, count - done, abi::DONATE_MEASURED];
        let before = rig.hyp.machine().world().frames_read;
        let [now, ..] = rig.hvc(id::FRAME_DONATE, &rest).unwrap();
        assert_eq!(rig.hyp.machine().world().frames_read - before, now);
        calls.push(now);
        done += now;
        if done < count {
            assert_eq!(rig.hvc(id::FRAME_STATE, &[ram + done]).unwrap()[0], 0, "the host's");
        }
    }
    assert_eq!(calls, [abi::MAX_MEASURED, abi::MAX_MEASURED, 3]);
}
