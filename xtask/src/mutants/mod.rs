//! `cargo xtask mutants`: puts known bugs into a copy of bouncer, one at a
//! time, and sees whether its checks notice.
//!
//! A check that has never failed proves nothing. Each patch below
//! `tests/mutants` is a mistake that a hypervisor of this kind really made;
//! the table this prints says which check found it, and how soon.
//!
//! | file | one idea |
//! |---|---|
//! | `generated` | `--cargo-mutants` |
//! | `options` | the command line |
//! | `patch` | a story and a diff |
//! | `catalogue` | all of them, and what must become of each |
//! | `scratch` | the copy |
//! | `suite` | the native tests, up to the first that fails |
//! | `end_to_end` | one test that boots machines of its own |
//! | `table` | what a person and a program get to see |

mod catalogue;
mod end_to_end;
mod generated;
mod options;
mod patch;
mod scratch;
mod suite;
mod table;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::bad_entry::{self, Interrupts};
use crate::qemu::interrupted;
use crate::story::{self, Config};
use crate::term::{BAD, DIM, GOOD, Step, paint};
use crate::workspace::Workspace;
use crate::{Outcome, build, setup};
use catalogue::{Fate, Mutant};
use end_to_end::Test;
pub use options::MutantsOptions;
use scratch::Scratch;
use suite::Verdict;
use table::{Row, What};

/// The id of every mutant there is.
///
/// # Errors
/// When a patch cannot be read.
pub fn ids(root: &std::path::Path) -> Result<Vec<String>> {
    Ok(catalogue::load(root)?.into_iter().map(|mutant| mutant.id).collect())
}

/// Runs the mutants that `options` name.
///
/// # Errors
/// When a patch does not apply, the tree itself does not pass, or something
/// cannot be built.
pub fn run(workspace: &Workspace, options: &MutantsOptions) -> Result<Outcome> {
    if options.cargo_mutants {
        return generated::run(workspace, options);
    }
    let mutants = catalogue::select(catalogue::load(&workspace.root)?, &options.ids)?;
    if options.list {
        table::list(&mutants);
        return Ok(Outcome::Pass);
    }
    // All at once: whoever changed the tree wants to know all that is to do.
    let stale: Vec<String> = mutants.iter().filter_map(|m| does_not_apply(workspace, m)).collect();
    if !stale.is_empty() {
        bail!("patches must follow the source:\n  {}", stale.join("\n  "));
    }
    let scratch = Scratch::new(workspace)?;
    let limit = Duration::from_secs(options.seconds);
    baseline(&scratch, &mutants, limit, options.boot)?;
    let mut rows = Vec::new();
    for mutant in &mutants {
        let row = put_to_the_test(&scratch, mutant, limit, options.boot)?;
        if interrupted() {
            return Ok(Outcome::Interrupted);
        }
        rows.push(row);
    }
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&table::json(&rows))? + "\n";
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(table::print(&rows))
}

fn does_not_apply(workspace: &Workspace, mutant: &Mutant) -> Option<String> {
    let error = mutant.patch.apply(&workspace.root).err()?;
    Some(format!("{}: {error:#}", mutant.id))
}

/// Without a mutant every check that will be asked must pass, or a failure
/// would mean nothing.
fn baseline(scratch: &Scratch, mutants: &[Mutant], limit: Duration, boots: bool) -> Result<()> {
    let step = Step::new("Baseline");
    for only in native_tests(mutants) {
        passes(suite::native(scratch, only, limit, &step)?)?;
    }
    let of_tests: BTreeSet<&Test> = mutants.iter().flat_map(Mutant::tests).collect();
    let boots_for = |mutant: &Mutant| matches!(mutant.fate, Fate::Boot | Fate::Hidden(_));
    if boots && (!of_tests.is_empty() || mutants.iter().any(boots_for)) {
        setup::run()?;
    }
    for test in of_tests.into_iter().filter(|_| boots) {
        passes(test.run(scratch, &step)?)?;
    }
    if boots && mutants.iter().any(boots_for) {
        passes(boot(scratch, None, &step)?)?;
    }
    step.done("no mutant: all pass");
    Ok(())
}

