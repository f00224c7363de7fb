//! Guests against the plain model. All vCPUs run all the time, with few or
//! many list registers; they come out only when they must: for an access that
//! traps, a maintenance interrupt, or a kick. After every step each vCPU must
//! be signalled, and take, exactly what the model says.

// The walk needs a part of it, the unit tests the rest.
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) mod cpu;
pub(crate) mod model;

use super::Choices;
use crate::layout::{GICR_STRIDE, MSI_FRAME, MSI_INTID};
use crate::vcpu::state::VirtualCpuInterface;
use crate::vgic::{VcpuSet, Vgic};
use cpu::{Completed, SPURIOUS};
use model::{BANKS, Described, Model};

pub(crate) const CTLR: u64 = 0x0000;
pub(crate) const ISENABLER: u64 = 0x0100;
pub(crate) const ICENABLER: u64 = 0x0180;
pub(crate) const ISPENDR: u64 = 0x0200;
pub(crate) const ICPENDR: u64 = 0x0280;
pub(crate) const ISACTIVER: u64 = 0x0300;
pub(crate) const ICACTIVER: u64 = 0x0380;
pub(crate) const IPRIORITYR: u64 = 0x0400;
pub(crate) const ICFGR: u64 = 0x0c00;
pub(crate) const IROUTER: u64 = 0x6000;

/// Offset of the bitmap register for `intid` and its bit.
pub(crate) fn bitmap(base: u64, intid: u32) -> (u64, u64) {
    (base + u64::from(intid / 32) * 4, 1 << (intid % 32))
}

/// Offset of a register in the SGI frame of a vCPU.
pub(crate) fn private(vcpu: usize, register: u64) -> u64 {
    vcpu as u64 * GICR_STRIDE + 0x1_0000 + register
}

pub(crate) const VCPUS: usize = 3;
/// Few interrupts, so that much happens to each.
const SPIS: [u32; 8] = [32, 33, 40, 41, 63, MSI_INTID, MSI_INTID + 1, 255];
const PRIVATE: [u32; 6] = [0, 1, 15, 20, 27, 31];
const PPIS: [u32; 3] = [20, 27, 31];
const BITMAPS: [u64; 8] =
    [0x080, ISENABLER, ISENABLER, ICENABLER, ISPENDR, ICPENDR, ISACTIVER, ICACTIVER];

/// The positions of the set bits.
fn ids(mut mask: u32) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let bit = mask.trailing_zeros();
        mask &= mask.checked_sub(1)?;
        Some(bit)
    })
}

/// Interrupt ids, the last on top; there are never more than all.
#[derive(Clone, Copy)]
struct Stack {
    ids: [u16; 256],
    length: usize,
}

impl Stack {
    const EMPTY: Self = Self { ids: [0; 256], length: 0 };

    fn push(&mut self, intid: u32) {
        self.ids[self.length] = intid as u16;
        self.length += 1;
    }

    fn pop(&mut self) -> Option<u32> {
        self.length = self.length.checked_sub(1)?;
        Some(self.ids[self.length].into())
    }

    /// Takes one out of the middle.
    fn take(&mut self, index: usize) -> Option<u32> {
        let last = self.pop()?;
        if index == self.length {
            return Some(last);
        }
        Some(core::mem::replace(&mut self.ids[index], last as u16).into())
    }
}

struct World<'a> {
    choices: Choices<'a>,
    vgic: Vgic,
    model: Model,
    gics: [VirtualCpuInterface; VCPUS],
    list_registers: usize,
    /// Deactivation is separate, and may come in any order. Without that, a
    /// guest must not meddle with active interrupts, whose count is then all
    /// that EL2 learns of a completion.
    eoi_mode_1: bool,
    /// Taken, priority not yet dropped; the last is the most urgent.
    taken: [Stack; VCPUS],
    /// Priority dropped, not yet deactivated.
    dropped: [Stack; VCPUS],
    /// In the end all registers are compared, not only those that should have
    /// changed: dear, and a fuzzer soon finds out how to ask for it.
    thorough: bool,
    acknowledged: usize,
}

