//! A folder for each run, so that runs in one tree do not meet.
//!
//! A run holds a lock on its folder until it has ended, however that comes:
//! the lock is the kernel's. Whoever makes a folder takes away those of runs
//! with the same name that have ended, all but the last few, so that the
//! target folder does not grow without end.

use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

use crate::workspace::Workspace;

/// Runs of a name that are kept, beside those that go on.
const KEPT: usize = 3;
/// The file in a run's folder on which the run holds its lock.
const LOCK: &str = ".running";

/// The folder of a run that goes on.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
}

impl RunFolder {
    /// Makes `target/bouncer/runs/NAME-PROCESS-NUMBER`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(workspace: &Workspace, name: &str) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let all = workspace.folder("runs")?;
        // One at a time makes and takes away: a folder that has just been made
        // has no lock yet.
        let _turn = workspace.turn("runs")?;
        take_away(&all, name);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = all.join(format!("{name}-{}-{number}", std::process::id()));
        let made = || -> Result<File> {
            // A process of the same number may have left it.
            if path.exists() {
                std::fs::remove_dir_all(&path)?;
            }
            std::fs::create_dir_all(&path)?;
            let lock = File::create(path.join(LOCK))?;
            flock(&lock, FlockOperation::LockExclusive)?;
            Ok(lock)
        };
        let lock = made().with_context(|| format!("cannot make the folder {}", path.display()))?;
        Ok(Self { path, _lock: lock })
    }

    /// Takes a file away that is large and that nobody looks at afterwards.
    pub fn forget(&self, name: &str) {
        // What stays is below the target folder, and goes with the folder.
        let _ = std::fs::remove_file(self.path.join(name));
    }
}

impl Deref for RunFolder {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

/// Takes away what is left of runs of this name but the newest. What cannot be
/// taken away stays.
fn take_away(all: &Path, name: &str) {
    let Ok(folders) = std::fs::read_dir(all) else { return };
    let mut ended: Vec<(SystemTime, PathBuf)> = folders
        .flatten()
        .filter(|folder| is_of(&folder.file_name().to_string_lossy(), name))
        .map(|folder| folder.path())
        .filter_map(|path| Some((ended(&path)?, path)))
        .collect();
    ended.sort();
    // The one that is about to be made counts.
    let kept = ended.len().saturating_sub(KEPT - 1);
    for (_, path) in ended.into_iter().take(kept) {
        let _ = std::fs::remove_dir_all(path);
    }
}

/// When the run began, if it goes on no longer.
fn ended(folder: &Path) -> Option<SystemTime> {
    let lock = File::open(folder.join(LOCK)).ok()?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()?;
    lock.metadata().ok()?.modified().ok()
}

/// Whether a folder is named NAME-PROCESS-NUMBER.
fn is_of(folder: &str, name: &str) -> bool {
    let rest = folder.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
    let numbers = rest.and_then(|rest| rest.split_once('-'));
    numbers.is_some_and(|(process, number)| {
        [process, number].iter().all(|part| part.parse::<u32>().is_ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace(test: &str) -> Workspace {
        let root = std::env::temp_dir().join(format!("xtask-runs-{test}-{}", std::process::id()));
        Workspace { target: root.join("target"), root }
    }

    fn names(workspace: &Workspace) -> Vec<String> {
        let folders = std::fs::read_dir(workspace.folder("runs").unwrap()).unwrap();
        let mut names: Vec<String> = folders
            .map(|folder| folder.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with('.'))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn two_runs_of_one_name_do_not_meet() {
        let workspace = workspace("two");
        let one = RunFolder::new(&workspace, "run").unwrap();
        let two = RunFolder::new(&workspace, "run").unwrap();
        std::fs::write(one.join("disk.img"), "one").unwrap();
        std::fs::write(two.join("disk.img"), "two").unwrap();
        assert_eq!(std::fs::read(one.join("disk.img")).unwrap(), b"one");
        one.forget("disk.img");
        assert!(!one.join("disk.img").exists() && two.join("disk.img").exists());
        std::fs::remove_dir_all(workspace.root).unwrap();
    }

    #[test]
    fn the_last_few_stay_and_so_does_what_goes_on_and_what_is_somebody_elses() {
        let workspace = workspace("few");
        let going_on = RunFolder::new(&workspace, "run").unwrap();
        let other = workspace.folder("runs/run-of-another-1").unwrap();
        drop(RunFolder::new(&workspace, "running").unwrap());
        let mut last = going_on.to_path_buf();
        for _ in 0..3 * KEPT {
            let run = RunFolder::new(&workspace, "run").unwrap();
            last = run.to_path_buf();
        }
        assert!(going_on.exists() && other.exists() && last.exists());
        let count =
            |prefix: &str| names(&workspace).iter().filter(|name| is_of(name, prefix)).count();
        assert_eq!((count("run"), count("running")), (KEPT + 1, 1));
        std::fs::remove_dir_all(workspace.root).unwrap();
    }

    #[test]
    fn a_run_is_known_by_its_name_and_two_numbers() {
        assert!(is_of("run-17-0", "run") && is_of("a-b-1-2", "a-b"));
        for name in ["run", "run-17", "runs-17-0", "run-of-17", "run-x-1", "run-1-2-3"] {
            assert!(!is_of(name, "run"), "{name}");
        }
    }
}
