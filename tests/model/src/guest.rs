//! A guest's traps: what it gets, what the host hears, what changes.

use crate::host::{comes_back, features, has_tables_for, start};
use crate::state::{Page, Stage, State, Vcpu, Vm, one_call, range};
use hyp::abi::{exit, guest as id};
use hyp::addr::{FRAME_SHIFT, FRAME_SIZE};
use hyp::error::Error;
use hyp::layout;
use hyp::psci::{code, function as psci};

/// Where a vCPU goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Here.
    At(u64),
    /// In one of its exception vectors.
    Vector,
    /// Here, or in a vector: the part of the state that decides is not here.
    Either(u64),
}

/// A return to the host that is allowed: x1 to x3 without the kick bitmap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// Exactly these; x3 only with MMIO.
    Exactly([u64; 3]),
    /// This reason, for a device of the VM.
    Device(u64),
    /// WFI, with one of these deadlines.
    Wait(u64),
    /// Other vCPUs have something to take.
    Kick,
}

/// What may come of a trap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expected {
    /// May the guest simply go on?
    pub resume: bool,
    /// Other ways it may end.
    pub exits: Vec<Exit>,
    /// Its registers then.
    pub x: [u64; 31],
    /// But this one is EL2's to choose.
    pub free: Option<usize>,
    /// Or this in x0: two reasons to refuse, and either will do.
    pub or_x0: Option<u64>,
    /// Where it goes on.
    pub next: Next,
    /// What else is EL2's choice, within limits.
    pub adopt: Adopt,
}

/// A choice of EL2's or of the device model's that the abstract state takes
/// over, after it has been checked against its limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Adopt {
    /// None.
    Nothing,
    /// Which pages behind this one of a device's bounce window are mapped.
    Pages(u64),
    /// Where the bounce windows are now.
    Windows,
}

impl Expected {
    /// It goes on, `advance` bytes further.
    pub fn resume(vcpu: &Vcpu, advance: u64) -> Self {
        Self {
            resume: true,
            exits: Vec::new(),
            x: vcpu.x,
            free: None,
            or_x0: None,
            next: Next::At(vcpu.pc.wrapping_add(advance)),
            adopt: Adopt::Nothing,
        }
    }

    fn exit(vcpu: &Vcpu, advance: u64, exit: Exit) -> Self {
        Self { resume: false, exits: vec![exit], ..Self::resume(vcpu, advance) }
    }

    fn vector(vcpu: &Vcpu) -> Self {
        Self { next: Next::Vector, ..Self::resume(vcpu, 0) }
    }

    /// Results of a hypercall.
    fn results(vcpu: &Vcpu, values: [u64; 4]) -> Self {
        let mut expected = Self::resume(vcpu, 0);
        expected.x[..4].copy_from_slice(&values);
        expected
    }

    fn or(mut self, exit: Exit) -> Self {
        self.exits.push(exit);
        self
    }
}