impl<'a> World<'a> {
    /// A world in which up to `priorities` priorities were changed first.
    fn new(mut choices: Choices<'a>, priorities: u64) -> Self {
        let eoi_mode_1 = choices.one_in(2);
        let mut gic = cpu::enabled();
        gic.vmcr |= u64::from(eoi_mode_1) << 9;
        let list_registers = choices.pick(&[1, 2, 3, 4, 16]);
        let (priorities, thorough) = (choices.below(priorities), choices.one_in(4));
        let mut world = Self {
            choices,
            vgic: Vgic::new(VCPUS),
            model: Model::NEW,
            gics: [(); VCPUS].map(|()| gic.clone()),
            list_registers,
            eoi_mode_1,
            taken: [Stack::EMPTY; VCPUS],
            dropped: [Stack::EMPTY; VCPUS],
            thorough,
            acknowledged: 0,
        };
        for vcpu in 0..VCPUS {
            world.enter(vcpu);
        }
        world.write_distributor(0, CTLR, 4, 3);
        for _ in 0..priorities {
            let (vcpu, intid) = (world.choices.below(3) as usize, world.any_intid());
            world.write_priority(vcpu, intid);
        }
        world
    }

    /// Some bits of a register, rarely many, and the same again in the half
    /// that no 4-byte access has.
    fn noise(&mut self) -> u64 {
        let bits = self.choices.below(0x1_0000);
        let [a, b, c] = [bits & 31, bits >> 5 & 31, bits >> 10 & 31].map(|bit| 1_u64 << bit);
        if bits >> 15 == 0 { 0 } else { (a | b | c) * 0x1_0000_0001 }
    }

    fn any_intid(&mut self) -> u32 {
        if self.choices.below(2) == 0 {
            self.choices.pick(&SPIS)
        } else {
            self.choices.pick(&PRIVATE)
        }
    }

    fn enter(&mut self, vcpu: usize) {
        self.vgic.flush(vcpu, &mut self.gics[vcpu], self.list_registers);
        assert!(!cpu::maintenance(&self.gics[vcpu]), "it would come straight out again");
    }

    fn exit(&mut self, vcpu: usize) -> VcpuSet {
        self.vgic.sync(vcpu, &mut self.gics[vcpu])
    }

    /// Kicked vCPUs come out and go in again, which may kick others.
    fn kick(&mut self, mut set: VcpuSet) {
        for _ in 0..10 {
            let Some(vcpu) = set.iter().next() else { return };
            set.remove(vcpu);
            set = set.union(self.exit(vcpu));
            self.enter(vcpu);
        }
        panic!("kicks do not end");
    }

    /// vCPU `vcpu` traps; EL2 does `act`.
    fn trap(&mut self, vcpu: usize, act: impl FnOnce(&mut Vgic) -> VcpuSet) {
        let released = self.exit(vcpu);
        let mut set = released.union(act(&mut self.vgic));
        self.enter(vcpu);
        set.remove(vcpu);
        self.kick(set);
    }

    fn write_distributor(&mut self, vcpu: usize, offset: u64, size: u8, value: u64) {
        self.choices
            .note(format_args!("vCPU {vcpu}: GICD+{offset:#x} := {value:#x} ({size} bytes)"));
        self.trap(vcpu, |vgic| vgic.distributor_write(offset, size, value));
        self.model.distributor_write(offset, size, value);
    }

    fn write_redistributor(&mut self, vcpu: usize, offset: u64, size: u8, value: u64) {
        self.choices
            .note(format_args!("vCPU {vcpu}: GICR+{offset:#x} := {value:#x} ({size} bytes)"));
        self.trap(vcpu, |vgic| vgic.redistributor_write(offset, size, value));
        self.model.redistributor_write(offset, size, value);
    }

