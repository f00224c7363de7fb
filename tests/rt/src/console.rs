//! PL011 console: whole lines, from any CPU.

#![allow(unsafe_code)]

use crate::lock::IrqLock;
use crate::mmio;
use core::fmt::{self, Write};

/// Data register (PrimeCell UART PL011, 3.3.1).
const DR: usize = 0x00;
/// Flag register; bit 7 says that the transmit FIFO is empty.
const FR: usize = 0x18;
const FR_TXFE: u32 = 1 << 7;
/// Depth of the smallest transmit FIFO a PL011 has.
const FIFO_DEPTH: usize = 16;
/// Longest wait for the FIFO, in reads; a dead console must not stop a payload.
const PATIENCE: u32 = 100_000;

struct Uart {
    base: usize,
    sent: usize,
}

static UART: IrqLock<Uart> = IrqLock::new(Uart { base: 0, sent: 0 });

/// Uses the PL011 at `base` (identity-mapped) from now on. Before this call,
/// and with `base` 0, what is printed is discarded.
pub fn init(base: usize) {
    *UART.lock() = Uart { base, sent: 0 };
}

impl Uart {
    /// The flag register is asked once per FIFO, not per byte: behind a
    /// hypervisor each access is an exit.
    fn put(&mut self, byte: u8) {
        if self.sent.is_multiple_of(FIFO_DEPTH) {
            for _ in 0..PATIENCE {
                // SAFETY: `init` was given a PL011's address.
                if unsafe { mmio::read32(self.base + FR) } & FR_TXFE != 0 {
                    break;
                }
            }
        }
        self.sent = self.sent.wrapping_add(1);
        // SAFETY: as above.
        unsafe { mmio::write32(self.base + DR, byte.into()) };
    }
}

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.base == 0 {
            return Ok(());
        }
        for byte in text.bytes() {
            if byte == b'\n' {
                self.put(b'\r');
            }
            self.put(byte);
        }
        Ok(())
    }
}

/// Writes formatted text; the console is locked throughout, so one call is
/// never interleaved with another CPU's. [`println!`](crate::println!) uses it.
pub fn print(arguments: fmt::Arguments) {
    let mut uart = UART.lock();
    // The FIFO may have drained or filled since: ask again.
    uart.sent = 0;
    // Uart never fails; a Display that does loses the rest of its line.
    let _ = uart.write_fmt(arguments);
}

/// Writes bytes as they are.
pub fn write_bytes(bytes: &[u8]) {
    let mut uart = UART.lock();
    if uart.base != 0 {
        uart.sent = 0;
        bytes.iter().for_each(|byte| uart.put(*byte));
    }
}

/// Has the PL011 interrupt while bytes that have arrived are not read, or
/// not. Its line must be enabled at the interrupt controller, too.
pub fn receive_interrupts(on: bool) {
    const LCR_H: usize = 0x2c;
    const CR: usize = 0x30;
    const IMSC: usize = 0x38;
    /// FIFOs on, eight bits.
    const LCR_H_FIFO: u32 = 1 << 4 | 3 << 5;
    /// Receiver, transmitter and UART on.
    const CR_ON: u32 = 1 << 9 | 1 << 8 | 1;
    /// Received; received and not read for a while.
    const RECEIVE: u32 = 1 << 4 | 1 << 6;
    let uart = UART.lock();
    if uart.base == 0 {
        return;
    }
    // SAFETY: `init` was given a PL011's address.
    unsafe {
        if on {
            mmio::write32(uart.base + LCR_H, LCR_H_FIFO);
            mmio::write32(uart.base + CR, CR_ON);
        }
        mmio::write32(uart.base + IMSC, if on { RECEIVE } else { 0 });
    }
}

/// Reads a byte if one has arrived.
pub fn read_byte() -> Option<u8> {
    const FR_RXFE: u32 = 1 << 4;
    let uart = UART.lock();
    if uart.base == 0 {
        return None;
    }
    // SAFETY: `init` was given a PL011's address.
    unsafe {
        if mmio::read32(uart.base + FR) & FR_RXFE != 0 {
            return None;
        }
        Some(mmio::read32(uart.base + DR) as u8)
    }
}

/// Prints to the console.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => { $crate::console::print(format_args!($($argument)*)) };
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::console::print(format_args!("\n")) };
    ($($argument:tt)*) => {
        $crate::console::print(format_args!("{}\n", format_args!($($argument)*)))
    };
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    use core::sync::atomic::{AtomicBool, Ordering};
    static PANICKED: AtomicBool = AtomicBool::new(false);
    if !PANICKED.swap(true, Ordering::AcqRel) {
        crate::println!("@panic {info}");
    }
    crate::psci::shutdown()
}
