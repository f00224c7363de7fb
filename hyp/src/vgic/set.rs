//! A small set of vCPUs of one VM.

use crate::abi::MAX_VCPUS;

/// vCPUs of one VM, by index; at most [`MAX_VCPUS`] of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use = "vCPUs in the set wait for a kick"]
pub struct VcpuSet(u8);

impl VcpuSet {
    /// Nobody.
    pub const EMPTY: VcpuSet = VcpuSet(0);

    /// Adds a vCPU; an index no VM can have is ignored.
    pub fn insert(&mut self, vcpu: usize) {
        if vcpu < MAX_VCPUS {
            self.0 |= 1 << vcpu;
        }
    }

    /// Takes a vCPU out.
    pub fn remove(&mut self, vcpu: usize) {
        if vcpu < MAX_VCPUS {
            self.0 &= !(1 << vcpu);
        }
    }

    /// Is the vCPU in it?
    pub fn contains(self, vcpu: usize) -> bool {
        vcpu < MAX_VCPUS && self.0 >> vcpu & 1 == 1
    }

    /// Those of either set.
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Is nobody in it?
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The set as a bitmap, bit n for vCPU n.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// The vCPUs, ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..MAX_VCPUS).filter(move |&vcpu| self.contains(vcpu))
    }
}
