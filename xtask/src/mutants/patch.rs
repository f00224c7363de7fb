//! A unified diff with a story above it, and applying it.
//!
//! Hunks are found by their text alone: others edit the same files, so line
//! numbers are worth nothing and a hunk that fits in two places is as wrong
//! as one that fits nowhere. What does not fit is named, hunk by hunk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Lines to be replaced in one file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hunk {
    file: PathBuf,
    /// Its number in the patch, from 1.
    number: usize,
    before: Vec<String>,
    after: Vec<String>,
}

/// A patch: the lines above the diff, and the diff.
#[derive(Debug, Clone)]
pub(super) struct Patch {
    /// Every line before the first `--- `.
    pub(super) story: Vec<String>,
    hunks: Vec<Hunk>,
}

impl Patch {
    /// Reads a patch.
    ///
    /// # Errors
    /// When it has no hunk, or a line that is none of a unified diff's.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut story = Vec::new();
        let mut hunks: Vec<Hunk> = Vec::new();
        let mut file: Option<PathBuf> = None;
        let mut open = false;
        for line in text.lines() {
            if line.starts_with("--- ") {
                open = false;
                // Its other half, `+++ b/...`, names the file.
                file = Some(PathBuf::new());
            } else if file.is_none() {
                story.push(line.to_owned());
            } else if let Some(name) = line.strip_prefix("+++ ") {
                let name = name.strip_prefix("b/").unwrap_or(name);
                file = Some(PathBuf::from(name));
            } else if line.starts_with("@@") {
                let file = file.clone().filter(|file| !file.as_os_str().is_empty());
                let file = file.context("a hunk comes before its file")?;
                let number = hunks.len() + 1;
                hunks.push(Hunk { file, number, before: Vec::new(), after: Vec::new() });
                open = true;
            } else {
                let hunk = hunks.last_mut().filter(|_| open);
                let hunk = hunk.with_context(|| format!("no line of a diff: {line:?}"))?;
                hunk.push(line)?;
            }
        }
        if hunks.is_empty() {
            bail!("it changes nothing");
        }
        Ok(Self { story, hunks })
    }

    /// The value of a `Key: value` line of the story.
    pub(super) fn field(&self, key: &str) -> Option<&str> {
        self.fields(key).next()
    }

    /// The values of all such lines.
    pub(super) fn fields(&self, key: &str) -> impl Iterator<Item = &str> {
        self.story.iter().filter_map(move |line| line.strip_prefix(key)?.strip_prefix(": "))
    }

    /// The files it changes, with their contents afterwards, as they are
    /// below `root` now.
    ///
    /// # Errors
    /// When a hunk does not fit in exactly one place; says which.
    pub(super) fn apply(&self, root: &Path) -> Result<BTreeMap<PathBuf, String>> {
        let mut changed: BTreeMap<PathBuf, String> = BTreeMap::new();
        for hunk in &self.hunks {
            let text = match changed.get(&hunk.file) {
                Some(text) => text.clone(),
                None => std::fs::read_to_string(root.join(&hunk.file))
                    .with_context(|| format!("cannot read {}", hunk.file.display()))?,
            };
            changed.insert(hunk.file.clone(), hunk.replace(&text)?);
        }
        Ok(changed)
    }
}

impl Hunk {
    fn push(&mut self, line: &str) -> Result<()> {
        match line.split_at_checked(1) {
            Some((" ", same)) => {
                self.before.push(same.to_owned());
                self.after.push(same.to_owned());
            }
            Some(("-", old)) => self.before.push(old.to_owned()),
            Some(("+", new)) => self.after.push(new.to_owned()),
            // Editors strip the blank of an empty context line.
            None => {
                self.before.push(String::new());
                self.after.push(String::new());
            }
            Some(_) => bail!("no line of a diff: {line:?}"),
        }
        Ok(())
    }

    fn replace(&self, text: &str) -> Result<String> {
        let lines: Vec<&str> = text.lines().collect();
        let fits = |window: &[&str]| window.iter().zip(&self.before).all(|(a, b)| a == b);
        let mut places = lines
            .windows(self.before.len().max(1))
            .enumerate()
            .filter(|(_, window)| fits(window))
            .map(|(place, _)| place);
        let whole = format!("hunk {} no longer applies to {}", self.number, self.file.display());
        let place = match (places.next(), places.next()) {
            (Some(place), None) => place,
            (None, _) => bail!("{whole}: nowhere is\n    {}", self.before.join("\n    ")),
            (Some(_), Some(_)) => {
                bail!("{whole}: in two places is\n    {}", self.before.join("\n    "))
            }
        };
        let (head, rest) = lines.split_at(place);
        let tail = rest.get(self.before.len()..).unwrap_or_default();
        let middle: Vec<&str> = self.after.iter().map(String::as_str).collect();
        Ok([head, &middle, tail].concat().join("\n") + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATCH: &str = "Bug: K04\nA story.\n\n--- a/one.rs\n+++ b/one.rs\n@@\n a\n-b\n+B\n c\n";

    fn folder(name: &str, text: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("patch-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("one.rs"), text).unwrap();
        folder
    }

    fn applied(name: &str, text: &str) -> Result<String> {
        let folder = folder(name, text);
        let changed = Patch::parse(PATCH)?.apply(&folder);
        std::fs::remove_dir_all(folder)?;
        Ok(changed?.remove(Path::new("one.rs")).unwrap())
    }

    #[test]
    fn a_hunk_finds_its_place_wherever_it_has_moved() {
        assert_eq!(applied("moved", "x\ny\na\nb\nc\nz\n").unwrap(), "x\ny\na\nB\nc\nz\n");
    }

    #[test]
    fn a_hunk_that_fits_nowhere_or_twice_is_named() {
        let gone = applied("gone", "a\nc\n").unwrap_err().to_string();
        assert!(gone.starts_with("hunk 1 no longer applies to one.rs: nowhere"), "{gone}");
        let twice = applied("twice", "a\nb\nc\na\nb\nc\n").unwrap_err().to_string();
        assert!(twice.contains("in two places"), "{twice}");
    }

    #[test]
    fn the_story_is_what_stands_above_the_diff() {
        let patch = Patch::parse(PATCH).unwrap();
        assert_eq!(patch.field("Bug"), Some("K04"));
        assert_eq!(patch.field("Source"), None);
        assert!(Patch::parse("Bug: K04\n").is_err(), "no diff");
        assert!(Patch::parse("--- a\n+++ b/x\n@@\n*\n").is_err(), "no line of a diff");
    }
}
