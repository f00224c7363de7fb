//! The story as a person sees it: live lines, then the attacks, then what it
//! all cost.

use std::collections::BTreeSet;

use console::Term;

use crate::console::Record;
use crate::report::Report;
use crate::term::{BAD, DIM, GOOD, HEAD, Step, paint};
use crate::transcript::{Counters, Transcript};

/// Width assumed where nobody looks at a terminal.
const LOG_WIDTH: usize = 160;

/// Shows console lines as they come, under headings.
#[derive(Debug)]
pub struct Live {
    raw: bool,
    width: usize,
    machine: String,
    waiting: Option<Step>,
    heading: String,
    rows: Vec<Row>,
    said: String,
    repeated: usize,
}

/// The attempts of one row of the attack table in one part of the story.
#[derive(Debug)]
struct Row {
    id: String,
    what: String,
    detail: String,
    attempts: usize,
}

/// Lines that agree in so many characters say the same again.
const ALIKE: usize = 28;

impl Live {
    /// A view of a machine that is being switched on; `raw` shows the console
    /// as it is.
    #[must_use]
    pub fn new(raw: bool, machine: &str) -> Self {
        let step = Step::new("Booting");
        step.note(machine);
        let terminal = Term::stdout();
        let width = match terminal.size_checked() {
            Some((_, columns)) if terminal.is_term() => usize::from(columns).max(80),
            _ => LOG_WIDTH,
        };
        Self {
            raw,
            width,
            machine: machine.to_owned(),
            waiting: Some(step),
            heading: String::new(),
            rows: Vec::new(),
            said: String::new(),
            repeated: 0,
        }
    }

    /// Takes the next console line.
    pub fn line(&mut self, line: &str) {
        if let Some(step) = self.waiting.take() {
            step.done(&self.machine);
        }
        if self.raw {
            anstream::println!("{line}");
            return;
        }
        if let Some(record) = Record::parse(line) {
            if record.name == "attack" {
                self.attack(&record);
            }
            return;
        }
        let start: String = line.chars().take(ALIKE).collect();
        if start == self.said && start.chars().count() == ALIKE {
            self.repeated += 1;
            return;
        }
        self.end_part();
        self.said = start;
        if let Some(heading) = heading(line) {
            self.under(heading);
        }
        anstream::println!("    {}", cut(line, self.width - 4));
    }

    fn under(&mut self, heading: String) {
        if heading != self.heading {
            anstream::println!("\n  {}", paint(HEAD, &heading));
            self.heading = heading;
        }
    }

    /// One line for each row of the attack table, when its part of the story
    /// is over; at once for an attempt that was not refused.
    fn attack(&mut self, record: &Record) {
        let get = |key: &str| record.get(key).unwrap_or_default().to_owned();
        let (id, what, outcome, detail) = (get("id"), get("what"), get("outcome"), get("detail"));
        if outcome != "refused" {
            let (mark, outcome) = (paint(BAD, "✗"), paint(BAD, outcome));
            anstream::println!("    {mark} {id:<4} {what}: {outcome}: {detail}");
            return;
        }
        let id = id.split('.').next().unwrap_or_default().to_owned();
        match self.rows.iter_mut().find(|row| row.id == id) {
            Some(row) => row.attempts += 1,
            None => self.rows.push(Row { id, what, detail, attempts: 1 }),
        }
    }

