//! Which test functions the tree has, found by reading it: a row's test must
//! be one of them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Folders of the crates that have tests, by crate name; the longest prefix
/// of a path wins.
const CRATES: [(&str, &str); 9] = [
    ("hyp", "hyp"),
    ("platform", "platform"),
    ("xtask", "xtask"),
    ("model", "tests/model"),
    ("trace", "tests/trace"),
    ("host", "tests/host"),
    ("guest", "tests/guest"),
    ("checkers", "tests/fuzz/checkers"),
    ("tests", "tests"),
];

/// A test function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Test {
    /// Its crate.
    package: &'static str,
    /// Its file, from the root.
    pub(super) file: String,
    /// Its name.
    name: String,
}

impl Test {
    /// Is this the one that `crate::path::name` means? Modules named `tests`
    /// may be left out: they say nothing that the file does not.
    pub(super) fn is(&self, path: &str) -> bool {
        let mut parts: Vec<&str> = path.split("::").collect();
        let name = parts.pop().unwrap_or_default();
        if name != self.name || parts.first() != Some(&self.package) {
            return false;
        }
        let file = self.file.trim_end_matches(".rs").replace("_tests", "");
        let folders: Vec<&str> = file.split('/').collect();
        parts.iter().skip(1).all(|part| *part == "tests" || folders.contains(part))
    }
}

/// Every test function of the tree.
///
/// # Errors
/// When a file cannot be read.
pub(super) fn tests(root: &Path) -> Result<Vec<Test>> {
    let mut files = Vec::new();
    for (_, folder) in CRATES {
        for part in ["src", "tests"] {
            super::verify::files(&root.join(folder).join(part), &mut files)?;
        }
    }
    files.sort();
    files.dedup();
    let mut found = Vec::new();
    for path in files {
        let file = name_of(root, &path);
        let source =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {file}"))?;
        let package = crate_of(&file);
        let of_file = |name| Test { package, file: file.clone(), name };
        found.extend(names(&source).into_iter().map(of_file));
    }
    Ok(found)
}

/// A path from the root.
pub(super) fn name_of(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned()
}

fn crate_of(file: &str) -> &'static str {
    let inside = |(_, folder): &&(&str, &str)| Path::new(file).starts_with(PathBuf::from(folder));
    let innermost = CRATES.iter().filter(inside).max_by_key(|(_, folder)| folder.len());
    innermost.map_or("", |(package, _)| package)
}

/// Names of the functions below a `#[test]`.
fn names(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut test = false;
    for line in source.lines().map(str::trim) {
        test |= line == "#[test]";
        let Some(rest) = line.strip_prefix("fn ").filter(|_| test) else { continue };
        test = false;
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        found.push(rest.get(..end).unwrap_or_default().to_owned());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_below_the_attribute_are_tests_and_others_are_not() {
        let source = "#[test]\n#[should_panic]\nfn a() {}\nfn b() {}\n    #[test]\n    fn c_1() {}";
        assert_eq!(names(source), ["a", "c_1"]);
    }

    #[test]
    fn a_path_names_crate_folder_file_and_function() {
        let test = |file: &str, name: &str| Test {
            package: crate_of(file),
            file: file.into(),
            name: name.into(),
        };
        let boot = test("hyp/src/memory/tests/boot.rs", "f");
        assert!(boot.is("hyp::memory::tests::boot::f") && boot.is("hyp::memory::boot::f"));
        assert!(!boot.is("hyp::vm::boot::f") && !boot.is("hyp::memory::tests::boot::g"));
        assert!(!boot.is("host::memory::tests::boot::f") && !boot.is("f"));
        assert!(test("tests/host/src/queue_tests.rs", "f").is("host::queue::tests::f"));
        assert!(test("tests/model/tests/bites.rs", "f").is("model::bites::f"));
        assert!(test("tests/tests/promises.rs", "f").is("tests::promises::f"));
        assert!(test("hyp/src/addr.rs", "f").is("hyp::addr::tests::f"));
    }
}
