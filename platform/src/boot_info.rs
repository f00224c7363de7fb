//! What the device tree says, as plain values, and why it may be refused.

use crate::range::ByteRange;
use crate::reserved::{MAX_RESERVATIONS, Reservation};
use crate::{MAX_BANKS, MAX_CPUS, MAX_GIC_REGIONS};
use arrayvec::{ArrayString, ArrayVec};
use core::fmt;
use dtoolkit::error::FdtParseError;

/// Longest kernel command line (Linux arm64's COMMAND_LINE_SIZE).
pub const COMMAND_LINE_SIZE: usize = 2048;

/// How PSCI is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conduit {
    /// Secure monitor call: firmware is at EL3.
    Smc,
    /// Hypervisor call: firmware would be where bouncer is.
    Hvc,
}

/// A boot module: an image the loader has put into RAM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Module {
    /// Where its bytes are.
    pub range: ByteRange,
    /// Its command line, empty if it has none.
    pub command_line: ArrayString<COMMAND_LINE_SIZE>,
}

/// Everything bouncer takes from the firmware's device tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BootInfo {
    /// Banks of RAM, ascending, page-aligned, disjoint.
    pub memory: ArrayVec<ByteRange, MAX_BANKS>,
    /// What the tree reserves: see [`crate::reserved::firmware`].
    pub reserved: ArrayVec<Reservation, MAX_RESERVATIONS>,
    /// MPIDR affinity of each CPU, in the order of the tree.
    pub cpus: ArrayVec<u64, MAX_CPUS>,
    /// CPUs beyond [`MAX_CPUS`], which stay off.
    pub cpus_left_off: usize,
    /// How to call the firmware.
    pub conduit: Conduit,
    /// GICv3 distributor.
    pub distributor: ByteRange,
    /// Regions of GICv3 redistributors.
    pub redistributors: ArrayVec<ByteRange, MAX_GIC_REGIONS>,
    /// Bytes from one redistributor to the next, where GICR_TYPER does not say.
    pub redistributor_stride: Option<u64>,
    /// PL011.
    pub uart: ByteRange,
    /// PL031, a real-time clock, if there is one on pages of its own.
    pub rtc: Option<ByteRange>,
    /// The host's kernel.
    pub kernel: Module,
    /// The host's initial ramdisk, if there is one.
    pub ramdisk: Option<Module>,
    /// bouncer's own command line.
    pub command_line: ArrayString<COMMAND_LINE_SIZE>,
    /// Random bytes from the firmware (`/chosen/rng-seed`), bouncer's alone.
    pub seed: Option<Seed>,
}

impl BootInfo {
    /// The position among [`Self::cpus`] of the CPU with this affinity, which
    /// is the one that runs.
    ///
    /// # Errors
    /// [`BootError::ForeignBootCpu`] if the tree has no such CPU, or has it
    /// disabled, or behind more CPUs than bouncer drives: it cannot pass for
    /// another one, whose redistributor it would then use.
    pub fn boot_cpu(&self, affinity: u64) -> Result<usize, BootError> {
        let position = self.cpus.iter().position(|&cpu| cpu == affinity);
        position.ok_or(BootError::ForeignBootCpu(affinity))
    }
}

/// Random bytes in the firmware's tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seed {
    /// The bytes, as many as bouncer uses.
    pub bytes: ArrayVec<u8, MAX_SEED>,
    /// Where all of them are, in bytes from the start of the tree.
    pub place: core::ops::Range<usize>,
}

/// Most bytes of seed that are used.
pub const MAX_SEED: usize = 64;

