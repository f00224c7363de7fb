//! `cargo xtask run --guest …`: from the options to a guest, and from its end
//! to the exit status.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use super::attend::Finished;
use super::boot::{Guest, Ways};
use super::debian;
use super::disk::Disk;
use super::initramfs::Task;
use super::memory;
use super::options::{Abi, Attack, Console, GuestOptions, Which};
use super::screen::Keyboard;
use super::siege::Marker;
use super::terminal;
use crate::build::{self, Images};
use crate::cli::RunOptions;
use crate::qemu::End;
use crate::status::{NOT_HELD, NOT_RUN, TIMED_OUT};
use crate::term::{BAD, paint};
use crate::workspace::{Workspace, shown};
use crate::{Outcome, cpio, files, setup};

/// Most bytes of a kernel.
const LARGEST_KERNEL: u64 = 1 << 30;
/// Most bytes of a ramdisk.
pub const LARGEST_INITRD: u64 = cpio::LARGEST;
/// Most bytes of a script.
const LARGEST_SCRIPT: u64 = 16 << 20;
/// How long a script may take if nothing else is said.
pub const SCRIPT_LIMIT: Duration = Duration::from_secs(600);
/// What is said of a guest that reboots on QEMU alone.
const NO_REBOOT: &str = "the guest wants to reboot; with --no-bouncer that ends the run";

/// `cargo xtask run --guest …`.
///
/// # Errors
/// After Ctrl-C. What could not be set up, built or booted is no error here
/// but status 125: a script's own statuses are small numbers.
pub fn run(workspace: &Workspace, options: &RunOptions) -> Result<Outcome> {
    or_not_run(attempt(workspace, options))
}

/// What a run that does not come about ends with: said, and status 125, unless
/// Ctrl-C was why.
///
/// # Errors
/// After Ctrl-C.
pub fn or_not_run(outcome: Result<Outcome>) -> Result<Outcome> {
    match outcome {
        Err(error) if !crate::qemu::interrupted() => {
            anstream::eprintln!("{}: {error:#}", paint(BAD, "error"));
            Ok(Outcome::Status(NOT_RUN))
        }
        other => other,
    }
}

fn attempt(workspace: &Workspace, options: &RunOptions) -> Result<Outcome> {
    setup::run()?;
    crate::cpu::check(&options.cpu)?;
    let guest = prepare(workspace, options)?;
    let has_status = guest.keyboard != Keyboard::Keys && guest.word.is_some();
    let ways = Ways { machine: options.config().machine, gdb: None, verbose: options.verbose };
    let finished = if options.linux.no_bouncer {
        guest.boot_plainly(workspace, &ways)?
    } else {
        let images = images(workspace, options.oracle.is_some())?;
        let memory = guest.machine_memory(options.memory)?;
        let mut ways = Ways { gdb: options.config().gdb, ..ways };
        ways.machine.memory = memory;
        if options.gdb {
            crate::run::print_gdb(&images);
        }
        guest.boot(workspace, &images, &ways)?
    };
    let log = finished.folder.join("console.log");
    let outcome = judge(&finished, has_status, &log, NO_REBOOT);
    let ended = finished.end == End::PoweredOff && (finished.status.is_some() || !has_status);
    let has_host = !options.linux.no_bouncer;
    if ended && has_host && options.linux.attack.is_none() && !finished.told.held() {
        anstream::eprintln!("\n  {}", paint(BAD, "the host did not end well:"));
        finished.tail.iter().for_each(|line| anstream::eprintln!("    {line}"));
        return Ok(Outcome::Status(NOT_HELD));
    }
    let searched = guest.attack.flatten().is_some();
    Ok(match options.linux.attack {
        Some(attack) if finished.end == End::PoweredOff => {
            let held = finished.told.print(searched, attack == Attack::Shown);
            if held { outcome } else { Outcome::Status(NOT_HELD) }
        }
        _ => outcome,
    })
}

fn images(workspace: &Workspace, oracle: bool) -> Result<Images> {
    if oracle { build::images_with_oracle(workspace) } else { build::images(workspace) }
}

