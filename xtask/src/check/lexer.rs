//! Just enough of Rust's lexical grammar to tell code from comments and
//! strings, line by line.

/// A source line taken apart.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Code, with string and character contents left out.
    pub(super) code: String,
    /// Text of the comments on it.
    pub(super) comment: String,
}

/// Takes a source file apart.
pub(super) fn lines(source: &str) -> Vec<Line> {
    let mut lexer = Lexer { rest: source, lines: vec![Line::default()] };
    while let Some(c) = lexer.rest.chars().next() {
        lexer.token(c);
    }
    lexer.lines
}

struct Lexer<'a> {
    rest: &'a str,
    lines: Vec<Line>,
}

impl Lexer<'_> {
    fn token(&mut self, c: char) {
        if self.rest.starts_with("//") {
            let end = self.rest.find('\n').unwrap_or(self.rest.len());
            self.skip(end, true);
        } else if self.rest.starts_with("/*") {
            let end = block_comment(self.rest);
            self.skip(end, true);
        } else if c == '"' {
            let end = string(self.rest);
            self.skip(end, false);
        } else if c == '\'' {
            // A lifetime has no closing quote right after its first character.
            let end = character(self.rest).unwrap_or(1);
            self.skip(end, false);
        } else if c.is_alphabetic() || c == '_' {
            self.word();
        } else {
            self.code(c.len_utf8());
        }
    }

    /// A word, or the prefix of a raw string.
    fn word(&mut self) {
        let end = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_');
        let end = end.unwrap_or(self.rest.len());
        let word = self.rest.get(..end).unwrap_or_default();
        if matches!(word, "r" | "br" | "cr")
            && let Some(length) = self.rest.get(end..).and_then(raw_string)
        {
            self.skip(end + length, false);
            return;
        }
        self.code(end);
    }

    /// Takes `count` bytes as code.
    fn code(&mut self, count: usize) {
        for c in self.take(count).chars() {
            self.put(c, false);
        }
    }

    /// Takes `count` bytes that are not code.
    fn skip(&mut self, count: usize, comment: bool) {
        for c in self.take(count).chars() {
            if comment || c == '\n' {
                self.put(c, true);
            }
        }
    }

    fn put(&mut self, c: char, comment: bool) {
        if c == '\n' {
            self.lines.push(Line::default());
        } else if let Some(line) = self.lines.last_mut() {
            let text = if comment { &mut line.comment } else { &mut line.code };
            text.push(c);
        }
    }

    fn take(&mut self, count: usize) -> String {
        let (taken, rest) = self.rest.split_at_checked(count).unwrap_or((self.rest, ""));
        self.rest = rest;
        taken.to_owned()
    }
}

/// Length of a block comment; they nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while let Some(rest) = text.get(at..) {
        let Some(c) = rest.chars().next() else { break };
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth.saturating_sub(1), at + 2);
            if depth == 0 {
                break;
            }
        } else {
            at += c.len_utf8();
        }
    }
    at
}

/// Length of a string literal that begins here.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length of `#…"…"#…` if that is what begins here.
fn raw_string(text: &str) -> Option<usize> {
    let hashes = text.find(|c| c != '#')?;
    let body = text.get(hashes..)?.strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = body.find(&close).map_or(body.len(), |at| at + close.len());
    Some(hashes + 1 + end)
}

/// Length of a character literal, if it is one and no lifetime.
fn character(text: &str) -> Option<usize> {
    let mut chars = text.char_indices().skip(1);
    let (_, first) = chars.next()?;
    if first == '\\' {
        chars.next()?;
        return chars.find(|(_, c)| *c == '\'').map(|(at, _)| at + 1);
    }
    let (at, quote) = chars.next()?;
    (quote == '\'').then_some(at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(source: &str) -> Vec<String> {
        lines(source).into_iter().map(|line| line.code).collect()
    }

    #[test]
    fn comments_and_strings_are_no_code() {
        assert_eq!(code("a // unsafe\nb"), ["a ", "b"]);
        assert_eq!(code("a /* unsafe /* x */ unsafe */ b"), ["a  b"]);
        assert_eq!(code(r#"f("unsafe \" unsafe") g"#), ["f() g"]);
        assert_eq!(code("r#\"unsafe \" unsafe\"# x"), [" x"]);
        assert_eq!(code("br\"unsafe\" r x"), [" r x"]);
        assert_eq!(code("a /* one\ntwo */ b"), ["a ", " b"]);
    }

    #[test]
    fn lifetimes_are_not_the_beginning_of_a_character() {
        assert_eq!(
            code("fn f<'a>(x: &'a u8) { '\"'; '\\''; unsafe {} }"),
            ["fn f<a>(x: &a u8) { ; ; unsafe {} }"]
        );
    }

    #[test]
    fn comment_text_is_kept() {
        assert_eq!(lines("x // SAFETY: y")[0].comment, "// SAFETY: y");
    }

    #[test]
    fn files_that_end_in_the_middle_of_something_do_no_harm() {
        for source in ["\"open", "/* open", "r#\"open", "'", "'\\", "r#", "ü'ü", "//"] {
            assert!(!lines(source).is_empty());
        }
    }
}
