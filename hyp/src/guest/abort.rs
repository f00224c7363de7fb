//! The guest reached for something that its stage 2 does not map.

use crate::addr::{FRAME_SIZE, Gfn};
use crate::error::Error;
use crate::event::EventKind;
use crate::exception::{inject_address_size_fault, inject_sync_external_abort};
use crate::layout;
use crate::machine::Machine;
use crate::memory::HostMemory;
use crate::stats::VmCounter;
use crate::syndrome::{Abort, FaultStatus};
use crate::trap::Trap;
use crate::vm::{GuestAbi, Vm};

use super::exposure::HostExit;
use super::{Outcome, Running};

/// Most bounce pages that one fault maps.
const FAULT_AROUND: u64 = 64;

/// What a fault turned out to be.
enum Verdict {
    /// The mapping is there now: another vCPU's fault brought it, or a block
    /// was being changed.
    Retry,
    /// The host must give memory for this page.
    Host(Gfn),
    /// Not memory.
    Device,
}

impl<M: Machine> Running<'_, M> {
    pub(super) fn abort(&mut self, trap: &Trap, fault: &Abort) -> Outcome {
        if self.abi == GuestAbi::Rsi && fault.is_beyond_the_address_space() {
            return self.no_such_address(fault);
        }
        let (FaultStatus::Translation, Some(gfn)) = (fault.status, fault.gfn()) else {
            return self.refuse(fault);
        };
        let machine = &self.hyp.machine;
        let verdict = if layout::is_never_memory(fault.ipa) {
            Ok(Verdict::Device)
        } else {
            self.hyp.with_memory_and_vm(self.handle, |memory, vm| {
                memory_fault(machine, memory, vm, gfn)
            })
        };
        match verdict {
            Ok(Verdict::Retry) => {
                self.count(VmCounter::MemoryFaults);
                Outcome::Resume
            }
            Ok(Verdict::Host(page)) => {
                self.count(VmCounter::MemoryFaults);
                Outcome::exit(HostExit::MemoryFault { page: page.base() })
            }
            Ok(Verdict::Device) => match fault.transfer {
                Some(transfer) if !fault.table_walk => self.mmio(fault, transfer),
                _ => self.undescribed(trap, fault),
            },
            Err(_) => self.refuse(fault),
        }
    }

    /// Not memory, and the syndrome tells neither register nor size (ISV = 0,
    /// Arm ARM D24.2.40, ISS encoding of a Data Abort): pairs, vectors, base
    /// registers that are written back. Only the instruction itself would tell,
    /// and to fetch it from the guest's memory is a race with the guest. So it
    /// is refused, as KVM does without a host that decodes. A driver's author
    /// sees an abort at a device that works otherwise: the log says why, once
    /// for each vCPU, for its room is everybody's.
    fn undescribed(&mut self, trap: &Trap, fault: &Abort) -> Outcome {
        let is_access = !fault.instruction && !fault.table_walk;
        if is_access && !core::mem::replace(&mut self.vcpu.told_undescribed, true) {
            let owner = self.hyp.with_vm(self.handle, |vm| Ok(vm.memory.party().code()));
            let page = fault.ipa & !(FRAME_SIZE - 1);
            // Where the guest was is its own business.
            let owner = owner.unwrap_or_default();
            self.hyp.record(EventKind::GuestUndescribed, owner, trap, page, 0);
        }
        self.refuse(fault)
    }

    /// A realm's addresses have as many bits as RSI_REALM_CONFIG tells it, and
    /// beyond them is nothing that a bus could refuse (DEN0137 A5.2.8, RGYVZQ).
    fn no_such_address(&mut self, fault: &Abort) -> Outcome {
        self.count(VmCounter::Injected);
        inject_address_size_fault(&self.hyp.machine, &mut self.vcpu.state.frame, fault);
        Outcome::Resume
    }

    /// Nothing is there for this guest: the bus refuses.
    pub(super) fn refuse(&mut self, fault: &Abort) -> Outcome {
        self.count(VmCounter::Injected);
        inject_sync_external_abort(&self.hyp.machine, &mut self.vcpu.state.frame, fault);
        Outcome::Resume
    }
}

fn memory_fault<M: Machine>(
    machine: &M,
    memory: &mut HostMemory<'_>,
    vm: &mut Vm,
    gfn: Gfn,
) -> Result<Verdict, Error> {
    if vm.memory.lookup(machine, gfn).is_some() {
        return Ok(Verdict::Retry);
    }
    if vm.is_ram(gfn.base()) {
        // A page that is shared is not here but at its alias. (A private
        // page's alias is outside RAM, where nothing answers.)
        return match vm.memory.is_at_alias(machine, gfn) {
            true => Err(Error::Denied),
            false => Ok(Verdict::Host(gfn)),
        };
    }
    let Some((device, page)) = vm.bus.bounce_page_at(gfn) else { return Ok(Verdict::Device) };
    map_bounce_pages(machine, memory, vm, gfn, device, page)
}

/// Maps the faulting page of a bounce BAR and what follows it, as far as the
/// frames are consecutive and not mapped yet.
fn map_bounce_pages<M: Machine>(
    machine: &M,
    memory: &mut HostMemory<'_>,
    vm: &mut Vm,
    gfn: Gfn,
    device: usize,
    page: u64,
) -> Result<Verdict, Error> {
    let first = vm.bus.bounce_frame(device, page).ok_or(Error::NotFound)?;
    let more = (1..FAULT_AROUND).take_while(|offset| {
        let frame = vm.bus.bounce_frame(device, page + offset);
        let place = gfn.checked_add(*offset);
        frame.is_some()
            && frame == first.checked_add(*offset)
            && place.is_some_and(|place| vm.memory.lookup(machine, place).is_none())
    });
    let frames = crate::addr::PfnRange::new(first.number(), 1 + more.count() as u64)?;
    match memory.map_borrowed(machine, &mut vm.memory, gfn, frames) {
        Ok(_) => Ok(Verdict::Retry),
        // The memcache is empty: the host tops it up and runs the vCPU again.
        Err(Error::NoMemory) => Ok(Verdict::Host(gfn)),
        Err(error) => Err(error),
    }
}
