//! What the host put into a guest before it ran.
//!
//! SHA-256 over records, each a tag and its fields, so that no two different
//! histories have the same input: every measured page with its guest address
//! and contents, in donation order, then one record that closes the boot
//! state (entry, argument, RAM size, vCPUs, front end, devices with their policies).

mod sha256;

use crate::addr::{FRAME_SIZE, Gfn};
use crate::error::Error;
use crate::machine::Machine;
use sha256::Sha256;

pub use sha256::in_software as sha256_in_software;

/// Length of a measurement in bytes.
pub(crate) const DIGEST_SIZE: usize = 32;

/// A measurement in the making.
#[derive(Clone, Default)]
pub(crate) struct Measurement {
    hash: Sha256,
    /// The page whose contents are arriving, and how much is still to come.
    page: Option<(Gfn, u64)>,
}

impl Measurement {
    /// Adds the next piece of a page's contents; the first piece of a page
    /// opens its record.
    pub(crate) fn extend_page(&mut self, m: &impl Machine, gfn: Gfn, piece: &[u8]) {
        let left = match self.page {
            Some((open, left)) if open == gfn && left > 0 => left,
            _ => {
                self.hash.update(m, b"PAGE");
                self.hash.update(m, &gfn.base().to_le_bytes());
                FRAME_SIZE
            }
        };
        self.hash.update(m, piece);
        self.page = Some((gfn, left.saturating_sub(piece.len() as u64)));
    }

    /// Adds a record of plain fields.
    pub(crate) fn extend_fields(&mut self, m: &impl Machine, tag: [u8; 4], fields: &[u64]) {
        self.page = None;
        self.hash.update(m, &tag);
        for field in fields {
            self.hash.update(m, &field.to_le_bytes());
        }
    }

    /// The digest of all records so far.
    pub(crate) fn digest(&self, m: &impl Machine) -> [u8; DIGEST_SIZE] {
        self.hash.clone().finish(m)
    }
}

/// What a guest adds about itself while it runs: four digests that start as
/// zeros and can only be extended (RMM specification, realm extensible
/// measurements).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Extensible([[u8; DIGEST_SIZE]; 4]);

impl Extensible {
    fn place(&mut self, index: u64) -> Result<&mut [u8; DIGEST_SIZE], Error> {
        let index = index.checked_sub(1).and_then(|index| usize::try_from(index).ok());
        index.and_then(|index| self.0.get_mut(index)).ok_or(Error::NotFound)
    }

    /// Measurement `index`, from 1 on.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none.
    pub(crate) fn get(&mut self, index: u64) -> Result<[u8; DIGEST_SIZE], Error> {
        self.place(index).copied()
    }

    /// Replaces measurement `index` by the digest of it and `value`.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) fn extend(
        &mut self,
        m: &impl Machine,
        index: u64,
        value: &[u8],
    ) -> Result<(), Error> {
        let place = self.place(index)?;
        let mut hash = Sha256::default();
        hash.update(m, &*place);
        hash.update(m, value);
        *place = hash.finish(m);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimMachine;

    fn page(number: u64, contents: &[u8; 4096], piece: usize) -> [u8; 32] {
        let m = SimMachine::new(&[]);
        let mut measurement = Measurement::default();
        let gfn = Gfn::new(number).unwrap();
        contents.chunks(piece).for_each(|piece| measurement.extend_page(&m, gfn, piece));
        measurement.digest(&m)
    }

    #[test]
    fn a_changed_byte_or_address_changes_the_digest_and_the_pieces_do_not() {
        let contents = [7; 4096];
        let mut changed = contents;
        changed[4095] ^= 1;
        let digest = page(1, &contents, 4096);
        assert_eq!(digest, page(1, &contents, 64));
        assert_eq!(digest, page(1, &contents, 1000));
        assert_ne!(digest, page(2, &contents, 4096));
        assert_ne!(digest, page(1, &changed, 4096));
    }

    #[test]
    fn an_extended_measurement_is_the_digest_of_what_was_and_what_came() {
        let m = SimMachine::new(&[]);
        let digest = |bytes: &[u8]| {
            let mut hash = Sha256::default();
            hash.update(&m, bytes);
            hash.finish(&m)
        };
        let mut extensible = Extensible::default();
        extensible.extend(&m, 2, b"abc").unwrap();
        let expected = digest(&[&[0; 32][..], b"abc"].concat());
        assert_eq!(extensible.get(2), Ok(expected));
        extensible.extend(&m, 2, b"").unwrap();
        assert_eq!(extensible.get(2), Ok(digest(&expected)));
        assert_eq!(extensible.get(1), Ok([0; 32]), "its neighbours are as they were");
        assert_eq!(extensible.get(3), Ok([0; 32]));
        for index in [0, 5, u64::MAX] {
            assert_eq!(extensible.get(index), Err(Error::NotFound));
            assert_eq!(extensible.extend(&m, index, b"x"), Err(Error::NotFound));
        }
    }

    #[test]
    fn the_same_page_measured_twice_is_not_the_same_as_once() {
        let m = SimMachine::new(&[]);
        let gfn = Gfn::new(1).unwrap();
        let mut once = Measurement::default();
        once.extend_page(&m, gfn, &[0; 4096]);
        let mut twice = once.clone();
        twice.extend_page(&m, gfn, &[0; 4096]);
        assert_ne!(once.digest(&m), twice.digest(&m));
    }

    /// The same records, hashed in one go by somebody else.
    fn hash(records: &[&[u8]]) -> [u8; 32] {
        use sha2::Digest as _;
        sha2::Sha256::digest(records.concat()).into()
    }

    #[test]
    fn the_address_of_each_page_is_measured_not_of_the_first_only() {
        let m = SimMachine::new(&[]);
        let mut measurement = Measurement::default();
        for number in [1, 2, 2] {
            // In pieces: all but a page's first belong to an open record.
            let gfn = Gfn::new(number).unwrap();
            [[7; 1024]; 4].iter().for_each(|piece| measurement.extend_page(&m, gfn, piece));
        }
        let (contents, first, second) = ([7; 4096], [0, 0x10], [0, 0x20]);
        let first: [&[u8]; 4] = [b"PAGE", &first, &[0; 6], &contents];
        let second: [&[u8]; 4] = [b"PAGE", &second, &[0; 6], &contents];
        assert_eq!(measurement.digest(&m), hash(&[first, second, second].concat()));
    }

    #[test]
    fn a_record_of_fields_ends_a_page_and_is_its_tag_and_its_words() {
        let (m, gfn) = (SimMachine::new(&[]), Gfn::new(1).unwrap());
        let mut measurement = Measurement::default();
        measurement.extend_page(&m, gfn, &[7; 64]);
        measurement.extend_fields(&m, *b"BOOT", &[1, 2]);
        measurement.extend_page(&m, gfn, &[8; 64]);
        let address = 0x1000u64.to_le_bytes();
        let (one, two) = (1u64.to_le_bytes(), 2u64.to_le_bytes());
        let records: [&[u8]; 9] =
            [b"PAGE", &address, &[7; 64], b"BOOT", &one, &two, b"PAGE", &address, &[8; 64]];
        assert_eq!(measurement.digest(&m), hash(&records));
    }
}
