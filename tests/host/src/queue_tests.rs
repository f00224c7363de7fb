//! Honest and hostile rings.

use core::cell::RefCell;
use std::vec;

use super::*;

/// A window of bytes at a guest address, and a hook that runs before every
/// access: a second vCPU.
pub(crate) struct TestMemory {
    pub(crate) base: u64,
    pub(crate) bytes: RefCell<Vec<u8>>,
}

impl TestMemory {
    pub(crate) fn new(base: u64, length: usize) -> Self {
        Self { base, bytes: RefCell::new(vec![0; length]) }
    }

    fn offset(&self, address: u64, length: usize) -> Result<usize, Fault> {
        let offset = address.checked_sub(self.base).ok_or(Fault { address })?;
        let end = offset.checked_add(length as u64).ok_or(Fault { address })?;
        if end > self.bytes.borrow().len() as u64 {
            return Err(Fault { address });
        }
        Ok(offset as usize)
    }
}

impl Memory for TestMemory {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Fault> {
        let at = self.offset(address, into.len())?;
        into.copy_from_slice(&self.bytes.borrow()[at..at + into.len()]);
        Ok(())
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), Fault> {
        let at = self.offset(address, from.len())?;
        self.bytes.borrow_mut()[at..at + from.len()].copy_from_slice(from);
        Ok(())
    }

    fn load_index(&self, address: u64) -> Result<u16, Fault> {
        let mut bytes = [0; 2];
        self.read(address, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }

    fn store_index(&self, address: u64, value: u16) -> Result<(), Fault> {
        self.write(address, &value.to_le_bytes())
    }
}

pub(crate) const BASE: u64 = 0x20_0000_0000;
pub(crate) const DATA: u64 = BASE + 0x2000;
const INDIRECT_TABLE: u64 = BASE + 0x1800;

/// A driver that can do what no driver may.
pub(crate) struct Driver {
    pub(crate) memory: TestMemory,
    pub(crate) rings: Rings,
    available: u16,
}

impl Driver {
    pub(crate) fn new(size: u16) -> Self {
        let rings = Rings { size, descriptors: BASE, driver: BASE + 0x1000, device: BASE + 0x1400 };
        Self { memory: TestMemory::new(BASE, 0x10_0000), rings, available: 0 }
    }

    pub(crate) fn queue(&self) -> Queue {
        Queue::new(self.rings, false, true).unwrap()
    }

    fn describe_in(
        &self,
        table: u64,
        index: u64,
        address: u64,
        length: u32,
        flags: u16,
        next: u16,
    ) {
        let raw = u128::from(address)
            | u128::from(length) << 64
            | u128::from(flags) << 96
            | u128::from(next) << 112;
        self.memory.write(table + index * 16, &raw.to_le_bytes()).unwrap();
    }

    pub(crate) fn describe(&self, index: u16, address: u64, length: u32, flags: u16, next: u16) {
        self.describe_in(self.rings.descriptors, index.into(), address, length, flags, next);
    }

    pub(crate) fn offer(&mut self, head: u16) {
        let slot = u64::from(self.available % self.rings.size);
        self.memory.write(self.rings.driver + 4 + 2 * slot, &head.to_le_bytes()).unwrap();
        self.available = self.available.wrapping_add(1);
        self.set_available(self.available);
    }

    fn set_available(&self, index: u16) {
        self.memory.store_index(self.rings.driver + 2, index).unwrap();
    }

    pub(crate) fn used_index(&self) -> u16 {
        self.memory.load_index(self.rings.device + 2).unwrap()
    }

