//! The console protocol between the payloads and xtask.
//!
//! A line that begins with `@` is for programs: the speaker's or record's
//! name, bare words, then `key=value` pairs whose values may be quoted
//! (`\"` and `\\` inside quotes). Everything else is for people. The host is
//! hostile in this story, so a record proves nothing by itself where xtask
//! can look for itself: hashes and writes are checked against the disk.
//!
//! ```text
//! @attack id=C1 what="read a guest's frame" outcome=refused detail="abort"
//! @counter run=bounce-bar name=exits_wfi value=12
//! @guest sha256 file=README.TXT hex=… dma=bounce
//! @host result=pass
//! ```

use std::collections::BTreeMap;

/// One `@` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// First word, without the `@`.
    pub name: String,
    /// Bare words after it.
    pub words: Vec<String>,
    /// `key=value` pairs; the last of a key counts.
    pub values: BTreeMap<String, String>,
}

impl Record {
    /// Reads a line; `None` if it is not a record. Never fails: what cannot
    /// be understood (an open quote, an empty key) is taken as it stands.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let rest = line.strip_prefix('@')?;
        if rest.starts_with(char::is_whitespace) {
            return None;
        }
        let mut tokens = tokens(rest).into_iter();
        let first = tokens.next()?;
        // `@guest: text` is no form of ours, but its sense is clear.
        let name = first.trim_end_matches(':').to_owned();
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)) {
            return None;
        }
        let mut record = Self { name, words: Vec::new(), values: BTreeMap::new() };
        for token in tokens {
            match token.split_once('=') {
                Some((key, value)) if !key.is_empty() => {
                    record.values.insert(key.to_owned(), value.to_owned());
                }
                _ => record.words.push(token),
            }
        }
        Some(record)
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// Whether a bare word was said.
    #[must_use]
    pub fn says(&self, word: &str) -> bool {
        self.words.iter().any(|said| said == word)
    }
}

/// Splits at blanks outside quotes and takes the quotes away.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut token = String::new();
    let mut begun = false;
    let mut quoted = false;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                quoted = !quoted;
                begun = true;
            }
            '\\' if quoted => token.extend(chars.next()),
            c if c.is_whitespace() && !quoted => {
                if begun {
                    tokens.push(std::mem::take(&mut token));
                }
                begun = false;
            }
            c => {
                token.push(c);
                begun = true;
            }
        }
    }
    if begun {
        tokens.push(token);
    }
    tokens
}

/// Whether bouncer or a payload says that it is broken itself.
#[must_use]
pub fn tells_of_panic(line: &str) -> bool {
    line.starts_with("@panic") || line.contains("panicked at") || line.contains("exception in EL2")
}

/// A console line without what a terminal would act on: a guest's bytes must
/// not move the user's cursor or change the colours.
#[must_use]
pub fn printable(line: &[u8]) -> String {
    String::from_utf8_lossy(line)
        .trim_end_matches(['\r', '\n'])
        .chars()
        .map(|c| if c == '\t' { ' ' } else { c })
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_values_keep_blanks_equals_and_quotes() {
        let line = r#"@attack id=C1 what="read a guest's \"private\" frame" outcome=refused detail="esr=0x96000010 at pc 0x4""#;
        let record = Record::parse(line).unwrap();
        assert_eq!(record.name, "attack");
        assert_eq!(record.get("id"), Some("C1"));
        assert_eq!(record.get("what"), Some("read a guest's \"private\" frame"));
        assert_eq!(record.get("outcome"), Some("refused"));
        assert_eq!(record.get("detail"), Some("esr=0x96000010 at pc 0x4"));
    }

    #[test]
    fn words_and_values_are_told_apart() {
        let record = Record::parse("@guest sha256 file=README.TXT hex=00ff dma=bounce\r").unwrap();
        assert!(record.says("sha256") && !record.says("file"));
        assert_eq!(record.get("hex"), Some("00ff"));
        assert_eq!(record.get("dma"), Some("bounce"));
        assert_eq!(Record::parse("@host a==b").unwrap().get("a"), Some("=b"));
    }

    #[test]
    fn lines_for_people_are_no_records() {
        for line in ["", "host: @attack id=C1", "bouncer: up", "@", "@ host", "@@host", "@a/b c=d"]
        {
            assert_eq!(Record::parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn broken_quotes_and_keys_do_not_break_the_parser() {
        let record = Record::parse("@attack id=C1 what=\"open quote \\").unwrap();
        assert_eq!(record.get("what"), Some("open quote "));
        let record = Record::parse("@attack =x id= \"\"").unwrap();
        assert_eq!(record.words, ["=x", ""]);
        assert_eq!(record.get("id"), Some(""));
    }

    #[test]
    fn any_bytes_parse_and_print_without_control_characters() {
        let mut seed = 1u32;
        for _ in 0..2000 {
            let mut line = vec![b'@'];
            for _ in 0..40 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                line.push((seed >> 24) as u8);
            }
            let text = printable(&line);
            assert!(!text.chars().any(char::is_control));
            let _ = Record::parse(&text);
        }
        assert_eq!(printable(b"\x1b[2Jhost: hi\r\n"), "\u{fffd}[2Jhost: hi");
    }
}
