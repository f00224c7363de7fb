//! What must be run to try some rows.

use std::collections::{BTreeMap, BTreeSet};

use crate::threats::{Booted, Threat, scenario_of};

/// How the files of those end-to-end tests begin that fetch a Linux, or build
/// other bouncers: left out where anything else of the row runs on the booted
/// machine.
const LONG: [&str; 2] = ["tests/tests/linux", "tests/tests/watched"];

/// Boots and tests.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Scenarios of the host to boot.
    pub(super) scenarios: BTreeSet<&'static str>,
    /// End-to-end tests: functions by the name of their file.
    pub(super) tests: BTreeMap<String, BTreeSet<String>>,
    /// Native tests, as `crate::path::name`, of rows that nothing boots.
    pub(super) native: BTreeSet<String>,
}

impl Plan {
    /// What these rows need on such a machine.
    pub(super) fn of(rows: &[&Threat], model: &str, cpus: u32) -> Self {
        let mut plan = Self::default();
        for row in rows {
            if row.booted.is_empty() {
                plan.native.extend(row.native.iter().cloned());
            }
            if !row.concerns(model) {
                continue;
            }
            plan.scenarios.extend(row.findings(cpus).map(scenario_of));
            for (file, function) in tests_of(row) {
                let functions = plan.tests.entry(file.to_owned()).or_default();
                functions.insert(function.to_owned());
            }
        }
        plan
    }
}

/// The end-to-end tests of a row that are run for it, as (file, function).
pub(super) fn tests_of(row: &Threat) -> Vec<(&str, &str)> {
    let short = |booted: &Booted<'_>| match booted {
        Booted::Test { file, .. } => !LONG.iter().any(|long| file.starts_with(long)),
        Booted::Finding(_) => true,
    };
    let enough = row.booted().any(|booted| short(&booted));
    row.booted()
        .filter(|booted| short(booted) || !enough)
        .filter_map(|booted| match booted {
            Booted::Test { file, function } => Some((file, function)),
            Booted::Finding(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threats::Cpus;

    fn row(booted: &[&str], native: &[&str]) -> Threat {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        Threat {
            id: "C3".into(),
            attempt: String::new(),
            asset: String::new(),
            mechanism: vec![],
            native: words(native),
            booted: words(booted),
            two_cpus: vec!["C3.race".into()],
            mutants: vec![],
            cpus: Cpus::Models(vec!["max".into()]),
            not_covered: String::new(),
            planned: None,
        }
    }

    #[test]
    fn a_row_needs_its_boots_and_only_without_any_its_native_tests() {
        let row = row(&["C3.race", "H1.twice", "tests/tests/scenarios.rs#c9"], &["hyp::a::b"]);
        let plan = Plan::of(&[&row], "max", 2);
        assert_eq!(plan.scenarios, ["lies", "story"].into());
        assert_eq!(plan.tests["tests/tests/scenarios.rs"], ["c9".to_owned()].into());
        assert!(plan.native.is_empty());
        assert_eq!(Plan::of(&[&row], "max", 1).scenarios, ["lies"].into());
        assert_eq!(Plan::of(&[&row], "cortex-a72", 2), Plan::default());
    }

    #[test]
    fn linux_is_booted_only_for_a_row_that_nothing_shorter_shows() {
        let linux = "tests/tests/linux.rs#f";
        assert_eq!(tests_of(&row(&[linux], &[])), [("tests/tests/linux.rs", "f")]);
        assert!(tests_of(&row(&[linux, "C1"], &[])).is_empty());
        let native = row(&[], &["hyp::a::b"]);
        assert_eq!(Plan::of(&[&native], "max", 2).native, ["hyp::a::b".to_owned()].into());
    }
}
