//! The ownership map: whose each page is, and since when.
//!
//! Without script it shows the moment at which sixteen requests are with the
//! device; the script moves it through the steps before and after.

use std::fmt::Write;

use super::super::cost::{Look, Measured, Range};
use super::chart::open;
use super::{escape, table};

/// Pages in a row of the grid, and how large one is.
const COLUMNS: u64 = 128;
const CELL: u64 = 5;
/// The step at which all requests are with the device.
const IN_FLIGHT: u64 = 17;

/// What a step is, for people.
fn step_name(step: u64) -> String {
    match step {
        0 => "before the first request".into(),
        step if step < IN_FLIGHT => format!("request {step} is mapped"),
        IN_FLIGHT => "all are with the device".into(),
        step => format!("request {} is back and unmapped", step - IN_FLIGHT),
    }
}

/// The section; nothing if no system was looked at.
pub(super) fn section(systems: &[Measured]) -> String {
    let looked: Vec<&Measured> = systems.iter().filter(|system| !system.looks.is_empty()).collect();
    let last = looked.iter().map(|system| system.looks.len()).max().unwrap_or(0);
    if last == 0 {
        return String::new();
    }
    let mut html = format!(
        "<section id=\"ownership\"><h2>Whose each page is: the ownership map</h2>\
         <p>The guest's RAM, a cell for each page of 4 KiB; below it the memory that the device \
         brings, or the addresses that its table maps. Shown is the moment at which sixteen \
         requests of 4 KiB are with the device; with script, any other.</p>\
         <p class=\"key\"><i style=\"background:var(--private)\"></i>the guest's alone\
         <i style=\"background:var(--lent)\"></i>the guest's, shared with the host\
         <i style=\"background:var(--brought)\"></i>the host's, lent to the guest\
         <i style=\"background:var(--window)\"></i>the guest's, in the device's view only</p>\
         <p id=\"when\">{}</p>",
        escape(&step_name(IN_FLIGHT))
    );
    for (index, system) in looked.iter().enumerate() {
        let look = at(system, IN_FLIGHT);
        let _ = write!(
            html,
            "<h3>{}</h3><div class=\"pair\"><figure>{}</figure>{}</div>",
            escape(&system.mode),
            picture(system, index, look),
            since(system)
        );
    }
    html + &script(&looked, last) + "</section>\n"
}

fn at(system: &Measured, step: u64) -> Option<&Look> {
    system.looks.iter().find(|look| look.step == step)
}

/// The grids of a system: its name and pages, how they are coloured.
fn grids(system: &Measured) -> Vec<(&'static str, u64, &'static str)> {
    let Some(first) = system.looks.first() else { return Vec::new() };
    let mut grids = vec![("ram", first.pages, "lent")];
    if first.brought > 0 {
        grids.push(("brought", first.brought, "brought"));
    }
    let ends = system.looks.iter().flat_map(|look| &look.window).map(|range| range.1);
    if let Some(end) = ends.max() {
        grids.push(("window", end.next_multiple_of(COLUMNS), "window"));
    }
    grids
}

fn ranges<'a>(look: &'a Look, grid: &str, all: &'a [Range; 1]) -> &'a [Range] {
    match grid {
        "ram" => &look.ram,
        "window" => &look.window,
        _ => all,
    }
}

fn picture(system: &Measured, index: usize, look: Option<&Look>) -> String {
    let grids = grids(system);
    let rows: u64 = grids.iter().map(|(_, pages, _)| pages.div_ceil(COLUMNS)).sum();
    let height = rows * CELL + grids.len() as u64 * 24;
    let mut svg = open(&format!("ownership of pages: {}", system.mode), height as f64);
    let mut top = 0;
    for (name, pages, colour) in grids {
        let title = match name {
            "ram" => format!("the guest's RAM, {pages} pages"),
            "brought" => format!("memory of the device, {pages} pages"),
            _ => format!("addresses of the device's table, the first {pages} pages"),
        };
        let tall = pages.div_ceil(COLUMNS) * CELL;
        let _ = write!(
            svg,
            "<text class=\"dim\" x=\"0\" y=\"{}\">{title}</text>\
             <rect x=\"0\" y=\"{}\" width=\"{}\" height=\"{tall}\" \
             style=\"fill:var(--private)\"/><g transform=\"translate(0 {})\" \
             style=\"fill:var(--{colour})\" data-map=\"{index} {name}\">",
            top + 15,
            top + 20,
            COLUMNS * CELL,
            top + 20
        );
        let all = [Range(0, pages)];
        for range in look.map_or(&[][..], |look| ranges(look, name, &all)) {
            svg += &cells(*range);
        }
        svg += "</g>";
        top += tall + 24;
    }
    svg + "</svg>"
}

/// A range as rectangles, one for each row it touches.
fn cells(Range(start, end): Range) -> String {
    let mut text = String::new();
    let mut page = start;
    while page < end {
        let row = page / COLUMNS;
        let stop = end.min((row + 1) * COLUMNS);
        let (x, width) = (page % COLUMNS * CELL, (stop - page) * CELL);
        let _ = write!(
            text,
            "<rect x=\"{x}\" y=\"{}\" width=\"{width}\" height=\"{CELL}\"/>",
            row * CELL
        );
        page = stop;
    }
    text
}