/// An HVC with its registers in the vCPU.
pub fn hvc(state: &mut State, slot: u8, index: usize, immediate: u16) -> Expected {
    let Some(vm) = state.vm_in(slot).cloned() else { return gone() };
    let Some(vcpu) = vm.vcpus.get(index) else { return gone() };
    let [function, a1, a2, a3] = [0, 1, 2, 3].map(|register: usize| vcpu.x[register]);
    let refuse = |error: Error| Expected::results(vcpu, [error.code() as u64, 0, 0, 0]);
    let value = |value: i64| Expected::results(vcpu, [value as u64, 0, 0, 0]);
    let (Ok(function), 0) = (u32::try_from(function), immediate) else {
        return refuse(Error::NotSupported);
    };
    let low = |value: u64| value & 0xffff_ffff;
    match function {
        psci::SMCCC_VERSION | psci::PSCI_VERSION => value(0x1_0001),
        psci::MIGRATE_INFO_TYPE => value(2),
        psci::PSCI_FEATURES => value(features(a1)),
        psci::AFFINITY_INFO_32 => value(affinity(&vm, low(a1), low(a2))),
        psci::AFFINITY_INFO_64 => value(affinity(&vm, a1, a2)),
        psci::CPU_ON_32 => cpu_on(state, &vm, vcpu, [low(a1), low(a2), low(a3)]),
        psci::CPU_ON_64 => cpu_on(state, &vm, vcpu, [a1, a2, a3]),
        psci::CPU_OFF => Expected::exit(vcpu, 0, Exit::Exactly([exit::CPU_OFF, 0, 0])),
        psci::CPU_SUSPEND_32 | psci::CPU_SUSPEND_64 => {
            if a1 & (1 << 16 | 1 << 30) != 0 {
                value(code::INVALID_PARAMETERS)
            } else {
                value(0).or(Exit::Wait(u64::MAX))
            }
        }
        psci::SYSTEM_OFF | psci::SYSTEM_RESET => {
            if let Some(vm) = state.vm_mut(vm.handle) {
                vm.stage = Stage::Dying;
            }
            let reset = u64::from(function == psci::SYSTEM_RESET);
            Expected::exit(vcpu, 0, Exit::Exactly([exit::SHUTDOWN, reset, 0]))
        }
        id::UID => Expected::results(vcpu, [0xb66f_b428, 0xe911_c52e, 0x564b_caa9, 0x743a_004d]),
        id::FEATURES => value(0b11_1111_1100),
        id::HYP_MEMINFO | id::MMIO_GUARD_INFO if [a1, a2, a3] != [0; 3] => {
            refuse(Error::InvalidParameter)
        }
        id::HYP_MEMINFO => Expected::results(vcpu, [4096, 1, 0, 0]),
        id::MMIO_GUARD_INFO => value(4096),
        id::MMIO_GUARD_ENROLL => value(0),
        id::MEM_SHARE | id::MEM_UNSHARE => {
            let lent = function == id::MEM_UNSHARE;
            match guest_frames(state, &vm, [a1, a2.max(1), a3], lent) {
                Err(no) => no.results(vcpu),
                Ok(frames) => {
                    for (gfn, pfn) in &frames {
                        state.set(*pfn, Page::Guest(slot, *gfn, !lent));
                    }
                    Expected::results(vcpu, [0, frames.len() as u64, 0, 0])
                }
            }
        }
        id::MEM_RELINQUISH => match guest_frames(state, &vm, [a1, 1, 0], false) {
            Err(no) => no.results(vcpu),
            Ok(frames) => {
                frames.into_iter().for_each(|(_, pfn)| comes_back(state, pfn, false));
                value(0)
            }
        },
        id::MMIO_GUARD_MAP | id::MMIO_GUARD_UNMAP => {
            match guard(state, &vm, a1, function == id::MMIO_GUARD_MAP) {
                Ok(()) => value(0),
                Err(error) => refuse(error),
            }
        }
        _ => refuse(Error::NotSupported),
    }
}

/// The VM a trap came from is always there; if not, nothing is allowed.
fn gone() -> Expected {
    Expected { resume: false, ..Expected::resume(&Vcpu::default(), 0) }
}

fn affinity(vm: &Vm, mpidr: u64, level: u64) -> i64 {
    let vcpu = usize::try_from(mpidr).ok().and_then(|index| vm.vcpus.get(index));
    match vcpu {
        Some(vcpu) if level == 0 => i64::from(!vcpu.on),
        _ => code::INVALID_PARAMETERS,
    }
}

