//! Device registers: emulated at EL2, or served by the host if the guest
//! granted the page.

use crate::layout;
use crate::machine::Machine;
use crate::memory::HostMemory;
use crate::stats::VmCounter;
use crate::syndrome::{Abort, Transfer};
use crate::vgic::VcpuSet;
use crate::virtio::Effects;
use crate::vm::Vm;

use super::exposure::HostExit;
use super::{Outcome, Running};

/// An access to a register that EL2 emulates.
#[derive(Clone, Copy)]
enum Access {
    Read,
    Write(u64),
}

/// What an emulated access leads to.
#[derive(Default)]
struct Emulated {
    /// The value read.
    value: u64,
    /// vCPUs that gained something to take.
    targets: VcpuSet,
    /// What the device wants the host to know.
    exit: Option<HostExit>,
}

impl<M: Machine> Running<'_, M> {
    pub(super) fn mmio(&mut self, fault: &Abort, transfer: Transfer) -> Outcome {
        // It may be a register of the interrupt controller's.
        self.unlist();
        let access = if fault.write {
            Access::Write(transfer.stored(self.vcpu.state.frame.get(transfer.register)))
        } else {
            Access::Read
        };
        let (ipa, here) = (fault.ipa, self.hyp.machine.cpu());
        let served = |vm: &mut Vm, emulated: Emulated| {
            let kick = vm.vcpus.to_kick(emulated.targets, here);
            (emulated, kick)
        };
        // Configuration writes may close a bounce window, which changes
        // stage 2: they come with host memory locked, the others need not.
        let emulated = if in_ecam(ipa) {
            let machine = &self.hyp.machine;
            self.hyp.with_memory_and_vm(self.handle, |memory, vm| {
                let emulated = configuration(machine, memory, vm, ipa, transfer.size, access);
                Ok(Some(served(vm, emulated)))
            })
        } else {
            // GICR_ISPENDR0 shows the timers' lines as they are now.
            let timers = (ipa < layout::UART).then(|| self.timers());
            let vcpu = self.vcpu.index;
            self.hyp.with_vm(self.handle, |vm| {
                timers.iter().for_each(|timers| timers.raise(&mut vm.vgic, vcpu));
                Ok(emulate(vm, ipa, transfer.size, access).map(|done| served(vm, done)))
            })
        };
        match emulated {
            Ok(Some((emulated, kick))) => {
                self.count(VmCounter::MmioEmulated);
                self.finish(transfer, access, emulated, kick)
            }
            _ => self.host_mmio(fault, transfer, access),
        }
    }

    fn finish(
        &mut self,
        transfer: Transfer,
        access: Access,
        emulated: Emulated,
        kick: VcpuSet,
    ) -> Outcome {
        if let Access::Read = access {
            self.vcpu.state.frame.set(transfer.register, transfer.loaded(emulated.value));
        }
        self.advance();
        match emulated.exit {
            Some(exit) => {
                if matches!(exit, HostExit::Notify { .. }) {
                    self.count(VmCounter::Notifications);
                }
                Outcome::Return(exit, kick)
            }
            None => Outcome::resume_or_kick(kick),
        }
    }

    /// The host's turn, if the guest granted the page; else nothing is there.
    fn host_mmio(&mut self, fault: &Abort, transfer: Transfer, access: Access) -> Outcome {
        let granted = fault.gfn().is_some_and(|page| {
            self.hyp.with_vm(self.handle, |vm| Ok(vm.guard.allows(page))) == Ok(true)
        });
        let last = fault.ipa & (crate::addr::FRAME_SIZE - 1);
        let inside = last + u64::from(transfer.size) <= crate::addr::FRAME_SIZE;
        if !granted || !inside {
            return self.refuse(fault);
        }
        self.count(VmCounter::MmioHost);
        self.advance();
        let (ipa, size) = (fault.ipa, transfer.size);
        Outcome::exit(match access {
            Access::Write(value) => HostExit::MmioWrite { ipa, size, value },
            Access::Read => {
                self.vcpu.pending_load = Some(transfer);
                HostExit::MmioRead { ipa, size }
            }
        })
    }
}

fn in_ecam(ipa: u64) -> bool {
    (layout::ECAM..layout::ECAM + layout::ECAM_SIZE).contains(&ipa)
}

/// Serves an access to anything but configuration space; `None` if EL2 has
/// no register there.
fn emulate(vm: &mut Vm, ipa: u64, size: u8, access: Access) -> Option<Emulated> {
    let redistributors = layout::GICR_STRIDE * vm.vcpus.count() as u64;
    if let Some(offset) = offset_in(ipa, layout::GICD, layout::GICD_SIZE) {
        return Some(match access {
            Access::Read => read(vm.vgic.distributor_read(offset, size)),
            Access::Write(value) => wrote(vm.vgic.distributor_write(offset, size, value)),
        });
    }
    if let Some(offset) = offset_in(ipa, layout::GICR, redistributors) {
        return Some(match access {
            Access::Read => read(vm.vgic.redistributor_read(offset, size)),
            Access::Write(value) => wrote(vm.vgic.redistributor_write(offset, size, value)),
        });
    }
    if let Some(offset) = offset_in(ipa, layout::MSI_FRAME, layout::MSI_FRAME_SIZE) {
        return Some(match access {
            Access::Read => read(vm.vgic.msi_frame_read(offset, size)),
            Access::Write(value) => wrote(vm.vgic.msi_frame_write(offset, size, value)),
        });
    }
    match access {
        Access::Read => {
            let (value, signal) = vm.bus.bar_read(ipa, size)?;
            Some(Emulated { value, targets: vm.signal(signal), exit: None })
        }
        Access::Write(value) => {
            let effects = vm.bus.bar_write(ipa, size, value)?;
            Some(apply(vm, &effects))
        }
    }
}

/// Serves an access to configuration space.
fn configuration<M: Machine>(
    machine: &M,
    memory: &mut HostMemory<'_>,
    vm: &mut Vm,
    ipa: u64,
    size: u8,
    access: Access,
) -> Emulated {
    let offset = ipa - layout::ECAM;
    match access {
        Access::Read => {
            let (value, signal) = vm.bus.ecam_read(offset, size);
            Emulated { value, targets: vm.signal(signal), exit: None }
        }
        Access::Write(value) => {
            let effects = vm.bus.ecam_write(offset, size, value);
            if let Some(window) = effects.window_closed {
                memory.unmap_borrowed(machine, &mut vm.memory, window);
            }
            apply(vm, &effects)
        }
    }
}

/// Does what the device asks for, except to leave the guest.
fn apply(vm: &mut Vm, effects: &Effects) -> Emulated {
    let exit = match (effects.status_changed, effects.notify) {
        (Some(device), _) => Some(HostExit::Device { device }),
        (None, Some((device, queue))) => Some(HostExit::Notify { device, queue }),
        (None, None) => None,
    };
    Emulated { value: 0, targets: vm.signal(effects.signals.iter()), exit }
}

fn offset_in(ipa: u64, start: u64, size: u64) -> Option<u64> {
    ipa.checked_sub(start).filter(|offset| *offset < size)
}

fn read(value: u64) -> Emulated {
    Emulated { value, ..Emulated::default() }
}

fn wrote(targets: VcpuSet) -> Emulated {
    Emulated { targets, ..Emulated::default() }
}
