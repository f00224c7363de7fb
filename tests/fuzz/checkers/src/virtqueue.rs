//! Hostile rings against the host's queue and block backend, side by side
//! with rust-vmm's `virtio-queue` on a copy of the same memory.
//!
//! bouncer's queue is the stricter of the two: it stops at what rust-vmm
//! passes over. So what it accepts must be what rust-vmm sees, what rust-vmm
//! sees complete and in order must not be refused, and both must leave the
//! same used ring. A buffer in the wrong place is no reason to stop: its
//! request comes back, and of its buffers nothing is touched but a sound place
//! for the status. Whatever the rings say, the backend writes only into
//! buffers the driver gave it for writing; and if the device's memory is named
//! by offsets, never into one at 0.

use host::block::Block;
use host::memory::{Fault, Memory};
use host::queue::{Chain, Hostile, Queue, Rings};
use host::span::Span;
use hyp::sim::walk::Choices;
use std::cell::RefCell;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue as Other, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Bytes of the window, and where things are in it.
const WINDOW: usize = 0x3000;
const QUEUE: u64 = 0x1000;
const AVAILABLE: u64 = QUEUE + 0x200;
const USED: u64 = QUEUE + 0x300;
const TABLE: u64 = QUEUE + 0x600;
const DATA: u64 = QUEUE + 0x1000;

/// Where the driver has put a bounce BAR. Of device memory, bytes are named by
/// their offsets.
const BAR: u64 = 0x20_0000_0000;
/// Where the backend's own view of the window begins: at no address that a
/// driver would name.
const HERE: u64 = 0x5_0000_0000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Memory of rust-vmm's with the window at `base`.
fn others(base: u64) -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(base), WINDOW)]).unwrap()
}

thread_local! {
    /// Mapped once: a mapping per input would be all the fuzzer does.
    static OTHERS: [GuestMemoryMmap; 2] = [others(BAR), others(0)];
}

/// The window of the device. A second vCPU of the driver may rewrite a byte
/// after some number of reads.
struct Window {
    span: Span,
    bytes: RefCell<Vec<u8>>,
    rewrite: RefCell<Option<(u64, usize, u8)>>,
}

impl Window {
    fn offset(&self, address: u64, length: usize) -> Result<usize, Fault> {
        Ok((self.span.translate(address, length as u64)? - HERE) as usize)
    }

    /// The driver writes.
    fn put(&self, at: u64, bytes: &[u8]) {
        self.bytes.borrow_mut()[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }
}

impl Memory for Window {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Fault> {
        let at = self.offset(address, into.len())?;
        into.copy_from_slice(&self.bytes.borrow()[at..at + into.len()]);
        let mut rewrite = self.rewrite.borrow_mut();
        match &mut *rewrite {
            Some((0, at, value)) => {
                self.bytes.borrow_mut()[*at] = *value;
                *rewrite = None;
            }
            Some((reads, ..)) => *reads -= 1,
            None => {}
        }
        Ok(())
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), Fault> {
        let at = self.offset(address, from.len())?;
        self.bytes.borrow_mut()[at..at + from.len()].copy_from_slice(from);
        Ok(())
    }

    fn load_index(&self, address: u64) -> Result<u16, Fault> {
        let mut bytes = [0; 2];
        if !address.is_multiple_of(2) {
            return Err(Fault { address });
        }
        self.read(address, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }

    fn store_index(&self, address: u64, value: u16) -> Result<(), Fault> {
        if !address.is_multiple_of(2) {
            return Err(Fault { address });
        }
        self.write(address, &value.to_le_bytes())
    }
}

struct Walk<'a> {
    choices: Choices<'a>,
    window: Window,
    /// The driver's name for the window's first byte.
    base: u64,
    rings: Rings,
    queue: Queue,
    other: Other,
    event_index: bool,
    indirect: bool,
    available: u16,
    disk: Vec<u8>,
}

/// Lets a driver do what the bytes say, until it has broken its queue: once
/// with a bounce BAR, once with device memory.
pub(crate) fn run<'a>(choices: impl Fn() -> Choices<'a>) {
    walk(choices(), Span::at(BAR, 0, HERE, WINDOW as u64));
    walk(choices(), Span::by_offset(HERE, WINDOW as u64));
}

