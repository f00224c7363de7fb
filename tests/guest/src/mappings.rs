//! A driver's buffers behind an I/O table.
//!
//! What the table maps the device sees, whole pages of it. So only a buffer
//! that is made of whole pages can be mapped where it is; every other is copied
//! to pages that hold nothing else. Long-lived small things (request headers,
//! status bytes) live in a pool that is mapped once.
//!
//! How unmapping is told is the mode. It decides what a request costs, and what
//! the device still sees when its driver believes it is done.

#![allow(unsafe_code)]

use crate::iommu::{Domain, Refresh};
use crate::iotable::TablePages;
use crate::lending::PAGE;
use crate::runs::Runs;
use crate::slots::{Counters, Direction, Slots};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ptr::NonNull;

/// When the hypervisor is told that a page is no longer mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// At once: a call to map and one to unmap.
    Strict,
    /// When up to [`QUEUE`] pages wait, for all of them. Until then the device still
    /// sees them, so they are in quarantine: nobody gets them, and what the
    /// device did to them meanwhile is wiped before anybody does.
    Lazy,
    /// As Lazy, but pages are used again at once, as Linux does it: the device
    /// sees what their next owner puts there. Here to be shown, not to be used.
    Naive,
    /// Never: all buffers are copied through a pool that stays mapped.
    Kept,
}

/// Most pages in quarantine before they are told of, as many as Linux has in a
/// queue (IOVA_FQ_SIZE); in a small arena half of that.
pub const QUEUE: u64 = 256;

/// Pages set aside for a device: where this program finds them and what their
/// guest physical address is.
#[derive(Clone, Copy, Debug)]
pub struct Arena {
    /// The first byte, of a page.
    pub base: *mut u8,
    /// Its guest physical address.
    pub ipa: u64,
    /// How many pages.
    pub pages: u64,
}

/// What was done besides mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Use {
    /// Bytes copied, buffers mapped or given slots, and both undone.
    pub copied: Counters,
    /// Buffers that were mapped where they are.
    pub in_place: u64,
    /// Bytes of mapped pages that were not the buffer's. They are zeros.
    pub beyond: u64,
    /// Most pages at once that the driver was done with and the device saw.
    pub stale: u64,
}

/// Some pages that are mapped.
#[derive(Clone, Copy, Debug)]
struct Piece {
    iova: u64,
    /// Guest physical.
    page: u64,
    count: u64,
    /// A buffer's own pages, not the arena's.
    in_place: bool,
}

/// A device's DMA memory.
pub struct Mappings<P, C> {
    /// What the device sees.
    pub domain: Domain<P, C>,
    mode: Mode,
    arena: Arena,
    /// Pages of the arena, by guest physical number.
    free: Runs,
    /// The pool, and its first address.
    pool: Slots,
    pool_at: (u64, usize),
    pool_iova: u64,
    live: BTreeMap<u64, Piece>,
    quarantine: Vec<Piece>,
    used: Use,
}

// SAFETY: the pointer is to memory that belongs to this value alone (see `new`).
unsafe impl<P: Send, C: Send> Send for Mappings<P, C> {}

const BYTES: u64 = PAGE as u64;

impl<P: TablePages, C: Refresh> Mappings<P, C> {
    /// Memory for a device that sees `domain`: `arena`, of which `pool` pages
    /// are mapped now and stay. `None` if they could not be.
    ///
    /// # Safety
    /// The arena must be mapped, writable, page-aligned, used by no other part
    /// of the program, and stay so for as long as the value lives.
    pub unsafe fn new(
        mut domain: Domain<P, C>,
        mode: Mode,
        arena: Arena,
        pool: u64,
    ) -> Option<Self> {
        let first = arena.ipa / BYTES;
        let mut free = Runs::new(first..first + arena.pages);
        let page = free.take(pool)? * BYTES;
        // SAFETY: the caller's promise.
        unsafe { core::ptr::write_bytes(arena.base, 0, arena.pages as usize * PAGE) };
        let pool_iova = domain.map(page, pool, true).ok()?;
        let (here, bytes) = (arena.base.wrapping_add((page - arena.ipa) as usize), pool * BYTES);
        // SAFETY: as above; `free` does not give these pages out.
        let slots = unsafe { Slots::new(here, bytes as usize) };
        Some(Self {
            domain,
            mode,
            arena,
            free,
            pool: slots,
            pool_at: (here as u64, bytes as usize),
            pool_iova,
            live: BTreeMap::new(),
            quarantine: Vec::new(),
            used: Use::default(),
        })
    }

