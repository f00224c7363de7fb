//! One QEMU: its command line, its console, its monitor, and its end.
//!
//! QEMU's stdin and stdout are the QMP monitor and its stderr carries the
//! machine's serial line together with QEMU's own complaints. So there is no
//! socket to clean up, and whatever went wrong is in the console's tail.

use std::io::{BufRead, BufReader, PipeReader, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::console::{printable, tells_of_panic};
use crate::files;
use crate::term::Step;

/// The emulator.
pub const PROGRAM: &str = "qemu-system-aarch64";
/// Longest console line kept; a guest that never ends a line gets cut here.
const LONGEST_LINE: usize = 4096;
/// How long QEMU may take to answer its monitor or to quit.
const MONITOR_PATIENCE: Duration = Duration::from_secs(30);

/// How long a machine may go on after a panic, to say all about it.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Bytes of memory that QEMU writes to a file at a time.
const PIECE: u64 = 128 << 20;

/// What is not heard after so long was not said.
const SILENCE: Duration = Duration::from_millis(300);

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

/// The machine to emulate.
#[derive(Debug, Clone)]
pub struct Machine {
    /// CPU model.
    pub cpu: String,
    /// Number of CPUs.
    pub cpus: u32,
    /// MiB of RAM.
    pub memory: u64,
    /// Whether the CPUs have EL2.
    pub virtualization: bool,
    /// GIC version.
    pub gic: u32,
    /// Time is the number of instructions executed: runs repeat exactly, and
    /// nothing the emulator's machine does changes them. One CPU only.
    pub icount: bool,
    /// A reset, too, is an end at which the machine's memory may be looked at.
    pub look_after_reset: bool,
    /// The command line of what is booted: bouncer's own.
    pub command_line: String,
    /// Firmware that runs first and finds for itself what to boot: the kernel
    /// and its command line are not given then.
    pub firmware: Option<PathBuf>,
    /// Further arguments for QEMU.
    pub extra: Vec<String>,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            cpu: crate::cpu::DEFAULT.into(),
            cpus: 2,
            memory: 1024,
            virtualization: true,
            gic: 3,
            icount: false,
            look_after_reset: false,
            command_line: String::new(),
            firmware: None,
            extra: Vec::new(),
        }
    }
}

/// A module placed in RAM for bouncer (QEMU's guest-loader).
#[derive(Debug, Clone)]
pub struct Module {
    /// The file.
    pub path: PathBuf,
    /// Where it lies, physical.
    pub address: u64,
    /// The host's command line makes it a kernel; none makes it the ramdisk.
    pub bootargs: Option<String>,
}

/// What to boot and how.
#[derive(Debug, Clone)]
pub struct Boot {
    /// The machine.
    pub machine: Machine,
    /// Flat Image that is entered first.
    pub kernel: PathBuf,
    /// Host kernel and ramdisk.
    pub modules: Vec<Module>,
    /// Files put into RAM as they are: (file, physical address).
    pub blobs: Vec<(PathBuf, u64)>,
    /// Wait for a debugger on this local port.
    pub gdb: Option<u16>,
    /// Wall-clock limit; none waits for ever.
    pub timeout: Option<Duration>,
}

impl Boot {
    /// QEMU's arguments.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let machine = &self.machine;
        let on_off = if machine.virtualization { "on" } else { "off" };
        let mut arguments: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(|&word| word.to_owned()));
        add(&["-nodefaults", "-no-user-config", "-display", "none", "-nic", "none"]);
        add(&["-M", &format!("virt,virtualization={on_off},gic-version={}", machine.gic)]);
        add(&["-cpu", &machine.cpu, "-smp", &machine.cpus.to_string()]);
        if machine.icount {
            add(&["-icount", "shift=0,sleep=off"]);
            // The seeds in the device tree, too, are the same every time.
            add(&["-seed", "1"]);
        }
        add(&["-m", &format!("{}M", machine.memory)]);
        // Memory that is not touched costs nothing: a machine may be larger
        // than what is free here.
        add(&[
            "-object",
            &format!("memory-backend-ram,id=ram,size={}M,reserve=off", machine.memory),
        ]);
        add(&["-machine", "memory-backend=ram"]);
        match &machine.firmware {
            Some(firmware) => add(&["-bios", &firmware.display().to_string()]),
            None => {
                add(&["-kernel", &escaped(&self.kernel.display().to_string())]);
                if !machine.command_line.is_empty() {
                    add(&["-append", &machine.command_line]);
                }
            }
        }
        for module in &self.modules {
            let path = escaped(&module.path.display().to_string());
            let address = module.address;
            let device = match &module.bootargs {
                Some(bootargs) => {
                    let bootargs = escaped(bootargs);
                    format!("guest-loader,addr={address:#x},kernel={path},bootargs={bootargs}")
                }
                None => format!("guest-loader,addr={address:#x},initrd={path}"),
            };
            add(&["-device", &device]);
        }
        for (path, address) in &self.blobs {
            let path = escaped(&path.display().to_string());
            add(&["-device", &format!("loader,addr={address:#x},file={path},force-raw=on")]);
        }
        add(&["-serial", "chardev:console"]);
        add(&["-chardev", "stdio,id=monitor,signal=off"]);
        add(&["-mon", "chardev=monitor,mode=control"]);
        // Stopped at first: a machine that ended before the monitor was ready
        // would end unseen.
        add(&["-S", "-no-reboot", "-no-shutdown"]);
        if let Some(port) = self.gdb {
            add(&["-gdb", &format!("tcp:127.0.0.1:{port}")]);
        }
        arguments.extend(machine.extra.iter().cloned());
        arguments
    }

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

