//! Building a guest's devices: each with its backend, its configuration and
//! the memory that it may use.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use host::block::Block;
use host::bouncer::Refusal;
use host::console::Console;
use host::entropy::Entropy;
use host::frames::{FreeFrames, Run};
use host::net::{Net, Segment};
use hyp::abi;
use hyp::error::Error;
use spin::Mutex;

use super::build::{BLOCK, clear, take};
use super::{ALIAS, Problem, Vm, no_memory, step};
use crate::payload::backend::Backend;
use crate::payload::calls::BOUNCER;
use crate::payload::clock;
use crate::payload::device::{Device, Place};
use crate::payload::window;

/// Virtio device types.
const TYPE_NETWORK: u64 = 1;
const TYPE_BLOCK: u64 = 2;
const TYPE_CONSOLE: u64 = 3;
const TYPE_ENTROPY: u64 = 4;
/// Pages of bounce memory of devices that move little: 64 KiB.
pub(in crate::payload) const FEW_PAGES: u64 = 16;
/// Pages of a network card's: 1 MiB.
const NETWORK_PAGES: u64 = 256;

/// Descriptors of a queue of a console or an entropy source. A stock driver
/// fills what it finds: Linux a console's receive queue, with pages.
const SMALL_QUEUE: u64 = 64;
/// Descriptors of the other devices' queues: as many as there can be.
const LARGE_QUEUE: u64 = 256;

/// A device to be made.
pub(in crate::payload) enum DevicePlan {
    /// A disk over these bytes, with so many pages of bounce memory; with an I/O
    /// table so many that may be mapped at once.
    Disk(&'static mut [u8], u64),
    /// A console with so many pages of bounce memory.
    Console(u64),
    /// A source of random bytes, made from these.
    Entropy(Vec<u8>),
    /// A network card that is plugged in there.
    Net(Arc<Mutex<Segment>>),
}

impl Vm {
    /// Makes a device and its backend.
    pub(super) fn add_device(
        &mut self,
        free: &Mutex<FreeFrames>,
        plan: DevicePlan,
        policy: u64,
    ) -> Result<(), Problem> {
        let (kind, queues, size, bounce_pages) = match plan {
            DevicePlan::Disk(_, pages) => (TYPE_BLOCK, 1, LARGE_QUEUE, pages),
            DevicePlan::Console(pages) => (TYPE_CONSOLE, 2, SMALL_QUEUE, pages),
            DevicePlan::Entropy(_) => (TYPE_ENTROPY, 1, SMALL_QUEUE, FEW_PAGES),
            DevicePlan::Net(_) => (TYPE_NETWORK, 2, LARGE_QUEUE, NETWORK_PAGES),
        };
        let pages = match policy {
            abi::POLICY_SHARED_PAGES | abi::POLICY_LEGACY => 0,
            _ => bounce_pages,
        };
        let index = BOUNCER
            .device_create(self.handle, kind, policy, pages, (queues, size))
            .map_err(step("DEVICE_CREATE"))?;
        if let Some(expected) = self.expected.lock().as_mut() {
            expected.device([kind, policy, pages, queues, size]);
        }
        let place = match policy {
            abi::POLICY_SHARED_PAGES | abi::POLICY_LEGACY => {
                Place::Shared(self.ram, if self.is_realm() { ALIAS } else { 0 })
            }
            abi::POLICY_DEVICE_MEMORY => Place::Memory(self.share_bounce(free, index, pages)?),
            abi::POLICY_SHADOW_IOMMU => {
                window::reach(self.handle, index)?;
                Place::Window
            }
            abi::POLICY_GUEST_CHOICE => {
                window::reach(self.handle, index)?;
                Place::Choice(self.ram)
            }
            _ => Place::Bounce(self.share_bounce(free, index, pages)?),
        };
        let backend = self.backend(plan, index)?;
        self.devices.push(Mutex::new(Device::new(index, backend, place, queues as usize)));
        Ok(())
    }

    /// The program behind device `index`; fills the device's configuration.
    fn backend(&self, plan: DevicePlan, index: u64) -> Result<Backend, Problem> {
        let configure = |offset, value, bytes| {
            BOUNCER
                .device_config(self.handle, index, offset, value, bytes)
                .map_err(step("DEVICE_CONFIG"))
        };
        Ok(match plan {
            DevicePlan::Disk(disk, _) => {
                let block = Block::new(disk, "bouncer-disk");
                // virtio 1.4, 5.2.4: capacity in sectors, seg_max, blk_size.
                configure(0, block.capacity(), 8)?;
                configure(12, 64, 4)?;
                configure(20, 512, 4)?;
                Backend::Block(block)
            }
            DevicePlan::Console(_) => Backend::Console(Console::default()),
            DevicePlan::Entropy(seed) => Backend::Entropy(Entropy::new(&seed)),
            DevicePlan::Net(segment) => {
                let net = Net::new(segment, clock::milliseconds_now);
                // 5.1.4: the MAC address.
                let mac = net.mac().iter().rev().fold(0, |mac, byte| mac << 8 | u64::from(*byte));
                configure(0, mac, 6)?;
                Backend::Net(Box::new(net))
            }
        })
    }

    /// Lends frames to be the memory that the device brings.
    fn share_bounce(
        &mut self,
        free: &Mutex<FreeFrames>,
        device: u64,
        pages: u64,
    ) -> Result<Run, Problem> {
        let run = take(free, pages, BLOCK, "bounce memory")?;
        clear(run);
        self.bounce.push(run);
        let mut page = 0;
        while page < pages {
            let count = (pages - page).min(abi::MAX_RANGE);
            match BOUNCER.frame_share(self.handle, device, page, run.pfn + page, count) {
                Ok(0) => return Err(no_memory("FRAME_SHARE made no progress")),
                Ok(done) => page += done,
                Err(Refusal::Error(Error::NoMemory)) => self.top_up(free)?,
                Err(refusal) => return Err(step("FRAME_SHARE")(refusal)),
            }
        }
        Ok(run)
    }
}
