//! The comparison on a terminal: no line is longer than 100 columns.

use super::cost::{Counts, DEPTHS, Measured, SIZES};
use super::modes::Mode;
use crate::term::{DIM, HEAD, paint};

/// Columns of a terminal that are used.
pub(super) const WIDTH: usize = 100;
/// Width of the first column.
const NAME: usize = 18;

/// Prints everything.
pub(super) fn print(systems: &[Measured], modes: &[&Mode]) {
    for line in lines(systems, modes) {
        match line {
            Line::Head(text) => anstream::println!("\n  {}", paint(HEAD, text)),
            Line::Names(text) => anstream::println!("    {}", paint(DIM, text)),
            Line::Row(text) => anstream::println!("    {text}"),
        }
    }
}

/// A line, without its indentation.
enum Line {
    Head(String),
    Names(String),
    Row(String),
}

fn lines(systems: &[Measured], modes: &[&Mode]) -> Vec<Line> {
    let mut lines = Vec::new();
    for depth in DEPTHS {
        lines.push(Line::Head(format!("a request of 4 KiB, {depth} at a time")));
        let names = ["calls", "enters", "exits", "TLBI", "words", "copied", "IRQs", "EL2"];
        lines.push(Line::Names(row("", names.into_iter().chain(["guest", "host"]))));
        for system in systems {
            let cells = system.cost(4 << 10, depth).map(cells).unwrap_or_default();
            lines.push(Line::Row(row(&system.mode, cells.iter().map(String::as_str))));
        }
    }
    for depth in DEPTHS {
        let text = format!("instructions of a request, everybody's, {depth} at a time");
        lines.push(Line::Head(text));
        let names = SIZES.map(size);
        lines.push(Line::Names(row("", names.iter().map(String::as_str))));
        for system in systems {
            let cell = |bytes| system.cost(bytes, depth).map_or_else(String::new, all);
            let cells = SIZES.map(cell);
            lines.push(Line::Row(row(&system.mode, cells.iter().map(String::as_str))));
        }
    }
    for bytes in super::cost::EXPOSED {
        let text = format!("what the host can see, {} at a time, 16 of them", size(bytes));
        lines.push(Line::Head(text));
        let names = ["peak", "mean", "after", "stale", "beyond"];
        lines.push(Line::Names(row("", names)));
        for system in systems {
            let Some(seen) = system.exposed(bytes) else { continue };
            let cells = [
                seen.peak.to_string(),
                format!("{:.1}", seen.mean),
                seen.after.to_string(),
                seen.stale.to_string(),
                seen.beyond.to_string(),
            ];
            lines.push(Line::Row(row(&system.mode, cells.iter().map(String::as_str))));
        }
    }
    for mode in modes {
        let Some(words) = &mode.words else { continue };
        lines.push(Line::Head(mode.name.to_owned()));
        for (name, words) in words.named() {
            let mut name = name;
            for piece in wrap(words, WIDTH - 4 - NAME) {
                lines.push(Line::Row(format!("{name:<NAME$}{piece}")));
                name = "";
            }
        }
    }
    let legend = "calls: hypercalls of the guest; enters: of EL2; exits: returns to the host; \
                  words: of page tables; copied: bytes by the guest, both ways; EL2, guest, host: \
                  instructions; peak, mean, after: pages, also when all is unmapped; stale: bytes \
                  that a buffer held before; beyond: bytes beside a buffer";
    lines.push(Line::Head("columns".into()));
    lines.extend(wrap(legend, WIDTH - 4).into_iter().map(Line::Names));
    lines
}

/// A row of a wide table of ten columns, or of one of fewer.
fn row<'a>(name: &str, cells: impl IntoIterator<Item = &'a str>) -> String {
    let cells: Vec<&str> = cells.into_iter().collect();
    let width = if cells.len() > 5 { 6 } else { 9 };
    let mut text = format!("{name:<NAME$}");
    for cell in cells {
        text += &format!(" {cell:>width$}");
    }
    text
}

fn cells(counts: &Counts) -> Vec<String> {
    let few = |value: f64| match value {
        0.0 => "0".to_owned(),
        value if value < 10.0 => format!("{value:.2}"),
        value => format!("{value:.0}"),
    };
    let copied = counts.copied_in + counts.copied_out;
    [
        few(counts.hypercalls),
        few(counts.el2_entries),
        few(counts.returns_to_host),
        few(counts.tlb_invalidations),
        few(counts.table_words),
        few(copied),
        few(counts.interrupts),
    ]
    .into_iter()
    .chain([counts.el2, counts.guest, counts.host].map(|value| format!("{value:.0}")))
    .collect()
}

fn all(counts: &Counts) -> String {
    format!("{:.0}", counts.all())
}

/// "512 B", "4 KiB".
pub(super) fn size(bytes: u64) -> String {
    if bytes < 1024 { format!("{bytes} B") } else { format!("{} KiB", bytes >> 10) }
}

/// Words in lines of at most so many columns.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let Some(last) = lines.last_mut() else { break };
        if last.is_empty() {
            last.push_str(word);
        } else if last.chars().count() + 1 + word.chars().count() <= width {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::cost::tests::console;
    use super::super::modes::MODES;
    use super::*;

    #[test]
    fn no_line_is_too_long() {
        let mut system = Measured::read("x", &console()).unwrap();
        for cost in &mut system.requests {
            // As large as they come.
            cost.of.el2 = 1_234_567.0;
            cost.of.host = 7_654_321.0;
            cost.of.copied_in = 600_000.0;
        }
        let modes: Vec<&Mode> = MODES.iter().collect();
        let systems: Vec<Measured> = modes
            .iter()
            .map(|mode| Measured { mode: mode.name.to_owned(), ..system.clone() })
            .collect();
        for line in lines(&systems, &modes) {
            let (Line::Head(text) | Line::Names(text) | Line::Row(text)) = line;
            assert!(text.chars().count() + 4 <= WIDTH, "{text}");
        }
    }

    #[test]
    fn words_are_wrapped_between_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("", 7), [""]);
    }
}
