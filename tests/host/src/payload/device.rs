//! A guest's device, as the host serves it: bouncer's transport in front, a
//! backend of `host` behind, and a window of memory between.

use alloc::vec::Vec;

use host::block::{Block, Traffic};
use host::bouncer::{Handle, QueueInfo};
use host::console::{self, Console};
use host::frames::Run;
use host::queue::{Hostile, Queue, Rings};
use hyp::layout;

use super::calls::BOUNCER;
use super::lies::Lie;
use super::window::Window;

/// Status bits (virtio 1.4, 2.1).
const DRIVER_OK: u8 = 4;
const NEEDS_RESET: u8 = 64;
/// Feature bits that change how rings are read (virtio 1.4, 6).
const INDIRECT_DESC: u64 = 1 << 28;
const EVENT_IDX: u64 = 1 << 29;
/// Most requests served in one go; then the guest runs again (D8, G4).
const BUDGET: usize = 256;

/// What the device does.
pub(super) enum Backend {
    /// A disk.
    Block(Block<'static>),
    /// A console.
    Console(Console),
}

/// Where its queues and buffers may lie.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// In these frames of the host's, behind the bounce BAR.
    Bounce(Run),
    /// In guest RAM that the guest shared; all its RAM is in this run.
    Shared(Run),
}

/// What a round of service did.
struct Served {
    /// The queue was empty at the end.
    all: bool,
    /// vCPUs that have an interrupt to notice, one bit each.
    kick: u64,
}

impl Served {
    const NOTHING: Self = Self { all: true, kick: 0 };
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
    backend: Backend,
    place: Place,
    queues: Vec<Option<Open>>,
    /// Reset count the queues belong to.
    resets: u32,
    features: u64,
    live: bool,
    /// Queues that had more than the budget, one bit each.
    unfinished: u64,
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
            unfinished: 0,
            lie: None,
            failed: None,
        }
    }

    /// What went through, if it is a disk.
    pub(super) fn traffic(&self) -> Option<Traffic> {
        match &self.backend {
            Backend::Block(block) => Some(block.traffic()),
            Backend::Console(_) => None,
        }
    }

    /// Takes the disk back.
    pub(super) fn into_disk(self) -> Option<&'static mut [u8]> {
        match self.backend {
            Backend::Block(block) => Some(block.into_disk()),
            Backend::Console(_) => None,
        }
    }

    /// The driver changed the status or reset something: forget queues that
    /// are gone. Nothing touches a ring of theirs afterwards.
    pub(super) fn refresh(&mut self, vm: Handle) {
        let Ok(state) = BOUNCER.device_state(vm, self.index) else { return };
        self.live = state.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK;
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

    /// The driver kicked queue `number`: serve what is there. Returns the
    /// vCPUs that have an interrupt to notice, one bit each.
    pub(super) fn notified(&mut self, vm: Handle, number: u16, print: &mut dyn FnMut(&str)) -> u64 {
        if !self.live {
            self.refresh(vm);
        }
        let bit = 1u64.checked_shl(number.into()).unwrap_or(0);
        self.unfinished &= !bit;
        if !self.live {
            return 0;
        }
        match self.serve(vm, number, print) {
            Ok(Served { all, kick }) => {
                if !all {
                    self.unfinished |= bit;
                }
                kick
            }
            Err(hostile) => {
                rt::println!(
                    "host: device {} stops, the driver broke a rule: {hostile}",
                    self.index
                );
                self.live = false;
                self.failed = Some(hostile);
                self.queues.iter_mut().for_each(|slot| *slot = None);
                // Refused only if the driver has reset it meanwhile: as good.
                BOUNCER.device_fail(vm, self.index).unwrap_or(0)
            }
        }
    }

    /// Serves on where the budget ended; `None` if there was nothing, else
    /// the vCPUs to kick.
    pub(super) fn catch_up(&mut self, vm: Handle, print: &mut dyn FnMut(&str)) -> Option<u64> {
        let unfinished = self.unfinished;
        let queues = (0..64).filter(|number| unfinished >> number & 1 == 1);
        queues.map(|number| self.notified(vm, number, print)).reduce(|all, kick| all | kick)
    }

    /// Serves at most [`BUDGET`] requests of a queue.
    fn serve(
        &mut self,
        vm: Handle,
        number: u16,
        print: &mut dyn FnMut(&str),
    ) -> Result<Served, Hostile> {
        let (place, index, features) = (self.place, self.index, self.features);
        let Some(slot) = self.queues.get_mut(usize::from(number)) else {
            return Ok(Served::NOTHING);
        };
        if slot.is_none() {
            *slot = open(vm, index, number, place, features)?;
        }
        let Some(Open { queue, window, .. }) = slot else { return Ok(Served::NOTHING) };
        if matches!(self.backend, Backend::Console(_)) && number == console::RECEIVE {
            return Ok(Served::NOTHING);
        }
        let (mut interrupt, mut all, mut kick) = (false, false, 0);
        for _ in 0..BUDGET {
            let Some(chain) = queue.pop(window)? else {
                all = true;
                break;
            };
            let written = match &mut self.backend {
                _ if self.lie.is_some_and(|lie| !lie.serves()) => 0,
                Backend::Block(block) => block.serve(window, &chain)?,
                Backend::Console(console) => {
                    console.transmit(window, &chain)?.iter().for_each(|line| print(line));
                    0
                }
            };
            match self.lie {
                None => interrupt |= queue.push(window, &chain, written)?,
                Some(lie) => kick |= lie.answer((vm, index), queue, window, &chain, written)?,
            }
        }
        if interrupt {
            // Refused only if the driver reset the device meanwhile.
            kick |= BOUNCER.device_interrupt(vm, index, number.into()).unwrap_or(0);
        }
        Ok(Served { all, kick })
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
    // A bounce BAR's rings are told as offsets into it; what is on them are
    // guest addresses in both cases.
    let (window, base) = match place {
        Place::Bounce(run) => {
            let guest = info.window;
            (Window { guest, host: run.base(), bytes: run.bytes() }, guest)
        }
        Place::Shared(run) => {
            (Window { guest: layout::RAM, host: run.base(), bytes: run.bytes() }, 0)
        }
    };
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
