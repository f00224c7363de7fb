//! The console backend (virtio 1.4, 5.3): what the guest transmits is
//! printed, nothing is ever received.

use alloc::string::String;
use alloc::vec::Vec;

use crate::lines::Lines;
use crate::memory::Memory;
use crate::queue::{Chain, Hostile};

/// Queue the device fills; this backend leaves its buffers alone.
pub const RECEIVE: u16 = 0;
/// Queue the driver fills.
pub const TRANSMIT: u16 = 1;

/// Bytes copied at a time.
const PIECE: usize = 256;
/// Most bytes of one request that are shown; the rest is dropped.
const LONGEST: u64 = 64 * 1024;

/// A console that collects lines.
#[derive(Debug, Default)]
pub struct Console {
    lines: Lines,
}

impl Console {
    /// Serves a transmitted buffer: the lines that it completed.
    ///
    /// # Errors
    /// [`Hostile`] if it has writable parts, or an address may not be read.
    pub fn transmit<M: Memory + ?Sized>(
        &mut self,
        memory: &M,
        chain: &Chain,
    ) -> Result<Vec<String>, Hostile> {
        if chain.writable_bytes() != 0 {
            return Err(Hostile::Request);
        }
        let mut done = Vec::new();
        let mut piece = [0; PIECE];
        let end = chain.readable_bytes().min(LONGEST);
        let mut offset = 0;
        while offset < end {
            let length = (end - offset).min(PIECE as u64);
            let Some(bytes) = piece.get_mut(..length as usize) else { break };
            chain.read(memory, offset, bytes)?;
            done.extend(bytes.iter().filter_map(|byte| self.lines.push(*byte)));
            offset += length;
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::tests::{DATA, Driver};

    #[test]
    fn transmitted_bytes_become_lines_across_requests() {
        let mut console = Console::default();
        let mut driver = Driver::new(8);
        let mut queue = driver.queue();
        let mut all = Vec::new();
        for text in [&b"hello "[..], b"world\nagain", b"\n"] {
            driver.memory.write(DATA, text).unwrap();
            driver.describe(0, DATA, text.len() as u32, 0, 0);
            driver.offer(0);
            let chain = queue.pop(&driver.memory).unwrap().unwrap();
            all.extend(console.transmit(&driver.memory, &chain).unwrap());
            queue.push(&driver.memory, &chain, 0).unwrap();
        }
        assert_eq!(all, ["hello world", "again"]);
    }

    #[test]
    fn a_transmit_buffer_the_device_should_write_stops_the_device() {
        let mut driver = Driver::new(8);
        driver.describe(0, DATA, 8, 2, 0);
        driver.offer(0);
        let chain = driver.queue().pop(&driver.memory).unwrap().unwrap();
        assert_eq!(Console::default().transmit(&driver.memory, &chain), Err(Hostile::Request));
    }
}
