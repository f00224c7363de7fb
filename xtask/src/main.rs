//! `cargo xtask`: reads the command line and hands over to the library.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use xtask::cli::{Cli, Task};
use xtask::term::{BAD, paint};
use xtask::workspace::Workspace;
use xtask::{
    Outcome, Usage, attack, bench, build, check, coverage, dma, files, fuzz, guest, host, mutants,
    qemu, run, setup, status, test, trace,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Task::Run(options) = &cli.command
        && let Err(complaint) = options.check()
    {
        Cli::command().error(ErrorKind::ArgumentConflict, complaint).exit();
    }
    match act(&cli) {
        Ok(outcome) => ExitCode::from(outcome.code()),
        Err(_) if qemu::interrupted() => ExitCode::from(Outcome::Interrupted.code()),
        Err(error) => {
            anstream::eprintln!("{}: {error:#}", paint(BAD, "error"));
            ExitCode::from(if error.is::<Usage>() { status::WRONG_USAGE } else { status::TROUBLE })
        }
    }
}

/// Where the result shall go.
fn result_file(task: &Task) -> Option<&Path> {
    match task {
        Task::Run(options) => options.json.as_deref().or(options.trace.as_deref()),
        Task::Attack(options) => options.json.as_deref(),
        Task::Bench(options) => options.json.as_deref(),
        Task::Coverage(options) => options.json.as_deref(),
        Task::Dma(options) => options.json.as_deref(),
        Task::Fuzz(options) => options.json.as_deref(),
        Task::Mutants(options) => options.json.as_deref(),
        _ => None,
    }
}

fn act(cli: &Cli) -> Result<Outcome> {
    qemu::stop_on_ctrl_c()?;
    // Not after an hour's work.
    result_file(&cli.command).map_or(Ok(()), files::will_be_written)?;
    match &cli.command {
        Task::Setup => setup::run_with_fuzzers()?,
        Task::Guest(task) => return guest::task(&Workspace::find()?, task),
        Task::Run(options) if options.host.host.is_some() => {
            return host::run::run(&Workspace::find()?, options);
        }
        Task::Run(options) if options.linux.guest.is_some() => {
            return guest::run::run(&Workspace::find()?, options);
        }
        Task::Run(options) => return run::run(&Workspace::find()?, options),
        Task::Attack(options) => return attack::run(&Workspace::find()?, options),
        Task::Bench(options) => return bench::run(&Workspace::find()?, options),
        Task::Dma(options) => return dma::run(&Workspace::find()?, options),
        Task::Build => {
            setup::run()?;
            build::images(&Workspace::find()?)?;
        }
        Task::Coverage(options) => return coverage::run(&Workspace::find()?, options),
        Task::TraceCheck(options) => return trace::check(&Workspace::find()?, &options.file),
        Task::Fuzz(options) => return fuzz::run(&Workspace::find()?, options),
        Task::Check(options) if options.write => return check::write(&Workspace::find()?),
        Task::Check(_) => {
            setup::run()?;
            return check::run(&Workspace::find()?);
        }
        Task::Mutants(options) => return mutants::run(&Workspace::find()?, options),
        Task::Test(options) => {
            setup::run()?;
            return test::run(&Workspace::find()?, options);
        }
    }
    Ok(Outcome::Pass)
}
