//! Bytes of a guest become whole lines on the host's console.
//!
//! What a guest prints is the guest's: the host shows it with a name in front
//! and lets no control character through, so that a guest cannot write a line
//! that looks like the host's or like a result.

use alloc::string::String;

/// Longest line; a longer one is broken.
const LONGEST: usize = 240;

/// Collects bytes until a line is whole.
#[derive(Debug, Default)]
pub struct Lines {
    line: String,
}

impl Lines {
    /// Takes one byte; returns the line if it ended one.
    pub fn push(&mut self, byte: u8) -> Option<String> {
        match byte {
            b'\n' => return Some(core::mem::take(&mut self.line)),
            b'\r' => return None,
            b' '..=b'~' => self.line.push(char::from(byte)),
            _ => self.line.push('.'),
        }
        (self.line.len() >= LONGEST).then(|| core::mem::take(&mut self.line))
    }

    /// What was collected and not ended by a newline, if anything.
    pub fn finish(&mut self) -> Option<String> {
        (!self.line.is_empty()).then(|| core::mem::take(&mut self.line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    fn lines(bytes: &[u8]) -> std::vec::Vec<String> {
        let mut lines = Lines::default();
        let mut all: std::vec::Vec<_> = bytes.iter().filter_map(|b| lines.push(*b)).collect();
        all.extend(lines.finish());
        all
    }

    #[test]
    fn lines_end_at_newlines_and_at_the_end() {
        assert_eq!(lines(b"one\r\ntwo"), ["one".to_string(), "two".to_string()]);
    }

    #[test]
    fn control_characters_and_endless_lines_do_not_get_through() {
        assert_eq!(lines(b"\x1b[2Ja\xff"), [".[2Ja.".to_string()]);
        assert!(lines(&[b'x'; 1000]).iter().all(|line| line.len() <= LONGEST));
    }
}
