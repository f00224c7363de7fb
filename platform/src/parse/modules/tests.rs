use super::*;
use crate::test_trees::{Chosen, TestTree, read, virt};
use std::vec;

const KERNEL: u64 = 0x4800_0000;
const RAMDISK: u64 = 0x5000_0000;
const SIZE: u64 = 0x1000;

/// The places of kernel and ramdisk in a tree whose `/chosen` has this in it.
fn places(chosen: Chosen) -> Result<(u64, Option<u64>), BootError> {
    let tree = TestTree { kernel: None, ramdisk: None, chosen, ..virt() };
    let info = read(&tree.build())?;
    Ok((info.kernel.range.start(), info.ramdisk.map(|ramdisk| ramdisk.range.start())))
}

fn modules(modules: &[(&'static str, u64)]) -> Chosen {
    Chosen { modules: modules.to_vec(), ..Chosen::default() }
}

/// What GRUB writes: no kind, so the order tells (Xen, booting.txt).
#[test]
fn the_first_module_without_a_kind_is_the_kernel_and_the_second_the_ramdisk() {
    let both = [("multiboot,module", KERNEL), ("multiboot,module", RAMDISK)];
    assert_eq!(places(modules(&both)), Ok((KERNEL, Some(RAMDISK))));
    assert_eq!(places(modules(&both[..1])), Ok((KERNEL, None)));
    let mixed = [("multiboot,module", RAMDISK), ("multiboot,kernel", KERNEL)];
    assert_eq!(places(modules(&mixed)), Ok((KERNEL, Some(RAMDISK))));
    let three = [both[0], both[1], ("multiboot,module", 0x6000_0000)];
    assert_eq!(places(modules(&three)), Err(BootError::SecondModule("ramdisk", 0x6000_0000)));
}

#[test]
fn xens_older_names_mean_the_same() {
    let old = [("xen,linux-initrd", RAMDISK), ("xen,linux-zimage", KERNEL)];
    assert_eq!(places(modules(&old)), Ok((KERNEL, Some(RAMDISK))));
    assert_eq!(places(modules(&[("xen,multiboot-module", KERNEL)])), Ok((KERNEL, None)));
}

#[test]
fn a_module_that_nobody_asked_for_is_refused_by_name() {
    let twice = [("multiboot,kernel", KERNEL), ("xen,linux-zimage", RAMDISK)];
    assert_eq!(places(modules(&twice)), Err(BootError::SecondModule("kernel", RAMDISK)));
    for name in ["multiboot,device-tree", "xen,xsm-policy", "xen,domain"] {
        let refused = places(modules(&[("multiboot,kernel", KERNEL), (name, RAMDISK)]));
        assert_eq!(refused, Err(BootError::UnknownModule(ArrayString::from(name).unwrap())));
    }
}

/// Devicetree Specification 2.3.6: `reg` is in the cells of the parent.
#[test]
fn the_cells_of_chosen_count() {
    for cells in [(1, 1), (2, 1), (1, 2), (2, 2)] {
        for told in [true, false] {
            let chosen = Chosen { cells, told, ..modules(&[("multiboot,kernel", KERNEL)]) };
            let found = places(chosen);
            match told || cells != (1, 2) {
                true => assert_eq!(found, Ok((KERNEL, None)), "{cells:?} {told}"),
                // As long as the default of 2 and 1, which it then is.
                false => assert_ne!(found, Ok((KERNEL, None))),
            }
        }
    }
    // A folder of its own, as Xen's wiki has it.
    let folder = Chosen {
        folder: true,
        cells: (1, 1),
        told: true,
        ..modules(&[("multiboot,module", KERNEL)])
    };
    assert_eq!(places(folder), Ok((KERNEL, None)));
}

#[test]
fn booti_s_ramdisk_is_the_hosts() {
    let with = |initrd: &[(&'static str, u64, bool)]| Chosen {
        initrd: initrd.to_vec(),
        ..modules(&[("multiboot,kernel", KERNEL)])
    };
    let (start, end) = ("linux,initrd-start", "linux,initrd-end");
    for wide in [true, false] {
        let both = [(start, RAMDISK, wide), (end, RAMDISK + SIZE, wide)];
        assert_eq!(places(with(&both)), Ok((KERNEL, Some(RAMDISK))), "{wide}");
        assert!(places(with(&both[..1])).is_err() && places(with(&both[1..])).is_err());
    }
    let none = [(start, RAMDISK, true), (end, RAMDISK, true)];
    assert_eq!(places(with(&none)), Ok((KERNEL, None)));
    let reversed = [(start, RAMDISK, true), (end, KERNEL, true)];
    assert!(matches!(places(with(&reversed)), Err(BootError::BadProperty(_))));
    // Twice the same is said twice; twice something else is one too many.
    let mut twice = with(&[(start, RAMDISK, true), (end, RAMDISK + SIZE, true)]);
    twice.modules.push(("multiboot,ramdisk", RAMDISK));
    assert_eq!(places(twice.clone()), Ok((KERNEL, Some(RAMDISK))));
    twice.modules = vec![("multiboot,kernel", KERNEL), ("multiboot,ramdisk", 0x6000_0000)];
    assert_eq!(places(twice), Err(BootError::SecondModule("ramdisk", RAMDISK)));
}

#[test]
fn command_lines_that_xen_would_find_are_found() {
    let chosen = Chosen {
        texts: vec![("xen,dom0-bootargs", "quiet"), ("xen,xen-bootargs", "log=warn")],
        ..modules(&[("multiboot,kernel", KERNEL)])
    };
    let info = read(&TestTree { kernel: None, ramdisk: None, chosen, ..virt() }.build()).unwrap();
    assert_eq!((&info.kernel.command_line[..], &info.command_line[..]), ("quiet", "log=warn"));
}
