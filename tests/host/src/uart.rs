//! A PL011 (Arm DDI 0183) as a guest's console: it transmits at once, and
//! receives what it is given.

use alloc::collections::VecDeque;

/// Registers a driver looks at, by offset.
mod register {
    pub(super) const DR: u64 = 0x000;
    pub(super) const FR: u64 = 0x018;
    pub(super) const CR: u64 = 0x030;
    pub(super) const IMSC: u64 = 0x038;
    pub(super) const RIS: u64 = 0x03c;
    pub(super) const MIS: u64 = 0x040;
    pub(super) const PERIPH_ID: u64 = 0xfe0;
}

/// Flag register: transmit FIFO empty.
const FR_TXFE: u64 = 1 << 7;
/// Flag register: receive FIFO empty.
const FR_RXFE: u64 = 1 << 4;
/// Interrupts (bits of IMSC, RIS, MIS): received, room to transmit, received
/// and not fetched for a while.
const RECEIVE: u64 = 1 << 4;
const TRANSMIT: u64 = 1 << 5;
const TIMEOUT: u64 = 1 << 6;
/// Control register after reset: receiver and transmitter on, UART off.
const CR_RESET: u64 = 0x300;
/// Depth of the receive FIFO.
const DEPTH: usize = 16;
/// So many looks at the receiver, beyond those that come before a byte is
/// sent, are those of a driver that polls.
const LOOKS: u32 = 8;
/// PeriphID0..3 and PCellID0..3: a PL011 of Arm, revision 1.
const IDS: [u8; 8] = [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// The model. Both FIFOs are on whatever the line control register says, and
/// the one for transmission is always empty.
#[derive(Debug)]
pub struct Uart {
    received: VecDeque<u8>,
    control: u64,
    /// IMSC: interrupts that reach the line.
    mask: u64,
    /// Looks at FR and DR since the UART was set up last, less those that
    /// came with a byte to send.
    looks: u32,
}

impl Default for Uart {
    fn default() -> Self {
        Self { received: VecDeque::new(), control: CR_RESET, mask: 0, looks: 0 }
    }
}

impl Uart {
    /// Reads the register at `offset`; registers without a meaning here are 0.
    pub fn read(&mut self, offset: u64) -> u64 {
        if matches!(offset, register::DR | register::FR) {
            self.looks = self.looks.saturating_add(1);
        }
        match offset {
            register::DR => self.received.pop_front().unwrap_or(0).into(),
            register::FR if self.received.is_empty() => FR_TXFE | FR_RXFE,
            register::FR => FR_TXFE,
            register::CR => self.control,
            register::IMSC => self.mask,
            register::RIS => self.raised(),
            register::MIS => self.raised() & self.mask,
            register::PERIPH_ID.. => {
                let index = (offset - register::PERIPH_ID) / 4;
                IDS.get(index as usize).copied().unwrap_or(0).into()
            }
            _ => 0,
        }
    }

    /// Writes one; returns a byte that was transmitted.
    pub fn write(&mut self, offset: u64, value: u64) -> Option<u8> {
        match offset {
            register::DR => {
                self.looks = self.looks.saturating_sub(1);
                return Some(value as u8);
            }
            register::CR => self.control = value & 0xffff,
            register::IMSC => self.mask = value & 0x7ff,
            // ICR among them: each interrupt lasts as long as its cause.
            _ => {}
        }
        self.looks = 0;
        None
    }

    /// How many bytes it takes now. None before a driver listens, by
    /// interrupts or by looking again and again: Linux empties the FIFO when
    /// it starts, and what came early would be lost.
    pub fn room(&self) -> usize {
        let listening = self.mask & (RECEIVE | TIMEOUT) != 0 || self.looks >= LOOKS;
        if listening { DEPTH.saturating_sub(self.received.len()) } else { 0 }
    }

    /// Gives it a byte; what finds no room is lost, as on the wire.
    pub fn receive(&mut self, byte: u8) {
        if self.received.len() < DEPTH {
            self.received.push_back(byte);
        }
    }

    /// Level of its interrupt line.
    pub fn interrupts(&self) -> bool {
        self.raised() & self.mask != 0
    }

    fn raised(&self) -> u64 {
        TRANSMIT | if self.received.is_empty() { 0 } else { RECEIVE | TIMEOUT }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_finds_a_pl011_that_is_always_ready() {
        let mut uart = Uart::default();
        assert_eq!(uart.read(register::FR) & 1 << 5, 0, "transmit FIFO full");
        let id = (0..4).fold(0, |id, i| id | uart.read(register::PERIPH_ID + 4 * i) << (8 * i));
        assert_eq!(id, 0x0014_1011);
        assert_eq!(uart.read(u64::MAX), 0);
    }

    #[test]
    fn what_is_written_is_transmitted() {
        let mut uart = Uart::default();
        assert_eq!(uart.write(register::DR, 0xab_0062), Some(b'b'));
        assert_eq!(uart.write(register::CR, 0x301), None);
        assert_eq!(uart.read(register::CR), 0x301);
    }

    #[test]
    fn what_is_received_interrupts_until_it_is_fetched() {
        let mut uart = Uart::default();
        assert_eq!(uart.room(), 0, "nobody listens");
        uart.write(register::IMSC, RECEIVE);
        assert!(!uart.interrupts());
        while uart.room() != 0 {
            uart.receive(b'x');
        }
        assert!(uart.interrupts());
        assert_eq!(uart.read(register::MIS), RECEIVE);
        uart.write(0x044, 0x7ff);
        assert!(uart.interrupts(), "clearing it does not fetch anything");
        assert!(
            (0..100).all(|_| uart.read(register::FR) & FR_RXFE == 0),
            "looking fetches nothing"
        );
        for _ in 0..DEPTH {
            assert_eq!(uart.read(register::DR), b'x'.into());
        }
        assert!(!uart.interrupts());
        assert_eq!(uart.read(register::FR) & FR_RXFE, FR_RXFE);
    }

    /// As U-Boot, firmware and small programs do, with no interrupt unmasked.
    #[test]
    fn a_driver_that_polls_is_heard() {
        let mut uart = Uart::default();
        for byte in *b"prompt> " {
            uart.read(register::FR);
            uart.write(register::DR, byte.into());
        }
        assert_eq!(uart.room(), 0, "it has looked for room to send only");
        (0..LOOKS).for_each(|_| _ = uart.read(register::FR));
        assert_eq!(uart.room(), DEPTH);
        uart.receive(b'x');
        assert_eq!(uart.read(register::FR) & FR_RXFE, 0);
        assert_eq!(uart.read(register::DR), b'x'.into());
        // One that echoes, and one that looks at the data register only.
        uart.write(register::DR, b'x'.into());
        assert_ne!(uart.room(), 0);
        let mut uart = Uart::default();
        (0..LOOKS).for_each(|_| _ = uart.read(register::DR));
        assert_ne!(uart.room(), 0);
    }

    /// Linux's start: a console that has printed, then the driver, which
    /// empties the FIFO before it unmasks.
    #[test]
    fn a_driver_that_only_prints_and_sets_up_loses_nothing_that_was_typed() {
        let mut uart = Uart::default();
        for _ in 0..100 {
            uart.write(register::CR, 0x101);
            for byte in *b"a line of the kernel's\r\n" {
                uart.read(register::FR);
                uart.write(register::DR, byte.into());
            }
            uart.read(register::FR);
            uart.write(register::CR, 0x300);
            assert_eq!(uart.room(), 0);
        }
        uart.read(register::FR);
        assert_eq!(uart.room(), 0);
        uart.write(register::IMSC, RECEIVE);
        assert_eq!(uart.room(), DEPTH);
    }

    #[test]
    fn a_driver_that_waits_for_room_to_transmit_is_called_at_once() {
        let mut uart = Uart::default();
        uart.write(register::IMSC, TRANSMIT);
        assert!(uart.interrupts());
        uart.write(register::IMSC, 0);
        assert!(!uart.interrupts());
    }
}
