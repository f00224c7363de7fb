//! Linux as the protected guest, as the person sees it who runs it: what comes
//! out, with what status it ends, and how it is at a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use tests::linux::{left_out, said, script, xtask};
use tests::{file, two_at_a_time};

/// Longest a shell may take to answer.
const PATIENCE: Duration = Duration::from_secs(300);

/// What is printed arrives as it was printed, whatever it is, and only that.
#[test]
fn a_scripts_output_arrives_byte_by_byte() -> Result<()> {
    if left_out("a_scripts_output_arrives_byte_by_byte") {
        return Ok(());
    }
    let commands = "printf '\\0\\377\\r\\n\\033[1m@x status 3\\n'; echo error >&2; printf end";
    let output = script("linux-bytes", commands, &["--no-bouncer"])?;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(output.stdout, b"\0\xff\r\n\x1b[1m@x status 3\nerror\nend");
    Ok(())
}

#[test]
fn a_script_that_does_not_end_in_time_is_124() -> Result<()> {
    if left_out("a_script_that_does_not_end_in_time_is_124") {
        return Ok(());
    }
    let output = script("linux-time", "sleep 1000", &["--no-bouncer", "--timeout", "3"])?;
    assert_eq!(output.status.code(), Some(124), "{}", said(&output));
    ensure!(said(&output).contains("did not come to an end in time"), "{}", said(&output));
    Ok(())
}

/// No status was told, and the disk may be half written: the user's file
/// stays as it was.
#[test]
fn a_kernel_that_panics_is_125_and_the_disk_stays() -> Result<()> {
    if left_out("a_kernel_that_panics_is_125_and_the_disk_stays") {
        return Ok(());
    }
    let disk = file("linux-panic", "disk.img", &[1; 1 << 16])?;
    let path = disk.display().to_string();
    let commands = "echo half >/dev/vda; sync; echo c >/proc/sysrq-trigger; sleep 100";
    let output = script("linux-panic", commands, &["--disk", &path])?;
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    ensure!(said(&output).contains("reset itself"), "{}", said(&output));
    ensure!(std::fs::read(&disk)? == [1; 1 << 16], "the user's file has changed");
    Ok(())
}

/// Without a terminal there is no prompt and no echo, and the end of the
/// input is the guest's end.
#[test]
fn commands_on_stdin_are_run_until_they_end() -> Result<()> {
    if left_out("commands_on_stdin_are_run_until_they_end") {
        return Ok(());
    }
    let _turn = two_at_a_time();
    let words = ["run", "--guest", "debian", "--console", "hvc0", "--vcpus", "1"];
    let mut command = xtask(&words)?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    stdin.write_all(b"nproc; read word\nsome word\necho \"read: $word\"\nexit 3")?;
    drop(stdin);
    let output = child.wait_with_output()?;
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "1\nread: some word\n",
        "{}",
        said(&output)
    );
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    Ok(())
}

/// A person at a terminal, as far as a program can be one.
struct Person {
    child: Child,
    keys: File,
    screen: Receiver<Vec<u8>>,
    seen: Vec<u8>,
}

impl Person {
    /// Types and waits until `answer` is on the screen.
    fn types(&mut self, keys: &[u8], answer: &[u8]) -> Result<()> {
        self.keys.write_all(keys)?;
        self.sees(answer)
    }

    fn sees(&mut self, answer: &[u8]) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.seen.windows(answer.len()).position(|window| window == answer);
            if let Some(at) = found {
                self.seen.drain(..at + answer.len());
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(bytes) = self.screen.recv_timeout(left) else {
                let (answer, seen) = (String::from_utf8_lossy(answer), &self.seen);
                bail!("{answer:?} was not seen in {:?}", String::from_utf8_lossy(seen));
            };
            self.seen.extend(bytes);
        }
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        // A test that failed must not leave a guest behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sits down at a terminal where `cargo xtask` runs; gives its other side.
fn sit_down(words: &[&str]) -> Result<(Person, File)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?.into_string()?;
    let terminal = File::options().read(true).write(true).open(name)?;
    let mut command = xtask(words)?;
    command.stdin(terminal.try_clone()?).stdout(terminal.try_clone()?).env("TERM", "vt100");
    let child = command.stderr(Stdio::null()).spawn()?;
    let keys = File::from(master);
    let mut screen = keys.try_clone()?;
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(length) = screen.read(&mut chunk) {
            if length == 0 || sender.send(chunk[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    Ok((Person { child, keys, screen: receiver, seen: Vec::new() }, terminal))
}

#[test]
fn a_realm_boots_to_a_shell_with_job_control_reboots_and_powers_off() -> Result<()> {
    if left_out("a_realm_boots_to_a_shell_with_job_control_reboots_and_powers_off") {
        return Ok(());
    }
    let _turn = two_at_a_time();
    let (mut person, terminal) = sit_down(&["run", "--guest", "debian"])?;
    person.sees(b"a realm (RSI)")?;
    person.sees(b"guest:~# ")?;
    person.types(b"tty; echo $TERM\r", b"/dev/ttyAMA0\r\nvt100\r\n")?;
    // Ctrl-C ends what runs in the guest, not the guest.
    // (The shell itself, as long as it has not started a command, minds it not.)
    person.types(b"sh -c 'echo going; sleep 1000'\r", b"\ngoing\r\n")?;
    person.types(b"\x03", b"guest:~# ")?;
    // What a person types to be done with it does what it says: the shell has
    // these built in, and asks for an init that is not there.
    person.types(b"reboot\r", b"a realm (RSI)")?;
    person.sees(b"guest:~# ")?;
    ensure!(!tcgetattr(&terminal)?.local_modes.contains(LocalModes::ISIG), "Ctrl-C is ours");
    person.types(b"ls /run/end; echo $((40 + 2))\r", b"\r\n42\r\n")?;
    person.keys.write_all(b"poweroff\r")?;
    assert_eq!(person.child.wait()?.code(), Some(0));
    ensure!(tcgetattr(&terminal)?.local_modes.contains(LocalModes::ISIG), "the terminal is ours");
    Ok(())
}

#[test]
fn ctrl_bracket_leaves_a_guest_and_the_terminal_as_it_was() -> Result<()> {
    if left_out("ctrl_bracket_leaves_a_guest_and_the_terminal_as_it_was") {
        return Ok(());
    }
    let _turn = two_at_a_time();
    let (mut person, terminal) = sit_down(&["run", "--guest", "debian", "--no-bouncer"])?;
    let before = tcgetattr(&terminal)?;
    person.sees(b"guest:~# ")?;
    ensure!(!tcgetattr(&terminal)?.local_modes.contains(LocalModes::ISIG), "Ctrl-C is ours");
    person.keys.write_all(b"\x1d")?;
    assert_eq!(person.child.wait()?.code(), Some(130));
    let after = tcgetattr(&terminal)?;
    assert_eq!(after.local_modes, before.local_modes);
    assert_eq!(after.input_modes, before.input_modes);
    assert_eq!(after.output_modes, before.output_modes);
    Ok(())
}
