//! Which byte of the host's is meant by an address of the guest's.
//!
//! A device may touch one run of memory. What its driver puts into rings and
//! descriptors are addresses of that run, in the words of the device's policy:
//! guest physical, or offsets into memory that the device brings. Whatever the
//! words, this is the one place where they become the host's own addresses.

use crate::memory::Fault;

/// `bytes` bytes that the guest knows at `guest` and the host at `host`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The guest's address of the first byte.
    pub guest: u64,
    /// A bit that may be set in the guest's address: the same byte.
    pub alias: u64,
    /// The host's address of the first byte.
    pub host: u64,
    /// Bytes.
    pub bytes: u64,
    /// Address 0 is nobody's, though the run may begin there.
    pub no_zero: bool,
}

impl Span {
    /// Memory that the guest addresses by its own physical addresses.
    pub fn at(guest: u64, alias: u64, host: u64, bytes: u64) -> Self {
        Self { guest, alias, host, bytes, no_zero: false }
    }

    /// Memory that the guest addresses by the offset, of which 0 is reserved
    /// (Device Memory Buffer, August 2026).
    pub fn by_offset(host: u64, bytes: u64) -> Self {
        Self { guest: 0, alias: 0, host, bytes, no_zero: true }
    }

    /// The host's address of `length` bytes at guest address `address`.
    ///
    /// # Errors
    /// [`Fault`] unless all of them are in the run.
    pub fn translate(&self, address: u64, length: u64) -> Result<u64, Fault> {
        let fault = Fault { address };
        if self.no_zero && address == 0 {
            return Err(fault);
        }
        let offset = (address & !self.alias).checked_sub(self.guest).ok_or(fault)?;
        let end = offset.checked_add(length).ok_or(fault)?;
        if end > self.bytes { Err(fault) } else { Ok(self.host + offset) }
    }

    /// The guest's address of a byte at host address `at`.
    pub fn guest_address(&self, at: u64) -> u64 {
        at - self.host + self.guest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: u64 = 0x4_8000_0000;
    const BYTES: u64 = 0x1_0000;

    fn refuses(span: Span, address: u64, length: u64) {
        assert_eq!(span.translate(address, length), Err(Fault { address }), "{address:#x}");
    }

    #[test]
    fn a_bounce_bar_is_addressed_where_the_guest_has_put_it() {
        let bar = 0x20_0000_0000;
        let span = Span::at(bar, 0, HOST, BYTES);
        assert_eq!(span.translate(bar, BYTES), Ok(HOST));
        assert_eq!(span.translate(bar + BYTES - 1, 1), Ok(HOST + BYTES - 1));
        for (address, length) in [
            (0, 1),
            (bar - 1, 2),
            (bar + BYTES - 1, 2),
            (bar + BYTES, 1),
            (bar + 1, u64::MAX),
            (u64::MAX, 1),
        ] {
            refuses(span, address, length);
        }
    }

    #[test]
    fn device_memory_is_addressed_by_offset_and_never_by_0() {
        let span = Span::by_offset(HOST, BYTES);
        assert_eq!(span.translate(0x1000, 512), Ok(HOST + 0x1000));
        assert_eq!(span.translate(1, 1), Ok(HOST + 1));
        assert_eq!(span.translate(BYTES - 512, 512), Ok(HOST + BYTES - 512));
        for (address, length) in [
            (0, 1),
            (0, 0),
            (0, BYTES),
            (BYTES - 511, 512),
            (BYTES, 1),
            (0x20_0000_1000, 512),
            (0x1000, u64::MAX),
            (u64::MAX - 255, 512),
        ] {
            refuses(span, address, length);
        }
    }

    #[test]
    fn a_realms_shared_page_has_two_addresses() {
        let (ram, alias) = (0x4000_0000, 1 << 38);
        let span = Span::at(ram, alias, HOST, BYTES);
        assert_eq!(span.translate(ram + 8, 8), Ok(HOST + 8));
        assert_eq!(span.translate((ram + 8) | alias, 8), Ok(HOST + 8));
        refuses(span, (ram + 8) | (alias << 1), 8);
        assert_eq!(span.guest_address(HOST + 8), ram + 8);
    }
}
