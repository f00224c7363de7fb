//! A run of physical addresses.

/// Bytes from `start`, `size` of them; never wraps, may be empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ByteRange {
    start: u64,
    size: u64,
}

impl ByteRange {
    /// `size` bytes from `start`; `None` if that wraps.
    pub const fn new(start: u64, size: u64) -> Option<Self> {
        match start.checked_add(size) {
            Some(_) => Some(Self { start, size }),
            None => None,
        }
    }

    /// From `start` to before `end`; empty if `end` is not above `start`.
    pub const fn between(start: u64, end: u64) -> Self {
        Self { start, size: end.saturating_sub(start) }
    }

    /// First byte.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// Bytes.
    pub const fn size(self) -> u64 {
        self.size
    }

    /// One past the last byte.
    pub const fn end(self) -> u64 {
        self.start + self.size
    }

    /// No bytes at all?
    pub const fn is_empty(self) -> bool {
        self.size == 0
    }

    /// Do both have a byte in common?
    pub const fn overlaps(self, other: Self) -> bool {
        self.start < other.end()
            && other.start < self.end()
            && !self.is_empty()
            && !other.is_empty()
    }

    /// Is every byte of `other` in it?
    pub const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    /// The same, grown outwards to multiples of `align` (a power of two);
    /// `None` if that wraps.
    pub const fn grown_to(self, align: u64) -> Option<Self> {
        let start = self.start & !(align - 1);
        match self.end().checked_add(align - 1) {
            Some(end) => Some(Self::between(start, end & !(align - 1))),
            None => None,
        }
    }

    /// The same, shrunk inwards to multiples of `align` (a power of two);
    /// perhaps empty.
    pub const fn shrunk_to(self, align: u64) -> Self {
        let end = self.end() & !(align - 1);
        match self.start.checked_add(align - 1) {
            Some(start) => Self::between(start & !(align - 1), end),
            None => Self { start: end, size: 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_wraps_does_not_exist() {
        assert_eq!(ByteRange::new(u64::MAX, 2), None);
        assert_eq!(ByteRange::new(u64::MAX, 0).map(ByteRange::end), Some(u64::MAX));
    }

    #[test]
    fn growing_never_loses_and_shrinking_never_gains_a_byte() {
        let range = ByteRange::between(0x1234, 0x5678);
        assert_eq!(range.grown_to(0x1000), Some(ByteRange::between(0x1000, 0x6000)));
        assert_eq!(range.shrunk_to(0x1000), ByteRange::between(0x2000, 0x5000));
        assert!(ByteRange::between(0x1001, 0x1fff).shrunk_to(0x1000).is_empty());
        assert_eq!(ByteRange::between(0, u64::MAX).grown_to(0x1000), None);
    }

    #[test]
    fn an_empty_range_overlaps_nothing() {
        let all = ByteRange::between(0, u64::MAX);
        assert!(!all.overlaps(ByteRange::between(5, 5)));
        assert!(all.overlaps(ByteRange::between(5, 6)));
    }
}