    /// Pages for rings, zeroed: where the device and where the driver finds
    /// them. `None` if there is no room.
    pub fn allocate(&mut self, pages: usize) -> Option<(u64, NonNull<u8>)> {
        let piece = self.place(pages as u64, true)?;
        Some((piece.iova, NonNull::new(self.here(piece.page))?))
    }

    /// Takes them back; false if they are none.
    pub fn release(&mut self, iova: u64, pages: usize) -> bool {
        let piece = self.live.get(&iova).copied();
        let piece = piece.filter(|piece| piece.count == pages as u64 && !piece.in_place);
        piece.is_some_and(|piece| {
            self.live.remove(&iova);
            self.end_at_once(piece)
        })
    }

    /// Shows `buffer` to the device; at which address. `None` if there is no
    /// room, or the hypervisor refuses. If it then does not take back what it
    /// had mapped, and the buffer was to be used in place, the buffer's pages
    /// may be the device's for ever, and still are the caller's: only the
    /// domain's `lost_pages` tells.
    ///
    /// # Safety
    /// The buffer must be valid and nobody's but the driver's and the device's
    /// until [`Self::unshare`]; its bytes must be writable if the device shall
    /// write them.
    pub unsafe fn share(&mut self, buffer: NonNull<[u8]>, to: Direction) -> Option<u64> {
        let length = buffer.len();
        if self.mode == Mode::Kept || length < PAGE {
            // SAFETY: the caller's promise.
            let slot = self.pool.share(unsafe { buffer.as_ref() }, to)?;
            return Some(self.pool_iova + (slot as u64 - self.pool_at.0));
        }
        let count = length.div_ceil(PAGE) as u64;
        let writable = to != Direction::ToDevice;
        let start = buffer.cast::<u8>().as_ptr();
        let whole = (start as usize).is_multiple_of(PAGE) && length.is_multiple_of(PAGE);
        self.used.copied.shares += 1;
        if whole && self.mode == Mode::Strict {
            if to == Direction::FromDevice {
                // What it held is nobody's business.
                // SAFETY: the caller's promise.
                unsafe { core::ptr::write_bytes(start, 0, length) };
            }
            let page = self.ipa_of(start);
            let iova = self.domain.map(page, count, writable).ok()?;
            self.live.insert(iova, Piece { iova, page, count, in_place: true });
            self.used.in_place += 1;
            return Some(iova);
        }
        let piece = self.place(count, writable)?;
        self.used.beyond += count * BYTES - length as u64;
        if to != Direction::FromDevice {
            // SAFETY: the pages are ours alone and long enough; the buffer is
            // the caller's and so disjoint.
            unsafe { core::ptr::copy_nonoverlapping(start, self.here(piece.page), length) };
            self.used.copied.bytes_in += length as u64;
        }
        Some(piece.iova)
    }

    /// Ends what [`Self::share`] began: copies out once what the device wrote.
    /// False, and nothing done, if `iova` is no buffer of that length.
    ///
    /// # Safety
    /// `buffer` must be the one that was shared.
    pub unsafe fn unshare(&mut self, iova: u64, mut buffer: NonNull<[u8]>, to: Direction) -> bool {
        if self.mode == Mode::Kept || buffer.len() < PAGE {
            let offset = iova.wrapping_sub(self.pool_iova);
            let slot = self.pool_at.0.wrapping_add(offset) as *mut u8;
            // SAFETY: the caller's promise.
            return self.pool.unshare(slot, unsafe { buffer.as_mut() }, to);
        }
        let count = buffer.len().div_ceil(PAGE) as u64;
        let Some(piece) = self.live.get(&iova).copied().filter(|piece| piece.count == count) else {
            return false;
        };
        self.live.remove(&iova);
        self.used.copied.unshares += 1;
        let bounced = !piece.in_place && to != Direction::ToDevice;
        if bounced {
            let from = self.here(piece.page);
            // SAFETY: the pages this buffer was given. The device may still be
            // writing: a torn copy is its loss, and the copy is what counts.
            unsafe {
                core::ptr::copy_nonoverlapping(from, buffer.cast::<u8>().as_ptr(), buffer.len());
            }
            self.used.copied.bytes_out += buffer.len() as u64;
        }
        match self.mode {
            Mode::Lazy => self.end_later(piece),
            Mode::Naive => {
                self.end_later(piece);
                // Here is the mistake: somebody gets it while the device has it.
                self.wipe(piece);
                self.free.give(piece.page / BYTES, piece.count).is_ok()
            }
            Mode::Strict | Mode::Kept => self.end_at_once(piece),
        };
        true
    }

