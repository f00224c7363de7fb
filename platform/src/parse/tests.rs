use super::*;
use crate::host_tree;
use crate::qemu_virt::QemuVirt;
use crate::test_trees::{TestTree, read, virt};
use std::vec::Vec;

#[test]
fn a_virt_machine_is_understood() {
    let info = read(&virt().build()).unwrap();
    assert_eq!(info.memory.as_slice(), [ByteRange::between(0x4000_0000, 0x8000_0000)]);
    assert_eq!(info.cpus.as_slice(), [0, 1]);
    assert_eq!(info.conduit, Conduit::Smc);
    assert_eq!(info.distributor, ByteRange::between(0x800_0000, 0x801_0000));
    assert_eq!(info.redistributors.as_slice(), [ByteRange::between(0x80a_0000, 0x900_0000)]);
    assert_eq!(info.redistributor_stride, Some(0x2_0000));
    assert_eq!(info.uart.start(), 0x900_0000);
    assert_eq!(info.kernel.range, ByteRange::between(0x4800_0000, 0x4810_0000));
    assert_eq!(&info.kernel.command_line, "console=ttyAMA0 quiet");
    assert_eq!(info.ramdisk.unwrap().range.end(), 0x5123_4567);
    assert_eq!(&info.command_line, "log=debug");
}

#[test]
fn a_machine_bouncer_cannot_run_on_is_refused_by_name() {
    let refused = |tree: TestTree| read(&tree.build()).unwrap_err();
    assert_eq!(refused(TestTree { gic: "arm,cortex-a15-gic", ..virt() }), BootError::NoGicV3);
    assert_eq!(refused(TestTree { kernel: None, ..virt() }), BootError::NoKernel);
    assert_eq!(
        refused(TestTree { conduit: "smoke", ..virt() }),
        BootError::BadProperty("psci method")
    );
    assert_eq!(refused(TestTree { banks: Vec::new(), ..virt() }), BootError::Missing("memory"));
    assert_eq!(refused(TestTree { cpus: 0, ..virt() }), BootError::Missing("CPU under /cpus"));
}

#[test]
fn cpus_beyond_the_limit_stay_off_and_are_counted() {
    let info = read(&TestTree { cpus: 11, ..virt() }.build()).unwrap();
    assert_eq!((info.cpus.len(), info.cpus_left_off), (MAX_CPUS, 11 - MAX_CPUS));
}

/// DTSpec 3.8.1: a CPU that is not "okay" does not run, so bouncer drives none.
#[test]
fn a_boot_cpu_that_the_tree_does_not_let_run_is_refused() {
    let info = read(&TestTree { cpus: 3, disabled_cpus: std::vec![1], ..virt() }.build()).unwrap();
    assert_eq!(info.cpus.as_slice(), [0, 2]);
    assert_eq!((info.boot_cpu(0), info.boot_cpu(2)), (Ok(0), Ok(1)));
    assert_eq!(info.boot_cpu(1), Err(BootError::ForeignBootCpu(1)));
    let crowd = read(&TestTree { cpus: 11, ..virt() }.build()).unwrap();
    assert_eq!(crowd.boot_cpu(9), Err(BootError::ForeignBootCpu(9)));
}

#[test]
fn memory_that_is_told_of_twice_is_there_once() {
    const MIB: u64 = 0x10_0000;
    let banks = |banks: &[(u64, u64)]| {
        let bank =
            |&(start, end)| ByteRange::between(0x4000_0000 + start * MIB, 0x4000_0000 + end * MIB);
        let tree = TestTree { banks: banks.iter().map(bank).collect(), ..virt() };
        let in_mib = |bank: &ByteRange| {
            ((bank.start() - 0x4000_0000) / MIB, (bank.end() - 0x4000_0000) / MIB)
        };
        read(&tree.build()).map(|info| info.memory.iter().map(in_mib).collect::<Vec<_>>())
    };
    assert_eq!(banks(&[(0, 512), (128, 256)]), Ok(std::vec![(0, 512)]));
    assert_eq!(banks(&[(128, 256), (0, 512)]), Ok(std::vec![(0, 512)]));
    assert_eq!(banks(&[(0, 200), (400, 512), (100, 420)]), Ok(std::vec![(0, 512)]));
    assert_eq!(banks(&[(256, 512), (0, 256)]), Ok(std::vec![(0, 512)]));
    assert_eq!(banks(&[(256, 512), (0, 128)]), Ok(std::vec![(0, 128), (256, 512)]));
    // As many as one likes of the same, no more than eight apart.
    let apart: Vec<_> = (0..8).map(|bank| (64 * bank, 64 * bank + 32)).collect();
    let mut twice = apart.clone();
    twice.extend(&apart);
    assert_eq!(banks(&twice), Ok(apart.clone()));
    let nine: Vec<_> = (0..9).map(|bank| (64 * bank, 64 * bank + 32)).collect();
    assert_eq!(banks(&nine), Err(BootError::TooMany("memory banks")));
}

