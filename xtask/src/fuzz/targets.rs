//! Which targets there are: one file each, explained by its first line.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::Usage;
use crate::workspace::Workspace;

/// A fuzz target.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Its name: the file's.
    pub(super) name: String,
    /// What it checks, in one line.
    pub(super) about: String,
}

/// Targets that take microseconds for an input, most of which would go into
/// tracing comparisons; and as their input is nothing but decisions there is
/// no number in it to learn. Short inputs are enough for them, too.
const FAST: [&str; 2] = ["stage2", "vgic"];

impl Target {
    /// Is it one of those that are built and fed for speed?
    pub(super) fn is_fast(&self) -> bool {
        FAST.contains(&self.name.as_str())
    }

    /// Longest input, in bytes: some hundred decisions, or some thirty. What
    /// longer ones bring `stage2` docs/checking.md tells.
    pub(super) fn max_length(&self) -> u32 {
        match self.name.as_str() {
            "stage2" => 48,
            _ if self.is_fast() => 64,
            _ => 512,
        }
    }
}

/// All targets, in alphabetical order.
pub(super) fn find(workspace: &Workspace) -> Result<Vec<Target>> {
    let folder = home(workspace).join("fuzz_targets");
    let entries =
        std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut targets = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let source = std::fs::read_to_string(&path)?;
        let about = source.lines().next().and_then(|line| line.strip_prefix("//! "));
        let about = about.with_context(|| format!("{name}.rs does not begin with //!"))?;
        targets.push(Target { name, about: about.trim_end_matches('.').to_owned() });
    }
    targets.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(targets)
}

/// The folder of the targets, their seeds and dictionaries.
pub(super) fn home(workspace: &Workspace) -> PathBuf {
    workspace.root.join("tests/fuzz")
}

/// The target with this name; or the one an input belongs to, by the folder
/// it is in; or all.
pub(super) fn choose(
    all: Vec<Target>,
    name: Option<&str>,
    input: Option<&Path>,
) -> Result<Vec<Target>> {
    let folder =
        input.and_then(Path::parent).and_then(Path::file_name).map(|f| f.to_string_lossy());
    let wanted = match (name, &folder) {
        (Some(name), _) => name,
        (None, Some(folder)) => folder,
        (None, None) if input.is_none() => return Ok(all),
        (None, None) => "",
    };
    let names: Vec<&str> = all.iter().map(|target| target.name.as_str()).collect();
    if !names.contains(&wanted) {
        let names = names.join(", ");
        return Err(Usage(match name {
            Some(name) => format!("there is no fuzz target {name:?}; there are {names}"),
            None => format!("say which target the input is for: one of {names}"),
        })
        .into());
    }
    Ok(all.iter().filter(|target| target.name == wanted).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(name: Option<&str>, input: Option<&str>) -> Option<Vec<String>> {
        let all = ["stage2", "vgic"].map(|name| Target { name: name.into(), about: "x".into() });
        let chosen = choose(all.to_vec(), name, input.map(Path::new)).ok()?;
        Some(chosen.into_iter().map(|target| target.name).collect())
    }

    #[test]
    fn an_input_is_for_the_target_whose_folder_it_is_in() {
        assert_eq!(names(None, None).unwrap(), ["stage2", "vgic"]);
        assert_eq!(names(Some("vgic"), None).unwrap(), ["vgic"]);
        assert_eq!(names(None, Some("crashes/stage2/crash-1")).unwrap(), ["stage2"]);
        assert_eq!(names(Some("vgic"), Some("crashes/stage2/crash-1")).unwrap(), ["vgic"]);
        assert_eq!(names(None, Some("crash-1")), None);
        assert_eq!(names(Some("vgix"), None), None);
    }

    #[test]
    fn an_unknown_target_is_wrong_usage_and_hears_what_there_is() {
        let all = [Target { name: "vgic".into(), about: "x".into() }];
        let error = choose(all.to_vec(), Some("vgix"), None).unwrap_err();
        assert!(error.is::<Usage>());
        assert!(error.to_string().ends_with("there are vgic"), "{error}");
    }

    #[test]
    fn every_target_is_built_seeded_and_of_a_known_kind() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let workspace = Workspace { target: root.join("target"), root };
        let all = find(&workspace).unwrap();
        let manifest = std::fs::read_to_string(home(&workspace).join("Cargo.toml")).unwrap();
        for target in &all {
            assert!(manifest.contains(&format!("name = \"{}\"", target.name)), "{}", target.name);
            assert!(home(&workspace).join("seeds").join(&target.name).is_dir(), "{}", target.name);
        }
        assert!(FAST.iter().all(|fast| all.iter().any(|target| target.name == *fast)));
    }
}
