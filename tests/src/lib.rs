//! End-to-end tests on the booted machine.
//!
//! `tests/promises.rs` boots the whole story once and looks for each promise
//! in it; `tests/boot_failures.rs` boots machines on which bouncer must
//! refuse to start; `tests/emulator.rs` tests the harness itself, so that a
//! green promise means something. Here is what they share.

pub mod debugger;
pub mod linux;

pub use xtask::tiny;

use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::Result;
use xtask::build::{self, Images};
use xtask::qemu::{Boot, Ended, Machine, Qemu};
use xtask::runs::RunFolder;
use xtask::setup;
use xtask::test::environment;
use xtask::transcript::Transcript;
use xtask::workspace::Workspace;

/// What every boot needs, made ready once per test binary.
///
/// # Errors
/// When something is missing that set-up cannot install, or does not build.
pub fn ready() -> Result<(Workspace, Images)> {
    static READY: OnceLock<Result<(Workspace, Images), String>> = OnceLock::new();
    let build = || {
        emulator()?;
        let workspace = Workspace::find()?;
        let images = build::images(&workspace)?;
        Ok((workspace, images))
    };
    let ready = READY.get_or_init(|| build().map_err(|error: anyhow::Error| format!("{error:#}")));
    ready.clone().map_err(anyhow::Error::msg)
}

/// The machine to test: the default one, or as the environment says
/// ([`environment`]).
///
/// # Errors
/// When a number there is none.
pub fn machine() -> Result<Machine> {
    let mut machine = Machine::default();
    let value = |name: &str| std::env::var(name).ok();
    if let Some(cpu) = value(environment::CPU) {
        machine.cpu = cpu;
    }
    if let Some(cpus) = value(environment::CPUS) {
        machine.cpus = cpus.parse()?;
    }
    if let Some(memory) = value(environment::MEMORY) {
        machine.memory = memory.parse()?;
    }
    Ok(machine)
}

/// Makes sure there is an emulator, once per test binary.
///
/// # Errors
/// When there is none and set-up cannot install it.
pub fn emulator() -> Result<()> {
    static READY: OnceLock<Result<(), String>> = OnceLock::new();
    let ready = READY.get_or_init(|| setup::run().map_err(|error| format!("{error:#}")));
    ready.clone().map_err(anyhow::Error::msg)
}

/// One QEMU at a time: two would only slow each other down into a time-out.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed while it was its turn does not spoil the others'.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A guest's boot is mostly the work of one of its CPUs, so a second guest
/// gets what the first leaves: two of them together take two thirds of the
/// time that they take one after the other.
pub fn two_at_a_time() -> Turn {
    let mut busy = BUSY.lock().unwrap_or_else(PoisonError::into_inner);
    while *busy == 2 {
        busy = DONE.wait(busy).unwrap_or_else(PoisonError::into_inner);
    }
    *busy += 1;
    Turn(())
}

static BUSY: Mutex<u32> = Mutex::new(0);
static DONE: Condvar = Condvar::new();

/// A turn of [`two_at_a_time`], which ends with it.
#[derive(Debug)]
pub struct Turn(());

impl Drop for Turn {
    fn drop(&mut self) {
        *BUSY.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        DONE.notify_one();
    }
}

/// Boots and listens to the end.
///
/// # Errors
/// When QEMU cannot be started, or `after` fails.
pub fn boot(
    boot: &Boot,
    after: impl FnOnce(&mut Qemu) -> Result<()>,
) -> Result<(Ended, Transcript)> {
    let _turn = one_at_a_time();
    let mut transcript = Transcript::default();
    let ended = boot.run(|line| transcript.push(line), after)?;
    Ok((ended, transcript))
}

/// A file under target/ for one test.
///
/// # Errors
/// When it cannot be written.
pub fn file(test: &str, name: &str, contents: &[u8]) -> Result<PathBuf> {
    let path = folder()?.join(format!("{test}-{name}"));
    std::fs::write(&path, contents)?;
    Ok(path)
}

/// The folder of this test binary's files: two may run in one tree.
fn folder() -> Result<&'static RunFolder> {
    static FOLDER: OnceLock<Result<RunFolder, String>> = OnceLock::new();
    let make = || RunFolder::new(&Workspace::find()?, "files-of-tests");
    let folder = FOLDER.get_or_init(|| make().map_err(|error: anyhow::Error| format!("{error:#}")));
    folder.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
}