/// Most rows of a table of ranges.
const MOST: usize = 12;

/// Who has what the host can see at that moment, and since when.
fn since(system: &Measured) -> String {
    let head = ["pages", "owner", "borrower", "since"].map(str::to_owned);
    let mut rows = Vec::new();
    let Some(look) = at(system, IN_FLIGHT) else { return String::new() };
    if look.brought > 0 {
        let cells = ["the host", "the guest", "its creation"].map(str::to_owned);
        let mut all = vec![look.brought.to_string()];
        all.extend(cells);
        rows.push(("memory of the device".to_owned(), all));
    }
    for (name, which) in [("RAM", "ram"), ("table", "window")] {
        let borrower = if which == "ram" { "the host" } else { "the host, in the window" };
        for (Range(start, end), step) in dated(system, which) {
            let cells = vec![
                (end - start).to_string(),
                "the guest".into(),
                borrower.into(),
                step_name(step),
            ];
            rows.push((format!("{name} page {start}"), cells));
        }
    }
    let more = rows.len().saturating_sub(MOST);
    rows.truncate(MOST);
    if more > 0 {
        rows.push((format!("and {more} more"), vec![String::new(); head.len()]));
    }
    table("seen by the host when all are with the device", &head, rows)
}

/// The ranges of that moment, cut where the host sees them since different
/// steps.
fn dated(system: &Measured, which: &str) -> Vec<(Range, u64)> {
    let none = [Range(0, 0)];
    let has = |step: u64, page: u64| {
        at(system, step).is_some_and(|look| {
            ranges(look, which, &none).iter().any(|range| (range.0..range.1).contains(&page))
        })
    };
    let begun = |page: u64| {
        let before = (0..IN_FLIGHT).rev().take_while(|step| has(*step, page));
        before.last().unwrap_or(IN_FLIGHT)
    };
    let mut dated: Vec<(Range, u64)> = Vec::new();
    let Some(look) = at(system, IN_FLIGHT) else { return dated };
    for range in ranges(look, which, &none) {
        for page in range.0..range.1 {
            let step = begun(page);
            match dated.last_mut() {
                Some((last, since)) if last.1 == page && *since == step => last.1 += 1,
                _ => dated.push((Range(page, page + 1), step)),
            }
        }
    }
    dated
}

/// The slider and what it does.
fn script(looked: &[&Measured], steps: usize) -> String {
    let list = |ranges: &[Range]| {
        let pairs: Vec<String> =
            ranges.iter().map(|range| format!("[{},{}]", range.0, range.1)).collect();
        format!("[{}]", pairs.join(","))
    };
    let systems: Vec<String> = looked
        .iter()
        .map(|system| {
            let looks: Vec<String> = system
                .looks
                .iter()
                .map(|look| {
                    format!(
                        "{{\"ram\":{},\"window\":{},\"brought\":{}}}",
                        list(&look.ram),
                        list(&look.window),
                        list(&[Range(0, look.brought)])
                    )
                })
                .collect();
            format!("[{}]", looks.join(","))
        })
        .collect();
    let names: Vec<String> =
        (0..steps as u64).map(|step| format!("\"{}\"", step_name(step))).collect();
    format!(
        "<script>const maps=[{}],names=[{}];{}</script>",
        systems.join(","),
        names.join(","),
        SCRIPT
            .replace("COLUMNS", &COLUMNS.to_string())
            .replace("CELL", &CELL.to_string())
            .replace("START", &IN_FLIGHT.to_string())
    )
}

const SCRIPT: &str = include_str!("map.js");

#[cfg(test)]
mod tests {
    use super::super::super::cost::tests::console;
    use super::*;

    fn system() -> Measured {
        let look = |step: u64, ram: &[Range]| Look {
            step,
            pages: 256,
            brought: 0,
            ram: ram.to_vec(),
            window: Vec::new(),
        };
        let mut system = Measured::read("x", &console()).unwrap();
        system.looks = (0..IN_FLIGHT).map(|step| look(step, &[Range(8, 10)])).collect();
        system.looks[16].ram = vec![Range(8, 12)];
        system.looks.push(look(IN_FLIGHT, &[Range(8, 12), Range(127, 130)]));
        system
    }

    #[test]
    fn a_page_is_seen_since_the_step_from_which_on_it_always_is() {
        let dated = dated(&system(), "ram");
        let expected = [(Range(8, 10), 0), (Range(10, 12), 16), (Range(127, 130), IN_FLIGHT)];
        assert_eq!(dated, expected);
    }

    #[test]
    fn a_range_is_cut_at_the_end_of_a_row() {
        assert_eq!(cells(Range(127, 130)).matches("<rect").count(), 2);
        assert_eq!(cells(Range(0, 0)), "");
    }

    #[test]
    fn the_moment_is_there_without_script() {
        let html = section(&[system()]);
        let (before, after) = html.split_once("<script").unwrap();
        assert!(before.contains("RAM page 127") && before.contains("all are with the device"));
        assert!(after.contains("[127,130]"));
        assert_eq!(section(&[]), "");
    }
}
