//! Accesses of a guest and calls of its host, with the promises of virtio
//! 1.4 and of the DMA contract checked after every step.

// The walk needs a part of it, the unit tests the rest.
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) mod platform;

use super::Choices;
use crate::abi::CAUSE_CONFIG;
use crate::addr::Gfn;
use crate::layout;
use crate::virtio::{MAX_QUEUES, Policy, QueueInfo};
use platform::*;
use std::vec::Vec;

/// Each shares its line with another.
const DEVICES: usize = 8;

/// What a device was created with.
#[derive(Clone, Copy)]
struct Contract {
    policy: Policy,
    offered: u64,
    mandatory: u64,
    pages: u64,
    queues: u16,
    /// Most descriptors of a queue.
    size: u16,
}

/// How often each thing happened; a test of silence would prove nothing.
#[derive(Default, Debug)]
struct Seen {
    features_ok: u32,
    driver_ok: u32,
    enabled: u32,
    broken: u32,
    kicks: u32,
    messages: u32,
    withheld: u32,
    lines: u32,
    shared_lines: u32,
    closed: u32,
    denied: u32,
}

struct Walk<'a> {
    choices: Choices<'a>,
    platform: Platform,
    contracts: [Contract; DEVICES],
    queues: [[QueueInfo; MAX_QUEUES]; DEVICES],
    status: [u8; DEVICES],
    /// Bounce pages in the guest's stage 2: where, and whose.
    mapped: Vec<(Gfn, usize, u64)>,
    seen: Seen,
}

impl<'a> Walk<'a> {
    fn new(choices: Choices<'a>) -> Self {
        let mut platform = Platform::empty();
        let base = 1 << 28 | 1 << 29 | 1 << 32 | 1 << 33 | 1 << 35 | 1 << 38 | 1 << 40;
        let contracts = [
            (2, Policy::BounceBar, 16, (3, 256), base | 1 << 27 | 1 << 9),
            (1, Policy::BounceBar, 48, (2, 64), base | 1 << 27),
            (2, Policy::SharedPages, 0, (8, 256), base | 1 << 9),
            (4, Policy::DeviceMemory, 256, (1, 256), base | 1 << 44),
            (3, Policy::DeviceMemory, 16, (2, 2), base | 1 << 44),
            (4, Policy::LegacyNoPlatform, 0, (1, 256), base & !(1 << 33)),
            (2, Policy::ShadowIommu, 8, (2, 16), base | 1 << 9),
            (4, Policy::GuestChoice, 8, (1, 128), base),
        ]
        .map(|(device_type, policy, pages, (queues, size), offered)| {
            let index = platform.bus.create(device_type, policy, pages, queues, size).unwrap();
            platform.place_bars(index);
            Contract { policy, offered, mandatory: features(policy), pages, queues, size }
        });
        Self {
            choices,
            platform,
            contracts,
            queues: [[QueueInfo::default(); MAX_QUEUES]; DEVICES],
            status: [0; DEVICES],
            mapped: Vec::new(),
            seen: Seen::default(),
        }
    }

    /// Numbers that are interesting somewhere.
    fn value(&mut self) -> u64 {
        let boundary = self.choices.pick(&[
            0,
            1,
            2,
            0xffff,
            0xffff_ffff,
            u64::MAX,
            layout::PCI_MEM32,
            layout::PCI_MEM64,
            layout::PCI_MEM64 >> 32,
            layout::RAM,
        ]);
        match self.choices.below(4) {
            0 => boundary,
            1 => boundary.wrapping_add(self.choices.below(0x4_0000)).wrapping_sub(0x1_0000),
            2 => 1 << self.choices.below(64),
            _ => self.choices.bits(),
        }
    }

    // ---- one step -------------------------------------------------------------

    fn step(&mut self) {
        let device = self.choices.below(DEVICES as u64) as usize;
        match self.choices.below(16) {
            0..4 => self.register_access(device),
            4 => self.config_access(device),
            5 => self.place(device),
            6 => self.messages(device),
            7 | 8 => self.negotiate(device),
            9 | 10 => self.enable(device),
            11 | 12 => self.kick(device),
            13 => self.touch_bounce(),
            14 => self.interrupt(device),
            _ => self.host(device),
        }
    }

