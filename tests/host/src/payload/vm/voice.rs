//! What a guest prints, on its UART or its console.

use alloc::string::String;

use host::lines::Lines;

/// How it is shown.
pub(super) enum Voice {
    /// Line by line, with the guest's name in front, and no control
    /// characters: a guest that is under test cannot speak for others.
    Lines(Lines),
    /// As it is: the guest has the terminal for itself.
    Terminal,
}

impl Voice {
    pub(super) fn new(terminal: bool) -> Self {
        if terminal { Voice::Terminal } else { Voice::Lines(Lines::default()) }
    }

    /// The guest prints bytes; `say` gets the lines that they complete.
    pub(super) fn hear(&mut self, bytes: &[u8], mut say: impl FnMut(&str)) {
        match self {
            Voice::Terminal => rt::console::write_bytes(bytes),
            Voice::Lines(lines) => {
                for line in bytes.iter().filter_map(|byte| lines.push(*byte)) {
                    say(&line);
                }
            }
        }
    }

    /// A last line that was not ended.
    pub(super) fn finish(&mut self) -> Option<String> {
        match self {
            Voice::Terminal => None,
            Voice::Lines(lines) => lines.finish(),
        }
    }
}
