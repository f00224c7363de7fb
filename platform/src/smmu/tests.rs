use super::*;
use crate::boot_info::BootInfo;
use crate::host_tree;
use crate::parse::validate;
use crate::qemu_virt::QemuVirt;
use crate::range::ByteRange;
use crate::test_trees::{self, TestSmmu, TestTree, read, virt};
use dtoolkit::Node;
use dtoolkit::fdt::Fdt;
use std::vec::Vec;

const LIMIT: u64 = 0x60_0000_0000;
/// What QEMU 10.0's says.
const QEMU: Identification = Identification { idr0: 0xd44_101b, idr1: 0x273_0010, idr5: 0x74 };

fn with(smmu: TestSmmu) -> TestTree {
    TestTree { smmu: Some(smmu), ..virt() }
}

fn found(tree: &TestTree) -> Result<Option<Smmu>, Unfit> {
    let bytes = tree.build();
    let info: BootInfo = read(&bytes).unwrap();
    find(validate(&bytes).unwrap(), &info, LIMIT)
}

#[test]
fn the_smmu_of_qemu_and_what_is_behind_it_are_found() {
    let smmu = found(&with(test_trees::smmu())).unwrap().unwrap();
    assert_eq!(smmu.registers, ByteRange::between(0x905_0000, 0x907_0000));
    assert_eq!(smmu.bridge.last_bus, 15);
    assert_eq!(smmu.bridge.windows.len(), 3, "configuration space, ports, BARs");
    assert_eq!(found(&virt()), Ok(None));
}

#[test]
fn a_bridge_that_is_not_wholly_behind_it_is_refused() {
    let base = test_trees::smmu;
    for iommu_map in [
        // Not all buses; another number; another SMMU; in two pieces; none.
        std::vec![0, 0x8004, 0, 0xfff],
        std::vec![0, 0x8004, 1, 0x1_0000],
        std::vec![8, 0x8004, 8, 0x1_0000],
        std::vec![0, 0x8003, 0, 0x1_0000],
        std::vec![0, 0x8004, 0, 0x800, 0x800, 0x8004, 0x800, 0x800],
        Vec::new(),
    ] {
        let refused = found(&with(TestSmmu { iommu_map, ..base() }));
        assert!(matches!(refused, Err(Unfit::Described(what)) if what.contains("iommu-map")));
    }
}

#[test]
fn a_window_over_memory_or_a_device_of_el2s_is_refused() {
    let base = test_trees::smmu;
    let refused = |at, size| {
        let windows = std::vec![(0x3eff_0000, 0x1_0000), (at, size)];
        matches!(found(&with(TestSmmu { windows, ..base() })), Err(Unfit::Described(_)))
    };
    assert!(!refused(0x1000_0000, 0x10_0000));
    for (at, size, what) in [
        (0x3fff_f000, 0x2000, "RAM"),
        (0x4000_0000, 0x4000_0000, "all RAM"),
        (0x905_0000, 0x1000, "the SMMU"),
        (0x906_f000, 0x1000, "its second page"),
        (0x800_0000, 0x1_0000, "the distributor"),
        (0x80a_0000, 0x1_0000, "a redistributor"),
        (0x900_0000, 0x1000, "the UART"),
        (0x3eff_8000, 0x1000, "the ports"),
        (0x3f00_0000, 0x1000, "configuration space"),
        (0x1000_0800, 0x1000, "half a page"),
        (0x80_0000_0000, 0x80_0000_0000, "beyond 39 bits"),
        (u64::MAX - 0xfff, 0x2000, "around the end"),
    ] {
        assert!(refused(at, size), "{what}");
    }
    for registers in [(0x905_0000, 0x1_0000), (0x3fff_0000, 0x2_0000), (0x905_0800, 0x2_0000)] {
        let refused = found(&with(TestSmmu { registers, ..base() }));
        assert!(matches!(refused, Err(Unfit::Described(_))), "{registers:x?}");
    }
}

#[test]
fn an_smmu_that_cannot_do_it_is_refused_by_what_it_lacks() {
    assert_eq!(QEMU.check(15), Ok(()));
    let lacks = |id: Identification| match id.check(15) {
        Err(Unfit::Lacks(what)) => what.split(' ').next().unwrap_or_default(),
        other => panic!("{id:x?}: {other:?}"),
    };
    let idr0 = |flip: u32| Identification { idr0: QEMU.idr0 ^ flip, ..QEMU };
    let idr1 = |idr1: u32| Identification { idr1, ..QEMU };
    let idr5 = |flip: u32| Identification { idr5: QEMU.idr5 ^ flip, ..QEMU };
    assert_eq!(lacks(idr0(1)), "stage");
    assert_eq!(lacks(idr0(1 << 3)), "tables");
    assert_eq!(lacks(idr0(1 << 4)), "coherent");
    assert_eq!(lacks(idr0(1 << 21)), "little-endian");
    assert_eq!(lacks(idr0(0b11 << 24)), "way");
    assert_eq!(lacks(idr0(1 << 27)), "stream");
    assert_eq!(lacks(idr1(QEMU.idr1 | 1 << 29)), "tables");
    assert_eq!(lacks(idr1(QEMU.idr1 | 1 << 30)), "tables");
    assert_eq!(lacks(idr1(0x0073_0010)), "command");
    assert_eq!(lacks(idr1(0x0266_0010)), "event");
    assert_eq!(lacks(idr1(0x0273_000b)), "room");
    // 32 and 36 bits, and a number that no size has.
    assert_eq!([4, 5, 3].map(|flip| lacks(idr5(flip))), ["addresses"; 3]);
    assert_eq!(lacks(idr5(1 << 4)), "pages");
}

