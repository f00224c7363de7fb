//! Values that are wrong in an interesting way.

use super::random::Random;

/// A value at some border: of words, of frames, of counts, of the 39-bit
/// space; or anything at all.
pub(super) fn odd(random: &mut Random) -> u64 {
    const BORDERS: [u64; 20] = [
        0,
        1,
        2,
        7,
        8,
        511,
        512,
        513,
        4095,
        4096,
        (1 << 27) - 1,
        1 << 27,
        (1 << 39) - 4096,
        1 << 39,
        u32::MAX as u64,
        1 << 32,
        i64::MAX as u64,
        1 << 63,
        u64::MAX - 4095,
        u64::MAX,
    ];
    match random.below(4) {
        0 => random.bits(),
        1 => random.below(64),
        2 => random.pick(&BORDERS).wrapping_add(random.below(3)).wrapping_sub(1),
        _ => *random.pick(&BORDERS),
    }
}
