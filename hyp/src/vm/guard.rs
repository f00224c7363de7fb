//! The MMIO guard: which pages a guest lets the host serve.
//!
//! A guest's access outside its RAM and its emulated devices would tell the
//! host an address and a value. It goes there only if the guest asked for it,
//! page by page (Android's pKVM MMIO_GUARD calls); otherwise it aborts.

use crate::abi;
use crate::addr::Gfn;
use crate::error::Error;
use crate::layout;

use super::GuestAbi;

/// Pages a guest can grant.
const CAPACITY: usize = 16;

/// The granted pages.
#[derive(Debug, Default)]
pub(crate) struct MmioGuard {
    pages: [Option<Gfn>; CAPACITY],
}

impl MmioGuard {
    /// What a guest has granted when it starts. One that speaks RSI has no
    /// call to grant anything: its console is the host's from the start, and
    /// nothing else ever is. So is any other's whose measured flags say so.
    pub(crate) fn new(speaks: GuestAbi, flags: u64) -> Self {
        let mut guard = Self::default();
        if speaks == GuestAbi::Rsi || flags & abi::CREATE_CONSOLE != 0 {
            guard.pages[0] = Gfn::containing(layout::UART);
        }
        guard
    }

    /// Grants a page; granting it again changes nothing.
    ///
    /// # Errors
    /// [`Error::NoMemory`] if the table is full.
    pub(crate) fn map(&mut self, page: Gfn) -> Result<(), Error> {
        if self.allows(page) {
            return Ok(());
        }
        let free = self.pages.iter_mut().find(|slot| slot.is_none()).ok_or(Error::NoMemory)?;
        *free = Some(page);
        Ok(())
    }

    /// Takes a grant back.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it was not granted.
    pub(crate) fn unmap(&mut self, page: Gfn) -> Result<(), Error> {
        let slot =
            self.pages.iter_mut().find(|slot| **slot == Some(page)).ok_or(Error::NotFound)?;
        *slot = None;
        Ok(())
    }

    /// May the host serve this page?
    pub(crate) fn allows(&self, page: Gfn) -> bool {
        self.pages.contains(&Some(page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_granted_until_the_guest_says_so_and_no_longer_than_it_says() {
        let page = Gfn::new(0x9000).unwrap();
        let mut guard = MmioGuard::default();
        assert!(!guard.allows(page));
        guard.map(page).unwrap();
        assert!(guard.allows(page));
        guard.unmap(page).unwrap();
        assert!(!guard.allows(page));
        assert_eq!(guard.unmap(page), Err(Error::NotFound));
    }

    #[test]
    fn a_guest_without_the_call_has_granted_its_console_and_no_more() {
        let console = Gfn::containing(layout::UART).unwrap();
        assert!(!MmioGuard::new(GuestAbi::Pkvm, 0).allows(console));
        let granted = [(GuestAbi::Rsi, 0), (GuestAbi::Pkvm, abi::CREATE_CONSOLE)];
        for guard in granted.map(|(abi, flags)| MmioGuard::new(abi, flags)) {
            assert!(guard.allows(console));
            assert!(!guard.allows(console.checked_add(1).unwrap()));
            assert_eq!(guard.pages.iter().flatten().count(), 1);
        }
    }

    #[test]
    fn a_full_table_is_an_error_and_keeps_its_pages() {
        let mut guard = MmioGuard::default();
        for number in 0..CAPACITY as u64 {
            guard.map(Gfn::new(number).unwrap()).unwrap();
        }
        assert_eq!(guard.map(Gfn::new(99).unwrap()), Err(Error::NoMemory));
        assert_eq!(guard.map(Gfn::new(3).unwrap()), Ok(()), "already there");
        assert!(guard.allows(Gfn::new(0).unwrap()));
    }
}
