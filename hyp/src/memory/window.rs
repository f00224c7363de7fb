//! What a guest's devices see of its memory: windows in the host's address
//! space.
//!
//! Each device of the policy *shadow-iommu* has 1 GiB of the host's
//! intermediate addresses, and nothing is mapped there but what the guest maps
//! for this device. So the hardware translates for the backend, read-only pages
//! included, and a page is nowhere else in the host's space. What is to be in a
//! window is the guest's to say, in a table of its own (`guest::iotable`, which
//! alone knows the table's format); this module makes it so.
//!
//! A frame in windows is lent to the host *in windows only*
//! ([`super::FrameEntry::in_window`]), with a pin for every mapping. Every
//! other transition begins at one exact entry, so none of them moves it: it
//! cannot be shared, relinquished, or be a table while a device has it.
//!
//! The tables below a window's entry of the host's root are the VM's, from its
//! memcache, and are counted in the VM ([`Stage2::part`]).

use super::frame::FrameEntry;
use super::views::{View, Views};
use super::{GuestId, GuestMemory, HostMemory, Owner, fix_coherency};
use crate::abi::{MAX_DEVICES, MAX_VMS};
use crate::addr::{Gfn, GfnRange, Pfn, PfnRange};
use crate::error::Error;
use crate::layout::APERTURE_SIZE;
use crate::machine::Machine;
use crate::stage2::{Attributes, Broken, Leaves, Mapping, PAGE_LEVEL, Stage2, span};

/// First frame of the host's address space that is for windows: slot × devices
/// per VM + device, 1 GiB each. RAM and devices are below.
pub const WINDOWS: Pfn = match Pfn::containing(0x60_0000_0000) {
    Some(first) => first,
    None => panic!("inside the address space"),
};
/// Frames of a window: what one entry of the root translates.
const WINDOW_PAGES: u64 = APERTURE_SIZE / crate::addr::FRAME_SIZE;
const _: () = assert!(WINDOW_PAGES == span(1) && WINDOWS.number().is_multiple_of(WINDOW_PAGES));
const _: () = assert!(
    WINDOWS.number() + (MAX_VMS * MAX_DEVICES) as u64 * WINDOW_PAGES <= crate::addr::FRAME_LIMIT
);
/// Most pages that one step changes: those of one table.
pub const PART_PAGES: usize = 512;

/// The guest whose window is there, if it is a place for one.
pub(super) fn owner_at(gfn: Gfn) -> Option<GuestId> {
    let window = gfn.number().checked_sub(WINDOWS.number())? / WINDOW_PAGES;
    GuestId::new(window as usize / MAX_DEVICES)
}

/// Why a window is not refreshed. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// The guest asks for what it may not have.
    Refused(Error),
    /// This page of the guest's RAM has no frame yet.
    NoFrame(Gfn),
    /// The memcache is too small for the window's tables.
    NoTables,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Refused(error)
    }
}

/// What a refresh did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Refreshed {
    /// Pages that are mapped now and were not, or otherwise.
    pub mapped: u64,
    /// Pages that were mapped and are not, or otherwise.
    pub unmapped: u64,
    /// Pages that should be mapped and are not: the budget is used up.
    pub left_out: u64,
}

/// The window of one device.
#[derive(Debug)]
pub struct DmaWindow {
    stage2: Stage2,
    /// Where it begins in the host's address space.
    first: Gfn,
    /// Pages mapped now, and at most.
    mapped: u64,
    budget: u64,
    /// The guest's table, if it has set one.
    pub(crate) table: Option<Gfn>,
    /// What was cut off when the guest began to die.
    cut: Option<Pfn>,
}

impl DmaWindow {
    /// Where it begins in the host's address space.
    pub fn first(&self) -> Gfn {
        self.first
    }

    /// Pages that are mapped.
    pub fn mapped(&self) -> u64 {
        self.mapped
    }

    /// Most pages that may be mapped at once.
    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// Tables below the host's root.
    pub fn tables(&self) -> u64 {
        self.stage2.tables()
    }

