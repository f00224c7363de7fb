//! Sets of the small machine's frames, a bit for each: whose frames are
//! these? is asked many times a step, and most frames are nobody's.

/// A set of frame numbers from `first` on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FrameSet {
    first: u64,
    words: Vec<u64>,
}

impl FrameSet {
    /// None of the `count` frames from `first` on.
    pub fn new(first: u64, count: usize) -> Self {
        Self { first, words: vec![0; count.div_ceil(64)] }
    }

    fn place(&mut self, pfn: u64) -> Option<(&mut u64, u64)> {
        let index = pfn.checked_sub(self.first)?;
        let word = self.words.get_mut(usize::try_from(index / 64).ok()?)?;
        Some((word, 1 << (index % 64)))
    }

    /// Adds a frame, or takes it out; true if that is news. Frames beyond the
    /// end are in no set.
    pub fn set(&mut self, pfn: u64, is: bool) -> bool {
        let Some((word, bit)) = self.place(pfn) else { return false };
        let before = *word;
        *word = if is { before | bit } else { before & !bit };
        *word != before
    }

    /// Adds 64 frames, or takes them out, by their bits. `pfn` is as many times
    /// 64 above the first as there are words before; otherwise nothing is done.
    pub fn set_word(&mut self, pfn: u64, bits: u64) {
        if let Some((word, 1)) = self.place(pfn) {
            *word = bits;
        }
    }

    /// Are these frames among those that can be in the set?
    pub fn covers(&self, pfn: u64, count: u64) -> bool {
        let end = self.first + 64 * self.words.len() as u64;
        pfn >= self.first && pfn <= end && count <= end - pfn
    }

    /// Takes all out.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Is it one of them?
    pub fn contains(&self, pfn: u64) -> bool {
        let Some(index) = pfn.checked_sub(self.first) else { return false };
        let word = usize::try_from(index / 64).ok().and_then(|word| self.words.get(word));
        word.is_some_and(|word| word >> (index % 64) & 1 != 0)
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        let words = self.words.iter().zip((self.first..).step_by(64));
        words.flat_map(|(word, base)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                // Without the lowest bit; nothing is left of nothing.
                left &= left.checked_sub(1)?;
                Some(base + u64::from(bit))
            })
        })
    }

    /// The first that is in one of the two and not in the other.
    pub fn first_difference(&self, other: &Self) -> Option<u64> {
        // As a whole first: they are nearly always the same.
        if self.words == other.words {
            return None;
        }
        let words = self.words.iter().zip(&other.words).zip((self.first..).step_by(64));
        let differs = |((a, b), base): ((&u64, &u64), u64)| {
            (a != b).then(|| base + u64::from((a ^ b).trailing_zeros()))
        };
        words.into_iter().find_map(differs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_put_in_and_not_taken_out() {
        let mut set = FrameSet::new(100, 130);
        assert!(set.is_empty() && set.iter().next().is_none());
        assert!([100, 163, 164, 229].iter().all(|pfn| set.set(*pfn, true)));
        assert!(!set.set(163, true) && !set.set(99, true) && !set.set(1000, true));
        assert!(set.set(164, false) && !set.set(164, false));
        assert!(set.iter().eq([100, 163, 229]));
        assert_eq!(set.len(), 3);
        assert!(set.contains(229) && !set.contains(164) && !set.contains(99));
        let mut other = set.clone();
        assert_eq!(set.first_difference(&other), None);
        other.set(228, true);
        assert_eq!(set.first_difference(&other), Some(228));
        set.set_word(164, 0b101);
        set.set_word(165, 0b111);
        assert!(set.iter().eq([100, 163, 164, 166, 229]));
        assert!(set.covers(100, 192) && !set.covers(101, 192) && !set.covers(99, 1));
        set.clear();
        assert!(set.is_empty());
    }
}
