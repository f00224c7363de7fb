//! The GICv2m MSI frame: a page with one register that turns a write into an
//! SPI (Arm SBSA, appendix "GICv2m architecture").
//!
//! A GICv3 proper has its MSIs from an ITS or from GICD_SETSPI_NSR. The frame
//! needs no tables in guest memory, and Linux's GICv3 driver accepts it.

use super::registers::IIDR;
use super::{VcpuSet, Vgic, locate};
use crate::layout::{MSI_COUNT, MSI_FRAME, MSI_INTID};

const TYPER: u64 = 0x008;
const SETSPI: u64 = 0x040;
const MSI_IIDR: u64 = 0xfcc;

impl Vgic {
    /// The guest reads `size` bytes at `offset` of the frame.
    pub fn msi_frame_read(&mut self, offset: u64, size: u8) -> u64 {
        u64::from(match (offset, size) {
            (TYPER, 4) => MSI_INTID << 16 | MSI_COUNT,
            (MSI_IIDR, 4) => IIDR,
            _ => 0,
        })
    }

    /// The guest writes `size` bytes at `offset` of the frame. Returns the
    /// vCPUs that have something new to take.
    pub fn msi_frame_write(&mut self, offset: u64, size: u8, value: u64) -> VcpuSet {
        match (offset, size) {
            (SETSPI, 4) => self.msi(MSI_FRAME + SETSPI, value as u32),
            _ => VcpuSet::EMPTY,
        }
    }

    /// A device sends an MSI: it writes `data` to guest address `address`.
    /// Anything but an interrupt id of the frame written to its one register
    /// is dropped, so a device can raise no other interrupt. Returns the
    /// vCPUs that have something new to take.
    pub fn msi(&mut self, address: u64, data: u32) -> VcpuSet {
        let in_frame = (MSI_INTID..MSI_INTID + MSI_COUNT).contains(&data);
        match locate(data) {
            Some((number, mask)) if in_frame && address == MSI_FRAME + SETSPI => {
                self.pulse(number, mask)
            }
            _ => VcpuSet::EMPTY,
        }
    }
}