    /// A page of the arena for something else, not mapped: where this program
    /// finds it. `None` if all are in use or in quarantine.
    pub fn take_private(&mut self) -> Option<NonNull<u8>> {
        let page = self.free.take(1)?;
        NonNull::new(self.here(page * BYTES))
    }

    /// Takes it back, wiped; false if it was none.
    pub fn give_private(&mut self, page: NonNull<u8>) -> bool {
        let ipa = self.ipa_of(page.as_ptr());
        if self.free.give(ipa / BYTES, 1).is_err() {
            return false;
        }
        self.wipe(Piece { iova: 0, page: ipa, count: 1, in_place: false });
        true
    }

    /// Pages of the arena, mapped. If there are none, what is in quarantine is
    /// told of first.
    fn place(&mut self, count: u64, writable: bool) -> Option<Piece> {
        let page = self.free.take(count).or_else(|| {
            self.flush();
            self.free.take(count)
        })?;
        let lost = self.domain.counters.lost_pages;
        let mut mapped = self.domain.map(page * BYTES, count, writable);
        if mapped.is_err() && self.domain.counters.lost_pages == lost {
            self.flush();
            mapped = self.domain.map(page * BYTES, count, writable);
        }
        let Ok(iova) = mapped else {
            // Pages that may be the device's for ever are nobody's.
            if self.domain.counters.lost_pages == lost {
                _ = self.free.give(page, count);
            }
            return None;
        };
        let piece = Piece { iova, page: page * BYTES, count, in_place: false };
        self.live.insert(iova, piece);
        Some(piece)
    }

    /// Unmaps now. Pages whose return is refused are never used again.
    fn end_at_once(&mut self, piece: Piece) -> bool {
        if self.domain.unmap(piece.iova, piece.count).is_err() {
            return false;
        }
        if piece.in_place {
            return true;
        }
        self.wipe(piece);
        self.free.give(piece.page / BYTES, piece.count).is_ok()
    }

    fn end_later(&mut self, piece: Piece) -> bool {
        self.domain.forget(piece.iova, piece.count);
        self.quarantine.push(piece);
        let stale: u64 = self.quarantine.iter().map(|piece| piece.count).sum();
        self.used.stale = self.used.stale.max(stale);
        stale < QUEUE.min(self.arena.pages / 2) || self.flush()
    }

    /// Tells of everything in quarantine and lets it out, wiped. False if the
    /// hypervisor refused: then it stays there.
    pub fn flush(&mut self) -> bool {
        if self.quarantine.is_empty() {
            return true;
        }
        if self.domain.flush().is_err() {
            return false;
        }
        let mut all = true;
        for piece in core::mem::take(&mut self.quarantine) {
            all &= self.domain.release(piece.iova, piece.count).is_ok();
            if self.mode != Mode::Naive {
                self.wipe(piece);
                all &= self.free.give(piece.page / BYTES, piece.count).is_ok();
            }
        }
        all
    }

    fn wipe(&mut self, piece: Piece) {
        // SAFETY: pages of the arena that nobody uses.
        unsafe {
            core::ptr::write_bytes(self.here(piece.page), 0, piece.count as usize * PAGE);
        }
    }

    /// Where this program finds a page of the arena.
    fn here(&self, page: u64) -> *mut u8 {
        self.arena.base.wrapping_add((page - self.arena.ipa) as usize)
    }

    /// The guest physical address of a byte.
    fn ipa_of(&self, byte: *mut u8) -> u64 {
        (byte as u64).wrapping_sub(self.arena.base as u64).wrapping_add(self.arena.ipa)
    }

    /// What was done so far, slots of the pool included.
    pub fn used(&self) -> Use {
        let pool = self.pool.counters();
        let mut used = self.used;
        used.copied.bytes_in += pool.bytes_in;
        used.copied.bytes_out += pool.bytes_out;
        used.copied.shares += pool.shares;
        used.copied.unshares += pool.unshares;
        used
    }

