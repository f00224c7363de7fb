//! What the loader has put into RAM for bouncer: the host's kernel and
//! ramdisk.
//!
//! Xen's convention (its docs/misc/arm/device-tree/booting.txt): a child of
//! `/chosen`, or of `/chosen/modules`, compatible with `multiboot,module`, says
//! where a module is, and by a second name what it is. Without one the order
//! tells: the first is the kernel, the second the ramdisk. Beside it the
//! standard way of a ramdisk: `/chosen`'s `linux,initrd-start` and `-end`.
//! What is none of this is refused by its name, never ignored.

use super::{cells, is_compatible, is_enabled, number, ranges, text};
use crate::boot_info::{BootError, COMMAND_LINE_SIZE, Module};
use crate::range::ByteRange;
use arrayvec::ArrayString;
use dtoolkit::fdt::FdtNode;
use dtoolkit::{Node, Property};

/// The host's kernel, if there is one, and its ramdisk.
#[derive(Default)]
pub(super) struct Modules {
    pub(super) kernel: Option<Module>,
    pub(super) ramdisk: Option<Module>,
}

/// What a module is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Kernel,
    Ramdisk,
    /// The order decides.
    Untyped,
}

/// The names of a kind; the second ones are Xen's older ones.
const KINDS: [(&str, Kind); 4] = [
    ("multiboot,kernel", Kind::Kernel),
    ("xen,linux-zimage", Kind::Kernel),
    ("multiboot,ramdisk", Kind::Ramdisk),
    ("xen,linux-initrd", Kind::Ramdisk),
];
/// The names of any module.
const GENERIC: [&str; 2] = ["multiboot,module", "xen,multiboot-module"];

/// Reads the modules under `chosen`.
///
/// # Errors
/// What is wrong with one of them.
pub(super) fn read(chosen: FdtNode<'_>) -> Result<Modules, BootError> {
    let mut modules = Modules::default();
    // Two rounds: what has a kind goes before what has none.
    for typed in [true, false] {
        for parent in core::iter::once(chosen).chain(chosen.child("modules")) {
            for node in parent.children().filter(|&node| is_enabled(node)) {
                match kind(node)? {
                    Some(kind) if (kind != Kind::Untyped) == typed => {
                        modules.add(kind, parent, node)?;
                    }
                    _ => {}
                }
            }
        }
    }
    if let Some(kernel) = modules.kernel.as_mut().filter(|kernel| kernel.command_line.is_empty()) {
        kernel.command_line = text(chosen, "xen,dom0-bootargs")?;
    }
    if let Some(range) = initrd(chosen)? {
        modules.ramdisk = match modules.ramdisk.take() {
            Some(ramdisk) if ramdisk.range != range => {
                return Err(BootError::SecondModule("ramdisk", range.start()));
            }
            _ => Some(Module { range, command_line: ArrayString::new() }),
        };
    }
    Ok(modules)
}

impl Modules {
    fn add(&mut self, kind: Kind, parent: FdtNode<'_>, node: FdtNode<'_>) -> Result<(), BootError> {
        let module = module(parent, node)?;
        let (place, name) = match kind {
            Kind::Kernel => (&mut self.kernel, "kernel"),
            Kind::Untyped if self.kernel.is_none() => (&mut self.kernel, "kernel"),
            Kind::Ramdisk | Kind::Untyped => (&mut self.ramdisk, "ramdisk"),
        };
        match place {
            Some(_) => Err(BootError::SecondModule(name, module.range.start())),
            None => {
                *place = Some(module);
                Ok(())
            }
        }
    }
}

/// Is `node` a module, and of what kind?
fn kind(node: FdtNode<'_>) -> Result<Option<Kind>, BootError> {
    if let Some((_, kind)) = KINDS.iter().find(|(name, _)| is_compatible(node, name)) {
        return Ok(Some(*kind));
    }
    let generic = GENERIC.iter().any(|name| is_compatible(node, name));
    let names = || node.compatible().into_iter().flatten();
    let other = names().find(|name| {
        !GENERIC.contains(name) && (name.starts_with("multiboot,") || name.starts_with("xen,"))
    });
    match other {
        // A device tree for a guest, a security policy, a whole domain.
        Some(name) => {
            let mut kept = ArrayString::new();
            name.chars().for_each(|char| {
                let _ = kept.try_push(char);
            });
            Err(BootError::UnknownModule(kept))
        }
        None => Ok(generic.then_some(Kind::Untyped)),
    }
}

/// `reg` is one entry in the cells of the module's parent. QEMU's guest-loader
/// says nothing of cells and writes 64 bits each; without a word of them the
/// length decides.
fn module(parent: FdtNode<'_>, node: FdtNode<'_>) -> Result<Module, BootError> {
    const BAD_REG: BootError = BootError::BadProperty("boot module's reg");
    let reg = node.property("reg").ok_or(BootError::Missing("boot module's reg"))?;
    let reg = reg.value();
    let told = ["#address-cells", "#size-cells"].iter().any(|name| parent.property(name).is_some());
    let cells = match (told, reg.len()) {
        (true, _) => cells(parent)?,
        (false, 8) => (1, 1),
        (false, 12) => (2, 1),
        (false, _) => (2, 2),
    };
    if reg.len() != 4 * (cells.0 + cells.1) {
        return Err(BAD_REG);
    }
    let range = ranges(reg, cells).next().unwrap_or(Err(BAD_REG)).map_err(|_| BAD_REG)?;
    if range.is_empty() {
        return Err(BAD_REG);
    }
    let command_line: ArrayString<COMMAND_LINE_SIZE> = text(node, "bootargs")?;
    Ok(Module { range, command_line })
}

/// The ramdisk of Linux's own convention, which `booti` follows.
fn initrd(chosen: FdtNode<'_>) -> Result<Option<ByteRange>, BootError> {
    let address = |name: &'static str| match chosen.property(name) {
        None => Ok(None),
        Some(value) => number(value.value()).map(Some).ok_or(BootError::BadProperty(name)),
    };
    match (address("linux,initrd-start")?, address("linux,initrd-end")?) {
        (None, None) => Ok(None),
        (Some(start), Some(end)) if start == end => Ok(None),
        (Some(start), Some(end)) if start < end => Ok(Some(ByteRange::between(start, end))),
        _ => Err(BootError::BadProperty("linux,initrd-start and linux,initrd-end")),
    }
}

#[cfg(test)]
mod tests;
