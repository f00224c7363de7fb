use super::*;
use crate::parse::validate;
use crate::qemu_virt::QemuVirt;
use crate::test_trees;
use dtoolkit::fdt::Fdt;

const OWN: ByteRange = ByteRange::between(0x7fc0_0000, 0x8000_0000);
const IMAGE: ByteRange = ByteRange::between(0x4020_0000, 0x4026_0000);

fn written(firmware: &[u8]) -> Vec<u8> {
    let info = test_trees::read(firmware).unwrap();
    write::<QemuVirt>(validate(firmware).unwrap(), &info, &[OWN, IMAGE], Some(&[7; 32])).unwrap()
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

#[test]
fn memory_the_firmware_has_reserved_is_not_the_hosts() {
    let firmware = test_trees::virt().build();
    let info = test_trees::read(&firmware).unwrap();
    let kept = [OWN, ByteRange::between(0x4400_0000, 0x4410_0000)];
    let free = host_memory(&info, &kept).unwrap();
    let all: u64 = free.iter().map(|piece| piece.size()).sum();
    assert_eq!(all, 0x4000_0000 - 0x10_0000 - OWN.size());
}
