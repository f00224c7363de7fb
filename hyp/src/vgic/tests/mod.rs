//! The promises of the interrupt controller.

mod lists;
mod registers;
mod wild;

use super::{VcpuSet, Vgic};
use crate::layout::GICR_STRIDE;
use crate::sim::walk::vgic::{
    CTLR, ICACTIVER, ICENABLER, ICFGR, ICPENDR, IPRIORITYR, IROUTER, ISACTIVER, ISENABLER, ISPENDR,
    bitmap, cpu, private,
};

/// An SPI to play with; level-sensitive after reset.
const SPI: u32 = 40;

/// A controller that forwards both groups, as a driver leaves it.
fn running(vcpus: usize) -> Vgic {
    let mut vgic = Vgic::new(vcpus);
    let _ = vgic.distributor_write(CTLR, 4, 0b11);
    vgic
}

fn set(vgic: &mut Vgic, base: u64, intid: u32) -> VcpuSet {
    let (offset, bit) = bitmap(base, intid);
    vgic.distributor_write(offset, 4, bit)
}

fn get(vgic: &mut Vgic, base: u64, intid: u32) -> bool {
    let (offset, bit) = bitmap(base, intid);
    vgic.distributor_read(offset, 4) & bit != 0
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
