//! The mutants: every patch below `tests/mutants`, with what its header says.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::end_to_end::Test;
use super::patch::Patch;
use super::suite;

/// Bugs of the list that `docs/checking.md` shows, K1 to this. From K51 on they
/// are bouncer's own, of which others told: K50 and the number of their item.
pub(super) const BUGS: u32 = 99;

/// What becomes of a mutant in bouncer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// The native tests must catch it; of this package alone if there is one.
    Native(Option<String>),
    /// It is below the simulated machine: a boot must catch it.
    Boot,
    /// This test, which boots a machine of its own, must catch it.
    EndToEnd(Test),
    /// None of these can see it; why. A boot is tried all the same.
    Hidden(String),
    /// The compiler must refuse it, saying this.
    Impossible(String),
}

/// One mutant.
#[derive(Debug, Clone)]
pub(super) struct Mutant {
    /// "K05", or "K05b" where a bug has several.
    pub(super) id: String,
    /// Number of the bug.
    pub(super) bug: u32,
    /// One line: what goes wrong.
    pub(super) title: String,
    /// What becomes of it.
    pub(super) fate: Fate,
    /// CPU model of the machine that is booted, if not the usual one: the
    /// fault is in what only some models have.
    pub(super) cpu: Option<String>,
    /// Tests that boot machines and must catch it, too.
    pub(super) also: Vec<Test>,
    /// The change.
    pub(super) patch: Patch,
}

impl Mutant {
    /// Reads one from the text of the file `name`.
    ///
    /// # Errors
    /// When the header lacks something or the diff is none.
    fn parse(name: &str, text: &str) -> Result<Self> {
        let patch = Patch::parse(text)?;
        let field = |key: &str| patch.field(key).map(str::to_owned);
        let id = name.split(['-', '.']).next().unwrap_or_default().to_owned();
        if field("Bug").as_deref() != Some(id.as_str()) {
            bail!("its header must begin with \"Bug: {id}\"");
        }
        let bug = bug_of(&id).with_context(|| format!("{id} is not K01 to K{BUGS}"))?;
        let title = field("Title").context("its header has no \"Title: \"")?;
        field("Source").context("its header has no \"Source: \"")?;
        let fate = match (field("Seen-by").as_deref(), field("Hidden"), field("Impossible")) {
            (Some("native"), None, None) => Fate::Native(field("Tests")),
            (Some("boot"), None, None) => Fate::Boot,
            (Some(test), None, None) => Fate::EndToEnd(Test::parse(test)?),
            (None, Some(why), None) => Fate::Hidden(why),
            (None, None, Some(error)) => Fate::Impossible(error),
            _ => bail!(
                "its header must have one of \"Seen-by: <native, boot or a test>\", \
                 \"Hidden: <why>\", \"Impossible: <what the compiler says>\""
            ),
        };
        if let Some(package) = field("Tests") {
            let is_known = suite::has_package(&package);
            if !is_known || fate != Fate::Native(Some(package.clone())) {
                bail!("\"Tests: {package}\" names no package whose native tests can be run");
            }
        }
        let also = patch.fields("Also-seen-by").map(Test::parse).collect::<Result<_>>()?;
        let cpu = field("Cpu");
        Ok(Self { id, bug, title, fate, cpu, also, patch })
    }

    /// The tests that boot machines of their own and must catch it.
    pub(super) fn tests(&self) -> impl Iterator<Item = &Test> {
        let fate = match &self.fate {
            Fate::EndToEnd(test) => Some(test),
            _ => None,
        };
        fate.into_iter().chain(&self.also)
    }

    /// Does the user mean this one by `word`: K5, k05, K05b?
    pub(super) fn is(&self, word: &str) -> bool {
        let same = word.eq_ignore_ascii_case(&self.id);
        same || (word.ends_with(|c: char| c.is_ascii_digit()) && bug_of(word) == Some(self.bug))
    }
}

/// The number in K5, K05, k05b.
fn bug_of(id: &str) -> Option<u32> {
    let digits = id.strip_prefix(['K', 'k'])?;
    let digits = digits.trim_end_matches(|c: char| c.is_ascii_lowercase());
    digits.parse().ok().filter(|bug| (1..=BUGS).contains(bug))
}

