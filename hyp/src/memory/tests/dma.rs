use super::*;
use crate::addr::GfnRange;
use crate::memory::SharedPlace;
use crate::sim::Layout;

/// What a device writes.
const DEVICE_DATA: u64 = 0xd0d0_d0d0_d0d0_d0d0;
const STREAM: u32 = 8;

/// Can a device reach the frame, by the table or by what the IOMMU remembers?
fn device_reaches(fixture: &Fixture, pfn: Pfn) -> bool {
    !fixture.machine.access_of_device(pfn).is_empty()
}

#[test]
fn devices_have_what_the_host_owns_and_nothing_else() {
    let (fixture, _guest, frames) = with_guest(4);
    let mut owned = 0;
    for (pfn, entry) in fixture.memory.entries() {
        let own = entry.owner() == Owner::Host;
        owned += u64::from(own);
        assert_eq!(device_reaches(&fixture, pfn), own, "{pfn:x?}: {entry:?}");
        assert_eq!(fixture.memory.is_for_dma(&fixture.machine, pfn), own);
    }
    assert_eq!(owned, fixture.memory.counts().owned(Owner::Host));
    assert!(frames.iter().all(|pfn| !device_reaches(&fixture, pfn)));
    // No RAM: devices, doorbells, and addresses that a bank ends before.
    for number in [0, 0x8000, 0x9000, 0x9050, fixture.layout.ram[0].end(), 0x7ff_ffff] {
        let pfn = Pfn::new(number).unwrap();
        assert!(
            !device_reaches(&fixture, pfn) && !fixture.memory.is_for_dma(&fixture.machine, pfn)
        );
    }
}

/// A device writes to a frame at any moment: while it is wiped (the machine is
/// hostile), and right after.
#[test]
fn what_is_wiped_or_measured_no_device_can_change() {
    let mut fixture = Fixture::new(16);
    fixture.machine.set_hostile(true);
    let mut guest = fixture.guest(0, 64);
    let frames = fixture.host_frames(3);
    let mut bytes = 0;
    fixture.machine.plant(frames.start(), HOST_DATA);
    for (index, pfn) in frames.iter().enumerate() {
        let run = PfnRange::one(pfn);
        let mut measure = |_: Gfn, piece: &[u8]| bytes += piece.len();
        let contents = if index == 0 { Contents::Measured(&mut measure) } else { Contents::Zeroed };
        let at = gfn(RAM + index as u64);
        done(&mut fixture, 1, |m, memory| {
            memory.host_donate_guest(m, &mut guest, run, at, contents)
        });
        let before = fixture.machine.tag(pfn);
        assert!(!fixture.machine.store_of_device(STREAM, pfn, DEVICE_DATA));
        assert_eq!(fixture.machine.tag(pfn), before);
        assert_eq!(before, Some(if index == 0 { HOST_DATA } else { 0 }));
    }
    assert_eq!(bytes, 4096);
    check(&fixture.machine, &fixture.memory, &[&guest]);
}

#[test]
fn a_frame_that_comes_back_is_the_devices_again() {
    let (mut fixture, mut guest, frames) = with_guest(4);
    // Given up by the guest.
    done(&mut fixture, 1, |m, memory| memory.guest_relinquish(m, &mut guest, gfns(RAM, 1)));
    assert!(device_reaches(&fixture, frames.start()));
    // Taken back when it dies: frames, tables, memcache.
    let tables: Vec<_> = {
        let hyp = fixture.memory.entries().filter(|(_, entry)| entry.owner() == Owner::Hyp);
        hyp.map(|(pfn, _)| pfn).filter(|pfn| !fixture.layout.hyp[0].contains(*pfn)).collect()
    };
    assert!(!tables.is_empty() && tables.iter().all(|pfn| !device_reaches(&fixture, *pfn)));
    guest.begin_dying(&fixture.machine, &mut fixture.memory);
    fixture.machine.settle();
    let rest = PfnRange::new(frames.start().number() + 1, 3).unwrap();
    assert!(rest.iter().all(|pfn| !device_reaches(&fixture, pfn)));
    done(&mut fixture, 3, |m, memory| memory.reclaim(m, &mut guest, rest));
    for pfn in rest.iter() {
        assert_eq!(fixture.machine.tag(pfn), Some(0));
        assert!(fixture.machine.store_of_device(STREAM, pfn, DEVICE_DATA));
        assert_eq!(fixture.machine.tag(pfn), Some(DEVICE_DATA));
    }
    while fixture.memory.teardown(&fixture.machine, &mut guest, 512) != 0 {
        fixture.machine.settle();
    }
    fixture.machine.settle();
    assert!(tables.iter().all(|pfn| device_reaches(&fixture, *pfn)));
    check(&fixture.machine, &fixture.memory, &[&guest]);
}

