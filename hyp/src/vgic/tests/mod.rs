//! The promises of the interrupt controller.

mod cpu;
mod lists;
mod model;
mod random;
mod registers;

use super::{VcpuSet, Vgic};
use crate::layout::GICR_STRIDE;

const CTLR: u64 = 0x0000;
const ISENABLER: u64 = 0x0100;
const ICENABLER: u64 = 0x0180;
const ISPENDR: u64 = 0x0200;
const ICPENDR: u64 = 0x0280;
const ISACTIVER: u64 = 0x0300;
const ICACTIVER: u64 = 0x0380;
const IPRIORITYR: u64 = 0x0400;
const ICFGR: u64 = 0x0c00;
const IROUTER: u64 = 0x6000;

/// An SPI to play with; level-sensitive after reset.
const SPI: u32 = 40;

/// A controller that forwards both groups, as a driver leaves it.
fn running(vcpus: usize) -> Vgic {
    let mut vgic = Vgic::new(vcpus);
    let _ = vgic.distributor_write(CTLR, 4, 0b11);
    vgic
}

/// Offset of the bitmap register for `intid` and its bit.
fn bitmap(base: u64, intid: u32) -> (u64, u64) {
    (base + u64::from(intid / 32) * 4, 1 << (intid % 32))
}

fn set(vgic: &mut Vgic, base: u64, intid: u32) -> VcpuSet {
    let (offset, bit) = bitmap(base, intid);
    vgic.distributor_write(offset, 4, bit)
}

fn get(vgic: &mut Vgic, base: u64, intid: u32) -> bool {
    let (offset, bit) = bitmap(base, intid);
    vgic.distributor_read(offset, 4) & bit != 0
}

/// Offset of a register in the SGI frame of a vCPU.
fn private(vcpu: usize, register: u64) -> u64 {
    vcpu as u64 * GICR_STRIDE + 0x1_0000 + register
}

fn set_private(vgic: &mut Vgic, vcpu: usize, base: u64, intid: u32) -> VcpuSet {
    vgic.redistributor_write(private(vcpu, base), 4, 1 << intid)
}

fn get_private(vgic: &mut Vgic, vcpu: usize, base: u64, intid: u32) -> bool {
    vgic.redistributor_read(private(vcpu, base), 4) >> intid & 1 == 1
}

fn set_priority(vgic: &mut Vgic, intid: u32, priority: u8) {
    let _ = vgic.distributor_write(IPRIORITYR + u64::from(intid), 1, u64::from(priority));
}

fn make_edge(vgic: &mut Vgic, intid: u32) {
    let offset = ICFGR + u64::from(intid / 16) * 4;
    let value = vgic.distributor_read(offset, 4) | 2 << (2 * (intid % 16));
    let _ = vgic.distributor_write(offset, 4, value);
}