/// QEMU splits option values at commas; a doubled one is a comma.
pub(crate) fn escaped(value: &str) -> String {
    value.replace(',', ",,")
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

enum Message {
    /// From the console: a line without its end, or bytes as they came.
    Said(Vec<u8>),
    Monitor(Value),
    ConsoleClosed,
    MonitorClosed,
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
        let mut console = "file,id=console,path=/dev/stderr".to_owned();
        if let Some(input) = &input {
            // QEMU inherits it. So may another program that starts at this
            // moment, which then holds the end of a pipe and no more.
            rustix::io::fcntl_setfd(input, rustix::io::FdFlags::empty())?;
            console += &format!(",input-path=/dev/fd/{}", input.as_raw_fd());
        }
        let mut child = command()
            .args(["-chardev", &console])
            .args(boot.arguments())
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

/// The console for a person who types: nothing waits for the end of a line.
fn read_bytes(from: &mut dyn BufRead, to: &Sender<Message>) {
    while let Ok(chunk) = from.fill_buf() {
        let chunk = chunk.to_vec();
        if chunk.is_empty() {
            break;
        }
        from.consume(chunk.len());
        drop(to.send(Message::Said(chunk)));
    }
    drop(to.send(Message::ConsoleClosed));
}

fn read_lines(from: &mut dyn BufRead, to: &Sender<Message>) {
    let mut line = Vec::new();
    loop {
        let chunk = match from.fill_buf() {
            Ok([]) | Err(_) => break,
            Ok(chunk) => chunk,
        };
        let used = chunk.len();
        for &byte in chunk {
            if byte != b'\n' {
                line.push(byte);
            }
            if byte == b'\n' || line.len() == LONGEST_LINE {
                // Nobody listens any more: read on, or QEMU would block.
                drop(to.send(Message::Said(std::mem::take(&mut line))));
            }
        }
        from.consume(used);
    }
    if !line.is_empty() {
        drop(to.send(Message::Said(line)));
    }
    drop(to.send(Message::ConsoleClosed));
}

fn read_monitor(from: impl BufRead, to: &Sender<Message>) {
    for line in from.lines().map_while(Result::ok) {
        if let Ok(message) = serde_json::from_str(&line) {
            drop(to.send(Message::Monitor(message)));
        }
    }
    drop(to.send(Message::MonitorClosed));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot() -> Boot {
        Boot {
            machine: Machine::default(),
            kernel: "bouncer.img".into(),
            modules: Vec::new(),
            blobs: Vec::new(),
            gdb: None,
            timeout: None,
        }
    }

    #[test]
    fn commas_in_boot_arguments_reach_the_host_as_commas() {
        let module = Module {
            path: "a,b.img".into(),
            address: 0x4400_0000,
            bootargs: Some("attacks=C1,C2 note=x".into()),
        };
        let arguments = Boot { modules: vec![module], ..boot() }.arguments();
        let wanted = "guest-loader,addr=0x44000000,kernel=a,,b.img,bootargs=attacks=C1,,C2 note=x";
        assert!(arguments.iter().any(|argument| argument == wanted), "{arguments:?}");
    }

    #[test]
    fn no_network_card_and_no_reboot_and_el2() {
        let arguments = boot().arguments().join(" ");
        for wanted in ["-nic none", "-no-reboot", "virt,virtualization=on,gic-version=3"] {
            assert!(arguments.contains(wanted), "{arguments}");
        }
    }

    #[test]
    fn a_shutdown_event_tells_off_from_reset_and_crash() {
        let shutdown = |reason: &str| json!({ "event": "SHUTDOWN", "data": { "reason": reason } });
        assert_eq!(event(&shutdown("x")), Some("SHUTDOWN"));
        assert_eq!(reason_of(&shutdown("guest-shutdown")), End::PoweredOff);
        assert_eq!(reason_of(&shutdown("guest-reset")), End::Reset);
        assert_eq!(reason_of(&shutdown("guest-panic")), End::Died);
        assert_eq!(reason_of(&json!({ "event": "SHUTDOWN" })), End::Died);
    }

    #[test]
    fn somebody_at_the_console_gets_the_bytes_as_they_come() {
        let (sender, receiver) = channel();
        read_bytes(&mut b"no line\x1b[0m".as_slice(), &sender);
        drop(sender);
        let bytes: Vec<u8> = receiver
            .iter()
            .flat_map(|message| match message {
                Message::Said(bytes) => bytes,
                _ => Vec::new(),
            })
            .collect();
        assert_eq!(bytes, b"no line\x1b[0m");
    }

    #[test]
    fn console_lines_are_split_cut_and_flushed_at_the_end() {
        let (sender, receiver) = channel();
        let mut bytes = b"one\r\ntwo\n".to_vec();
        bytes.extend(vec![b'x'; LONGEST_LINE + 1]);
        read_lines(&mut bytes.as_slice(), &sender);
        drop(sender);
        let lines: Vec<String> = receiver
            .iter()
            .filter_map(|message| match message {
                Message::Said(line) => Some(printable(&line)),
                _ => None,
            })
            .collect();
        assert_eq!(&lines[..2], ["one", "two"]);
        assert_eq!(lines[2].len(), LONGEST_LINE);
        assert_eq!(lines[3], "x");
    }
}