fn walk(mut choices: Choices<'_>, span: Span) {
    let size = choices.pick(&[1, 2, 4, 8, 16]);
    let (event_index, indirect) = (choices.one_in(2), !choices.one_in(4));
    let base = span.guest;
    let [descriptors, driver, device] = [QUEUE, AVAILABLE, USED].map(|at| base + at);
    let rings = Rings { size, descriptors, driver, device };
    choices.note(format_args!("{rings:x?}, event index {event_index}, indirect {indirect}"));
    let mut other = Other::new(16).unwrap();
    other.set_size(size);
    let halves = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
    let (low, high) = halves(descriptors);
    other.set_desc_table_address(low, high);
    let (low, high) = halves(driver);
    other.set_avail_ring_address(low, high);
    let (low, high) = halves(device);
    other.set_used_ring_address(low, high);
    other.set_event_idx(event_index);
    other.set_ready(true);
    let mut walk = Walk {
        choices,
        window: Window { span, bytes: RefCell::new(vec![0; WINDOW]), rewrite: RefCell::new(None) },
        base,
        rings,
        queue: Queue::new(rings, event_index, indirect).unwrap(),
        other,
        event_index,
        indirect,
        available: 0,
        disk: (0..2048u32).map(|at| (at / 512) as u8).collect(),
    };
    for _ in 0..200 {
        if walk.choices.is_over() || !walk.step() {
            break;
        }
    }
}

