//! Transmitter of a PL011 UART (Arm DDI 0183). The line's speed and format
//! are as the firmware has set them.
#![allow(unsafe_code)]

use core::fmt;

/// Data register.
const UARTDR: usize = 0x00;
/// Flag register.
const UARTFR: usize = 0x18;
/// Control register.
const UARTCR: usize = 0x30;
/// UARTCR: UART and transmitter enabled.
const UARTEN_TXE: u32 = 1 << 0 | 1 << 8;
/// UARTFR: transmit FIFO full.
const TXFF: u32 = 1 << 5;
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

    /// Switches the transmitter on, if the firmware has not.
    pub fn enable(&self) {
        let control = (self.base + UARTCR) as *mut u32;
        // SAFETY: `new`'s caller promised a PL011 at `base`; enabling its
        // transmitter touches no memory.
        unsafe { control.write_volatile(control.read_volatile() | UARTEN_TXE) }
    }

    /// Sends one byte, or drops it if the FIFO stays full.
    pub fn put(&self, byte: u8) {
        let mut patience = PATIENCE;
        // SAFETY: `new`'s caller promised a PL011 at `base`; both registers
        // are 32-bit aligned and reading UARTFR has no side effect.
        unsafe {
            while ((self.base + UARTFR) as *const u32).read_volatile() & TXFF != 0 {
                patience -= 1;
                if patience == 0 {
                    return;
                }
                core::hint::spin_loop();
            }
            ((self.base + UARTDR) as *mut u32).write_volatile(u32::from(byte));
        }
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