    fn register_access(&mut self, device: usize) {
        let page = self.choices.pick(&[0, 0, 0x400, 0x800, 0x1000, 0x2000, 0x3000]);
        let offset = page + self.choices.below(80);
        let size = self.choices.pick(&[1, 2, 4, 8]);
        let offset = if self.choices.below(4) == 0 { offset } else { offset & !(size as u64 - 1) };
        let address = register_base(device) + offset;
        if self.choices.below(2) == 0 {
            self.choices.note(format_args!("read {address:#x} ({size} bytes)"));
            self.platform.read(address, size);
        } else {
            let value = self.value();
            self.choices.note(format_args!("write {address:#x} ({size} bytes) := {value:#x}"));
            self.platform.write(address, size, value);
        }
    }

    fn config_access(&mut self, device: usize) {
        let register = self.choices.below(0x110);
        let size = self.choices.pick(&[1, 2, 4, 8]);
        if self.choices.below(2) == 0 {
            self.choices
                .note(format_args!("device {device}: read config {register:#x} ({size} bytes)"));
            self.platform.config_read(device, register, size);
        } else {
            let register = self.choices.pick(&[4, 0x10, 0x18, 0x1c, 0x94, 0xb0, register]);
            let value = self.value();
            self.choices.note(format_args!(
                "device {device}: config {register:#x} ({size} bytes) := {value:#x}"
            ));
            self.platform.config_write(device, register, size, value);
        }
    }

    /// Puts the BARs where they belong, one of them sometimes elsewhere.
    fn place(&mut self, device: usize) {
        let elsewhere = self.choices.below(DEVICES as u64) as usize;
        self.platform.config_write(device, BAR0, 4, register_base(device));
        self.platform.config_write(device, BAR2, 4, bounce_base(elsewhere));
        self.platform.config_write(device, BAR2 + 4, 4, bounce_base(0) >> 32);
        let command = self.choices.pick(&[MEMORY | MASTER, MEMORY | MASTER, MEMORY, 7 | 0x400]);
        self.choices.note(format_args!(
            "device {device}: BAR 2 where {elsewhere}'s is, command {command:#x}"
        ));
        self.platform.config_write(device, COMMAND, 2, command);
    }

    /// MSI-X on, off or masked, and a vector written.
    fn messages(&mut self, device: usize) {
        let place = self.platform.msix_place(device);
        let control = self.choices.pick(&[0x8000, 0x8000, 0xc000, 0]);
        self.platform.config_write(device, place + 2, 2, control);
        let entry = register_base(device) + 0x2000 + 16 * self.choices.below(10);
        let mask = self.choices.pick(&[0, 0, 0, 1]);
        self.choices.note(format_args!(
            "device {device}: MSI-X {control:#x}, entry {entry:#x} mask {mask}"
        ));
        self.platform.write(entry + 12, 4, mask);
    }

    fn common_write(&mut self, device: usize, field: u64, size: u8, value: u64) {
        self.choices.note(format_args!("device {device}: common {field:#x} := {value:#x}"));
        self.platform.write(register_base(device) + field, size, value);
    }

