//! What became of the mutants, for a person and for a program.

use std::time::Duration;

use serde::Serialize;

use super::catalogue::{Fate, Mutant};
use super::suite::Verdict;
use crate::Outcome;
use crate::term::{BAD, DIM, GOOD, HEAD, paint};

/// What became of a mutant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// This check failed.
    Caught(String),
    /// The compiler refused it.
    Impossible(String),
    /// No check failed.
    Survived,
    /// A check that should have failed did not; which, and what did.
    Missed(String),
    /// A test had no end, and none said what is wrong.
    Endless(String),
    /// The compiler refuses it, which it should not.
    DoesNotBuild(String),
    /// The compiler should have refused it and did not.
    Possible,
    /// No check of ours can see it; why.
    Hidden(String),
    /// It wants `--boot`.
    NotTried,
}

impl What {
    /// In words.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Caught(by) => format!("caught by {by}"),
            Self::DoesNotBuild(error) => format!("does not build: {error}"),
            Self::Impossible(why) => format!("impossible: {why}"),
            Self::Survived => "SURVIVED every check".into(),
            Self::Missed(what) => format!("MISSED by {what}"),
            Self::Endless(what) => format!("no check says what is wrong: {what}"),
            Self::Possible => "the compiler no longer refuses it".into(),
            Self::Hidden(why) => format!("not observable: {why}"),
            Self::NotTried => "not tried: needs --boot".into(),
        }
    }

    /// Is it an answer to be ashamed of?
    fn is_failure(&self) -> bool {
        !matches!(self, Self::Caught(_) | Self::Impossible(_) | Self::Hidden(_) | Self::NotTried)
    }
}

impl From<Verdict> for What {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Passed => Self::Survived,
            Verdict::Caught(by) => Self::Caught(by),
            Verdict::Endless(what) => Self::Endless(what),
            Verdict::DoesNotBuild(error) => Self::DoesNotBuild(error),
        }
    }
}

/// One line of the table.
#[derive(Debug, Clone)]
pub(super) struct Row {
    id: String,
    bug: u32,
    title: String,
    pub(super) what: What,
    seconds: f64,
}

impl Row {
    pub(super) fn new(mutant: &Mutant, what: What, took: Duration) -> Self {
        let (id, title) = (mutant.id.clone(), mutant.title.clone());
        // Tenths: the rest is noise.
        let seconds = (took.as_secs_f64() * 10.0).round() / 10.0;
        Self { id, bug: mutant.bug, title, what, seconds }
    }
}

/// The result as a program reads it.
#[derive(Debug, Serialize)]
pub(super) struct Json {
    mutants: Vec<JsonRow>,
}

#[derive(Debug, Serialize)]
struct JsonRow {
    id: String,
    bug: u32,
    title: String,
    caught: bool,
    impossible: bool,
    /// Neither, because no check of ours can see it or `--boot` was not given.
    not_tried: bool,
    by: String,
    seconds: f64,
}

/// The table for a program.
pub(super) fn json(rows: &[Row]) -> Json {
    let row = |row: &Row| JsonRow {
        id: row.id.clone(),
        bug: row.bug,
        title: row.title.clone(),
        caught: matches!(row.what, What::Caught(_)),
        impossible: matches!(row.what, What::Impossible(_)),
        not_tried: matches!(row.what, What::Hidden(_) | What::NotTried),
        by: row.what.words(),
        seconds: row.seconds,
    };
    Json { mutants: rows.iter().map(row).collect() }
}

/// Prints the sum; passes if nothing survived.
pub(super) fn print(rows: &[Row]) -> Outcome {
    let count = |is: fn(&What) -> bool| rows.iter().filter(|row| is(&row.what)).count();
    let failed: Vec<&Row> = rows.iter().filter(|row| row.what.is_failure()).collect();
    let sum = format!(
        "{} mutants: {} caught, {} impossible, {} survived, {} not observable, {} need --boot",
        rows.len(),
        count(|what| matches!(what, What::Caught(_))),
        count(|what| matches!(what, What::Impossible(_))),
        failed.len(),
        count(|what| matches!(what, What::Hidden(_))),
        count(|what| matches!(what, What::NotTried)),
    );
    anstream::println!("\n  {}\n", paint(if failed.is_empty() { GOOD } else { BAD }, sum));
    for row in &failed {
        anstream::println!("    {} {}: {}", paint(BAD, &row.id), row.title, row.what.words());
    }
    if failed.is_empty() { Outcome::Pass } else { Outcome::Fail }
}

/// Prints what there is.
pub(super) fn list(mutants: &[Mutant]) {
    for mutant in mutants {
        let fate = match &mutant.fate {
            Fate::Native(None) => "native tests".into(),
            Fate::Native(Some(package)) => format!("native tests of {package}"),
            Fate::Boot => "a boot".into(),
            Fate::EndToEnd(test) => format!("a boot: {test}"),
            Fate::Hidden(why) => format!("nobody: {why}"),
            Fate::Impossible(error) => format!("the compiler: {error}"),
        };
        let also = mutant.also.iter().map(|test| format!("; a boot, too: {test}"));
        let fate = paint(DIM, format!("[{fate}{}]", also.collect::<String>()));
        anstream::println!("{:<5} {} {fate}", paint(HEAD, &mutant.id), mutant.title);
    }
}
