//! A guest's loads and stores that stage 2 does not translate.

use crate::expected::{Adopt, Exit, Expected, Next, gone};
use crate::host::has_tables_for;
use crate::state::{ALIAS, Page, State, Vm, range};
use hyp::abi::exit;
use hyp::addr::{FRAME_SHIFT, FRAME_SIZE};
use hyp::layout;

/// What is at an address that is neither RAM nor a bounce window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// Distributor, redistributors, MSI frame: always served.
    Interrupts,
    /// Configuration space: always served.
    Config,
    /// A PCI window: a register BAR may be there.
    Pci,
    /// Nothing that EL2 serves.
    Elsewhere,
}

/// What is there?
pub(crate) fn place(vm: &Vm, ipa: u64) -> Place {
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
    // A realm's page that is at its alias is not here.
    if vm.realm && vm.is_ram(access.ipa) && state.translate(slot, gfn | ALIAS).is_some() {
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