/// Fields by their place in the whole entry (5.2), as a reader of the
/// specification finds them.
#[test]
fn a_streams_entry_says_stage_2_and_nothing_else() {
    let root = 0x4_5678_9000;
    let entry = stream(root);
    let field = |high: usize, low: usize| {
        let word = entry[low / 64] >> (low % 64);
        word & ((1 << (high - low + 1)) - 1)
    };
    assert_eq!((field(0, 0), field(3, 1)), (1, 0b110), "valid; stage 1 bypassed, stage 2 on");
    assert_eq!(field(93, 92), 0, "EATS: no ATS");
    assert_eq!(field(109, 108), 0b01, "SHCFG");
    assert_eq!((field(143, 128), field(165, 160), field(167, 166)), (1, 25, 1));
    assert_eq!((field(169, 168), field(171, 170), field(173, 172)), (1, 1, 3));
    assert_eq!((field(175, 174), field(178, 176), field(179, 179)), (0, 2, 1));
    assert_eq!((field(180, 180), field(181, 181)), (0, 1), "little-endian; AF not used");
    assert_eq!((field(183, 183), field(184, 184), field(185, 185), field(186, 186)), (0, 0, 0, 1));
    assert_eq!(entry[3], root, "S2TTB");
    assert_eq!(entry[4..], [0; 4]);
}

#[test]
fn the_first_level_is_a_bus_each() {
    assert_eq!(QEMU.stream_table(), 0x1_0210, "two levels, split at 8, 16 bits");
    assert_eq!(first_level(0x4000_4000), 0x4000_4009, "2^(9 - 1) entries");
    assert_eq!(1 << first_level_bits(), 256);
}

#[test]
fn commands_are_the_specifications() {
    assert_eq!(Command::ForgetStreams.words(), [0x04, 31]);
    assert_eq!(Command::ForgetAll.words(), [0x30, 0]);
    assert_eq!(Command::ForgetHost.words(), [0x1_0000_0028, 0]);
    assert_eq!(Command::ForgetPage(0x4567_8000).words(), [0x1_0000_002a, 0x4567_8001]);
    assert_eq!(Command::Sync.words(), [0x46, 0]);
}

#[test]
fn an_event_names_the_stream_the_address_and_the_direction() {
    let read = fault([0x8_0000_0010, 1 << 35, 0x4567_8010, 0x4567_8000]);
    let expected = Fault { stream: 8, event: 0x10, write: false, address: 0x4567_8010 };
    assert_eq!(read, expected);
    assert_eq!(fault([0x8_0000_0010, 0, 0x4567_8010, 0]), Fault { write: true, ..expected });
    // C_BAD_STREAMID: no address.
    let unknown = fault([0x10_0000_0002, 0, 0x4567_8010, 0]);
    assert_eq!((unknown.stream, unknown.event, unknown.address), (16, 2, 0));
}

#[test]
fn the_hosts_tree_has_the_bridge_without_its_smmu_and_its_msis() {
    let bytes = with(test_trees::smmu()).build();
    let (info, tree) = (read(&bytes).unwrap(), validate(&bytes).unwrap());
    let smmu = find(tree, &info, LIMIT).unwrap().unwrap();
    let written =
        |bridge| host_tree::write::<QemuVirt>(tree, &info, &[], &[], bridge, None).unwrap();
    let hosts = written(Some(&smmu.bridge));
    let hosts = Fdt::new(&hosts).unwrap();
    let bridge = hosts.find_node("/pcie@10000000").unwrap();
    for kept in ["compatible", "reg", "ranges", "bus-range", "device_type"] {
        assert!(bridge.property(kept).is_some(), "{kept}");
    }
    for gone in ["iommu-map", "msi-map"] {
        assert!(bridge.property(gone).is_none(), "{gone}");
    }
    assert!(hosts.find_node("/smmuv3@9050000").is_none());
    // Without an SMMU that is good for it there is no bridge.
    let without = written(None);
    assert!(Fdt::new(&without).unwrap().find_node("/pcie@10000000").is_none());
}
