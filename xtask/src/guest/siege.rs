//! `run --guest … --attack`: what the host's attempts came to, and the marker
//! that it looks for.

use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use crate::console::Record;
use crate::term::{BAD, GOOD, HEAD, paint};

/// Odd: the host knows the marker by products with it (`host::linux::Marker`).
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
/// What the marker is written with: it shall survive any shell.
const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
/// Rows of the attack table that every attacked guest must have met.
const EXPECTED: [&str; 4] = ["C1", "C10", "C11", "I1"];

/// Eight bytes of chance. The guest has them said twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker([u8; 8]);

impl Marker {
    /// One that no memory holds yet.
    #[must_use]
    pub fn chance() -> Self {
        // The standard library seeds it from the system's randomness.
        let mut chance = RandomState::new().build_hasher().finish();
        Self(std::array::from_fn(|_| {
            let letter = LETTERS[(chance & 0x3f) as usize];
            chance >>= 6;
            letter
        }))
    }

    /// For the guest: the digits of the marker, which are not the marker.
    #[must_use]
    pub fn digits(&self) -> String {
        super::archive::hex(&self.0).repeat(2)
    }

    /// For the host: by what it can tell the marker without having it.
    #[must_use]
    pub fn products(&self) -> String {
        let word = u64::from_le_bytes(self.0);
        let product = |rotation: u32| word.rotate_right(8 * rotation).wrapping_mul(FACTOR);
        (0..8).map(|rotation| format!("{:x}", product(rotation))).collect::<Vec<_>>().join(",")
    }
}

/// The host's lines about its attempts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// The row, and whether it was refused every time.
    rows: Vec<(String, bool)>,
    /// The attempts of rows that were not, as the host tells them.
    bad: Vec<String>,
    /// The host's last word: whether all went as it should.
    passed: Option<bool>,
    /// The closing line, and how often the marker was found.
    closing: Option<(String, Option<u64>)>,
}

impl Told {
    /// Takes a line of the host's; others are left alone.
    pub fn take(&mut self, line: &str) {
        if let Some(record) = Record::parse(line).filter(|record| record.name == "attack") {
            let refused = record.get("outcome") == Some("refused");
            let id = record.get("id").unwrap_or_default();
            self.rows.push((id.split('.').next().unwrap_or_default().to_owned(), refused));
            if !refused {
                self.bad.push(line.to_owned());
            }
        }
        let closing = line.strip_prefix("linux: ").filter(|line| line.contains(REFUSED));
        if let Some(closing) = closing {
            let found = closing.split_once("marker found ").map(|(_, rest)| rest);
            let times = found.and_then(|rest| rest.split(' ').next()?.parse().ok());
            self.closing = Some((closing.to_owned(), times));
        }
    }

    /// Takes a line from before the guest's own output or after it: the host
    /// may come to its end, and it may be a bad one, at any time.
    pub fn take_end(&mut self, line: &str) {
        match line.strip_prefix("@host result=") {
            Some("pass") => self.passed = Some(self.passed != Some(false)),
            Some(_) => self.passed = Some(false),
            None => {}
        }
    }

    /// What is wrong, if anything is; `shown` if the marker was to be found.
    fn problems(&self, searched: bool, shown: bool) -> Vec<String> {
        let mut problems = self.bad.clone();
        match self.passed {
            Some(true) => {}
            Some(false) => problems.push("the host says that not all went well".into()),
            None => problems.push("the host does not say that all went well".into()),
        }
        for row in EXPECTED {
            if !self.rows.iter().any(|(id, _)| id == row) {
                problems.push(format!("{row} was not tried: the guest ended too early"));
            }
        }
        match &self.closing {
            None => problems.push("the host does not tell what came of its attempts".into()),
            Some((_, None)) if searched => problems.push("the host has not searched".into()),
            Some((line, Some(0))) if shown => {
                problems.push(format!("the guest showed its marker, but {line}"));
            }
            Some((line, Some(1..))) if !shown => problems.push(line.clone()),
            _ => {}
        }
        problems
    }

    /// Whether the host ended well, and every attempt was refused.
    #[must_use]
    pub fn held(&self) -> bool {
        self.bad.is_empty() && self.passed == Some(true)
    }