    /// Does the window have anything in the 2 MiB that page `page` is in?
    pub(crate) fn has_table(&self, m: &impl Machine, page: u64) -> bool {
        let gfn = self.first.checked_add(page);
        gfn.is_some_and(|gfn| self.stage2.table_at(m, PAGE_LEVEL, gfn).is_some())
    }

    /// Pages `page` to `page + count - 1` of it, in the host's address space.
    fn range(&self, page: u64, count: u64) -> Result<GfnRange, Error> {
        let range = GfnRange::new(self.first.number().saturating_add(page), count)?;
        let part = PART_PAGES as u64;
        let inside = range.end() <= self.first.number() + WINDOW_PAGES;
        let one_table = page % part + count <= part;
        if inside && one_table { Ok(range) } else { Err(Error::InvalidParameter) }
    }
}

impl GuestMemory {
    /// The window of a device; `None` if it has none.
    pub fn window(&self, device: usize) -> Option<&DmaWindow> {
        self.windows.get(device)?.as_ref()
    }

    /// The same, to change what does not concern the host.
    pub(crate) fn window_mut(&mut self, device: usize) -> Option<&mut DmaWindow> {
        self.windows.get_mut(device)?.as_mut()
    }

    /// Tables of all its windows.
    pub fn window_tables(&self) -> u64 {
        self.windows.iter().flatten().map(DmaWindow::tables).sum()
    }

    /// Takes one table out of a window that was cut, zeroed.
    pub(super) fn take_window_table(&mut self, m: &impl Machine) -> Option<Pfn> {
        let mut windows = self.windows.iter_mut().flatten();
        windows.find_map(|window| window.stage2.take_cut_table(m, window.cut?))
    }
}