/// The guest that the options describe.
fn prepare(workspace: &Workspace, options: &RunOptions) -> Result<Guest> {
    let linux = &options.linux;
    let abi = linux.abi.unwrap_or(Abi::Rsi);
    let console = linux.console.unwrap_or(Console::Pl011);
    let policy = linux.policy();
    let task = task(linux.script.as_deref())?;
    let keyboard = task.keyboard();
    let given = options.timeout.map(Duration::from_secs);
    let timeout = given.or(matches!(task, Task::Script(_)).then_some(SCRIPT_LIMIT));
    // A kernel of the user's makes no marker.
    let is_ours = linux.guest == Some(Which::Debian);
    let attack = linux.attack.map(|_| is_ours.then(Marker::chance));
    let (kernel, initrd, word) = match linux.guest {
        Some(Which::Debian) | None => {
            let word = word();
            let digits = attack.flatten().map(|marker| marker.digits());
            let digits = digits.as_deref();
            let kind = debian::Kind {
                abi,
                newest: linux.newest,
                module: policy.brings_memory() && !linux.without_module,
            };
            let made = debian::make(workspace, &kind, &task, &word, digits)?;
            // One that is ended by the host tells no end of its output.
            let word = (!linux.kill_in_io).then_some(word);
            (made.kernel, Some(made.initrd), word)
        }
        Some(Which::Linux) => {
            let kernel = linux.kernel.as_deref().context("--guest linux needs --kernel FILE")?;
            let initrd = linux.initrd.as_deref();
            let initrd = initrd.map(|file| files::read(file, "ramdisk", LARGEST_INITRD));
            let initrd = initrd.transpose()?;
            let kernel = image(kernel)?;
            let size = initrd.as_ref().map_or(0, Vec::len) as u64;
            let words = linux.append.as_deref().unwrap_or_default();
            memory::check_own(abi, &kernel, size, linux.memory(), words)?;
            (kernel, initrd, None)
        }
    };
    Ok(Guest {
        name: "guest".to_owned(),
        kernel,
        initrd,
        command_line: command_line(console, linux, &task),
        abi,
        policy,
        console,
        vcpus: linux.vcpus.unwrap_or(2),
        memory: linux.memory(),
        lives: linux.lives.unwrap_or(1),
        kill_in_io: linux.kill_in_io,
        neighbours: linux.neighbours.unwrap_or(0),
        disk: options.disk.as_deref().map(Disk::open).transpose()?,
        word,
        keyboard,
        timeout,
        lies: linux.lie.clone(),
        attack,
    })
}

/// What the init shall do: run this script, or read commands from where the
/// user is.
///
/// # Errors
/// When the script cannot be read.
pub fn task(script: Option<&Path>) -> Result<Task> {
    if let Some(script) = script {
        return Ok(Task::Script(files::read_stream(script, "script", LARGEST_SCRIPT)?));
    }
    Ok(if terminal::is_interactive() { Task::Shell } else { Task::Lines })
}

/// Reads a kernel, or says why it is none.
///
/// # Errors
/// When it is none, too large, or cannot be read.
pub fn image(path: &Path) -> Result<Vec<u8>> {
    let kernel = files::read(path, "kernel", LARGEST_KERNEL)?;
    if kernel.get(56..60) == Some(b"ARM\x64") {
        return Ok(kernel);
    }
    let name = path.display();
    match kernel.get(..2) {
        Some([0x1f, 0x8b]) => bail!("{name} is compressed: unpack it with `gunzip`"),
        _ if kernel.get(4..8) == Some(b"zimg") => {
            bail!("{name} is an EFI program that unpacks itself; take the kernel's Image")
        }
        _ => bail!("{name} is no arm64 Image"),
    }
}

/// The guest kernel's command line.
fn command_line(console: Console, linux: &GuestOptions, task: &Task) -> String {
    let mut words = vec![base_words(console.device(), task)];
    if linux.guest == Some(Which::Debian) {
        words.extend(memory::words(linux.memory()).map(str::to_owned));
        words.extend(linux.policy_words().map(str::to_owned));
    }
    words.extend(linux.append.clone());
    words.join(" ")
}

/// What every kernel is told. One that panics resets, which ends the run; the
/// terminal's kind and size reach the init as its environment.
#[must_use]
pub fn base_words(console: &str, task: &Task) -> String {
    let mut words = vec![format!("console={console}"), "panic=-1".to_owned()];
    if *task == Task::Shell {
        let term = std::env::var("TERM").unwrap_or_default();
        if !term.is_empty() && term.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            words.push(format!("TERM={term}"));
        }
        if let Some((columns, rows)) = terminal::size() {
            words.push(format!("LINES={rows} COLUMNS={columns}"));
        }
    }
    words.join(" ")
}

