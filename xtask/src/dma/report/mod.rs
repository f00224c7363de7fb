//! `--report`: the comparison as one page of HTML.
//!
//! It opens from a disk, asks no network, and is readable without script: each
//! chart is an SVG with its figures in a table beside it. The one script moves
//! the ownership map through time.
//!
//! | file | one idea |
//! |---|---|
//! | `chart` | lines over a logarithmic axis, and stacked bars |
//! | `map` | whose each page of the guest's RAM is, step by step |

mod chart;
mod map;

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::cost::{Counts, DEPTHS, Measured, SIZES};
use super::modes::Mode;
use super::table::size;
use crate::files;
use chart::{Bar, Line, Point};

/// The size of a request that is looked at closely.
const CLOSE: u64 = 4 << 10;
/// Requests at a time of the charts that show one.
const DEPTH: u64 = 16;

/// Makes sure that the page can be written there, before minutes are spent.
///
/// # Errors
/// When it cannot.
pub(super) fn prepare(file: &Path) -> Result<()> {
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
    }
    files::will_be_written(file)
}

/// Writes the page.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn write(file: &Path, systems: &[Measured], modes: &[&Mode]) -> Result<()> {
    let page = page(systems, modes);
    std::fs::write(file, page).with_context(|| format!("cannot write {}", file.display()))
}

fn page(systems: &[Measured], modes: &[&Mode]) -> String {
    let mut body = String::new();
    let mut section = |title: &str, words: &str, chart: String, table: String| {
        let _ = writeln!(
            body,
            "<section><h2>{}</h2><p>{}</p><div class=\"pair\"><figure>{chart}</figure>{table}\
             </div></section>",
            escape(title),
            escape(words)
        );
    };
    section(
        "What a request costs, over its size",
        "Instructions of the guest and of EL2 for each KiB, sixteen requests at a time, half of \
         them writes. The host's backend is left out here: it does the same for all.",
        cost_chart(systems),
        cost_table(systems),
    );
    section(
        "Where the instructions of a 4 KiB request go",
        "The upper bar of a system is one request at a time, the lower one sixteen.",
        bars(systems),
        counts_table(systems),
    );
    section(
        "What the host can see, over time",
        "Pages that guest and host both have while 64 requests of 4 KiB are made, sixteen at a \
         time: each step is a request mapped, or one that is back and unmapped. What is under \
         the line is what speed costs in exposure.",
        exposure_chart(systems),
        exposure_table(systems),
    );
    let crossings = crossings(systems);
    if !crossings.is_empty() {
        let items: String =
            crossings.iter().map(|text| format!("<li>{}</li>", escape(text))).collect();
        let _ = writeln!(
            body,
            "<section><h2>Where the lines cross</h2><p>Against a pool that is shared once:</p>\
             <ul>{items}</ul></section>"
        );
    }
    body += &map::section(systems);
    body += &words(modes);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>DMA systems side by side</title><style>{STYLE}</style></head><body>\
         <h1>DMA systems side by side</h1>\
         <p>Counted on one cortex-a72 under QEMU's instruction counting by <code>cargo xtask dma \
         --compare</code>: the same figures on every machine, for the same binaries. One \
         guest, one disk, one host; only the system differs.</p>\n{body}</body></html>\n"
    )
}

const STYLE: &str = include_str!("style.css");

/// Text as HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// What of a request's cost the system is to blame for.
fn own(counts: &Counts) -> f64 {
    counts.el2 + counts.guest
}

fn cost_chart(systems: &[Measured]) -> String {
    let point = |system: &Measured, bytes: u64| {
        let cost = own(system.cost(bytes, DEPTH)?);
        Some(Point { x: bytes as f64, y: cost / (bytes as f64 / 1024.0) })
    };
    let lines: Vec<Line<'_>> = systems
        .iter()
        .map(|system| Line {
            name: &system.mode,
            points: SIZES.iter().filter_map(|bytes| point(system, *bytes)).collect(),
            steps: false,
        })
        .collect();
    let ticks: Vec<(f64, String)> =
        SIZES.iter().map(|bytes| (*bytes as f64, size(*bytes))).collect();
    chart::lines("instructions per KiB over the size of a request", &lines, &ticks, true)
}

