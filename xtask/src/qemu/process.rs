//! A running QEMU: its monitor, its end, and a look into its memory.

use std::io::{BufReader, PipeReader, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use super::machine::around_smmu;
use super::pipes::{Message, read_bytes, read_lines, read_monitor};
use super::{Boot, PROGRAM, interrupted};
use crate::console::{printable, tells_of_panic};
use crate::files;
use crate::term::Step;

/// How long QEMU may take to answer its monitor or to quit.
const MONITOR_PATIENCE: Duration = Duration::from_secs(30);

/// How long a machine may go on after a panic, to say all about it.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Bytes of memory that QEMU writes to a file at a time.
const PIECE: u64 = 128 << 20;

/// What is not heard after so long was not said.
const SILENCE: Duration = Duration::from_millis(300);

impl Boot {
    /// Boots and runs to the end. Each console line goes to `line`; while the
    /// stopped machine still holds its memory, `after` may look into it.
    ///
    /// # Errors
    /// When QEMU cannot be started or `after` fails. A machine that ends
    /// badly is no error here: see [`Ended`].
    pub fn run(
        &self,
        mut line: impl FnMut(&str),
        after: impl FnOnce(&mut Qemu) -> Result<()>,
    ) -> Result<Ended> {
        self.attend(None, after, &mut |bytes| {
            let text = printable(bytes);
            line(&text);
            tells_of_panic(&text)
        })
    }

    /// The same with somebody at the console: what comes out of `input` is
    /// typed there, and `output` gets the machine's bytes as they come. It
    /// answers whether they were a panic's, after which there is not much
    /// more to hear.
    ///
    /// # Errors
    /// As [`Boot::run`].
    pub fn run_attached(
        &self,
        input: PipeReader,
        mut output: impl FnMut(&[u8]) -> bool,
        after: impl FnOnce(&mut Qemu) -> Result<()>,
    ) -> Result<Ended> {
        self.attend(Some(input), after, &mut output)
    }

    fn attend(
        &self,
        input: Option<PipeReader>,
        after: impl FnOnce(&mut Qemu) -> Result<()>,
        heard: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<Ended> {
        let attached = input.is_some();
        let mut qemu = Qemu::start(self, input)?;
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        let end = qemu.until_stopped(deadline, heard)?;
        if attached {
            qemu.hear_out(heard);
        }
        if end == End::PoweredOff || end == End::Reset && self.machine.look_after_reset {
            after(&mut qemu)?;
        }
        let status = qemu.quit()?;
        for rest in qemu.remaining() {
            heard(&rest);
        }
        Ok(Ended { end, status })
    }
}

/// How a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It turned itself off.
    PoweredOff,
    /// It asked for a reset.
    Reset,
    /// The wall-clock limit passed.
    TimedOut,
    /// Ctrl-C.
    Interrupted,
    /// QEMU ended or the machine crashed.
    Died,
}

impl End {
    /// The end as a sentence's predicate: "the machine …".
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::PoweredOff => "turned itself off",
            Self::Reset => "reset itself instead of turning itself off",
            Self::TimedOut => "did not come to an end in time",
            Self::Interrupted => "was stopped by Ctrl-C",
            Self::Died => "died: QEMU ended by itself",
        }
    }
}

/// A finished run.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub end: End,
    /// QEMU's exit status.
    pub status: ExitStatus,
}

/// A running QEMU. Dropping it kills it.
#[derive(Debug)]
pub struct Qemu {
    child: Child,
    monitor: ChildStdin,
    messages: Receiver<Message>,
    readers: Vec<JoinHandle<()>>,
    waiting: Vec<Vec<u8>>,
}

