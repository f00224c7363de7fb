//! A PL011 (Arm DDI 0183) as far as a console needs one: it transmits at
//! once, never receives and never interrupts.

use alloc::string::String;

use crate::lines::Lines;

/// Registers a driver looks at, by offset.
mod register {
    pub(super) const DR: u64 = 0x000;
    pub(super) const FR: u64 = 0x018;
    pub(super) const CR: u64 = 0x030;
    pub(super) const PERIPH_ID: u64 = 0xfe0;
}

/// Flag register: transmit FIFO empty, receive FIFO empty.
const FR_IDLE: u64 = 1 << 7 | 1 << 4;
/// PeriphID0..3 and PCellID0..3: a PL011 of Arm, revision 1.
const IDS: [u8; 8] = [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// The model.
#[derive(Debug, Default)]
pub struct Uart {
    lines: Lines,
    control: u64,
}

impl Uart {
    /// Reads the register at `offset`; registers without a meaning here are 0.
    pub fn read(&self, offset: u64) -> u64 {
        match offset {
            register::FR => FR_IDLE,
            register::CR => self.control,
            register::PERIPH_ID.. => {
                let index = (offset - register::PERIPH_ID) / 4;
                IDS.get(index as usize).copied().unwrap_or(0).into()
            }
            _ => 0,
        }
    }

    /// Writes one; returns a line if this byte ended it.
    pub fn write(&mut self, offset: u64, value: u64) -> Option<String> {
        match offset {
            register::DR => return self.lines.push(value as u8),
            register::CR => self.control = value & 0xffff,
            _ => {}
        }
        None
    }

    /// What was written and not ended by a newline, if anything.
    pub fn finish(&mut self) -> Option<String> {
        self.lines.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_finds_a_pl011_that_is_always_ready() {
        let uart = Uart::default();
        assert_eq!(uart.read(register::FR) & 1 << 5, 0, "transmit FIFO full");
        let id = (0..4).fold(0, |id, i| id | uart.read(register::PERIPH_ID + 4 * i) << (8 * i));
        assert_eq!(id, 0x0014_1011);
        assert_eq!(uart.read(u64::MAX), 0);
    }

    #[test]
    fn bytes_become_lines() {
        let mut uart = Uart::default();
        assert_eq!(uart.write(0, u64::from(b'a')), None);
        assert_eq!(uart.write(0, 0xab_0062), None);
        assert_eq!(uart.write(0, u64::from(b'\n')).as_deref(), Some("ab"));
    }
}
