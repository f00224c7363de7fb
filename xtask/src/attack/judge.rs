//! One verdict for each row, from all that was seen on a machine.

use std::collections::BTreeMap;

use serde::Serialize;

use super::plan::tests_of;
use super::tests::Results;
use crate::qemu::End;
use crate::story::Run;
use crate::threats::{Threat, scenario_of};
use crate::transcript::{Attack, Transcript, is_of};

/// What became of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub(super) enum Verdict {
    /// Every attempt was made and refused, and the machine went on.
    Refused {
        /// How, in words.
        how: String,
        /// Attempts and tests that showed it.
        attempts: usize,
    },
    /// An attempt was not refused, or the machine did not go on.
    Broken {
        /// What was seen.
        why: String,
    },
    /// Something that the row names did not take place.
    NotTried {
        /// What.
        why: String,
    },
    /// Nothing to try here and now.
    Waits {
        /// What for.
        why: String,
    },
}

impl Verdict {
    /// Must the command fail?
    pub(super) fn is_bad(&self) -> bool {
        matches!(self, Self::Broken { .. } | Self::NotTried { .. })
    }
}

/// One boot of the host.
struct Boot {
    transcript: Transcript,
    end: End,
}

/// All that was seen on one machine.
pub(super) struct Seen {
    /// CPU model.
    pub(super) model: String,
    /// CPUs.
    pub(super) cpus: u32,
    /// Tests that ran.
    pub(super) tests: Results,
    boots: BTreeMap<&'static str, Boot>,
}

impl Seen {
    pub(super) fn new(model: &str, cpus: u32) -> Self {
        let (tests, boots) = (Results::new(), BTreeMap::new());
        Self { model: model.to_owned(), cpus, tests, boots }
    }

    /// Keeps what a boot of `scenario` showed.
    pub(super) fn booted(&mut self, scenario: &'static str, run: Run) {
        self.boots.insert(scenario, Boot { transcript: run.transcript, end: run.end });
    }

    /// What became of a row.
    pub(super) fn judge(&self, row: &Threat) -> Verdict {
        if !row.concerns(&self.model) {
            return Verdict::Waits { why: "not on this CPU model".into() };
        }
        let mut attempts = Vec::new();
        for finding in row.findings(self.cpus) {
            match self.attempts(finding) {
                Ok(found) => attempts.extend(found),
                Err(verdict) => return verdict,
            }
        }
        let booted = tests_of(row).into_iter().map(|(file, function)| format!("{file}#{function}"));
        let native = row.native.iter().filter(|_| row.booted.is_empty()).cloned();
        let tests: Vec<String> = booted.chain(native).collect();
        for test in &tests {
            match self.tests.get(test) {
                Some(true) => {}
                Some(false) => return Verdict::Broken { why: format!("{test} failed") },
                None => return Verdict::NotTried { why: format!("{test} did not run") },
            }
        }
        match (&row.planned, attempts.len() + tests.len()) {
            (Some(planned), 0) => Verdict::Waits { why: format!("planned: {planned}") },
            (None, 0) => Verdict::Waits { why: "takes two CPUs".into() },
            (_, count) => Verdict::Refused { how: how(&attempts, &tests, row), attempts: count },
        }
    }

    /// The attempts of a finding, all refused on a machine that went on.
    fn attempts(&self, finding: &str) -> Result<Vec<&Attack>, Verdict> {
        let scenario = scenario_of(finding);
        let Some(boot) = self.boots.get(scenario) else {
            return Err(Verdict::NotTried { why: format!("{scenario} was not booted") });
        };
        let mut attempts =
            boot.transcript.attacks.iter().filter(|attack| is_of(&attack.id, finding));
        if let Some(Attack { id, what, outcome, detail }) =
            attempts.clone().find(|attack| attack.outcome != "refused")
        {
            return Err(Verdict::Broken { why: format!("{id}: {what}: {outcome}: {detail}") });
        }
        if let Some(panic) = &boot.transcript.panic {
            return Err(Verdict::Broken { why: format!("the machine stopped: {panic}") });
        }
        if boot.end != End::PoweredOff {
            return Err(Verdict::Broken { why: format!("the machine {}", boot.end.text()) });
        }
        // The host found something wrong that is no attempt's: a secret that
        // is not intact, a page that changed.
        let failed = |line: &&String| line.starts_with("host: FAILED");
        if let Some(line) = boot.transcript.lines.iter().find(failed) {
            return Err(Verdict::Broken { why: line.clone() });
        }
        if attempts.clone().next().is_none() {
            return Err(Verdict::NotTried { why: format!("{finding} in {scenario}") });
        }
        Ok(attempts.by_ref().collect())
    }
}

