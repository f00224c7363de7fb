//! The table in `docs/threats.md`: made of the data, between two marks.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Booted, Catalogue, Cpus, Threat};

/// The reader's page.
pub(crate) const PAGE: &str = "docs/threats.md";
/// What stands around the table.
const BEGIN: &str = "<!-- made of threats.toml by `cargo xtask check --write`: do not edit -->\n";
const END: &str = "<!-- end of what is made of threats.toml -->\n";

/// A table's first lines.
const HEAD: &str = "| id | attempt, and *what it aims at* | stopped by | native tests | booted | \
    mutants | not covered |\n|---|---|---|---|---|---|---|\n";

/// Who attacks, by the letter of an id.
const ATTACKERS: [(char, &str); 6] = [
    ('C', "By the host's CPU"),
    ('M', "By DMA and devices' back doors"),
    ('I', "By interrupts and exits"),
    ('G', "By one guest against another, and against the host"),
    ('H', "By a device against its guest"),
    ('B', "By what was there before: firmware, loaders, the board"),
];

/// Is the table that of the data?
///
/// # Errors
/// When the page cannot be read, or has no marks.
pub(crate) fn is_current(root: &Path, catalogue: &Catalogue) -> Result<bool> {
    let page = read(root)?;
    Ok(with_table(&page, &table(catalogue))? == page)
}

/// Writes the table anew; true if that changed the page.
///
/// # Errors
/// When the page cannot be read or written, or has no marks.
pub(crate) fn renew(root: &Path, catalogue: &Catalogue) -> Result<bool> {
    let page = read(root)?;
    let new = with_table(&page, &table(catalogue))?;
    if new != page {
        std::fs::write(root.join(PAGE), &new).with_context(|| format!("cannot write {PAGE}"))?;
    }
    Ok(new != page)
}

fn read(root: &Path) -> Result<String> {
    std::fs::read_to_string(root.join(PAGE)).with_context(|| format!("cannot read {PAGE}"))
}

fn with_table(page: &str, table: &str) -> Result<String> {
    let (before, rest) =
        page.split_once(BEGIN).with_context(|| format!("{PAGE} has no line {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("{PAGE} has no line {END}"))?;
    Ok([before, BEGIN, table, END, after].concat())
}

/// All rows, below a heading for each kind of attacker.
fn table(catalogue: &Catalogue) -> String {
    let mut text = String::new();
    for (letter, attacker) in ATTACKERS {
        let rows = catalogue.threats.iter().filter(|threat| threat.id.starts_with(letter));
        let mut rows: Vec<&Threat> = rows.collect();
        rows.sort_by_key(|threat| number(&threat.id));
        // Writing to a string cannot fail.
        let _ = write!(text, "\n## {attacker}\n\n{HEAD}");
        rows.into_iter().for_each(|threat| text += &line(threat));
    }
    text + "\n"
}

/// The number in an id.
fn number(id: &str) -> u32 {
    id.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(u32::MAX)
}

fn line(threat: &Threat) -> String {
    let mechanism = threat.mechanism.iter().map(|text| match text.split_once('#') {
        Some((file, item)) => format!("[`{item}`](../{file})"),
        None => format!("`{text}`"),
    });
    // The crate and the module say where it is; the name says what it shows.
    let native = threat.native.iter().map(|path| match path.rsplit_once("::") {
        Some((place, name)) => format!("`{place}`: {}", name.replace('_', " ")),
        None => format!("`{path}`"),
    });
    let booted = threat.booted().map(|booted| match booted {
        Booted::Finding(id) => format!("`{id}`"),
        Booted::Test { file, function } => {
            let name = file.rsplit_once('/').map_or(file, |(_, name)| name);
            format!("[`{name}`](../{file}): {}", function.replace('_', " "))
        }
    });
    let left = Some(threat.not_covered.clone()).filter(|text| !text.is_empty());
    let only = match &threat.cpus {
        Cpus::All(_) => None,
        Cpus::Models(models) => Some(format!("*Only on* {}.", models.join(", "))),
    };
    let planned = threat.planned.iter().map(|planned| format!("*Planned:* {planned}"));
    let left = left.into_iter().chain(only).chain(planned).map(|text| cell(&text));
    format!(
        "| {} | {}: *{}* | {} | {} | {} | {} | {} |\n",
        threat.id,
        cell(&threat.attempt),
        cell(&threat.asset),
        mechanism.collect::<Vec<_>>().join("<br>"),
        native.collect::<Vec<_>>().join("<br>"),
        booted.collect::<Vec<_>>().join("<br>"),
        threat.mutants.join(", "),
        left.collect::<Vec<_>>().join("<br>"),
    )
}

/// Text that ends neither its cell nor its line.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_replaces_what_is_between_the_marks_and_nothing_else() {
        let page = format!("prose\n{BEGIN}old\n{END}more\n");
        let new = with_table(&page, "new\n").unwrap();
        assert_eq!(new, format!("prose\n{BEGIN}new\n{END}more\n"));
        assert!(with_table("prose", "new").is_err());
    }

    #[test]
    fn a_row_is_one_line_of_seven_cells_whatever_its_words() {
        let text = "[[threat]]\nid='C10'\nattempt='a | b'\nasset='x'\nmechanism=['f.rs#g']\n\
            native=['hyp::a::b_c']\nbooted=['C10.x','tests/tests/l.rs#d_e']\ncpus='all'\n";
        let catalogue = Catalogue::parse(text).unwrap();
        let line = line(&catalogue.threats[0]);
        assert_eq!(line.replace("\\|", "").matches('|').count(), 8, "{line}");
        assert!(line.contains("[`g`](../f.rs)") && line.contains("`hyp::a`: b c"), "{line}");
        assert!(line.contains("[`l.rs`](../tests/tests/l.rs): d e"), "{line}");
    }

    #[test]
    fn rows_are_in_the_order_of_their_numbers() {
        assert!(number("C2") < number("C10"));
    }
}
