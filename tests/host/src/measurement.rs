//! What a guest's measurement must be: the same digest that bouncer computes,
//! from what the host gave (docs/abi.md, VM_MEASUREMENT).

use alloc::vec::Vec;

use sha2::{Digest, Sha256};

/// Bytes of a page.
const PAGE: usize = 4096;

/// A measurement in the making.
#[derive(Default)]
pub struct Expected {
    hash: Sha256,
    devices: u64,
    /// The devices' records, which come after those of the pages.
    described: Vec<u8>,
}

impl Expected {
    /// The host gives boot state: whole pages, from page number `gfn` of the
    /// guest's address space on.
    pub fn pages(&mut self, gfn: u64, contents: &[u8]) {
        for (number, page) in (gfn..).zip(contents.chunks(PAGE)) {
            self.hash.update(b"PAGE");
            self.hash.update((number << 12).to_le_bytes());
            self.hash.update(page);
        }
    }

    /// The host makes a device: virtio type, DMA policy, bounce pages, queues,
    /// most descriptors of a queue.
    pub fn device(&mut self, description: [u64; 5]) {
        self.described.extend_from_slice(b"DEVI");
        for field in [self.devices].iter().chain(&description) {
            self.described.extend_from_slice(&field.to_le_bytes());
        }
        self.devices += 1;
    }

    /// The digest once the boot state is closed with this entry point, its
    /// argument, so many pages of RAM and vCPUs, and VM_CREATE's flags.
    pub fn digest(&self, boot: [u64; 5]) -> [u8; 32] {
        let mut hash = self.hash.clone();
        hash.update(b"BOOT");
        boot.iter().for_each(|field| hash.update(field.to_le_bytes()));
        hash.update(&self.described);
        hash.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_records_are_those_that_the_documentation_names() {
        let mut expected = Expected::default();
        expected.pages(0x40000, &[7; 2 * PAGE]);
        expected.device([2, 1, 64, 1, 256]);
        let mut hash = Sha256::new();
        for page in [0x4000_0000_u64, 0x4000_1000] {
            hash.update(b"PAGE");
            hash.update(page.to_le_bytes());
            hash.update([7; PAGE]);
        }
        hash.update(b"BOOT");
        [0x4020_0000_u64, 0x4000_0000, 4096, 2, 1]
            .iter()
            .for_each(|field| hash.update(field.to_le_bytes()));
        hash.update(b"DEVI");
        [0_u64, 2, 1, 64, 1, 256].iter().for_each(|field| hash.update(field.to_le_bytes()));
        let digest: [u8; 32] = hash.finalize().into();
        assert_eq!(expected.digest([0x4020_0000, 0x4000_0000, 4096, 2, 1]), digest);
    }
}