fn cost_table(systems: &[Measured]) -> String {
    let head: Vec<String> = SIZES.iter().map(|bytes| size(*bytes)).collect();
    let rows = systems.iter().map(|system| {
        let cell = |bytes: &u64| {
            let cost = system.cost(*bytes, DEPTH).map(own);
            cost.map_or_else(String::new, |cost| format!("{:.0}", cost / (*bytes as f64 / 1024.0)))
        };
        (system.mode.clone(), SIZES.iter().map(cell).collect())
    });
    table("instructions per KiB", &head, rows.collect())
}

fn bars(systems: &[Measured]) -> String {
    let mut bars = Vec::new();
    for system in systems {
        for depth in DEPTHS {
            let Some(cost) = system.cost(CLOSE, depth) else { continue };
            let name = if depth == 1 { system.mode.as_str() } else { "" };
            bars.push(Bar { name, parts: [cost.el2, cost.guest, cost.host] });
        }
    }
    chart::bars("instructions of a request of 4 KiB", &["EL2", "guest", "host"], &bars)
}

fn counts_table(systems: &[Measured]) -> String {
    let Some(first) = systems.first().and_then(|system| system.requests.first()) else {
        return String::new();
    };
    let head: Vec<String> = first.of.named().iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut rows = Vec::new();
    for system in systems {
        for depth in DEPTHS {
            let Some(cost) = system.cost(CLOSE, depth) else { continue };
            let cells = cost.named().map(|(_, value)| number(value));
            rows.push((format!("{}, {depth}", system.mode), cells.into()));
        }
    }
    table("a request of 4 KiB, and how many at a time", &head, rows)
}

/// A figure with as many decimals as it is worth.
fn number(value: f64) -> String {
    match value {
        0.0 => "0".into(),
        value if value < 10.0 => format!("{value:.2}"),
        value => format!("{value:.0}"),
    }
}

fn exposure_chart(systems: &[Measured]) -> String {
    let lines: Vec<Line<'_>> = systems
        .iter()
        .filter_map(|system| {
            let seen = system.exposed(CLOSE)?;
            let points = (0u32..).zip(&seen.pages);
            let points =
                points.map(|(step, pages)| Point { x: step.into(), y: (*pages as f64).max(1.0) });
            Some(Line { name: &system.mode, points: points.collect(), steps: true })
        })
        .collect();
    let most = lines.iter().map(|line| line.points.len()).max().unwrap_or(1);
    let ticks: Vec<(f64, String)> =
        (0..most).step_by(34).map(|step| (step as f64, format!("step {step}"))).collect();
    chart::lines("pages that the host can see, over time", &lines, &ticks, false)
}

fn exposure_table(systems: &[Measured]) -> String {
    let head = ["bytes", "peak", "mean", "after", "stale bytes", "bytes beyond"];
    let head: Vec<String> = head.iter().map(|name| (*name).to_owned()).collect();
    let mut rows = Vec::new();
    for system in systems {
        for seen in &system.exposure {
            let cells = vec![
                seen.bytes.to_string(),
                seen.peak.to_string(),
                format!("{:.1}", seen.mean),
                seen.after.to_string(),
                seen.stale.to_string(),
                seen.beyond.to_string(),
            ];
            rows.push((system.mode.clone(), cells));
        }
    }
    table("pages; stale: what a buffer held before; beyond: what is beside it", &head, rows)
}

/// A table of more columns stands below its chart.
const WIDE: usize = 7;

fn table(title: &str, head: &[String], rows: Vec<(String, Vec<String>)>) -> String {
    let mut text = format!(
        "<div class=\"table{}\"><table><caption>{}</caption><tr><th></th>",
        if head.len() > WIDE { " wide" } else { "" },
        escape(title)
    );
    for name in head {
        let _ = write!(text, "<th scope=\"col\">{}</th>", escape(name));
    }
    text += "</tr>";
    for (name, cells) in rows {
        let _ = write!(text, "<tr><th scope=\"row\">{}</th>", escape(&name));
        for cell in cells {
            let _ = write!(text, "<td>{}</td>", escape(&cell));
        }
        text += "</tr>";
    }
    text + "</table></div>"
}