    /// Most pages of the arena in use at once, the pool's included.
    pub fn most(&self) -> u64 {
        self.free.most()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iommu::tests::Hypervisor;
    use crate::iotable::tests::Shared;

    const IPA: u64 = 0x4080_0000;
    const PAGES: usize = 64;

    #[repr(align(4096))]
    #[derive(Clone)]
    struct Page(#[expect(dead_code, reason = "reached through pointers")] [u8; PAGE]);

    /// Memory of the guest's: the arena, and behind it pages of a driver's.
    struct Guest {
        memory: Vec<Page>,
        mappings: Mappings<Shared, Hypervisor>,
    }

    impl Guest {
        fn new(mode: Mode, budget: usize) -> Self {
            let mut memory = alloc::vec![Page([0xee; PAGE]); PAGES + 8];
            let tables = Shared::of(8);
            let hypervisor = Hypervisor::new(&tables, budget);
            let domain = Domain::new(tables, hypervisor, (hyp::layout::APERTURE, 4096)).unwrap();
            let base = memory.as_mut_ptr().cast();
            let arena = Arena { base, ipa: IPA, pages: PAGES as u64 };
            // SAFETY: the pages live as long as the mappings and are looked at
            // through pointers.
            let mappings = unsafe { Mappings::new(domain, mode, arena, 4) }.unwrap();
            Self { memory, mappings }
        }

        /// A buffer of the driver's, `at` bytes into its pages.
        fn buffer(&mut self, at: usize, length: usize, fill: u8) -> NonNull<[u8]> {
            let start = self.memory.as_mut_ptr().cast::<u8>().wrapping_add(PAGES * PAGE + at);
            // SAFETY: inside the driver's pages.
            unsafe { start.write_bytes(fill, length) };
            NonNull::slice_from_raw_parts(NonNull::new(start).unwrap(), length)
        }

        fn share(&mut self, buffer: NonNull<[u8]>, to: Direction) -> Option<u64> {
            // SAFETY: a test's buffer, alive and untouched.
            unsafe { self.mappings.share(buffer, to) }
        }

        fn unshare(&mut self, iova: u64, buffer: NonNull<[u8]>, to: Direction) -> bool {
            // SAFETY: as above.
            unsafe { self.mappings.unshare(iova, buffer, to) }
        }

        /// The byte that the device sees at `iova`, and whether it may write.
        fn seen(&mut self, iova: u64) -> Option<(*mut u8, bool)> {
            let view = self.mappings.domain.calls.view.borrow();
            let (page, writable) = view.get(&(iova & !0xfff)).copied()?;
            let offset = (page - IPA + (iova & 0xfff)) as usize;
            Some((self.memory.as_mut_ptr().cast::<u8>().wrapping_add(offset), writable))
        }

        fn read(&mut self, iova: u64) -> Option<u8> {
            // SAFETY: inside the guest's memory.
            self.seen(iova).map(|(byte, _)| unsafe { byte.read_volatile() })
        }

        fn write(&mut self, iova: u64, value: u8) -> bool {
            match self.seen(iova) {
                // SAFETY: inside the guest's memory.
                Some((byte, true)) => unsafe {
                    byte.write_volatile(value);
                    true
                },
                _ => false,
            }
        }

        fn calls(&self) -> u64 {
            self.mappings.domain.counters.calls()
        }
    }

    fn bytes(buffer: NonNull<[u8]>) -> Vec<u8> {
        // SAFETY: a test's buffer.
        unsafe { buffer.as_ref().to_vec() }
    }

    /// One request of 4 KiB: header, data, status.
    fn request(guest: &mut Guest, to: Direction) -> (u64, u64) {
        let header = guest.buffer(0, 16, 1);
        let data = guest.buffer(PAGE, PAGE, 2);
        let status = guest.buffer(16, 1, 3);
        let before = guest.calls();
        let one = guest.share(header, Direction::ToDevice).unwrap();
        let two = guest.share(data, to).unwrap();
        let three = guest.share(status, Direction::FromDevice).unwrap();
        assert!(guest.unshare(one, header, Direction::ToDevice));
        assert!(guest.unshare(two, data, to));
        assert!(guest.unshare(three, status, Direction::FromDevice));
        (guest.calls() - before, two)
    }

    #[test]
    fn a_request_of_4_kib_takes_two_calls_or_one_for_many_or_none() {
        let mut strict = Guest::new(Mode::Strict, 100);
        assert_eq!(request(&mut strict, Direction::FromDevice).0, 2);
        assert_eq!(strict.mappings.used().in_place, 1);
        assert_eq!(strict.mappings.used().stale, 0);
        let mut kept = Guest::new(Mode::Kept, 100);
        assert_eq!(request(&mut kept, Direction::FromDevice).0, 0);
        let mut lazy = Guest::new(Mode::Lazy, 100);
        // Half of the arena is in quarantine then.
        let half = PAGES as u64 / 2;
        let calls: u64 = (0..half).map(|_| request(&mut lazy, Direction::FromDevice).0).sum();
        // What is in use, and the empty rest of the aperture.
        assert_eq!(calls, half + 2);
        assert_eq!(lazy.mappings.domain.counters.global, 1);
        assert_eq!(lazy.mappings.used().stale, half);
    }

    #[test]
    fn a_whole_page_is_mapped_where_it_is_and_only_as_far_as_it_must_be() {
        let mut guest = Guest::new(Mode::Strict, 100);
        let buffer = guest.buffer(PAGE, PAGE, 0x11);
        let iova = guest.share(buffer, Direction::ToDevice).unwrap();
        assert_eq!((guest.read(iova), guest.write(iova, 9)), (Some(0x11), false));
        assert!(guest.unshare(iova, buffer, Direction::ToDevice));
        assert_eq!(guest.read(iova), None);
        // What it held is not shown to a device that shall write it.
        let iova = guest.share(buffer, Direction::FromDevice).unwrap();
        assert_eq!((guest.read(iova), guest.write(iova, 9)), (Some(0), true));
        assert!(guest.unshare(iova, buffer, Direction::FromDevice));
        assert_eq!((bytes(buffer)[0], guest.write(iova, 7)), (9, false));
        assert_eq!(guest.mappings.used().beyond, 0);
    }

    #[test]
    fn a_buffer_with_neighbours_is_copied_and_they_are_not_seen() {
        for mode in [Mode::Strict, Mode::Lazy] {
            let mut guest = Guest::new(mode, 100);
            guest.buffer(0, 3 * PAGE, 0x77);
            let buffer = guest.buffer(100, PAGE + 500, 0x11);
            let iova = guest.share(buffer, Direction::Both).unwrap();
            let seen: Vec<u8> = (0..2 * BYTES).map(|at| guest.read(iova + at).unwrap()).collect();
            assert!(seen.iter().take(PAGE + 500).all(|byte| *byte == 0x11));
            assert!(seen.iter().skip(PAGE + 500).all(|byte| *byte == 0), "{mode:?}");
            assert!(guest.write(iova, 0x22));
            assert!(guest.unshare(iova, buffer, Direction::Both));
            assert_eq!(bytes(buffer)[..2], [0x22, 0x11]);
            assert_eq!(guest.mappings.used().beyond, BYTES - 500);
        }
    }

    /// A transfer, then somebody else's secret in the first page that is free:
    /// does the device see it where the buffer was?
    fn sees_the_next_owner(mode: Mode) -> bool {
        let mut guest = Guest::new(mode, 100);
        let buffer = guest.buffer(PAGE + 100, PAGE, 0);
        let stale = guest.share(buffer, Direction::FromDevice).unwrap();
        assert!(guest.unshare(stale, buffer, Direction::FromDevice));
        let secret = guest.mappings.take_private().unwrap();
        // SAFETY: a page of our own.
        unsafe { secret.as_ptr().write_bytes(0x5e, PAGE) };
        let seen = guest.read(stale) == Some(0x5e);
        assert!(guest.mappings.give_private(secret));
        assert!(!guest.mappings.give_private(secret));
        seen
    }

    #[test]
    fn only_the_naive_mode_shows_a_page_to_the_device_of_its_last_owner() {
        assert!(sees_the_next_owner(Mode::Naive));
        for mode in [Mode::Strict, Mode::Lazy, Mode::Kept] {
            assert!(!sees_the_next_owner(mode), "{mode:?}");
        }
    }

    #[test]
    fn what_a_device_leaves_in_quarantine_is_wiped() {
        let mut guest = Guest::new(Mode::Lazy, 100);
        let buffer = guest.buffer(PAGE, PAGE, 0);
        let iova = guest.share(buffer, Direction::FromDevice).unwrap();
        assert!(guest.unshare(iova, buffer, Direction::FromDevice));
        // It is still there, and writes; the driver has its copy.
        assert!(guest.write(iova, 0x66));
        assert_eq!(bytes(buffer)[0], 0);
        let (byte, _) = guest.seen(iova).unwrap();
        assert!(guest.mappings.flush());
        // SAFETY: inside the guest's memory.
        assert_eq!(unsafe { byte.read_volatile() }, 0);
        assert!(!guest.write(iova, 0x66));
    }

    #[test]
    fn a_refused_flush_lets_nothing_out() {
        let mut guest = Guest::new(Mode::Lazy, 100);
        let buffer = guest.buffer(PAGE, PAGE, 0);
        let iova = guest.share(buffer, Direction::FromDevice).unwrap();
        assert!(guest.unshare(iova, buffer, Direction::FromDevice));
        guest.mappings.domain.calls.refuses = alloc::vec![-4];
        assert!(!guest.mappings.flush());
        assert_eq!(guest.mappings.quarantine.len(), 1);
        assert!(guest.mappings.flush() && guest.mappings.quarantine.is_empty());
    }

    #[test]
    fn lazy_makes_room_before_it_gives_up() {
        // The pool has 4 of 12; so has a quarantine that is never full.
        let mut guest = Guest::new(Mode::Lazy, 12);
        for _ in 0..40 {
            let buffer = guest.buffer(0, 6 * PAGE, 1);
            let iova = guest.share(buffer, Direction::ToDevice).unwrap();
            assert!(guest.unshare(iova, buffer, Direction::ToDevice));
        }
        let buffer = guest.buffer(0, 8 * PAGE, 1);
        let iova = guest.share(buffer, Direction::ToDevice).unwrap();
        assert!(guest.mappings.allocate(1).is_none());
        assert!(guest.unshare(iova, buffer, Direction::ToDevice));
        assert!(guest.mappings.allocate(1).is_some());
        assert_eq!(guest.mappings.domain.counters.lost_pages, 0);
    }

    #[test]
    fn a_page_that_unmapping_was_refused_for_is_never_used_again() {
        let mut guest = Guest::new(Mode::Strict, 100);
        let (lost, _) = guest.mappings.allocate(1).unwrap();
        let there = guest.seen(lost).unwrap().0;
        guest.mappings.domain.calls.refuses = alloc::vec![-4];
        assert!(!guest.mappings.release(lost, 1));
        assert_eq!(guest.mappings.domain.counters.lost_pages, 1);
        while let Some((iova, _)) = guest.mappings.allocate(1) {
            assert_ne!(guest.seen(iova).unwrap().0, there);
        }
    }

    #[test]
    fn a_page_that_a_refused_map_has_lost_is_not_tried_again() {
        let mut guest = Guest::new(Mode::Strict, 100);
        // The map is refused, and then that nothing of it stays.
        guest.mappings.domain.calls.refuses = alloc::vec![-4, -4];
        assert!(guest.mappings.allocate(1).is_none());
        assert_eq!(guest.mappings.domain.counters.lost_pages, 1);
        let mut left = 0;
        while guest.mappings.allocate(1).is_some() {
            left += 1;
        }
        // All but the pool and what was lost.
        assert_eq!(left, PAGES - 4 - 1);
    }

    #[test]
    fn an_address_that_is_no_buffers_is_not_believed() {
        for mode in [Mode::Strict, Mode::Kept] {
            let mut guest = Guest::new(mode, 100);
            let buffer = guest.buffer(PAGE, PAGE, 4);
            let iova = guest.share(buffer, Direction::FromDevice).unwrap();
            for wrong in [0, iova + BYTES, iova - 64, u64::MAX] {
                assert!(!guest.unshare(wrong, buffer, Direction::FromDevice));
            }
            assert!(guest.unshare(iova, buffer, Direction::FromDevice));
            assert!(!guest.unshare(iova, buffer, Direction::FromDevice));
            assert!(!guest.mappings.release(iova, 1));
        }
    }
}
