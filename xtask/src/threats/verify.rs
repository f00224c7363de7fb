//! Does the catalogue tell the truth about the tree?

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::tests_of_tree::{Test, tests};
use super::{Booted, Catalogue, Cpus, MODELS, Threat};
use crate::mutants;

/// Where findings come from: the host's attacks, and what guests tell.
const PAYLOADS: [&str; 2] = ["tests/host/src", "tests/guest/src"];

/// What a row can name.
struct Tree {
    root: PathBuf,
    tests: Vec<Test>,
    mutants: BTreeSet<String>,
    /// The payloads' source.
    payloads: String,
}

/// Each thing that is wrong with the catalogue, as a sentence.
///
/// # Errors
/// When the tree cannot be read.
pub(crate) fn verify(root: &Path, catalogue: &Catalogue) -> Result<Vec<String>> {
    let mut payloads = String::new();
    for folder in PAYLOADS {
        let mut paths = Vec::new();
        files(&root.join(folder), &mut paths)?;
        for path in paths {
            payloads += &std::fs::read_to_string(&path)?;
        }
    }
    let mutants = mutants::ids(root)?.into_iter().collect();
    let tree = Tree { root: root.to_owned(), tests: tests(root)?, mutants, payloads };
    let mut problems = doubled(catalogue);
    for threat in &catalogue.threats {
        let wrong = tree.problems_of(threat);
        problems.extend(wrong.into_iter().map(|wrong| format!("{}: {wrong}", threat.id)));
    }
    Ok(problems)
}

fn doubled(catalogue: &Catalogue) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let twice = catalogue.threats.iter().filter(|threat| !seen.insert(&threat.id));
    twice.map(|threat| format!("{}: a second row of this id", threat.id)).collect()
}

impl Tree {
    fn problems_of(&self, threat: &Threat) -> Vec<String> {
        let mut wrong = self.tests_of(threat);
        if threat.mechanism.is_empty() && threat.planned.is_none() {
            wrong.push("no mechanism".into());
        }
        wrong.extend(threat.mechanism.iter().filter_map(|text| self.mechanism(text)));
        for mutant in threat.mutants.iter().filter(|id| !self.mutants.contains(*id)) {
            wrong.push(format!("there is no mutant {mutant}"));
        }
        for two in threat.two_cpus.iter().filter(|id| !threat.booted.contains(id)) {
            wrong.push(format!("two_cpus has {two}, which is not in booted"));
        }
        match &threat.cpus {
            Cpus::All(word) if word != "all" => {
                wrong.push(format!("cpus is \"{word}\"; \"all\" or a list"));
            }
            Cpus::Models(models) => {
                let unknown = models.iter().filter(|model| !MODELS.contains(&model.as_str()));
                wrong.extend(unknown.map(|model| format!("{model} is no tested CPU model")));
            }
            Cpus::All(_) => {}
        }
        for (name, text) in [("attempt", &threat.attempt), ("asset", &threat.asset)] {
            if text.is_empty() {
                wrong.push(format!("its {name} is empty"));
            }
        }
        wrong
    }

    fn tests_of(&self, threat: &Threat) -> Vec<String> {
        let mut wrong = Vec::new();
        if threat.native.is_empty() && threat.booted.is_empty() && threat.planned.is_none() {
            wrong.push("no test, and nothing planned".into());
        }
        for path in &threat.native {
            if !self.tests.iter().any(|test| test.is(path)) {
                wrong.push(format!("there is no test {path}"));
            }
        }
        for booted in threat.booted() {
            match booted {
                Booted::Finding(id) if !self.emits(id) => {
                    wrong.push(format!("no payload tells of {id}"));
                }
                Booted::Test { file, function } if !self.has(file, function) => {
                    wrong.push(format!("there is no test {function} in {file}"));
                }
                _ => {}
            }
        }
        wrong
    }

    /// Does a payload have the id as a string, or (for a row's id) one that
    /// belongs to it?
    fn emits(&self, id: &str) -> bool {
        [format!("\"{id}\""), format!("\"{id}.")].iter().any(|text| self.payloads.contains(text))
    }

