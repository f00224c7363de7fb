//! `cargo xtask run`.

use std::path::Path;

use anyhow::{Context, Result};

use crate::build::{self, Images, Variant};
use crate::cli::{GDB_PORT, RunOptions};
use crate::qemu::End;
use crate::story;
use crate::term::{BAD, paint};
use crate::view::{self, Live};
use crate::workspace::{Workspace, shown};
use crate::{Outcome, cpu, setup, trace};

/// Console lines shown when a boot failed.
pub const TAIL: usize = 30;

/// Sets up, builds, boots, shows and judges.
///
/// # Errors
/// When it could not be set up, built or booted at all.
pub fn run(workspace: &Workspace, options: &RunOptions) -> Result<Outcome> {
    setup::run()?;
    cpu::check(&options.cpu)?;
    let images = match (options.oracle.is_some(), &options.trace) {
        (true, Some(_)) => build::images_of(workspace, Variant::Traced)?,
        (true, None) => build::images_with_oracle(workspace)?,
        (false, _) => build::images(workspace)?,
    };
    let config = options.config();
    let machine = format!(
        "{} × {}, {} MiB, QEMU virt",
        config.machine.cpus, config.machine.cpu, config.machine.memory
    );
    if options.gdb {
        print_gdb(&images);
    }
    let mut live = Live::new(options.verbose, &machine);
    let run = story::tell(workspace, &images, &config, &mut |line| live.line(line))?;
    drop(live);
    view::summary(&run.report, &run.transcript);
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&run.report)? + "\n";
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if run.end == End::Interrupted {
        return Ok(Outcome::Interrupted);
    }
    let checked = match &options.trace {
        Some(file) => trace::check(workspace, file)?,
        None => Outcome::Pass,
    };
    if run.report.passed() {
        return Ok(checked);
    }
    if !options.verbose {
        anstream::eprintln!("\n  {}", paint(BAD, "the end of the console:"));
        for line in run.transcript.tail(TAIL) {
            anstream::eprintln!("    {line}");
        }
    }
    anstream::eprintln!("\n  console and disks are in {}", shown(&run.folder));
    Ok(Outcome::Fail)
}

/// Both images are linked at 0 and say nothing about where they lie.
pub(crate) fn print_gdb(images: &Images) {
    let symbols =
        |elf: &Path, at: u64| format!("-ex 'add-symbol-file {} -o {at:#x}'", elf.display());
    anstream::println!(
        "\n  The machine waits for a debugger. In another terminal:\n\n    gdb-multiarch {} {} -ex \
         'target remote 127.0.0.1:{GDB_PORT}'\n\n  then, for example, `hbreak \
         el2_boot::boot::boot_main` and `continue`. Ctrl-C here ends it.\n",
        symbols(&images.bouncer_elf, story::BOUNCER),
        symbols(&images.host_elf, story::HOST),
    );
}
