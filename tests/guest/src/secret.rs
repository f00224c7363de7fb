//! The marker the guest hides, so that tests can look for it from outside.
//!
//! The image must not contain it: whoever finds it anywhere but in this
//! guest's private memory and registers has found a leak.

/// The marker, masked as it stands in the image.
const MASKED: [u8; 16] = {
    let mut bytes = *b"BOUNCER-SECRET-0";
    let mut index = 0;
    while index < bytes.len() {
        bytes[index] ^= MASK;
        index += 1;
    }
    bytes
};

const MASK: u8 = 0xa5;

/// The marker's 16 bytes, `BOUNCER-SECRET-0`, put together at run time.
pub fn marker() -> [u8; 16] {
    // Without the black box the compiler would store the result.
    let mask = core::hint::black_box(MASK);
    MASKED.map(|byte| byte ^ mask)
}

/// The marker as two little-endian words, the way registers hold it.
pub fn marker_words() -> [u64; 2] {
    let value = u128::from_le_bytes(marker());
    [value as u64, (value >> 64) as u64]
}

/// Fills `memory` with the marker, over and over.
pub fn plant(memory: &mut [u8]) {
    let marker = marker();
    memory.iter_mut().zip(marker.iter().cycle()).for_each(|(byte, mark)| *byte = *mark);
}

/// Is `memory` still as [`plant`] left it?
pub fn is_intact(memory: &[u8]) -> bool {
    let marker = marker();
    memory.iter().zip(marker.iter().cycle()).all(|(byte, mark)| byte == mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_is_the_one_tests_look_for() {
        assert_eq!(&marker(), b"BOUNCER-SECRET-0");
        assert_eq!(marker_words()[0].to_le_bytes(), *b"BOUNCER-");
        assert_eq!(marker_words()[1].to_le_bytes(), *b"SECRET-0");
    }

    #[test]
    fn one_changed_bit_is_noticed() {
        let mut page = [0; 4096];
        plant(&mut page);
        assert!(is_intact(&page));
        page[4095] ^= 1;
        assert!(!is_intact(&page));
    }
}