impl Walk<'_> {
    /// One thing the driver does; false when the device has stopped.
    fn step(&mut self) -> bool {
        match self.choices.below(8) {
            0..=2 => self.describe(),
            3 => self.request(),
            4 => self.offer(),
            5 => {
                let (at, value) = (self.choices.below(WINDOW as u64), self.choices.below(256));
                self.choices.note(format_args!("byte {at:#x} := {value:#x}"));
                self.window.put(at, &[value as u8]);
            }
            6 if self.choices.one_in(4) => return self.race(),
            _ => return self.serve(),
        }
        true
    }

    /// A descriptor, in the queue's table or in an indirect one.
    fn describe(&mut self) {
        let table = self.choices.pick(&[QUEUE, QUEUE, TABLE]);
        let index = self.choices.below(16);
        let flags = [0, NEXT, WRITE, NEXT | WRITE, INDIRECT, NEXT | INDIRECT, 7, 0xffff];
        let flags = self.choices.pick(&flags);
        let address = match self.choices.below(8) {
            // Sometimes 0, which names nothing where offsets count.
            0 => match self.choices.bits() {
                few if few % 4 == 0 => 0,
                any => any,
            },
            1 => self.base + self.choices.below(WINDOW as u64 + 16),
            2 | 3 if flags & INDIRECT != 0 => self.base + TABLE,
            _ => self.base + DATA + 16 * self.choices.below(256),
        };
        let length = match self.choices.below(8) {
            0 => self.choices.bits() as u32,
            1 => self.choices.pick(&[0, 1, 15, u32::MAX, 1 << 31]),
            _ => 16 * (1 + self.choices.below(40) as u32),
        };
        let next = match self.choices.below(8) {
            0 => self.choices.bits() as u16,
            _ => self.choices.below(16) as u16,
        };
        self.put_descriptor(table, index, (address, length), flags, next);
    }

    fn put_descriptor(
        &self,
        table: u64,
        index: u64,
        (address, length): (u64, u32),
        flags: u16,
        next: u16,
    ) {
        let place = if table == QUEUE { "table" } else { "indirect table" };
        self.choices.note(format_args!(
            "{place}[{index}]: {length:#x} bytes at {address:#x}, flags {flags:#b}, next {next}"
        ));
        let raw = u128::from(address)
            | u128::from(length) << 64
            | u128::from(flags) << 96
            | u128::from(next) << 112;
        self.window.put(table + 16 * index, &raw.to_le_bytes());
    }

    /// A block request as an honest driver makes it, but for its numbers.
    fn request(&mut self) {
        let kind = self.choices.pick(&[0u32, 1, 4, 8, 77]);
        let sector = self.choices.pick(&[0u64, 1, 3, 4, u64::MAX, 1 << 55]);
        let length = self.choices.pick(&[512u32, 1024, 20, 2048]);
        let direction = if kind == 1 { 0 } else { WRITE };
        self.window.put(DATA, &(u128::from(kind) | u128::from(sector) << 64).to_le_bytes());
        let data = self.base + DATA;
        self.put_descriptor(QUEUE, 0, (data, 16), NEXT, 1);
        self.put_descriptor(QUEUE, 1, (data + 0x100, length), NEXT | direction, 2);
        self.put_descriptor(QUEUE, 2, (data + 0xfff, 1), WRITE, 0);
    }

    fn offer(&mut self) {
        let head = match self.choices.below(8) {
            0 => self.choices.bits() as u16,
            _ => self.choices.below(4) as u16,
        };
        let jump = if self.choices.one_in(16) { self.choices.bits() as u16 } else { 1 };
        self.choices.note(format_args!("offer {head}, index + {jump}"));
        let slot = u64::from(self.available % self.rings.size);
        self.window.put(AVAILABLE + 4 + 2 * slot, &head.to_le_bytes());
        self.available = self.available.wrapping_add(jump);
        self.window.put(AVAILABLE + 2, &self.available.to_le_bytes());
        let event = self.choices.below(4) as u16;
        self.window.put(AVAILABLE + 4 + 2 * u64::from(self.rings.size), &event.to_le_bytes());
    }

    /// The device serves everything while a second vCPU rewrites a byte of
    /// the rings: it must survive, and write nothing beyond a request.
    fn race(&mut self) -> bool {
        let (reads, at) = (self.choices.below(32), QUEUE + self.choices.below(0x800));
        let value = self.choices.below(256) as u8;
        self.choices.note(format_args!("serve; after {reads} reads byte {at:#x} := {value:#x}"));
        *self.window.rewrite.borrow_mut() = Some((reads, at as usize, value));
        for _ in 0..=self.rings.size {
            let Ok(Some(chain)) = self.queue.pop(&self.window) else { break };
            let written = Block::new(&mut self.disk, "fuzz").serve(&self.window, &chain);
            assert!(u64::from(written) <= chain.writable_bytes());
            if self.queue.push(&self.window, &chain, written).is_err() {
                break;
            }
        }
        // The two memories are not the same any more.
        false
    }

    /// The device serves one request; both queues must agree on it.
    fn serve(&mut self) -> bool {
        OTHERS.with(|others| {
            let others = &others[usize::from(self.base == 0)];
            others.write_slice(&self.window.bytes.borrow(), GuestAddress(self.base)).unwrap();
            let ours = self.queue.pop(&self.window);
            self.choices.note(format_args!("serve: {ours:x?}"));
            let Some(other) = self.other.pop_descriptor_chain(others) else {
                assert!(!matches!(ours, Ok(Some(_))), "accepted what rust-vmm does not see");
                return ours.is_ok();
            };
            let head = other.head_index();
            let seen: Vec<Descriptor> = other.collect();
            match ours {
                Ok(Some(chain)) => {
                    if chain.refused().is_some() {
                        assert!(!self.is_honest(&seen), "{chain:?} refused: {seen:?}");
                    } else {
                        self.compare(&chain, &seen);
                    }
                    self.answer(&chain, head, &seen, others)
                }
                Ok(None) => panic!("rust-vmm sees {head}, and it was passed over"),
                Err(error) => {
                    let of_the_ring = matches!(error, Hostile::Address(_));
                    assert!(of_the_ring || !self.is_honest(&seen), "{error:?} for {seen:?}");
                    false
                }
            }
        })
    }

    /// Is it a chain that no rule forbids, as far as rust-vmm tells?
    fn is_honest(&self, seen: &[Descriptor]) -> bool {
        // What rust-vmm follows without a word: where indirect tables are,
        // how long they are, and whether they were agreed at all.
        let table = QUEUE as usize..QUEUE as usize + 0x100;
        let indirect = self.window.bytes.borrow()[table]
            .chunks(16)
            .any(|descriptor| u16::from(descriptor[12]) & INDIRECT != 0);
        if indirect {
            return false;
        }
        let size = u64::from(self.rings.size);
        let areas = [(QUEUE, 16 * size), (AVAILABLE, 6 + 2 * size), (USED, 6 + 8 * size)];
        let areas = areas.map(|(at, bytes)| (self.base + at, bytes));
        let whole = seen.last().is_some_and(|last| !last.has_next());
        let mut writable = seen.iter().skip_while(|buffer| !buffer.is_write_only());
        let mut places = seen.iter().map(|buffer| (buffer.addr().0, u64::from(buffer.len())));
        whole
            && writable.all(Descriptor::is_write_only)
            && places.all(|(start, length)| {
                let end = start.checked_add(length);
                let clear = |end| areas.iter().all(|(at, bytes)| start >= at + bytes || end <= *at);
                length > 0 && end.is_some_and(clear)
            })
    }

    /// The same bytes each way.
    fn compare(&self, chain: &Chain, seen: &[Descriptor]) {
        assert!(seen.last().is_some_and(|last| !last.has_next()), "a chain without end: {seen:?}");
        let bytes = |writable| -> u64 {
            let half = seen.iter().filter(|buffer| buffer.is_write_only() == writable);
            half.map(|buffer| u64::from(buffer.len())).sum()
        };
        assert_eq!(chain.readable_bytes(), bytes(false));
        assert_eq!(chain.writable_bytes(), bytes(true));
        assert!(self.indirect || seen.len() <= usize::from(self.rings.size));
        let mut expected = Vec::new();
        for buffer in seen.iter().filter(|buffer| !buffer.is_write_only()) {
            let Ok(at) = self.window.offset(buffer.addr().0, buffer.len() as usize) else {
                let all = chain.readable_bytes();
                if all < 1 << 20 {
                    let got = chain.read(&self.window, 0, &mut vec![0; all as usize]);
                    assert!(got.is_err(), "read from outside: {seen:?}");
                }
                return;
            };
            expected.extend_from_slice(&self.window.bytes.borrow()[at..at + buffer.len() as usize]);
        }
        let mut got = vec![0; expected.len()];
        assert_eq!(chain.read(&self.window, 0, &mut got), Ok(()));
        assert_eq!(got, expected);
    }

    /// The block backend serves it; nothing but its writable buffers and the
    /// used ring may change.
    fn answer(
        &mut self,
        chain: &Chain,
        head: u16,
        seen: &[Descriptor],
        others: &GuestMemoryMmap,
    ) -> bool {
        let before = self.window.bytes.borrow().clone();
        let disk = self.disk.clone();
        // rust-vmm says no more of a chain than what it follows. Of one that
        // is refused (over 2³² bytes, say) it has not seen the end.
        let given = match chain.refused() {
            None => writable(seen.iter().copied()),
            Some(_) => writable(self.described(&before, head)),
        };
        let written = Block::new(&mut self.disk, "fuzz").serve(&self.window, chain);
        self.choices.note(format_args!("    {written} bytes, refused: {:x?}", chain.refused()));
        let mut changed = 0;
        for (at, (old, new)) in before.iter().zip(self.window.bytes.borrow().iter()).enumerate() {
            let address = self.base + at as u64;
            let inside = |(start, length): &(u64, u64)| {
                *start != 0 && address.checked_sub(*start).is_some_and(|at| at < *length)
            };
            assert!(old == new || given.iter().any(inside), "the device wrote to {address:#x}");
            changed += usize::from(old != new);
        }
        if chain.refused().is_some() {
            assert!(changed <= 1 && written <= 1, "a refused request was served");
            assert_eq!(self.disk, disk);
        }
        assert!(u64::from(written) <= chain.writable_bytes());
        others.write_slice(&self.window.bytes.borrow(), GuestAddress(self.base)).unwrap();
        let interrupt = self.queue.push(&self.window, chain, written).unwrap();
        self.other.add_used(others, head, written).unwrap();
        let wanted = self.other.needs_notification(others).unwrap();
        assert!(!self.event_index || interrupt == wanted, "an interrupt too many or too few");
        let mut ring = vec![0; 4 + 8 * usize::from(self.rings.size)];
        others.read_slice(&mut ring, GuestAddress(self.base + USED)).unwrap();
        let at = USED as usize;
        assert_eq!(self.window.bytes.borrow()[at..at + ring.len()], ring[..], "the used rings");
        true
    }

    /// The chain from `head` as the window's bytes have it, with no rule but
    /// that a table of n descriptors has no more than n in a chain.
    fn described(&self, window: &[u8], head: u16) -> impl Iterator<Item = Descriptor> + use<> {
        let descriptor = |table: u64, index: u16| -> Option<Descriptor> {
            let at = self.window.offset(table.checked_add(16 * u64::from(index))?, 16).ok()?;
            let raw = u128::from_le_bytes(window[at..at + 16].try_into().unwrap());
            Some(Descriptor::new(
                raw as u64,
                (raw >> 64) as u32,
                (raw >> 96) as u16,
                (raw >> 112) as u16,
            ))
        };
        let Rings { size, descriptors, .. } = self.rings;
        let (mut table, mut index, mut left) = (descriptors, head, u32::from(size));
        let mut indirect = false;
        let mut found = Vec::new();
        while let Some(next) = descriptor(table, index).filter(|_| left > 0) {
            if next.refers_to_indirect_table() && !indirect {
                (table, index, left, indirect) = (next.addr().0, 0, next.len() / 16, true);
                continue;
            }
            found.push(next);
            if !next.has_next() {
                break;
            }
            (index, left) = (next.next(), left - 1);
        }
        found.into_iter()
    }
}

/// Places and lengths of the buffers that the driver gave for writing.
fn writable(buffers: impl Iterator<Item = Descriptor>) -> Vec<(u64, u64)> {
    let buffers = buffers.filter(Descriptor::is_write_only);
    buffers.map(|buffer| (buffer.addr().0, u64::from(buffer.len()))).collect()
}