impl HostMemory<'_> {
    /// Gives a device of a guest's a window, with nothing in it.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such device, or it has one.
    pub fn open_window(
        &mut self,
        guest: &mut GuestMemory,
        device: usize,
        budget: u64,
    ) -> Result<(), Error> {
        let number = (guest.id().slot() * MAX_DEVICES + device) as u64;
        let first = Gfn::new(WINDOWS.number() + number * WINDOW_PAGES).ok_or(Error::NotFound)?;
        let place = guest.windows.get_mut(device).filter(|place| place.is_none());
        let stage2 = self.stage2.part();
        *place.ok_or(Error::NotFound)? =
            Some(DmaWindow { stage2, first, mapped: 0, budget, table: None, cut: None });
        Ok(())
    }

    /// The frame of a page of a guest's RAM that nobody else can reach, nor any
    /// device: what EL2 reads there is what the guest wrote.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] if the page is not guest RAM,
    /// [`Error::Denied`] if it is lent, in a window, or pinned.
    pub fn private_frame(
        &self,
        m: &impl Machine,
        guest: &GuestMemory,
        page: Gfn,
    ) -> Result<Pfn, Stop> {
        guest.require_alive()?;
        guest.require_ram(GfnRange::one(page))?;
        let frame = guest.stage2.lookup(m, page).ok_or(Stop::NoFrame(page))?.pfn;
        self.frames.require(PfnRange::one(frame), FrameEntry::owned(guest.party()))?;
        Ok(frame)
    }

    /// Makes the pages of a window from `page` on what `wanted` says, at most
    /// [`PART_PAGES`] and within one table: unmaps first, then maps in order
    /// as long as the budget lasts. When this returns no CPU of the host's has
    /// what is unmapped.
    ///
    /// # Errors
    /// [`Error::BadState`] if the guest is dying; [`Error::NotFound`] if the
    /// device has no window; [`Error::InvalidParameter`] if it does not reach
    /// so far, or a wanted page is not guest RAM; [`Error::Denied`] if one to
    /// be mapped is not the guest's alone but for windows, or is mapped 255
    /// times. [`Stop::NoFrame`] and [`Stop::NoTables`] ask the host.
    pub fn refresh_window(
        &mut self,
        m: &impl Machine,
        guest: &mut GuestMemory,
        device: usize,
        page: u64,
        wanted: &Views,
    ) -> Result<Refreshed, Stop> {
        guest.require_alive()?;
        let party = guest.party();
        let mut frames = Views::default();
        find_frames(m, guest, wanted, &mut frames)?;
        let GuestMemory { memcache, windows, .. } = guest;
        let window = windows.get_mut(device).and_then(Option::as_mut).ok_or(Error::NotFound)?;
        let gfns = window.range(page, wanted.pages())?;

        let mut was = Views::default();
        window.stage2.for_each_leaf_run(m, gfns, |leaf, count| {
            let view = leaf.map(|leaf| View::new(leaf.pfn.number(), leaf.attributes.is_writable()));
            was.push(view.unwrap_or(View::NOTHING), count);
        });
        // What changes: of what stays as it is, nothing is left in either.
        let mut gone = Views::default();
        let mut coming = Views::default();
        let (mut done, mut wants) = (Refreshed::default(), false);
        was.for_each_pair(&frames, |was, wanted, count| {
            let changes = was != wanted;
            let one_of = |view| if changes { view } else { View::NOTHING };
            gone.push(one_of(was), count);
            coming.push(one_of(wanted), count);
            done.unmapped += if one_of(was) == View::NOTHING { 0 } else { count };
            wants |= one_of(wanted) != View::NOTHING;
        });
        let room = window.budget - (window.mapped - done.unmapped);
        if wants && room > 0 {
            let first = GfnRange::one(gfns.start());
            let mapping = mapping(first, WINDOWS, Attributes::WINDOW);
            if window.stage2.tables_to_map(m, &mapping) > memcache.len() {
                return Err(Stop::NoTables);
            }
        }
        if done.unmapped == 0 && !wants {
            return Ok(done);
        }
        self.move_pins(party, &gone, &mut coming, room, &mut done)?;

        let mut broken = Broken::new();
        gone.for_each_stretch(|from, count| {
            let stretch = part(gfns, from, count);
            window.stage2.break_range(m, memcache, stretch, &mut broken);
        });
        window.stage2.invalidate_broken(m, memcache, broken);
        // Also of what stays mapped elsewhere: the right to write may be what
        // has gone, and what was written past the caches goes with it.
        gone.frames().for_each(|(_, run, _)| fix_coherency(m, run));
        for (from, run, view) in coming.frames() {
            fix_coherency(m, run);
            let mapping = mapping(part(gfns, from, run.count()), run.start(), view.attributes());
            window.stage2.map(m, memcache, &mapping);
        }
        if done.mapped > 0 {
            m.publish();
        }
        window.mapped = window.mapped - done.unmapped + done.mapped;
        Ok(done)
    }

    /// The last step of prepare, and the first of commit: pins of what is
    /// unmapped go, then each page to be mapped gets one, until there is no
    /// more `room`. The rest is left out, and is nothing in `coming` afterwards.
    fn move_pins(
        &mut self,
        party: Owner,
        gone: &Views,
        coming: &mut Views,
        room: u64,
        done: &mut Refreshed,
    ) -> Result<(), Error> {
        let frames = &mut self.frames;
        let own = FrameEntry::owned(party);
        let once = own.into_window(party).ok_or(Error::Denied)?;
        // Nearly always: neighbours that have one mapping, and neighbours that
        // have none.
        for (_, run, _) in gone.frames() {
            if frames.require(run, once).is_ok() {
                frames.change(run, once, own);
                continue;
            }
            for frame in run.iter() {
                frames.set(frame, frames.get(frame).out_of_window());
            }
        }
        let (mut plain, mut count, mut end) = (true, 0, 0);
        for (_, run, _) in coming.frames() {
            // In ascending order none is there twice.
            plain &= run.start().number() >= end && frames.require(run, own).is_ok();
            (count, end) = (count + run.count(), run.end());
        }
        if plain && count <= room {
            coming.frames().for_each(|(_, run, _)| frames.change(run, own, once));
            done.mapped = count;
            return Ok(());
        }
        let taken = coming.each_frame().try_for_each(|frame| {
            let pinned = frames.get(frame).into_window(party).ok_or(Error::Denied)?;
            if done.mapped == room {
                done.left_out += 1;
            } else {
                frames.set(frame, pinned);
                done.mapped += 1;
            }
            Ok(())
        });
        if taken.is_err() {
            // As if it had not been tried: the same steps back.
            for frame in coming.each_frame().take(done.mapped as usize) {
                frames.set(frame, frames.get(frame).out_of_window());
            }
            for frame in gone.each_frame() {
                let entry = frames.get(frame);
                frames.set(frame, entry.into_window(party).unwrap_or(entry));
            }
        }
        coming.keep(done.mapped);
        taken
    }

    /// Unmaps what there is in the first 2 MiB of a window that have something.
    /// Returns how many pages.
    ///
    /// # Errors
    /// As [`Self::refresh_window`].
    pub fn empty_window(
        &mut self,
        m: &impl Machine,
        guest: &mut GuestMemory,
        device: usize,
    ) -> Result<u64, Stop> {
        let window = guest.window(device).ok_or(Error::NotFound)?;
        let all = GfnRange::new(window.first.number(), WINDOW_PAGES)?;
        let Some(first) = window.stage2.first_mapped(m, all) else { return Ok(0) };
        let page = (first.number() - window.first.number()) & !(PART_PAGES as u64 - 1);
        let mut nothing = Views::default();
        nothing.push(View::NOTHING, PART_PAGES as u64);
        Ok(self.refresh_window(m, guest, device, page, &nothing)?.unmapped)
    }

    /// A guest begins to die: nothing of it is in any window, on any CPU.
    pub(super) fn cut_windows(&mut self, m: &impl Machine, guest: &mut GuestMemory) {
        let mut hull: Option<(u64, u64)> = None;
        for window in guest.windows.iter_mut().flatten() {
            window.cut = window.stage2.cut(m, window.first);
            if window.cut.is_some() {
                let start = window.first.number();
                hull = Some((hull.map_or(start, |(first, _)| first), start + WINDOW_PAGES));
            }
        }
        if let Some(range) = hull.and_then(|(start, end)| GfnRange::new(start, end - start).ok()) {
            m.invalidate(self.stage2.regime(), range);
        }
    }
}