    fn write_priority(&mut self, vcpu: usize, intid: u32) {
        let (offset, value) = (IPRIORITYR + u64::from(intid), 0xabc00 | self.choices.below(0x100));
        if intid >= 32 {
            self.write_distributor(vcpu, offset, 1, value);
        } else {
            let whose = self.choices.below(3) as usize;
            self.write_redistributor(vcpu, private(whose, offset), 1, value);
        }
    }

    /// A write that concerns one of our interrupts.
    fn write_sensibly(&mut self, vcpu: usize) {
        let intid = self.any_intid();
        let at = u64::from(intid);
        let register = self.choices.pick(&BITMAPS);
        let meddles = matches!(register, ISACTIVER | ICACTIVER) && !self.eoi_mode_1;
        match self.choices.below(12) {
            0 => self.write_distributor(vcpu, CTLR, 4, 3),
            1 if self.choices.below(4) == 0 => {
                let control = 0xabc0 | self.choices.below(0x10);
                self.write_distributor(vcpu, CTLR, 4, control);
            }
            2 if self.eoi_mode_1 => self.write_priority(vcpu, intid),
            3 | 4 if intid >= 32 => {
                let route = self.choices.below(VCPUS as u64 + 1);
                let size = self.choices.pick(&[4, 8]);
                self.write_distributor(vcpu, IROUTER + 8 * at, size, route);
            }
            5 if intid >= 32 => {
                let value = self.choices.below(1 << 32);
                self.write_distributor(vcpu, ICFGR + at / 16 * 4, 4, value);
            }
            _ if meddles => {}
            _ => {
                let noise = self.noise();
                let (offset, bit) = bitmap(register, intid);
                // Most interrupts are to stay in Group 1.
                let value = if register == 0x080 { !noise } else { bit | noise };
                if intid >= 32 {
                    self.write_distributor(vcpu, offset, 4, value);
                } else {
                    let whose = self.choices.below(3) as usize;
                    self.write_redistributor(vcpu, private(whose, offset), 4, value);
                }
            }
        }
    }

    /// A write of anything anywhere.
    fn write_wildly(&mut self, vcpu: usize) {
        let size = self.choices.pick(&[0, 1, 2, 3, 4, 4, 4, 8, 255]);
        let mut offset = self.choices.below(0x1_0000) >> self.choices.below(12);
        if size != 1 && self.choices.below(4) != 0 {
            offset &= !3;
        }
        if !self.eoi_mode_1 && (0x300..0x800).contains(&offset) {
            return;
        }
        let value = self.choices.bits();
        if self.choices.below(2) == 0 {
            self.write_distributor(vcpu, offset, size, value);
        } else {
            let whose = self.choices.below(4) as usize;
            let offset = private(whose, offset) & !(self.choices.below(2) << 16);
            self.write_redistributor(vcpu, offset, size, value);
        }
    }

    fn acknowledge(&mut self, vcpu: usize) {
        let intid = cpu::acknowledge(&mut self.gics[vcpu]);
        assert_eq!(intid, self.model.acknowledge(vcpu), "vCPU {vcpu} took another interrupt");
        self.choices.note(format_args!("vCPU {vcpu} acknowledges {intid}"));
        if intid != SPURIOUS {
            self.taken[vcpu].push(intid);
            self.acknowledged += 1;
        }
    }

    fn complete(&mut self, vcpu: usize) {
        if let Some(intid) = self.taken[vcpu].pop() {
            self.choices.note(format_args!("vCPU {vcpu} completes {intid}"));
            self.model.drop_priority(vcpu);
            if self.eoi_mode_1 {
                cpu::drop_priority(&mut self.gics[vcpu]);
                self.dropped[vcpu].push(intid);
            } else {
                let completed = cpu::end(&mut self.gics[vcpu], intid);
                self.model.deactivate(vcpu, intid);
                self.completed(vcpu, intid, completed);
            }
        }
    }

