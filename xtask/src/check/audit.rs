//! The unsafe audit: how much there is, where it may be, and whether each
//! block, implementation and function says why it is sound. Declarations of
//! foreign items and attributes such as `#[unsafe(no_mangle)]` are counted
//! only: what they promise is checked by the linker, or said where they are
//! used.
//!
//! The compiler already denies unsafe code outside modules that allow it.
//! The audit adds what it cannot say: which modules those may be
//! (`xtask/unsafe-modules.txt`, so that a new one is a decision somebody
//! reviews), and that `hyp` has none.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::lexer::{Line, lines};

/// The list of files that may contain unsafe code.
const ALLOWED: &str = "xtask/unsafe-modules.txt";
/// Packages by folder; the longest prefix wins.
const PACKAGES: [&str; 11] = [
    "hyp",
    "platform",
    "el2-boot",
    "xtask",
    "tests/model",
    "tests/trace",
    "tests/rt",
    "tests/host",
    "tests/guest",
    "tests/fuzz",
    "tests",
];

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Audit {
    packages: BTreeMap<&'static str, Count>,
    /// Each violation as a sentence.
    pub(super) problems: Vec<String>,
}

#[derive(Debug, Default)]
struct Count {
    files: usize,
    lines: usize,
    with_unsafe: usize,
    uses: usize,
}

/// Audits every Rust file of the workspace.
///
/// # Errors
/// When a file cannot be read.
pub(super) fn audit(root: &Path) -> Result<Audit> {
    let list = std::fs::read_to_string(root.join(ALLOWED))
        .with_context(|| format!("cannot read {ALLOWED}"))?;
    let mut unused: BTreeSet<&str> =
        list.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
    let allowed = unused.clone();
    let mut audit = Audit::default();
    for package in PACKAGES {
        audit.packages.insert(package, Count::default());
    }
    let mut files = Vec::new();
    for package in PACKAGES.iter().filter(|package| **package != "tests") {
        rust_files(&root.join(package), &mut files)?;
    }
    rust_files(&root.join("tests/src"), &mut files)?;
    rust_files(&root.join("tests/tests"), &mut files)?;
    rust_files(&root.join("tests/linux"), &mut files)?;
    for path in files {
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        let source = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let uses = audit.file(&name, &source);
        unused.remove(name.as_str());
        if uses > 0 && !allowed.contains(name.as_str()) {
            audit.problems.push(format!("{name}: unsafe code in a file not listed in {ALLOWED}"));
        }
        if uses == 0 && allowed.contains(name.as_str()) {
            audit.problems.push(format!("{name}: listed in {ALLOWED} but has no unsafe code"));
        }
    }
    for name in unused {
        audit.problems.push(format!("{name}: listed in {ALLOWED} but does not exist"));
    }
    Ok(audit)
}

impl Audit {
    /// Counts one file; returns its uses of unsafe.
    fn file(&mut self, name: &str, source: &str) -> usize {
        let lines = lines(source);
        let uses: Vec<(usize, Use)> = lines
            .iter()
            .enumerate()
            .flat_map(|(at, line)| uses_in(&line.code).into_iter().map(move |use_| (at, use_)))
            .collect();
        for &(at, use_) in &uses {
            let obliged = match use_ {
                Use::Block => true,
                Use::Function => !in_trait_impl(&lines, at),
                Use::Declaration => false,
            };
            if obliged && !is_justified(&lines, at) {
                let line = at + 1;
                self.problems.push(format!("{name}:{line}: unsafe without a SAFETY comment"));
            }
        }
        let package = package_of(name);
        if package == "hyp" && !uses.is_empty() {
            self.problems.push(format!("{name}: hyp must have no unsafe code"));
        }
        let count = self.packages.entry(package).or_default();
        count.files += 1;
        count.lines += lines.iter().filter(|line| !line.code.trim().is_empty()).count();
        count.with_unsafe += usize::from(!uses.is_empty());
        count.uses += uses.len();
        uses.len()
    }

    /// One line per package.
    pub(super) fn table(&self) -> Vec<String> {
        let head = format!(
            "{:<12}{:>7}{:>14}{:>19}{:>13}",
            "package", "files", "lines of code", "files with unsafe", "unsafe uses"
        );
        let rows = self.packages.iter().map(|(package, count)| {
            let Count { files, lines, with_unsafe, uses } = count;
            format!("{package:<12}{files:>7}{lines:>14}{with_unsafe:>19}{uses:>13}")
        });
        std::iter::once(head).chain(rows).collect()
    }
}

fn package_of(name: &str) -> &'static str {
    let inside =
        |package: &&&str| name.strip_prefix(**package).is_some_and(|rest| rest.starts_with('/'));
    PACKAGES.iter().filter(inside).max_by_key(|package| package.len()).copied().unwrap_or("tests")
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() && !path.ends_with("target") {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// What the keyword stands before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// A block or an `unsafe impl`: somebody vouches for something.
    Block,
    /// A function: its caller will have to.
    Function,
    /// An `extern` block, an attribute, or a function pointer's type.
    Declaration,
}

/// Uses of the keyword on a line of code. `unsafe_code` in an attribute is
/// another word.
fn uses_in(code: &str) -> Vec<Use> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut uses = Vec::new();
    for (at, word) in code.match_indices("unsafe") {
        let (before, after) = (code.get(..at), code.get(at + word.len()..));
        let (Some(before), Some(after)) = (before, after) else { continue };
        if before.ends_with(is_word) || after.starts_with(is_word) {
            continue;
        }
        let after = after.trim_start();
        let after = match after.strip_prefix("extern").map(str::trim_start) {
            Some(rest) if rest.starts_with("fn") => rest,
            _ => after,
        };
        uses.push(match after.strip_prefix("fn") {
            Some(rest) if rest.starts_with(' ') => Use::Function,
            Some(_) => Use::Declaration,
            None if after.starts_with("extern") || after.starts_with('(') => Use::Declaration,
            None => Use::Block,
        });
    }
    uses
}