fn mapping(gfns: GfnRange, first: Pfn, attributes: Attributes) -> Mapping {
    Mapping { gfns, first, attributes, leaves: Leaves::Pages }
}

/// `count` pages of a range that has them, from its page `from` on.
fn part(range: GfnRange, from: u64, count: u64) -> GfnRange {
    match GfnRange::new(range.start().number() + from, count) {
        Ok(part) => part,
        Err(_) => unreachable!("a part of a checked range"),
    }
}

/// The frames of pages of the guest's, which all must be its RAM: appended to
/// `frames`. (A list is large: it is filled where it stays.)
fn find_frames(
    m: &impl Machine,
    guest: &GuestMemory,
    pages: &Views,
    frames: &mut Views,
) -> Result<(), Stop> {
    let range = |first: View, count| first.number().map(|first| GfnRange::new(first, count));
    for (_, first, count) in pages.iter() {
        range(first, count).map_or(Ok(()), |pages| guest.require_ram(pages?))?;
    }
    for (_, first, count) in pages.iter() {
        let Some(pages) = range(first, count) else {
            frames.push(View::NOTHING, count);
            continue;
        };
        let (pages, mut found, mut hole) = (pages?, 0, false);
        guest.stage2.for_each_leaf_run(m, pages, |leaf, count| match leaf {
            Some(leaf) if !hole => {
                frames.push(View::new(leaf.pfn.number(), first.is_writable()), count);
                found += count;
            }
            _ => hole = true,
        });
        if hole {
            return Err(Stop::NoFrame(part(pages, found, 1).start()));
        }
    }
    Ok(())
}
