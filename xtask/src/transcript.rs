//! What the console said, sorted: lines for people, attacks, counters,
//! results.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::console::{Record, tells_of_panic};

/// An attempt the host made, in its own words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attack {
    /// Row of the attack table, e.g. C1.
    pub id: String,
    /// What was tried.
    pub what: String,
    /// "refused", or what else happened.
    pub outcome: String,
    /// How it was refused, and that the data was unchanged.
    pub detail: String,
}

/// Counters of one run by name.
pub type Counters = BTreeMap<String, u64>;

/// The console of one boot.
#[derive(Debug, Default)]
pub struct Transcript {
    /// All lines, printable.
    pub lines: Vec<String>,
    /// Attacks in order.
    pub attacks: Vec<Attack>,
    /// Counters by run ("bounce-bar", "shared-pages", "machine").
    pub counters: BTreeMap<String, Counters>,
    /// The host's last verdict on itself.
    pub host_result: Option<String>,
    /// Each guest's verdict, in order.
    pub guest_results: Vec<String>,
    /// Hashes guests computed: (file, hex).
    pub hashes: Vec<(String, String)>,
    /// Files guests said they wrote.
    pub writes: Vec<String>,
    /// The first line that tells of a panic.
    pub panic: Option<String>,
}

impl Transcript {
    /// Takes the next console line.
    pub fn push(&mut self, line: &str) {
        self.lines.push(line.to_owned());
        if self.panic.is_none() && tells_of_panic(line) {
            self.panic = Some(line.to_owned());
        }
        let Some(record) = Record::parse(line) else { return };
        let text = |key: &str| record.get(key).unwrap_or_default().to_owned();
        match record.name.as_str() {
            "attack" => self.attacks.push(Attack {
                id: text("id"),
                what: text("what"),
                outcome: text("outcome"),
                detail: text("detail"),
            }),
            "counter" => {
                let run = record.get("run").unwrap_or("machine").to_owned();
                if let Some(value) = record.get("value").and_then(number) {
                    self.counters.entry(run).or_default().insert(text("name"), value);
                }
            }
            "host" if record.get("result").is_some() => self.host_result = Some(text("result")),
            "guest" => self.push_guest(&record),
            _ => {}
        }
    }

    fn push_guest(&mut self, record: &Record) {
        let text = |key: &str| record.get(key).unwrap_or_default().to_owned();
        if record.get("result").is_some() {
            self.guest_results.push(text("result"));
        } else if record.says("sha256") {
            self.hashes.push((text("file"), text("hex").to_lowercase()));
        } else if record.says("wrote") {
            self.writes.push(text("file"));
        }
    }

    /// The last lines, for a person who has to find out what went wrong.
    #[must_use]
    pub fn tail(&self, count: usize) -> &[String] {
        self.lines.get(self.lines.len().saturating_sub(count)..).unwrap_or_default()
    }

    /// An attack by its id; ids with a suffix ("C1.write") belong to their row.
    #[must_use]
    pub fn attacks_of(&self, row: &str) -> Vec<&Attack> {
        self.attacks.iter().filter(|attack| row_of(&attack.id) == row).collect()
    }
}

/// The row of the attack table an id belongs to: letters and digits in front.
#[must_use]
pub fn row_of(id: &str) -> &str {
    id.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or(id)
}

/// Whether an attempt is the finding that a row names: the very id, or any of
/// the row if it names no more than that.
#[must_use]
pub fn is_of(attempt: &str, finding: &str) -> bool {
    attempt == finding || row_of(attempt) == finding
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(lines: &[&str]) -> Transcript {
        let mut transcript = Transcript::default();
        lines.iter().for_each(|line| transcript.push(line));
        transcript
    }

    #[test]
    fn records_are_sorted_into_their_drawers() {
        let transcript = heard(&[
            "bouncer: up",
            "@guest sha256 file=README.TXT hex=00FF dma=bounce",
            "@guest wrote file=GUEST.TXT bytes=10",
            "@guest result=pass",
            "@attack id=C1 what=\"read a frame\" outcome=refused detail=\"abort\"",
            "@attack id=C1.write what=w outcome=refused",
            "@counter run=bounce-bar name=exits_wfi value=12",
            "@counter name=pages_hyp value=0x10",
            "@host result=pass",
        ]);
        assert_eq!(transcript.hashes, [("README.TXT".into(), "00ff".into())]);
        assert_eq!(transcript.writes, ["GUEST.TXT"]);
        assert_eq!(transcript.guest_results, ["pass"]);
        assert_eq!(transcript.attacks_of("C1").len(), 2);
        assert_eq!(transcript.attacks_of("C11").len(), 0);
        assert_eq!(transcript.counters["bounce-bar"]["exits_wfi"], 12);
        assert_eq!(transcript.counters["machine"]["pages_hyp"], 16);
        assert_eq!(transcript.host_result.as_deref(), Some("pass"));
        assert_eq!(transcript.panic, None);
    }

    #[test]
    fn a_later_failure_of_the_host_is_not_hidden_by_an_early_pass() {
        assert_eq!(heard(&["@host result=pass", "@host result=fail"]).host_result.unwrap(), "fail");
        assert!(heard(&["bouncer: panicked at x"]).panic.is_some());
        assert!(heard(&["@panic panicked"]).panic.is_some());
        assert!(heard(&["bouncer: exception in EL2, vector 4"]).panic.is_some());
        assert!(heard(&["host: no panic today"]).panic.is_none());
    }

    #[test]
    fn a_row_has_all_its_attempts_and_an_attempt_only_itself() {
        assert!(is_of("C1.read", "C1") && is_of("C1.read", "C1.read") && is_of("G2", "G2"));
        assert!(!is_of("C1.read", "C1.write") && !is_of("C10.exits", "C1") && !is_of("C1", "C1.x"));
    }

    #[test]
    fn the_tail_is_never_longer_than_the_console() {
        let transcript = heard(&["a", "b", "c"]);
        assert_eq!(transcript.tail(2), ["b", "c"]);
        assert_eq!(transcript.tail(9).len(), 3);
    }
}
