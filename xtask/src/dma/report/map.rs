//! The ownership map: whose each page is, and since which call.
//!
//! Without script it shows the moment at which the host sees most; the script
//! moves each map through the traps before and after, and tells of the page
//! under the pointer.

use std::fmt::Write;

use super::super::cost::{Measured, Range};
use super::super::owners::{Look, Owners};
use super::chart::open;
use super::{escape, table};

/// Pages in a row of the grid, and how large one is.
const COLUMNS: u64 = 128;
const CELL: u64 = 5;

/// The section; nothing if no system was watched.
pub(super) fn section(systems: &[Measured]) -> String {
    let watched: Vec<&Measured> =
        systems.iter().filter(|system| !system.owners.looks.is_empty()).collect();
    if watched.is_empty() {
        return String::new();
    }
    let mut html = "<section id=\"ownership\"><h2>Whose each page is: the ownership map</h2>\
         <p>The guest's RAM, a cell for each page of 4 KiB; below it the memory that the device \
         brings, or the addresses that its table maps. It is what the page tables say, read from \
         a trace of every word that EL2 wrote to them, while a guest is made, has its pool warmed \
         up, and makes sixteen requests of 4 KiB. Shown is the moment at which the host sees most; \
         with script, after any trap that changed something, and of a page under the pointer \
         since which.</p>\
         <p class=\"key\"><i style=\"background:var(--absent)\"></i>no frame\
         <i style=\"background:var(--private)\"></i>the guest's alone\
         <i style=\"background:var(--lent)\"></i>the guest's, the host reaches it too\
         <i style=\"background:var(--brought)\"></i>the host's, lent to the guest\
         <i style=\"background:var(--window)\"></i>the guest's, in the device's view only</p>"
        .to_owned();
    for (index, system) in watched.iter().enumerate() {
        let owners = &system.owners;
        let step = owners.peak();
        let _ = write!(
            html,
            "<h3>{}</h3><div class=\"pair\"><figure>{}<p data-when=\"{index}\">{}</p>\
             <p data-page=\"{index}\"></p></figure>{}</div>",
            escape(&system.mode),
            picture(&system.mode, owners, index),
            escape(&step_name(owners, step)),
            since(owners, step)
        );
    }
    html + &script(&watched) + "</section>\n"
}

/// What a step is, for people.
fn step_name(owners: &Owners, step: usize) -> String {
    let cause = owners.looks.get(step).map_or("", |look| &look.cause);
    format!("trap {} of {}: {cause}", step + 1, owners.looks.len())
}

/// The grids of a system: its name, what it is, its pages, and what is drawn
/// there in which colour.
struct Grid {
    name: &'static str,
    title: String,
    pages: u64,
    under: &'static str,
    layers: &'static [(&'static str, &'static str)],
}

fn grids(owners: &Owners) -> Vec<Grid> {
    let mut grids = vec![Grid {
        name: "ram",
        title: format!("the guest's RAM, {} pages", owners.pages),
        pages: owners.pages,
        under: "private",
        layers: &[("absent", "absent"), ("ram", "lent")],
    }];
    if let Some(pages) = owners.looks.iter().map(|look| look.brought).max().filter(|most| *most > 0)
    {
        grids.push(Grid {
            name: "brought",
            title: format!("memory of the device, {pages} pages"),
            pages,
            under: "absent",
            layers: &[("brought", "brought")],
        });
    }
    let ends = owners.looks.iter().flat_map(|look| &look.window).map(|range| range.1);
    if let Some(end) = ends.max() {
        let pages = end.next_multiple_of(COLUMNS);
        grids.push(Grid {
            name: "window",
            title: format!("addresses of the device's table, the first {pages} pages"),
            pages,
            under: "absent",
            layers: &[("window", "window")],
        });
    }
    grids
}

fn ranges(look: &Look, layer: &str) -> Vec<Range> {
    match layer {
        "absent" => look.absent.clone(),
        "ram" => look.ram.clone(),
        "window" => look.window.clone(),
        _ => vec![Range(0, look.brought)],
    }
}