/// How it was refused: the first attempt's words stand for all.
fn how(attempts: &[&Attack], tests: &[String], row: &Threat) -> String {
    let mut parts = Vec::new();
    if let Some(first) = attempts.first() {
        let count = attempts.len();
        parts.push(format!("{count} refused, data unchanged, machine goes on: {}", first.detail));
    }
    if !tests.is_empty() {
        let place = if row.booted.is_empty() { "simulated machine" } else { "booted" };
        let count = tests.len();
        parts.push(format!("{count} tests passed ({place})"));
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threats::Cpus;

    fn row(booted: &[&str]) -> Threat {
        Threat {
            id: "C1".into(),
            attempt: "read".into(),
            asset: "memory".into(),
            mechanism: vec![],
            native: vec!["hyp::a".into()],
            booted: booted.iter().map(|&id| id.to_owned()).collect(),
            two_cpus: vec!["C1.race".into()],
            mutants: vec![],
            cpus: Cpus::Models(vec!["max".into()]),
            not_covered: String::new(),
            planned: None,
        }
    }

    fn seen(lines: &[&str], end: End) -> Seen {
        let mut seen = Seen::new("max", 1);
        let mut transcript = Transcript::default();
        lines.iter().for_each(|line| transcript.push(line));
        seen.boots.insert("story", Boot { transcript, end });
        seen
    }

    const GOOD: &str = "@attack id=C1.read what=w outcome=refused detail=abort";

    #[test]
    fn a_row_is_refused_only_if_all_of_it_was_tried_refused_and_survived() {
        let read = row(&["C1.read"]);
        let refused = |seen: &Seen, row| matches!(seen.judge(row), Verdict::Refused { .. });
        assert!(refused(&seen(&[GOOD], End::PoweredOff), &read));
        let bad = |lines: &[&str], end, row: &Threat| seen(lines, end).judge(row).is_bad();
        assert!(bad(&[], End::PoweredOff, &read), "never tried");
        assert!(bad(&[GOOD], End::TimedOut, &read), "the machine hung");
        assert!(bad(&[GOOD, "bouncer: panicked at x"], End::PoweredOff, &read));
        assert!(bad(&[GOOD, "host: FAILED: not intact"], End::PoweredOff, &read));
        let succeeded = "@attack id=C1.read what=w outcome=succeeded";
        assert!(bad(&[GOOD, succeeded], End::PoweredOff, &read));
        assert!(bad(&[GOOD], End::PoweredOff, &row(&["C1.read", "C1.write"])));
        assert!(bad(&[GOOD], End::PoweredOff, &row(&["C1.read", "tests/tests/a.rs#f"])));
        // Only the row's own findings count.
        let other = "@attack id=C2.read what=w outcome=succeeded";
        assert!(refused(&seen(&[GOOD, other], End::PoweredOff), &read));
    }

    #[test]
    fn what_cannot_be_tried_here_waits_and_a_row_without_boot_has_its_tests() {
        let mut seen = seen(&[GOOD], End::PoweredOff);
        assert!(matches!(seen.judge(&row(&["C1.race"])), Verdict::Waits { .. }));
        let native = row(&[]);
        assert!(matches!(seen.judge(&native), Verdict::NotTried { .. }));
        seen.tests.insert("hyp::a".into(), true);
        assert!(matches!(seen.judge(&native), Verdict::Refused { attempts: 1, .. }));
        seen.tests.insert("hyp::a".into(), false);
        assert!(matches!(seen.judge(&native), Verdict::Broken { .. }));
        seen.model = "cortex-a72".into();
        assert!(matches!(seen.judge(&native), Verdict::Waits { .. }));
        let planned = Threat { planned: Some("later".into()), native: vec![], ..native };
        seen.model = "max".into();
        assert!(matches!(seen.judge(&planned), Verdict::Waits { .. }));
    }
}
