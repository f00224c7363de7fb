//! A copy of the tree that mutants may be put into: production code is never
//! touched.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::patch::Patch;
use crate::workspace::{Workspace, cargo};

/// What of the checkout is copied: enough to build, test and boot it.
const COPIED: [&str; 10] = [
    ".cargo",
    ".clippy.toml",
    "Cargo.lock",
    "Cargo.toml",
    "docs",
    "el2-boot",
    "hyp",
    "platform",
    "tests",
    "xtask",
];

/// The copy.
#[derive(Debug)]
pub(super) struct Scratch {
    workspace: Workspace,
    /// What the checkout has fetched of Debian's archive.
    packages: PathBuf,
}

impl Scratch {
    /// Makes the copy below the target folder, or brings it up to date. Files
    /// that are the same are left alone, so that cargo rebuilds only what
    /// changed.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub(super) fn new(workspace: &Workspace) -> Result<Self> {
        let folder = workspace.target.join("mutants");
        let copy = Workspace { root: folder.join("tree"), target: folder.join("build") };
        let mut kept = BTreeSet::new();
        for name in COPIED {
            let from = workspace.root.join(name);
            if from.exists() {
                copy_tree(&from, &copy.root.join(name), &mut kept)?;
            }
        }
        remove_others(&copy.root, &kept)?;
        Ok(Self { workspace: copy, packages: workspace.folder("guest/packages")? })
    }

    /// The copy as a workspace of its own.
    pub(super) fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// A cargo that works on the copy.
    pub(super) fn cargo(&self, words: &[&str]) -> Command {
        let mut command = cargo();
        command.current_dir(&self.workspace.root).args(words);
        command.env("CARGO_TARGET_DIR", &self.workspace.target);
        command
    }

    /// Lets the copy have what the checkout has fetched, which is large.
    ///
    /// # Errors
    /// When no link can be made.
    pub(super) fn lend_packages(&self) -> Result<()> {
        let link = self.workspace.folder("guest")?.join("packages");
        if link.exists() {
            return Ok(());
        }
        std::os::unix::fs::symlink(&self.packages, &link)
            .with_context(|| format!("cannot make the link {}", link.display()))
    }

    /// A test program that belongs to a folder of the copy. Cargo has told the
    /// one that runs us of the checkout's folders, which the program must not
    /// take for its own.
    pub(super) fn program(&self, program: &Path, folder: &str) -> Command {
        let mut command = Command::new(program);
        let folder = self.workspace.root.join(folder);
        command.current_dir(&folder).env("CARGO_MANIFEST_DIR", &folder);
        command.env("CARGO_TARGET_DIR", &self.workspace.target);
        command
    }

    /// Puts a mutant in; it is out again when the result is dropped.
    ///
    /// # Errors
    /// When the patch does not apply, with the hunk that does not.
    pub(super) fn mutate(&self, patch: &Patch) -> Result<Mutated<'_>> {
        let root = &self.workspace.root;
        let mut mutated = Mutated { root, before: Vec::new() };
        for (file, text) in patch.apply(root)? {
            let path = root.join(&file);
            mutated.before.push((file, std::fs::read(&path)?));
            write(&path, text.as_bytes())?;
        }
        Ok(mutated)
    }
}

/// A mutant in the copy. What was there comes back from here and not from the
/// checkout, which somebody may be working on.
#[derive(Debug)]
pub(super) struct Mutated<'a> {
    root: &'a Path,
    before: Vec<(PathBuf, Vec<u8>)>,
}

impl Drop for Mutated<'_> {
    fn drop(&mut self) {
        // If this fails the next run's `Scratch::new` puts the file right.
        for (file, text) in &self.before {
            let _ = std::fs::write(self.root.join(file), text);
        }
    }
}

fn copy_tree(from: &Path, to: &Path, kept: &mut BTreeSet<PathBuf>) -> Result<()> {
    kept.insert(to.to_owned());
    if from.is_dir() {
        for entry in std::fs::read_dir(from)? {
            let name = entry?.file_name();
            if name != OsStr::new("target") {
                copy_tree(&from.join(&name), &to.join(&name), kept)?;
            }
        }
        return Ok(());
    }
    let contents =
        std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if std::fs::read(to).is_ok_and(|there| there == contents) {
        return Ok(());
    }
    write(to, &contents)
}

fn write(to: &Path, contents: &[u8]) -> Result<()> {
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(to, contents).with_context(|| format!("cannot write {}", to.display()))
}

/// What the checkout no longer has, the copy must not have either.
fn remove_others(folder: &Path, kept: &BTreeSet<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        match (kept.contains(&path), path.is_dir()) {
            (true, true) => remove_others(&path, kept)?,
            (true, false) => {}
            (false, true) => std::fs::remove_dir_all(&path)?,
            (false, false) => std::fs::remove_file(&path)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mutant_is_in_the_copy_only_and_only_for_its_time() {
        let folder = std::env::temp_dir().join(format!("scratch-{}", std::process::id()));
        let root = folder.join("root");
        write(&root.join("hyp/lib.rs"), b"a\n").unwrap();
        write(&root.join("Cargo.toml"), b"").unwrap();
        let workspace = Workspace { root: root.clone(), target: folder.join("target") };
        let stale = folder.join("target/mutants/tree/hyp/gone.rs");
        write(&stale, b"").unwrap();
        let scratch = Scratch::new(&workspace).unwrap();
        assert!(!stale.exists(), "what the checkout has not");
        let copy = scratch.workspace().root.join("hyp/lib.rs");
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();

        let patch = Patch::parse("--- a/hyp/lib.rs\n+++ b/hyp/lib.rs\n@@\n-a\n+b\n").unwrap();
        let mutated = scratch.mutate(&patch).unwrap();
        assert_eq!((read(&copy), read(&root.join("hyp/lib.rs"))), ("b\n".into(), "a\n".into()));
        write(&root.join("hyp/lib.rs"), b"somebody's work\n").unwrap();
        drop(mutated);
        assert_eq!(read(&copy), "a\n");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
