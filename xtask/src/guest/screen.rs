//! What the user sees of a guest: its own output as it is, and around it, dim
//! and on a terminal only, the lines of bouncer, the host and the kernel.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{IsTerminal, PipeWriter, Write};
use std::rc::Rc;

use anyhow::{Context, Result};

use super::disk::place_in;
use super::output::{Piece, Sorter};
use super::siege::Told;
use super::terminal::{self, Raw};
use crate::console::{printable, tells_of_panic};
use crate::term::{DIM, paint};

/// Lines kept for the case that it ends badly.
const TAIL: usize = 30;
/// The host's line about a guest that resets.
const RESETS: &str = "linux: the guest resets";
/// A kernel's last words.
const PANICS: &str = "Kernel panic - not syncing";
/// Longest line looked at.
const LONGEST: usize = 4096;

/// Where the keys go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keyboard {
    /// A terminal: every key as it is pressed.
    Keys,
    /// Whatever stdin is, until it ends.
    Stdin,
    /// Nothing is passed on.
    None,
}

/// The user's side of one run.
#[derive(Debug)]
pub struct Screen {
    sorter: Sorter,
    keyboard: Keyboard,
    input: Option<PipeWriter>,
    raw: Option<Raw>,
    shows_lines: bool,
    log: File,
    /// The line that is coming, for the tail.
    line: Vec<u8>,
    tail: VecDeque<String>,
    /// Whether the guest's own output has begun.
    pub began: bool,
    /// The guest's status, once it has said it.
    pub status: Option<u8>,
    /// Where the host says the disk is: physical address, size. Shared with
    /// whoever saves it while this screen is still in use.
    pub disk: Rc<Cell<Option<(u64, u64)>>>,
    /// What the host has told of its attempts on the guest.
    pub told: Told,
    /// Whether the host has said that the guest resets.
    pub reset: bool,
    /// Whether that is the end: a kernel that panics would do so for ever.
    pub reset_is_end: bool,
    /// Whether the guest has said that it is about to reboot.
    pub reboots: bool,
    /// Whether its kernel has panicked.
    panicked: bool,
}

impl Screen {
    /// For a console that `sorter` understands; what is typed goes to `input`.
    #[must_use]
    pub fn new(sorter: Sorter, keyboard: Keyboard, input: PipeWriter, log: File) -> Self {
        Self {
            sorter,
            keyboard,
            input: Some(input),
            raw: None,
            shows_lines: std::io::stderr().is_terminal(),
            log,
            line: Vec::new(),
            tail: VecDeque::new(),
            began: false,
            status: None,
            disk: Rc::default(),
            told: Told::default(),
            reset: false,
            reset_is_end: false,
            reboots: false,
            panicked: false,
        }
    }

    /// Shows all lines, terminal or not.
    pub fn show_lines(&mut self) {
        self.shows_lines = true;
    }

    /// Takes what came on the console; whether it tells that there is not much
    /// more to come: a panic of bouncer's or the host's, a reset.
    ///
    /// # Errors
    /// When the terminal or stdout does not take it.
    pub fn take(&mut self, bytes: &[u8]) -> Result<bool> {
        self.log.write_all(bytes).context("cannot write the console's log")?;
        let panics = self.read_lines(bytes);
        for piece in self.sorter.push(bytes) {
            self.show(piece)?;
        }
        Ok(panics)
    }

    /// The console has ended.
    ///
    /// # Errors
    /// As [`Screen::take`].
    pub fn finish(&mut self) -> Result<()> {
        let rest = self.sorter.finish();
        rest.map_or(Ok(()), |piece| self.show(piece))?;
        self.raw = None;
        Ok(())
    }

    /// The last lines, whoever's they are.
    pub fn tail(&self) -> impl Iterator<Item = &str> {
        self.tail.iter().map(String::as_str)
    }

    fn show(&mut self, piece: Piece) -> Result<()> {
        match piece {
            Piece::Line(line) => {
                self.disk.set(place_in(&printable(&line)).or(self.disk.get()));
                self.told.take_end(&printable(&line));
                // What comes before the guest's own output is the guest's, too.
                if self.began {
                    self.told.take(&printable(&line));
                }
                // An empty one is the break before a mark.
                if self.shows_lines && !line.trim_ascii().is_empty() {
                    anstream::eprintln!("  {}", paint(DIM, printable(&line)));
                }
            }
            Piece::Begin => self.begin()?,
            Piece::Bytes(bytes) => {
                if !self.began {
                    self.begin()?;
                }
                let mut out = std::io::stdout().lock();
                out.write_all(&bytes)
                    .and_then(|()| out.flush())
                    .context("cannot write to stdout")?;
            }
            Piece::End(status) => {
                self.status = status.or(self.status);
                // Lines come again, and keys go nowhere.
                self.raw = None;
            }
            Piece::Reboots => {
                self.reboots = true;
                self.raw = None;
            }
        }
        Ok(())
    }

    /// The guest's console is the user's from here.
    fn begin(&mut self) -> Result<()> {
        self.began = true;
        if self.keyboard == Keyboard::Keys {
            self.raw = Some(Raw::new()?);
        }
        if let (true, Some(input)) = (self.keyboard != Keyboard::None, self.input.take()) {
            terminal::pass_on(input, self.keyboard == Keyboard::Keys);
        }
        Ok(())
    }

    /// Whether a reset is a reboot that somebody wants: the guest's init said
    /// so, or a person sits there and its kernel has not panicked.
    fn goes_on(&self) -> bool {
        self.reboots || self.keyboard == Keyboard::Keys && !self.panicked
    }

    /// Keeps the tail; whether one of the lines tells of bouncer's or the
    /// host's end. What a guest's program says of itself does not count.
    fn read_lines(&mut self, bytes: &[u8]) -> bool {
        let mut panics = false;
        for &byte in bytes {
            if byte != b'\n' && self.line.len() < LONGEST {
                self.line.push(byte);
                continue;
            }
            let line = printable(&std::mem::take(&mut self.line));
            panics |= if self.began {
                line.starts_with("@panic") || line.starts_with("bouncer: exception in EL2")
            } else {
                tells_of_panic(&line)
            };
            self.panicked |= line.contains(PANICS);
            if line == RESETS {
                self.reset |= !self.goes_on();
                self.reboots = false;
            }
            panics |= self.reset && self.reset_is_end;
            if self.tail.len() == TAIL {
                self.tail.pop_front();
            }
            self.tail.push_back(line);
        }
        panics
    }
}
