//! What a guest may try with its table, and a host with the guest's.

use super::*;

#[test]
fn a_range_outside_the_aperture_is_refused() {
    let guest = Guest::new(100);
    let refresh = |iova: u64, pages: u64| guest.call(id::REFRESH, &[DEVICE, iova, pages]);
    for (iova, pages) in [
        (IOVA, 0),
        (IOVA + 1, 1),
        (IOVA - 0x1000, 1),
        (IOVA - 0x1000, 2),
        (IOVA, (1 << 18) + 1),
        (IOVA + (1 << 30), 1),
        (IOVA + (1 << 30) - 0x1000, 2),
        (IOVA, u64::MAX),
        (!0xfff, 2),
        (0, 1),
        (layout::RAM, 1),
    ] {
        assert_eq!(refresh(iova, pages), Err(-3), "{iova:#x}, {pages}");
    }
    assert_eq!(refresh(IOVA + (1 << 30) - 0x1000, 1), Ok([1, 0, 0]));
}

#[test]
fn a_device_that_has_no_table_has_no_such_calls() {
    let guest = Guest::without_table(100, 16);
    for device in [0, 2, 64, 1 << 32 | DEVICE, u64::MAX] {
        assert_eq!(guest.call(id::REFRESH, &[device, IOVA, 1]), Err(-5), "device {device:#x}");
        assert_eq!(guest.call(id::IOTABLE_SET, &[device, ipa(ROOT)]), Err(-5));
        assert_eq!(guest.call(id::IOTABLE_SET, &[device, 0]), Err(-5));
        assert_eq!(guest.call(id::IOTABLE_INFO, &[device]), Err(-5));
    }
    guest.refused(0, 1, Error::BadState);
    assert_eq!(guest.set(0), Ok(0), "there is none to take away");
    for root in [ipa(ROOT) + 8, ipa(64), layout::PCI_MEM64, IOVA, 0x1000, !0xfff] {
        assert_eq!(guest.set(root), Err(-3), "{root:#x}");
    }
}

#[test]
fn a_word_with_a_bit_that_means_nothing_is_refused() {
    let guest = Guest::new(100);
    let good = [(ROOT, ROOT_WORD, valid(MIDDLE)), (MIDDLE, 0, valid(LAST)), (LAST, 5, writable(9))];
    for (level, (table, index, word)) in good.into_iter().enumerate() {
        for bit in (0..64).filter(|bit| !(12..39).contains(bit)) {
            let odd = word ^ 1 << bit;
            // Without a right it is a good word, at the last level only.
            if level == 2 && bit == 1 {
                continue;
            }
            guest.poke(table, index, odd);
            guest.refused(0, 512, Error::InvalidParameter);
        }
        guest.poke(table, index, word);
    }
    assert_eq!(guest.refresh(0, 512), Ok([512, 0, 1]));
}

#[test]
fn tables_and_pages_are_ram_of_the_guests_own_and_its_alone() {
    let guest = Guest::new(100);
    let share = |page| guest.rig.guest_hvc(guest.handle, id::MEM_SHARE.into(), &[ipa(page), 1, 0]);
    let unshare =
        |page| guest.rig.guest_hvc(guest.handle, id::MEM_UNSHARE.into(), &[ipa(page), 1, 0]);
    guest.poke(LAST, 5, writable(9));
    // Not RAM: behind it, a BAR's window, a device, an I/O address.
    for address in [ipa(64), layout::PCI_MEM64, layout::UART, IOVA, 0, ipa(0) - 0x1000] {
        for (table, index) in [(ROOT, ROOT_WORD), (MIDDLE, 0), (LAST, 5)] {
            let before = guest.rig.hyp.machine().peek(guest.frame(table), index);
            guest.poke(table, index, address | 1);
            guest.refused(0, 512, Error::InvalidParameter);
            guest.poke(table, index, before);
        }
    }
    // Whoever could write a table would choose what the device sees.
    for page in [ROOT, MIDDLE, LAST, 9] {
        assert_eq!(share(page), (0, 1));
        guest.refused(0, 512, Error::Denied);
        assert_eq!(unshare(page), (0, 1));
    }
    // Nor is a table what a device can write.
    assert_eq!(guest.refresh(0, 512), Ok([512, 0, 1]));
    guest.poke(MIDDLE, 7, valid(9));
    guest.refused(7 * 512, 1, Error::Denied);
    guest.poke(ROOT, ROOT_WORD, valid(9));
    guest.refused(0, 1, Error::Denied);
    guest.poke(ROOT, ROOT_WORD, valid(MIDDLE));
    // A table that is mapped for the device is one no longer.
    guest.poke(LAST, 6, writable(LAST));
    assert_eq!(guest.refresh(6, 1), Ok([1, 0, 2]));
    guest.refused(6, 1, Error::Denied);
    assert_eq!(guest.set(0), Ok(0), "the way out");
    assert_eq!(guest.set(ipa(ROOT)), Ok(0));
    guest.poke(LAST, 6, 0);
    assert_eq!(guest.refresh(0, 512), Ok([512, 0, 1]));
}