/// The native tests that the mutants are put to: packages, or the usual ones.
fn native_tests(mutants: &[Mutant]) -> BTreeSet<Option<&str>> {
    let fates = mutants.iter().map(|mutant| &mutant.fate);
    fates
        .filter_map(|fate| match fate {
            Fate::Native(only) => Some(only.as_deref()),
            Fate::Impossible(_) => Some(None),
            Fate::Boot | Fate::EndToEnd(_) | Fate::Hidden(_) => None,
        })
        .collect()
}

fn passes(verdict: Verdict) -> Result<()> {
    match verdict {
        Verdict::Passed => Ok(()),
        Verdict::Caught(by) | Verdict::Endless(by) => {
            bail!("the tree fails without a mutant in it: {by}")
        }
        Verdict::DoesNotBuild(error) => bail!("the tree does not build: {error}"),
    }
}

/// Puts one mutant into the copy and looks.
fn put_to_the_test(
    scratch: &Scratch,
    mutant: &Mutant,
    limit: Duration,
    with_boot: bool,
) -> Result<Row> {
    let step = Step::new(&mutant.id);
    step.note(&mutant.title);
    let start = Instant::now();
    let mutated = scratch.mutate(&mutant.patch)?;
    let mut what = match (&mutant.fate, with_boot) {
        (Fate::Native(only), _) => suite::native(scratch, only.as_deref(), limit, &step)?.into(),
        (Fate::EndToEnd(test), true) => test.run(scratch, &step)?.into(),
        (Fate::Impossible(expected), _) => match suite::native(scratch, None, limit, &step)? {
            Verdict::DoesNotBuild(error) if error.contains(expected) => {
                What::Impossible(format!("the compiler: {expected}"))
            }
            Verdict::DoesNotBuild(error) => {
                bail!("{} fails to build for another reason than {expected:?}: {error}", mutant.id)
            }
            Verdict::Passed | Verdict::Caught(_) | Verdict::Endless(_) => What::Possible,
        },
        (Fate::Boot, true) => boot(scratch, mutant.cpu.as_deref(), &step)?.into(),
        (Fate::Hidden(why), true) => match boot(scratch, mutant.cpu.as_deref(), &step)? {
            Verdict::Passed => What::Hidden(why.clone()),
            other => other.into(),
        },
        (Fate::Boot | Fate::EndToEnd(_), false) => What::NotTried,
        (Fate::Hidden(why), false) => What::Hidden(why.clone()),
    };
    for test in mutant.also.iter().filter(|_| with_boot) {
        let What::Caught(by) = &what else { break };
        what = match test.run(scratch, &step)?.into() {
            What::Caught(also) => What::Caught(format!("{by}; {also}")),
            What::Survived => What::Missed(format!("{test}; caught by {by}")),
            other => other,
        };
    }
    drop(mutated);
    let row = Row::new(mutant, what, start.elapsed());
    let style = match row.what {
        What::Caught(_) | What::Impossible(_) => GOOD,
        What::NotTried | What::Hidden(_) => DIM,
        _ => BAD,
    };
    let words = if interrupted() { "stopped".into() } else { row.what.words() };
    step.done(&format!("{}: {}", mutant.title, paint(style, words)));
    Ok(row)
}

/// Boots the copy, entered in a bad state, with the whole story and every
/// attack; the first promise it breaks.
fn boot(scratch: &Scratch, cpu: Option<&str>, step: &Step) -> Result<Verdict> {
    step.note("building what boots");
    let images = match build::images(scratch.workspace()) {
        Ok(images) => images,
        Err(error) => return Ok(Verdict::DoesNotBuild(format!("{error:#}"))),
    };
    step.note("booting");
    let mut config = Config::new("mutant");
    let loader = scratch.workspace().folder("runs/mutant")?.join("bad-entry.img");
    std::fs::write(&loader, bad_entry::image(Interrupts::Pending))?;
    config.entered_first = Some(loader);
    if let Some(cpu) = cpu {
        cpu.clone_into(&mut config.machine.cpu);
    }
    let run = story::tell(scratch.workspace(), &images, &config, &mut |_| ())?;
    let failures = &run.report.failures;
    // An attack or a check says more than "the host's result is fail".
    let telling = failures.iter().find(|failure| failure.starts_with("attack "));
    let failure = telling.or(failures.first());
    Ok(failure.map_or(Verdict::Passed, |failure| Verdict::Caught(format!("boot: {failure}"))))
}
