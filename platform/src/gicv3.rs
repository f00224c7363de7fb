//! Where a CPU's redistributor is (Arm IHI 0069, chapter 12).

use crate::range::ByteRange;

/// Offset of the SGI frame from the RD frame.
pub const SGI_FRAME: u64 = 0x1_0000;
/// Bytes of one frame.
pub const FRAME_SIZE: u64 = 0x1_0000;
/// GICR_TYPER in the RD frame.
const GICR_TYPER: u64 = 0x0008;
/// GICR_TYPER: the last redistributor of its region.
const LAST: u64 = 1 << 4;
/// GICR_TYPER: has virtual LPIs, hence two frames more.
const VLPIS: u64 = 1 << 1;
/// GICR_ISENABLER0, GICR_ICENABLER0, GICR_ISACTIVER0, GICR_ICACTIVER0 and GICR_IGROUPR0 in the
/// SGI frame.
pub mod sgi {
    /// Interrupt group, one bit per SGI and PPI.
    pub const IGROUPR0: u64 = 0x0080;
    /// Set-enable.
    pub const ISENABLER0: u64 = 0x0100;
    /// Clear-enable.
    pub const ICENABLER0: u64 = 0x0180;
    /// Set-active.
    pub const ISACTIVER0: u64 = 0x0300;
    /// Clear-active.
    pub const ICACTIVER0: u64 = 0x0380;
}

/// Address of the RD frame of the CPU with affinity `mpidr` (Aff3 at bits
/// 39:32, as MPIDR_EL1 has it) in `region`. `read` reads a 64-bit register.
pub fn find_redistributor(region: ByteRange, mpidr: u64, read: impl Fn(u64) -> u64) -> Option<u64> {
    let affinity = ((mpidr >> 32) & 0xff) << 24 | mpidr & 0xff_ffff;
    let mut frame = region.start();
    while frame.checked_add(2 * FRAME_SIZE)? <= region.end() {
        let typer = read(frame + GICR_TYPER);
        if typer >> 32 == affinity {
            return Some(frame);
        }
        if typer & LAST != 0 {
            return None;
        }
        frame += if typer & VLPIS != 0 { 4 * FRAME_SIZE } else { 2 * FRAME_SIZE };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region() -> ByteRange {
        ByteRange::between(0x80a_0000, 0x900_0000)
    }

    #[test]
    fn each_cpu_finds_its_own_frame() {
        let read = |at: u64| {
            let index = (at - 0x80a_0008) / 0x2_0000;
            index << 32 | if index == 3 { LAST } else { 0 }
        };
        assert_eq!(find_redistributor(region(), 0x8000_0000, read), Some(0x80a_0000));
        assert_eq!(find_redistributor(region(), 3, read), Some(0x80a_0000 + 3 * 0x2_0000));
        assert_eq!(find_redistributor(region(), 4, read), None);
    }

    #[test]
    fn a_region_without_a_last_frame_ends_at_its_end() {
        assert_eq!(find_redistributor(region(), 7, |_| 0), None);
    }
}
