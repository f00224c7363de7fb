//! Software-generated interrupts: one vCPU interrupts others.

use super::{VcpuSet, Vgic};

/// ICC_SGI1R_EL1.IRM: everybody but the sender.
const IRM: u64 = 1 << 40;
/// Aff3, Aff2, Aff1 and RS. vCPUs have Aff0 = 0 to 7 and nothing else, so a
/// value that names anything here has no target.
const FOREIGN: u64 = 0xff << 48 | 0xf << 44 | 0xff << 32 | 0xff << 16;

impl Vgic {
    /// vCPU `from` writes ICC_SGI1R_EL1 (IHI0069 12.2.19). Returns the vCPUs
    /// that have something new to take. Targets that do not exist are
    /// ignored, and so is a target that has the SGI in Group 0: this register
    /// generates Group 1 interrupts only.
    pub fn send_sgi(&mut self, from: usize, icc_sgi1r: u64) -> VcpuSet {
        let to_all = icc_sgi1r & IRM != 0;
        let list = if icc_sgi1r & FOREIGN == 0 { icc_sgi1r & 0xffff } else { 0 };
        let mask = 1u32 << (icc_sgi1r >> 24 & 0xf);
        let mut set = VcpuSet::EMPTY;
        for vcpu in 0..self.vcpus {
            let wanted = if to_all { vcpu != from } else { list >> vcpu & 1 == 1 };
            if wanted {
                set = set.union(self.change(vcpu, 0, |bank| bank.latch(bank.group1(mask))));
            }
        }
        set
    }
}
