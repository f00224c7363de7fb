//! One machine with the user at a Linux's console, from its start to its end.

use std::fs::File;
use std::path::Path;
use std::rc::Rc;

use anyhow::Result;

use super::output::{Marks, Sorter};
use super::screen::{Keyboard, Screen};
use super::siege::Told;
use crate::qemu::{Boot, End, Ended, Qemu, interrupt};
use crate::runs::RunFolder;

/// Where the user sits.
#[derive(Debug, Clone)]
pub struct Seat {
    /// What Linux's own output lies between.
    pub marks: Marks,
    /// Where what is typed comes from.
    pub keyboard: Keyboard,
    /// Whether a reset that the payload's host tells of is the end.
    pub reset_is_end: bool,
    /// Show every line of the console.
    pub verbose: bool,
}

/// How it ended.
#[derive(Debug)]
pub struct Finished {
    /// How the machine ended.
    pub end: End,
    /// The status it told.
    pub status: Option<u8>,
    /// Whether it had said that it reboots.
    pub reboots: bool,
    /// What the host told of its attempts.
    pub told: Told,
    /// The console's last lines.
    pub tail: Vec<String>,
    /// Where the console's log is.
    pub folder: RunFolder,
}

/// Boots and runs to the end, with the user at the console. `after` may look
/// into the memory of a machine that has turned itself off; it gets the place
/// (address, size) that the console told of a disk.
///
/// # Errors
/// When QEMU cannot be started, nobody takes the output, or `after` fails.
pub fn attend(
    boot: &Boot,
    seat: &Seat,
    folder: RunFolder,
    after: impl FnOnce(&mut Qemu, Option<(u64, u64)>, &Path) -> Result<()>,
) -> Result<Finished> {
    let log = File::create(folder.join("console.log"))?;
    let (input, keys) = std::io::pipe()?;
    let mut screen = Screen::new(Sorter::new(seat.marks.clone()), seat.keyboard, keys, log);
    if seat.verbose {
        screen.show_lines();
    }
    screen.reset_is_end = seat.reset_is_end;
    let place = Rc::clone(&screen.disk);
    let mut failed = None;
    let ended = boot.run_attached(
        input,
        |bytes| {
            screen.take(bytes).unwrap_or_else(|error| {
                // Nobody can see it any more: no use to go on.
                failed.get_or_insert(error);
                interrupt();
                false
            })
        },
        |qemu| after(qemu, place.get(), &folder),
    );
    screen.finish()?;
    match failed {
        Some(error) => Err(error),
        None => Ok(finished(&ended?, &screen, folder)),
    }
}

fn finished(ended: &Ended, screen: &Screen, folder: RunFolder) -> Finished {
    let end = if screen.reset && screen.reset_is_end { End::Reset } else { ended.end };
    let tail = screen.tail().map(str::to_owned).collect();
    let reboots = screen.reboots;
    Finished { end, status: screen.status, reboots, told: screen.told.clone(), tail, folder }
}
