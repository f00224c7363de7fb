//! `trace-owners FILE PAGES`: whose each page of the first guest's is, which
//! has so many pages of RAM: one line for each trap that changed it. Exit
//! status 3 if the file is no trace, or not all of one.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use hyp::memory::GuestId;
use trace::{Range, Step};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [file, pages] = &words[..] else {
        eprintln!("usage: trace-owners FILE PAGES");
        return ExitCode::from(2);
    };
    match told(Path::new(file), pages) {
        Ok(lines) => {
            lines.iter().for_each(|line| println!("{line}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(3)
        }
    }
}

fn told(file: &Path, pages: &str) -> Result<Vec<String>> {
    let pages = pages.parse().with_context(|| format!("`{pages}` is no number of pages"))?;
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let trace = trace::read(&bytes).with_context(|| format!("{}", file.display()))?;
    if trace.lost > 0 {
        bail!("{} more records did not fit into the log", trace.lost);
    }
    let first = GuestId::new(0).context("there is no first guest")?;
    let steps = trace::steps(&trace.records, first.vmid(), pages);
    Ok(steps.iter().map(line).collect())
}

fn line(step: &Step) -> String {
    let list = |ranges: &[Range]| {
        let ranges: Vec<String> =
            ranges.iter().map(|(start, end)| format!("{start}-{end}")).collect();
        ranges.join(",")
    };
    format!(
        "absent={} ram={} window={} brought={} cause={}",
        list(&step.absent),
        list(&step.ram),
        list(&step.window),
        step.brought,
        step.cause
    )
}