    /// Shows what was gathered since the last line for people.
    fn end_part(&mut self) {
        if self.repeated > 0 {
            anstream::println!("    {}", paint(DIM, format!("… and {} like it", self.repeated)));
            self.repeated = 0;
        }
        for row in self.rows.drain(..) {
            let more = match row.attempts {
                1 => String::new(),
                attempts => format!(" and {} more", attempts - 1),
            };
            let what = cut(&(row.what + &more), 62);
            let detail = cut(&row.detail, self.width.saturating_sub(85).max(24));
            let (mark, refused) = (paint(GOOD, "✓"), paint(GOOD, "refused"));
            anstream::println!(
                "    {mark} {:<4} {what:<62} {refused}: {}",
                row.id,
                paint(DIM, detail)
            );
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.end_part();
    }
}

/// The heading a line begins a new part of the story with, if it does.
fn heading(line: &str) -> Option<String> {
    let (speaker, text) = line.split_once(": ")?;
    match speaker {
        "bouncer" => Some("bouncer takes the machine at EL2".into()),
        "host" if text.starts_with("guest `") => {
            let guest = text.split(" measured ").next().unwrap_or(text);
            Some(format!("the host starts {guest}"))
        }
        "host" if text.contains("CPUs up") => {
            Some("the host comes up at EL1, behind stage 2, no longer trusted".into())
        }
        _ => None,
    }
}

/// Prints the judgement.
pub fn summary(report: &Report, transcript: &Transcript) {
    anstream::println!("\n  {}", paint(HEAD, "the disk, as xtask sees it"));
    let disk = &report.disk;
    let equal = disk.sha256_guest == disk.sha256_host;
    check(equal, &format!("sha256 of {} equals the image's {}", disk.file, disk.sha256_host));
    check(disk.write_seen, "what the guest wrote is on the disk after power-off");
    let refused = report.attacks.iter().filter(|attack| attack.outcome == "refused").count();
    let all = report.attacks.len();
    check(all > 0 && refused == all, &format!("{refused} of {all} attacks refused"));
    counters(transcript);
    anstream::println!();
    for failure in &report.failures {
        anstream::println!("  {} {failure}", paint(BAD, "✗"));
    }
    let seconds = report.seconds;
    let (style, word) = if report.passed() {
        (GOOD, "PASS: every promise held")
    } else {
        (BAD, "FAIL: see the lines marked ✗")
    };
    anstream::println!("  {} {}", paint(style, word), paint(DIM, format!("({seconds:.1} s)")));
}

fn check(held: bool, sentence: &str) {
    let mark = if held { paint(GOOD, "✓") } else { paint(BAD, "✗") };
    anstream::println!("    {mark} {sentence}");
}

/// Counters of all runs side by side, one row per name.
fn counters(transcript: &Transcript) {
    let (machine, runs): (Vec<_>, Vec<_>) =
        transcript.counters.iter().partition(|(run, _)| run.as_str() == "machine");
    if !runs.is_empty() {
        anstream::println!("\n  {}", paint(HEAD, "the DMA policies side by side"));
        for line in table(&runs) {
            anstream::println!("    {line}");
        }
    }
    if let Some((_, values)) = machine.first() {
        anstream::println!("\n  {}", paint(HEAD, "the machine"));
        let counted = values.iter().filter(|(name, value)| !needs_profile(name) || **value != 0);
        let cells: Vec<String> =
            counted.map(|(name, value)| format!("{} {value}", words(name))).collect();
        for row in cells.chunks(4) {
            anstream::println!("    {}", row.join(", "));
        }
    }
}

fn table(runs: &[(&String, &Counters)]) -> Vec<String> {
    let names: BTreeSet<&String> = runs.iter().flat_map(|(_, values)| values.keys()).collect();
    let heads: String = runs.iter().map(|(run, _)| format!("{run:>16}")).collect();
    let mut lines = vec![format!("{:<32}{heads}", "")];
    for name in names {
        let cells: String = runs
            .iter()
            .map(|(_, values)| match values.get(name) {
                Some(value) => format!("{value:>16}"),
                None => format!("{:>16}", "–"),
            })
            .collect();
        lines.push(format!("{:<32}{cells}", words(name)));
    }
    lines
}

/// Is this counter 0 unless bouncer is built to measure itself (docs/abi.md,
/// STATS)? Nobody needs to read that it did not.
fn needs_profile(name: &str) -> bool {
    name == "el2_entries" || name.starts_with("ticks_")
}

fn words(name: &str) -> String {
    name.replace('_', " ")
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_stand_side_by_side_and_gaps_show_as_gaps() {
        let mut transcript = Transcript::default();
        transcript.push("@counter run=bounce-bar name=exits_wfi value=12");
        transcript.push("@counter run=shared-pages name=exits_wfi value=14");
        transcript.push("@counter run=bounce-bar name=bytes_bounced value=4096");
        let runs: Vec<_> = transcript.counters.iter().collect();
        let table = table(&runs);
        let fields =
            |line: &str| -> Vec<String> { line.split_whitespace().map(str::to_owned).collect() };
        assert_eq!(fields(&table[0]), ["bounce-bar", "shared-pages"]);
        assert_eq!(fields(&table[1]), ["bytes", "bounced", "4096", "–"]);
        assert_eq!(fields(&table[2]), ["exits", "wfi", "12", "14"]);
    }

    #[test]
    fn the_parts_of_the_story_have_headings() {
        assert!(heading("bouncer: version 0.1.0").unwrap().contains("EL2"));
        let guest = heading("host: guest `story` (bounce-bar, 2 vCPUs) measured sha256=00");
        assert_eq!(guest.unwrap(), "the host starts guest `story` (bounce-bar, 2 vCPUs)");
        assert_eq!(heading("host: tries what it can"), None);
        assert_eq!(heading("guest: bouncer: hello"), None);
    }

    #[test]
    fn long_lines_are_cut_at_a_character() {
        assert_eq!(cut("kurz", 4), "kurz");
        assert_eq!(cut(&"ü".repeat(200), 100).chars().count(), 100);
    }
}
