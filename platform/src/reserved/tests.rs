//! Trees of several boards: what of their RAM is left to firmware.

use super::*;
use crate::carve::{carve, place};
use crate::host_tree;
use crate::qemu_virt::QemuVirt;
use crate::test_trees::{ReservedNode, TestTree, read, virt};
use std::vec::Vec;

const IMAGE: ByteRange = ByteRange::between(0x4020_0000, 0x4026_0000);
const TREE: ByteRange = ByteRange::between(0x4700_0000, 0x4700_9000);

fn node(ranges: &[(u64, u64)]) -> ReservedNode {
    ReservedNode { ranges: bytes(ranges), property: None }
}

fn bytes(ranges: &[(u64, u64)]) -> Vec<ByteRange> {
    ranges.iter().map(|(start, end)| ByteRange::between(*start, *end)).collect()
}

/// What firmware keeps of this board.
fn kept(tree: &TestTree) -> Result<Vec<ByteRange>, BootError> {
    let info = read(&tree.build())?;
    firmware(&info, IMAGE, TREE).map(|kept| kept.to_vec())
}

fn refused(tree: &TestTree) -> &'static str {
    match kept(tree) {
        Err(BootError::Overlap(what, WHAT)) => what,
        other => panic!("{other:x?}"),
    }
}

#[test]
fn a_machine_that_reserves_nothing_keeps_nothing() {
    assert_eq!(kept(&virt()), Ok(Vec::new()));
}

/// DTSpec 3.5: a node reserves with its `reg`, whatever else it says: `no-map`
/// or `reusable`, one range or several.
#[test]
fn nodes_of_every_kind_reserve_what_they_name() {
    let no_map = ReservedNode {
        ranges: bytes(&[(0x6000_0000, 0x6020_0000), (0x7000_0000, 0x7000_1000)]),
        property: Some(("no-map", &[])),
    };
    let reusable = ReservedNode {
        ranges: bytes(&[(0x5800_0000, 0x5900_0000)]),
        property: Some(("reusable", &[])),
    };
    let tree = TestTree { nodes: std::vec![no_map, reusable], ..virt() };
    let expected =
        [(0x5800_0000, 0x5900_0000), (0x6000_0000, 0x6020_0000), (0x7000_0000, 0x7000_1000)];
    assert_eq!(kept(&tree), Ok(bytes(&expected)));
}

/// A pool that the operating system places, and a node that is switched off.
#[test]
fn a_node_without_a_place_or_disabled_reserves_nothing() {
    let pool = ReservedNode { ranges: Vec::new(), property: Some(("size", &[0, 0x40, 0, 0])) };
    let off = ReservedNode {
        ranges: bytes(&[(0x6000_0000, 0x6020_0000)]),
        property: Some(("status", b"disabled\0")),
    };
    assert_eq!(kept(&TestTree { nodes: std::vec![pool, off], ..virt() }), Ok(Vec::new()));
}

#[test]
fn addresses_are_as_wide_as_the_node_says() {
    for node_cells in [[1, 1], [2, 1], [1, 2], [2, 2]] {
        let nodes = std::vec![node(&[(0x6000_0000, 0x6020_0000), (0x6400_0000, 0x6400_1000)])];
        let expected = bytes(&[(0x6000_0000, 0x6020_0000), (0x6400_0000, 0x6400_1000)]);
        assert_eq!(kept(&TestTree { nodes, node_cells, ..virt() }), Ok(expected), "{node_cells:?}");
    }
}

/// The same memory in both ways, in pieces that overlap or touch.
#[test]
fn what_is_reserved_twice_is_kept_once() {
    let tree = TestTree {
        entries: bytes(&[(0x6000_0000, 0x6001_0000), (0x6001_0000, 0x6002_0000)]),
        nodes: std::vec![node(&[(0x6000_8000, 0x6003_0000)]), node(&[(0x6000_8000, 0x6000_9000)])],
        ..virt()
    };
    assert_eq!(kept(&tree), Ok(bytes(&[(0x6000_0000, 0x6003_0000)])));
}