fn cpu_on(state: &mut State, vm: &Vm, vcpu: &Vcpu, [mpidr, entry, context]: [u64; 3]) -> Expected {
    let target = usize::try_from(mpidr).ok();
    let target = target.and_then(|index| state.vm_mut(vm.handle)?.vcpus.get_mut(index));
    let answer = match target {
        _ if !vm.is_entry(entry) => code::INVALID_ADDRESS,
        None => code::INVALID_PARAMETERS,
        Some(target) if target.on => code::ALREADY_ON,
        Some(target) => {
            start(target, entry, context);
            code::SUCCESS
        }
    };
    let mut expected = Expected::results(vcpu, [answer as u64, 0, 0, 0]);
    if answer == code::SUCCESS {
        expected.resume = false;
        expected.exits = vec![Exit::Exactly([exit::CPU_ON, mpidr, 0])];
    }
    expected
}

/// Why a range is refused. If some pages are not there and others are not in
/// the right state, either reason will do.
struct Wrong {
    first: Error,
    other: Option<Error>,
}

impl Wrong {
    fn results(&self, vcpu: &Vcpu) -> Expected {
        let expected = Expected::results(vcpu, [self.first.code() as u64, 0, 0, 0]);
        Expected { or_x0: self.other.map(|error| error.code() as u64), ..expected }
    }
}

/// The frames behind a range of guest RAM that all are the guest's own, and
/// all lent to the host or all not.
fn guest_frames(
    state: &State,
    vm: &Vm,
    [ipa, pages, reserved]: [u64; 3],
    lent: bool,
) -> Result<Vec<(u64, u64)>, Wrong> {
    let malformed = reserved != 0 || !ipa.is_multiple_of(FRAME_SIZE);
    let places = range(ipa >> FRAME_SHIFT, pages).filter(|_| !malformed);
    let inside = |r: &std::ops::Range<u64>| r.start >= vm.ram.start && r.end <= vm.ram.end;
    let Some(places) = places.filter(inside) else {
        return Err(Wrong { first: Error::InvalidParameter, other: None });
    };
    let mut frames = Vec::new();
    let (mut absent, mut denied) = (false, false);
    for gfn in one_call(places) {
        match state.translate(vm.slot, gfn) {
            None => absent = true,
            Some(pfn) => {
                denied |= state.page(pfn) != Some(Page::Guest(vm.slot, gfn, lent));
                frames.push((gfn, pfn));
            }
        }
    }
    match (absent, denied) {
        (false, false) => Ok(frames),
        (true, denied) => {
            Err(Wrong { first: Error::NotFound, other: denied.then_some(Error::Denied) })
        }
        (false, true) => Err(Wrong { first: Error::Denied, other: None }),
    }
}

/// What is at an address that is neither RAM nor a bounce window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// Distributor, redistributors, MSI frame: always served.
    Interrupts,
    /// Configuration space: always served.
    Config,
    /// A PCI window: a register BAR may be there.
    Pci,
    /// Nothing that EL2 serves.
    Elsewhere,
}

fn place(vm: &Vm, ipa: u64) -> Place {
    let within = |start: u64, size: u64| (start..start + size).contains(&ipa);
    if within(layout::GICD, layout::GICD_SIZE)
        || within(layout::GICR, layout::GICR_STRIDE * vm.vcpus.len() as u64)
        || within(layout::MSI_FRAME, layout::MSI_FRAME_SIZE)
    {
        Place::Interrupts
    } else if within(layout::ECAM, layout::ECAM_SIZE) {
        Place::Config
    } else if within(layout::PCI_MEM32, layout::PCI_MEM32_SIZE)
        || within(layout::PCI_MEM64, layout::PCI_MEM64_SIZE)
    {
        Place::Pci
    } else {
        Place::Elsewhere
    }
}

/// Pages that a guest can grant.
const GRANTS: usize = 16;

