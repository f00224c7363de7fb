//! What the exit status says. This is the whole table; `--help` and
//! docs/linux.md show it.

use std::fmt::Write;

/// All held; with `run --guest` or `--host`, Linux has powered off.
pub const PASS: u8 = 0;
/// A promise or a test failed.
pub const FAIL: u8 = 1;
/// The command line makes no sense, as clap has it.
pub const WRONG_USAGE: u8 = 2;
/// Something could not be set up, read, built or booted.
pub const TROUBLE: u8 = 3;
/// A guest that was attacked and did not hold, or left something behind, or
/// whose neighbour ended before its time.
pub const NOT_HELD: u8 = 123;
/// A guest that did not finish in time, as timeout(1) has it.
pub const TIMED_OUT: u8 = 124;
/// A guest that was not run to its end.
pub const NOT_RUN: u8 = 125;
/// Ctrl-C, as shells have it.
pub const INTERRUPTED: u8 = 130;

/// A status and when it comes.
pub struct Row(pub u8, pub &'static str);

/// Of everything but `run --guest` and `run --host`.
pub const COMMANDS: [Row; 5] = [
    Row(PASS, "all held"),
    Row(FAIL, "a promise or a test failed"),
    Row(WRONG_USAGE, "wrong usage"),
    Row(TROUBLE, "something could not be set up, read, built or booted"),
    Row(INTERRUPTED, "stopped by Ctrl-C"),
];

/// Of `run --guest`, and of `run --host`, where the guest is the host. What is not the script's own is 2 or above 122: a script's
/// own statuses are small numbers.
pub const GUESTS: [Row; 6] = [
    Row(PASS, "the guest has powered off; of a script or a list of commands: its own status"),
    Row(WRONG_USAGE, "wrong usage"),
    Row(
        NOT_HELD,
        "an attempt of --attack was not refused, or the marker is where it must not be; a guest \
         could not be built, left something behind, or a neighbour ended before its time",
    ),
    Row(TIMED_OUT, "not finished within --timeout (a script: 600 s if not said)"),
    Row(
        NOT_RUN,
        "the guest did not get that far: a file cannot be read, it was not fetched, built or \
         booted; or it came to another end: a panic, a reset that nobody asked for",
    ),
    Row(INTERRUPTED, "stopped by Ctrl-C or Ctrl-]; the disk is not saved"),
];

/// A table as text, each line at most so wide.
#[must_use]
pub fn text(title: &str, rows: &[Row], width: usize) -> String {
    let mut text = format!("{title}\n");
    for Row(status, when) in rows {
        let mut line = format!("{status:>5}  ");
        for word in when.split_whitespace() {
            if line.len() + 1 + word.len() > width {
                let _ = writeln!(text, "{}", line.trim_end());
                line = " ".repeat(7);
            }
            line += word;
            line.push(' ');
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_this_table() {
        let docs = include_str!("../../docs/linux.md");
        for Row(status, when) in &GUESTS {
            let row = format!("| {status} | {when} |\n");
            assert!(docs.contains(&row), "docs/linux.md has no row {row}");
        }
    }

    #[test]
    fn rows_are_in_order_and_wrapped() {
        for rows in [COMMANDS.as_slice(), &GUESTS] {
            assert!(rows.is_sorted_by_key(|row| row.0));
            let text = text("Exit status:", rows, 60);
            assert!(text.lines().all(|line| line.len() <= 60), "{text}");
        }
    }
}
