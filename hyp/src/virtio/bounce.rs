//! The frames behind a bounce BAR.
//!
//! The host lends them one by one before the guest starts; from then on page
//! *n* of the BAR is the same frame wherever the guest moves the BAR.

use crate::addr::Pfn;
use crate::error::Error;
use alloc::vec::Vec;

/// Marks a page that has no frame yet; no frame has this number.
const NO_FRAME: u32 = u32::MAX;

/// Which frame backs which page.
pub(super) struct BounceFrames {
    frames: Vec<u32>,
    missing: usize,
}

impl BounceFrames {
    /// Room for `pages` pages.
    ///
    /// # Errors
    /// [`Error::NoMemory`] if the heap has no room for the list.
    pub(super) fn new(pages: u64) -> Result<Self, Error> {
        let missing = pages as usize;
        let mut frames = Vec::new();
        frames.try_reserve_exact(missing).map_err(|_| Error::NoMemory)?;
        frames.resize(missing, NO_FRAME);
        Ok(Self { frames, missing })
    }

    /// Number of pages; 0 for a device without bounce memory.
    pub(super) fn pages(&self) -> u64 {
        self.frames.len() as u64
    }

    /// Has every page its frame?
    pub(super) fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// The frame of a page.
    pub(super) fn get(&self, page: u64) -> Option<Pfn> {
        let frame = *self.frames.get(usize::try_from(page).ok()?)?;
        if frame == NO_FRAME { None } else { Pfn::new(u64::from(frame)) }
    }

    /// Records the frame of a page that has none.
    ///
    /// # Errors
    /// [`Error::NotFound`] beyond the last page, [`Error::BadState`] if the
    /// page has its frame.
    pub(super) fn set(&mut self, page: u64, frame: Pfn) -> Result<(), Error> {
        let place = self.place(page)?;
        if *place != NO_FRAME {
            return Err(Error::BadState);
        }
        *place = frame.number() as u32;
        self.missing -= 1;
        Ok(())
    }

    /// Takes a page's frame away (when the VM is torn down).
    pub(super) fn take(&mut self, page: u64) -> Option<Pfn> {
        let frame = self.get(page)?;
        *self.place(page).ok()? = NO_FRAME;
        self.missing += 1;
        Some(frame)
    }

    fn place(&mut self, page: u64) -> Result<&mut u32, Error> {
        let page = usize::try_from(page).map_err(|_| Error::NotFound)?;
        self.frames.get_mut(page).ok_or(Error::NotFound)
    }
}
