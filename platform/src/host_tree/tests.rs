use super::*;
use crate::parse::validate;
use crate::qemu_virt::QemuVirt;
use crate::test_trees;
use dtoolkit::fdt::Fdt;

const OWN: ByteRange = ByteRange::between(0x7fc0_0000, 0x8000_0000);
const IMAGE: ByteRange = ByteRange::between(0x4020_0000, 0x4026_0000);

/// RD frames as QEMU places them.
const FRAMES: [u64; 2] = [0x80a_0000, 0x80c_0000];

fn written(firmware: &[u8]) -> Vec<u8> {
    written_with(firmware, &FRAMES)
}

fn written_with(firmware: &[u8], frames: &[u64]) -> Vec<u8> {
    let info = test_trees::read(firmware).unwrap();
    let tree = validate(firmware).unwrap();
    let written =
        write::<QemuVirt>(tree, &info, &[OWN, IMAGE], frames, None, Some(&[7; 32])).unwrap();
    every_register_is_the_hosts(&written, &info, frames);
    written
}

/// Whatever tree the host is given: each register in it answers the host, by
/// stage 2 or, an RD frame, by EL2; each CPU in it is one that bouncer drives.
fn every_register_is_the_hosts(tree: &[u8], info: &BootInfo, frames: &[u64]) {
    let mut answer = QemuVirt::host_windows(info, frames, None).to_vec();
    answer.extend(frames.iter().map(|&frame| ByteRange::between(frame, frame + 0x1_0000)));
    let answers =
        |byte: u64| answer.iter().any(|range| (range.start()..range.end()).contains(&byte));
    let tree = Fdt::new(tree).unwrap();
    let cells = parse::cells(tree.root()).unwrap();
    for node in tree.root().children() {
        match node.name_without_address() {
            "memory" | "chosen" => continue,
            "cpus" => {
                let (address_cells, _) = parse::cells(node).unwrap();
                let cpus: Vec<u64> = node
                    .children()
                    .filter(|&cpu| is_device_type(cpu, "cpu"))
                    .map(|cpu| parse::affinity(cpu, address_cells).unwrap())
                    .collect();
                assert_eq!(cpus, info.cpus.as_slice());
                continue;
            }
            _ => {}
        }
        assert!(is_enabled(node), "{}", node.name());
        let Some(reg) = node.property("reg") else { continue };
        for range in parse::ranges(reg.value(), cells) {
            let range = range.unwrap();
            for page in (range.start()..range.end()).step_by(PAGE as usize) {
                assert!(answers(page), "{}: {page:#x}", node.name());
            }
        }
    }
}

#[test]
fn the_host_sees_its_memory_its_command_line_and_its_ramdisk() {
    let tree = written(&test_trees::virt().build());
    let tree = Fdt::new(&tree).unwrap();
    let mut memory: Vec<_> = tree
        .root()
        .children()
        .filter(|node| node.name_without_address() == "memory")
        .map(|node| node.property("reg").unwrap().value().to_vec())
        .collect();
    memory.sort();
    let reg = |start: u64, end: u64| [start.to_be_bytes(), (end - start).to_be_bytes()].concat();
    assert_eq!(memory, [reg(0x4000_0000, 0x4020_0000), reg(0x4026_0000, 0x7fc0_0000)]);
    let chosen = tree.find_node("/chosen").unwrap();
    let value = |name| chosen.property(name).unwrap();
    assert_eq!(value("bootargs").value_as::<&str>(), Ok("console=ttyAMA0 quiet"));
    assert_eq!(value("linux,initrd-start").value_as::<u64>(), Ok(0x5000_0000));
    assert_eq!(value("linux,initrd-end").value_as::<u64>(), Ok(0x5123_4567));
    assert_eq!(value("rng-seed").value(), [7; 32], "its own, not the firmware's");
    assert_eq!(chosen.children().count(), 0, "boot modules are bouncer's business");
}

#[test]
fn devices_the_host_may_not_use_are_not_in_its_tree() {
    let tree = written(&test_trees::virt().build());
    let tree = Fdt::new(&tree).unwrap();
    let names: Vec<_> =
        tree.root().children().map(|node| std::string::String::from(node.name())).collect();
    for gone in ["fw-cfg@9020000", "virtio_mmio@a000000", "pcie@10000000"] {
        assert!(!names.iter().any(|name| name == gone), "{gone}");
    }
    for kept in ["pl011@9000000", "intc@8000000", "psci", "cpus", "chosen"] {
        assert!(names.iter().any(|name| name == kept), "{kept}");
    }
    assert_eq!(tree.find_node("/intc@8000000").unwrap().children().count(), 0, "no ITS");
}