#[test]
fn the_console_is_where_the_tree_says() {
    let uart = |uarts: &[(u64, Option<&'static str>)], stdout| {
        let tree = TestTree { uarts: uarts.to_vec(), stdout, ..virt() };
        read(&tree.build()).map(|info| info.uart.start())
    };
    let two = [(0x904_0000, None), (0x900_0000, None)];
    assert_eq!(uart(&two, "/pl011@9000000"), Ok(0x900_0000));
    assert_eq!(uart(&two, "/pl011@9040000:115200n8"), Ok(0x904_0000));
    assert_eq!(uart(&[two[0], (0x905_0000, None)], "serial0:9600"), Ok(0x905_0000));
    assert_eq!(uart(&two, "/nowhere"), Ok(0x904_0000));
    let disabled = [(0x904_0000, Some("disabled")), (0x900_0000, Some("okay"))];
    assert_eq!(uart(&disabled, "/pl011@9040000"), Ok(0x900_0000));
    assert_eq!(uart(&disabled[..1], ""), Err(BootError::Missing("PL011")));
}

#[test]
fn a_header_without_the_magic_or_with_an_absurd_size_is_no_tree() {
    assert_eq!(tree_size([0; 8]), Err(BootError::NoTree));
    let huge = tree_size([0xd0, 0x0d, 0xfe, 0xed, 0xff, 0, 0, 0]);
    assert_eq!(huge, Err(BootError::TreeTooLong(0xff00_0000)));
    assert_eq!(tree_size([0xd0, 0x0d, 0xfe, 0xed, 0, 0x20, 0, 0]), Ok(MAX_TREE_SIZE));
    let above = tree_size([0xd0, 0x0d, 0xfe, 0xed, 0, 0x20, 0, 1]);
    assert_eq!(above, Err(BootError::TreeTooLong(MAX_TREE_SIZE + 1)));
    assert_eq!(tree_size([0xd0, 0x0d, 0xfe, 0xed, 0, 0, 0x20, 0]), Ok(0x2000));
}

#[test]
fn truncated_trees_are_refused_at_every_length() {
    let tree = virt().build();
    for length in 0..tree.len() {
        assert!(read(&tree[..length]).is_err(), "{length} bytes were enough");
    }
}

/// Every single byte set to each of a few values that make lengths, offsets
/// and tokens wrong: whatever the answer is, it is an answer.
#[test]
fn mutated_trees_never_panic() {
    let tree = virt().build();
    let mut refused = 0;
    for at in 0..tree.len() {
        for value in [0x00, 0x01, 0x02, 0x03, 0x04, 0x09, 0x7f, 0x80, 0xff] {
            let mut mutant = tree.clone();
            mutant[at] = value;
            match read(&mutant) {
                Err(_) => refused += 1,
                // What is accepted must also survive being rewritten.
                Ok(info) => {
                    let tree = validate(&mutant).unwrap();
                    let _ = host_tree::write::<QemuVirt>(tree, &info, &[], &[], None, None);
                }
            }
        }
    }
    assert!(refused > 1000, "only {refused} mutants were refused");
}

#[test]
fn the_firmwares_random_bytes_are_found_where_they_are() {
    let tree = virt().build();
    let seed = read(&tree).unwrap().seed.unwrap();
    assert_eq!(seed.bytes[..], crate::test_trees::SEED);
    assert_eq!(tree[seed.place.clone()], crate::test_trees::SEED);
    let mut without = tree.clone();
    let name = without.windows(9).position(|name| name == b"rng-seed\0").unwrap();
    without[name] = b'x';
    assert_eq!(read(&without).unwrap().seed, None);
}