fn guard(state: &mut State, vm: &Vm, ipa: u64, map: bool) -> Result<(), Error> {
    if !ipa.is_multiple_of(FRAME_SIZE) || range(ipa >> FRAME_SHIFT, 1).is_none() {
        return Err(Error::InvalidParameter);
    }
    if vm.is_ram(ipa) {
        return Err(Error::Denied);
    }
    if place(vm, ipa) != Place::Elsewhere {
        return Ok(());
    }
    let granted = state.vm_mut(vm.handle).map(|vm| &mut vm.granted).ok_or(Error::NotFound)?;
    match map {
        true if granted.len() == GRANTS && !granted.contains(&(ipa >> FRAME_SHIFT)) => {
            Err(Error::NoMemory)
        }
        true => {
            granted.insert(ipa >> FRAME_SHIFT);
            Ok(())
        }
        false if granted.remove(&(ipa >> FRAME_SHIFT)) => Ok(()),
        false => Err(Error::NotFound),
    }
}

/// A load to x9 or store of x9 that stage 2 does not translate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// Where.
    pub ipa: u64,
    /// Bytes.
    pub size: u8,
    /// Store?
    pub write: bool,
    /// Does the syndrome describe it?
    pub described: bool,
}

/// The bits that an access of `size` bytes transfers.
pub fn mask(size: u8) -> u64 {
    if size >= 8 { u64::MAX } else { (1 << (8 * size)) - 1 }
}

/// The register that guests here load and store.
pub const DATA: usize = 9;

/// A stage-2 translation fault.
pub fn fault(state: &mut State, slot: u8, index: usize, access: &Access) -> Expected {
    let Some(vm) = state.vm_in(slot).cloned() else { return gone() };
    let Some(vcpu) = vm.vcpus.get(index) else { return gone() };
    let gfn = access.ipa >> FRAME_SHIFT;
    let page = gfn << FRAME_SHIFT;
    if range(gfn, 1).is_none() {
        return Expected::vector(vcpu);
    }
    if vm.is_ram(access.ipa) {
        return Expected::exit(vcpu, 0, Exit::Exactly([exit::MEM_FAULT, page, 0]));
    }
    let window = |device: &&crate::state::Device| {
        device.window.is_some_and(|(start, end)| (start..end).contains(&gfn))
    };
    if let Some(device) = vm.devices.iter().find(window) {
        let start = device.window.map_or(0, |(start, _)| start);
        let frame = device.pages.get((gfn - start) as usize).copied().flatten();
        let ready = frame.is_some_and(|pfn| state.page(pfn) == Some(Page::Lent(slot, None)));
        return if !ready || vm.unlinked {
            Expected::vector(vcpu)
        } else if has_tables_for(state, &vm, std::iter::once(gfn)) {
            Expected { adopt: Adopt::Pages(gfn), ..Expected::resume(vcpu, 0) }
        } else {
            Expected::exit(vcpu, 0, Exit::Exactly([exit::MEM_FAULT, page, 0]))
        };
    }
    if !access.described {
        return Expected::vector(vcpu);
    }
    let stored = vcpu.x[DATA] & mask(access.size);
    let free = (!access.write).then_some(DATA);
    match place(&vm, access.ipa) {
        Place::Interrupts => Expected { free, ..Expected::resume(vcpu, 4) }.or(Exit::Kick),
        Place::Config => {
            note_driver(state, &vm, access);
            let mut expected = Expected { free, ..Expected::resume(vcpu, 4) }.or(Exit::Kick);
            if !vm.devices.is_empty() && access.write {
                expected = expected.or(Exit::Device(exit::DEVICE)).or(Exit::Device(exit::NOTIFY));
                expected.adopt = Adopt::Windows;
            }
            expected
        }
        Place::Pci if vm.devices.is_empty() => Expected::vector(vcpu),
        Place::Pci => {
            note_driver(state, &vm, access);
            let mut expected = Expected { free, ..Expected::resume(vcpu, 4) }.or(Exit::Kick);
            expected.next = Next::Either(vcpu.pc.wrapping_add(4));
            if access.write {
                expected = expected.or(Exit::Device(exit::DEVICE)).or(Exit::Device(exit::NOTIFY));
            }
            expected
        }
        Place::Elsewhere => {
            let inside = access.ipa - page + u64::from(access.size) <= FRAME_SIZE;
            if !inside || !vm.granted.contains(&gfn) {
                return Expected::vector(vcpu);
            }
            let size = u64::from(access.size) << 9;
            let exit = match access.write {
                true => [exit::MMIO | 1 << 8 | size, access.ipa, stored],
                false => {
                    let load = Some((DATA, access.size));
                    if let Some(vcpu) = state.vm_mut(vm.handle).and_then(|v| v.vcpus.get_mut(index))
                    {
                        vcpu.load = load;
                    }
                    [exit::MMIO | size, access.ipa, 0]
                }
            };
            Expected::exit(vcpu, 4, Exit::Exactly(exit))
        }
    }
}

