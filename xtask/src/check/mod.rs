//! `cargo xtask check`: what must hold of the source before anyone reads it.

mod audit;
mod lexer;

use std::process::Command;

use anyhow::Result;

use crate::Outcome;
use crate::guest::bounce;
use crate::setup::rust::TARGET;
use crate::term::{BAD, GOOD, HEAD, Step, paint, run_quietly};
use crate::threats::{self, Catalogue};
use crate::workspace::{Workspace, cargo};

/// Packages that are compiled for the bare machine.
const BARE: [&str; 6] = ["hyp", "platform", "el2-boot", "rt", "host", "guest"];

/// `check`'s options.
#[derive(Debug, Clone, clap::Args)]
pub struct CheckOptions {
    /// Write anew what is made of data (the table in docs/threats.md), check
    /// the data, and nothing else
    #[arg(long)]
    pub write: bool,
}

/// Makes the table of `docs/threats.md` anew and checks the catalogue.
///
/// # Errors
/// When the catalogue or its page cannot be read.
pub fn write(workspace: &Workspace) -> Result<Outcome> {
    let root = &workspace.root;
    let catalogue = Catalogue::load(root)?;
    let changed = threats::renew(root, &catalogue)?;
    let (page, what) = (threats::PAGE, if changed { "written" } else { "unchanged" });
    anstream::println!("  {page}: {what}, {} rows", catalogue.threats.len());
    let held = catalogue_holds(workspace)?;
    Ok(if held { Outcome::Pass } else { Outcome::Fail })
}

/// Tells what is wrong with the catalogue of attacks; true if nothing is.
fn catalogue_holds(workspace: &Workspace) -> Result<bool> {
    let root = &workspace.root;
    let catalogue = Catalogue::load(root)?;
    let mut problems = threats::verify(root, &catalogue)?;
    if !threats::is_current(root, &catalogue)? {
        let (page, data) = (threats::PAGE, threats::DATA);
        problems.push(format!(
            "the table in {page} is not that of {data}: `cargo xtask check --write` makes it"
        ));
    }
    for problem in &problems {
        anstream::println!("    {} {problem}", paint(BAD, "✗"));
    }
    Ok(problems.is_empty())
}

/// Runs all checks, each to its end, and tells of every failure.
///
/// # Errors
/// When the source cannot be read.
pub fn run(workspace: &Workspace) -> Result<Outcome> {
    let mut held = true;
    let style = bounce::checkpatch(workspace)?.map(|command| ("the kernel's style", command));
    if style.is_none() {
        let why = "linux/bounce in the kernel's style: left out, its checkpatch.pl comes with \
            `cargo xtask guest build-pkvm`";
        anstream::println!("  {} {why}", paint(BAD, "–"));
    }
    for (name, mut command) in commands(workspace).into_iter().chain(style) {
        let step = Step::new("Checking");
        step.note(name);
        match run_quietly(&step, &mut command) {
            Ok(_) => step.done(&format!("{} {name}", paint(GOOD, "✓"))),
            Err(error) => {
                step.done(&format!("{} {name}", paint(BAD, "✗")));
                anstream::eprintln!("{error:#}\n");
                held = false;
            }
        }
    }
    anstream::println!("\n  {}", paint(HEAD, "the catalogue of attacks"));
    let catalogue = catalogue_holds(workspace)?;
    if catalogue {
        anstream::println!("    {} every row names what there is", paint(GOOD, "✓"));
    }
    held &= catalogue;
    let audit = audit::audit(&workspace.root)?;
    anstream::println!("\n  {}", paint(HEAD, "unsafe code, by package"));
    for line in audit.table() {
        anstream::println!("    {line}");
    }
    for problem in &audit.problems {
        anstream::println!("    {} {problem}", paint(BAD, "✗"));
    }
    held &= audit.problems.is_empty();
    anstream::println!();
    Ok(if held { Outcome::Pass } else { Outcome::Fail })
}

fn commands(workspace: &Workspace) -> Vec<(&'static str, Command)> {
    let new = |words: &[&str]| {
        let mut command = cargo();
        command.current_dir(&workspace.root).args(words);
        command
    };
    let mut bare = new(&["clippy", "--release", "--target", TARGET]);
    for package in BARE {
        bare.args(["--package", package]);
    }
    bare.args(["--", "-D", "warnings"]);
    let mut watched = new(&["clippy", "--release", "--target", TARGET, "--package", "el2-boot"]);
    watched.args(["--features", "oracle,trace", "--", "-D", "warnings"]);
    // With private items: the comments are written for readers of the code.
    let doc = ["doc", "--no-deps", "--document-private-items"];
    let mut documentation = new(&doc);
    let mut bare_documentation = new(&doc);
    bare_documentation.args(["--target", TARGET]);
    for package in BARE {
        bare_documentation.args(["--package", package]);
    }
    for command in [&mut documentation, &mut bare_documentation] {
        command.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links");
    }
    vec![
        ("formatting", new(&["fmt", "--all", "--check"])),
        ("lints, native", new(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])),
        ("lints, bare metal", bare),
        ("lints, bare metal, with oracle and trace", watched),
        ("documentation, native", documentation),
        ("documentation, bare metal", bare_documentation),
    ]
}
