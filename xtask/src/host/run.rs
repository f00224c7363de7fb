//! `cargo xtask run --host …`: from the options to a host, and from its end to
//! the exit status, as `--guest` has them.

use std::time::Duration;

use anyhow::{Context, Result};

use super::boot::Host;
use crate::build;
use crate::cli::RunOptions;
use crate::guest::boot::Ways;
use crate::guest::debian;
use crate::guest::initramfs::Task;
use crate::guest::options::Which;
use crate::guest::run::{
    LARGEST_INITRD, SCRIPT_LIMIT, base_words, image, judge, or_not_run, task, word,
};
use crate::workspace::Workspace;
use crate::{Outcome, files, setup};

/// The host's console: the machine's UART.
const CONSOLE: &str = "ttyAMA0";
/// What is said when it reboots.
const REBOOTS: &str = "the host reboots; that ends the run";

/// `cargo xtask run --host …`.
///
/// # Errors
/// After Ctrl-C. What could not be set up, built or booted is no error here
/// but status 125: a script's own statuses are small numbers.
pub fn run(workspace: &Workspace, options: &RunOptions) -> Result<Outcome> {
    or_not_run(attempt(workspace, options))
}

fn attempt(workspace: &Workspace, options: &RunOptions) -> Result<Outcome> {
    setup::run()?;
    crate::cpu::check(&options.cpu)?;
    let task = task(options.linux.script.as_deref())?;
    let host = prepare(workspace, options, &task)?;
    let memory = host.machine_memory(options.memory)?;
    let with_oracle = options.oracle.is_some();
    let images =
        if with_oracle { build::images_with_oracle(workspace)? } else { build::images(workspace)? };
    let config = options.config();
    let mut ways = Ways { machine: config.machine, gdb: config.gdb, verbose: options.verbose };
    ways.machine.memory = memory;
    if options.gdb {
        crate::run::print_gdb(&images);
    }
    let finished = host.boot(workspace, &images, &ways)?;
    // A person's shell ends with no status worth telling.
    let has_status = task != Task::Shell && host.word.is_some();
    Ok(judge(&finished, has_status, &finished.folder.join("console.log"), REBOOTS))
}

/// The host that the options describe.
fn prepare(workspace: &Workspace, options: &RunOptions, task: &Task) -> Result<Host> {
    let linux = &options.linux;
    let (kernel, initrd, word) = match options.host.host {
        Some(Which::Debian) | None => {
            let word = word();
            let files = options.host.extras()?;
            let made = debian::host(workspace, linux.newest, task, &word, &files)?;
            (made.kernel, Some(made.initrd), Some(word))
        }
        Some(Which::Linux) => {
            let kernel = linux.kernel.as_deref().context("--host linux needs --kernel FILE")?;
            let initrd = linux.initrd.as_deref();
            let initrd = initrd.map(|file| files::read(file, "ramdisk", LARGEST_INITRD));
            (image(kernel)?, initrd.transpose()?, None)
        }
    };
    let words = [Some(base_words(CONSOLE, task)), linux.append.clone()];
    let given = options.timeout.map(Duration::from_secs);
    Ok(Host {
        name: "host".to_owned(),
        kernel,
        initrd,
        command_line: words.into_iter().flatten().collect::<Vec<_>>().join(" "),
        word,
        keyboard: task.keyboard(),
        timeout: given.or(matches!(task, Task::Script(_)).then_some(SCRIPT_LIMIT)),
    })
}
