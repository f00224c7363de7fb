//! The rules of a GICv3 written down plainly, to compare with: one struct per
//! interrupt, no banks, no list registers, and every change takes effect at
//! once.

use super::cpu::SPURIOUS;
use crate::layout::{GICR_STRIDE, MSI_COUNT, MSI_FRAME, MSI_INTID};
use std::vec;
use std::vec::Vec;

#[derive(Clone)]
struct Interrupt {
    group1: bool,
    enabled: bool,
    latch: bool,
    line: bool,
    edge: bool,
    active: bool,
    /// Who acknowledged it.
    owner: Option<usize>,
    priority: u8,
    route: u64,
}

impl Interrupt {
    fn new(edge: bool) -> Self {
        Self {
            group1: true,
            enabled: false,
            latch: false,
            line: false,
            edge,
            active: false,
            owner: None,
            priority: 0,
            route: 0,
        }
    }

    fn pending(&self) -> bool {
        self.latch || self.line && !self.edge
    }

    fn set_line(&mut self, level: bool) {
        if level && !self.line && self.edge {
            self.latch = true;
        }
        self.line = level;
    }
}

/// What the guest's CPU interface has.
#[derive(Clone)]
pub(crate) struct Interface {
    pub(crate) mask: u8,
    pub(crate) enables: [bool; 2],
    active_priorities: Vec<u8>,
}

pub(crate) struct Model {
    control: u64,
    private: Vec<Vec<Interrupt>>,
    shared: Vec<Interrupt>,
    pub(crate) interfaces: Vec<Interface>,
}

impl Model {
    pub(crate) fn new(vcpus: usize) -> Self {
        let private: Vec<_> = (0..32).map(|intid| Interrupt::new(intid < 16)).collect();
        let interface = Interface { mask: 0xff, enables: [true; 2], active_priorities: vec![] };
        Self {
            control: 0,
            private: vec![private; vcpus],
            shared: vec![Interrupt::new(false); 256 - 32],
            interfaces: vec![interface; vcpus],
        }
    }

    fn interrupt(&mut self, vcpu: usize, intid: u32) -> Option<&mut Interrupt> {
        let intid = intid as usize;
        if intid < 32 { self.private[vcpu].get_mut(intid) } else { self.shared.get_mut(intid - 32) }
    }

    /// The interrupt the CPU interface signals.
    fn signalled(&self, vcpu: usize) -> Option<u32> {
        let interface = &self.interfaces[vcpu];
        let shared = self.shared.iter().zip(32..).filter(|(it, _)| it.route == vcpu as u64);
        let mine = self.private[vcpu].iter().zip(0..).chain(shared);
        let ready = mine.filter(|(it, _)| {
            let group = usize::from(it.group1);
            let forwarded = self.control >> group & 1 == 1 && interface.enables[group];
            it.pending() && it.enabled && !it.active && forwarded
        });
        let (urgent, intid) = ready.min_by_key(|&(it, intid)| (it.priority, intid))?;
        let running = interface.active_priorities.iter().min().map_or(256, |&p| u32::from(p));
        let allowed = urgent.priority < interface.mask && u32::from(urgent.priority) < running;
        allowed.then_some(intid)
    }

    pub(crate) fn signals(&self, vcpu: usize) -> bool {
        self.signalled(vcpu).is_some()
    }

    pub(crate) fn acknowledge(&mut self, vcpu: usize) -> u32 {
        let Some(intid) = self.signalled(vcpu) else { return SPURIOUS };
        let it = self.interrupt(vcpu, intid).unwrap();
        it.latch = false;
        it.active = true;
        it.owner = Some(vcpu);
        let priority = it.priority;
        self.interfaces[vcpu].active_priorities.push(priority);
        intid
    }

    pub(crate) fn drop_priority(&mut self, vcpu: usize) {
        let active = &mut self.interfaces[vcpu].active_priorities;
        active.sort_unstable();
        if !active.is_empty() {
            active.remove(0);
        }
    }

    pub(crate) fn deactivate(&mut self, vcpu: usize, intid: u32) {
        let it = self.interrupt(vcpu, intid).unwrap();
        if intid < 32 || it.owner == Some(vcpu) {
            it.active = false;
        }
    }