fn note_driver(state: &mut State, vm: &Vm, access: &Access) {
    if let Some(vm) = state.vm_mut(vm.handle) {
        vm.driver |= access.write && !vm.devices.is_empty();
    }
}

/// A trapped instruction that is no access to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trapped {
    /// SMC: there is no firmware.
    Smc,
    /// WFI.
    Wait,
    /// A system register; written?
    SystemRegister(bool),
    /// What no guest has.
    Undefined,
    /// Nothing of the guest's: an interrupt.
    Interrupt,
}

/// Any other trap.
pub fn other(state: &State, slot: u8, index: usize, trapped: Trapped) -> Expected {
    let Some(vcpu) = state.vm_in(slot).and_then(|vm| vm.vcpus.get(index)) else { return gone() };
    match trapped {
        Trapped::Smc => {
            let mut expected = Expected::results(vcpu, [-1i64 as u64, 0, 0, 0]);
            expected.next = Next::At(vcpu.pc.wrapping_add(4));
            expected
        }
        Trapped::Wait => Expected::resume(vcpu, 4).or(Exit::Wait(u64::MAX)),
        Trapped::SystemRegister(write) => {
            let mut expected = Expected::resume(vcpu, 4);
            expected.next = Next::Either(vcpu.pc.wrapping_add(4));
            expected.free = (!write).then_some(DATA);
            if write { expected.or(Exit::Kick) } else { expected }
        }
        Trapped::Undefined => Expected::vector(vcpu),
        Trapped::Interrupt => {
            let expected = Expected::resume(vcpu, 0).or(Exit::Exactly([exit::INTERRUPT, 0, 0]));
            // One that the guest's timer explains; a second is the host's.
            Expected { resume: !vcpu.explained, ..expected }
        }
    }
}

/// Is this how VCPU_RUN may return? `x` are x1 to x3.
///
/// # Errors
/// Why not.
pub fn judge_exit(expected: &Expected, dying: bool, vm: &Vm, x: [u64; 3]) -> Result<(), String> {
    let kick = |bitmap: u64| bitmap >> vm.vcpus.len() == 0;
    let fits = |exit: &Exit| match *exit {
        Exit::Exactly([reason, x2, x3]) if reason & 0xff == exit::MMIO => x == [reason, x2, x3],
        Exit::Exactly([reason, x2, _]) => x[..2] == [reason, x2] && kick(x[2]),
        Exit::Device(reason) => {
            let device = (x[1] & 0xffff) as usize;
            x[0] == reason && device < vm.devices.len() && kick(x[2])
        }
        Exit::Wait(deadline) => x[0] == exit::WFI && (x[1] == deadline || x[1] == 0) && kick(x[2]),
        Exit::Kick => x[0] == exit::KICK && x[1] == x[2] && x[1] != 0 && kick(x[1]),
    };
    let dead = expected.resume && dying && x[..2] == [exit::DEAD, 0] && kick(x[2]);
    // Whatever it did, an interrupt that it no longer takes may now be
    // another vCPU's.
    let moved = expected.resume && fits(&Exit::Kick);
    if dead || moved || expected.exits.iter().any(fits) {
        return Ok(());
    }
    Err(format!("returns to the host with {x:x?}, the rules ask for {expected:x?}"))
}
