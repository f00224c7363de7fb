//! Telling the guest's own output from everything else on the console.
//!
//! One serial line carries bouncer's lines, the host's, the kernel's and then
//! the guest's. The guest's init marks where its own begins and ends, with a
//! word made for this run so that nothing a script prints can be taken for a
//! mark by accident:
//!
//! ```text
//! @WORD begin
//! …the guest's bytes, exactly…
//! @WORD status 3
//! ```
//!
//! A guest that is about to reboot says `reboot` instead of a status.
//!
//! A guest of the user's own marks nothing: there the host's lines before and
//! after it are the frame.

use super::screen::Keyboard;

/// What came on the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A line from before or after the guest's own output.
    Line(Vec<u8>),
    /// The guest's own output begins.
    Begin,
    /// Bytes of the guest's own.
    Bytes(Vec<u8>),
    /// The guest's own output has ended, with a status if it told one.
    End(Option<u8>),
    /// It has ended for now: the guest reboots.
    Reboots,
}

/// What the guest's own output lies between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Marks {
    /// Lines with this run's word. The break before the end's mark is part of
    /// the mark, so that what comes between is byte by byte the guest's.
    Word(String),
    /// The same for a person, who wants to see a line break at once and does
    /// not mind one more at the end.
    Person(String),
    /// The host's lines about the guest.
    Host,
    /// Nothing: the console is the guest's alone.
    None,
}

impl Marks {
    /// Those of a Linux whose init has this run's word; `otherwise` for one
    /// that has none.
    #[must_use]
    pub fn of(word: Option<&str>, keyboard: Keyboard, otherwise: Self) -> Self {
        match (word, keyboard) {
            (None, _) => otherwise,
            (Some(word), Keyboard::Keys) => Self::Person(word.to_owned()),
            (Some(word), _) => Self::Word(word.to_owned()),
        }
    }

    /// Whether the guest's own output begins behind this line.
    fn begins(&self, line: &[u8]) -> bool {
        let line = String::from_utf8_lossy(line);
        match self {
            Self::Word(word) | Self::Person(word) => line.trim_end() == format!("@{word} begin"),
            Self::Host => line.starts_with("linux: ") && line.contains(" measured sha256="),
            Self::None => true,
        }
    }

    /// The bytes that end it.
    fn end(&self) -> Vec<u8> {
        match self {
            Self::Word(word) => format!("\n@{word} status ").into_bytes(),
            Self::Person(word) => format!("@{word} status ").into_bytes(),
            Self::Host => b"\nlinux: ran for ".into(),
            Self::None => Vec::new(),
        }
    }
}

/// Takes the console's bytes as they come and gives them out sorted.
#[derive(Debug)]
pub struct Sorter {
    marks: Marks,
    end: Vec<u8>,
    inside: bool,
    /// Bytes that may belong to a mark or to an unfinished line.
    held: Vec<u8>,
}

impl Sorter {
    /// For a console with these marks.
    #[must_use]
    pub fn new(marks: Marks) -> Self {
        let (end, inside) = (marks.end(), marks == Marks::None);
        Self { marks, end, inside, held: Vec::new() }
    }