    fn deactivate(&mut self, vcpu: usize) {
        let count = self.dropped[vcpu].length as u64;
        if count == 0 {
            return;
        }
        let index = self.choices.below(count) as usize;
        if let Some(intid) = self.dropped[vcpu].take(index) {
            self.choices.note(format_args!("vCPU {vcpu} deactivates {intid}"));
            let completed = cpu::deactivate_register(&mut self.gics[vcpu], intid);
            self.model.deactivate(vcpu, intid);
            self.completed(vcpu, intid, completed);
        }
    }

    fn completed(&mut self, vcpu: usize, intid: u32, completed: Completed) {
        match completed {
            Completed::Inside => {}
            // It fires again if the timer's output is still high.
            Completed::Physical => self.trap(vcpu, |_| VcpuSet::EMPTY),
            Completed::Trapped => self.trap(vcpu, |vgic| vgic.deactivate(vcpu, intid)),
        }
    }

    /// The guest writes ICC_PMR_EL1, ICC_IGRPEN0_EL1 and ICC_IGRPEN1_EL1.
    fn set_interface(&mut self, vcpu: usize) {
        let mask = self.choices.pick(&[0xff, 0xff, 0xf0, 0x80, 0x40]);
        let enables = self.choices.pick(&[0b11, 0b11, 0b11, 0b10, 0b01]);
        self.choices.note(format_args!("vCPU {vcpu}: mask {mask:#x}, groups {enables:#b}"));
        let kept = self.gics[vcpu].vmcr & 1 << 9;
        self.gics[vcpu].vmcr = kept | u64::from(mask) << 24 | enables;
        self.model.interfaces[vcpu].mask = mask;
        self.model.interfaces[vcpu].enables = [enables & 1 == 1, enables & 2 == 2];
    }

    fn devices(&mut self) {
        let level = self.choices.below(2) == 0;
        let set = match self.choices.below(3) {
            0 => {
                let intid = self.choices.pick(&SPIS);
                self.choices.note(format_args!("line of {intid}: {level}"));
                self.model.set_level(intid, level);
                self.vgic.set_level(intid, level)
            }
            1 => {
                let (vcpu, intid) = (self.choices.below(3) as usize, self.choices.pick(&PPIS));
                self.choices.note(format_args!("vCPU {vcpu}, line of {intid}: {level}"));
                self.model.set_private_level(vcpu, intid, level);
                let mut set = VcpuSet::EMPTY;
                if self.vgic.set_private_level(vcpu, intid, level) {
                    set.insert(vcpu);
                }
                set
            }
            _ => {
                let data = MSI_INTID + self.choices.below(2) as u32 - self.choices.below(2) as u32;
                let address = MSI_FRAME + self.choices.pick(&[0x40, 0x40, 0x40, 0x44]);
                self.choices.note(format_args!("MSI {data} at {address:#x}"));
                self.model.msi(address, data);
                self.vgic.msi(address, data)
            }
        };
        self.kick(set);
    }

    fn send_sgi(&mut self, vcpu: usize) {
        let foreign = self.choices.pick(&[0, 0, 0, 0, 1 << 16, 1 << 32, 1 << 44, 1 << 48, 1 << 40]);
        let intid = self.choices.pick(&[0u64, 1, 15]);
        let value = foreign | intid << 24 | self.choices.below(0x1_0000);
        self.choices.note(format_args!("vCPU {vcpu} sends {value:#x}"));
        self.trap(vcpu, |vgic| vgic.send_sgi(vcpu, value));
        self.model.send_sgi(vcpu, value);
    }