/// Every mutant, in order.
///
/// # Errors
/// When a patch cannot be read; says which and why.
pub(super) fn load(root: &Path) -> Result<Vec<Mutant>> {
    let folder = root.join("tests/mutants");
    let entries = std::fs::read_dir(&folder)
        .with_context(|| format!("cannot read the folder {}", folder.display()))?;
    let mut mutants = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "patch") {
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path)?;
        mutants.push(Mutant::parse(&name, &text).with_context(|| name.clone())?);
    }
    mutants.sort_by(|a, b| a.id.cmp(&b.id));
    let twice = mutants.iter().zip(mutants.iter().skip(1)).find(|(a, b)| a.id == b.id);
    if let Some((first, _)) = twice {
        bail!("there are two mutants {}: rename one", first.id);
    }
    Ok(mutants)
}

/// Those the user asked for; all if none.
///
/// # Errors
/// When a word names no mutant.
pub(super) fn select(mutants: Vec<Mutant>, words: &[String]) -> Result<Vec<Mutant>> {
    if let Some(word) = words.iter().find(|word| !mutants.iter().any(|mutant| mutant.is(word))) {
        bail!("there is no mutant {word}; `cargo xtask mutants --list` shows them all");
    }
    let wanted = |mutant: &Mutant| words.is_empty() || words.iter().any(|word| mutant.is(word));
    Ok(mutants.into_iter().filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Workspace;

    const DIFF: &str = "--- a/x\n+++ b/x\n@@\n-a\n+b\n";

    fn mutant(header: &str) -> Result<Mutant> {
        Mutant::parse("K05b-story.patch", &format!("{header}\n{DIFF}"))
    }

    #[test]
    fn a_header_says_what_must_become_of_the_mutant() {
        let head = "Bug: K05b\nTitle: t\nSource: s";
        assert_eq!(mutant(&format!("{head}\nSeen-by: boot")).unwrap().fate, Fate::Boot);
        let hidden = mutant(&format!("{head}\nHidden: no caches")).unwrap();
        assert_eq!(hidden.fate, Fate::Hidden("no caches".into()));
        let on_max = mutant(&format!("{head}\nSeen-by: boot\nCpu: max")).unwrap();
        assert_eq!((on_max.fate, on_max.cpu.as_deref()), (Fate::Boot, Some("max")));
        let native = mutant(&format!("{head}\nSeen-by: native\nTests: xtask")).unwrap();
        assert_eq!(native.fate, Fate::Native(Some("xtask".into())));
        let test = "tests/tests/scenarios.rs#c18_x";
        let seen = mutant(&format!("{head}\nSeen-by: {test}")).unwrap();
        assert_eq!(seen.fate, Fate::EndToEnd(Test::parse(test).unwrap()));
        let also = mutant(&format!("{head}\nSeen-by: native\nAlso-seen-by: {test}")).unwrap();
        assert_eq!(also.also, [Test::parse(test).unwrap()]);
        assert!(mutant(&format!("{head}\nSeen-by: native\nTests: nobodys")).is_err());
        assert!(mutant(&format!("{head}\nSeen-by: boot\nTests: xtask")).is_err());
        assert!(mutant(head).is_err(), "no fate");
        assert!(mutant(&format!("{head}\nSeen-by: nobody")).is_err());
        assert!(mutant("Bug: K06\nTitle: t\nSource: s\nSeen-by: boot").is_err(), "other bug");
    }

    #[test]
    fn a_bug_names_all_its_mutants_and_a_letter_one() {
        let mutant = mutant("Bug: K05b\nTitle: t\nSource: s\nSeen-by: native").unwrap();
        assert!(["K5", "k05", "K05b", "k05B"].iter().all(|word| mutant.is(word)));
        assert!(!["K05a", "K50", "K6", "K500", ""].iter().any(|word| mutant.is(word)));
        assert!(select(vec![mutant], &["K7".into()]).is_err());
    }

    #[test]
    fn every_end_to_end_test_that_a_mutant_names_is_there() {
        let root = Workspace::find().unwrap().root;
        for mutant in load(&root).unwrap() {
            for test in mutant.tests() {
                assert!(test.is_in(&root), "{}: there is no test {test}", mutant.id);
            }
        }
    }

    #[test]
    fn every_mutant_of_the_tree_applies_to_it() {
        let root = Workspace::find().unwrap().root;
        let stale = load(&root).unwrap().into_iter().filter_map(|mutant| {
            mutant.patch.apply(&root).err().map(|error| format!("{}: {error:#}", mutant.id))
        });
        assert_eq!(stale.collect::<Vec<_>>(), [""; 0]);
    }
}
