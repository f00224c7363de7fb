//! `trace-check FILE`: the broken rules of a trace, one line each. Exit
//! status 1 if there are any, 3 if the file is no trace.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use hyp::trace::{Event, Record};
use trace::Finding;

/// Records with findings that are shown: one mistake breaks a rule at every
/// call.
const SHOWN: usize = 20;
/// Records that are shown before the first finding.
const BEFORE: usize = 8;

fn main() -> ExitCode {
    let files: Vec<_> = std::env::args_os().skip(1).collect();
    let [file] = &files[..] else {
        eprintln!("usage: trace-check FILE");
        return ExitCode::from(2);
    };
    match check(Path::new(file)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(3)
        }
    }
}

fn check(file: &Path) -> Result<bool> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let trace = trace::read(&bytes).with_context(|| format!("{}", file.display()))?;
    let findings = trace::replay(&trace.records);
    let count =
        |is: fn(&Event) -> bool| trace.records.iter().filter(|record| is(&record.event)).count();
    println!(
        "  {} records: {} stores, {} invalidations, {} traps that changed something",
        trace.records.len(),
        count(|event| matches!(event, Event::Store { .. })),
        count(|event| matches!(event, Event::Invalidate(..) | Event::InvalidateAll(_))),
        count(|event| matches!(event, Event::Quiet(_))),
    );
    if let Some(first) = findings.first() {
        let number = first.record.number as usize;
        println!("\n  what led to the first:");
        for record in trace.records.iter().take(number + 1).skip(number.saturating_sub(BEFORE)) {
            println!("    {}", line(record));
        }
        println!("\n  broken rules:");
    }
    // A block that is lost breaks the same rule for each of its pages.
    let by_record: Vec<&[Finding]> = findings.chunk_by(|a, b| a.record == b.record).collect();
    for findings in by_record.iter().take(SHOWN) {
        let [first, rest @ ..] = findings else { continue };
        let more =
            if rest.is_empty() { String::new() } else { format!(", and {} like it", rest.len()) };
        println!("    record {}: {}{more}", first.record.number, first.problem);
    }
    if by_record.len() > SHOWN {
        println!("    and at {} more records", by_record.len() - SHOWN);
    }
    if trace.lost > 0 {
        bail!("{} more records did not fit into the log: they are not checked", trace.lost);
    }
    match findings.len() {
        0 => println!("  no rule is broken"),
        many => println!("  {many} broken rules"),
    }
    Ok(findings.is_empty())
}

fn line(record: &Record) -> String {
    format!("{:>8}  CPU {}  {}", record.number, record.cpu, record.event)
}
