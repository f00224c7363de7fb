//! One QEMU: its command line, its console, its monitor, and its end.
//!
//! QEMU's stdin and stdout are the QMP monitor and its stderr carries the
//! machine's serial line together with QEMU's own complaints. So there is no
//! socket to clean up, and whatever went wrong is in the console's tail.

mod machine;
mod pipes;
mod process;

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

pub(crate) use machine::escaped;
pub use machine::{Boot, Machine, Module};
pub use process::{End, Ended, Qemu};

/// The emulator.
pub const PROGRAM: &str = "qemu-system-aarch64";

/// Set by Ctrl-C; every running machine is then stopped.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Lets Ctrl-C stop the machine instead of leaving QEMU behind. Call once.
///
/// # Errors
/// When the handler cannot be installed.
pub fn stop_on_ctrl_c() -> Result<()> {
    ctrlc::set_handler(|| {
        // A second Ctrl-C does not wait for anything.
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    })
    .context("cannot handle Ctrl-C")
}

/// Ends every running machine as Ctrl-C does: for a terminal that passes
/// Ctrl-C itself on to a guest.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

/// Whether Ctrl-C was pressed.
#[must_use]
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}
