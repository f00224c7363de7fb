//! A guest's UART: the model, and its interrupt line as EL2 knows it.

use host::bouncer::Handle;
use host::console::Console;
use host::uart::Uart;
use hyp::abi::rsi;
use hyp::layout;

use crate::payload::backend::Backend;
use crate::payload::calls::BOUNCER;
use crate::payload::story::dma::deeds;
use crate::payload::{run, terminal};

use super::{Input, Vm};

/// The bit in which a realm's shared addresses differ from its private ones.
pub(in crate::payload) const ALIAS: u64 = 1 << (rsi::IPA_BITS - 1);

/// The UART.
#[derive(Default)]
pub(in crate::payload) struct Serial {
    uart: Uart,
    /// The level that EL2 was told last.
    line: bool,
}

impl Serial {
    /// Tells EL2 the level of the line if it has changed; returns the vCPUs
    /// that have an interrupt to notice.
    fn drive_line(&mut self, vm: Handle) -> u64 {
        let level = self.uart.interrupts();
        if level == self.line {
            return 0;
        }
        // Refused while the guest does not let the host serve its UART.
        match BOUNCER.uart_line(vm, level) {
            Ok(vcpus) => {
                self.line = level;
                vcpus
            }
            Err(_) => 0,
        }
    }
}

impl Vm {
    /// The guest accessed its UART, the only device outside EL2 that it has.
    /// Returns what a read gives.
    pub(in crate::payload) fn mmio(&self, ipa: u64, size: u8, write: Option<u64>) -> u64 {
        // A realm reaches at its alias what it does not keep to itself.
        let offset = (ipa & !ALIAS).wrapping_sub(layout::UART);
        if offset >= 0x1000 {
            return 0;
        }
        if deeds::is_bell(offset) {
            return deeds::rung(self, write);
        }
        let mut serial = self.serial.lock();
        let (sent, value) = match write {
            Some(value) => (serial.uart.write(offset, value), 0),
            None => (None, serial.uart.read(offset)),
        };
        let vcpus = serial.drive_line(self.handle);
        drop(serial);
        if let Some(byte) = sent {
            self.hear(&self.uart_voice, &[byte]);
        }
        run::kick(self, vcpus);
        value & u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)))
    }

    /// Fetches what was typed, as far as the guest takes it now.
    pub(in crate::payload) fn fetch_input(&self) {
        match self.input {
            Input::Uart => {
                let mut serial = self.serial.lock();
                let room = serial.uart.room();
                terminal::take(room).for_each(|byte| serial.uart.receive(byte));
                let vcpus = serial.drive_line(self.handle);
                drop(serial);
                run::kick(self, vcpus);
            }
            Input::Console => self.with_console(|console| {
                let room = console.room();
                terminal::take(room).for_each(|byte| console.give(byte));
            }),
        }
    }

    /// Would it take anything?
    pub(in crate::payload) fn wants_input(&self) -> bool {
        let mut room = 0;
        match self.input {
            Input::Uart => room = self.serial.lock().uart.room(),
            Input::Console => self.with_console(|console| room = console.room()),
        }
        room != 0
    }

    fn with_console(&self, act: impl FnOnce(&mut Console)) {
        for device in &self.devices {
            if let Backend::Console(console) = &mut device.lock().backend {
                return act(console);
            }
        }
    }
}
