//! `cargo xtask bench`: what bouncer costs, in instructions.
//!
//! QEMU's instruction counting makes the machine's counter advance by one
//! nanosecond per instruction, so the payloads measure with the counter they
//! have, and a figure is the same on every machine and every day.

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::cli::{BenchOptions, Measured};
use crate::console::Record;
use crate::qemu::{End, Machine};
use crate::story::{self, Config};
use crate::term::{BAD, DIM, HEAD, Step, paint};
use crate::workspace::Workspace;
use crate::{Outcome, build, cpu, setup};

/// What is measured, with what the design asks for: (record, for people, the
/// loop to subtract, instructions aimed at).
const FIGURES: [(&str, &str, Option<&str>, Option<f64>); 20] = [
    ("host_null_hypercall", "null hypercall, host", Some("host_loop"), Some(60.0)),
    ("guest_null_hypercall", "null hypercall, guest", Some("guest_loop"), Some(110.0)),
    (
        "guest_share_unshare_page",
        "guest shares a page and takes it back",
        Some("guest_loop"),
        Some(850.0),
    ),
    ("guest_share_page_of_range", "share, per page of a range of 256", None, Some(80.0)),
    ("guest_unshare_page_of_range", "unshare, per page of a range of 256", None, Some(90.0)),
    (
        "guest_refresh_map_unmap_page",
        "map a page for a device and unmap it, two REFRESHes",
        Some("guest_loop"),
        None,
    ),
    ("guest_refresh_map_page_of_range", "REFRESH that maps, per page of 512", None, Some(60.0)),
    ("guest_refresh_unmap_page_of_range", "REFRESH that unmaps, per page of 512", None, None),
    ("guest_refresh_same_page_of_range", "REFRESH that changes nothing, per page", None, None),
    ("guest_mmio_el2", "MMIO served at EL2 (GICD_CTLR)", Some("guest_loop"), None),
    (
        "guest_mmio_host",
        "MMIO served by the host (UART), run and return",
        Some("guest_loop"),
        Some(1000.0),
    ),
    ("host_donate_first_page", "donate the first page: splits a block", None, None),
    ("host_donate_page", "donate a page", Some("host_loop"), Some(800.0)),
    ("host_donate_page_of_range", "donate, per page of a range of 256", None, None),
    ("host_measure_page_of_range", "donate with contents, per page of 256: measured", None, None),
    ("host_reclaim_page", "reclaim a page", Some("host_loop"), Some(800.0)),
    ("host_reclaim_page_of_range", "reclaim, per page of a range of 256", None, None),
    ("host_longest_measure", "longest call: 512 pages to be measured, of which 32 are", None, None),
    ("host_longest_donate", "longest call: 512 pages to be wiped", None, None),
    ("host_longest_reclaim", "longest call: 512 pages to be reclaimed", None, None),
];

/// One figure.
#[derive(Debug, Serialize)]
struct Figure {
    name: &'static str,
    what: &'static str,
    instructions: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<f64>,
}

/// Builds, boots under instruction counting, prints the table.
///
/// # Errors
/// When it could not be set up, built or booted, or a figure is missing.
pub fn run(workspace: &Workspace, options: &BenchOptions) -> Result<Outcome> {
    if let Some(Measured::Debian) = options.guest {
        return crate::guest::bench::run(workspace, options);
    }
    setup::run()?;
    cpu::check(&options.cpu)?;
    let images = build::images(workspace)?;
    let cpu = options.cpu.clone();
    let machine = Machine { cpu, cpus: 1, icount: true, ..Machine::default() };
    let config =
        Config { machine, scenario: "bench".into(), reserves: false, ..Config::new("bench") };
    let step = Step::new("Measuring");
    let run = story::tell(workspace, &images, &config, &mut |line| step.note(line))?;
    match run.end {
        End::Interrupted => return Ok(Outcome::Interrupted),
        End::PoweredOff if run.transcript.host_result.as_deref() == Some("pass") => {}
        _ => {
            for line in run.transcript.tail(crate::run::TAIL) {
                anstream::eprintln!("    {line}");
            }
            bail!("the measurement did not come to its end; above is the end of the console");
        }
    }
    step.done(&format!("one {}, one nanosecond per instruction", options.cpu));
    let figures = figures(&run.transcript.lines)?;
    print(&figures);
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&figures)? + "\n";
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(Outcome::Pass)
}

fn figures(lines: &[String]) -> Result<Vec<Figure>> {
    let cost = |name: &str| {
        let found = lines.iter().find_map(|line| instructions(line, name));
        found.with_context(|| format!("the console has no figure {name}"))
    };
    FIGURES
        .iter()
        .map(|&(name, what, empty, goal)| {
            let around = empty.map_or(Ok(0.0), cost)?;
            Ok(Figure { name, what, instructions: cost(name)? - around, goal })
        })
        .collect()
}

/// Instructions per repetition, if the line is the record of `name`.
fn instructions(line: &str, name: &str) -> Option<f64> {
    let record = Record::parse(line)?;
    if !record.says("bench") || record.get("name") != Some(name) {
        return None;
    }
    let number = |key| record.get(key)?.parse::<f64>().ok().filter(|value| *value > 0.0);
    let nanoseconds = record.get("ticks")?.parse::<f64>().ok()? * 1e9 / number("frequency")?;
    Some(nanoseconds / number("count")?)
}

fn print(figures: &[Figure]) {
    let heading =
        format!("{:<52}{:>14}{:>10}", "instructions, the caller's included", "measured", "goal");
    anstream::println!("\n  {}", paint(HEAD, heading));
    for figure in figures {
        let goal = figure.goal.map_or_else(String::new, |goal| format!("{goal:.0}"));
        // Padded before it is painted: a style has no width on a terminal.
        let (measured, goal) = (format!("{:>14.0}", figure.instructions), format!("{goal:>10}"));
        let over = figure.goal.is_some_and(|goal| figure.instructions > goal);
        let measured = if over { paint(BAD, measured) } else { measured };
        anstream::println!("    {:<50}{measured}{}", figure.what, paint(DIM, goal));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_worth_its_nanoseconds() {
        let line = "@guest bench name=guest_loop ticks=125 count=1000 frequency=62500000";
        assert_eq!(instructions(line, "guest_loop"), Some(2.0));
        assert_eq!(instructions(line, "guest_null_hypercall"), None);
        let broken = "@guest bench name=guest_loop ticks=125 count=0 frequency=62500000";
        assert_eq!(instructions(broken, "guest_loop"), None);
    }

    #[test]
    fn a_figure_that_was_not_measured_is_an_error() {
        assert!(figures(&[]).unwrap_err().to_string().contains("host_loop"));
    }
}