/// A word that nobody can have printed before.
#[must_use]
pub fn word() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("guest-{:x}-{:x}", now.as_nanos(), std::process::id())
}

/// The run's outcome; tells why if it is not a good one. `reboots` is said of a
/// reboot that somebody wanted.
pub fn judge(finished: &Finished, has_status: bool, log: &Path, reboots: &str) -> Outcome {
    match (finished.end, finished.status) {
        (End::Interrupted, _) => return Outcome::Interrupted,
        (End::PoweredOff, Some(status)) if has_status => return Outcome::Status(status),
        (End::PoweredOff, _) if !has_status => return Outcome::Pass,
        // QEMU alone does not start it again.
        (End::Reset, _) if finished.reboots => {
            anstream::eprintln!("  {reboots}");
            return Outcome::Pass;
        }
        _ => {}
    }
    anstream::eprintln!("\n  {}", paint(BAD, "the end of the console:"));
    for line in &finished.tail {
        anstream::eprintln!("    {line}");
    }
    let why = match finished.end {
        End::PoweredOff => "turned itself off before the commands were finished",
        End::Reset => "reset itself, as a kernel that panics does",
        end => end.text(),
    };
    anstream::eprintln!("\n  the machine {why}; its console is in {}", shown(log));
    match finished.end {
        End::TimedOut => Outcome::Status(TIMED_OUT),
        _ => Outcome::Status(NOT_RUN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::siege::Told;
    use crate::runs::RunFolder;

    fn workspace() -> Workspace {
        let me = std::thread::current().name().unwrap_or_default().replace(':', "-");
        let target = std::env::temp_dir().join(format!("xtask-{me}-{}", std::process::id()));
        Workspace { root: target.clone(), target }
    }

    fn outcome(end: End, status: Option<u8>, has_status: bool) -> u8 {
        let finished = Finished {
            end,
            status,
            reboots: false,
            told: Told::default(),
            tail: Vec::new(),
            folder: RunFolder::new(&workspace(), "judged").unwrap(),
        };
        let code = judge(&finished, has_status, Path::new("x"), NO_REBOOT).code();
        std::fs::remove_dir_all(workspace().target).unwrap();
        code
    }

    #[test]
    fn a_scripts_status_is_the_runs() {
        for status in [0, 1, 2, 77, 126, 255] {
            assert_eq!(outcome(End::PoweredOff, Some(status), true), status);
        }
        assert_eq!(outcome(End::PoweredOff, None, true), NOT_RUN);
        assert_eq!(outcome(End::TimedOut, None, true), TIMED_OUT);
        assert_eq!(outcome(End::Reset, None, true), NOT_RUN);
        // It told a status, but then the machine went wrong.
        assert_eq!(outcome(End::Died, Some(0), true), NOT_RUN);
        assert_eq!(outcome(End::Interrupted, None, true), 130);
    }

    #[test]
    fn a_shell_that_was_left_has_passed_whatever_was_typed() {
        assert_eq!(outcome(End::PoweredOff, Some(127), false), 0);
        assert_eq!(outcome(End::PoweredOff, None, false), 0);
        assert_eq!(outcome(End::Reset, None, false), NOT_RUN);
        assert_eq!(outcome(End::TimedOut, None, false), TIMED_OUT);
        assert_eq!(outcome(End::Died, None, false), NOT_RUN);
    }

    #[test]
    fn what_is_no_kernel_is_refused_with_advice() {
        let path = std::env::temp_dir().join(format!("bouncer-image-{}", std::process::id()));
        let said = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            image(&path).map_err(|error| error.to_string())
        };
        let mut good = vec![0; 64];
        good[56..60].copy_from_slice(b"ARM\x64");
        assert!(said(&good).is_ok());
        assert!(said(&[0x1f, 0x8b, 8]).unwrap_err().contains("gunzip"));
        assert!(said(b"MZ\0\0zimg").unwrap_err().contains("Image"));
        assert!(said(b"").unwrap_err().contains("no arm64 Image"));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn words_differ_and_survive_a_shell() {
        let word = word();
        assert!(word.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'));
        assert_ne!(word, super::word());
    }
}