    fn outcome(&mut self, head: u16) -> Result<Option<Chain>, Hostile> {
        self.offer(head);
        self.queue().pop(&self.memory)
    }
}

#[test]
fn a_chain_comes_out_in_order_and_goes_back_used() {
    let mut driver = Driver::new(8);
    driver.describe(3, DATA, 16, NEXT, 5);
    driver.describe(5, DATA + 0x1000, 512, NEXT | WRITE, 1);
    driver.describe(1, DATA + 0x3000, 1, WRITE, 0);
    driver.memory.write(DATA, b"0123456789abcdef").unwrap();
    driver.offer(3);
    let mut queue = driver.queue();
    let chain = queue.pop(&driver.memory).unwrap().unwrap();
    assert_eq!((chain.readable_bytes(), chain.writable_bytes()), (16, 513));
    let mut bytes = [0; 4];
    chain.read(&driver.memory, 10, &mut bytes).unwrap();
    assert_eq!(&bytes, b"abcd");
    chain.write(&driver.memory, 511, &[7, 8]).unwrap();
    assert!(queue.push(&driver.memory, &chain, 513).unwrap());
    assert_eq!(driver.used_index(), 1);
    let mut status = [0; 1];
    driver.memory.read(DATA + 0x3000, &mut status).unwrap();
    assert_eq!(status, [8]);
    assert_eq!(queue.pop(&driver.memory), Ok(None));
}

#[test]
fn an_indirect_table_is_followed_once_and_never_nested() {
    let mut driver = Driver::new(8);
    driver.describe_in(INDIRECT_TABLE, 0, DATA, 16, NEXT, 2);
    driver.describe_in(INDIRECT_TABLE, 2, DATA + 64, 8, WRITE, 0);
    driver.describe(0, INDIRECT_TABLE, 48, INDIRECT, 0);
    let chain = driver.outcome(0).unwrap().unwrap();
    assert_eq!((chain.readable_bytes(), chain.writable_bytes()), (16, 8));

    let mut driver = Driver::new(8);
    driver.describe_in(INDIRECT_TABLE, 0, INDIRECT_TABLE, 16, INDIRECT, 0);
    driver.describe(0, INDIRECT_TABLE, 16, INDIRECT, 0);
    assert_eq!(driver.outcome(0), Err(Hostile::Indirect));

    let mut driver = Driver::new(8);
    driver.describe(0, INDIRECT_TABLE, 16, INDIRECT | NEXT, 1);
    assert_eq!(driver.outcome(0), Err(Hostile::Indirect));
}

#[test]
fn an_indirect_descriptor_without_the_feature_stops_the_device() {
    let mut driver = Driver::new(8);
    driver.describe(0, INDIRECT_TABLE, 16, INDIRECT, 0);
    driver.offer(0);
    let mut queue = Queue::new(driver.rings, false, false).unwrap();
    assert_eq!(queue.pop(&driver.memory), Err(Hostile::Indirect));
}

#[test]
fn d1_a_loop_ends() {
    let mut driver = Driver::new(8);
    driver.describe(0, DATA, 16, NEXT, 1);
    driver.describe(1, DATA, 16, NEXT, 0);
    assert_eq!(driver.outcome(0), Err(Hostile::Loop));

    let mut driver = Driver::new(8);
    driver.describe_in(INDIRECT_TABLE, 0, DATA, 16, NEXT, 1);
    driver.describe_in(INDIRECT_TABLE, 1, DATA, 16, NEXT, 0);
    driver.describe(0, INDIRECT_TABLE, 64, INDIRECT, 0);
    assert_eq!(driver.outcome(0), Err(Hostile::Loop));
}

#[test]
fn d2_indices_beyond_the_table_and_jumps_are_refused() {
    assert_eq!(Driver::new(8).outcome(8), Err(Hostile::DescriptorIndex));
    assert_eq!(Driver::new(8).outcome(0xffff), Err(Hostile::DescriptorIndex));

    let mut driver = Driver::new(8);
    driver.describe(0, DATA, 16, NEXT, 8);
    assert_eq!(driver.outcome(0), Err(Hostile::DescriptorIndex));

    let mut driver = Driver::new(8);
    driver.describe_in(INDIRECT_TABLE, 0, DATA, 16, NEXT, 1);
    driver.describe(0, INDIRECT_TABLE, 16, INDIRECT, 0);
    assert_eq!(driver.outcome(0), Err(Hostile::Loop));
    let mut driver = Driver::new(8);
    driver.describe_in(INDIRECT_TABLE, 0, DATA, 16, NEXT, 7);
    driver.describe(0, INDIRECT_TABLE, 32, INDIRECT, 0);
    assert_eq!(driver.outcome(0), Err(Hostile::DescriptorIndex));

    for jump in [9, 0xffff, 0x8000] {
        let driver = Driver::new(8);
        driver.set_available(jump);
        assert_eq!(driver.queue().pop(&driver.memory), Err(Hostile::IndexJump));
    }
}

/// The chain that a driver gets back, and why its request is refused.
fn refused(driver: &mut Driver) -> Option<Refusal> {
    driver.offer(0);
    let mut queue = driver.queue();
    let chain = queue.pop(&driver.memory).unwrap().unwrap();
    let nothing = chain.read(&driver.memory, 0, &mut [0; 1]).is_err()
        && chain.write(&driver.memory, 0, &[0; 1]).is_err();
    // It goes back like any other, and the queue goes on.
    queue.push(&driver.memory, &chain, 0).unwrap();
    assert_eq!((driver.used_index(), queue.pop(&driver.memory)), (1, Ok(None)));
    assert_eq!(nothing, chain.refused().is_some());
    chain.refused()
}

#[test]
fn d3_empty_wrapping_and_oversized_buffers_are_refused() {
    let cases = [(DATA, 0), (u64::MAX, 1), (u64::MAX - 4, 16)];
    for (address, length) in cases {
        let mut driver = Driver::new(8);
        driver.describe(0, address, length, 0, 0);
        assert_eq!(refused(&mut driver), Some(Refusal::Length));
    }
    let mut driver = Driver::new(8);
    driver.describe(0, DATA, u32::MAX, NEXT, 1);
    driver.describe(1, DATA, 1, 0, 0);
    assert_eq!(refused(&mut driver), Some(Refusal::Length));
}

/// A device may go nowhere but into sound buffers; the last writable byte is
/// one of those, or none.
#[test]
fn the_last_byte_of_a_refused_chain_is_written_only_if_its_own_buffer_is_sound() {
    let byte = |driver: &Driver, at| {
        let mut byte = [0xff];
        driver.memory.read(at, &mut byte).unwrap();
        byte[0]
    };
    for (status, written) in [((DATA, 4), true), ((BASE + 0x1404, 4), false), ((DATA, 0), false)] {
        let mut driver = Driver::new(8);
        driver.describe(0, u64::MAX, 16, NEXT, 1);
        driver.describe(1, status.0, status.1, WRITE, 0);
        let chain = driver.outcome(0).unwrap().unwrap();
        assert_eq!(chain.write_last(&driver.memory, 7).is_ok(), written);
        assert_eq!(byte(&driver, DATA + 3), if written { 7 } else { 0 });
    }
}

#[test]
fn d4_indirect_lengths_are_checked() {
    for length in [0, 8, 24, 0xffff_fff0] {
        let mut driver = Driver::new(8);
        driver.describe(0, INDIRECT_TABLE, length, INDIRECT, 0);
        assert_eq!(driver.outcome(0), Err(Hostile::IndirectLength));
    }
}

#[test]
fn d5_a_queue_of_a_wrong_size_is_never_made() {
    let good = Driver::new(8).rings;
    for size in [0, 3, 0xffff] {
        assert!(matches!(Queue::new(Rings { size, ..good }, true, true), Err(Hostile::Rings)));
    }
    let wrapping = Rings { descriptors: u64::MAX - 15, ..good };
    assert!(matches!(Queue::new(wrapping, true, true), Err(Hostile::Rings)));
}

/// Rewrites a descriptor after it was read for the first time.
struct SecondVcpu<'a> {
    driver: &'a Driver,
}

