//! Addresses that carry their space, and ranges that cannot wrap.
//!
//! Every address a host or guest sends becomes one of these types at the
//! border, with its checks done once: aligned, inside the 39-bit space, not
//! wrapping. Code further in computes with frames, never with raw integers.

use crate::error::Error;

/// Bytes in a frame, the granule of ownership and of stage 2 (4 KiB).
pub const FRAME_SIZE: u64 = 4096;
/// log2 of [`FRAME_SIZE`].
pub const FRAME_SHIFT: u32 = 12;
/// Width of every address space bouncer manages: intermediate physical
/// addresses of host and guests, and physical memory itself. 39 bits give a
/// three-level stage 2 with a one-page root (Arm ARM D8.2.6).
pub const ADDRESS_BITS: u32 = 39;
/// One past the last frame number of a 39-bit space.
pub const FRAME_LIMIT: u64 = 1 << (ADDRESS_BITS - FRAME_SHIFT);

macro_rules! frame_number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
        pub struct $name(u32);

        impl $name {
            /// The frame with this number; `None` beyond the 39-bit space.
            pub const fn new(number: u64) -> Option<Self> {
                if number < FRAME_LIMIT { Some(Self(number as u32)) } else { None }
            }

            /// The frame that contains byte `address`; `None` beyond the space.
            pub const fn containing(address: u64) -> Option<Self> {
                Self::new(address >> FRAME_SHIFT)
            }

            /// The frame's number.
            pub const fn number(self) -> u64 {
                self.0 as u64
            }

            /// Address of the frame's first byte.
            pub const fn base(self) -> u64 {
                (self.0 as u64) << FRAME_SHIFT
            }

            /// The frame `count` further on; `None` beyond the space.
            pub const fn checked_add(self, count: u64) -> Option<Self> {
                match (self.0 as u64).checked_add(count) {
                    Some(number) => Self::new(number),
                    None => None,
                }
            }
        }
    };
}

frame_number! {
    /// Number of a physical frame.
    Pfn
}
frame_number! {
    /// Number of a frame in an intermediate physical address space: the
    /// host's (where it equals the [`Pfn`]) or one guest's.
    Gfn
}

impl Pfn {
    /// The host's identity map: its intermediate physical frame is the frame.
    pub const fn identity(self) -> Gfn {
        Gfn(self.0)
    }
}

impl Gfn {
    /// The host's identity map read backwards. Only for the *host's* space.
    pub const fn identity(self) -> Pfn {
        Pfn(self.0)
    }
}

macro_rules! frame_range {
    ($(#[$doc:meta])* $name:ident of $frame:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct $name {
            start: u32,
            count: u32,
        }

        impl $name {
            /// `count` frames from frame number `start`.
            ///
            /// # Errors
            /// [`Error::InvalidParameter`] if the range is empty, wraps or
            /// leaves the 39-bit space.
            pub const fn new(start: u64, count: u64) -> Result<Self, Error> {
                if count == 0 || start >= FRAME_LIMIT || count > FRAME_LIMIT - start {
                    return Err(Error::InvalidParameter);
                }
                Ok(Self { start: start as u32, count: count as u32 })
            }

            /// The frame alone.
            pub const fn one(frame: $frame) -> Self {
                Self { start: frame.0, count: 1 }
            }

            /// First frame.
            pub const fn start(self) -> $frame {
                $frame(self.start)
            }

            /// Number of frames, at least one.
            pub const fn count(self) -> u64 {
                self.count as u64
            }

            /// Number of the frame after the last (may equal [`FRAME_LIMIT`]).
            pub const fn end(self) -> u64 {
                self.start as u64 + self.count as u64
            }

            /// The first `count` frames of it, at least one, at most all.
            pub const fn truncate(self, count: u64) -> Self {
                let count = if count == 0 { 1 } else { count };
                if count < self.count as u64 {
                    Self { start: self.start, count: count as u32 }
                } else {
                    self
                }
            }

            /// Does the range contain `frame`?
            pub const fn contains(self, frame: $frame) -> bool {
                frame.0 >= self.start && (frame.0 as u64) < self.end()
            }

            /// Do the ranges have a frame in common?
            pub const fn overlaps(self, other: Self) -> bool {
                (self.start as u64) < other.end() && (other.start as u64) < self.end()
            }

            /// Every frame, in order.
            pub fn iter(self) -> impl DoubleEndedIterator<Item = $frame> + Clone {
                let start = self.start;
                (0..self.count).map(move |i| $frame(start + i))
            }
        }
    };
}

