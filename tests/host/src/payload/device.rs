//! A guest's device, as the host serves it: bouncer's transport in front, a
//! backend of `host` behind, and a window of memory between.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use host::bouncer::{Handle, QueueInfo};
use host::frames::Run;
use host::queue::{Hostile, Queue, Rings};
use host::span::Span;
use hyp::layout;

use super::backend::Backend;
use super::calls::BOUNCER;
use super::lies::Lie;
use super::window::Window;

/// Status bits (virtio 1.4, 2.1).
const DRIVER_OK: u8 = 4;
const NEEDS_RESET: u8 = 64;
/// Feature bits that change how rings are read (virtio 1.4, 6).
const INDIRECT_DESC: u64 = 1 << 28;
const EVENT_IDX: u64 = 1 << 29;
const ACCESS_PLATFORM: u64 = 1 << 33;
/// Most requests served in one go; then the guest runs again (D8, G4).
const BUDGET: usize = 256;

/// Where its queues and buffers may lie.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// In these frames of the host's, behind the bounce BAR.
    Bounce(Run),
    /// In these frames of the host's, named by offsets.
    Memory(Run),
    /// In guest RAM that the guest shared; all its RAM is in this run. A
    /// guest may set this bit in the address of a page that it shared.
    Shared(Run, u64),
    /// Behind the device's window if its driver has accepted ACCESS_PLATFORM;
    /// else in guest RAM, all of which is in this run.
    Choice(Run),
    /// In pages that the guest's I/O table maps: the device's window in the
    /// host's own address space, of which bouncer tells where it is.
    Window,
}

/// What a round of service did.
#[derive(Clone, Copy, Default)]
struct Served {
    /// Requests that were answered.
    requests: usize,
    /// The budget ended before the queue did.
    more: bool,
    /// vCPUs that have an interrupt to notice, one bit each.
    kick: u64,
}

/// A queue the driver enabled.
struct Open {
    queue: Queue,
    window: Window,
    /// Its reset count at that time.
    resets: u32,
}

/// One device.
pub(super) struct Device {
    index: u64,
    pub(super) backend: Backend,
    place: Place,
    queues: Vec<Option<Open>>,
    /// Reset count the queues belong to.
    resets: u32,
    features: u64,
    live: bool,
    /// The driver lets the device access memory.
    master: bool,
    /// Queues that had more than the budget, one bit each.
    unfinished: u64,
    /// When its backend has served so many requests, it takes further ones off
    /// the queue and answers none of them.
    pub(super) silent_after: Option<u64>,
    /// The requests that it took and did not answer.
    pub(super) unanswered: u64,
    /// How it lies to the driver, if it does.
    pub(super) lie: Option<Lie>,
    /// What the driver did last that stopped the device.
    pub(super) failed: Option<Hostile>,
}

impl Device {
    /// Device `index` of a VM, with `queues` queues.
    pub(super) fn new(index: u64, backend: Backend, place: Place, queues: usize) -> Self {
        let queues = (0..queues).map(|_| None).collect();
        Self {
            index,
            backend,
            place,
            queues,
            resets: 0,
            features: 0,
            live: false,
            master: false,
            unfinished: 0,
            silent_after: None,
            unanswered: 0,
            lie: None,
            failed: None,
        }
    }