fn picture(mode: &str, owners: &Owners, index: usize) -> String {
    let grids = grids(owners);
    let rows: u64 = grids.iter().map(|grid| grid.pages.div_ceil(COLUMNS)).sum();
    let height = rows * CELL + grids.len() as u64 * 24;
    let mut svg = open(&format!("ownership of pages: {mode}"), height as f64);
    let look = owners.looks.get(owners.peak());
    let mut top = 0;
    for Grid { name, title, pages, under, layers } in grids {
        let tall = pages.div_ceil(COLUMNS) * CELL;
        let _ = write!(
            svg,
            "<text class=\"dim\" x=\"0\" y=\"{}\">{title}</text>\
             <g transform=\"translate(0 {})\" data-grid=\"{index} {name}\">\
             <rect x=\"0\" y=\"0\" width=\"{}\" height=\"{tall}\" \
             style=\"fill:var(--{under})\"/>",
            top + 15,
            top + 20,
            COLUMNS * CELL
        );
        for (layer, colour) in layers {
            let _ =
                write!(svg, "<g style=\"fill:var(--{colour})\" data-layer=\"{index} {layer}\">");
            let drawn = look.map_or_else(Vec::new, |look| ranges(look, layer));
            drawn.into_iter().for_each(|range| svg += &cells(range));
            svg += "</g>";
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

/// Who has what at a step, and since which trap: what the host sees first.
fn since(owners: &Owners, step: usize) -> String {
    let head = ["pages", "owner", "borrower", "since"].map(str::to_owned);
    let row = |name: String, pages: u64, who: [&str; 2], since: usize| {
        let mut cells = vec![pages.to_string()];
        cells.extend(who.map(str::to_owned));
        cells.push(step_name(owners, since));
        (name, cells)
    };
    let Some(look) = owners.looks.get(step) else { return String::new() };
    let mut rows = Vec::new();
    if look.brought > 0 {
        let since = begun(owners, step, |look| look.brought == owners.looks[step].brought);
        let name = "memory of the device".to_owned();
        rows.push(row(name, look.brought, ["the host", "the guest"], since));
    }
    for (name, layer, who) in [
        ("RAM", "ram", ["the guest", "the host"]),
        ("table", "window", ["the guest", "the host, in the window"]),
    ] {
        for (Range(start, end), since) in dated(owners, step, layer, &ranges(look, layer)) {
            rows.push(row(format!("{name} page {start}"), end - start, who, since));
        }
    }
    let others = others(owners.pages, &[&look.absent[..], &look.ram].concat());
    for (Range(start, end), since) in dated(owners, step, "private", &others) {
        rows.push(row(format!("RAM page {start}"), end - start, ["the guest", "nobody"], since));
    }
    let more = rows.len().saturating_sub(MOST);
    rows.truncate(MOST);
    if more > 0 {
        rows.push((format!("and {more} more"), vec![String::new(); head.len()]));
    }
    table("who has what then, and since when", &head, rows)
}

/// The pages below `pages` that are in none of these.
fn others(pages: u64, taken: &[Range]) -> Vec<Range> {
    let mut taken = taken.to_vec();
    taken.sort_by_key(|range| range.0);
    let (mut next, mut others) = (0, Vec::new());
    for Range(start, end) in taken {
        if start > next {
            others.push(Range(next, start));
        }
        next = next.max(end);
    }
    if next < pages {
        others.push(Range(next, pages));
    }
    others
}

/// The first of the steps up to `step` from which on this holds.
fn begun(owners: &Owners, step: usize, holds: impl Fn(&Look) -> bool) -> usize {
    let before = (0..step).rev().take_while(|step| holds(&owners.looks[*step]));
    before.last().unwrap_or(step)
}

/// Ranges of a step, cut where they are in that layer since different steps.
fn dated(owners: &Owners, step: usize, layer: &str, at: &[Range]) -> Vec<(Range, usize)> {
    let has = |look: &Look, page: u64| {
        let within =
            |ranges: &[Range]| ranges.iter().any(|range| (range.0..range.1).contains(&page));
        match layer {
            "private" => !within(&look.absent) && !within(&look.ram),
            layer => within(&ranges(look, layer)),
        }
    };
    let mut dated: Vec<(Range, usize)> = Vec::new();
    for range in at {
        for page in range.0..range.1 {
            let since = begun(owners, step, |look| has(look, page));
            match dated.last_mut() {
                Some((last, before)) if last.1 == page && *before == since => last.1 += 1,
                _ => dated.push((Range(page, page + 1), since)),
            }
        }
    }
    dated
}

/// The sliders and what they do.
fn script(watched: &[&Measured]) -> String {
    let list = |ranges: &[Range]| {
        let pairs: Vec<String> =
            ranges.iter().map(|range| format!("[{},{}]", range.0, range.1)).collect();
        format!("[{}]", pairs.join(","))
    };
    let one = |system: &&Measured| {
        let owners = &system.owners;
        let looks: Vec<String> = owners
            .looks
            .iter()
            .enumerate()
            .map(|(step, look)| {
                format!(
                    "{{name:\"{}\",absent:{},ram:{},window:{},brought:[[0,{}]]}}",
                    step_name(owners, step),
                    list(&look.absent),
                    list(&look.ram),
                    list(&look.window),
                    look.brought
                )
            })
            .collect();
        format!("{{start:{},looks:[{}]}}", owners.peak(), looks.join(","))
    };
    let systems: Vec<String> = watched.iter().map(one).collect();
    format!(
        "<script>const maps=[{}];{}</script>",
        systems.join(","),
        SCRIPT.replace("COLUMNS", &COLUMNS.to_string()).replace("CELL", &CELL.to_string())
    )
}

const SCRIPT: &str = include_str!("map.js");

#[cfg(test)]
mod tests {
    use super::super::super::cost::tests::console;
    use super::super::super::owners::tests::owners;
    use super::*;

    #[test]
    fn a_page_is_seen_since_the_step_from_which_on_it_always_is() {
        let owners = owners();
        let lent = dated(&owners, 3, "ram", &owners.looks[3].ram);
        assert_eq!(lent, [(Range(8, 10), 2), (Range(127, 130), 3)]);
        let alone = others(256, &owners.looks[4].ram);
        assert_eq!(alone, [Range(0, 8), Range(9, 127), Range(130, 256)]);
        let alone = dated(&owners, 4, "private", &alone[1..2]);
        assert_eq!(alone, [(Range(9, 10), 4), (Range(10, 127), 0)]);
    }

    #[test]
    fn a_range_is_cut_at_the_end_of_a_row() {
        assert_eq!(cells(Range(127, 130)).matches("<rect").count(), 2);
        assert_eq!(cells(Range(0, 0)), "");
    }

    #[test]
    fn the_moment_is_there_without_script() {
        let mut system = Measured::read("x", &console()).unwrap();
        assert_eq!(section(&[system.clone()]), "");
        system.owners = owners();
        let html = section(&[system]);
        let (before, after) = html.split_once("<script").unwrap();
        assert!(before.contains("RAM page 127") && before.contains("the guest calls MEM_SHARE"));
        assert!(after.contains("[127,130]") && after.contains("MEM_UNSHARE"));
    }
}