#[test]
fn a_page_that_is_partly_reserved_is_kept_whole() {
    let entries = bytes(&[(0x6000_0ff0, 0x6000_1001), (0x6800_0800, 0x6800_0801)]);
    let expected = bytes(&[(0x6000_0000, 0x6000_2000), (0x6800_0000, 0x6800_1000)]);
    assert_eq!(kept(&TestTree { entries, ..virt() }), Ok(expected));
}

/// A board with its firmware at the start of DRAM, a hole between its banks, a
/// second bank above 4 GiB, secure SRAM outside DRAM, and its UART elsewhere:
/// as boards with an application and a system processor have it.
#[test]
fn a_board_with_firmware_in_dram_and_several_banks() {
    let board = TestTree {
        banks: bytes(&[
            (0x4000_0000, 0x5f00_0000),
            (0x6000_0000, 0x8000_0000),
            (0x1_0000_0000, 0x1_8000_0000),
        ]),
        uarts: std::vec![(0x2a40_0000, None)],
        entries: bytes(&[(0x4000_0000, 0x4008_0000)]),
        nodes: std::vec![
            node(&[(0x400_0000, 0x404_0000)]),
            // Over the hole into the next bank, and the end of the last.
            node(&[(0x5eff_0000, 0x6000_1000)]),
            node(&[(0x1_7ff0_0000, 0x1_8000_0000)]),
        ],
        ..virt()
    };
    let tree = board.build();
    let info = read(&tree).unwrap();
    assert_eq!(info.uart.start(), 0x2a40_0000);
    let expected = bytes(&[
        (0x4000_0000, 0x4008_0000),
        (0x5eff_0000, 0x5f00_0000),
        (0x6000_0000, 0x6000_1000),
        (0x1_7ff0_0000, 0x1_8000_0000),
    ]);
    let firmware = firmware(&info, IMAGE, TREE).unwrap();
    assert_eq!(firmware[..], expected);
    // bouncer's own memory is not in it, and the host is told of none of it.
    let placed = place(&info, IMAGE, TREE, 0, &firmware).unwrap();
    let own = carve(&info, &placed, &firmware, 0x40_0000, 0x1000, u64::MAX).unwrap();
    assert_eq!(own.end(), 0x1_7ff0_0000);
    let all: Vec<_> = firmware.iter().copied().chain([IMAGE, own]).collect();
    let parsed = crate::parse::validate(&tree).unwrap();
    let hosts = host_tree::write::<QemuVirt>(parsed, &info, &all, &[], None, None).unwrap();
    let hosts = read_memory(&hosts);
    assert!(hosts.iter().all(|free| all.iter().all(|kept| !kept.overlaps(*free))), "{hosts:x?}");
    let sum = |ranges: &[ByteRange]| ranges.iter().map(|range| range.size()).sum::<u64>();
    assert_eq!(sum(&hosts), sum(&info.memory) - sum(&all));
}

fn read_memory(tree: &[u8]) -> Vec<ByteRange> {
    let tree = Fdt::new(tree).unwrap();
    let nodes = tree.root().children().filter(|node| node.name().starts_with("memory@"));
    nodes
        .map(|node| ranges(node.property("reg").unwrap().value(), (2, 2)).next().unwrap().unwrap())
        .collect()
}

/// U-Boot's `booti` reserves the tree and the ramdisk it hands over. Both are
/// the host's to read and to reuse, as DTSpec 5.3.2 allows it.
#[test]
fn an_entry_about_the_tree_or_the_ramdisk_is_no_reservation() {
    let ramdisk = virt().ramdisk.unwrap();
    let tree = TestTree { entries: std::vec![TREE, ramdisk], ..virt() };
    assert_eq!(kept(&tree), Ok(Vec::new()));
    // Shorter than the thing, and padded to its last page.
    let entries = bytes(&[
        (TREE.start(), TREE.end() - 1),
        (ramdisk.start(), ramdisk.end().next_multiple_of(PAGE)),
    ]);
    assert_eq!(kept(&TestTree { entries, ..virt() }), Ok(Vec::new()));
    // What goes on behind it is not about it any more.
    let entries = bytes(&[(TREE.start(), TREE.end() + 0x2000)]);
    let behind = ByteRange::between(TREE.end(), TREE.end() + 0x2000);
    assert_eq!(kept(&TestTree { entries, ..virt() }), Ok(std::vec![behind]));
    // A copy that lies elsewhere was not handed over.
    let entries = bytes(&[(0x6000_0000, 0x6000_9000)]);
    assert_eq!(kept(&TestTree { entries: entries.clone(), ..virt() }), Ok(entries));
}

