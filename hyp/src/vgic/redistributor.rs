//! The redistributors' registers (IHI0069 12.10, 12.11).

use super::registers::{self, IIDR, PIDR2};
use super::{VcpuSet, Vgic};
use crate::layout::GICR_STRIDE;

/// The SGI frame follows the RD frame.
const SGI_FRAME: u64 = 0x1_0000;

const GICR_IIDR: u64 = 0x0004;
const TYPER: u64 = 0x0008;
const TYPER_HIGH: u64 = 0x000c;
const WAKER: u64 = 0x0014;
const GICR_PIDR2: u64 = 0xffe8;

/// GICR_WAKER.ProcessorSleep.
const PROCESSOR_SLEEP: u32 = 1 << 1;
/// GICR_WAKER.ChildrenAsleep.
const CHILDREN_ASLEEP: u32 = 1 << 2;

impl Vgic {
    /// The guest reads `size` bytes at `offset` from the first redistributor.
    /// Any vCPU may access any redistributor.
    pub fn redistributor_read(&mut self, offset: u64, size: u8) -> u64 {
        let (vcpu, offset) = split(offset);
        let Some(cpu) = self.live().get(vcpu) else { return 0 };
        if let Some(offset) = offset.checked_sub(SGI_FRAME) {
            return match registers::per_interrupt(offset, size) {
                Some((0, register)) => u64::from(cpu.private.read(register)),
                _ => 0,
            };
        }
        let typer = self.typer(vcpu);
        match (offset, size) {
            (TYPER, 8) => typer,
            (TYPER, 4) => typer & 0xffff_ffff,
            (TYPER_HIGH, 4) => typer >> 32,
            (GICR_IIDR, 4) => u64::from(IIDR),
            (WAKER, 4) if cpu.asleep => u64::from(PROCESSOR_SLEEP | CHILDREN_ASLEEP),
            (GICR_PIDR2, 4) => u64::from(PIDR2),
            // GICR_CTLR among them: no LPIs to enable, and every write is
            // complete when it returns (RWP, UWP).
            _ => 0,
        }
    }

    /// The guest writes `size` bytes at `offset` from the first
    /// redistributor. Returns the vCPUs that must look at their interrupts
    /// again.
    pub fn redistributor_write(&mut self, offset: u64, size: u8, value: u64) -> VcpuSet {
        let (vcpu, offset) = split(offset);
        if let Some(offset) = offset.checked_sub(SGI_FRAME) {
            return match registers::per_interrupt(offset, size) {
                // Triggers of SGIs are fixed by the architecture, those of
                // PPIs by us: the timer's is level-sensitive.
                Some((0, register)) => {
                    self.change(vcpu, 0, |bank| bank.write(register, value as u32, !0))
                }
                _ => VcpuSet::EMPTY,
            };
        }
        if let (Some(cpu), (WAKER, 4)) = (self.live_mut().get_mut(vcpu), (offset, size)) {
            // Bookkeeping only: software must have disabled both groups in
            // the CPU interface before it sleeps, so nothing is left to hold
            // back, and there is no power to save.
            cpu.asleep = value as u32 & PROCESSOR_SLEEP != 0;
        }
        VcpuSet::EMPTY
    }

    /// GICR_TYPER: affinity, processor number, and which one is the last.
    fn typer(&self, vcpu: usize) -> u64 {
        let number = vcpu as u64;
        let last = u64::from(vcpu + 1 == self.vcpus);
        number << 32 | number << 8 | last << 4
    }
}

/// Which vCPU's redistributor, and the offset in it.
fn split(offset: u64) -> (usize, u64) {
    ((offset / GICR_STRIDE) as usize, offset % GICR_STRIDE)
}
