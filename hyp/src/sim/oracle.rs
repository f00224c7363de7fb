//! The oracle: page tables are derived from the frame table, so derive them
//! again and compare.

use super::{SimLeaf, SimMachine};
use crate::abi::MAX_VMS;
use crate::addr::Pfn;
use crate::machine::Vmid;
use crate::memory::{GuestId, GuestMemory, HostMemory, Owner, PageState};
use crate::stage2::Attributes;
use std::collections::{BTreeMap, HashMap};

/// Compares the tables of the host and of all guests with the frame table,
/// and the counters with both.
///
/// # Panics
/// If they differ. `guests` must name every guest that owns or borrows.
#[track_caller]
pub fn check(machine: &SimMachine, memory: &HostMemory<'_>, guests: &[&GuestMemory]) {
    check_host(machine, memory);
    for guest in guests {
        check_guest(machine, memory, guest);
        if !guest.is_dying() {
            check_entry_counts(machine, guest.regime().root, 1);
        }
    }
    check_entry_counts(machine, memory.regime().root, 1);
    check_counters(machine, memory);
}

/// Every mapped frame of an address space, with the descriptor's attributes.
fn mapped(machine: &SimMachine, vmid: Vmid) -> BTreeMap<u64, (u64, u64)> {
    let each = |leaf: SimLeaf| {
        (0..leaf.frames).map(move |offset| {
            let attributes = leaf.word & !0x7f_ffff_f003;
            (leaf.gfn.number() + offset, (leaf.pfn.number() + offset, attributes))
        })
    };
    machine.leaves(vmid).into_iter().flat_map(each).collect()
}

#[track_caller]
fn check_host(machine: &SimMachine, memory: &HostMemory<'_>) {
    let mapped = mapped(machine, Vmid::HOST);
    for (pfn, entry) in memory.entries() {
        let state = entry.state_for(Owner::Host);
        let expected = match state {
            PageState::Owned | PageState::SharedOwned => Some(Attributes::MEMORY),
            PageState::SharedBorrowed => Some(Attributes::BORROWED),
            PageState::NoPage => None,
        };
        // Where there is no RAM there may be a device.
        if entry.owner() == Owner::None {
            continue;
        }
        let found = mapped.get(&pfn.number()).copied();
        let expected = expected.map(|attributes| (pfn.number(), attributes.bits()));
        assert_eq!(found, expected, "host mapping of {pfn:x?}, which is {entry:?}");
    }
    for (gfn, (pfn, attributes)) in mapped {
        assert_eq!(gfn, pfn, "the host's map is the identity");
        let entry = Pfn::new(pfn).map(|pfn| memory.entry(pfn));
        let is_ram = entry.is_some_and(|entry| entry.owner() != Owner::None);
        assert!(is_ram || attributes == Attributes::DEVICE.bits(), "{pfn:#x} is no RAM");
    }
}

#[track_caller]
fn check_guest(machine: &SimMachine, memory: &HostMemory<'_>, guest: &GuestMemory) {
    let mapped = mapped(machine, guest.regime().vmid);
    let (mut own, mut borrowed) = (0, 0);
    for (gfn, (number, attributes)) in &mapped {
        let pfn = super::memory::pfn(*number);
        let entry = memory.entry(pfn);
        let in_ram = (guest.ram().start().number()..guest.ram().end()).contains(gfn);
        let (state, expected) = match in_ram {
            true => (entry.owner() == guest.party(), Attributes::MEMORY),
            false => (entry.borrower() == guest.party() && entry.is_mapped(), Attributes::BOUNCE),
        };
        assert!(state, "{:?} maps {number:#x} at {gfn:#x}, which is {entry:?}", guest.party());
        assert_eq!(*attributes, expected.bits());
        *(if in_ram { &mut own } else { &mut borrowed }) += 1;
    }
    if guest.is_dying() {
        assert_eq!(mapped.len(), 0, "a dying guest has nothing mapped");
        return;
    }
    // Every frame it owns or has mapped is there, and exactly once.
    assert_eq!(own, memory.counts().owned(guest.party()));
    let marked = memory
        .entries()
        .filter(|(_, entry)| entry.borrower() == guest.party() && entry.is_mapped());
    assert_eq!(borrowed, marked.count() as u64);
}

/// The number of used entries in every table descriptor is right.
#[track_caller]
fn check_entry_counts(machine: &SimMachine, table: Pfn, level: u8) -> u64 {
    let mut used = 0;
    for index in 0..512 {
        let word = machine.peek(table, index);
        used += u64::from(word != 0);
        if level < 3 && word & 2 != 0 {
            let below = super::memory::pfn((word & 0x7f_ffff_f000) >> 12);
            let found = check_entry_counts(machine, below, level + 1);
            assert_eq!(word >> 2 & 0x3ff, found, "entries of table {below:x?}");
        }
    }
    used
}

#[track_caller]
fn check_counters(machine: &SimMachine, memory: &HostMemory<'_>) {
    let mut owned: HashMap<Owner, u64> = HashMap::new();
    let mut borrowed: HashMap<Owner, u64> = HashMap::new();
    for (pfn, entry) in memory.entries() {
        *owned.entry(entry.owner()).or_default() += 1;
        *borrowed.entry(entry.borrower()).or_default() += 1;
        let hyp = entry.owner() == Owner::Hyp;
        assert_eq!(hyp, machine.is_hyp_mapped(pfn), "EL2's own mapping of {pfn:x?}");
    }
    let guests = (0..MAX_VMS).filter_map(GuestId::new).map(Owner::Guest);
    for party in [Owner::Hyp, Owner::Host].into_iter().chain(guests) {
        let count = |counts: &HashMap<Owner, u64>| counts.get(&party).copied().unwrap_or(0);
        assert_eq!(memory.counts().owned(party), count(&owned), "frames of {party:?}");
        assert_eq!(memory.counts().borrowed(party), count(&borrowed), "loans to {party:?}");
    }
}