impl Memory for SecondVcpu<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.driver.memory.read(address, into)?;
        if address == self.driver.rings.descriptors {
            self.driver.describe(0, 0x4000_0000, u32::MAX, WRITE | NEXT, 0);
        }
        Ok(())
    }
    fn write(&self, address: u64, from: &[u8]) -> Result<(), Fault> {
        self.driver.memory.write(address, from)
    }
    fn load_index(&self, address: u64) -> Result<u16, Fault> {
        self.driver.memory.load_index(address)
    }
    fn store_index(&self, address: u64, value: u16) -> Result<(), Fault> {
        self.driver.memory.store_index(address, value)
    }
}

#[test]
fn d7_a_descriptor_changed_after_its_check_changes_nothing() {
    let mut driver = Driver::new(8);
    driver.describe(0, DATA, 4, 0, 0);
    driver.memory.write(DATA, b"good").unwrap();
    driver.offer(0);
    let mut queue = driver.queue();
    let memory = SecondVcpu { driver: &driver };
    let chain = queue.pop(&memory).unwrap().unwrap();
    let mut bytes = [0; 4];
    chain.read(&memory, 0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"good");
    assert_eq!(chain.writable_bytes(), 0);
}

#[test]
fn d10_buffers_in_rings_outside_the_window_or_out_of_order_are_refused() {
    for address in [BASE, BASE + 0x1000, BASE + 0x1404, BASE - 8] {
        let mut driver = Driver::new(8);
        driver.describe(0, address, 16, WRITE, 0);
        assert_eq!(refused(&mut driver), Some(Refusal::InRings));
    }
    let mut driver = Driver::new(8);
    driver.describe(0, 0x0900_0000, 16, 0, 0);
    let chain = driver.outcome(0).unwrap().unwrap();
    let fault = Fault { address: 0x0900_0000 };
    assert_eq!(chain.read(&driver.memory, 0, &mut [0; 16]), Err(Refusal::Address(fault)));

    let mut driver = Driver::new(8);
    driver.describe(0, DATA, 16, NEXT | WRITE, 1);
    driver.describe(1, DATA + 16, 16, 0, 0);
    assert_eq!(driver.outcome(0), Err(Hostile::Order));
}

