//! `cargo xtask attack`: makes the attempts of the catalogue's rows on the
//! booted machine, and says of each row in one line what became of it.
//!
//! | file | one idea |
//! |---|---|
//! | `plan` | which boots and tests the rows need |
//! | `tests` | test functions, run by their names |
//! | `judge` | from what was seen to one verdict for each row |

mod judge;
mod plan;
mod tests;

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::story::{self, Config};
use crate::term::{BAD, DIM, GOOD, HEAD, Step, paint};
use crate::threats::{Catalogue, MODELS, Threat};
use crate::workspace::Workspace;
use crate::{Outcome, Usage, build, cpu, qemu, setup};
use judge::{Seen, Verdict};
use plan::Plan;

/// `attack`'s options.
#[derive(Debug, Clone, clap::Args)]
pub struct AttackOptions {
    /// Rows of docs/threats.md, as C1; all if none
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
    /// CPU model, may be given several times; `all`: the nine tested ones
    /// [default: cortex-a72]
    #[arg(long, value_name = "MODEL", value_parser = cpu::parse)]
    pub cpu: Vec<String>,
    /// CPUs of the machine, 1 to 8
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=8))]
    pub cpus: u32,
    /// Write the result as JSON to FILE
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Only show which rows there are
    #[arg(long)]
    pub list: bool,
}

/// `--json`.
#[derive(Debug, Serialize)]
struct Report<'a> {
    result: &'static str,
    machines: Vec<OnMachine<'a>>,
}

/// What came of the rows on one machine.
#[derive(Debug, Serialize)]
struct OnMachine<'a> {
    cpu: String,
    cpus: u32,
    rows: Vec<Row<'a>>,
}

/// What came of one row.
#[derive(Debug, Serialize)]
struct Row<'a> {
    id: &'a str,
    attempt: &'a str,
    #[serde(flatten)]
    verdict: Verdict,
}

/// Makes the attempts.
///
/// # Errors
/// When a row is unknown, or something cannot be set up, built or booted.
pub fn run(workspace: &Workspace, options: &AttackOptions) -> Result<Outcome> {
    let catalogue = Catalogue::load(&workspace.root)?;
    let rows = select(&catalogue, &options.ids)?;
    if options.list {
        rows.iter().for_each(|row| anstream::println!("  {:<4} {}", row.id, row.attempt));
        return Ok(Outcome::Pass);
    }
    setup::run()?;
    models(&options.cpu).iter().try_for_each(|model| cpu::check(model))?;
    let mut machines = Vec::new();
    let mut on_simulated = None;
    for model in models(&options.cpu) {
        let plan = Plan::of(&rows, &model, options.cpus);
        let mut seen = Seen::new(&model, options.cpus);
        // These do not depend on the model.
        let native = match on_simulated.take() {
            Some(results) => results,
            None => tests::run_native(workspace, &plan.native)?,
        };
        seen.tests.extend(native.clone());
        on_simulated = Some(native);
        boot(workspace, &plan, &mut seen)?;
        seen.tests.extend(tests::run_booted(workspace, &plan.tests, &model, options.cpus)?);
        if qemu::interrupted() {
            return Ok(Outcome::Interrupted);
        }
        anstream::println!("\n  {}", paint(HEAD, format!("{} × {model}", options.cpus)));
        let judged: Vec<Row> = rows
            .iter()
            .map(|row| Row { id: &row.id, attempt: &row.attempt, verdict: seen.judge(row) })
            .collect();
        judged.iter().for_each(show);
        machines.push(OnMachine { cpu: model, cpus: options.cpus, rows: judged });
    }
    conclude(options, machines)
}

/// The rows asked for, in the catalogue's order.
fn select<'a>(catalogue: &'a Catalogue, ids: &[String]) -> Result<Vec<&'a Threat>> {
    for id in ids {
        if catalogue.row(id).is_none() {
            let error = format!("there is no attack {id}; `cargo xtask attack --list` shows all");
            return Err(Usage(error).into());
        }
    }
    let wanted =
        |row: &&Threat| ids.is_empty() || ids.iter().any(|id| row.id.eq_ignore_ascii_case(id));
    Ok(catalogue.threats.iter().filter(wanted).collect())
}

/// The CPU models asked for.
fn models(words: &[String]) -> Vec<String> {
    let mut models = Vec::new();
    for word in words {
        match word.as_str() {
            "all" => models.extend(MODELS.map(str::to_owned)),
            _ => models.push(word.clone()),
        }
    }
    if models.is_empty() {
        models.push(cpu::DEFAULT.to_owned());
    }
    models
}