    /// Takes the disk back.
    pub(super) fn into_disk(self) -> Option<&'static mut [u8]> {
        self.backend.into_disk()
    }

    /// The driver changed the status or reset something: forget queues that
    /// are gone. Nothing touches a ring of theirs afterwards.
    pub(super) fn refresh(&mut self, vm: Handle) {
        let Ok(state) = BOUNCER.device_state(vm, self.index) else { return };
        // One that may not access memory touches no ring, and keeps its place.
        self.master = state.bus_master;
        self.live = state.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK;
        if self.live {
            // Kicks of a time in which it might not.
            self.unfinished |= state.notified;
        }
        self.features = state.features;
        let reset = state.resets != self.resets;
        self.resets = state.resets;
        for (number, slot) in (0u16..).zip(self.queues.iter_mut()) {
            let Some(open) = slot else { continue };
            let same = |info: &QueueInfo| info.enabled && info.resets == open.resets;
            let info = BOUNCER.queue_info(vm, self.index, number);
            if reset || !self.live || !info.as_ref().is_ok_and(same) {
                *slot = None;
            }
        }
    }

    /// Adds the frames in which the rings of its queues begin, of those that
    /// are enabled and in memory that the guest shared.
    pub(super) fn ring_frames(&self, vm: Handle, frames: &mut BTreeSet<u64>) {
        let Place::Shared(ram, alias) = self.place else { return };
        for number in (0u16..).take(self.queues.len()) {
            let Ok(info) = BOUNCER.queue_info(vm, self.index, number) else { continue };
            if !info.enabled {
                continue;
            }
            let rings = [info.descriptors, info.driver, info.device];
            let offsets = rings.into_iter().filter_map(|at| (at & !alias).checked_sub(layout::RAM));
            let pages = offsets.map(|offset| offset >> 12).filter(|page| *page < ram.count);
            frames.extend(pages.map(|page| ram.pfn + page));
        }
    }

    /// The host's addresses of the first 32 MiB of its window, if it has one: as
    /// many as a driver here uses.
    pub(super) fn window(&self, vm: Handle) -> Option<core::ops::Range<u64>> {
        let Place::Window = self.place else { return None };
        let here = BOUNCER.queue_info(vm, self.index, 0).ok()?.here;
        Some(here..here + (32 << 20))
    }

    /// The driver kicked queue `number`: serve what is there, and what comes
    /// of it. Returns the vCPUs that have an interrupt to notice, one bit each.
    pub(super) fn notified(&mut self, vm: Handle, number: u16, out: &mut dyn FnMut(&[u8])) -> u64 {
        if !self.live {
            self.refresh(vm);
        }
        let kick = self.attend(vm, number, out).kick;
        match self.backend.waiting_on() {
            Some(other) if other != number => kick | self.attend(vm, other, out).kick,
            _ => kick,
        }
    }

    /// Serves on where the budget ended, and hands over what waits for a
    /// buffer; `None` if there was nothing to do, else the vCPUs to kick.
    pub(super) fn catch_up(&mut self, vm: Handle, out: &mut dyn FnMut(&[u8])) -> Option<u64> {
        self.backend.look();
        let waiting = self.backend.waiting_on().map_or(0, |number| 1 << number);
        let todo = self.unfinished | waiting;
        let mut all = Served::default();
        for number in (0..64).filter(|number| todo >> number & 1 == 1) {
            let served = self.attend(vm, number, out);
            all.requests += served.requests;
            all.kick |= served.kick;
        }
        (all.requests != 0).then_some(all.kick)
    }

    /// Serves queue `number` for a while. A driver that breaks its rings stops
    /// the device (virtio 1.4, 2.1.2); a request that cannot be served is
    /// answered all the same.
    fn attend(&mut self, vm: Handle, number: u16, out: &mut dyn FnMut(&[u8])) -> Served {
        let bit = 1u64.checked_shl(number.into()).unwrap_or(0);
        if self.live && !self.master {
            return Served::default();
        }
        self.unfinished &= !bit;
        if !self.live {
            return Served::default();
        }
        match self.serve(vm, number, out) {
            Ok(served) => {
                if served.more {
                    self.unfinished |= bit;
                }
                served
            }
            Err(hostile) => Served { kick: self.stop(vm, hostile), ..Served::default() },
        }
    }

    fn stop(&mut self, vm: Handle, hostile: Hostile) -> u64 {
        rt::println!("host: device {} stops, the driver broke a rule: {hostile}", self.index);
        self.live = false;
        self.failed = Some(hostile);
        self.queues.iter_mut().for_each(|slot| *slot = None);
        // Refused only if the driver has reset it meanwhile: as good.
        BOUNCER.device_fail(vm, self.index).unwrap_or(0)
    }

    /// Serves at most [`BUDGET`] requests of a queue.
    fn serve(
        &mut self,
        vm: Handle,
        number: u16,
        out: &mut dyn FnMut(&[u8]),
    ) -> Result<Served, Hostile> {
        let (place, index, features) = (self.place, self.index, self.features);
        let mut served = Served::default();
        let Some(slot) = self.queues.get_mut(usize::from(number)) else { return Ok(served) };
        if slot.is_none() {
            *slot = open(vm, index, number, place, features)?;
        }
        let Some(Open { queue, window, .. }) = slot else { return Ok(served) };
        let mut interrupt = false;
        loop {
            if self.backend.receives_on(number) && self.backend.waiting_on() != Some(number) {
                break;
            }
            served.more = served.requests == BUDGET;
            if served.more {
                break;
            }
            let Some(chain) = queue.pop(window)? else { break };
            if self.silent_after.is_some_and(|most| self.backend.requests() >= most) {
                self.unanswered += 1;
                served.requests += 1;
                continue;
            }
            let written = match self.lie {
                Some(lie) if !lie.serves() => 0,
                _ => self.backend.serve(number, window, &chain, out),
            };
            match self.lie {
                None => interrupt |= queue.push(window, &chain, written)?,
                Some(lie) => {
                    served.kick |=
                        lie.answer((vm, index, number), queue, window, &chain, written)?;
                }
            }
            served.requests += 1;
        }
        if interrupt {
            // Refused only if the driver reset the device meanwhile.
            served.kick |= BOUNCER.device_interrupt(vm, index, number.into()).unwrap_or(0);
        }
        Ok(served)
    }
}

/// The queue the driver set up, if it did.
fn open(
    vm: Handle,
    device: u64,
    number: u16,
    place: Place,
    features: u64,
) -> Result<Option<Open>, Hostile> {
    let Ok(info) = BOUNCER.queue_info(vm, device, number) else { return Ok(None) };
    if !info.enabled {
        return Ok(None);
    }
    // A bounce BAR's rings are told as offsets into it, and guest addresses
    // are on them; the same with an I/O table. Otherwise both are the driver's
    // own words.
    let (span, base) = match place {
        Place::Bounce(run) => {
            let guest = info.window;
            (Span::at(guest, 0, run.base(), run.bytes()), guest)
        }
        Place::Memory(run) => (Span::by_offset(run.base(), run.bytes()), 0),
        Place::Shared(run, alias) => (Span::at(layout::RAM, alias, run.base(), run.bytes()), 0),
        Place::Choice(run) if features & ACCESS_PLATFORM == 0 => {
            (Span::at(layout::RAM, 0, run.base(), run.bytes()), 0)
        }
        Place::Window | Place::Choice(_) => {
            (Span::at(info.window, 0, info.here, info.pages << 12), info.window)
        }
    };
    let window = Window(span);
    let at = |offset: u64| base.checked_add(offset).ok_or(Hostile::Rings);
    let rings = Rings {
        size: info.size,
        descriptors: at(info.descriptors)?,
        driver: at(info.driver)?,
        device: at(info.device)?,
    };
    let queue = Queue::new(rings, features & EVENT_IDX != 0, features & INDIRECT_DESC != 0)?;
    Ok(Some(Open { queue, window, resets: info.resets }))
}
