//! The rules of a GICv3 written down plainly, to compare with: one struct per
//! interrupt, no banks, no list registers, and every change takes effect at
//! once.

use super::cpu::SPURIOUS;
use super::{VCPUS, ids};
use crate::layout::{GICR_STRIDE, MSI_COUNT, MSI_FRAME, MSI_INTID};

/// Banks of 32 interrupts: one private to each vCPU, then the shared ones.
pub(crate) const BANKS: usize = VCPUS + 7;

#[derive(Clone, Copy)]
struct Interrupt {
    group1: bool,
    enabled: bool,
    latch: bool,
    line: bool,
    edge: bool,
    active: bool,
    /// Who acknowledged it.
    owner: Option<u8>,
    priority: u8,
    route: u32,
}

impl Interrupt {
    const fn new(edge: bool) -> Self {
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
#[derive(Clone, Copy)]
pub(crate) struct Interface {
    pub(crate) mask: u8,
    pub(crate) enables: [bool; 2],
    /// One bit per priority of an interrupt taken and not yet dropped. No two
    /// have the same, because only a more urgent one is taken meanwhile.
    active_priorities: u32,
}

/// What the 32-bit registers that describe a bank should say.
#[derive(Default, PartialEq, Eq, Debug)]
pub(crate) struct Described {
    pub(crate) group1: u32,
    pub(crate) enabled: u32,
    pub(crate) pending: u32,
    pub(crate) active: u32,
    pub(crate) config: [u32; 2],
    pub(crate) priority: [u32; 8],
}

#[derive(Clone)]
pub(crate) struct Model {
    control: u64,
    banks: [[Interrupt; 32]; BANKS],
    /// The interrupts of each bank that were ever raised. Those that never
    /// were are not looked at when the most urgent is sought.
    raised: [u32; BANKS],
    /// Banks that anything was done to, one bit each.
    pub(crate) touched: u32,
    pub(crate) interfaces: [Interface; VCPUS],
}

impl Model {
    /// As after reset.
    pub(crate) const NEW: Self = {
        let mut banks = [[Interrupt::new(false); 32]; BANKS];
        let mut sgi = 0;
        while sgi < 16 * VCPUS {
            banks[sgi / 16][sgi % 16] = Interrupt::new(true);
            sgi += 1;
        }
        let interface = Interface { mask: 0xff, enables: [true; 2], active_priorities: 0 };
        Self { control: 0, banks, raised: [0; BANKS], touched: 0, interfaces: [interface; VCPUS] }
    };

    /// Bank and bit of an interrupt that is about to be changed.
    fn change(&mut self, vcpu: usize, intid: u32) -> &mut Interrupt {
        let (intid, bit) = (intid as usize, intid as usize % 32);
        let bank = if intid < 32 { vcpu } else { VCPUS - 1 + intid / 32 };
        self.touched |= 1 << bank;
        &mut self.banks[bank][bit]
    }

    /// The same, if the change may make it pending.
    fn raise(&mut self, vcpu: usize, intid: u32) -> &mut Interrupt {
        let bank = if intid < 32 { vcpu } else { VCPUS - 1 + intid as usize / 32 };
        self.raised[bank] |= 1 << (intid % 32);
        self.change(vcpu, intid)
    }

    /// The interrupt the CPU interface signals.
    fn signalled(&self, vcpu: usize) -> Option<u32> {
        let interface = &self.interfaces[vcpu];
        let (mut best, mut signalled) = ((u8::MAX, u32::MAX), None);
        for bank in core::iter::once(vcpu).chain(VCPUS..BANKS) {
            let first = if bank < VCPUS { 0 } else { (bank - VCPUS) as u32 * 32 + 32 };
            for bit in ids(self.raised[bank]) {
                let it = &self.banks[bank][bit as usize];
                let group = usize::from(it.group1);
                let forwarded = self.control >> group & 1 == 1 && interface.enables[group];
                let mine = bank < VCPUS || it.route == vcpu as u32;
                let ready = mine && it.pending() && it.enabled && !it.active && forwarded;
                if ready && (it.priority, first + bit) < best {
                    best = (it.priority, first + bit);
                    signalled = Some(first + bit);
                }
            }
        }
        let running = 8 * interface.active_priorities.trailing_zeros();
        let allowed = best.0 < interface.mask && u32::from(best.0) < running;
        signalled.filter(|_| allowed)
    }

    pub(crate) fn signals(&self, vcpu: usize) -> bool {
        self.signalled(vcpu).is_some()
    }

    pub(crate) fn acknowledge(&mut self, vcpu: usize) -> u32 {
        let Some(intid) = self.signalled(vcpu) else { return SPURIOUS };
        let it = self.change(vcpu, intid);
        it.latch = false;
        it.active = true;
        it.owner = Some(vcpu as u8);
        let priority = it.priority;
        self.interfaces[vcpu].active_priorities |= 1 << (priority / 8);
        intid
    }

    pub(crate) fn drop_priority(&mut self, vcpu: usize) {
        let active = &mut self.interfaces[vcpu].active_priorities;
        *active &= active.wrapping_sub(1);
    }

    pub(crate) fn deactivate(&mut self, vcpu: usize, intid: u32) {
        let it = self.change(vcpu, intid);
        if intid < 32 || it.owner == Some(vcpu as u8) {
            it.active = false;
        }
    }

    pub(crate) fn set_level(&mut self, intid: u32, level: bool) {
        if intid >= 32 {
            self.raise(0, intid).set_line(level);
        }
    }

    pub(crate) fn set_private_level(&mut self, vcpu: usize, intid: u32, level: bool) {
        self.raise(vcpu, intid).set_line(level);
    }

    pub(crate) fn msi(&mut self, address: u64, data: u32) {
        let last = MSI_INTID + MSI_COUNT - 1;
        if address == MSI_FRAME + 0x40 && (MSI_INTID..=last).contains(&data) {
            self.raise(0, data).latch = true;
        }
    }

    pub(crate) fn send_sgi(&mut self, from: usize, value: u64) {
        let intid = (value >> 24 & 15) as u32;
        for vcpu in 0..VCPUS {
            let affinity = value >> 48 & 0xff | value >> 32 & 0xff | value >> 16 & 0xff;
            let range = value >> 44 & 15;
            let named = affinity == 0 && range == 0 && value >> vcpu & 1 == 1;
            let chosen = if value >> 40 & 1 == 1 { vcpu != from } else { named };
            if chosen && self.banks[vcpu][intid as usize].group1 {
                self.raise(vcpu, intid).latch = true;
            }
        }
    }

    pub(crate) fn distributor_write(&mut self, offset: u64, size: u8, value: u64) {
        if (offset, size) == (0, 4) {
            self.control = value & 3;
        }
        let intid = (offset.wrapping_sub(0x6000) / 8) as u32;
        if (32..256).contains(&intid) && offset.is_multiple_of(8) && (size == 4 || size == 8) {
            self.change(0, intid).route = value as u32 & 0xff_ffff;
        }
        let (first, count) = described(offset, size);
        for intid in first.max(32)..(first + count).min(256) {
            self.write_about(0, intid, offset, size, value);
        }
    }

    pub(crate) fn redistributor_write(&mut self, offset: u64, size: u8, value: u64) {
        let vcpu = (offset / GICR_STRIDE) as usize;
        let offset = offset % GICR_STRIDE;
        if vcpu >= VCPUS || offset < 0x1_0000 {
            return;
        }
        let offset = offset - 0x1_0000;
        let (first, count) = described(offset, size);
        for intid in first..(first + count).min(32) {
            self.write_about(vcpu, intid, offset, size, value);
        }
    }

    /// What a write means for one interrupt, if anything.
    fn write_about(&mut self, vcpu: usize, intid: u32, offset: u64, size: u8, value: u64) {
        // A register that sets something pending raises what it names.
        let sets = (0x200..0x280).contains(&offset) && value >> (intid % 32) & 1 == 1;
        let it = if sets { self.raise(vcpu, intid) } else { self.change(vcpu, intid) };
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
            it.owner = (it.route < VCPUS as u32).then_some(it.route as u8);
        }
        if is(0x380) {
            it.active = false;
        }
    }

    /// What the registers that describe a bank should say.
    pub(crate) fn describe(&self, bank: usize) -> Described {
        let mut said = Described::default();
        for (n, it) in self.banks[bank].iter().enumerate() {
            said.group1 |= u32::from(it.group1) << n;
            said.enabled |= u32::from(it.enabled) << n;
            said.pending |= u32::from(it.pending()) << n;
            said.active |= u32::from(it.active) << n;
            said.config[n / 16] |= u32::from(it.edge) << (2 * (n % 16) + 1);
            said.priority[n / 4] |= u32::from(it.priority) << (8 * (n % 4));
        }
        said
    }

    /// Where the interrupts of a shared bank go.
    pub(crate) fn routes(&self, bank: usize) -> impl Iterator<Item = u64> + '_ {
        self.banks[bank].iter().map(|it| it.route.into())
    }
}

/// Which interrupt ids a register of the distributor's or an SGI frame's
/// describes: the first, and how many; none if it is another register.
fn described(offset: u64, size: u8) -> (u32, u32) {
    let at = offset as u32;
    match (size, offset) {
        (4, 0x080..0x400) => (at % 0x80 * 8, 32),
        (1, 0x400..0x800) => (at - 0x400, 1),
        (4, 0x400..0x800) => (at - 0x400, 4),
        (4, 0xc00..0xd00) => ((at - 0xc00) * 4, 16),
        _ => (0, 0),
    }
}
