//! As much of a debugger as it takes to change a running machine's memory: the
//! GDB remote serial protocol, spoken to QEMU.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// How long QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A port of this machine that nobody listens on.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A connection; the machine stands still as long as there is one.
#[derive(Debug)]
pub struct Debugger(TcpStream);

impl Debugger {
    /// Connects, which stops the machine.
    ///
    /// # Errors
    /// When QEMU does not listen.
    pub fn connect(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).context("QEMU does not listen for a debugger")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    /// Addresses are physical from now on.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn physical(&mut self) -> Result<()> {
        self.ask("Qqemu.PhyMemMode:1")
    }

    /// Writes memory.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.ask(&format!("M{address:x},{:x}:{hex}", bytes.len()))
    }

    /// Lets the machine go on.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn detach(mut self) -> Result<()> {
        self.ask("D")
    }

    /// Sends a packet that is answered with OK.
    fn ask(&mut self, packet: &str) -> Result<()> {
        let sum = packet.bytes().fold(0u8, u8::wrapping_add);
        self.0.write_all(format!("${packet}#{sum:02x}").as_bytes())?;
        loop {
            match self.packet()?.as_str() {
                "OK" => return Ok(()),
                // Why the machine stands still.
                stopped if stopped.starts_with('T') || stopped.starts_with('S') => {}
                other => bail!("QEMU answers {other:?} to the debugger's {packet}"),
            }
        }
    }

    /// The next packet, which is acknowledged.
    fn packet(&mut self) -> Result<String> {
        let mut text = String::new();
        let mut inside = false;
        loop {
            let mut byte = [0];
            self.0.read_exact(&mut byte).context("QEMU does not answer the debugger")?;
            match char::from(byte[0]) {
                '$' => inside = true,
                '#' => break,
                other if inside => text.push(other),
                _ => {}
            }
        }
        self.0.read_exact(&mut [0; 2])?;
        self.0.write_all(b"+")?;
        Ok(text)
    }
}
