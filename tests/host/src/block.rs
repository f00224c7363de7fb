//! The block backend: requests of a virtio block device (virtio 1.4, 5.2.6)
//! over a disk that lies in memory.
//!
//! The disk is changed in place, so whoever looks at the same memory when the
//! machine stops sees what the guest wrote.

use crate::memory::Memory;
use crate::queue::{Chain, Refusal};

/// Bytes of a sector, the unit of addresses whatever the block size.
pub const SECTOR: u64 = 512;

/// Request header: type u32, reserved u32, sector u64.
const HEADER: u64 = 16;
/// Bytes of the serial number GET_ID returns.
const ID_BYTES: usize = 20;

mod request {
    pub(super) const IN: u32 = 0;
    pub(super) const OUT: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const GET_ID: u32 = 8;
}

/// The status byte of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// The range is not on the disk or not whole sectors, or a buffer lies
    /// where the device may not go.
    IoError = 1,
    /// A request type this device does not have.
    Unsupported = 2,
}

/// What went through the device.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Traffic {
    /// Requests answered, refused ones included.
    pub requests: u64,
    /// Bytes the guest read.
    pub bytes_read: u64,
    /// Bytes the guest wrote.
    pub bytes_written: u64,
    /// Requests answered with an error status.
    pub errors: u64,
}

/// A disk in memory.
#[derive(Debug)]
pub struct Block<'a> {
    disk: &'a mut [u8],
    id: [u8; ID_BYTES],
    traffic: Traffic,
}

impl<'a> Block<'a> {
    /// A device over `disk`, of which whole sectors count, that names itself
    /// `id` (the first 20 bytes).
    pub fn new(disk: &'a mut [u8], id: &str) -> Self {
        let mut name = [0; ID_BYTES];
        for (to, from) in name.iter_mut().zip(id.bytes()) {
            *to = from;
        }
        Self { disk, id: name, traffic: Traffic::default() }
    }

    /// Sectors of the disk.
    pub fn capacity(&self) -> u64 {
        self.disk.len() as u64 / SECTOR
    }