/// Why bouncer cannot start on this machine. The text says what to do.
#[derive(PartialEq, Eq, Debug)]
pub enum BootError {
    /// x0 does not point at a device tree.
    NoTree,
    /// The tree has this many bytes, more than the boot protocol allows.
    TreeTooLong(u32),
    /// The tree is malformed.
    BrokenTree(FdtParseError),
    /// A node or property bouncer needs is missing.
    Missing(&'static str),
    /// A property has a value bouncer cannot use.
    BadProperty(&'static str),
    /// More of something than bouncer has room for.
    TooMany(&'static str),
    /// The CPU that runs, by its affinity, is none that the tree lets it drive.
    ForeignBootCpu(u64),
    /// A device that may do DMA cannot be kept from it.
    CannotSilence,
    /// Firmware is not above bouncer.
    WrongConduit,
    /// The interrupt controller is not a GICv3.
    NoGicV3,
    /// The loader handed over no kernel for the host.
    NoKernel,
    /// A second boot module of the same kind, and its address.
    SecondModule(&'static str, u64),
    /// A boot module of a kind that bouncer has no use for.
    UnknownModule(ArrayString<48>),
    /// The host's kernel has no arm64 Image header.
    NotAnImage,
    /// Two things that must be apart share memory.
    Overlap(&'static str, &'static str),
    /// Something is (partly) outside RAM.
    OutsideRam(&'static str),
    /// The host kernel is not on a 2 MiB boundary.
    MisalignedKernel(u64),
    /// No room for bouncer's own memory, of this many bytes.
    TooLittleMemory(u64),
    /// The tree cannot be rewritten for the host.
    HostTree(vm_fdt::Error),
    /// The host's tree is longer than the firmware's was.
    HostTreeTooLong,
    /// A redistributor keeps using the tables in memory that firmware gave it.
    LpisStayOn,
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTree => f.write_str(
                "no device tree in x0: boot bouncer as a flat Image (-kernel bouncer.img), not as ELF",
            ),
            Self::TreeTooLong(size) => write!(
                f,
                "the device tree has {size} bytes; the boot protocol allows 2 MiB: pad it less"
            ),
            Self::BrokenTree(error) => {
                write!(f, "the device tree is malformed ({error}): rebuild it with dtc")
            }
            Self::Missing(what) => write!(f, "the device tree has no {what}"),
            Self::BadProperty(what) => write!(f, "the device tree's {what} makes no sense"),
            Self::TooMany(what) => write!(f, "the device tree has too many {what}"),
            Self::ForeignBootCpu(affinity) => write!(
                f,
                "the CPU that runs bouncer ({affinity:#x}) is none of the first {MAX_CPUS} enabled CPUs of \
                 the device tree"
            ),
            Self::CannotSilence => f.write_str(
                "a PCI host bridge or device cannot be kept from writing to memory: bouncer drives \
                 pci-host-ecam-generic bridges at the top of the tree; disable others there",
            ),
            Self::WrongConduit => f.write_str(
                "PSCI's method is not smc: start QEMU with -machine virt,virtualization=on",
            ),
            Self::NoGicV3 => {
                f.write_str("no GICv3: start QEMU with -machine virt,gic-version=3")
            }
            Self::NoKernel => f.write_str(
                "no host kernel: add -device guest-loader,addr=0x50000000,kernel=host.img, or a \
                 multiboot,kernel node under /chosen",
            ),
            Self::SecondModule(kind, address) => {
                write!(f, "a second {kind} at {address:#x}: load only one for the host")
            }
            Self::UnknownModule(kind) => {
                write!(f, "a boot module of kind {kind}: bouncer takes a kernel and a ramdisk only")
            }
            Self::NotAnImage => f.write_str(
                "the host kernel is no arm64 Image: give guest-loader a flat Image, not an ELF \
                 or a compressed one",
            ),
            Self::Overlap(a, b) => {
                write!(f, "{a} and {b} overlap: give the boot modules other addresses")
            }
            Self::OutsideRam(what) => {
                write!(f, "{what} lies outside RAM: give it another address or the machine more memory (-m)")
            }
            Self::MisalignedKernel(at) => write!(
                f,
                "the host kernel at {at:#x} is not on a 2 MiB boundary: give guest-loader another addr"
            ),
            Self::TooLittleMemory(bytes) => write!(
                f,
                "too little memory: no free {} KiB in one piece for bouncer; give the machine more (-m)",
                bytes / 1024
            ),
            Self::HostTree(error) => {
                write!(f, "the device tree cannot be rewritten for the host: {error}")
            }
            Self::LpisStayOn => f.write_str(
                "firmware has left LPIs on and this GIC cannot switch them off: \
                 boot from firmware that does not use them",
            ),
            Self::HostTreeTooLong => f.write_str(
                "no room in the device tree for the host's command line: pad it (dtc -p 4096)",
            ),
        }
    }
}
