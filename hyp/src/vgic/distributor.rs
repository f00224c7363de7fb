//! The distributor's registers (IHI0069 12.9).

use super::registers::{self, IIDR, PIDR2};
use super::{BANKS, VcpuSet, Vgic, locate};
use crate::layout;

const CTLR: u64 = 0x0000;
const TYPER: u64 = 0x0004;
const GICD_IIDR: u64 = 0x0008;
const GICD_PIDR2: u64 = 0xffe8;
/// GICD_IROUTER of interrupt id 0; ids below 32 are reserved.
const IROUTER: u64 = 0x6000;
const IROUTER_END: u64 = IROUTER + 8 * layout::INTERRUPTS as u64;

/// EnableGrp0 and EnableGrp1.
const CTLR_GROUPS: u32 = 0b11;
/// ARE and DS: affinity routing and one security state, both for ever.
const CTLR_FIXED: u32 = 1 << 4 | 1 << 6;

/// ITLinesNumber, IDbits (10 bits of interrupt id), No1N.
const TYPER_VALUE: u32 = (BANKS as u32 - 1) | 9 << 19 | 1 << 25;

/// What IROUTER implements: Aff2, Aff1, Aff0. There is no Aff3 (TYPER.A3V is
/// 0), and with No1N the routing mode bit, too, is read-only zero: an SPI
/// always has the one target its affinity names.
const ROUTE_MASK: u64 = 0x00ff_ffff;

impl Vgic {
    /// The guest reads `size` bytes at `offset` of the distributor.
    pub fn distributor_read(&mut self, offset: u64, size: u8) -> u64 {
        if let Some((number, register)) = registers::per_interrupt(offset, size) {
            // With affinity routing the SGIs and PPIs are in the
            // redistributors, and bank 0 is RAZ/WI here.
            let bank = self.bank(0, number).filter(|_| number > 0);
            return bank.map_or(0, |bank| u64::from(bank.read(register)));
        }
        if let Some((number, bit)) = route(offset, size) {
            let route = u64::from(self.route(number, bit));
            return if offset.is_multiple_of(8) { route } else { 0 };
        }
        u64::from(match (offset, size) {
            (CTLR, 4) => self.control | CTLR_FIXED,
            (TYPER, 4) => TYPER_VALUE,
            (GICD_IIDR, 4) => IIDR,
            (GICD_PIDR2, 4) => PIDR2,
            _ => 0,
        })
    }

    /// The guest writes `size` bytes at `offset` of the distributor. Returns
    /// the vCPUs that must look at their interrupts again.
    pub fn distributor_write(&mut self, offset: u64, size: u8, value: u64) -> VcpuSet {
        if let Some((number, register)) = registers::per_interrupt(offset, size) {
            if number == 0 {
                return VcpuSet::EMPTY;
            }
            return self.change(0, number, |bank| bank.write(register, value as u32, 0));
        }
        if let Some((number, bit)) = route(offset, size) {
            if offset.is_multiple_of(8) {
                return self.set_route(number, bit, (value & ROUTE_MASK) as u32);
            }
            return VcpuSet::EMPTY;
        }
        match (offset, size) {
            (CTLR, 4) => self.set_control(value as u32 & CTLR_GROUPS),
            _ => VcpuSet::EMPTY,
        }
    }

    /// Forwards the groups `control` and no others.
    fn set_control(&mut self, control: u32) -> VcpuSet {
        let before = core::mem::replace(&mut self.control, control);
        let mut set = VcpuSet::EMPTY;
        for vcpu in 0..self.vcpus {
            // SPIs are the same whoever looks; once is enough.
            for number in 0..if vcpu == 0 { BANKS } else { 1 } {
                let Some(bank) = self.bank(vcpu, number) else { continue };
                let gained = bank.listable(control) & !bank.listable(before);
                let silenced = bank.forwarded(before) & !bank.forwarded(control);
                set = set.union(self.targets(vcpu, number, gained | silenced & bank.listed));
            }
        }
        set
    }

    fn route(&self, number: usize, bit: u32) -> u32 {
        let index = number.checked_sub(1);
        let row = index.and_then(|index| self.routes.get(index));
        row.and_then(|row| row.get(bit as usize)).copied().unwrap_or(0)
    }

    /// Sends an SPI to the vCPU with affinity `route`, or nowhere if there is
    /// none. One that is active or listed stays where it is until it is
    /// neither; the vCPU that has it listed is asked to come out.
    fn set_route(&mut self, number: usize, bit: u32, route: u32) -> VcpuSet {
        let mask = 1u32 << bit;
        let row = number.checked_sub(1).and_then(|index| self.routes.get_mut(index));
        let Some(slot) = row.and_then(|row| row.get_mut(bit as usize)) else {
            return VcpuSet::EMPTY;
        };
        if core::mem::replace(slot, route) == route {
            return VcpuSet::EMPTY;
        }
        for (claim, vcpu) in self.shared_claims(number).zip(0..) {
            claim.routed &= !mask;
            if route == vcpu {
                claim.routed |= mask;
            }
        }
        let Some(bank) = self.bank(0, number) else { return VcpuSet::EMPTY };
        let concerned = (bank.listable(self.control) | bank.listed) & mask;
        self.targets(0, number, concerned)
    }
}

/// Bank and bit of the interrupt whose IROUTER is accessed, whole or one half.
/// Those of bank 0 have no route.
fn route(offset: u64, size: u8) -> Option<(usize, u32)> {
    if !(IROUTER..IROUTER_END).contains(&offset) || !matches!(size, 4 | 8) {
        return None;
    }
    if !offset.is_multiple_of(u64::from(size)) {
        return None;
    }
    let intid = ((offset - IROUTER) / 8) as u32;
    let (number, _) = locate(intid)?;
    Some((number, intid % 32))
}