#[test]
fn no_table_is_on_the_way_to_itself() {
    let guest = Guest::new(100);
    for (table, index, to) in [(ROOT, ROOT_WORD, ROOT), (MIDDLE, 0, MIDDLE), (MIDDLE, 0, ROOT)] {
        let before = guest.rig.hyp.machine().peek(guest.frame(table), index);
        guest.poke(table, index, valid(to));
        guest.refused(0, 1, Error::InvalidParameter);
        guest.poke(table, index, before);
    }
    assert_eq!(guest.refresh(0, 1), Ok([1, 0, 0]));
}

#[test]
fn a_table_that_changes_under_the_walk_counts_as_it_was_read() {
    let rewrites: [fn(u64) -> u64; 4] =
        [|_| u64::MAX, |_| 0, |word| word ^ 0x1000, |word| word ^ 2];
    for rewrite in rewrites {
        let guest = Guest::new(100);
        guest.poke(LAST, 5, valid(20));
        guest.poke(LAST, 6, writable(21));
        guest.rig.hyp.machine().set_rewriter(Some(rewrite));
        assert_eq!(guest.refresh(0, 512), Ok([512, 0, 2]));
        guest.rig.hyp.machine().set_rewriter(None);
        assert_eq!(guest.seen(5), Some(guest.frame(20).number()));
        assert_eq!(guest.seen(6), Some(guest.frame(21).number()));
        let leaves = guest.rig.hyp.machine().leaves(Vmid::HOST);
        let window = guest.address() >> 12;
        let rights = leaves.iter().filter(|leaf| leaf.gfn.number() >= window);
        assert!(rights.map(|leaf| leaf.word >> 6 & 3).eq([1, 3]));
    }
}

#[test]
fn only_words_on_the_way_are_read_and_each_once() {
    let guest = Guest::new(100);
    guest.poke(LAST, 7, valid(20));
    guest.rig.script_hvc(id::REFRESH.into(), &[DEVICE, IOVA + 0x5000, 4]);
    guest.rig.run(guest.handle);
    let mut words = guest.rig.hyp.machine().guest_words();
    words.sort_unstable();
    let mut expected: Vec<_> = (5..9).map(|index| (LAST, index)).collect();
    expected.extend([(ROOT, ROOT_WORD), (MIDDLE, 0)]);
    let mut expected: Vec<_> =
        expected.into_iter().map(|(page, index)| (guest.frame(page), index)).collect();
    expected.sort_unstable();
    assert!(words.into_iter().map(|(frame, index, _)| (frame, index)).eq(expected));
}

#[test]
fn a_page_of_a_device_is_neither_lent_nor_given_up() {
    let guest = Guest::new(100);
    guest.poke(LAST, 0, writable(10));
    guest.refresh(0, 1).unwrap();
    let calls = [id::MEM_SHARE, id::MEM_UNSHARE, id::MEM_RELINQUISH];
    for call in calls {
        let arguments: &[u64] =
            if call == id::MEM_RELINQUISH { &[ipa(10)] } else { &[ipa(10), 1, 0] };
        let answer = guest.rig.guest_hvc(guest.handle, call.into(), arguments);
        assert_eq!(answer.0, Error::Denied.code(), "{call:#x}");
    }
    // Nor with all that is shared: it is counted, and stays.
    let share = [ipa(12), 1, 0];
    assert_eq!(guest.rig.guest_hvc(guest.handle, id::MEM_SHARE.into(), &share), (0, 1));
    assert_eq!(guest.call(id::MEM_UNSHARE_ALL, &[ipa(0)]), Ok([1, 0, 1]));
    let frame = guest.frame(10).number();
    for (function, arguments) in [
        (host::FRAME_DONATE, [guest.handle, frame, RAM_GFN + 60, 1, 0]),
        (host::FRAME_SHARE, [guest.handle, 0, 0, frame, 1]),
        (host::VM_TOPUP, [guest.handle, frame, 1, 0, 0]),
        (host::FRAME_RECLAIM, [guest.handle, frame, 1, 0, 0]),
    ] {
        assert!(guest.rig.hvc(function, &arguments).is_err());
    }
    guest.poke(LAST, 0, 0);
    guest.refresh(0, 1).unwrap();
    let relinquish =
        |page| guest.rig.guest_hvc(guest.handle, id::MEM_RELINQUISH.into(), &[ipa(page)]);
    assert_eq!(relinquish(10).0, 0);
    assert_eq!(guest.rig.frame_state(frame), 0);
}
