//! Whatever the firmware hands over: a message or a start, never a panic.
//!
//! A tree is written as QEMU writes it but with the fuzzer's numbers, then
//! some of its bytes are changed; or the bytes are the tree. What comes out at
//! the other end must fit together: bouncer's memory is free RAM, and the host
//! is told of no memory that is not its own.

mod trees;

use dtoolkit::fdt::Fdt;
use dtoolkit::{Node, Property};
use hyp::sim::walk::Choices;
use platform::carve::{carve, place};
use platform::parse::{TREE_HEADER_SIZE, parse, tree_size, validate};
use platform::qemu_virt::QemuVirt;
use platform::{
    BootInfo, ByteRange, Platform, command_line, gicv3, host_tree, image, reserved, smmu,
};

const PAGE: u64 = 4096;
/// Where addresses end that the host can have.
const ADDRESSES: u64 = 0x60_0000_0000;
const BOUNCER: ByteRange = ByteRange::between(0x4020_0000, 0x4026_0000);

/// Boots as far as arithmetic goes.
pub(crate) fn run(mut choices: Choices<'_>) {
    let tree = if choices.one_in(4) {
        let length = choices.below(1024);
        choices.note(format_args!("{length} bytes that may be no tree"));
        (0..length).map(|_| choices.below(256) as u8).collect()
    } else {
        trees::mutated(&mut choices)
    };
    let header = tree.first_chunk::<TREE_HEADER_SIZE>().copied().unwrap_or_default();
    let size = tree_size(header).unwrap_or(0) as usize;
    let tree = if choices.one_in(8) { &tree[..] } else { tree.get(..size).unwrap_or(&tree) };
    match validate(tree).and_then(parse) {
        Err(error) => choices.note(format_args!("refused: {error}")),
        Ok(info) => {
            choices.note(format_args!("{info:x?}"));
            plausible(&info);
            boot(&mut choices, tree, &info);
        }
    }
    modules(&mut choices);
}

/// What the fields of [`BootInfo`] promise.
fn plausible(info: &BootInfo) {
    assert!(!info.memory.is_empty() && !info.cpus.is_empty());
    for (index, bank) in info.memory.iter().enumerate() {
        assert!(bank.start().is_multiple_of(PAGE) && bank.size().is_multiple_of(PAGE));
        assert!(!bank.is_empty());
        assert!(info.memory.iter().skip(index + 1).all(|other| bank.end() <= other.start()));
    }
    assert!(!info.kernel.range.is_empty());
    let _ = command_line::verbosity(&info.command_line);
    let _ = QemuVirt::host_windows(info, &frames(info), None);
}

/// RD frames as they may be found: one per CPU from the first region on.
fn frames(info: &BootInfo) -> Vec<u64> {
    let first = info.redistributors.first().map_or(0, |region| region.start());
    let stride = info.redistributor_stride.unwrap_or(0x2_0000);
    let frame = |cpu: u64| first.checked_add(stride.checked_mul(cpu)?);
    (0..info.cpus.len() as u64).filter_map(frame).collect()
}

fn boot(choices: &mut Choices<'_>, tree: &[u8], info: &BootInfo) {
    let at = choices.pick(&[0x4700_0000, 0x4020_0000, 0x7fff_f000, u64::MAX - 0x1000]);
    let Some(place_of_tree) = ByteRange::new(at, tree.len() as u64) else { return };
    let kernel_size = choices.pick(&[0, 0x20_0000, 0x1000_0000, u64::MAX]);
    let firmware = match reserved::firmware(info, BOUNCER, place_of_tree) {
        Ok(firmware) => firmware,
        Err(error) => return choices.note(format_args!("refused: {error}")),
    };
    reserved_is_kept(info, &firmware, place_of_tree);
    let placed = match place(info, BOUNCER, place_of_tree, kernel_size, &firmware) {
        Ok(placed) => placed,
        Err(error) => return choices.note(format_args!("refused: {error}")),
    };
    for (index, (range, name)) in placed.iter().enumerate() {
        assert!(info.memory.iter().any(|bank| bank.contains(*range)), "{name} is outside RAM");
        let apart = |(other, _): &(ByteRange, &str)| !range.overlaps(*other);
        assert!(placed.iter().skip(index + 1).all(apart), "{name} overlaps another");
    }
    let size = choices.pick(&[PAGE, 0x10_0000, 0x4000_0000, 1 << 40]);
    let align = choices.pick(&[PAGE, 0x20_0000]);
    let limit = choices.pick(&[u64::MAX, 1 << 38, 0x4800_0000, 0]);
    let own = match carve(info, &placed, &firmware, size, align, limit) {
        Ok(own) => own,
        Err(error) => return choices.note(format_args!("refused: {error}")),
    };
    choices.note(format_args!("bouncer's memory: {own:x?}"));
    assert_eq!((own.size(), own.start() % align), (size, 0));
    assert!(own.end() <= limit && info.memory.iter().any(|bank| bank.contains(own)));
    assert!(placed.iter().all(|(range, _)| !range.overlaps(own)));
    let mut kept = vec![BOUNCER, own];
    kept.extend_from_slice(&firmware);
    let apart = |(at, range): (usize, &ByteRange)| {
        kept.iter().skip(at + 1).all(|other| !range.overlaps(*other))
    };
    assert!(kept.iter().enumerate().all(apart), "{kept:x?}");
    host_sees(choices, tree, info, &kept);
}

