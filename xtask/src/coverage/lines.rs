//! Executed lines per file, from the report of `llvm-cov`.

use std::path::Path;

use anyhow::{Context, Result};

/// Lines with code, and how many of them were executed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) covered: u64,
    pub(super) lines: u64,
}

impl Count {
    pub(super) fn plus(self, other: Self) -> Self {
        Self { covered: self.covered + other.covered, lines: self.lines + other.lines }
    }

    pub(super) fn percent(self) -> f64 {
        if self.lines == 0 { 100.0 } else { 100.0 * self.covered as f64 / self.lines as f64 }
    }
}

/// Counts the files below `source` that are the policy.
///
/// # Errors
/// When a file that the report names cannot be read.
pub(super) fn count(lcov: &str, source: &Path) -> Result<Vec<(String, Count)>> {
    let mut files = Vec::new();
    for record in lcov.split("end_of_record") {
        let Some(path) = record.lines().find_map(|line| line.strip_prefix("SF:")) else { continue };
        let Ok(name) = Path::new(path).strip_prefix(source) else { continue };
        let name = name.to_string_lossy().into_owned();
        if !is_policy(&name) {
            continue;
        }
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        let count = record_count(record, tests_begin(&text));
        if count.lines > 0 {
            files.push((name, count));
        }
    }
    files.sort_by(|(a, _): &(String, Count), (b, _)| a.cmp(b));
    Ok(files)
}

/// Whether a file below `hyp/src` is the policy: no tests, no simulated
/// machine.
pub(super) fn is_policy(name: &str) -> bool {
    !name.starts_with("sim/") && name.split('/').all(|part| part != "tests" && part != "tests.rs")
}

/// Line number of the unit tests at the end of a file.
pub(super) fn tests_begin(source: &str) -> u64 {
    let lines: Vec<&str> = source.lines().collect();
    let tests = lines.windows(2).position(|pair| {
        matches!(pair, ["#[cfg(test)]", next] if next.starts_with("mod ") && next.ends_with('{'))
    });
    tests.map_or(u64::MAX, |index| index as u64 + 1)
}

fn record_count(record: &str, end: u64) -> Count {
    let mut count = Count::default();
    for data in record.lines().filter_map(|line| line.strip_prefix("DA:")) {
        let mut numbers = data.split(',').map(|number| number.parse::<u64>().unwrap_or(0));
        let (line, hits) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if line < end {
            count.lines += 1;
            count.covered += u64::from(hits > 0);
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_inline_tests_do_not_count() {
        let source = "fn a() {}\n#[cfg(test)]\nuse b;\n#[cfg(test)]\nmod tests {\n}\n";
        assert_eq!(tests_begin(source), 4);
        assert_eq!(tests_begin("fn a() {}\n#[cfg(test)]\nmod tests;\n"), u64::MAX);
        let record = "SF:x\nDA:1,5\nDA:2,0\nDA:3,1\nDA:5,9\n";
        assert_eq!(record_count(record, 4), Count { covered: 2, lines: 3 });
    }

    #[test]
    fn the_policy_is_neither_a_test_nor_the_simulated_machine() {
        assert!(is_policy("memory/frame.rs") && is_policy("sim.rs") && is_policy("testsuite.rs"));
        assert!(!is_policy("sim/mod.rs") && !is_policy("vgic/tests/lists.rs"));
        assert!(!is_policy("tests.rs") && !is_policy("memory/tests.rs"));
    }

    #[test]
    fn half_is_fifty_percent_and_nothing_is_all() {
        assert!((Count { covered: 1, lines: 2 }.percent() - 50.0).abs() < 1e-9);
        assert!((Count::default().percent() - 100.0).abs() < 1e-9);
    }
}