frame_range! {
    /// A non-empty run of physical frames.
    PfnRange of Pfn
}
frame_range! {
    /// A non-empty run of intermediate physical frames.
    GfnRange of Gfn
}

/// The bit of a frame number in which a page and its alias differ: the top
/// one. A guest that uses aliases has private memory and devices below, and
/// what it shares above ([`crate::memory::SharedPlace`]).
const ALIAS: u64 = 1 << (ADDRESS_BITS - FRAME_SHIFT - 1);

impl GfnRange {
    /// The same pages at their aliases.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] if a page of the range is one already.
    pub const fn alias(self) -> Result<Self, Error> {
        if self.end() > ALIAS {
            return Err(Error::InvalidParameter);
        }
        Ok(Self { start: self.start | ALIAS as u32, count: self.count })
    }
}

impl Gfn {
    /// The same page at its alias; itself if it is one.
    pub const fn alias(self) -> Self {
        Self(self.0 | ALIAS as u32)
    }

    /// The page of the lower half of which this is the alias; itself if it
    /// is in the lower half.
    pub const fn unaliased(self) -> Self {
        Self(self.0 & !(ALIAS as u32))
    }
}

impl PfnRange {
    /// The run in the host's identity map.
    pub const fn identity(self) -> GfnRange {
        GfnRange { start: self.start, count: self.count }
    }
}

/// The frame number that a page-aligned 39-bit address names.
///
/// # Errors
/// [`Error::InvalidParameter`] if it is not aligned or beyond the space.
pub const fn aligned_frame_number(address: u64) -> Result<u64, Error> {
    if !address.is_multiple_of(FRAME_SIZE) || address >> ADDRESS_BITS != 0 {
        return Err(Error::InvalidParameter);
    }
    Ok(address >> FRAME_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_refuse_to_be_empty_to_wrap_or_to_leave_the_space() {
        assert!(PfnRange::new(0, 0).is_err());
        assert!(PfnRange::new(FRAME_LIMIT, 1).is_err());
        assert!(PfnRange::new(FRAME_LIMIT - 1, 2).is_err());
        assert!(PfnRange::new(1, u64::MAX).is_err());
        assert!(PfnRange::new(u64::MAX, u64::MAX).is_err());
        // Neither number is cut before it is looked at.
        assert!(PfnRange::new(1, 1 << 32 | 1).is_err());
        assert!(PfnRange::new(1 << 32 | 1, 1).is_err());
        let last = PfnRange::new(FRAME_LIMIT - 1, 1).unwrap();
        assert_eq!(last.end(), FRAME_LIMIT);
    }

    #[test]
    fn a_truncated_range_keeps_its_start_and_at_least_one_frame() {
        let range = GfnRange::new(10, 5).unwrap();
        assert_eq!(range.truncate(0).count(), 1);
        assert_eq!(range.truncate(3), GfnRange::new(10, 3).unwrap());
        assert_eq!(range.truncate(9), range);
    }

    #[test]
    fn a_range_has_an_alias_only_if_all_of_it_is_below() {
        let top = ALIAS - 1;
        let alias = GfnRange::new(top, 1).unwrap().alias().unwrap();
        assert_eq!(alias, GfnRange::new(FRAME_LIMIT - 1, 1).unwrap());
        assert!(alias.alias().is_err());
        assert!(GfnRange::new(top, 2).unwrap().alias().is_err());
        let page = Gfn::new(5).unwrap();
        assert_eq!(page.alias().base(), 1 << (ADDRESS_BITS - 1) | 5 << FRAME_SHIFT);
        assert_eq!((page.alias().alias(), page.alias().unaliased()), (page.alias(), page));
        assert_eq!(page.unaliased(), page);
    }

    #[test]
    fn misaligned_and_out_of_space_addresses_have_no_frame() {
        assert!(aligned_frame_number(1).is_err());
        assert!(aligned_frame_number(1 << ADDRESS_BITS).is_err());
        assert_eq!(aligned_frame_number(0x4000_0000), Ok(0x40000));
    }
}