/// Boots every scenario that the plan needs.
fn boot(workspace: &Workspace, plan: &Plan, seen: &mut Seen) -> Result<()> {
    if plan.scenarios.is_empty() {
        return Ok(());
    }
    let images = build::images(workspace)?;
    for &scenario in &plan.scenarios {
        if qemu::interrupted() {
            return Ok(());
        }
        let mut config = Config::of_scenario(&format!("attack-{scenario}"), scenario);
        config.machine.cpu.clone_from(&seen.model);
        config.machine.cpus = seen.cpus;
        let step = Step::new("Booting");
        let run = story::tell(workspace, &images, &config, &mut |line| step.note(line))?;
        let attempts = run.transcript.attacks.len();
        step.done(&format!("{scenario} on {}: {attempts} attempts", seen.model));
        seen.booted(scenario, run);
    }
    Ok(())
}

fn show(row: &Row<'_>) {
    let Row { id, attempt, verdict } = row;
    let (mark, how) = match verdict {
        Verdict::Refused { how, .. } => (paint(GOOD, "✓"), how.clone()),
        Verdict::Broken { why } => (paint(BAD, "✗"), paint(BAD, why)),
        Verdict::NotTried { why } => (paint(BAD, "✗"), paint(BAD, format!("not tried: {why}"))),
        Verdict::Waits { why } => ("–".to_owned(), paint(DIM, why)),
    };
    anstream::println!("    {mark} {id:<4} {} {how}", short(attempt));
}

/// The beginning of an attempt's words, padded.
fn short(attempt: &str) -> String {
    const WIDTH: usize = 44;
    let mut text: String = attempt.chars().take(WIDTH).collect();
    if text.len() < attempt.len() {
        text.pop();
        text.push('…');
    }
    format!("{text:<WIDTH$}")
}

fn conclude(options: &AttackOptions, machines: Vec<OnMachine<'_>>) -> Result<Outcome> {
    let rows = || machines.iter().flat_map(|machine| &machine.rows);
    let bad = rows().filter(|row| row.verdict.is_bad()).count();
    let refused = rows().filter(|row| matches!(row.verdict, Verdict::Refused { .. })).count();
    let waiting = rows().count() - bad - refused;
    let mut text = format!("{refused} rows refused");
    if waiting > 0 {
        text += &format!(", {waiting} wait for what is planned, or for another CPU model");
    }
    // Nothing tried is nothing shown.
    let held = bad == 0 && refused > 0;
    if held {
        anstream::println!("\n  {}: {text}", paint(GOOD, "PASS"));
    } else {
        anstream::println!("\n  {}: {text}, {bad} not", paint(BAD, "FAIL"));
    }
    if let Some(path) = &options.json {
        let report = Report { result: if held { "pass" } else { "fail" }, machines };
        let json = serde_json::to_string_pretty(&report)? + "\n";
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(if held { Outcome::Pass } else { Outcome::Fail })
}

#[cfg(test)]
mod own_tests {
    use super::*;
    use crate::threats::Cpus;

    fn row(id: &str) -> Threat {
        Threat {
            id: id.into(),
            attempt: "read".into(),
            asset: "memory".into(),
            mechanism: vec![],
            native: vec![],
            booted: vec![],
            two_cpus: vec![],
            mutants: vec![],
            cpus: Cpus::All("all".into()),
            not_covered: String::new(),
            planned: None,
        }
    }

    #[test]
    fn an_unknown_row_is_wrong_usage_and_case_does_not_matter() {
        let catalogue = Catalogue { threats: vec![row("C1"), row("C10")] };
        let picked = select(&catalogue, &["c10".into()]).unwrap();
        assert_eq!(picked.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["C10"]);
        assert_eq!(select(&catalogue, &[]).unwrap().len(), 2);
        let error = select(&catalogue, &["C2".into()]).unwrap_err();
        assert!(error.is::<Usage>() && error.to_string().contains("no attack C2"), "{error}");
    }

    #[test]
    fn all_are_the_nine_and_none_is_the_default() {
        assert_eq!(models(&["all".into()]).len(), 9);
        assert_eq!(models(&[]), ["cortex-a72"]);
        assert_eq!(models(&["max".into(), "a64fx".into()]), ["max", "a64fx"]);
    }
}