    /// Sorts what has come.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Piece> {
        self.held.extend_from_slice(bytes);
        let mut pieces = Vec::new();
        loop {
            let goes_on =
                if self.inside { self.inside(&mut pieces) } else { self.outside(&mut pieces) };
            if !goes_on {
                return pieces;
            }
        }
    }

    /// The console has ended: what was held back is what it looks like.
    pub fn finish(&mut self) -> Option<Piece> {
        let held = std::mem::take(&mut self.held);
        match self.inside {
            _ if held.is_empty() => None,
            true => Some(Piece::Bytes(held)),
            false => Some(Piece::Line(held)),
        }
    }

    /// One line; false if none is complete. The host may start its guest again.
    fn outside(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let Some(end) = self.held.iter().position(|&byte| byte == b'\n') else { return false };
        let mut line: Vec<u8> = self.held.drain(..=end).collect();
        line.pop();
        let begins = self.marks.begins(&line);
        // The host's line tells more than that.
        if self.marks == Marks::Host || !begins {
            pieces.push(Piece::Line(line));
        }
        if begins {
            self.inside = true;
            pieces.push(Piece::Begin);
        }
        true
    }

    /// All but what may be the beginning of the end; true at the end.
    fn inside(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let length = self.end.len();
        if length == 0 {
            return self.give(self.held.len(), pieces);
        }
        let mark = self.held.windows(length).position(|window| window == self.end);
        if let Some(at) = mark {
            return self.end_at(at, pieces);
        }
        let longest = self.held.len().min(length - 1);
        let kept = (0..=longest).rev().find(|&n| self.end.starts_with(self.tail(n)));
        let free = self.held.len() - kept.unwrap_or(0);
        self.give(free, pieces)
    }

    /// The mark of the end is at `at`; false if its status has not come yet.
    fn end_at(&mut self, at: usize, pieces: &mut Vec<Piece>) -> bool {
        self.give(at, pieces);
        if self.marks == Marks::Host {
            // The line is the host's; only the break before it is the mark's.
            self.held.remove(0);
            self.inside = false;
            pieces.push(Piece::End(None));
            return true;
        }
        let rest = self.held.get(self.end.len()..).unwrap_or_default();
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else { return false };
        let digits = String::from_utf8_lossy(rest.get(..end).unwrap_or_default()).into_owned();
        self.held.drain(..self.end.len() + end + 1);
        pieces.push(match digits.trim() {
            "reboot" => Piece::Reboots,
            // init prints what the shell says, which is a number below 256.
            number => Piece::End(Some(number.parse().unwrap_or(u8::MAX))),
        });
        self.inside = false;
        true
    }

    fn tail(&self, length: usize) -> &[u8] {
        self.held.get(self.held.len() - length..).unwrap_or_default()
    }

    /// Gives out the first bytes; more of them must come first.
    fn give(&mut self, count: usize, pieces: &mut Vec<Piece>) -> bool {
        if count > 0 {
            pieces.push(Piece::Bytes(self.held.drain(..count).collect()));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The guest's bytes, its status, and the lines around it.
    fn sort(console: &[u8], step: usize) -> (Vec<u8>, Option<u8>, Vec<String>) {
        let mut sorter = Sorter::new(Marks::Word("word-1".into()));
        let mut pieces = Vec::new();
        for chunk in console.chunks(step) {
            pieces.extend(sorter.push(chunk));
        }
        pieces.extend(sorter.finish());
        let (mut own, mut status, mut lines) = (Vec::new(), None, Vec::new());
        for piece in pieces {
            match piece {
                Piece::Bytes(bytes) => own.extend(bytes),
                Piece::End(number) => status = number,
                Piece::Line(line) => lines.push(String::from_utf8_lossy(&line).into_owned()),
                Piece::Begin => assert!(own.is_empty() && status.is_none()),
                Piece::Reboots => panic!("nobody has said so"),
            }
        }
        (own, status, lines)
    }

    #[test]
    fn marks_are_found_and_stripped_however_the_bytes_arrive() {
        let console = b"boot\n@word-1 begin\r\none\ntwo\n\n@word-1 status 3\nhost: off\nrest";
        for step in 1..console.len() {
            let (own, status, lines) = sort(console, step);
            assert_eq!(own, b"one\ntwo\n", "in steps of {step}");
            assert_eq!(status, Some(3));
            assert_eq!(lines, ["boot", "host: off", "rest"]);
        }
    }

    #[test]
    fn output_comes_out_byte_by_byte() {
        let own = b"\x00\xff\n@word-2 status 0\n\r\n@word-1 stat\n\n\n@word-1 no end";
        let mut console = b"@word-1 begin\n".to_vec();
        console.extend_from_slice(own);
        console.extend_from_slice(b"\n@word-1 status 255\n");
        for step in [1, 2, 7, 1000] {
            let (out, status, _) = sort(&console, step);
            assert_eq!((out.as_slice(), status), (own.as_slice(), Some(255)));
        }
    }

    #[test]
    fn a_guest_that_dies_has_no_status_but_all_its_output() {
        let (own, status, _) = sort(b"@word-1 begin\nlast words\n@word-1 st", 3);
        assert_eq!((own.as_slice(), status), (b"last words\n@word-1 st".as_slice(), None));
        let (own, _, lines) = sort(b"panic", 2);
        assert!(own.is_empty());
        assert_eq!(lines, ["panic"]);
    }

    #[test]
    fn a_guest_of_the_users_lies_between_the_hosts_lines_again_and_again() {
        let console: &[u8] = b"boot\nlinux: Rsi, measured sha256=00\r\nkernel\nlinux: ran for\n\
            linux: ran for 5 ms\nlinux: the guest resets\nlinux: Rsi, measured sha256=00\nb\n\
            linux: ran for 3 ms\nlinux: guest powered off\n";
        for step in 1..console.len() {
            let mut sorter = Sorter::new(Marks::Host);
            let pieces: Vec<Piece> =
                console.chunks(step).flat_map(|chunk| sorter.push(chunk)).collect();
            let bytes = |piece: &Piece| match piece {
                Piece::Bytes(bytes) => bytes.clone(),
                Piece::End(None) => b"|".to_vec(),
                _ => Vec::new(),
            };
            let own: Vec<u8> = pieces.iter().flat_map(bytes).collect();
            assert_eq!(own, b"kernel\nlinux: ran for|b|", "in steps of {step}");
            let line = |text: &str| pieces.contains(&Piece::Line(text.into()));
            for text in ["boot", "linux: ran for 5 ms", "linux: the guest resets"] {
                assert!(line(text), "{text}: {pieces:?}");
            }
            assert!(pieces.ends_with(&[Piece::Line(b"linux: guest powered off".into())]));
        }
    }

    #[test]
    fn a_guest_that_reboots_is_heard_again() {
        let mut sorter = Sorter::new(Marks::Word("word-1".into()));
        let pieces = sorter.push(
            b"@word-1 begin\n1\n@word-1 status reboot\nlinux: the guest resets\n\
            @word-1 begin\n2\n@word-1 status 3\n",
        );
        let bytes = |text: &str| Piece::Bytes(text.into());
        let line = Piece::Line(b"linux: the guest resets".into());
        let wanted = [Piece::Begin, bytes("1"), Piece::Reboots, line, Piece::Begin, bytes("2")];
        assert_eq!(pieces, [wanted.as_slice(), &[Piece::End(Some(3))]].concat());
    }

    #[test]
    fn a_console_that_is_the_guests_alone_is_passed_on_at_once() {
        let all = Sorter::new(Marks::None).push(b"\nx");
        assert_eq!(all, [Piece::Bytes(b"\nx".into())]);
    }

    #[test]
    fn a_person_sees_a_line_break_at_once() {
        let mut sorter = Sorter::new(Marks::Person("word-1".into()));
        sorter.push(b"@word-1 begin\r\n");
        assert_eq!(sorter.push(b"line\r\n"), [Piece::Bytes(b"line\r\n".into())]);
        let end = sorter.push(b"# \r\n@word-1 status 0\r\n");
        assert_eq!(end, [Piece::Bytes(b"# \r\n".into()), Piece::End(Some(0))]);
    }

    #[test]
    fn what_can_be_shown_is_not_held_back() {
        let mut sorter = Sorter::new(Marks::Word("word-1".into()));
        assert_eq!(sorter.push(b"@word-1 begin\n# "), [Piece::Begin, Piece::Bytes(b"# ".into())]);
        assert_eq!(sorter.push(b"l"), [Piece::Bytes(b"l".into())]);
    }
}