    fn negotiate(&mut self, device: usize) {
        let Contract { offered, mandatory, .. } = self.contracts[device];
        let noise = 1 << self.choices.below(64);
        let features = self.choices.pick(&[mandatory, offered, offered ^ noise, mandatory ^ noise]);
        let broken = self.status[device] & (64 | 128) != 0;
        if self.choices.below(8) < if broken { 6 } else { 1 } {
            self.common_write(device, STATUS, 1, 0);
        }
        for (select, word) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
            self.common_write(device, DRIVER_FEATURE_SELECT, 4, select);
            self.common_write(device, DRIVER_FEATURE, 4, word);
        }
        let status = self.choices.pick(&[3, 11, 11, 15]);
        self.common_write(device, STATUS, 1, status);
        let status = self.choices.pick(&[11, 15, 15, 15, 15, 15, 15, 128]);
        self.common_write(device, STATUS, 1, status);
    }

    fn enable(&mut self, device: usize) {
        let Contract { policy, pages, queues, size, .. } = self.contracts[device];
        let translated = policy == Policy::GuestChoice && self.choices.below(2) == 0;
        let policy = if translated { Policy::ShadowIommu } else { policy };
        let (base, length) = addresses(policy, device, pages);
        let queue = self.choices.below(u64::from(queues) + 1);
        self.common_write(device, QUEUE_SELECT, 2, queue);
        let size = self.choices.pick(&[1, 16, 64, 256, 3, 0, size.into(), size.into()]);
        self.common_write(device, QUEUE_SIZE, 2, size);
        for field in [QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE] {
            let address = match self.choices.below(64) {
                0 => self.value(),
                2 => 0,
                1 => base + length - 16 * self.choices.below(300),
                _ => base + 16 * self.choices.below(length / 32),
            };
            self.common_write(device, field, 8, address);
        }
        let vector = self.choices.below(10);
        self.common_write(device, QUEUE_VECTOR, 2, vector);
        self.common_write(device, QUEUE_ENABLE, 2, 1);
        if self.choices.below(8) == 0 {
            self.common_write(device, QUEUE_RESET, 2, 1);
        }
    }

    fn kick(&mut self, device: usize) {
        let queue = self.choices.pick(&[0, 0, 1, 1, 2, 7, 8]);
        let size = self.choices.pick(&[2, 2, 4, 1, 8]);
        self.choices.note(format_args!("device {device}: kick {queue} ({size} bytes)"));
        self.platform.write(register_base(device) + 0x1000 + 4 * queue, size, queue);
    }

    /// The guest touches bounce memory: EL2 maps the page lazily.
    fn touch_bounce(&mut self) {
        let elsewhere = self.choices.below(DEVICES as u64) as usize;
        let address = bounce_base(elsewhere) + self.choices.below(64) * 4096;
        let gfn = Gfn::containing(address).unwrap();
        if self.mapped.iter().any(|(mapped, ..)| *mapped == gfn) {
            return;
        }
        if let Some((device, page)) = self.platform.bus.bounce_page_at(gfn) {
            self.choices.note(format_args!("touch {address:#x}: page {page} of device {device}"));
            self.mapped.push((gfn, device, page));
        }
    }

    /// H6: an interrupt is delivered or refused by the rules, never else.
    fn interrupt(&mut self, device: usize) {
        let cause = self.choices.pick(&[0, 0, 1, 7, 8, CAUSE_CONFIG]);
        self.choices.note(format_args!("host: device {device}, interrupt {cause:#x}"));
        let live = self.status[device] & (4 | 64 | 128) == 4;
        let allowed = match cause {
            CAUSE_CONFIG => self.status[device] & 4 != 0,
            queue if queue < u64::from(self.contracts[device].queues) => {
                live && self.queues[device][queue as usize].enabled
            }
            _ => false,
        };
        assert_eq!(self.platform.interrupt(device, cause).is_ok(), allowed);
        self.seen.denied += u32::from(!allowed);
    }

    fn host(&mut self, device: usize) {
        if self.choices.below(8) == 0 {
            self.choices.note(format_args!("host: device {device} fails"));
            let _ = self.platform.fail(device);
        } else {
            let (offset, value) = (self.choices.below(70), self.choices.bits());
            let bytes = self.choices.below(10) as u8;
            self.choices.note(format_args!(
                "host: device {device}, config {offset} := {value:#x} ({bytes} bytes)"
            ));
            if let Ok(effects) = self.platform.bus.config_write(device, offset, value, bytes, true)
            {
                self.platform.carry_out(effects);
            }
        }
    }

    // ---- what must hold after it -------------------------------------------------

    fn check(&mut self) {
        let was_set_up = self.status.iter().any(|status| status & 4 != 0);
        for device in 0..DEVICES {
            self.check_device(device);
        }
        let messages = self.platform.messages.drain(..).count() as u32;
        assert!(messages == 0 || was_set_up, "a message before any DRIVER_OK");
        self.seen.messages += messages;
        for line in 0..4 {
            let devices = (0..DEVICES).filter(|device| (device + 1) % 4 == line);
            let asserting = devices.filter(|device| self.asserts(*device)).count();
            assert_eq!(self.platform.lines[line], asserting != 0, "line {line}");
            self.seen.lines += u32::from(asserting != 0);
            self.seen.shared_lines += u32::from(asserting > 1);
        }
        for (device, queue) in std::mem::take(&mut self.platform.kicks) {
            let command = self.platform.config_read(device, COMMAND, 2);
            assert_eq!(command & MASTER, MASTER, "a kick of a device that is no bus master");
            assert_eq!(self.status[device] & (4 | 64 | 128), 4);
            assert!(self.queues[device][usize::from(queue)].enabled);
            self.seen.kicks += 1;
        }
        self.check_stage2();
    }

    /// Does the device assert its line, by what configuration space says?
    fn asserts(&mut self, device: usize) -> bool {
        let msix = self.platform.msix_place(device) + 2;
        let [command, status, control] =
            [COMMAND, COMMAND + 2, msix].map(|at| self.platform.config_read(device, at, 2));
        let asserts = status & 8 != 0 && command & 0x400 == 0 && control & 0x8000 == 0;
        assert!(!asserts || self.status[device] & 4 != 0, "a line before DRIVER_OK");
        asserts
    }

    fn check_device(&mut self, device: usize) {
        let contract = self.contracts[device];
        let state = self.platform.bus.state(device).unwrap();
        let master = self.platform.config_read(device, COMMAND, 2) & MASTER != 0;
        assert_eq!(state.bus_master, master);
        assert!(master || state.notified == 0, "told of a kick while it is no bus master");
        self.seen.withheld += u32::from(!master && state.status & 4 != 0);
        if state.status & 8 != 0 {
            assert_eq!(state.features & !contract.offered, 0);
            assert_eq!(state.features & contract.mandatory, contract.mandatory);
            self.seen.features_ok += 1;
        } else {
            assert_eq!((state.status & 4, state.features), (0, 0));
        }
        self.seen.driver_ok += u32::from(state.status & 4 != 0);
        self.seen.broken += u32::from(state.status & 64 != 0);
        for queue in 0..contract.queues {
            let info = self.platform.bus.queue(device, queue).unwrap();
            let before = self.queues[device][usize::from(queue)];
            if before.enabled && info.resets == before.resets {
                assert_eq!(info, before, "an enabled queue changed");
            }
            if info.enabled {
                assert_ne!(state.status & 8, 0);
                self.check_rings(contract, info, state.features);
                self.seen.enabled += 1;
            } else {
                assert_eq!(state.notified & 1 << queue, 0);
            }
            self.queues[device][usize::from(queue)] = info;
        }
        assert!(state.notified == 0 || state.status & 4 != 0);
        assert_eq!(state.notified >> contract.queues, 0);
        self.status[device] = state.status;
    }

    fn check_rings(&self, contract: Contract, info: QueueInfo, agreed: u64) {
        let size = u64::from(info.size);
        assert!(size.is_power_of_two() && info.size <= contract.size);
        let (own, table) = (contract.pages * 4096, 1 << 30);
        let (limit, translated) = match contract.policy {
            Policy::BounceBar => (own, true),
            Policy::DeviceMemory => (own, false),
            Policy::SharedPages | Policy::LegacyNoPlatform => (1 << 39, false),
            Policy::ShadowIommu => (table, true),
            Policy::GuestChoice if agreed & 1 << 33 != 0 => (table, true),
            Policy::GuestChoice => (1 << 39, false),
        };
        assert_eq!(info.base != 0, translated);
        // Of device memory, 0 is the address of nothing.
        let first = u64::from(contract.policy == Policy::DeviceMemory);
        for (offset, length, align) in [
            (info.descriptor, 16 * size, 16),
            (info.driver, 6 + 2 * size, 2),
            (info.device, 6 + 8 * size, 4),
        ] {
            assert!(offset >= first && offset < limit && offset + length <= limit);
            assert_eq!(offset % align, 0);
        }
    }

    /// A mapping that EL2 made stays only while its window is open there.
    fn check_stage2(&mut self) {
        for closed in self.platform.closed.drain(..) {
            self.mapped.retain(|(gfn, ..)| !closed.contains(*gfn));
            self.seen.closed += 1;
        }
        for (gfn, device, page) in &self.mapped {
            let window = self.platform.bus.bounce_window(*device).expect("a stale mapping");
            assert_eq!(gfn.number() - window.start().number(), *page);
            assert!(window.contains(*gfn));
        }
    }
}