    /// Gives the disk back.
    pub fn into_disk(self) -> &'a mut [u8] {
        self.disk
    }

    /// What went through so far.
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Serves one request; returns the bytes written into the chain. Whatever
    /// is wrong with it is answered with a status (5.2.6.1), which only a
    /// chain without a place for one does not get.
    pub fn serve<M: Memory + ?Sized>(&mut self, memory: &M, chain: &Chain) -> u32 {
        let (status, written) = self.request(memory, chain).unwrap_or((Status::IoError, 0));
        self.traffic.requests += 1;
        self.traffic.errors += u64::from(status != Status::Ok);
        // The status is the last writable byte, whatever came before it.
        match chain.write_last(memory, status as u8) {
            Ok(()) => written + 1,
            Err(_) => 0,
        }
    }

    fn request<M: Memory + ?Sized>(
        &mut self,
        memory: &M,
        chain: &Chain,
    ) -> Result<(Status, u32), Refusal> {
        let status_at = chain.writable_bytes().checked_sub(1).ok_or(Refusal::Request)?;
        let mut header = [0; HEADER as usize];
        chain.read(memory, 0, &mut header)?;
        let header = u128::from_le_bytes(header);
        let (kind, sector) = (header as u32, (header >> 64) as u64);
        match kind {
            request::IN => self.read(memory, chain, sector, status_at),
            request::OUT => self.write(memory, chain, sector),
            request::FLUSH => Ok((Status::Ok, 0)),
            request::GET_ID => self.identify(memory, chain, status_at),
            _ => Ok((Status::Unsupported, 0)),
        }
    }

    fn read<M: Memory + ?Sized>(
        &mut self,
        memory: &M,
        chain: &Chain,
        sector: u64,
        length: u64,
    ) -> Result<(Status, u32), Refusal> {
        let Some(range) = self.range(sector, length) else { return Ok((Status::IoError, 0)) };
        let Some(bytes) = self.disk.get(range) else { return Ok((Status::IoError, 0)) };
        chain.write(memory, 0, bytes)?;
        self.traffic.bytes_read += length;
        // A chain is shorter than 2³² bytes.
        Ok((Status::Ok, length as u32))
    }

    fn write<M: Memory + ?Sized>(
        &mut self,
        memory: &M,
        chain: &Chain,
        sector: u64,
    ) -> Result<(Status, u32), Refusal> {
        let length = chain.readable_bytes().saturating_sub(HEADER);
        let Some(range) = self.range(sector, length) else { return Ok((Status::IoError, 0)) };
        let Some(bytes) = self.disk.get_mut(range) else { return Ok((Status::IoError, 0)) };
        chain.read(memory, HEADER, bytes)?;
        self.traffic.bytes_written += length;
        Ok((Status::Ok, 0))
    }

    fn identify<M: Memory + ?Sized>(
        &self,
        memory: &M,
        chain: &Chain,
        length: u64,
    ) -> Result<(Status, u32), Refusal> {
        let length = length.min(ID_BYTES as u64) as usize;
        chain.write(memory, 0, self.id.get(..length).unwrap_or_default())?;
        Ok((Status::Ok, length as u32))
    }

    /// The bytes of the disk that a request names, if they are whole sectors
    /// and all on it (D11).
    fn range(&self, sector: u64, length: u64) -> Option<core::ops::Range<usize>> {
        let start = sector.checked_mul(SECTOR)?;
        let end = start.checked_add(length)?;
        let whole = length.is_multiple_of(SECTOR) && end <= self.capacity() * SECTOR;
        whole.then_some(start as usize..end as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::tests::{DATA, Driver};
    use std::vec;
    use std::vec::Vec;

    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    const INDIRECT: u16 = 4;
    const STATUS: u64 = DATA + 0x8000;

    fn header(kind: u32, sector: u64) -> Vec<u8> {
        (u128::from(kind) | u128::from(sector) << 64).to_le_bytes().to_vec()
    }

    fn serve(driver: &mut Driver, block: &mut Block<'_>) -> u32 {
        driver.offer(0);
        let mut queue = driver.queue();
        let chain = queue.pop(&driver.memory).unwrap().unwrap();
        let written = block.serve(&driver.memory, &chain);
        queue.push(&driver.memory, &chain, written).unwrap();
        written
    }

    fn status(driver: &Driver) -> u8 {
        let mut byte = [0xff];
        driver.memory.read(STATUS, &mut byte).unwrap();
        byte[0]
    }

    fn request(kind: u32, sector: u64, data: u32, direction: u16) -> Driver {
        let driver = Driver::new(8);
        driver.memory.write(DATA, &header(kind, sector)).unwrap();
        driver.describe(0, DATA, 16, NEXT, 1);
        driver.describe(1, DATA + 0x1000, data, NEXT | direction, 2);
        driver.describe(2, STATUS, 1, WRITE, 0);
        driver.memory.write(STATUS, &[0xff]).unwrap();
        driver
    }

    #[test]
    fn what_is_written_is_on_the_disk_and_can_be_read_back() {
        let mut disk = vec![0; 4096];
        let mut block = Block::new(&mut disk, "bouncer");
        let mut out = request(request::OUT, 2, 1024, 0);
        out.memory.write(DATA + 0x1000, &[0x5a; 1024]).unwrap();
        assert_eq!(serve(&mut out, &mut block), 1);
        assert_eq!(status(&out), 0);
        let mut back = request(request::IN, 3, 512, WRITE);
        assert_eq!(serve(&mut back, &mut block), 513);
        let mut bytes = [0; 512];
        back.memory.read(DATA + 0x1000, &mut bytes).unwrap();
        assert_eq!(bytes, [0x5a; 512]);
        assert_eq!(block.traffic().bytes_written, 1024);
        assert_eq!(disk[1024..2048], [0x5a; 1024]);
        assert!(disk[..1024].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn d11_sectors_beyond_the_disk_get_an_error_status_and_touch_nothing() {
        for (sector, length) in
            [(8, 512), (7, 1024), (u64::MAX, 512), (u64::MAX / 512, 512), (0, 100)]
        {
            let mut disk = vec![1; 4096];
            let mut block = Block::new(&mut disk, "bouncer");
            let mut out = request(request::OUT, sector, length, 0);
            assert_eq!(serve(&mut out, &mut block), 1);
            assert_eq!(status(&out), 1);
            let mut back = request(request::IN, sector, length, WRITE);
            assert_eq!(serve(&mut back, &mut block), 1);
            assert_eq!(status(&back), 1);
            assert_eq!(block.traffic().errors, 2);
            assert!(disk.iter().all(|byte| *byte == 1));
        }
    }

    #[test]
    fn d11_a_header_in_sixteen_descriptors_is_a_header() {
        let mut disk = vec![3; 4096];
        let mut block = Block::new(&mut disk, "bouncer");
        let mut driver = Driver::new(32);
        driver.memory.write(DATA, &header(request::IN, 1)).unwrap();
        for i in 0..16 {
            driver.describe(i, DATA + u64::from(i), 1, NEXT, i + 1);
        }
        driver.describe(16, DATA + 0x1000, 512, NEXT | WRITE, 17);
        driver.describe(17, STATUS, 1, WRITE, 0);
        assert_eq!(serve(&mut driver, &mut block), 513);
        assert_eq!(status(&driver), 0);
    }

    /// Virtio 1.4, 5.2.6.1: the device sets status to `VIRTIO_BLK_S_IOERR` for
    /// an error. A driver of Linux's waits for that answer and for ever.
    #[test]
    fn a_buffer_where_the_device_may_not_go_is_an_io_error_and_the_next_request_is_served() {
        let outside = 0x4000_0000;
        let bad = [(outside, 512), (DATA + 0x1000, 0), (u64::MAX - 255, 512), (DATA, u32::MAX)];
        let rings = Driver::new(8).rings;
        for (address, length) in bad.into_iter().chain([(rings.device, 512)]) {
            for (kind, direction) in [(request::IN, WRITE), (request::OUT, 0)] {
                let mut disk = vec![1; 4096];
                let mut block = Block::new(&mut disk, "bouncer");
                let mut driver = request(kind, 1, 512, direction);
                driver.describe(1, address, length, NEXT | direction, 2);
                assert_eq!(serve(&mut driver, &mut block), 1, "{address:#x}, {length:#x}");
                assert_eq!((status(&driver), driver.used_index()), (1, 1));
                assert_eq!(block.traffic().errors, 1);
                assert!(disk.iter().all(|byte| *byte == 1));
            }
        }
    }

    #[test]
    fn a_header_where_the_device_may_not_go_is_an_io_error() {
        let mut disk = vec![0; 4096];
        let mut block = Block::new(&mut disk, "bouncer");
        let mut driver = request(request::IN, 0, 512, WRITE);
        driver.describe(0, 0x4000_0000, 16, NEXT, 1);
        assert_eq!((serve(&mut driver, &mut block), status(&driver)), (1, 1));
        // One that is too short.
        let mut driver = request(request::IN, 0, 512, WRITE);
        driver.describe(0, DATA, 15, NEXT, 1);
        assert_eq!((serve(&mut driver, &mut block), status(&driver)), (1, 1));
    }

    #[test]
    fn a_chain_without_a_place_for_a_status_comes_back_with_nothing_written() {
        let mut disk = vec![0; 4096];
        let mut block = Block::new(&mut disk, "bouncer");
        let mut readable = Driver::new(8);
        readable.describe(0, DATA, 16, 0, 0);
        assert_eq!((serve(&mut readable, &mut block), readable.used_index()), (0, 1));
        for status_at in [0x4000_0000, u64::MAX] {
            let mut driver = request(request::IN, 0, 512, WRITE);
            driver.describe(2, status_at, 1, WRITE, 0);
            assert_eq!((serve(&mut driver, &mut block), driver.used_index()), (0, 1));
        }
        let mut indirect = Driver::new(8);
        indirect.describe(0, 0x4000_0000, 48, INDIRECT, 0);
        assert_eq!((serve(&mut indirect, &mut block), indirect.used_index()), (0, 1));
    }

    #[test]
    fn identification_flush_and_unknown_types_are_answered() {
        let mut disk = vec![0; 4096];
        let mut block = Block::new(&mut disk, "bouncer");
        let mut driver = request(request::GET_ID, 0, 20, WRITE);
        assert_eq!(serve(&mut driver, &mut block), 21);
        let mut id = [0; 8];
        driver.memory.read(DATA + 0x1000, &mut id).unwrap();
        assert_eq!(&id, b"bouncer\0");
        let mut driver = request(request::FLUSH, 0, 1, WRITE);
        assert_eq!(serve(&mut driver, &mut block), 1);
        assert_eq!(status(&driver), 0);
        let mut driver = request(77, 0, 1, WRITE);
        assert_eq!(serve(&mut driver, &mut block), 1);
        assert_eq!(status(&driver), 2);
    }
}