    fn has(&self, file: &str, function: &str) -> bool {
        let module = Path::new(file).file_stem().unwrap_or_default().to_string_lossy();
        let path = format!("tests::{module}::{function}");
        self.tests.iter().any(|test| test.file == file && test.is(&path))
    }

    /// What is wrong with a mechanism, `file#item`.
    fn mechanism(&self, text: &str) -> Option<String> {
        let Some((file, item)) = text.split_once('#') else {
            return Some(format!("{text} is not file#item"));
        };
        let Ok(source) = std::fs::read_to_string(self.root.join(file)) else {
            return Some(format!("there is no file {file}"));
        };
        (!has_word(&source, item)).then(|| format!("there is no {item} in {file}"))
    }
}

/// Whether `word` stands in the text, and not as a part of another word.
fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let before = text.get(..at).is_some_and(|before| before.ends_with(part));
        let after = text.get(at + word.len()..).is_some_and(|after| after.starts_with(part));
        !word.is_empty() && !before && !after
    })
}

/// Rust files below a folder, if there is one.
pub(super) fn files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let root = crate::workspace::Workspace::find().unwrap().root;
        let tests = tests(&root).unwrap();
        let payloads = "Finding { id: \"C1.read\" }".into();
        Tree { root, tests, mutants: ["K01a".to_owned()].into(), payloads }
    }

    fn good() -> Threat {
        Threat {
            id: "C1".into(),
            attempt: "read".into(),
            asset: "memory".into(),
            mechanism: vec!["xtask/src/threats/verify.rs#verify".into()],
            native: vec!["xtask::threats::verify::tests::each_wrong_word_is_told".into()],
            booted: vec!["C1.read".into(), "C1".into()],
            two_cpus: vec![],
            mutants: vec!["K01a".into()],
            cpus: Cpus::All("all".into()),
            not_covered: String::new(),
            planned: None,
        }
    }

    /// Puts a wrong word somewhere into a row.
    type Change = fn(&mut Threat, Vec<String>);

    #[test]
    fn each_wrong_word_is_told() {
        let tree = tree();
        assert_eq!(tree.problems_of(&good()), Vec::<String>::new());
        let words = |text: &str| vec![text.to_owned()];
        let cases: [(Change, &str); 10] = [
            (|row, word| row.mechanism = word, "xtask/src/threats/page.rs#rene"),
            (|row, word| row.mechanism = word, "xtask/src/threats/none.rs#verify"),
            (|row, word| row.mechanism = word, "xtask/src/threats/verify.rs"),
            (|row, word| row.native = word, "xtask::threats::verify::tests::none"),
            (|row, word| row.native = word, "hyp::threats::verify::each_wrong_word_is_told"),
            (|row, word| row.booted = word, "C1.write"),
            (|row, word| row.booted = word, "tests/tests/promises.rs#none"),
            (|row, word| row.mutants = word, "K01"),
            (|row, word| row.two_cpus = word, "C1.race"),
            (|row, word| row.cpus = Cpus::Models(word), "cortex-a1"),
        ];
        for (change, word) in cases {
            let mut row = good();
            change(&mut row, words(word));
            assert_eq!(tree.problems_of(&row).len(), 1, "{word}: {:?}", tree.problems_of(&row));
        }
    }

    #[test]
    fn only_a_row_that_waits_may_be_without_a_test() {
        let mut row = Threat { native: vec![], booted: vec![], ..good() };
        assert_eq!(tree().problems_of(&row), ["no test, and nothing planned"]);
        row.planned = Some("later".into());
        assert_eq!(tree().problems_of(&row), Vec::<String>::new());
    }

    #[test]
    fn a_doubled_id_is_told() {
        let catalogue = Catalogue { threats: vec![good(), good()] };
        assert_eq!(doubled(&catalogue).len(), 1);
    }

    #[test]
    fn the_catalogue_tells_the_truth_and_its_page_is_made_of_it() {
        let root = tree().root;
        let catalogue = Catalogue::load(&root).unwrap();
        assert_eq!(verify(&root, &catalogue).unwrap(), Vec::<String>::new());
        assert!(super::super::is_current(&root, &catalogue).unwrap());
    }
}
