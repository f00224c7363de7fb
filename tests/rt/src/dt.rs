//! What payloads ask of a device tree. The tree comes from bouncer or from
//! the host's VMM; a guest that meets a broken one may stop.

use fdt::Fdt;
use fdt::node::FdtNode;

/// Looks up the word `key=value` of a command line; the first one wins.
pub fn argument<'a>(command_line: &'a str, key: &str) -> Option<&'a str> {
    command_line.split_ascii_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

/// The command line (`/chosen/bootargs`), empty if there is none.
pub fn command_line<'a>(tree: &Fdt<'a>) -> &'a str {
    tree.find_node("/chosen")
        .and_then(|chosen| chosen.property("bootargs"))
        .and_then(|property| property.as_str())
        .unwrap_or("")
}

/// Start and size of `reg` entry `index` of a node.
pub fn reg(node: &FdtNode, index: usize) -> Option<(usize, usize)> {
    let entry = node.reg()?.nth(index)?;
    Some((entry.starting_address as usize, entry.size?))
}

/// The first node compatible with `compatible` that may be used (DTSpec 2.3.4).
fn enabled<'b, 'a: 'b>(tree: &'b Fdt<'a>, compatible: &str) -> Option<FdtNode<'b, 'a>> {
    tree.all_nodes().find(|node| {
        let status = node.property("status").and_then(|status| status.as_str());
        node.compatible().is_some_and(|names| names.all().any(|name| name == compatible))
            && matches!(status, None | Some("okay" | "ok"))
    })
}

/// Start and size of `reg` entry `index` of the first enabled node compatible
/// with `compatible`.
pub fn device(tree: &Fdt, compatible: &str, index: usize) -> Option<(usize, usize)> {
    reg(&enabled(tree, compatible)?, index)
}

/// Starts of the GICv3's regions of redistributors (Linux's binding
/// arm,gic-v3).
pub fn redistributors<'a>(tree: &'a Fdt<'a>) -> impl Iterator<Item = usize> + 'a {
    let gic = enabled(tree, "arm,gic-v3");
    let count = gic.and_then(|gic| gic.property("#redistributor-regions")?.as_usize()).unwrap_or(1);
    (1..=count).map_while(move |index| Some(reg(&gic?, index)?.0))
}

/// Interrupt id of the first interrupt of the first node compatible with
/// `compatible`, whose controller is a GIC.
pub fn interrupt(tree: &Fdt, compatible: &str) -> Option<u32> {
    let value = enabled(tree, compatible)?.property("interrupts")?.value;
    let cell = |index: usize| {
        let bytes = value.get(4 * index..4 * index + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    };
    match (cell(0)?, cell(1)?) {
        (0, spi @ 0..988) => Some(32 + spi),
        (1, ppi @ 0..16) => Some(16 + ppi),
        _ => None,
    }
}

/// First memory bank: start and size.
pub fn memory(tree: &Fdt) -> Option<(usize, usize)> {
    reg(
        &tree.find_node("/memory").or_else(|| {
            tree.all_nodes().find(|node| {
                node.property("device_type").and_then(|kind| kind.as_str()) == Some("memory")
            })
        })?,
        0,
    )
}

/// MPIDR affinities of the CPUs, in order.
pub fn cpus<'a>(tree: &'a Fdt<'a>) -> impl Iterator<Item = u64> + 'a {
    tree.cpus().filter_map(|cpu| cpu.ids().all().next()).map(|id| id as u64)
}

/// The firmware's random bytes (`/chosen/rng-seed`), empty if there are none.
pub fn seed<'a>(tree: &Fdt<'a>) -> &'a [u8] {
    let chosen = tree.find_node("/chosen");
    chosen.and_then(|chosen| chosen.property("rng-seed")).map_or(&[], |property| property.value)
}

/// The PSCI node's `method`: `"hvc"` or `"smc"`.
pub fn psci_method<'a>(tree: &Fdt<'a>) -> Option<&'a str> {
    tree.find_node("/psci")?.property("method")?.as_str()
}

/// Physical range of the initial ramdisk (`/chosen`).
pub fn initrd(tree: &Fdt) -> Option<core::ops::Range<usize>> {
    let chosen = tree.find_node("/chosen")?;
    let address = |name| {
        let value = chosen.property(name)?.value;
        match value.len() {
            4 => Some(u32::from_be_bytes(value.try_into().ok()?) as usize),
            8 => Some(u64::from_be_bytes(value.try_into().ok()?) as usize),
            _ => None,
        }
    };
    Some(address("linux,initrd-start")?..address("linux,initrd-end")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_found_by_its_whole_name() {
        let line = "dma=bounce scenario=story  hash=HELLO.TXT nodma=1 dma=shared";
        assert_eq!(argument(line, "dma"), Some("bounce"));
        assert_eq!(argument(line, "hash"), Some("HELLO.TXT"));
        assert_eq!(argument(line, "has"), None);
        assert_eq!(argument("", "dma"), None);
    }
}
