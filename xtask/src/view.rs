//! The story as a person sees it: live lines, then the attacks, then what it
//! all cost.

use std::collections::BTreeSet;

use crate::console::Record;
use crate::report::Report;
use crate::term::{BAD, DIM, GOOD, HEAD, Step, paint};
use crate::transcript::{Counters, Transcript};

/// Widest a text may be so that a line stays a line.
const WIDTH: usize = 100;

/// Shows console lines as they come, under headings.
#[derive(Debug)]
pub struct Live {
    raw: bool,
    waiting: Option<Step>,
    heading: &'static str,
}

impl Live {
    /// A view of a machine that is being switched on; `raw` shows the console
    /// as it is.
    #[must_use]
    pub fn new(raw: bool, machine: &str) -> Self {
        let step = Step::new("Booting");
        step.note(machine);
        Self { raw, waiting: Some(step), heading: "" }
    }

    /// Takes the next console line.
    pub fn line(&mut self, line: &str) {
        if let Some(step) = self.waiting.take() {
            step.done("first sign of life on the console");
        }
        if self.raw {
            anstream::println!("{line}");
            return;
        }
        if let Some(record) = Record::parse(line) {
            self.record(&record);
            return;
        }
        let heading = match line.split_once(':').map(|(speaker, _)| speaker) {
            Some("bouncer") => "bouncer takes the machine at EL2",
            Some("host") => "the host comes up behind stage 2, no longer trusted",
            Some("guest") => "a protected guest runs",
            // Before the first speaker: firmware, or QEMU's own complaint.
            _ => self.heading,
        };
        self.under(heading);
        anstream::println!("    {}", cut(line));
    }

    fn under(&mut self, heading: &'static str) {
        if heading != self.heading {
            anstream::println!("\n  {}", paint(HEAD, heading));
            self.heading = heading;
        }
    }

    fn record(&mut self, record: &Record) {
        let get = |key: &str| record.get(key).unwrap_or_default();
        match record.name.as_str() {
            "attack" => {
                self.under("the host attacks");
                let refused = get("outcome") == "refused";
                let mark = if refused { paint(GOOD, "✓") } else { paint(BAD, "✗") };
                let outcome = paint(if refused { GOOD } else { BAD }, get("outcome"));
                let (id, what) = (get("id"), get("what"));
                anstream::println!("    {mark} {id:<5} {what}");
                anstream::println!("            {outcome}: {}", paint(DIM, cut(get("detail"))));
            }
            "guest" if record.says("file") => {
                self.under("a protected guest runs");
                anstream::println!("    guest: {:>9} bytes  {}", get("size"), get("name"));
            }
            "guest" if record.says("sha256") => {
                self.under("a protected guest runs");
                let (file, dma) = (get("file"), get("dma"));
                anstream::println!("    guest: sha256 of {file} through {dma} is {}", get("hex"));
            }
            "guest" if record.says("wrote") => {
                self.under("a protected guest runs");
                anstream::println!("    guest: wrote {} bytes to {}", get("bytes"), get("file"));
            }
            _ => {}
        }
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
        anstream::println!("\n  {}", paint(HEAD, "the two DMA policies side by side"));
        for line in table(&runs) {
            anstream::println!("    {line}");
        }
    }
    if let Some((_, values)) = machine.first() {
        anstream::println!("\n  {}", paint(HEAD, "the machine"));
        let cells: Vec<String> =
            values.iter().map(|(name, value)| format!("{} {value}", words(name))).collect();
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

fn words(name: &str) -> String {
    name.replace('_', " ")
}

fn cut(text: &str) -> String {
    if text.chars().count() <= WIDTH {
        return text.to_owned();
    }
    text.chars().take(WIDTH - 1).chain(['…']).collect()
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
    fn long_lines_are_cut_at_a_character() {
        assert_eq!(cut("kurz"), "kurz");
        assert_eq!(cut(&"ü".repeat(200)).chars().count(), WIDTH);
    }
}