#[test]
fn an_indirect_table_where_the_device_may_not_go_is_a_refused_request() {
    for (table, refusal) in [
        (0x4000_0000, Refusal::Address(Fault { address: 0x4000_0000 })),
        (BASE, Refusal::InRings),
        (u64::MAX - 15, Refusal::Length),
    ] {
        let mut driver = Driver::new(8);
        driver.describe(0, table, 48, INDIRECT, 0);
        assert_eq!(refused(&mut driver), Some(refusal));
    }
}

#[test]
fn rings_outside_the_window_fault() {
    let driver = Driver::new(8);
    for rings in [
        Rings { driver: 0x4000_0000, ..driver.rings },
        Rings { driver: BASE + 0x10_0000 - 2, ..driver.rings },
    ] {
        let mut queue = Queue::new(rings, false, false).unwrap();
        assert!(matches!(queue.pop(&driver.memory), Err(Hostile::Address(_))));
    }
}

#[test]
fn with_event_index_the_driver_is_asked_for_the_next_kick_and_interrupted_at_its_event() {
    let mut driver = Driver::new(4);
    let mut queue = Queue::new(driver.rings, true, true).unwrap();
    let avail_event = driver.rings.device + 4 + 8 * 4;
    let used_event = driver.rings.driver + 4 + 2 * 4;
    driver.memory.store_index(used_event, 1).unwrap();
    let mut interrupts = vec![];
    for round in 0..6u16 {
        driver.describe(0, DATA, 4, 0, 0);
        driver.offer(0);
        let chain = queue.pop(&driver.memory).unwrap().unwrap();
        interrupts.push(queue.push(&driver.memory, &chain, 0).unwrap());
        assert_eq!(queue.pop(&driver.memory), Ok(None));
        assert_eq!(driver.memory.load_index(avail_event), Ok(round + 1));
    }
    assert_eq!(interrupts, [false, true, false, false, false, false]);
}

#[test]
fn indices_wrap_at_65536() {
    let mut driver = Driver::new(2);
    let mut queue = driver.queue();
    driver.describe(0, DATA, 4, 0, 0);
    for _ in 0..65_540u32 {
        driver.offer(0);
        let chain = queue.pop(&driver.memory).unwrap().unwrap();
        queue.push(&driver.memory, &chain, 0).unwrap();
    }
    assert_eq!(driver.used_index(), 4);
}

#[test]
fn a_driver_that_wants_no_interrupt_gets_none() {
    let mut driver = Driver::new(2);
    driver.memory.store_index(driver.rings.driver, NO_INTERRUPT).unwrap();
    driver.describe(0, DATA, 4, 0, 0);
    driver.offer(0);
    let mut queue = driver.queue();
    let chain = queue.pop(&driver.memory).unwrap().unwrap();
    assert!(!queue.push(&driver.memory, &chain, 0).unwrap());
}
