//! Offsets and sizes of the registers (IHI0069 12.8 to 12.11).
//!
//! The registers that describe interrupts have the same offsets in the
//! distributor and in a redistributor's SGI frame; they are decoded here once.
//! Whatever is not decoded, be it an offset, a size or an alignment, reads as
//! zero and ignores writes.

/// Interrupts described by one 32-bit bitmap register.
const PER_BANK: u64 = 32;

/// A register that describes interrupts of one bank.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Register {
    /// IGROUPR.
    Group,
    /// ISENABLER.
    SetEnable,
    /// ICENABLER.
    ClearEnable,
    /// ISPENDR.
    SetPending,
    /// ICPENDR.
    ClearPending,
    /// ISACTIVER.
    SetActive,
    /// ICACTIVER.
    ClearActive,
    /// `count` bytes of IPRIORITYR, from that of interrupt `first` of the bank.
    Priority { first: usize, count: usize },
    /// ICFGR: the 16 interrupts from `first` (0 or 16) of the bank.
    Config { first: u32 },
}

/// Decodes an access to a register that describes interrupts: which bank of
/// 32, which register.
pub(super) fn per_interrupt(offset: u64, size: u8) -> Option<(usize, Register)> {
    if !offset.is_multiple_of(u64::from(size).max(1)) {
        return None;
    }
    let (bank, register) = match (offset, size) {
        (0x080..0x400, 4) => (offset % 0x80 / 4, bitmap(offset)?),
        (0x400..0x800, 1 | 4) => {
            let first = (offset - 0x400) % PER_BANK;
            let count = usize::from(size);
            ((offset - 0x400) / PER_BANK, Register::Priority { first: first as usize, count })
        }
        (0xc00..0xd00, 4) => {
            let word = (offset - 0xc00) / 4;
            (word / 2, Register::Config { first: (word % 2) as u32 * 16 })
        }
        _ => return None,
    };
    Some((bank as usize, register))
}

/// The bitmap registers, 128 bytes each for 32 banks.
fn bitmap(offset: u64) -> Option<Register> {
    Some(match offset & !0x7f {
        0x080 => Register::Group,
        0x100 => Register::SetEnable,
        0x180 => Register::ClearEnable,
        0x200 => Register::SetPending,
        0x280 => Register::ClearPending,
        0x300 => Register::SetActive,
        0x380 => Register::ClearActive,
        _ => return None,
    })
}

/// GICD_IIDR, GICR_IIDR and MSI_IIDR: product `b`, implementer Arm (0x43b).
/// Not zero, and not the number of a GIC with errata that a driver would
/// work around.
pub(super) const IIDR: u32 = 0x6200_043b;

/// GICD_PIDR2 and GICR_PIDR2: architecture revision GICv3.
pub(super) const PIDR2: u32 = 0x30;