/// Costs that differ by less are the same: to thousandths they always differ.
const SAME: f64 = 0.03;
/// With what the others are compared.
const BASE: &str = "shared-pool";

/// From which size on a system is cheaper or dearer than the pool, one line for
/// each, by what it costs guest and EL2.
fn crossings(systems: &[Measured]) -> Vec<String> {
    let Some(base) = systems.iter().find(|system| system.mode == BASE) else { return Vec::new() };
    let mut texts = Vec::new();
    for system in systems.iter().filter(|system| system.mode != BASE) {
        let ratios: Vec<(u64, f64)> = SIZES
            .iter()
            .filter_map(|bytes| {
                let (one, other) = (system.cost(*bytes, DEPTH)?, base.cost(*bytes, DEPTH)?);
                Some((*bytes, own(one) / own(other)))
            })
            .collect();
        let clear: Vec<&(u64, f64)> =
            ratios.iter().filter(|(_, ratio)| (ratio - 1.0).abs() > SAME).collect();
        let crossing = clear.windows(2).find(|pair| (pair[0].1 > 1.0) != (pair[1].1 > 1.0));
        let text = match (crossing, ratios.first(), ratios.last()) {
            _ if clear.is_empty() => "costs the same".into(),
            (Some([before, after]), ..) => {
                let way = if after.1 < 1.0 {
                    "dearer below, cheaper above"
                } else {
                    "cheaper below, dearer above"
                };
                format!("crosses between {} and {}: {way}", size(before.0), size(after.0))
            }
            (_, Some((_, first)), Some((_, last))) => {
                format!("does not cross: {first:.2} times the cost at 512 B, {last:.2} at 256 KiB")
            }
            _ => continue,
        };
        texts.push(format!("{}: {text}", system.mode));
    }
    texts
}

fn words(modes: &[&Mode]) -> String {
    let measured: Vec<_> =
        modes.iter().filter_map(|mode| Some((mode, mode.words.as_ref()?))).collect();
    let Some((_, first)) = measured.first() else { return String::new() };
    let head: Vec<String> = first.named().iter().map(|(name, _)| (*name).to_owned()).collect();
    let rows = measured.iter().map(|(mode, words)| {
        let cells = words.named().map(|(_, text)| text.to_owned());
        (mode.name.to_owned(), cells.into())
    });
    let table = table("what is no figure", &head, rows.collect());
    format!("<section class=\"words\"><h2>Limits and trust</h2>{table}</section>\n")
}

#[cfg(test)]
mod tests {
    use super::super::cost::tests::console;
    use super::super::modes::MODES;
    use super::*;

    fn systems() -> Vec<Measured> {
        let system = Measured::read("x", &console()).unwrap();
        ["shared-pool", "a<b"].map(|mode| Measured { mode: mode.into(), ..system.clone() }).into()
    }

    #[test]
    fn the_page_needs_nothing_but_itself() {
        let modes: Vec<&Mode> = MODES.iter().collect();
        let page = page(&systems(), &modes);
        for elsewhere in ["http:", "https:", "src=", "@import", "url(", "<link"] {
            assert!(
                !page.replace("http://www.w3.org/2000/svg", "").contains(elsewhere),
                "{elsewhere}"
            );
        }
        assert!(page.contains("a&lt;b") && !page.contains("a<b"));
        assert!(page.contains("prefers-color-scheme: dark"));
    }

    #[test]
    fn every_chart_has_its_figures_beside_it() {
        let modes: Vec<&Mode> = MODES.iter().collect();
        let page = page(&systems(), &modes);
        for pair in page.split("<div class=\"pair\">").skip(1) {
            assert!(pair.contains("<svg") && pair.contains("<table>"));
        }
    }

    #[test]
    fn a_crossing_is_named_with_its_sizes() {
        let mut systems = systems();
        systems[1].mode = "each".into();
        for cost in &mut systems[1].requests {
            cost.of.guest = if cost.bytes < 64 << 10 { 1e6 } else { 0.0 };
            cost.of.el2 = 1.0;
        }
        let found = crossings(&systems);
        assert_eq!(found, ["each: crosses between 16 KiB and 64 KiB: dearer below, cheaper above"]);
    }
}