/// A host's driver finds bouncer by its node. A firmware that is a hypervisor
/// itself has one, too: of what the host cannot call.
#[test]
fn the_host_is_told_that_bouncer_is_there() {
    let mut board = test_trees::virt();
    for theirs in [None, Some("xen,xen-4.17")] {
        board.hypervisor = theirs;
        let tree = written(&board.build());
        let tree = Fdt::new(&tree).unwrap();
        let found: Vec<_> = tree
            .root()
            .children()
            .filter(|node| node.name() == "hypervisor")
            .map(|node| {
                node.compatible().unwrap().map(std::string::String::from).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(found, [std::vec!["bouncer,hypervisor-1.0"]]);
    }
}

/// The clock is the host's, if nothing else is on its page.
#[test]
fn a_real_time_clock_on_pages_of_its_own_is_the_hosts() {
    let mut board = test_trees::virt();
    for (rtc, is_the_hosts) in [
        (Some((0x901_0000, 0x1000)), true),
        (Some((0x901_0800, 0x800)), false),
        (Some((0x901_0000, 0x20)), false),
        (None, false),
    ] {
        board.rtc = rtc;
        let firmware = board.build();
        let info = test_trees::read(&firmware).unwrap();
        assert_eq!(info.rtc.is_some(), is_the_hosts, "{rtc:x?}");
        let windows = QemuVirt::host_windows(&info, &FRAMES, None);
        let page = ByteRange::between(0x901_0000, 0x901_1000);
        assert_eq!(windows.iter().any(|window| window.overlaps(page)), is_the_hosts);
        let tree = written(&firmware);
        let tree = Fdt::new(&tree).unwrap();
        let mut nodes = tree.root().children().map(|node| node.name_without_address());
        assert_eq!(nodes.any(|name| name == "pl031"), is_the_hosts, "{rtc:x?}");
    }
}

/// The values of the GIC's `reg`, and how many regions of redistributors.
fn gic(tree: &[u8]) -> (Vec<ByteRange>, Option<u32>) {
    let tree = Fdt::new(tree).unwrap();
    let gic = tree.find_node("/intc@8000000").unwrap();
    let reg = gic.property("reg").unwrap();
    let count = gic.property("#redistributor-regions").map(|count| count.value_as().unwrap());
    assert!(gic.property("redistributor-stride").is_none());
    (parse::ranges(reg.value(), (2, 2)).map(Result::unwrap).collect(), count)
}

#[test]
fn the_host_is_told_of_the_redistributors_that_answer_and_of_no_other() {
    let distributor = ByteRange::between(0x800_0000, 0x801_0000);
    let region = |start, end| ByteRange::between(start, end);
    let firmware = test_trees::virt().build();
    let dense = gic(&written(&firmware));
    assert_eq!(dense, (std::vec![distributor, region(0x80a_0000, 0x80e_0000)], None));
    // GICv4: four frames each, of which two answer.
    let wide = gic(&written_with(&firmware, &[0x80a_0000, 0x80e_0000]));
    let apart = [distributor, region(0x80a_0000, 0x80c_0000), region(0x80e_0000, 0x810_0000)];
    assert_eq!(wide, (apart.to_vec(), Some(2)));
}

#[test]
fn cpus_that_bouncer_does_not_drive_are_not_in_the_hosts_tree() {
    let mut many = test_trees::virt();
    many.cpus = 11;
    many.disabled_cpus = std::vec![0, 3];
    let frames: Vec<u64> = (0..8).map(|cpu| 0x80a_0000 + 0x2_0000 * cpu).collect();
    let tree = written_with(&many.build(), &frames);
    let tree = Fdt::new(&tree).unwrap();
    assert_eq!(tree.find_node("/cpus").unwrap().children().count(), 8);
    assert!(tree.find_node("/cpus/cpu@0").is_none() && tree.find_node("/cpus/cpu@9").is_some());
    assert!(tree.find_node("/cpus/cpu-map").is_none(), "it names CPUs that are not there");
    let tree = written(&test_trees::virt().build());
    assert!(Fdt::new(&tree).unwrap().find_node("/cpus/cpu-map").is_some());
}

#[test]
fn a_second_uart_and_disabled_devices_are_not_in_the_hosts_tree() {
    let mut board = test_trees::virt();
    board.uarts = std::vec![(0x904_0000, Some("disabled")), (0x900_0000, None), (0x905_0000, None)];
    let tree = written(&board.build());
    let tree = Fdt::new(&tree).unwrap();
    let uarts: Vec<_> = tree
        .root()
        .children()
        .filter(|node| node.name_without_address() == "pl011")
        .map(|node| std::string::String::from(node.name()))
        .collect();
    assert_eq!(uarts, ["pl011@9000000"]);
}

#[test]
fn a_tree_with_short_cells_gets_short_cells() {
    let mut board = test_trees::virt();
    board.cells = (1, 1);
    let tree = written(&board.build());
    let tree = Fdt::new(&tree).unwrap();
    let memory = tree.root().children().find(|node| node.name_without_address() == "memory");
    assert_eq!(memory.unwrap().property("reg").unwrap().value().len(), 8);
    assert_eq!(
        reg((1, 1), core::iter::once(ByteRange::between(1 << 32, 2 << 32))).err(),
        Some(BootError::BadProperty("#address-cells or #size-cells"))
    );
}

#[test]
fn memory_the_firmware_has_reserved_is_not_the_hosts() {
    let firmware = test_trees::virt().build();
    let info = test_trees::read(&firmware).unwrap();
    let kept = [OWN, ByteRange::between(0x4400_0000, 0x4410_0000)];
    let free = host_memory(&info, &kept).unwrap();
    let all: u64 = free.iter().map(|piece| piece.size()).sum();
    assert_eq!(all, 0x4000_0000 - 0x10_0000 - OWN.size());
}
