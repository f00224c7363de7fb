//! The next thing to do.

use core::sync::atomic::Ordering::Relaxed;

use hyp::abi::{self, host as id};

use super::arguments::odd;
use super::mix::Mix;
use super::program;
use super::random::Random;
use super::world::{RAM, Slot, World, stage};

/// How memory is touched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touch {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An exclusive pair.
    Atomic,
    /// DC ZVA.
    Zero,
}

/// One thing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// HVC #0.
    Hvc {
        /// x0.
        function: u64,
        /// x1 to x5.
        arguments: [u64; 5],
    },
    /// SMC #0.
    Smc {
        /// x0.
        function: u64,
        /// x1 to x3.
        arguments: [u64; 3],
    },
    /// An access to memory.
    Touch {
        /// Where.
        address: u64,
        /// How.
        touch: Touch,
    },
    /// Writes a program for a guest into frames of the arena.
    Load {
        /// The first of [`program::PAGES`] frames.
        pfn: u64,
        /// Of the program.
        seed: u64,
        /// Pages of RAM of the guest.
        pages: u64,
    },
}

/// Frames of a VM's first page-table memory.
const MEMCACHE: u64 = 12;
/// Pages of a bounce BAR: 64 KiB, the least.
const WINDOW: u64 = 16;

/// One CPU's part of a run.
#[derive(Clone, Debug)]
pub struct Generator {
    random: Random,
    mix: Mix,
    /// What must follow the step before.
    next: Option<Step>,
}