/// Every byte of RAM that the tree reserves is firmware's, but for what an
/// entry of the block says of the tree and the ramdisk.
fn reserved_is_kept(info: &BootInfo, firmware: &[ByteRange], tree: ByteRange) {
    let handed = |range: ByteRange| {
        let ramdisk = info.ramdisk.as_ref().map(|ramdisk| ramdisk.range);
        let mut both = [Some(tree), ramdisk].into_iter().flatten();
        both.any(|thing| thing.start() == range.start())
    };
    for reservation in &info.reserved {
        let range = reservation.range;
        if reservation.kind == reserved::Kind::Entry && handed(range) {
            continue;
        }
        for bank in info.memory.iter().filter(|bank| bank.overlaps(range)) {
            let first = range.start().max(bank.start());
            let last = range.end().min(bank.end()) - 1;
            let kept = |at| firmware.iter().any(|run| (run.start()..run.end()).contains(&at));
            assert!(kept(first) && kept(last), "{reservation:x?} is not firmware's");
        }
    }
}

/// The host's tree is one, and names no memory that is not the host's.
fn host_sees(choices: &mut Choices<'_>, tree: &[u8], info: &BootInfo, kept: &[ByteRange]) {
    let firmware = validate(tree).expect("it was valid before");
    let smmu = smmu::find(firmware, info, ADDRESSES).unwrap_or_else(|unfit| {
        choices.note(format_args!("no PCIe: {unfit}"));
        None
    });
    let bridge = smmu.as_ref().map(|smmu| &smmu.bridge);
    for window in bridge.iter().flat_map(|bridge| &bridge.windows) {
        let apart = |other: &ByteRange| !other.overlaps(*window);
        assert!(info.memory.iter().all(apart) && window.end() <= ADDRESSES, "{window:x?}");
        assert!(smmu.iter().all(|smmu| apart(&smmu.registers)), "{window:x?} is the SMMU");
    }
    let frames = frames(info);
    let written = match host_tree::write::<QemuVirt>(firmware, info, kept, &frames, bridge, None) {
        Ok(written) => written,
        Err(error) => return choices.note(format_args!("refused: {error}")),
    };
    let hosts = validate(&written).expect("the host's tree is a tree");
    let _ = parse(hosts);
    for free in memory_nodes(&written) {
        assert!(info.memory.iter().any(|bank| bank.contains(free)), "{free:x?} is no RAM");
        assert!(kept.iter().all(|k| !k.overlaps(free)), "{free:x?} is kept");
    }
}

/// The `reg` of every memory node, two cells each as `host_tree` writes it.
fn memory_nodes(tree: &[u8]) -> Vec<ByteRange> {
    let fdt = Fdt::new(tree).expect("it was valid before");
    let nodes = fdt.root().children().filter(|node| node.name().starts_with("memory@"));
    let regs = nodes.filter_map(|node| {
        let reg = node.property("reg")?.value().to_vec();
        let number = |at: usize| Some(u64::from_be_bytes(reg.get(at..at + 8)?.try_into().ok()?));
        ByteRange::new(number(0)?, number(8)?)
    });
    regs.collect()
}

/// Image headers and redistributors, which are read from memory and devices.
fn modules(choices: &mut Choices<'_>) {
    let mut header = [0; image::HEADER_SIZE];
    header[56..60].copy_from_slice(b"ARM\x64");
    let size = choices.bits();
    header[16..24].copy_from_slice(&size.to_le_bytes());
    assert_eq!(image::memory_size(&header), Some(size));
    let start = choices.pick(&[0x80a_0000, 0, u64::MAX - 0x4_0000]);
    let Some(region) = ByteRange::new(start, choices.below(1 << 24)) else { return };
    let (typer, mpidr) = (choices.bits(), choices.bits());
    let stride = choices.one_in(2).then(|| choices.bits());
    let found = gicv3::find_redistributor(region, stride, mpidr, |register| {
        assert!(region.contains(ByteRange::between(register, register + 8)), "reads outside");
        typer ^ (register >> 16 & 3) << 32
    });
    assert!(found.is_none_or(|frame| frame >= region.start() && frame < region.end()));
}