/// In place or at an alias: what a guest shares is the host's CPUs' to see, and
/// no command is sent to the IOMMU. What the host lends stays its devices'.
#[test]
fn what_the_host_borrows_is_not_its_devices() {
    for shared in [SharedPlace::InPlace, SharedPlace::Alias] {
        let mut fixture = Fixture::new(16);
        let guest = fixture.guest_of_kind(0, 64, 16, shared);
        let (mut guest, frames) = donate(&mut fixture, guest, RAM, 2);
        let before = fixture.machine.dma_invalidations();
        let range: GfnRange = gfns(RAM, 2);
        done(&mut fixture, 2, |m, memory| memory.guest_share_host(m, &mut guest, range));
        assert!(frames.iter().all(|pfn| host_reaches(&fixture, pfn)));
        assert!(frames.iter().all(|pfn| !device_reaches(&fixture, pfn)));
        done(&mut fixture, 2, |m, memory| memory.guest_unshare_host(m, &mut guest, range));
        let lent = fixture.host_frames(1);
        done(&mut fixture, 1, |m, memory| memory.host_share_guest(m, &guest, lent));
        assert!(device_reaches(&fixture, lent.start()));
        assert_eq!(fixture.machine.dma_invalidations(), before);
        check(&fixture.machine, &fixture.memory, &[&guest]);
    }
}

#[test]
fn a_refused_donation_takes_nothing_from_devices() {
    let (mut fixture, mut guest, frames) = with_guest(2);
    let mut own = fixture.host_frames(2);
    // The second is lent.
    let lent = PfnRange::one(Pfn::new(own.start().number() + 1).unwrap());
    done(&mut fixture, 1, |m, memory| memory.host_share_guest(m, &guest, lent));
    refused(&mut fixture, Error::Denied, |m, memory| {
        memory.host_donate_guest(m, &mut guest, own, gfn(RAM + 8), Contents::Zeroed)
    });
    assert!(own.iter().all(|pfn| device_reaches(&fixture, pfn)));
    own = own.truncate(1);
    let pool = &mut crate::stage2::TablePool::empty();
    fixture.machine.fail_allocation_after(0);
    refused(&mut fixture, Error::NoMemory, |m, memory| memory.host_donate_hyp(m, own, pool));
    assert!(device_reaches(&fixture, own.start()));
    assert!(frames.iter().all(|pfn| !device_reaches(&fixture, pfn)));
}

/// The IOMMU goes on using what it was told to forget, until it has answered.
#[test]
fn a_device_reaches_a_frame_until_the_iommu_has_answered() {
    let fixture = Fixture::new(16);
    let m = &fixture.machine;
    let pfn = fixture.layout.ram[0].start();
    let frames = PfnRange::one(pfn);
    let word = {
        let mut table = fixture.memory.dma_root().unwrap();
        for shift in [18, 9] {
            let word = m.peek(table, (pfn.number() >> shift & 511) as usize);
            table = Pfn::containing(word & !0xfff).unwrap();
        }
        (table, (pfn.number() & 511) as usize)
    };
    m.write_word(word.0, word.1, 0);
    assert!(device_reaches(&fixture, pfn), "remembered");
    m.sync_dma();
    assert!(device_reaches(&fixture, pfn), "never told");
    let other = PfnRange::new(pfn.number() + 1, 8).unwrap();
    m.invalidate_dma(other);
    m.sync_dma();
    assert!(device_reaches(&fixture, pfn), "told of others");
    m.invalidate_dma(frames);
    assert!(device_reaches(&fixture, pfn), "told, and not answered");
    let broken = m.take_violations();
    assert!(broken.iter().any(|broken| broken.contains("stale translation")), "{broken:?}");
    m.sync_dma();
    assert!(!device_reaches(&fixture, pfn));
}

#[test]
fn without_an_iommu_no_device_has_anything() {
    let mut fixture = Fixture::with_layout(Layout::without_iommu(16));
    assert_eq!(fixture.memory.dma_root(), None);
    let guest = fixture.guest(0, 64);
    let (guest, frames) = donate(&mut fixture, guest, RAM, 2);
    assert_eq!(fixture.machine.dma_invalidations(), 0);
    let own = fixture.host_frames(1).start();
    for pfn in [own, frames.start()] {
        assert!(
            !device_reaches(&fixture, pfn) && !fixture.memory.is_for_dma(&fixture.machine, pfn)
        );
    }
    check(&fixture.machine, &fixture.memory, &[&guest]);
}

/// Banks that begin and end anywhere; every word is there, and no other.
#[test]
fn all_ram_has_its_words() {
    let banks = [(0x4_0000, 4096), (0x5_0123, 700), (0x8_0000, 8192)]
        .map(|(start, count)| PfnRange::new(start, count).unwrap());
    let fixture = Fixture::with_layout(Layout::of_banks(&banks));
    check(&fixture.machine, &fixture.memory, &[]);
    for (pfn, entry) in fixture.memory.entries() {
        assert_eq!(device_reaches(&fixture, pfn), entry.owner() == Owner::Host);
    }
}

#[test]
fn a_table_that_is_too_small_is_refused() {
    let layout = Layout::new(16);
    let tables = layout.dma_tables.unwrap();
    let boot = |dma_tables| {
        let boot = BootMemory { dma_tables, ..layout.boot() };
        HostMemory::new(&layout.machine(), layout.frame_table(), &boot).map(|_| ()).err()
    };
    assert_eq!(boot(Some(tables)), None);
    assert_eq!(boot(Some(tables.truncate(tables.count() - 1))), Some(Error::NoMemory));
    assert_eq!(boot(Some(layout.pool)), Some(Error::InvalidParameter), "twice in use");
    let outside = PfnRange::one(layout.ram[0].start());
    assert_eq!(boot(Some(outside)), Some(Error::InvalidParameter), "the host's");
}