impl Generator {
    /// CPU `cpu` of the run with this seed.
    pub fn new(seed: u64, cpu: usize, mix: Mix) -> Self {
        let mut random = Random::new(seed ^ (cpu as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        random.bits();
        Self { random, mix, next: None }
    }

    /// The next step.
    pub fn step(&mut self, world: &World) -> Step {
        if let Some(step) = self.next.take() {
            return step;
        }
        let step = self.kind(world);
        let bent = if self.random.one_in(self.mix.bend) { self.bend(world, step) } else { step };
        self.tamed(world, bent)
    }

    fn kind(&mut self, world: &World) -> Step {
        let Mix { touch, smc, garbage, query, life, .. } = self.mix;
        let mut number = self.random.below(touch + smc + garbage + query + life);
        for (share, step) in [
            (touch, Self::touch as fn(&mut Self, &World) -> Step),
            (smc, Self::smc),
            (garbage, Self::garbage),
            (query, Self::query),
        ] {
            if number < share {
                return step(self, world);
            }
            number -= share;
        }
        self.life(world)
    }

    fn hvc(function: u32, arguments: &[u64]) -> Step {
        let mut all = [0; 5];
        all.iter_mut().zip(arguments).for_each(|(to, from)| *to = *from);
        Step::Hvc { function: function.into(), arguments: all }
    }

    fn touch(&mut self, world: &World) -> Step {
        let frame = match self.random.below(8) {
            0 if !world.arena.bouncer.is_empty() => *self.random.pick(&world.arena.bouncer),
            // Flash, fw_cfg, virtio-mmio, the ECAM, beyond RAM.
            1 => *self.random.pick(&[0, 0x9020, 0xa000, 0x9030, 0x3f000, 0x401_0000, 0x6f_ffff]),
            _ => world.arena.first + self.random.below(world.arena.count),
        };
        let touch = *self.random.pick(&[
            Touch::Read,
            Touch::Read,
            Touch::Write,
            Touch::Atomic,
            Touch::Zero,
        ]);
        Step::Touch { address: (frame << 12) + 8 * self.random.below(512), touch }
    }

    fn smc(&mut self, world: &World) -> Step {
        let known = [0x8400_0000, 0x8400_000a, 0xc400_0004, 0xc400_0003, 0xc400_0001, 0x8000_0000];
        let function = match self.random.below(3) {
            0 => odd(&mut self.random),
            1 => 0x8400_0000 + self.random.below(0x30),
            _ => *self.random.pick(&known),
        };
        // Standby at most, and CPUs that are on already.
        let second = if self.random.one_in(2) { world.arena.first << 12 } else { 0 };
        Step::Smc { function, arguments: [self.random.below(8), second, odd(&mut self.random)] }
    }

    fn garbage(&mut self, world: &World) -> Step {
        let function = match self.random.below(8) {
            0 => odd(&mut self.random),
            1 => u64::from(id::VERSION) + self.random.below(0x40) + (1 << 32),
            _ => u64::from(id::VERSION) + self.random.below(0x18),
        };
        let mut arguments = [0; 5];
        for argument in &mut arguments {
            *argument = odd(&mut self.random);
        }
        if self.random.one_in(2) {
            arguments[0] = self.any_handle(world);
        }
        Step::Hvc { function, arguments }
    }

    fn query(&mut self, world: &World) -> Step {
        let handle = self.any_handle(world);
        let pfn = self.any_frame(world);
        let index = self.random.below(24);
        match self.random.below(7) {
            6 => Self::hvc(id::ABORT_STYLE, &[index % 3]),
            0 => Self::hvc(id::EVENT_NEXT, &[]),
            1 => Self::hvc(id::FRAME_STATE, &[pfn]),
            2 => Self::hvc(id::STATS, &[handle, index]),
            3 => Self::hvc(id::STATS, &[0, index]),
            4 => Self::hvc(id::VM_MEASUREMENT, &[handle, index & 1]),
            _ => Self::hvc(*self.random.pick(&[id::VERSION, id::FEATURES]), &[]),
        }
    }

    fn any_handle(&mut self, world: &World) -> u64 {
        let handle = self.random.pick(&world.slots).handle.load(Relaxed);
        // A former life of the slot, or one to come.
        match self.random.below(12) {
            0 => handle.wrapping_add(0x100),
            1 => handle.wrapping_sub(0x100),
            _ => handle,
        }
    }

    fn any_frame(&mut self, world: &World) -> u64 {
        world.arena.first + self.random.below(world.arena.count)
    }

    /// `count` frames that are believed to be the host's, if a few looks find
    /// them; any frames otherwise.
    fn free_frames(&mut self, world: &World, count: u64) -> u64 {
        let mut pfn = self.any_frame(world);
        for _ in 0..8 {
            if (pfn..pfn + count).all(|pfn| world.owner(pfn) == 0) {
                break;
            }
            pfn = self.any_frame(world);
        }
        pfn
    }

    /// A step that makes sense for some VM.
    fn life(&mut self, world: &World) -> Step {
        let number = self.random.below(self.mix.vms.min(abi::MAX_VMS as u64)) as u8;
        let Some(slot) = world.slots.get(usize::from(number)) else {
            return Self::hvc(id::VERSION, &[]);
        };
        match slot.stage.load(Relaxed) {
            stage::BUILDING => self.build(world, slot),
            stage::RUNNING => self.serve(world, slot),
            stage::DYING => self.bury(world, slot, number + 1),
            _ => {
                let pfn = self.free_frames(world, MEMCACHE);
                let (pages, vcpus) = (8 + self.random.below(48), 1 + self.random.below(4));
                let realm = if self.random.one_in(self.mix.realms) { abi::CREATE_RSI } else { 0 };
                let console = if self.random.one_in(4) { abi::CREATE_CONSOLE } else { 0 };
                let zeroes = if self.random.one_in(3) { abi::CREATE_SHARE_ZEROES } else { 0 };
                let flags = realm | console | zeroes;
                Self::hvc(id::VM_CREATE, &[pfn, MEMCACHE, pages, vcpus, flags])
            }
        }
    }

    fn build(&mut self, world: &World, slot: &Slot) -> Step {
        let (handle, next) = (slot.handle.load(Relaxed), slot.next.load(Relaxed));
        let (window, lent) = (slot.window.load(Relaxed), slot.lent.load(Relaxed));
        let pages = slot.pages.load(Relaxed);
        if next < program::PAGES {
            let pfn = self.free_frames(world, program::PAGES);
            let donate = [handle, pfn, RAM, program::PAGES, abi::DONATE_MEASURED];
            self.next = Some(Self::hvc(id::FRAME_DONATE, &donate));
            return Step::Load { pfn, seed: self.random.bits(), pages };
        }
        match self.random.below(20) {
            0..=8 => self.donate(world, handle, RAM + next, pages.saturating_sub(next)),
            9 | 10 => {
                // Mostly one that FRAME_SHARE has something to do for.
                let policy = *self.random.pick(&[0, 0, 0, 1, 2, 2, 2, 3, 4, 5]);
                let pages = match policy {
                    abi::POLICY_SHARED_PAGES | abi::POLICY_LEGACY => 0,
                    _ => WINDOW,
                };
                let kind = 1 + self.random.below(4);
                let queues = (1 + self.random.below(3)) | self.random.below(10) << 16;
                Self::hvc(id::DEVICE_CREATE, &[handle, kind, policy, pages, queues])
            }
            11..=15 if lent < window => {
                let count = 1 + self.random.below(window - lent);
                let pfn = self.free_frames(world, count);
                Self::hvc(id::FRAME_SHARE, &[handle, 0, lent, pfn, count])
            }
            16 | 17 => self.device(handle),
            18 => self.reclaim(world, handle, 0),
            _ => Self::hvc(id::VM_FINALISE, &[handle, abi_ram(), self.random.bits()]),
        }
    }

    fn serve(&mut self, world: &World, slot: &Slot) -> Step {
        let (handle, pages) = (slot.handle.load(Relaxed), slot.pages.load(Relaxed));
        let fault = slot.fault.load(Relaxed);
        let runs = self.mix.runs;
        match self.random.below(runs + 16).checked_sub(runs) {
            None => {
                let vcpu = self.random.below(slot.vcpus.load(Relaxed).max(1));
                Self::hvc(id::VCPU_RUN, &[handle, vcpu, self.random.bits()])
            }
            Some(0..=5) => {
                let left = (RAM + pages).saturating_sub(fault);
                self.donate(world, handle, fault, left)
            }
            Some(6 | 7) => {
                let pfn = self.free_frames(world, 4);
                Self::hvc(id::VM_TOPUP, &[handle, pfn, 4])
            }
            Some(8..=12) => self.device(handle),
            Some(13) => self.reclaim(world, handle, 0),
            _ => Self::hvc(id::VM_STOP, &[handle]),
        }
    }

    fn bury(&mut self, world: &World, slot: &Slot, number: u8) -> Step {
        let handle = slot.handle.load(Relaxed);
        match self.random.below(16) {
            0 => Self::hvc(id::VM_STOP, &[handle]),
            1 => Self::hvc(id::VCPU_RUN, &[handle, 0, 0]),
            2 | 3 => Self::hvc(id::VM_DESTROY, &[handle]),
            _ => self.reclaim(world, handle, number),
        }
    }

    fn donate(&mut self, world: &World, handle: u64, gfn: u64, most: u64) -> Step {
        let count = 1 + self.random.below(most.clamp(1, 8));
        let pfn = self.free_frames(world, count);
        Self::hvc(id::FRAME_DONATE, &[handle, pfn, gfn, count, 0])
    }

    /// A frame believed to be this owner's, or any: beliefs may be wrong, and
    /// a VM whose last frame was forgotten could never be destroyed.
    fn reclaim(&mut self, world: &World, handle: u64, owner: u8) -> Step {
        let start = self.any_frame(world);
        let frames = world.arena.count + abi::MAX_RANGE;
        let around =
            (0..frames).map(|step| world.arena.first + (start - world.arena.first + step) % frames);
        let mut known = around.filter(|pfn| owner != 0 && world.owner(*pfn) == owner);
        let pfn = if self.random.one_in(4) { start } else { known.next().unwrap_or(start) };
        let more = (1..8).take_while(|more| owner != 0 && world.owner(pfn + more) == owner);
        let count = if self.random.one_in(3) { 1 } else { 1 + more.count() as u64 };
        Self::hvc(id::FRAME_RECLAIM, &[handle, pfn, count])
    }

    fn device(&mut self, handle: u64) -> Step {
        let (value, queue) = (self.random.bits(), self.random.below(4));
        let offset = self.random.below(64);
        match self.random.below(6) {
            5 => Self::hvc(id::UART_LINE, &[handle, value & 1]),
            0 => Self::hvc(id::DEVICE_STATE, &[handle, 0]),
            1 => Self::hvc(id::QUEUE_INFO, &[handle, 0, queue, value % 3]),
            2 => Self::hvc(id::DEVICE_INTERRUPT, &[handle, 0, queue]),
            3 => Self::hvc(id::DEVICE_CONFIG, &[handle, 0, offset % 16, value, 1 << queue]),
            _ => Self::hvc(id::DEVICE_FAIL, &[handle, 0]),
        }
    }

    /// The same with one argument wrong.
    fn bend(&mut self, world: &World, step: Step) -> Step {
        let Step::Hvc { function, mut arguments } = step else { return step };
        let index = self.random.below(5) as usize;
        let value = match self.random.below(5) {
            0 => self.any_handle(world),
            1 => self.any_frame(world),
            2 if !world.arena.bouncer.is_empty() => *self.random.pick(&world.arena.bouncer),
            3 => arguments.get(index).map_or(0, |value| value.wrapping_add(1)),
            _ => odd(&mut self.random),
        };
        if let Some(argument) = arguments.get_mut(index) {
            *argument = value;
        }
        Step::Hvc { function, arguments }
    }

    /// The same, but it neither takes the host's home away nor ends the run.
    fn tamed(&mut self, world: &World, step: Step) -> Step {
        match step {
            Step::Hvc { function, mut arguments } => {
                // Where frame and count are.
                let place = match u32::try_from(function) {
                    Ok(id::VM_CREATE) => Some((0, 1)),
                    Ok(id::VM_TOPUP | id::FRAME_RECLAIM) => Some((1, 2)),
                    Ok(id::FRAME_DONATE) => Some((1, 3)),
                    Ok(id::FRAME_SHARE) => Some((3, 4)),
                    _ => None,
                };
                if let Some((frame, count)) = place
                    && !world.arena.is_harmless(arguments[frame], arguments[count])
                {
                    arguments[frame] = self.any_frame(world);
                }
                Step::Hvc { function, arguments }
            }
            // CPU_OFF, SYSTEM_OFF, SYSTEM_RESET.
            Step::Smc { function: 0x8400_0002 | 0x8400_0008 | 0x8400_0009, arguments } => {
                Step::Smc { function: 0x8400_0000, arguments }
            }
            other => other,
        }
    }
}

/// Where programs begin.
const fn abi_ram() -> u64 {
    RAM << 12
}