    /// Prints it; true if all is as it must be.
    #[must_use]
    pub fn print(&self, searched: bool, shown: bool) -> bool {
        anstream::eprintln!("\n  {}", paint(HEAD, "the host tried to get in all the while:"));
        if let Some((line, _)) = &self.closing {
            anstream::eprintln!("  {line}");
        }
        let rows: BTreeSet<&str> = self.rows.iter().map(|(id, _)| id.as_str()).collect();
        let rows = rows.into_iter().collect::<Vec<_>>().join(", ");
        anstream::eprintln!("  rows of the attack table: {rows}");
        let problems = self.problems(searched, shown);
        for problem in &problems {
            anstream::eprintln!("  {} {problem}", paint(BAD, "not held:"));
        }
        if problems.is_empty() {
            anstream::eprintln!("  {}", paint(GOOD, "all of it was refused"));
        }
        problems.is_empty()
    }
}

/// What the host's closing line says.
const REFUSED: &str = " attempts refused, ";

#[cfg(test)]
mod tests {
    use super::*;

    fn told(lines: &[&str]) -> Told {
        let mut told = Told { passed: Some(true), ..Told::default() };
        let rows = EXPECTED.map(|row| {
            format!("@attack id={row}.x what=\"a b\" outcome=refused detail=\"3 times; c\"")
        });
        rows.iter().map(String::as_str).chain(lines.iter().copied()).for_each(|x| told.take(x));
        told
    }

    const NOWHERE: &str = "linux: 12 attempts refused, marker found 0 times in 5 frames searched";
    const SOMEWHERE: &str =
        "linux: 12 attempts refused, marker found 2 times in 5 frames searched: 1 in pages";

    #[test]
    fn a_marker_must_be_found_where_it_was_shown_and_only_then() {
        assert!(told(&[NOWHERE]).problems(true, false).is_empty());
        assert!(told(&[SOMEWHERE]).problems(true, true).is_empty());
        assert_eq!(told(&[NOWHERE]).problems(true, true).len(), 1);
        assert_eq!(told(&[SOMEWHERE]).problems(true, false).len(), 1);
        let unsearched = told(&["linux: 12 attempts refused, no marker searched"]);
        assert!(unsearched.problems(false, false).is_empty());
        assert_eq!(unsearched.problems(true, false).len(), 1);
    }

    #[test]
    fn what_was_not_refused_not_tried_or_not_told_is_a_problem() {
        let bad = "@attack id=C1.sweep what=\"read\" outcome=succeeded detail=\"1\"";
        assert_eq!(told(&[bad, NOWHERE]).problems(true, false), [bad]);
        assert_eq!(told(&[]).problems(true, false).len(), 1);
        assert_eq!(Told::default().problems(true, false).len(), EXPECTED.len() + 2);
    }

    #[test]
    fn a_host_that_does_not_say_that_all_went_well_is_not_believed() {
        let after = |lines: &[&str]| {
            let mut told = Told::default();
            lines.iter().for_each(|line| told.take_end(line));
            told.held()
        };
        let (pass, fail) = ("@host result=pass", "@host result=fail reason=\"x\"");
        assert!(after(&["linux: guest killed", pass]));
        for lines in [&[][..], &["linux: guest killed"], &[fail], &[pass, fail], &[fail, pass]] {
            assert!(!after(lines), "{lines:?}");
        }
        assert_eq!(told(&[NOWHERE]).problems(true, false), [""; 0]);
        let unsaid = Told { passed: None, ..told(&[NOWHERE]) };
        assert_eq!((unsaid.problems(true, false).len(), unsaid.held()), (1, false));
    }

    #[test]
    fn neither_party_is_given_the_marker_itself() {
        let (marker, other) = (Marker::chance(), Marker::chance());
        assert_ne!(marker, other);
        let text = String::from_utf8_lossy(&marker.0).into_owned();
        assert_eq!((marker.digits().len(), marker.products().split(',').count()), (32, 8));
        assert!(!marker.digits().contains(&text) && !marker.products().contains(&text));
        // As host::linux::Marker has it.
        let product = u64::from_le_bytes(marker.0).wrapping_mul(FACTOR);
        assert!(marker.products().starts_with(&format!("{product:x},")));
    }
}
