//! The IOMMU of the simulated machine, and the devices behind it.
//!
//! Its TLB is one of [`super::tlb`]'s: it keeps what it was not told to forget,
//! and what it was told to forget until it has answered. A device is hostile
//! like everything of the host's: whoever tests asks what it could reach at any
//! moment, and stores there.

use super::SimMachine;
use crate::addr::Pfn;
use crate::machine::DmaFault;
use std::vec::Vec;

impl SimMachine {
    /// Devices translate by this table from now on; without one they do no DMA.
    pub fn attach_dma(&self, root: Option<Pfn>) {
        if let Some(root) = root {
            self.memory().attach_dma(root.number());
        }
    }

    /// Every frame that an access of a device to the address of `pfn` may reach
    /// now: what the table says, and whatever the IOMMU's TLB may remember.
    pub fn access_of_device(&self, pfn: Pfn) -> Vec<Pfn> {
        let reached = self.memory().access_of_device(pfn.number());
        reached.into_iter().filter_map(Pfn::new).collect()
    }

    /// A device fills what it can reach there with a tag; says whether it was
    /// anything. If not, the IOMMU tells of it.
    pub fn store_of_device(&self, stream: u32, pfn: Pfn, tag: u64) -> bool {
        let reached = self.access_of_device(pfn);
        reached.iter().for_each(|frame| self.plant(*frame, tag));
        if reached.is_empty() {
            // F_TRANSLATION (SMMUv3 7.3.13).
            let fault = DmaFault { stream, event: 0x10, write: true, address: pfn.base() };
            self.world().dma_faults.push_back(fault);
        }
        !reached.is_empty()
    }

    /// How often the IOMMU was told to forget something.
    pub fn dma_invalidations(&self) -> u64 {
        self.memory().settings.dma_invalidations
    }
}
