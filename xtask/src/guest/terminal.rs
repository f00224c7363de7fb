//! The user's side of a guest's console.
//!
//! At a terminal every key goes to the guest as it is pressed, Ctrl-C too;
//! only Ctrl-] is xtask's and leaves. Whatever ends xtask, the terminal is
//! as it was before: the end of [`Raw`], a panic, a signal.

use std::io::{IsTerminal, PipeWriter, Read, Write};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::qemu;

/// Ctrl-], which telnet made known for this.
const LEAVE: u8 = 0x1d;
/// Ctrl-D: a terminal's end of input.
const END_OF_INPUT: u8 = 0x04;

/// How soon that is typed again.
const AGAIN: Duration = Duration::from_millis(300);

/// How the terminal was, while it is otherwise.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Whether somebody sits at a terminal, with keys and a screen.
#[must_use]
pub fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Columns and rows of the terminal.
#[must_use]
pub fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(stdin()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// A terminal that passes on every key. Dropping it ends that.
#[derive(Debug)]
pub struct Raw(());

impl Raw {
    /// Makes the terminal so.
    ///
    /// # Errors
    /// When it is none.
    pub fn new() -> Result<Self> {
        watch_for_ends();
        let before = tcgetattr(stdin()).context("cannot read the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        // Kept first: from the change on, every end must find it.
        *lock() = Some(before);
        if let Err(error) = tcsetattr(stdin(), OptionalActions::Drain, &raw) {
            lock().take();
            return Err(error).context("cannot change the terminal's settings");
        }
        Ok(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

fn lock() -> std::sync::MutexGuard<'static, Option<Termios>> {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the terminal what it was. A terminal that is gone needs nothing.
fn restore() {
    if let Some(before) = lock().take() {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &before);
    }
}

/// Restores the terminal before a panic's message and before a deadly signal.
fn watch_for_ends() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            usual(panic);
        }));
        if let Ok(mut signals) = Signals::new([SIGTERM, SIGHUP, SIGQUIT]) {
            std::thread::spawn(move || {
                for signal in signals.forever() {
                    restore();
                    let _ = emulate_default_handler(signal);
                }
            });
        }
    });
}

/// Passes stdin on to the guest's console until it ends; in its own thread,
/// for reading blocks. It ends with the process.
pub fn pass_on(mut to: PipeWriter, interactive: bool) {
    std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        let mut from = std::io::stdin().lock();
        loop {
            let read = match from.read(&mut chunk) {
                Ok(length) => chunk.get(..length).unwrap_or_default(),
                Err(_) => &[],
            };
            if read.is_empty() {
                return stay_at_the_end(to);
            }
            let leaves = if interactive { leaving(read) } else { None };
            // A machine that has ended takes no more; its end is seen elsewhere.
            let _ = to.write_all(read.get(..leaves.unwrap_or(read.len())).unwrap_or_default());
            if leaves.is_some() {
                return qemu::interrupt();
            }
        }
    });
}

/// A file stays at its end, a terminal forgets it at once: the first reader
/// that meets it takes it away. So it is typed again and again, until the
/// machine that reads it has gone.
fn stay_at_the_end(mut to: PipeWriter) {
    while to.write_all(&[END_OF_INPUT]).is_ok() {
        std::thread::sleep(AGAIN);
    }
}

/// Where the user asks to leave.
fn leaving(typed: &[u8]) -> Option<usize> {
    typed.iter().position(|&byte| byte == LEAVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ctrl_bracket_leaves() {
        assert_eq!(leaving(b"ls\r\x03\x04\x1b[A"), None);
        assert_eq!(leaving(b"ls\x1d"), Some(2));
    }
}