    pub(crate) fn set_level(&mut self, intid: u32, level: bool) {
        if intid >= 32 {
            self.interrupt(0, intid).unwrap().set_line(level);
        }
    }

    pub(crate) fn set_private_level(&mut self, vcpu: usize, intid: u32, level: bool) {
        self.private[vcpu][intid as usize].set_line(level);
    }

    pub(crate) fn msi(&mut self, address: u64, data: u32) {
        let last = MSI_INTID + MSI_COUNT - 1;
        if address == MSI_FRAME + 0x40 && (MSI_INTID..=last).contains(&data) {
            self.interrupt(0, data).unwrap().latch = true;
        }
    }

    pub(crate) fn send_sgi(&mut self, from: usize, value: u64) {
        let intid = (value >> 24 & 15) as usize;
        for vcpu in 0..self.private.len() {
            let affinity = value >> 48 & 0xff | value >> 32 & 0xff | value >> 16 & 0xff;
            let range = value >> 44 & 15;
            let named = affinity == 0 && range == 0 && value >> vcpu & 1 == 1;
            let chosen = if value >> 40 & 1 == 1 { vcpu != from } else { named };
            if chosen && self.private[vcpu][intid].group1 {
                self.private[vcpu][intid].latch = true;
            }
        }
    }

    pub(crate) fn distributor_write(&mut self, offset: u64, size: u8, value: u64) {
        if (offset, size) == (0, 4) {
            self.control = value & 3;
        }
        for intid in 32..256 {
            let at = 0x6000 + 8 * u64::from(intid);
            if offset == at && (size == 4 || size == 8) {
                self.interrupt(0, intid).unwrap().route = value & 0xff_ffff;
            }
            self.write_about(0, intid, offset, size, value);
        }
    }

    pub(crate) fn redistributor_write(&mut self, offset: u64, size: u8, value: u64) {
        let vcpu = (offset / GICR_STRIDE) as usize;
        let offset = offset % GICR_STRIDE;
        if vcpu >= self.private.len() || offset < 0x1_0000 {
            return;
        }
        for intid in 0..32 {
            self.write_about(vcpu, intid, offset - 0x1_0000, size, value);
        }
    }

    /// What a write means for one interrupt, if anything.
    fn write_about(&mut self, vcpu: usize, intid: u32, offset: u64, size: u8, value: u64) {
        let vcpus = self.private.len() as u64;
        let it = self.interrupt(vcpu, intid).unwrap();
        let n = u64::from(intid);
        let byte = 0x400 + n;
        if size == 1 && offset == byte {
            it.priority = value as u8 & 0xf8;
        }
        if size != 4 {
            return;
        }
        if offset == byte & !3 {
            it.priority = (value >> (8 * (byte & 3))) as u8 & 0xf8;
        }
        if offset == 0xc00 + n / 16 * 4 && intid >= 32 {
            it.edge = value >> (2 * (n % 16) + 1) & 1 == 1;
        }
        let bit = value >> (n % 32) & 1 == 1;
        let is = |base: u64| offset == base + n / 32 * 4;
        if is(0x080) {
            it.group1 = bit;
        }
        if !bit {
            return;
        }
        if is(0x100) {
            it.enabled = true;
        }
        if is(0x180) {
            it.enabled = false;
        }
        if is(0x200) {
            it.latch = true;
        }
        if is(0x280) {
            it.latch = false;
        }
        if is(0x300) && !it.active {
            it.active = true;
            it.owner = (it.route < vcpus).then_some(it.route as usize);
        }
        if is(0x380) {
            it.active = false;
        }
    }

    /// What the registers that describe an interrupt say about it: group,
    /// enabled, pending, active, edge, priority, route.
    pub(crate) fn describe(&mut self, vcpu: usize, intid: u32) -> [u64; 7] {
        let it = self.interrupt(vcpu, intid).unwrap();
        let [group1, enabled, pending, active, edge] =
            [it.group1, it.enabled, it.pending(), it.active, it.edge].map(u64::from);
        [group1, enabled, pending, active, edge, it.priority.into(), it.route]
    }
}
