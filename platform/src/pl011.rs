//! Transmitter of a PL011 UART (Arm DDI 0183). The line's speed and format
//! are as the firmware has set them.
#![allow(unsafe_code)]

use core::fmt;
use tock_registers::interfaces::{ReadWriteable, Readable, Writeable};
use tock_registers::registers::{ReadOnly, ReadWrite};
use tock_registers::{register_bitfields, register_structs};

register_bitfields! {
    u32,
    /// Flag register.
    FLAGS [
        /// Transmit FIFO full.
        TXFF OFFSET(5) NUMBITS(1) []
    ],
    /// Control register.
    CONTROL [
        /// UART enabled.
        UARTEN OFFSET(0) NUMBITS(1) [],
        /// Transmitter enabled.
        TXE OFFSET(8) NUMBITS(1) []
    ],
}

register_structs! {
    /// As far as a transmitter goes.
    Registers {
        /// UARTDR.
        (0x00 => data: ReadWrite<u32>),
        (0x04 => _unused0),
        /// UARTFR.
        (0x18 => flags: ReadOnly<u32, FLAGS::Register>),
        (0x1c => _unused1),
        /// UARTCR.
        (0x30 => control: ReadWrite<u32, CONTROL::Register>),
        (0x34 => @END),
    }
}

/// Polls of a full FIFO before a character is dropped: a UART that never
/// drains must not stop the machine.
const PATIENCE: u32 = 100_000;

/// The transmitter at one address.
#[derive(Clone, Copy, Debug)]
pub struct Pl011 {
    base: usize,
}

impl Pl011 {
    /// A transmitter whose registers are mapped at `base`.
    ///
    /// # Safety
    /// For the life of the value, `base` must be mapped as device memory and
    /// be a PL011's register page.
    pub const unsafe fn new(base: usize) -> Self {
        Self { base }
    }

    fn registers(&self) -> &Registers {
        // SAFETY: `new`'s caller promised a mapped PL011 at `base`; device
        // registers hold any value, and the fields are read and written with
        // single volatile accesses.
        unsafe { &*(self.base as *const Registers) }
    }

    /// Switches the transmitter on, if the firmware has not.
    pub fn enable(&self) {
        self.registers().control.modify(CONTROL::UARTEN::SET + CONTROL::TXE::SET);
    }

    /// Sends one byte, or drops it if the FIFO stays full.
    pub fn put(&self, byte: u8) {
        let registers = self.registers();
        let mut patience = PATIENCE;
        while registers.flags.is_set(FLAGS::TXFF) {
            patience -= 1;
            if patience == 0 {
                return;
            }
            core::hint::spin_loop();
        }
        registers.data.set(u32::from(byte));
    }
}

impl fmt::Write for Pl011 {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.put(b'\r');
            }
            self.put(byte);
        }
        Ok(())
    }
}
