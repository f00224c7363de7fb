//! What a guest prints, on its UART or its console.

use alloc::string::String;

use host::lines::Lines;

/// What becomes of what a guest prints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::payload) enum Shown {
    /// It is shown line by line, as a guest's.
    AsLines,
    /// It is shown as it is: the terminal is the guest's own.
    AsItIs,
    /// Its last lines are kept, for the case that it ends badly.
    IfAsked,
}

/// How it is shown.
pub(super) enum Voice {
    /// Line by line, with the guest's name in front, and no control
    /// characters: a guest that is under test cannot speak for others.
    Lines(Lines),
    /// As it is: the guest has the terminal for itself. Kept is whether it
    /// left it in the middle of a line.
    Terminal { in_line: bool },
}

impl Voice {
    pub(super) fn new(shown: Shown) -> Self {
        match shown {
            Shown::AsItIs => Voice::Terminal { in_line: false },
            Shown::AsLines | Shown::IfAsked => Voice::Lines(Lines::default()),
        }
    }

    /// The guest prints bytes; `say` gets the lines that they complete.
    pub(super) fn hear(&mut self, bytes: &[u8], mut say: impl FnMut(&str)) {
        match self {
            Voice::Terminal { in_line } => {
                rt::console::write_bytes(bytes);
                *in_line = bytes.last().map_or(*in_line, |byte| *byte != b'\n');
            }
            Voice::Lines(lines) => {
                for line in bytes.iter().filter_map(|byte| lines.push(*byte)) {
                    say(&line);
                }
            }
        }
    }

    /// The guest has ended: a last line that it did not. On a terminal it is
    /// ended now, for what comes next is the host's.
    pub(super) fn finish(&mut self) -> Option<String> {
        match self {
            Voice::Terminal { in_line } => {
                if core::mem::take(in_line) {
                    rt::console::write_bytes(b"\r\n");
                }
                None
            }
            Voice::Lines(lines) => lines.finish(),
        }
    }
}
