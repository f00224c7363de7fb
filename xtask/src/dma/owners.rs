//! Whose each page of the guest's is, trap by trap: a boot whose bouncer keeps
//! a trace of its page tables, and what package `trace` reads in it.

use anyhow::{Context, Result, bail};

use super::compare;
use super::cost::Range;
use super::modes::Mode;
use crate::build::Images;
use crate::console::Record;
use crate::qemu::Machine;
use crate::story::Config;
use crate::term::Step;
use crate::workspace::{Workspace, cargo};

/// What a trap has made of the guest's pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Look {
    /// Whose trap, and which call.
    pub(super) cause: String,
    /// Pages of its RAM that it has no frame for.
    pub(super) absent: Vec<Range>,
    /// Pages of it that the host reaches, too.
    pub(super) ram: Vec<Range>,
    /// Addresses of its device's window at which the host reaches a page.
    pub(super) window: Vec<Range>,
    /// Pages of the host's that the guest reaches.
    pub(super) brought: u64,
}

/// The pages of a guest through time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Owners {
    /// Pages of its RAM.
    pub(super) pages: u64,
    /// Each trap that changed something.
    pub(super) looks: Vec<Look>,
}

/// Boots a system that makes requests, and reads its trace; `None` after
/// Ctrl-C. `images` keep a trace.
///
/// # Errors
/// When it does not boot to its end, or the trace cannot be read.
pub(super) fn watch(workspace: &Workspace, images: &Images, mode: &Mode) -> Result<Option<Owners>> {
    let trace = workspace.folder("traces")?.join(format!("dma-{}", mode.name));
    let config = Config {
        machine: Machine { cpus: 1, ..Machine::default() },
        scenario: "dma".into(),
        words: format!("mode={} part=measure map=yes", mode.name),
        reserves: false,
        trace: Some(trace.clone()),
        ..Config::new(&format!("dma-{}", mode.name))
    };
    let step = Step::new("Watching the pages of");
    let Some(run) = compare::boot(workspace, images, &config, &step)? else { return Ok(None) };
    let mut records = run.transcript.lines.iter().filter_map(|line| Record::parse(line));
    let ram = records.find(|record| record.says("dma") && record.says("ram"));
    let pages: u64 = ram
        .and_then(|record| record.get("pages")?.parse().ok())
        .context("the host does not say how much RAM the guest has")?;
    let mut command = cargo();
    command.current_dir(&workspace.root);
    command.args(["run", "--quiet", "--package", "trace", "--bin", "trace-owners", "--"]);
    let output = command.arg(&trace).arg(pages.to_string()).output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the trace cannot be read: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let owners = Owners::read(pages, &String::from_utf8_lossy(&output.stdout))?;
    step.done(&format!("{}: {} traps changed something", mode.name, owners.looks.len()));
    Ok(Some(owners))
}

impl Owners {
    /// Reads what `trace-owners` has printed.
    fn read(pages: u64, text: &str) -> Result<Self> {
        let looks: Vec<Look> = text
            .lines()
            .map(|line| Look::read(line).with_context(|| format!("no step of a trace: {line}")))
            .collect::<Result<_>>()?;
        if looks.is_empty() {
            bail!("the trace has no guest that ran");
        }
        Ok(Self { pages, looks })
    }

    /// The step at which the host sees most.
    pub(super) fn peak(&self) -> usize {
        let seen = |look: &Look| -> u64 {
            look.ram.iter().chain(&look.window).map(|Range(start, end)| end - start).sum()
        };
        let most = self.looks.iter().map(|look| seen(look) + look.brought).max().unwrap_or(0);
        // The last such, when everything that it needs is there.
        self.looks.iter().rposition(|look| seen(look) + look.brought == most).unwrap_or(0)
    }
}

impl Look {
    fn read(line: &str) -> Option<Self> {
        let (fields, cause) = line.split_once(" cause=")?;
        let field = |name: &str| {
            fields.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
        };
        let ranges = |name| {
            let pieces = field(name)?.split(',').filter(|piece| !piece.is_empty());
            pieces.map(range).collect::<Option<Vec<Range>>>()
        };
        Some(Self {
            cause: cause.to_owned(),
            absent: ranges("absent")?,
            ram: ranges("ram")?,
            window: ranges("window")?,
            brought: field("brought")?.parse().ok()?,
        })
    }
}

/// `3-5`, the end not included.
fn range(text: &str) -> Option<Range> {
    let (start, end) = text.split_once('-')?;
    Some(Range(start.parse().ok()?, end.parse().ok()?)).filter(|range| range.0 < range.1)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A guest of 256 pages that shares two, then three more, and takes one
    /// back.
    pub(in super::super) fn owners() -> Owners {
        let lines = "absent=128-256 ram= window= brought=0 cause=the host calls FRAME_DONATE\n\
                     absent= ram= window= brought=0 cause=the host calls FRAME_DONATE\n\
                     absent= ram=8-10 window= brought=0 cause=the guest calls MEM_SHARE\n\
                     absent= ram=8-10,127-130 window= brought=0 cause=the guest calls MEM_SHARE\n\
                     absent= ram=8-9,127-130 window= brought=0 cause=the guest calls MEM_UNSHARE\n";
        Owners::read(256, lines).unwrap()
    }

    #[test]
    fn what_the_trace_says_is_read() {
        let owners = owners();
        assert_eq!((owners.pages, owners.looks.len(), owners.peak()), (256, 5, 3));
        assert_eq!(owners.looks[0].absent, [Range(128, 256)]);
        assert_eq!(owners.looks[4].cause, "the guest calls MEM_UNSHARE");
        for wrong in ["", "absent= ram=3-3 window= brought=0 cause=x", "ram=1-2 cause=x", "x"] {
            assert!(Owners::read(256, wrong).is_err(), "{wrong}");
        }
    }
}