/// Is this line inside `impl Trait for …`? Then the trait says what the
/// function's caller must do.
fn in_trait_impl(lines: &[Line], at: usize) -> bool {
    let indent = |line: &Line| line.code.len() - line.code.trim_start().len();
    let Some((this, above)) = lines.get(..=at).and_then(|lines| lines.split_last()) else {
        return false;
    };
    let outer = |line: &&Line| !line.code.trim().is_empty() && indent(line) < indent(this);
    above
        .iter()
        .rev()
        .find(outer)
        .is_some_and(|line| line.code.contains("impl") && line.code.contains(" for "))
}

/// A use is justified by `SAFETY:` or a `# Safety` section on its line, or in
/// the comment right above the statement or item it is part of; a second use
/// in one statement shares the first one's reason.
fn is_justified(lines: &[Line], at: usize) -> bool {
    let says = |line: &Line| line.comment.contains("SAFETY:") || line.comment.contains("# Safety");
    if lines.get(at).is_some_and(says) {
        return true;
    }
    let is_comment = |line: &Line| line.code.trim().is_empty() && !line.comment.is_empty();
    // Up through the statement this line continues, and its attributes.
    for (above, line) in lines.iter().enumerate().take(at).rev() {
        let code = line.code.trim();
        if is_comment(line) {
            let comment = lines.iter().take(above + 1).rev().take_while(|line| is_comment(line));
            return comment.into_iter().any(says);
        }
        if code.ends_with('{') && !uses_in(code).is_empty() {
            return is_justified(lines, above);
        }
        if code.is_empty() || code.ends_with([';', '{', '}']) {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(name: &str, source: &str) -> (usize, Vec<String>) {
        let mut audit = Audit::default();
        let uses = audit.file(name, source);
        (uses, audit.problems)
    }

    #[test]
    fn a_reason_above_the_statement_counts() {
        for source in [
            "// SAFETY: x\nunsafe { f() }",
            "// SAFETY: x\n// more\nlet a =\n    unsafe { f() };",
            "let a = unsafe { f() }; // SAFETY: x",
            "// SAFETY: x\nf(\n    a,\n    || b,\n    || unsafe { g() },\n)",
            "/// Does.\n///\n/// # Safety\n/// Call once.\n#[inline]\nunsafe fn f() {}",
            "#[unsafe(no_mangle)]",
            "unsafe extern \"C\" {",
            "fn f(g: unsafe fn(u8)) {}",
        ] {
            assert_eq!(problems("rt/src/a.rs", source), (1, vec![]), "{source}");
        }
    }

    #[test]
    fn a_missing_or_distant_reason_is_found() {
        for source in [
            "unsafe { f() }",
            "// SAFETY: x\nlet a = 1;\nunsafe { f() }",
            "// SAFETY: x\n\nunsafe { f() }",
            "// because\nunsafe { f() }",
            "let s = \"SAFETY: x\"; unsafe { f() }",
            "unsafe impl Sync for X {}",
            "impl X {\n    unsafe fn f() {}\n}",
            "pub unsafe extern \"C\" fn f() {}",
        ] {
            assert_eq!(problems("rt/src/a.rs", source).1.len(), 1, "{source}");
        }
    }

    #[test]
    fn two_uses_in_one_statement_share_a_reason_but_not_two_statements() {
        let one =
            "// SAFETY: x\nf(\n    || unsafe {\n        g()\n    },\n    || unsafe { h() },\n)";
        assert_eq!(problems("rt/src/a.rs", one), (2, vec![]));
        let two = "// SAFETY: x\nunsafe { g() };\nunsafe { h() };";
        assert_eq!(problems("rt/src/a.rs", two).1.len(), 1);
    }

    #[test]
    fn a_traits_function_is_justified_by_the_trait() {
        let source = "// SAFETY: x\nunsafe impl A for B {\n    unsafe fn f() {}\n}";
        assert_eq!(problems("rt/src/a.rs", source), (2, vec![]));
    }

    #[test]
    fn the_word_in_comments_strings_and_lint_names_is_no_use() {
        let source = "// unsafe\n#![allow(unsafe_code)]\nlet s = \"unsafe\";";
        assert_eq!(problems("rt/src/a.rs", source), (0, vec![]));
    }

    #[test]
    fn hyp_may_have_none_even_with_a_reason() {
        assert_eq!(problems("hyp/src/a.rs", "// SAFETY: x\nunsafe {}").1.len(), 1);
    }

    #[test]
    fn no_member_of_the_workspace_is_left_out() {
        let manifest = include_str!("../../../Cargo.toml");
        let members = manifest.lines().find_map(|line| line.strip_prefix("members = ")).unwrap();
        for member in members.split('"').skip(1).step_by(2) {
            let package = PACKAGES.iter().any(|package| {
                *package != "tests" && Path::new(member).starts_with(package) || *package == member
            });
            assert!(package, "{member} is not audited");
        }
    }

    #[test]
    fn files_belong_to_the_innermost_package() {
        assert_eq!(package_of("tests/host/src/main.rs"), "tests/host");
        assert_eq!(package_of("tests/tests/attacks.rs"), "tests");
        assert_eq!(package_of("hyp/src/lib.rs"), "hyp");
    }
}
