//! Which lines of `hyp` the booted machine executes while it tells the story.
//!
//! The image is the one that everybody boots. QEMU tells which code it has
//! translated (`-d in_asm`), which it does when a CPU first comes there, and
//! the image's debug information tells whose lines an instruction stands for:
//! those of all functions that were inlined at its place. A line of which the
//! optimiser has left no instruction is not counted, neither way.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;

use addr2line::Loader;
use anyhow::{Context, Result, anyhow, bail};
use object::{Object, ObjectSymbol};

use super::lines::{Count, tests_begin};
use crate::build;
use crate::qemu::End;
use crate::story::{self, BOUNCER, Config};
use crate::term::Step;
use crate::workspace::{Workspace, shown};

/// Bytes of an instruction.
const INSTRUCTION: u64 = 4;
/// Where the code ends, as `image.ld` names it.
const TEXT_END: &str = "_text_end";

/// Boots the story and counts, per file of `hyp/src`.
///
/// # Errors
/// When it cannot be set up, built, booted, or did not pass.
pub(super) fn count(workspace: &Workspace) -> Result<Vec<(String, Count)>> {
    let images = build::images(workspace)?;
    let elf = std::fs::read(&images.bouncer_elf)?;
    let end = text_end(&elf)?;
    let step = Step::new("Booting");
    let log = workspace.folder("coverage")?.join("translated.txt");
    let mut config = Config::new("coverage");
    config.machine.extra = ["-d", "in_asm", "-dfilter"].map(str::to_owned).into();
    config.machine.extra.push(format!("{BOUNCER:#x}+{end:#x}"));
    config.machine.extra.extend(["-D".to_owned(), log.display().to_string()]);
    let run = story::tell(workspace, &images, &config, &mut |_| {})?;
    match run.end {
        _ if run.report.passed() => {}
        End::Interrupted => bail!("interrupted"),
        _ => bail!("the story did not pass: console and disks are in {}", shown(&run.folder)),
    }
    let executed = translated(&log, end)?;
    std::fs::remove_file(&log)?;
    step.done("the story, with QEMU telling what code it comes to");
    let root = workspace.root.join("hyp/src");
    let there = lines(&images.bouncer_elf, &root, (0..end).step_by(INSTRUCTION as usize))?;
    let executed = lines(&images.bouncer_elf, &root, executed)?;
    there
        .into_iter()
        .filter(|(name, _)| super::lines::is_policy(name))
        .map(|(name, lines)| {
            let path = root.join(&name);
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", shown(&path)))?;
            let before = tests_begin(&text);
            let taken = executed.get(&name);
            let counted = lines.iter().filter(|line| **line < before);
            let count = counted.fold(Count::default(), |sum, line| {
                let covered = u64::from(taken.is_some_and(|taken| taken.contains(line)));
                sum.plus(Count { covered, lines: 1 })
            });
            Ok((name, count))
        })
        .collect()
}

/// Size of the image's code; it is linked at 0.
fn text_end(elf: &[u8]) -> Result<u64> {
    let file = object::File::parse(elf)?;
    let symbol = file.symbols().find(|symbol| symbol.name() == Ok(TEXT_END));
    Ok(symbol.with_context(|| format!("no symbol {TEXT_END}"))?.address())
}

/// The addresses in QEMU's log, as the image is linked.
fn translated(log: &Path, end: u64) -> Result<BTreeSet<u64>> {
    let file = std::fs::File::open(log).with_context(|| format!("cannot read {}", shown(log)))?;
    let mut all = BTreeSet::new();
    for line in BufReader::new(file).split(b'\n') {
        let line = line?;
        let address = String::from_utf8_lossy(&line);
        all.extend(address_of(&address).filter(|address| *address < end));
    }
    if all.is_empty() { bail!("QEMU told of no code of bouncer's") } else { Ok(all) }
}

/// The address at the start of a line of the log.
fn address_of(line: &str) -> Option<u64> {
    let (address, _) = line.strip_prefix("0x")?.split_once(':')?;
    u64::from_str_radix(address, 16).ok()?.checked_sub(BOUNCER)
}

/// The lines below `root` that these instructions stand for, by file.
fn lines(
    elf: &Path,
    root: &Path,
    instructions: impl IntoIterator<Item = u64>,
) -> Result<BTreeMap<String, BTreeSet<u64>>> {
    let broken = |error| anyhow!("debug information of {}: {error}", shown(elf));
    let loader = Loader::new(elf).map_err(broken)?;
    let mut files: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for address in instructions {
        let mut frames = loader.find_frames(address).map_err(broken)?;
        while let Some(frame) = frames.next().map_err(|error| broken(error.into()))? {
            let Some(place) = frame.location else { continue };
            let (Some(file), Some(line)) = (place.file, place.line) else { continue };
            let Some(name) = below(file, root) else { continue };
            // Line 0: an instruction that belongs to none.
            if line > 0 {
                files.entry(name).or_default().insert(line.into());
            }
        }
    }
    Ok(files)
}

/// A path of the debug information, if it is below `root`. Some are relative
/// to the workspace.
fn below(file: &str, root: &Path) -> Option<String> {
    let path = Path::new(file);
    let name = path.strip_prefix(root).or_else(|_| path.strip_prefix("hyp/src")).ok()?;
    Some(name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_log_are_those_of_the_image() {
        assert_eq!(address_of("0x40200010:  d5033fdf  isb"), Some(0x10));
        assert_eq!(address_of("0x40000000:  14000001  b #4"), None);
        assert_eq!(address_of("IN: "), None);
        assert_eq!(address_of(""), None);
    }

    #[test]
    fn files_of_hyp_are_found_by_either_kind_of_path() {
        let root = Path::new("/x/hyp/src");
        assert_eq!(below("/x/hyp/src/a/b.rs", root).as_deref(), Some("a/b.rs"));
        assert_eq!(below("hyp/src/a/b.rs", root).as_deref(), Some("a/b.rs"));
        assert_eq!(below("/x/el2-boot/src/a.rs", root), None);
    }
}
