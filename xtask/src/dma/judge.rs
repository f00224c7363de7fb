//! From the console's lines to one verdict for each demonstration.

use serde::Serialize;

use super::modes::{Mode, Row};
use crate::console::Record;

/// What came of a demonstration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Shown {
    pub(super) id: String,
    pub(super) what: String,
    /// How it must end.
    pub(super) must: &'static str,
    pub(super) verdict: Verdict,
    /// What was seen.
    pub(super) seen: String,
}

/// Whether it ended as it must.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    /// It did.
    Held,
    /// It did not, or not each time that it was made.
    Broken,
    /// It was not made.
    Missing,
}

/// Judges the rows of a system by what the console showed, and adds those that
/// it told of and the table does not know: they do not hold.
pub(super) fn judge(mode: &Mode, lines: &[String]) -> Vec<Shown> {
    let told: Vec<Record> = lines.iter().filter_map(|line| told(mode, line)).collect();
    let of_row = |row: &Row| {
        let own = |record: &&Record| record.get("id") == Some(row.id);
        let mut verdict = Verdict::Missing;
        let mut seen = String::new();
        for record in told.iter().filter(own) {
            let good = record.get("outcome") == Some(row.must.word());
            if verdict != Verdict::Broken {
                verdict = if good { Verdict::Held } else { Verdict::Broken };
                seen = record.get("detail").unwrap_or_default().to_owned();
            }
        }
        Shown {
            id: row.id.to_owned(),
            what: row.what.to_owned(),
            must: row.must.word(),
            verdict,
            seen,
        }
    };
    let unknown = |record: &&Record| {
        let id = record.get("id").unwrap_or_default();
        mode.rows.iter().all(|row| row.id != id)
    };
    let unknown = told.iter().filter(unknown).map(|record| Shown {
        id: record.get("id").unwrap_or("?").to_owned(),
        what: "is not in the table of demonstrations".into(),
        must: "listed",
        verdict: Verdict::Broken,
        seen: record.get("detail").unwrap_or_default().to_owned(),
    });
    mode.rows.iter().map(of_row).chain(unknown).collect()
}

/// The record of a demonstration of this system, by guest or host.
fn told(mode: &Mode, line: &str) -> Option<Record> {
    let record = Record::parse(line)?;
    let speaks = record.name == "guest" || record.name == "host";
    let ours = record.says("dma") && record.get("mode") == Some(mode.name);
    (speaks && ours && record.get("outcome").is_some()).then_some(record)
}

#[cfg(test)]
mod tests {
    use super::super::modes::Must;
    use super::*;

    const MODE: Mode = Mode {
        name: "pool",
        what: "",
        rows: &[
            Row { id: "0.11", must: Must::Refused, what: "private data" },
            Row { id: "0.14", must: Must::Shown, what: "the address" },
        ],
        words: None,
    };

    fn verdicts(lines: &[&str]) -> Vec<Verdict> {
        let lines: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
        judge(&MODE, &lines).iter().map(|shown| shown.verdict).collect()
    }

    const GOOD: [&str; 2] = [
        "@guest dma mode=pool id=0.11 outcome=refused detail=\"an abort\"",
        "@host dma mode=pool id=0.14 outcome=shown",
    ];

    #[test]
    fn each_row_must_be_told_and_end_as_it_must() {
        use Verdict::{Broken, Held, Missing};
        assert_eq!(verdicts(&GOOD), [Held, Held]);
        assert_eq!(verdicts(&GOOD[1..]), [Missing, Held]);
        assert_eq!(verdicts(&[]), [Missing, Missing]);
        // The other word is as bad as none of the two.
        let shown = GOOD[0].replace("refused", "shown");
        assert_eq!(verdicts(&[&shown, GOOD[1]]), [Broken, Held]);
        let failed = GOOD[0].replace("refused", "failed");
        assert_eq!(verdicts(&[GOOD[0], &failed, GOOD[0], GOOD[1]]), [Broken, Held]);
    }

    #[test]
    fn lines_of_others_and_of_other_systems_do_not_count() {
        let other = GOOD[0].replace("mode=pool", "mode=each");
        let text = format!("guest: {}", GOOD[0]);
        let bouncer = GOOD[0].replace("@guest", "@attack");
        assert_eq!(verdicts(&[&other, &text, &bouncer]), [Verdict::Missing, Verdict::Missing]);
    }

    #[test]
    fn what_is_not_in_the_table_does_not_hold() {
        let more = GOOD[0].replace("0.11", "9.9");
        assert_eq!(verdicts(&[GOOD[0], GOOD[1], &more])[2], Verdict::Broken);
    }

    #[test]
    fn what_was_seen_is_kept() {
        let lines: Vec<String> = GOOD.iter().map(|&line| line.to_owned()).collect();
        assert_eq!(judge(&MODE, &lines)[0].seen, "an abort");
    }
}