    fn step(&mut self) {
        let vcpu = self.choices.below(VCPUS as u64) as usize;
        match self.choices.below(16) {
            0..=3 => self.write_sensibly(vcpu),
            4 if self.choices.below(4) == 0 => self.write_wildly(vcpu),
            5 => self.devices(),
            6 => self.send_sgi(vcpu),
            7 if self.choices.below(3) == 0 => self.set_interface(vcpu),
            8 if self.choices.below(16) == 0 => self.compare_registers(!0),
            9..=11 => self.acknowledge(vcpu),
            12 | 13 => self.complete(vcpu),
            14 | 15 => self.deactivate(vcpu),
            _ => self.trap(vcpu, |_| VcpuSet::EMPTY),
        }
        let maintenance = cpu::maintenance(&self.gics[vcpu]);
        assert_eq!(Vgic::needs_maintenance(&self.gics[vcpu]), maintenance);
        if maintenance {
            self.trap(vcpu, |_| VcpuSet::EMPTY);
        }
        for vcpu in 0..VCPUS {
            let expected = self.model.signals(vcpu);
            let gic = &self.gics[vcpu];
            assert_eq!(self.vgic.deliverable(vcpu, gic), expected, "vCPU {vcpu} deliverable");
            assert_eq!(cpu::signals(gic), expected, "vCPU {vcpu} signalled");
        }
    }

    /// With everybody out, the registers of these banks say what the model
    /// says.
    fn compare_registers(&mut self, banks: u32) {
        for vcpu in 0..VCPUS {
            let set = self.exit(vcpu);
            assert!(set.is_empty(), "kicks were obeyed before");
        }
        for bank in ids(banks & ((1 << BANKS) - 1)).map(|bank| bank as usize) {
            let expected = self.model.describe(bank);
            if bank < VCPUS {
                let vgic = &mut self.vgic;
                let mut read = |offset, size| vgic.redistributor_read(private(bank, offset), size);
                assert_eq!(describe(0, &mut read), expected, "vCPU {bank}");
                continue;
            }
            let first = (bank - VCPUS) as u64 * 32 + 32;
            let mut read = |offset, size| self.vgic.distributor_read(offset, size);
            assert_eq!(describe(first, &mut read), expected, "from id {first}");
            for (route, intid) in self.model.routes(bank).zip(first..) {
                assert_eq!(read(IROUTER + 8 * intid, 8), route, "route of id {intid}");
            }
        }
        for vcpu in 0..VCPUS {
            self.enter(vcpu);
        }
    }
}

/// What the registers say about the 32 interrupts from `first` on.
fn describe(first: u64, read: &mut impl FnMut(u64, u8) -> u64) -> Described {
    let bitmaps = first / 32 * 4;
    let mut word = |offset| read(offset, 4) as u32;
    let [group1, enabled, pending, active] =
        [0x080, ISENABLER, ISPENDR, ISACTIVER].map(|base| word(base + bitmaps));
    let also = [ICENABLER, ICPENDR, ICACTIVER].map(|base| word(base + bitmaps));
    assert_eq!(also, [enabled, pending, active], "set and clear registers read the same");
    let config = [0, 4].map(|half| word(ICFGR + first / 4 + half));
    let mut priority = [0; 8];
    for (word_of_four, at) in priority.iter_mut().zip((IPRIORITYR + first..).step_by(4)) {
        *word_of_four = word(at);
    }
    let byte = IPRIORITYR + first + 5;
    assert_eq!(read(byte, 1), u64::from(priority[1] >> 8 & 0xff), "a byte is part of its word");
    Described { group1, enabled, pending, active, config, priority }
}

/// Walks until the choices are over or `steps` are done.
fn walk(choices: Choices<'_>, priorities: u64, steps: u64) -> World<'_> {
    let mut world = World::new(choices, priorities);
    for _ in 0..steps {
        if world.choices.is_over() {
            break;
        }
        world.step();
    }
    world.compare_registers(if world.thorough { !0 } else { world.model.touched });
    world
}

/// Lets guests and devices do what `choices` say, as long as there are any.
///
/// # Panics
/// If a vCPU is signalled, or takes, another interrupt than the model says.
pub fn run(choices: Choices<'_>) {
    walk(choices, 4, 1000);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_guests_get_exactly_the_interrupts_that_the_rules_say() {
        let mut acknowledged = 0;
        for seed in 0..20 {
            acknowledged += walk(Choices::seed(seed * 2), 200, 2_000).acknowledged;
        }
        assert!(acknowledged > 1_000, "the test must exercise something: {acknowledged}");
    }
}