impl Qemu {
    fn start(boot: &Boot, input: Option<PipeReader>) -> Result<Self> {
        let arguments = boot.arguments();
        if let (true, Some(around)) = (boot.machine.smmu, around_smmu(&arguments)) {
            bail!(
                "{around} would do DMA around the SMMU: give it iommu_platform=on,disable-legacy=on"
            );
        }
        let mut console = "file,id=console,path=/dev/stderr".to_owned();
        if let Some(input) = &input {
            // QEMU inherits it. So may another program that starts at this
            // moment, which then holds the end of a pipe and no more.
            rustix::io::fcntl_setfd(input, rustix::io::FdFlags::empty())?;
            console += &format!(",input-path=/dev/fd/{}", input.as_raw_fd());
        }
        let mut child = command()
            .args(["-chardev", &console])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| {
                format!("cannot start {PROGRAM}: run `cargo xtask setup` to install it")
            })?;
        let monitor = child.stdin.take().context("no monitor")?;
        let stdout = child.stdout.take().context("no monitor")?;
        let stderr = child.stderr.take().context("no console")?;
        let (sender, messages) = channel();
        let console_sender = sender.clone();
        let read = if input.is_some() { read_bytes } else { read_lines };
        let readers = vec![
            std::thread::spawn(move || read(&mut BufReader::new(stderr), &console_sender)),
            std::thread::spawn(move || read_monitor(BufReader::new(stdout), &sender)),
        ];
        let mut qemu = Self { child, monitor, messages, readers, waiting: Vec::new() };
        qemu.send(&json!({ "execute": "qmp_capabilities" }));
        if boot.gdb.is_none() {
            qemu.send(&json!({ "execute": "cont" }));
        }
        Ok(qemu)
    }

    fn until_stopped(
        &mut self,
        mut deadline: Option<Instant>,
        heard: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<End> {
        loop {
            if interrupted() {
                return Ok(End::Interrupted);
            }
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                return Ok(End::TimedOut);
            }
            match self.messages.recv_timeout(Duration::from_millis(100)) {
                Ok(Message::Said(bytes)) => {
                    if heard(&bytes) {
                        let soon = Instant::now() + LAST_WORDS;
                        deadline = Some(deadline.map_or(soon, |deadline| deadline.min(soon)));
                    }
                }
                Ok(Message::Monitor(message)) => match event(&message) {
                    Some("SHUTDOWN") => return Ok(reason_of(&message)),
                    Some("GUEST_PANICKED") => return Ok(End::Died),
                    _ => {}
                },
                Ok(Message::ConsoleClosed | Message::MonitorClosed)
                | Err(RecvTimeoutError::Disconnected) => return Ok(End::Died),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// The monitor may tell of the end before all that was said has come
    /// through the console's pipe.
    fn hear_out(&mut self, heard: &mut dyn FnMut(&[u8]) -> bool) {
        loop {
            match self.messages.recv_timeout(SILENCE) {
                Ok(Message::Said(bytes)) => drop(heard(&bytes)),
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }

    /// Writes guest physical memory to a file; what is large, piece by piece, so
    /// that QEMU answers in time and Ctrl-C is heeded.
    ///
    /// # Errors
    /// When QEMU refuses or does not answer, or Ctrl-C was pressed.
    pub fn save_memory(&mut self, address: u64, size: u64, file: &Path) -> Result<()> {
        if size <= PIECE {
            return self.save_piece(address, size, file);
        }
        let mut part = file.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let step = Step::new("Saving");
        let mut whole = std::fs::File::create(file)?;
        let mut saved = 0;
        while saved < size {
            let piece = PIECE.min(size - saved);
            let kept = self.save_piece(address + saved, piece, &part).and_then(|()| {
                files::copy(std::fs::File::open(&part)?, &mut whole, piece, "machine's memory")
            });
            let _ = std::fs::remove_file(&part);
            saved += kept?;
            step.note(&format!("{} of {}", files::amount(saved), files::amount(size)));
        }
        Ok(())
    }

    fn save_piece(&mut self, address: u64, size: u64, file: &Path) -> Result<()> {
        let arguments = json!({ "val": address, "size": size, "filename": file });
        self.ask("pmemsave", &arguments).map(drop).map_err(|why| {
            let amount = files::amount(size);
            anyhow!(
                "QEMU cannot save {amount} of the machine's memory to {}: {why}",
                file.display()
            )
        })
    }

    /// The registers of every CPU, as QEMU writes them for a person.
    ///
    /// # Errors
    /// When QEMU refuses or does not answer.
    pub fn registers(&mut self) -> Result<String> {
        let arguments = json!({ "command-line": "info registers -a" });
        let answer = self.ask("human-monitor-command", &arguments)?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    /// What the monitor answers to a command.
    fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        self.send(&json!({ "execute": command, "arguments": arguments, "id": command }));
        let deadline = Instant::now() + MONITOR_PATIENCE;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            match self.messages.recv_timeout(left) {
                Ok(Message::Said(bytes)) => self.waiting.push(bytes),
                Ok(Message::Monitor(answer)) if answer.get("id") == Some(&json!(command)) => {
                    if let Some(error) = answer.get("error") {
                        let why = error.get("desc").and_then(Value::as_str).unwrap_or("no reason");
                        bail!("{why}");
                    }
                    return Ok(answer.get("return").cloned().unwrap_or_default());
                }
                Ok(Message::Monitor(_)) => {}
                Ok(_) | Err(_) => break,
            }
        }
        bail!("QEMU does not answer its monitor")
    }

    /// Asks QEMU to end, and ends it if it does not.
    fn quit(&mut self) -> Result<ExitStatus> {
        self.send(&json!({ "execute": "quit" }));
        let deadline = Instant::now() + MONITOR_PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.child.kill()?;
        Ok(self.child.wait()?)
    }

    /// What came while nobody listened; QEMU has ended.
    fn remaining(&mut self) -> Vec<Vec<u8>> {
        for reader in self.readers.drain(..) {
            // A reader that panicked has said so; its lines are lost.
            drop(reader.join());
        }
        let mut rest = std::mem::take(&mut self.waiting);
        while let Ok(message) = self.messages.try_recv() {
            if let Message::Said(bytes) = message {
                rest.push(bytes);
            }
        }
        rest
    }

    /// A QEMU that is gone shows as the end of its pipes, not here.
    fn send(&mut self, command: &Value) {
        drop(writeln!(self.monitor, "{command}").and_then(|()| self.monitor.flush()));
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Already gone is the usual case.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// QEMU dies with us even if we are killed: `setpriv`, where there is one,
/// arms the kernel's parent-death signal and becomes QEMU.
fn command() -> Command {
    let works = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if works && crate::setup::qemu_version().is_some() {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", PROGRAM]);
        return command;
    }
    Command::new(PROGRAM)
}

fn event(message: &Value) -> Option<&str> {
    message.get("event")?.as_str()
}

fn reason_of(shutdown: &Value) -> End {
    match shutdown.pointer("/data/reason").and_then(Value::as_str) {
        Some("guest-shutdown") => End::PoweredOff,
        Some("guest-reset") => End::Reset,
        _ => End::Died,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shutdown_event_tells_off_from_reset_and_crash() {
        let shutdown = |reason: &str| json!({ "event": "SHUTDOWN", "data": { "reason": reason } });
        assert_eq!(event(&shutdown("x")), Some("SHUTDOWN"));
        assert_eq!(reason_of(&shutdown("guest-shutdown")), End::PoweredOff);
        assert_eq!(reason_of(&shutdown("guest-reset")), End::Reset);
        assert_eq!(reason_of(&shutdown("guest-panic")), End::Died);
        assert_eq!(reason_of(&json!({ "event": "SHUTDOWN" })), End::Died);
    }
}
