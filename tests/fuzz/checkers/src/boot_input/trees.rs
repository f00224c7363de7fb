//! Device trees that are nearly QEMU's.

use hyp::sim::walk::Choices;
use vm_fdt::{Error, FdtReserveEntry, FdtWriter};

/// A tree with some of its numbers chosen and some of its bytes changed.
pub(super) fn mutated(choices: &mut Choices<'_>) -> Vec<u8> {
    let mut tree = write(choices).expect("names and values without zeros");
    for _ in 0..choices.below(4) {
        let at = choices.below(tree.len() as u64);
        let value = choices.pick(&[0, 1, 2, 3, 4, 9, 0x7f, 0xff, b'@', b'a']);
        choices.note(format_args!("tree byte {at:#x} := {value:#x}"));
        tree[at as usize] = value;
    }
    tree
}

/// An address or a size.
fn number(choices: &mut Choices<'_>) -> u64 {
    match choices.below(8) {
        0 => choices.bits(),
        1 => choices.pick(&[0, 1, 0xfff, 0x1000, u64::MAX, 1 << 39, 1 << 63, 0x4800_0001]),
        _ => (0x4000 + choices.below(0x8000)) << 16,
    }
}

/// Mostly what QEMU says.
fn range(choices: &mut Choices<'_>, usual: [u64; 2]) -> [u64; 2] {
    if !choices.one_in(6) {
        return usual;
    }
    let [start, size] = [number(choices), number(choices)];
    choices.note(format_args!("{size:#x} bytes at {start:#x} for {usual:#x?}"));
    [start, size]
}

fn write(choices: &mut Choices<'_>) -> Result<Vec<u8>, Error> {
    let mut fdt = FdtWriter::new_with_mem_reserv(&entries(choices)?)?;
    let root = fdt.begin_node("")?;
    let cells = choices.pick(&[2, 2, 2, 2, 2, 2, 0, 1, 3, u32::MAX]);
    fdt.property_u32("#address-cells", cells)?;
    fdt.property_u32("#size-cells", 2)?;
    for bank in 0..choices.pick(&[1, 1, 1, 2, 3, 9, 0]) {
        let node = fdt.begin_node(&format!("memory@{bank:x}"))?;
        fdt.property_string("device_type", "memory")?;
        let usual = [0x4000_0000 + bank * 0x4000_0000, 0x4000_0000];
        fdt.property_array_u64("reg", &range(choices, usual))?;
        fdt.end_node(node)?;
    }
    if choices.one_in(4) {
        reserved_memory(choices, &mut fdt)?;
    }
    devices(choices, &mut fdt)?;
    cpus(choices, &mut fdt)?;
    chosen(choices, &mut fdt)?;
    fdt.end_node(root)?;
    fdt.finish()
}

/// The memory reservation block: mostly empty, or what U-Boot puts there.
fn entries(choices: &mut Choices<'_>) -> Result<Vec<FdtReserveEntry>, Error> {
    let mut ranges: Vec<[u64; 2]> = Vec::new();
    if choices.one_in(4) {
        for usual in [[0x4700_0000, 0x1000], [0x5000_0000, 0x12_3456], [0x6000_0000, 0x1800]] {
            let [start, size] = range(choices, usual);
            // The writer takes no range that is empty, wraps or overlaps
            // another; those come by changed bytes.
            let Some(end) = start.checked_add(size).filter(|_| size != 0) else { continue };
            if ranges.iter().all(|[other, size]| end <= *other || other + size <= start) {
                ranges.push([start, size]);
            }
        }
    }
    ranges.into_iter().map(|[start, size]| FdtReserveEntry::new(start, size)).collect()
}

fn reserved_memory(choices: &mut Choices<'_>, fdt: &mut FdtWriter) -> Result<(), Error> {
    let reserved = fdt.begin_node("reserved-memory")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    for index in 0..choices.below(10) {
        let node = fdt.begin_node(&format!("region@{index:x}"))?;
        fdt.property_array_u64("reg", &range(choices, [0x7000_0000, 0x1_0000]))?;
        fdt.end_node(node)?;
    }
    fdt.end_node(reserved)
}

fn devices(choices: &mut Choices<'_>, fdt: &mut FdtWriter) -> Result<(), Error> {
    for (name, compatible, [a, b, c, d]) in [
        ("pl011@9000000", "arm,pl011", [0x900_0000, 0x1000, 0, 0]),
        ("intc@8000000", "arm,gic-v3", [0x800_0000, 0x1_0000, 0x80a_0000, 0xf6_0000]),
        ("fw-cfg@9020000", "qemu,fw-cfg-mmio", [0x902_0000, 0x18, 0, 0]),
    ] {
        if choices.one_in(16) {
            continue;
        }
        let node = fdt.begin_node(name)?;
        fdt.property_string("compatible", compatible)?;
        let [a, b] = range(choices, [a, b]);
        fdt.property_array_u64("reg", &[a, b, c, d])?;
        if choices.one_in(8) {
            fdt.property_string("status", choices.pick(&["okay", "disabled", ""]))?;
        }
        fdt.end_node(node)?;
    }
    let psci = fdt.begin_node("psci")?;
    let compatible = choices.pick(&["arm,psci-1.0", "arm,psci-0.2", "arm,psci"]);
    fdt.property_string("compatible", compatible)?;
    fdt.property_string("method", choices.pick(&["smc", "smc", "smc", "hvc", "none"]))?;
    fdt.end_node(psci)
}

fn cpus(choices: &mut Choices<'_>, fdt: &mut FdtWriter) -> Result<(), Error> {
    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", choices.pick(&[1, 1, 2, 0]))?;
    fdt.property_u32("#size-cells", 0)?;
    for cpu in 0..choices.pick(&[1, 2, 8, 9, 0]) {
        let node = fdt.begin_node(&format!("cpu@{cpu:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_array_u32("reg", &[choices.below(16) as u32, cpu])?;
        fdt.end_node(node)?;
    }
    fdt.end_node(cpus)
}

fn chosen(choices: &mut Choices<'_>, fdt: &mut FdtWriter) -> Result<(), Error> {
    let chosen = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", choices.pick(&["log=debug", "", "log=loud  log=error"]))?;
    for (name, kind, usual) in [
        ("module@48000000", "multiboot,kernel", [0x4800_0000, 0x10_0000]),
        ("module@50000000", "multiboot,ramdisk", [0x5000_0000, 0x12_3456]),
    ] {
        if choices.one_in(8) {
            continue;
        }
        let node = fdt.begin_node(name)?;
        fdt.property_string_list("compatible", vec!["multiboot,module".into(), kind.into()])?;
        fdt.property_array_u64("reg", &range(choices, usual))?;
        let length = if choices.one_in(8) { choices.below(4096) } else { 8 };
        fdt.property_string("bootargs", &"x ".repeat(length as usize / 2))?;
        fdt.end_node(node)?;
    }
    fdt.end_node(chosen)
}
