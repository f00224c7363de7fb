//! The catalogue of attacks: `docs/threats.toml`, one row for each way in.
//!
//! [`Catalogue`] reads it; `verify` holds each row against the tree (does
//! the item, the test, the mutant exist?); `page` makes the table in
//! `docs/threats.md`; [`crate::attack`] runs rows on the booted machine, and
//! [`crate::report`] learns from it what the story must have tried.

mod page;
mod tests_of_tree;
mod verify;

use std::path::Path;
use std::sync::LazyLock;

use anyhow::{Context, Result};
use serde::Deserialize;

pub(crate) use page::{PAGE, is_current, renew};
pub(crate) use verify::verify;

/// The catalogue's data.
pub const DATA: &str = "docs/threats.toml";

/// CPU models on which every row is tried, unless it says otherwise.
pub const MODELS: [&str; 9] = [
    "cortex-a53",
    "cortex-a72",
    "cortex-a76",
    "neoverse-n1",
    "neoverse-v1",
    "neoverse-n2",
    "a64fx",
    "cortex-a710",
    "max",
];

/// On which CPU models a row is tried.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Cpus {
    /// `"all"`: every one of [`MODELS`].
    All(String),
    /// These alone.
    Models(Vec<String>),
}

/// A row: one way in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Threat {
    /// A letter for who attacks, and a number.
    pub id: String,
    /// What is tried.
    pub attempt: String,
    /// What it aims at.
    pub asset: String,
    /// What stops it, each as `file#item`.
    pub mechanism: Vec<String>,
    /// Test functions on the simulated machine and beside the code, as
    /// `crate::path::name`.
    #[serde(default)]
    pub native: Vec<String>,
    /// What shows it on the booted machine: ids of the host's findings (`C1`
    /// or `C1.read`), or `tests/tests/FILE.rs#function`.
    #[serde(default)]
    pub booted: Vec<String>,
    /// Those of `booted` that a machine with one CPU cannot try.
    #[serde(default)]
    pub two_cpus: Vec<String>,
    /// Mutants that bring the hole back.
    #[serde(default)]
    pub mutants: Vec<String>,
    /// CPU models.
    pub cpus: Cpus,
    /// What nobody tries yet; empty if nothing is known to be left.
    #[serde(default)]
    pub not_covered: String,
    /// What the row waits for. Only a row that waits may be without a test.
    pub planned: Option<String>,
}

/// All rows, in the file's order.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// The rows.
    #[serde(rename = "threat")]
    pub threats: Vec<Threat>,
}

/// One thing of a row's `booted`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Booted<'a> {
    /// A finding of the host's, by its id.
    Finding(&'a str),
    /// A test function in a file of the end-to-end tests.
    Test {
        /// `tests/tests/FILE.rs`.
        file: &'a str,
        /// The function.
        function: &'a str,
    },
}

impl Catalogue {
    /// Reads the catalogue of a checkout.
    ///
    /// # Errors
    /// When it cannot be read; says in which line.
    pub fn load(root: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(root.join(DATA))
            .with_context(|| format!("cannot read {DATA}"))?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).with_context(|| format!("{DATA} is no catalogue"))
    }

    /// The row of that id, in whatever case it was typed.
    #[must_use]
    pub fn row(&self, id: &str) -> Option<&Threat> {
        self.threats.iter().find(|threat| threat.id.eq_ignore_ascii_case(id))
    }
}

impl Threat {
    /// What shows it on the booted machine.
    pub fn booted(&self) -> impl Iterator<Item = Booted<'_>> {
        self.booted.iter().map(|text| booted(text))
    }

    /// Ids of findings that a boot with so many CPUs must have.
    pub fn findings(&self, cpus: u32) -> impl Iterator<Item = &str> {
        self.booted().filter_map(move |booted| match booted {
            Booted::Finding(id) if cpus > 1 || !self.two_cpus.iter().any(|two| two == id) => {
                Some(id)
            }
            _ => None,
        })
    }

    /// Whether it is tried on this CPU model.
    #[must_use]
    pub fn concerns(&self, model: &str) -> bool {
        match &self.cpus {
            Cpus::All(_) => true,
            Cpus::Models(models) => models.iter().any(|one| one == model),
        }
    }
}

fn booted(text: &str) -> Booted<'_> {
    match text.split_once('#') {
        Some((file, function)) => Booted::Test { file, function },
        None => Booted::Finding(text),
    }
}

/// The scenario of the host in which a finding is made.
#[must_use]
pub fn scenario_of(finding: &str) -> &'static str {
    match finding.split_once('.') {
        _ if finding.starts_with('H') => "lies",
        // On a machine with an SMMU, and functions behind it.
        Some((_, attempt)) if attempt.starts_with("smmu-") => "smmu",
        _ => "story",
    }
}

/// The catalogue that this program was built with: what the story is judged
/// by. `check` tells when it cannot be read, and nothing is expected then.
static BUILT_WITH: LazyLock<Option<Catalogue>> =
    LazyLock::new(|| Catalogue::parse(include_str!("../../../docs/threats.toml")).ok());

/// What the host has on a machine with an SMMU, and tries to have on others.
const OPEN_WITH_SMMU: [&str; 3] = ["M3.ecam-low", "M8.bar-window", "M8.io-window"];

/// Findings that a story on this machine must have.
#[must_use]
pub fn expected_of_the_story(model: &str, cpus: u32, smmu: bool) -> Vec<&'static str> {
    let shut = |id: &&str| !(smmu && OPEN_WITH_SMMU.contains(id));
    let rows = BUILT_WITH.iter().flat_map(|catalogue| &catalogue.threats);
    rows.filter(|threat| threat.concerns(model))
        .flat_map(|threat| threat.findings(cpus))
        .filter(|id| scenario_of(id) == "story")
        .filter(shut)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_told_from_a_test() {
        assert_eq!(booted("C1.read"), Booted::Finding("C1.read"));
        let (file, function) = ("tests/tests/linux.rs", "f");
        assert_eq!(booted("tests/tests/linux.rs#f"), Booted::Test { file, function });
    }

    #[test]
    fn what_takes_two_cpus_is_not_expected_of_one() {
        assert!(expected_of_the_story("max", 2, false).contains(&"C3.race"));
        assert!(!expected_of_the_story("max", 1, false).contains(&"C3.race"));
        assert!(expected_of_the_story("max", 1, false).contains(&"C1.read"));
    }

    #[test]
    fn with_an_smmu_the_host_has_pcie() {
        assert!(expected_of_the_story("max", 1, false).contains(&"M3.ecam-low"));
        assert!(!expected_of_the_story("max", 1, true).contains(&"M3.ecam-low"));
        assert!(expected_of_the_story("max", 1, true).contains(&"M4.smmu"));
        let scenarios = ["H1.twice", "M3.smmu-read", "M4.smmu", "M3", "C1.read"].map(scenario_of);
        assert_eq!(scenarios, ["lies", "smmu", "story", "story", "story"]);
    }

    #[test]
    fn an_unknown_field_is_an_error_that_names_it() {
        let row = "[[threat]]\nid='C1'\nattempt=''\nasset=''\nmechanism=[]\ncpus='all'\n";
        assert!(Catalogue::parse(row).is_ok());
        let error = Catalogue::parse(&format!("{row}nativ=[]\n")).unwrap_err();
        assert!(format!("{error:#}").contains("nativ"), "{error:#}");
    }
}