/// A node is never about what was handed over; nor is an entry in which the
/// thing lies somewhere.
#[test]
fn what_was_handed_over_inside_reserved_memory_is_refused_by_name() {
    let kernel = virt().kernel.unwrap();
    let ramdisk = virt().ramdisk.unwrap();
    for (range, name) in [
        (TREE, "the device tree"),
        (ramdisk, "the ramdisk"),
        (kernel, "the host kernel"),
        (IMAGE, "bouncer's image"),
    ] {
        let nodes = || std::vec![ReservedNode { ranges: std::vec![range], property: None }];
        assert_eq!(refused(&TestTree { nodes: nodes(), ..virt() }), name);
        let around = ByteRange::between(range.start() - PAGE, range.end());
        assert_eq!(refused(&TestTree { entries: std::vec![around], ..virt() }), name);
        // In the last page of it.
        let last = ByteRange::between(range.end() - 1, range.end());
        assert_eq!(refused(&TestTree { entries: std::vec![last], ..virt() }), name);
    }
    // No loader needs to reserve the kernel that it starts.
    assert_eq!(refused(&TestTree { entries: std::vec![kernel], ..virt() }), "the host kernel");
    // And the memory that the kernel's header asks for beyond its file.
    let entries = std::vec![ByteRange::between(kernel.end() + 0x1000, kernel.end() + 0x2000)];
    let info = read(&TestTree { entries, ..virt() }.build()).unwrap();
    let firmware = firmware(&info, IMAGE, TREE).unwrap();
    let placed = place(&info, IMAGE, TREE, kernel.size() + 0x10_0000, &firmware);
    assert_eq!(placed, Err(BootError::Overlap("the host kernel", WHAT)));
}

#[test]
fn more_reservations_than_there_is_room_for_are_refused() {
    let many = |count: u64| {
        let at = |number| (0x6000_0000 + number * 0x2000, 0x6000_1000 + number * 0x2000);
        TestTree { nodes: (0..count).map(|number| node(&[at(number)])).collect(), ..virt() }
    };
    let all = kept(&many(MAX_RESERVATIONS as u64)).unwrap();
    assert_eq!(all.len(), MAX_RESERVATIONS);
    let more = kept(&many(MAX_RESERVATIONS as u64 + 1));
    assert_eq!(more, Err(BootError::TooMany("memory reservations")));
}

#[test]
fn a_reservation_that_wraps_or_is_cut_off_is_refused() {
    let tree = TestTree { nodes: std::vec![node(&[(u64::MAX - 0x800, u64::MAX)])], ..virt() };
    assert_eq!(kept(&tree), Err(BootError::BadProperty("memory reservation")));
    let good = TestTree { nodes: std::vec![node(&[(0x6000_0000, 0x6000_1000)])], ..virt() };
    // A `reg` of sixteen bytes in cells of which one range takes twelve.
    let mut wrong = good.build();
    let size_cells: Vec<_> =
        (0..wrong.len() - 4).filter(|&at| wrong[at..at + 4] == 2u32.to_be_bytes()).collect();
    let mut refused = false;
    for at in size_cells {
        wrong[at + 3] = 1;
        refused |= kept_of(&wrong) == Err(BootError::BadProperty("reg"));
        wrong[at + 3] = 2;
    }
    assert!(refused);
}

fn kept_of(tree: &[u8]) -> Result<Vec<ByteRange>, BootError> {
    read(tree).and_then(|info| firmware(&info, IMAGE, TREE)).map(|kept| kept.to_vec())
}
