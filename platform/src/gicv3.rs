//! Where a CPU's redistributor is (Arm IHI 0069, chapter 12).

use crate::MAX_CPUS;
use crate::range::ByteRange;
use arrayvec::ArrayVec;

/// Offset of the SGI frame from the RD frame.
pub const SGI_FRAME: u64 = 0x1_0000;
/// Bytes of one frame.
pub const FRAME_SIZE: u64 = 0x1_0000;
/// GICR_CTLR in the RD frame.
const GICR_CTLR: u64 = 0x0000;
/// GICR_CTLR: LPIs are on, and the redistributor reads and writes tables in
/// memory by itself.
const ENABLE_LPIS: u32 = 1 << 0;
/// GICR_CTLR: a write is still being carried out.
const REGISTER_WRITE_PENDING: u32 = 1 << 3;
/// How often a redistributor is asked whether it has finished.
const PATIENCE: usize = 1_000_000;
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

/// The frames of one redistributor that answer the host.
pub const HOST_FRAMES: u64 = 2 * FRAME_SIZE;

/// Address of the RD frame of the CPU with affinity `mpidr` (Aff3 at bits
/// 39:32, as MPIDR_EL1 has it) in `region`. The next one is `stride` bytes on,
/// or else as far as GICR_TYPER implies. `read` reads a 64-bit register.
pub fn find_redistributor(
    region: ByteRange,
    stride: Option<u64>,
    mpidr: u64,
    read: impl Fn(u64) -> u64,
) -> Option<u64> {
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
        let implied = if typer & VLPIS != 0 { 4 * FRAME_SIZE } else { 2 * FRAME_SIZE };
        frame = frame.checked_add(stride.unwrap_or(implied).max(HOST_FRAMES))?;
    }
    None
}

/// What a redistributor was found with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lpis {
    /// LPIs were off.
    WereOff,
    /// They were on and are off now.
    SwitchedOff,
    /// They were on and stay on.
    StayOn,
}

/// Switches LPIs off: firmware that has used them leaves the redistributor
/// with tables in memory (pending bits are written back there at any time), and
/// that memory is somebody else's now. Not every redistributor can: where
/// GICR_CTLR.CES is 0, EnableLPIs is RES1 once it is set (IHI 0069 12.11.2).
/// `read` and `write` access a 32-bit register.
pub fn disable_lpis(
    frame: u64,
    read: impl Fn(u64) -> u32,
    mut write: impl FnMut(u64, u32),
) -> Lpis {
    let control = read(frame + GICR_CTLR);
    if control & ENABLE_LPIS == 0 {
        return Lpis::WereOff;
    }
    write(frame + GICR_CTLR, control & !(ENABLE_LPIS | REGISTER_WRITE_PENDING));
    let values = (0..PATIENCE).map(|_| read(frame + GICR_CTLR));
    match values.into_iter().find(|control| control & REGISTER_WRITE_PENDING == 0) {
        Some(control) if control & ENABLE_LPIS == 0 => Lpis::SwitchedOff,
        _ => Lpis::StayOn,
    }
}

/// What answers the host of the redistributors with these RD frames: as few
/// regions as have no gap between two redistributors. The last one of each
/// says so in its GICR_TYPER (`hyp::host::redistributor`).
///
/// Linux walks a region to the redistributor that calls itself the last,
/// whatever the region's length: one that does not answer must not be in it.
pub fn host_regions(frames: &[u64]) -> ArrayVec<ByteRange, MAX_CPUS> {
    let mut frames: ArrayVec<u64, MAX_CPUS> = frames.iter().copied().take(MAX_CPUS).collect();
    frames.sort_unstable();
    let mut regions = ArrayVec::<ByteRange, MAX_CPUS>::new();
    for frame in frames {
        let Some(range) = ByteRange::new(frame, HOST_FRAMES) else { continue };
        match regions.last_mut() {
            Some(last) if last.end() == frame => {
                *last = ByteRange::between(last.start(), range.end())
            }
            _ => regions.push(range),
        }
    }
    regions
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
        assert_eq!(find_redistributor(region(), None, 0x8000_0000, read), Some(0x80a_0000));
        assert_eq!(find_redistributor(region(), None, 3, read), Some(0x80a_0000 + 3 * 0x2_0000));
        assert_eq!(find_redistributor(region(), None, 4, read), None);
    }

    #[test]
    fn a_region_without_a_last_frame_ends_at_its_end() {
        assert_eq!(find_redistributor(region(), None, 7, |_| 0), None);
        assert_eq!(find_redistributor(region(), Some(0), 7, |_| 0), None);
    }

    #[test]
    fn a_stride_in_the_tree_counts_more_than_what_the_frames_imply() {
        let read = |at: u64| ((at - 0x80a_0008) / 0x8_0000) << 32 | VLPIS;
        assert_eq!(find_redistributor(region(), Some(0x8_0000), 2, read), Some(0x81a_0000));
    }

    /// A redistributor with this GICR_CTLR that can, or cannot, switch LPIs
    /// off, and needs three looks for it.
    fn lpis(control: u32, can: bool) -> (Lpis, u32) {
        let register = core::cell::Cell::new(control);
        let looks = core::cell::Cell::new(0);
        let read = |at| {
            assert_eq!(at, 0x80a_0000);
            looks.set(looks.get() + 1);
            let pending = if looks.get() < 4 { REGISTER_WRITE_PENDING } else { 0 };
            register.get() | pending
        };
        let write = |at, value: u32| {
            assert_eq!(at, 0x80a_0000);
            register.set(if can { value } else { value | ENABLE_LPIS });
        };
        (disable_lpis(0x80a_0000, read, write), register.get())
    }

    /// IHI 0069 12.11.2: EnableLPIs, CES, RWP.
    #[test]
    fn lpis_that_firmware_left_on_are_switched_off_or_found_to_stay_on() {
        const DPG: u32 = 7 << 24;
        assert_eq!(lpis(DPG, true), (Lpis::WereOff, DPG));
        assert_eq!(lpis(DPG | 1, true), (Lpis::SwitchedOff, DPG));
        assert_eq!(lpis(DPG | 1, false).0, Lpis::StayOn);
        let stuck = |_| ENABLE_LPIS | REGISTER_WRITE_PENDING;
        assert_eq!(disable_lpis(0, stuck, |_, _| ()), Lpis::StayOn, "no end of waiting");
    }

    /// IHI 0069 12.10: without VLPIS a redistributor has two frames, so one
    /// that is further on is not the next of the same region.
    #[test]
    fn regions_of_the_host_hold_nothing_that_does_not_answer() {
        let region = |start, end| ByteRange::between(start, end);
        let dense = host_regions(&[0x80c_0000, 0x80a_0000]);
        assert_eq!(dense.as_slice(), [region(0x80a_0000, 0x80e_0000)]);
        let wide = host_regions(&[0x80a_0000, 0x80e_0000]);
        let apart = [region(0x80a_0000, 0x80c_0000), region(0x80e_0000, 0x810_0000)];
        assert_eq!(wide.as_slice(), apart);
        assert!(host_regions(&[]).is_empty() && host_regions(&[u64::MAX]).is_empty());
    }
}