/// Walks until the choices are over or `steps` are done.
fn walk(choices: Choices<'_>, steps: u64) -> Walk<'_> {
    let mut walk = Walk::new(choices);
    let offered: Vec<u64> = (0..DEVICES).map(|device| walk.platform.offered(device)).collect();
    for _ in 0..steps {
        if walk.choices.is_over() {
            break;
        }
        walk.step();
        walk.check();
    }
    for (device, offered) in offered.into_iter().enumerate() {
        walk.platform.place_bars(device);
        assert_eq!(offered, walk.contracts[device].offered);
        assert_eq!(walk.platform.offered(device), offered, "H8");
    }
    walk
}

/// Lets a guest and its host do what `choices` say, as long as there are any.
///
/// # Panics
/// If a promise is broken.
pub fn run(choices: Choices<'_>) {
    walk(choices, 1000);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_sequence_of_accesses_breaks_a_promise() {
        let seen = walk(Choices::seed(0x5eed_0fb0_0ce5), 300_000).seen;
        for count in [
            seen.features_ok,
            seen.driver_ok,
            seen.enabled,
            seen.broken,
            seen.kicks,
            seen.messages,
            seen.withheld,
            seen.lines,
            seen.shared_lines,
            seen.closed,
            seen.denied,
        ] {
            assert!(count > 100, "the walk missed a part of the device: {seen:?}");
        }
    }
}
